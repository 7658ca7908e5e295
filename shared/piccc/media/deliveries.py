"""Verify, queue, confirm and report webhook deliveries of finished tasks, or poll for finished tasks.

Signatures follow Standard Webhooks. It is assumed that the provider signs this way, so they are checked only
if a signing secret is set.
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
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self
from urllib.parse import quote

from piccc._dialects.common import parse
from piccc._dialects.tasks import id_in, read_task, read_task_list
from piccc._http.backend import Failure, HTTPRequest, Signal, T
from piccc._http.backends import AsyncBackend
from piccc._http.session import telemetry
from piccc.errors import ConfigurationError, InvalidRequestError, NotFoundError, PicccError
from piccc.media.account import Account, server_time
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.media.ledgers import Lease, Submission
from piccc.media.polling import READ_SECONDS
from piccc.media.requests import CLOCK_SKEW, is_recent
from piccc.media.schedule import RUNNING, Pages
from piccc.tasks import Task

TOLERANCE_SECONDS = 300.0
MAX_DIGITS = 12
"""Maximum digits of a number in a header: Python refuses to parse thousands."""
MAX_BODY_BYTES = 64 * 1024
MAX_ID_LENGTH = 200
MAX_WORKERS = 4
MAX_JOBS = 1000
"""Maximum number of unconfirmed deliveries; further ones get a 503."""
MAX_CANDIDATES = 4
"""Maximum number of tasks that deliveries to one URL may name while the submission's task is unknown."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
CALL_SECONDS = 3600.0
"""How long one process may run `on_task` before another takes over."""
CALLED_SECONDS = 7 * 86_400.0
"""How long to remember that `on_task` was called."""
GIVE_UP_SECONDS = 24 * 3600.0
ABSENT_ATTEMPTS = 5
"""Number of consecutive 404s for a task after which its delivery is dropped."""
CLOSING_SECONDS = 0.02
MAX_REMEMBERED = 10_000
FORWARD_ATTEMPTS = 3
FORWARD_SECONDS = 10.0
LOOKS_BACK_SECONDS = 60.0
LONGEST_TASK = 24 * 3600.0
"""How far back to scan the list for running tasks that filtering by status did not find (assumed)."""
CLOCK_SECONDS = 60.0
"""Minimum interval between requests for the server's time."""

logger = logging.getLogger("piccc")
OnTask = Callable[[TaskHandle | AsyncTaskHandle], object]


