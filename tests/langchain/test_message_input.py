"""Every message format is converted and sent in both dialects."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_piccc._requests import to_messages, to_parts
from piccc.conversation import (
    Audio,
    CachePoint,
    File,
    Image,
    InvalidToolCall,
    Message,
    Raw,
    Reasoning,
    Refusal,
    Source,
    Text,
    ToolCall,
)
from piccc.errors import InvalidArgumentError, UnsupportedContentError
from tests.langchain.replay import Replay, completion, json_response

URL = "https://files.test/a.png"
PNG = Image(data="aGk=", media_type="image/png")
BLOCKS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "text", "text": "a"}, Text("a")),
    ({"text": "a"}, Text("a")),
    ({"type": "image_url", "image_url": {"url": URL, "detail": "low"}}, Image(URL, detail="low")),
    ({"type": "image_url", "image_url": URL}, Image(URL)),
    ({"type": "image", "url": URL}, Image(URL)),
    ({"type": "image", "base64": "aGk=", "mime_type": "image/png"}, PNG),
    ({"type": "image", "source_type": "base64", "data": "aGk=", "mime_type": "image/png"}, PNG),
    ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}, PNG),
    ({"type": "image", "source": {"type": "url", "url": URL}}, Image(URL)),
    ({"type": "image", "url": "data:image/png;base64,aGk="}, PNG),
    ({"type": "image", "file_id": "f1"}, Raw({"type": "image", "source": {"type": "file", "file_id": "f1"}})),
    ({"type": "audio", "base64": "aGk=", "mime_type": "audio/mpeg"}, Audio("aGk=", "mp3")),
    ({"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}, Audio("aGk=", "wav")),
    ({"type": "file", "base64": "aGk=", "mime_type": "application/pdf"}, File("aGk=", "application/pdf")),
    (
        {"type": "file", "base64": "aGk=", "mime_type": "application/pdf", "extras": {"filename": "a.pdf"}},
        File("aGk=", "application/pdf", "a.pdf"),
    ),
    (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}},
        File("aGk=", "application/pdf", "a.pdf"),
    ),
    ({"type": "file", "file": {"file_id": "f1"}}, File(file_id="f1")),
    ({"type": "file", "url": URL}, File(url=URL)),
    (
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}},
        File("aGk=", "application/pdf"),
    ),
    ({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}}, Text("a")),
    ({"type": "text-plain", "text": "a", "mime_type": "text/plain"}, Text("a")),
    (
        {"type": "search_result", "source": URL, "title": "T", "content": [{"type": "text", "text": "a"}]},
        Source("a", "T", URL),
    ),
    ({"type": "reasoning", "reasoning": "a", "extras": {"signature": "s"}}, Reasoning("a", "s")),
    ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}, Reasoning("a")),
    ({"type": "thinking", "thinking": "a", "signature": "s"}, Reasoning("a", "s")),
    ({"type": "redacted_thinking", "data": "x"}, Reasoning(redacted="x")),
    ({"type": "non_standard", "value": {"type": "redacted_thinking", "data": "x"}}, Reasoning(redacted="x")),
    ({"type": "refusal", "refusal": "no"}, Refusal("no")),
    ({"type": "custom", "a": 1}, Raw({"type": "custom", "a": 1})),
    ({"type": "non_standard", "value": {"type": "custom"}}, Raw({"type": "custom"})),
]


FOREIGN_FORMS: list[tuple[dict[str, Any], Any]] = [
    ({"type": "input_text", "text": "a"}, Text("a")),
    ({"type": "input_image", "image_url": URL, "detail": "low"}, Image(URL, detail="low")),
    ({"type": "input_file", "file_id": "f1"}, File(file_id="f1")),
    (
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="},
        File("aGk=", "application/pdf", "a.pdf"),
    ),
    ({"type": "media", "mime_type": "image/png", "data": "aGk="}, PNG),
    ({"type": "media", "mime_type": "audio/wav", "data": "aGk="}, Audio("aGk=", "wav")),
    (
        {"type": "media", "mime_type": "application/pdf", "file_uri": URL},
        File(media_type="application/pdf", url=URL),
    ),
    ({"image": {"format": "png", "source": {"bytes": b"hi"}}}, PNG),
    ({"type": "image", "image": {"format": "png", "source": {"bytes": "aGk="}}}, PNG),
    (
        {"document": {"format": "pdf", "name": "a", "source": {"bytes": b"hi"}}},
        File("aGk=", "application/pdf", "a"),
    ),
    ({"type": "image", "data": "aGk=", "mimeType": "image/png"}, PNG),
    ({"type": "image", "base64": b"hi", "mime_type": "image/png"}, PNG),
    ({"type": "media", "mime_type": "image/png", "data": b"hi"}, PNG),
    ({"document": {"format": "txt", "name": "a", "source": {"text": "hi"}}}, Source("hi", "a")),
    ({"guardContent": {"text": {"text": "a"}}}, Text("a")),
    ({"type": "guard_content", "text": "a"}, Text("a")),
    ({"cachePoint": {"type": "default"}}, CachePoint()),
    ({"type": "document_url", "document_url": URL, "document_name": "a.pdf"}, File(name="a.pdf", url=URL)),
    ({"type": ["text"], "text": "a"}, Raw({"type": ["text"], "text": "a"})),
    ({"type": None, "text": "a"}, Text("a")),
    ({"type": "non_standard", "value": {"type": {}}}, Raw({"type": {}})),
]


@pytest.mark.parametrize(
    ("block", "part"), BLOCKS + FOREIGN_FORMS, ids=[str(block)[:60] for block, _ in BLOCKS + FOREIGN_FORMS]
)
def test_a_content_block_is_converted(block: dict[str, Any], part: Any) -> None:
    assert to_parts([block]) == [part]


def test_a_cache_point_follows_its_block() -> None:
    block = {"type": "text", "text": "long", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert to_parts([block, "short"]) == [Text("long"), CachePoint("1h"), Text("short")]


@pytest.mark.parametrize(
    "block",
    [
        {"type": "video", "url": URL},
        {"type": "media", "mime_type": "video/mp4", "data": "aGk="},
        {"type": "input_image"},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": None},
        {"type": "image"},
        {"type": "audio", "url": URL},
        {"type": "file"},
        {"type": "input_audio", "input_audio": {}},
        {"type": "document_url"},
        {"guardContent": {}},
        {"video": {"format": "mp4", "source": {"bytes": b"hi"}}},
        {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://a"}}}},
    ],
)
def test_unsupported_content_is_rejected(block: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedContentError):
        to_parts([block])


CALL = {"id": "c1", "name": "look", "args": {"at": "it"}, "type": "tool_call"}
PART = ToolCall("c1", "look", '{"at": "it"}')
HISTORY: list[tuple[BaseMessage, Message]] = [
    (HumanMessage("a", name="Ann"), Message("user", [Text("a")], name="Ann")),
    (SystemMessage("a"), Message("system", [Text("a")])),
    (ChatMessage("a", role="developer"), Message("system", [Text("a")])),
    (AIMessage("a", tool_calls=[CALL]), Message("assistant", [Text("a"), PART])),
    (AIMessage([]), Message("assistant", [])),
    (
        AIMessage([{"type": "text", "text": "a"}, {"type": "tool_use", "id": "c1"}], tool_calls=[CALL]),
        Message("assistant", [Text("a"), PART]),
    ),
    (
        AIMessage([{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}}]),
        Message("assistant", [PART]),
    ),
    (
        AIMessage([CALL, {"type": "text", "text": "a"}], tool_calls=[CALL]),
        Message("assistant", [PART, Text("a")]),
    ),
    (
        AIMessage("", invalid_tool_calls=[{"id": "c2", "name": "look", "args": "{oops", "error": None}]),
        Message("assistant", [InvalidToolCall("c2", "look", "{oops", "malformed")]),
    ),
    (
        AIMessage(
            "",
            invalid_tool_calls=[{"id": "c2", "name": "look", "args": "{oops", "error": None}],
            response_metadata={"model_provider": "acme", "invalid_tool_calls": [{"name": "look"}, "c2"]},
        ),
        Message("assistant", [InvalidToolCall("c2", "look", "{oops", "malformed")]),
    ),
    (
        AIMessage(
            "a",
            additional_kwargs={"reasoning_content": "hm", "refusal": "no"},
            response_metadata={"model_provider": "piccc"},
        ),
        Message("assistant", [Reasoning("hm"), Text("a"), Refusal("no")]),
    ),
    (
        AIMessage([{"type": "server_tool_call", "id": "s", "name": "x"}, {"type": "text", "text": "a"}]),
        Message("assistant", [Text("a")]),
    ),
    (
        ToolMessage("bad", tool_call_id="c1", status="error"),
        Message("tool", [Text("bad")], tool_call_id="c1", is_error=True),
    ),
    (
        ToolMessage([{"type": "text", "text": "a"}, {"type": "image", "url": URL}], tool_call_id="c1"),
        Message("tool", [Text("a"), Image(URL)], tool_call_id="c1"),
    ),
]


@pytest.mark.parametrize(("message", "neutral"), HISTORY, ids=[str(index) for index in range(len(HISTORY))])
def test_a_message_is_converted(message: BaseMessage, neutral: Message) -> None:
    assert to_messages([message]) == [neutral]


@pytest.mark.parametrize("message", [FunctionMessage("a", name="f"), ChatMessage("a", role="narrator")])
def test_an_unsupported_role_is_rejected(message: BaseMessage) -> None:
    with pytest.raises(InvalidArgumentError):
        to_messages([message])


@pytest.mark.parametrize(
    ("dialect", "content", "path"),
    [
        (
            "anthropic",
            [{"type": "audio", "base64": "aGk=", "mime_type": "audio/wav"}],
            "/v1/chat/completions",
        ),
        ("openai", [{"type": "file", "url": URL}], "/v1/messages"),
        ("openai", [{"type": "image", "file_id": "f1"}], "/v1/messages"),
        ("openai", [{"type": "image", "url": URL}], "/v1/chat/completions"),
        ("anthropic", [{"type": "image", "url": URL}], "/v1/messages"),
    ],
)
def test_content_is_sent_to_the_endpoint_that_supports_it(dialect: str, content: Any, path: str) -> None:
    both = {
        **completion({"content": "Hi"}),
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
    }
    server = Replay(json_response({**both, "usage": {}}))
    assert server.model(dialect=dialect).invoke([HumanMessage(content)]).text == "Hi"
    assert server.requests[0].url.path == path


def test_images_in_tool_results_are_sent_in_both_dialects() -> None:
    messages = [
        HumanMessage("?"),
        AIMessage("", tool_calls=[CALL]),
        ToolMessage([{"type": "text", "text": "a"}, {"type": "image", "url": URL}], tool_call_id="c1"),
    ]
    server = Replay(json_response(completion({"content": "Hi"})))
    server.model().invoke(messages)
    assert URL in str(server.bodies[0]["messages"])
    body = {"id": "m", "model": "x", "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}
    server = Replay(json_response(body))
    server.model(dialect="anthropic").invoke(messages)
    result = server.bodies[0]["messages"][-1]["content"][0]
    assert [block["type"] for block in result["content"]] == ["text", "image"]
