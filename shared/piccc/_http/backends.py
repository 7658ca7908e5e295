"""The blocking and asyncio backends, and their sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import platform
import random
import select
import selectors
import socket
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network
from itertools import chain, zip_longest
from queue import Empty, SimpleQueue
from types import FunctionType
from typing import Any, Self, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import h11

from piccc._http import connections
from piccc._http.backend import Failure, HTTPRequest, HTTPResponse, Outcome, T, Ts
from piccc._http.connections import (
    SILENT,
    TOO_LATE,
    Pool,
    Route,
    earliest,
    message_of,
    run_in_thread,
    scrub,
    tls_context,
)
from piccc._http.library import (
    BACKEND_VARIABLE,
    LIBRARIES,
    AsyncLibraryResponse,
    Departure,
    SyncLibraryResponse,
    call_within,
    classify,
    library_named,
    library_of,
)
from piccc._version import __version__
from piccc.config import Suspended, is_loopback, redact, suspended
from piccc.errors import ConfigurationError

READ_BYTES = 64 * 1024
WRITE_BYTES = 64 * 1024
MAX_HELD_BYTES = 64 * 1024
ATTEMPT_DELAY = 0.25
"""Seconds before the next address of a host is tried in parallel (RFC 8305, section 5)."""

Address = tuple[int, Any]  # family, and the argument of `connect`


def addresses_of(host: str, port: int) -> list[Address]:
    """Return a host's addresses, alternating IPv6 and IPv4 (RFC 8305, section 4); raise OSError."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in infos))
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for address in chain(*zip_longest(first, others)) if address is not None]


