"""Recordings: an upstream server's responses, replayed to equivalent requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator, ManualClock, Scripted
from tests.emulator.wire import chat, connect, image, message, video

KEY = "pcc_live_0123456789"
FAST = float("inf")
BODIES: dict[str, Callable[..., dict[str, Any]]] = {"/v1/chat/completions": chat, "/v1/messages": message}
VARYING = (
    "id",
    "created",
    "task_id",
    "polling_url",
    "result",
    "created_at",
    "updated_at",
    "completed_at",
    "progress",
)


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(speed=FAST, api_key=KEY) as server:
        yield server


@pytest.fixture
def live(running: Emulator) -> Emulator:
    """Return the emulator that acts as the live server, reset."""
    running.reset()
    return running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recordings" / "agent.jsonl"


@contextmanager
def recorder(live: Emulator, path: Path, **options: Any) -> Iterator[httpx.Client]:
    options = {"mode": "record", "upstream_api": "piccc", **options}
    with (
        Emulator(
            speed=FAST, recording=path, upstream=live.base_url, upstream_key=live.api_key, **options
        ) as emulator,
        connect(emulator) as client,
    ):
        yield client


@contextmanager
def player(path: Path, **options: Any) -> Iterator[httpx.Client]:
    with Emulator(speed=FAST, recording=path, **options) as emulator, connect(emulator) as client:
        yield client


def events(response: httpx.Response) -> list[Any]:
    """Return a response's JSON objects without the fields that vary: one, or one per stream event."""
    assert response.status_code < 300, response.text
    if "event-stream" not in response.headers["content-type"]:
        return [_without_varying(response.json())]
    data = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [event if event == "[DONE]" else _without_varying(json.loads(event)) for event in data]


def _without_varying(body: dict[str, Any]) -> dict[str, Any]:
    if isinstance(body.get("message"), dict):
        body["message"] = _without_varying(body["message"])
    return {name: value for name, value in body.items() if name not in VARYING}


REPLIES = {
    "text": Scripted(text="Good morning. 你好 \u2028 👋🏽, this is a text of some pieces."),
    "no text": Scripted(text=""),
    "calls": Scripted(text="I look.", calls=[("weather", {"city": "Tromsø"}), ("weather", '{"city":')]),
    "reasoning": Scripted(reasoning="It is early.", text="Good morning."),
    "a refusal": Scripted(refusal="I cannot."),
}


@pytest.mark.parametrize("api", ["openai", "piccc"])
@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=["whole", "streamed"])
@pytest.mark.parametrize("route", BODIES)
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_a_reply_is_replayed_with_the_same_events(
    live: Emulator, path: Path, reply: Scripted, route: str, options: dict[str, Any], api: str
) -> None:
    live.script([reply])
    body = BODIES[route]("Hello", **options)
    with recorder(live, path, upstream_api=api) as client:
        recorded = events(client.post(route, json=body))
    with player(path) as client:
        assert events(client.post(route, json=body)) == recorded
        assert events(client.post(route, json=body)) == recorded
    assert len(live.requests) == 1


def _turns(call_id: str, day: str, text: str = "What is the weather?") -> dict[str, Any]:
    call = {
        "id": call_id,
        "type": "function",
        "function": {"name": "weather", "arguments": '{"a": 1, "b": 2}'},
    }
    return chat(
        messages=[
            {"role": "system", "content": f"Today is {day}."},
            {"role": "user", "content": text},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": f"run-{call_id}: snow"},
        ]
    )


def _respelled(body: dict[str, Any]) -> dict[str, Any]:
    body["messages"][1]["content"] = [{"text": body["messages"][1]["content"], "type": "text"}]
    body["messages"][2]["tool_calls"][0]["function"]["arguments"] = '{"b":2,"a":1}'
    return {**dict(reversed(body.items())), "stream": False, "temperature": None}


RECORDED = _turns("call_0123456789", "2026-11-26T10:00:00Z")
EQUIVALENT = {
    "identical": RECORDED,
    "other ids": _turns("call_9876543210", "2026-11-26T10:00:00Z"),
    "another timestamp": _turns("call_0123456789", "2027-01-01T23:59:59.5+08:00"),
    "spelled differently": _respelled(_turns("call_0123456789", "2026-11-26T10:00:00Z")),
}
DIFFERENT = {
    "a word": (
        _turns("call_0123456789", "2026-11-26T10:00:00Z", "What is the water?"),
        'messages.1.content: recorded "What is the weather?", sent "What is the water?"',
    ),
    "a setting": ({**RECORDED, "temperature": 0.5}, "temperature: recorded nothing, sent 0.5"),
    "a stream": ({**RECORDED, "stream": True}, "stream: recorded nothing, sent true"),
    "fewer messages": (
        {**RECORDED, "messages": RECORDED["messages"][:2]},
        'messages.2.role: recorded "assistant", sent nothing',
    ),
}


