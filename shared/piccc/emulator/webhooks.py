"""Webhooks: the end of a task reported to the URL given for it, signed, tried again, harmed on demand."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from piccc.emulator.clock import Clock, turns
from piccc.emulator.event_stream import encoded
from piccc.emulator.faults import Fault
from piccc.emulator.latency import Latency
from piccc.emulator.tasks import Task

RETRIES = (5.0, 30.0, 120.0, 600.0, 3_600.0)

_PATIENCE = 10.0
_LENGTH = 1_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to deliver: the receiver's status, or why there is none."""

    at: float
    status: int | None = None
    error: str | None = None


@dataclass(slots=True)
class Delivery:
    """One event for one receiver, and every try to deliver it; done when a try was answered with a 2xx.

    Attributes:
        event_id: the event's id, the same in every try.
        type: such as `task.completed`.
        task_id: the task that ended.
        url: where it goes.
        body: what is sent.
        attempts: the tries, each with `at` (a time in seconds), `status` and `error`.
    """

    event_id: str
    type: str
    task_id: str
    url: str
    body: bytes = field(repr=False)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def delivered(self) -> bool:
        """Tell whether the receiver took it."""
        return any(attempt.status is not None and 200 <= attempt.status < 300 for attempt in self.attempts)


class Webhooks:
    """Report tasks that end: a 2xx within 10 seconds settles it, else there are five more tries (assumed)."""

    def __init__(self, *, clock: Clock, pace: Latency, secret: str, loopback_only: bool) -> None:
        self.secret = secret
        self.deliveries: deque[Delivery] = deque(maxlen=_LENGTH)
        self._clock = clock
        self._pace = pace
        self.loopback_only = loopback_only
        self._following: set[asyncio.Task[None]] = set()
        self._posting: set[asyncio.Task[Attempt]] = set()
        self._held: list[Delivery] = []
        self._client: Any = None

    def follow(
        self,
        task: Task,
        show: Callable[[float], dict[str, Any]],
        fault: Fault | None,
        reported: Callable[[], None],
    ) -> None:
        """Report the task when it ends; `show` gives its body at a moment, `reported` is called at last."""
        if task.webhook_url and task.outcome != "stuck":
            self._keep(self._report(task, task.webhook_url, show, fault or Fault("webhook"), reported))

    def delivery(self, event_id: str) -> Delivery:
        """Find an event; KeyError when there is none of that id."""
        for delivery in self.deliveries.copy():
            if delivery.event_id == event_id:
                return delivery
        raise KeyError(event_id)

    def redeliver(self, event_id: str) -> None:
        """Send an event once more."""
        self._keep(self._deliver(self.delivery(event_id), Fault("webhook")))

    async def settle(self) -> None:
        """Wait for what can happen without the clock: tries that are under way."""
        await turns()
        while self._posting:
            await asyncio.wait(self._posting)
            await turns()

    async def close(self) -> None:
        """Give up whatever is still to be reported."""
        pending = [*self._following, *self._posting]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _report(
        self,
        task: Task,
        url: str,
        show: Callable[[float], dict[str, Any]],
        fault: Fault,
        reported: Callable[[], None],
    ) -> None:
        share = 0.5 if fault.value == "early" else 1.0
        while (wait := task.created_at + share * task.duration - self._clock.now()) > 0:
            await self._clock.sleep(wait)
        delivery = _delivery(task, url, show(task.ends_at), self._clock.now())
        self.deliveries.append(delivery)
        if fault.value == "late":
            await self._clock.sleep(self._pace.scaled(float(fault.options.get("seconds", "60"))))
        if fault.value == "held":
            self._held.append(delivery)
        elif fault.value != "never":
            for _ in range(2 if fault.value == "twice" else 1):
                await self._deliver(delivery, fault)
            await self._release()
        reported()

    async def _release(self) -> None:
        while self._held:
            await self._deliver(self._held.pop(0), Fault("webhook"))

    async def _deliver(self, delivery: Delivery, fault: Fault) -> None:
        if self.loopback_only and not on_loopback(delivery.url):
            skipped = "not sent: the emulator delivers to loopback only"
            delivery.attempts.append(Attempt(self._clock.now(), error=skipped))
            return
        failures = int(fault.options.get("times", "1")) if fault.value == "failing" else 0
        for number, wait in enumerate((0.0, *RETRIES)):
            if wait:
                await self._clock.sleep(self._pace.scaled(wait))
            attempt = self._failed() if number < failures else await self._try(delivery, fault)
            delivery.attempts.append(attempt)
            if attempt.status is not None and 200 <= attempt.status < 300:
                return

    def _failed(self) -> Attempt:
        return Attempt(self._clock.now(), error="provoked: the connection failed")

    async def _try(self, delivery: Delivery, fault: Fault) -> Attempt:
        post = asyncio.get_running_loop().create_task(self._post(delivery, fault))
        self._posting.add(post)
        post.add_done_callback(self._posting.discard)
        return await post

    async def _post(self, delivery: Delivery, fault: Fault) -> Attempt:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_PATIENCE, trust_env=False)
        now = self._clock.now()
        headers = {"content-type": "application/json", **self._signed(delivery, int(now), fault)}
        try:
            reply = await self._client.post(delivery.url, content=delivery.body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Attempt(now, error=f"{type(error).__name__}: {error}")
        return Attempt(now, status=reply.status_code)

    def _signed(self, delivery: Delivery, timestamp: int, fault: Fault) -> dict[str, str]:
        if fault.value == "unsigned":
            return {}
        secret = new_secret() if fault.value == "forged" else self.secret
        return {
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, delivery.event_id, timestamp, delivery.body),
        }


def new_secret() -> str:
    """Return a fresh signing secret."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()


def signature(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """Sign as Standard Webhooks 1.0 does: HMAC-SHA256 with what the secret's base64 part decodes to."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def on_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _delivery(task: Task, url: str, shown: dict[str, Any], now: float) -> Delivery:
    event_id = f"evt_{secrets.token_hex(12)}"
    kind = f"task.{task.status(task.ends_at)}"
    event = {"id": event_id, "type": kind, "created_at": int(now), "data": shown}
    return Delivery(event_id, kind, task.id, url, encoded(event))
