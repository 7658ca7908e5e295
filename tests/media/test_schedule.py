"""What the schedule requests and when, on a virtual clock."""

from __future__ import annotations

import math
from statistics import median

import pytest

from piccc.errors import APIConnectionError, AuthenticationError, NotFoundError, RateLimitError
from piccc.media.schedule import Ended, ListScan, Polling, Schedule, Step, Watch
from piccc.tasks import Output, Page, Task
from tests.media.fleet import Fleet, all_at_once, through_slots, wait_for

COUNT = 10_000
RUNNING = {"raw": {"status": "processing"}}


def schedule(**polling: float) -> Schedule:
    return Schedule(Polling(**polling), lambda: 0.5)


def running(id: str = "t") -> Task:
    return Task(id, "processing", **RUNNING)


def completed(id: str = "t", *, output: bool = True) -> Task:
    return Task(id, "completed", outputs=[Output("https://files.example.com/a.png")] if output else [])


def first_watch(waiting: Schedule, now: float) -> Watch:
    step = waiting.next(now)
    assert isinstance(step, Watch)
    return step


@pytest.mark.parametrize("drifts", [False, True])
def test_10000_videos_cost_2_percent_of_polling_each_one(
    drifts: bool,
) -> None:
    fleet = all_at_once(COUNT, median=120)
    fleet.drifts = drifts
    check(fleet)


def test_10000_images_in_slots_cost_2_percent_of_polling_each_one() -> None:
    check(through_slots(COUNT, slots=500, median=20))


def check(fleet: Fleet) -> None:
    waited = wait_for(fleet, Polling())
    polled_singly = sum(math.ceil(end / 3.5) for end in fleet.ends)
    delays = [waited.known[f"t{number}"] - end for number, end in enumerate(fleet.ends)]
    assert waited.requests <= 0.02 * polled_singly
    assert median(delays) <= 2.0
    assert min(delays) >= 0
    assert max(delays) <= 10.0
    assert not waited.reported_again


def test_requests_stay_within_the_budget() -> None:
    waited = wait_for(all_at_once(3_000, median=60), Polling(requests_per_second=5, use_list=False))
    fleet_seconds = max(waited.known.values())
    assert waited.requests <= 5 * (fleet_seconds + 1) + 1


def test_a_small_budget_starves_no_task() -> None:
    waited = wait_for(all_at_once(2_000, median=60), Polling(requests_per_second=5))
    assert len(waited.known) == 2_000
    assert max(waited.known.values()) < 300


def test_a_single_task_is_polled_every_2_to_5_seconds() -> None:
    waiting = Schedule(Polling(), iter([0.0, 1.0, 0.0, 1.0, 0.5] * 9).__next__)
    waiting.add(running(), 0.0)
    now, asked = 0.0, []
    while len(asked) < 6:
        now = waiting.next_at()
        step = waiting.next(now)
        if isinstance(step, Watch):
            asked.append(now)
            waiting.read(step, running(), None, now)
    gaps = [later - sooner for sooner, later in zip([0.0, *asked], asked, strict=False)]
    assert all(2.0 <= gap <= 5.0 for gap in gaps)
    assert len(set(gaps)) > 1


def test_retry_after_is_honored_at_every_poll() -> None:
    waiting = schedule()
    waiting.add(running(), 0.0, at_once=True)
    now, watch = _due(waiting)
    for seconds in (20.0, 7.0):
        before = now
        assert waiting.read(watch, running(), seconds, now) is None
        now, watch = _due(waiting)
        assert now >= before + seconds


def test_a_woken_task_is_polled_at_once() -> None:
    waiting = schedule()
    waiting.add(running(), 0.0)
    assert waiting.next(0.1) is None
    waiting.wake("t")
    assert first_watch(waiting, 0.1).task.id == "t"


def test_a_429_pauses_everything_for_its_retry_after() -> None:
    waiting = schedule()
    for number in range(2):
        waiting.add(running(f"t{number}"), 0.0, at_once=True)
    error = RateLimitError("Slow down", status=429, retry_after=30.0)
    assert waiting.unread(first_watch(waiting, 0.0), error, 0.0) is None
    assert waiting.next_at() == 30.0
    assert waiting.next(29.9) is None
    assert waiting.next(30.0) is not None


