"""Receive webhooks of finished tasks, as an ASGI app or on a threaded server, or poll for them."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from piccc._http.backend import Backend
from piccc._http.backends import READ_BYTES, AsyncBackend, SyncBackend, run_sync
from piccc._http.connections import ChunkedBody
from piccc.config import redact
from piccc.errors import ConfigurationError
from piccc.media.account import Account
from piccc.media.deliveries import (
    MAX_BODY_BYTES,
    Deliveries,
    Endings,
    Memory,
    OnTask,
    Reporter,
    Settings,
    logger,
    number_of,
    signing_key,
)
from piccc.media.handles import AsyncTaskHandle, TaskHandle

SOCKET_SECONDS = 10.0
MAX_CONNECTIONS = 32
FIRST_TRY_SECONDS = 30.0


async def serve_asgi(deliveries: Deliveries, scope: Any, receive: Any, send: Any) -> None:
    """Serve one ASGI scope."""
    if scope["type"] == "lifespan":
        await _lifespan(deliveries, receive, send)
        return
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    method, path = scope["method"], scope["path"]
    status, tried = deliveries.refusal(method, path, number_of(headers.get("content-length", "0")) or 0), None
    if not status:
        body = await _body(receive)
        if body is None:
            return
        status, tried = await deliveries.receive(method, path, headers, body)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
    if tried is not None:
        # Serverless platforms may freeze the process once this returns, so wait for the first attempt.
        await tried.wait(FIRST_TRY_SECONDS)


async def _lifespan(deliveries: Deliveries, receive: Any, send: Any) -> None:
    while True:
        phase = (await receive())["type"]
        if phase == "lifespan.shutdown":
            await deliveries.close()
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return


async def _body(receive: Any) -> bytes | None:
    """Return the body, truncated once it exceeds the limit; None if the sender disconnected."""
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


def _chunks(file: BufferedIOBase) -> bytes:
    """Return a chunked body, as proxies send it that do not buffer; truncated once it exceeds the limit."""
    chunked, body = ChunkedBody(), b""
    while not chunked.is_over and len(body) <= MAX_BODY_BYTES:
        data = file.read1(READ_BYTES)
        body += chunked.feed(data)
        if chunked.damage or not data:
            raise ConnectionError("the body is incomplete or damaged")
    return body


class _BoundedServer(ThreadingHTTPServer):
    """A server with few threads: beyond the limit, a new connection closes the oldest one."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._open: OrderedDict[Any, None] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__((host, port), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open[request] = None
            oldest = self._open.popitem(last=False)[0] if len(self._open) > MAX_CONNECTIONS else None
        if oldest is not None:
            with suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("A connection to the webhook server failed.", exc_info=True)


