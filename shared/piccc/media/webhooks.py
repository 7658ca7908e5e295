"""Receive deliveries of ended tasks, and sign and verify them as Standard Webhooks does.

That the provider signs like this is assumed: so a signature is checked only where a secret was set for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import inspect
import json
import logging
import math
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import quote, urlsplit

from piccc._dialects.common import parse
from piccc._dialects.tasks import read_task, read_task_list
from piccc._http.backend import Backend, Failure, HTTPRequest, Signal, T
from piccc._http.backends import AsyncBackend, SyncBackend, run_sync
from piccc.errors import ConfigurationError, NotFoundError, PicccError
from piccc.media.account import Account
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.media.ledgers import Submission
from piccc.media.polling import READ_SECONDS
from piccc.media.requests import CLOCK_SKEW
from piccc.media.schedule import Pages
from piccc.tasks import Task

TOLERANCE_SECONDS = 300.0
MOST_DIGITS = 12
"""How many digits a number in a header may have: Python refuses to read those of thousands."""


def sign(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a delivery."""
    signature = base64.b64encode(_digest(secret, id, str(timestamp), body)).decode()
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether a delivery was signed with the secret in the last five minutes; names in lower case.

    Raise ConfigurationError where the secret is malformed.
    """
    id, timestamp = headers.get("webhook-id", ""), _number(headers.get("webhook-timestamp", ""))
    if not id or timestamp is None or abs(now - timestamp) > TOLERANCE_SECONDS:
        return False
    expected = _digest(secret, id, headers["webhook-timestamp"], body)
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(_decoded(each), expected) for each in given)


def _number(digits: str) -> int | None:
    return int(digits) if digits.isdecimal() and len(digits) <= MOST_DIGITS else None


def _digest(secret: str, id: str, timestamp: str, body: bytes) -> bytes:
    signed = f"{id}.{timestamp}.".encode("utf-8", "surrogatepass") + body
    return hmac.new(_signing_key(secret), signed, hashlib.sha256).digest()


def _signing_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (AttributeError, TypeError, ValueError):
        key = b""
    if not key:
        raise ConfigurationError(
            "The signing secret is malformed.",
            hint="Give it as the provider shows it: whsec_ and Base64, with its = at the end.",
        )
    return key


def _decoded(signature: str) -> bytes:
    version, _, value = signature.partition(",")
    try:
        return base64.b64decode(value, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""


MAX_BODY_BYTES = 64 * 1024
SOCKET_SECONDS = 10.0
MAX_ID_LENGTH = 200
MAX_CONNECTIONS = 32
MAX_WORKERS = 4
MAX_JOBS = 1000
"""How many deliveries may wait to be confirmed; further ones are answered 503."""
MAX_CANDIDATES = 4
"""How many tasks deliveries at one address may name as long as it is not known which is the submission's."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
GIVE_UP_SECONDS = 24 * 3600.0
ABSENT_ATTEMPTS = 5
"""How many times in a row a task may be answered 404 before its delivery is dropped."""
FIRST_TRY_SECONDS = 30.0
CLOSING_SECONDS = 0.02
MOST_REMEMBERED = 10_000
FORWARD_ATTEMPTS = 3
FORWARD_SECONDS = 10.0
LOOKS_BACK_SECONDS = 60.0

