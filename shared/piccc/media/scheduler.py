"""Which request comes next when many tasks are waited for. Pure: it is told the time and what was answered.

Asking for each task costs a request per task and pause. The list costs one per hundred running tasks, so
above a handful it is paged instead: first the lists of what still runs. A task that is in none of them has
probably ended. Many such are looked up in the list of what is completed, few are asked for one by one. A task
that is missing there too, because it moved between pages, say, costs one request more and is never taken for
ended. While the list of what is completed is much the shorter one, every second walk is through it alone.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from piccc.errors import NotFoundError, PicccError
from piccc.media.paging import Pages
from piccc.media.polling import Polling
from piccc.tasks import Task

logger = logging.getLogger("piccc")

NOT_FOUND_SECONDS = 10.0
"""For how long a task that was just made may not be found yet (assumed)."""
UNREADABLE_SECONDS = 300.0
"""For how long reading a task may fail before the wait for it ends."""
STALE_SECONDS = 600.0
"""How often a task is asked for itself although the list shows it, in case the list is stale."""
LISTLESS_SECONDS = 60.0
"""For how long the list is left alone after it was of no use."""
LIST_FAILURES = 3
FREEZE_SECONDS = 5.0
LONGEST_PAUSE = 30.0
BURST_SECONDS = 1.0
"""How much of an unused budget may be made up for at once."""
RUNNING = ("queued", "processing")


@dataclass(slots=True)
class Watch:
    """One task that is waited for, and how its reading went.

    `is_covered`: the list stands for asking about it. `is_alone`: no list is to. `absences`: how many walks
    in a row have not shown it.
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
    """A task that ended, or that cannot be read any more."""

    task: Task
    error: PicccError | None = None


@dataclass(slots=True)
class ListScan:
    """One walk through the lists: those of running tasks, then perhaps that of completed ones.

    `missing` are the tasks that no page has shown yet; more than `allowed` pages would not pay. A partial
    walk goes through the completed ones only: what it does not show may still run.
    """

    missing: set[str]
    allowed: int
    statuses: list[str]
    pages: Pages
    count: int = 0
    is_looking_up: bool = False
    is_partial: bool = False


Step = Watch | ListScan


