"""Recordings: what another server said once, replayed to requests that mean the same."""

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
NEW_EACH_TIME = (
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
    """Run what stands for the live server."""
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
    """Return a reply without what is new in each: one object, or those of a stream's events."""
    assert response.status_code < 300, response.text
    if "event-stream" not in response.headers["content-type"]:
        return [_same(response.json())]
    data = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    return [each if each == "[DONE]" else _same(json.loads(each)) for each in data]


def _same(shown: dict[str, Any]) -> dict[str, Any]:
    if isinstance(shown.get("message"), dict):
        shown["message"] = _same(shown["message"])
    return {name: value for name, value in shown.items() if name not in NEW_EACH_TIME}


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
def test_a_reply_is_replayed_as_it_came_piece_by_piece(
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
SAME = {
    "as it was": RECORDED,
    "other ids": _turns("call_9876543210", "2026-11-26T10:00:00Z"),
    "another time": _turns("call_0123456789", "2027-01-01T23:59:59.5+08:00"),
    "spelled differently": _respelled(_turns("call_0123456789", "2026-11-26T10:00:00Z")),
}
DIFFERENT = {
    "a word": (
        _turns("call_0123456789", "2026-11-26T10:00:00Z", "What is the water?"),
        'messages.1.content: recorded "What is the weather?", sent "What is the water?"',
    ),
    "a setting": ({**RECORDED, "temperature": 0.5}, "temperature: recorded nothing, sent 0.5"),
    "a stream": ({**RECORDED, "stream": True}, "stream: recorded nothing, sent true"),
    "a message less": (
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


@pytest.mark.parametrize("body", SAME.values(), ids=SAME)
def test_a_request_that_means_the_same_is_answered(conversation: Path, body: dict[str, Any]) -> None:
    with player(conversation) as client:
        reply = client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == "It snows."


@pytest.mark.parametrize(("body", "said"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_miss_says_what_differs_from_the_nearest_request(
    conversation: Path, body: dict[str, Any], said: str
) -> None:
    with player(conversation) as client:
        response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "not_recorded"
    assert said in response.json()["error"]["message"]
    assert "agent.jsonl" in response.json()["error"]["message"]
    assert "number 2" in response.json()["error"]["message"]


def test_a_route_that_was_not_recorded_is_named(conversation: Path) -> None:
    with player(conversation) as client:
        said = client.post("/v1/messages", json=message()).json()["error"]["message"]
    assert "no POST /v1/messages, only POST /v1/chat/completions" in said


@pytest.mark.parametrize("options", [{}, {"stream": True}], ids=["whole", "streamed"])
@pytest.mark.parametrize("route", BODIES)
def test_a_key_in_a_reply_is_not_written_even_in_pieces(
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


def test_equal_requests_are_answered_each_in_turn_then_with_the_last_again(
    live: Emulator, path: Path
) -> None:
    live.script(["one", "two"])
    with recorder(live, path) as client:
        for _ in range(2):
            client.post("/v1/chat/completions", json=chat())
    with player(path) as client:
        replies = [client.post("/v1/chat/completions", json=chat()).json() for _ in range(3)]
    assert [reply["choices"][0]["message"]["content"] for reply in replies] == ["one", "two", "two"]


def test_a_file_is_small_has_no_secret_and_shows_what_is_new_in_each_turn(live: Emulator, path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "Weather. " * 20}}]
    told = [{"role": "user", "content": f"My key is {KEY}; the file https://h/x?X-Amz-Signature=abc123&a=1"}]
    picture = f"data:image/png;base64,{'A' * 3_000}"
    live.script([f"turn {turn}, " + "of some pieces " * 20 for turn in range(5)])
    with recorder(live, path, strict=False) as client:
        for _ in range(5):
            body = chat(messages=told, tools=tools, stream=True, user=picture)
            client.post("/v1/chat/completions", json=body)
            told = [*told, {"role": "assistant", "content": "I see."}, {"role": "user", "content": "Go on."}]
    text = path.read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    for secret in (KEY, "abc123", live.api_key, live.base_url, "AAAA"):
        assert secret not in text
    assert "[redacted]" in text
    assert text.count("Weather. Weather.") == 10  # of one description
    assert [line.get("after") for line in lines[3::2]] == [1, 2, 3, 4]
    assert lines[3]["body"]["messages"] == [
        {"content": "I see.", "role": "assistant"},
        {"content": "Go on.", "role": "user"},
    ]
    assert lines[2]["events"].count(" pieces") > 10
    assert len(text) < 8_000
    with player(path, strict=False) as client:
        body = chat(messages=told[:3], tools=tools, stream=True, user=picture)
        assert client.post("/v1/chat/completions", json=body).status_code == 200


OUTCOMES = {"completed": None, "failed": "generation_failed", "moderated": "content_policy_violation"}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_task_ends_as_it_did(live: Emulator, path: Path, outcome: str) -> None:
    if outcome != "completed":
        live.fault(outcome, times=1)
    shown = []
    hook = {"url": "https://example.com/hook?secret=s3cret"}
    with recorder(live, path) as client:
        made = client.post("/v1/images/tasks", json=image(webhook=hook)).json()
        shown.append(client.get(f"/v1/tasks/{made['task_id']}").json())
        listed = client.get("/v1/tasks").json()["data"]
    assert [task["status"] for task in listed] == [shown[0]["status"]]
    with player(path) as client:
        assert client.post("/v1/images/tasks", json=image()).json()["task_id"] == made["task_id"]
        shown.append(client.get(f"/v1/tasks/{made['task_id']}").json())
        missed = client.post("/v1/videos/tasks", json=video())
        if outcome == "completed":
            assert client.get(shown[1]["result"]["outputs"][0]["url"]).content.startswith(b"\x89PNG")
    assert _same(shown[1]) == _same(shown[0])
    assert (shown[1]["error"] or {}).get("code") == OUTCOMES[outcome]
    assert missed.json()["error"]["code"] == "not_recorded"
    assert "s3cret" not in path.read_text()
    assert [request.path for request in live.requests].count("/v1/images/tasks") == 1


def test_a_task_that_a_live_server_makes_ends_with_a_webhook_and_its_own_key(live: Emulator) -> None:
    with (
        Emulator(speed=FAST, upstream=live.base_url, upstream_key=KEY, upstream_api="piccc") as front,
        connect(front) as client,
    ):
        hook = {"url": "https://example.com/hook"}  # not sent, for it is not on loopback
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


def test_tasks_are_the_emulators_own_behind_an_openai_compatible_server(live: Emulator, path: Path) -> None:
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
def test_thinking_may_be_signed_by_the_live_server(path: Path, api: str, status: int) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "of-the-live-server"}
    told = [{"role": "assistant", "content": [thought]}, {"role": "user", "content": "Go on."}]
    body = message(messages=[{"role": "user", "content": "Hello"}, *told])
    with Emulator(speed=FAST, strict=False) as live, recorder(live, path, upstream_api=api) as client:
        assert client.post("/v1/messages", json=body).status_code == status
    if status == 200:
        with player(path) as client:
            assert client.post("/v1/messages", json=body).status_code == 200


def test_faults_can_be_put_on_top(conversation: Path) -> None:
    with player(conversation, faults=["503"]) as client:
        assert client.post("/v1/chat/completions", json=RECORDED).status_code == 503
    with player(conversation, faults=[{"fault": "html"}]) as client:
        assert "<h1>" in client.post("/v1/chat/completions", json=RECORDED).text


def test_a_replayed_stream_keeps_to_the_clock(live: Emulator, path: Path) -> None:
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
def test_only_a_whole_answer_is_recorded(live: Emulator, path: Path, ending: str) -> None:
    live.fault(ending, times=1)
    with recorder(live, path) as client:
        client.post("/v1/chat/completions", json=chat(stream=True))
        assert not path.exists()
        client.post("/v1/chat/completions", json=chat(stream=True))
    assert len(path.read_text().splitlines()) == 3


def test_once_records_where_there_is_no_file_and_replays_where_there_is_one(
    live: Emulator, path: Path
) -> None:
    for _ in range(2):
        with recorder(live, path, mode="once") as client:
            client.post("/v1/chat/completions", json=chat())
    assert len(live.requests) == 1
    with recorder(live, path, mode="record") as client:
        client.post("/v1/chat/completions", json=chat("Hello again"))
    assert len(path.read_text().splitlines()) == 3


WRONG = {
    "nothing to replay": (None, {"mode": "replay"}, "does not exist yet"),
    "nothing to record": (None, {"mode": "record"}, "upstream"),
    "no mode": (None, {"mode": "live"}, "replay, record or once"),
    "an empty file": ("", {}, "no line with recording"),
    "no body": ('{"request": "POST /v1/messages"}\n', {}, "needs recording"),
    "no recording": ('{"a": 1}\n', {}, "line 1"),
    "another version": ('{"recording": "piccc", "version": 99, "tasks": false}\n', {}, "version 99"),
    "a torn line": ('{"recording": "piccc", "version": 1, "tasks": false}\n{"num', {}, "line 2"),
}


@pytest.mark.parametrize(("text", "options", "said"), WRONG.values(), ids=WRONG)
def test_a_recording_that_cannot_be_used_says_why(
    path: Path, text: str | None, options: dict[str, Any], said: str
) -> None:
    if text is not None:
        path.parent.mkdir()
        path.write_text(text)
    with pytest.raises(ValueError, match=said):
        Emulator(recording=path, **options)
