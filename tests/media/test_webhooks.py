"""Webhooks shorten waits but never decide them: lost, late, repeated or forged ones change no result."""

from __future__ import annotations

import asyncio
import copy
import errno
import json
import logging
import multiprocessing
import pickle
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from piccc import AsyncClient, Client, Polling
from piccc._http.backend import HTTPRequest
from piccc._http.backends import SyncBackend, run_sync
from piccc.emulator import Emulator, ManualClock
from piccc.errors import ConfigurationError, OutputError, SubmissionUnknown
from piccc.media.account import Account
from piccc.media.deliveries import (
    ABSENT_ATTEMPTS,
    MAX_CANDIDATES,
    MAX_WORKERS,
    Deliveries,
    Endings,
    Memory,
    sign,
    verify,
)
from piccc.media.ledgers import Submission
from piccc.media.ledgers.sqlite import SQLiteLedger
from piccc.media.webhooks import MAX_CONNECTIONS, Webhooks, WebhookServer
from tests.media.driven import QUICK
from tests.media.file_host import FileHost, serving
from tests.media.world import Fault, Server, WorldResponse, not_sent, refusal

SECRET = "a secret of enough letters"
IMAGE = {"model": "piccc-image"}
SUBMISSIONS = "POST /v1/images/tasks"
SPAWN = multiprocessing.get_context("spawn")
SLOW = Polling(min=30.0, max=30.0)
PATIENCE = 10.0


def sync_client(emulator: Emulator, polling: Polling = QUICK, **settings: Any) -> Client:
    return Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=polling, **settings)


def task_reads(emulator: Emulator) -> int:
    return sum(
        request.method == "GET" and request.path.startswith("/v1/tasks/") for request in emulator.requests
    )


