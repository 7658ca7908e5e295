"""The backends: blocking and asyncio, over our own connections or through a client of httpx or httpx2."""

from __future__ import annotations

import asyncio
import importlib
import os
import platform
import random
import socket
import ssl
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from functools import lru_cache, partial
from queue import Empty, SimpleQueue
from types import FunctionType
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import h11

from piccc._http import connections
from piccc._http.backend import (
    AsyncSignal,
    Failure,
    HTTPRequest,
    HTTPResponse,
    Outcome,
    SyncSignal,
    T,
    Ts,
    run_sync,
)
from piccc._http.connections import TOO_LATE, Pool, Route, chain_of, described, scrub, tls_context
from piccc._http.http11 import MalformedReply, unpacker_for
from piccc._http.streams import AsyncStream, SyncStream, addresses_of
from piccc._version import __version__
from piccc.config import redact
from piccc.errors import ConfigurationError, MissingExtraError

BACKEND_VARIABLE = "PICCC_HTTP_BACKEND"
LIBRARIES = ("httpx", "httpx2")
MAX_WORKERS = 32
MAX_ROUTES = 256
GRACE = 0.02
"""Seconds that an HTTP library's own timeouts get before ours, for they know what had been sent."""


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor:
    # Not the loop's default executor: what a program runs there must not hold up a call, nor the reverse.
    # Threads are started as they are needed; 32, so that one dead name server does not stop every file.
    return ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="piccc")


_background: set[asyncio.Task[None]] = set()


class _Backend:
    _kind: str

    def __init__(self, client: Any = None, *, library: Any = None) -> None:
        self.client = client
        self._library = _family(client, self._kind) if client is not None else library
        self._routes: dict[tuple[str, str, int], Route] = {}

    @property
    def backend(self) -> str:
        """Name and version of what sends the requests: `h11`, or the HTTP library."""
        library = self._library or _preferred_library() or h11
        return f"{library.__name__} {library.__version__}"

    @property
    def _agent(self) -> str:
        return f"piccc/{__version__} {self.backend.replace(' ', '/')} python/{platform.python_version()}"

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        return random.random()  # noqa: S311  jitter, not a secret

    def in_thread(self) -> SyncBackend:
        """Return a blocking backend over the same library, with connections of its own."""
        return SyncBackend(library=self._library)

    def _route(self, url: str) -> Route:
        parts = urlsplit(url)
        scheme, host = parts.scheme, (parts.hostname or "").lower()
        place = scheme, host, parts.port or {"http": 80}.get(scheme, 443)
        route = self._routes.get(place)
        if route is None:
            if scheme not in ("http", "https") or not host:
                raise ValueError(f"not an http(s) address: {scheme}://{host}")
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            certificates = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
            route = self._routes[place] = Route(*place, proxy_for(*place), certificates)
        return route

    def _detour(self, route: Route) -> Any:
        """Return the HTTP library that a request goes through, None where our own connections serve it."""
        library = self._library or _preferred_library()
        # A proxy that speaks TLS or SOCKS is left to httpx, which knows both.
        return library or (
            library_named("httpx") if route.proxy and not route.proxy.startswith("http://") else None
        )

    def _load(self, url: str) -> None:
        route = self._route(url)
        if self._detour(route) is not None or route.scheme == "https":
            tls_context(route.certificates)

    def _library_client(self, library: Any, route: Route) -> Any:
        """Make a client for one request: with no idle connections there are no stale ones, and no cookies."""
        try:
            return getattr(library, self._kind)(
                verify=tls_context(route.certificates), proxy=route.proxy, trust_env=False
            )
        except ImportError as error:
            raise ConfigurationError(
                f"The proxy {_shown(route.proxy)} needs a package that is not installed.",
                hint='pip install "piccc[socks]"',
            ) from error
        except ValueError as error:
            raise ConfigurationError(
                f"The proxy {_shown(route.proxy)} is no address of one.",
                hint="Set HTTPS_PROXY, HTTP_PROXY or ALL_PROXY to http://host:port, or unset it.",
            ) from error
        except OSError as error:
            raise Failure(Outcome.NOT_SENT, f"no connection: {described(error)}") from error

    def _classified(self, error: Exception, library: Any, client: Any, route: Route) -> Failure:
        failure = classify(error, library, client)
        if self.client is None and route.proxy and failure.outcome is not Outcome.UNKNOWN:
            failure.reason = f"{failure.reason}, through the proxy {_shown(route.proxy)}"
        return failure

    def _build(self, client: Any, request: HTTPRequest, now: float) -> Any:
        left = None if request.by is None else max(request.by - now, 0.001)
        idle = _least(request.idle, left)
        timeout = {"connect": _least(request.connect, left), "read": idle, "write": idle, "pool": left}
        headers = request.headers
        if not any(name == "user-agent" for name, _ in headers):
            headers = [("user-agent", self._agent), *headers]
        return client.build_request(
            request.method,
            request.url,
            headers=headers,
            content=request.body,
            extensions={"timeout": timeout},
        )


