"""Scripted replies reproduce a faulty model's output on both routes, complete and streamed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator, Scripted
from tests.emulator.wire import chat, connect, message

Call = tuple[str, str, str]


@dataclass
class Reply:
    """A reply's content: text, calls as (id, name, raw arguments), stop reason, refusal, usage and blocks."""

    text: str
    calls: list[Call]
    stop: str
    refusal: Any
    usage: dict[str, Any]
    blocks: list[dict[str, Any]]


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


def chat_whole(client: httpx.Client) -> Reply:
    response = client.post("/v1/chat/completions", json=chat()).json()
    [choice] = response["choices"]
    assistant = choice["message"]
    content = assistant["content"] if isinstance(assistant["content"], list) else []
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in assistant.get("tool_calls", ())
    ]
    return Reply(
        "".join(part["text"] for part in content if part["type"] == "text") or assistant["content"] or "",
        calls,
        choice["finish_reason"],
        assistant["refusal"],
        response["usage"],
        [part for part in content if part["type"] != "text"],
    )


def chat_streamed(client: httpx.Client) -> Reply:
    reply = Reply("", [], "", None, {}, [])
    calls: dict[int, list[str]] = {}
    for event in events(client, "/v1/chat/completions", chat(stream_options={"include_usage": True})):
        reply.usage = event["usage"] or reply.usage
        for choice in event["choices"]:
            delta = choice["delta"]
            if isinstance(delta.get("content"), list):
                reply.blocks += delta["content"]
            else:
                reply.text += delta.get("content") or ""
            if "refusal" in delta:
                reply.refusal = (reply.refusal or "") + delta["refusal"]
            reply.stop = choice["finish_reason"] or reply.stop
            for call in delta.get("tool_calls", ()):
                parts = calls.setdefault(call["index"], [call.get("id"), call["function"].get("name"), ""])
                parts[2] += call["function"]["arguments"]
    reply.calls = [(call_id, name, arguments) for call_id, name, arguments in calls.values()]
    return reply


def reply_from_blocks(
    blocks: list[dict[str, Any]], arguments: list[str], end: dict[str, Any], usage: dict[str, Any]
) -> Reply:
    tool_uses = [block for block in blocks if block["type"] == "tool_use"]
    return Reply(
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        [(block["id"], block["name"], text) for block, text in zip(tool_uses, arguments, strict=True)],
        end["stop_reason"],
        end.get("stop_details"),
        usage,
        [block for block in blocks if block["type"] not in ("text", "tool_use")],
    )


def messages_whole(client: httpx.Client) -> Reply:
    response = client.post("/v1/messages", json=message()).json()
    arguments = [json.dumps(block["input"]) for block in response["content"] if block["type"] == "tool_use"]
    return reply_from_blocks(response["content"], arguments, response, response["usage"])


def messages_streamed(client: httpx.Client) -> Reply:
    blocks: list[dict[str, Any]] = []
    texts: list[str] = []
    end: dict[str, Any] = {}
    for event in events(client, "/v1/messages", message()):
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            texts.append("")
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "text_delta":
                blocks[-1]["text"] += delta["text"]
            else:
                texts[-1] += delta["partial_json"]
        elif event["type"] == "message_delta":
            end = event
    for block, text in zip(blocks, texts, strict=True):
        if block["type"] == "server_tool_use":
            block["input"] = json.loads(text)
    arguments = [text for block, text in zip(blocks, texts, strict=True) if block["type"] == "tool_use"]
    return reply_from_blocks(blocks, arguments, end["delta"], end["usage"])


READERS = {
    "chat whole": chat_whole,
    "chat streamed": chat_streamed,
    "messages whole": messages_whole,
    "messages streamed": messages_streamed,
}


def receive(scripted: Scripted, mode: str) -> Reply:
    with Emulator(speed=math.inf) as emulator, connect(emulator) as client:
        emulator.script([scripted])
        return READERS[mode](client)


@pytest.mark.parametrize("mode", READERS)
@pytest.mark.parametrize(
    ("scripted", "parsed"),
    [
        ('{"path": "/home/an', "{}"),
        ("", "{}"),
        ("not JSON", "{}"),
        ('["a"]', '["a"]'),
        ("null", "null"),
        ('{"path": "/tmp"}', '{"path": "/tmp"}'),
    ],
)
def test_arguments_are_sent_exactly_as_scripted(mode: str, scripted: str, parsed: str) -> None:
    """A complete message holds parsed arguments, so invalid JSON becomes an empty object there."""
    reply = receive(Scripted(calls=[("delete", scripted)]), mode)
    assert [text for _, _, text in reply.calls] == [parsed if mode == "messages whole" else scripted]


@pytest.mark.parametrize("mode", READERS)
def test_a_call_can_be_truncated_with_finish_reason_length(mode: str) -> None:
    reply = receive(Scripted(calls=[("delete", '{"path": "/home/an')], finish_reason="length"), mode)
    assert reply.stop == ("length" if mode.startswith("chat") else "max_tokens")


@pytest.mark.parametrize("mode", READERS)
def test_a_call_can_have_no_name_and_any_id(mode: str) -> None:
    reply = receive(Scripted(calls=[("", {}, "same"), ("b", {"x": 1}, "same"), ("c", {}, "")]), mode)
    assert [(call_id, name) for call_id, name, _ in reply.calls] == [("same", ""), ("same", "b"), ("", "c")]
    assert [json.loads(text) for _, _, text in reply.calls] == [{}, {"x": 1}, {}]


@pytest.mark.parametrize("mode", READERS)
def test_a_refusal_contains_its_text(mode: str) -> None:
    reply = receive(Scripted(refusal="I will not."), mode)
    if mode.startswith("chat"):
        assert (reply.stop, reply.text, reply.refusal) == ("stop", "", "I will not.")
    else:
        details = {"type": "refusal", "category": None, "explanation": "I will not."}
        assert (reply.stop, reply.text, reply.refusal) == ("refusal", "", details)


@pytest.mark.parametrize("mode", READERS)
def test_a_refusal_can_be_empty(mode: str) -> None:
    reply = receive(Scripted(refusal=""), mode)
    stop = "content_filter" if mode.startswith("chat") else "refusal"
    assert (reply.stop, reply.text, reply.refusal) == (stop, "", None)


@pytest.mark.parametrize("mode", READERS)
def test_usage_can_be_overridden(mode: str) -> None:
    usage = {"prompt_tokens": 0, "input_tokens": 0, "output_tokens": None, "service_tier": "flex"}
    reply = receive(Scripted("Hi.", usage=usage), mode)
    assert reply.usage.items() >= usage.items()


@pytest.mark.parametrize("mode", READERS)
def test_blocks_are_sent_unchanged(mode: str) -> None:
    blocks = [
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "mugs"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
    ]
    reply = receive(Scripted("Hi.", blocks=blocks), mode)
    assert (reply.text, reply.blocks) == ("Hi.", blocks)
