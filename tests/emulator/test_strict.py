"""What strict chat servers refuse is refused with its field, and the nearest good request is accepted."""

from __future__ import annotations

import base64
import copy
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic.types
import httpx
import openai.types.chat
import pytest
from PIL import Image
from pydantic import TypeAdapter

from piccc.emulator import Emulator
from piccc.emulator.wire.anthropic import signature
from tests.emulator.wire import chat, connect, message

CHAT = TypeAdapter(openai.types.chat.completion_create_params.CompletionCreateParamsNonStreaming)
MESSAGES = TypeAdapter(anthropic.types.message_create_params.MessageCreateParamsNonStreaming)
PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CLOSED = {**CITY, "additionalProperties": False}


def encoded(kind: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "teal").save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


PNG, JPEG = encoded("PNG"), encoded("JPEG")
PDF, TEXT = base64.b64encode(b"%PDF-1.7\n").decode(), base64.b64encode(b"plain words").decode()


def function(name: str = "weather", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": CITY, **fields}}


def call(
    call_id: str = "call_1", name: str = "weather", arguments: str = '{"city": "Rome"}'
) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def result(call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "Sunny."}


def says(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def use(call_id: str = "call_1", name: str = "weather", given: Any = None) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {} if given is None else given}


def used(call_id: str = "call_1", content: Any = "Sunny.") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def text(words: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def image(declared: str, data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": declared, "data": data}}


def asked(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return message(messages=[says("user", "Weather?"), *turns], **fields)


def spoken(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return chat(messages=[says("user", "Weather?"), *turns], **fields)


@dataclass
class Rule:
    """One row: the bad request, the field that its refusal names, and the nearest good request.

    `lenient` is whether `strict=False` accepts the bad one: not what no server could make sense of.
    """

    route: str
    bad: dict[str, Any]
    param: str
    good: dict[str, Any]
    lenient: bool = True


RULES: dict[str, Rule] = {
    # Both routes.
    "chat: two tools of one name": Rule(
        "chat",
        chat(tools=[function(), function()]),
        "tools.1.function.name",
        chat(tools=[function(), function("news")]),
    ),
    "messages: two tools of one name": Rule(
        "messages",
        message(tools=[{"name": "weather", "input_schema": CITY}] * 2),
        "tools.1.name",
        message(tools=[{"name": name, "input_schema": CITY} for name in ("weather", "news")]),
    ),
    "messages: a blank stop sequence": Rule(
        "messages", message(stop_sequences=["END", " "]), "stop_sequences.1", message(stop_sequences=["END"])
    ),
    "chat: content that is a number": Rule(
        "chat", chat(messages=[says("user", 5)]), "messages.0.content", chat("5"), lenient=False
    ),
    "chat: broken arguments": Rule(
        "chat",
        spoken(calling(call(arguments='{"city": "Ro')), result()),
        "messages.1.tool_calls.0.function.arguments",
        spoken(calling(call()), result()),
    ),
    "chat: arguments that are no object": Rule(
        "chat",
        spoken(calling(call(arguments='["Rome"]')), result()),
        "messages.1.tool_calls.0.function.arguments",
        spoken(calling(call(arguments="{}")), result()),
    ),
    "chat: empty arguments": Rule(
        "chat",
        spoken(calling(call(arguments="")), result()),
        "messages.1.tool_calls.0.function.arguments",
        spoken(calling(call(arguments="{}")), result()),
    ),
    "messages: arguments that are no object": Rule(
        "messages",
        asked(says("assistant", [use(given="Rome")]), says("user", [used()])),
        "messages.1.content.0.input",
        asked(says("assistant", [use(given={"city": "Rome"})]), says("user", [used()])),
        lenient=False,
    ),
    "chat: a call without a result": Rule(
        "chat",
        spoken(calling(call(), call("call_2")), result()),
        "messages.1.tool_calls.1.id",
        spoken(calling(call(), call("call_2")), result("call_2"), result()),
    ),
    "messages: a call without a result": Rule(
        "messages",
        asked(says("assistant", [use(), use("call_2")]), says("user", [used()])),
        "messages.1.content.1.id",
        asked(says("assistant", [use(), use("call_2")]), says("user", [used("call_2"), used()])),
    ),
    "chat: a call at the end": Rule(
        "chat", spoken(calling(call())), "messages.1.tool_calls.0.id", spoken(calling(call()), result())
    ),
    "messages: a call at the end": Rule(
        "messages",
        asked(says("assistant", [use()])),
        "messages.1.content.0.id",
        asked(says("assistant", [use()]), says("user", [used()])),
    ),
    "chat: a turn between call and result": Rule(
        "chat",
        spoken(calling(call()), says("user", "Well?"), result()),
        "messages.1.tool_calls.0.id",
        spoken(calling(call()), result(), says("user", "Well?")),
    ),
    "messages: a text between call and result": Rule(
        "messages",
        asked(says("assistant", [use()]), says("user", [text("Well?"), used()])),
        "messages.1.content.0.id",
        asked(says("assistant", [use()]), says("user", [used(), text("Well?")])),
    ),
    "chat: a result without a call": Rule(
        "chat",
        spoken(result()),
        "messages.1.tool_call_id",
        spoken(calling(call()), result()),
        lenient=False,
    ),
    "messages: a result without a call": Rule(
        "messages",
        asked(says("assistant", "Hm."), says("user", [used()])),
        "messages.2.content.0.tool_use_id",
        asked(says("assistant", [use()]), says("user", [used()])),
        lenient=False,
    ),
    "chat: two results of one call": Rule(
        "chat",
        spoken(calling(call()), result(), result()),
        "messages.3.tool_call_id",
        spoken(calling(call(), call("call_2")), result(), result("call_2")),
    ),
    "messages: two results of one call": Rule(
        "messages",
        asked(says("assistant", [use()]), says("user", [used(), used()])),
        "messages.2.content.1.tool_use_id",
        asked(says("assistant", [use(), use("call_2")]), says("user", [used(), used("call_2")])),
    ),
    "chat: a duplicate id in one turn": Rule(
        "chat",
        spoken(calling(call(), call()), result()),
        "messages.1.tool_calls.1.id",
        spoken(calling(call(), call("call_2")), result(), result("call_2")),
    ),
    "messages: a duplicate id in a later turn": Rule(
        "messages",
        asked(
            says("assistant", [use()]),
            says("user", [used()]),
            says("assistant", [use()]),
            says("user", [used()]),
        ),
        "messages.3.content.0.id",
        asked(
            says("assistant", [use()]),
            says("user", [used()]),
            says("assistant", [use("call_2")]),
            says("user", [used("call_2")]),
        ),
    ),
    "chat: a call without a name": Rule(
        "chat",
        spoken(calling(call(name="")), result()),
        "messages.1.tool_calls.0.function.name",
        spoken(calling(call(name="w")), result()),
        lenient=False,
    ),
    "messages: a call without a name": Rule(
        "messages",
        asked(says("assistant", [use(name="")]), says("user", [used()])),
        "messages.1.content.0.name",
        asked(says("assistant", [use(name="w")]), says("user", [used()])),
        lenient=False,
    ),
    "chat: a lone surrogate": Rule(
        "chat", chat("\ud83d"), "messages.0.content", chat("\U0001f44d"), lenient=False
    ),
    "messages: a lone surrogate": Rule(
        "messages", message("\ud83d"), "messages.0.content", message("\U0001f44d"), lenient=False
    ),
    "chat: a mistyped image": Rule(
        "chat",
        spoken(says("user", [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{JPEG}"}}])),
        "messages.1.content.0.image_url.url",
        spoken(says("user", [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}}])),
    ),
    "messages: a mistyped image": Rule(
        "messages",
        asked(says("user", [image("image/jpeg", PNG)])),
        "messages.1.content.0.source.media_type",
        asked(says("user", [image("image/png", PNG)])),
    ),
    "messages: a mistyped image in a result": Rule(
        "messages",
        asked(says("assistant", [use()]), says("user", [used(content=[image("image/jpeg", PNG)])])),
        "messages.2.content.0.content.0.source.media_type",
        asked(says("assistant", [use()]), says("user", [used(content=[image("image/png", PNG)])])),
    ),
    "chat: a text declared as PDF": Rule(
        "chat",
        spoken(
            says(
                "user",
                [
                    {
                        "type": "file",
                        "file": {"filename": "a", "file_data": f"data:application/pdf;base64,{TEXT}"},
                    }
                ],
            )
        ),
        "messages.1.content.0.file.file_data",
        spoken(
            says(
                "user",
                [
                    {
                        "type": "file",
                        "file": {"filename": "a", "file_data": f"data:application/pdf;base64,{PDF}"},
                    }
                ],
            )
        ),
    ),
    "messages: a text declared as PDF": Rule(
        "messages",
        asked(says("user", [{**image("application/pdf", TEXT), "type": "document"}])),
        "messages.1.content.0.source.media_type",
        asked(says("user", [{**image("application/pdf", PDF), "type": "document"}])),
    ),
    "chat: no messages": Rule("chat", chat(messages=[]), "messages", chat(), lenient=False),
    "messages: no messages": Rule("messages", message(messages=[]), "messages", message(), lenient=False),
    "chat: an unknown content type": Rule(
        "chat",
        spoken(says("user", [{"type": "hologram", "text": "x"}])),
        "messages.1.content.0",
        spoken(says("user", [text("x")])),
        lenient=False,
    ),
    "messages: an unknown content type": Rule(
        "messages",
        asked(says("user", [{"type": "hologram", "text": "x"}])),
        "messages.1.content.0",
        asked(says("user", [text("x")])),
        lenient=False,
    ),
    "messages: an unknown content type in a result": Rule(
        "messages",
        asked(says("assistant", [use()]), says("user", [used(content=[{"type": "json", "json": {}}])])),
        "messages.2.content.0.content.0",
        asked(says("assistant", [use()]), says("user", [used(content=[text("{}")])])),
        lenient=False,
    ),
    "chat: a choice of a tool that is not offered": Rule(
        "chat",
        chat(tools=[function()], tool_choice={"type": "function", "function": {"name": "other"}}),
        "tool_choice.function.name",
        chat(tools=[function()], tool_choice={"type": "function", "function": {"name": "weather"}}),
        lenient=False,
    ),
    "messages: a choice of a tool that is not offered": Rule(
        "messages",
        message(
            tools=[{"name": "weather", "input_schema": CITY}], tool_choice={"type": "tool", "name": "other"}
        ),
        "tool_choice.name",
        message(
            tools=[{"name": "weather", "input_schema": CITY}], tool_choice={"type": "tool", "name": "weather"}
        ),
        lenient=False,
    ),
    "chat: a dotted tool name": Rule(
        "chat", chat(tools=[function("a.b")]), "tools.0.function.name", chat(tools=[function("a-b")])
    ),
    "messages: a long tool name": Rule(
        "messages",
        message(tools=[{"name": "n" * 65, "input_schema": CITY}]),
        "tools.0.name",
        message(tools=[{"name": "n" * 64, "input_schema": CITY}]),
    ),
    "chat: a dotted name in a call": Rule(
        "chat",
        spoken(calling(call(name="a.b")), result()),
        "messages.1.tool_calls.0.function.name",
        spoken(calling(call(name="a-b")), result()),
    ),
    "messages: a dotted name in a call": Rule(
        "messages",
        asked(says("assistant", [use(name="a.b")]), says("user", [used()])),
        "messages.1.content.0.name",
        asked(says("assistant", [use(name="a-b")]), says("user", [used()])),
    ),
    "chat: no JSON Schema": Rule(
        "chat",
        chat(tools=[function(parameters={"type": "any"})]),
        "tools.0.function.parameters",
        chat(tools=[function(parameters={"type": "object"})]),
        lenient=False,
    ),
    "messages: no JSON Schema": Rule(
        "messages",
        message(tools=[{"name": "weather", "input_schema": {"type": "object", "required": True}}]),
        "tools.0.input_schema",
        message(tools=[{"name": "weather", "input_schema": {"type": "object", "required": []}}]),
        lenient=False,
    ),
    # /v1/messages.
    "a blank text block": Rule(
        "messages",
        asked(says("user", [text("Hi"), text(" \n")])),
        "messages.1.content.1.text",
        asked(says("user", [text("Hi"), text(".")])),
    ),
    "a blank text": Rule(
        "messages",
        message(" "),
        "messages.0.content",
        message("."),
    ),
    "a turn without content": Rule(
        "messages",
        message(messages=[says("user", [])]),
        "messages.0.content",
        asked(says("assistant", [])),
    ),
    "a blank system text": Rule(
        "messages", message(system=[text("")]), "system.0.text", message(system=[text("Be brief.")])
    ),
    "a blank text in a result": Rule(
        "messages",
        asked(says("assistant", [use()]), says("user", [used(content=[text("")])])),
        "messages.2.content.0.content.0.text",
        asked(says("assistant", [use()]), says("user", [used(content="")])),
    ),
    "white space at the end": Rule(
        "messages",
        asked(says("assistant", "It is ")),
        "messages.1.content",
        asked(says("assistant", "It is "), says("user", "Go on.")),
    ),
    "white space at the end of a block": Rule(
        "messages",
        asked(says("assistant", [text("It is\n")])),
        "messages.1.content.0.text",
        asked(says("assistant", [text("It is")])),
    ),
    "five cache marks": Rule(
        "messages",
        message(
            system=[text(cache_control={"type": "ephemeral"})],
            tools=[{"name": "weather", "input_schema": CITY, "cache_control": {"type": "ephemeral"}}],
            messages=[says("user", [text(cache_control={"type": "ephemeral"})] * 3)],
        ),
        "messages.0.content.2.cache_control",
        message(
            system=[text(cache_control={"type": "ephemeral"})],
            tools=[{"name": "weather", "input_schema": CITY, "cache_control": {"type": "ephemeral"}}],
            messages=[says("user", [text(cache_control={"type": "ephemeral"})] * 2)],
        ),
    ),
    "thinking with a forced tool": Rule(
        "messages",
        message(
            thinking={"type": "enabled", "budget_tokens": 1024},
            max_tokens=2000,
            tools=[{"name": "weather", "input_schema": CITY}],
            tool_choice={"type": "any"},
        ),
        "tool_choice",
        message(
            thinking={"type": "enabled", "budget_tokens": 1024},
            max_tokens=2000,
            tools=[{"name": "weather", "input_schema": CITY}],
            tool_choice={"type": "auto"},
        ),
    ),
    "thinking with a temperature": Rule(
        "messages",
        message(thinking={"type": "adaptive"}, temperature=0.5),
        "temperature",
        message(thinking={"type": "adaptive"}, temperature=1),
    ),
    "thinking without room for a reply": Rule(
        "messages",
        message(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=1024),
        "thinking.budget_tokens",
        message(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=1025),
    ),
    "thinking in the midst of calls that were made without it": Rule(
        "messages",
        asked(says("assistant", [use()]), says("user", [used()]), thinking={"type": "adaptive"}),
        "messages.1.content.0.type",
        asked(says("assistant", [use()]), says("user", [used()])),
    ),
    "thinking on a small budget": Rule(
        "messages",
        message(thinking={"type": "enabled", "budget_tokens": 1023}, max_tokens=2000),
        "thinking.budget_tokens",
        message(thinking={"type": "disabled"}, max_tokens=2000),
        lenient=False,
    ),
    "a thought without a signature": Rule(
        "messages",
        asked(says("assistant", [{"type": "thinking", "thinking": "Hm."}, text()]), says("user", "Go on.")),
        "messages.1.content.0.signature",
        asked(
            says(
                "assistant", [{"type": "thinking", "thinking": "Hm.", "signature": signature("Hm.")}, text()]
            ),
            says("user", "Go on."),
        ),
        lenient=False,
    ),
    "a thought with a foreign signature": Rule(
        "messages",
        asked(
            says("assistant", [{"type": "thinking", "thinking": "Hm.", "signature": "EqQBCg=="}, text()]),
            says("user", "Go on."),
        ),
        "messages.1.content.0.signature",
        asked(
            says(
                "assistant", [{"type": "thinking", "thinking": "Hm.", "signature": signature("Hm.")}, text()]
            ),
            says("user", "Go on."),
        ),
    ),
    "an image in the system prompt": Rule(
        "messages",
        message(system=[image("image/png", PNG)]),
        "system.0.type",
        message(system=[text()]),
        lenient=False,
    ),
    "a foreign tool id": Rule(
        "messages",
        asked(says("assistant", [use("fc_1|call_1")]), says("user", [used("fc_1|call_1")])),
        "messages.1.content.0.id",
        asked(says("assistant", [use("fc_1-call_1")]), says("user", [used("fc_1-call_1")])),
    ),
    # /v1/chat/completions.
    "a speaker with a space": Rule(
        "chat",
        spoken(says("assistant", "Hi", name="Ann Lee"), says("user", "Hi")),
        "messages.1.name",
        spoken(says("assistant", "Hi", name="Ann_Lee"), says("user", "Hi")),
    ),
    "a strict schema that is open": Rule(
        "chat",
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "strict": True, "schema": CITY},
            }
        ),
        "response_format.json_schema.schema",
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "strict": True, "schema": CLOSED},
            }
        ),
    ),
    "a strict schema with an optional property deep inside": Rule(
        "chat",
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "strict": True,
                    "schema": {
                        **CLOSED,
                        "properties": {"city": {"type": "array", "items": {**CLOSED, "required": []}}},
                    },
                },
            }
        ),
        "response_format.json_schema.schema",
        chat(
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "strict": True,
                    "schema": {**CLOSED, "properties": {"city": {"type": "array", "items": CLOSED}}},
                },
            }
        ),
    ),
    "a strict tool that is open": Rule(
        "chat",
        chat(tools=[function(strict=True)]),
        "tools.0.function.parameters",
        chat(tools=[function(strict=True, parameters=CLOSED)]),
    ),
    "parallel calls without tools": Rule(
        "chat",
        chat(parallel_tool_calls=False),
        "parallel_tool_calls",
        chat(parallel_tool_calls=False, tools=[function()]),
    ),
    "two limits": Rule(
        "chat", chat(max_tokens=5, max_completion_tokens=5), "max_tokens", chat(max_completion_tokens=5)
    ),
}


