"""Where deliveries come in: an ASGI app, or a threaded server of the standard library. Both answer first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from piccc.transport.port import finish

if TYPE_CHECKING:
    from piccc.media.account import Account
    from piccc.media.webhooks import Webhooks

READ_LIMIT = 65 * 1024
SOCKET_SECONDS = 10.0
CONFIRMING_THREADS = 4


async def serve_asgi(webhooks: Webhooks, account: Account, scope: Any, receive: Any, send: Any) -> None:
    """Serve one ASGI scope."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    body = await _body(receive)
    status, delivery = webhooks.receive(scope["method"], scope["path"], headers, body)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
    if delivery is not None:
        await webhooks.confirm(delivery, account)


async def _live(receive: Any, send: Any) -> None:
    while True:
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return


async def _body(receive: Any) -> bytes:
    body = b""
    while len(body) < READ_LIMIT:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


class WebhookServer:
    """A receiver of webhooks that runs in threads until it is closed; `Webhooks.serve` makes it."""

    def __init__(self, webhooks: Webhooks, account: Account, host: str, port: int) -> None:
        self._confirming = ThreadPoolExecutor(CONFIRMING_THREADS, "piccc-webhooks")
        confirming = self._confirming

        class Handler(BaseHTTPRequestHandler):
            timeout = SOCKET_SECONDS
            protocol_version = "HTTP/1.1"

            def handle_one_delivery(self) -> None:
                length = self.headers.get("content-length", "0")
                body = self.rfile.read(min(int(length) if length.isdecimal() else 0, READ_LIMIT))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, delivery = webhooks.receive(self.command, self.path, headers, body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.send_header("connection", "close")
                self.end_headers()
                if delivery is not None:
                    confirming.submit(lambda: finish(webhooks.confirm(delivery, account)))

            do_POST = do_GET = do_PUT = do_HEAD = handle_one_delivery  # noqa: N815  as http.server names them

            def log_message(self, format: str, *args: object) -> None:
                return  # the path holds the address's secret

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="piccc-webhooks",
            daemon=True,
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def close(self) -> None:
        """Take no more deliveries and finish what is being confirmed."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._confirming.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
