"""HTTP/1.1 over our own connections: messages (RFC 9112), connection pools, and a pool of idle threads.

CONTRIBUTING.md, "Connections", says why we do not use an HTTP library's pool.

Each call closes all expired idle connections. After its last blocking call a process keeps its idle
connections until it exits or the client is closed (one closed by the server shows as CLOSE_WAIT): closing
them would need a thread, and a process with threads forks less safely.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import ssl
import threading
import time
import weakref
import zlib
from base64 import b64encode
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from itertools import chain
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

import certifi
import h11

from piccc._http.backend import Backend, Failure, HTTPRequest, Outcome, Signal, Stream
from piccc.config import LONGEST, redact

if TYPE_CHECKING:
    from piccc._dialects.common import LargeBody

IDLE_SECONDS = 4.0
"""How long to keep an idle connection without a Keep-Alive header; uvicorn and Node use 5 seconds."""
MAX_IDLE_SECONDS = 60.0
MAX_ORIGINS = 256
FOREVER = 3600.0
TOO_LATE = "the deadline passed"
SILENT = (
    "Nothing was sent. The server accepted the connection but did not answer the TLS handshake. If it speaks "
    "plain HTTP, start base_url with http://."
)
"""A plain HTTP server reads the TLS ClientHello as the start of a line and waits for its end."""
TLS_ALERT = b"\x15\x03"
"""The start of a TLS alert (RFC 8446, section 5.1), which rejects plain HTTP; no HTTP response starts so."""
SWEEP_SECONDS = 1.0
_KEEP_ALIVE = re.compile(r"timeout=(\d{1,6})")


def earliest(*moments: float | None) -> float | None:
    """Return the smallest number, ignoring None; None if there is none."""
    return min((moment for moment in moments if moment is not None), default=None)


class Opener(Backend, Protocol):
    """A backend that can open connections for a pool."""

    async def connect(self, host: str, port: int, by: float | None) -> Stream:
        """Open a TCP connection; raise OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """A server and how to reach it; requests with equal routes share connections."""

    scheme: str
    host: str
    port: int
    proxy: str | None
    certificates: tuple[str | None, str | None]

    @property
    def authority(self) -> str:
        """Host and port as in a URL, without the scheme's default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}.get(self.scheme) else f"{host}:{self.port}"


@lru_cache(maxsize=16)
def tls_context(certificates: tuple[str | None, str | None]) -> ssl.SSLContext:
    """Return the TLS context for `SSL_CERT_FILE` and `SSL_CERT_DIR`, by default with certifi's authorities.

    Creating one takes about 20 ms of reading files, so all connections share it.
    """
    file, folder = certificates
    context = ssl.create_default_context(
        cafile=file or (None if folder else certifi.where()), capath=None if file else folder
    )
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connection:
    """A connection and its history."""

    __slots__ = ("expires_at", "is_used", "served_stream", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_used = False
        self.served_stream = False
        self.expires_at = 0.0


class Origin:
    """The connections of one route: the idle ones, newest last, and how many are in use.

    Acquiring or releasing one takes constant time. Origins never wait for each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: deque[Connection] = deque()
        self._in_use = 0
        self._waiting: deque[Signal] = deque()
        self._abandoned: deque[None] = deque()
        self._is_closed = False
        self._keeps_after_stream = True

    async def acquire(self, io: Opener, request: HTTPRequest, limit: int) -> Connection | None:
        """Return an idle connection, or None to open a new one; wait while `limit` are in use."""
        signal: Signal | None = None
        began = io.now()
        try:
            while True:
                with self._lock:
                    self._settle(now := io.now())
                    if not self._waiting or self._waiting[0] is signal:  # first come, first served
                        connection = None if request.fresh else self._pop_idle(now)
                        if connection is not None or self._in_use < limit:
                            if connection is None and self._idle and self._in_use + len(self._idle) >= limit:
                                self._idle.popleft().stream.close()
                            self._in_use += 1
                            return connection
                    if signal is None:
                        self._waiting.append(signal := io.signal())
                left = FOREVER if request.by is None else request.by - now
                if left <= 0:
                    raise Failure(
                        Outcome.NOT_SENT,
                        f"all {limit} connections to the server remained in use",
                        timed_out=True,
                        hint="Nothing was sent. Raise max_connections, or make fewer calls at once.",
                    )
                await signal.wait(left)
        finally:
            if signal is not None:
                request.notes.queued += io.now() - began
                with self._lock:
                    self._waiting.remove(signal)
                    self._wake()

    def release(self, connection: Connection | None, expires_at: float | None = None) -> None:
        """Keep a connection until it expires, or close it; None if it could not be opened."""
        with self._lock:
            self._in_use -= 1
            if (
                connection is not None
                and expires_at is not None
                and not self._is_closed
                and (self._keeps_after_stream or not connection.served_stream)
            ):
                connection.expires_at = expires_at
                self._idle.append(connection)
                connection = None
            self._wake()
        if connection is not None:
            connection.stream.close()

    def abandon(self) -> None:
        """Release a place from a finalizer, which may run during `acquire` and so must not take the lock."""
        self._abandoned.append(None)
        try:
            self._waiting[0].set()
        except IndexError:
            return

    def note_end(self, connection: Connection) -> None:
        """Record that the server closed an idle connection; if it had served a stream, stop keeping those.

        llama.cpp's server, for example, announces keep-alive but closes the connection after the last chunk.
        """
        if connection.served_stream:
            self._keeps_after_stream = False

    def sweep(self, now: float) -> None:
        """Close expired idle connections, and count places released by finalizers."""
        with self._lock:
            self._settle(now)

    def close(self) -> None:
        """Close idle connections now, and the others once they are released."""
        self._is_closed = True
        while True:
            try:
                connection = self._idle.popleft()
            except IndexError:  # another thread may have taken the last one
                return
            connection.stream.close()

    @property
    def is_unused(self) -> bool:
        """Whether no connection is in use or awaited."""
        return not self._in_use and not self._waiting

    def _settle(self, now: float) -> None:
        while self._abandoned:
            self._abandoned.popleft()
            self._in_use -= 1
        while self._idle and self._idle[0].expires_at <= now:
            self._idle.popleft().stream.close()

    def _pop_idle(self, now: float) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.expires_at > now:
                if not connection.stream.is_readable():
                    return connection
                self.note_end(connection)  # or bytes arrived without a request
            connection.stream.close()
        return None

    def _wake(self) -> None:
        if self._waiting:
            self._waiting[0].set()


