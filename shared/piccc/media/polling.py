"""Wait for tasks: one poller per account and process reads them and notifies every waiter.

A `Subscription` is one wait, in a thread or on an event loop. It sends no requests: it gives its `Poller` the
task ids and sleeps until there are updates. Only the poller touches the schedule, so a lock is needed only
for starting and stopping it. Subscriptions join and leave with commands in a deque, whose `append` is atomic
and safe in a finalizer.

A poller runs in a daemon thread with its own connections, serves all threads and event loops, and ends with
its last subscription. Two things are bound to an event loop: the caller's own async HTTP client, and an API
key from a callback. Their poller is an asyncio task on that loop and shares the same budget.
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
from collections.abc import Callable, Hashable, Iterable, Sequence
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
from piccc.config import Config, check_wait
from piccc.errors import NotFoundError, PicccError, ResponseError, TaskWaitTimeout
from piccc.media.ledgers import Ledger, Note, TaskStream
from piccc.media.requests import as_task
from piccc.media.schedule import Budget, Ended, Polling, Schedule, Step, Watch
from piccc.tasks import Page, Task

if TYPE_CHECKING:
    from piccc.telemetry import Wait

logger = logging.getLogger("piccc")

READ_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""How often to check for notes from other processes."""
LEASE_SECONDS = 10.0
RENEWAL_SECONDS = 3.0
OFFLINE_LOOK_SECONDS = 10.0
OFFLINE_SLOWDOWN = 10.0
"""Slow-down factor while the ledger is unreachable, because every process then polls."""
LONGEST_SLEEP = 3600.0


class PolledAccount(Protocol):
    """The part of `Account` that polling needs."""

    session: Session
    ledger: Ledger
    polling: Polling

    def over(self, io: Backend) -> PolledAccount:
        """Return the same account on another backend."""
        ...

    async def poll(self, task: Task, seconds: float) -> tuple[Task, float | None]:
        """Read a task once; return it and the server's Retry-After in seconds."""
        ...

    async def poll_page(self, path: str, seconds: float) -> Page:
        """Read a page of a list once."""
        ...


OnPoll = Callable[[], object]


class Subscription:
    """One wait for some tasks. `next` returns each one that ends, and with `every_change` progress too."""

    def __init__(
        self,
        account: PolledAccount,
        *,
        timeout: float | None = None,
        every_change: bool = False,
        is_observed: bool = True,
        on_poll: OnPoll | None = None,
    ) -> None:
        check_wait(timeout, on_poll)
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
        self._unread: dict[str, PicccError] = {}
        self._news: deque[Task] = deque()
        self._errors: deque[PicccError] = deque()
        observer = telemetry()
        self._span: Wait | None = None if observer is None else observer.Wait()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to wait for or return."""
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
        """Return the next task with an update; None at the end, or at the time `until`.

        Raise TaskWaitTimeout after the deadline. Errors of unreadable tasks are raised last.
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
        """Make sure that a poller is running, even after a fork or after its event loop was shut down."""
        self._joined().ensure_running()

    def take(self) -> Task | None:
        """Return a task with an update, or None; raise the error of an unreadable one."""
        if self._news:
            return self._news.popleft()
        if self._errors:
            raise self._errors.popleft()
        return None

    def receive(self, news: Task | Ended) -> None:
        """Receive an update of a task. The poller calls this, in its own thread."""
        task = news.task if isinstance(news, Ended) else news
        before = self.open.get(task.id)
        if before is None:
            return
        if self._on_poll is not None:
            try:
                self._on_poll()
            except Exception:  # the poller also serves other waiters
                logger.exception("on_poll failed for task %s.", task.id)
        changed = (before.status, before.progress) != (task.status, task.progress) or not before.raw
        if isinstance(news, Ended) and news.error is not None:
            self._errors.append(_unreadable(task if task.raw else before, news.error))
        elif isinstance(news, Ended) or (self.every_change and changed):
            self._news.append(task)
        # Close it only after adding the update: for `next`, no open tasks and no updates means the end.
        if isinstance(news, Ended):
            del self.open[task.id]
            if self._span is not None:
                self._span.ended(task)
        else:
            self.open[task.id] = task
        self.signal.set()

    def fail_read(self, task_id: str, error: PicccError) -> None:
        """Remember why the last read of a task failed. The poller calls this, in its own thread."""
        self._unread[task_id] = error

    def _joined(self) -> Poller:
        if self._poller is None or self._poller.is_stale:
            self._poller = poller_for(self._account)
            for task in list(self.open.values()):
                self._poller.join(self, task, self.now())
        return self._poller

    def _still_running(self, running: list[Task], now: float) -> TaskWaitTimeout:
        first = running[0]
        # The status of a task that was never read is only assumed.
        unread = [self._unread[task.id] for task in running if not task.raw and task.id in self._unread]
        timeout = TaskWaitTimeout(
            still_running(running, now - self.started, unread),
            hint=way_on(running, is_read=len(unread) < len(running)),
            elapsed=now - self.started,
            task_id=first.id,
            task=first,
        )
        timeout.__cause__ = unread[-1] if unread else None
        return timeout

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
    """Return a note that a task has ended."""
    return Note("ended", task.id, json.dumps(task.to_dict()))


