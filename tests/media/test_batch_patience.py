"""Batches on a virtual clock: account and network errors lose no row and bill none twice."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from piccc._http.backend import Failure, HTTPRequest, Outcome
from piccc.errors import (
    AuthenticationError,
    BatchStopped,
    InvalidArgumentError,
    NotFoundError,
    PaymentRequiredError,
    PicccError,
    RateLimitError,
    SubmissionUnknown,
    TaskWaitTimeout,
)
from piccc.media.account import Account
from piccc.media.batch import Batch
from piccc.media.handles import AsyncTaskHandle
from piccc.media.ledgers import MemoryLedger
from piccc.media.ledgers.sqlite import SQLiteLedger
from piccc.media.resources import AsyncMedia
from tests.media.world import FOREVER, Fault, Server, WorldResponse, not_sent, refusal

HOUR = 3600.0


def run(world: Server, account: Account, prompts: Any, **options: Any) -> Batch[AsyncTaskHandle]:
    """Run a batch to its end."""
    ended: list[Batch[AsyncTaskHandle]] = []

    async def work() -> None:
        ended.append(await AsyncMedia(account, "image").map(prompts, model="m", **options))

    world.run(work())
    return ended[0]


def stopped(world: Server, account: Account, prompts: Any, **options: Any) -> BatchStopped:
    with pytest.raises(BatchStopped) as raised:
        run(world, account, prompts, **options)
    return raised.value


def rows(count: int) -> list[str]:
    return [f"fox {number}" for number in range(count)]


def test_submissions_overlap_and_results_arrive_while_others_are_sent() -> None:
    world, seen = Server(post=1.0, seconds=3.0), list[float]()
    batch = run(world, world.account(), rows(40), on_result=lambda task: seen.append(world.now))
    assert len(batch) == len(world.charges) == 40
    assert world.now < 12
    world, seen = Server(post=1.0, seconds=3.0), list[float]()
    run(world, world.account(), rows(400), on_result=lambda task: seen.append(world.posts))
    assert seen[0] < 100


OUTAGES: dict[str, Fault] = {
    "429": refusal(429),
    "429, retry at once": refusal(429, retry_after="0"),
    "429, retry in 30 seconds": refusal(429, retry_after="30"),
    "503": refusal(503),
    "429 in a 200 response": refusal(200, {"code": 429, "msg": "rate limit", "data": None}),
    "no connection": not_sent,
}


@pytest.mark.parametrize("outage", OUTAGES)
@pytest.mark.parametrize("count", [200])
def test_an_hour_long_outage_pauses_the_batch_and_loses_no_row(outage: str, count: int) -> None:
    world = Server(faults=[(4.0, HOUR, OUTAGES[outage])])
    batch = run(world, world.account(), rows(count), concurrency=50)
    assert not batch.errors
    assert [task.status for task in batch] == ["completed"] * count
    assert len(world.charges) == len({task["prompt"] for task in world.charges}) == count
    assert world.posts - count < 200
    assert world.now < HOUR + 300


def test_3000_rows_survive_rate_limiting_and_each_is_billed_once(tmp_path: Path) -> None:
    world = Server(faults=[(20.0, 600.0, refusal(429, retry_after="0"))], post=0.5)
    account = world.account(ledger=SQLiteLedger(tmp_path / "run.db"))
    batch = run(world, account, rows(3000), concurrency=400, run="night")
    assert not batch.errors
    assert len(batch) == len(world.charges) == len({task["key"] for task in world.charges}) == 3000
    assert account.ledger.unsettled() == []


STOPS: dict[str, tuple[Fault, type[PicccError]]] = {
    "401": (refusal(401), AuthenticationError),
    "402": (refusal(402), PaymentRequiredError),
    "402 in a 200 response": (
        refusal(200, {"code": 402, "msg": "Insufficient credits"}),
        PaymentRequiredError,
    ),
    "no balance": (
        refusal(200, {"base_resp": {"status_code": 1008, "status_msg": "no"}, "task_id": ""}),
        PaymentRequiredError,
    ),
    "quota": (refusal(429, {"error": {"message": "x", "code": "insufficient_quota"}}), RateLimitError),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_permanent_error_stops_the_batch_and_keeps_its_tasks(stop: str) -> None:
    fault, cause = STOPS[stop]
    world = Server(faults=[(4.0, FOREVER, fault)])
    error = stopped(world, world.account(), rows(300), concurrency=40)
    assert type(error.__cause__) is cause
    assert error.batch is not None
    assert len(error.batch) == len(world.charges) > 0
    assert not error.batch.errors
    assert world.posts <= len(world.charges) + 20


def test_a_server_that_was_never_reachable_stops_the_batch_at_once() -> None:
    world = Server(faults=[(0.0, FOREVER, not_sent)])
    stopped(world, world.account(), rows(300))
    assert world.now < 10


@pytest.mark.parametrize("fault", [refusal(429, retry_after="1"), refusal(429, retry_after="3000"), None])
def test_the_timeout_of_a_batch_covers_retries_and_waits(fault: Fault | None) -> None:
    world = Server(seconds=HOUR, faults=[(0.0, FOREVER, fault)] if fault else [])
    error = stopped(world, world.account(), rows(3), timeout=20)
    assert isinstance(error.__cause__, TaskWaitTimeout)
    assert world.now <= 22
    assert error.batch is not None
    assert len([task for task in error.batch.tasks if task]) == len(world.charges)
    if fault is None:
        assert "client.tasks.wait_all(error.batch.running)" in str(error)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["a"], {"concurrency": 0}, "concurrency is 0"),
        (["a"], {"concurrency": -1}, "concurrency is -1"),
        (["a"], {"submissions": 0}, "submissions is 0"),
        (["a"], {"timeout": 0}, "timeout is 0"),
        (["a"], {"run": " "}, "run is"),
        (["a"], {"lost": "retry"}, "lost is"),
        ("cat", {}, "several prompts"),
        ({"prompt": "cat"}, {}, "several prompts"),
        (7, {}, "several prompts"),
        (["a", ""], {}, "Row 1: The prompt is empty"),
        (["a", "b", None], {}, "Row 2: None is not a prompt"),
        (["a", ("b", "c")], {}, "Row 1"),
        (
            [{"prompt": "a", "aspect": "1:1"}],
            {},
            "Row 0: aspect is not a parameter. Did you mean aspect_ratio",
        ),
    ],
)
def test_invalid_arguments_are_rejected_before_anything_is_sent(
    prompts: Any, options: Any, message: str
) -> None:
    world = Server()
    with pytest.raises(InvalidArgumentError, match=message):
        run(world, world.account(), prompts, **options)
    assert not world.posts


def test_prompts_are_consumed_lazily_and_a_bad_one_loses_no_task() -> None:
    world, drawn, most = Server(), itertools.count(1), 0

    def prompts() -> Iterator[Any]:
        nonlocal most
        for number in range(500):
            ended = sum(world.now >= task["ends"] for task in world.charges)
            most = max(most, next(drawn) - ended)
            yield f"fox {number}"
        yield 7

    error = stopped(world, world.account(), prompts(), concurrency=30)
    assert "Row 500: 7 is not a prompt" in str(error)
    assert error.batch is not None
    assert len(error.batch) == len(world.charges) == 500
    assert most < 200


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_raised_by_on_result_carries_every_task(raised: BaseException) -> None:
    world = Server(seconds=10.0)

    def fail(task: AsyncTaskHandle) -> None:
        raise raised

    with pytest.raises((BatchStopped, KeyboardInterrupt)) as caught:
        run(world, world.account(), rows(120), concurrency=50, on_result=fail)
    error: Any = caught.value
    batch: Batch[AsyncTaskHandle] = error.batch
    assert isinstance(error, BatchStopped) == isinstance(raised, OSError)
    assert len([task for task in batch.tasks if task]) == len(world.charges)
    text = str(error) + "".join(getattr(error, "__notes__", []))
    assert batch.running
    assert "client.tasks.wait_all(error.batch.running)" in text
    assert "ledger in a file" in text


@pytest.mark.parametrize("name", ["夜间批次", "r" * 400, "x\r\nX-Evil: 1", "a\tb", " night ", "plain"])
def test_a_run_may_have_any_name(name: str, tmp_path: Path) -> None:
    world = Server()
    for _ in range(2):
        account = world.account(ledger=SQLiteLedger(tmp_path / "run.db"))
        assert not run(world, account, rows(3), run=name).errors
    assert len(world.charges) == 3
    assert all(task["key"].isascii() and task["key"].isprintable() for task in world.charges)


def results_of(world: Server, account: Account, count: int, **options: Any) -> list[str]:
    seen: list[str] = []
    run(world, account, rows(count), run="r", on_result=lambda task: seen.append(task.prompt), **options)
    return seen


def test_a_resumed_run_reads_the_list_and_shows_missing_tasks_as_expired() -> None:
    world, ledger = Server(), MemoryLedger()
    assert len(results_of(world, world.account(ledger=ledger), 300, concurrency=300)) == 300
    world.gone = {f"t{number}" for number in range(0, 300, 3)}
    before = len(world.asked)
    batch = run(world, world.account(ledger=ledger), rows(310), run="r")
    assert not batch.errors
    assert len(batch) == len(world.charges) == 310
    assert sum(task.status == "expired" for task in batch) == 100
    assert len(world.asked) - before < 60


def response_lost() -> WorldResponse:
    raise Failure(Outcome.UNKNOWN, "reset")


@pytest.mark.parametrize("lost", ["ask", "resend"])
def test_lost_submissions_are_resent_only_on_request(lost: Any) -> None:
    world = Server(faults=[(0.9, 1.5, response_lost)])
    batch = run(world, world.account(), rows(60), concurrency=60, lost=lost, run="r")
    missing = [error for error in batch.errors.values() if isinstance(error, SubmissionUnknown)]
    assert len(missing) + len(world.charges) == 60
    assert len({task["prompt"] for task in world.charges}) == len(world.charges)
    assert bool(missing) == (lost == "ask")
    assert len(batch) == len(world.charges)


def test_a_failing_server_does_not_receive_every_row() -> None:
    world = Server(faults=[(4.0, 120.0, response_lost)])
    batch = run(world, world.account(), rows(500), concurrency=100)
    assert len(batch) == len(world.charges)
    assert len(batch.errors) < 40


class Killed(BaseException):
    """Simulates the death of the process."""


class KillingLedger(MemoryLedger):
    """A ledger that kills the process before or after the call of `step`."""

    step, is_after = "", False

    def _call(self, step: str, work: Callable[..., Any], *args: Any) -> Any:
        if step == self.step and not self.is_after:
            raise Killed
        done = work(*args)
        if step == self.step:
            raise Killed
        return done

    def claim(self, entry: Any) -> Any:
        return self._call("claim", super().claim, entry)

    def settle(self, key: str, task_id: str) -> Any:
        return self._call("settle", super().settle, key, task_id)


def kill() -> WorldResponse:
    raise Killed


not_found = refusal(404)


STEPS: Iterable[tuple[str, str, bool, Fault | None]] = [
    ("before the claim", "claim", False, None),
    ("after the claim", "claim", True, None),
    ("while sending", "", False, kill),
    ("when the response arrives", "settle", False, None),
    ("after settling", "settle", True, None),
]


@pytest.mark.parametrize(
    ("step", "is_after", "fault"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS]
)
def test_a_submission_killed_at_any_step_is_billed_once_when_repeated(
    step: str, is_after: bool, fault: Fault | None
) -> None:
    world, ledger, done = Server(), KillingLedger(), []
    ledger.step, ledger.is_after = step, is_after
    world.faults = [(0.0, FOREVER, fault)] if fault else []

    async def submit(account: Account) -> None:
        done.append(await AsyncMedia(account, "image").submit("a fox", model="m", key="k", lost="resend"))

    with pytest.raises(Killed):
        world.run(submit(world.account(ledger=ledger)))
    ledger.step, world.faults = "", []
    world.run(submit(world.account(ledger=ledger)))
    assert [task["task_id"] for task in world.charges] == [task.id for task in done] == ["t0"]
    assert ledger.unsettled() == []


@pytest.mark.parametrize(
    ("age", "failure", "most"),
    [(0.0, None, 7), (0.0, not_found, 9), (0.0, kill, 9), (100.0, None, 1)],
    ids=["just now", "just now, a search fails", "just now, a search is killed", "long ago"],
)
def test_submissions_lost_together_share_one_search_of_the_list(
    age: float, failure: Fault | None, most: int
) -> None:
    world, ledger, done = Server(faults=[(0.0, 1.0, response_lost)]), MemoryLedger(), list[str]()

    async def submit(account: Account, number: int) -> None:
        media = AsyncMedia(account, "image")
        done.append((await media.submit(f"{number}", model="m", key=f"k{number}", lost="resend")).id)

    async def submit_until_done(account: Account, number: int) -> None:
        while True:  # as an engine would
            with suppress(SubmissionUnknown, NotFoundError, Killed):
                return await submit(account, number)

    first, again = world.account(ledger=ledger), world.account(ledger=ledger)
    for number in range(30):
        with pytest.raises(SubmissionUnknown):
            world.run(submit(first, number))
    for key, entry in ledger._entries.items():
        ledger._entries[key] = replace(entry, at=entry.at - age)
    world.read_faults = [failure, failure] if failure else []
    world.run(*(submit_until_done(again, number) for number in range(30)))
    assert len(done) == len(world.charges) == len({task["prompt"] for task in world.charges}) == 30
    assert world.lists() <= most


def test_only_one_of_four_clients_resends_a_lost_submission() -> None:
    world, ledger, done = Server(faults=[(0.0, 1.0, response_lost)]), MemoryLedger(), list[str]()

    async def submit(account: Account) -> None:
        try:
            task = await AsyncMedia(account, "image").submit("a fox", model="m", key="k", lost="resend")
        except SubmissionUnknown:
            return
        done.append(task.id)

    world.run(submit(world.account(ledger=ledger)))
    assert not world.charges
    world.run(*(submit(world.account(ledger=ledger)) for _ in range(4)))
    assert done == ["t0"] * 4
    assert len(world.charges) == 1
    assert world.now > 60


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("http://[::1/x", None),
        ("https://elsewhere.example/v1/tasks/t0", None),
        *(("/gone/v1/tasks/t0", status) for status in (200, 303, 400, 403, 404, 405, 410)),
    ],
)
def test_an_unusable_polling_url_is_ignored(url: str, answer: int | None) -> None:
    class Misled(Server):
        def answer(self, request: HTTPRequest) -> WorldResponse:
            if "/gone/" in request.url:
                assert answer is not None
                return WorldResponse(answer, {})
            return super().answer(request)

        def _shown(self, task: dict[str, Any]) -> dict[str, Any]:
            return {**super()._shown(task), "polling_url": url}

    world = Misled()
    batch = run(world, world.account(), rows(3))
    assert [task.status for task in batch] == ["completed"] * 3


REFUSED = [
    ({"code": 402, "msg": "Insufficient credits", "data": None}, 402, "Insufficient credits"),
    ({"code": 429, "msg": "rate limit", "data": None}, 429, "rate limit"),
    ({"code": 422, "msg": "prompt is not allowed", "data": None}, 422, "not allowed"),
    ({"base_resp": {"status_code": 1004, "status_msg": "bad key"}, "task_id": ""}, 401, "bad key"),
    ({"code": 1303, "message": "parallel task over limit", "request_id": "r"}, 429, "parallel task"),
    ({"error": {"message": "Invalid model", "code": "model_not_found"}}, 404, "Invalid model"),
    ({"success": False, "message": "no such style"}, 400, "no such style"),
    ({"success": False, "error": "Insufficient balance"}, 402, "Insufficient balance"),
    ({"success": False, "errorCode": "RATE_LIMIT", "errorMessage": "slow"}, 429, "slow"),
    ({"status": "error", "message": "no credits left"}, 402, "no credits left"),
    ({"statusCode": 403, "Message": "not yours"}, 403, "not yours"),
    ({"errors": [{"message": "bad style"}]}, 400, "bad style"),
]


@pytest.mark.parametrize(("body", "status", "words"), REFUSED)
def test_an_error_in_a_200_response_raises_the_error_of_its_code(body: Any, status: int, words: str) -> None:
    world = Server(faults=[(0.0, FOREVER, refusal(200, body))])
    account = world.account()

    async def submit() -> None:
        await AsyncMedia(account, "image").submit("a fox", model="m")

    with pytest.raises(PicccError, match=words) as raised:
        world.run(submit())
    assert raised.value.status == status
    assert not raised.value.may_have_been_billed
    assert account.ledger.unsettled() == []


@pytest.mark.parametrize("body", [{"status": "queued"}, {"detail": "accepted"}, {"code": 0}, {}, [], None, 3])
def test_a_200_response_without_task_or_error_may_have_been_billed(body: Any) -> None:
    world = Server(faults=[(0.0, FOREVER, lambda: WorldResponse(200, body))])
    account = world.account()

    async def submit() -> None:
        await AsyncMedia(account, "image").submit("a fox", model="m")

    with pytest.raises(SubmissionUnknown):
        world.run(submit())
    assert len(account.ledger.unsettled()) == 1


def test_a_server_error_in_a_200_response_leaves_the_submission_unknown() -> None:
    world = Server(faults=[(0.0, FOREVER, refusal(200, {"code": 500, "msg": "it broke", "data": None}))])
    account = world.account()

    async def submit() -> None:
        await AsyncMedia(account, "image").submit("a fox", model="m", key="k")

    with pytest.raises(SubmissionUnknown, match="it broke"):
        world.run(submit())
    assert [entry.key for entry in account.ledger.unsettled()] == ["k"]
