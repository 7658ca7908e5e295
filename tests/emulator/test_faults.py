"""Injected faults: statuses, broken responses, task outcomes and connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from piccc.emulator import Emulator, Fault, ManualClock
from piccc.emulator.faults import FaultRule, Faults
from tests.emulator.wire import chat, connect, image, message

STREAMS = [("/v1/chat/completions", chat(stream=True)), ("/v1/messages", message(stream=True))]
POSTS = [("/v1/chat/completions", chat()), ("/v1/messages", message()), ("/v1/images/tasks", image())]


def fault(text: str) -> dict[str, str]:
    """Return the header that requests a fault."""
    return {"x-piccc-fault": text}


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504, 529])
@pytest.mark.parametrize(("path", "body"), POSTS)
def test_any_status_can_be_injected_and_nothing_is_charged(
    emulator: Emulator, client: httpx.Client, path: str, body: object, status: int
) -> None:
    response = client.post(path, json=body, headers=fault(str(status)))
    assert response.status_code == status
    assert response.json()["error"]["message"] == f"Injected fault: {status}."
    assert ("type" in response.json()) == (path == "/v1/messages")
    assert emulator.charges == []
    assert emulator.requests[-1].fault == str(status)


def test_retry_headers_can_be_injected_in_every_form(manual: Emulator, manual_client: httpx.Client) -> None:
    def headers(text: str) -> httpx.Headers:
        return manual_client.get("/v1/models", headers=fault(text)).headers

    assert headers("429;retry-after=7")["retry-after"] == "7"
    assert headers("503;retry-after-ms=1500")["retry-after-ms"] == "1500"
    date = parsedate_to_datetime(headers("429;retry-after-date=30")["retry-after"])
    assert date.timestamp() == manual._clock.now() + 30
    assert headers("429;x-ratelimit-reset-tokens=3s")["x-ratelimit-reset-tokens"] == "3s"


@pytest.mark.parametrize(("path", "body"), POSTS)
def test_a_lost_response_is_processed_and_charged(
    emulator: Emulator, client: httpx.Client, path: str, body: object
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(path, json=body, headers=fault("lost-answer"))
    assert len(emulator.charges) == 1
    if path == "/v1/images/tasks":
        listed = client.get("/v1/tasks").json()["data"]
        assert [task["task_id"] for task in listed] == [emulator.charges[0].task_id]


@pytest.mark.parametrize(("path", "body"), POSTS + STREAMS)
def test_a_disconnect_charges_nothing(
    emulator: Emulator, client: httpx.Client, path: str, body: object
) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(path, json=body, headers=fault("disconnect"))
    assert emulator.charges == []


def stream_events(client: httpx.Client, path: str, body: object, text: str) -> list[str]:
    """Read a stream to its end; return its events' data."""
    events: list[str] = []
    with client.stream("POST", path, json=body, headers=fault(text)) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
    return events


