"""Invalid chat requests are rejected with the field at fault; the nearest valid ones are accepted."""

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


def tool_call(
    call_id: str = "call_1", name: str = "weather", arguments: str = '{"city": "Rome"}'
) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def assistant_calls(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def tool_message(call_id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "Sunny."}


def turn(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def tool_use(call_id: str = "call_1", name: str = "weather", arguments: Any = None) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {} if arguments is None else arguments}


def tool_result(call_id: str = "call_1", content: Any = "Sunny.") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def text(words: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def image(declared: str, data: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": declared, "data": data}}


def messages_with(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return message(messages=[turn("user", "Weather?"), *turns], **fields)


def chat_with(*turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return chat(messages=[turn("user", "Weather?"), *turns], **fields)


@dataclass
class Rule:
    """An invalid request, the field that its rejection names, and the nearest valid request.

    `lenient` tells whether `strict=False` accepts the invalid request.
    """

    route: str
    bad: dict[str, Any]
    param: str
    good: dict[str, Any]
    lenient: bool = True


RULES: dict[str, Rule] = {
    # Both routes.
    "chat: two tools with the same name": Rule(
        "chat",
        chat(tools=[function(), function()]),
        "tools.1.function.name",
        chat(tools=[function(), function("news")]),
    ),
    "messages: two tools with the same name": Rule(
        "messages",
        message(tools=[{"name": "weather", "input_schema": CITY}] * 2),
        "tools.1.name",
        message(tools=[{"name": name, "input_schema": CITY} for name in ("weather", "news")]),
    ),
    "messages: a blank stop sequence": Rule(
        "messages", message(stop_sequences=["END", " "]), "stop_sequences.1", message(stop_sequences=["END"])
    ),
    "chat: content that is a number": Rule(
        "chat", chat(messages=[turn("user", 5)]), "messages.0.content", chat("5"), lenient=False
    ),
    "chat: broken arguments": Rule(
        "chat",
        chat_with(assistant_calls(tool_call(arguments='{"city": "Ro')), tool_message()),
        "messages.1.tool_calls.0.function.arguments",
        chat_with(assistant_calls(tool_call()), tool_message()),
    ),
    "chat: arguments that are not an object": Rule(
        "chat",
        chat_with(assistant_calls(tool_call(arguments='["Rome"]')), tool_message()),
        "messages.1.tool_calls.0.function.arguments",
        chat_with(assistant_calls(tool_call(arguments="{}")), tool_message()),
    ),
    "chat: empty arguments": Rule(
        "chat",
        chat_with(assistant_calls(tool_call(arguments="")), tool_message()),
        "messages.1.tool_calls.0.function.arguments",
        chat_with(assistant_calls(tool_call(arguments="{}")), tool_message()),
    ),
    "messages: arguments that are not an object": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use(arguments="Rome")]), turn("user", [tool_result()])),
        "messages.1.content.0.input",
        messages_with(
            turn("assistant", [tool_use(arguments={"city": "Rome"})]), turn("user", [tool_result()])
        ),
        lenient=False,
    ),
    "chat: a call without a result": Rule(
        "chat",
        chat_with(assistant_calls(tool_call(), tool_call("call_2")), tool_message()),
        "messages.1.tool_calls.1.id",
        chat_with(assistant_calls(tool_call(), tool_call("call_2")), tool_message("call_2"), tool_message()),
    ),
    "messages: a call without a result": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use(), tool_use("call_2")]), turn("user", [tool_result()])),
        "messages.1.content.1.id",
        messages_with(
            turn("assistant", [tool_use(), tool_use("call_2")]),
            turn("user", [tool_result("call_2"), tool_result()]),
        ),
    ),
    "chat: a call at the end": Rule(
        "chat",
        chat_with(assistant_calls(tool_call())),
        "messages.1.tool_calls.0.id",
        chat_with(assistant_calls(tool_call()), tool_message()),
    ),
    "messages: a call at the end": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use()])),
        "messages.1.content.0.id",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result()])),
    ),
    "chat: a turn between call and result": Rule(
        "chat",
        chat_with(assistant_calls(tool_call()), turn("user", "Well?"), tool_message()),
        "messages.1.tool_calls.0.id",
        chat_with(assistant_calls(tool_call()), tool_message(), turn("user", "Well?")),
    ),
    "messages: a text between call and result": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use()]), turn("user", [text("Well?"), tool_result()])),
        "messages.1.content.0.id",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result(), text("Well?")])),
    ),
    "chat: a result without a call": Rule(
        "chat",
        chat_with(tool_message()),
        "messages.1.tool_call_id",
        chat_with(assistant_calls(tool_call()), tool_message()),
        lenient=False,
    ),
    "messages: a result without a call": Rule(
        "messages",
        messages_with(turn("assistant", "Hm."), turn("user", [tool_result()])),
        "messages.2.content.0.tool_use_id",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result()])),
        lenient=False,
    ),
    "chat: two results for one call": Rule(
        "chat",
        chat_with(assistant_calls(tool_call()), tool_message(), tool_message()),
        "messages.3.tool_call_id",
        chat_with(assistant_calls(tool_call(), tool_call("call_2")), tool_message(), tool_message("call_2")),
    ),
    "messages: two results for one call": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result(), tool_result()])),
        "messages.2.content.1.tool_use_id",
        messages_with(
            turn("assistant", [tool_use(), tool_use("call_2")]),
            turn("user", [tool_result(), tool_result("call_2")]),
        ),
    ),
    "chat: a duplicate id in one turn": Rule(
        "chat",
        chat_with(assistant_calls(tool_call(), tool_call()), tool_message()),
        "messages.1.tool_calls.1.id",
        chat_with(assistant_calls(tool_call(), tool_call("call_2")), tool_message(), tool_message("call_2")),
    ),
    "messages: a duplicate id in a later turn": Rule(
        "messages",
        messages_with(
            turn("assistant", [tool_use()]),
            turn("user", [tool_result()]),
            turn("assistant", [tool_use()]),
            turn("user", [tool_result()]),
        ),
        "messages.3.content.0.id",
        messages_with(
            turn("assistant", [tool_use()]),
            turn("user", [tool_result()]),
            turn("assistant", [tool_use("call_2")]),
            turn("user", [tool_result("call_2")]),
        ),
    ),
    "chat: a call without a name": Rule(
        "chat",
        chat_with(assistant_calls(tool_call(name="")), tool_message()),
        "messages.1.tool_calls.0.function.name",
        chat_with(assistant_calls(tool_call(name="w")), tool_message()),
        lenient=False,
    ),
    "messages: a call without a name": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use(name="")]), turn("user", [tool_result()])),
        "messages.1.content.0.name",
        messages_with(turn("assistant", [tool_use(name="w")]), turn("user", [tool_result()])),
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
        chat_with(
            turn("user", [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{JPEG}"}}])
        ),
        "messages.1.content.0.image_url.url",
        chat_with(
            turn("user", [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{JPEG}"}}])
        ),
    ),
    "messages: a mistyped image": Rule(
        "messages",
        messages_with(turn("user", [image("image/jpeg", PNG)])),
        "messages.1.content.0.source.media_type",
        messages_with(turn("user", [image("image/png", PNG)])),
    ),
    "messages: a mistyped image in a result": Rule(
        "messages",
        messages_with(
            turn("assistant", [tool_use()]), turn("user", [tool_result(content=[image("image/jpeg", PNG)])])
        ),
        "messages.2.content.0.content.0.source.media_type",
        messages_with(
            turn("assistant", [tool_use()]), turn("user", [tool_result(content=[image("image/png", PNG)])])
        ),
    ),
    "chat: a text declared as PDF": Rule(
        "chat",
        chat_with(
            turn(
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
        chat_with(
            turn(
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
        messages_with(turn("user", [{**image("application/pdf", TEXT), "type": "document"}])),
        "messages.1.content.0.source.media_type",
        messages_with(turn("user", [{**image("application/pdf", PDF), "type": "document"}])),
    ),
    "chat: no messages": Rule("chat", chat(messages=[]), "messages", chat(), lenient=False),
    "messages: no messages": Rule("messages", message(messages=[]), "messages", message(), lenient=False),
    "chat: an unknown content type": Rule(
        "chat",
        chat_with(turn("user", [{"type": "hologram", "text": "x"}])),
        "messages.1.content.0",
        chat_with(turn("user", [text("x")])),
        lenient=False,
    ),
    "messages: an unknown content type": Rule(
        "messages",
        messages_with(turn("user", [{"type": "hologram", "text": "x"}])),
        "messages.1.content.0",
        messages_with(turn("user", [text("x")])),
        lenient=False,
    ),
    "messages: an unknown content type in a result": Rule(
        "messages",
        messages_with(
            turn("assistant", [tool_use()]),
            turn("user", [tool_result(content=[{"type": "json", "json": {}}])]),
        ),
        "messages.2.content.0.content.0",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result(content=[text("{}")])])),
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
        chat_with(assistant_calls(tool_call(name="a.b")), tool_message()),
        "messages.1.tool_calls.0.function.name",
        chat_with(assistant_calls(tool_call(name="a-b")), tool_message()),
    ),
    "messages: a dotted name in a call": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use(name="a.b")]), turn("user", [tool_result()])),
        "messages.1.content.0.name",
        messages_with(turn("assistant", [tool_use(name="a-b")]), turn("user", [tool_result()])),
    ),
    "chat: an invalid JSON Schema": Rule(
        "chat",
        chat(tools=[function(parameters={"type": "any"})]),
        "tools.0.function.parameters",
        chat(tools=[function(parameters={"type": "object"})]),
        lenient=False,
    ),
    "messages: an invalid JSON Schema": Rule(
        "messages",
        message(tools=[{"name": "weather", "input_schema": {"type": "object", "required": True}}]),
        "tools.0.input_schema",
        message(tools=[{"name": "weather", "input_schema": {"type": "object", "required": []}}]),
        lenient=False,
    ),
    # /v1/messages.
    "a blank text block": Rule(
        "messages",
        messages_with(turn("user", [text("Hi"), text(" \n")])),
        "messages.1.content.1.text",
        messages_with(turn("user", [text("Hi"), text(".")])),
    ),
    "a blank text": Rule(
        "messages",
        message(" "),
        "messages.0.content",
        message("."),
    ),
    "a turn without content": Rule(
        "messages",
        message(messages=[turn("user", [])]),
        "messages.0.content",
        messages_with(turn("assistant", [])),
    ),
    "a blank system text": Rule(
        "messages", message(system=[text("")]), "system.0.text", message(system=[text("Be brief.")])
    ),
    "a blank text in a result": Rule(
        "messages",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result(content=[text("")])])),
        "messages.2.content.0.content.0.text",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result(content="")])),
    ),
    "white space at the end": Rule(
        "messages",
        messages_with(turn("assistant", "It is ")),
        "messages.1.content",
        messages_with(turn("assistant", "It is "), turn("user", "Go on.")),
    ),
    "white space at the end of a block": Rule(
        "messages",
        messages_with(turn("assistant", [text("It is\n")])),
        "messages.1.content.0.text",
        messages_with(turn("assistant", [text("It is")])),
    ),
    "five cache breakpoints": Rule(
        "messages",
        message(
            system=[text(cache_control={"type": "ephemeral"})],
            tools=[{"name": "weather", "input_schema": CITY, "cache_control": {"type": "ephemeral"}}],
            messages=[turn("user", [text(cache_control={"type": "ephemeral"})] * 3)],
        ),
        "messages.0.content.2.cache_control",
        message(
            system=[text(cache_control={"type": "ephemeral"})],
            tools=[{"name": "weather", "input_schema": CITY, "cache_control": {"type": "ephemeral"}}],
            messages=[turn("user", [text(cache_control={"type": "ephemeral"})] * 2)],
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
    "thinking enabled between a call and its result": Rule(
        "messages",
        messages_with(
            turn("assistant", [tool_use()]), turn("user", [tool_result()]), thinking={"type": "adaptive"}
        ),
        "messages.1.content.0.type",
        messages_with(turn("assistant", [tool_use()]), turn("user", [tool_result()])),
    ),
    "thinking on a small budget": Rule(
        "messages",
        message(thinking={"type": "enabled", "budget_tokens": 1023}, max_tokens=2000),
        "thinking.budget_tokens",
        message(thinking={"type": "disabled"}, max_tokens=2000),
        lenient=False,
    ),
    "a thinking block without a signature": Rule(
        "messages",
        messages_with(
            turn("assistant", [{"type": "thinking", "thinking": "Hm."}, text()]), turn("user", "Go on.")
        ),
        "messages.1.content.0.signature",
        messages_with(
            turn(
                "assistant", [{"type": "thinking", "thinking": "Hm.", "signature": signature("Hm.")}, text()]
            ),
            turn("user", "Go on."),
        ),
        lenient=False,
    ),
    "a thinking block with a foreign signature": Rule(
        "messages",
        messages_with(
            turn("assistant", [{"type": "thinking", "thinking": "Hm.", "signature": "EqQBCg=="}, text()]),
            turn("user", "Go on."),
        ),
        "messages.1.content.0.signature",
        messages_with(
            turn(
                "assistant", [{"type": "thinking", "thinking": "Hm.", "signature": signature("Hm.")}, text()]
            ),
            turn("user", "Go on."),
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
        messages_with(
            turn("assistant", [tool_use("fc_1|call_1")]), turn("user", [tool_result("fc_1|call_1")])
        ),
        "messages.1.content.0.id",
        messages_with(
            turn("assistant", [tool_use("fc_1-call_1")]), turn("user", [tool_result("fc_1-call_1")])
        ),
    ),
    # /v1/chat/completions.
    "a participant name with a space": Rule(
        "chat",
        chat_with(turn("assistant", "Hi", name="Ann Lee"), turn("user", "Hi")),
        "messages.1.name",
        chat_with(turn("assistant", "Hi", name="Ann_Lee"), turn("user", "Hi")),
    ),
    "a strict schema that allows additional properties": Rule(
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
    "a strict schema with a nested optional property": Rule(
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
    "a strict tool that allows additional properties": Rule(
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
    "two token limits": Rule(
        "chat", chat(max_tokens=5, max_completion_tokens=5), "max_tokens", chat(max_completion_tokens=5)
    ),
}


@pytest.fixture(scope="module")
def strict() -> Iterator[httpx.Client]:
    """Open a client for a strict emulator, the default."""
    with Emulator(speed=math.inf) as emulator, connect(emulator) as client:
        yield client


@pytest.fixture(scope="module")
def lenient() -> Iterator[httpx.Client]:
    """Open a client for a lenient emulator."""
    with Emulator(speed=math.inf, strict=False) as emulator, connect(emulator) as client:
        yield client


def post(client: httpx.Client, route: str, body: dict[str, Any]) -> httpx.Response:
    return client.post(PATHS[route], content=json.dumps(body))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_an_invalid_request_is_rejected_with_the_field_at_fault(
    strict: httpx.Client, name: str, stream: bool
) -> None:
    rule = RULES[name]
    response = post(strict, rule.route, {**rule.bad, "stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith(f"{rule.param}: ")
    assert rule.route == "messages" or error["param"] == rule.param


@pytest.mark.parametrize("name", RULES)
def test_the_nearest_valid_request_is_accepted(strict: httpx.Client, name: str) -> None:
    rule = RULES[name]
    (CHAT if rule.route == "chat" else MESSAGES).validate_python(copy.deepcopy(rule.good))
    response = post(strict, rule.route, rule.good)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("name", RULES)
def test_a_lenient_emulator_rejects_only_what_it_cannot_interpret(lenient: httpx.Client, name: str) -> None:
    rule = RULES[name]
    assert post(lenient, rule.route, rule.bad).status_code == (200 if rule.lenient else 400)


@pytest.mark.parametrize(
    "turns",
    [
        [turn("user", "One."), turn("user", "Two.")],
        [
            turn("user", "One."),
            turn("assistant", [tool_use()]),
            turn("user", [tool_result()]),
            turn("user", "Two."),
        ],
        [
            turn("user", "One."),
            turn("assistant", [tool_use()]),
            turn("assistant", [tool_use("call_2")]),
            turn("user", [tool_result()]),
            turn("user", [tool_result("call_2")]),
        ],
    ],
)
def test_consecutive_turns_of_the_same_role_are_accepted(
    strict: httpx.Client, turns: list[dict[str, Any]]
) -> None:
    assert post(strict, "messages", message(messages=turns)).status_code == 200


def test_a_rejected_request_is_not_charged() -> None:
    with Emulator(speed=math.inf) as emulator, connect(emulator) as client:
        for rule in RULES.values():
            post(client, rule.route, rule.bad)
        assert emulator.charges == []