def note_of_wait(task: Task, account: str) -> Note:
    """Return a note that a process is waiting for an account's task."""
    return Note("wanted", task.id, f"{account} {task.created_at or ''}")


@dataclass(slots=True)
class News:
    """The result of an exchange with other processes.

    Attributes:
        wanted: tasks to poll for other processes, if this one is the leader.
        ended: finished tasks that other processes read.
        look: ids of tasks that their waiters should read themselves.
        is_new: whether this process became or stopped being the leader.
        is_cut: whether notes were lost, so that any task may have ended.
    """

    wanted: list[Task] = field(default_factory=list)
    ended: list[Task] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    is_new: bool = False
    is_cut: bool = False


class Fleet:
    """One poller's membership in an account's shared polling. Methods block and never run concurrently."""

    def __init__(self, stream: TaskStream, server: str, account: str) -> None:
        self.leads = False
        self._stream = stream
        self._server = server  # identifies the stream, because a webhook receiver may use another key or none
        self._account = account
        # A file ledger uses the process id to expire the lease of a dead process on the same machine.
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        self._lease = f"polling:{account}"
        self._cursor: str | None = None
        self._renew_at = -math.inf

    def exchange(self, now: float, notes: Iterable[Note]) -> News:
        """Post notes, renew or try to acquire the lead, and return what others posted."""
        news = News()
        if self._cursor is None:
            self._cursor = self._stream.notes(self._server, None).cursor
        if now >= self._renew_at or not self.leads:
            self._renew(now, news)
        # The leader does not post its own waits: no one else should poll them.
        if posted := [note for note in notes if not (self.leads and note.kind == "wanted")]:
            self._stream.post(self._server, posted)
        while (batch := self._stream.notes(self._server, self._cursor)).notes:
            self._cursor = batch.cursor
            news.is_cut = news.is_cut or batch.is_cut
            for note in batch.notes:
                self._take(note, news)
        if self.leads and (news.is_new or news.is_cut):
            for id, text in self._stream.open_tasks(self._server):
                self._want(id, text, news)
        return news

    def leave(self) -> None:
        """Give up the lead."""
        if self.leads:
            self.leads = False
            self._stream.lease(self._lease, self._holder, 0.0)

    def _renew(self, now: float, news: News) -> None:
        was_leader, self.leads = self.leads, self._stream.lease(self._lease, self._holder, LEASE_SECONDS)
        self._renew_at = now + RENEWAL_SECONDS
        news.is_new = was_leader != self.leads

    def _take(self, note: Note, news: News) -> None:
        if note.kind == "wanted":
            if self.leads:
                self._want(note.task_id, note.text, news)
            return
        try:
            news.ended.append(read_task(json.loads(note.text)))
        except (ValueError, ResponseError):  # the text is empty if the sender could not read the task
            news.look.append(note.task_id)

    def _want(self, task_id: str, text: str, news: News) -> None:
        account, _, created_at = text.partition(" ")
        if account == self._account:
            news.wanted.append(Task(task_id, created_at=float(created_at) if created_at else None))


