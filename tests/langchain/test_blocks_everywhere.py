"""A reply has the same content blocks however it is requested."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_tests.utils.stream_lifecycle import assert_valid_event_stream

from langchain_piccc import ChatPiccc
from langchain_piccc._replies import to_refusal
from langchain_piccc._requests import to_messages
from tests.langchain.replay import Replay, chunks, completion, fragment, json_response, stream

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta

PICCC_METADATA = {"model_provider": "piccc"}
Block = dict[str, Any]
WORDS = st.text(min_size=1, max_size=4)
ARGUMENTS = st.dictionaries(
    st.text("abcd", min_size=1, max_size=2), st.integers() | st.text(max_size=3), max_size=2
)


def split_text(draw: st.DrawFn, text: str) -> list[str]:
    """Split a text into fragments that are not empty."""
    positions = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=3))})
    return [text[a:b] for a, b in pairwise(positions)]


@st.composite
def openai_replies(draw: st.DrawFn, *, ordered: bool = True) -> tuple[list[Block], Any, list[Any]]:
    """Draw a reply: its blocks, its body, and a stream that interleaves the fragments of its blocks."""
    reasoning, text = draw(st.none() | WORDS), draw(st.none() | WORDS)
    refusal = draw(st.none() | WORDS) if text is None else None
    calls = draw(st.lists(st.tuples(WORDS, ARGUMENTS), max_size=3))
    blocks: list[Block] = []
    lanes: list[list[Any]] = []
    message: dict[str, Any] = {"content": text}
    if reasoning:
        blocks.append({"type": "reasoning", "reasoning": reasoning})
        lanes.append([{"reasoning_content": piece} for piece in split_text(draw, reasoning)])
        message["reasoning_content"] = reasoning
    if text:
        blocks.append({"type": "text", "text": text})
        lanes.append([{"content": piece} for piece in split_text(draw, text)])
    if refusal:
        blocks.append(to_refusal(refusal))
        lanes.append([{"refusal": piece} for piece in split_text(draw, refusal)])
        message["refusal"] = refusal
    for index, (name, arguments) in enumerate(calls):
        arguments_json, id = json.dumps(arguments), f"call_{index}"
        blocks.append({"type": "tool_call", "id": id, "name": name, "args": arguments})
        head = fragment("", index=index, id=id, name=name)
        lanes.append([head, *(fragment(piece, index=index) for piece in split_text(draw, arguments_json))])
        whole_call = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments_json}}
        message.setdefault("tool_calls", []).append(whole_call)
    return blocks, completion(message), chunks(list(interleaved(draw, lanes, ordered=ordered)))


def interleaved(draw: st.DrawFn, lanes: list[list[Any]], *, ordered: bool) -> Iterator[Any]:
    """Interleave lanes; ordered lanes start one after the other."""
    started = 0
    lanes = [list(lane) for lane in lanes]
    while any(lanes):
        open_lanes = [n for n, lane in enumerate(lanes) if lane and (n <= started or not ordered)]
        chosen = draw(st.sampled_from(open_lanes or [n for n, lane in enumerate(lanes) if lane]))
        started = max(started, chosen + 1)
        yield lanes[chosen].pop(0)


@st.composite
def anthropic_replies(draw: st.DrawFn) -> tuple[list[Block], Any, list[Any]]:
    """Draw a reply of any blocks in any order: its blocks, its body, and its stream."""
    kinds = draw(
        st.lists(st.sampled_from(["text", "thinking", "redacted", "tool", "other"]), min_size=1, max_size=6)
    )
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "piccc-pro"}
    usage = {"input_tokens": 3, "output_tokens": 4}
    events: list[Any] = [{"type": "message_start", "message": {**head, "content": [], "usage": usage}}]
    blocks: list[Block] = []
    content: list[Block] = []
    for index, kind in enumerate(kinds):
        block, native, empty, deltas = DRAW_BLOCK[kind](draw, index)
        blocks.append(block)
        content.append(native)
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    events += [
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    return blocks, {**head, "content": content, "stop_reason": "end_turn", "usage": usage}, events


Drawn = tuple[Block, Block, Block, list[Block]]


def draw_text(draw: st.DrawFn, index: int) -> Drawn:
    text = draw(WORDS)
    block = {"type": "text", "text": text}
    return (
        block,
        block,
        {"type": "text", "text": ""},
        [{"type": "text_delta", "text": p} for p in split_text(draw, text)],
    )


def draw_thinking(draw: st.DrawFn, index: int) -> Drawn:
    text = draw(WORDS)
    native = {"type": "thinking", "thinking": text, "signature": f"sig{index}"}
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in split_text(draw, text)]
    deltas.append({"type": "signature_delta", "signature": f"sig{index}"})
    block = {"type": "reasoning", "reasoning": text, "extras": {"signature": f"sig{index}"}}
    return block, native, {"type": "thinking", "thinking": "", "signature": ""}, deltas


def draw_redacted(draw: st.DrawFn, index: int) -> Drawn:
    native = {"type": "redacted_thinking", "data": f"secret{index}"}
    return {"type": "non_standard", "value": native}, native, native, []


def draw_tool_call(draw: st.DrawFn, index: int) -> Drawn:
    name, arguments, id = draw(WORDS), draw(ARGUMENTS), f"toolu_{index}"
    native = {"type": "tool_use", "id": id, "name": name, "input": arguments}
    pieces = split_text(draw, json.dumps(arguments))
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return (
        {"type": "tool_call", "id": id, "name": name, "args": arguments},
        native,
        {**native, "input": {}},
        deltas,
    )


def draw_other(draw: st.DrawFn, index: int) -> Drawn:
    native = {"type": "web_search_tool_result", "tool_use_id": f"srv_{index}", "content": []}
    return {"type": "non_standard", "value": native}, native, native, []


DRAW_BLOCK: dict[str, Callable[[st.DrawFn, int], Drawn]] = {
    "text": draw_text,
    "thinking": draw_thinking,
    "redacted": draw_redacted,
    "tool": draw_tool_call,
    "other": draw_other,
}


def blocks_without_index(message: AIMessage) -> list[Block]:
    """Return a message's blocks without the indices that streaming adds.

    LangChain's event stream drops blocks of the type refusal, so there ours are wrapped as non_standard.
    """
    blocks = [{name: block[name] for name in block if name != "index"} for block in message.content_blocks]
    return [
        to_refusal(block["value"]["refusal"])
        if block["type"] == "non_standard" and block["value"]["type"] == "refusal"
        else block
        for block in blocks
    ]


def sorted_blocks(blocks: list[Block]) -> list[str]:
    return sorted(json.dumps(block, sort_keys=True) for block in blocks)


def sum_chunks(parts: list[Any]) -> AIMessage:
    first, *rest = parts
    return first + rest


def every_method(body: Any, events: list[Any], **settings: Any) -> Iterator[tuple[str, AIMessage]]:
    """Yield the message from every call method, output version and streaming option."""

    def model(reply: httpx.Response, **more: Any) -> ChatPiccc:
        return Replay(reply).model(**settings, **more)

    for version in (None, "v1"):
        yield f"invoke {version}", model(json_response(body), output_version=version).invoke("?")
        yield (
            f"ainvoke {version}",
            asyncio.run(model(json_response(body), output_version=version).ainvoke("?")),
        )
        for options in ({"coalesce": True, "together": True}, {"coalesce": True}, {"coalesce": False}):
            coalesce, together = options["coalesce"], options.get("together", False)
            streaming = model(stream(events, together=together), output_version=version, coalesce=coalesce)
            yield f"stream {version} {options}", sum_chunks(list(streaming.stream("?")))
            yield f"astream {version} {options}", asyncio.run(collect(streaming))
            streamed = model(stream(events), output_version=version, coalesce=coalesce, streaming=True)
            yield f"invoke streaming {version} {options}", streamed.invoke("?")
    yield "events", model(stream(events)).stream_events("?", version="v3").output
    yield "aevents", asyncio.run(collect_events(model(stream(events, together=True))))


async def collect(model: ChatPiccc) -> AIMessage:
    return sum_chunks([chunk async for chunk in model.astream("?")])


async def collect_events(model: ChatPiccc) -> AIMessage:
    return await (await model.astream_events("?", version="v3")).output


@settings(deadline=None, max_examples=50)
@given(reply=openai_replies())
def test_openai_blocks_and_history_match_across_all_methods(
    reply: tuple[list[Block], Any, list[Any]],
) -> None:
    blocks, body, events = reply
    for method, message in every_method(body, events):
        assert blocks_without_index(message) == blocks, method
        assert to_messages([message]) == to_messages(
            [AIMessage(content_blocks=blocks, response_metadata=PICCC_METADATA)]
        ), method


@settings(deadline=None, max_examples=50)
@given(reply=anthropic_replies())
def test_anthropic_blocks_and_history_match_across_all_methods(
    reply: tuple[list[Block], Any, list[Any]],
) -> None:
    blocks, body, events = reply
    for method, message in every_method(body, events, dialect="anthropic"):
        assert blocks_without_index(message) == blocks, method
        assert to_messages([message]) == to_messages(
            [AIMessage(content_blocks=blocks, response_metadata=PICCC_METADATA)]
        ), method


@settings(deadline=None, max_examples=30)
@given(reply=openai_replies(ordered=False))
def test_blocks_that_start_in_any_order_are_all_kept(reply: tuple[list[Block], Any, list[Any]]) -> None:
    blocks, body, events = reply
    for method, message in every_method(body, events):
        assert sorted_blocks(blocks_without_index(message)) == sorted_blocks(blocks), method


@settings(deadline=None, max_examples=50)
@given(reply=openai_replies(ordered=False) | anthropic_replies(), coalesce=st.booleans())
def test_events_follow_the_protocols_order(
    reply: tuple[list[Block], Any, list[Any]], *, coalesce: bool
) -> None:
    _, _, events = reply
    dialect = "anthropic" if events[-1] != "[DONE]" else "openai"
    model = Replay(stream(events)).model(dialect=dialect, coalesce=coalesce)
    assert_valid_event_stream(list(model.stream_events("?", version="v3")))
