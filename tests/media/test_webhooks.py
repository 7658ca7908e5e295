"""Webhooks shorten a wait and never decide: lost, late, doubled and forged ones change no result."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from piccc import AsyncClient, Client, Polling
from piccc.emulator import Emulator, ManualClock
from piccc.errors import ConfigurationError, SubmissionUnknown
from piccc.media.webhooks import Webhooks, sign, verify
from tests.media.driven import QUICK
from tests.media.file_host import FileHost, serving

SECRET = "a secret of enough letters"
IMAGE = {"model": "piccc-image"}
SUBMISSIONS = "POST /v1/images/tasks"
SPAWN = multiprocessing.get_context("spawn")
SLOW = Polling(min=30.0, max=30.0)
PATIENCE = 10.0


def blocking(emulator: Emulator, polling: Polling = QUICK, **settings: Any) -> Client:
    return Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=polling, **settings)


def gets(emulator: Emulator) -> int:
    return sum(each.method == "GET" and each.path.startswith("/v1/tasks/") for each in emulator.requests)


class Told:
    """Remember what a receiver tells, and let a test wait for it."""

    def __init__(self) -> None:
        self.tasks: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, task: Any) -> None:
        with self._changed:
            self.tasks.append(task)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.tasks) >= count, PATIENCE)
            return self.tasks


def until(holds: Callable[[], bool]) -> None:
    """Give other threads the time that they need."""
    signal = threading.Event()
    for _ in range(1000):
        if holds():
            return
        signal.wait(0.01)
    raise AssertionError("it never came to hold")


@pytest.mark.parametrize("fault", ["webhook", "webhook:twice", "webhook:forged", "webhook:unsigned"])
def test_a_delivery_ends_a_wait_that_would_poll_only_later(emulator: Emulator, fault: str) -> None:
    client = blocking(emulator, SLOW)
    receiver = client.webhooks(secret=SECRET)
    if fault != "webhook":
        emulator.fault(fault, route=SUBMISSIONS)
    with receiver.serve():
        task = client.images.submit("a fox", **IMAGE, webhook=receiver)
        assert task.wait(timeout=25).status == "completed"
    assert gets(emulator) == 1


def deliver_in_another_process(base_url: str, ledger: Path) -> None:
    client = Client(base_url=base_url, api_key="unused", ledger=ledger)
    deliver(client.webhooks(secret=SECRET, public_url="https://app.example.com"), "fox", {})


def test_a_delivery_to_another_process_wakes_waits_where_both_share_a_ledger(tmp_path: Path) -> None:
    clock = ManualClock()
    with Emulator(clock=clock) as emulator:
        client = blocking(emulator, SLOW, ledger=tmp_path / "tasks.db")
        task = client.images.submit("a fox", **IMAGE, key="fox")
        emulator.advance(60)
        ended: list[str] = []
        waiting = threading.Thread(target=lambda: ended.append(task.wait(timeout=25).status))
        waiting.start()
        other = SPAWN.Process(
            target=deliver_in_another_process, args=(emulator.base_url, tmp_path / "tasks.db")
        )
        other.start()
        other.join()
        waiting.join()
        assert ended == ["completed"]
        assert gets(emulator) == 1


async def test_a_delivery_to_another_thread_wakes_an_event_loop(emulator: Emulator) -> None:
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=SLOW) as client:
        receiver = client.webhooks(secret=SECRET)
        with receiver.serve():
            tasks = [await client.images.submit(f"fox {n}", **IMAGE, webhook=receiver) for n in range(3)]
            ended = await asyncio.gather(*(task.wait(timeout=25) for task in tasks))
    assert {task.status for task in ended} == {"completed"}


@pytest.mark.parametrize("fault", ["webhook:never", "webhook:late;seconds=600", "webhook:early"])
def test_a_delivery_that_fails_to_come_in_time_costs_only_polls(emulator: Emulator, fault: str) -> None:
    client = blocking(emulator)
    receiver = client.webhooks(secret=SECRET)
    emulator.fault(fault, route=SUBMISSIONS)
    with receiver.serve():
        assert client.images.submit("a fox", **IMAGE, webhook=receiver).wait().status == "completed"


@pytest.mark.parametrize("fault", ["webhook:twice", "webhook:early", "webhook:forged", "webhook:held"])
def test_each_end_is_told_once(emulator: Emulator, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc.media.webhooks._PAUSES", (0.05, 0.1, 0.2))
    client, told = blocking(emulator), Told()
    receiver = client.webhooks(secret=SECRET, on_task=told)
    emulator.fault(fault, route=SUBMISSIONS, times=2)
    with receiver.serve():
        tasks = [client.images.submit(f"fox {n}", **IMAGE, webhook=receiver) for n in range(4)]
        assert sorted(task.id for task in told.wait(4)) == sorted(task.id for task in tasks)
        until(lambda: all(each.delivered for each in emulator.deliveries))
    assert len(told.tasks) == 4
    assert {task.status for task in told.tasks} == {"completed"}


def test_a_lost_submission_is_recovered_by_its_delivery(emulator: Emulator) -> None:
    client, told = blocking(emulator), Told()
    receiver = client.webhooks(secret=SECRET, on_task=told)
    emulator.fault("lost-answer", route=SUBMISSIONS)
    with receiver.serve():
        with pytest.raises(SubmissionUnknown):
            client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
        [task] = told.wait(1)
    assert client.ledger.unsettled() == []
    before = len(emulator.requests)
    assert client.tasks.resume("fox").id == task.id == emulator.charges[0].task_id
    assert [each.path for each in emulator.requests[before:]] == [f"/v1/tasks/{task.id}"]


def test_a_lost_submission_takes_no_foreign_task(emulator: Emulator) -> None:
    client = blocking(emulator)
    receiver = client.webhooks(secret=SECRET, public_url="http://127.0.0.1:9")
    foreign = client.images.submit("another", **IMAGE)
    emulator.fault("disconnect", route=SUBMISSIONS)
    with pytest.raises(SubmissionUnknown):
        client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
    deliver(receiver, "fox", {"data": {"task_id": foreign.id}})
    assert [each.key for each in client.ledger.unsettled()] == ["fox"]


def deliver(receiver: Webhooks, key: str, body: object, url: str | None = None, **headers: str) -> int:
    """Deliver to a receiver as its server does; return the status."""
    from piccc._http.backends import run_sync

    path = receiver.url_for(key) if url is None else url
    status, delivery = receiver.receive("POST", path, headers, json.dumps(body).encode())
    if delivery is not None:
        run_sync(receiver.confirm(delivery))
    return status


def test_what_has_no_genuine_address_is_404_and_asks_nothing(emulator: Emulator) -> None:
    client = blocking(emulator)
    receiver = client.webhooks(secret=SECRET, public_url="https://app.example.com/hooks")
    task = client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
    body = {"data": {"task_id": task.id}}
    genuine = receiver.url_for("fox")
    other = client.webhooks(secret=SECRET[::-1], public_url="https://app.example.com/hooks")
    for url in (genuine[:-1], genuine + "x", other.url_for("fox"), "/", "", "/hooks/%/%", f"{genuine}/more"):
        assert deliver(receiver, "fox", body, url=url) == 404
    assert receiver.url_for("hare").rsplit("/", 1)[1] != genuine.rsplit("/", 1)[1]
    assert gets(emulator) == 0
    assert deliver(receiver, "fox", body) == 204


def test_only_tasks_of_the_ledger_are_asked_for(emulator: Emulator) -> None:
    client, told = blocking(emulator), Told()
    receiver = client.webhooks(secret=SECRET, public_url="https://app.example.com", on_task=told)
    task = client.images.submit("a fox", **IMAGE, key="fox").wait()
    before = gets(emulator)
    assert deliver(receiver, "stranger", {"data": {"task_id": "task_victim"}}) == 204
    assert gets(emulator) == before
    assert deliver(receiver, "fox", {"data": {"task_id": "task_victim", "status": "failed"}}) == 204
    assert [each.id for each in told.tasks] == [task.id]
    assert told.tasks[0].status == "completed"


def test_repeated_deliveries_do_not_multiply_requests(emulator: Emulator) -> None:
    client, told = blocking(emulator), Told()
    receiver = client.webhooks(secret=SECRET, public_url="https://app.example.com", on_task=told)
    client.images.submit("a fox", **IMAGE, key="fox").wait()
    before = gets(emulator)
    for _ in range(50):
        assert deliver(receiver, "fox", {}) == 204
    assert gets(emulator) - before == 1
    assert len(told.tasks) == 1


@pytest.mark.parametrize(
    ("method", "body", "status"), [("GET", b"", 405), ("POST", b"x" * 65_537, 413), ("POST", b"{", 204)]
)
def test_odd_requests_get_their_status(emulator: Emulator, method: str, body: bytes, status: int) -> None:
    receiver = blocking(emulator).webhooks(secret=SECRET, public_url="https://app.example.com")
    assert receiver.receive(method, receiver.url_for("fox"), {}, body) == (status, None)


def test_signed_deliveries_are_verified_and_replays_do_nothing(emulator: Emulator) -> None:
    client = blocking(emulator)
    receiver = client.webhooks(
        secret=SECRET, public_url="https://app.example.com", signing_secret=emulator.webhook_secret
    )
    client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
    body, now = b"{}", int(time.time())
    path = receiver.url_for("fox")
    genuine = sign(emulator.webhook_secret, "evt_1", now, body)
    assert receiver.receive("POST", path, {}, body)[0] == 401
    assert receiver.receive("POST", path, genuine, b"{ }")[0] == 401
    assert (
        receiver.receive("POST", path, sign(emulator.webhook_secret, "evt_1", now - 301, body), body)[0]
        == 401
    )
    status, delivery = receiver.receive("POST", path, genuine, body)
    assert status == 204
    assert delivery is not None
    assert receiver.receive("POST", path, genuine, body) == (204, None)


def test_the_emulators_own_signatures_pass(emulator: Emulator) -> None:
    client, told = blocking(emulator), Told()
    receiver = client.webhooks(secret=SECRET, signing_secret=emulator.webhook_secret, on_task=told)
    with receiver.serve():
        client.images.submit("a fox", **IMAGE, webhook=receiver)
        assert told.wait(1)[0].status == "completed"


def test_one_of_several_signatures_suffices_and_malformed_ones_are_no_error() -> None:
    headers = sign("whsec_c2VjcmV0", "evt_1", 1000, b"body")
    rotated = {**headers, "webhook-signature": f"v1,AAAA v2,x {headers['webhook-signature']} nonsense"}
    assert verify("whsec_c2VjcmV0", rotated, b"body", 1000.0)
    for signature in ("", "v1", "v1,", "v1,%%%", "v1a,AAAA"):
        assert not verify("whsec_c2VjcmV0", {**headers, "webhook-signature": signature}, b"body", 1000.0)


async def test_it_is_an_asgi_app_that_answers_before_it_asks(emulator: Emulator) -> None:
    client, told = blocking(emulator), Told()
    receiver = client.webhooks(secret=SECRET, public_url="http://app/hooks", on_task=told)
    await asyncio.to_thread(lambda: client.images.submit("a fox", **IMAGE, key="fox").wait())
    sent: list[dict[str, Any]] = []
    before, asked = gets(emulator), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        asked.append(gets(emulator))

    scope = {"type": "http", "method": "POST", "path": httpx.URL(receiver.url_for("fox")).path, "headers": []}
    await receiver.asgi(scope, receive, send)
    assert [message.get("status") for message in sent] == [204, None]
    assert asked == [before, before]
    assert [task.status for task in told.tasks] == ["completed"]
    transport = httpx.ASGITransport(receiver.asgi)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.post("http://app/hooks/x/y")).status_code == 404


def test_the_server_says_nothing_of_its_secret_addresses(
    emulator: Emulator, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    receiver = blocking(emulator).webhooks(secret=SECRET)
    with caplog.at_level(logging.DEBUG, "piccc"), receiver.serve():
        url = receiver.url_for("fox")
        assert httpx.post(url, content=b"{}").status_code == 204
        assert httpx.get(url).status_code == 405
        assert httpx.post(url + "x").status_code == 404
    token = url.rsplit("/", 1)[1]
    said = capfd.readouterr()
    assert token not in said.out + said.err + "".join(
        each.getMessage() for each in caplog.records if each.name == "piccc"
    )


def test_what_on_task_raises_is_logged_and_costs_the_others_nothing(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    client, told = blocking(emulator), Told()

    def fail_once(task: Any) -> None:
        told(task)
        if len(told.tasks) == 1:
            raise ValueError("no room")

    receiver = client.webhooks(secret=SECRET, on_task=fail_once)
    with receiver.serve():
        for number in range(2):
            client.images.submit(f"fox {number}", **IMAGE, webhook=receiver)
        told.wait(2)
    assert [record.exc_text and "no room" in record.exc_text for record in caplog.records] == [True]


def test_a_short_secret_is_refused(emulator: Emulator) -> None:
    with pytest.raises(ConfigurationError, match="short"):
        blocking(emulator).webhooks(secret="guess")


def test_polling_reports_every_task_as_if_it_had_been_delivered(emulator: Emulator) -> None:
    client, told = blocking(emulator), Told()
    tasks = [client.images.submit(f"fox {n}", **IMAGE) for n in range(5)]
    with serving(FileHost()) as app:
        receiver = client.webhooks(
            secret=SECRET, signing_secret="whsec_c2VjcmV0", on_task=told, forward_to=f"{app.url}/file/hook"
        )
        ended = list(islice(receiver.poll(), 5))
        assert sorted(task.id for task in ended) == sorted(task.id for task in tasks)
        assert len(told.tasks) == len(app.downloads) == 5
        assert all(
            "webhook-signature" in headers and "authorization" not in headers for headers in app.downloads
        )


async def test_polling_from_a_loop_reports_what_was_submitted_later_too(emulator: Emulator) -> None:
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK) as client:
        first = await client.images.submit("first", **IMAGE)
        polling = client.webhooks(secret=SECRET).apoll()
        assert (await anext(polling)).id == first.id
        second = await client.images.submit("second", **IMAGE)
        assert (await anext(polling)).id == second.id
        await polling.aclose()
