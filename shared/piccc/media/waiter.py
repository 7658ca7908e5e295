"""All waits of one account in this process, in whichever threads and event loops, as one.

Whoever waits may lead: the leader asks for the tasks of all, the others sleep until there is news for them. A
leader that has its news, runs out of time, is cancelled or fails to read hands over. One that does not come
back, because its loop was stopped, say, loses the lead to the first who notices.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from piccc._http.backend import run_sync
from piccc.config import Config
from piccc.errors import PicccError
from piccc.media.paging import Page
from piccc.media.polling import Polling, joint
from piccc.media.scheduler import Ended, ListScan, Scheduler, Step, Watch
from piccc.tasks import Task

if TYPE_CHECKING:
    from piccc.media.account import Account
    from piccc.media.watching import Subscription

READ_SECONDS = 30.0
GRACE_SECONDS = 5.0
"""How late a leader may be before another one takes its place."""


class Waiter:
    """The scheduler of an account's waits, and who waits for what. Its lock is never held across an await."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.is_stale = False
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._leaving: deque[Callable[[], None]] = deque()
        self._pollings: Counter[Polling] = Counter()
        self._watchings: dict[str, set[Subscription]] = {}
        self._ready: dict[Subscription, None] = {}
        self._leader: Subscription | None = None
        self._step: Step | None = None
        self._back_by = math.inf

    def enter(self, watching: Subscription) -> None:
        """Let somebody wait, at its pace."""
        with self._held():
            self._pollings[watching.polling] += 1
            self._scheduler.polling = joint(self._pollings)

    def join(self, watching: Subscription, task: Task, now: float) -> None:
        """Let somebody wait for a task; one of which only the id is known is asked for at once."""
        with self._held():
            self._watchings.setdefault(task.id, set()).add(watching)
            self._scheduler.add(task, now, at_once=not task.raw)
            self._wake_leader()

    def hint(self, id: str) -> None:
        """Have a task asked for next."""
        with self._held():
            self._scheduler.hint(id)
            self._wake_leader()

    def begin(self, watching: Subscription, now: float, until: float) -> tuple[Step | None, float]:
        """Return what somebody is to ask now, and if that is nothing, until when it may sleep.

        It leads if nobody does, or if who does should have been back.
        """
        with self._held():
            self._ready[watching] = None
            if self._leader is not None and self._leader is not watching:
                if now < self._back_by:
                    return None, min(self._back_by, until)
                del self._ready[self._leader]
            self._lead(watching)
            self._step = self._scheduler.next(now)
            wake = min(self._scheduler.wake(), until)
            self._back_by = GRACE_SECONDS + (wake if self._step is None else now + READ_SECONDS)
            return self._step, wake

    def is_led_by(self, watching: Subscription) -> bool:
        """Tell whether somebody leads."""
        return self._leader is watching

    def saw(self, watching: Subscription, watch: Watch, task: Task, wake: float | None, now: float) -> None:
        """Take a task as the leader read it, and tell those whom it concerns."""
        with self._held():
            if self._is_due(watching):
                self._tell(self._scheduler.read(watch, task, wake, now) or task)

    def listed(self, watching: Subscription, sweep: ListScan, page: Page, now: float) -> None:
        """Take a page of a list as the leader read it, and tell those whom it concerns."""
        with self._held():
            if self._is_due(watching):
                for news in self._scheduler.listed(sweep, sweep.pages.take(*page), now):
                    self._tell(news)

    def missed(self, watching: Subscription, step: Step, error: PicccError, now: float) -> None:
        """Take the leader's failure to read, and let another one lead: the fault may be its connection's."""
        with self._held():
            if not self._is_due(watching):
                return
            if isinstance(step, ListScan):
                self._scheduler.unlisted(error, now)
            elif ended := self._scheduler.unread(step, error, now):
                self._tell(ended)
            self._exit(watching)

    def exit(self, watching: Subscription) -> None:
        """Let somebody be woken no more; if it led, another one does. From anywhere, a finalizer too."""
        self._later(partial(self._exit, watching))

    def leave(self, watching: Subscription) -> None:
        """Let somebody wait no more. From anywhere, a finalizer too."""
        self._later(partial(self._leave, watching))

    def _later(self, act: Callable[[], None]) -> None:
        # A finalizer may run amid another call of its thread, which holds the lock: that one does it then.
        self._leaving.append(act)
        self._catch_up()

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            self._let_go()
            yield
        self._catch_up()

    def _catch_up(self) -> None:
        while self._leaving and self._lock.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._lock.release()

    def _let_go(self) -> None:
        while self._leaving:
            self._leaving.popleft()()

    def _exit(self, watching: Subscription) -> None:
        self._ready.pop(watching, None)
        if self._leader is watching:
            self._lead(next(iter(self._ready), None))
            self._wake_leader()

    def _leave(self, watching: Subscription) -> None:
        self._exit(watching)
        self._pollings[watching.polling] -= 1
        self._pollings = +self._pollings
        if self._pollings:
            self._scheduler.polling = joint(self._pollings)
        for id in list(watching.open):
            waiting = self._watchings.get(id, set())
            waiting.discard(watching)
            if not waiting:
                self._watchings.pop(id, None)
                self._scheduler.drop(id)

    def _lead(self, watching: Subscription | None) -> None:
        if self._step is not None:
            self._scheduler.undone(self._step)
        self._leader, self._step = watching, None

    def _is_due(self, watching: Subscription) -> bool:
        """Take an answer's step off; return False where it comes too late, for another one leads by now."""
        if self._leader is not watching:
            return False
        self._step = None
        return True

    def _tell(self, news: Task | Ended) -> None:
        if isinstance(news, Ended):
            concerned = self._watchings.pop(news.task.id, set())
        else:
            concerned = self._watchings.get(news.id, set())
        for watching in concerned:
            watching.tell(news)

    def _wake_leader(self) -> None:
        if self._leader is not None:
            self._leader.signal.set()


_waiters: WeakValueDictionary[Hashable, Waiter] = WeakValueDictionary()
_lock = threading.Lock()


def waiter_for(account: Account) -> Waiter:
    """Return the waiter that all waits of an account share in this process; raise where there is no key."""
    name = _name(account.session.config)
    with _lock:
        waiter = _waiters.get(name)
        if waiter is None:
            waiter = _waiters[name] = Waiter(Scheduler(account.polling, account.session.io.random))
        return waiter


def wake(task_id: str) -> None:
    """Have a task asked for next by whoever waits for it in this process; from any thread."""
    with _lock:
        waiters = list(_waiters.values())
    for waiter in waiters:
        waiter.hint(task_id)


def _name(config: Config) -> Hashable:
    """Return what tells one account from another: a key by its hash, one that a function gives by that."""
    key: Hashable = config.key
    if config.key.is_fixed:
        key = hashlib.sha256(run_sync(config.key.ask()).encode()).digest()
    return config.base_url, key, config.basic, tuple(sorted(config.headers.items()))


def _after_fork() -> None:
    # The parent's leaders do not run in the child.
    global _lock
    _lock = threading.Lock()
    for waiter in _waiters.values():
        waiter.is_stale = True
    _waiters.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
