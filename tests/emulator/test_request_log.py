"""The request log: complete, bounded and free of secrets."""

from __future__ import annotations

import json
import math
from collections import deque

import httpx
import pytest

from piccc.emulator import Emulator, RequestRecord
from piccc.emulator.request_log import RequestLog
from tests.emulator.wire import chat, connect, image

CANARY = "pcc_live_CANARY0123456789"


def test_every_request_is_recorded_with_its_response(emulator: Emulator, client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions?trace=1", json=chat("Hello"))
    task_id = client.post("/v1/images/tasks", json=image()).json()["task_id"]
    client.get("/v1/tasks/none")
    chatted, submitted, missed = emulator.requests
    assert (chatted.method, chatted.path, chatted.query) == ("POST", "/v1/chat/completions", "trace=1")
    assert (chatted.status, chatted.model, chatted.done) == (200, "piccc-pro", True)
    assert chatted.body == chat("Hello")
    assert chatted.completion_tokens == response.json()["usage"]["completion_tokens"]
    assert chatted.request_id == response.headers["x-request-id"]
    assert submitted.task_id == task_id
    assert (missed.status, missed.number) == (404, 3)


@pytest.mark.parametrize("key", [CANARY, "a house key, CANARY+1\\"])
@pytest.mark.parametrize("scheme", ["bearer", "x-api-key", "wrong bearer", "other headers"])
def test_no_key_is_recorded_anywhere(scheme: str, key: str) -> None:
    headers = {
        "bearer": {"authorization": f"Bearer {key}"},
        "x-api-key": {"x-api-key": key},
        "wrong bearer": {"authorization": key},
        "other headers": {"x-debug": f"key={key}", "cookie": key},
    }[scheme]
    with Emulator(api_key=key, speed=float("inf")) as emulator:
        body = chat(f"my key is {key}, my secret whsec_{key}")
        httpx.post(
            f"{emulator.base_url}/v1/chat/completions?key={key}",
            json=body,
            headers=headers,
            trust_env=False,
        )
        [record] = emulator.requests
        assert "CANARY" not in repr(record) + repr(record.body) + repr(record.raw)
        assert "CANARY" not in repr(emulator.charges) + repr(emulator)


def test_the_log_keeps_only_the_latest_requests() -> None:
    log = RequestLog(length=3)
    for number in range(10):
        log.keep(RequestRecord("GET", f"/{number}", "", {}, 0.0, ""))
    assert [record.path for record in log.records()] == ["/7", "/8", "/9"]
    assert [record.number for record in log.records()] == [8, 9, 10]


def test_long_strings_in_a_large_body_are_shortened() -> None:
    log, record = RequestLog(), RequestRecord("POST", "/", "", {}, 0.0, "")
    turns = [{"role": "user", "content": "x" * 3_000_000}, {"role": "user", "content": "Hello"}]
    log.keep_body(record, log.readable(json.dumps({"messages": turns}).encode()))
    first, second = record.body["messages"]
    assert first["content"].endswith("x… [3000000 characters]")
    assert second == turns[1]
    assert len(record.raw) < 5_000


def test_the_oldest_bodies_are_dropped_over_the_size_limit() -> None:
    log = RequestLog(size=100)
    records = [RequestRecord("POST", "/", "", {}, 0.0, "") for _ in range(4)]
    for record in records:
        log.keep_body(record, b'"' + b"x" * 38 + b'"')
    assert [record.body for record in records] == [None, None, "x" * 38, "x" * 38]


def test_every_answered_chat_is_charged(emulator: Emulator, client: httpx.Client) -> None:
    usage = client.post("/v1/chat/completions", json=chat()).json()["usage"]
    client.post("/v1/chat/completions", json={})
    [charge] = emulator.charges
    assert (charge.kind, charge.model, charge.request_id) == (
        "chat",
        "piccc-pro",
        emulator.requests[0].request_id,
    )
    assert charge.prompt_tokens == usage["prompt_tokens"]
    assert charge.completion_tokens == usage["completion_tokens"]


def test_every_request_is_done_once_its_response_arrived(emulator: Emulator) -> None:
    with connect(emulator) as client:
        for _ in range(20):
            client.get("/v1/models")
            assert all(record.done for record in emulator.requests)


def test_records_charges_and_deliveries_are_bounded(emulator: Emulator, client: httpx.Client) -> None:
    api = emulator._api
    api.request_log = RequestLog(length=5)
    api.charges = deque(maxlen=5)
    for _ in range(20):
        client.post("/v1/chat/completions", json=chat())
    assert (len(emulator.requests), len(emulator.charges), api.request_log.count) == (5, 5, 20)
    fresh = Emulator()._api
    assert fresh.charges.maxlen == 10_000
    assert fresh.request_log.length == 1_000
    assert fresh.webhooks.deliveries.maxlen == 1_000


@pytest.mark.parametrize("fault", ["disconnect", "lost-answer", "cut:1"])
def test_a_request_with_a_broken_connection_is_marked_done(fault: str) -> None:
    with Emulator(speed=math.inf) as emulator, connect(emulator) as client:
        with pytest.raises(httpx.TransportError):
            client.post("/v1/chat/completions", json=chat(), headers={"x-piccc-fault": fault})
        client.get("/v1/models")
    assert [record.done for record in emulator.requests] == [True, True]
