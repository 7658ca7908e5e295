"""Requests through httpx or httpx2: a caller's client, proxies that speak TLS or SOCKS, and mocks."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import ssl
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FunctionType
from typing import Any, cast

from piccc._http.backend import Failure, HTTPRequest, Outcome, T, run_in_thread
from piccc._http.connections import TOO_LATE, MalformedReply, chain_of, scrub, unpacker_for
from piccc.errors import ConfigurationError, MissingExtraError

BACKEND_VARIABLE = "PICCC_HTTP_BACKEND"
LIBRARIES = ("httpx", "httpx2")


def library_named(name: str) -> Any:
    """Return the module `httpx` or `httpx2`."""
    if name not in LIBRARIES:
        raise ConfigurationError(f"{BACKEND_VARIABLE} is {name!r}.", hint="It is 'httpx' or 'httpx2'.")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is not installed.", hint=f"pip install {name}") from error


def preferred_library() -> Any:
    """Return the library that all requests are to go through, or None.

    `PICCC_HTTP_BACKEND` names it. Or another package has replaced its methods to see every request: a mock
    (respx, pytest-httpx), a recorder (VCR.py), a tracer (OpenTelemetry).
    """
    if name := os.environ.get(BACKEND_VARIABLE):
        return library_named(name)
    return next((sys.modules[name] for name in LIBRARIES if name in sys.modules and _is_watched(name)), None)


def _is_watched(name: str) -> bool:
    library, core = sys.modules[name], sys.modules.get(name.replace("httpx", "httpcore"))
    classes = [library.HTTPTransport, library.AsyncHTTPTransport]
    if core is not None:
        classes += [core.ConnectionPool, core.AsyncConnectionPool]
    return any(
        # A function's globals are those of the module that defines it.
        not isinstance(method, FunctionType) or method.__globals__ is not each.__init__.__globals__
        for each in classes
        for method in (getattr(each, "handle_request", None) or each.handle_async_request,)
    )


def library_of(client: Any, kind: str) -> Any:
    """Return the library of a caller's client; raise ConfigurationError unless it is a `kind` of one."""
    for each in type(client).__mro__:
        name = each.__module__.partition(".")[0]
        if name in LIBRARIES and each.__name__ == kind:
            return sys.modules[name]
    parameter = "http_client" if kind == "Client" else "http_async_client"
    raise ConfigurationError(
        f"{parameter} is a {type(client).__module__}.{type(client).__qualname__}.",
        hint=f"Give an httpx.{kind} or an httpx2.{kind}.",
    )


class Departure:
    """Whether a request has left, as the `trace` extension of httpx and httpx2 tells it.

    Where it has not when its deadline passes, it is held back, for a thread that still waits for a proxy
    must not send later what was reported as not sent. A transport that knows no `trace` (a mock's) reports
    nothing, and what it does is unknown.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_traced = self._has_left = self._is_late = False
        self._stream: Any = None
        self.greets = False
        """Whether a TLS handshake has begun that did not succeed."""

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Note an event; raise TimeoutError rather than let a late request leave."""
        with self._lock:
            self._is_traced = True
            if event.endswith("connect_tcp.complete"):
                self._stream = info.get("return_value")
            if ".start_tls." in event:
                self.greets = not event.endswith(".complete")
            if event.endswith("send_request_headers.started"):
                if self._is_late:
                    raise TimeoutError(TOO_LATE)
                self._has_left = True

    async def atrace(self, event: str, info: dict[str, Any]) -> None:
        """Note an event, for an asynchronous transport."""
        self.trace(event, info)

    def hold_back(self) -> bool:
        """Return whether the request has not left, and from here on cannot."""
        with self._lock:
            self._is_late = True
            return self._is_traced and not self._has_left

    def close(self) -> None:
        """Close a connection on which nothing was sent: httpcore forgets it where a SOCKS proxy refuses."""
        if self._stream is not None and not self._has_left:
            _shut_down(self._stream)  # for a thread may wait on it: httpcore gives a SOCKS proxy no bound
            self._stream.close()

    async def aclose(self) -> None:
        """Close it, of an asynchronous transport."""
        if self._stream is not None and not self._has_left:
            await self._stream.aclose()


class _LibraryResponse:
    def __init__(
        self, library: Any, client: Any, response: Any, request: HTTPRequest, *, is_ours: bool
    ) -> None:
        self.status: int = response.status_code
        self.headers = response.headers
        self._library = library
        self._client = client
        self._response = response
        self._is_ours = is_ours
        self._unpacker = unpacker_for(response.headers.get("content-encoding", ""))

    def _failure(self, error: Exception) -> Failure:
        failure = classify(error, self._library, self._client)
        failure.outcome = Outcome.UNKNOWN
        return failure


