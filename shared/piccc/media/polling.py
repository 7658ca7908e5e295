"""Wait for tasks: one poller per account and process reads, and passes what it reads to every wait.

A `Subscription` is one wait, in a thread or on an event loop. It sends no request: it gives its `Poller` the
tasks it wants and sleeps until there is news. The poller alone touches the schedule, so nothing needs a lock
but the question whether it runs. Subscriptions come and go by commands in a deque, whose `append` is atomic
and safe in a finalizer.

A poller runs in a daemon thread with connections of its own, for all threads and event loops alike, and ends
with its last subscription. Two things belong to an event loop and cannot leave it: an asynchronous client of
the caller's, and a key that a function gives there. Their poller is a task of that loop, within the same
budget.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import os
import socket
import threading
import uuid
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from contextvars import Context
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self
from weakref import WeakValueDictionary

from piccc._dialects.tasks import read_task
from piccc._http.backend import Backend
from piccc._http.backends import AsyncBackend, run_sync
from piccc._http.session import Session, telemetry
from piccc.config import Config
from piccc.errors import PicccError, ResponseError, TaskWaitTimeout
from piccc.media.ledgers import Ledger, Note, TaskStream
from piccc.media.requests import as_task
from piccc.media.schedule import Budget, Ended, Polling, Schedule, Step, Watch
from piccc.tasks import Page, Task

if TYPE_CHECKING:
    from piccc.telemetry import Wait

logger = logging.getLogger("piccc")

READ_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""How often to look for what other processes have posted."""
LEASE_SECONDS = 10.0
RENEWAL_SECONDS = 3.0
AWAY_LOOK_SECONDS = 10.0
AWAY_PACE = 10.0
"""How much slower to poll while the ledger cannot be reached, for then every process polls."""
LONGEST_SLEEP = 3600.0


class PolledAccount(Protocol):
    """What polling needs of an `Account`."""

    session: Session
    ledger: Ledger
    polling: Polling

    def over(self, io: Backend) -> PolledAccount:
        """Return the same account over another backend."""
        ...

    async def poll(self, task: Task, seconds: float) -> tuple[Task, float | None]:
        """Read a task once; return it, and how many seconds the server asks to wait."""
        ...

    async def poll_page(self, path: str, seconds: float) -> Page:
        """Read a page of a list once."""
        ...


OnPoll = Callable[[], object]


