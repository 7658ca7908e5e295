"""HTTP/1.1 over connections of our own: messages (RFC 9112), and a pool for each event loop.

Why not an HTTP library's pool: CONTRIBUTING.md, "Connections".

Each call closes the idle connections, to any server, whose time is over. A process that makes no more
blocking calls keeps its last ones until it ends or the client is closed (a server that hung up shows as
CLOSE_WAIT): to close them, a thread would have to run, and a process with threads forks less safely.
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
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

import certifi
import h11

from piccc._http.backend import Backend, Failure, HTTPRequest, Outcome, Signal, Stream, earliest
from piccc.config import redact

if TYPE_CHECKING:
    from piccc._dialects.common import LargeBody

IDLE_SECONDS = 4.0
"""How long an idle connection is kept where the server does not say; uvicorn and Node keep theirs for 5."""
MAX_IDLE_SECONDS = 60.0
MAX_ORIGINS = 256
FOREVER = 3600.0
TOO_LATE = "the deadline passed"
SILENT = (
    "Nothing was sent. The server took the connection and left the TLS handshake unanswered: if it speaks "
    "plain HTTP, begin base_url with http://."
)
"""A server of plain HTTP takes the greeting for the beginning of a line, and waits for its end."""
TLS_ALERT = b"\x15\x03"
"""How a TLS record begins that refuses what is no TLS (RFC 8446, section 5.1); no HTTP reply begins so."""
SWEEP_SECONDS = 1.0
_KEEP_ALIVE = re.compile(r"timeout=(\d{1,6})")


class Opener(Backend, Protocol):
    """A backend that can open connections for a pool."""

    async def connect(self, host: str, port: int, by: float | None) -> Stream:
        """Open a TCP connection; raise OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """A server and the way to it: requests with equal routes share connections."""

    scheme: str
    host: str
    port: int
    proxy: str | None
    certificates: tuple[str | None, str | None]

    @property
    def authority(self) -> str:
        """Host and port as a URL has them, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}.get(self.scheme) else f"{host}:{self.port}"


@lru_cache(maxsize=16)
def tls_context(certificates: tuple[str | None, str | None]) -> ssl.SSLContext:
    """Return the context for `SSL_CERT_FILE` and `SSL_CERT_DIR`, else for certifi's authorities.

    Making one takes some 20 ms of reading files, so all connections share it.
    """
    file, folder = certificates
    context = ssl.create_default_context(
        cafile=file or (None if folder else certifi.where()), capath=None if file else folder
    )
    context.set_alpn_protocols(["http/1.1"])
    return context


class Connection:
    """One connection and what is known of its use."""

    __slots__ = ("expires_at", "is_used", "served_stream", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_used = False
        self.served_stream = False
        self.expires_at = 0.0


class Origin:
    """The connections by one route: the idle ones, newest last, and how many are in use.

    To take or return one costs the same however many are open. Nobody here waits for another origin's.
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
        """Take an idle connection, or with None the right to open one; wait while `limit` are in use."""
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
                        f"all {limit} connections to the server stayed in use",
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
        """Take a connection back until it expires, or close it."""
        with self._lock:
            self._in_use -= 1
            is_kept = (
                connection is not None
                and expires_at is not None
                and not self._is_closed
                and (self._keeps_after_stream or not connection.served_stream)
            )
            if is_kept and connection is not None and expires_at is not None:
                connection.expires_at = expires_at
                self._idle.append(connection)
            self._wake()
        if connection is not None and not is_kept:
            connection.stream.close()

    def abandon(self) -> None:
        """Give a place back from a finalizer: it may run during `acquire`, so it must not take the lock."""
        self._abandoned.append(None)
        try:
            self._waiting[0].set()
        except IndexError:
            return

    def note_end(self, connection: Connection) -> None:
        """Note that the server closed an idle connection; where that was after a stream, keep none of these.

        llama.cpp's server, for one, promises to keep the connection and closes it behind the last chunk.
        """
        if connection.served_stream:
            self._keeps_after_stream = False

    def sweep(self, now: float) -> None:
        """Close the idle connections whose time is over, and count what finalizers gave back."""
        with self._lock:
            self._settle(now)

    def close(self) -> None:
        """Close what is idle now, and what is in use when it is released."""
        self._is_closed = True
        self._drop_idle()

    @property
    def is_unused(self) -> bool:
        """Whether there is nothing to keep."""
        return not self._in_use and not self._waiting

    def _drop_idle(self) -> None:
        while True:
            try:
                connection = self._idle.popleft()
            except IndexError:
                return
            connection.stream.close()

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
                self.note_end(connection)  # or bytes have come without a request
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
        """Return the connections by this route, and close all others whose time is over."""
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS
            for known in list(self._origins.values()):
                known.sweep(now)
        found = self._origins.get(route)
        if found is None:
            if len(self._origins) >= MAX_ORIGINS:
                for each, origin in list(self._origins.items()):
                    if origin.is_unused:
                        self._origins.pop(each, None)
                        origin.close()
            found = self._origins.setdefault(route, Origin())
        return found

    def close(self) -> None:
        """Close the idle connections, and the others when they are released."""
        origins, self._origins = self._origins, {}
        for origin in origins.values():
            origin.close()


