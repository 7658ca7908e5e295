"""The public `Emulator` and its server thread."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, cast
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url

from piccc.emulator.api import MODELS, EmulatedAPI, State
from piccc.emulator.clock import Clock, Latency, ManualClock, RateLimit, WallClock
from piccc.emulator.conversation import ModelRequest, ScriptLine
from piccc.emulator.faults import ConnectionState, Fault, FaultRule, Faults, FaultSource
from piccc.emulator.middleware import APIMiddleware
from piccc.emulator.quirks import Quirks
from piccc.emulator.request_log import Charge, RequestRecord
from piccc.emulator.responses import ASGIApp, Message, Scope
from piccc.emulator.routes import Routes
from piccc.emulator.webhooks import Delivery, Webhooks, new_secret, on_loopback

if TYPE_CHECKING:
    from piccc.emulator.upstream import Source, Upstream

_KEY = "pcc_test_emulator"
_PATIENCE = 10.0
_IDLE = 5.0
_UNREAD = 64 * 1024
_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}".encode() for each in HTTPStatus}
_INVALID = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 30\r\n"
    b"connection: close\r\n\r\nInvalid HTTP request received."
)
_logger = logging.getLogger("piccc.emulator")


class Emulator:
    """Serve the whole Piccc API on a socket, in a thread of its own.

    Enter it with `with` or `async with`; then `base_url` (no trailing slash) and `api_key` are what a client
    needs. `app` is the same as an ASGI app, for a server of your own.

    - `speed` divides every duration; `math.inf` removes all waits. `clock=ManualClock()` stands still until
      `advance`.
    - `seed` decides how outputs look and which requests a fault schedule hits.
    - `faults` is a schedule: rules, `{"seed": …, "rules": […]}`, or a JSON file of that; see `Fault`.
    - `quirks` are names of wire format variants or profiles; see `Quirks`.
    - `strict` refuses, with the field at fault, what the strictest known chat servers refuse: calls without
      results, broken arguments, blank text, mistyped images, prompts above 128,000 tokens; also models
      outside `models` and near misses of field names. False accepts all of it.
    - `models` are the names to accept instead of `piccc-flash`, `piccc-pro` and `piccc-ultra` for chat,
      `piccc-image` and `piccc-video`.
    - `state` is a directory that keeps tasks and charges between runs.
    - `requests_per_minute` is enforced with 429; `url_lifetime` is an output URL's validity in seconds.
    - `upstream` is the URL of an OpenAI-compatible server that answers chat on both routes, with
      `upstream_key` and the model `upstream_model`; keys, faults, charges, log, tasks and clock stay the
      emulator's. With `upstream_api="piccc"` it is a live Piccc server, which gets the tasks too.
    - `recording` is a file of chat and tasks. `mode="replay"` answers requests that mean the same from it,
      "record" rewrites it with what the upstream answers, "once" does so only where there is no file.
    - `loopback_only` refuses another `host` and keeps webhooks on this machine; False allows both.

    Attributes:
        api_key: the key that it accepts.
        webhook_secret: the secret that signs webhooks, `whsec_…`.
        app: the ASGI app.

    Raises:
        ValueError: `host` is not on this machine, or there is no such fault or quirk.

    Examples:
        >>> from piccc import Client
        >>> from piccc.emulator import Emulator
        >>> with Emulator() as emulator:
        ...     rule = emulator.fault("429;retry-after=0", times=1)
        ...     client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
        ...     print(client.chat.create("Say hello.").text, rule.hit, len(emulator.charges))
        hello. 1 1
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        api_key: str = _KEY,
        speed: float = 1.0,
        seed: int = 0,
        clock: Clock | None = None,
        state: str | Path | None = None,
        faults: FaultSource = None,
        quirks: str | Iterable[str] = (),
        strict: bool = True,
        models: Iterable[str] | None = None,
        requests_per_minute: int = 1_000_000,
        url_lifetime: float = 86_400.0,
        webhook_secret: str | None = None,
        loopback_only: bool = True,
        upstream: str | None = None,
        upstream_key: str | None = None,
        upstream_model: str | None = None,
        upstream_api: Literal["openai", "piccc"] = "openai",
        recording: str | Path | None = None,
        mode: Literal["replay", "record", "once"] = "replay",
    ) -> None:
        if loopback_only and not on_loopback(f"//{_bracketed(host)}"):
            raise ValueError(
                f"{host} is not on loopback; loopback_only=False serves it to others all the same"
            )
        if models is not None and not (models := tuple(models)):
            raise ValueError("models must name at least one model")
        self.api_key = api_key
        self.webhook_secret = webhook_secret or new_secret()
        self._host = host
        self._port = port
        self._clock = clock or WallClock()
        latency = Latency(speed)
        behind: Upstream | None = None
        source: Source | None = None
        if upstream is not None:
            from piccc.emulator.upstream import Upstream

            source = behind = Upstream(upstream, key=upstream_key, model=upstream_model, api=upstream_api)
        if recording is not None:
            from piccc.emulator.recording import Recording

            hidden = [api_key, self.webhook_secret]
            source = Recording(recording, mode, behind, hidden=hidden, clock=self._clock, latency=latency)
        self._api = EmulatedAPI(
            api_key=api_key,
            clock=self._clock,
            latency=latency,
            seed=seed,
            faults=Faults.load(faults, seed=seed),
            quirks=Quirks(quirks),
            strict=strict,
            models=models,
            limit=RateLimit(requests_per_minute),
            webhooks=Webhooks(
                clock=self._clock, latency=latency, secret=self.webhook_secret, loopback_only=loopback_only
            ),
            url_lifetime=url_lifetime,
            state=State(state) if state is not None else None,
            source=source,
        )
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._middleware = APIMiddleware(self._api, Routes(self._api))
        self.app: ASGIApp = self._middleware

    @property
    def base_url(self) -> str:
        """The origin to send requests to. Raises RuntimeError when the emulator does not run."""
        return self._running().origin

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point a client to the emulator."""
        models = self._api.models
        return {
            "PICCC_BASE_URL": self.base_url,
            "PICCC_API_KEY": self.api_key,
            "PICCC_IMAGE_MODEL": next((name for name in models if MODELS.get(name) == "image"), models[-1]),
            "PICCC_VIDEO_MODEL": next((name for name in models if MODELS.get(name) == "video"), models[-1]),
        }

    @property
    def charges(self) -> list[Charge]:
        """The latest 10,000 charges, oldest first."""
        return list(self._api.charges.copy())

    @property
    def requests(self) -> list[RequestRecord]:
        """The records of the latest 1,000 requests, oldest first."""
        return self._api.request_log.records()

    @property
    def deliveries(self) -> list[Delivery]:
        """The latest 1,000 webhook deliveries, oldest first, each with its attempts."""
        return list(self._api.webhooks.deliveries.copy())

    def script(self, lines: Iterable[ScriptLine]) -> None:
        """Queue the next chat replies, one per request.

        Args:
            lines: texts, `Scripted`, or functions of the request that return one of these.
        """
        self._api.script.lines.extend(lines)

    def rule(self, when: Callable[[ModelRequest], bool], then: ScriptLine) -> None:
        """Answer every chat request that a condition holds for; the first such rule wins, before the script.

        Args:
            when: the condition.
            then: the reply: a text, `Scripted`, or a function of the request.
        """
        self._api.script.rules.append((when, then))

    def fault(
        self,
        fault: str | Fault,
        *,
        route: str = "*",
        times: int | None = None,
        after: int = 0,
        rate: float = 1.0,
        when: Callable[[RequestRecord], bool] | None = None,
    ) -> FaultRule:
        """Inject a fault into coming requests; the rule that it returns counts its hits.

        Args:
            fault: what happens, such as `429;retry-after=1`; `Fault` lists the kinds.
            route: method and path that a request must match, such as `POST /v1/chat/*`.
            times: how many requests it happens to; None is all.
            after: how many matching requests pass first.
            rate: the share of matching requests that it happens to, 0 to 1.
            when: a function that chooses among matching requests.

        Raises:
            ValueError: there is no such fault.
        """
        parsed = Fault.parse(fault) if isinstance(fault, str) else fault
        rule = FaultRule(parsed, route, times, after, rate, when)
        self._api.faults.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Remove the script, its rules and all faults."""
        self._api.clear_scripts()

    def reset(self) -> None:
        """Forget requests, charges, tasks, webhooks, faults and scripts; what is on disk stays."""
        self._api.reset()

    def redeliver(self, event_id: str) -> None:
        """Deliver a webhook again.

        Args:
            event_id: the delivery's `event_id`.

        Raises:
            KeyError: no delivery has this id.
        """
        self._api.webhooks.delivery(event_id)
        self._running().loop.call_soon_threadsafe(self._api.webhooks.redeliver, event_id)

    def advance(self, seconds: float) -> None:
        """Advance the manual clock, and return when everything due has happened.

        Args:
            seconds: by how much.

        Raises:
            TypeError: the emulator was made without a `ManualClock`.
            RuntimeError: it does not run.
        """
        self._move(seconds).result(_PATIENCE)

    async def aadvance(self, seconds: float) -> None:
        """Advance the manual clock without blocking the event loop; arguments and errors as of `advance`."""
        await asyncio.wait_for(asyncio.wrap_future(self._move(seconds)), _PATIENCE)

    def start(self) -> Self:
        """Bind the socket, start serving and return this emulator.

        Raises:
            OSError: the port is taken.
            RuntimeError: it runs already, or cannot start.
        """
        if self._server is not None:
            raise RuntimeError("the emulator runs already")
        self._server = _Server(self._middleware, _bound(self._host, self._port))
        self._thread = threading.Thread(target=self._server.run, name="piccc-emulator", daemon=True)
        self._thread.start()
        self._server.ready.wait(_PATIENCE)
        if not self._server.started:
            self.stop()
            raise RuntimeError("the emulator could not start")
        return self

    def stop(self) -> None:
        """Close every connection and the socket, and wait for the thread."""
        if self._server and self._thread:
            self._server.stop()
            self._thread.join(_PATIENCE)
        self._server = self._thread = None

    def _running(self) -> _Server:
        if self._server is None:
            raise RuntimeError("the emulator does not run: enter it with `with`, or call start()")
        return self._server

    def _move(self, seconds: float) -> Future[None]:
        if not isinstance(self._clock, ManualClock):
            raise TypeError("only a manual clock can be advanced: Emulator(clock=ManualClock())")
        moved = self._clock.move(seconds, self._api.webhooks.settle)
        return asyncio.run_coroutine_threadsafe(moved, self._running().loop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


class _Exchange:
    """One request and its response, which the app reads and writes as ASGI's messages."""

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
        """Take a piece of the body, of which nothing is kept after the response; False is enough for now."""
        if not self.has_ended:
            self._body.append(piece)
            self._arrived.set()
        return self.has_ended or sum(map(len, self._body)) <= _UNREAD

    def drop(self) -> None:
        """Close the connection: the response ends before its end."""
        self._connection.close()

    def finish(self) -> None:
        """Take the end of the body."""
        self.is_whole = True
        self._arrived.set()

    def leave(self) -> None:
        """Take the end of the connection."""
        self.is_gone = True
        self._arrived.set()

    async def receive(self) -> Message:
        """Return what has arrived of the body, or that the client has left or has its response."""
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
        """Write the head or a piece of the body; nothing once the client has left."""
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
        # A header with a line break would end in another header, or in another response.
        if head.count(b"\n") != len(lines) + 1 or head.count(b"\r") != len(lines) + 1:
            raise ValueError("a header of the response has a line break")
        self._connection.write(head)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 on one connection (RFC 9112): its requests are answered one after the other.

    What is written in one turn of the loop goes out together, for a system call takes longer than an event of
    a stream takes to make.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._parser = HttpRequestParser(self)
        self._exchanges: deque[_Exchange] = deque()  # the first is being answered, the last is being read
        self._pieces: list[bytes] = []
        self._drained: asyncio.Event | None = None
        self._state = ConnectionState(self.close)
        self._used_at = 0.0
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let what waits for the client know."""
        if self._idle is not None:
            self._idle.cancel()
        self._server.connections.discard(self)
        self.resume_writing()
        for exchange in self._exchanges:
            exchange.leave()

    def data_received(self, data: bytes) -> None:
        """Parse what has come; the parser calls the `on_` methods."""
        if self._state.stale:
            self.close()
            return
        self._used_at = self._server.loop.time()
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass  # nothing else is spoken here: the request is answered, and the connection ends
        except HttpParserError:
            _logger.warning("A client sent what is no HTTP/1.1 request; it got a 400.")
            if not any(exchange.has_started for exchange in self._exchanges):
                self.write(_INVALID)
            self.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url, self._headers, self._is_expected = b"", list[tuple[bytes, bytes]](), False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._is_expected = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Answer the request, or let it wait for the one before."""
        parser, url = self._parser, parse_url(self._url)
        is_old = parser.get_http_version() == "1.0"
        path = url.path.decode("ascii")
        scope = {
            "type": "http",
            "http_version": parser.get_http_version(),
            "method": parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path) if "%" in path else path,
            "query_string": url.query or b"",
            "headers": self._headers,
            "state": {"connection": self._state},
        }
        closes = is_old or not parser.should_keep_alive() or parser.should_upgrade()
        exchange = _Exchange(self, scope, closes=closes, is_old=is_old, is_expected=self._is_expected)
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self._server.answer(exchange)
        else:
            self._transport.pause_reading()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; read no more while the app has enough."""
        if self._exchanges and not self._exchanges[-1].take(body):
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        """End the request."""
        if self._exchanges:
            self._exchanges[-1].finish()

    def end(self, *, close: bool) -> None:
        """Go on to the next request."""
        self.flush()  # a client need not wait for the loop's next turn
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
        """Send in this turn of the loop, or at the next `flush`."""
        if not self._pieces:
            self._due = self._server.loop.call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        """Send what was written."""
        if self._pieces:
            self._due.cancel()
            pieces, self._pieces = self._pieces, []
            if not self._transport.is_closing():
                self._transport.write(b"".join(pieces))

    def close(self) -> None:
        """Close the connection after what was written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Let the app wait: the client does not read as fast."""
        self._drained = asyncio.Event()

    def resume_writing(self) -> None:
        """Let the app go on."""
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def writable(self) -> None:
        """Wait until the client has read enough."""
        if self._drained is not None:
            await self._drained.wait()

    def date(self) -> bytes:
        """Return the line of the date header."""
        return self._server.date()

    def _close_if_idle(self) -> None:
        # One timer for the connection: one for each request takes longer than to look at the time.
        loop = self._server.loop
        left = self._used_at + _IDLE - loop.time()
        if self._exchanges or left > 0:
            self._idle = loop.call_later(left if left > 0 else _IDLE, self._close_if_idle)
        else:
            self.close()


class _Server:
    """Serves the app on a bound socket; `stop` ends it at once."""

    def __init__(self, app: APIMiddleware, bound: socket.socket) -> None:
        self.ready = threading.Event()
        self.started = False
        self.connections: set[_Connection] = set()
        self._app = app
        self._socket = bound
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._second, self._date = 0, b""
        address = bound.getsockname()
        # One can listen on all addresses (0.0.0.0, ::), but not connect to them on every system.
        reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104
        self.origin = f"http://{_bracketed(reachable)}:{address[1]}"

    def run(self) -> None:
        """Serve until `stop`."""
        try:
            with self._socket, asyncio.Runner() as runner:
                self.loop = runner.get_loop()
                runner.run(self._serve())
        except Exception:
            _logger.exception("The emulator could not serve.")
        finally:
            self.ready.set()

    def stop(self) -> None:
        """Stop serving. Safe to call from any thread."""
        with suppress(RuntimeError):  # the loop is closed when serving has failed
            self.loop.call_soon_threadsafe(self._stopping.set)

    def answer(self, exchange: _Exchange) -> None:
        """Let the app answer a request."""
        task = self.loop.create_task(self._answered(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def date(self) -> bytes:
        """Return the line of the date header, which changes once a second."""
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
        self._app.start()
        server = await self.loop.create_server(lambda: _Connection(self), sock=self._socket, backlog=2048)
        self.started = True
        self.ready.set()
        await self._stopping.wait()
        server.close()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)
        serving = list(self._tasks)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await self._app.stop()
        await server.wait_closed()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _bound(host: str, port: int) -> socket.socket:
    """Bind before the thread starts, so that a taken port is the caller's error at once.

    The protocol is named, because asyncio turns Nagle's delay off only on sockets that say they are TCP.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"cannot serve on {host}:{port}: {error.strerror}") from None
    return bound