class SyncBackend(_Backend):
    """The backend that blocks its thread and never suspends."""

    _kind = "Client"

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251  this backend blocks, by its purpose

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
        return _resolve(host)

    async def connect(self, host: str, port: int, by: float | None) -> SyncStream:
        """Open a TCP connection; raise OSError."""
        return SyncStream.connect(addresses_of(host, port), by)

    async def warm_up(self, url: str) -> None:
        """Load what requests to a server need."""
        await self.run(self._load, url)

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send and return when the headers have come; raise Failure if they do not."""
        route = _checked_route(self._route, request)
        library = self._detour(route)
        if library is None:
            connections.blocking_pool.holders.add(self)
            return await _send(self, connections.blocking_pool, route, request)
        client = self.client or self._library_client(library, route)
        by = None if request.by is None else request.by + GRACE
        try:
            built = self._build(client, request, self.now())
            send = partial(client.send, built, stream=True, follow_redirects=False)
            response = call_within(by, send, discard=lambda late: late.close())
            return SyncLibraryResponse(library, client, response, request, is_ours=self.client is None)
        except Exception as error:
            if self.client is None:
                client.close()
            raise self._classified(error, library, client, route) from scrub(error)

    async def close(self) -> None:
        """Close what this backend has opened; a client that was passed in stays open."""
        pool = connections.blocking_pool
        pool.holders.discard(self)
        if not pool.holders:
            pool.close()


class AsyncBackend(_Backend):
    """The backend that awaits the running event loop."""

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
        return await self.run(_resolve, host)

    async def connect(self, host: str, port: int, by: float | None) -> AsyncStream:
        """Open a TCP connection; raise OSError."""
        async with asyncio.timeout_at(by):
            return await AsyncStream.connect(await self.run(addresses_of, host, port))

    async def warm_up(self, url: str) -> None:
        """Load what requests to a server need."""
        await self.run(self._load, url)

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send and return when the headers have come; raise Failure if they do not."""
        pool = await connections.running_pool()
        route = _checked_route(self._route, request)
        library = self._detour(route)
        if library is None:
            pool.holders.add(self)
            return await _send(self, pool, route, request)
        client = self.client or await self.run(self._library_client, library, route)
        try:
            async with asyncio.timeout_at(None if request.by is None else request.by + GRACE):
                built = self._build(client, request, self.now())
                response = await client.send(built, stream=True, follow_redirects=False)
            return AsyncLibraryResponse(library, client, response, request, is_ours=self.client is None)
        except BaseException as error:
            if self.client is None:
                await client.aclose()
            if not isinstance(error, Exception):
                raise
            raise self._classified(error, library, client, route) from scrub(error)

    async def close(self) -> None:
        """Close what this backend has opened on the running loop; a client that was passed in stays open."""
        pool = await connections.running_pool()
        pool.holders.discard(self)
        if not pool.holders:
            pool.close()


