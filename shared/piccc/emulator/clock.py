"""The emulator's clock, latencies and rate limit."""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
import time
from dataclasses import dataclass
from itertools import count
from typing import Literal, Protocol

_SETTLING_TURNS = 50


class Clock(Protocol):
    """A source of time: moments in seconds since 1970, durations in seconds."""

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
    """A clock that stands still until it is advanced.

    Whatever the emulator waits for (a token, a webhook's next attempt, a stall) waits on this clock; tasks
    progress and URLs expire by it. Advance it through `Emulator.advance`, which wakes each waiter at its own
    moment and in order. `start` is in seconds since 1970.

    Examples:
        >>> from piccc import Client
        >>> from piccc.emulator import Emulator, ManualClock
        >>> with Emulator(clock=ManualClock()) as emulator:
        ...     client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
        ...     video = client.videos.submit("A mug that turns", model="piccc-video")
        ...     emulator.advance(3600)
        ...     print(video.status, video.refresh().status)
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
        """Wait until the clock has been advanced.

        Args:
            seconds: by how much.
        """
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
        """The number of coroutines waiting on this clock now."""
        return sum(not future.done() for _, _, future in self._waiters)

    def until_sleeping(self, count: int = 1, *, timeout: float = 5.0) -> None:
        """Block the calling thread until enough coroutines wait on this clock.

        Args:
            count: how many are enough.
            timeout: seconds to wait for them, by the real clock.

        Raises:
            TimeoutError: there were fewer in that time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.sleepers >= count, timeout):
                raise TimeoutError(f"{self.sleepers} of {count} waiters after {timeout} s")

    async def move(self, seconds: float, settle: Settle) -> None:
        """Advance the clock, waking every waiter at its own moment.

        Args:
            seconds: by how much.
            settle: runs what was woken, until it waits again.

        Raises:
            ValueError: `seconds` is negative.
        """
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


_SHORTEST = 1e-6


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations in seconds, divided by `speed`; `math.inf` waits for nothing."""

    speed: float = 1.0

    def __post_init__(self) -> None:
        if not self.speed > 0 or math.isnan(self.speed):
            raise ValueError(f"speed must be positive, not {self.speed}; math.inf waits for nothing")

    @property
    def first_token(self) -> float:
        """Seconds before the first token."""
        return 0.2 / self.speed

    @property
    def token(self) -> float:
        """Seconds per token."""
        return 0.006 / self.speed

    def task(self, kind: Literal["image", "video"]) -> float:
        """Task duration in seconds; always positive so that clients must poll."""
        return max(_SHORTEST, {"image": 3.0, "video": 6.0}[kind] / self.speed)

    def scaled(self, seconds: float) -> float:
        """Divide any other duration by the speed."""
        return seconds / self.speed


_WINDOW = 60.0


@dataclass(slots=True)
class RateLimit:
    """Count requests in windows of a minute; each begins with the first request after the last one."""

    per_minute: int
    used: int = 0
    ends_at: float = 0.0

    def take(self, now: float) -> bool:
        """Count a request; False when it is one too many."""
        if now >= self.ends_at:
            self.used, self.ends_at = 0, now + _WINDOW
        self.used += 1
        return self.used <= self.per_minute

    def headers(self, now: float) -> list[tuple[bytes, bytes]]:
        """Return the rate limit headers of every response."""
        return [
            (b"x-ratelimit-limit-requests", str(self.per_minute).encode()),
            (b"x-ratelimit-remaining-requests", str(max(0, self.per_minute - self.used)).encode()),
            (b"x-ratelimit-reset-requests", b"%ds" % self.wait(now)),
        ]

    def wait(self, now: float) -> int:
        """Return how many whole seconds remain until the next window."""
        return max(0, math.ceil(self.ends_at - now))