class Response:
    """A reply whose headers have come and whose body may still be under way."""

    def __init__(
        self, io: Opener, origin: Origin, connection: Connection, reply: Reply, request: HTTPRequest
    ) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self._io = io
        self._origin = origin
        self._connection = connection
        self._stream = connection.stream
        self._may_continue = reply.may_continue
        self._body = reply.body
        self._unpacker = unpacker_for(reply.headers.get("content-encoding", ""))
        self._rest = reply.rest
        self._idle = request.idle
        self._is_released = False
        connection.served_stream = reply.headers.get("content-type", "").startswith("text/event-stream")

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        body, unpacker = self._body, self._unpacker
        try:
            if unpacker is not None and (data := unpacker.more()):
                await self._io.sleep(0)  # for unpacking what has come long ago never waits by itself
                if by is not None and self._io.now() >= by:
                    raise TimeoutError
                return data
            while not body.is_over:
                if body.damage:
                    raise MalformedReply(f"the body {body.damage}")
                if data := self._rest:
                    self._rest = b""
                elif not (data := await self._stream.read(by, self._idle)):
                    body.end()
                    continue
                content = body.feed(data)
                if content and unpacker is not None:
                    content = unpacker.feed(content)
                if content:
                    return content
            if unpacker is not None:
                unpacker.end()
        except (OSError, MalformedReply) as error:
            self._may_continue = False
            raise unanswered(error) from scrub(error)
        return b""

    async def close(self) -> None:
        """Keep the connection if the body was read to its end and nothing came behind it, else close it."""
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
        """Close the connection at once, from wherever the garbage collector comes upon it."""
        if not self._is_released:
            self._is_released = True
            self._stream.close()
            self._origin.abandon()


def idle_seconds(keep_alive: str) -> float:
    """Return how long to keep a connection idle: a second less than the server says that it does."""
    found = _KEEP_ALIVE.search(keep_alive)
    return min(MAX_IDLE_SECONDS, max(0.0, int(found[1]) - 1.0)) if found else IDLE_SECONDS


async def send(io: Opener, pool: Pool, route: Route, request: HTTPRequest, agent: str) -> Response:
    """Send a request and return when the headers of its reply have come; raise Failure if they do not."""
    try:
        reply = Reply()
        written = _write(reply, route, request, agent)
    except Exception as error:
        raise Failure(Outcome.HOPELESS, described(error)) from scrub(error)
    origin = pool.origin(route, io.now())
    connection = await origin.acquire(io, request, request.max_connections)
    try:
        if connection is None:
            connection = Connection(await _open(io, route, request))
        if request.before_sending is not None:
            await request.before_sending()
            if request.by is not None and io.now() >= request.by:
                raise Failure(Outcome.NOT_SENT, TOO_LATE, timed_out=True)
        await _exchange(connection, reply, written, request.by)
        return Response(io, origin, connection, reply, request)
    except BaseException as error:
        if isinstance(error, Failure) and error.is_stale and connection is not None:
            origin.note_end(connection)
        origin.release(connection)
        raise


def _write(reply: Reply, route: Route, request: HTTPRequest, agent: str) -> Iterable[bytes]:
    parts = urlsplit(request.url)
    # What is escaped already stays as it is; what no request line can carry is escaped.
    target = quote(
        f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}", safe="%/?:@!$&'()*+,;=-._~#[]|"
    )
    given = {name for name, _ in request.headers}
    headers = [
        (
            "host",
            route.authority.encode("idna").decode() if not route.authority.isascii() else route.authority,
        )
    ]
    headers = [each for each in (*headers, ("user-agent", agent)) if each[0] not in given] + request.headers
    if route.proxy and route.scheme == "http":
        target = f"http://{route.authority}{target}"
        headers += _proxy_authorization(urlsplit(route.proxy))
    return reply.request(request.method, target, headers, request.body)