class Subscription:
    """One wait for some tasks. `next` returns each that ended, and with `every_change` its progress too."""

    def __init__(
        self,
        account: PolledAccount,
        *,
        timeout: float | None = None,
        every_change: bool = False,
        is_observed: bool = True,
        on_poll: OnPoll | None = None,
    ) -> None:
        self.polling = account.polling
        self._account = account
        self._io = account.session.io
        self.signal = self._io.signal()
        self.every_change = every_change
        self.is_alone = every_change and is_observed
        self._on_poll = on_poll
        self.started = self._io.now()
        self.deadline = self.started + (account.polling.timeout if timeout is None else timeout)
        self._poller: Poller | None = None
        self.open: dict[str, Task] = {}
        self._news: deque[Task] = deque()
        self._errors: deque[PicccError] = deque()
        observer = telemetry()
        self._span: Wait | None = None if observer is None else observer.Wait()

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to wait for or to return."""
        return not (self.open or self._news or self._errors)

    def now(self) -> float:
        """Return the time on this wait's clock."""
        return self._io.now()

    def add(self, task: Task | str) -> None:
        """Wait for one more task."""
        known = as_task(task)
        if self._span is not None:
            self._span.add(known.id)
        if known.is_terminal and (known.has_output or known.status != "completed"):
            self._news.append(known)
        elif known.id not in self.open:
            poller = self._joined()
            self.open[known.id] = known
            poller.join(self, known, self.now())

    async def next(self, until: float | None = None) -> Task | None:
        """Return the next task of which there is news; None at the end, or at the moment `until`.

        Raise TaskWaitTimeout when the time is up. Errors of tasks that cannot be read are raised last.
        """
        by = self.deadline if until is None else min(until, self.deadline)
        try:
            while self.open and not self._news:
                now = self.now()
                if until is not None and now >= until:
                    return None
                if now >= self.deadline and (running := list(self.open.values())):
                    raise self._still_running(running, now)
                self.keep_going()
                await self.signal.wait(min(by - now, LONGEST_SLEEP))
        except BaseException as error:
            if not isinstance(error, PicccError) and self.open:
                error.add_note(way_on(list(self.open.values())))
            self._end(error)
            raise
        return self.take()

    def keep_going(self) -> None:
        """Have the poller read, also after a fork or where its event loop was shut down."""
        self._joined().ensure_running()

    def take(self) -> Task | None:
        """Return a task of which there is news now, or None; raise the error of one that cannot be read."""
        if self._news:
            return self._news.popleft()
        if self._errors:
            raise self._errors.popleft()
        return None

    def receive(self, news: Task | Ended) -> None:
        """Take news of a task that is waited for. The poller calls it, from its own thread."""
        task = news.task if isinstance(news, Ended) else news
        before = self.open.get(task.id)
        if before is None:
            return
        if self._on_poll is not None:
            try:
                self._on_poll()
            except Exception:  # the poller also reads for others
                logger.exception("on_poll failed for task %s.", task.id)
        changed = (before.status, before.progress) != (task.status, task.progress) or not before.raw
        if isinstance(news, Ended) and news.error is not None:
            self._errors.append(_unreadable(task, news.error))
        elif isinstance(news, Ended) or (self.every_change and changed):
            self._news.append(task)
        # After the news: `next` takes "nothing open and no news" for the end.
        if isinstance(news, Ended):
            del self.open[task.id]
            if self._span is not None:
                self._span.ended(task)
        else:
            self.open[task.id] = task
        self.signal.set()

    def _joined(self) -> Poller:
        if self._poller is None or self._poller.is_stale:
            self._poller = poller_for(self._account)
            for task in list(self.open.values()):
                self._poller.join(self, task, self.now())
        return self._poller

    def _still_running(self, running: list[Task], now: float) -> TaskWaitTimeout:
        first = running[0]
        more = f" and {len(running) - 1} more" if len(running) > 1 else ""
        return TaskWaitTimeout(
            f"Task {first.id}{more} is still {first.status} after {now - self.started:.0f} s.",
            hint=way_on(running),
            elapsed=now - self.started,
            task_id=first.id,
            task=first,
        )

    def close(self) -> None:
        """Stop waiting."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.leave(self)
        self._end()

    def _end(self, error: BaseException | None = None) -> None:
        if self._span is not None:
            self._span.end(error=error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def note_of_end(task: Task) -> Note:
    """Return the note that a task has ended."""
    return Note("ended", task.id, json.dumps(task.to_dict()))


def note_of_wait(task: Task, account: str) -> Note:
    """Return the note that a process waits for a task of an account."""
    return Note("wanted", task.id, f"{account} {task.created_at or ''}")


@dataclass(slots=True)
class News:
    """What an exchange brought.

    Attributes:
        wanted: tasks of other processes to poll, where this one leads.
        ended: tasks that others have read.
        look: ids of tasks that their waiters are to read.
        is_new: whether the lead was taken or lost.
        is_cut: whether some of what was posted is gone, so that anything may have ended.
    """

    wanted: list[Task] = field(default_factory=list)
    ended: list[Task] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    is_new: bool = False
    is_cut: bool = False


class Fleet:
    """One poller's part in the polling of an account. Its methods block, and none runs twice at once."""

    def __init__(self, stream: TaskStream, server: str, account: str) -> None:
        self.leads = False
        self._stream = stream
        self._server = server  # of one stream: a receiver of webhooks may have another key, or none
        self._account = account
        # A ledger in a file takes a lease from a process of its machine that has died.
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        self._lease = f"polling:{account}"
        self._cursor: str | None = None
        self._renew_at = -math.inf

    def exchange(self, now: float, notes: Iterable[Note]) -> News:
        """Post notes, keep or try for the lead, and return what others have posted."""
        news = News()
        if self._cursor is None:
            self._cursor = self._stream.notes(self._server, None).cursor
        if now >= self._renew_at or not self.leads:
            self._renew(now, news)
        # Nobody else is to poll what the one that leads waits for itself.
        if posted := [note for note in notes if not (self.leads and note.kind == "wanted")]:
            self._stream.post(self._server, posted)
        while (found := self._stream.notes(self._server, self._cursor)).notes:
            self._cursor = found.cursor
            news.is_cut = news.is_cut or found.is_cut
            for note in found.notes:
                self._take(note, news)
        if self.leads and (news.is_new or news.is_cut):
            for id, text in self._stream.open_tasks(self._server):
                self._want(id, text, news)
        return news

    def leave(self) -> None:
        """Let another process lead."""
        if self.leads:
            self.leads = False
            self._stream.lease(self._lease, self._holder, 0.0)

    def _renew(self, now: float, news: News) -> None:
        led, self.leads = self.leads, self._stream.lease(self._lease, self._holder, LEASE_SECONDS)
        self._renew_at = now + RENEWAL_SECONDS
        news.is_new = led != self.leads

    def _take(self, note: Note, news: News) -> None:
        if note.kind == "wanted":
            if self.leads:
                self._want(note.task_id, note.text, news)
            return
        try:
            news.ended.append(read_task(json.loads(note.text)))
        except (ValueError, ResponseError):  # there is no text where it could not be read
            news.look.append(note.task_id)

    def _want(self, task_id: str, text: str, news: News) -> None:
        account, _, created_at = text.partition(" ")
        if account == self._account:
            news.wanted.append(Task(task_id, created_at=float(created_at) if created_at else None))