class Reported:
    """Records the tasks that a receiver reports, and lets a test wait for them."""

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


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that other threads bring about."""
    signal = threading.Event()
    for _ in range(1000):
        if condition():
            return
        signal.wait(0.01)
    raise AssertionError("the condition never held")


@pytest.mark.parametrize("fault", ["webhook", "webhook:twice", "webhook:forged", "webhook:unsigned"])
def test_a_delivery_ends_a_wait_before_its_next_poll(emulator: Emulator, fault: str) -> None:
    client = sync_client(emulator, SLOW)
    receiver = client.webhooks(secret=SECRET)
    if fault != "webhook":
        emulator.fault(fault, route=SUBMISSIONS)
    with receiver.serve():
        task = client.images.submit("a fox", **IMAGE, webhook=receiver)
        assert task.wait(timeout=25).status == "completed"
    assert task_reads(emulator) == 1


def deliver_in_another_process(base_url: str, ledger: Path) -> None:
    client = Client(base_url=base_url, api_key="unused", ledger=ledger)
    deliver(client.webhooks(secret=SECRET, public_url="https://app.example.com"), "fox", {})


def test_a_delivery_to_another_process_ends_waits_on_a_shared_ledger(tmp_path: Path) -> None:
    clock = ManualClock()
    with Emulator(clock=clock) as emulator:
        client = sync_client(emulator, SLOW, ledger=tmp_path / "tasks.db")
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
        assert task_reads(emulator) == 1


async def test_a_delivery_to_another_thread_wakes_an_event_loop(emulator: Emulator) -> None:
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=SLOW) as client:
        receiver = client.webhooks(secret=SECRET)
        with receiver.serve():
            tasks = [await client.images.submit(f"fox {n}", **IMAGE, webhook=receiver) for n in range(3)]
            ended = await asyncio.gather(*(task.wait(timeout=25) for task in tasks))
    assert {task.status for task in ended} == {"completed"}


@pytest.mark.parametrize("fault", ["webhook:never", "webhook:late;seconds=600", "webhook:early"])
def test_a_missing_late_or_early_delivery_does_not_fail_a_wait(emulator: Emulator, fault: str) -> None:
    client = sync_client(emulator)
    receiver = client.webhooks(secret=SECRET)
    emulator.fault(fault, route=SUBMISSIONS)
    with receiver.serve():
        assert client.images.submit("a fox", **IMAGE, webhook=receiver).wait().status == "completed"


@pytest.mark.parametrize("fault", ["webhook:twice", "webhook:early", "webhook:forged", "webhook:held"])
def test_each_finished_task_is_reported_once(
    emulator: Emulator, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piccc.media.deliveries.FIRST_PAUSE", 0.05)
    client, reported = sync_client(emulator), Reported()
    receiver = client.webhooks(secret=SECRET, on_task=reported)
    emulator.fault(fault, route=SUBMISSIONS, times=2)
    with receiver.serve():
        tasks = [client.images.submit(f"fox {n}", **IMAGE, webhook=receiver) for n in range(4)]
        assert sorted(task.id for task in reported.wait(4)) == sorted(task.id for task in tasks)
        until(lambda: all(delivery.delivered for delivery in emulator.deliveries))
    assert len(reported.tasks) == 4
    assert {task.status for task in reported.tasks} == {"completed"}


def test_a_lost_submission_is_recovered_by_its_delivery(emulator: Emulator) -> None:
    client, reported = sync_client(emulator), Reported()
    receiver = client.webhooks(secret=SECRET, on_task=reported)
    emulator.fault("lost-answer", route=SUBMISSIONS)
    with receiver.serve():
        with pytest.raises(SubmissionUnknown):
            client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
        [task] = reported.wait(1)
    assert client.ledger.unsettled() == []
    before = len(emulator.requests)
    assert client.tasks.resume("fox").id == task.id == emulator.charges[0].task_id
    assert [request.path for request in emulator.requests[before:]] == [f"/v1/tasks/{task.id}"]


def test_a_delivery_does_not_settle_a_submission_with_a_foreign_task(emulator: Emulator) -> None:
    client = sync_client(emulator)
    receiver = client.webhooks(secret=SECRET, public_url="http://127.0.0.1:9")
    foreign = client.images.submit("another", **IMAGE)
    emulator.fault("disconnect", route=SUBMISSIONS)
    with pytest.raises(SubmissionUnknown):
        client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
    deliver(receiver, "fox", {"data": {"task_id": foreign.id}})
    assert [submission.key for submission in client.ledger.unsettled()] == ["fox"]


def deliver(receiver: Webhooks, key: str, body: object, url: str | None = None, **headers: str) -> int:
    """Deliver a webhook to a receiver as the server would; return the status."""
    path = receiver.url_for(key) if url is None else url
    return request(receiver, "POST", path, headers, json.dumps(body).encode())


def request(receiver: Webhooks, method: str, path: str, headers: dict[str, str], body: bytes) -> int:
    """Send a receiver a request, and let it try once to report its deliveries; return the status."""
    deliveries = receiver.deliveries(SyncBackend())
    status, _ = run_sync(deliveries.receive(method, path, headers, body))
    run_sync(deliveries.close())
    return status


def test_a_forged_webhook_url_gets_404_and_causes_no_request(emulator: Emulator) -> None:
    client = sync_client(emulator)
    receiver = client.webhooks(secret=SECRET, public_url="https://app.example.com/hooks")
    task = client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
    body = {"data": {"task_id": task.id}}
    genuine = receiver.url_for("fox")
    other = client.webhooks(secret=SECRET[::-1], public_url="https://app.example.com/hooks")
    for url in (genuine[:-1], genuine + "x", other.url_for("fox"), "/", "", "/hooks/%/%", f"{genuine}/more"):
        assert deliver(receiver, "fox", body, url=url) == 404
    assert receiver.url_for("hare").rsplit("/", 1)[1] != genuine.rsplit("/", 1)[1]
    assert task_reads(emulator) == 0
    assert deliver(receiver, "fox", body) == 204


def test_only_tasks_in_the_ledger_are_read(emulator: Emulator) -> None:
    client, reported = sync_client(emulator), Reported()
    receiver = client.webhooks(secret=SECRET, public_url="https://app.example.com", on_task=reported)
    task = client.images.submit("a fox", **IMAGE, key="fox").wait()
    before = task_reads(emulator)
    assert deliver(receiver, "stranger", {"data": {"task_id": "task_victim"}}) == 204
    assert task_reads(emulator) == before
    assert deliver(receiver, "fox", {"data": {"task_id": "task_victim", "status": "failed"}}) == 204
    assert [task.id for task in reported.tasks] == [task.id]
    assert reported.tasks[0].status == "completed"


def test_repeated_deliveries_do_not_multiply_requests(emulator: Emulator) -> None:
    client, reported = sync_client(emulator), Reported()
    receiver = client.webhooks(secret=SECRET, public_url="https://app.example.com", on_task=reported)
    client.images.submit("a fox", **IMAGE, key="fox").wait()
    before = task_reads(emulator)
    for _ in range(50):
        assert deliver(receiver, "fox", {}) == 204
    assert task_reads(emulator) - before == 1
    assert len(reported.tasks) == 1


@pytest.mark.parametrize(
    ("method", "body", "status"), [("GET", b"", 405), ("POST", b"x" * 65_537, 413), ("POST", b"{", 204)]
)
def test_unusual_requests_get_the_right_status(
    emulator: Emulator, method: str, body: bytes, status: int
) -> None:
    receiver = sync_client(emulator).webhooks(secret=SECRET, public_url="https://app.example.com")
    assert request(receiver, method, receiver.url_for("fox"), {}, body) == status


def test_signatures_are_verified_and_replays_are_ignored(emulator: Emulator) -> None:
    client = sync_client(emulator)
    receiver = client.webhooks(
        secret=SECRET, public_url="https://app.example.com", signing_secret=emulator.webhook_secret
    )
    client.images.submit("a fox", **IMAGE, key="fox", webhook=receiver)
    body, now = b"{}", int(time.time())
    path = receiver.url_for("fox")
    genuine = sign(emulator.webhook_secret, "evt_1", now, body)
    late = sign(emulator.webhook_secret, "evt_1", now - 301, body)
    before = task_reads(emulator)
    for headers, content in (({}, body), (genuine, b"{ }"), (late, body)):
        assert request(receiver, "POST", path, headers, content) == 401
    assert [request(receiver, "POST", path, genuine, body) for _ in range(3)] == [204] * 3
    assert task_reads(emulator) == before


def test_signatures_of_the_emulator_are_accepted(emulator: Emulator) -> None:
    client, reported = sync_client(emulator), Reported()
    receiver = client.webhooks(secret=SECRET, signing_secret=emulator.webhook_secret, on_task=reported)
    with receiver.serve():
        client.images.submit("a fox", **IMAGE, webhook=receiver)
        assert reported.wait(1)[0].status == "completed"


def test_one_valid_signature_suffices_and_malformed_ones_fail_quietly() -> None:
    headers = sign("whsec_c2VjcmV0", "evt_1", 1000, b"body")
    rotated = {**headers, "webhook-signature": f"v1,AAAA v2,x {headers['webhook-signature']} nonsense"}
    assert verify("whsec_c2VjcmV0", rotated, b"body", 1000.0)
    for signature in ("", "v1", "v1,", "v1,%%%", "v1a,AAAA"):
        assert not verify("whsec_c2VjcmV0", {**headers, "webhook-signature": signature}, b"body", 1000.0)


async def test_the_asgi_app_responds_before_it_reads_the_task(emulator: Emulator) -> None:
    client, reported = sync_client(emulator), Reported()
    receiver = client.webhooks(secret=SECRET, public_url="http://app/hooks", on_task=reported)
    await asyncio.to_thread(lambda: client.images.submit("a fox", **IMAGE, key="fox").wait())
    sent: list[dict[str, Any]] = []
    before, asked = task_reads(emulator), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        asked.append(task_reads(emulator))

    scope = {"type": "http", "method": "POST", "path": httpx.URL(receiver.url_for("fox")).path, "headers": []}
    await receiver.asgi(scope, receive, send)
    assert [message.get("status") for message in sent] == [204, None]
    assert asked == [before, before]
    assert [task.status for task in reported.tasks] == ["completed"]
    transport = httpx.ASGITransport(receiver.asgi)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.post("http://app/hooks/x/y")).status_code == 404


def test_the_server_never_logs_its_secret_urls(
    emulator: Emulator, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    receiver = sync_client(emulator).webhooks(secret=SECRET)
    with caplog.at_level(logging.DEBUG, "piccc"), receiver.serve():
        url = receiver.url_for("fox")
        assert httpx.post(url, content=b"{}").status_code == 204
        assert httpx.get(url).status_code == 405
        assert httpx.post(url + "x").status_code == 404
    token = url.rsplit("/", 1)[1]
    printed = capfd.readouterr()
    assert token not in printed.out + printed.err + "".join(
        record.getMessage() for record in caplog.records if record.name == "piccc"
    )


MALFORMED: dict[str, dict[str, Any]] = {
    "a short secret": {"secret": "guess"},
    "no secret": {"secret": None},
    "a signing secret that is not Base64": {"signing_secret": "whsec_%%%"},
    "a truncated signing secret": {"signing_secret": "whsec_c2VjcmV"},
    "an empty signing secret": {"signing_secret": "whsec_"},
    "a signing secret of bytes": {"signing_secret": b"whsec_c2VjcmV0"},
    "on_task that is not a function": {"on_task": "print"},
    "forward_to without a host": {"forward_to": "/hook"},
    "forward_to that cannot be parsed": {"forward_to": "https://[::1/x"},
    "public_url with a query": {"public_url": "https://app.example.com/hooks?tenant=1"},
    "public_url without a scheme": {"public_url": "app.example.com"},
}


@pytest.mark.parametrize("settings", MALFORMED.values(), ids=MALFORMED)
def test_malformed_settings_are_rejected_when_the_receiver_is_created(
    emulator: Emulator, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError):
        sync_client(emulator).webhooks(**{"secret": SECRET, **settings})


def test_a_receiver_without_a_url_cannot_be_given_to_a_submission(emulator: Emulator) -> None:
    client = sync_client(emulator)
    with pytest.raises(ConfigurationError, match="no URL yet"):
        client.images.submit("a fox", **IMAGE, webhook=client.webhooks(secret=SECRET))
    assert emulator.requests == []


def test_a_port_in_use_raises_configuration_error(emulator: Emulator) -> None:
    receiver = sync_client(emulator).webhooks(secret=SECRET)
    with receiver.serve() as server, pytest.raises(ConfigurationError, match="cannot listen"):
        receiver.serve(port=int(server.url.rpartition(":")[2]))


def test_a_pickled_receiver_has_the_same_urls(emulator: Emulator) -> None:
    receiver = sync_client(emulator).webhooks(
        secret=SECRET, public_url="https://app.example.com", on_task=lambda task: None
    )
    assert pickle.loads(pickle.dumps(receiver)).url_for("fox") == receiver.url_for("fox")  # noqa: S301
    assert copy.deepcopy(receiver) is receiver


class FaultyServer(Server):
    """A server whose first reads fail and whose clock is `skew` seconds ahead."""

    def __init__(self, *reads: Fault, skew: float = 0.0) -> None:
        super().__init__(epoch=time.time() + skew)
        self.first_read_faults = list(reads)

    def answer(self, request: HTTPRequest) -> WorldResponse:
        response = super().answer(request)
        if request.method == "GET" and self.first_read_faults:
            response = self.first_read_faults.pop(0)() or response
        return response

    def receiver(self, **settings: Any) -> tuple[Account, Deliveries]:
        """Return an account and the handler of its deliveries."""
        account = self.account()
        receiver = Webhooks(account, secret=SECRET, public_url="https://app.example.com", **settings)
        return account, receiver.deliveries(account.session.io)

    def claim(self, account: Account, key: str = "fox", task: str | None = None) -> None:
        """Record a submission as sent, and as settled if its task is given."""
        account.ledger.claim(Submission(key, "image", "digest", {"prompt": "a fox"}))
        if task is not None:
            account.ledger.settle(key, task)

    def make(self, **shown: Any) -> str:
        """Add a task, which has ended by default; return its ID."""
        id = f"t{len(self.charges)}"
        self.charges.append({"task_id": id, "ends": 0.0, **shown})
        return id


def post(
    world: FaultyServer, deliveries: Deliveries, body: bytes, *, key: str = "fox", times: int = 1
) -> list[int]:
    """Deliver to a submission's URL and run the world until it is idle; return the statuses."""
    statuses: list[int] = []

    async def send() -> None:
        for _ in range(times):
            status, _ = await deliveries.receive("POST", _path(key), {}, body)
            statuses.append(status)

    world.run(send())
    return statuses