class Pool:
    """The origins of one event loop, or of all blocking calls."""

    def __init__(self) -> None:
        self._origins: dict[Route, Origin] = {}
        self._sweep_at = 0.0
        self.holders: weakref.WeakSet[object] = weakref.WeakSet()

    def origin(self, route: Route, now: float) -> Origin:
        """Return the connections of this route; close all expired ones."""
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            for known in list(self._origins.values()):
                known.sweep(now)
        origin = self._origins.get(route)
        if origin is None:
            if len(self._origins) >= MAX_ORIGINS:
                for other, unused in list(self._origins.items()):
                    if unused.is_unused:
                        self._origins.pop(other, None)
                        unused.close()
            origin = self._origins.setdefault(route, Origin())
        return origin

    def close(self) -> None:
        """Close idle connections now, and the others once they are released."""
        origins, self._origins = self._origins, {}
        for origin in origins.values():
            origin.close()


class Response:
    """A response whose headers have arrived and whose body may still be arriving."""

    def __init__(
        self, io: Opener, origin: Origin, connection: Connection, exchange: Exchange, request: HTTPRequest
    ) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self._io = io
        self._origin = origin
        self._connection = connection
        self._stream = connection.stream
        self._may_continue = exchange.may_continue
        self._body = exchange.body
        self._decompressor = decompressor_for(exchange.headers.get("content-encoding", ""))
        self._rest = exchange.rest
        self._idle = request.idle
        self._is_released = False
        connection.served_stream = exchange.headers.get("content-type", "").startswith("text/event-stream")

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure on an error or when `by` passes."""
        body, decompressor = self._body, self._decompressor
        try:
            if decompressor is not None and (data := decompressor.more()):
                await self._io.sleep(0)  # unpacking buffered bytes would never yield to the loop
                if by is not None and self._io.now() >= by:
                    raise TimeoutError
                return data
            while not body.is_over:
                if body.damage:
                    raise MalformedResponse(f"the body {body.damage}")
                if data := self._rest:
                    self._rest = b""
                elif not (data := await self._stream.read(by, self._idle)):
                    body.end()
                    continue
                content = body.feed(data)
                if content and decompressor is not None:
                    content = decompressor.feed(content)
                if content:
                    return content
            if decompressor is not None:
                decompressor.end()
        except (OSError, MalformedResponse) as error:
            self._may_continue = False
            raise failure_after_sending(error) from scrub(error)
        return b""

    async def close(self) -> None:
        """Release the connection if the whole body was read and nothing followed it, else close it."""
        if self._is_released:
            return
        self._is_released = True
        expires_at = None
        if self._may_continue and self._body.is_over and not self._body.rest and not self._rest:
            if self._stream.is_readable():
                self._origin.note_end(self._connection)
            elif seconds := idle_seconds(self.headers.get("keep-alive", "")):
                expires_at = self._io.now() + seconds
        self._origin.release(self._connection, expires_at)

    def abandon(self) -> None:
        """Close the connection immediately; safe in a finalizer."""
        if not self._is_released:
            self._is_released = True
            self._stream.close()
            self._origin.abandon()


def idle_seconds(keep_alive: str) -> float:
    """Return how long to keep an idle connection: a second less than the server announces."""
    match = _KEEP_ALIVE.search(keep_alive)
    return min(MAX_IDLE_SECONDS, max(0.0, int(match[1]) - 1.0)) if match else IDLE_SECONDS


async def send(io: Opener, pool: Pool, route: Route, request: HTTPRequest, agent: str) -> Response:
    """Send a request and return once the headers arrive; raise Failure if they do not."""
    try:
        exchange = Exchange()
        pieces = _encode(exchange, route, request, agent)
    except Exception as error:
        raise Failure(Outcome.HOPELESS, message_of(error)) from scrub(error)
    origin = pool.origin(route, io.now())
    connection = await origin.acquire(io, request, request.max_connections)
    try:
        if connection is None:
            connection = Connection(await _open(io, route, request))
        if request.before_sending is not None:
            await request.before_sending()
            if request.by is not None and io.now() >= request.by:
                raise Failure(Outcome.NOT_SENT, TOO_LATE, timed_out=True)
        await _transfer(connection, exchange, pieces, request.by)
        return Response(io, origin, connection, exchange, request)
    except BaseException as error:
        if isinstance(error, Failure) and error.is_stale and connection is not None:
            origin.note_end(connection)
        origin.release(connection)
        raise


def _encode(exchange: Exchange, route: Route, request: HTTPRequest, agent: str) -> Iterable[bytes]:
    parts = urlsplit(request.url)
    # Escape only what a request line cannot contain; keep existing escapes.
    target = quote(
        f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}", safe="%/?:@!$&'()*+,;=-._~#[]|"
    )
    given = {name for name, _ in request.headers}
    host = route.authority if route.authority.isascii() else route.authority.encode("idna").decode()
    defaults = [("host", host), ("user-agent", agent)]
    headers = [header for header in defaults if header[0] not in given] + request.headers
    if route.proxy and route.scheme == "http":
        target = f"http://{route.authority}{target}"
        headers += _proxy_authorization(urlsplit(route.proxy))
    return exchange.request(request.method, target, headers, request.body)


async def _open(io: Opener, route: Route, request: HTTPRequest) -> Stream:
    by = earliest(request.by, None if request.connect is None else io.now() + request.connect)
    proxy = urlsplit(route.proxy) if route.proxy else None
    stream: Stream | None = None
    in_handshake = False
    try:
        host, port = (
            (proxy.hostname or "", proxy.port or 80) if proxy else (request.address or route.host, route.port)
        )
        stream = await io.connect(host, port, by)
        if route.scheme == "https":
            if proxy is not None:
                await _tunnel(stream, proxy, route, by)
            context = await io.run(tls_context, route.certificates)
            in_handshake = True
            stream = await stream.start_tls(context, route.host, by)
        return stream
    except BaseException as error:
        if stream is not None:
            stream.close()
        if isinstance(error, Failure) or not isinstance(error, Exception):
            raise
        is_retryable = isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)
        through = f", through the proxy {proxy.hostname}:{proxy.port or 80}" if proxy else ""
        raise Failure(
            Outcome.NOT_SENT if is_retryable else Outcome.HOPELESS,
            f"no connection{through}: {message_of(error)}",
            timed_out=isinstance(error, TimeoutError),
            hint=SILENT if in_handshake and isinstance(error, TimeoutError) else "",
        ) from scrub(error)


async def _tunnel(stream: Stream, proxy: SplitResult, route: Route, by: float | None) -> None:
    """Ask a proxy for a tunnel (RFC 9110, section 9.3.6)."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    exchange, target = Exchange(), f"{host}:{route.port}"
    headers = [("host", target), *_proxy_authorization(proxy)]
    await stream.write(b"".join(exchange.request("CONNECT", target, headers, None)), by)
    while not exchange.is_begun:
        if not (data := await stream.read(by)):
            raise ConnectionResetError("the proxy closed the connection")
        exchange.feed(data)
    if not 200 <= exchange.status < 300 or exchange.rest:
        raise Failure(
            Outcome.HOPELESS if exchange.status == 407 else Outcome.NOT_SENT,
            f"the proxy {proxy.hostname}:{proxy.port or 80} returned HTTP {exchange.status}",
        )


