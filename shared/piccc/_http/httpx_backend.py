"""The backends over httpx and httpx2."""

from __future__ import annotations

import asyncio
import os
import platform
import random
import socket
import ssl
import sys
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

from piccc._http.asyncio_stream import AsyncioStream
from piccc._http.backend import AsyncSignal, Failure, HTTPRequest, Outcome, SyncSignal, T, Ts, run_sync
from piccc._http.chunked import LAST_CHUNK, ChunkedDecoder
from piccc._http.connections import Pool, abandoned, close_abandoned, library_named, shared_pool
from piccc._http.sync_stream import SyncStream, current_deadline, install_deadline_backend
from piccc._version import __version__
from piccc.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

STEP_BYTES = 1024 * 1024


class Decoder:
    """Unpack a body; what one piece holds beyond a step is given by `more`."""

    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)

    def feed(self, data: bytes) -> bytes:
        """Return at most one step of what a piece unpacks to; raise Failure where it is damaged."""
        try:
            return self._zlib.decompress(data, STEP_BYTES)
        except zlib.error as error:
            raise Failure(Outcome.UNKNOWN, "the compressed body is damaged") from error

    def more(self) -> bytes:
        """Return the next step of the last piece, b"" when it is used up."""
        return self.feed(self._zlib.unconsumed_tail) if self._zlib.unconsumed_tail else b""


class Unreadable(Decoder):
    """Refuse an encoding that cannot be unpacked here."""

    def __init__(self, encoding: str) -> None:
        super().__init__(zlib.MAX_WBITS)
        self._encoding = encoding

    def feed(self, data: bytes) -> bytes:
        """Raise Failure."""
        raise Failure(Outcome.UNKNOWN, f"the body is encoded as {self._encoding!r}, which was not asked for")


def decoder_for(encoding: str | None) -> Decoder | None:
    """Return what unpacks a body of this content-encoding, None where nothing needs to."""
    match (encoding or "identity").strip().lower():
        case "identity":
            return None
        case "gzip" | "x-gzip":
            return Decoder(16 + zlib.MAX_WBITS)
        case "deflate":
            return Decoder(zlib.MAX_WBITS)
    return Unreadable((encoding or "")[:80])


GRACE = 0.02
"""Seconds that the HTTP library's own timeouts get before ours, for they know what had been sent."""
TOO_LATE = "the deadline passed"


MAX_WORKERS = 32


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor:
    # Not the loop's default executor: what a program runs there must not hold up a call, nor the reverse.
    # Threads are started as they are needed; 32, so that one dead name server does not stop every file.
    return ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="piccc")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork


_background: set[asyncio.Task[None]] = set()


class _Backend:
    _kind: str

    def __init__(self, client: Any = None, *, library: Any = None) -> None:
        self.client = client
        self._library = _family(client, self._kind) if client is not None else library
        self._shared: Pool | None = None

    @cached_property
    def library(self) -> Any:
        """The module `httpx` or `httpx2`, imported at first use."""
        return self._library or library_named()

    @cached_property
    def backend(self) -> str:
        """Name and version of the HTTP library."""
        return f"{self.library.__name__} {self.library.__version__}"

    @cached_property
    def _agent(self) -> tuple[str, str]:
        library = self.backend.replace(" ", "/")
        return "user-agent", f"piccc/{__version__} {library} python/{platform.python_version()}"

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        return random.random()  # noqa: S311  jitter, not a secret

    def in_thread(self) -> SyncBackend:
        """Return a blocking backend over the same library, with connections of its own."""
        return SyncBackend(library=self._library)

    @property
    def _pool(self) -> Pool:
        if self._shared is None or self._shared.is_stale:
            self._shared = shared_pool(self.library)
        return self._shared

    def _build(self, client: Any, request: HTTPRequest, now: float) -> Any:
        left = None if request.by is None else max(request.by - now, 0.001)
        idle = _least(request.idle, left)
        timeout = {"connect": _least(request.connect, left), "read": idle, "write": idle, "pool": left}
        headers = request.headers
        if not any(name == "user-agent" for name, _ in headers):
            headers = [self._agent, *headers]
        extensions = {"timeout": timeout}
        if self.client is not None:
            return client.build_request(
                request.method, request.url, headers=headers, content=request.body, extensions=extensions
            )
        # Past `build_request`, so that no cookie of another caller's and no parsing comes in.
        return self.library.Request(
            request.method,
            _url(self.library, request.url),
            headers=headers,
            content=request.body,
            extensions=extensions,
        )

    def _failure(self, error: Exception, *, late: bool) -> Failure:
        failure = classify(error, self.library)
        if failure.timed_out and late:
            failure.reason = TOO_LATE
        return failure


