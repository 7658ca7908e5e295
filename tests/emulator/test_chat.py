"""Chat through both routes, complete and streamed."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
import pytest
from PIL import Image

from piccc.emulator import Emulator, Scripted
from piccc.emulator.conversation import Completion, ModelCall, ModelRequest
from piccc.emulator.wire import openai
from tests.emulator.wire import chat, message

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
OPENAI_TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER},
}
ANTHROPIC_TOOL = {"name": "get_weather", "description": "Weather", "input_schema": WEATHER}
TWO_CALLS = Scripted(
    "Let me see. 🎉", calls=[("get_weather", {"city": "北京"}), ("get_weather", {"city": "Rome"})]
)


def openai_stream(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a stream's chunks; assert that it ends with `[DONE]`."""
    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def anthropic_stream(client: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a stream's events; assert that their names match their types."""
    with client.stream("POST", "/v1/messages", json={**body, "stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert [line.removeprefix("event: ") for line in lines[::2]] == [event["type"] for event in events]
    return events


def test_equal_requests_get_calls_with_different_ids(client: httpx.Client) -> None:
    body = chat("What is the weather in Rome?", tools=[OPENAI_TOOL])
    replies = [client.post("/v1/chat/completions", json=body).json() for _ in range(3)]
    calls = [reply["choices"][0]["message"]["tool_calls"][0] for reply in replies]
    assert len({call["id"] for call in calls}) == 3
    assert len({call["function"]["arguments"] for call in calls}) == 1


def test_a_streamed_completion_equals_a_complete_one(emulator: Emulator, client: httpx.Client) -> None:
    emulator.script([TWO_CALLS, TWO_CALLS])
    body = chat(tools=[OPENAI_TOOL], stream_options={"include_usage": True})
    whole = client.post("/v1/chat/completions", json={**body, "stream_options": None}).json()
    chunks = openai_stream(client, body)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    message = whole["choices"][0]["message"]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"] == TWO_CALLS.text
    calls: dict[int, dict[str, str]] = {}
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        call = calls.setdefault(
            part["index"], {"id": part.get("id"), "name": part["function"].get("name"), "text": ""}
        )
        call["text"] += part["function"]["arguments"]
    assert [json.loads(call["text"]) for call in calls.values()] == [
        arguments for _, arguments in TWO_CALLS.calls
    ]
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [
        arguments for _, arguments in TWO_CALLS.calls
    ]
    assert whole["choices"][0]["finish_reason"] == chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    assert len({chunk["id"] for chunk in chunks}) == 1


@pytest.mark.parametrize("logprobs", [None, True])
@pytest.mark.parametrize(
    "answer",
    [
        Completion("Hello {} \ud83c!", reasoning="Think.", refusal="No."),
        Completion(calls=(ModelCall("call_1", "get_weather", {"city": "北京"}),), finish_reason="tool_calls"),
        Completion("See:", blocks=({"type": "text", "text": "there"},)),
    ],
)
def test_encoded_chunks_equal_the_plain_ones(answer: Completion, logprobs: bool | None) -> None:
    usage = {"include_usage": True}
    request = openai.ChatRequest.model_validate(chat(model="{}", stream_options=usage, logprobs=logprobs))
    plain = openai.chunks(request, answer, reply_id="chatcmpl-{}", created=1)
    encoded = openai.encoded_chunks(request, answer, reply_id="chatcmpl-{}", created=1)
    assert [(json.loads(text), tokens) for text, tokens in encoded] == list(plain)


def test_a_streamed_message_equals_a_complete_one(emulator: Emulator, client: httpx.Client) -> None:
    emulator.script(
        [
            Scripted(TWO_CALLS.text, TWO_CALLS.calls, reasoning="Two cities."),
            Scripted(TWO_CALLS.text, TWO_CALLS.calls, reasoning="Two cities."),
        ]
    )
    body = message(tools=[ANTHROPIC_TOOL])
    whole = client.post("/v1/messages", json=body).json()
    events = anthropic_stream(client, body)
    built: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            built.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            delta, block = event["delta"], built[event["index"]]
            field = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(
                delta["type"]
            )
            if field:
                block[field] += delta[field]
            else:
                block["json"] += delta["partial_json"]
    for block in built:
        if text := block.pop("json"):
            block["input"] = json.loads(text)
    assert [{**block, "id": ""} for block in built] == [{**block, "id": ""} for block in whole["content"]]
    assert [block["type"] for block in built] == ["thinking", "text", "tool_use", "tool_use"]
    assert events[0]["message"]["usage"]["output_tokens"] == 0
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"] == "tool_use"
    assert events[-2]["usage"] == whole["usage"]
    assert events[-1] == {"type": "message_stop"}


def test_both_routes_count_the_same_tokens_with_and_without_streaming(client: httpx.Client) -> None:
    text = "Write a launch caption for a ceramic mug."
    whole = client.post("/v1/chat/completions", json=chat(text)).json()["usage"]
    streamed = openai_stream(client, chat(text, stream_options={"include_usage": True}))[-1]["usage"]
    other = client.post("/v1/messages", json=message(text)).json()["usage"]
    assert whole == streamed
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (
        other["input_tokens"],
        other["output_tokens"],
    )
    counted = client.post("/v1/messages/count_tokens", json={**chat(text)}).json()
    assert counted == {"input_tokens": whole["prompt_tokens"]}


def test_a_stream_has_one_content_delta_per_text_token(emulator: Emulator, client: httpx.Client) -> None:
    emulator.script(["Made by hand, for slow mornings."])
    chunks = openai_stream(client, chat(stream_options={"include_usage": True}))
    deltas = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0]["delta"].get("content")]
    assert len(deltas) == chunks[-1]["usage"]["completion_tokens"] > 3


def record_requests(emulator: Emulator) -> list[ModelRequest]:
    """Return a list to which the emulator appends every model request."""
    recorded: list[ModelRequest] = []

    def record(request: ModelRequest) -> str:
        recorded.append(request)
        return "Noted."

    emulator.rule(lambda request: True, record)
    return recorded


def test_both_routes_translate_a_conversation_to_the_same_request(
    emulator: Emulator, client: httpx.Client
) -> None:
    recorded = record_requests(emulator)
    image = io.BytesIO()
    Image.new("RGB", (30, 20)).save(image, "PNG")
    data = base64.b64encode(image.getvalue()).decode()
    client.post(
        "/v1/chat/completions",
        json={
            "model": "piccc-pro",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "c1",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            ],
            "tools": [OPENAI_TOOL],
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            "parallel_tool_calls": False,
            "stop": ["END"],
            "max_completion_tokens": 40,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER}},
        },
    ).raise_for_status()
    client.post(
        "/v1/messages",
        json={
            "model": "piccc-pro",
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is this?"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": data},
                        },
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "Rome"}}
                    ],
                },
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}],
                },
            ],
            "tools": [ANTHROPIC_TOOL],
            "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
            "stop_sequences": ["END"],
            "max_tokens": 40,
            "output_config": {"format": {"type": "json_schema", "schema": WEATHER}},
        },
    ).raise_for_status()
    assert recorded[0] == recorded[1]
    medium = recorded[0].turns[1].media[0]
    assert (medium.mime_type, medium.size, medium.width, medium.height) == (
        "image/png",
        len(image.getvalue()),
        30,
        20,
    )
    assert recorded[0].turns[3].call_id == "c1"