async def _send(
    backend: SyncBackend | AsyncBackend, pool: Pool, route: Route, request: HTTPRequest
) -> HTTPResponse:
    """Send over our own connections."""
    began, agent = backend.now(), backend._agent
    try:
        return await connections.send(backend, pool, route, request, agent)
    except Failure as failure:
        if not failure.is_stale:
            raise
    # As browsers and proxies do (RFC 9112, section 9.3.1): a server that closes an idle connection just as a
    # request comes has not read that. It goes out once more, on a connection that has not been idle.
    request.notes.stale = backend.now() - began
    return await connections.send(backend, pool, route, replace(request, fresh=True), agent)


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
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is not None and self._process == os.getpid():  # a fork leaves it to its parent
            with suppress(OSError):  # the connection has ended by itself
                connection.shutdown(socket.SHUT_RDWR)
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
_idle_threads: deque[SimpleQueue[Callable[[], None]]] = deque()


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
    context = copy_context()

    def task() -> None:
        try:
            answers.put((context.run(function), None))
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

    try:
        tasks = _idle_threads.pop()
    except IndexError:
        tasks = SimpleQueue()
        threading.Thread(target=_serve, args=(tasks,), name="piccc-http", daemon=True).start()
    tasks.put(task)
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


def _serve(tasks: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        tasks.get()()
        _idle_threads.append(tasks)


def _after_fork() -> None:
    # Threads do not survive a fork.
    _workers.cache_clear()
    _idle_threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def classify(error: Exception, library: Any, client: Any) -> Failure:
    """Tell from what an HTTP library raised whether the request can have reached the server."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, TimeoutError):
        return Failure(Outcome.UNKNOWN, TOO_LATE, timed_out=True)
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    outcome = Outcome.UNKNOWN
    if isinstance(error, library.ProxyError):
        outcome = Outcome.HOPELESS if "407" in str(error) else Outcome.NOT_SENT
    elif isinstance(error, library.ConnectError | library.ConnectTimeout | library.PoolTimeout):
        untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in chain_of(error))
        outcome = Outcome.HOPELESS if untrusted else Outcome.NOT_SENT
    elif isinstance(error, library.UnsupportedProtocol | library.LocalProtocolError | library.InvalidURL):
        outcome = Outcome.HOPELESS
    elif not isinstance(error, library.TransportError | OSError | MalformedReply):
        outcome = Outcome.UNKNOWN if _was_sent(error, client) else Outcome.HOPELESS
    return Failure(outcome, reason, timed_out=isinstance(error, library.TimeoutException))


def _was_sent(error: Exception, client: Any) -> bool:
    """Tell whether an error that is none of the library's can have come after the request was sent.

    It cannot where it came through neither a transport nor a hook that looks at replies: then it is of a hook
    that looks at requests, of an `auth=`, or of ours.
    """
    after = {getattr(each, "__code__", None) for each in client.event_hooks["response"]} - {None}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code in after or frame.f_code.co_name in ("handle_request", "handle_async_request")
        for frame in frames
    )


def _shown(proxy: str | None) -> str:
    """Return a proxy's address as the environment has it, without what follows and without credentials."""
    return redact((proxy or "")[:200])


def proxy_for(scheme: str, host: str, port: int) -> str | None:
    """Return the proxy that the environment names for a server; a server on this machine has none."""
    if host == "localhost" or host.startswith("127.") or host == "::1":
        return None
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(f"{host}:{port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def library_named(name: str) -> Any:
    """Return the module `httpx` or `httpx2`."""
    if name not in LIBRARIES:
        raise ConfigurationError(f"{BACKEND_VARIABLE} is {name!r}.", hint="It is 'httpx' or 'httpx2'.")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"{name} is not installed.", hint=f"pip install {name}") from error


def _preferred_library() -> Any:
    """Return the library that all requests are to go through, None where nobody wants that.

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


def _resolve(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(each[4][0]) for each in found]


def _checked_route(route_of: Callable[[str], Route], request: HTTPRequest) -> Route:
    try:
        return route_of(request.url)
    except ValueError as error:
        raise Failure(Outcome.HOPELESS, described(error)) from None


def _family(client: Any, kind: str) -> Any:
    for each in type(client).__mro__:
        name = each.__module__.partition(".")[0]
        if name in LIBRARIES and each.__name__ == kind:
            return sys.modules[name]
    parameter = "http_client" if kind == "Client" else "http_async_client"
    raise ConfigurationError(
        f"{parameter} is a {type(client).__module__}.{type(client).__qualname__}.",
        hint=f"Give an httpx.{kind} or an httpx2.{kind}.",
    )


def _least(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)