@pytest.mark.parametrize("count", [0, 1, 3, 5])
@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_a_stream_can_be_cut_after_n_events(
    client: httpx.Client, path: str, body: object, count: int
) -> None:
    events: list[str] = []
    with (
        client.stream("POST", path, json=body, headers=fault(f"cut:{count}")) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        events.extend(line for line in response.iter_lines() if line.startswith("data: "))
    assert len(events) == count


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_a_stream_can_end_with_an_error_event(client: httpx.Client, path: str, body: object) -> None:
    events = stream_events(client, path, body, "error-event:3")
    assert len(events) == 4
    error = json.loads(events[-1])
    assert error["error"]["type"] == "overloaded_error"
    assert (error.get("type") == "error") == (path == "/v1/messages")


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_one_event_of_a_stream_can_be_garbled(client: httpx.Client, path: str, body: object) -> None:
    whole = stream_events(client, path, body, "drip:1000000")
    garbled = stream_events(client, path, body, "garbled:3")
    assert len(garbled) == len(whole)
    with pytest.raises(json.JSONDecodeError):
        json.loads(garbled[3])
    json.loads(garbled[4])


@pytest.mark.parametrize(("path", "body"), POSTS)
def test_an_unstreamed_response_can_be_cut_or_garbled(client: httpx.Client, path: str, body: object) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.post(path, json=body, headers=fault("cut"))
    garbled = client.post(path, json=body, headers=fault("garbled"))
    assert garbled.is_success
    with pytest.raises(json.JSONDecodeError):
        garbled.json()


@pytest.mark.parametrize(("path", "body"), POSTS)
def test_a_response_can_be_a_web_page_or_empty(client: httpx.Client, path: str, body: object) -> None:
    page = client.post(path, json=body, headers=fault("html"))
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.text.startswith("<!doctype html>")
    assert client.post(path, json=body, headers=fault("html;status=502")).status_code == 502
    assert client.post(path, json=body, headers=fault("empty")).content == b""


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_a_dripped_stream_has_the_same_events_in_small_pieces(
    client: httpx.Client, path: str, body: object
) -> None:
    pieces: list[bytes] = []
    with client.stream("POST", path, json=body, headers=fault("drip:7")) as response:
        pieces.extend(response.iter_raw())
    with client.stream("POST", path, json=body) as response:
        complete = b"".join(response.iter_raw())
    assert max(map(len, pieces)) < len(complete)
    assert b"".join(pieces).count(b"data: ") == complete.count(b"data: ")


def start(emulator: Emulator, path: str, body: object, text: str) -> tuple[threading.Thread, list[Any]]:
    """Send a request from another thread, which appends the status or the error to the list."""
    outcomes: list[Any] = []

    def send() -> None:
        with connect(emulator) as client:
            try:
                outcomes.append(client.post(path, json=body, headers=fault(text)).status_code)
            except httpx.HTTPError as error:
                outcomes.append(type(error))

    thread = threading.Thread(target=send)
    thread.start()
    return thread, outcomes


@pytest.mark.parametrize("text", ["slow:30", "stall;seconds=30"])
def test_a_slow_response_follows_the_clock(manual: Emulator, clock: ManualClock, text: str) -> None:
    thread, outcomes = start(manual, "/v1/images/tasks", image(), text)
    clock.until_sleeping()
    manual.advance(29)
    assert outcomes == []
    manual.advance(1)
    thread.join(10)
    assert outcomes == [202]


@pytest.mark.parametrize(("path", "body"), [*POSTS, *STREAMS])
def test_a_client_can_abandon_a_stalled_response(
    emulator: Emulator, client: httpx.Client, path: str, body: object
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        client.post(path, json=body, headers=fault("stall:2"), timeout=0.05)
    assert client.get("/v1/models").status_code == 200


def task_after(client: httpx.Client, text: str) -> dict[str, Any]:
    """Submit an image with a fault, and read its task."""
    task_id = client.post("/v1/images/tasks", json=image(), headers=fault(text)).json()["task_id"]
    return dict(client.get(f"/v1/tasks/{task_id}").json())


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("failed", "failed", "generation_failed"),
        ("moderated", "failed", "content_policy_violation"),
        ("expired", "expired", "task_expired"),
    ],
)
def test_a_task_can_fail_or_expire(client: httpx.Client, text: str, status: str, code: str) -> None:
    task = task_after(client, text)
    assert (task["status"], task["error"]["code"], task["result"]) == (status, code, None)


def test_a_task_can_be_cancelled_or_completed_without_output(client: httpx.Client) -> None:
    assert task_after(client, "cancelled")["status"] == "cancelled"
    empty = task_after(client, "no-output")
    assert (empty["status"], empty["progress"], empty["result"]) == ("completed", 100, None)


def test_a_task_can_be_stuck_or_show_an_unknown_status_while_running(
    manual: Emulator, manual_client: httpx.Client
) -> None:
    stuck = task_after(manual_client, "stuck")["task_id"]
    odd = task_after(manual_client, "status:dreaming")["task_id"]
    manual.advance(2)
    assert manual_client.get(f"/v1/tasks/{odd}").json()["status"] == "dreaming"
    manual.advance(1_000_000)
    assert manual_client.get(f"/v1/tasks/{odd}").json()["status"] == "completed"
    shown = manual_client.get(f"/v1/tasks/{stuck}").json()
    assert (shown["status"], shown["progress"], shown["completed_at"]) == ("processing", 99, None)


def test_a_new_task_can_be_missing_from_its_first_reads(client: httpx.Client) -> None:
    task_id = client.post("/v1/images/tasks", json=image(), headers=fault("hidden:2")).json()["task_id"]
    assert [client.get(f"/v1/tasks/{task_id}").status_code for _ in range(3)] == [404, 404, 200]


