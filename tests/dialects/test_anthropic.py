"""The Anthropic dialect: requests as its SDK speaks them, replies and streams read tolerantly."""

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


def test_a_plain_request_has_what_the_route_demands() -> None:
    assert encode(Message("user", [Text("hi")])) == {
        "model": "piccc-pro",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
    }


def test_every_option_has_its_place() -> None:
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
    ("choice", "written"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        (NamedTool("look"), {"type": "tool", "name": "look"}),
    ],
)
def test_a_choice_of_tool_is_a_word_or_a_name(choice: Any, written: Any) -> None:
    assert encode(Message("user", [Text("hi")]), tools=[LOOK], tool_choice=choice)["tool_choice"] == written


def test_an_answer_in_json_is_asked_for_with_and_without_a_schema() -> None:
    schema = JSONSchema({"type": "object"})
    assert "JSON" in encode(Message("user", [Text("hi")]), response_format="json")["system"]
    written = encode(Message("user", [Text("hi")]), response_format=schema)["output_config"]
    assert written == {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("effort", "limit", "written"),
    [
        ("none", None, {"type": "disabled"}),
        ("low", None, {"type": "enabled", "budget_tokens": 1024}),
        ("high", None, {"type": "enabled", "budget_tokens": 12288}),
        ("high", 4096, {"type": "enabled", "budget_tokens": 2048}),
    ],
)
def test_effort_is_a_budget_that_leaves_room_for_the_answer(
    effort: str, limit: int | None, written: dict[str, Any]
) -> None:
    body = encode(Message("user", [Text("hi")]), reasoning_effort=effort, max_tokens=limit)
    assert body["thinking"] == written


@pytest.mark.parametrize(
    ("part", "written"),
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
def test_content_of_every_kind_is_written(part: Any, written: dict[str, Any]) -> None:
    assert sent(Text("see"), part) == [{"type": "text", "text": "see"}, written]


def test_what_this_dialect_cannot_carry_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UnsupportedContentError):
        sent(Audio("QUJD", "wav"))
    with pytest.raises(InvalidArgumentError):
        sent(File(data="no base64!", media_type="text/plain"))


def test_a_cache_point_marks_what_stands_before_it() -> None:
    assert sent(CachePoint(), Text("a"), CachePoint("1h"), Text("b"))[0] == {
        "type": "text",
        "text": "a",
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
    }
    system = encode(Message("system", [Text("long"), CachePoint()]), Message("user", [Text("hi")]))["system"]
    assert system == [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]


def test_results_of_parallel_calls_stand_in_one_turn() -> None:
    calls = Message("assistant", [ToolCall("a", "look", '{"at": 1}'), ToolCall("b", "look", "")])
    results = [
        Message("tool", [Text("one")], tool_call_id="a"),
        Message("tool", [Text("two"), Image(url="https://a.test/b.png")], tool_call_id="b", is_error=True),
    ]
    messages = encode(Message("user", [Text("hi")]), calls, *results, Message("user", [Text("so?")]))[
        "messages"
    ]
    assert [each["role"] for each in messages] == ["user", "assistant", "user"]
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
    ("replay", "signed", "goes"),
    [(None, True, True), (None, False, False), (True, False, False), (False, True, False)],
)
def test_signed_reasoning_goes_back_unless_it_is_told_not_to(
    replay: bool | None, signed: bool, goes: bool
) -> None:
    turn = Message("assistant", [Reasoning("hm", "sig" if signed else None), Text("yes")])
    asked = Message("user", [Text("?")])
    written = encode(asked, turn, replay_reasoning=replay)["messages"][1]["content"]
    assert (isinstance(written, list) and written[0]["type"] == "thinking") is goes


THOUGHTS = [
    {"type": "thinking", "thinking": "hm, 😀", "signature": "c2ln"},
    {"type": "redacted_thinking", "data": "c2VjcmV0"},
    {"type": "text", "text": "yes"},
    {"type": "tool_use", "id": "a", "name": "look", "input": {"at": "it"}},
]


def test_thinking_survives_a_round_trip_whole_and_streamed() -> None:
    reply = DIALECT.decode({"content": THOUGHTS, "stop_reason": "tool_use"})
    asked = Message("user", [Text("?")])
    assert encode(asked, reply.message)["messages"][1]["content"] == THOUGHTS
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
    assert encode(asked, streamed.message)["messages"][1]["content"] == THOUGHTS


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
def test_stop_reasons_are_the_neutral_ones(word: str, neutral: str) -> None:
    assert DIALECT.decode({"content": [], "stop_reason": word}).finish_reason == neutral


@pytest.mark.parametrize("payload", [{}, [], None, "x", {"content": "x"}, {"type": "error", "error": {}}])
def test_what_is_no_reply_is_a_typed_error(payload: Any) -> None:
    with pytest.raises(ResponseError):
        DIALECT.decode(payload)


def test_usage_is_put_together_from_both_ends_of_the_stream() -> None:
    message = {"id": "msg_1", "model": "m", "usage": {"input_tokens": 3, "cache_read_input_tokens": 2}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}
    _, reply = read({"type": "message_start", "message": message}, end, STOP)
    assert reply.usage == Usage(5, 7, 2)
    assert (reply.id, reply.model, reply.finish_reason) == ("msg_1", "m", "stop")


def test_interleaved_calls_are_told_apart() -> None:
    deltas, reply = read(
        start(1, type="tool_use", id="a", name="look", input={}),
        start(2, type="tool_use", id="b", name="look", input={}),
        delta(2, type="input_json_delta", partial_json="2"),
        delta(1, type="input_json_delta", partial_json="1"),
        delta(1, type="input_json_delta", partial_json="1"),
        STOP,
    )
    assert [(each.id, each.name, each.arguments) for each in reply.invalid_calls] == [
        ("a", "look", "11"),
        ("b", "look", "2"),
    ]
    assert [each.index for each in deltas] == [0, 1, 1, 0, 0]


@pytest.mark.parametrize("kind", ["text", "thinking"])
def test_a_character_cut_in_half_by_two_events_is_whole_again(kind: str) -> None:
    halves = [json.dumps(delta(0, type=f"{kind}_delta", **{kind: half})) for half in ("a\ud83d", "\ude00b")]
    _, reply = read(start(0, type=kind), *halves, STOP)
    assert reply.text + reply.reasoning == "a😀b"
    _, reply = read(start(0, type=kind), halves[0], STOP)
    assert reply.text + reply.reasoning == "a\ufffd"


def test_unknown_blocks_pass_through_and_unknown_events_are_let_be() -> None:
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
def test_nonsense_and_errors_are_typed_errors(data: str) -> None:
    with pytest.raises(StreamError):
        read(data)


def test_message_stop_alone_proves_that_the_answer_is_whole() -> None:
    reader = DIALECT.reader()
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    reader.feed([Event("message_delta", json.dumps(end))])
    assert not reader.is_complete
    reader.feed([Event("message_stop", "{}")])
    assert reader.is_complete
    assert reader.is_done
