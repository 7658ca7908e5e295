"""The emulator's one clock: under tokens, tasks, webhooks, rate windows and the life of an output's URL."""

from __future__ import annotations

import asyncio
import heapq
import threading
import time
from itertools import count
from typing import Protocol

_SETTLING_TURNS = 50


class Clock(Protocol):
    """Tell the time and wait; seconds since 1970 and durations in seconds."""

    def now(self) -> float:
        """Return the present moment."""

    async def sleep(self, seconds: float) -> None:
        """Wait on this clock."""


class WallClock:
    """Follow the machine's own clock."""

    def now(self) -> float:
        """Return the present moment."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait for real."""
        await asyncio.sleep(seconds)


class ManualClock:
    """Stand still until it is told to advance.

    Whatever the emulator waits for (a token, a webhook's next attempt, a stall) waits on this clock; tasks
    progress and URLs expire by it. Advance it through `Emulator.advance`, which wakes each waiter at its own
    moment and in order. `start` is in seconds since 1970.

    Examples:
        >>> from piccc import Client
        >>> from piccc.emulator import Emulator, ManualClock
        >>> with Emulator(clock=ManualClock()) as emulator:
        ...     client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
        ...     film = client.videos.submit("A mug that turns", model="piccc-video")
        ...     emulator.advance(3600)
        ...     print(film.status, film.refresh().status)
        queued completed
    """

    def __init__(self, start: float = 1_790_000_000.0) -> None:
        self._now = start
        self._waiters: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._changed = threading.Condition()

    def now(self) -> float:
        """Return the present moment."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        with self._changed:
            heapq.heappush(self._waiters, (self._now + seconds, next(self._numbers), future))
            self._changed.notify_all()
        await future

    @property
    def sleepers(self) -> int:
        """Count those who wait on this clock now."""
        return sum(not future.done() for _, _, future in self._waiters)

    def until_sleeping(self, count: int = 1, *, timeout: float = 5.0) -> None:
        """Block the calling thread until `count` wait on this clock; TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.sleepers >= count, timeout):
                raise TimeoutError(f"{self.sleepers} of {count} waiters after {timeout} s")

    async def move(self, seconds: float, settle: Settle) -> None:
        """Advance by `seconds`, waking every waiter at its own moment; `settle` runs what it woke."""
        if seconds < 0:
            raise ValueError("a clock cannot go back: seconds must not be negative")
        target = self._now + seconds
        await settle()
        while self._waiters and self._waiters[0][0] <= target:
            self._now = max(self._now, self._waiters[0][0])
            self._wake()
            await settle()
        self._now = target

    def _wake(self) -> None:
        while self._waiters and self._waiters[0][0] <= self._now:
            _, _, future = heapq.heappop(self._waiters)
            if not future.done():
                future.set_result(None)


class Settle(Protocol):
    """Run until nothing moves any more without the clock."""

    async def __call__(self) -> None:
        """Settle."""


async def turns() -> None:
    """Give the loop's ready coroutines enough turns to come to their next wait."""
    for _ in range(_SETTLING_TURNS):
        await asyncio.sleep(0)
