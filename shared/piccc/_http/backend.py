"""The interface of the backends: send, sleep, now, random, run.

Retries, deadlines and polling are written once, as coroutines over a backend. The asynchronous backend
awaits its event loop. The blocking one never suspends, so `run_sync` runs such a coroutine in one step.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from piccc._dialects.common import LargeBody

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Outcome(Enum):
    """Whether the server may have acted on a failed attempt."""

    NOT_SENT = "not sent"
    HOPELESS = "not sent, and retrying cannot help"
    REFUSED = "refused: the server did nothing"
    FAILED = "failed: the server reported an internal error"
    UNKNOWN = "sent, but no response arrived"
    UNTIMELY = "the server asks for a later retry"
    REJECTED = "rejected: the request is invalid"


class Failure(Exception):
    """An attempt without a response; `__cause__` is the HTTP library's error."""

    def __init__(self, outcome: Outcome, reason: str, *, timed_out: bool = False, hint: str = "") -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.timed_out = timed_out
        self.hint = hint
        self.is_stale = False
        """Whether a reused connection was closed before the response began."""


MAX_CONNECTIONS = 1000


@dataclass(slots=True, eq=False)
class SendNotes:
    """What the backend reports about sending a request.

    Attributes:
        queued: seconds spent waiting for one of `max_connections`.
        stale: seconds spent on a stale connection before the request was sent again, or None.
    """

    queued: float = 0.0
    stale: float | None = None


@dataclass(slots=True, eq=False)
class HTTPRequest:
    """One attempt. `by` is the deadline for the response headers, on the backend's clock.

    `fresh` requires a new connection, `address` one to this IP address of the host. `before_sending` is
    awaited once the connection is open, before the first byte. If it raises, nothing is sent. The backend
    fills in `notes`.
    """

    method: str
    url: str
    headers: list[tuple[str, str]] = field(repr=False)
    body: bytes | LargeBody | None = field(default=None, repr=False)
    connect: float | None = None
    idle: float | None = None
    by: float | None = None
    fresh: bool = False
    address: str | None = None
    max_connections: int = MAX_CONNECTIONS
    before_sending: Callable[[], Awaitable[None]] | None = None
    notes: SendNotes = field(default_factory=SendNotes)


class HTTPResponse(Protocol):
    """A response whose headers have arrived and whose body may still be arriving."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, with lower-case names."""
        ...

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure on an error or when `by` passes."""
        ...

    async def close(self) -> None:
        """Release the connection if the whole body was read, else close it."""
        ...

    def abandon(self) -> None:
        """Close the connection immediately; safe in a finalizer."""
        ...


class Signal(Protocol):
    """A wait that can be interrupted."""

    def set(self) -> None:
        """End the current wait, or else the next one; safe in any thread and in a finalizer."""
        ...

    async def wait(self, seconds: float) -> None:
        """Wait until the signal is set, at most `seconds`, then clear it."""
        ...


class Backend(Protocol):
    """Network, clock and threads. Times are seconds on the monotonic clock that all backends share."""

    client: Any
    """The caller's HTTP client, or None."""

    @property
    def backend(self) -> str:
        """Name and version of the HTTP library."""
        ...

    def now(self) -> float:
        """Return the current time."""
        ...

    def random(self) -> float:
        """Return a random number in [0, 1)."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        ...

    def signal(self) -> Signal:
        """Return a signal for a wait in this thread or event loop."""
        ...

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function that may block (files, SQLite, DNS, certificates, imports) and return its result.

        The asynchronous backend calls it in a worker thread, to keep the event loop free. If the caller is
        cancelled, the function still completes and its result is dropped.
        """
        ...

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine in the background: in a daemon thread, or as a task of the running event loop."""
        ...

    def in_thread(self) -> Backend:
        """Return a blocking backend with the same HTTP library, for another thread."""
        ...

    async def resolve(self, host: str) -> list[str]:
        """Return the IP addresses of a host, or an empty list if it cannot be resolved."""
        ...

    async def warm_up(self, url: str) -> None:
        """Load what requests to a server need, such as certificates; send nothing."""
        ...

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send a request and return once the headers arrive; raise Failure if they do not."""
        ...

    async def close(self) -> None:
        """Close what this backend opened."""
        ...


class Stream(Protocol):
    """A connection's byte stream."""

    async def read(self, by: float | None, idle: float | None = None) -> bytes:
        """Return the next bytes, b"" if the server closed the connection.

        Raise TimeoutError if `by` has passed, even with bytes available, or after `idle` seconds of silence.
        """
        ...

    async def write(self, data: bytes, by: float | None) -> None:
        """Send all bytes."""
        ...

    async def start_tls(self, context: ssl.SSLContext, host: str, by: float | None) -> Self:
        """Return this connection, upgraded to TLS."""
        ...

    def is_readable(self) -> bool:
        """Return whether there are unread bytes or the server closed the connection."""
        ...

    def close(self) -> None:
        """Close the connection immediately; safe in any thread and in a finalizer."""
        ...