class SyncStream:
    """A blocking stream."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._process = os.getpid()
        self._timeout: float | None = -1.0

    @classmethod
    def connect(cls, addresses: list[Address], by: float | None) -> Self:
        """Connect to the first address that responds."""
        if len(addresses) == 1:  # a selector would cost as much as the connection
            return cls(_connect(*addresses[0], by))
        waiting, failure = deque(addresses), OSError("the host has no address")
        with selectors.DefaultSelector() as attempts:
            try:
                while waiting or attempts.get_map():
                    if waiting:
                        family, address = waiting.popleft()
                        attempt = socket.socket(family, socket.SOCK_STREAM)
                        attempts.register(attempt, selectors.EVENT_WRITE)
                        attempt.setblocking(False)
                        error = attempt.connect_ex(address)
                        if error not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                            failure = _close_failed(attempts, attempt, error)
                            continue
                    left = _remaining(by)
                    for key, _ in attempts.select(earliest(left, ATTEMPT_DELAY if waiting else None)):
                        attempt = cast("socket.socket", key.fileobj)
                        error = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                        if error:
                            failure = _close_failed(attempts, attempt, error)
                            continue
                        attempts.unregister(attempt)
                        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        return cls(attempt)
                raise failure
            finally:
                for key in list(attempts.get_map().values()):
                    cast("socket.socket", key.fileobj).close()

    async def read(self, by: float | None, idle: float | None = None) -> bytes:
        """Return the next bytes."""
        self._set_timeout(by, idle)
        return self._socket.recv(READ_BYTES)

    async def write(self, data: bytes, by: float | None) -> None:
        """Send all bytes."""
        # In pieces: otherwise one timeout, set beforehand, would cover the whole of a large body.
        for start in range(0, len(data), WRITE_BYTES):
            self._set_timeout(by, None)
            self._socket.sendall(data[start : start + WRITE_BYTES])

    async def start_tls(self, context: ssl.SSLContext, host: str, by: float | None) -> Self:
        """Return this connection, upgraded to TLS."""
        self._set_timeout(by, None)
        return type(self)(context.wrap_socket(self._socket, server_hostname=host))

    def is_readable(self) -> bool:
        """Return whether there are unread bytes or the server closed the connection."""
        has_decrypted = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
        return has_decrypted or _is_readable(self._socket)

    def close(self) -> None:
        """Close the connection immediately."""
        _shut_down(self._socket, self._process)  # closing a socket does not wake its reader
        self._socket.close()

    def _set_timeout(self, by: float | None, idle: float | None) -> None:
        timeout = idle
        if by is not None:
            left = by - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if idle is None or left < idle:
                timeout = left
        if timeout != self._timeout:  # setting it costs as much as reading
            self._socket.settimeout(timeout)
            self._timeout = timeout


# One buffer per event loop, filled and emptied in one step. Not per thread: a loop can move between threads.
_read_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


class AsyncStream(asyncio.BufferedProtocol):
    """A stream on the event loop that created it.

    For a plain protocol asyncio calls `recv` with 256 KB. Until the process has once freed a block as large,
    the C library maps and unmaps memory each time, which costs several times as much as the read.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._socket: socket.socket
        self._transport: asyncio.Transport
        if (buffer := _read_buffers.get(self._loop)) is None:
            buffer = _read_buffers[self._loop] = memoryview(bytearray(READ_BYTES))
        self._buffer = buffer
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_paused = False
        self._is_over = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_lost = False

    @classmethod
    async def connect(cls, addresses: list[Address]) -> AsyncStream:
        """Connect to the first address that responds."""
        # Not `create_connection(happy_eyeballs_delay=…)`: when cancelled it leaves sockets to the garbage
        # collector, and it fails under eager tasks (python/cpython#124309).
        connection = await _race(addresses)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            _, stream = await loop.create_connection(cls, sock=connection)
        except BaseException:
            connection.close()
            raise
        stream._socket = connection
        return stream

    # Callbacks for asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer for the next bytes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Keep the bytes; pause reading when there are many."""
        self._pieces.append(bytes(self._buffer[:nbytes]))
        self._size += nbytes
        if self._size >= MAX_HELD_BYTES and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        """Record the end of the stream; the transport closes itself."""
        self._is_over = True
        _wake(self._reader)

    def connection_lost(self, exception: Exception | None) -> None:
        """Record why the connection ended."""
        self._is_over = self._is_lost = True
        self._error = self._error or exception
        _wake(self._reader)
        self._cancel_timer()
        self.resume_writing()

    def pause_writing(self) -> None:
        """Make the writer wait."""
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        """Wake the writer."""
        _wake(self._writer)
        self._writer = None

    # The `Stream` interface.

    async def read(self, by: float | None, idle: float | None = None) -> bytes:
        """Return the next bytes."""
        now = self._loop.time()
        if by is not None and now >= by:  # even if bytes are available
            raise TimeoutError
        if not self._pieces and not self._is_over:
            if self._is_paused:  # not earlier: while the reader is slow, the kernel holds the rest
                self._is_paused = False
                self._transport.resume_reading()
            # A timer for each token would cost more than reading it, so one timer is reused.
            due = by if idle is None else now + idle if by is None or now + idle < by else by
            self._due = due
            if due is not None and (self._timer is None or self._timer.when() > due):
                self._cancel_timer()
                self._timer = self._loop.call_at(due, self._on_timer)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._pieces:
            return self._take()
        if self._error is not None:
            raise self._error
        return b""

    async def write(self, data: bytes, by: float | None) -> None:
        """Send all bytes; the transport may buffer the last of them."""
        if self._transport.is_closing():
            raise self._error or ConnectionResetError("the server closed the connection")
        self._transport.write(data)
        if self._writer is not None:
            async with asyncio.timeout_at(by):
                await self._writer

    async def start_tls(self, context: ssl.SSLContext, host: str, by: float | None) -> AsyncStream:
        """Return this connection, upgraded to TLS."""
        secure = AsyncStream()
        secure._socket = self._socket
        async with asyncio.timeout_at(by):
            transport = await self._loop.start_tls(self._transport, secure, context, server_hostname=host)
        if transport is None:  # uvloop, if the server disconnects during the handshake
            raise ConnectionResetError("the server closed the connection")
        secure.connection_made(transport)
        return secure

    def is_readable(self) -> bool:
        """Return whether there are unread bytes or the server closed the connection."""
        # The socket shows that the server disconnected before the event loop reports it.
        return bool(self._pieces) or self._is_over or _is_readable(self._socket)

    def close(self) -> None:
        """Close the connection immediately."""
        if self._is_lost or self._loop.is_closed():
            return  # a lost transport has no loop, which `abort` needs
        # `abort` closes only our copy of the socket: a forked child's copy would keep the server writing.
        _shut_down(self._socket, self._process)
        self._transport.abort()

    def _on_timer(self) -> None:
        self._timer = None
        if self._reader is None or self._reader.done() or self._due is None:
            return
        if self._loop.time() < self._due:
            self._timer = self._loop.call_at(self._due, self._on_timer)
        else:
            self._reader.set_exception(TimeoutError())

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _take(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        return data


async def _race(addresses: list[Address]) -> socket.socket:
    """Return a socket connected to the first address that responds; close all others."""
    waiting, attempts = deque(addresses), set[asyncio.Task[socket.socket]]()
    pending, winner = set[asyncio.Task[socket.socket]](), None
    failure: BaseException = OSError("the host has no address")
    try:
        while winner is None and (waiting or pending):
            if waiting:
                attempt = asyncio.ensure_future(_attempt(*waiting.popleft()))
                attempts.add(attempt)
                pending.add(attempt)
            done, pending = await asyncio.wait(
                pending, timeout=ATTEMPT_DELAY if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                failure = attempt.exception() or failure
                winner = winner or (attempt if attempt.exception() is None else None)
    finally:
        for attempt in attempts - {winner}:
            attempt.cancel()
            attempt.add_done_callback(_discard)
    if winner is None:
        raise failure
    return winner.result()


async def _attempt(family: int, address: Any) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


def _connect(family: int, address: Any, by: float | None) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(_remaining(by))
        connection.connect(address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def _close_failed(attempts: selectors.BaseSelector, attempt: socket.socket, error: int) -> OSError:
    attempts.unregister(attempt)
    attempt.close()
    return OSError(error, os.strerror(error))


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _remaining(by: float | None) -> float | None:
    if by is None:
        return None
    left = by - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _is_readable(connection: socket.socket) -> bool:
    if connection.fileno() < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([connection.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _shut_down(connection: socket.socket, process: int) -> None:
    if process == os.getpid():  # a forked child's copies are its parent's connections
        with suppress(OSError):  # already disconnected
            connection.shutdown(socket.SHUT_RDWR)


MAX_WORKERS = 32
MAX_ROUTES = 256
GRACE = 0.02
"""Extra seconds for an HTTP library's timeouts to fire before ours: they know what was sent."""


@lru_cache(maxsize=1)
def _workers() -> ThreadPoolExecutor:
    # Not the loop's default executor: the program's work there must not delay calls, nor calls that work.
    # Not `run_in_thread`: DNS lookups for 1,000 calls must not start 1,000 threads, and a program that exits
    # waits for what is running here. 32, so that a dead name server does not block file access.
    return ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="piccc")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork


_background: set[asyncio.Task[None]] = set()


class _Backend:
    _kind: str

    def __init__(self, client: Any = None, *, library: Any = None) -> None:
        self.client = client
        self._library = library_of(client, self._kind) if client is not None else library
        self._routes: dict[tuple[str, str, int], Route] = {}

    @property
    def backend(self) -> str:
        """Name and version of `h11` or the HTTP library that sends the requests."""
        library = self._library or _preferred_library() or h11
        return f"{library.__name__} {library.__version__}"

    @property
    def _agent(self) -> str:
        return f"piccc/{__version__} {self.backend.replace(' ', '/')} python/{platform.python_version()}"

    def random(self) -> float:
        """Return a random number in [0, 1)."""
        return random.random()  # noqa: S311  jitter, not a secret

    def in_thread(self) -> SyncBackend:
        """Return a blocking backend with the same HTTP library."""
        return SyncBackend(library=self._library)

    def _route(self, url: str) -> Route:
        parts = urlsplit(url)
        scheme, host = parts.scheme, (parts.hostname or "").lower()
        origin = scheme, host, parts.port or {"http": 80}.get(scheme, 443)
        route = self._routes.get(origin)
        if route is None:
            if scheme not in ("http", "https") or not host:
                raise ValueError(f"not an http(s) URL: {scheme}://{host}")
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            certificates = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
            route = self._routes[origin] = Route(*origin, proxy_for(*origin), certificates)
        return route

    def _library_for(self, route: Route) -> Any:
        """Return the HTTP library for a route, or None to use our own connections."""
        if route.proxy and self.client is None:
            _check_proxy(route.proxy)
        library = self._library or _preferred_library()
        return library or (library_named("httpx") if _needs_httpx(route.proxy) else None)

    def _load(self, url: str) -> None:
        route = self._route(url)
        if self._library_for(route) is not None or route.scheme == "https":
            tls_context(route.certificates)

    def _library_client(self, library: Any, route: Route) -> Any:
        """Return a client for one request: without idle connections there are no stale ones, nor cookies."""
        try:
            return getattr(library, self._kind)(
                verify=tls_context(route.certificates), proxy=route.proxy, trust_env=False
            )
        except ImportError as error:
            raise ConfigurationError(
                f"The proxy {_redacted(route.proxy)} needs a package that is not installed.",
                hint='pip install "piccc[socks]"',
            ) from error
        except ValueError as error:
            raise _invalid_proxy(route.proxy) from error
        except OSError as error:
            raise Failure(Outcome.NOT_SENT, f"no connection: {message_of(error)}") from error

    def _classified(
        self, error: Exception, library: Any, client: Any, route: Route, departure: Departure
    ) -> Failure:
        failure = classify(error, library, client, departure)
        if failure.timed_out and departure.is_in_handshake:
            failure.hint = SILENT
        if self.client is None and route.proxy and failure.outcome is not Outcome.UNKNOWN:
            failure.reason = f"{failure.reason}, through the proxy {_redacted(route.proxy)}"
        return failure

    def _build(self, client: Any, request: HTTPRequest, now: float, trace: Callable[..., Any]) -> Any:
        """Return the library's request; raise Failure if its deadline passed, as after a slow import."""
        left = None if request.by is None else request.by - now
        if left is not None and left <= 0:
            raise Failure(Outcome.NOT_SENT, TOO_LATE, timed_out=True)
        idle = earliest(request.idle, left)
        timeout = {"connect": earliest(request.connect, left), "read": idle, "write": idle, "pool": left}
        headers = request.headers
        if not any(name == "user-agent" for name, _ in headers):
            headers = [("user-agent", self._agent), *headers]
        return client.build_request(
            request.method,
            request.url,
            headers=headers,
            content=None if request.body is None else bytes(request.body),
            extensions={"timeout": timeout, "trace": trace},
        )


class SyncBackend(_Backend):
    """The backend that blocks its thread and never suspends a coroutine."""

    _kind = "Client"

    def now(self) -> float:
        """Return the current time."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        time.sleep(seconds)  # noqa: ASYNC251  this backend blocks by design

    def signal(self) -> SyncSignal:
        """Return a signal for a waiting thread."""
        return SyncSignal()

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a function that may block."""
        return function(*args)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine over this backend in a daemon thread, with the caller's context variables."""
        run_in_thread(lambda: run_sync(work()))

    async def resolve(self, host: str) -> list[str]:
        """Return the IP addresses of a host, or an empty list if it cannot be resolved."""
        return _resolve(host)

    async def connect(self, host: str, port: int, by: float | None) -> SyncStream:
        """Open a TCP connection; raise OSError."""
        return SyncStream.connect(addresses_of(host, port), by)

    async def warm_up(self, url: str) -> None:
        """Load what requests to a server need."""
        await self.run(self._load, url)

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send a request and return once the headers arrive; raise Failure if they do not."""
        route = _checked_route(self._route, request)
        library = self._library_for(route)
        if library is None:
            connections.blocking_pool.holders.add(self)
            return await _send(self, connections.blocking_pool, route, request)
        client, departure = self.client or self._library_client(library, route), Departure()
        if request.before_sending is not None:  # a library connects only when it sends
            await request.before_sending()
        by = None if request.by is None else request.by + GRACE
        try:
            built = self._build(client, request, self.now(), departure.trace)
            send = partial(client.send, built, stream=True, follow_redirects=False)
            response = call_within(by, send, discard=lambda late: late.close())
            return SyncLibraryResponse(library, client, response, request, is_ours=self.client is None)
        except BaseException as error:
            departure.hold_back()  # after an interrupt, the thread must not send the request
            departure.close()
            if self.client is None:
                client.close()
            if not isinstance(error, Exception):
                raise
            raise self._classified(error, library, client, route, departure) from scrub(error)

    async def close(self) -> None:
        """Close what this backend opened; the caller's client stays open."""
        pool = connections.blocking_pool
        pool.holders.discard(self)
        if not pool.holders:
            pool.close()


class AsyncBackend(_Backend):
    """The backend for the running event loop."""

    _kind = "AsyncClient"

    def now(self) -> float:
        """Return the current time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
        await asyncio.sleep(seconds)

    def signal(self) -> AsyncSignal:
        """Return a signal for a coroutine on the running event loop."""
        return AsyncSignal()

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call a blocking function in a worker thread, with the caller's context variables."""
        call: Future[T] = _workers().submit(partial(copy_context().run, function, *args))
        return await asyncio.wrap_future(call)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine as a task on the running event loop."""
        task = asyncio.get_running_loop().create_task(work())
        _background.add(task)  # the loop keeps only a weak reference
        task.add_done_callback(_background.discard)

    async def resolve(self, host: str) -> list[str]:
        """Return the IP addresses of a host, or an empty list if it cannot be resolved."""
        return await self.run(_resolve, host)

    async def connect(self, host: str, port: int, by: float | None) -> AsyncStream:
        """Open a TCP connection; raise OSError."""
        async with asyncio.timeout_at(by):
            return await AsyncStream.connect(await self.run(addresses_of, host, port))

    async def warm_up(self, url: str) -> None:
        """Load what requests to a server need."""
        await self.run(self._load, url)

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send a request and return once the headers arrive; raise Failure if they do not."""
        pool = await connections.running_pool()
        route = _checked_route(self._route, request)
        is_loaded = self._library or not _needs_httpx(route.proxy) or "httpx" in sys.modules
        library = self._library_for(route) if is_loaded else await self.run(self._library_for, route)
        if library is None:
            pool.holders.add(self)
            return await _send(self, pool, route, request)
        client = self.client or await self.run(self._library_client, library, route)
        if request.before_sending is not None:  # a library connects only when it sends
            await request.before_sending()
        departure = Departure()
        try:
            built = self._build(client, request, self.now(), departure.atrace)
            async with asyncio.timeout_at(None if request.by is None else request.by + GRACE):
                response = await client.send(built, stream=True, follow_redirects=False)
            return AsyncLibraryResponse(library, client, response, request, is_ours=self.client is None)
        except BaseException as error:
            await departure.aclose()
            if self.client is None:
                await client.aclose()
            if not isinstance(error, Exception):
                raise
            raise self._classified(error, library, client, route, departure) from scrub(error)

    async def close(self) -> None:
        """Close what this backend opened on the running event loop; the caller's client stays open."""
        pool = await connections.running_pool()
        pool.holders.discard(self)
        if not pool.holders:
            pool.close()


async def _send(
    backend: SyncBackend | AsyncBackend, pool: Pool, route: Route, request: HTTPRequest
) -> HTTPResponse:
    """Send over our own connections, once more if an idle one proves stale."""
    began, agent = backend.now(), backend._agent
    try:
        return await connections.send(backend, pool, route, request, agent)
    except Failure as failure:
        if not failure.is_stale:
            raise
    # As browsers and proxies do (RFC 9112, section 9.3.1): a server that closes an idle connection just as a
    # request arrives has not read it. Send it once more, on a new connection.
    request.notes.stale = backend.now() - began
    return await connections.send(backend, pool, route, replace(request, fresh=True), agent)


def _redacted(proxy: str | None) -> str:
    """Return the start of a proxy URL, without credentials."""
    return redact((proxy or "")[:200])


def proxy_for(scheme: str, host: str, port: int) -> str | None:
    """Return the proxy that the environment sets for a server, None for a server on this machine."""
    if is_loopback(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(f"{host}:{port}") or _is_excepted(host, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_excepted(host: str, no_proxy: str) -> bool:
    """Return whether `NO_PROXY` has the host in a form that urllib ignores: `10.0.0.0/8` or `*.internal`."""
    for each in no_proxy.lower().replace(",", " ").split():
        if each.startswith("*.") and host.lower().endswith(each[1:]):
            return True
        with suppress(ValueError):
            if "/" in each and ip_address(host) in ip_network(each, strict=False):
                return True
    return False


def _needs_httpx(proxy: str | None) -> bool:
    """Return whether a proxy uses TLS or SOCKS, which only httpx supports."""
    return proxy is not None and not proxy.startswith("http://")


def _check_proxy(proxy: str) -> None:
    try:
        if urlsplit(proxy).port == 0 or not urlsplit(proxy).hostname:
            raise ValueError("no host, or port 0")
    except ValueError as error:
        raise _invalid_proxy(proxy) from error


def _invalid_proxy(proxy: str | None) -> ConfigurationError:
    return ConfigurationError(
        f"{_redacted(proxy)} is not a valid proxy URL.",
        hint="Set HTTPS_PROXY, HTTP_PROXY or ALL_PROXY to http://host:port, or unset it.",
    )


def _resolve(host: str) -> list[str]:
    try:
        infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(address[0]) for _, _, _, _, address in infos]


def _checked_route(route_of: Callable[[str], Route], request: HTTPRequest) -> Route:
    try:
        return route_of(request.url)
    except ValueError as error:
        raise Failure(Outcome.HOPELESS, message_of(error)) from None


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends; raise ConfigurationError if the caller's code makes it suspend."""
    try:
        coroutine.send(None)
        while True:
            coroutine.throw(Suspended())  # where it suspended, so that a poller survives it and reports it
    except StopIteration as done:
        value: T = done.value
        return value
    except Suspended:
        raise suspended() from None


async def read_all(response: HTTPResponse, limit: int, by: float | None = None) -> bytes:
    """Return the whole body; raise OverflowError if it exceeds `limit` bytes."""
    first = await response.receive(by)
    if not first:
        return first
    pieces, size = [first], len(first)
    while piece := await response.receive(by):
        size += len(piece)
        if size > limit:
            raise OverflowError
        pieces.append(piece)
    return first if len(pieces) == 1 else b"".join(pieces)


class SyncSignal:
    """A signal that wakes a waiting thread."""

    def __init__(self) -> None:
        # Of the standard library's ways to wake a thread, only SimpleQueue is safe in a finalizer.
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """End the current wait, or else the next one; safe in any thread."""
        if self._queue.empty():
            self._queue.put(None)

    async def wait(self, seconds: float) -> None:
        """Wait until the signal is set, at most `seconds`, then clear it."""
        with suppress(Empty):
            self._queue.get(timeout=min(seconds, threading.TIMEOUT_MAX))


class AsyncSignal:
    """A signal that wakes a coroutine on the event loop that created it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the current wait, or else the next one; safe in any thread."""
        with suppress(RuntimeError):  # nothing waits on a closed loop
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> None:
        """Wait until the signal is set, at most `seconds`, then clear it."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()


def _preferred_library() -> Any:
    """Return the library that all requests must use, or None.

    Either `PICCC_HTTP_BACKEND` names it, or another package has patched it to see every request: a mock
    (respx, pytest-httpx), a recorder (VCR.py), a tracer (OpenTelemetry).
    """
    if name := os.environ.get(BACKEND_VARIABLE):
        return library_named(name)
    return next((sys.modules[name] for name in LIBRARIES if name in sys.modules and _is_patched(name)), None)


def _is_patched(name: str) -> bool:
    library, core = sys.modules[name], sys.modules.get(name.replace("httpx", "httpcore"))
    classes = [library.HTTPTransport, library.AsyncHTTPTransport]
    if core is not None:
        classes += [core.ConnectionPool, core.AsyncConnectionPool]
    return any(
        # A function's globals are those of the module that defines it.
        not isinstance(method, FunctionType) or method.__globals__ is not class_.__init__.__globals__
        for class_ in classes
        for method in (getattr(class_, "handle_request", None) or class_.handle_async_request,)
    )
