"""Tools: choices, histories, streamed calls, and the cost of parsing them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, ChatResponse
from llama_index.core.tools import FunctionTool

from llama_index_piccc import NoToolCallError, Piccc
from piccc import structured as _partial
from piccc.emulator import Emulator, Scripted
from piccc.errors import InvalidArgumentError
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.wire import calls, chunks, fragment, llm_answering

Way = Sync | Async
TWO = [("multiply", {"a": 2, "b": 3}), ("multiply", {"a": 4, "b": 5})]


def multiply(a: int, b: int) -> int:
    """Multiply two whole numbers."""
    return a * b


TOOL = FunctionTool.from_defaults(multiply)
MULTIPLY = {"type": "function", "function": {"name": "multiply"}}


def tool_kwargs(llm: Piccc, response: ChatResponse) -> list[dict[str, Any]]:
    """Return the arguments of a response's calls."""
    return [call.tool_kwargs for call in llm.get_tool_calls_from_response(response, False)]


def test_a_model_calls_a_tool_with_and_without_streaming(way: Way, llm: Piccc) -> None:
    complete_response = way.call(llm, "chat_with_tools", [TOOL], user_msg="Multiply 6 and 7")
    streamed = way.stream(llm, "stream_chat_with_tools", [TOOL], user_msg="Multiply 6 and 7")
    assert tool_kwargs(llm, complete_response) == tool_kwargs(llm, streamed[-1]) == [{"a": 6, "b": 7}]


def test_predict_and_call_returns_the_tools_output(way: Way, llm: Piccc) -> None:
    assert way.call(llm, "predict_and_call", [TOOL], "Multiply 6 and 7").response == "42"


@pytest.mark.parametrize(
    ("choice", "openai", "anthropic"),
    [
        (None, "auto", {"type": "auto"}),
        ("auto", "auto", {"type": "auto"}),
        ("none", "none", {"type": "none"}),
        ("required", "required", {"type": "any"}),
        ("any", "required", {"type": "any"}),
        ("multiply", MULTIPLY, {"type": "tool", "name": "multiply"}),
        (MULTIPLY, MULTIPLY, {"type": "tool", "name": "multiply"}),
        ({"type": "tool", "name": "multiply"}, MULTIPLY, {"type": "tool", "name": "multiply"}),
        ({"type": "any"}, "required", {"type": "any"}),
    ],
)
def test_every_tool_choice_format_is_converted(
    llm: Piccc, emulator: Emulator, choice: Any, openai: Any, anthropic: Any
) -> None:
    llm.chat_with_tools([TOOL], user_msg="Multiply 6 and 7", tool_choice=choice)
    sent_choice = emulator.requests[-1].body["tool_choice"]
    if llm.dialect == "openai":
        assert sent_choice == openai
    else:
        sent_choice.pop("disable_parallel_tool_use", None)
        assert sent_choice == anthropic


def test_tool_required_is_sent_with_and_without_streaming(way: Way, llm: Piccc, emulator: Emulator) -> None:
    way.call(llm, "chat_with_tools", [TOOL], user_msg="Multiply 6 and 7", tool_required=True)
    way.stream(llm, "stream_chat_with_tools", [TOOL], user_msg="Multiply 6 and 7", tool_required=True)
    choices = [request.body["tool_choice"] for request in emulator.requests]
    expected = "required" if llm.dialect == "openai" else {"type": "any", "disable_parallel_tool_use": True}
    assert choices == [expected, expected]


def test_an_invalid_tool_choice_is_rejected(llm: Piccc, emulator: Emulator) -> None:
    with pytest.raises(InvalidArgumentError, match="tool_choice"):
        llm.chat_with_tools([TOOL], user_msg="Go", tool_choice={"kind": "any"})
    assert emulator.requests == []


@pytest.mark.parametrize("user", ["Go on.", ChatMessage(role="user", content="Go on.")])
def test_the_user_message_can_be_text_and_the_history_is_not_modified(
    way: Way, llm: Piccc, emulator: Emulator, user: Any
) -> None:
    history = [ChatMessage(role="user", content="Hello"), ChatMessage(role="assistant", content="Yes?")]
    before = list(history)
    way.call(llm, "chat_with_tools", [TOOL], user_msg=user, chat_history=history)
    assert history == before
    assert [message["content"] for message in emulator.requests[-1].body["messages"]] == [
        "Hello",
        "Yes?",
        "Go on.",
    ]


def test_without_tools_no_tool_options_are_sent(llm: Piccc, emulator: Emulator) -> None:
    llm.chat_with_tools([], user_msg="Hello", allow_parallel_tool_calls=True)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & emulator.requests[-1].body.keys()


