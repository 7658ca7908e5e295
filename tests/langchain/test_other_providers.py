"""Histories of other providers' models: what has a word here is translated, all else is left out."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from langchain_piccc import ChatPiccc
from langchain_piccc._requests import to_messages
from piccc.conversation import Image, Message, Raw, Reasoning, Text, ToolCall
from piccc.emulator import Emulator

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


def test_results_in_a_users_message_are_results(emulator: Emulator, dialect: Any) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    history = [
        HumanMessage("?"),
        AIMessage([{"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}}]),
        HumanMessage(
            [
                {"type": "tool_result", "tool_use_id": "c1", "content": "seen", "is_error": True},
                {"type": "text", "text": "Well?"},
            ]
        ),
    ]
    assert to_messages(history)[1:] == [
        Message("assistant", [ToolCall("c1", "look", '{"at": "it"}')]),
        Message("tool", [Text("seen")], tool_call_id="c1", is_error=True),
        Message("user", [Text("Well?")]),
    ]
    assert asked(model, history)