class WebhookServer:
    """A threaded webhook server, created by `Webhooks.serve`, that runs until it is closed."""

    def __init__(self, deliveries: Deliveries, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = SOCKET_SECONDS
            protocol_version = "HTTP/1.1"

            def handle_one_delivery(self) -> None:
                path = unquote(self.path)  # as an ASGI scope has it: a proxy may have encoded it
                length = number_of(self.headers.get("content-length", "0"))
                status = deliveries.refusal(
                    self.command, path, MAX_BODY_BYTES + 1 if length is None else length
                )
                coding = self.headers.get("transfer-encoding", "").lower()
                if not status and coding not in ("", "chunked"):
                    status = 501
                if not status:
                    body = _chunks(self.rfile) if coding else self.rfile.read(length)
                    if not coding and len(body) < (length or 0):
                        raise ConnectionError("the body is incomplete")
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    status, _ = run_sync(deliveries.receive(self.command, path, headers, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.send_header("connection", "close")
                self.end_headers()

            do_POST = do_GET = do_PUT = do_HEAD = handle_one_delivery  # noqa: N815  http.server's names
            do_DELETE = do_OPTIONS = do_PATCH = handle_one_delivery  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                return  # the path contains the URL's secret token

        self._deliveries = deliveries
        try:
            self._server = _BoundedServer(host, port, Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"The webhook server cannot listen on {host}, port {port}: {error}.",
                hint="Choose a local address and a free port; port 0 picks one.",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="piccc-webhooks",
            daemon=True,
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's URL, without a path."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def close(self) -> None:
        """Stop accepting deliveries, and try once more to report pending ones."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        run_sync(self._deliveries.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Webhooks:
    """A receiver of webhooks, as an ASGI app or on a threaded server, or by polling.

    Create it with `client.webhooks(…)` and pass it as `webhook=` to submissions. It wakes every wait for the
    task, in this process and in those that share its ledger.

    A delivery gets a 204 once it is queued in memory. The task is then read and `on_task` called, with
    retries for a day until both succeed. Afterwards `on_task` is not called again for this task, in this
    process or in any that shares the ledger. An awaitable that it returns is awaited. `forward_to` receives
    deliveries like the provider's (assumed).

    A pickled copy produces the same URLs, but has no `on_task`.
    """

    def __init__(
        self,
        account: Account,
        *,
        secret: str,
        public_url: str = "",
        signing_secret: str | None = None,
        on_task: OnTask | None = None,
        forward_to: str | None = None,
    ) -> None:
        if not isinstance(secret, str) or len(secret) < 16:
            raise ConfigurationError(
                "The secret for webhook URLs is too short.",
                hint="Pass at least 16 random characters, for example from secrets.token_urlsafe().",
            )
        if signing_secret is not None:
            signing_key(signing_secret)
        if on_task is not None and not callable(on_task):
            raise ConfigurationError(
                f"on_task is {on_task!r:.80}.", hint="Pass a function that takes a task."
            )
        for name, url in (("public_url", public_url), ("forward_to", forward_to)):
            _check_url(name, url)
        self._account = account
        self._public_url = public_url.rstrip("/")
        secret_bytes = secret.encode("utf-8", "surrogatepass")
        self._settings = Settings(secret_bytes, signing_secret, on_task, forward_to)
        self._memory = Memory()
        self._by_loop: dict[asyncio.AbstractEventLoop, Deliveries] = {}

    def url_for(self, key: str) -> str:
        """Return the webhook URL for a submission.

        Args:
            key: the submission's key.

        Raises:
            ConfigurationError: there is no `public_url`, and no server was started.
        """
        if not self._public_url:
            raise ConfigurationError(
                "The webhook receiver has no URL yet.",
                hint="Pass public_url=, or submit while `receiver.serve()` is running.",
            )
        name = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
        return f"{self._public_url}/{name}/{self._settings.token(key)}"

    def poll(self) -> Iterator[TaskHandle]:
        """Yield the account's tasks forever as they end, reporting each as if it had been delivered.

        Use this without a tunnel if the provider cannot reach this machine. Exceptions of `on_task`
        propagate; the next call continues with that task. Tasks that ended more than a minute before the
        first call are skipped.
        """
        account = self._account.over(SyncBackend())
        reporter = Reporter(self._settings, self._memory)
        with Endings(account, self._memory) as endings:
            while True:
                task = run_sync(endings.next())
                run_sync(reporter.report(task, account))
                self._memory.unreported.pop(task.id, None)
                yield TaskHandle(task, account)

    async def apoll(self) -> AsyncIterator[AsyncTaskHandle]:
        """Yield the account's tasks forever as they end, reporting each as if it had been delivered.

        Use this without a tunnel if the provider cannot reach this machine. Exceptions of `on_task`
        propagate; the next call continues with that task. Tasks that ended more than a minute before the
        first call are skipped.
        """
        account = self._account.over(AsyncBackend())
        reporter = Reporter(self._settings, self._memory)
        with Endings(account, self._memory) as endings:
            while True:
                task = await endings.next()
                await reporter.report(task, account)
                self._memory.unreported.pop(task.id, None)
                yield AsyncTaskHandle(task, account)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as an ASGI app: mount it at `public_url`'s path.

        Args:
            scope: the connection's scope.
            receive: returns the next event.
            send: sends an event.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            for closed in [each for each in self._by_loop if each.is_closed()]:
                del self._by_loop[closed]
            self._by_loop[loop] = self.deliveries(AsyncBackend())
        await serve_asgi(self._by_loop[loop], scope, receive, send)

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> WebhookServer:
        """Serve in threads until the server is closed; without a `public_url`, use the server's own.

        Args:
            host: the address to listen on.
            port: the port; 0 picks a free one.

        Returns:
            The running server; close it to stop.

        Raises:
            ConfigurationError: it cannot listen there.
        """
        server = WebhookServer(self.deliveries(SyncBackend()), host, port)
        self._public_url = self._public_url or server.url
        return server

    def deliveries(self, io: Backend) -> Deliveries:
        """Return a handler of deliveries on a backend, for use in another kind of server.

        Args:
            io: a blocking or asynchronous backend.
        """
        return Deliveries(self._settings, self._memory, self._account.over(io))

    def __deepcopy__(self, memo: object) -> Webhooks:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        settings = replace(self._settings, on_task=None)  # usually a local function that cannot be pickled
        return (_rebuild, (self._account, self._public_url, settings))


def _rebuild(account: Account, public_url: str, settings: Settings) -> Webhooks:
    return Webhooks(
        account,
        secret=settings.secret.decode("utf-8", "surrogatepass"),
        public_url=public_url,
        signing_secret=settings.signing_secret,
        forward_to=settings.forward_to,
    )


def _check_url(name: str, url: str | None) -> None:
    """Raise if a URL is malformed; https is checked when a task is submitted."""
    if url is None or url == "":
        return
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_valid = is_valid and not (name == "public_url" and (parts.query or parts.fragment))
    except (ValueError, AttributeError, TypeError):
        is_valid = False
    if not is_valid:
        raise ConfigurationError(
            f"{name} is {redact(repr(url)):.100}.",
            hint="Pass a URL such as https://host/path, without a query.",
        )
