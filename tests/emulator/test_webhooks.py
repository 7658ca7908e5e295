"""Outgoing webhooks: signed, retried, and faulty on demand."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator
from piccc.emulator.webhooks import RETRIES, on_loopback
from tests.emulator.wire import connect, image


@dataclass
class Receiver:
    """Received webhooks, and the statuses to respond with in order, then 204."""

    url: str = ""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Run a server that receives webhooks."""
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            state.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(state.statuses.pop(0) if state.statuses else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def submit(client: httpx.Client, url: str, fault: str | None = None) -> str:
    """Submit an image with a webhook; return the task's id."""
    headers = {"x-piccc-fault": fault} if fault else {}
    response = client.post("/v1/images/tasks", json=image(webhook={"url": url}), headers=headers)
    return str(response.json()["task_id"])


def signature(secret: str, headers: dict[str, str], body: bytes) -> str:
    """Return the signature that the Standard Webhooks specification requires."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def test_a_completed_task_is_reported_once_and_signed(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    task_id = submit(manual_client, receiver.url)
    manual.advance(2.9)
    assert receiver.received == []
    manual.advance(0.2)
    [(headers, body)] = receiver.received
    event = json.loads(body)
    assert event["type"] == "task.completed"
    assert event["data"] == manual_client.get(f"/v1/tasks/{task_id}").json()
    assert headers["webhook-id"] == event["id"]
    assert int(headers["webhook-timestamp"]) == event["created_at"]
    assert headers["webhook-signature"] == signature(manual.webhook_secret, headers, body)
    manual.advance(100_000)
    assert len(receiver.received) == 1
    assert manual.deliveries[0].delivered


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("failed", "failed"), ("moderated", "failed"), ("cancelled", "cancelled"), ("expired", "expired")],
)
def test_unsuccessful_tasks_are_reported_too(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver, fault: str, kind: str
) -> None:
    submit(manual_client, receiver.url, fault)
    manual.advance(3)
    assert [event["type"] for event in receiver.events] == [f"task.{kind}"]
    assert receiver.events[0]["data"]["status"] == kind


def test_failed_deliveries_are_retried_on_schedule(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302, 410]
    submit(manual_client, receiver.url)
    manual.advance(3)
    counts = [len(receiver.received)]
    for wait in RETRIES[:3]:
        manual.advance(wait - 1)
        counts.append(len(receiver.received))
        manual.advance(1)
        counts.append(len(receiver.received))
    assert counts == [1, 1, 2, 2, 3, 3, 4]
    manual.advance(100_000)
    [delivery] = manual.deliveries
    assert [attempt.status for attempt in delivery.attempts] == [500, 302, 410, 204]
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.received}) == 4


def test_retries_end_after_the_last_scheduled_attempt(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    receiver.statuses = [503] * 100
    submit(manual_client, receiver.url)
    manual.advance(1_000_000)
    assert len(receiver.received) == 1 + len(RETRIES)
    assert not manual.deliveries[0].delivered


def test_a_refused_connection_is_recorded_as_a_failed_attempt(
    manual: Emulator, manual_client: httpx.Client
) -> None:
    submit(manual_client, "http://127.0.0.1:9/hook")
    manual.advance(3)
    assert [attempt.status for attempt in manual.deliveries[0].attempts] == [None]
    assert "ConnectError" in (manual.deliveries[0].attempts[0].error or "")


def test_webhooks_are_sent_only_to_loopback(manual: Emulator, manual_client: httpx.Client) -> None:
    submit(manual_client, "https://hooks.example.invalid/x")
    manual.advance(1_000_000)
    [attempt] = manual.deliveries[0].attempts
    assert "loopback addresses only" in (attempt.error or "")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:1/x", True),
        ("http://[::1]/x", True),
        ("http://localhost", True),
        ("https://a.b", False),
        ("https://127.0.0.1.a.b/x", False),
        ("https://localhost@a.b/x", False),
    ],
)
def test_only_loopback_urls_are_recognized_as_local(url: str, local: bool) -> None:
    assert on_loopback(url) is local


def test_a_webhook_can_arrive_late_twice_or_never(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    late = submit(manual_client, receiver.url, "webhook:late;seconds=90")
    twice = submit(manual_client, receiver.url, "webhook:twice")
    submit(manual_client, receiver.url, "webhook:never")
    manual.advance(3)
    assert [event["data"]["task_id"] for event in receiver.events] == [twice, twice]
    assert receiver.events[0]["id"] == receiver.events[1]["id"]
    manual.advance(89)
    assert len(receiver.received) == 2
    manual.advance(1_000_000)
    assert [event["data"]["task_id"] for event in receiver.events[2:]] == [late]


def test_a_webhook_can_arrive_before_the_task_shows_as_completed(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    task_id = submit(manual_client, receiver.url, "webhook:early")
    manual.advance(1.5)
    assert receiver.events[0]["data"]["status"] == "completed"
    assert manual_client.get(f"/v1/tasks/{task_id}").json()["status"] == "processing"


def test_a_held_webhook_arrives_after_a_later_one(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    first = submit(manual_client, receiver.url, "webhook:held")
    manual.advance(10)
    assert receiver.received == []
    second = submit(manual_client, receiver.url)
    manual.advance(10)
    assert [event["data"]["task_id"] for event in receiver.events] == [second, first]


def test_a_signature_can_be_forged_or_missing(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    submit(manual_client, receiver.url, "webhook:forged")
    submit(manual_client, receiver.url, "webhook:unsigned")
    manual.advance(3)
    by_signature = sorted(receiver.received, key=lambda delivery: "webhook-signature" in delivery[0])
    assert not any(name.startswith("webhook-") for name in by_signature[0][0])
    headers, body = by_signature[1]
    assert headers["webhook-signature"].startswith("v1,")
    assert headers["webhook-signature"] != signature(manual.webhook_secret, headers, body)


def test_deliveries_can_fail_a_given_number_of_times(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    submit(manual_client, receiver.url, "webhook:failing;times=2")
    manual.advance(1_000_000)
    assert [attempt.status for attempt in manual.deliveries[0].attempts] == [None, None, 204]
    assert len(receiver.received) == 1


def test_a_webhook_can_be_redelivered(
    manual: Emulator, manual_client: httpx.Client, receiver: Receiver
) -> None:
    submit(manual_client, receiver.url)
    manual.advance(3)
    manual.redeliver(manual.deliveries[0].event_id)
    manual.advance(0)
    assert [event["id"] for event in receiver.events] == [manual.deliveries[0].event_id] * 2
    with pytest.raises(KeyError):
        manual.redeliver("evt_none")


def test_the_webhook_secret_can_be_configured(clock: Any, receiver: Receiver) -> None:
    secret = "whsec_" + base64.b64encode(b"a secret of some length!").decode()
    with Emulator(clock=clock, webhook_secret=secret) as emulator, connect(emulator) as client:
        submit(client, receiver.url)
        emulator.advance(3)
    headers, body = receiver.received[0]
    assert headers["webhook-signature"] == signature(secret, headers, body)