async def _open(io: Opener, route: Route, request: HTTPRequest) -> Stream:
    by = earliest(request.by, None if request.connect is None else io.now() + request.connect)
    proxy = urlsplit(route.proxy) if route.proxy else None
    stream: Stream | None = None
    is_greeting = False
    try:
        host, port = (
            (proxy.hostname or "", proxy.port or 80) if proxy else (request.address or route.host, route.port)
        )
        stream = await io.connect(host, port, by)
        if route.scheme == "https":
            if proxy is not None:
                await _tunnel(stream, proxy, route, by)
            context = await io.run(tls_context, route.certificates)
            is_greeting = True
            stream = await stream.start_tls(context, route.host, by)
        return stream
    except BaseException as error:
        if stream is not None:
            stream.close()
        if isinstance(error, Failure) or not isinstance(error, Exception):
            raise
        may_help = isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)
        through = f", through the proxy {proxy.hostname}:{proxy.port or 80}" if proxy else ""
        raise Failure(
            Outcome.NOT_SENT if may_help else Outcome.HOPELESS,
            f"no connection{through}: {described(error)}",
            timed_out=isinstance(error, TimeoutError),
            hint=SILENT if is_greeting and isinstance(error, TimeoutError) else "",
        ) from scrub(error)


async def _tunnel(stream: Stream, proxy: SplitResult, route: Route, by: float | None) -> None:
    """Ask a proxy for a tunnel (RFC 9110, section 9.3.6)."""
    host = f"[{route.host}]" if ":" in route.host else route.host
    reply, target = Reply(), f"{host}:{route.port}"
    headers = [("host", target), *_proxy_authorization(proxy)]
    await stream.write(b"".join(reply.request("CONNECT", target, headers, None)), by)
    while not reply.is_begun:
        if not (data := await stream.read(by)):
            raise ConnectionResetError("it closed the connection")
        reply.feed(data)
    if not 200 <= reply.status < 300 or reply.rest:
        raise Failure(
            Outcome.HOPELESS if reply.status == 407 else Outcome.NOT_SENT,
            f"the proxy {proxy.hostname}:{proxy.port or 80} answered HTTP {reply.status}",
        )


def _proxy_authorization(proxy: SplitResult) -> list[tuple[str, str]]:
    if proxy.username is None:
        return []
    credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [("proxy-authorization", f"Basic {b64encode(credentials.encode()).decode()}")]


async def _exchange(connection: Connection, reply: Reply, written: Iterable[bytes], by: float | None) -> None:
    stream, is_reused, has_begun = connection.stream, connection.is_used, False
    connection.is_used = True
    try:
        broken: OSError = ConnectionResetError("the server closed the connection without a reply")
        try:
            for piece in written:
                await stream.write(piece, by)
        except TimeoutError:
            raise
        except OSError as error:
            broken = error  # the server may have refused a large body before all of it was sent
        while not reply.is_begun:
            data = await stream.read(by)
            if not data:
                raise broken
            if not has_begun and data.startswith(TLS_ALERT):
                raise Failure(Outcome.HOPELESS, "the server speaks TLS and was sent plain HTTP")
            has_begun = True
            reply.feed(data)
    except (OSError, MalformedReply, h11.ProtocolError) as error:
        failure = unanswered(error)
        failure.is_stale = is_reused and not has_begun and not failure.timed_out
        raise failure from scrub(error)


def unanswered(error: Exception) -> Failure:
    """Return the failure for a request that was sent."""
    if isinstance(error, TimeoutError):
        return Failure(Outcome.UNKNOWN, TOO_LATE, timed_out=True)
    return Failure(Outcome.UNKNOWN, described(error))


def described(error: BaseException) -> str:
    """Return an error's own words, else its name."""
    return str(error) or type(error).__name__