@pytest.fixture(scope="module")
def strict() -> Iterator[httpx.Client]:
    """Open a client of a strict emulator: the default."""
    with Emulator(speed=math.inf) as emulator, connect(emulator) as client:
        yield client


@pytest.fixture(scope="module")
def lenient() -> Iterator[httpx.Client]:
    """Open a client of an emulator that is not strict."""
    with Emulator(speed=math.inf, strict=False) as emulator, connect(emulator) as client:
        yield client


def post(client: httpx.Client, route: str, body: dict[str, Any]) -> httpx.Response:
    return client.post(PATHS[route], content=json.dumps(body))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_what_strict_servers_refuse_is_refused_with_the_field_at_fault(
    strict: httpx.Client, name: str, stream: bool
) -> None:
    rule = RULES[name]
    reply = post(strict, rule.route, {**rule.bad, "stream": stream})
    error = reply.json()["error"]
    assert (reply.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith(f"{rule.param}: ")
    assert rule.route == "messages" or error["param"] == rule.param


@pytest.mark.parametrize("name", RULES)
def test_the_nearest_good_request_is_accepted(strict: httpx.Client, name: str) -> None:
    rule = RULES[name]
    (CHAT if rule.route == "chat" else MESSAGES).validate_python(copy.deepcopy(rule.good))
    reply = post(strict, rule.route, rule.good)
    assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("name", RULES)
def test_an_emulator_that_is_not_strict_refuses_only_what_it_cannot_read(
    lenient: httpx.Client, name: str
) -> None:
    rule = RULES[name]
    assert post(lenient, rule.route, rule.bad).status_code == (200 if rule.lenient else 400)


@pytest.mark.parametrize(
    "turns",
    [
        [says("user", "One."), says("user", "Two.")],
        [says("user", "One."), says("assistant", [use()]), says("user", [used()]), says("user", "Two.")],
        [
            says("user", "One."),
            says("assistant", [use()]),
            says("assistant", [use("call_2")]),
            says("user", [used()]),
            says("user", [used("call_2")]),
        ],
    ],
)
def test_turns_of_one_role_are_joined(strict: httpx.Client, turns: list[dict[str, Any]]) -> None:
    assert post(strict, "messages", message(messages=turns)).status_code == 200


def test_a_refused_request_costs_nothing() -> None:
    with Emulator(speed=math.inf) as emulator, connect(emulator) as client:
        for rule in RULES.values():
            post(client, rule.route, rule.bad)
        assert emulator.charges == []