class SyncBackend(_Backend):
    """The port that blocks its thread and never suspends."""

    _kind = "Client"

    def __init__(self, client: Any = None, *, library: Any = None) -> None:
        super().__init__(client, library=library)
        if client is not None:
            install_deadline_backend(client)

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251  this port blocks, by its purpose

    def signal(self) -> SyncSignal:
        """Make a signal for a waiting thread."""
        return SyncSignal()

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function that may block."""
        return function(*args)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine over this backend in a daemon thread."""
        threading.Thread(target=lambda: run_sync(work()), name="piccc", daemon=True).start()

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of a host; none where it cannot be resolved from here."""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return [str(each[4][0]) for each in found]

    async def send(self, request: HTTPRequest) -> SyncResponse:
        """Send and return when the headers have come; raise Failure if they do not."""
        client = self.client or self._pool.blocking(self)
        if abandoned:
            close_abandoned()
        current_deadline.by = request.by
        try:
            built = self._build(client, request, self.now())
            if self.client is None:
                response = _way(client, built).handle_request(built)
            else:
                response = client.send(built, stream=True, follow_redirects=False)
        except Exception as error:
            raise self._failure(error, late=is_past(request.by, self.now())) from scrub(error)
        finally:
            current_deadline.by = None
        return SyncResponse(self, response, request)

    async def close(self) -> None:
        """Close what this port has opened; a client that was passed in stays open."""
        if self._shared is not None:
            self._shared.close(self)


class AsyncBackend(_Backend):
    """The port that awaits the running event loop."""

    _kind = "AsyncClient"

    def now(self) -> float:
        """Return the time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def signal(self) -> AsyncSignal:
        """Make a signal for a coroutine that waits on the running loop."""
        return AsyncSignal()

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function that may block in a worker thread, with this task's context variables."""
        call: Future[T] = _workers().submit(partial(copy_context().run, function, *args))
        return await asyncio.wrap_future(call)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine as a task of the running event loop."""
        task = asyncio.get_running_loop().create_task(work())
        _background.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(_background.discard)

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of a host; none where it cannot be resolved from here."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return [str(each[4][0]) for each in found]

    async def send(self, request: HTTPRequest) -> AsyncResponse:
        """Send and return when the headers have come; raise Failure if they do not."""
        client = self.client or await self._pool.running(self)
        try:
            async with asyncio.timeout_at(None if request.by is None else request.by + GRACE):
                built = self._build(client, request, self.now())
                if self.client is None:
                    response = await _way(client, built).handle_async_request(built)
                else:
                    response = await client.send(built, stream=True, follow_redirects=False)
        except Exception as error:
            raise self._failure(error, late=is_past(request.by, self.now())) from scrub(error)
        return AsyncResponse(self, response, request)

    async def close(self) -> None:
        """Close what this port has opened on the running loop; a client that was passed in stays open."""
        if self._shared is not None:
            await self._shared.aclose(self)


class _Response:
    def __init__(self, port: _Backend, response: Any, request: HTTPRequest) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._port = port
        self._response = response
        self._idle = request.idle
        self._decoder = decoder_for(response.headers.get("content-encoding"))
        self._stream = response.extensions.get("network_stream")

    @property
    def _is_direct(self) -> bool:
        """Whether the body can be read past the HTTP library, which then sees its last chunk alone."""
        return (
            self._port.client is None
            and isinstance(self._stream, SyncStream | AsyncioStream)
            and self._stream.gate.is_at_body
            and self.headers.get("transfer-encoding", "").lower() == "chunked"
        )


class SyncResponse(_Response):
    """A reply of the blocking port."""

    def __init__(self, port: SyncBackend, response: httpx.Response, request: HTTPRequest) -> None:
        super().__init__(port, response, request)
        self._process = os.getpid()
        self._is_over = False
        self._pieces: Iterator[bytes] = self._direct() if self._is_direct else self._whole()

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        current_deadline.by = by
        try:
            if self._decoder is not None and (data := self._decoder.more()):
                return data
            for piece in self._pieces:
                if data := piece if self._decoder is None else self._decoder.feed(piece):
                    return data
        except Failure:
            raise
        except Exception as error:
            raise self._port._failure(error, late=is_past(by, time.monotonic())) from scrub(error)
        finally:
            current_deadline.by = None
        self._is_over = True
        return b""

    def _whole(self) -> Iterator[bytes]:
        pieces: Iterator[bytes] = iter(self._response.stream)
        return pieces

    def _direct(self) -> Iterator[bytes]:
        stream, chunks = self._stream, ChunkedDecoder()
        while not chunks.is_over:
            data = stream.receive(self._idle)
            if content := chunks.feed(data):
                yield content
            if chunks.damage or not data:
                raise broken_off(chunks)
        stream.gate.held = LAST_CHUNK + chunks.rest
        yield from self._whole()

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if not self._is_over:
            self._hang_up()  # for another thread may wait in `receive`, and closing a socket does not wake it
        self._response.close()

    def abandon(self) -> None:
        """Close the connection at once, from wherever the garbage collector comes upon it."""
        # This may be amid another call, which holds the pool's lock: so the pool hears of it later.
        self._hang_up()
        abandoned.append(self._response)

    def _hang_up(self) -> None:
        self._is_over = True
        connection = self._stream.get_extra_info("socket") if self._stream is not None else None
        if connection is not None and self._process == os.getpid():  # a fork leaves it to its parent
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the connection has ended by itself


class AsyncResponse(_Response):
    """A reply of the asynchronous port."""

    def __init__(self, port: AsyncBackend, response: httpx.Response, request: HTTPRequest) -> None:
        super().__init__(port, response, request)
        self._loop = asyncio.get_running_loop()
        self._pieces: AsyncIterator[bytes] = self._direct() if self._is_direct else self._whole()

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        near = by is not None and (self._idle is None or by < asyncio.get_running_loop().time() + self._idle)
        try:
            if self._decoder is not None and (data := self._decoder.more()):
                return data
            if not near:
                return await self._next()
            async with asyncio.timeout_at(by):
                return await self._next()
        except Failure:
            raise
        except Exception as error:
            raise self._port._failure(error, late=near) from scrub(error)

    async def _next(self) -> bytes:
        async for piece in self._pieces:
            if data := piece if self._decoder is None else self._decoder.feed(piece):
                return data
        return b""

    def _whole(self) -> AsyncIterator[bytes]:
        pieces: AsyncIterator[bytes] = aiter(self._response.stream)
        return pieces

    async def _direct(self) -> AsyncIterator[bytes]:
        stream, chunks = self._stream, ChunkedDecoder()
        while not chunks.is_over:
            data = await stream.receive(self._idle)
            if content := chunks.feed(data):
                yield content
            if chunks.damage or not data:
                raise broken_off(chunks)
        stream.gate.held = LAST_CHUNK + chunks.rest
        async for piece in self._whole():
            yield piece

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        await self._response.aclose()

    def abandon(self) -> None:
        """Close the connection at once, from wherever the garbage collector comes upon it."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self.close()))