@pytest.mark.parametrize(("asked", "pauses"), [(0.0, [5, 10, 20, 40, 60]), (None, [5, 10, 20, 40, 60])])
def test_repeated_429s_back_off_exponentially_until_a_read_succeeds(
    asked: float | None, pauses: list[float]
) -> None:
    waiting, now, waited = schedule(), 0.0, []
    waiting.add(running(), 0.0, at_once=True)
    for _ in pauses:
        watch = first_watch(waiting, now)
        waiting.unread(watch, RateLimitError("Slow down", status=429, retry_after=asked), now)
        waited.append(waiting.next_at() - now)
        now = waiting.next_at()
    assert waited == pauses
    waiting.read(first_watch(waiting, now), running(), None, now)
    now, watch = _due(waiting)
    waiting.unread(watch, RateLimitError("Slow down", status=429, retry_after=asked), now)
    assert waiting.next_at() - now == 5.0


def test_failed_reads_end_a_wait_only_after_five_minutes() -> None:
    waiting, error = schedule(), APIConnectionError("No answer")
    waiting.add(running(), 0.0)
    now, failed = 0.0, 0
    while True:
        now, watch = _due(waiting)
        ended = waiting.unread(watch, error, now)
        failed += 1
        if ended:
            break
    assert ended == Ended(running(), error)
    assert now >= 300.0
    assert failed < 30


@pytest.mark.parametrize("error", [AuthenticationError("", status=401), NotFoundError("", status=404)])
def test_a_permanent_error_ends_the_wait_at_once(error: AuthenticationError | NotFoundError) -> None:
    waiting = schedule()
    waiting.add(Task("t"), 0.0, at_once=True)
    assert waiting.unread(first_watch(waiting, 0.0), error, 0.0) == Ended(Task("t"), error)


@pytest.mark.parametrize("age", [0.0, 600.0])
def test_a_known_task_may_be_missing_for_a_few_seconds_at_any_age(age: float) -> None:
    waiting, missing = schedule(), NotFoundError("", status=404)
    waiting.add(running(), 0.0, at_once=True)
    waiting.read(first_watch(waiting, age), running(), None, age)
    now, watch = _due(waiting)
    assert waiting.unread(watch, missing, now) is None
    assert waiting.unread(first_watch(waiting, now + 11.0), missing, now + 11.0) == Ended(running(), missing)


def test_a_completed_task_without_output_is_read_once_more() -> None:
    waiting, bare = schedule(), completed(output=False)
    waiting.add(running(), 0.0)
    now, watch = _due(waiting)
    assert waiting.read(watch, bare, None, now) is None
    now, watch = _due(waiting)
    assert waiting.read(watch, bare, None, now) == Ended(bare)


def test_a_listed_task_without_output_is_polled() -> None:
    waiting = schedule()
    scan = _begin_scan(waiting, 5)
    assert waiting.listed(scan, Page([completed("t0", output=False)]), 2.0) == []
    assert first_watch(waiting, 2.1).task.id == "t0"


def test_a_task_missing_from_the_list_is_polled_and_not_ended() -> None:
    waiting = schedule()
    scan = _begin_scan(waiting, 5)
    shown = [running(f"t{number}") for number in range(4)]
    for _ in range(2):
        assert all(isinstance(event, Task) for event in waiting.listed(scan, Page(shown), 2.0))
    missing = first_watch(waiting, 2.1)
    assert missing.task.id == "t4"
    assert waiting.read(missing, running("t4"), None, 2.2) is None


def test_a_list_that_costs_more_than_polling_is_abandoned() -> None:
    waiting = schedule()
    scan = _begin_scan(waiting, 4)
    strangers = [running(f"x{number}") for number in range(100)]
    for page in range(4):
        waiting.listed(scan, Page(strangers, {"cursor": str(page)}), 2.0)
    asked = {_due(waiting)[1].task.id for _ in range(4)}
    assert asked == {f"t{number}" for number in range(4)}


def test_tasks_are_polled_despite_a_stale_list() -> None:
    waiting = schedule()
    for number in range(5):
        waiting.add(running(f"t{number}"), 0.0)
    stale, now = [running(f"t{number}") for number in range(5)], 0.0
    while now < 700.0:
        now = max(now + 0.01, waiting.next_at())
        step = waiting.next(now)
        if isinstance(step, Watch):
            break
        if isinstance(step, ListScan):
            waiting.listed(step, Page(stale), now)
    assert isinstance(step, Watch)


def _due(waiting: Schedule) -> tuple[float, Watch]:
    """Advance to the next poll of a single task; skip list scans in between."""
    while True:
        now = waiting.next_at()
        step = waiting.next(now)
        if isinstance(step, Watch):
            return now, step


def _begin_scan(waiting: Schedule, count: int) -> ListScan:
    for number in range(count):
        waiting.add(running(f"t{number}"), 0.0)
    step: Step | None = waiting.next(2.0)
    assert isinstance(step, ListScan)
    return step