def _proxy_authorization(proxy: SplitResult) -> list[tuple[str, str]]:
    if proxy.username is None:
        return []
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [("proxy-authorization", f"Basic {b64encode(credentials.encode()).decode()}")]


async def _transfer(
    connection: Connection, exchange: Exchange, pieces: Iterable[bytes], by: float | None
) -> None:
    stream, is_reused, has_begun = connection.stream, connection.is_used, False
    connection.is_used = True
    try:
        broken: OSError = ConnectionResetError("the server closed the connection without a response")
        try:
            for piece in pieces:
                await stream.write(piece, by)
        except TimeoutError:
            raise
        except OSError as error:
            broken = error  # the server may have responded before a large body was complete
        while not exchange.is_begun:
            data = await stream.read(by)
            if not data:
                raise broken
            if not has_begun and data.startswith(TLS_ALERT):
                raise Failure(Outcome.HOPELESS, "the server speaks TLS but was sent plain HTTP")
            has_begun = True
            exchange.feed(data)
    except (OSError, MalformedResponse, h11.ProtocolError) as error:
        failure = failure_after_sending(error)
        failure.is_stale = is_reused and not has_begun and not failure.timed_out
        raise failure from scrub(error)


def failure_after_sending(error: Exception) -> Failure:
    """Return the failure for a request that was sent without getting a response."""
    if isinstance(error, TimeoutError):
        return Failure(Outcome.UNKNOWN, TOO_LATE, timed_out=True)
    return Failure(Outcome.UNKNOWN, message_of(error))