logger = logging.getLogger("piccc")
OnTask = Callable[[TaskHandle | AsyncTaskHandle], object]


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a receiver was made with."""

    secret: bytes
    signing_secret: str | None
    on_task: OnTask | None
    forward_to: str | None

    def token(self, key: str) -> str:
        digest = hmac.new(self.secret, key.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def key_in(self, path: str) -> str | None:
        """Return the key of the submission whose address this is; a query that was added does not count."""
        name, _, token = "/".join(path.partition("?")[0].rstrip("/").split("/")[-2:]).partition("/")
        try:
            key = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
        except ValueError:
            return None
        return (
            key if hmac.compare_digest(token.encode("utf-8", "replace"), self.token(key).encode()) else None
        )


class _Memory:
    """What was done about tasks, for all servers and event loops of a receiver; of each the latest 10,000."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self._reported: OrderedDict[str, bool] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()
        self._candidates: OrderedDict[str, dict[str, bool]] = OrderedDict()

    def was_delivered(self, id: str) -> bool:
        return id in self._delivered

    def deliver(self, id: str) -> None:
        with self._lock:
            _put(self._delivered, id, None)

    def is_reported(self, task_id: str) -> bool:
        return self._reported.get(task_id, False)

    def begin_report(self, task_id: str) -> bool:
        """Return whether a task is to be reported now: nobody has, and nobody does at this moment."""
        with self._lock:
            if task_id in self._reported:
                return False
            _put(self._reported, task_id, False)
            return True

    def end_report(self, task_id: str, *, is_done: bool) -> None:
        with self._lock:
            if is_done:
                self._reported[task_id] = True
            else:
                self._reported.pop(task_id, None)

    def may_ask(self, task_id: str, now: float) -> bool:
        """Return whether a second has passed since a task was last asked for."""
        with self._lock:
            if self._asked.get(task_id, -math.inf) + FIRST_PAUSE > now:
                return False
            _put(self._asked, task_id, now)
            return True

    def is_candidate(self, key: str, task_id: str) -> bool:
        """Return whether one more task may be asked for because a submission's address was given it."""
        with self._lock:
            known = self._candidates.get(key, {})
            if task_id not in known and len(known) >= MAX_CANDIDATES:
                return False
            _put(self._candidates, key, {task_id: False, **known})
            return True

    def reject(self, key: str, task_id: str) -> None:
        with self._lock:
            self._candidates.get(key, {})[task_id] = True

    def is_rejected(self, key: str, task_id: str) -> bool:
        return self._candidates.get(key, {}).get(task_id, False)


def _put(memory: OrderedDict[str, T], name: str, value: T) -> None:
    memory[name] = value
    if len(memory) > MOST_REMEMBERED:
        memory.popitem(last=False)


class _Reporter:
    """Pass tasks that have ended to `on_task` and `forward_to`."""

    def __init__(self, settings: _Settings, memory: _Memory) -> None:
        self._settings = settings
        self._memory = memory

    async def report(self, task: Task, account: Account) -> bool:
        """Report a task unless it was; return whether that is done. What `on_task` raises goes on."""
        if not self._memory.begin_report(task.id):
            return self._memory.is_reported(task.id)
        is_done = False
        try:
            await account.wake(task.id)
            await self._call(task, account)
            is_done = True
        finally:
            self._memory.end_report(task.id, is_done=is_done)
        if self._settings.forward_to is not None:
            await self._forward(task, self._settings.forward_to, account)
        return True

    async def _call(self, task: Task, account: Account) -> None:
        if self._settings.on_task is None:
            return
        is_async = isinstance(account.session.io, AsyncBackend)
        done = self._settings.on_task(
            AsyncTaskHandle(task, account) if is_async else TaskHandle(task, account)
        )
        if is_async and inspect.isawaitable(done):
            await done

    async def _forward(self, task: Task, url: str, account: Account) -> None:
        io = account.session.io
        id = f"evt_{hashlib.sha256(f'{task.id} {task.status}'.encode()).hexdigest()[:24]}"
        moment = int(time.time())
        event = {"id": id, "type": f"task.{task.status}", "created_at": moment, "data": task.to_dict()}
        body = json.dumps(event).encode()
        headers = [("content-type", "application/json")]
        if self._settings.signing_secret is not None:
            headers += sign(self._settings.signing_secret, id, moment, body).items()
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


@dataclass(slots=True, eq=False)
class _Job:
    """A kept delivery: at which submission's address it came, and the task that it named, or ""."""

    key: str
    task_id: str
    since: float
    tried: Signal
    due: float = -math.inf
    pause: float = field(default_factory=lambda: FIRST_PAUSE)
    absences: int = 0
    is_running: bool = False


