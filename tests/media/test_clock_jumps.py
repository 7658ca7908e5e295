"""Clocks that jump by hours, while a batch waits and between a claim and its request."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from piccc._http.backend import Failure, Outcome
from piccc.errors import SubmissionUnknown
from piccc.media.requests import TaskRequest
from tests.media.test_batch_patience import rows, run
from tests.media.world import Server

HOURS = 3 * 3600.0


class Clock:
    """The time of day as the machine has it, which somebody sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.time
        entry = TaskRequest.entry
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)
        # The default of `Submission.at` is the function itself, which is not replaced.
        monkeypatch.setattr(TaskRequest, "entry", lambda self: replace(entry(self), at=time.time()))


@pytest.mark.parametrize("jump", [-HOURS, HOURS])
def test_a_jump_while_waiting_costs_no_row(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, world = Clock(monkeypatch), Server(seconds=60.0)

    def on_result(task: Any) -> None:
        clock.ahead = jump if not clock.ahead else 0.0

    batch = run(world, world.account(), rows(50), on_result=on_result, concurrency=10)
    assert not batch.errors
    assert len(world.charges) == len({task["prompt"] for task in world.charges}) == 50
    assert world.now < 600


@pytest.mark.parametrize("before", [-HOURS, 0.0, HOURS], ids=["behind", "right", "ahead"])
@pytest.mark.parametrize("after", [-HOURS, 0.0, HOURS], ids=["behind", "right", "ahead"])
def test_a_jump_between_claim_and_request_pays_nothing_twice(
    before: float, after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, world = Clock(monkeypatch), Server()
    clock.ahead = before

    def jump() -> None:
        clock.ahead = after

    class Lossy(Server):
        def answer(self, request: Any) -> Any:
            response = super().answer(request)
            if request.method == "POST" and self.posts % 5 == 0:
                jump()
                raise Failure(Outcome.UNKNOWN, "the answer was lost")
            return response

    world = Lossy(epoch=time.time() - before)
    batch = run(world, world.account(), rows(20), lost="resend")
    assert len(world.charges) == len({task["prompt"] for task in world.charges})
    assert {type(error) for error in batch.errors.values()} <= {SubmissionUnknown}
    # What a clock hours ahead wrote down seems younger than its task: it is left for the user to judge.
    assert bool(batch.errors) == (max(before, after) > 0)
