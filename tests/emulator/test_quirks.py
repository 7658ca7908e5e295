"""The variants of the wire that a client must read."""

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
    """Order an image from an emulator with these quirks, and read its task."""
    with Emulator(quirks=quirks, speed=math.inf) as emulator, connect(emulator) as client:
        headers = {"x-piccc-fault": fault} if fault else {}
        submitted = client.post("/v1/images/tasks", json=image(), headers=headers).json()
        known = submitted.get("data", submitted)
        return dict(client.get(f"/v1/tasks/{known.get('task_id') or known['id']}").json())


def test_every_quirk_changes_what_is_said() -> None:
    plain = Quirks()
    for name in NAMES - {"other-host", "page-numbers", "no-done"}:
        assert_changed(plain, Quirks(name))


def assert_changed(plain: Quirks, quirky: Quirks) -> None:
    """Hold that something which the emulator says differs under a quirk."""
    assert any(said(quirky, *case) != said(plain, *case) for case in CASES), quirky.names


def said(quirks: Quirks, status: str, error: Any) -> str:
    """Return a task, a list and a stream as they are said under quirks."""
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
    ("quirk", "where"),
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
def test_the_output_lies_elsewhere(quirk: str, where: Any) -> None:
    task = task_with(quirk)
    assert "result" not in task
    assert where(task).startswith("http://127.0.0.1:")


def test_names_and_times_are_written_otherwise() -> None:
    task = task_with("id", "relative-urls", "poll-url", "milliseconds", "words-success")
    assert task["poll_url"] == f"/v1/tasks/{task['id']}"
    assert task["status"] == "success"
    assert task["created_at"] > 1e12
    assert datetime.fromisoformat(task_with("iso-times")["created_at"]).tzinfo is not None
    assert task_with("error-text", fault="failed")["error"] == "The generation failed."


def test_outputs_can_lie_on_another_host() -> None:
    with Emulator(quirks="other-host", speed=math.inf) as emulator, connect(emulator) as client:
        task_id = client.post("/v1/images/tasks", json=image()).json()["task_id"]
        url = client.get(f"/v1/tasks/{task_id}").json()["result"]["outputs"][0]["url"]
        assert url.startswith("http://localhost:")
        assert httpx.get(url, trust_env=False).status_code == 200


def test_pages_can_have_numbers() -> None:
    with Emulator(quirks=["page-numbers", "items"]) as emulator, connect(emulator) as client:
        made = [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(5)][::-1]
        pages = [
            client.get("/v1/tasks", params={"page": number, "page_size": 2}).json() for number in (1, 2, 3, 4)
        ]
    assert [[task["task_id"] for task in page["items"]] for page in pages] == [
        made[:2],
        made[2:4],
        made[4:],
        [],
    ]
    assert {page["total"] for page in pages} == {5}
    assert "next_cursor" not in pages[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_says_all_of_a_task_in_its_way(profile: str) -> None:
    shown = task_with(profile)
    task = shown.get("data", shown)
    assert task.get("status") in {"completed", "success", "succeed", "succeeded"}
    assert "http://127.0.0.1:" in json.dumps(task)
    assert "result" not in task


def deltas(*quirks: str) -> list[dict[str, Any]]:
    """Stream a reply with an emoji and two calls; return its deltas."""
    reply = Scripted("Look 🎉!", calls=[("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo"})])
    with Emulator(quirks=quirks, speed=math.inf) as emulator, connect(emulator) as client:
        emulator.script([reply])
        text = client.post("/v1/chat/completions", json=chat(stream=True, tools=[OPENAI_TOOL])).text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert (lines[-1] == "[DONE]") == ("no-done" not in quirks)
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    return [chunk["choices"][0]["delta"] for chunk in chunks]


def calls(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of calls among deltas."""
    return [part for delta in found for part in delta.get("tool_calls", ())]


def test_calls_are_streamed_in_odd_ways() -> None:
    assert [part["index"] for part in calls(deltas()) if "id" in part] == [0, 1]
    assert not any("index" in part for part in calls(deltas("no-index")))
    assert {part["index"] for part in calls(deltas("text-index"))} == {"0", "1"}
    assert {part["index"] for part in calls(deltas("zero-index"))} == {0}
    assert not any("id" in part for part in calls(deltas("no-call-ids")))


def test_all_calls_can_come_whole_in_one_chunk() -> None:
    found = [delta for delta in deltas("calls-at-once") if delta.get("tool_calls")]
    assert len(found) == 1
    given = [json.loads(call["function"]["arguments"]) for call in found[0]["tool_calls"]]
    assert given == [{"city": "Rome"}, {"city": "Oslo"}]


def test_an_emoji_can_be_cut_between_its_halves() -> None:
    texts = [delta["content"] for delta in deltas("split-emoji") if delta.get("content")]
    assert "🎉" not in "".join(f"{text}|" for text in texts)
    joined = "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16")
    assert joined == "Look 🎉!"


def test_null_and_empty_deltas_come_where_a_text_is_due() -> None:
    assert all("content" in delta for delta in deltas("null-content"))
    assert deltas("empty-first")[:3] == [{"role": "assistant", "content": ""}] * 3
    deltas("no-done")


def test_an_unknown_quirk_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown quirk backwards; use one of .*words-pending"):
        Emulator(quirks="backwards")