class Deliveries:
    """Answer deliveries, and keep each until its task is reported.

    Workers are coroutines over the account's backend, at most four: threads, or tasks of one event loop.
    """

    def __init__(self, settings: _Settings, memory: _Memory, account: Account) -> None:
        self._settings = settings
        self._memory = memory
        self._account = account
        self._io = account.session.io
        self._reporter = _Reporter(settings, memory)
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], _Job] = {}
        self._sleeping: set[Signal] = set()
        self._workers = 0
        self._is_closed = False

    def refusal(self, method: str, path: str, length: int) -> int:
        """Return the status to answer with before the body is read, or 0."""
        if self._settings.key_in(path) is None:
            return 404
        if method != "POST":
            return 405
        return 413 if length > MAX_BODY_BYTES else 0

    async def receive(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Signal | None]:
        """Return the status to answer with, and for a new delivery the signal that it was tried once.

        Header names are lower case. Only the end of the path counts, so it may be mounted anywhere.
        """
        key = self._settings.key_in(path)
        refusal = self.refusal(method, path, len(body))
        if refusal or key is None:
            return refusal, None
        id = ""
        if self._settings.signing_secret is not None:
            if not verify(self._settings.signing_secret, headers, body, time.time()):
                return 401, None
            id = headers["webhook-id"]
            if self._memory.was_delivered(id):
                return 204, None
        try:
            entry = await self._account.use_ledger(self._account.ledger.get, key)
        except PicccError as error:
            logger.warning("A webhook could not be looked up: %s", error)
            return 503, None
        status, tried = (204, None) if entry is None else self._keep(entry, body)
        if id and status == 204:
            self._memory.deliver(id)
        return status, tried

    def _keep(self, entry: Submission, body: bytes) -> tuple[int, Signal | None]:
        task_id = entry.task_id or _task_id_in(body)
        if entry.task_id is None and not self._memory.is_candidate(entry.key, task_id):
            return 429, None
        if self._memory.is_reported(task_id) or self._memory.is_rejected(entry.key, task_id):
            return 204, None
        name = (entry.key, task_id)
        with self._lock:
            if name in self._jobs:
                return 204, None
            if self._is_closed or len(self._jobs) >= MAX_JOBS:
                return 503, None
            job = self._jobs[name] = _Job(entry.key, task_id, self._io.now(), self._io.signal())
            has_room = self._workers < MAX_WORKERS
            self._workers += has_room
            self._wake_workers()
        if has_room:
            try:
                self._io.start(self._work)
            except BaseException:
                with self._lock:
                    self._workers -= 1
                    self._jobs.pop(name, None)
                raise
        return 204, job.tried

    async def close(self) -> None:
        """Take no more deliveries, and try once more to report what is kept."""
        with self._lock:
            self._is_closed = True
            self._wake_workers()
        while self._workers:
            await self._io.sleep(CLOSING_SECONDS)

    def _wake_workers(self) -> None:
        for signal in self._sleeping:
            signal.set()
        self._sleeping.clear()

    async def _work(self) -> None:
        signal = self._io.signal()
        try:
            while (step := self._next(signal)) is not None:
                if isinstance(step, _Job):
                    await self._see_to(step)
                else:
                    await signal.wait(step)
        except BaseException:
            with self._lock:
                self._workers -= 1
                self._sleeping.discard(signal)
            raise

    def _next(self, signal: Signal) -> _Job | float | None:
        """Return the next job, or the seconds until it is due, or None where this worker is to end."""
        with self._lock:
            self._sleeping.discard(signal)
            waiting = [job for job in self._jobs.values() if not job.is_running]
            if not waiting:
                self._workers -= 1  # under the same lock, so that no job comes in between
                return None
            job = min(waiting, key=lambda each: each.due)
            seconds = job.due - self._io.now()
            if seconds > 0 and not self._is_closed:
                self._sleeping.add(signal)
                return seconds
            job.is_running = True
            return job

    async def _see_to(self, job: _Job) -> None:
        is_done, is_last = False, self._is_closed
        try:
            is_done = await self._attempt(job, is_last=is_last)
        except PicccError as error:
            logger.warning("The end of task %s is not reported yet: %s", job.task_id or "unknown", error)
        except Exception:
            logger.exception("on_task failed for task %s; it is tried again.", job.task_id)
        finally:
            job.is_running = False
        now = self._io.now()
        is_lost = is_last or now - job.since >= GIVE_UP_SECONDS
        if is_lost and not is_done:
            logger.warning("The end of task %s was not reported.", job.task_id or "unknown")
        with self._lock:
            job.due, job.pause = now + job.pause, min(2 * job.pause, LONGEST_PAUSE)
            if is_done or is_lost:
                self._jobs.pop((job.key, job.task_id), None)
        job.tried.set()

    async def _attempt(self, job: _Job, *, is_last: bool) -> bool:
        """Ask whether it is so, and report it; return whether nothing is left to be done."""
        account, memory = self._account, self._memory
        entry = await account.use_ledger(account.ledger.get, job.key)
        if entry is None:
            return True  # it was refused, and so forgotten
        task_id = entry.task_id or job.task_id
        if memory.is_reported(task_id):
            return True
        if not task_id or not (memory.may_ask(task_id, self._io.now()) or is_last):
            return False
        if entry.task_id and self._settings.on_task is None and self._settings.forward_to is None:
            await account.wake(task_id)
            return True
        try:
            # The id alone came with the delivery, so this is a path of ours, not an address of the server's.
            path = f"/v1/tasks/{quote(task_id, safe='')}"
            task, headers = await account.session.read(path, read_task, seconds=READ_SECONDS, retries=0)
        except NotFoundError:
            job.absences += 1
            if job.absences < ABSENT_ATTEMPTS:
                raise
            memory.reject(job.key, job.task_id)
            return True
        task = replace(task, id=task_id)
        if entry.task_id is None:
            settle = account.ledger.settle
            if not _is_its(task, entry, headers) or not await account.use_ledger(settle, job.key, task_id):
                memory.reject(job.key, job.task_id)
                return True
            await account.wake(task_id)
        return task.is_terminal and await self._reporter.report(task, account)


