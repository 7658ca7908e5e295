"""Requests through httpx or httpx2: a caller's client, TLS and SOCKS proxies, and mocks."""

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
from typing import Any, cast

from piccc._http.backend import Failure, HTTPRequest, Outcome, T
from piccc._http.connections import (
    TOO_LATE,
    MalformedResponse,
    chain_of,
    decompressor_for,
    run_in_thread,
    scrub,
)
from piccc.errors import ConfigurationError, MissingExtraError

BACKEND_VARIABLE = "PICCC_HTTP_BACKEND"
LIBRARIES = ("httpx", "httpx2")


def library_named(name: str) -> Any:
    """Return the module `httpx` or `httpx2`."""
    if name not in LIBRARIES:
        raise ConfigurationError(f"{BACKEND_VARIABLE} is {name!r}.", hint="Set it to 'httpx' or 'httpx2'.")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is not installed.", hint=f"pip install {name}") from error


def library_of(client: Any, kind: str) -> Any:
    """Return the library of a caller's client; raise ConfigurationError if it is not a `kind`."""
    for class_ in type(client).__mro__:
        name = class_.__module__.partition(".")[0]
        if name in LIBRARIES and class_.__name__ == kind:
            return sys.modules[name]
    parameter = "http_client" if kind == "Client" else "http_async_client"
    module = type(client).__module__
    name = f"{'' if module == 'builtins' else f'{module}.'}{type(client).__qualname__}"
    raise ConfigurationError(
        f"{parameter} is of type {name}.",
        hint=f"Pass an httpx.{kind} or an httpx2.{kind}.",
    )


class Departure:
    """Tracks whether a request was sent, using the `trace` extension of httpx and httpx2.

    A request not sent by its deadline is held back: a thread still waiting for a proxy must not send
    what was reported as not sent. A transport without `trace` (a mock) leaves the outcome unknown.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_traced = self._is_sent = self._is_late = False
        self._stream: Any = None
        self.is_in_handshake = False
        """Whether a TLS handshake began and did not succeed."""

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Record an event; raise TimeoutError to keep a late request from being sent."""
        with self._lock:
            self._is_traced = True
            if event.endswith("connect_tcp.complete"):
                self._stream = info.get("return_value")
            if ".start_tls." in event:
                self.is_in_handshake = not event.endswith(".complete")
            if event.endswith("send_request_headers.started"):
                if self._is_late:
                    raise TimeoutError(TOO_LATE)
                self._is_sent = True

    async def atrace(self, event: str, info: dict[str, Any]) -> None:
        """Record an event of an asynchronous transport."""
        self.trace(event, info)

    def hold_back(self) -> bool:
        """Prevent the request from being sent; return whether that succeeded."""
        with self._lock:
            self._is_late = True
            return self._is_traced and not self._is_sent

    def close(self) -> None:
        """Close an unused connection: httpcore leaks it if a SOCKS proxy refuses."""
        if self._stream is not None and not self._is_sent:
            _shut_down(self._stream)  # a thread may be reading: httpcore has no timeout for SOCKS proxies
            self._stream.close()

    async def aclose(self) -> None:
        """Close an unused connection of an asynchronous transport."""
        if self._stream is not None and not self._is_sent:
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
        self._decompressor = decompressor_for(response.headers.get("content-encoding", ""))

    def _failure(self, error: Exception) -> Failure:
        failure = classify(error, self._library, self._client)
        failure.outcome = Outcome.UNKNOWN
        return failure


class SyncLibraryResponse(_LibraryResponse):
    """A blocking response of httpx or httpx2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._process = os.getpid()
        self._is_over = False
        self._pieces: Iterator[bytes] = iter(self._response.stream)

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure on an error or when `by` passes."""
        try:
            if self._decompressor is not None and (data := self._decompressor.more()):
                return data
            while True:
                if by is not None and time.monotonic() >= by:
                    raise TimeoutError
                piece = call_within(by, lambda: next(self._pieces, b""), discard=lambda late: None)
                if not piece:
                    break
                if data := piece if self._decompressor is None else self._decompressor.feed(piece):
                    return data
            if self._decompressor is not None:
                self._decompressor.end()
        except Exception as error:
            raise self._failure(error) from scrub(error)
        self._is_over = True
        return b""

    async def close(self) -> None:
        """Release the connection if the whole body was read, else close it."""
        if not self._is_over:
            self.abandon()  # closing a socket does not wake a thread waiting in `receive`
        self._response.close()
        if self._is_ours:
            self._client.close()

    def abandon(self) -> None:
        """Shut down the connection; safe in a finalizer."""
        self._is_over = True
        stream = self._response.extensions.get("network_stream")
        if stream is not None and self._process == os.getpid():  # after a fork it belongs to the parent
            _shut_down(stream)
        _abandoned.append(self._response)