class Scheduler:
    """Decide what to ask next. `random` gives numbers from 0 to 1; all else is told.

    `polling` may change on the way, when waits of another pace come and go.
    """

    def __init__(self, polling: Polling, random: Callable[[], float]) -> None:
        self.polling = polling
        self._random = random
        self._watches: dict[str, Watch] = {}
        self._due: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._blocked_until = -math.inf
        self._budget_from = -math.inf
        self._sweep: ListScan | None = None
        self._sweep_at = math.inf
        self._sweep_cost = len(RUNNING)
        self._look_up_cost = 1
        self._was_partial = False
        self._listless_until = -math.inf
        self._list_failures = 0
        self._uses_list = False
        self._warned: set[str] = set()

    def add(self, task: Task, now: float, *, at_once: bool = False) -> None:
        """Wait for a task; `at_once` asks without a first pause."""
        if task.id in self._watches:
            return
        watch = self._watches[task.id] = Watch(task, now)
        if self._uses_list:
            self._cover(watch, now)
        else:
            self._schedule(watch, now if at_once else now + self._pause())
        self._sweep_at = min(self._sweep_at, now if at_once else now + self.polling.min)

    def drop(self, id: str) -> None:
        """Wait for a task no longer."""
        self._watches.pop(id, None)

    def hint(self, id: str) -> None:
        """Ask for a task next, for somebody says that it has ended."""
        if watch := self._watches.get(id):
            watch.is_alone = True
            self._schedule(watch, -math.inf)

    def next(self, now: float) -> Step | None:
        """Return what to ask now, None if nothing may be asked; the answer is to be told."""
        if now < max(self._blocked_until, self._budget_from):
            return None
        if self._sweep is None and now >= self._sweep_at:
            self._begin_sweep(now)
        step: Step | None = self._take_due(now) or self._sweep
        if step is not None:
            earliest = max(self._budget_from, now - BURST_SECONDS)
            self._budget_from = earliest + 1 / self.polling.requests_per_second
        return step

    def wake(self) -> float:
        """Return the moment from which on something may be asked; infinity if nothing is waited for."""
        if not self._watches:
            return math.inf
        sweep_at = -math.inf if self._sweep else self._sweep_at
        return max(min(self._first_due(), sweep_at), self._blocked_until, self._budget_from)

    def read(self, watch: Watch, task: Task, hint: float | None, now: float) -> Ended | None:
        """Take a task as it was read, and how long the server asks to wait; return it if it has ended."""
        watch.task, watch.failures = task, 0
        if task.is_terminal and (task.status != "completed" or task.has_output or watch.is_reread):
            return self._end(watch)
        watch.is_reread = task.status == "completed"
        watch.is_alone = watch.is_alone or watch.absences > 1
        self._warn(task)
        if watch.due == -math.inf:
            return None  # it was hinted at while it was read
        if watch.is_alone or watch.is_reread or not self._uses_list:
            self._schedule(watch, now + max(self._pause(), hint or 0.0))
        else:
            self._cover(watch, now)
        return None

    def unread(self, watch: Watch, error: PicccError, now: float) -> Ended | None:
        """Take a reading that failed; return the task if going on is of no use."""
        if error.status == 429:
            self._block(error, now)
            self._schedule(watch, now)
            return None
        if not watch.failures:
            watch.failing_since = now
        watch.failures += 1
        may_appear = isinstance(error, NotFoundError) and now - watch.since < NOT_FOUND_SECONDS
        is_final = error.status in (401, 403, 404) and not (may_appear and watch.task.raw)
        if is_final or now - watch.failing_since >= UNREADABLE_SECONDS:
            return self._end(watch, error)
        pause = min(LONGEST_PAUSE, self._pause() * 2.0 ** (watch.failures - 1))
        self._schedule(watch, now + max(pause, error.retry_after or 0.0))
        return None

    def undone(self, step: Step) -> None:
        """Take a step back that was begun and given up: it is the next one again."""
        if isinstance(step, Watch):
            self._schedule(step, -math.inf)

    def listed(self, sweep: ListScan, tasks: list[Task], now: float) -> list[Task | Ended]:
        """Take a page of a list; return those of its tasks that are waited for."""
        found = [seen for task in tasks if (seen := self._listed(sweep, task, now)) is not None]
        sweep.count += 1
        self._list_failures = 0
        if not sweep.missing:
            self._end_sweep(sweep, now)
        elif sweep.count >= sweep.allowed and not (sweep.pages.is_done and not sweep.statuses):
            self._give_up(sweep, now)
        elif sweep.is_looking_up and self._is_too_old(sweep, tasks):
            self._end_sweep(sweep, now)
        elif sweep.pages.is_done:
            self._turn(sweep, now)
        return found

    def unlisted(self, error: PicccError, now: float) -> None:
        """Take a page that could not be read: after some such the lists are left alone for a while."""
        if error.status == 429:
            self._block(error, now)
            return
        self._list_failures += 1
        if 400 <= (error.status or 0) < 500 or self._list_failures >= LIST_FAILURES:
            self._leave_list(now)
        else:
            self._sweep, self._sweep_at = None, now + self._pause()

    def _begin_sweep(self, now: float) -> None:
        self._sweep_at = now + self._pause() if self._watches else math.inf
        covered = [id for id, watch in self._watches.items() if not watch.is_alone]
        may_list = self.polling.use_list and now >= self._listless_until
        self._uses_list = may_list and len(covered) > self._sweep_cost
        if self._uses_list:
            self._sweep = self._first_pages(set(covered))
        for id in covered:
            watch = self._watches[id]
            is_to_be_confirmed = watch.absences > 0 and watch.due <= now
            if self._uses_list and not watch.is_covered and not is_to_be_confirmed:
                self._cover(watch, now)
            elif watch.is_covered and not self._uses_list:
                self._schedule(watch, now + self._random() * self.polling.max)

    def _first_pages(self, covered: set[str]) -> ListScan:
        is_shorter = 2 * self._look_up_cost < self._sweep_cost
        self._was_partial = is_shorter and not self._was_partial
        if self._was_partial:
            allowed = 2 * self._look_up_cost + 1
            pages = Pages(status="completed")
            return ListScan(covered, allowed, [], pages, is_looking_up=True, is_partial=True)
        first, *rest = RUNNING
        return ListScan(covered, len(covered), rest, Pages(status=first))

    def _listed(self, sweep: ListScan, task: Task, now: float) -> Task | Ended | None:
        watch = self._watches.get(task.id)
        if watch is None:
            return None
        sweep.missing.discard(task.id)
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

    def _turn(self, sweep: ListScan, now: float) -> None:
        sweep.missing &= self._watches.keys()
        if sweep.statuses:
            sweep.pages = Pages(status=sweep.statuses.pop(0))
        elif not sweep.is_looking_up and len(sweep.missing) > self._look_up_cost:
            self._sweep_cost, sweep.count = sweep.count, 0
            sweep.is_looking_up, sweep.allowed = True, len(sweep.missing)
            sweep.pages = Pages(status="completed")
        else:
            self._end_sweep(sweep, now)

    def _end_sweep(self, sweep: ListScan, now: float) -> None:
        if sweep.is_looking_up:
            self._look_up_cost = sweep.count
        else:
            self._sweep_cost = max(sweep.count, len(RUNNING))
        for id in () if sweep.is_partial else sorted(sweep.missing & self._watches.keys()):
            self._watches[id].absences += 1
            self._schedule(self._watches[id], now)
        self._sweep = None

    def _give_up(self, sweep: ListScan, now: float) -> None:
        if sweep.is_looking_up:
            self._end_sweep(sweep, now)
        else:
            self._leave_list(now)

    def _leave_list(self, now: float) -> None:
        self._sweep, self._sweep_at, self._listless_until = None, now, now + LISTLESS_SECONDS

    def _is_too_old(self, sweep: ListScan, tasks: list[Task]) -> bool:
        missing = [self._watches[id].task for id in sweep.missing if id in self._watches]
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

    def _block(self, error: PicccError, now: float) -> None:
        pause = FREEZE_SECONDS if error.retry_after is None else error.retry_after
        self._blocked_until = max(self._blocked_until, now + pause)

    def _pause(self) -> float:
        return self.polling.min + self._random() * (self.polling.max - self.polling.min)

    def _warn(self, task: Task) -> None:
        if not task.is_known_status and task.status not in self._warned:
            self._warned.add(task.status)
            logger.warning("Task %s has the unknown status %r; waiting on.", task.id, task.status)
