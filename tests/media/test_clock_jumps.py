"""Wrong clocks, adjusted clocks and suspended machines: no task is lost or billed twice."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from piccc._http.backend import Failure, HTTPRequest, Outcome
from piccc.media.ledgers import MemoryLedger, Submission
from piccc.media.requests import TaskRequest
from tests.media.test_batch_patience import rows, run
from tests.media.world import Server, WorldResponse

HOURS = 3 * 3600.0


class Clock:
    """The machine's time of day, which tests can change."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.time
        entry = TaskRequest.entry
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)
        # `Submission.at` defaults to the original function, which the patch above does not replace.
        monkeypatch.setattr(TaskRequest, "entry", lambda self: replace(entry(self), at=time.time()))


class Lossy(Server):
    """A server that loses every fifth response to a submission; `event` is called before the loss."""

    event: Callable[[], None] = staticmethod(lambda: None)

    def answer(self, request: HTTPRequest) -> WorldResponse:
        response = super().answer(request)
        if request.method == "POST" and self.posts % 5 == 0:
            self.event()
            raise Failure(Outcome.UNKNOWN, "the response was lost")
        return response


def sleep(world: Server, clock: Clock) -> None:
    """Suspend the machine for hours: only its time of day and the server move on."""
    clock.ahead += HOURS
    world.epoch += HOURS
    for task in world.charges:
        task["ends"] = world.now


EVENTS: dict[str, Callable[[Server, Clock], None]] = {
    "the clock is set back": lambda world, clock: setattr(clock, "ahead", clock.ahead - HOURS),
    "the clock is set ahead": lambda world, clock: setattr(clock, "ahead", clock.ahead + HOURS),
    "the machine sleeps": sleep,
}


@pytest.mark.parametrize("event", EVENTS)
def test_a_clock_change_while_waiting_loses_no_row(event: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, world, number = Clock(monkeypatch), Server(seconds=60.0), itertools.count()

    def on_result(task: Any) -> None:
        if next(number) == 20:
            EVENTS[event](world, clock)

    batch = run(world, world.account(), rows(50), on_result=on_result, concurrency=10)
    assert not batch.errors
    assert len(world.charges) == len({task["prompt"] for task in world.charges}) == 50
    assert world.now < 600


SKEWS = {"right": 0.0, "4 minutes behind": -240.0, "6 minutes ahead": 360.0}
SKEWS |= {"hours behind": -HOURS, "hours ahead": HOURS}


@pytest.mark.parametrize("skew", SKEWS.values(), ids=SKEWS)
@pytest.mark.parametrize("event", [None, *EVENTS])
@pytest.mark.parametrize("moment", ["before the claim", "after the claim", "when the response is lost"])
@pytest.mark.parametrize("lost", ["ask", "resend"])
def test_a_lost_response_loses_no_task_whatever_the_clock_does(
    skew: float, event: str | None, moment: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, world = Clock(monkeypatch), Lossy()
    clock.ahead = skew

    def trigger(at: str) -> None:
        if event is not None and at == moment and world.posts % 5 == 0:
            EVENTS[event](world, clock)

    class Ledger(MemoryLedger):
        def claim(self, entry: Submission) -> Submission | None:
            trigger("before the claim")
            holder = super().claim(replace(entry, at=time.time()))
            trigger("after the claim")
            return holder

    world.event = lambda: trigger("when the response is lost")  # type: ignore[method-assign]
    batch = run(world, world.account(ledger=Ledger()), rows(20), lost=lost)
    assert not batch.errors
    assert len(batch) == len(world.charges) == len({task["prompt"] for task in world.charges}) == 20


@pytest.mark.parametrize("skew", SKEWS.values(), ids=SKEWS)
def test_an_earlier_identical_task_is_not_adopted(skew: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, world = Clock(monkeypatch), Server()
    clock.ahead = skew
    run(world, world.account(), ["fox"])
    world.epoch += 600.0
    clock.ahead += 600.0
    world.faults = [(0.0, world.now + 1.0, dropped)]
    batch = run(world, world.account(), ["fox"])
    assert batch.errors
    assert not list(batch)


def dropped() -> WorldResponse:
    raise Failure(Outcome.UNKNOWN, "the connection was lost")


@pytest.mark.parametrize("skew", SKEWS.values(), ids=SKEWS)
def test_a_repeated_run_reuses_its_tasks_whatever_the_clock_says(
    skew: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, world, ledger = Clock(monkeypatch), Server(), MemoryLedger()
    clock.ahead = skew
    run(world, world.account(ledger=ledger), rows(250), run="night", concurrency=250)
    clock.ahead = 0.0
    batch = run(world, world.account(ledger=ledger), rows(250), run="night")
    assert {task.status for task in batch} == {"completed"}
    assert len(batch) == len(world.charges) == 250