def test_pages_can_drift_and_cursors_can_repeat_or_be_missing(
    emulator: Emulator, client: httpx.Client
) -> None:
    ids = [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(4)][::-1]

    def page(text: str, cursor: str | None = None) -> dict[str, Any]:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        return dict(client.get("/v1/tasks", params=query, headers=fault(text)).json())

    first = page("drift")
    second = page("drift", first["next_cursor"])
    shown = [[task["task_id"] for task in page_data["data"]] for page_data in (first, second)]
    assert shown == [ids[:2], ids[1:3]]
    assert page("no-cursor") | {"data": []} == {
        "object": "list",
        "data": [],
        "has_more": True,
        "next_cursor": None,
    }
    whole = client.get("/v1/tasks", params={"limit": "1"}).json()
    repeated = client.get(
        "/v1/tasks", params={"limit": "1", "cursor": whole["next_cursor"]}, headers=fault("repeat-cursor")
    ).json()
    assert repeated["next_cursor"] == whole["next_cursor"]


def test_a_download_can_be_cut_or_its_url_expired(client: httpx.Client) -> None:
    url = task_after(client, "drip:1000000")["result"]["outputs"][0]["url"]
    content = client.get(url).content
    received: list[bytes] = []
    with (
        client.stream("GET", url, headers=fault("cut:1000")) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        received.extend(response.iter_raw())
    assert b"".join(received) == content[:1000]
    assert client.get(url, headers=fault("expired-url")).json()["error"]["code"] == "url_expired"


def test_a_rule_applies_only_to_matching_requests(emulator: Emulator, client: httpx.Client) -> None:
    rule = emulator.fault("503", route="POST /v1/*/tasks", after=1, times=2)
    submitted = [client.post("/v1/images/tasks", json=image()).status_code for _ in range(5)]
    assert submitted == [202, 503, 503, 202, 202]
    assert client.get("/v1/tasks").status_code == 200
    assert (rule.seen, rule.hit) == (5, 2)
    emulator.fault("429", when=lambda record: record.body.get("model") == "piccc-ultra")
    assert client.post("/v1/chat/completions", json=chat()).status_code == 200
    assert client.post("/v1/chat/completions", json={**chat(), "model": "piccc-ultra"}).status_code == 429
    emulator.clear()
    assert client.post("/v1/chat/completions", json={**chat(), "model": "piccc-ultra"}).status_code == 200


SCHEDULE = {"seed": 7, "rules": [{"route": "GET /v1/models", "fault": "500", "rate": 0.3}]}


def test_a_seeded_schedule_hits_the_same_requests_every_time(tmp_path: Path) -> None:
    file = tmp_path / "faults.json"
    file.write_text(json.dumps(SCHEDULE))
    seen = []
    for faults in (SCHEDULE, file, str(file), {**SCHEDULE, "seed": 8}):
        with Emulator(faults=faults) as emulator, connect(emulator) as client:
            seen.append([client.get("/v1/models").status_code for _ in range(60)])
    assert seen[0] == seen[1] == seen[2] != seen[3]
    assert 6 <= seen[0].count(500) <= 30


def test_rules_can_be_strings_faults_rules_or_dicts() -> None:
    rules = ["429", Fault("500"), FaultRule(Fault("503")), {"fault": "cut:3", "times": 1}]
    assert [str(rule.fault) for rule in Faults.load(rules, seed=0).rules] == ["429", "500", "503", "cut:3"]


@pytest.mark.parametrize(
    "text",
    [
        *("200", "explode", "webhook:loudly", "webhook", "", "cut:x", "drip:-1", "stall;seconds=x"),
        *("503;retry_after=2", "cut;seconds=2", "stuck;after=3", "disconnect:3", "html;code=502", "stale:2"),
    ],
)
def test_an_invalid_fault_is_rejected_with_the_reason(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"unknown fault|needs one of|expected a number|takes no|has no option"
    ):
        Fault.parse(text)


@pytest.mark.parametrize(
    ("fault", "route"),
    [
        ("503", "POST /v1/chat"),
        ("503", "/v1/models"),
        ("503", "DELETE /v1/tasks/*"),
        ("stuck", "POST /v1/chat/completions"),
        ("webhook:late", "GET /v1/tasks/*"),
        ("drift", "GET /v1/tasks/task_1"),
        ("expired-url", "GET /v1/tasks"),
    ],
)
def test_a_rule_that_can_match_nothing_is_rejected(emulator: Emulator, fault: str, route: str) -> None:
    with pytest.raises(ValueError, match="has no effect on the route"):
        emulator.fault(fault, route=route)


@pytest.mark.parametrize(
    ("fault", "route"),
    [
        ("503", "*"),
        ("503", "POST *"),
        ("503", "POST /v1/*/tasks"),
        ("503", "GET /v1/tasks/task_[0-9]*"),
        ("503", "GET /v1/tasks/task_1"),
        ("503", "* /v1/m?ssages"),
        ("stuck", "*"),
        ("drift", "GET /v1/tasks"),
    ],
)
def test_a_rule_that_can_match_something_is_accepted(emulator: Emulator, fault: str, route: str) -> None:
    emulator.fault(fault, route=route)


def test_a_submission_fault_ignores_other_requests(emulator: Emulator, client: httpx.Client) -> None:
    rule = emulator.fault("failed", times=1)
    client.get("/v1/models")
    task_id = client.post("/v1/images/tasks", json=image()).json()["task_id"]
    assert client.get(f"/v1/tasks/{task_id}").json()["status"] == "failed"
    assert (rule.seen, rule.hit) == (1, 1)


@pytest.mark.parametrize("rule", [{"fault": "503", "rout": "*"}, {"route": "*"}])
def test_a_rule_with_missing_or_unknown_keys_is_rejected(rule: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"fault rule with (no fault|unknown keys)"):
        Faults.load([rule], seed=0)


@contextmanager
def raw(emulator: Emulator) -> Iterator[tuple[Callable[..., bytes], Callable[[], bool]]]:
    """Open a connection; yield a function that sends a request and one that waits for the close."""
    address = urlsplit(emulator.base_url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:

        def ask(fault: str = "") -> bytes:
            header = f"x-piccc-fault: {fault}\r\n" if fault else ""
            head = f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-api-key: {emulator.api_key}\r\n"
            response = b""
            with suppress(ConnectionError):
                connection.sendall(f"{head}{header}\r\n".encode())
                while (piece := connection.recv(65536)) and not (response := response + piece).endswith(
                    b"]}"
                ):
                    pass
            return response.lower()

        yield ask, lambda: connection.recv(1) == b""


def test_a_connection_can_be_closed_with_an_announcement(emulator: Emulator) -> None:
    with raw(emulator) as (ask, closed):
        assert b"connection: close" in ask("close")
        assert closed()


def test_a_connection_can_be_closed_without_an_announcement(emulator: Emulator) -> None:
    with raw(emulator) as (ask, closed):
        assert b"connection: close" not in ask("hang-up")
        assert closed()


@pytest.mark.parametrize(("path", "body"), STREAMS)
def test_a_stream_is_complete_when_its_connection_closes_after_it(
    client: httpx.Client, path: str, body: object
) -> None:
    whole = stream_events(client, path, body, "drip:1000000")
    assert len(stream_events(client, path, body, "hang-up")) == len(whole)


def test_a_connection_can_be_closed_before_the_next_response(emulator: Emulator) -> None:
    with raw(emulator) as (ask, _):
        assert ask("stale").startswith(b"http/1.1 200")
        assert ask() == b""
    assert len(emulator.requests) == 1


def test_an_idle_connection_can_be_closed_after_n_seconds(manual: Emulator, clock: ManualClock) -> None:
    with raw(manual) as (ask, closed):
        ask("idle:4")
        clock.until_sleeping()
        assert ask().startswith(b"http/1.1 200")
        manual.advance(5)
        assert ask("idle:4").startswith(b"http/1.1 200")
        clock.until_sleeping()
        manual.advance(5)
        assert closed()


def test_an_unknown_fault_in_the_header_is_a_400(client: httpx.Client) -> None:
    response = client.get("/v1/models", headers=fault("explode"))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-piccc-fault")


@pytest.mark.parametrize(
    "text", ["429;retry-after=2", "cut:3", "stall:3;seconds=5", "webhook:late;seconds=60"]
)
def test_a_fault_round_trips_through_its_text(text: str) -> None:
    assert str(Fault.parse(text)) == text


def test_a_request_with_a_fault_still_needs_a_key(emulator: Emulator) -> None:
    response = httpx.get(emulator.base_url + "/v1/models", headers=fault("500"), trust_env=False)
    assert response.status_code == 401
