"""Thousands of simulated tasks on a virtual clock, and a schedule that waits for them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import numpy
import numpy.typing

from piccc.media.schedule import Ended, ListScan, Polling, Schedule, Watch
from piccc.tasks import Output, Page, Task

PAGE = 100
LATENCY = 0.02


@dataclass
class Fleet:
    """The server's tasks: when each begins and ends. All are submitted at time 0."""

    begins: list[float]
    ends: list[float]
    drifts: bool = False

    def __post_init__(self) -> None:
        # An array, as a drifting server filters all tasks for each page.
        self._moments = numpy.array([self.begins, self.ends])
        self.completed = [_completed(number) for number in range(len(self.ends))]
        self.open = [Task(f"t{number}", "processing", raw={"s": 1}) for number in range(len(self.ends))]
        self.queued = [Task(f"t{number}", "queued", raw={"s": 1}) for number in range(len(self.ends))]

    def status(self, number: int, now: float) -> str:
        if now >= self.ends[number]:
            return "completed"
        return "processing" if now >= self.begins[number] else "queued"

    def read(self, number: int, now: float) -> Task:
        shown = {"completed": self.completed, "processing": self.open, "queued": self.queued}
        return shown[self.status(number, now)][number]

    def page(self, path: str, now: float) -> Page:
        """Return a page, newest first; a drifting cursor is an offset into the tasks that match now."""
        query = parse_qs(urlsplit(path).query)
        status, start = query["status"][0], int(query.get("cursor", ["0"])[0])
        newest = range(len(self.ends) - 1, -1, -1)
        if self.drifts:
            matching = self._matching(status, now)
            numbers, following = matching[start : start + PAGE].tolist(), start + PAGE
            more = following < len(matching)
        else:
            numbers, following = [], start
            while following < len(newest) and len(numbers) < PAGE:
                if self.status(newest[following], now) == status:
                    numbers.append(newest[following])
                following += 1
            more = following < len(newest)
        return Page(
            [self.read(number, now) for number in numbers], {"cursor": str(following)} if more else None
        )

    def _matching(self, status: str, now: float) -> numpy.typing.NDArray[numpy.intp]:
        has_begun, has_ended = self._moments <= now
        matches = {"completed": has_ended, "queued": ~has_begun, "processing": has_begun & ~has_ended}
        return numpy.flatnonzero(matches[status])[::-1]


@dataclass
class Waited:
    """The cost of a wait: requests, when each end became known, and tasks reported more than once."""

    requests: int = 0
    known: dict[str, float] = field(default_factory=dict)
    reported_again: list[str] = field(default_factory=list)


def wait_for(fleet: Fleet, polling: Polling, *, seed: int = 1) -> Waited:
    """Wait for all tasks of a fleet; every request takes `LATENCY` seconds."""
    schedule = Schedule(polling, random.Random(seed).random)
    for task in fleet.queued:
        schedule.add(task, 0.0)
    waited, now = Waited(), 0.0
    while len(waited.known) < len(fleet.ends):
        step = schedule.next(now)
        if step is None:
            now = max(now + 1e-6, schedule.next_at())
            continue
        waited.requests += 1
        now += LATENCY
        for ended in _process(schedule, fleet, step, now):
            if ended.task.id in waited.known:
                waited.reported_again.append(ended.task.id)
            waited.known[ended.task.id] = now
    return waited


def _process(schedule: Schedule, fleet: Fleet, step: Watch | ListScan, now: float) -> list[Ended]:
    if isinstance(step, Watch):
        ended = schedule.read(step, fleet.read(int(step.task.id[1:]), now), None, now)
        return [ended] if ended else []
    page = fleet.page(step.pages.path, now)
    return [event for event in schedule.listed(step, page, now) if isinstance(event, Ended)]


def _completed(number: int) -> Task:
    return Task(f"t{number}", "completed", outputs=[Output("https://files.example.com/a.png")], raw={"s": 1})


def all_at_once(count: int, median: float, seed: int = 7) -> Fleet:
    """Return videos that all run at once; durations are lognormal."""
    rng = random.Random(seed)
    return Fleet([0.0] * count, [rng.lognormvariate(0, 0.37) * median for _ in range(count)])


def through_slots(count: int, slots: int, median: float, seed: int = 7) -> Fleet:
    """Return images that run in a limited number of slots, first come, first served."""
    rng = random.Random(seed)
    free = [0.0] * slots
    begins, ends = [], []
    for _ in range(count):
        free.sort()
        begin = free[0]
        free[0] = begin + rng.lognormvariate(0, 0.37) * median
        begins.append(begin)
        ends.append(free[0])
    return Fleet(begins, ends)
