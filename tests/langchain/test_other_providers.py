"""Histories of other providers' models: what has a word here is translated, all else is left out."""

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

# The blocks as the provider's own LangChain package gives them, and what they become.
TRANSLATED: list[tuple[str, dict[str, str], list[Any], list[Any]]] = [
    (
        "a Responses reasoning item",
        OPENAI,
        [{"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}],
        [Reasoning("Hm.", provider="openai")],
    ),
    (
        "an image that OpenAI's tool made",
        OPENAI,
        [{"type": "image_generation_call", "id": "ig_1", "result": "aGk=", "output_format": "jpeg"}],
        [Image(data="aGk=", media_type="image/jpeg")],
    ),
    (
        "thinking with another's signature",
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
    ("metadata", "blocks", "parts"), [each[1:] for each in TRANSLATED], ids=[each[0] for each in TRANSLATED]
)
def test_what_has_a_word_here_is_translated(
    metadata: dict[str, str], blocks: list[Any], parts: list[Any]
) -> None:
    message = AIMessage([*blocks, TEXT], response_metadata=metadata)
    assert to_messages([message]) == [Message("assistant", [*parts, Text("It is sunny.")])]


def asked(model: ChatPiccc, messages: list[BaseMessage]) -> str:
    return model.invoke(messages).text


@pytest.mark.parametrize(("metadata", "block"), LEFT_OUT, ids=[each["type"] for _, each in LEFT_OUT])
def test_what_has_none_is_left_out(
    emulator: Emulator, dialect: Any, metadata: dict[str, str], block: dict[str, Any]
) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    history = [
        HumanMessage("?"),
        AIMessage([block, TEXT], response_metadata=metadata),
        HumanMessage("Thanks."),
    ]
    [answer] = [each for each in to_messages([history[1]]) if each.role == "assistant"]
    assert [part for part in answer.parts if not isinstance(part, Raw)] == [Text("It is sunny.")]
    assert asked(model, history)
    assert block["type"] not in str(emulator.requests[-1].body["messages"])


@pytest.mark.parametrize("metadata", [OPENAI, ANTHROPIC, GEMINI, BEDROCK, MISTRAL])
@pytest.mark.parametrize("replay", [None, True])
def test_a_signature_goes_back_only_to_whom_it_came_from(
    emulator: Emulator, dialect: Any, metadata: dict[str, str], *, replay: bool | None
) -> None:
    model = ChatPiccc(
        base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, replay_reasoning=replay
    )
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "theirs"}
    history = [
        HumanMessage("?"),
        AIMessage([thought, TEXT], response_metadata=metadata),
        HumanMessage("Thanks."),
    ]
    assert asked(model, history)
    assert "theirs" not in str(emulator.requests[-1].body)


def search(query: str) -> str:
    """Search."""
    return query


def test_a_fallback_after_an_answer_of_openais_with_a_web_search_works(
    emulator: Emulator, dialect: Any
) -> None:
    # As ChatOpenAI(use_responses_api=True, output_version="responses/v1") gives it.
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
    down = ChatOpenAI(
        model="gpt-5", api_key="k", base_url="http://127.0.0.1:9", use_responses_api=True, max_retries=0
    )
    spare = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    agent = create_agent(down, [tool(search)], middleware=[ModelFallbackMiddleware(spare)])
    history = [HumanMessage("?"), first, ToolMessage("found", tool_call_id="call_1"), HumanMessage("Thanks.")]
    assert agent.invoke({"messages": history})["messages"][-1].text


RESULTS: list[tuple[Any, str]] = [
    ([{"type": "json", "json": {"at": "it"}}], '{"at": "it"}'),
    ([{"type": "resource_link", "uri": "file:///a", "name": "a"}], "file:///a"),
    ([{"type": "hologram", "a": 1}], "hologram"),
    ([{"type": "video", "url": "https://a.test/v.mp4"}], "https://a.test/v.mp4"),
    ([{"type": "text", "text": "seen"}], "seen"),
]


@pytest.mark.parametrize(("content", "text"), RESULTS, ids=[each[0][0]["type"] for each in RESULTS])
def test_a_tools_result_is_data_in_whatever_form(
    emulator: Emulator, dialect: Any, content: Any, text: str
) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    call = {"name": "look", "args": {}, "id": "c1"}
    history = [HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage(content, tool_call_id="c1")]
    assert asked(model, history)
    sent = emulator.requests[-1].body["messages"][2]
    assert sent["role"] == ("tool" if dialect == "openai" else "user")
    assert text in str(sent["content"]).replace("\\\\", "")


IN_USERS_MESSAGES: dict[str, tuple[dict[str, Any], list[str], bool]] = {
    "Anthropic's": (
        {"type": "tool_result", "tool_use_id": "c1", "content": "seen", "is_error": True},
        ["seen"],
        True,
    ),
    "Bedrock's": (
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "seen"}, {"json": {"a": 1}}]}},
        ["seen", '{"a": 1}'],
        False,
    ),
    "Bedrock's, failed": (
        {"toolResult": {"toolUseId": "c1", "content": [{"text": "no"}], "status": "error"}},
        ["no"],
        True,
    ),
    "Responses'": ({"type": "function_call_output", "call_id": "c1", "output": "seen"}, ["seen"], False),
}


