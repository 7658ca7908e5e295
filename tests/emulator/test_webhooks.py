"""Webhooks as they leave: signed, tried again, and harmed on demand."""

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
    """What was received, and the statuses to answer with: one after the other, then 204."""

    url: str = ""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Listen for webhooks."""
    got = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(got.statuses.pop(0) if got.statuses else 204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    got.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield got
    server.shutdown()
    thread.join()
    server.server_close()


def order(client: httpx.Client, url: str, fault: str | None = None) -> str:
    """Order an image, to be reported."""
    headers = {"x-piccc-fault": fault} if fault else {}
    reply = client.post("/v1/images/tasks", json=image(webhook={"url": url}), headers=headers)
    return str(reply.json()["task_id"])


def signature(secret: str, headers: dict[str, str], body: bytes) -> str:
    """Sign as the standard says."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def test_the_end_of_a_task_is_reported_once_and_signed(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    task_id = order(still_client, receiver.url)
    still.advance(2.9)
    assert receiver.received == []
    still.advance(0.2)
    [(headers, body)] = receiver.received
    event = json.loads(body)
    assert event["type"] == "task.completed"
    assert event["data"] == still_client.get(f"/v1/tasks/{task_id}").json()
    assert headers["webhook-id"] == event["id"]
    assert int(headers["webhook-timestamp"]) == event["created_at"]
    assert headers["webhook-signature"] == signature(still.webhook_secret, headers, body)
    still.advance(100_000)
    assert len(receiver.received) == 1
    assert still.deliveries[0].delivered


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("failed", "failed"), ("moderated", "failed"), ("cancelled", "cancelled"), ("expired", "expired")],
)
def test_every_bad_end_is_reported_too(
    still: Emulator, still_client: httpx.Client, receiver: Receiver, fault: str, kind: str
) -> None:
    order(still_client, receiver.url, fault)
    still.advance(3)
    assert [event["type"] for event in receiver.events] == [f"task.{kind}"]
    assert receiver.events[0]["data"]["status"] == kind


def test_a_receiver_that_fails_is_tried_again_on_the_clock(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302, 410]
    order(still_client, receiver.url)
    still.advance(3)
    counts = [len(receiver.received)]
    for wait in RETRIES[:3]:
        still.advance(wait - 1)
        counts.append(len(receiver.received))
        still.advance(1)
        counts.append(len(receiver.received))
    assert counts == [1, 1, 2, 2, 3, 3, 4]
    still.advance(100_000)
    [delivery] = still.deliveries
    assert [attempt.status for attempt in delivery.attempts] == [500, 302, 410, 204]
    assert len({headers["webhook-id"] for headers, _ in receiver.received}) == 1
    assert len({headers["webhook-timestamp"] for headers, _ in receiver.received}) == 4


def test_a_receiver_that_never_answers_well_is_given_up(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    receiver.statuses = [503] * 100
    order(still_client, receiver.url)
    still.advance(1_000_000)
    assert len(receiver.received) == 1 + len(RETRIES)
    assert not still.deliveries[0].delivered


def test_nobody_listening_is_an_attempt_with_an_error(still: Emulator, still_client: httpx.Client) -> None:
    order(still_client, "http://127.0.0.1:9/hook")
    still.advance(3)
    assert [attempt.status for attempt in still.deliveries[0].attempts] == [None]
    assert "ConnectError" in (still.deliveries[0].attempts[0].error or "")


def test_nothing_is_sent_off_this_machine(still: Emulator, still_client: httpx.Client) -> None:
    order(still_client, "https://hooks.example.invalid/x")
    still.advance(1_000_000)
    [attempt] = still.deliveries[0].attempts
    assert "loopback addresses only" in (attempt.error or "")


@pytest.mark.parametrize(
    ("url", "near"),
    [
        ("http://127.0.0.1:1/x", True),
        ("http://[::1]/x", True),
        ("http://localhost", True),
        ("https://a.b", False),
        ("https://127.0.0.1.a.b/x", False),
        ("https://localhost@a.b/x", False),
    ],
)
def test_what_is_on_this_machine(url: str, near: bool) -> None:
    assert on_loopback(url) is near


def test_a_webhook_can_come_late_twice_or_never(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    late = order(still_client, receiver.url, "webhook:late;seconds=90")
    twice = order(still_client, receiver.url, "webhook:twice")
    order(still_client, receiver.url, "webhook:never")
    still.advance(3)
    assert [event["data"]["task_id"] for event in receiver.events] == [twice, twice]
    assert receiver.events[0]["id"] == receiver.events[1]["id"]
    still.advance(89)
    assert len(receiver.received) == 2
    still.advance(1_000_000)
    assert [event["data"]["task_id"] for event in receiver.events[2:]] == [late]


def test_a_webhook_can_come_before_the_task_reads_as_finished(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    task_id = order(still_client, receiver.url, "webhook:early")
    still.advance(1.5)
    assert receiver.events[0]["data"]["status"] == "completed"
    assert still_client.get(f"/v1/tasks/{task_id}").json()["status"] == "processing"


def test_a_held_webhook_comes_after_a_later_one(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    first = order(still_client, receiver.url, "webhook:held")
    still.advance(10)
    assert receiver.received == []
    second = order(still_client, receiver.url)
    still.advance(10)
    assert [event["data"]["task_id"] for event in receiver.events] == [second, first]


def test_a_signature_can_be_forged_or_missing(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    order(still_client, receiver.url, "webhook:forged")
    order(still_client, receiver.url, "webhook:unsigned")
    still.advance(3)
    by_signature = sorted(receiver.received, key=lambda one: "webhook-signature" in one[0])
    assert not any(name.startswith("webhook-") for name in by_signature[0][0])
    headers, body = by_signature[1]
    assert headers["webhook-signature"].startswith("v1,")
    assert headers["webhook-signature"] != signature(still.webhook_secret, headers, body)


def test_the_connection_to_a_receiver_can_fail_so_many_times(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    order(still_client, receiver.url, "webhook:failing;times=2")
    still.advance(1_000_000)
    assert [attempt.status for attempt in still.deliveries[0].attempts] == [None, None, 204]
    assert len(receiver.received) == 1


def test_a_webhook_can_be_sent_again_by_hand(
    still: Emulator, still_client: httpx.Client, receiver: Receiver
) -> None:
    order(still_client, receiver.url)
    still.advance(3)
    still.redeliver(still.deliveries[0].event_id)
    still.advance(0)
    assert [event["id"] for event in receiver.events] == [still.deliveries[0].event_id] * 2
    with pytest.raises(KeyError):
        still.redeliver("evt_none")


def test_the_secret_can_be_chosen(clock: Any, receiver: Receiver) -> None:
    secret = "whsec_" + base64.b64encode(b"a secret of some length!").decode()
    with Emulator(clock=clock, webhook_secret=secret) as emulator, connect(emulator) as client:
        order(client, receiver.url)
        emulator.advance(3)
    headers, body = receiver.received[0]
    assert headers["webhook-signature"] == signature(secret, headers, body)
