"""The emulator's HTTP/1.1 server, built on httptools."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from piccc.emulator.faults import ConnectionState
from piccc.emulator.middleware import APIMiddleware
from piccc.emulator.responses import ASGIApp, Message, Scope

_IDLE = 5.0
_UNREAD = 64 * 1024
_LARGEST_HEAD = 64 * 1024
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}".encode() for each in HTTPStatus}
_INVALID = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 30\r\n"
    b"connection: close\r\n\r\nInvalid HTTP request received."
)
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 33\r\nconnection: close\r\n\r\nThe headers are larger than 64 KB"
)
_logger = logging.getLogger("piccc.emulator")


class _Exchange:
    """One request and its response, exposed to the app as ASGI messages."""

    __slots__ = (
        *("_arrived", "_body", "_connection", "_has_body", "_is_chunked", "_is_closed_after", "_is_expected"),
        *("_is_old", "has_ended", "has_started", "is_gone", "is_whole", "scope"),
    )

    def __init__(
        self, connection: _Connection, scope: Scope, *, closes: bool, is_old: bool, is_expected: bool
    ) -> None:
        self.scope = scope
        self.has_started = self.has_ended = self.is_gone = self.is_whole = False
        self._connection = connection
        self._arrived = asyncio.Event()
        self._body = list[bytes]()
        self._is_closed_after, self._is_old, self._is_expected = closes, is_old, is_expected
        self._has_body = self._is_chunked = True

    def take(self, piece: bytes) -> bool:
        """Store a piece of the body, unless the response has ended. Return whether to keep reading."""
        if not self.has_ended:
            self._body.append(piece)
            self._arrived.set()
        return self.has_ended or sum(map(len, self._body)) <= _UNREAD

    def drop(self) -> None:
        """Close the connection before the response is complete."""
        self._connection.close()

    def finish(self) -> None:
        """Mark the body as complete."""
        self.is_whole = True
        self._arrived.set()

    def end_connection(self) -> None:
        """Close the connection after the response."""
        self._is_closed_after = True

    def leave(self) -> None:
        """Mark the client as disconnected."""
        self.is_gone = True
        self._arrived.set()

    async def receive(self) -> Message:
        """Return the next part of the body, or a disconnect if the client left or the response ended."""
        if self._is_expected and not self.has_started:
            self._is_expected = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not (self.is_gone or self.has_ended):
            self._connection.resume_reading()
            await self._arrived.wait()
            self._arrived.clear()
        if self.is_gone or self.has_ended:
            return {"type": "http.disconnect"}
        body, self._body = b"".join(self._body), []
        return {"type": "http.request", "body": body, "more_body": not self.is_whole}

    async def send(self, message: Message) -> None:
        """Write the head or a piece of the body; do nothing once the client has disconnected."""
        await self._connection.writable()
        if self.is_gone or self.has_ended:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._has_body and self._is_chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self._connection.write(chunk if more else chunk + b"0\r\n\r\n")
        elif self._has_body:
            self._connection.write(body)
        if not more:
            self.has_ended = True
            self._arrived.set()
            self._connection.end(close=self._is_closed_after)

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        self._has_body = self.scope["method"] != "HEAD" and status not in (204, 304)
        self._is_chunked = not self._is_old
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, self._connection.date()]
        for name, value in headers:
            if name == b"content-length":
                self._is_chunked = False
            elif name == b"connection":
                self._is_closed_after = value == b"close"
                continue
            lines.append(b"%b: %b" % (name, value))
        if self._has_body and self._is_chunked:
            lines.append(b"transfer-encoding: chunked")
        if self._is_closed_after:
            lines.append(b"connection: close")
        head = b"\r\n".join([*lines, b"", b""])
        # A line break in a header could inject another header, or another response.
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
            raise ValueError("a response header contains a line break")
        self._connection.write(head)


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection (RFC 9112), whose requests are answered in order.

    Writes within one turn of the event loop are sent together, because a system call takes longer than
    producing a stream event.
    """

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._parser = HttpRequestParser(self)
        self._exchanges: deque[_Exchange] = deque()  # first: being answered; last: being read
        self._pieces: list[bytes] = []
        self._drained: asyncio.Event | None = None
        self._state = ConnectionState(self.close)
        self._used_at = 0.0
        self._is_in_head = self._is_refused = False
        self._head_size = 0
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whatever is waiting for the client."""
        if self._idle is not None:
            self._idle.cancel()
        self._server.connections.discard(self)
        self.resume_writing()
        for exchange in self._exchanges:
            exchange.leave()

    def data_received(self, data: bytes) -> None:
        """Parse received data; the parser calls the `on_` methods."""
        if self._state.stale:
            self.close()
            return
        if self._is_refused:
            return
        self._used_at, was_in_head, size = self._server.loop.time(), self._is_in_head, len(data)
        try:
            while data:
                data = self._fed(data)
        except HttpParserError:
            self._refuse(_INVALID)
            return
        if was_in_head and self._is_in_head:
            self._head_size += size
            if self._head_size > _LARGEST_HEAD:
                self._refuse(_TOO_LARGE)

    def _fed(self, data: bytes) -> bytes:
        """Feed the parser, and return the data that it must parse again."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            # We ignore upgrades (RFC 9110, section 7.8), but the parser would not read the body.
            self._parser = HttpRequestParser(self)
            return self._plain_head + data[upgrade.args[0] :]
        return b""

    def _refuse(self, response: bytes) -> None:
        """Stop reading, and close the connection once all complete requests are answered."""
        self._is_refused = True
        if len(self._exchanges) > 1 and not self._exchanges[-1].is_whole:
            self._exchanges.pop()
        if self._exchanges and self._exchanges[-1].is_whole:
            self._exchanges[-1].end_connection()
            return
        _logger.warning("Refused a client that sent an invalid or oversized HTTP/1.1 request head.")
        if not any(exchange.has_started for exchange in self._exchanges):
            self.write(response)
        self.close()

    def on_message_begin(self) -> None:
        """Start a request."""
        self._url, self._headers, self._is_expected = b"", list[tuple[bytes, bytes]](), False
        self._is_in_head, self._head_size, self._hosts = True, 0, 0

    def on_url(self, url: bytes) -> None:
        """Append a piece of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header."""
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self._is_expected = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Answer the request, or queue it behind the previous one."""
        parser, url = self._parser, parse_url(self._url)
        self._is_in_head = False
        version = parser.get_http_version()
        is_old = version == "1.0"
        # RFC 9112, section 3.2: with two hosts, a proxy could check one and we use the other.
        if version not in ("1.0", "1.1") or self._hosts > 1 or not (self._hosts or is_old):
            raise HttpParserError("not an HTTP/1.1 request")
        if parser.should_upgrade():
            kept = [b"%b: %b\r\n" % pair for pair in self._headers if pair[0] != b"upgrade"]
            self._plain_head = b"%b %b HTTP/1.1\r\n%b\r\n" % (parser.get_method(), self._url, b"".join(kept))
            return
        if url.host is not None:  # section 3.2.2: the target's host wins
            port = b":%d" % url.port if url.port else b""
            self._headers = [pair for pair in self._headers if pair[0] != b"host"]
            self._headers.append((b"host", url.host + port))
        path = url.path.decode("ascii")
        scope = {
            "type": "http",
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": {"connection": self._state},
        }
        closes = is_old or not parser.should_keep_alive()
        exchange = _Exchange(
            self, scope, closes=closes, is_old=is_old, is_expected=self._is_expected and not is_old
        )
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self._server.answer(exchange)
        else:
            self._transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Store a piece of the body; pause reading while the app has enough."""
        if self._exchanges and not self._exchanges[-1].take(body):
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """Finish the request."""
        if self._exchanges:
            self._exchanges[-1].finish()

    def end(self, *, close: bool) -> None:
        """Finish a response and start the next request."""
        self.flush()  # do not make the client wait for the loop's next turn
        self._exchanges.popleft()
        self._used_at = self._server.loop.time()
        if self._idle is None:
            self._idle = self._server.loop.call_later(_IDLE, self._close_if_idle)
        if close:
            self.close()
        elif self._exchanges:
            self._server.answer(self._exchanges[0])
        self.resume_reading()

    def write(self, data: bytes) -> None:
        """Queue data for the end of this loop turn or the next `flush`."""
        if not self._pieces:
            self._due = self._server.loop.call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        """Send queued data."""
        if self._pieces:
            self._due.cancel()
            pieces, self._pieces = self._pieces, []
            if not self._transport.is_closing():
                self._transport.write(b"".join(pieces))

    def close(self) -> None:
        """Send queued data, then close the connection."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection immediately."""
        self._transport.abort()

    def resume_reading(self) -> None:
        """Resume reading."""
        self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Make the app wait for a slow client."""
        self._drained = asyncio.Event()

    def resume_writing(self) -> None:
        """Let the app continue."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def writable(self) -> None:
        """Wait until more data can be written."""
        if self._drained is not None:
            await self._drained.wait()

    def date(self) -> bytes:
        """Return the date header line."""
        return self._server.date()

    def _close_if_idle(self) -> None:
        # One timer per connection: setting one per request costs more than checking the time.
        loop = self._server.loop
        left = self._used_at + _IDLE - loop.time()
        if self._exchanges or left > 0:
            self._idle = loop.call_later(left if left > 0 else _IDLE, self._close_if_idle)
        else:
            self.close()