@pytest.fixture(scope="module")
def conversation(running: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "agent.jsonl"
    running.reset()
    running.script(["Unlike it.", "It snows."])
    with recorder(running, path) as client:
        client.post("/v1/chat/completions", json=chat("Something else altogether, in other words"))
        client.post("/v1/chat/completions", json=RECORDED)
    return path


@pytest.mark.parametrize("body", EQUIVALENT.values(), ids=EQUIVALENT)
def test_an_equivalent_request_is_answered(conversation: Path, body: dict[str, Any]) -> None:
    with player(conversation) as client:
        reply = client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == "It snows."


@pytest.mark.parametrize(("body", "expected"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_miss_names_the_difference_from_the_nearest_request(
    conversation: Path, body: dict[str, Any], expected: str
) -> None:
    with player(conversation) as client:
        response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "not_recorded"
    assert expected in response.json()["error"]["message"]
    assert "agent.jsonl" in response.json()["error"]["message"]
    assert "number 2" in response.json()["error"]["message"]


def test_a_miss_on_an_unrecorded_route_names_it(conversation: Path) -> None:
    with player(conversation) as client:
        error = client.post("/v1/messages", json=message()).json()["error"]["message"]
    assert "no POST /v1/messages, only POST /v1/chat/completions" in error


@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=["whole", "streamed"])
@pytest.mark.parametrize("route", BODIES)
def test_secrets_in_a_reply_are_redacted_even_across_pieces(
    live: Emulator, path: Path, route: str, options: dict[str, Any]
) -> None:
    live.script([f"Your key is {KEY}, and https://h/x?signature=abc-123-def is signed."])
    with recorder(live, path) as client:
        client.post(route, json=BODIES[route]("Hello", **options))
    text = path.read_text()
    assert "[redacted]" in text
    assert not {"0123456789", "live", "abc", "123"} & set(
        re.findall(r"[a-z]+|[0-9]+", text.split("\n", 2)[2])
    )
    with player(path) as client:
        assert "[redacted]" in client.post(route, json=BODIES[route]("Hello", **options)).text


def test_equal_requests_get_their_replies_in_order_then_the_last_one(live: Emulator, path: Path) -> None:
    live.script(["one", "two"])
    with recorder(live, path) as client:
        for _ in range(2):
            client.post("/v1/chat/completions", json=chat())
    with player(path) as client:
        replies = [client.post("/v1/chat/completions", json=chat()).json() for _ in range(3)]
    assert [reply["choices"][0]["message"]["content"] for reply in replies] == ["one", "two", "two"]


def test_a_recording_is_small_free_of_secrets_and_incremental(live: Emulator, path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "Weather. " * 20}}]
    turns = [{"role": "user", "content": f"My key is {KEY}; the file https://h/x?X-Amz-Signature=abc123&a=1"}]
    data_url = f"data:image/png;base64,{'A' * 3_000}"
    live.script([f"turn {turn}, " + "of some pieces " * 20 for turn in range(5)])
    with recorder(live, path, strict=False) as client:
        for _ in range(5):
            body = chat(messages=turns, tools=tools, stream=True, user=data_url)
            client.post("/v1/chat/completions", json=body)
            turns = [
                *turns,
                {"role": "assistant", "content": "I see."},
                {"role": "user", "content": "Go on."},
            ]
    text = path.read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for secret in (KEY, "abc123", live.api_key, live.base_url, "AAAA"):
        assert secret not in text
    assert "[redacted]" in text
    assert text.count("Weather. Weather.") == 10  # the description is stored once
    assert [line.get("after") for line in lines[3::2]] == [1, 2, 3, 4]
    assert lines[3]["body"]["messages"] == [
        {"content": "I see.", "role": "assistant"},
        {"content": "Go on.", "role": "user"},
    ]
    assert lines[2]["events"].count(" pieces") > 10
    assert len(text) < 8_000
    with player(path, strict=False) as client:
        body = chat(messages=turns[:3], tools=tools, stream=True, user=data_url)
        assert client.post("/v1/chat/completions", json=body).status_code == 200


OUTCOMES = {"completed": None, "failed": "generation_failed", "moderated": "content_policy_violation"}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_replayed_task_ends_as_recorded(live: Emulator, path: Path, outcome: str) -> None:
    if outcome != "completed":
        live.fault(outcome, times=1)
    finished = []
    hook = {"url": "https://example.com/hook?secret=s3cret"}
    with recorder(live, path) as client:
        submitted = client.post("/v1/images/tasks", json=image(webhook=hook)).json()
        finished.append(client.get(f"/v1/tasks/{submitted['task_id']}").json())
        listed = client.get("/v1/tasks").json()["data"]
    assert [task["status"] for task in listed] == [finished[0]["status"]]
    with player(path) as client:
        assert client.post("/v1/images/tasks", json=image()).json()["task_id"] == submitted["task_id"]
        finished.append(client.get(f"/v1/tasks/{submitted['task_id']}").json())
        missed = client.post("/v1/videos/tasks", json=video())
        if outcome == "completed":
            assert client.get(finished[1]["result"]["outputs"][0]["url"]).content.startswith(b"\x89PNG")
    assert _without_varying(finished[1]) == _without_varying(finished[0])
    assert (finished[1]["error"] or {}).get("code") == OUTCOMES[outcome]
    assert missed.json()["error"]["code"] == "not_recorded"
    assert "s3cret" not in path.read_text()
    assert [request.path for request in live.requests].count("/v1/images/tasks") == 1


