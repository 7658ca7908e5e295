"""Limit the request rate across all processes that share a ledger, using pyrate-limiter's buckets."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from piccc.errors import ConfigurationError, MissingExtraError, PicccError
from piccc.media.ledgers import Ledger, ledger_at

if TYPE_CHECKING:
    from pyrate_limiter import AbstractBucket, Rate

_UNITS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_RATE = re.compile(r"(\d+)/(\d*)(second|minute|hour|day)s?")
SHORTEST_WAIT = 0.005
LONGEST_WAIT = 60.0
LEAK_EVERY = 100
"""Number of permits between two cleanups of a bucket's old entries."""


@runtime_checkable
class RateLedger(Protocol):
    """A ledger that counts requests across the processes that share it."""

    def bucket(self, name: str, rates: list[Rate]) -> AbstractBucket:
        """Return the shared bucket of this name."""
        ...


@runtime_checkable
class BlockingLedger(Protocol):
    """A ledger through which a 429 in one process pauses them all."""

    def block(self, name: str, seconds: float) -> None:
        """Block requests for this many seconds, unless they are already blocked for longer."""
        ...

    def blocked(self, name: str) -> float:
        """Return the remaining seconds of the block; 0 or less if there is none."""
        ...


class RateLimit:
    """A sliding-window limit on requests to a server: `RateLimit("600/minute")`; needs `piccc[rate]`.

    With a ledger in Redis or Postgres, all processes share the limit; otherwise each process has its own. A
    429 in one process pauses all of them for as long as the server asks, also with a ledger in a file.

    `Client(rate="600/minute")` creates one for the client's account: chat, submissions and reads. The same
    object works as `rate_limiter=` for LangChain and LlamaIndex models of any provider.

    Args:
        rate: requests per `second`, `minute`, `hour` or `day`, or per several: `"10/5seconds"`.
        ledger: the shared ledger, as for `Client`; defaults to `PICCC_LEDGER`, or none.
        name: identifies the limit; limits with the same name and rate are shared.

    Raises:
        ConfigurationError: the rate is invalid.
    """

    def __init__(self, rate: str, *, ledger: str | Ledger | None = None, name: str = "requests") -> None:
        found = _RATE.fullmatch(rate.replace(" ", "")) if isinstance(rate, str) else None
        if found is None or not int(found[1]) or found[2] == "0":
            raise ConfigurationError(
                f"rate is {rate!r:.40}.", hint='Pass a rate such as "600/minute" or "5/second".'
            )
        self.rate = rate
        self.name = name
        self.ledger = ledger_at(ledger) if ledger is None or isinstance(ledger, str) else ledger
        self._limit, self._seconds = int(found[1]), int(found[2] or 1) * _UNITS[found[3]]
        self._bucket: AbstractBucket | None = None
        self._lock = threading.Lock()
        self._permits = 0
        self._blocked_until = 0.0
        register_with_langchain()

    def take(self) -> float:
        """Take a permit and return 0, or return the seconds until the next try; may block for I/O."""
        if (left := self._blocked_until - time.monotonic()) > 0:
            return min(left, LONGEST_WAIT)
        if isinstance(self.ledger, BlockingLedger) and (left := self.ledger.blocked(self._block_name)) > 0:
            return min(left, LONGEST_WAIT)
        with self._lock:
            try:
                return self._take()
            except PicccError:
                raise
            except Exception:
                self._bucket = None  # a restarted store has lost its scripts
                return self._take()

    def _take(self) -> float:
        from pyrate_limiter import RateItem

        bucket: Any = self._open()  # partly untyped
        now = bucket.now()
        item = RateItem(self.name, now)
        if bucket.put(item):
            self._permits += 1
            if self._permits % LEAK_EVERY == 0:
                bucket.leak(now)
            return 0.0
        wait: float = bucket.waiting(item)
        return min(max(wait / 1000, SHORTEST_WAIT), LONGEST_WAIT)

    def _open(self) -> AbstractBucket:
        if self._bucket is None:
            try:
                from pyrate_limiter import InMemoryBucket, Rate
            except ImportError as error:
                raise MissingExtraError(
                    "Rate limits need pyrate-limiter.", hint='pip install "piccc[rate]"'
                ) from error
            rates = [Rate(self._limit, int(self._seconds * 1000))]
            is_shared = isinstance(self.ledger, RateLedger)
            name = f"{self.name}:{self._limit}/{self._seconds:g}"
            self._bucket = self.ledger.bucket(name, rates) if is_shared else InMemoryBucket(rates)  # type: ignore[attr-defined]  # checked
        return self._bucket

    def block(self, seconds: float) -> None:
        """Pause all requests; may block for I/O.

        Args:
            seconds: the length of the pause.
        """
        self._blocked_until = max(self._blocked_until, time.monotonic() + seconds)
        if isinstance(self.ledger, BlockingLedger):
            self.ledger.block(self._block_name, seconds)

    @property
    def _block_name(self) -> str:
        return f"blocked:{self.name}"

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take a permit, waiting if necessary; return whether one was taken.

        Args:
            blocking: whether to wait if none is available.
        """
        while (wait := self.take()) > 0:
            if not blocking:
                return False
            time.sleep(wait)
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        """Take a permit without blocking the event loop; see `acquire` for arguments."""
        while (wait := await asyncio.to_thread(self.take)) > 0:
            if not blocking:
                return False
            await asyncio.sleep(wait)
        return True

    async def async_acquire(self) -> None:
        """Take a permit, waiting if necessary; LlamaIndex calls this."""
        await self.aacquire()

    def __repr__(self) -> str:
        # They may have been refused.
        rate, ledger = getattr(self, "rate", None), getattr(self, "ledger", None)
        return f"RateLimit({rate!r}, ledger={ledger!r})"

    def __deepcopy__(self, memo: object) -> RateLimit:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.rate, self.ledger, self.name))


def _rebuild(rate: str, ledger: Ledger, name: str) -> RateLimit:
    return RateLimit(rate, ledger=ledger, name=name)


def register_with_langchain() -> None:
    """Register `RateLimit` with LangChain, if loaded, whose models accept only its own base class."""
    module = sys.modules.get("langchain_core.rate_limiters")
    if module is not None:
        module.BaseRateLimiter.register(RateLimit)
