"""Sign and verify deliveries as Standard Webhooks does: HMAC-SHA256 over id, timestamp and body.

That the provider signs like this is assumed: so a signature is checked only where a secret was set for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import inspect
import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from piccc._http.backend import Failure, HTTPRequest
from piccc._http.backends import AsyncBackend, SyncBackend, run_sync
from piccc.errors import ConfigurationError, PicccError
from piccc.media.account import Account
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.media.ledgers import Submission
from piccc.media.requests import can_be
from piccc.media.schedule import Pages
from piccc.tasks import Task

TOLERANCE_SECONDS = 300.0


def sign(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a delivery."""
    signature = base64.b64encode(_digest(secret, id, str(timestamp), body)).decode()
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether a delivery was signed with the secret in the last five minutes."""
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id or not timestamp.isdecimal() or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    expected = _digest(secret, id, timestamp, body)
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(_decoded(each), expected) for each in given)


def _digest(secret: str, id: str, timestamp: str, body: bytes) -> bytes:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()


def _decoded(signature: str) -> bytes:
    version, _, value = signature.partition(",")
    try:
        return base64.b64decode(value, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""


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
                    confirming.submit(lambda: run_sync(webhooks.confirm(delivery, account)))

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


logger = logging.getLogger("piccc")

MAX_BODY_BYTES = 64 * 1024
MOST_REMEMBERED = 10_000
FORWARD_ATTEMPTS = 3
FORWARD_SECONDS = 10.0
LOOKS_BACK_SECONDS = 60.0
REPEAT_SECONDS = 5.0
_PAUSES = (1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that has passed: the submission's entry, and the task it is said to be about."""

    entry: Submission
    task_id: str


OnTask = Callable[[TaskHandle | AsyncTaskHandle], object]


