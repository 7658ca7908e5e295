"""Byte streams over TCP and TLS, blocking and on an event loop.

Both have coroutines for methods, so that what is built on them is written once; those of the blocking stream
never suspend. `by` is a moment on the clock that `time.monotonic` and the event loop share: every wait ends
there, however many bytes drip in before. OSError means that the connection broke, TimeoutError that `by` or
`idle`, the seconds between two arrivals, has passed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import selectors
import socket
import ssl
import time
from collections import deque
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any, Protocol, Self, cast

READ_BYTES = 64 * 1024
WRITE_BYTES = 64 * 1024
MAX_HELD_BYTES = 256 * 1024
ATTEMPT_DELAY = 0.25
"""Seconds that one address of a host gets before the next is tried beside it (RFC 8305, section 5)."""

Address = tuple[int, Any]  # family, and what `connect` takes


class Stream(Protocol):
    """A connection's bytes."""

    async def read(self, by: float | None, idle: float | None = None) -> bytes:
        """Return the next bytes, b"" when the server has closed the connection."""
        ...

    async def write(self, data: bytes, by: float | None) -> None:
        """Send all bytes."""
        ...

    async def start_tls(self, context: ssl.SSLContext, host: str, by: float | None) -> Self:
        """Return the same connection under TLS."""
        ...

    def is_readable(self) -> bool:
        """Tell whether bytes or the connection's end have arrived that nobody has read."""
        ...

    def close(self) -> None:
        """Close the connection at once; from any thread, and from a finalizer."""
        ...


def addresses_of(host: str, port: int) -> list[Address]:
    """Return a host's addresses, IPv6 and IPv4 in turn as RFC 8305, section 4, has it; raise OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return [each for each in chain(*zip_longest(first, others)) if each is not None]


class SyncStream:
    """A stream that blocks its thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._process = os.getpid()
        self._timeout: float | None = -1.0

    @classmethod
    def connect(cls, addresses: list[Address], by: float | None) -> Self:
        """Connect to the first address that answers."""
        waiting, failure = deque(addresses), OSError("the host has no address")
        with selectors.DefaultSelector() as begun:
            try:
                while waiting or begun.get_map():
                    if waiting:
                        family, address = waiting.popleft()
                        attempt = socket.socket(family, socket.SOCK_STREAM)
                        begun.register(attempt, selectors.EVENT_WRITE)
                        attempt.setblocking(False)
                        error = attempt.connect_ex(address)
                        if error not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
                            failure = _close_failed(begun, attempt, error)
                            continue
                    left = _left(by)
                    if waiting:
                        left = ATTEMPT_DELAY if left is None else min(left, ATTEMPT_DELAY)
                    for key, _ in begun.select(left):
                        attempt = cast("socket.socket", key.fileobj)
                        error = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                        if error:
                            failure = _close_failed(begun, attempt, error)
                            continue
                        begun.unregister(attempt)
                        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        return cls(attempt)
                raise failure
            finally:
                for key in list(begun.get_map().values()):
                    cast("socket.socket", key.fileobj).close()

    async def read(self, by: float | None, idle: float | None = None) -> bytes:
        """Return the next bytes."""
        self._bound(by, idle)
        return self._socket.recv(READ_BYTES)

    async def write(self, data: bytes, by: float | None) -> None:
        """Send all bytes."""
        # In pieces, because `sendall` gives the whole of a large body a bound that is set before it.
        for start in range(0, len(data), WRITE_BYTES):
            self._bound(by, None)
            self._socket.sendall(data[start : start + WRITE_BYTES])

    async def start_tls(self, context: ssl.SSLContext, host: str, by: float | None) -> Self:
        """Return the same connection under TLS."""
        self._bound(by, None)
        return type(self)(context.wrap_socket(self._socket, server_hostname=host))

    def is_readable(self) -> bool:
        """Tell whether something waits to be read."""
        under_tls = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
        return under_tls or _is_readable(self._socket)

    def close(self) -> None:
        """Close the connection at once."""
        _shut_down(self._socket, self._process)  # for to close a socket does not wake who reads from it
        self._socket.close()

    def _bound(self, by: float | None, idle: float | None) -> None:
        left = _left(by)
        timeout = idle if left is None or (idle is not None and idle < left) else left
        if timeout != self._timeout:  # for setting it costs as much as reading
            self._socket.settimeout(timeout)
            self._timeout = timeout


class AsyncStream(asyncio.Protocol):
    """A stream on the event loop that was running when it was made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._socket: socket.socket
        self._transport: asyncio.Transport
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_over = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._due: float | None = None
        self._alarm: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(cls, addresses: list[Address]) -> AsyncStream:
        """Connect to the first address that answers."""
        # Not `create_connection(happy_eyeballs_delay=…)`: its staggered race leaves sockets to the garbage
        # collector when it is cancelled, and fails under eager tasks (python/cpython#124309).
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
        """Let the writer wait."""
        self._writer = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let the writer go on."""
        _wake(self._writer)
        self._writer = None

    # What we call.

    async def read(self, by: float | None, idle: float | None = None) -> bytes:
        """Return the next bytes."""
        if not self._pieces and not self._is_over:
            await self._arrival(by, idle)
        if self._pieces:
            return self._take()
        if self._error is not None:
            raise self._error
        return b""

    async def write(self, data: bytes, by: float | None) -> None:
        """Send all bytes, or leave the last of them to the transport."""
        if self._transport.is_closing():
            raise self._error or ConnectionResetError("the server has closed the connection")
        self._transport.write(data)
        if self._writer is not None:
            async with asyncio.timeout_at(by):
                await self._writer

    async def start_tls(self, context: ssl.SSLContext, host: str, by: float | None) -> AsyncStream:
        """Return the same connection under TLS."""
        secure = AsyncStream()
        secure._socket = self._socket
        async with asyncio.timeout_at(by):
            transport = await self._loop.start_tls(self._transport, secure, context, server_hostname=host)
        if transport is None:  # so uvloop, when the server hangs up amid the handshake
            raise ConnectionResetError("the server has closed the connection")
        secure.connection_made(transport)
        return secure

    def is_readable(self) -> bool:
        """Tell whether something waits to be read."""
        # A server that hung up is seen on the socket before the event loop has said so.
        return bool(self._pieces) or self._is_over or _is_readable(self._socket)

    def close(self) -> None:
        """Close the connection at once."""
        if self._loop.is_closed():
            return
        # `abort` closes our copy of the socket alone: a forked child's would keep the server writing.
        _shut_down(self._socket, self._process)
        self._transport.abort()

    async def _arrival(self, by: float | None, idle: float | None) -> None:
        # A timer for each token would cost more than reading it: so one stays, and looks again.
        due = None if idle is None else self._loop.time() + idle
        self._due = by if due is None else due if by is None else min(due, by)
        self._reader = self._loop.create_future()
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


async def _race(addresses: list[Address]) -> socket.socket:
    """Return a socket that is connected to the first address that answers; no other stays open."""
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
            for each in done:
                failure = each.exception() or failure
                winner = winner or (each if each.exception() is None else None)
    finally:
        for each in attempts - {winner}:
            each.cancel()
            each.add_done_callback(_discard)
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


def _close_failed(begun: selectors.BaseSelector, attempt: socket.socket, error: int) -> OSError:
    begun.unregister(attempt)
    attempt.close()
    return OSError(error, os.strerror(error))


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _left(by: float | None) -> float | None:
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
    if process == os.getpid():  # for a forked child's copies are its parent's connections
        with suppress(OSError):  # it has ended by itself
            connection.shutdown(socket.SHUT_RDWR)