def _is_its(task: Task, entry: Submission, headers: Mapping[str, str]) -> bool:
    """Return whether a task may be a submission's: as far as the server says its type and prompt, and new.

    Only the server knows the submission's address, so that what it leaves out does not count against it.
    """
    prompt = entry.request.get("prompt")
    if (task.type and task.type != entry.type) or (task.prompt and task.prompt != prompt):
        return False
    ahead = (_server_time(headers) or time.time()) - time.time()
    return task.created_at is None or task.created_at - ahead >= entry.at - CLOCK_SKEW


def _server_time(headers: Mapping[str, str]) -> float | None:
    try:
        return parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


async def serve_asgi(deliveries: Deliveries, scope: Any, receive: Any, send: Any) -> None:
    """Serve one ASGI scope."""
    if scope["type"] == "lifespan":
        await _live(deliveries, receive, send)
        return
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    method, path = scope["method"], scope["path"]
    status, tried = deliveries.refusal(method, path, _number(headers.get("content-length", "0")) or 0), None
    if not status:
        body = await _body(receive)
        if body is None:
            return
        status, tried = await deliveries.receive(method, path, headers, body)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
    if tried is not None:
        # Where the process sleeps between requests, nothing runs once this has returned.
        await tried.wait(FIRST_TRY_SECONDS)


async def _live(deliveries: Deliveries, receive: Any, send: Any) -> None:
    while True:
        phase = (await receive())["type"]
        if phase == "lifespan.shutdown":
            await deliveries.close()
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return