def test_files_and_audio_are_recognized_and_urls_are_not_fetched(
    emulator: Emulator, client: httpx.Client
) -> None:
    recorded = record_requests(emulator)
    data = base64.b64encode(b"%PDF-1.7").decode()
    parts = [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{data}"}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "image_url", "image_url": {"url": "https://example.invalid/image.webp?x=1"}},
        {"type": "image_url", "image_url": {"url": "https://[no-host/image.png"}},
    ]
    client.post(
        "/v1/chat/completions", json=chat(messages=[{"role": "user", "content": parts}])
    ).raise_for_status()
    media = [
        (medium.kind, medium.mime_type, medium.size, medium.name) for medium in recorded[0].turns[0].media
    ]
    assert media == [
        ("file", "application/pdf", 8, "a.pdf"),
        ("audio", "audio/wav", 8, None),
        ("image", "image/webp", None, "image.webp"),
        ("image", "image/png", None, "image.png"),
    ]


def test_logprobs_are_returned_for_each_token_on_request(emulator: Emulator, client: httpx.Client) -> None:
    emulator.script(["One two."])
    logprobs = client.post("/v1/chat/completions", json=chat(logprobs=True)).json()["choices"][0]["logprobs"]
    assert "".join(item["token"] for item in logprobs["content"]) == "One two."


def test_scripted_replies_come_first_and_then_the_model_answers(
    emulator: Emulator, client: httpx.Client
) -> None:
    emulator.script(
        ["one", Scripted("two", finish_reason="length"), lambda request: f"you said {request.turns[-1].text}"]
    )
    replies = [client.post("/v1/chat/completions", json=chat("hello")).json()["choices"][0] for _ in range(4)]
    assert [response["message"]["content"] for response in replies[:3]] == ["one", "two", "you said hello"]
    assert [response["finish_reason"] for response in replies[:3]] == ["stop", "length", "stop"]
    assert replies[3]["message"]["content"] not in ("one", "two", "you said hello")


def test_a_rule_precedes_the_script_until_it_is_cleared(emulator: Emulator, client: httpx.Client) -> None:
    emulator.script(["scripted"])
    emulator.rule(lambda request: "weather" in request.turns[-1].text, "It rains.")

    def ask(text: str) -> str:
        return str(client.post("/v1/messages", json=message(text)).json()["content"][0]["text"])

    assert [ask("weather?"), ask("hello"), ask("weather again")] == ["It rains.", "scripted", "It rains."]
    emulator.clear()
    assert ask("weather?") != "It rains."


def test_a_lone_surrogate_is_rejected(client: httpx.Client) -> None:
    body = b'{"model": "piccc-pro", "messages": [{"role": "user", "content": "\\ud83d"}]}'
    assert client.post("/v1/chat/completions", content=body).status_code == 400
    body = body.replace(b"ud83d", b"ud83d\\udc4d")
    assert client.post("/v1/chat/completions", content=body).status_code == 200


@pytest.mark.parametrize(
    ("finish", "stop"), [("length", "max_tokens"), ("content_filter", "refusal"), ("stop", "end_turn")]
)
def test_finish_reasons_are_translated_for_each_route(
    emulator: Emulator, client: httpx.Client, finish: Any, stop: str
) -> None:
    reply = Scripted("Well", finish_reason=finish)
    emulator.script([reply, reply])
    assert client.post("/v1/chat/completions", json=chat()).json()["choices"][0]["finish_reason"] == finish
    assert client.post("/v1/messages", json=message()).json()["stop_reason"] == stop
