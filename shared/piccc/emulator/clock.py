"""The emulator's clock, latency and rate limit."""

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
    """A source of time: Unix times and durations, both in seconds."""

    def now(self) -> float:
        """Return the current time."""

    async def sleep(self, seconds: float) -> None:
        """Sleep on this clock."""


class WallClock:
    """The system clock."""

    def now(self) -> float:
        """Return the current time."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep in real time."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until you advance it.

    All of the emulator's delays (tokens, webhook retries, stalls) use this clock, and so do task progress
    and URL expiry. Advance it with `Emulator.advance`, which wakes waiters in order, each at its due time.
    `start` is in seconds since 1970.

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
        """Return the current time."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock is advanced.

        Args:
            seconds: how far it must advance.
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
        """The number of coroutines waiting on this clock."""
        return sum(not future.done() for _, _, future in self._waiters)

    def until_sleeping(self, count: int = 1, *, timeout: float = 5.0) -> None:
        """Block the calling thread until enough coroutines are waiting on this clock.

        Args:
            count: the minimum number of waiting coroutines.
            timeout: seconds of real time to wait for them.

        Raises:
            TimeoutError: too few coroutines were waiting when the timeout expired.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.sleepers >= count, timeout):
                raise TimeoutError(f"{self.sleepers} of {count} waiters after {timeout} s")

    async def move(self, seconds: float, settle: Settle) -> None:
        """Advance the clock and wake each waiter at its due time.

        Args:
            seconds: how far to advance.
            settle: runs the woken coroutines until they wait again.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError("the clock cannot go backwards: seconds must not be negative")
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
    """Runs pending work until everything waits on the clock."""

    async def __call__(self) -> None:
        """Run pending work."""


async def turns() -> None:
    """Let the loop's ready coroutines run until they wait again."""
    for _ in range(_SETTLING_TURNS):
        await asyncio.sleep(0)


_SHORTEST = 1e-6


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations in seconds, divided by `speed`; `math.inf` removes all waits."""

    speed: float = 1.0

    def __post_init__(self) -> None:
        if not self.speed > 0 or math.isnan(self.speed):
            raise ValueError(f"speed must be positive, not {self.speed}; math.inf removes all waits")

    @property
    def first_token(self) -> float:
        """Seconds before the first token."""
        return 0.2 / self.speed

    @property
    def token(self) -> float:
        """Seconds per token."""
        return 0.006 / self.speed

    def task(self, kind: Literal["image", "video"]) -> float:
        """Return a task's duration in seconds; always positive, so clients must poll."""
        return max(_SHORTEST, {"image": 3.0, "video": 6.0}[kind] / self.speed)

    def scaled(self, seconds: float) -> float:
        """Return a duration divided by the speed."""
        return seconds / self.speed


_WINDOW = 60.0


@dataclass(slots=True)
class RateLimit:
    """Counts requests per minute. A window starts with the first request after the previous one ended."""

    per_minute: int
    used: int = 0
    ends_at: float = 0.0

    def take(self, now: float) -> bool:
        """Count a request and return whether it is within the limit."""
        if now >= self.ends_at:
            self.used, self.ends_at = 0, now + _WINDOW
        self.used += 1
        return self.used <= self.per_minute

    def headers(self, now: float) -> list[tuple[bytes, bytes]]:
        """Return the rate limit headers for a response."""
        return [
            (b"x-ratelimit-limit-requests", str(self.per_minute).encode()),
            (b"x-ratelimit-remaining-requests", str(max(0, self.per_minute - self.used)).encode()),
            (b"x-ratelimit-reset-requests", b"%ds" % self.wait(now)),
        ]

    def wait(self, now: float) -> int:
        """Return the whole seconds until the next window, rounded up."""
        return max(0, math.ceil(self.ends_at - now))