def test_only_one_call_is_kept_if_parallel_calls_are_not_allowed(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    emulator.rule(lambda _: True, Scripted(calls=TWO))
    single = way.call(llm, "chat_with_tools", [TOOL], user_msg="Go")
    assert tool_kwargs(llm, single) == [TWO[0][1]]
    assert len(single.message.additional_kwargs["tool_calls"]) == 1
    both = way.call(llm, "chat_with_tools", [TOOL], user_msg="Go", allow_parallel_tool_calls=True)
    assert tool_kwargs(llm, both) == [TWO[0][1], TWO[1][1]]


@pytest.mark.parametrize("quirk", ["calls-at-once", "no-index", "text-index", "zero-index", "no-call-ids"])
def test_parallel_calls_survive_every_streaming_quirk(way: Way, quirk: str) -> None:
    with Emulator(speed=float("inf"), quirks=[quirk]) as emulator:
        llm = Piccc(base_url=emulator.base_url, api_key=emulator.api_key)
        emulator.script([Scripted(calls=TWO)])
        last = way.stream(llm, "stream_chat_with_tools", [TOOL], "Go", allow_parallel_tool_calls=True)[-1]
        assert tool_kwargs(llm, last) == [{"a": 2, "b": 3}, {"a": 4, "b": 5}]
        ids = [block.tool_call_id for block in last.message.blocks if isinstance(block, ToolCallBlock)]
        assert len(set(ids)) == 2
        assert all(ids)


def test_interleaved_calls_stay_separate() -> None:
    stream = chunks(
        calls(fragment(0, "", "c1", "multiply"), fragment(1, "", "c2", "multiply")),
        calls(fragment(0, '{"a": 2, ')),
        calls(fragment(1, '{"a": 4, ')),
        calls(fragment(0, '"b": 3}')),
        calls(fragment(1, '"b": 5}')),
        finish_reason="tool_calls",
    )
    llm = llm_answering(stream)
    responses = list(llm.stream_chat_with_tools([TOOL], "Go", allow_parallel_tool_calls=True))
    parsed = [tool_kwargs(llm, response) for response in responses]
    assert parsed == [
        [{"a": 2}, {}],
        [{"a": 2}, {"a": 4}],
        [{"a": 2, "b": 3}, {"a": 4}],
        [{"a": 2, "b": 3}, {"a": 4, "b": 5}],
        [{"a": 2, "b": 3}, {"a": 4, "b": 5}],
    ]


def test_arguments_are_text_while_streaming_and_an_object_when_complete() -> None:
    llm = llm_answering(
        chunks(calls(fragment(0, '{"a": 2', "c1", "multiply")), calls(fragment(0, ', "b": 3}')))
    )
    blocks = [response.message.blocks[-1] for response in llm.stream_chat_with_tools([TOOL], "Go")]
    assert [block.tool_kwargs for block in blocks] == ['{"a": 2', '{"a": 2, "b": 3}', {"a": 2, "b": 3}]


def test_a_call_with_truncated_arguments_is_not_returned() -> None:
    llm = llm_answering(chunks(calls(fragment(0, '{"a": 2, "b"', "c1", "multiply")), finish_reason="length"))
    last = list(llm.stream_chat_with_tools([TOOL], "Go"))[-1]
    assert tool_kwargs(llm, last) == []
    assert last.message.blocks[-1].tool_kwargs == '{"a": 2, "b"'


def test_parsing_long_arguments_takes_linear_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    parse = _partial.from_json

    def counted(text: str, **options: Any) -> Any:
        read.append(len(text))
        return parse(text, **options)

    monkeypatch.setattr(_partial, "from_json", counted)

    def cost(length: int) -> int:
        text = json.dumps({"text": "x" * length})
        pieces = [fragment(0, text[at : at + 4]) for at in range(0, len(text), 4)]
        first = fragment(0, "", "c1", "write")
        llm = llm_answering(chunks(calls(first), *map(calls, pieces)))
        read.clear()
        for response in llm.stream_chat_with_tools([TOOL], "Go"):
            assert len(tool_kwargs(llm, response)) == 1
        return sum(read)

    start, short, long = cost(1_000), cost(20_000), cost(40_000)
    assert long - start < 2.5 * (short - start)


def test_a_missing_call_is_an_error_only_if_one_was_required(llm: Piccc, emulator: Emulator) -> None:
    emulator.script(["I would rather not."])
    response = llm.chat_with_tools([TOOL], user_msg="Go")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(NoToolCallError) as caught:
        llm.get_tool_calls_from_response(response)
    assert caught.value.text == "I would rather not."
    assert caught.value.finish_reason == "stop"
    assert isinstance(caught.value, ValueError)


def test_a_long_description_is_not_truncated(make: Callable[..., Piccc], emulator: Emulator) -> None:
    tool = FunctionTool.from_defaults(multiply, description="Multiply. " * 200)
    make().chat_with_tools([tool], user_msg="Multiply 6 and 7")
    assert len(emulator.requests[-1].body["tools"][0]["function"]["description"]) == 2000


@pytest.mark.parametrize("name", ["files.read", "read file", "läs", "read" * 20])
def test_agents_find_tools_whose_names_servers_reject(
    way: Way, llm: Piccc, emulator: Emulator, name: str
) -> None:
    """Core replaces such characters itself, but its agents look up the name as it was."""
    tool = FunctionTool.from_defaults(multiply, name=name)
    emulator.rule(lambda _: True, lambda request: Scripted(calls=[(request.tools[0].name, {"a": 6, "b": 7})]))
    assert way.call(llm, "predict_and_call", [tool], "Multiply.").response == "42"
    streamed = way.stream(llm, "stream_chat_with_tools", [tool], user_msg="Multiply.")
    names = {call.tool_name for each in streamed for call in llm.get_tool_calls_from_response(each, False)}
    assert names == {name}