class HTTPServer:
    """Serves the app on a bound socket; `stop` closes everything immediately."""

    def __init__(self, app: ASGIApp, api: APIMiddleware, bound: socket.socket) -> None:
        self.ready = threading.Event()
        self.started = False
        self.connections: set[_Connection] = set()
        self._app = app
        self._api = api
        self._socket = bound
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._second, self._date = 0, b""
        address = bound.getsockname()
        # Wildcard addresses (0.0.0.0, ::) can be bound, but not connected to on every system.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104
        self.origin = f"http://{bracketed(reachable)}:{address[1]}"

    def run(self) -> None:
        """Serve until `stop` is called."""
        try:
            with self._socket, asyncio.Runner() as runner:
                self.loop = runner.get_loop()
                runner.run(self._serve())
        except Exception:
            _logger.exception("The emulator's server failed.")
        finally:
            self.ready.set()

    def stop(self) -> None:
        """Stop serving. Safe to call from any thread."""
        with suppress(RuntimeError):  # the loop is closed if the server failed
            self.loop.call_soon_threadsafe(self._stopping.set)

    def answer(self, exchange: _Exchange) -> None:
        """Run the app for a request."""
        task = self.loop.create_task(self._answered(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def date(self) -> bytes:
        """Return the date header line, rebuilt once a second."""
        if (second := int(time.time())) != self._second:
            self._second, self._date = second, b"date: " + formatdate(second, usegmt=True).encode()
        return self._date

    async def _answered(self, exchange: _Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            _logger.exception("The emulator failed to answer a request.")
        if not (exchange.has_ended or exchange.is_gone):
            exchange.drop()

    async def _serve(self) -> None:
        self._api.start()
        server = await self.loop.create_server(lambda: _Connection(self), sock=self._socket, backlog=2048)
        self.started = True
        self.ready.set()
        await self._stopping.wait()
        # Closing a server right after it accepts a connection raises and leaks that connection. So stop
        # accepting first: a pending connection is made in the loop's second turn and closed in the fourth.
        with suppress(NotImplementedError):  # Windows
            self.loop.remove_reader(self._socket)
        for _ in range(4):
            for connection in list(self.connections):
                connection.abort()
            await asyncio.sleep(0)
        server.close()
        serving = list(self._tasks)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._api.stop()
        await server.wait_closed()


def bracketed(host: str) -> str:
    """Return a host as written in a URL, with brackets around IPv6."""
    return f"[{host}]" if ":" in host else host


def bound_socket(host: str, port: int) -> socket.socket:
    """Bind a socket before the thread starts, so the caller sees at once that a port is in use.

    Name the protocol explicitly: asyncio disables Nagle's algorithm only on sockets declared as TCP.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        message = (
            f"cannot listen on {host}:{port}: {error.strerror}; choose another port, or 0 for any free one"
        )
        raise OSError(error.errno, message) from None
    return bound