class Poller:
    """Read the tasks that the subscriptions of one account wait for.

    Where its ledger is a `TaskStream`, one poller of all processes reads for all: `_publish`, through which
    every reading passes, posts what has ended, and `_exchange` takes in what the others have posted. Those
    that follow read a task themselves only to show its progress, or once in some minutes to be sure.
    """

    def __init__(self, account: PolledAccount, io: Backend, budget: Budget) -> None:
        self.is_stale = False
        self._account = account.over(io)
        self._io = io
        self._budget = budget
        self._signal = io.signal()
        self._commands: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._is_running = False
        self._members: set[Subscription] = set()
        self._pollings: Counter[Polling] = Counter()
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._stream = account.ledger if isinstance(account.ledger, TaskStream) else None
        self._fleet: Fleet | None = None
        self._is_away = False
        self._name = hashlib.sha256(repr(account_name(account.session.config)).encode()).hexdigest()[:32]
        self._outbox: list[Note] = []
        self._shared: set[str] = set()
        self._look_at = math.inf
        self._schedule = Schedule(account.polling, io.random, budget)

    def join(self, subscription: Subscription, task: Task, now: float) -> None:
        """Wait for a task; one of which only the id is known is asked for at once."""
        self._commands.append(partial(self._join, subscription, task, now))
        self.ensure_running()
        self._signal.set()

    def leave(self, subscription: Subscription) -> None:
        """Stop waiting. From anywhere, a finalizer too: so it neither takes the lock nor starts anything."""
        self._commands.append(partial(self._leave, subscription))
        self._signal.set()

    def wake(self, task_id: str) -> None:
        """Ask for a task next; from any thread."""
        self._commands.append(lambda: self._schedule.wake(task_id))
        self._signal.set()

    def take(self, task: Task) -> None:
        """Take a task that has ended, and was read elsewhere; from any thread."""
        self._commands.append(partial(self._deliver, Ended(task)))
        self._signal.set()

    def ensure_running(self) -> None:
        """Start, unless it runs."""
        with self._lock:
            if self._is_running:
                return
            self._is_running = True
            try:
                Context().run(self._io.start, self._run)  # for it reads for others than the caller too
            except BaseException:
                self._is_running = False
                raise

    async def _run(self) -> None:
        try:
            self._rebuild()
            while not self._has_ended():
                await self._turn()
        except BaseException as error:
            self._is_running = False
            if not isinstance(error, Exception):
                raise
            logger.exception("Polling failed.")
            self._fail(PicccError(f"Polling failed: {type(error).__name__}: {error}"))
        finally:
            if self._fleet is not None and self._fleet.leads:
                with suppress(Exception):  # then the lease ends by itself
                    await self._io.run(self._fleet.leave)
            if self._io is not self._account.session.io:
                await self._io.close()

    def _rebuild(self) -> None:
        # A run that was broken off, by a loop that shut down, say, may have left a step half done. And each
        # run takes part under a name of its own: so one that ends cannot give up the lead of the next.
        self._schedule = Schedule(self._schedule.polling, self._io.random, self._budget)
        self._outbox, self._shared, self._is_away = [], set(), False
        if self._stream is not None:
            self._fleet = Fleet(self._stream, self._account.session.config.base_url, self._name)
            self._schedule.follow(self._io.now())
            self._look_at = -math.inf
        for id, subscriptions in self._subscriptions.items():
            for subscription in subscriptions:
                self._want(subscription, subscription.open.get(id, Task(id)), self._io.now(), at_once=True)

    def _has_ended(self) -> bool:
        with self._lock:  # `join` appends its command before it asks whether this runs
            self._is_running = bool(self._commands or self._subscriptions)
            return not self._is_running

    async def _turn(self) -> None:
        while self._commands:
            self._commands.popleft()()
        now = self._io.now()
        if now >= self._look_at:
            await self._exchange(now)
        step = self._schedule.next(now)
        if step is not None:
            await self._read(step)
        elif self._subscriptions and not self._commands:
            at = min(self._schedule.next_at(), self._look_at, now + LONGEST_SLEEP)
            await self._signal.wait(max(0.0, at - now))

    async def _read(self, step: Step) -> None:
        try:
            if isinstance(step, Watch):
                task, pause = await self._account.poll(step.task, READ_SECONDS)
                self._publish(self._schedule.read(step, task, pause, self._io.now()) or task)
            else:
                page = await self._account.poll_page(step.pages.path, READ_SECONDS)
                for news in self._schedule.listed(step, page, self._io.now()):
                    self._publish(news)
        except PicccError as error:
            if not isinstance(step, Watch):
                self._schedule.unlisted(error, self._io.now())
            elif ended := self._schedule.unread(step, error, self._io.now()):
                self._publish(ended)

    def _publish(self, news: Task | Ended) -> None:
        if isinstance(news, Ended) and news.task.id in self._shared:
            # Why it cannot be read may be this process's own trouble: its waiters try.
            self._outbox.append(Note("ended", news.task.id) if news.error else note_of_end(news.task))
            self._look_at = -math.inf
        self._deliver(news)

    def _deliver(self, news: Task | Ended) -> None:
        if isinstance(news, Ended):
            self._shared.discard(news.task.id)
            self._schedule.drop(news.task.id)
            subscriptions = self._subscriptions.pop(news.task.id, set())
        else:
            subscriptions = self._subscriptions.get(news.id, set())
        for subscription in subscriptions:
            subscription.receive(news)

    async def _exchange(self, now: float) -> None:
        if self._fleet is None:
            self._look_at = math.inf
            return
        notes, was_away = self._outbox, self._is_away
        self._outbox, self._look_at = [], now + LOOK_SECONDS
        try:
            news = await self._io.run(self._fleet.exchange, now, notes)
        except Exception as error:  # the store is away, or a ledger of the caller's own fails
            self._outbox = notes + self._outbox
            self._look_at = now + AWAY_LOOK_SECONDS
            if not was_away:
                logger.warning(
                    "The ledger is away, so polling goes on alone and at a tenth of its pace: %s", error
                )
                self._is_away = True
                self._set_pace()
                self._schedule.lead(now)
            return
        now, self._is_away = self._io.now(), False
        if was_away:
            self._set_pace()
        if news.is_new or was_away:
            self._turn_round(now)
        elif news.is_cut and not self._fleet.leads:
            self._post_waits()
        for task in news.wanted:
            self._shared.add(task.id)
            self._schedule.add(task, now)
        for task in news.ended:
            self._deliver(Ended(task))
        for id in news.look:
            if id in self._subscriptions:
                self._schedule.wake(id)
        if self._outbox:
            self._look_at = -math.inf

    def _turn_round(self, now: float) -> None:
        """Begin to poll for all, or to follow."""
        for id in self._shared - self._subscriptions.keys():
            self._schedule.drop(id)
        self._shared = set()
        if self._fleet is not None and self._fleet.leads:
            self._schedule.lead(now)
        else:
            self._schedule.follow(now)
            self._post_waits()

    def _post_waits(self) -> None:
        for id, subscriptions in self._subscriptions.items():
            task = next((each.open[id] for each in subscriptions if id in each.open), Task(id))
            self._shared.add(id)
            self._outbox.append(note_of_wait(task, self._name))

    def _want(self, subscription: Subscription, task: Task, now: float, *, at_once: bool) -> None:
        self._schedule.add(task, now, at_once=at_once, is_alone=subscription.is_alone)
        follows = self._fleet is not None and not self._fleet.leads
        if follows and not self._is_away and task.id not in self._shared:
            self._shared.add(task.id)
            self._outbox.append(note_of_wait(task, self._name))

    def _set_pace(self) -> None:
        if self._pollings:
            polling = joint(self._pollings)
            self._schedule.polling = polling.slowed(AWAY_PACE) if self._is_away else polling

    def _fail(self, error: PicccError) -> None:
        while self._commands:
            self._commands.popleft()()
        for id in list(self._subscriptions):
            self._publish(Ended(Task(id), error))

    def _join(self, subscription: Subscription, task: Task, now: float) -> None:
        if task.id not in subscription.open:
            return
        if subscription not in self._members:
            self._members.add(subscription)
            self._pollings[subscription.polling] += 1
            self._set_pace()
        self._subscriptions.setdefault(task.id, set()).add(subscription)
        self._want(subscription, task, now, at_once=not task.raw)

    def _leave(self, subscription: Subscription) -> None:
        if subscription in self._members:
            self._members.discard(subscription)
            self._pollings[subscription.polling] -= 1
            self._pollings = +self._pollings
        self._set_pace()
        for id in list(subscription.open):
            waiting = self._subscriptions.get(id, set())
            waiting.discard(subscription)
            if not waiting:
                self._subscriptions.pop(id, None)
                if id not in self._shared:
                    self._schedule.drop(id)


