"""Whatever way a reply is asked for, it has the same content blocks."""

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
from tests.langchain.replay import Replay, chunks, completion, fragment, stream, whole

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta

OURS = {"model_provider": "piccc"}
Block = dict[str, Any]
WORDS = st.text(min_size=1, max_size=4)
ARGUMENTS = st.dictionaries(
    st.text("abcd", min_size=1, max_size=2), st.integers() | st.text(max_size=3), max_size=2
)


def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text into fragments that are not empty."""
    places = sorted({0, len(text), *draw(st.lists(st.integers(0, len(text)), max_size=3))})
    return [text[a:b] for a, b in pairwise(places)]


@st.composite
def openai_replies(draw: st.DrawFn, *, ordered: bool = True) -> tuple[list[Block], Any, list[Any]]:
    """Draw a reply: its blocks, its whole body, and its stream with the fragments of all blocks mixed."""
    reasoning, text = draw(st.none() | WORDS), draw(st.none() | WORDS)
    refusal = draw(st.none() | WORDS) if text is None else None
    calls = draw(st.lists(st.tuples(WORDS, ARGUMENTS), max_size=3))
    blocks: list[Block] = []
    lanes: list[list[Any]] = []
    message: dict[str, Any] = {"content": text}
    if reasoning:
        blocks.append({"type": "reasoning", "reasoning": reasoning})
        lanes.append([{"reasoning_content": piece} for piece in cut(draw, reasoning)])
        message["reasoning_content"] = reasoning
    if text:
        blocks.append({"type": "text", "text": text})
        lanes.append([{"content": piece} for piece in cut(draw, text)])
    if refusal:
        blocks.append(to_refusal(refusal))
        lanes.append([{"refusal": piece} for piece in cut(draw, refusal)])
        message["refusal"] = refusal
    for index, (name, arguments) in enumerate(calls):
        written, id = json.dumps(arguments), f"call_{index}"
        blocks.append({"type": "tool_call", "id": id, "name": name, "args": arguments})
        head = fragment("", index=index, id=id, name=name)
        lanes.append([head, *(fragment(piece, index=index) for piece in cut(draw, written))])
        whole_call = {"id": id, "type": "function", "function": {"name": name, "arguments": written}}
        message.setdefault("tool_calls", []).append(whole_call)
    return blocks, completion(message), chunks(list(interleaved(draw, lanes, ordered=ordered)))


def interleaved(draw: st.DrawFn, lanes: list[list[Any]], *, ordered: bool) -> Iterator[Any]:
    """Mix lanes; ordered lanes begin one after the other."""
    begun = 0
    lanes = [list(lane) for lane in lanes]
    while any(lanes):
        open_lanes = [n for n, lane in enumerate(lanes) if lane and (n <= begun or not ordered)]
        chosen = draw(st.sampled_from(open_lanes or [n for n, lane in enumerate(lanes) if lane]))
        begun = max(begun, chosen + 1)
        yield lanes[chosen].pop(0)


@st.composite
def anthropic_replies(draw: st.DrawFn) -> tuple[list[Block], Any, list[Any]]:
    """Draw a reply of any blocks in any order: the blocks, its whole body, and its stream."""
    kinds = draw(
        st.lists(st.sampled_from(["text", "thinking", "redacted", "tool", "other"]), min_size=1, max_size=6)
    )
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "piccc-pro"}
    usage = {"input_tokens": 3, "output_tokens": 4}
    events: list[Any] = [{"type": "message_start", "message": {**head, "content": [], "usage": usage}}]
    blocks: list[Block] = []
    content: list[Block] = []
    for index, kind in enumerate(kinds):
        block, native, empty, deltas = DRAWN[kind](draw, index)
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


def a_text(draw: st.DrawFn, index: int) -> Drawn:
    text = draw(WORDS)
    block = {"type": "text", "text": text}
    return (
        block,
        block,
        {"type": "text", "text": ""},
        [{"type": "text_delta", "text": p} for p in cut(draw, text)],
    )


def a_thought(draw: st.DrawFn, index: int) -> Drawn:
    text = draw(WORDS)
    native = {"type": "thinking", "thinking": text, "signature": f"sig{index}"}
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in cut(draw, text)]
    deltas.append({"type": "signature_delta", "signature": f"sig{index}"})
    block = {"type": "reasoning", "reasoning": text, "extras": {"signature": f"sig{index}"}}
    return block, native, {"type": "thinking", "thinking": "", "signature": ""}, deltas


def a_redacted(draw: st.DrawFn, index: int) -> Drawn:
    native = {"type": "redacted_thinking", "data": f"secret{index}"}
    return {"type": "non_standard", "value": native}, native, native, []


def a_call(draw: st.DrawFn, index: int) -> Drawn:
    name, arguments, id = draw(WORDS), draw(ARGUMENTS), f"toolu_{index}"
    native = {"type": "tool_use", "id": id, "name": name, "input": arguments}
    pieces = cut(draw, json.dumps(arguments))
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return (
        {"type": "tool_call", "id": id, "name": name, "args": arguments},
        native,
        {**native, "input": {}},
        deltas,
    )


def another(draw: st.DrawFn, index: int) -> Drawn:
    native = {"type": "web_search_tool_result", "tool_use_id": f"srv_{index}", "content": []}
    return {"type": "non_standard", "value": native}, native, native, []


DRAWN: dict[str, Callable[[st.DrawFn, int], Drawn]] = {
    "text": a_text,
    "thinking": a_thought,
    "redacted": a_redacted,
    "tool": a_call,
    "other": another,
}


def bare(message: AIMessage) -> list[Block]:
    """Return a message's blocks without the indices that streaming needs.

    LangChain's own stream of events drops a block of the type refusal, so there it comes in a wrapping.
    """
    blocks = [{name: block[name] for name in block if name != "index"} for block in message.content_blocks]
    return [
        to_refusal(block["value"]["refusal"])
        if block["type"] == "non_standard" and block["value"]["type"] == "refusal"
        else block
        for block in blocks
    ]


def in_any_order(blocks: list[Block]) -> list[str]:
    return sorted(json.dumps(block, sort_keys=True) for block in blocks)


def summed(parts: list[Any]) -> AIMessage:
    first, *rest = parts
    return first + rest


def ways(body: Any, events: list[Any], **given: Any) -> Iterator[tuple[str, AIMessage]]:
    """Yield the reply in every way in which it can be asked for."""

    def model(reply: httpx.Response, **more: Any) -> ChatPiccc:
        return Replay(reply).model(**given, **more)

    for version in (None, "v1"):
        yield f"invoke {version}", model(whole(body), output_version=version).invoke("?")
        yield f"ainvoke {version}", asyncio.run(model(whole(body), output_version=version).ainvoke("?"))
        for options in ({"coalesce": True, "together": True}, {"coalesce": True}, {"coalesce": False}):
            coalesce, together = options["coalesce"], options.get("together", False)
            streaming = model(stream(events, together=together), output_version=version, coalesce=coalesce)
            yield f"stream {version} {options}", summed(list(streaming.stream("?")))
            yield f"astream {version} {options}", asyncio.run(collect(streaming))
            streamed = model(stream(events), output_version=version, coalesce=coalesce, streaming=True)
            yield f"invoke streaming {version} {options}", streamed.invoke("?")
    yield "events", model(stream(events)).stream_events("?", version="v3").output
    yield "aevents", asyncio.run(of_events(model(stream(events, together=True))))


async def collect(model: ChatPiccc) -> AIMessage:
    return summed([chunk async for chunk in model.astream("?")])


async def of_events(model: ChatPiccc) -> AIMessage:
    return await (await model.astream_events("?", version="v3")).output


@settings(deadline=None, max_examples=50)
@given(reply=openai_replies())
def test_openai_blocks_and_history_are_the_same_in_every_way(
    reply: tuple[list[Block], Any, list[Any]],
) -> None:
    blocks, body, events = reply
    for way, message in ways(body, events):
        assert bare(message) == blocks, way
        assert to_messages([message]) == to_messages(
            [AIMessage(content_blocks=blocks, response_metadata=OURS)]
        ), way


@settings(deadline=None, max_examples=50)
@given(reply=anthropic_replies())
def test_anthropic_blocks_and_history_are_the_same_in_every_way(
    reply: tuple[list[Block], Any, list[Any]],
) -> None:
    blocks, body, events = reply
    for way, message in ways(body, events, dialect="anthropic"):
        assert bare(message) == blocks, way
        assert to_messages([message]) == to_messages(
            [AIMessage(content_blocks=blocks, response_metadata=OURS)]
        ), way


@settings(deadline=None, max_examples=30)
@given(reply=openai_replies(ordered=False))
def test_blocks_that_begin_in_any_order_are_all_there(reply: tuple[list[Block], Any, list[Any]]) -> None:
    blocks, body, events = reply
    for way, message in ways(body, events):
        assert in_any_order(bare(message)) == in_any_order(blocks), way


@settings(deadline=None, max_examples=50)
@given(reply=openai_replies(ordered=False) | anthropic_replies(), coalesce=st.booleans())
def test_events_keep_the_protocols_order(
    reply: tuple[list[Block], Any, list[Any]], *, coalesce: bool
) -> None:
    _, _, events = reply
    dialect = "anthropic" if events[-1] != "[DONE]" else "openai"
    model = Replay(stream(events)).model(dialect=dialect, coalesce=coalesce)
    assert_valid_event_stream(list(model.stream_events("?", version="v3")))
