"""Scripted replies say what a bad model says, on both routes, whole and streamed."""

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
class Said:
    """What a reply held: text, calls as (id, name, raw arguments), why it ended, a refusal, its usage."""

    text: str
    calls: list[Call]
    stop: str
    refusal: Any
    usage: dict[str, Any]
    blocks: list[dict[str, Any]]


def events(client: httpx.Client, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    with client.stream("POST", path, json={**body, "stream": True}) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


def chat_whole(client: httpx.Client) -> Said:
    reply = client.post("/v1/chat/completions", json=chat()).json()
    [choice] = reply["choices"]
    said = choice["message"]
    content = said["content"] if isinstance(said["content"], list) else []
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in said.get("tool_calls", ())
    ]
    return Said(
        "".join(part["text"] for part in content if part["type"] == "text") or said["content"] or "",
        calls,
        choice["finish_reason"],
        said["refusal"],
        reply["usage"],
        [part for part in content if part["type"] != "text"],
    )


def chat_streamed(client: httpx.Client) -> Said:
    said = Said("", [], "", None, {}, [])
    calls: dict[int, list[str]] = {}
    for event in events(client, "/v1/chat/completions", chat(stream_options={"include_usage": True})):
        said.usage = event["usage"] or said.usage
        for choice in event["choices"]:
            delta = choice["delta"]
            if isinstance(delta.get("content"), list):
                said.blocks += delta["content"]
            else:
                said.text += delta.get("content") or ""
            if "refusal" in delta:
                said.refusal = (said.refusal or "") + delta["refusal"]
            said.stop = choice["finish_reason"] or said.stop
            for call in delta.get("tool_calls", ()):
                known = calls.setdefault(call["index"], [call.get("id"), call["function"].get("name"), ""])
                known[2] += call["function"]["arguments"]
    said.calls = [(call_id, name, given) for call_id, name, given in calls.values()]
    return said


def of_blocks(
    blocks: list[dict[str, Any]], given: list[str], ended: dict[str, Any], usage: dict[str, Any]
) -> Said:
    made = [block for block in blocks if block["type"] == "tool_use"]
    return Said(
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        [(block["id"], block["name"], text) for block, text in zip(made, given, strict=True)],
        ended["stop_reason"],
        ended.get("stop_details"),
        usage,
        [block for block in blocks if block["type"] not in ("text", "tool_use")],
    )


def messages_whole(client: httpx.Client) -> Said:
    reply = client.post("/v1/messages", json=message()).json()
    given = [json.dumps(block["input"]) for block in reply["content"] if block["type"] == "tool_use"]
    return of_blocks(reply["content"], given, reply, reply["usage"])


def messages_streamed(client: httpx.Client) -> Said:
    blocks: list[dict[str, Any]] = []
    texts: list[str] = []
    ended: dict[str, Any] = {}
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
            ended = event
    for block, text in zip(blocks, texts, strict=True):
        if block["type"] == "server_tool_use":
            block["input"] = json.loads(text)
    given = [text for block, text in zip(blocks, texts, strict=True) if block["type"] == "tool_use"]
    return of_blocks(blocks, given, ended["delta"], ended["usage"])


WAYS = {
    "chat whole": chat_whole,
    "chat streamed": chat_streamed,
    "messages whole": messages_whole,
    "messages streamed": messages_streamed,
}


def say(scripted: Scripted, way: str) -> Said:
    with Emulator(speed=math.inf) as emulator, connect(emulator) as client:
        emulator.script([scripted])
        return WAYS[way](client)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ('{"path": "/home/an', "{}"),
        ("", "{}"),
        ("not JSON", "{}"),
        ('["a"]', '["a"]'),
        ("null", "null"),
        ('{"path": "/tmp"}', '{"path": "/tmp"}'),
    ],
)
def test_arguments_are_sent_as_the_text_that_was_scripted(way: str, given: str, whole: str) -> None:
    """A whole message holds parsed arguments, so that text which is no JSON becomes an empty object there."""
    said = say(Scripted(calls=[("delete", given)]), way)
    assert [text for _, _, text in said.calls] == [whole if way == "messages whole" else given]


@pytest.mark.parametrize("way", WAYS)
def test_a_call_can_be_cut_for_the_length_of_the_reply(way: str) -> None:
    said = say(Scripted(calls=[("delete", '{"path": "/home/an')], finish_reason="length"), way)
    assert said.stop == ("length" if way.startswith("chat") else "max_tokens")


@pytest.mark.parametrize("way", WAYS)
def test_a_call_can_lack_a_name_and_have_any_id(way: str) -> None:
    said = say(Scripted(calls=[("", {}, "same"), ("b", {"x": 1}, "same"), ("c", {}, "")]), way)
    assert [(call_id, name) for call_id, name, _ in said.calls] == [("same", ""), ("same", "b"), ("", "c")]
    assert [json.loads(text) for _, _, text in said.calls] == [{}, {"x": 1}, {}]


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_has_its_words(way: str) -> None:
    said = say(Scripted(refusal="I will not."), way)
    if way.startswith("chat"):
        assert (said.stop, said.text, said.refusal) == ("stop", "", "I will not.")
    else:
        details = {"type": "refusal", "category": None, "explanation": "I will not."}
        assert (said.stop, said.text, said.refusal) == ("refusal", "I will not.", details)


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_can_come_without_words(way: str) -> None:
    said = say(Scripted(refusal=""), way)
    stop = "content_filter" if way.startswith("chat") else "refusal"
    assert (said.stop, said.text, said.refusal) == (stop, "", None)


@pytest.mark.parametrize("way", WAYS)
def test_usage_can_be_of_ones_choice(way: str) -> None:
    usage = {"prompt_tokens": 0, "input_tokens": 0, "output_tokens": None, "service_tier": "flex"}
    said = say(Scripted("Hi.", usage=usage), way)
    assert said.usage.items() >= usage.items()


@pytest.mark.parametrize("way", WAYS)
def test_blocks_are_sent_as_they_are(way: str) -> None:
    blocks = [
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "mugs"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
    ]
    said = say(Scripted("Hi.", blocks=blocks), way)
    assert (said.text, said.blocks) == ("Hi.", blocks)