def scrub(error: Exception) -> Exception:
    """Take out of an error, and of what caused it, the request and the frames that hold its headers."""
    for each in chain_of(error):
        each.__traceback__ = None
        if hasattr(type(each), "request"):  # where httpx and httpx2 keep it, behind a property
            each.request = None  # type: ignore[attr-defined]
    return error


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an error and what led to it."""
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


blocking_pool = Pool()
_pools: dict[asyncio.AbstractEventLoop, tuple[Pool, AsyncGenerator[None]]] = {}
_lock = threading.Lock()
_left_by_parent: list[object] = []


async def running_pool() -> Pool:
    """Return the pool of the running event loop; it is closed when the loop shuts down."""
    loop = asyncio.get_running_loop()
    held = _pools.get(loop)
    if held is None:
        pool = Pool()
        held = pool, _keep(loop, pool)
        with _lock:
            for each in [each for each in _pools if each.is_closed()]:
                del _pools[each]
            _pools[loop] = held
        await anext(held[1])
    return held[0]


async def _keep(loop: asyncio.AbstractEventLoop, pool: Pool) -> AsyncGenerator[None]:
    # A loop that shuts down closes its asynchronous generators: so this one closes the pool in time.
    try:
        yield
    finally:
        with _lock:
            _pools.pop(loop, None)
        pool.close()


def _after_fork() -> None:
    # The parent's connections are not ours to use, nor to close by collecting them.
    global _lock, blocking_pool
    _lock = threading.Lock()
    _left_by_parent.extend([blocking_pool, dict(_pools)])
    blocking_pool = Pool()
    _pools.clear()


atexit.register(lambda: blocking_pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


LONGEST = 366 * 86400.0


_NUMBER = re.compile(r"[0-9]{1,300}(\.[0-9]*)?")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms`, or `retry-after` as seconds or HTTP date; None where there is no sense in it.

    Negative, infinite and not-a-number values are no sense; a date that has passed means 0. A date counts
    from the reply's own `date`, so that a clock which is wrong here or there does no harm.
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
    """Return the server's id of a request."""
    found = headers.get("x-request-id") or headers.get("request-id")
    return redact(found, secrets) if found else None


MAX_HEAD_BYTES = 100 * 1024
MAX_LINE_BYTES = 16 * 1024
MAX_TRAILER_BYTES = 64 * 1024
STEP_BYTES = 64 * 1024
JOINED_BYTES = 64 * 1024
"""Up to here a body goes out with its head in one write."""
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_UNPACKED_RATIO = 100

_HEX_DIGITS = b"0123456789abcdefABCDEF"
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:|[ \t]")
"""How a line of a trailer begins (RFC 9112, section 5): a field, or the rest of a folded one."""


class MalformedReply(Exception):
    """A reply, or its body, that cannot be read; `str()` says why."""


class Reply:
    """One request's reply, read from the bytes of a connection that nothing else is read from.

    Feed bytes until `is_begun`, then read the body through `body`, whose first bytes `rest` may hold.
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
        """Return a request as bytes, a large body apart: joined, each attempt would have a copy of it.

        Raise h11.LocalProtocolError for what HTTP cannot carry.
        """
        fields = list(headers)
        if body is not None:
            fields.append(("content-length", str(len(body))))
        head = self._parser.send(h11.Request(method=method, target=target, headers=fields)) or b""
        pieces = chain([head], self._sent(body))
        return pieces if body and len(body) > JOINED_BYTES else [b"".join(pieces)]

    def _sent(self, body: bytes | LargeBody | None) -> Iterator[bytes]:
        for piece in (body,) if isinstance(body, bytes) else body or ():
            yield self._parser.send(h11.Data(data=piece)) or b""
        self._parser.send(h11.EndOfMessage())

    def feed(self, data: bytes) -> None:
        """Read on until the head is whole; raise MalformedReply for what is no HTTP/1.1."""
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise MalformedReply(f"the reply is not HTTP/1.1: {error}") from None
        if isinstance(event, h11.Response):
            self._begin(event)

    def _begin(self, head: h11.Response) -> None:
        self.is_begun = True
        self.status = head.status_code
        for name, value in head.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self.rest = self._parser.trailing_data[0]
        self.may_continue = self._parser.our_state is h11.DONE  # MUST_CLOSE where either side said "close"
        # RFC 9112, section 6.3; h11 has refused what contradicts itself.
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
    """What says where a body ends. Once `is_over`, `rest` is what came behind it.

    `damage` says what made the body unreadable from there on; feed nothing after that.
    """

    is_over: bool
    rest: bytes
    damage: str

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next bytes."""
        ...

    def end(self) -> None:
        """Note that the connection was closed: either the body `is_over` with it, or it was cut."""
        ...


