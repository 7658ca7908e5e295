"""The Anthropic dialect: requests like those of its SDK; replies and streams are read leniently."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from piccc._dialects.anthropic import AnthropicDialect
from piccc._dialects.reader import Event
from piccc.conversation import (
    Audio,
    CachePoint,
    ChatReply,
    ChatRequest,
    File,
    Image,
    JSONSchema,
    Message,
    NamedTool,
    Raw,
    RawDelta,
    Reasoning,
    Refusal,
    Source,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from piccc.errors import InvalidArgumentError, ResponseError, StreamError, UnsupportedContentError

DIALECT = AnthropicDialect()
PDF = b64encode(b"%PDF-1.7").decode()
LOOK = Tool("look", "Look.", {"type": "object", "properties": {"at": {"type": "string"}}})


def encode(*messages: Message, **options: Any) -> dict[str, Any]:
    return DIALECT.encode(ChatRequest(model="piccc-pro", messages=messages, **options), stream=False).body


def sent(*parts: Any, role: Any = "user") -> Any:
    return encode(Message(role, list(parts)))["messages"][0]["content"]


def read(*events: Any) -> tuple[list[Any], ChatReply]:
    reader = DIALECT.reader()
    deltas: list[Any] = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        deltas += reader.feed([Event("message", data)])
    deltas += reader.finish()
    return deltas, reader.reply()


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


STOP = {"type": "message_stop"}


def test_a_plain_request_has_the_required_fields() -> None:
    assert encode(Message("user", [Text("hi")])) == {
        "model": "piccc-pro",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
    }


def test_every_option_is_sent_in_its_field() -> None:
    body = encode(
        Message("system", [Text("Be kind.")]),
        Message("user", [Text("hi")]),
        tools=[LOOK],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0.0,
        top_p=0.5,
        max_tokens=9,
        stop=["x"],
        extra_body={"mood": "good"},
    )
    expected = {
        "system": "Be kind.",
        "max_tokens": 9,
        "temperature": 0.0,
        "top_p": 0.5,
        "stop_sequences": ["x"],
        "tools": [{"name": "look", "description": "Look.", "input_schema": LOOK.parameters}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "mood": "good",
    }
    assert {name: body[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        (NamedTool("look"), {"type": "tool", "name": "look"}),
    ],
)
def test_a_tool_choice_is_a_mode_or_a_tool_name(choice: Any, expected: Any) -> None:
    assert encode(Message("user", [Text("hi")]), tools=[LOOK], tool_choice=choice)["tool_choice"] == expected


def test_json_answers_are_requested_with_and_without_a_schema() -> None:
    schema = JSONSchema({"type": "object"})
    assert "JSON" in encode(Message("user", [Text("hi")]), response_format="json")["system"]
    config = encode(Message("user", [Text("hi")]), response_format=schema)["output_config"]
    assert config == {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("effort", "limit", "expected"),
    [
        ("none", None, {"type": "disabled"}),
        ("low", None, {"type": "enabled", "budget_tokens": 1024}),
        ("high", None, {"type": "enabled", "budget_tokens": 12288}),
        ("high", 4096, {"type": "enabled", "budget_tokens": 2048}),
    ],
)
def test_reasoning_effort_is_a_budget_that_leaves_room_for_the_answer(
    effort: str, limit: int | None, expected: dict[str, Any]
) -> None:
    body = encode(Message("user", [Text("hi")]), reasoning_effort=effort, max_tokens=limit)
    assert body["thinking"] == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            Image(url="https://a.test/b.png"),
            {"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}},
        ),
        (
            Image(url="data:image/gif;base64,QUJD"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/gif", "data": "QUJD"}},
        ),
        (
            Image(data="QUJD", media_type="image/jpeg"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}},
        ),
        (
            File(data=PDF, name="a.pdf"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                "title": "a.pdf",
            },
        ),
        (
            File(data=b64encode("grüße".encode()).decode(), media_type="text/plain"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "grüße"}},
        ),
        (
            File(url="https://a.test/b.pdf"),
            {"type": "document", "source": {"type": "url", "url": "https://a.test/b.pdf"}},
        ),
        (File(file_id="file-1"), {"type": "document", "source": {"type": "file", "file_id": "file-1"}}),
        (
            Source("text", "title", "https://a.test"),
            {
                "type": "search_result",
                "source": "https://a.test",
                "title": "title",
                "content": [{"type": "text", "text": "text"}],
            },
        ),
        (Raw({"type": "novel", "a": 1}), {"type": "novel", "a": 1}),
        (Refusal("no"), {"type": "text", "text": "no"}),
    ],
)
def test_every_kind_of_content_is_encoded(part: Any, expected: dict[str, Any]) -> None:
    assert sent(Text("see"), part) == [{"type": "text", "text": "see"}, expected]


def test_unsupported_content_is_rejected_before_sending() -> None:
    with pytest.raises(UnsupportedContentError):
        sent(Audio("QUJD", "wav"))
    with pytest.raises(InvalidArgumentError):
        sent(File(data="no base64!", media_type="text/plain"))


def test_a_cache_point_marks_the_part_before_it() -> None:
    assert sent(CachePoint(), Text("a"), CachePoint("1h"), Text("b"))[0] == {
        "type": "text",
        "text": "a",
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
    }
    system = encode(Message("system", [Text("long"), CachePoint()]), Message("user", [Text("hi")]))["system"]
    assert system == [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]


def test_results_of_parallel_calls_share_one_turn() -> None:
    calls = Message("assistant", [ToolCall("a", "look", '{"at": 1}'), ToolCall("b", "look", "")])
    results = [
        Message("tool", [Text("one")], tool_call_id="a"),
        Message("tool", [Text("two"), Image(url="https://a.test/b.png")], tool_call_id="b", is_error=True),
    ]
    messages = encode(Message("user", [Text("hi")]), calls, *results, Message("user", [Text("so?")]))[
        "messages"
    ]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == [
        {"type": "tool_use", "id": "a", "name": "look", "input": {"at": 1}},
        {"type": "tool_use", "id": "b", "name": "look", "input": {}},
    ]
    one, two, text = messages[2]["content"]
    assert (one["tool_use_id"], two["tool_use_id"]) == ("a", "b")
    assert two["is_error"] is True
    assert two["content"][1]["type"] == "image"
    assert text == {"type": "text", "text": "so?"}


@pytest.mark.parametrize(
    ("replay", "signed", "is_sent"),
    [(None, True, True), (None, False, False), (True, False, False), (False, True, False)],
)
def test_signed_reasoning_is_replayed_unless_disabled(
    replay: bool | None, signed: bool, is_sent: bool
) -> None:
    turn = Message("assistant", [Reasoning("hm", "sig" if signed else None), Text("yes")])
    question = Message("user", [Text("?")])
    content = encode(question, turn, replay_reasoning=replay)["messages"][1]["content"]
    assert (isinstance(content, list) and content[0]["type"] == "thinking") is is_sent


THOUGHTS = [
    {"type": "thinking", "thinking": "hm, 😀", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "c2VjcmV0"},
    {"type": "text", "text": "yes"},
    {"type": "tool_use", "id": "a", "name": "look", "input": {"at": "it"}},
]


def test_thinking_survives_a_round_trip_whole_and_streamed() -> None:
    reply = DIALECT.decode({"content": THOUGHTS, "stop_reason": "tool_use"})
    question = Message("user", [Text("?")])
    assert encode(question, reply.message)["messages"][1]["content"] == THOUGHTS
    _, streamed = read(
        start(0, type="thinking", thinking="", signature=""),
        delta(0, type="thinking_delta", thinking="hm, "),
        delta(0, type="thinking_delta", thinking="😀"),
        delta(0, type="signature_delta", signature="c2"),
        delta(0, type="signature_delta", signature="ln"),
        start(1, **THOUGHTS[1]),
        start(2, type="text", text=""),
        delta(2, type="text_delta", text="yes"),
        start(3, type="tool_use", id="a", name="look", input={}),
        delta(3, type="input_json_delta", partial_json='{"at": "it"}'),
        STOP,
    )
    assert encode(question, streamed.message)["messages"][1]["content"] == THOUGHTS


def test_a_reply_is_read_with_all_its_parts() -> None:
    usage = {
        "input_tokens": 2,
        "output_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 3,
    }
    reply = DIALECT.decode(
        {
            "id": "msg_1",
            "model": "m",
            "content": [*THOUGHTS, {"type": "novel"}],
            "stop_reason": "max_tokens",
            "usage": usage,
        }
    )
    assert reply.text == "yes"
    assert reply.reasoning == "hm, 😀"
    assert reply.tool_calls == [ToolCall("a", "look", '{"at": "it"}')]
    assert reply.parts[-1] == Raw({"type": "novel"})
    assert reply.finish_reason == "length"
    assert reply.usage == Usage(9, 5, 4, 3)


@pytest.mark.parametrize(
    ("word", "neutral"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("novel_reason", "novel_reason"),
    ],
)
def test_stop_reasons_are_mapped_to_neutral_ones(word: str, neutral: str) -> None:
    assert DIALECT.decode({"content": [], "stop_reason": word}).finish_reason == neutral


@pytest.mark.parametrize("payload", [{}, [], None, "x", {"content": "x"}, {"type": "error", "error": {}}])
def test_an_invalid_reply_is_a_typed_error(payload: Any) -> None:
    with pytest.raises(ResponseError):
        DIALECT.decode(payload)


def test_usage_is_combined_from_the_start_and_end_of_the_stream() -> None:
    message = {"id": "msg_1", "model": "m", "usage": {"input_tokens": 3, "cache_read_input_tokens": 2}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
    _, reply = read({"type": "message_start", "message": message}, end, STOP)
    assert reply.usage == Usage(5, 7, 2)
    assert (reply.id, reply.model, reply.finish_reason) == ("msg_1", "m", "stop")


def test_interleaved_calls_are_kept_apart() -> None:
    deltas, reply = read(
        start(1, type="tool_use", id="a", name="look", input={}),
        start(2, type="tool_use", id="b", name="look", input={}),
        delta(2, type="input_json_delta", partial_json="2"),
        delta(1, type="input_json_delta", partial_json="1"),
        delta(1, type="input_json_delta", partial_json="1"),
        STOP,
    )
    assert [(call.id, call.name, call.arguments) for call in reply.invalid_calls] == [
        ("a", "look", "11"),
        ("b", "look", "2"),
    ]
    assert [part.index for part in deltas] == [0, 1, 1, 0, 0]


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_a_surrogate_pair_split_across_two_events_is_joined(kind: str) -> None:
    halves = [json.dumps(delta(0, type=f"{kind}_delta", **{kind: half})) for half in ("a\ud83d", "\ude00b")]
    _, reply = read(start(0, type=kind), *halves, STOP)
    assert reply.text + reply.reasoning == "a😀b"
    _, reply = read(start(0, type=kind), halves[0], STOP)
    assert reply.text + reply.reasoning == "a\ufffd"


def test_unknown_blocks_pass_through_and_unknown_events_are_ignored() -> None:
    block = {"type": "novel", "a": 1}
    deltas, reply = read(
        {"type": "ping"},
        {"type": "novel_event"},
        {"no": "type"},
        start(0, **block),
        delta(0, type="novel_delta"),
        delta(7, type="input_json_delta", partial_json="1"),
        STOP,
    )
    assert deltas == [RawDelta(block, 0)]
    assert reply.parts == [Raw(block)]


@pytest.mark.parametrize("data", ["{", "[1]", "7", "null", '{"type": "error", "error": {"message": "no"}}'])
def test_invalid_events_and_server_errors_are_typed_errors(data: str) -> None:
    with pytest.raises(StreamError):
        read(data)


@pytest.mark.parametrize("last", [Event("message_stop", "{}"), Event("message", "[DONE]")])
def test_only_the_last_event_proves_that_the_answer_is_complete(last: Event) -> None:
    reader = DIALECT.reader()
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    reader.feed([Event("message_delta", json.dumps(end))])
    assert not reader.is_complete
    reader.feed([last])
    assert reader.is_complete
    assert reader.is_done
