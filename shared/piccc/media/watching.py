"""One wait for some tasks, in a thread or on an event loop: what it is told, and how it asks for all."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Self

from piccc.errors import PicccError, TaskWaitTimeout
from piccc.media.ledgers import Notifier
from piccc.media.scheduler import Ended, Step, Watch
from piccc.media.waiter import READ_SECONDS, Waiter, waiter_for, wake
from piccc.tasks import Task

if TYPE_CHECKING:
    from piccc.media.account import Account

LOOK_SECONDS = 1.0
"""How often to look for what other processes tell."""


class Subscription:
    """One wait for some tasks: `next` tells of each that ended, and with `every_change` of progress too."""

    def __init__(self, account: Account, *, timeout: float | None = None, every_change: bool = False) -> None:
        self.polling = account.polling
        self._account = account
        self._io = account.session.io
        self.signal = self._io.signal()
        self._every_change = every_change
        self.started = self._io.now()
        self._deadline = self.started + (account.polling.timeout if timeout is None else timeout)
        self._board = account.ledger if isinstance(account.ledger, Notifier) else None
        self._waiter: Waiter | None = None
        self.open: dict[str, Task] = {}
        self._news: deque[Task] = deque()
        self._errors: deque[PicccError] = deque()

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
            waiter = self._joined()
            self.open[known.id] = known
            waiter.join(self, known, self.now())

    async def next(self, until: float | None = None) -> Task | None:
        """Return the next task of which there is news; None at the end, or at the moment `until`.

        Raise TaskWaitTimeout when the time is up. Errors of tasks that cannot be read are raised last.
        """
        by = self._deadline if until is None else min(until, self._deadline)
        try:
            while self.open and not self._news:
                now = self.now()
                if until is not None and now >= until:
                    return None
                if now >= self._deadline and (running := list(self.open.values())):
                    raise self._still_running(running, now)
                await self._work_or_sleep(now, by)
        except BaseException as error:
            if not isinstance(error, PicccError) and self.open:
                error.add_note(_way_on(list(self.open.values())))
            raise
        finally:
            if self._waiter is not None:
                self._waiter.exit(self)
        if self._news:
            return self._news.popleft()
        if self._errors:
            raise self._errors.popleft()
        return None

    def tell(self, news: Task | Ended) -> None:
        """Take news of a task that is waited for; from any thread."""
        task = news.task if isinstance(news, Ended) else news
        before = self.open.get(task.id)
        if before is None:
            return
        changed = (before.status, before.progress) != (task.status, task.progress) or not before.raw
        if isinstance(news, Ended) and news.error is not None:
            self._errors.append(_unreadable(task, news.error))
        elif isinstance(news, Ended) or (self._every_change and changed):
            self._news.append(task)
        # After the news: who waits takes "nothing open, no news" for the end.
        if isinstance(news, Ended):
            del self.open[task.id]
        else:
            self.open[task.id] = task
        self.signal.set()

    def _joined(self) -> Waiter:
        if self._waiter is None or self._waiter.is_stale:
            self._waiter = waiter_for(self._account)
            self._waiter.enter(self)
            for task in list(self.open.values()):
                self._waiter.join(self, task, self.now())
        return self._waiter

    async def _work_or_sleep(self, now: float, by: float) -> None:
        waiter = self._joined()
        step, wake = waiter.begin(self, now, by)
        if self._board is not None and waiter.is_led_by(self):
            self._heed(self._board)
            wake = min(wake, now + LOOK_SECONDS)
        if step is None:
            await self.signal.wait(max(0.0, wake - now))
        else:
            await self._work(waiter, step, min(READ_SECONDS, self._deadline - now))

    def _heed(self, board: Notifier) -> None:
        with suppress(Exception):  # it is anybody's code, and a wait does not depend on it
            for id in board.posted():
                wake(id)

    async def _work(self, waiter: Waiter, step: Step, seconds: float) -> None:
        try:
            if isinstance(step, Watch):
                task, pause = await self._account.poll(step.task, seconds)
                waiter.saw(self, step, task, pause, self.now())
            else:
                page = await self._account.poll_page(step.pages.path, seconds)
                waiter.listed(self, step, page, self.now())
        except PicccError as error:
            if seconds == READ_SECONDS or self.now() < self._deadline:
                waiter.missed(self, step, error, self.now())

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
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.leave(self)

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
    mine = copy(error)  # for others raise it too, in threads of their own
    mine.__cause__ = error.__cause__
    mine.task_id = task.id
    mine.hint = f"{error.hint} The task was {task.status}. Go on: client.tasks.wait({task.id!r})".strip()
    return mine