def test_an_upstream_task_is_charged_and_reported_by_the_emulator(live: Emulator) -> None:
    with (
        Emulator(speed=FAST, upstream=live.base_url, upstream_key=KEY, upstream_api="piccc") as front,
        connect(front) as client,
    ):
        hook = {"url": "https://example.com/hook"}  # not sent, as it is not on loopback
        task = client.post("/v1/images/tasks", json=image(webhook=hook)).json()
        assert task["polling_url"].startswith(front.base_url)
        assert front.deliveries == []
        done = client.get(f"/v1/tasks/{task['task_id']}").json()
        assert done["status"] == "completed"
        assert done["result"]["outputs"][0]["url"].startswith(live.base_url)
        assert [charge.task_id for charge in front.charges] == [task["task_id"]]
        for _ in range(1_000):
            if front.deliveries:
                break
            client.get("/health")
        assert front.deliveries[0].task_id == task["task_id"]
    assert "webhook" not in live.requests[0].body


def test_with_an_openai_upstream_the_emulator_makes_the_tasks(live: Emulator, path: Path) -> None:
    ids = []
    with recorder(live, path, upstream_api="openai") as client:
        ids += [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(2)]
        client.post("/v1/chat/completions", json=chat(f"Is {ids[0]} ready?"))
    with player(path) as client:
        ids += [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(2)]
        assert client.post("/v1/chat/completions", json=chat(f"Is {ids[2]} ready?")).status_code == 200
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


@pytest.mark.parametrize(("api", "status"), [("piccc", 200), ("openai", 400)])
def test_a_foreign_thinking_signature_is_accepted_with_a_piccc_upstream(
    path: Path, api: str, status: int
) -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "of-the-live-server"}
    turns = [{"role": "assistant", "content": [thinking]}, {"role": "user", "content": "Go on."}]
    body = message(messages=[{"role": "user", "content": "Hello"}, *turns])
    with Emulator(speed=FAST, strict=False) as live, recorder(live, path, upstream_api=api) as client:
        assert client.post("/v1/messages", json=body).status_code == status
    if status == 200:
        with player(path) as client:
            assert client.post("/v1/messages", json=body).status_code == 200


def test_faults_apply_to_replayed_responses(conversation: Path) -> None:
    with player(conversation, faults=["503"]) as client:
        assert client.post("/v1/chat/completions", json=RECORDED).status_code == 503
    with player(conversation, faults=[{"fault": "html"}]) as client:
        assert "<h1>" in client.post("/v1/chat/completions", json=RECORDED).text


def test_a_replayed_stream_follows_the_clock(live: Emulator, path: Path) -> None:
    live.script(["one two three"])
    with recorder(live, path) as client:
        client.post("/v1/chat/completions", json=chat(stream=True))
    clock = ManualClock()
    with (
        Emulator(clock=clock, recording=path) as emulator,
        connect(emulator) as client,
        client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response,
    ):
        clock.until_sleeping(1)
        emulator.advance(60)
        assert "three" in response.read().decode()


@pytest.mark.parametrize("ending", ["cut:2", "error-event:2", "400", "503"])
def test_only_complete_successful_responses_are_recorded(live: Emulator, path: Path, ending: str) -> None:
    live.fault(ending, times=1)
    with recorder(live, path) as client:
        client.post("/v1/chat/completions", json=chat(stream=True))
        assert not path.exists()
        client.post("/v1/chat/completions", json=chat(stream=True))
    assert len(path.read_text().splitlines()) == 3


def test_mode_once_records_without_a_file_and_replays_with_one(live: Emulator, path: Path) -> None:
    for _ in range(2):
        with recorder(live, path, mode="once") as client:
            client.post("/v1/chat/completions", json=chat())
    assert len(live.requests) == 1
    with recorder(live, path, mode="record") as client:
        client.post("/v1/chat/completions", json=chat("Hello again"))
    assert len(path.read_text().splitlines()) == 3


UNUSABLE = {
    "nothing to replay": (None, {"mode": "replay"}, "does not exist yet"),
    "nothing to record": (None, {"mode": "record"}, "upstream"),
    "no mode": (None, {"mode": "live"}, "replay, record or once"),
    "an empty file": ("", {}, "no line with recording"),
    "no header": ('{"request": "POST /v1/messages"}\n', {}, "needs recording"),
    "not a recording": ('{"a": 1}\n', {}, "line 1"),
    "another version": ('{"recording": "piccc", "version": 99, "tasks": false}\n', {}, "version 99"),
    "a truncated line": ('{"recording": "piccc", "version": 1, "tasks": false}\n{"num', {}, "line 2"),
}


@pytest.mark.parametrize(("text", "options", "expected"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_recording_error_gives_the_reason(
    path: Path, text: str | None, options: dict[str, Any], expected: str
) -> None:
    if text is not None:
        path.parent.mkdir()
        path.write_text(text)
    with pytest.raises(ValueError, match=expected):
        Emulator(recording=path, **options)