class AsyncLibraryResponse(_LibraryResponse):
    """An asynchronous response of httpx or httpx2."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loop = asyncio.get_running_loop()
        self._pieces = aiter(self._response.stream)

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure on an error or when `by` passes."""
        try:
            async with asyncio.timeout_at(by):
                if self._decompressor is not None and (data := self._decompressor.more()):
                    await asyncio.sleep(0)
                    return data
                async for piece in self._pieces:
                    if data := piece if self._decompressor is None else self._decompressor.feed(piece):
                        return cast("bytes", data)
            if self._decompressor is not None:
                self._decompressor.end()
        except Exception as error:
            raise self._failure(error) from scrub(error)
        return b""

    async def close(self) -> None:
        """Release the connection if the whole body was read, else close it."""
        await self._response.aclose()
        if self._is_ours:
            await self._client.aclose()

    def abandon(self) -> None:
        """Close the connection soon; safe in a finalizer."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self.close()))


_abandoned: deque[Any] = deque()
"""Blocking responses left half-read; the next call closes them."""


def call_within(by: float | None, function: Callable[[], T], *, discard: Callable[[T], None]) -> T:
    """Call a blocking function in a thread; raise TimeoutError if it has not returned by `by`.

    A library's timeouts apply to single reads, so a server that sends a byte now and then could hold a call
    forever. A caller's client cannot be interrupted, so we stop waiting for its thread. Late results are
    passed to `discard`. Without `by`, the function is called in this thread.
    """
    while _abandoned:
        _abandoned.popleft().close()
    if by is None:
        return function()
    results: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
    is_late = threading.Event()

    def call() -> None:
        try:
            results.put((function(), None))
        except BaseException as error:
            results.put((None, error))
        if is_late.is_set():
            drop()

    def drop() -> None:
        try:
            value, error = results.get_nowait()
        except Empty:
            return
        if error is None:
            discard(cast("T", value))

    run_in_thread(call)
    try:
        value, error = results.get(timeout=max(0.0, by - time.monotonic()))
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
    """Shut down the socket of an httpcore network stream, to wake the thread reading from it."""
    connection = stream.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # already disconnected
            connection.shutdown(socket.SHUT_RDWR)


def classify(error: Exception, library: Any, client: Any, departure: Departure | None = None) -> Failure:
    """Classify an HTTP library's exception: can the request have reached the server?"""
    if isinstance(error, Failure):
        return error
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    outcome, timed_out = Outcome.UNKNOWN, isinstance(error, library.TimeoutException)
    if isinstance(error, TimeoutError):
        reason, timed_out = TOO_LATE, True
    elif isinstance(error, library.ProxyError):
        outcome = Outcome.HOPELESS if "407" in str(error) else Outcome.NOT_SENT
    elif isinstance(error, library.ConnectError | library.ConnectTimeout | library.PoolTimeout):
        untrusted = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain_of(error))
        outcome = Outcome.HOPELESS if untrusted else Outcome.NOT_SENT
    elif isinstance(error, library.UnsupportedProtocol | library.LocalProtocolError | library.InvalidURL):
        outcome = Outcome.HOPELESS
    elif not isinstance(error, library.TransportError | OSError | MalformedResponse):
        outcome = Outcome.UNKNOWN if _was_sent(error, client) else Outcome.HOPELESS
    if outcome is Outcome.UNKNOWN and departure is not None and departure.hold_back():
        outcome = Outcome.NOT_SENT
    return Failure(outcome, reason, timed_out=timed_out)


def _was_sent(error: Exception, client: Any) -> bool:
    """Return whether an error from outside the library may have occurred after the request was sent.

    It did not if neither a transport nor a response hook is in its traceback: then it comes from a request
    hook, from `auth=`, or from our own code.
    """
    after = {getattr(hook, "__code__", None) for hook in client.event_hooks["response"]} - {None}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code in after or frame.f_code.co_name in ("handle_request", "handle_async_request")
        for frame in frames
    )
