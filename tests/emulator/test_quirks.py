"""Wire-format variants that a client must be able to read."""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator, Scripted
from piccc.emulator.quirks import NAMES, PROFILES, Quirks
from tests.emulator.test_chat import OPENAI_TOOL
from tests.emulator.wire import chat, connect, image


def task_with(*quirks: str, fault: str | None = None) -> dict[str, Any]:
    """Submit an image to an emulator with these quirks, and read its task."""
    with Emulator(quirks=quirks, speed=math.inf) as emulator, connect(emulator) as client:
        headers = {"x-piccc-fault": fault} if fault else {}
        submitted = client.post("/v1/images/tasks", json=image(), headers=headers).json()
        data = submitted.get("data", submitted)
        return dict(client.get(f"/v1/tasks/{data.get('task_id') or data['id']}").json())


def test_every_serialization_quirk_changes_the_output() -> None:
    plain = Quirks()
    for name in NAMES - {"other-host", "page-numbers", "no-done"}:
        assert_changed(plain, Quirks(name))


def assert_changed(plain: Quirks, quirky: Quirks) -> None:
    """Assert that a quirk changes the output of at least one case."""
    assert any(serialized(quirky, *case) != serialized(plain, *case) for case in CASES), quirky.names


def serialized(quirks: Quirks, status: str, error: Any) -> str:
    """Return a list with one task, and a stream, serialized under quirks."""
    task: dict[str, Any] = {
        "task_id": "task_1",
        "type": "image",
        "status": status,
        "polling_url": "http://h/v1/tasks/task_1",
        "created_at": 1,
        "result": {"outputs": [{"url": "http://h/x.png"}]} if status == "completed" else None,
        "error": error,
    }
    call = {"index": 1, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    more = {"index": 1, "function": {"arguments": " "}}
    deltas: list[dict[str, Any]] = [{"role": "assistant"}, {"content": "🎉"}]
    deltas += [{"tool_calls": [call]}, {"tool_calls": [more]}]
    chunks: list[tuple[dict[str, Any], int]] = [
        ({"choices": [{"delta": delta, "finish_reason": None}]}, 1) for delta in deltas
    ]
    chunks.append(({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}, 0))
    body: dict[str, Any] = {"data": [quirks.task(task)]}
    shown = quirks.reply(quirks.list(body))
    return json.dumps([shown, [json.dumps(chunk) for chunk, _ in quirks.chunks(chunks)]])


CASES = [
    ("queued", None),
    ("processing", None),
    ("completed", None),
    ("failed", {"message": "m", "code": "c", "type": "t"}),
]


@pytest.mark.parametrize(
    ("quirk", "read_url"),
    [
        ("results", lambda task: task["results"][0]),
        ("plural", lambda task: task["images"][0]["url"]),
        ("url", lambda task: task["url"]),
        ("unsigned-urls", lambda task: task["unsigned_urls"][0]),
        ("task-result", lambda task: task["task_result"]["images"][0]["url"]),
        ("content", lambda task: task["content"]["image_url"]),
        ("result-json", lambda task: json.loads(task["resultJson"])["resultUrls"][0]),
    ],
)
def test_output_urls_can_be_in_other_fields(quirk: str, read_url: Any) -> None:
    task = task_with(quirk)
    assert "result" not in task
    assert read_url(task).startswith("http://127.0.0.1:")


def test_fields_statuses_and_times_can_have_other_formats() -> None:
    task = task_with("id", "relative-urls", "poll-url", "milliseconds", "words-success")
    assert task["poll_url"] == f"/v1/tasks/{task['id']}"
    assert task["status"] == "success"
    assert task["created_at"] > 1e12
    assert datetime.fromisoformat(task_with("iso-times")["created_at"]).tzinfo is not None
    assert task_with("error-text", fault="failed")["error"] == "The generation failed."


def test_outputs_can_be_on_another_host() -> None:
    with Emulator(quirks="other-host", speed=math.inf) as emulator, connect(emulator) as client:
        task_id = client.post("/v1/images/tasks", json=image()).json()["task_id"]
        url = client.get(f"/v1/tasks/{task_id}").json()["result"]["outputs"][0]["url"]
        assert url.startswith("http://localhost:")
        assert httpx.get(url, trust_env=False).status_code == 200


def test_pages_can_be_numbered() -> None:
    with Emulator(quirks=["page-numbers", "items"]) as emulator, connect(emulator) as client:
        ids = [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(5)][::-1]
        pages = [
            client.get("/v1/tasks", params={"page": number, "page_size": 2}).json() for number in (1, 2, 3, 4)
        ]
    assert [[task["task_id"] for task in page["items"]] for page in pages] == [
        ids[:2],
        ids[2:4],
        ids[4:],
        [],
    ]
    assert {page["total"] for page in pages} == {5}
    assert "next_cursor" not in pages[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_changes_the_whole_task_format(profile: str) -> None:
    body = task_with(profile)
    task = body.get("data", body)
    assert task.get("status") in {"completed", "success", "succeed", "succeeded"}
    assert "http://127.0.0.1:" in json.dumps(task)
    assert "result" not in task


def deltas(*quirks: str) -> list[dict[str, Any]]:
    """Stream a reply with an emoji and two calls; assert how it ends; return its deltas."""
    reply = Scripted("Look 🎉!", calls=[("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})])
    with Emulator(quirks=quirks, speed=math.inf) as emulator, connect(emulator) as client:
        emulator.script([reply])
        text = client.post("/v1/chat/completions", json=chat(stream=True, tools=[OPENAI_TOOL])).text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert (lines[-1] == "[DONE]") == ("no-done" not in quirks)
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    return [chunk["choices"][0]["delta"] for chunk in chunks]


def calls(streamed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tool call parts of the deltas."""
    return [part for delta in streamed for part in delta.get("tool_calls", ())]


def test_streamed_calls_can_have_unusual_indexes_and_ids() -> None:
    assert [part["index"] for part in calls(deltas()) if "id" in part] == [0, 1]
    assert not any("index" in part for part in calls(deltas("no-index")))
    assert {part["index"] for part in calls(deltas("text-index"))} == {"0", "1"}
    assert {part["index"] for part in calls(deltas("zero-index"))} == {0}
    assert not any("id" in part for part in calls(deltas("no-call-ids")))


def test_all_calls_can_arrive_in_one_chunk() -> None:
    with_calls = [delta for delta in deltas("calls-at-once") if delta.get("tool_calls")]
    assert len(with_calls) == 1
    arguments = [json.loads(call["function"]["arguments"]) for call in with_calls[0]["tool_calls"]]
    assert arguments == [{"city": "Rome"}, {"city": "Oslo"}]


def test_an_emoji_can_be_split_between_its_surrogates() -> None:
    texts = [delta["content"] for delta in deltas("split-emoji") if delta.get("content")]
    assert "🎉" not in "".join(f"{text}|" for text in texts)
    joined = "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16")
    assert joined == "Look 🎉!"


def test_deltas_can_be_null_or_empty_and_the_done_marker_missing() -> None:
    assert all("content" in delta for delta in deltas("null-content"))
    assert deltas("empty-first")[:3] == [{"role": "assistant", "content": ""}] * 3
    deltas("no-done")


def test_an_unknown_quirk_error_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown quirk backwards; use one of .*words-pending"):
        Emulator(quirks="backwards")
