"""The OpenAI dialect: requests like those of its SDKs; replies and streams are read leniently."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from piccc._dialects.openai import OpenAIDialect
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
    Reasoning,
    ReasoningDelta,
    Refusal,
    Source,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from piccc.errors import ResponseError, StreamError, UnsupportedContentError

DIALECT = OpenAIDialect()
PDF = b64encode(b"%PDF-1.7").decode()
LOOK = Tool("look", "Look.", {"type": "object", "properties": {"at": {"type": "string"}}})


def encode(*messages: Message, stream: bool = False, **options: Any) -> dict[str, Any]:
    return DIALECT.encode(ChatRequest(model="piccc-pro", messages=messages, **options), stream=stream).body


def sent(*parts: Any, role: Any = "user") -> Any:
    return encode(Message(role, list(parts)))["messages"][0]["content"]


def reply_with(message: dict[str, Any], **more: Any) -> ChatReply:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return DIALECT.decode({"id": "chatcmpl-1", "model": "piccc-pro", "choices": [choice], **more})


def read(*chunks: Any) -> tuple[list[Any], ChatReply]:
    """Read a stream of chunks, given as JSON text or as values."""
    reader = DIALECT.reader()
    deltas: list[Any] = []
    for chunk in chunks:
        data = chunk if isinstance(chunk, str) else json.dumps(chunk)
        deltas += reader.feed([Event("message", data)])
    deltas += reader.finish()
    return deltas, reader.reply()


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }


def call(arguments: str = "", **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": fields.pop("name")} if "name" in fields else {})}
    return chunk(tool_calls=[{"type": "function", "function": function, **fields}])


def test_a_plain_request_has_no_optional_fields() -> None:
    assert encode(Message("user", [Text("hi")])) == {
        "model": "piccc-pro",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
    }


def test_a_stream_requests_its_usage() -> None:
    body = encode(Message("user", [Text("hi")]), stream=True)
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}


def test_every_option_is_sent_in_its_field() -> None:
    body = encode(
        Message("user", [Text("hi")]),
        tools=[LOOK],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0.0,
        top_p=0.5,
        max_tokens=9,
        stop=["x"],
        seed=7,
        reasoning_effort="low",
        extra_body={"mood": "good", "top_p": 0.25},
    )
    assert body["tools"][0]["function"] == {
        "name": "look",
        "description": "Look.",
        "parameters": LOOK.parameters,
    }
    expected = {
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0.0,
        "top_p": 0.25,
        "max_tokens": 9,
        "stop": ["x"],
        "seed": 7,
        "reasoning_effort": "low",
        "mood": "good",
    }
    assert {name: body[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        (NamedTool("look"), {"type": "function", "function": {"name": "look"}}),
    ],
)
def test_a_tool_choice_is_a_mode_or_a_tool_name(choice: Any, expected: Any) -> None:
    assert encode(Message("user", [Text("hi")]), tools=[LOOK], tool_choice=choice)["tool_choice"] == expected


def test_a_tool_is_sent_with_its_strictness_and_extra_fields() -> None:
    tool = Tool("look", strict=True, extra={"cache": True})
    sent_tool = encode(Message("user", [Text("hi")]), tools=[tool])["tools"][0]
    assert sent_tool["function"]["strict"] is True
    assert sent_tool["cache"] is True


def test_json_answers_are_requested_with_and_without_a_schema() -> None:
    schema = JSONSchema({"type": "object"}, name="thing", strict=True, description="A thing.")
    assert encode(Message("user", [Text("hi")]), response_format="json")["response_format"] == {
        "type": "json_object"
    }
    assert encode(Message("user", [Text("hi")]), response_format=schema)["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "thing",
            "schema": {"type": "object"},
            "description": "A thing.",
            "strict": True,
        },
    }


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            Image(url="https://a.test/b.png"),
            {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
        ),
        (
            Image(data="QUJD", media_type="image/jpeg", detail="low"),
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD", "detail": "low"}},
        ),
        (
            File(data=PDF, name="a.pdf"),
            {
                "type": "file",
                "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
            },
        ),
        (File(file_id="file-1"), {"type": "file", "file": {"file_id": "file-1"}}),
        (Audio("QUJD", "wav"), {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}}),
        (Source("text", "title", "https://a.test"), {"type": "text", "text": "title\nhttps://a.test\ntext"}),
        (Raw({"type": "novel", "a": 1}), {"type": "novel", "a": 1}),
    ],
)
def test_every_kind_of_content_is_encoded(part: Any, expected: dict[str, Any]) -> None:
    assert sent(Text("see"), part, CachePoint()) == [{"type": "text", "text": "see"}, expected]


@pytest.mark.parametrize("part", [File(url="https://a.test/b.pdf"), ToolCall("1", "look")])
def test_unsupported_content_is_rejected_before_sending(part: Any) -> None:
    with pytest.raises(UnsupportedContentError):
        sent(Text("see"), part)


def test_an_assistant_turn_is_replayed_without_its_reasoning() -> None:
    turn = Message("assistant", [Reasoning("hm"), Text("I look."), ToolCall("c1", "look", '{"at": "it"}')])
    body = encode(turn, Message("tool", [Text("seen")], tool_call_id="c1"))
    assert body["messages"] == [
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
    ]


@pytest.mark.parametrize(("replay", "is_sent"), [(None, False), (False, False), (True, True)])
def test_reasoning_is_replayed_only_if_enabled(replay: bool | None, is_sent: bool) -> None:
    turn = Message("assistant", [Reasoning("hm"), Text("yes")])
    message = encode(turn, replay_reasoning=replay)["messages"][0]
    assert (message.get("reasoning_content") == "hm") is is_sent


def test_a_refusal_is_replayed_as_a_refusal() -> None:
    assert sent(Refusal("no"), role="assistant") == [{"type": "refusal", "refusal": "no"}]


def test_images_in_a_tool_result_follow_in_a_user_turn() -> None:
    calls = Message("assistant", [ToolCall("c1", "look"), ToolCall("c2", "look")])
    first = Message("tool", [Text("here"), Image(url="https://a.test/b.png")], tool_call_id="c1")
    second = Message("tool", [Text("there")], tool_call_id="c2")
    messages = encode(calls, first, second, Message("user", [Text("and?")]))["messages"]
    assert [message["role"] for message in messages] == ["assistant", "tool", "tool", "user", "user"]
    assert messages[3]["content"][0]["type"] == "image_url"


def test_a_reply_is_read_with_all_its_parts() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}},
        {"id": "c2", "type": "function", "function": {"name": "look", "arguments": ""}},
    ]
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 2},
    }
    reply = reply_with(
        {"reasoning_content": "hm", "content": "I look.", "refusal": "no", "tool_calls": calls},
        usage=usage,
        system_fingerprint="fp",
    )
    assert reply.parts == [
        Reasoning("hm"),
        Text("I look."),
        Refusal("no"),
        ToolCall("c1", "look", '{"at": "it"}'),
        ToolCall("c2", "look", "{}"),
    ]
    assert reply.usage == Usage(9, 5, 4, 0, 3, 1, 2)
    assert reply.extra == {"system_fingerprint": "fp"}
    assert reply.raw["usage"] == usage


@pytest.mark.parametrize(
    "message",
    [
        {"content": None, "tool_calls": None, "refusal": None},
        {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "tool_calls": 7},
        {"content": {"odd": 1}, "tool_calls": ["odd", {"function": "odd"}]},
    ],
)
def test_malformed_replies_are_read_as_far_as_possible(message: dict[str, Any]) -> None:
    reply = reply_with(
        message, usage={"prompt_tokens": None, "completion_tokens": "9", "prompt_tokens_details": []}
    )
    assert reply.text in ("", "ab")
    assert reply.usage == Usage()


def test_calls_with_missing_or_duplicate_ids_get_unique_ones() -> None:
    calls = [{"id": id, "function": {"name": "look", "arguments": {"a": 1}}} for id in ("c", "c", None, 7)]
    reply = reply_with({"tool_calls": calls})
    ids = [call.id for call in reply.tool_calls]
    assert ids[0] == "c"
    assert ids[3] == "7"
    assert len(set(ids)) == 4
    assert all(ids)
    assert reply.tool_calls[0].parse() == {"a": 1}


@pytest.mark.parametrize(
    "payload", [{}, [], None, "x", {"choices": []}, {"choices": [{"index": 0}]}, {"error": "no"}]
)
def test_an_invalid_reply_is_a_typed_error(payload: Any) -> None:
    with pytest.raises(ResponseError):
        DIALECT.decode(payload)


def test_a_stream_is_assembled_into_the_complete_reply() -> None:
    deltas, reply = read(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="h"),
        chunk(reasoning_content="m"),
        chunk(content="I "),
        chunk(content="look."),
        call(id="c1", index=0, name="look"),
        call('{"at":', index=0),
        call(' "it"}', index=0),
        chunk("tool_calls"),
        {"id": "1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}},
        "[DONE]",
    )
    assert reply.parts == [Reasoning("hm"), Text("I look."), ToolCall("c1", "look", '{"at": "it"}')]
    assert reply.finish_reason == "tool_calls"
    assert reply.usage == Usage(9, 5)
    assert deltas[:4] == [
        ReasoningDelta("h", 0),
        ReasoningDelta("m", 0),
        TextDelta("I ", 1),
        TextDelta("look.", 1),
    ]


PARALLEL: dict[str, list[dict[str, Any]]] = {
    "by index": [
        call(id="a", index=0, name="look"),
        call(id="b", index=1, name="look"),
        call("1", index=0),
        call("2", index=1),
        call("1", index=0),
    ],
    "an index as a string": [
        call(id="a", index="0", name="look"),
        call("11", index="0"),
        call(id="b", index="1", name="look"),
        call("2", index="1"),
    ],
    "no index": [call(id="a", name="look"), call("1"), call("1"), call(id="b", name="look"), call("2")],
    "every index 0": [
        call(id="a", index=0, name="look"),
        call("11", index=0),
        call(id="b", index=0, name="look"),
        call("2", index=0),
    ],
    "the id repeated with each piece": [
        call("1", id="a", index=0, name="look"),
        call("2", id="b", index=1, name="look"),
        call("1", id="a", index=0),
    ],
    "the id and the name repeated with each piece": [
        call("1", id="a", index=0, name="look"),
        call("1", id="a", index=0, name="look"),
        call("2", id="b", index=1, name="look"),
    ],
    "both in one chunk": [
        chunk(
            tool_calls=[
                {"index": 0, "id": "a", "function": {"name": "look", "arguments": "11"}},
                {"index": 1, "id": "b", "function": {"name": "look", "arguments": "2"}},
            ]
        )
    ],
    "the name after the arguments": [
        call("1", id="a", index=0),
        call("1", index=0, name="look"),
        call("2", id="b", index=1, name="look"),
    ],
    "empty ids and names in later pieces": [
        call(id="a", index=0, name="look"),
        call("11", id="", index=0, name=""),
        call(id="b", index=1, name="look"),
        call("2", id="", index=1, name=""),
    ],
}


@pytest.mark.parametrize("chunks", PARALLEL.values(), ids=PARALLEL)
def test_parallel_calls_are_kept_apart(chunks: list[dict[str, Any]]) -> None:
    deltas, reply = read(*chunks, chunk("tool_calls"))
    assert [(invalid.id, invalid.name, invalid.arguments) for invalid in reply.invalid_calls] == [
        ("a", "look", "11"),
        ("b", "look", "2"),
    ]
    first_deltas = [delta for delta in deltas if delta.name is not None]
    assert [(delta.index, delta.id) for delta in first_deltas] == [(0, "a"), (1, "b")]
    for index, arguments in enumerate(["11", "2"]):
        assert "".join(delta.arguments for delta in deltas if delta.index == index) == arguments


def test_streamed_calls_without_ids_get_unique_ones() -> None:
    _, reply = read(
        call(index=0, name="look"), call("{}", index=0), call(index=1, name="look"), chunk("stop")
    )
    assert len({call.id for call in reply.tool_calls}) == 2
    assert [call.arguments for call in reply.tool_calls] == ["{}", "{}"]


def test_a_surrogate_pair_split_across_two_chunks_is_joined() -> None:
    halves = ['{"content": "a\\ud83d"}', '{"content": "\\ude00b"}']
    chunks = [f'{{"id": "1", "choices": [{{"index": 0, "delta": {half}}}]}}' for half in halves]
    deltas, reply = read(*chunks, chunk("stop"))
    assert reply.text == "a😀b"
    assert [delta.text for delta in deltas] == ["a", "😀b"]


@pytest.mark.parametrize(
    ("field", "read_back"),
    [
        ('"content": "a\\ud83d"', "a\ufffd"),
        ('"reasoning_content": "a\\ud83d"', "a\ufffd"),
        ('"refusal": "a\\ud83d"', "a\ufffd"),
        ('"content": "\\ude00a"', "\ufffda"),
    ],
)
def test_a_lone_half_of_a_surrogate_pair_is_replaced(field: str, read_back: str) -> None:
    _, reply = read(f'{{"id": "1", "choices": [{{"delta": {{{field}}}}}]}}', chunk("stop"))
    assert reply.text + reply.reasoning + reply.refusal == read_back


def test_a_surrogate_pair_split_within_arguments_is_joined() -> None:
    function = ['{"name": "look", "arguments": "\\ud83d"}', '{"arguments": "\\ude00"}']
    pieces = [
        f'{{"choices": [{{"delta": {{"tool_calls": [{{"index": 0, "function": {piece}}}]}}}}]}}'
        for piece in function
    ]
    deltas, reply = read(*pieces, chunk("tool_calls"))
    assert reply.invalid_calls[0].arguments == "😀"
    assert deltas[0] == ToolCallDelta(0, "", reply.invalid_calls[0].id, "look", 3)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({"error": {"message": "no", "code": "x"}}, "x"),
        ({"error": {"message": "no", "type": "y"}}, "y"),
        ({"error": "no"}, None),
        ({"type": "error", "message": "no"}, "error"),
    ],
)
def test_an_error_ends_the_stream_with_the_servers_message(data: Any, code: str | None) -> None:
    with pytest.raises(StreamError, match="ended the stream: no") as caught:
        read(chunk(content="a"), data)
    assert caught.value.code == code


@pytest.mark.parametrize("data", ["{", "[1]", "7", "null", "nonsense", "[" * 5000])
def test_an_invalid_chunk_is_a_typed_error(data: str) -> None:
    with pytest.raises(StreamError):
        read(data)


def test_a_finish_reason_or_done_proves_that_the_answer_is_complete() -> None:
    for proof in (json.dumps(chunk("stop")), "[DONE]"):
        reader = DIALECT.reader()
        reader.feed([Event("message", json.dumps(chunk(content="a")))])
        assert not reader.is_complete
        reader.feed([Event("message", proof)])
        assert reader.is_complete
        assert reader.is_done is (proof == "[DONE]")


def test_log_probabilities_are_kept() -> None:
    piece = chunk(content="a")
    piece["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.1}]}
    _, reply = read(piece, piece, chunk("stop"))
    assert len(reply.extra["logprobs"]["content"]) == 2