def sign(secret: str, id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return a delivery's signature headers."""
    signature = base64.b64encode(_digest(secret, id, str(timestamp), body)).decode()
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": f"v1,{signature}"}


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether a delivery was signed with the secret within five minutes of `now`.

    Header names must be lower case. Raise ConfigurationError if the secret is malformed.
    """
    signed_at = signature_time(secret, headers, body)
    return signed_at is not None and abs(now - signed_at) <= TOLERANCE_SECONDS


def signature_time(secret: str, headers: Mapping[str, str], body: bytes) -> int | None:
    """Return when a delivery was signed with the secret, or None if it was not."""
    id, timestamp = headers.get("webhook-id", ""), number_of(headers.get("webhook-timestamp", ""))
    if not id or timestamp is None:
        return None
    expected = _digest(secret, id, headers["webhook-timestamp"], body)
    signatures = headers.get("webhook-signature", "").split()
    return timestamp if any(hmac.compare_digest(_decoded(each), expected) for each in signatures) else None


def number_of(digits: str) -> int | None:
    """Return the number in a header, or None if it is not one."""
    return int(digits) if digits.isdecimal() and len(digits) <= MAX_DIGITS else None


def _digest(secret: str, id: str, timestamp: str, body: bytes) -> bytes:
    signed = f"{id}.{timestamp}.".encode("utf-8", "surrogatepass") + body
    return hmac.new(signing_key(secret), signed, hashlib.sha256).digest()


def signing_key(secret: str) -> bytes:
    """Return a secret's decoded key; raise ConfigurationError if it is malformed."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (AttributeError, TypeError, ValueError):
        key = b""
    if not key:
        raise ConfigurationError(
            "The signing secret is malformed.",
            hint="Copy it as the provider shows it: whsec_ followed by Base64, including any trailing =.",
        )
    return key


def _decoded(signature: str) -> bytes:
    version, _, value = signature.partition(",")
    try:
        return base64.b64decode(value, validate=True) if version == "v1" else b""
    except (binascii.Error, ValueError):
        return b""


@dataclass(frozen=True, slots=True)
class Settings:
    """A receiver's settings."""

    secret: bytes
    signing_secret: str | None
    on_task: OnTask | None
    forward_to: str | None

    def token(self, key: str) -> str:
        """Return the token that makes a submission's URL unguessable."""
        digest = hmac.new(self.secret, key.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def key_in(self, path: str) -> str | None:
        """Return the submission's key from its webhook path, ignoring a query; None if it is invalid."""
        name, _, token = "/".join(path.partition("?")[0].rstrip("/").split("/")[-2:]).partition("/")
        try:
            key = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
        except ValueError:
            return None
        return (
            key if hmac.compare_digest(token.encode("utf-8", "replace"), self.token(key).encode()) else None
        )


class Memory:
    """A receiver's record of handled tasks, shared by its servers and event loops; 10,000 of each kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._delivered: OrderedDict[str, None] = OrderedDict()
        self._reported: OrderedDict[str, bool] = OrderedDict()
        self._read_at: OrderedDict[str, float] = OrderedDict()
        self._candidates: OrderedDict[str, dict[str, bool]] = OrderedDict()
        self._listed: OrderedDict[str, None] = OrderedDict()
        self.unreported: dict[str, Task] = {}
        """Tasks found by polling and not reported yet."""
        self.polled_since: float | None = None
        """Polling reports tasks that ended after this time on the server's clock."""
        self.is_read_through = False
        """Whether polling has read the list once as far back as a task can run."""

    def list(self, task: Task) -> bool:
        """Return whether a task is new to polling."""
        is_new = task.id not in self._listed
        with self._lock:
            _put(self._listed, task.id, None)
        return is_new

    def was_delivered(self, id: str) -> bool:
        """Return whether a delivery with this id was already accepted."""
        return id in self._delivered

    def deliver(self, id: str) -> None:
        """Record that a delivery was accepted."""
        with self._lock:
            _put(self._delivered, id, None)

    def is_reported(self, task_id: str) -> bool:
        """Return whether a task has been reported."""
        return self._reported.get(task_id, False)

    def begin_report(self, task_id: str) -> bool:
        """Claim the report of a task; return False if it is reported or being reported."""
        with self._lock:
            if task_id in self._reported:
                return False
            _put(self._reported, task_id, False)
            return True

    def end_report(self, task_id: str, *, is_done: bool) -> None:
        """Record whether the report of a task succeeded."""
        with self._lock:
            if is_done:
                self._reported[task_id] = True
            else:
                self._reported.pop(task_id, None)

    def may_read(self, task_id: str, now: float) -> bool:
        """Return whether at least a second has passed since the last read of a task."""
        with self._lock:
            if self._read_at.get(task_id, -math.inf) + FIRST_PAUSE > now:
                return False
            _put(self._read_at, task_id, now)
            return True

    def is_candidate(self, key: str, task_id: str) -> bool:
        """Return whether to check a task that a delivery to a submission's URL named."""
        with self._lock:
            known = self._candidates.get(key, {})
            if task_id not in known and len(known) >= MAX_CANDIDATES:
                return False
            _put(self._candidates, key, {task_id: False, **known})
            return True

    def reject(self, key: str, task_id: str) -> None:
        """Record that a task does not belong to the submission."""
        with self._lock:
            self._candidates.get(key, {})[task_id] = True

    def is_rejected(self, key: str, task_id: str) -> bool:
        """Return whether a task is known not to belong to the submission."""
        return self._candidates.get(key, {}).get(task_id, False)


def _put(memory: OrderedDict[str, T], name: str, value: T) -> None:
    memory[name] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)


def event_of(task: Task, signing_secret: str | None) -> tuple[list[tuple[str, str]], bytes]:
    """Return the headers and body of a delivery as the provider sends it (assumed)."""
    id = f"evt_{hashlib.sha256(f'{task.id} {task.status}'.encode()).hexdigest()[:24]}"
    moment = int(time.time())
    event = {"id": id, "type": f"task.{task.status}", "created_at": moment, "data": task.to_dict()}
    body = json.dumps(event).encode()
    headers = [("content-type", "application/json")]
    if signing_secret is not None:
        headers += sign(signing_secret, id, moment, body).items()
    return headers, body


class Reporter:
    """Passes finished tasks to `on_task` and `forward_to`."""

    def __init__(self, settings: Settings, memory: Memory) -> None:
        self._settings = settings
        self._memory = memory

    async def report(self, task: Task, account: Account) -> bool:
        """Report a task at most once; return whether it is reported. Exceptions of `on_task` propagate."""
        if not self._memory.begin_report(task.id):
            return self._memory.is_reported(task.id)
        is_done = False
        try:
            await account.take(task)
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
        # One of the processes with the same secret and ledger calls it; if it raises, any may try again.
        lease = account.ledger.lease if isinstance(account.ledger, Lease) else None
        name, holder = f"on_task:{self._settings.token('on_task')[:16]}:{task.id}", str(uuid.uuid4())
        if lease and not await account.use_ledger(lease, name, holder, CALL_SECONDS):
            return
        kept = 0.0
        try:
            is_async = isinstance(account.session.io, AsyncBackend)
            handle = AsyncTaskHandle(task, account) if is_async else TaskHandle(task, account)
            done = self._settings.on_task(handle)
            if is_async and inspect.isawaitable(done):
                await done
            kept = CALLED_SECONDS
        finally:
            if lease:
                await account.use_ledger(lease, name, holder, kept)

    async def _forward(self, task: Task, url: str, account: Account) -> None:
        io = account.session.io
        headers, body = event_of(task, self._settings.signing_secret)
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
        logger.warning("Task %s ended but could not be forwarded: %s", task.id, reason)


@dataclass(slots=True, eq=False)
class _Job:
    """An accepted delivery: the key of its submission, and the task that it named, or ""."""

    key: str
    task_id: str
    since: float
    tried: Signal
    due: float = -math.inf
    pause: float = field(default_factory=lambda: FIRST_PAUSE)
    absences: int = 0
    is_running: bool = False
    trace: Any = None
    """The OpenTelemetry context of its request; a worker runs in the context of its first delivery."""


class Deliveries:
    """Accepts deliveries, and keeps each one until its task is reported.

    At most four workers run as coroutines on the account's backend: in threads, or on one event loop.
    """

    def __init__(self, settings: Settings, memory: Memory, account: Account) -> None:
        self._settings = settings
        self._memory = memory
        self._account = account
        self._io = account.session.io
        self._reporter = Reporter(settings, memory)
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], _Job] = {}
        self._sleeping: set[Signal] = set()
        self._workers = 0
        self._is_closed = False
        self._clock_offset, self._time_read_at = 0.0, -math.inf

    def refusal(self, method: str, path: str, length: int) -> int:
        """Return the status to reject a request with before reading its body, or 0."""
        if self._settings.key_in(path) is None:
            return 404
        if method != "POST":
            return 405
        return 413 if length > MAX_BODY_BYTES else 0

    async def receive(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Signal | None]:
        """Return the response status, and for a new delivery a signal set after its first attempt.

        Header names must be lower case. Only the end of the path matters, so it can be mounted anywhere.
        """
        key = self._settings.key_in(path)
        refusal = self.refusal(method, path, len(body))
        if refusal or key is None:
            return refusal, None
        id = ""
        if self._settings.signing_secret is not None:
            signed_at = signature_time(self._settings.signing_secret, headers, body)
            if signed_at is None or not await self._is_timely(signed_at):
                return 401, None
            id = headers["webhook-id"]
            if self._memory.was_delivered(id):
                return 204, None
        try:
            entry = await self._account.use_ledger(self._account.ledger.get, key)
        except PicccError as error:
            logger.warning("A webhook's submission could not be looked up: %s", error)
            return 503, None
        status, tried = (204, None) if entry is None else self._keep(entry, body)
        if id and status == 204:
            self._memory.deliver(id)
        return status, tried

    async def _is_timely(self, signed_at: int) -> bool:
        """Return whether a delivery was signed recently, by our clock or else by the server's."""
        if abs(time.time() + self._clock_offset - signed_at) <= TOLERANCE_SECONDS:
            return True
        if self._io.now() < self._time_read_at + CLOCK_SECONDS:
            return False
        self._time_read_at = self._io.now()
        try:
            headers = await self._account.session.probe("GET", "/v1/tasks?limit=1", seconds=READ_SECONDS)
        except PicccError as error:
            logger.warning("The server's time could not be read: %s", error)
            return False
        self._clock_offset = (server_time(headers) or time.time()) - time.time()
        return abs(time.time() + self._clock_offset - signed_at) <= TOLERANCE_SECONDS

    def _keep(self, entry: Submission, body: bytes) -> tuple[int, Signal | None]:
        task_id = entry.task_id or _task_id_in(body)
        if entry.task_id is None and not self._memory.is_candidate(entry.key, task_id):
            return 429, None
        if self._memory.is_reported(task_id) or self._memory.is_rejected(entry.key, task_id):
            return 204, None
        name, observer = (entry.key, task_id), telemetry()
        traced = None if observer is None else observer.context.get_current()
        with self._lock:
            if name in self._jobs:
                return 204, None
            if self._is_closed or len(self._jobs) >= MAX_JOBS:
                return 503, None
            job = self._jobs[name] = _Job(entry.key, task_id, self._io.now(), self._io.signal(), trace=traced)
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
        """Stop accepting deliveries, and try once more to report pending ones."""
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
                    await self._process(step)
                else:
                    await signal.wait(step)
        except BaseException:
            with self._lock:
                self._workers -= 1
                self._sleeping.discard(signal)
            raise

    def _next(self, signal: Signal) -> _Job | float | None:
        """Return the next job, or the seconds until it is due, or None if this worker should end."""
        with self._lock:
            self._sleeping.discard(signal)
            waiting = [job for job in self._jobs.values() if not job.is_running]
            if not waiting:
                self._workers -= 1  # under the same lock, so that no job can be added in between
                return None
            job = min(waiting, key=lambda each: each.due)
            seconds = job.due - self._io.now()
            if seconds > 0 and not self._is_closed:
                self._sleeping.add(signal)
                return seconds
            job.is_running = True
            return job

    async def _process(self, job: _Job) -> None:
        is_done, is_last = False, self._is_closed
        observer = telemetry()
        try:
            with nullcontext() if observer is None else observer.delivery(job.task_id, job.trace) as span:
                is_done = await self._attempt(job, is_last=is_last)
            if span is not None:
                span.end()
        except PicccError as error:
            logger.warning("Task %s could not be reported yet: %s", job.task_id or "unknown", error)
        except Exception:
            logger.exception("on_task failed for task %s; it will be retried.", job.task_id)
        finally:
            job.is_running = False
        now = self._io.now()
        is_lost = is_last or now - job.since >= GIVE_UP_SECONDS
        if is_lost and not is_done:
            logger.warning("Task %s was not reported; giving up.", job.task_id or "unknown")
        with self._lock:
            job.due, job.pause = now + job.pause, min(2 * job.pause, LONGEST_PAUSE)
            if is_done or is_lost:
                self._jobs.pop((job.key, job.task_id), None)
        job.tried.set()

    async def _attempt(self, job: _Job, *, is_last: bool) -> bool:
        """Confirm the delivery with the server and report its task; return whether the job is done."""
        account, memory = self._account, self._memory
        entry = await account.use_ledger(account.ledger.get, job.key)
        if entry is None:
            return True  # the submission was rejected, which removed its entry
        task_id = entry.task_id or job.task_id
        if memory.is_reported(task_id):
            return True
        if not task_id or not (memory.may_read(task_id, self._io.now()) or is_last):
            return False
        if entry.task_id and self._settings.on_task is None and self._settings.forward_to is None:
            await account.wake(task_id)
            return True
        try:
            # Build the path from the id: a URL from the delivery is not trusted.
            path = f"/v1/tasks/{quote(task_id, safe='')}"
            decode = partial(read_task, asked=task_id)
            task, headers = await account.session.read(path, decode, seconds=READ_SECONDS, retries=0)
        except NotFoundError:
            job.absences += 1
            if job.absences < ABSENT_ATTEMPTS:
                raise
            memory.reject(job.key, job.task_id)
            return True
        task = replace(task, id=task_id)
        if entry.task_id is None:
            settle = account.ledger.settle
            # Only the server knows the submission's URL, so missing fields do not count as a mismatch.
            is_match = (
                task.type in ("", entry.type)
                and task.prompt in ("", entry.request.get("prompt"))
                and is_recent(task, account.claimed_at(entry, headers) - CLOCK_SKEW)
            )
            if not is_match or not await account.use_ledger(settle, job.key, task_id):
                memory.reject(job.key, job.task_id)
                return True
            if not task.is_terminal:
                await account.wake(task_id)
        return task.is_terminal and await self._reporter.report(task, account)