def message_of(error: BaseException) -> str:
    """Return an error's message, or its class name if it has none."""
    return str(error) or type(error).__name__


def scrub(error: Exception) -> Exception:
    """Remove from an error and its causes the request, and the frames that hold its headers."""
    for cause in chain_of(error):
        cause.__traceback__ = None
        if hasattr(type(cause), "request"):  # a property of httpx's and httpx2's errors
            cause.request = None  # type: ignore[attr-defined]
    return error


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an error and its causes."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


blocking_pool = Pool()
_pools: dict[asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[None]]] = {}
_lock = threading.Lock()
_left_by_parent: list[object] = []


async def running_pool() -> Pool:
    """Return the running event loop's pool, which closes when the loop shuts down."""
    loop = asyncio.get_running_loop()
    entry = _pools.get(loop)
    if entry is None:
        pool = Pool()
        entry = pool, _close_with_loop(loop, pool)
        with _lock:
            for closed in [known for known in _pools if known.is_closed()]:
                del _pools[closed]
            _pools[loop] = entry
        await anext(entry[1])
    return entry[0]


async def _close_with_loop(loop: asyncio.AbstractEventLoop, pool: Pool) -> AsyncGenerator[None]:
    # A loop that shuts down closes its asynchronous generators, and this one then closes the pool.
    try:
        yield
    finally:
        with _lock:
            _pools.pop(loop, None)
        pool.close()


def _after_fork() -> None:
    # The parent's connections must be neither used nor closed by garbage collection.
    global _lock, blocking_pool
    _lock = threading.Lock()
    _left_by_parent.extend([blocking_pool, dict(_pools)])
    blocking_pool = Pool()
    _pools.clear()