@pytest.mark.parametrize("whose", IN_USERS_MESSAGES)
def test_results_in_a_users_message_are_results(emulator: Emulator, dialect: Any, whose: str) -> None:
    block, texts, is_error = IN_USERS_MESSAGES[whose]
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
    assert asked(model, history)


def test_answers_to_what_is_left_out_are_left_out_too(emulator: Emulator, dialect: Any) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    request = {"type": "mcp_approval_request", "id": "a", "name": "x", "arguments": "{}"}
    response = {"type": "mcp_approval_response", "approve": True, "approval_request_id": "a"}
    history = [
        HumanMessage("?"),
        AIMessage([request, TEXT], response_metadata=OPENAI),
        HumanMessage([response]),
        HumanMessage([response, {"type": "text", "text": "Well?"}]),
    ]
    assert asked(model, history)
    assert "mcp" not in str(emulator.requests[-1].body)


PDF = "JVBERi0xLjcK/w=="
SOURCES: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "media_type": "text/plain", "data": "Hot."},
    "PDF": {"type": "base64", "media_type": "application/pdf", "data": PDF},
    "address": {"type": "url", "url": "https://a.test/a.pdf"},
    "pieces": {"type": "content", "content": [{"type": "text", "text": "Hot."}]},
}
KNOWN = {"title": "Kilns", "context": "An old text.", "citations": {"enabled": True}}


@pytest.mark.parametrize("kind", SOURCES)
def test_what_is_known_of_a_document_is_carried(emulator: Emulator, dialect: Any, kind: str) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    document = {"type": "document", "source": SOURCES[kind], **KNOWN}
    assert asked(model, [HumanMessage([document, {"type": "text", "text": "How hot?"}])])
    request = emulator.requests[-1]
    first, *rest = request.body["messages"][0]["content"]
    if dialect == "openai" and kind in ("text", "PDF"):
        assert first["type"] == "text"
        assert "An old text." in first["text"]
        assert "Kilns" in str([first, *rest])
    else:
        assert first == document


# What a history from elsewhere may hold where another type is due: each field of each kind of block.
WRONG: list[Any] = [5, True, [5], [], {"a": 1}, ["a"], b"x", object(), None]
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
    {"data": "aGk=", "id": "c", **whole, "type": kind, name: wrong}
    for kind, names in FIELDS.items()
    for name in names
    for wrong in WRONG[::2]
    for whole in ({}, {"text": "t", "name": "f", "source": {"type": "text", "data": "x"}})
]


def conversations(content: Any) -> list[list[BaseMessage]]:
    """Return conversations in which each kind of message holds this content, as no validation let it."""
    call = {"name": "look", "args": {}, "id": "c1"}
    ours = {"model_provider": "piccc"}
    return [
        [HumanMessage.model_construct(content=content)],
        [SystemMessage.model_construct(content=content), HumanMessage("?")],
        [HumanMessage("?"), AIMessage.model_construct(content=content), HumanMessage("?")],
        [HumanMessage("?"), AIMessage.model_construct(content=content, response_metadata=ours)],
        [
            HumanMessage("?"),
            AIMessage("", tool_calls=[call]),
            ToolMessage.model_construct(content=content, tool_call_id="c1"),
        ],
    ]


def odd_messages() -> Iterator[list[BaseMessage]]:
    asking = HumanMessage("?")
    for wrong in WRONG:
        for name in ("name", "reasoning_content", "reasoning_signature", "refusal", "tool_calls"):
            for kind in (HumanMessage, AIMessage):
                yield [asking, kind("t", additional_kwargs={name: wrong}), asking]
        for name in ("model_provider", "invalid_tool_calls"):
            known = {"model_provider": "piccc", name: wrong}
            broken = {"id": "a", "name": "f", "args": "{", "error": None, "type": "invalid_tool_call"}
            yield [asking, AIMessage("t", response_metadata=known, invalid_tool_calls=[broken]), asking]
        for name in ("id", "name", "args"):
            call = {"id": "a", "name": "f", "args": {}, name: wrong}
            yield [asking, AIMessage.model_construct(content="t", tool_calls=[call]), asking]
            yield [asking, AIMessage.model_construct(content="t", invalid_tool_calls=[call]), asking]
        yield [asking, AIMessage.model_construct(content="t", name=wrong), asking]
        yield [asking.model_copy(update={"name": wrong})]
        yield [asking, ToolMessage.model_construct(content="t", tool_call_id=wrong)]
        for content in (wrong, [wrong]):
            yield from conversations(content)


def test_a_wrong_type_anywhere_is_left_out_or_an_error_of_ours(dialect: Any) -> None:
    several = [each for block in BLOCKS for each in conversations([block, TEXT])]
    sent = 0
    for messages in (*several, *odd_messages()):
        with suppress(PicccError):
            request = ChatRequest(model="m", messages=to_messages(messages))
            serialize(dialect_named(dialect).encode(request, stream=False).body)
            sent += 1
    assert sent > len(BLOCKS)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("kind", ["computer_call", "local_shell_call", "shell_call", "apply_patch_call"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_the_result_of_openais_own_tool_is_said_by_the_user(dialect: Any, kind: str, marked: bool) -> None:
    call = {"type": kind, "id": "cu_1", "call_id": "call_9", "action": {"type": "screenshot"}}
    result = ToolMessage(
        "It is done.",
        tool_call_id="call_9",
        additional_kwargs={"type": "computer_call_output"} if marked else {},
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
