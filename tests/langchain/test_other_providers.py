"""Histories of other providers' models: supported content is converted, the rest is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langchain_piccc import ChatPiccc
from langchain_piccc._requests import to_messages
from piccc._dialects import dialect_named
from piccc._dialects.common import serialize
from piccc.conversation import ChatRequest, Image, Message, Raw, Reasoning, Text, ToolCall
from piccc.emulator import Emulator
from piccc.errors import PicccError

OPENAI = {"model_provider": "openai"}
ANTHROPIC = {"model_provider": "anthropic"}
GEMINI = {"model_provider": "google_genai"}
BEDROCK = {"model_provider": "bedrock_converse"}
MISTRAL = {"model_provider": "mistralai"}
TEXT = {"type": "text", "text": "It is sunny."}

# Blocks as the provider's LangChain package returns them, and what they are converted to.
TRANSLATED: list[tuple[str, dict[str, str], list[Any], list[Any]]] = [
    (
        "a Responses reasoning item",
        OPENAI,
        [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}],
        [Reasoning("Hm.", provider="openai")],
    ),
    (
        "an image made by OpenAI's tool",
        OPENAI,
        [{"type": "image_generation_call", "id": "ig_1", "result": "aGk=", "output_format": "jpeg"}],
        [Image(data="aGk=", media_type="image/jpeg")],
    ),
    (
        "thinking with another provider's signature",
        ANTHROPIC,
        [{"type": "thinking", "thinking": "Hm.", "signature": "theirs"}],
        [Reasoning("Hm.", "theirs", provider="anthropic")],
    ),
    (
        "Bedrock's reasoning",
        BEDROCK,
        [{"type": "reasoning_content", "reasoning_content": {"text": "Hm.", "signature": "theirs"}}],
        [Reasoning("Hm.", "theirs", provider="bedrock_converse")],
    ),
    (
        "Mistral's thinking",
        MISTRAL,
        [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}],
        [Reasoning("Hm.", provider="mistralai")],
    ),
]
LEFT_OUT: list[tuple[dict[str, str], dict[str, Any]]] = [
    (OPENAI, {"type": "web_search_call", "id": "ws_1", "status": "completed"}),
    (OPENAI, {"type": "mcp_call", "id": "mcp_1", "name": "look", "arguments": "{}", "output": "seen"}),
    (OPENAI, {"type": "code_interpreter_call", "id": "ci_1", "code": "1+1", "outputs": []}),
    (OPENAI, {"type": "computer_call", "id": "cu_1", "call_id": "c", "action": {"type": "click"}}),
    (OPENAI, {"type": "file_search_call", "id": "fs_1", "queries": ["a"]}),
    (
        ANTHROPIC,
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "a"}},
    ),
    (ANTHROPIC, {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}),
    (GEMINI, {"type": "executable_code", "executable_code": "print(1)", "language": "PYTHON"}),
    (GEMINI, {"type": "code_execution_result", "code_execution_result": "1", "outcome": 1}),
    (MISTRAL, {"type": "reference", "reference_ids": [1]}),
    ({}, {"type": "server_tool_call", "id": "s", "name": "web_search", "args": {}}),
    ({}, {"type": "server_tool_result", "tool_call_id": "s", "status": "success"}),
    ({"model_provider": "acme"}, {"type": "non_standard", "value": {"type": "hologram"}}),
]


@pytest.mark.parametrize(
    ("metadata", "blocks", "parts"), [case[1:] for case in TRANSLATED], ids=[case[0] for case in TRANSLATED]
)
def test_supported_content_is_converted(
    metadata: dict[str, str], blocks: list[Any], parts: list[Any]
) -> None:
    message = AIMessage([*blocks, TEXT], response_metadata=metadata)
    assert to_messages([message]) == [Message("assistant", [*parts, Text("It is sunny.")])]


def ask(model: ChatPiccc, messages: list[BaseMessage]) -> str:
    return model.invoke(messages).text


@pytest.mark.parametrize(("metadata", "block"), LEFT_OUT, ids=[block["type"] for _, block in LEFT_OUT])
def test_unsupported_content_is_left_out(
    emulator: Emulator, dialect: Any, metadata: dict[str, str], block: dict[str, Any]
) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    history = [
        HumanMessage("?"),
        AIMessage([block, TEXT], response_metadata=metadata),
        HumanMessage("Thanks."),
    ]
    [answer] = [message for message in to_messages([history[1]]) if message.role == "assistant"]
    assert [part for part in answer.parts if not isinstance(part, Raw)] == [Text("It is sunny.")]
    assert ask(model, history)
    assert block["type"] not in str(emulator.requests[-1].body["messages"])


@pytest.mark.parametrize("metadata", [OPENAI, ANTHROPIC, GEMINI, BEDROCK, MISTRAL])
@pytest.mark.parametrize("replay", [None, True])
def test_another_providers_signature_is_not_sent(
    emulator: Emulator, dialect: Any, metadata: dict[str, str], *, replay: bool | None
) -> None:
    model = ChatPiccc(
        base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, replay_reasoning=replay
    )
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "theirs"}
    history = [
        HumanMessage("?"),
        AIMessage([thinking, TEXT], response_metadata=metadata),
        HumanMessage("Thanks."),
    ]
    assert ask(model, history)
    assert "theirs" not in str(emulator.requests[-1].body)


def search(query: str) -> str:
    """Search."""
    return query


def test_a_fallback_after_an_openai_web_search_works(emulator: Emulator, dialect: Any) -> None:
    # As ChatOpenAI(use_responses_api=True, output_version="responses/v1") returns it.
    first = AIMessage(
        [
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
            {
                "type": "text",
                "text": "Sunny.",
                "annotations": [{"type": "url_citation", "url": "https://a.test", "title": "A"}],
                "id": "msg_1",
            },
            {"type": "function_call", "name": "search", "arguments": '{"query": "a"}', "call_id": "call_1"},
        ],
        tool_calls=[{"name": "search", "args": {"query": "a"}, "id": "call_1"}],
        response_metadata={**OPENAI, "id": "resp_1"},
    )
    unreachable = ChatOpenAI(
        model="gpt-5", api_key="k", base_url="http://127.0.0.1:9", use_responses_api=True, max_retries=0
    )
    fallback = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    agent = create_agent(unreachable, [tool(search)], middleware=[ModelFallbackMiddleware(fallback)])
    history = [HumanMessage("?"), first, ToolMessage("found", tool_call_id="call_1"), HumanMessage("Thanks.")]
    assert agent.invoke({"messages": history})["messages"][-1].text


RESULTS: list[tuple[Any, str]] = [
    ([{"type": "json", "json": {"at": "it"}}], '{"at": "it"}'),
    ([{"type": "resource_link", "uri": "file:///a", "name": "a"}], "file:///a"),
    ([{"type": "hologram", "a": 1}], "hologram"),
    ([{"type": "video", "url": "https://a.test/v.mp4"}], "https://a.test/v.mp4"),
    ([{"type": "text", "text": "seen"}], "seen"),
]


@pytest.mark.parametrize(("content", "text"), RESULTS, ids=[case[0][0]["type"] for case in RESULTS])
def test_a_tool_result_in_any_format_is_sent(
    emulator: Emulator, dialect: Any, content: Any, text: str
) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    call = {"name": "look", "args": {}, "id": "c1"}
    history = [HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage(content, tool_call_id="c1")]
    assert ask(model, history)
    sent = emulator.requests[-1].body["messages"][2]
    assert sent["role"] == ("tool" if dialect == "openai" else "user")
    assert text in str(sent["content"]).replace("\\\\", "")


RESULTS_IN_USER_MESSAGES: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "Anthropic": (
        {"type": "tool_result", "tool_use_id": "c1", "content": "seen", "is_error": True},
        ["seen"],
        True,
    ),
    "Bedrock": (
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "seen"}, {"json": {"a": 1}}]}},
        ["seen", '{"a": 1}'],
        False,
    ),
    "Bedrock, failed": (
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "no"}], "status": "error"}},
        ["no"],
        True,
    ),
    "Responses": ({"type": "function_call_output", "call_id": "c1", "output": "seen"}, ["seen"], False),
}


@pytest.mark.parametrize("provider", RESULTS_IN_USER_MESSAGES)
def test_tool_results_in_a_user_message_become_tool_messages(
    emulator: Emulator, dialect: Any, provider: str
) -> None:
    block, texts, is_error = RESULTS_IN_USER_MESSAGES[provider]
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    history = [
        HumanMessage("?"),
        AIMessage([{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}}]),
        HumanMessage([block, {"type": "text", "text": "Well?"}]),
    ]
    assert to_messages(history)[1:] == [
        Message("assistant", [ToolCall("c1", "look", '{"at": "it"}')]),
        Message("tool", [Text(text) for text in texts], tool_call_id="c1", is_error=is_error),
        Message("user", [Text("Well?")]),
    ]
    assert ask(model, history)


def test_responses_to_omitted_requests_are_omitted_too(emulator: Emulator, dialect: Any) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    request = {"type": "mcp_approval_request", "id": "a", "name": "x", "arguments": "{}"}
    response = {"type": "mcp_approval_response", "approve": True, "approval_request_id": "a"}
    history = [
        HumanMessage("?"),
        AIMessage([request, TEXT], response_metadata=OPENAI),
        HumanMessage([response]),
        HumanMessage([response, {"type": "text", "text": "Well?"}]),
    ]
    assert ask(model, history)
    assert "mcp" not in str(emulator.requests[-1].body)


PDF = "JVBERi0xLjcK/w=="
SOURCES: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "media_type": "text/plain", "data": "Hot."},
    "PDF": {"type": "base64", "media_type": "application/pdf", "data": PDF},
    "URL": {"type": "url", "url": "https://a.test/a.pdf"},
    "pieces": {"type": "content", "content": [{"type": "text", "text": "Hot."}]},
}
DOCUMENT_FIELDS = {"title": "Kilns", "context": "An old text.", "citations": {"enabled": True}}


@pytest.mark.parametrize("kind", SOURCES)
def test_document_metadata_is_sent(emulator: Emulator, dialect: Any, kind: str) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    document = {"type": "document", "source": SOURCES[kind], **DOCUMENT_FIELDS}
    assert ask(model, [HumanMessage([document, {"type": "text", "text": "How hot?"}])])
    request = emulator.requests[-1]
    first, *rest = request.body["messages"][0]["content"]
    if dialect == "openai" and kind in ("text", "PDF"):
        assert first["type"] == "text"
        assert "An old text." in first["text"]
        assert "Kilns" in str([first, *rest])
    else:
        assert first == document


# Values of wrong types that a foreign history may hold, for each field of each block type.
WRONG_VALUES: list[Any] = [5, True, [5], [], {"a": 1}, ["a"], b"x", object(), None]
FIELDS: dict[str, tuple[str, ...]] = {
    "audio": ("base64", "mime_type", "url"),
    "document": ("source", "title", "context", "citations", "document"),
    "document_url": ("document_url", "document_name"),
    "file": ("file", "base64", "url", "mime_type", "filename", "file_id", "extras"),
    "function_call_output": ("call_id", "output"),
    "guardContent": ("guardContent",),
    "image": ("url", "base64", "mime_type", "source", "source_type", "data", "image", "extras"),
    "image_generation_call": ("result", "output_format"),
    "image_url": ("image_url",),
    "input_audio": ("input_audio",),
    "input_file": ("file_data", "file_url", "filename", "file_id"),
    "input_image": ("image_url", "detail"),
    "invalid_tool_call": ("id", "name", "args"),
    "json": ("json",),
    "media": ("mime_type", "data", "file_uri"),
    "non_standard": ("value",),
    "reasoning": ("reasoning", "summary", "extras", "signature"),
    "reasoning_content": ("reasoning_content",),
    "redacted_thinking": ("data",),
    "refusal": ("refusal",),
    "search_result": ("content", "title", "source"),
    "text": ("text", "citations", "annotations", "cache_control", "extras"),
    "thinking": ("thinking", "signature"),
    "toolResult": ("toolResult",),
    "tool_result": ("tool_use_id", "content", "is_error"),
    "tool_use": ("id", "name", "input"),
}
BLOCKS = [
    {"data": "aGk=", "id": "c", **base, "type": kind, name: wrong}
    for kind, names in FIELDS.items()
    for name in names
    for wrong in WRONG_VALUES[::2]
    for base in ({}, {"text": "t", "name": "f", "source": {"type": "text", "data": "x"}})
]


def conversations(content: Any) -> list[list[BaseMessage]]:
    """Return a conversation with this content for each message type, without validation."""
    call = {"name": "look", "args": {}, "id": "c1"}
    piccc_metadata = {"model_provider": "piccc"}
    return [
        [HumanMessage.model_construct(content=content)],
        [SystemMessage.model_construct(content=content), HumanMessage("?")],
        [HumanMessage("?"), AIMessage.model_construct(content=content), HumanMessage("?")],
        [HumanMessage("?"), AIMessage.model_construct(content=content, response_metadata=piccc_metadata)],
        [
            HumanMessage("?"),
            AIMessage("", tool_calls=[call]),
            ToolMessage.model_construct(content=content, tool_call_id="c1"),
        ],
    ]


def malformed_messages() -> Iterator[list[BaseMessage]]:
    question = HumanMessage("?")
    for wrong in WRONG_VALUES:
        for name in ("name", "reasoning_content", "reasoning_signature", "refusal", "tool_calls"):
            for kind in (HumanMessage, AIMessage):
                yield [question, kind("t", additional_kwargs={name: wrong}), question]
        for name in ("model_provider", "invalid_tool_calls"):
            known = {"model_provider": "piccc", name: wrong}
            broken = {"id": "a", "name": "f", "args": "{", "error": None, "type": "invalid_tool_call"}
            yield [question, AIMessage("t", response_metadata=known, invalid_tool_calls=[broken]), question]
        for name in ("id", "name", "args"):
            call = {"id": "a", "name": "f", "args": {}, name: wrong}
            yield [question, AIMessage.model_construct(content="t", tool_calls=[call]), question]
            yield [question, AIMessage.model_construct(content="t", invalid_tool_calls=[call]), question]
        yield [question, AIMessage.model_construct(content="t", name=wrong), question]
        yield [question.model_copy(update={"name": wrong})]
        yield [question, ToolMessage.model_construct(content="t", tool_call_id=wrong)]
        for content in (wrong, [wrong]):
            yield from conversations(content)


def test_wrong_types_are_omitted_or_raise_a_piccc_error(dialect: Any) -> None:
    conversations_with_wrong_values = [
        conversation for block in BLOCKS for conversation in conversations([block, TEXT])
    ]
    sent = 0
    for messages in (*conversations_with_wrong_values, *malformed_messages()):
        with suppress(PicccError):
            request = ChatRequest(model="m", messages=to_messages(messages))
            serialize(dialect_named(dialect).encode(request, stream=False).body)
            sent += 1
    assert sent > len(BLOCKS)


@pytest.mark.parametrize("has_output_type", [True, False])
@pytest.mark.parametrize("kind", ["computer_call", "local_shell_call", "shell_call", "apply_patch_call"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_results_of_openais_built_in_tools_are_sent_as_user_messages(
    dialect: Any, kind: str, has_output_type: bool
) -> None:
    call = {"type": kind, "id": "cu_1", "call_id": "call_9", "action": {"type": "screenshot"}}
    result = ToolMessage(
        "It is done.",
        tool_call_id="call_9",
        additional_kwargs={"type": "computer_call_output"} if has_output_type else {},
    )
    history = [
        HumanMessage("Look."),
        AIMessage([call], response_metadata=OPENAI),
        result,
        HumanMessage("And?"),
    ]
    with Emulator() as emulator:
        model = ChatPiccc(api_key=emulator.api_key, base_url=emulator.base_url, dialect=dialect)
        assert model.invoke(history).text
    assert [message.role for message in to_messages(history)] == ["user", "assistant", "user", "user"]