class Webhooks:
    """Receive deliveries as an ASGI app or on a threaded server, or make them by polling.

    Make it with `client.webhooks(…)` and pass it as `webhook=` to submissions. It wakes every wait for the
    task, in this process and in those that share its ledger's file; `on_task` is called once for each task
    that has ended, awaited if it can be, and `forward_to` gets such deliveries as the provider makes
    (assumed).
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
        if len(secret) < 16:
            raise ConfigurationError(
                "The secret of the webhooks' addresses is too short.",
                hint="Give at least 16 random characters, such as secrets.token_urlsafe() makes.",
            )
        self._account = account
        self._secret = secret.encode()
        self._public_url = public_url.rstrip("/")
        self._signing_secret = signing_secret
        self._on_task = on_task
        self._forward_to = forward_to
        self._lock = threading.Lock()
        self._delivered: OrderedDict[str, float] = OrderedDict()
        self._reported: OrderedDict[str, float] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()

    def url_for(self, key: str) -> str:
        """Return the address for the submission of this key."""
        name = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
        return f"{self._public_url}/{name}/{self._token(key)}"

    def receive(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Delivery | None]:
        """Return the status to answer with at once, and what is to be confirmed afterwards, if anything.

        Header names are lower case. Only the end of the path counts, so it may be mounted anywhere.
        """
        key = self._key_in(path)
        if key is None:
            return 404, None
        if method != "POST":
            return 405, None
        if len(body) > MAX_BODY_BYTES:
            return 413, None
        if self._signing_secret is not None:
            if not verify(self._signing_secret, headers, body, time.time()):
                return 401, None
            with self._lock:
                if not _is_new(self._delivered, headers["webhook-id"]):
                    return 204, None
        entry = self._account.ledger.get(key)
        task_id = entry and (entry.task_id or _task_id_in(body))
        return 204, Delivery(entry, task_id) if entry and task_id else None

    async def confirm(self, delivery: Delivery, account: Account | None = None) -> None:
        """Verify the delivery with the server, and notify the waits for its task."""
        account, task_id = account or self._account, delivery.task_id
        if not self._may_confirm(task_id, account.session.io.now()):
            return
        try:
            if delivery.entry.task_id is not None:
                await account.wake(task_id)
                if self._on_task is None and self._forward_to is None:
                    return
            await self._confirm(delivery, account)
        except PicccError as error:
            logger.warning("A webhook about task %s could not be confirmed: %s", task_id, error)
        except Exception:
            # The delivery is answered already, so there is nobody to raise it to.
            logger.exception("What on_task does with task %s failed.", task_id)

    def _may_confirm(self, task_id: str, now: float) -> bool:
        """Merge the deliveries about one task, so that repeating them does not multiply our requests."""
        with self._lock:
            is_due = self._asked.get(task_id, -math.inf) + REPEAT_SECONDS <= now
            if is_due and task_id not in self._reported:
                _is_new(self._asked, task_id)
                self._asked[task_id] = now
                return True
            return False

    async def _confirm(self, delivery: Delivery, account: Account) -> None:
        task = await account.get(delivery.task_id)
        if delivery.entry.task_id is None:
            if not can_be(task, delivery.entry) or not account.ledger.settle(delivery.entry.key, task.id):
                return
            await account.wake(task.id)
        for pause in _PAUSES:
            if task.is_terminal:
                break
            # The delivery may be ahead of the replica that answers us.
            await account.session.io.sleep(pause)
            task = await account.get(task)
        if task.is_terminal:
            await self._report(task, account)

    async def _report(self, task: Task, account: Account) -> None:
        with self._lock:
            if not _is_new(self._reported, task.id):
                return
        await account.wake(task.id)
        if self._on_task is not None:
            is_async = isinstance(account.session.io, AsyncBackend)
            handle = AsyncTaskHandle(task, account) if is_async else TaskHandle(task, account)
            done = self._on_task(handle)
            if is_async and inspect.isawaitable(done):
                await done
        if self._forward_to is not None:
            await self._forward(task, self._forward_to, account)

    async def _forward(self, task: Task, url: str, account: Account) -> None:
        io = account.session.io
        id = f"evt_{hashlib.sha256(f'{task.id} {task.status}'.encode()).hexdigest()[:24]}"
        moment = int(time.time())
        event = {"id": id, "type": f"task.{task.status}", "created_at": moment, "data": task.to_dict()}
        body = json.dumps(event).encode()
        headers = [("content-type", "application/json")]
        if self._signing_secret is not None:
            headers += sign(self._signing_secret, id, moment, body).items()
        for attempt in range(FORWARD_ATTEMPTS):
            await io.sleep(2.0**attempt - 1.0)
            by = io.now() + FORWARD_SECONDS
            try:
                response = await io.send(HTTPRequest("POST", url, headers, body, FORWARD_SECONDS, None, by))
                await response.close()
                reason = f"HTTP {response.status}"
                if 200 <= response.status < 300:
                    return
            except Failure as failure:
                reason = failure.reason
        logger.warning("The end of task %s could not be forwarded: %s", task.id, reason)

    def poll(self) -> Iterator[TaskHandle]:
        """Yield each of the account's tasks when it has ended, reported as if delivered; for ever.

        So no tunnel is needed where the provider cannot reach this machine.
        """
        account = self._account.over(SyncBackend())
        with _Endings(account) as endings:
            while True:
                task = run_sync(endings.next())
                run_sync(self._report(task, account))
                yield TaskHandle(task, account)

    async def apoll(self) -> AsyncIterator[AsyncTaskHandle]:
        """Yield each of the account's tasks when it has ended, reported as if delivered; for ever.

        So no tunnel is needed where the provider cannot reach this machine.
        """
        account = self._account.over(AsyncBackend())
        with _Endings(account) as endings:
            while True:
                task = await endings.next()
                await self._report(task, account)
                yield AsyncTaskHandle(task, account)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as an ASGI app: mount it at `public_url`'s path."""
        await serve_asgi(self, self._account.over(AsyncBackend()), scope, receive, send)

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> WebhookServer:
        """Serve in threads until the server is closed; where no `public_url` was given, its own is that."""
        server = WebhookServer(self, self._account.over(SyncBackend()), host, port)
        self._public_url = self._public_url or server.url
        return server

    def _token(self, key: str) -> str:
        digest = hmac.new(self._secret, key.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def _key_in(self, path: str) -> str | None:
        name, _, token = "/".join(path.rstrip("/").split("/")[-2:]).partition("/")
        try:
            key = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
        except (binascii.Error, ValueError):
            return None
        return key if hmac.compare_digest(token.encode(), self._token(key).encode()) else None


class _Endings:
    """The account's tasks as they end: new ones are looked for in the list, running ones are waited for."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._watching = account.watch(timeout=math.inf)
        self._since = time.time() - LOOKS_BACK_SECONDS
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._ended: list[Task] = []
        self._look_at = -math.inf

    async def next(self) -> Task:
        while not self._ended:
            try:
                await self._look_or_wait()
            except PicccError as error:
                if error.status in (401, 402, 403):
                    raise
                logger.warning("Polling for tasks that end failed, and goes on: %s", error)
        return self._ended.pop(0)

    async def _look_or_wait(self) -> None:
        now = self._watching.now()
        if now >= self._look_at:
            self._look_at = now + self._account.polling.max
            await self._look()
        elif self._watching.is_done:
            await self._account.session.io.sleep(self._look_at - now)
        elif (task := await self._watching.next(self._look_at)) is not None:
            self._ended.append(task)

    async def _look(self) -> None:
        pages = Pages()
        while not pages.is_done:
            page = await self._account.next_page(pages)
            new = [task for task in page if _is_new(self._seen, task.id)]
            for task in new:
                self._take(task)
            if not any(task.created_at is None or task.created_at >= self._since for task in new):
                return

    def _take(self, task: Task) -> None:
        if not task.is_terminal:
            self._watching.add(task)
        elif (task.created_at or 0.0) >= self._since:
            self._ended.append(task)

    def __enter__(self) -> _Endings:
        return self

    def __exit__(self, *exception: object) -> None:
        self._watching.close()


def _is_new(seen: OrderedDict[str, float], name: str) -> bool:
    if name in seen:
        return False
    seen[name] = 0.0
    if len(seen) > MOST_REMEMBERED:
        seen.popitem(last=False)
    return True


def _task_id_in(body: bytes) -> str | None:
    try:
        event = json.loads(body)
    except ValueError:
        return None
    inner = event.get("data") if isinstance(event, dict) else None
    for place in (inner, event):
        if isinstance(place, dict) and isinstance(id := place.get("task_id") or place.get("id"), str):
            return id
    return None
