"""A conversation yields the same neutral reply over either dialect, whole or streamed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, get_args

import pytest

from piccc import (
    AsyncClient,
    Client,
    Image,
    JSONSchema,
    Message,
    NamedTool,
    PicccError,
    Reasoning,
    Text,
    Tool,
    ToolCall,
)
from piccc._dialects import DialectName
from piccc.conversation import ChatReply, Part
from piccc.emulator import Emulator, Scripted

DIALECTS: tuple[DialectName, ...] = get_args(DialectName)
WEATHER = Tool(
    "weather",
    "Tell the weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
CITY = JSONSchema(
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}, name="city"
)

Options = dict[str, Any]
CONVERSATIONS: dict[str, tuple[Scripted | None, Options]] = {
    "small talk": (None, {"messages": "Hello, how are you?"}),
    "a system prompt": (None, {"messages": "Who are you?", "system": "You are a hedgehog."}),
    "a text with emoji": (Scripted("Grüße, 你好 😀🦔"), {"messages": "Greet me."}),
    "an empty answer": (Scripted(""), {"messages": "Say nothing."}),
    "a truncated answer": (None, {"messages": "Tell me a long story.", "max_tokens": 5}),
    "reasoning": (
        Scripted("4", reasoning="2 and 2 are 4."),
        {"messages": "2 + 2?", "reasoning_effort": "low"},
    ),
    "a forced tool": (
        None,
        {"messages": "Weather in Paris?", "tools": [WEATHER], "tool_choice": NamedTool("weather")},
    ),
    "parallel calls with text": (
        Scripted("I look.", calls=[("weather", {"city": "Paris"}), ("weather", {"city": "東京"})]),
        {"messages": "Weather in Paris and Tokyo?", "tools": [WEATHER]},
    ),
    "the result of a call": (
        None,
        {
            "messages": [
                Message("user", [Text("Weather in Paris?")]),
                Message("assistant", [ToolCall("call_1", "weather", '{"city": "Paris"}')]),
                Message("tool", [Text("Sunny.")], tool_call_id="call_1"),
            ],
            "tools": [WEATHER],
        },
    ),
    "an image": (
        None,
        {"messages": [Message("user", [Text("What is it?"), Image(data=IMAGE, media_type="image/png")])]},
    ),
    "an answer that follows a schema": (None, {"messages": "Name a city.", "response_format": CITY}),
}


@pytest.fixture
def ask() -> Iterator[Callable[..., ChatReply]]:
    """Return a function that sends a chat to a fresh emulator over a given dialect."""
    with Emulator(speed=math.inf) as emulator:

        def send(dialect: DialectName, script: Scripted | None, way: str, options: Options) -> ChatReply:
            if script is not None:
                emulator.script([script])
            client = Client(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
            if way == "whole":
                return client.chat.create(**options)
            with client.chat.stream(**options) as stream:
                for _ in stream:
                    pass
            return stream.reply

        yield send


def neutral(reply: ChatReply) -> tuple[Any, ...]:
    """Return what must be equal: all but ids, and the signatures and counts that only one dialect has."""
    assert reply.usage is not None
    usage = replace(reply.usage, reasoning_tokens=0)
    return [_plain(part) for part in reply.parts], reply.finish_reason, reply.model, usage


def _plain(part: Part) -> Part:
    if isinstance(part, ToolCall):
        return ToolCall("", part.name, repr(part.parse()))
    return replace(part, signature=None) if isinstance(part, Reasoning) else part


@pytest.mark.parametrize(("script", "options"), CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_conversation_yields_the_same_reply_in_all_four_ways(
    ask: Callable[..., ChatReply], script: Scripted | None, options: Options
) -> None:
    replies = {
        (dialect, way): neutral(ask(dialect, script, way, options))
        for dialect in DIALECTS
        for way in ("whole", "streamed")
    }
    first = replies["openai", "whole"]
    assert replies == dict.fromkeys(replies, first)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 503, 529])
@pytest.mark.parametrize("way", ["create", "stream"])
def test_an_error_is_the_same_over_either_dialect(status: int, way: str) -> None:
    errors = []
    for dialect in DIALECTS:
        with Emulator(speed=math.inf, faults=[f"{status};code=some_code"]) as emulator:
            client = Client(
                base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, max_retries=0
            )
            with pytest.raises(PicccError) as caught:
                getattr(client.chat, way)("hi")
        error = caught.value
        errors.append((type(error), error.status, error.message, error.may_have_been_billed))
        assert error.request_id is not None
    assert errors[0] == errors[1]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_texts_yields_only_the_answer(dialect: DialectName) -> None:
    script = Scripted("Sunny, warm.", reasoning="Look.", calls=[("weather", {"city": "Oslo"})])
    request: Options = {"messages": "Weather?", "tools": [WEATHER], "reasoning_effort": "low"}

    async def streamed(**settings: Any) -> list[str]:
        async with AsyncClient(**settings) as client, await client.chat.stream(**request) as stream:
            return [text async for text in stream.texts()]

    with Emulator(speed=math.inf) as emulator:
        emulator.script([script, script])
        settings: Options = {"base_url": emulator.base_url, "api_key": emulator.api_key, "dialect": dialect}
        with Client(**settings) as client, client.chat.stream(**request) as stream:
            texts = list(stream.texts())
        assert "".join(asyncio.run(streamed(**settings))) == "".join(texts) == "Sunny, warm."
    assert len(texts) > 1
    assert stream.reply.reasoning == "Look."
    assert stream.reply.tool_calls


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("quirk", ["no-index", "text-index", "zero-index", "calls-at-once", "split-emoji"])
def test_nonstandard_streams_are_understood(dialect: DialectName, quirk: str) -> None:
    script = Scripted("😀 look", calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})])
    with Emulator(speed=math.inf, quirks=[quirk]) as emulator:
        emulator.script([script])
        client = Client(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
        with client.chat.stream("Weather?", tools=[WEATHER]) as stream:
            for _ in stream:
                pass
    assert stream.reply.text == "😀 look"
    assert [call.parse() for call in stream.reply.tool_calls] == [{"city": "Paris"}, {"city": "Rome"}]