class Poller:
    """The reader of all tasks that one account's subscriptions wait for.

    With a `TaskStream` ledger, one leader reads for all processes: `_publish`, which sees every update, posts
    finished tasks, and `_exchange` receives what the others posted. Followers read a task themselves only to
    show progress, or every few minutes to be sure.
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
        self._is_offline = False
        self._name = hashlib.sha256(repr(account_name(account.session.config)).encode()).hexdigest()[:32]
        self._outbox: list[Note] = []
        self._shared: set[str] = set()
        self._look_at = math.inf
        self._schedule = Schedule(account.polling, io.random, budget)

    def join(self, subscription: Subscription, task: Task, now: float) -> None:
        """Wait for a task; read it immediately if only its id is known."""
        self._commands.append(partial(self._join, subscription, task, now))
        self.ensure_running()
        self._signal.set()

    def leave(self, subscription: Subscription) -> None:
        """Stop waiting. Takes no lock and starts nothing, so it is safe even in a finalizer."""
        self._commands.append(partial(self._leave, subscription))
        self._signal.set()

    def wake(self, task_id: str) -> None:
        """Read a task next; thread-safe."""
        self._commands.append(lambda: self._schedule.wake(task_id))
        self._signal.set()

    def take(self, task: Task) -> None:
        """Deliver a finished task that was read elsewhere; thread-safe."""
        self._commands.append(partial(self._deliver, Ended(task)))
        self._signal.set()

    def ensure_running(self) -> None:
        """Start the poller unless it is running."""
        with self._lock:
            if self._is_running:
                return
            self._is_running = True
            try:
                Context().run(self._io.start, self._run)  # not in the caller's context: it serves others too
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
                with suppress(Exception):  # the lease then expires
                    await self._io.run(self._fleet.leave)
            if self._io is not self._account.session.io:
                await self._io.close()

    def _rebuild(self) -> None:
        # An interrupted run, for example after its loop shut down, may have left a step half done. Each run
        # has its own lease holder name, so that one that ends cannot give up the next one's lead.
        self._schedule = Schedule(self._schedule.polling, self._io.random, self._budget)
        self._outbox, self._shared, self._is_offline = [], set(), False
        if self._stream is not None:
            self._fleet = Fleet(self._stream, self._account.session.config.base_url, self._name)
            self._schedule.follow(self._io.now())
            self._look_at = -math.inf
        for id, subscriptions in self._subscriptions.items():
            for subscription in subscriptions:
                self._want(subscription, subscription.open.get(id, Task(id)), self._io.now(), at_once=True)

    def _has_ended(self) -> bool:
        with self._lock:  # `join` appends its command before checking whether this is running
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
            else:
                for subscription in self._subscriptions.get(step.task.id, ()):
                    subscription.fail_read(step.task.id, error)

    def _publish(self, news: Task | Ended) -> None:
        if isinstance(news, Ended) and news.task.id in self._shared:
            # If only this process cannot read it, the other processes' waiters still can.
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
        notes, was_offline = self._outbox, self._is_offline
        self._outbox, self._look_at = [], now + LOOK_SECONDS
        try:
            news = await self._io.run(self._fleet.exchange, now, notes)
        except Exception as error:  # the store is down, or the caller's own ledger fails
            self._outbox = notes + self._outbox
            self._look_at = now + OFFLINE_LOOK_SECONDS
            if not was_offline:
                logger.warning(
                    "The ledger is unavailable; this process polls alone, ten times slower: %s", error
                )
                self._is_offline = True
                self._set_pace()
                self._schedule.lead(now)
            return
        now, self._is_offline = self._io.now(), False
        if was_offline:
            self._set_pace()
        if news.is_new or was_offline:
            self._change_role(now)
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

    def _change_role(self, now: float) -> None:
        """Start leading or following."""
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
            task = next((waiter.open[id] for waiter in subscriptions if id in waiter.open), Task(id))
            self._shared.add(id)
            self._outbox.append(note_of_wait(task, self._name))

    def _want(self, subscription: Subscription, task: Task, now: float, *, at_once: bool) -> None:
        self._schedule.add(task, now, at_once=at_once, is_alone=subscription.is_alone)
        follows = self._fleet is not None and not self._fleet.leads
        if follows and not self._is_offline and task.id not in self._shared:
            self._shared.add(task.id)
            self._outbox.append(note_of_wait(task, self._name))

    def _set_pace(self) -> None:
        if self._pollings:
            polling = joint(self._pollings)
            self._schedule.polling = polling.slowed(OFFLINE_SLOWDOWN) if self._is_offline else polling

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
    """Combine the settings of several waits: the shortest pauses and the smallest budget."""
    pollings = list(pollings)
    return Polling(
        min=min(polling.min for polling in pollings),
        max=min(polling.max for polling in pollings),
        requests_per_second=min(polling.requests_per_second for polling in pollings),
        use_list=all(polling.use_list for polling in pollings),
        timeout=max(polling.timeout for polling in pollings),
    )


def still_running(running: Sequence[Task], seconds: float, unread: Sequence[PicccError] = ()) -> str:
    """Return the message about tasks that have no output after a wait of this many seconds.

    `unread` has the last error of each task that could not be read even once.
    """
    waited = f"{seconds:.{0 if seconds >= 1 else 1}f} s"
    first, others = running[0], len(running) - 1
    last = f" (the last error: {unread[-1].message.rstrip('.')})" if unread else ""
    if len(unread) == len(running):
        tasks = f"Task {first.id} and {others} more" if others else f"Task {first.id}"
        return f"{tasks} could not be read in {waited}{last}."
    if others:
        message = f"Task {first.id} and {others} more are still running after {waited}."
        if unread:
            message += f" {len(unread)} of them could not be read{last}."
        return message
    if first.status == "completed":
        return f"Task {first.id} is completed but has no output yet (waited {waited})."
    return f"Task {first.id} is still {first.status} after {waited}."


def way_on(running: list[Task], *, is_read: bool = True) -> str:
    """Return a hint for tasks that are still running, whose output is missing, or that were never read."""
    ids = [task.id for task in running]
    call = f"client.tasks.wait({ids[0]!r})" if len(ids) == 1 else f"client.tasks.wait_all({ids[:10]!r})"
    more = f" (and {len(ids) - 10} more)" if len(ids) > 10 else ""
    it = "it" if len(ids) == 1 else "them"
    if all(task.status == "completed" for task in running):
        return f"Do not submit {it} again. To wait longer: {call}{more}"
    runs = "It keeps running and is billed" if len(ids) == 1 else "They keep running and are billed"
    if not is_read:
        runs = f"{'It' if len(ids) == 1 else 'They'} may be running and billed"
    return f"{runs}: do not submit {it} again. To continue: {call}{more}"


def _unreadable(task: Task, error: PicccError) -> PicccError:
    own_copy = copy(error)  # other threads raise it too
    own_copy.__cause__ = error.__cause__
    own_copy.task_id = task.id
    if isinstance(error, NotFoundError):
        own_copy.hint = f"Check the task's id, {task.id!r}, and base_url."
    else:
        seen = f"The task was last seen {task.status}. " if task.raw else ""
        own_copy.hint = f"{error.hint} {seen}To wait again, call client.tasks.wait({task.id!r}).".strip()
    return own_copy


_pollers: WeakValueDictionary[Hashable, Poller] = WeakValueDictionary()
_budgets: WeakValueDictionary[Hashable, Budget] = WeakValueDictionary()
_lock = threading.Lock()


def poller_for(account: PolledAccount) -> Poller:
    """Return an account's poller; raise if there is no API key."""
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
    """Have every waiter in this process read a task next; thread-safe."""
    with _lock:
        pollers = list(_pollers.values())
    for poller in pollers:
        poller.wake(task_id)


def take(task: Task) -> None:
    """Deliver a finished task to every waiter in this process; thread-safe."""
    with _lock:
        pollers = list(_pollers.values())
    for poller in pollers:
        poller.take(task)


def _place(account: PolledAccount) -> tuple[Hashable, Backend]:
    """Return an identifier of where an account's poller runs, and its backend."""
    io, client = account.session.io, account.session.io.client
    if isinstance(io, AsyncBackend) and (client is not None or not account.session.config.key.is_fixed):
        return (id(client), id(asyncio.get_running_loop())), io
    return (None, io.in_thread()) if client is None else (id(client), io)


def account_name(config: Config) -> Hashable:
    """Return an account's identity; a fixed API key is hashed, a callback is used itself."""
    key: Hashable = config.key
    if config.key.is_fixed:
        key = hashlib.sha256(run_sync(config.key.ask()).encode()).digest()
    return config.base_url, key, config.basic, tuple(sorted(config.headers.items()))


def _after_fork() -> None:
    # The parent's pollers are not running in the child.
    global _lock
    _lock = threading.Lock()
    for poller in _pollers.values():
        poller.is_stale = True
    _pollers.clear()
    _budgets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
