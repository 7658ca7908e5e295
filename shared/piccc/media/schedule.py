"""Decide which request comes next when waiting for many tasks, and page the task list. No I/O.

Reading tasks individually costs a request per task and pause. The list costs one per hundred running tasks,
so with more than a few tasks it is scanned instead, starting with the running ones. A task missing there has
probably ended: many missing tasks are looked up in the list of completed ones, a few are read individually. A
task missing there too, for example because it moved between pages, costs one more request and is never
assumed to have ended. While the completed list is much shorter, every second scan reads only that one.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from piccc.errors import ConfigurationError, InvalidArgumentError, NotFoundError, PicccError
from piccc.tasks import Page, Task

logger = logging.getLogger("piccc")

NOT_FOUND_SECONDS = 10.0
"""How long a task that was accepted or read before may return 404, for example from a replica (assumed)."""
UNREADABLE_SECONDS = 300.0
"""How long reading a task may fail before its wait ends."""
STALE_SECONDS = 600.0
"""How often to read a task individually even if the list shows it, in case the list is stale."""
LIST_BACKOFF_SECONDS = 60.0
"""How long to avoid the list after it did not help."""
LIST_FAILURES = 3
REFUSED_SECONDS = 5.0
"""How long a 429 without `Retry-After` pauses all requests."""
LONGEST_PAUSE = 30.0
LONGEST_REFUSED_PAUSE = 60.0
BURST_SECONDS = 1.0
"""How much unused budget can be spent in a burst."""
RUNNING = ("queued", "processing")
PAGE_SIZE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How often to poll tasks: every 2 to 5 seconds, as the provider recommends (documented).

    Attributes:
        min, max: bounds in seconds of the random pause between two reads of a task.
        requests_per_second: the maximum rate for all waits of the account together.
        use_list: scan the task list when that is cheaper than reading each task.
        timeout: default timeout of a wait in seconds.
    """

    min: float = 2.0
    max: float = 5.0
    requests_per_second: float = 50.0
    use_list: bool = True
    timeout: float = 3600.0

    def __post_init__(self) -> None:
        numbers = (self.min, self.max, self.requests_per_second, self.timeout)
        is_numeric = all(isinstance(number, int | float) for number in numbers)
        if (
            not is_numeric
            or not 0 <= self.min <= self.max
            or self.requests_per_second <= 0
            or self.timeout <= 0
        ):
            raise ConfigurationError(
                f"{self!r} is invalid.", hint="Pass numbers: min at most max, the others above 0."
            )

    def slowed(self, factor: float) -> Polling:
        """Return a copy that polls less often.

        Args:
            factor: how many times less often.
        """
        rate = self.requests_per_second / factor
        return replace(self, min=self.min * factor, max=self.max * factor, requests_per_second=rate)


class Pages:
    """A scan of the task list, newest first. Tasks can move between pages; each is returned once.

    It ends when there is no next page, when a page repeats, or when a numbered page has nothing new.
    """

    def __init__(self, *, type: str | None = None, status: str | None = None) -> None:
        filters = {"type": type, "status": status, "limit": str(PAGE_SIZE)}
        self._query = {name: value for name, value in filters.items() if value is not None}
        try:
            urlencode(self._query)
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(
                f"type or status contains a lone surrogate: {self._query!r:.100}.",
                hint="Pass values that the server knows, such as 'image' or 'completed'.",
            ) from error
        self._next: dict[str, str] = {}
        self._asked: set[str] = set()
        self._seen: set[str] = set()
        self.is_done = False
        self.unreadable = 0

    @property
    def path(self) -> str:
        """The next page's path."""
        return f"/v1/tasks?{urlencode({**self._query, **self._next})}"

    def take(self, page: Page) -> list[Task]:
        """Accept a page; return the tasks that were on no earlier page."""
        self.unreadable += page.unreadable
        new = [task for task in page.tasks if task.id not in self._seen]
        self._seen.update(task.id for task in new)
        self._asked.add(self.path)
        self._next = dict(page.following or {})
        is_loop = self.path in self._asked or ("page" in self._next and not new)
        self.is_done = not self._next or is_loop
        return new


