"""All waits of one account in one event loop, or in all threads of blocking code, as one.

Whoever waits may lead: the leader asks for the tasks of all, the others sleep until there is news for them. A
leader that has its news, runs out of time or is cancelled hands over.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Hashable
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary

from piccc.errors import PicccError, TaskWaitTimeout
from piccc.media.scheduler import Ended, Scheduler, Step, Watch
from piccc.tasks import Task

if TYPE_CHECKING:
    from piccc.media.account import Account

READ_SECONDS = 30.0


class Waiter:
    """The scheduler of an account's waits, and who waits for what. Its lock is never held across an await."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._lock = threading.Lock()
        self._watchings: dict[str, set[Watching]] = {}
        self._ready: dict[Watching, None] = {}
        self._leader: Watching | None = None

    def join(self, watching: Watching, task: Task, now: float, *, at_once: bool) -> None:
        """Let somebody wait for a task."""
        with self._lock:
            self._watchings.setdefault(task.id, set()).add(watching)
            self.scheduler.add(task, now, at_once=at_once)
            self._wake_leader()

    def leave(self, watching: Watching) -> None:
        """Let somebody wait no more."""
        with self._lock:
            for id in watching.open:
                waiting = self._watchings.get(id, set())
                waiting.discard(watching)
                if not waiting:
                    self._watchings.pop(id, None)
                    self.scheduler.drop(id)

    def hint(self, id: str) -> None:
        """Have a task asked for next; from any thread."""
        with self._lock:
            self.scheduler.hint(id)
            self._wake_leader()

    def enter(self, watching: Watching) -> None:
        """Let somebody be woken, and lead if nobody does."""
        with self._lock:
            self._ready[watching] = None
            self._leader = self._leader or watching

    def exit(self, watching: Watching) -> None:
        """Let somebody be woken no more; if it led, another one does."""
        with self._lock:
            del self._ready[watching]
            if self._leader is watching:
                self._leader = next(iter(self._ready), None)
                self._wake_leader()

    def begin(self, watching: Watching, now: float) -> tuple[Step | None, float]:
        """Return what somebody is to ask now, and from which moment on there may be something to ask."""
        with self._lock:
            if self._leader is not watching:
                return None, math.inf
            return self.scheduler.next(now), self.scheduler.wake()

    def undo(self, step: Step, now: float) -> None:
        """Take back a step that was given up."""
        with self._lock:
            self.scheduler.undone(step, now)

    def saw(self, step: Step, seen: Task | list[Task], hint: float | None, now: float) -> None:
        """Take an answer, and tell those whom it concerns."""
        with self._lock:
            if isinstance(step, Watch) and isinstance(seen, Task):
                news: list[Task | Ended] = [self.scheduler.read(step, seen, hint, now) or seen]
            elif not isinstance(step, Watch) and isinstance(seen, list):
                news = self.scheduler.listed(step, seen, now)
            self._tell(news)

    def missed(self, step: Step, error: PicccError, now: float) -> None:
        """Take a failure, and tell those whom it concerns."""
        with self._lock:
            if not isinstance(step, Watch):
                self.scheduler.unlisted(error, now)
            elif ended := self.scheduler.unread(step, error, now):
                self._tell([ended])

    def _tell(self, news: list[Task | Ended]) -> None:
        for each in news:
            ended = isinstance(each, Ended)
            id = each.task.id if isinstance(each, Ended) else each.id
            for watching in self._watchings.pop(id, set()) if ended else self._watchings.get(id, set()):
                watching.tell(each)

    def _wake_leader(self) -> None:
        if self._leader is not None:
            self._leader.signal.set()


