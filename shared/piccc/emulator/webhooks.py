"""Webhook deliveries: signed, retried and, on request, broken."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from piccc.emulator.clock import Clock, Latency, turns
from piccc.emulator.faults import Fault
from piccc.emulator.tasks import Task
from piccc.emulator.wire import encoded

RETRIES = (5.0, 30.0, 120.0, 600.0, 3_600.0)

_PATIENCE = 10.0
_LENGTH = 1_000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One delivery attempt: the receiver's status, or the error."""

    at: float
    status: int | None = None
    error: str | None = None


@dataclass(slots=True)
class Delivery:
    """One event for one receiver, and its delivery attempts until a 2xx response.

    Attributes:
        event_id: the event's id, the same in every attempt.
        type: the event type, such as `task.completed`.
        task_id: the task that ended.
        url: the receiver's URL.
        body: the JSON body.
        attempts: each with `at` (seconds since 1970), `status` and `error`.
    """

    event_id: str
    type: str
    task_id: str
    url: str
    body: bytes = field(repr=False)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def delivered(self) -> bool:
        """Whether an attempt got a 2xx response."""
        return any(attempt.status is not None and 200 <= attempt.status < 300 for attempt in self.attempts)


class Webhooks:
    """Delivers an event when a task ends. Without a 2xx in 10 seconds, it retries five times (assumed)."""

    def __init__(self, *, clock: Clock, latency: Latency, secret: str, loopback_only: bool) -> None:
        try:
            base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise ValueError("a webhook secret must be whsec_ followed by base64") from None
        self.secret = secret
        self.deliveries: deque[Delivery] = deque(maxlen=_LENGTH)
        self._clock = clock
        self._latency = latency
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
        """Deliver an event when the task ends; `show` returns its JSON, `reported` is called last."""
        if task.webhook_url and task.outcome != "stuck":
            self._keep(self._report(task, task.webhook_url, show, fault or Fault("webhook"), reported))

    def delivery(self, event_id: str) -> Delivery:
        """Return a delivery. Raises KeyError."""
        for delivery in self.deliveries.copy():
            if delivery.event_id == event_id:
                return delivery
        raise KeyError(event_id)

    def redeliver(self, event_id: str) -> None:
        """Deliver an event again."""
        self._keep(self._deliver(self.delivery(event_id), Fault("webhook")))

    async def settle(self) -> None:
        """Wait for attempts in progress, which run in real time."""
        await turns()
        while self._posting:
            await asyncio.wait(self._posting)
            await turns()

    async def close(self) -> None:
        """Cancel all pending deliveries."""
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
            await self._clock.sleep(self._latency.scaled(float(fault.options.get("seconds", "60"))))
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
            skipped = "not sent: the emulator delivers to loopback addresses only"
            delivery.attempts.append(Attempt(self._clock.now(), error=skipped))
            return
        failures = int(fault.options.get("times", "1")) if fault.value == "failing" else 0
        for number, wait in enumerate((0.0, *RETRIES)):
            if wait:
                await self._clock.sleep(self._latency.scaled(wait))
            attempt = self._failed() if number < failures else await self._try(delivery, fault)
            delivery.attempts.append(attempt)
            if attempt.status is not None and 200 <= attempt.status < 300:
                return

    def _failed(self) -> Attempt:
        return Attempt(self._clock.now(), error="injected fault: the connection failed")

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
    """Return a Standard Webhooks 1.0 signature: HMAC-SHA256 with the secret's decoded base64 part."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


@lru_cache(maxsize=256)  # checked for every request's origin
def on_loopback(url: str) -> bool:
    """Return whether a URL's host is a loopback address."""
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