class LengthBody:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_over = not length
        self.rest = b""
        self.damage = ""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next bytes."""
        content, self.rest = data[: self._left], data[self._left :]
        self._left -= len(content)
        self.is_over = not self._left
        return content

    def end(self) -> None:
        """Note that the rest is missing."""
        self.damage = f"was cut: {self._left} bytes are missing"


class UnboundedBody:
    """A body that ends with its connection."""

    is_over = False
    rest = b""
    damage = ""

    def feed(self, data: bytes) -> bytes:
        """Return all of it."""
        return data

    def end(self) -> None:
        """Note the end."""
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
        """Return the content of the next bytes, as far as they are chunks."""
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
                if self._at_line_end and data[at : at + 2] == b"\r\n":  # as nearly always, all at once
                    self._at_line_end = False
                    at += 2
        self.rest = data[at:]
        if len(self.rest) > MAX_LINE_BYTES and not self.is_over:
            self.damage = "is damaged: a chunk's size takes too many bytes"
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> None:
        """Note that the last chunk did not come."""
        self.damage = "was cut: the connection closed before its end"

    def _read_line(self, line: bytes) -> None:
        if self._at_line_end:
            self._at_line_end = False
            if line:
                self.damage = "is damaged: a chunk is longer than it says"
        elif self._in_trailer:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                self.damage = "is damaged: the trailer is too long"
            elif line and not _TRAILER.match(line):
                # Else a damaged size, read as the last chunk's, would make content a trailer.
                self.damage = f"is damaged: not a line of a trailer: {line[:20]!r}"
            self.is_over = not line
        # Most sizes are bare digits: with cold caches, to match the expression takes 3 µs more.
        elif size := line if 0 < len(line) <= 16 and not line.strip(_HEX_DIGITS) else _size(line):
            self._left = int(size, 16)
            self._in_trailer = not self._left
        else:
            self.damage = f"is damaged: not the size of a chunk: {line[:20]!r}"


def _size(line: bytes) -> bytes:
    """Return the digits of a chunk's size that may have extensions, b"" where there is none."""
    found = _SIZE.fullmatch(line)
    return found[1] if found else b""


class Unpacker:
    """Unpack a body's content coding, a step at a time, so that a small body cannot become endless work."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._zlib = zlib.decompressobj(wbits)
        self._packed = self._unpacked = 0

    def feed(self, data: bytes) -> bytes:
        """Return at most one step of what a piece unpacks to; raise MalformedReply where it is damaged."""
        self._packed += len(data)
        return self._step(data)

    def more(self) -> bytes:
        """Return the next step of the last piece, b"" when it is used up."""
        return self._step(self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail)

    def end(self) -> None:
        """Note that the body has ended; raise MalformedReply where its content has not."""
        if self._packed and not self._zlib.eof:
            raise MalformedReply("the compressed body was cut")

    def _step(self, data: bytes) -> bytes:
        while data:
            if self._zlib.eof:
                # RFC 1952, section 2.2: gzip is a series of members. What is none is padding.
                if self._wbits <= zlib.MAX_WBITS or not data.startswith(b"\x1f"):
                    return b""
                self._zlib = zlib.decompressobj(self._wbits)
            try:
                content = self._zlib.decompress(data, STEP_BYTES)
            except zlib.error as error:
                raise MalformedReply("the compressed body is damaged") from error
            if content:
                self._unpacked += len(content)
                if self._unpacked > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * self._packed):
                    raise MalformedReply("the compressed body unpacks to far more than its size")
                return content
            data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
        return b""


class Unreadable(Unpacker):
    """Refuse a content coding that is not unpacked here; the status and the headers are read all the same."""

    def __init__(self, encoding: str) -> None:
        super().__init__(zlib.MAX_WBITS)
        self._encoding = encoding[:80]

    def feed(self, data: bytes) -> bytes:
        """Raise MalformedReply."""
        raise MalformedReply(f"the body is encoded as {self._encoding!r}, which was not asked for")


def unpacker_for(encoding: str) -> Unpacker | None:
    """Return what unpacks a body of this content-encoding, None where nothing needs to."""
    match encoding.strip().lower():
        case "identity" | "":
            return None
        case "gzip" | "x-gzip":
            return Unpacker(16 + zlib.MAX_WBITS)
        case "deflate":
            return Unpacker(zlib.MAX_WBITS)
    return Unreadable(encoding)