class Budget:
    """The earliest time for an account's next request, shared by its pollers in a process.

    It needs no lock: a race costs at most one extra request.
    """

    def __init__(self) -> None:
        self.earliest = -math.inf
        self._refusals = 0

    def spend(self, now: float, requests_per_second: float) -> None:
        """Count a request about to be sent."""
        self.earliest = max(self.earliest, now - BURST_SECONDS) + 1 / requests_per_second

    def succeed(self) -> None:
        """Reset the backoff."""
        self._refusals = 0

    def refuse(self, now: float, asked: float | None, pause: float) -> None:
        """Pause all requests after a 429, with backoff even if the server asks for less."""
        least = min(LONGEST_REFUSED_PAUSE, pause * 2.0**self._refusals)
        self._refusals = min(self._refusals + 1, 10)
        wait = max(asked, least) if asked is not None else max(REFUSED_SECONDS, least)
        self.earliest = max(self.earliest, now + wait)


@dataclass(slots=True)
class Watch:
    """One task to wait for, and the state of polling it.

    `is_covered`: the list is read instead of the task. `is_alone`: the list must not replace reading it.
    `absences`: number of consecutive scans that did not show it.
    """

    task: Task
    since: float
    due: float = math.inf
    is_covered: bool = False
    is_alone: bool = False
    absences: int = 0
    is_reread: bool = False
    failures: int = 0
    failing_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that ended or can no longer be read."""

    task: Task
    error: PicccError | None = None


@dataclass(slots=True)
class ListScan:
    """One scan of the lists: the running tasks, then possibly the completed ones.

    `missing` are the tasks not seen yet; reading more than `allowed` pages would not pay off. A partial scan
    reads only the completed list, so the tasks it does not show may still be running.
    """

    missing: set[str]
    allowed: int
    statuses: list[str]
    pages: Pages
    count: int = 0
    is_looking_up: bool = False
    is_partial: bool = False


Step = Watch | ListScan


class Schedule:
    """The scheduler of reads. `random` returns numbers from 0 to 1.

    `polling` can change as waits with other settings come and go.
    """

    def __init__(self, polling: Polling, random: Callable[[], float], budget: Budget | None = None) -> None:
        self.polling = polling
        self._budget = budget or Budget()
        self._random = random
        self._watches: dict[str, Watch] = {}
        self._due: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._scan: ListScan | None = None
        self._scan_at = math.inf
        self._scan_cost = len(RUNNING)
        self._look_up_cost = 1
        self._was_partial = False
        self._list_backoff_until = -math.inf
        self._list_failures = 0
        self._uses_list = False
        self._follows = False
        self._warned: set[str] = set()

    def add(self, task: Task, now: float, *, at_once: bool = False, is_alone: bool = False) -> None:
        """Wait for a task. `at_once` skips the first pause; `is_alone` reads it even if others poll."""
        if task.id in self._watches:
            return
        watch = self._watches[task.id] = Watch(task, now)
        watch.is_alone = is_alone and self._follows
        if self._follows:
            if at_once or is_alone:
                self._schedule(watch, now if at_once else now + self._pause())
            else:
                self._cover(watch, now)
            return
        if self._uses_list:
            self._cover(watch, now)
        else:
            self._schedule(watch, now if at_once else now + self._pause())
        self._scan_at = min(self._scan_at, now if at_once else now + self.polling.min)

    def follow(self, now: float) -> None:
        """Leave polling to another process, except for tasks read individually."""
        self._follows, self._uses_list, self._scan, self._scan_at = True, False, None, math.inf
        for watch in self._watches.values():
            if not watch.is_alone:
                self._cover(watch, now)

    def lead(self, now: float) -> None:
        """Start polling immediately."""
        self._follows, self._scan_at = False, now
        for watch in self._watches.values():
            if watch.is_covered:
                self._schedule(watch, now + self._random() * self.polling.min)

    def drop(self, id: str) -> None:
        """Stop waiting for a task."""
        self._watches.pop(id, None)

    def wake(self, id: str) -> None:
        """Read a task next, because it reportedly ended."""
        if watch := self._watches.get(id):
            watch.is_alone = True
            self._schedule(watch, -math.inf)

    def next(self, now: float) -> Step | None:
        """Return the next read, or None; pass its result to `read`, `unread`, `listed` or `unlisted`."""
        if now < self._budget.earliest:
            return None
        if self._scan is None and now >= self._scan_at:
            self._begin_scan(now)
        step: Step | None = self._take_due(now) or self._scan
        if step is not None:
            self._budget.spend(now, self.polling.requests_per_second)
        return step

    def next_at(self) -> float:
        """Return the earliest time of the next read; infinity if there is nothing to wait for."""
        if not self._watches:
            return math.inf
        scan_at = -math.inf if self._scan else self._scan_at
        return max(min(self._first_due(), scan_at), self._budget.earliest)

    def read(self, watch: Watch, task: Task, retry_after: float | None, now: float) -> Ended | None:
        """Record a task that was read and its Retry-After; return it if it has ended."""
        self._budget.succeed()
        watch.task, watch.failures = task, 0
        if task.is_terminal and (task.status != "completed" or task.has_output or watch.is_reread):
            return self._end(watch)
        watch.is_reread = task.status == "completed"
        watch.is_alone = watch.is_alone or watch.absences > 1
        self._warn(task)
        if watch.is_alone or watch.is_reread or not (self._uses_list or self._follows):
            self._schedule(watch, now + max(self._pause(), retry_after or 0.0))
        else:
            self._cover(watch, now)
        return None

    def unread(self, watch: Watch, error: PicccError, now: float) -> Ended | None:
        """Record a failed read; return the task if retrying is pointless."""
        if error.status == 429:
            self._budget.refuse(now, error.retry_after, self.polling.max)
            self._schedule(watch, now)
            return None
        if not watch.failures:
            watch.failing_since = now
        watch.failures += 1
        may_appear = isinstance(error, NotFoundError) and now - watch.failing_since < NOT_FOUND_SECONDS
        is_final = error.status in (401, 403, 404) and not (may_appear and watch.task.raw)
        if is_final or now - watch.failing_since >= UNREADABLE_SECONDS:
            return self._end(watch, error)
        pause = min(LONGEST_PAUSE, self._pause() * 2.0 ** (watch.failures - 1))
        self._schedule(watch, now + max(pause, error.retry_after or 0.0))
        return None

    def listed(self, scan: ListScan, page: Page, now: float) -> list[Task | Ended]:
        """Record a page of a list; return the tasks on it that are waited for."""
        self._budget.succeed()
        tasks = scan.pages.take(page)
        updates = [update for task in tasks if (update := self._listed(scan, task, now)) is not None]
        scan.count += 1
        self._list_failures = 0
        if not scan.missing:
            self._end_scan(scan, now)
        elif scan.count >= scan.allowed and not (scan.pages.is_done and not scan.statuses):
            self._give_up(scan, now)
        elif scan.is_looking_up and self._is_too_old(scan, tasks):
            self._end_scan(scan, now)
        elif scan.pages.is_done:
            self._next_list(scan, now)
        return updates

    def unlisted(self, error: PicccError, now: float) -> None:
        """Record a failed list read; after several, stop using the list for a while."""
        if error.status == 429:
            self._budget.refuse(now, error.retry_after, self.polling.max)
            return
        self._list_failures += 1
        if 400 <= (error.status or 0) < 500 or self._list_failures >= LIST_FAILURES:
            self._suspend_list(now)
        else:
            self._scan, self._scan_at = None, now + self._pause()

    def _begin_scan(self, now: float) -> None:
        self._scan_at = now + self._pause() if self._watches else math.inf
        covered = [id for id, watch in self._watches.items() if not watch.is_alone]
        may_list = self.polling.use_list and now >= self._list_backoff_until
        self._uses_list = may_list and len(covered) > self._scan_cost
        if self._uses_list:
            self._scan = self._first_pages(set(covered))
        for id in covered:
            watch = self._watches[id]
            is_to_be_confirmed = watch.absences > 0 and watch.due <= now
            if self._uses_list and not watch.is_covered and not is_to_be_confirmed:
                self._cover(watch, now)
            elif watch.is_covered and not self._uses_list:
                self._schedule(watch, now + self._random() * self.polling.max)

    def _first_pages(self, covered: set[str]) -> ListScan:
        is_shorter = 2 * self._look_up_cost < self._scan_cost
        self._was_partial = is_shorter and not self._was_partial
        if self._was_partial:
            allowed = 2 * self._look_up_cost + 1
            pages = Pages(status="completed")
            return ListScan(covered, allowed, [], pages, is_looking_up=True, is_partial=True)
        first, *rest = RUNNING
        return ListScan(covered, len(covered), rest, Pages(status=first))

    def _listed(self, scan: ListScan, task: Task, now: float) -> Task | Ended | None:
        watch = self._watches.get(task.id)
        if watch is None:
            return None
        scan.missing.discard(task.id)
        if task.status == "completed" and not task.has_output:
            self._schedule(watch, now)
            return None
        watch.task, watch.absences = task, 0
        if task.is_terminal:
            return self._end(watch)
        self._warn(task)
        if watch.is_alone:
            watch.is_alone = False
            self._cover(watch, now)
        return task

    def _next_list(self, scan: ListScan, now: float) -> None:
        scan.missing &= self._watches.keys()
        if scan.statuses:
            scan.pages = Pages(status=scan.statuses.pop(0))
        elif not scan.is_looking_up and len(scan.missing) > self._look_up_cost:
            self._scan_cost, scan.count = scan.count, 0
            scan.is_looking_up, scan.allowed = True, len(scan.missing)
            scan.pages = Pages(status="completed")
        else:
            self._end_scan(scan, now)

    def _end_scan(self, scan: ListScan, now: float) -> None:
        if scan.is_looking_up:
            self._look_up_cost = scan.count
        else:
            self._scan_cost = max(scan.count, len(RUNNING))
        for id in () if scan.is_partial else sorted(scan.missing & self._watches.keys()):
            self._watches[id].absences += 1
            self._schedule(self._watches[id], now)
        self._scan = None

    def _give_up(self, scan: ListScan, now: float) -> None:
        if scan.is_looking_up:
            self._end_scan(scan, now)
        else:
            self._suspend_list(now)

    def _suspend_list(self, now: float) -> None:
        self._scan, self._scan_at, self._list_backoff_until = None, now, now + LIST_BACKOFF_SECONDS

    def _is_too_old(self, scan: ListScan, tasks: list[Task]) -> bool:
        missing = [self._watches[id].task for id in scan.missing if id in self._watches]
        oldest = min((task.created_at or -math.inf for task in missing), default=math.inf)
        return all(task.created_at is not None and task.created_at < oldest for task in tasks)

    def _take_due(self, now: float) -> Watch | None:
        if self._first_due() > now:
            return None
        watch = self._watches[heapq.heappop(self._due)[2]]
        watch.due = math.inf
        return watch

    def _first_due(self) -> float:
        while self._due:
            due, _, id = self._due[0]
            if id in self._watches and self._watches[id].due == due:
                return due
            heapq.heappop(self._due)
        return math.inf

    def _schedule(self, watch: Watch, due: float) -> None:
        watch.due, watch.is_covered = due, False
        heapq.heappush(self._due, (due, next(self._numbers), watch.task.id))

    def _cover(self, watch: Watch, now: float) -> None:
        self._schedule(watch, now + STALE_SECONDS * (1 + self._random()) / 2)
        watch.is_covered = True

    def _end(self, watch: Watch, error: PicccError | None = None) -> Ended:
        self._watches.pop(watch.task.id, None)
        return Ended(watch.task, error)

    def _pause(self) -> float:
        return self.polling.min + self._random() * (self.polling.max - self.polling.min)

    def _warn(self, task: Task) -> None:
        if not task.is_known_status and task.status not in self._warned:
            self._warned.add(task.status)
            logger.warning("Task %s has the unknown status %r; still waiting.", task.id, task.status)