class SyncLibraryResponse(_LibraryResponse):
    """A blocking reply of httpx or httpx2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._process = os.getpid()
        self._is_over = False
        self._pieces: Iterator[bytes] = iter(self._response.stream)

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        try:
            if self._unpacker is not None and (data := self._unpacker.more()):
                return data
            while True:
                if by is not None and time.monotonic() >= by:
                    raise TimeoutError
                piece = call_within(by, lambda: next(self._pieces, b""), discard=lambda late: None)
                if not piece:
                    break
                if data := piece if self._unpacker is None else self._unpacker.feed(piece):
                    return data
            if self._unpacker is not None:
                self._unpacker.end()
        except Exception as error:
            raise self._failure(error) from scrub(error)
        self._is_over = True
        return b""

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if not self._is_over:
            self.abandon()  # for another thread may wait in `receive`, and to close a socket does not wake it
        self._response.close()
        if self._is_ours:
            self._client.close()

    def abandon(self) -> None:
        """Shut the connection down, from wherever the garbage collector comes upon it."""
        self._is_over = True
        stream = self._response.extensions.get("network_stream")
        if stream is not None and self._process == os.getpid():  # a fork leaves it to its parent
            _shut_down(stream)
        _abandoned.append(self._response)


class AsyncLibraryResponse(_LibraryResponse):
    """An asynchronous reply of httpx or httpx2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loop = asyncio.get_running_loop()
        self._pieces = aiter(self._response.stream)

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        try:
            async with asyncio.timeout_at(by):
                if self._unpacker is not None and (data := self._unpacker.more()):
                    await asyncio.sleep(0)
                    return data
                async for piece in self._pieces:
                    if data := piece if self._unpacker is None else self._unpacker.feed(piece):
                        return cast("bytes", data)
            if self._unpacker is not None:
                self._unpacker.end()
        except Exception as error:
            raise self._failure(error) from scrub(error)
        return b""

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        await self._response.aclose()
        if self._is_ours:
            await self._client.aclose()

    def abandon(self) -> None:
        """Close the connection at once, from wherever the garbage collector comes upon it."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self.close()))


_abandoned: deque[Any] = deque()
"""Blocking replies of a library that were left half-read; the next call closes them."""


def call_within(by: float | None, function: Callable[[], T], *, discard: Callable[[T], None]) -> T:
    """Call a function that blocks, and raise TimeoutError when `by` passes first.

    A library's timeouts bound single waits, with figures fixed beforehand: a server that sends a byte now and
    then is waited for without end. What a caller's client is made of cannot be bounded from inside, so it
    runs in another thread, and we stop waiting. What comes too late is discarded.
    """
    while _abandoned:
        _abandoned.popleft().close()
    if by is None:
        return function()
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    is_late = threading.Event()

    def task() -> None:
        try:
            answers.put((function(), None))
        except BaseException as error:
            answers.put((None, error))
        if is_late.is_set():
            drop()

    def drop() -> None:
        try:
            value, error = answers.get_nowait()
        except Empty:
            return
        if error is None:
            discard(cast("T", value))

    run_in_thread(task)
    try:
        value, error = answers.get(timeout=max(0.0, by - time.monotonic()))
    except BaseException as stopped:
        is_late.set()
        drop()
        if isinstance(stopped, Empty):
            raise TimeoutError from None
        raise
    if error is not None:
        raise error
    return cast("T", value)


def _shut_down(stream: Any) -> None:
    """End the connection of httpcore's network stream, which wakes the thread that reads from it."""
    connection = stream.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # the connection has ended by itself
            connection.shutdown(socket.SHUT_RDWR)


def classify(error: Exception, library: Any, client: Any, departure: Departure | None = None) -> Failure:
    """Tell from what an HTTP library raised whether the request can have reached the server."""
    if isinstance(error, Failure):
        return error
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    outcome, timed_out = Outcome.UNKNOWN, isinstance(error, library.TimeoutException)
    if isinstance(error, TimeoutError):
        reason, timed_out = TOO_LATE, True
    elif isinstance(error, library.ProxyError):
        outcome = Outcome.HOPELESS if "407" in str(error) else Outcome.NOT_SENT
    elif isinstance(error, library.ConnectError | library.ConnectTimeout | library.PoolTimeout):
        untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in chain_of(error))
        outcome = Outcome.HOPELESS if untrusted else Outcome.NOT_SENT
    elif isinstance(error, library.UnsupportedProtocol | library.LocalProtocolError | library.InvalidURL):
        outcome = Outcome.HOPELESS
    elif not isinstance(error, library.TransportError | OSError | MalformedReply):
        outcome = Outcome.UNKNOWN if _was_sent(error, client) else Outcome.HOPELESS
    if outcome is Outcome.UNKNOWN and departure is not None and departure.hold_back():
        outcome = Outcome.NOT_SENT
    return Failure(outcome, reason, timed_out=timed_out)


def _was_sent(error: Exception, client: Any) -> bool:
    """Return whether an error that is none of the library's can have come after the request was sent.

    It cannot where it came through neither a transport nor a hook that looks at replies: then it is of a hook
    that looks at requests, of an `auth=`, or of ours.
    """
    after = {getattr(each, "__code__", None) for each in client.event_hooks["response"]} - {None}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code in after or frame.f_code.co_name in ("handle_request", "handle_async_request")
        for frame in frames
    )