atexit.register(lambda: blocking_pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


_NUMBER = re.compile(r"[0-9]{1,300}(\.[0-9]*)?")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in `retry-after-ms` or `retry-after` (seconds or HTTP date), None if invalid.

    Negative, infinite and NaN values are invalid; a past date means 0. A date is relative to the response's
    `date` header, so a wrong clock on either side does no harm.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None else _until(value, headers.get("date"))


def _number(value: str | None) -> float | None:
    return min(float(value), LONGEST) if value and _NUMBER.fullmatch(value.strip()) else None


def _until(value: str | None, since: str | None) -> float | None:
    moment = _moment(value)
    if moment is None:
        return None
    began = _moment(since)
    return min(max(0.0, moment - (time.time() if began is None else began)), LONGEST)


def _moment(value: str | None) -> float | None:
    try:
        date = parsedate_to_datetime(value or "")
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def request_id(headers: Mapping[str, str], secrets: Sequence[str] = ()) -> str | None:
    """Return the server's request id."""
    identifier = headers.get("x-request-id") or headers.get("request-id")
    return redact(identifier, secrets) if identifier else None


MAX_HEAD_BYTES = 100 * 1024
MAX_LINE_BYTES = 16 * 1024
MAX_TRAILER_BYTES = 64 * 1024
STEP_BYTES = 64 * 1024
JOINED_BYTES = 64 * 1024
"""The largest body that is sent in one write with its head."""
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_UNPACKED_RATIO = 100

_HEX_DIGITS = b"0123456789abcdefABCDEF"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:|[ \t]")
"""The start of a trailer line (RFC 9112, section 5): a field, or the continuation of a folded one."""


class MalformedResponse(Exception):
    """A response that cannot be parsed; `str()` gives the reason."""


class Exchange:
    """Encoder of one request and parser of its response's head.

    Feed bytes until `is_begun`, then parse the body with `body`; its first bytes may be in `rest`.
    """

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: Body = LengthBody(0)
        self.rest = b""
        self.is_begun = False
        self.may_continue = False

    def request(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | LargeBody | None
    ) -> Iterable[bytes]:
        """Return a request as bytes; a large body stays separate, since joining would copy it.

        Raise h11.LocalProtocolError for an invalid request.
        """
        fields = list(headers)
        if body is not None:
            fields.append(("content-length", str(len(body))))
        head = self._parser.send(h11.Request(method=method, target=target, headers=fields)) or b""
        pieces = chain([head], self._encoded(body))
        return pieces if body and len(body) > JOINED_BYTES else [b"".join(pieces)]

    def _encoded(self, body: bytes | LargeBody | None) -> Iterator[bytes]:
        for piece in (body,) if isinstance(body, bytes) else body or ():
            yield self._parser.send(h11.Data(data=piece)) or b""
        self._parser.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> None:
        """Parse until the head is complete; raise MalformedResponse if it is not HTTP/1.1."""
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise MalformedResponse(f"the response is not HTTP/1.1: {error}") from None
        if isinstance(event, h11.Response):
            self._begin(event)

    def _begin(self, head: h11.Response) -> None:
        self.is_begun = True
        self.status = head.status_code
        for name, value in head.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self.rest = self._parser.trailing_data[0]
        self.may_continue = self._parser.our_state is h11.DONE  # MUST_CLOSE if either side sent "close"
        # RFC 9112, section 6.3; h11 rejects contradictory headers.
        if self.status in (204, 304):
            self.body = LengthBody(0)
        elif "transfer-encoding" in self.headers:
            self.body = ChunkedBody()
        elif "content-length" in self.headers:
            self.body = LengthBody(int(self.headers["content-length"].partition(",")[0]))
        else:
            self.body = UnboundedBody()
            self.may_continue = False


class Body(Protocol):
    """A body's framing. Once `is_over`, `rest` has the bytes after the body.

    `damage` describes what made the body unreadable; feed nothing after that.
    """

    is_over: bool
    rest: bytes
    damage: str

    def feed(self, data: bytes) -> bytes:
        """Return the content in the next bytes."""
        ...

    def end(self) -> None:
        """Record that the connection was closed: the body either `is_over` or was cut off."""
        ...


class LengthBody:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_over = not length
        self.rest = b""
        self.damage = ""

    def feed(self, data: bytes) -> bytes:
        """Return the content in the next bytes."""
        content, self.rest = data[: self._left], data[self._left :]
        self._left -= len(content)
        self.is_over = not self._left
        return content

    def end(self) -> None:
        """Record that the rest is missing."""
        self.damage = f"was cut off: {self._left} bytes are missing"


class UnboundedBody:
    """A body that ends with its connection."""

    is_over = False
    rest = b""
    damage = ""

    def feed(self, data: bytes) -> bytes:
        """Return all of it."""
        return data

    def end(self) -> None:
        """Record the end."""
        self.is_over = True


class ChunkedBody:
    """A body in chunks (RFC 9112, section 7.1)."""

    __slots__ = ("_at_line_end", "_in_trailer", "_left", "_trailer_bytes", "damage", "is_over", "rest")

    def __init__(self) -> None:
        self._left = 0
        self._at_line_end = False
        self._in_trailer = False
        self._trailer_bytes = 0
        self.damage = ""
        self.is_over = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the chunks in the next bytes."""
        if self.rest:
            data = self.rest + data
        at, pieces = 0, []
        while at < len(data) and not self.is_over and not self.damage:
            if not self._left:
                end = data.find(b"\r\n", at)
                if end < 0:
                    break
                self._read_line(data[at:end])
                at = end + 2
            if self._left and at < len(data):
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self._at_line_end = not self._left
                pieces.append(piece)
                if self._at_line_end and data[at : at + 2] == b"\r\n":  # nearly always in the same read
                    self._at_line_end = False
                    at += 2
        self.rest = data[at:]
        if len(self.rest) > MAX_LINE_BYTES and not self.is_over:
            self.damage = "is damaged: a chunk's size line is too long"
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> None:
        """Record that the last chunk is missing."""
        self.damage = "was cut off: the connection closed before its end"

    def _read_line(self, line: bytes) -> None:
        if self._at_line_end:
            self._at_line_end = False
            if line:
                self.damage = "is damaged: a chunk is longer than its size"
        elif self._in_trailer:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                self.damage = "is damaged: the trailer is too long"
            elif line and not _TRAILER.match(line):
                # Otherwise a corrupt size, read as 0, would turn content into a trailer.
                self.damage = f"is damaged: not a trailer line: {line[:20]!r}"
            self.is_over = not line
        # Most sizes are bare digits; with cold caches, the regular expression takes 3 µs more.
        elif size := line if 0 < len(line) <= 16 and not line.strip(_HEX_DIGITS) else _size(line):
            self._left = int(size, 16)
            self._in_trailer = not self._left
        else:
            self.damage = f"is damaged: not a chunk size: {line[:20]!r}"


def _size(line: bytes) -> bytes:
    """Return the digits of a chunk size that may have extensions, b"" if there are none."""
    match = _SIZE.fullmatch(line)
    return match[1] if match else b""


class Decompressor:
    """Decompressor that works in steps, so that a small body cannot expand without limit."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._zlib = zlib.decompressobj(wbits)
        self._packed = self._unpacked = 0

    def feed(self, data: bytes) -> bytes:
        """Return the first step of decompressed data; raise MalformedResponse if it is corrupt."""
        self._packed += len(data)
        return self._step(data)

    def more(self) -> bytes:
        """Return the next step of the same input, b"" when it is used up."""
        return self._step(self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail)

    def end(self) -> None:
        """Raise MalformedResponse if the compressed data is incomplete at the end of the body."""
        if self._packed and not self._zlib.eof:
            raise MalformedResponse("the compressed body was cut off")

    def _step(self, data: bytes) -> bytes:
        while data:
            if self._zlib.eof:
                # RFC 1952, section 2.2: gzip data is a series of members; anything else is padding.
                if self._wbits <= zlib.MAX_WBITS or not data.startswith(b"\x1f"):
                    return b""
                self._zlib = zlib.decompressobj(self._wbits)
            try:
                content = self._zlib.decompress(data, STEP_BYTES)
            except zlib.error as error:
                raise MalformedResponse("the compressed body is damaged") from error
            if content:
                self._unpacked += len(content)
                if self._unpacked > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * self._packed):
                    raise MalformedResponse("the compressed body expands to far more than its size")
                return content
            data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
        return b""


class UnsupportedCoding(Decompressor):
    """Decompressor for an unsupported content coding: it fails only when the body is read."""

    def __init__(self, encoding: str) -> None:
        super().__init__(zlib.MAX_WBITS)
        self._encoding = encoding[:80]

    def feed(self, data: bytes) -> bytes:
        """Raise MalformedResponse."""
        raise MalformedResponse(f"the body is encoded as {self._encoding!r}, which was not requested")


def decompressor_for(encoding: str) -> Decompressor | None:
    """Return the decompressor for a content-encoding, None if none is needed."""
    match encoding.strip().lower():
        case "identity" | "":
            return None
        case "gzip" | "x-gzip":
            return Decompressor(16 + zlib.MAX_WBITS)
        case "deflate":
            return Decompressor(zlib.MAX_WBITS)
    return UnsupportedCoding(encoding)


THREAD_IDLE_SECONDS = 0.25
_idle_threads: deque[SimpleQueue[Callable[[], object]]] = deque()
"""Queues on which idle threads wait: starting a thread costs as much CPU as opening a connection."""


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