class Watching:
    """One wait for some tasks: `next` tells of each that ended, and with `every_change` of progress too."""

    def __init__(
        self, waiter: Waiter, account: Account, *, timeout: float | None = None, every_change: bool = False
    ) -> None:
        self._waiter = waiter
        self._account = account
        self._io = account.session.io
        self.signal = self._io.signal()
        self._every_change = every_change
        self.started = self._io.now()
        self._deadline = self.started + (account.polling.timeout if timeout is None else timeout)
        self.open: dict[str, Task] = {}
        self._news: deque[Task] = deque()
        self._errors: list[PicccError] = []

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to wait for or to tell."""
        return not (self.open or self._news or self._errors)

    def now(self) -> float:
        """Return the time on this wait's clock."""
        return self._io.now()

    def add(self, task: Task | str) -> None:
        """Wait for one more task."""
        known = task if isinstance(task, Task) else Task(task)
        if known.is_terminal and (known.has_output or known.status != "completed"):
            self._news.append(known)
        elif known.id not in self.open:
            self.open[known.id] = known
            self._waiter.join(self, known, self.now(), at_once=not known.raw)

    async def next(self, until: float | None = None) -> Task | None:
        """Return the next task of which there is news; None at the end, or at the moment `until`.

        Raise TaskWaitTimeout when the time is up. Errors of tasks that cannot be read are raised last.
        """
        self._waiter.enter(self)
        try:
            while not self._news and self.open:
                now = self.now()
                if until is not None and now >= until:
                    return None
                if now >= self._deadline and (running := list(self.open.values())):
                    raise self._still_running(running, now)
                await self._work_or_sleep(
                    now, self._deadline if until is None else min(until, self._deadline)
                )
        except BaseException as error:
            if not isinstance(error, PicccError) and self.open:
                error.add_note(_way_on(list(self.open.values())))
            raise
        finally:
            self._waiter.exit(self)
        if self._news:
            return self._news.popleft()
        if self._errors:
            raise self._errors.pop(0)
        return None

    def tell(self, news: Task | Ended) -> None:
        """Take news of a task that is waited for."""
        task = news.task if isinstance(news, Ended) else news
        before = self.open.get(task.id)
        if before is None:
            return
        if isinstance(news, Ended):
            del self.open[task.id]
            if news.error is not None:
                self._errors.append(_unreadable(task, news.error))
            else:
                self._news.append(task)
        else:
            self.open[task.id] = task
            changed = (before.status, before.progress) != (task.status, task.progress)
            if not self._every_change or not (changed or not before.raw):
                return
            self._news.append(task)
        self.signal.set()

    async def _work_or_sleep(self, now: float, until: float) -> None:
        step, wake = self._waiter.begin(self, now)
        if step is None:
            await self.signal.wait(max(0.0, min(wake, until) - now))
            return
        try:
            await self._work(step, min(READ_SECONDS, self._deadline - now))
        except BaseException:
            self._waiter.undo(step, self.now())
            raise

    async def _work(self, step: Step, seconds: float) -> None:
        seen: Task | list[Task]
        hint = None
        try:
            if isinstance(step, Watch):
                seen, hint = await self._account.poll(step.task, seconds)
            else:
                seen = await self._account.poll_page(step.pages, seconds)
        except PicccError as error:
            if seconds < READ_SECONDS and self.now() >= self._deadline:
                self._waiter.undo(step, self.now())
            else:
                self._waiter.missed(step, error, self.now())
            return
        self._waiter.saw(step, seen, hint, self.now())

    def _still_running(self, running: list[Task], now: float) -> TaskWaitTimeout:
        first = running[0]
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        return TaskWaitTimeout(
            f"Task {first.id}{more} is still {first.status} after {now - self.started:.0f} s.",
            hint=_way_on(running),
            elapsed=now - self.started,
            task_id=first.id,
            task=first,
        )

    def close(self) -> None:
        """Wait no more."""
        self._waiter.leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _way_on(running: list[Task]) -> str:
    ids = [task.id for task in running]
    what = f"client.tasks.wait({ids[0]!r})" if len(ids) == 1 else f"client.tasks.wait_all({ids[:10]!r})"
    more = f" (and {len(ids) - 10} more)" if len(ids) > 10 else ""
    return f"It goes on and is paid for: do not submit again. Go on: {what}{more}"


def _unreadable(task: Task, error: PicccError) -> PicccError:
    error.task_id = task.id
    error.hint = f"{error.hint} The task was {task.status}. Go on: client.tasks.wait({task.id!r})".strip()
    return error


_waiters: WeakValueDictionary[Hashable, Waiter] = WeakValueDictionary()
_lock = threading.Lock()


def waiter_for(account: Account) -> Waiter:
    """Return the waiter that all waits of an account share in the running event loop, or in blocking code."""
    config, io = account.session.config, account.session.io
    key = (config.base_url, config.auth, config.key, io.scope, account.polling)
    with _lock:
        waiter = _waiters.get(key)
        if waiter is None:
            waiter = _waiters[key] = Waiter(Scheduler(account.polling, io.random))
        return waiter


def hint(task_id: str) -> None:
    """Have a task asked for next by whoever waits for it in this process; from any thread."""
    with _lock:
        waiters = list(_waiters.values())
    for waiter in waiters:
        waiter.hint(task_id)


def _after_fork() -> None:
    # The parent's leaders do not run in the child.
    global _lock
    _lock = threading.Lock()
    _waiters.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