def broken_off(chunks: ChunkedDecoder) -> Failure:
    """Return the failure for chunks that are damaged, or after which no more come."""
    why = f"is damaged: {chunks.damage}" if chunks.damage else "was cut: the connection was closed amid it"
    return Failure(Outcome.UNKNOWN, f"the body {why}")


def is_past(by: float | None, now: float) -> bool:
    """Tell whether a moment, if there is one, has passed."""
    return by is not None and now >= by


def classify(error: Exception, library: Any) -> Failure:
    """Say whether a failed attempt can have reached the server."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    timed_out = isinstance(error, library.TimeoutException | TimeoutError)
    outcome = Outcome.UNKNOWN
    if isinstance(error, library.ProxyError):
        outcome = Outcome.HOPELESS if "407" in str(error) else Outcome.NOT_SENT
    elif isinstance(error, library.ConnectError | library.ConnectTimeout | library.PoolTimeout):
        untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in _chain(error))
        outcome = Outcome.HOPELESS if untrusted else Outcome.NOT_SENT
    elif isinstance(error, library.UnsupportedProtocol | library.LocalProtocolError | library.InvalidURL):
        outcome = Outcome.HOPELESS
    return Failure(outcome, reason, timed_out=timed_out)


def scrub(error: Exception) -> Exception:
    """Take out of an error, and of what caused it, the request and the frames that hold its headers."""
    for each in _chain(error):
        each.__traceback__ = None
        if getattr(each, "_request", None) is not None:
            each._request = None  # type: ignore[attr-defined]  # where both libraries keep it
    return error


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _family(client: Any, kind: str) -> Any:
    for each in type(client).__mro__:
        name = each.__module__.partition(".")[0]
        if name in ("httpx", "httpx2") and each.__name__ == kind:
            return sys.modules[name]
    parameter = "http_client" if kind == "Client" else "http_async_client"
    raise ConfigurationError(
        f"{parameter} is a {type(client).__module__}.{type(client).__qualname__}.",
        hint=f"Give an httpx.{kind} or an httpx2.{kind}.",
    )


def _way(client: Any, request: Any) -> Any:
    """Return the transport, by a proxy or direct: our own clients have no hooks, cookies or redirects."""
    return client._transport_for_url(request.url)


def _least(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


@lru_cache(maxsize=256)
def _url(library: Any, url: str) -> Any:
    return library.URL(url)
