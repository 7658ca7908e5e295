"""The port over httpx or httpx2: the only module, beside the pools, that knows either."""

from __future__ import annotations

import asyncio
import platform
import random
import socket
import ssl
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from piccc._version import __version__
from piccc.errors import ConfigurationError
from piccc.transport.pools import Pool, library_named, shared_pool
from piccc.transport.port import Failure, HTTPRequest, Outcome
from piccc.transport.watchdog import Alarm, watchdog

if TYPE_CHECKING:
    import httpx

GRACE = 0.05
"""Seconds that the HTTP library's own timeouts get before ours, for they know what had been sent."""
STEP_BYTES = 1024 * 1024


class _Port:
    _kind: str

    def __init__(self, client: Any = None, *, library: Any = None) -> None:
        self._given = client
        self._shared: Pool | None = None
        self.library = _family(client, self._kind) if client is not None else (library or library_named())
        self.agent = (
            f"piccc/{__version__} {self.library.__name__}/{self.library.__version__} "
            f"python/{platform.python_version()}"
        )

    @property
    def backend(self) -> str:
        """Name and version of the HTTP library."""
        return f"{self.library.__name__} {self.library.__version__}"

    def random(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        return random.random()  # noqa: S311  jitter, not a secret

    @property
    def _pool(self) -> Pool:
        if self._shared is None or self._shared.is_stale:
            self._shared = shared_pool(self.library)
        return self._shared

    def _build(self, client: Any, request: HTTPRequest, now: float) -> Any:
        left = None if request.by is None else max(request.by - now, 0.001)
        timeout = {
            "connect": _least(request.connect, left),
            "read": _least(request.idle, left),
            "write": _least(request.idle, left),
            "pool": left,
        }
        headers = [("user-agent", self.agent), *request.headers]
        if self._given is not None:
            limits = self.library.Timeout(**timeout)
            return client.build_request(
                request.method, request.url, headers=headers, content=request.body, timeout=limits
            )
        # Past `build_request`, so that no cookie of another caller's and no parsing comes in.
        return self.library.Request(
            request.method,
            _url(self.library, request.url),
            headers=headers,
            content=request.body,
            extensions={"timeout": timeout},
        )

    def _options(self) -> dict[str, Any]:
        return {} if self._given is not None else {"auth": None}

    def _translate(self, error: Exception) -> Failure:
        return classify(error, self.library)


class BlockingIO(_Port):
    """The port that blocks its thread and never suspends."""

    _kind = "Client"

    def now(self) -> float:
        """Return the time."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)  # noqa: ASYNC251  this port blocks, by its purpose

    async def send(self, request: HTTPRequest) -> BlockingResponse:
        """Send and return when the headers have come; raise Failure if they do not."""
        client = self._given or self._pool.blocking(self)
        try:
            built = self._build(client, request, self.now())
            response = client.send(built, stream=True, **self._options())
        except Exception as error:
            raise self._translate(error) from scrub(error)
        return BlockingResponse(self, response, request)

    async def close(self) -> None:
        """Close what this port has opened; a client that was passed in stays open."""
        if self._given is None:
            self._pool.close(self)


class AsyncIO(_Port):
    """The port that awaits the running event loop."""

    _kind = "AsyncClient"

    def now(self) -> float:
        """Return the time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def send(self, request: HTTPRequest) -> AsyncResponse:
        """Send and return when the headers have come; raise Failure if they do not."""
        client = self._given or await self._pool.running(self)
        try:
            async with asyncio.timeout_at(None if request.by is None else request.by + GRACE):
                built = self._build(client, request, self.now())
                response = await client.send(built, stream=True, **self._options())
        except TimeoutError as error:
            raise Failure(Outcome.UNKNOWN, "the deadline passed", timed_out=True) from scrub(error)
        except Exception as error:
            raise self._translate(error) from scrub(error)
        return AsyncResponse(self, response, request)

    async def close(self) -> None:
        """Close what this port has opened on the running loop; a client that was passed in stays open."""
        if self._given is None:
            await self._pool.aclose(self)


class _Response:
    def __init__(self, port: _Port, response: Any, request: HTTPRequest) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._port = port
        self._response = response
        self._idle = request.idle
        self._decoder = _decoder(response.headers.get("content-encoding"))

    def _decode(self, data: bytes) -> bytes:
        if self._decoder is None:
            return data
        try:
            decoded: bytes = self._decoder.decompress(data, STEP_BYTES)
            return decoded
        except zlib.error as error:
            raise Failure(Outcome.UNKNOWN, "the compressed body is damaged") from error


class BlockingResponse(_Response):
    """A reply of the blocking port."""

    def __init__(self, port: BlockingIO, response: httpx.Response, request: HTTPRequest) -> None:
        super().__init__(port, response, request)
        self._chunks: Iterator[bytes] = iter(response.stream)  # type: ignore[arg-type]  # of a sync client
        self._alarm: Alarm | None = None

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        if self._decoder is not None and self._decoder.unconsumed_tail:
            return self._decode(self._decoder.unconsumed_tail)
        if by is not None:
            self._guard(by)
        try:
            for chunk in self._chunks:
                if data := self._decode(chunk):
                    return data
            if self._alarm is not None and self._alarm.fired:
                raise Failure(Outcome.UNKNOWN, "the deadline passed", timed_out=True)
            return b""
        except Failure:
            raise
        except Exception as error:
            if self._alarm is not None and self._alarm.fired:
                raise Failure(Outcome.UNKNOWN, "the deadline passed", timed_out=True) from scrub(error)
            raise self._port._translate(error) from scrub(error)

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._response.close()

    def _guard(self, by: float) -> None:
        # The library's read timeout is fixed when the body begins; a nearer moment needs the watchdog.
        if self._alarm is not None:
            if self._alarm.moment == by:
                return
            self._alarm.cancel()
            self._alarm = None
        if self._idle is None or by < time.monotonic() + self._idle:
            self._alarm = watchdog.set(by, self._interrupt)

    def _interrupt(self) -> None:
        stream = self._response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # the connection has ended by itself


class AsyncResponse(_Response):
    """A reply of the asynchronous port."""

    def __init__(self, port: AsyncIO, response: httpx.Response, request: HTTPRequest) -> None:
        super().__init__(port, response, request)
        self._chunks: AsyncIterator[bytes] = aiter(response.stream)  # type: ignore[arg-type]  # of an async client

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure when it breaks or `by` passes."""
        if self._decoder is not None and self._decoder.unconsumed_tail:
            return self._decode(self._decoder.unconsumed_tail)
        near = by is not None and (self._idle is None or by < asyncio.get_running_loop().time() + self._idle)
        try:
            if not near:
                return await self._next()
            async with asyncio.timeout_at(by):
                return await self._next()
        except Failure:
            raise
        except TimeoutError as error:
            raise Failure(Outcome.UNKNOWN, "the deadline passed", timed_out=True) from scrub(error)
        except Exception as error:
            raise self._port._translate(error) from scrub(error)

    async def _next(self) -> bytes:
        async for chunk in self._chunks:
            if data := self._decode(chunk):
                return data
        return b""

    async def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        await self._response.aclose()


def classify(error: Exception, library: Any) -> Failure:
    """Say whether a failed attempt can have reached the server."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    timed_out = isinstance(error, library.TimeoutException)
    if isinstance(error, library.ProxyError):
        return Failure(Outcome.HOPELESS if "407" in str(error) else Outcome.NOT_SENT, reason)
    if isinstance(error, library.ConnectError | library.ConnectTimeout | library.PoolTimeout):
        untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in _chain(error))
        return Failure(Outcome.HOPELESS if untrusted else Outcome.NOT_SENT, reason, timed_out=timed_out)
    if isinstance(error, library.UnsupportedProtocol | library.LocalProtocolError | library.InvalidURL):
        return Failure(Outcome.HOPELESS, reason)
    if isinstance(error, library.HTTPError | OSError | RuntimeError):
        return Failure(Outcome.UNKNOWN, reason, timed_out=timed_out)
    raise error


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


def _least(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


@lru_cache(maxsize=256)
def _url(library: Any, url: str) -> Any:
    return library.URL(url)


def _decoder(encoding: str | None) -> Any:
    # We ask for no compression, so that no body can grow past its bound; some servers compress all the same.
    match (encoding or "identity").strip().lower():
        case "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        case "deflate":
            return zlib.decompressobj()
    return _Unreadable(encoding)


class _Unreadable:
    unconsumed_tail = b""

    def __init__(self, encoding: str | None) -> None:
        self._encoding = encoding

    def decompress(self, data: bytes, size: int) -> bytes:
        raise Failure(Outcome.UNKNOWN, f"the body is encoded as {self._encoding!r}, which was not asked for")