def joint(pollings: Iterable[Polling]) -> Polling:
    """Return the quickest pace and the smallest budget of several, for waits that ask as one."""
    several = list(pollings)
    return Polling(
        min=min(each.min for each in several),
        max=min(each.max for each in several),
        requests_per_second=min(each.requests_per_second for each in several),
        use_list=all(each.use_list for each in several),
        timeout=max(each.timeout for each in several),
    )


def way_on(running: list[Task]) -> str:
    """Return what to do about tasks that are still running."""
    ids = [task.id for task in running]
    what = f"client.tasks.wait({ids[0]!r})" if len(ids) == 1 else f"client.tasks.wait_all({ids[:10]!r})"
    more = f" (and {len(ids) - 10} more)" if len(ids) > 10 else ""
    return f"It keeps running and is billed: do not submit it again. Go on: {what}{more}"


def _unreadable(task: Task, error: PicccError) -> PicccError:
    mine = copy(error)  # for others raise it too, in threads of their own
    mine.__cause__ = error.__cause__
    mine.task_id = task.id
    mine.hint = f"{error.hint} The task was {task.status}. Go on: client.tasks.wait({task.id!r})".strip()
    return mine


_pollers: WeakValueDictionary[Hashable, Poller] = WeakValueDictionary()
_budgets: WeakValueDictionary[Hashable, Budget] = WeakValueDictionary()
_lock = threading.Lock()