async def _body(receive: Any) -> bytes | None:
    """Return the body, or as much of it as shows that it is too large; None where the sender has gone."""
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return body


class _BoundedServer(ThreadingHTTPServer):
    """A server of few threads: where one more would be too many, the oldest connection is closed for it."""

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
        logger.debug("A connection to the webhook server broke off.", exc_info=True)


class WebhookServer:
    """A receiver of webhooks that runs in threads until it is closed; `Webhooks.serve` makes it."""

    def __init__(self, deliveries: Deliveries, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = SOCKET_SECONDS
            protocol_version = "HTTP/1.1"

            def handle_one_delivery(self) -> None:
                length = _number(self.headers.get("content-length", "0"))
                status = deliveries.refusal(
                    self.command, self.path, MAX_BODY_BYTES + 1 if length is None else length
                )
                if not status and "transfer-encoding" in self.headers:
                    status = 411
                if not status:
                    body = self.rfile.read(length)
                    if len(body) < (length or 0):
                        raise ConnectionError("the body broke off")
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    status, _ = run_sync(deliveries.receive(self.command, self.path, headers, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.send_header("connection", "close")
                self.end_headers()

            do_POST = do_GET = do_PUT = do_HEAD = handle_one_delivery  # noqa: N815  as http.server names them

            def log_message(self, format: str, *args: object) -> None:
                return  # the path holds the address's secret

        self._deliveries = deliveries
        try:
            self._server = _BoundedServer(host, port, Handler)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(
                f"The webhook server cannot listen at {host}, port {port}: {error}.",
                hint="Choose an address of this machine and a free port; port 0 picks one.",
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
        """Where it listens, without a path."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def close(self) -> None:
        """Take no more deliveries, and try once more to report what is kept."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        run_sync(self._deliveries.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Webhooks:
    """Receive deliveries as an ASGI app or on a threaded server, or find out by polling.

    Make it with `client.webhooks(…)` and pass it as `webhook=` to submissions. It wakes every wait for the
    task, in this process and in those that share its ledger's file.

    A delivery is answered 204 when it is kept, in memory: the server is then asked, and `on_task` called,
    again and again for a day until both succeed. After that `on_task` is called no more for this task in
    this process; what it returns is awaited if it can be. `forward_to` gets such deliveries as the provider
    makes (assumed).

    A copy made by pickling gives the same addresses, but has no `on_task`.
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
                "The secret of the webhooks' addresses is too short.",
                hint="Give at least 16 random characters, such as secrets.token_urlsafe() makes.",
            )
        if signing_secret is not None:
            _signing_key(signing_secret)
        if on_task is not None and not callable(on_task):
            raise ConfigurationError(f"on_task is {on_task!r:.80}.", hint="Give a function of one task.")
        for name, url in (("public_url", public_url), ("forward_to", forward_to)):
            _check_address(name, url)
        self._account = account
        self._public_url = public_url.rstrip("/")
        secret_bytes = secret.encode("utf-8", "surrogatepass")
        self._settings = _Settings(secret_bytes, signing_secret, on_task, forward_to)
        self._memory = _Memory()
        self._by_loop: dict[asyncio.AbstractEventLoop, Deliveries] = {}

    def url_for(self, key: str) -> str:
        """Return the address for the submission of this key."""
        if not self._public_url:
            raise ConfigurationError(
                "The receiver of webhooks has no address yet.",
                hint="Give public_url=, or submit while `receiver.serve()` runs.",
            )
        name = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
        return f"{self._public_url}/{name}/{self._settings.token(key)}"

    def poll(self) -> Iterator[TaskHandle]:
        """Yield each of the account's tasks when it has ended, reported as if delivered; for ever.

        So no tunnel is needed where the provider cannot reach this machine. What `on_task` raises is raised.
        """
        account = self._account.over(SyncBackend())
        reporter = _Reporter(self._settings, self._memory)
        with _Endings(account) as endings:
            while True:
                task = run_sync(endings.next())
                run_sync(reporter.report(task, account))
                yield TaskHandle(task, account)

    async def apoll(self) -> AsyncIterator[AsyncTaskHandle]:
        """Yield each of the account's tasks when it has ended, reported as if delivered; for ever.

        So no tunnel is needed where the provider cannot reach this machine. What `on_task` raises is raised.
        """
        account = self._account.over(AsyncBackend())
        reporter = _Reporter(self._settings, self._memory)
        with _Endings(account) as endings:
            while True:
                task = await endings.next()
                await reporter.report(task, account)
                yield AsyncTaskHandle(task, account)

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve as an ASGI app: mount it at `public_url`'s path."""
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            for closed in [each for each in self._by_loop if each.is_closed()]:
                del self._by_loop[closed]
            self._by_loop[loop] = self.deliveries(AsyncBackend())
        await serve_asgi(self._by_loop[loop], scope, receive, send)

    def serve(self, host: str = "127.0.0.1", port: int = 0) -> WebhookServer:
        """Serve in threads until the server is closed; where no `public_url` was given, its own is that.

        Raise ConfigurationError where it cannot listen there.
        """
        server = WebhookServer(self.deliveries(SyncBackend()), host, port)
        self._public_url = self._public_url or server.url
        return server

    def deliveries(self, io: Backend) -> Deliveries:
        """Return what answers deliveries over a backend, for a server of another kind."""
        return Deliveries(self._settings, self._memory, self._account.over(io))

    def __deepcopy__(self, memo: object) -> Webhooks:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        settings = replace(self._settings, on_task=None)  # a function of this process's, most often
        return (_rebuild, (self._account, self._public_url, settings))


def _rebuild(account: Account, public_url: str, settings: _Settings) -> Webhooks:
    return Webhooks(
        account,
        secret=settings.secret.decode("utf-8", "surrogatepass"),
        public_url=public_url,
        signing_secret=settings.signing_secret,
        forward_to=settings.forward_to,
    )


def _check_address(name: str, url: str | None) -> None:
    """Raise where an address is malformed; that a submission's is https is checked when it is submitted."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_right = is_right and not (name == "public_url" and (parts.query or parts.fragment))
    except (ValueError, AttributeError, TypeError):
        is_right = False
    if not is_right:
        raise ConfigurationError(
            f"{name} is {url!r:.100}.", hint="Give an address such as https://host/path, without a query."
        )


class _Endings:
    """The account's tasks as they end: new ones are looked for in the list, running ones are waited for."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._watching = account.watch(timeout=math.inf)
        self._since: float | None = None
        self._seen: OrderedDict[str, None] = OrderedDict()
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
            page, headers = await self._account.session.read(pages.path, read_task_list)
            if self._since is None:
                # When a task was made is told by the server's clock, which need not agree with ours.
                now = _server_time(headers)
                self._since = (time.time() - CLOCK_SKEW if now is None else now) - LOOKS_BACK_SECONDS
            since = self._since
            new = [task for task in pages.take(page) if task.id not in self._seen]
            for task in new:
                _put(self._seen, task.id, None)
                if not task.is_terminal:
                    self._watching.add(task)
                elif (task.created_at or 0.0) >= since:
                    self._ended.append(task)
            if not any(task.created_at is None or task.created_at >= since for task in new):
                return

    def __enter__(self) -> _Endings:
        return self

    def __exit__(self, *exception: object) -> None:
        self._watching.close()


def _task_id_in(body: bytes) -> str:
    """Return the id of the task that a delivery names, "" where it names none that can be asked for."""
    try:
        event = parse(body)
    except ValueError:
        return ""
    inner = event.get("data") if isinstance(event, dict) else None
    for place in (inner, event):
        if isinstance(place, dict) and isinstance(id := place.get("task_id") or place.get("id"), str):
            return id if 0 < len(id) <= MAX_ID_LENGTH and id.isprintable() and id not in (".", "..") else ""
    return ""