class Endings:
    """The account's tasks as they end: find new ones in the list and wait for running ones.

    `memory` holds the unreported ones, so that polling can resume after an error.
    """

    def __init__(self, account: Account, memory: Memory) -> None:
        self._account = account
        self._memory = memory
        self._subscription = account.watch(memory.unreported.values(), timeout=math.inf)
        self._look_at = -math.inf
        self._is_away = False

    async def next(self) -> Task:
        """Return the next finished task; raise if access to the account is denied."""
        while True:
            was_away = self._is_away
            try:
                now = self._subscription.now()
                if now >= self._look_at:
                    self._look_at = now + self._account.polling.max
                    self._is_away = True  # unless this succeeds
                    await self._look()
                    self._is_away = False
                    if was_away:
                        logger.warning("Polling for finished tasks works again.")
                elif self._subscription.is_done:
                    await self._account.session.io.sleep(self._look_at - now)
                elif (task := await self._subscription.next(self._look_at)) is not None:
                    return task
            except PicccError as error:
                if error.status in (401, 402, 403):
                    raise
                if not was_away:  # one warning per outage, not one per poll
                    logger.warning("Polling for finished tasks failed; continuing: %s", error)
                self._resume_wait(error)

    def _resume_wait(self, error: PicccError) -> None:
        """Keep waiting for a task that was unreadable for minutes, unless the server no longer has it."""
        unreported = self._memory.unreported
        if isinstance(error, NotFoundError):
            unreported.pop(error.task_id or "", None)
        elif error.task_id in unreported:
            self._subscription.add(unreported[error.task_id])

    async def _look(self) -> None:
        """Read new tasks from the list, and the first time all running tasks too."""
        memory = self._memory
        is_first = not memory.is_read_through
        for status in RUNNING if is_first else ():
            pages, is_running = Pages(status=status), True
            with suppress(InvalidRequestError):  # the server has other statuses: the scan below finds them
                while is_running and not pages.is_done:
                    tasks, _ = await self._read(pages)
                    is_running = not all(task.is_terminal for task in tasks)
        pages, reads_on = Pages(), True
        while reads_on and not pages.is_done:
            tasks, new = await self._read(pages)
            since = memory.polled_since or 0.0
            if is_first:
                reads_on = any(is_recent(task, since - LONGEST_TASK) for task in tasks)
            else:
                reads_on = any(is_recent(task, since) for task in new)
        memory.is_read_through = True

    async def _read(self, pages: Pages) -> tuple[list[Task], list[Task]]:
        """Read the next page and wait for its new tasks; return all its tasks, and the new ones."""
        memory = self._memory
        page, headers = await self._account.session.read(pages.path, read_task_list)
        if memory.polled_since is None:
            # Creation times use the server's clock, which may differ from ours.
            now = server_time(headers)
            memory.polled_since = (time.time() - CLOCK_SKEW if now is None else now) - LOOKS_BACK_SECONDS
        tasks = pages.take(page)
        new = [task for task in tasks if memory.list(task)]
        for task in new:
            is_dated = task.created_at is not None or memory.is_read_through
            if not task.is_terminal or (is_dated and is_recent(task, memory.polled_since)):
                memory.unreported[task.id] = task
                self._subscription.add(task)
        return tasks, new

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._subscription.close()


def _task_id_in(body: bytes) -> str:
    """Return the id of the task that a delivery names, or "" if there is no usable id."""
    try:
        event = parse(body)
    except ValueError:
        return ""
    inner = event.get("data") if isinstance(event, dict) else None
    for place in (inner, event):
        if isinstance(place, dict) and (id := id_in(place)):
            return id if 0 < len(id) <= MAX_ID_LENGTH and id.isprintable() and id not in (".", "..") else ""
    return ""
