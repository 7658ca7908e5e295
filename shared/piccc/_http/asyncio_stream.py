"""Sockets on an event loop, as HTTP libraries want them: asyncio's protocol, and nothing in between."""

from __future__ import annotations

import asyncio
import select
import ssl
import sys
from collections.abc import Coroutine, Iterable
from typing import Any, cast

from piccc._http.chunked import HeaderSplitter

MAX_HELD_BYTES = 256 * 1024
EYEBALLS_SECONDS = 0.25
"""How long one address of a host may take to answer before the next is tried beside it."""


def install_asyncio_backend(client: Any) -> None:
    """Give an asynchronous client these sockets for the connections that it will open."""
    for transport in (client._transport, *client._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_network_backend"):
            core = sys.modules[type(pool).__module__.partition(".")[0]]
            pool._network_backend = _Backend(core)


class _Backend:
    def __init__(self, core: Any) -> None:
        self._core = core

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncioStream:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if local_address is not None:
            options["local_addr"] = (local_address, 0)
        if isinstance(loop, asyncio.BaseEventLoop):  # others do not know of it
            options["happy_eyeballs_delay"] = EYEBALLS_SECONDS
        connecting = loop.create_connection(lambda: AsyncioStream(self._core), host, port, **options)
        return await self._connected(connecting, timeout, socket_options)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> AsyncioStream:
        connecting = asyncio.get_running_loop().create_unix_connection(
            lambda: AsyncioStream(self._core), path
        )
        return await self._connected(connecting, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _connected(
        self,
        connecting: Coroutine[Any, Any, tuple[asyncio.Transport, AsyncioStream]],
        timeout: float | None,
        socket_options: Iterable[Any] | None,
    ) -> AsyncioStream:
        try:
            async with asyncio.timeout(timeout):
                transport, stream = await connecting
        except TimeoutError as error:
            raise self._core.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:
            raise self._core.ConnectError(str(error)) from error
        for option in socket_options or ():
            transport.get_extra_info("socket").setsockopt(*option)
        return stream


class AsyncioStream(asyncio.Protocol):
    """One connection: asyncio's protocol below, what an HTTP library reads and writes above."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_over = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._due: float | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self.gate = HeaderSplitter()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Keep the bytes until they are read, and bound how many are kept."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size > MAX_HELD_BYTES:
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> None:
        """Note that no more bytes will come; the transport closes itself."""
        self._is_over = True
        _wake(self._reader)

    def connection_lost(self, exception: Exception | None) -> None:
        """Note why the connection ended."""
        self._is_over = True
        self._error = self._error or exception
        _wake(self._reader)
        self._silence()
        self.resume_writing()

    def pause_writing(self) -> None:
        """Let who writes wait."""
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let who writes go on."""
        _wake(self._writer)
        self._writer = None

    # What the HTTP library calls.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes for the HTTP library."""
        try:
            return self.gate.let_through(await self.receive(timeout))
        except TimeoutError as error:
            raise self._core.ReadTimeout(str(error)) from error
        except OSError as error:
            raise self._core.ReadError(str(error)) from error

    async def receive(self, timeout: float | None) -> bytes:
        """Return the next bytes, past the HTTP library; b"" when the server has closed the connection."""
        if held := self.gate.take():
            return held
        if not self._pieces and not self._is_over:
            await self._arrival(timeout)
        if self._pieces:
            return self._take()
        if self._error is not None:
            raise self._error
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all bytes, or leave the last of them to the transport."""
        if not buffer:
            return
        self.gate.notice(buffer)
        try:
            if self._transport.is_closing():
                raise self._error or ConnectionResetError("the server has closed the connection")
            self._transport.write(buffer)
            if self._writer is not None:
                await _bounded(self._writer, timeout)
        except TimeoutError as error:
            raise self._core.WriteTimeout(str(error)) from error
        except OSError as error:
            raise self._core.WriteError(str(error)) from error

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncioStream:
        """Return the same connection under TLS."""
        secure = AsyncioStream(self._core)
        try:
            async with asyncio.timeout(timeout):
                transport = await self._loop.start_tls(
                    self._transport, secure, ssl_context, server_hostname=server_hostname
                )
        except BaseException as error:
            self._transport.abort()
            if isinstance(error, TimeoutError):
                raise self._core.ConnectTimeout(str(error)) from error
            if isinstance(error, OSError):  # which all of ssl's errors are
                raise self._core.ConnectError(str(error)) from error
            raise
        secure.connection_made(cast("asyncio.Transport", transport))
        return secure

    async def aclose(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
        await asyncio.sleep(0)

    def get_extra_info(self, info: str) -> Any:
        """Return a fact about the connection in the HTTP libraries' words."""
        if info == "is_readable":
            return bool(self._pieces) or self._is_over or _is_readable(self._transport)
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._transport.get_extra_info(names.get(info, info))

    async def _arrival(self, seconds: float | None) -> None:
        # A timer for each token would cost more than reading it: so one stays, and looks again.
        self._reader = self._loop.create_future()
        self._due = None if seconds is None else self._loop.time() + seconds
        if self._due is not None and (self._alarm is None or self._alarm.when() > self._due):
            self._silence()
            self._alarm = self._loop.call_at(self._due, self._look)
        try:
            await self._reader
        finally:
            self._reader = None

    def _look(self) -> None:
        self._alarm = None
        if self._reader is None or self._reader.done() or self._due is None:
            return
        if self._loop.time() < self._due:
            self._alarm = self._loop.call_at(self._due, self._look)
        else:
            self._reader.set_exception(TimeoutError())

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _take(self) -> bytes:
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        if self._size > MAX_HELD_BYTES:
            self._transport.resume_reading()
        self._size = 0
        return data


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


async def _bounded(waiter: asyncio.Future[None], seconds: float | None) -> None:
    if seconds is None:
        await waiter
        return
    timer = waiter.get_loop().call_later(seconds, _expire, waiter)
    try:
        await waiter
    finally:
        timer.cancel()


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(TimeoutError())


def _is_readable(transport: asyncio.Transport) -> bool:
    # A server that hung up is seen here before the event loop has told of it.
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([connection.fileno()], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))