def poller_for(account: PolledAccount) -> Poller:
    """Return the poller of an account; raise where there is no key."""
    name = account_name(account.session.config)
    place, io = _place(account)
    if isinstance(account.ledger, TaskStream):
        place = (place, repr(account.ledger))
    with _lock:
        poller = _pollers.get((name, place))
        if poller is None:
            budget = _budgets.get(name)
            if budget is None:
                budget = _budgets[name] = Budget()
            poller = _pollers[name, place] = Poller(account, io, budget)
        return poller


def wake(task_id: str) -> None:
    """Have a task asked for next by whatever waits for it in this process; from any thread."""
    with _lock:
        pollers = list(_pollers.values())
    for poller in pollers:
        poller.wake(task_id)


def take(task: Task) -> None:
    """Pass a task that has ended to whatever waits for it in this process; from any thread."""
    with _lock:
        pollers = list(_pollers.values())
    for poller in pollers:
        poller.take(task)


def _place(account: PolledAccount) -> tuple[Hashable, Backend]:
    """Return where an account's poller lives, and the backend that it uses there."""
    io, client = account.session.io, account.session.io.client
    if isinstance(io, AsyncBackend) and (client is not None or not account.session.config.key.is_fixed):
        return (id(client), id(asyncio.get_running_loop())), io
    return (None, io.in_thread()) if client is None else (id(client), io)


def account_name(config: Config) -> Hashable:
    """Return what tells one account from another: a key by its hash, one that a function gives by that."""
    key: Hashable = config.key
    if config.key.is_fixed:
        key = hashlib.sha256(run_sync(config.key.ask()).encode()).digest()
    return config.base_url, key, config.basic, tuple(sorted(config.headers.items()))


def _after_fork() -> None:
    # The parent's pollers do not run in the child.
    global _lock
    _lock = threading.Lock()
    for poller in _pollers.values():
        poller.is_stale = True
    _pollers.clear()
    _budgets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
