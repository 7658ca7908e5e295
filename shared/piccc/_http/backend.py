"""The interface between behaviour and the world: send, sleep, now, random, run.

Behaviour over time is written once, as coroutines over a backend. The asynchronous backend awaits its event
loop; the sync one never suspends, and `run_sync` drives such a coroutine to its end in one step.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from piccc._dialects.common import LargeBody

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Outcome(Enum):
    """What a failed attempt says about whether the server can have acted on it."""

    NOT_SENT = "not sent"
    HOPELESS = "not sent, and another attempt would end alike"
    REFUSED = "refused: the server says that it did nothing"
    FAILED = "failed: the server answered that it broke"
    UNKNOWN = "sent, and no answer came"
    UNTIMELY = "the server asks to come again"
    REJECTED = "rejected: the request itself is wrong"


class Failure(Exception):
    """An attempt that brought no answer; the cause is the HTTP library's own error."""

    def __init__(self, outcome: Outcome, reason: str, *, timed_out: bool = False, hint: str = "") -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason
        self.timed_out = timed_out
        self.hint = hint
        self.is_stale = False
        """Whether a connection that had served before was closed before any byte of a reply."""


MAX_CONNECTIONS = 1000


@dataclass(slots=True, eq=False)
class SendNotes:
    """What became of a request on its way.

    Attributes:
        queued: seconds spent waiting for one of `max_connections`.
        stale: seconds after which a connection that had been idle was closed, so that the request was sent
            once more, or None.
    """

    queued: float = 0.0
    stale: float | None = None


@dataclass(slots=True, eq=False)
class HTTPRequest:
    """One attempt. `by` is the moment on the backend's clock by which the reply's headers must have come.

    `fresh` asks for a connection that has not been used before, `address` for one to this IP address of the
    host. `before_sending` is awaited when the connection is open, before the first byte; what it raises is
    raised, and nothing is sent. `notes` are written by the backend.
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
    """A reply whose headers have come and whose body may still be under way."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, their names in lower case."""
        ...

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        ...

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        ...

    def abandon(self) -> None:
        """Close the connection at once, from wherever the garbage collector comes upon it."""
        ...


class Signal(Protocol):
    """A wait that can be ended early."""

    def set(self) -> None:
        """End the wait under way, or else the next one; from any thread, and from a finalizer."""
        ...

    async def wait(self, seconds: float) -> None:
        """Return when it was set or when `seconds` have passed, and forget that it was set."""
        ...


class Backend(Protocol):
    """The world as behaviour sees it. Times are seconds on the monotonic clock that all ports share."""

    client: Any
    """The HTTP client that the caller passed in, or None."""

    @property
    def backend(self) -> str:
        """Name and version of the HTTP library."""
        ...

    def now(self) -> float:
        """Return the time."""
        ...

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def signal(self) -> Signal:
        """Make a signal for a wait in this thread or event loop."""
        ...

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function that may block (files, SQLite, DNS, certificates, imports) and return its result.

        The asynchronous backend calls it in a worker thread, so that it never holds the event loop. When the
        caller is cancelled, the function still runs to its end and its result is dropped.
        """
        ...

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine in the background: in a daemon thread, or as a task of the running event loop."""
        ...

    def in_thread(self) -> Backend:
        """Return a blocking backend of the same kind, with connections of its own, for another thread."""
        ...

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of a host; none where it cannot be resolved from here."""
        ...

    async def warm_up(self, url: str) -> None:
        """Load what requests to a server need, such as the certificates; nothing is sent."""
        ...

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send and return when the headers have come; raise Failure if they do not."""
        ...

    async def close(self) -> None:
        """Close what this port has opened."""
        ...


class Stream(Protocol):
    """A connection's bytes."""

    async def read(self, by: float | None, idle: float | None = None) -> bytes:
        """Return the next bytes, b"" when the server has closed the connection.

        Raise TimeoutError when `by` has passed, even if bytes have come, or none came for `idle` seconds.
        """
        ...

    async def write(self, data: bytes, by: float | None) -> None:
        """Send all bytes."""
        ...

    async def start_tls(self, context: ssl.SSLContext, host: str, by: float | None) -> Self:
        """Return the same connection under TLS."""
        ...

    def is_readable(self) -> bool:
        """Return whether unread bytes or the connection's end have arrived."""
        ...

    def close(self) -> None:
        """Close the connection at once; from any thread, and from a finalizer."""
        ...


def earliest(*moments: float | None) -> float | None:
    """Return the smallest number, ignoring None; None if there is none."""
    return min((moment for moment in moments if moment is not None), default=None)


THREAD_IDLE_SECONDS = 0.25
_idle_threads: deque[SimpleQueue[Callable[[], object]]] = deque()
"""The queues on which idle threads wait: starting a thread costs as much CPU as opening a connection."""


def run_in_thread(function: Callable[[], object]) -> None:
    """Run a function in a daemon thread, reusing an idle one, with the caller's context variables."""
    work = partial(copy_context().run, function)
    try:
        queue = _idle_threads.pop()
    except IndexError:
        queue = SimpleQueue()
        # Pass work through the queue: a thread holds references to its arguments until it exits.
        threading.Thread(target=_work_until_idle, args=(queue,), name="piccc", daemon=True).start()
    queue.put(work)


def _work_until_idle(queue: SimpleQueue[Callable[[], object]]) -> None:
    work: Callable[[], object] | None = queue.get()
    while work is not None:
        work()
        work = None  # it may hold a client, which an idle thread must not keep alive
        _idle_threads.append(queue)
        try:
            work = queue.get(timeout=THREAD_IDLE_SECONDS)
        except Empty:
            try:
                _idle_threads.remove(queue)
            except ValueError:  # `run_in_thread` has just taken this thread
                work = queue.get()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle_threads.clear)  # threads do not survive a fork