def _path(key: str) -> str:
    receiver = Webhooks(FaultyServer().account(), secret=SECRET, public_url="https://app.example.com")
    return httpx.URL(receiver.url_for(key)).path


READ_FAULTS: dict[str, list[Fault]] = {
    "busy": [refusal(503)] * 3,
    "an outage of an hour": [not_sent] * 20,
    "a key rejected for a while": [refusal(401)] * 2,
    "a response without a task": [refusal(200, {"page": "html"})],
    "not found yet": [refusal(404)] * 3,
    "rate limiting": [refusal(429)] * 3,
}


@pytest.mark.parametrize("faults", READ_FAULTS.values(), ids=READ_FAULTS)
def test_a_delivery_is_retried_until_its_task_can_be_read(faults: list[Fault]) -> None:
    world, reported = FaultyServer(*faults), Reported()
    account, deliveries = world.receiver(on_task=reported)
    world.claim(account, task=world.make())
    assert post(world, deliveries, b"{}") == [204]
    assert [task.id for task in reported.tasks] == ["t0"]
    moments = [moment for moment, _ in world.asked]
    assert len(moments) == len(faults) + 1
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(moments))


@pytest.mark.parametrize("error", [ValueError("no room"), OSError(28, "No space left"), OutputError("gone")])
def test_on_task_is_retried_until_it_succeeds(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    world, calls = FaultyServer(), []

    def on_task(task: Any) -> None:
        calls.append(task.id)
        if len(calls) < 5:
            raise error

    account, deliveries = world.receiver(on_task=on_task)
    world.claim(account, task=world.make())
    assert post(world, deliveries, b"{}", times=50) == [204] * 50
    assert post(world, deliveries, b"{}", times=50) == [204] * 50
    assert calls == ["t0"] * 5
    assert len(caplog.records) == 4


def test_an_early_delivery_is_held_until_its_task_ends() -> None:
    world, reported = FaultyServer(), Reported()
    account, deliveries = world.receiver(on_task=reported)
    world.claim(account, task=world.make(ends=600.0))
    post(world, deliveries, b"{}")
    assert [task.status for task in reported.tasks] == ["completed"]
    assert len(world.asked) < 20


def test_a_delivery_is_given_up_after_a_day(caplog: pytest.LogCaptureFixture) -> None:
    world = FaultyServer(*[refusal(503)] * 1000)
    account, deliveries = world.receiver(on_task=Reported())
    world.claim(account, task=world.make())
    post(world, deliveries, b"{}")
    assert 24 * 3600 <= world.now < 25 * 3600
    assert "was not reported" in caplog.text


ECHOES: dict[str, tuple[dict[str, Any], float, bool]] = {
    "only its id": ({}, 0, True),
    "its type": ({"type": "image"}, 0, True),
    "its prompt": ({"prompt": "a fox"}, 0, True),
    "another type": ({"type": "video"}, 0, False),
    "another prompt": ({"prompt": "a hare"}, 0, False),
    "a later creation time": ({"age": 0}, 0, True),
    "an earlier creation time": ({"age": 3600}, 0, False),
    "a clock an hour ahead": ({"age": 0}, 3600, True),
    "a clock an hour behind": ({"age": 0}, -3600, True),
    "a clock an hour ahead, created earlier": ({"age": 3600}, 3600, False),
}


@pytest.mark.parametrize(("shown", "skew", "is_match"), ECHOES.values(), ids=ECHOES)
def test_a_delivery_settles_only_a_submission_that_matches_its_task(
    shown: dict[str, Any], skew: float, is_match: bool
) -> None:
    world, reported = FaultyServer(skew=skew), Reported()
    account, deliveries = world.receiver(on_task=reported)
    if "age" in shown:
        shown = {"created_at": world.epoch - shown["age"]}
    world.claim(account)
    id = world.make(**shown)
    assert post(world, deliveries, json.dumps({"data": {"task_id": id}}).encode()) == [204]
    assert [task.id for task in reported.tasks] == ([id] if is_match else [])
    assert account.ledger.key_of(id) == ("fox" if is_match else None)
    assert len(world.asked) == 1


@pytest.mark.parametrize("body", [{"data": {"task_id": 70}}, {"data": {"taskId": "70"}}, {"id": 70}])
def test_a_lost_submission_is_found_however_a_delivery_names_its_task(body: dict[str, Any]) -> None:
    class Numbered(FaultyServer):
        def answer(self, request: HTTPRequest) -> WorldResponse:
            assert request.url.endswith("/v1/tasks/70")
            return WorldResponse(200, {"task_id": 70, "status": "failed"})

    world, reported = Numbered(), Reported()
    account, deliveries = world.receiver(on_task=reported)
    world.claim(account)
    assert post(world, deliveries, json.dumps(body).encode()) == [204]
    assert [task.id for task in reported.tasks] == ["70"]
    assert account.ledger.key_of("70") == "fox"


def test_a_task_of_another_submission_is_not_reassigned() -> None:
    world, reported = FaultyServer(), Reported()
    account, deliveries = world.receiver(on_task=reported)
    id = world.make()
    world.claim(account, "hare", task=id)
    world.claim(account)
    post(world, deliveries, json.dumps({"data": {"task_id": id}}).encode())
    assert reported.tasks == []
    assert [entry.key for entry in account.ledger.unsettled()] == ["fox"]


BODIES = {
    "another id each time": lambda n: json.dumps({"data": {"task_id": f"x{n + 1000}"}}),
    "one id": lambda n: json.dumps({"data": {"task_id": "x1000"}}),
    "a parent folder": lambda n: json.dumps({"data": {"task_id": ".."}}),
    "a long id": lambda n: json.dumps({"task_id": "x" * 201}),
    "control characters": lambda n: json.dumps({"task_id": "a\r\nb"}),
    "a lone surrogate": lambda n: '{"task_id": "\\ud800\\n"}',
    "deep nesting": lambda n: "[" * 60_000,
    "not an object": lambda n: "3",
    "an id that is a list": lambda n: '{"task_id": [3]}',
    "not JSON": lambda n: "\0",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_delivery_body_causes_more_than_a_few_requests(
    body: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piccc.media.deliveries.GIVE_UP_SECONDS", 600.0)
    world, statuses = FaultyServer(), []
    account, deliveries = world.receiver(on_task=Reported())
    world.claim(account)
    for number in range(200):
        statuses += post(world, deliveries, body(number).encode())
    assert set(statuses) <= {204, 429}
    assert len(world.asked) <= MAX_CANDIDATES * ABSENT_ATTEMPTS
    assert all(path.startswith("/v1/tasks/x") for _, path in world.asked)


def test_a_delivery_beyond_capacity_gets_503_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("piccc.media.deliveries.MAX_JOBS", 1)
    world, reported = FaultyServer(refusal(503)), Reported()
    account, deliveries = world.receiver(on_task=reported)
    for key in ("fox", "hare"):
        world.claim(account, key, task=world.make())
    statuses: list[int] = []

    async def send() -> None:
        for key in ("fox", "hare"):
            status, _ = await deliveries.receive("POST", _path(key), {}, b"{}")
            statuses.append(status)

    world.run(send())
    assert statuses == [204, 503]
    assert post(world, deliveries, b"{}", key="hare") == [204]
    assert [task.id for task in reported.tasks] == ["t0", "t1"]


def test_a_delivery_gets_503_while_the_ledger_fails() -> None:
    world = FaultyServer()
    account, deliveries = world.receiver()
    world.claim(account)

    def fail(key: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    account.ledger.get = fail  # type: ignore[method-assign]
    assert post(world, deliveries, b"{}") == [503]


@pytest.mark.parametrize("skew", [-600.0, -300.0, 0.0, 300.0, 600.0])
def test_polling_misses_no_task_when_clocks_differ(skew: float) -> None:
    world = FaultyServer(skew=skew)
    account, _ = world.receiver()
    for _ in range(5):
        world.make(created_at=world.epoch)
    assert endings(world, account, 5) == ["t0", "t1", "t2", "t3", "t4"]


def endings(world: FaultyServer, account: Account, count: int, memory: Memory | None = None) -> list[str]:
    ended: list[str] = []

    async def poll() -> None:
        with Endings(account, memory or Memory()) as source:
            ended.extend([(await source.next()).id for _ in range(count)])

    world.run(poll())
    return sorted(ended)


LISTS: dict[str, list[Fault]] = {
    "working": [],
    "no filter by status": [refusal(400), refusal(400)],
    "other names of statuses": [refusal(200, {"data": []}), refusal(200, {"data": []})],
    "an outage during the first scan": [lambda: None, refusal(503), refusal(503), refusal(503), refusal(503)],  # type: ignore[list-item,return-value]
}


@pytest.mark.parametrize("faults", LISTS.values(), ids=LISTS)
def test_polling_misses_no_running_task_behind_many_newer_ones(faults: list[Fault]) -> None:
    world = FaultyServer(*faults)
    account, _ = world.receiver()
    for number in range(450):  # from two hours ago on; two, far apart, are still running
        created = {"created_at": world.epoch - 7200.0 + 10 * number}
        world.make(**created, ends=100.0 if number in (3, 222) else 0.0)
    assert endings(world, account, 2) == ["t222", "t3"]


def test_polling_survives_an_outage_and_repeats_unreported_tasks() -> None:
    world, memory = FaultyServer(), Memory()
    account, _ = world.receiver()
    for _ in range(3):
        world.make(created_at=world.epoch, ends=20.0)
    world.first_read_faults = [lambda: None] * 3 + [refusal(503)] * 500  # type: ignore[list-item,return-value]
    assert endings(world, account, 1, memory) != []
    assert len(memory.unreported) == 3  # the first was not marked as reported
    memory.unreported.pop("t1")
    assert endings(world, account, 2, memory) == ["t0", "t2"]


def test_polling_warns_once_per_outage_and_once_when_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = FaultyServer()
    account, _ = world.receiver()
    world.make(created_at=world.epoch, ends=20_000.0)
    works: list[Fault] = [lambda: None] * 20  # type: ignore[list-item,return-value]
    world.first_read_faults = 2 * [*works, *[refusal(503)] * 200]
    with caplog.at_level(logging.WARNING, "piccc"):
        endings(world, account, 1)
    assert world.first_read_faults == []
    starts = [record.message.partition(":")[0] for record in caplog.records]
    assert starts == 2 * [
        "Polling for finished tasks failed; continuing",
        "Polling for finished tasks works again.",
    ]


def raw(server: WebhookServer, head: str, *, ends: bool = False) -> bytes:
    """Send raw bytes to a server, and if asked their end; return the status line."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(head.encode())
        if ends:
            connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").readline()


LENGTHS = {"9" * 5000: b" 413 ", "-1": b" 413 ", "1e3": b" 413 ", "65537": b" 413 ", "0": b" 204 "}


@pytest.mark.parametrize(("length", "status"), LENGTHS.items(), ids=[key[:8] for key in LENGTHS])
def test_unusual_content_lengths_get_a_status_and_print_nothing(
    emulator: Emulator, capfd: pytest.CaptureFixture[str], length: str, status: bytes
) -> None:
    receiver = sync_client(emulator).webhooks(secret=SECRET)
    with receiver.serve() as server:
        path = httpx.URL(receiver.url_for("fox")).path
        assert status in raw(server, f"POST {path}?task_id=x HTTP/1.1\r\ncontent-length: {length}\r\n\r\n")
        assert b" 404 " in raw(server, f"POST /x HTTP/1.1\r\ncontent-length: {length}\r\n\r\n")
    assert capfd.readouterr().err == ""


CHUNKED = "transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "rest", "status"),
    [
        ("POST", f"{CHUNKED}1\r\n{{\r\n1;x=y\r\n}}\r\n0\r\n\r\n", b" 204 "),
        ("POST", f"{CHUNKED}1\r\n{{\r\n10001\r\n{'x' * 0x10001}", b" 413 "),
        ("POST", f"{CHUNKED}no size\r\n\r\n", b""),
        ("POST", "transfer-encoding: gzip, chunked\r\n\r\n", b" 501 "),
        *((method, "\r\n", b" 405 ") for method in ("DELETE", "HEAD", "OPTIONS", "PATCH", "PUT")),
    ],
)
def test_the_server_reads_what_proxies_and_probes_send(
    emulator: Emulator, method: str, rest: str, status: bytes
) -> None:
    receiver = sync_client(emulator).webhooks(secret=SECRET)
    with receiver.serve() as server:
        name, token = httpx.URL(receiver.url_for("fox")).path.strip("/").split("/")
        path = f"/{name}/%{ord(token[0]):x}{token[1:]}"  # the same path to a proxy (RFC 3986, 6.2.2.2)
        line = raw(server, f"{method} {path} HTTP/1.1\r\n{rest}", ends=True)
    assert status in line
    assert bool(line) == bool(status)


@pytest.mark.parametrize("skew", [0.0, 240.0, 900.0, -900.0, 7200.0])
def test_signed_deliveries_tolerate_clock_skew_but_not_replays(skew: float) -> None:
    world, reported = FaultyServer(skew=skew), Reported()
    account, deliveries = world.receiver(on_task=reported, signing_secret="whsec_c2VjcmV0")
    world.claim(account, task=world.make())
    statuses: list[int] = []

    async def send(age: float) -> None:
        moment = int(world.epoch + world.now - age)
        signed = sign("whsec_c2VjcmV0", f"evt_{age}", moment, b"{}")
        for headers in (signed, {**signed, "webhook-signature": "v1,AAAA"}):
            statuses.append((await deliveries.receive("POST", _path("fox"), headers, b"{}"))[0])

    world.run(send(1.0))
    world.run(send(abs(skew) + 600.0))
    assert statuses == [204, 401, 401, 401]
    assert len(reported.tasks) == 1
    assert sum("limit=1" in path for _, path in world.asked) <= 1


def test_malformed_timestamps_fail_verification() -> None:
    headers = sign("whsec_c2VjcmV0", "evt_1", 1000, b"body")
    for timestamp in ("9" * 5000, "-1", "nan", "", "1e9"):
        assert not verify("whsec_c2VjcmV0", {**headers, "webhook-timestamp": timestamp}, b"body", 1000.0)


def test_slow_connections_hold_few_threads_and_block_no_delivery(emulator: Emulator) -> None:
    receiver = sync_client(emulator).webhooks(secret=SECRET)
    before = threading.active_count()
    with receiver.serve() as server, ExitStack() as stack:
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(3 * MAX_CONNECTIONS):
            slow = stack.enter_context(socket.create_connection((host, int(port)), PATIENCE))
            slow.sendall(b"POST / HTTP/1.1\r\n")
        assert httpx.post(receiver.url_for("fox"), content=b"{}").status_code == 204
        until(lambda: threading.active_count() - before <= MAX_CONNECTIONS + MAX_WORKERS + 1)


async def test_the_ledger_is_not_called_on_the_event_loop(emulator: Emulator, tmp_path: Path) -> None:
    threads: list[int] = []

    class Watched(SQLiteLedger):
        def get(self, key: str) -> Submission | None:
            threads.append(threading.get_ident())
            return super().get(key)

    client = AsyncClient(base_url=emulator.base_url, api_key="unused", ledger=Watched(tmp_path / "tasks.db"))
    receiver = client.webhooks(secret=SECRET, public_url="http://app/hooks")
    async with client, httpx.AsyncClient(transport=httpx.ASGITransport(receiver.asgi)) as http:
        assert (await http.post(receiver.url_for("fox"), content=b"{}")).status_code == 204
    assert threads
    assert threading.get_ident() not in threads


def test_polling_reports_every_task_like_a_delivery(emulator: Emulator) -> None:
    client, reported = sync_client(emulator), Reported()
    tasks = [client.images.submit(f"fox {n}", **IMAGE) for n in range(5)]
    with serving(FileHost()) as app:
        receiver = client.webhooks(
            secret=SECRET,
            signing_secret="whsec_c2VjcmV0",
            on_task=reported,
            forward_to=f"{app.url}/file/hook",
        )
        ended = list(islice(receiver.poll(), 5))
        assert sorted(task.id for task in ended) == sorted(task.id for task in tasks)
        assert len(reported.tasks) == len(app.downloads) == 5
        assert all(
            "webhook-signature" in headers and "authorization" not in headers for headers in app.downloads
        )


async def test_async_polling_also_reports_tasks_submitted_later(emulator: Emulator) -> None:
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK) as client:
        first = await client.images.submit("first", **IMAGE)
        polling = client.webhooks(secret=SECRET).apoll()
        assert (await anext(polling)).id == first.id
        second = await client.images.submit("second", **IMAGE)
        assert (await anext(polling)).id == second.id
        await polling.aclose()
