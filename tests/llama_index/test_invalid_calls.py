"""No tool runs on a truncated or malformed call; the model and the caller learn why."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from llama_index_piccc import NoToolCallError, Piccc
from llama_index_piccc.convert import INVALID_CALLS
from piccc.emulator import Emulator, Scripted
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.test_agents import pytestmark as _warnings

pytestmark = [*_warnings, pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning")]

Way = Sync | Async
VALID_ARGUMENTS = {"path": "/home/ann", "force": False}


class Disk:
    """A tool that must not run by accident: its defaults delete everything."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, bool]] = []

    @property
    def tool(self) -> FunctionTool:
        """The tool."""

        def delete(path: str = "/", force: bool = True) -> str:
            """Delete a folder."""
            self.deleted.append((path, force))
            return f"deleted {path}"

        return FunctionTool.from_defaults(delete)


@pytest.fixture
def disk() -> Disk:
    """Return a disk with nothing deleted yet."""
    return Disk()


# The arguments, the finish reason, and why the call is invalid.
KINDS: dict[str, tuple[str, Any, str]] = {
    "cut within the arguments": ('{"path": "/home/an', "length", "cut"),
    "cut before the arguments": ("", "length", "cut"),
    "cut after an empty object": ("{}", "length", "cut"),
    "not JSON": ('path = """/home/ann"""', "tool_calls", "malformed"),
    "a JSON string": ('"/home/ann"', "tool_calls", "malformed"),
    "not an object": ('["/home/ann"]', "tool_calls", "malformed"),
    "nested too deeply": (f'{{"path": {"[" * 3000}{"]" * 3000}}}', "tool_calls", "malformed"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, dialect: str) -> str:
    """Return each kind. Anthropic's `input` is JSON, so its server cannot send anything else."""
    is_possible = dialect != "anthropic" or request.param not in ("not JSON", "nested too deeply")
    return str(request.param) if is_possible else "a JSON string"


def invalid_reply(kind: str, *more: Any) -> Scripted:
    """Return a reply whose last call is of this kind."""
    arguments, reason, _ = KINDS[kind]
    return Scripted(calls=[*more, ("delete", arguments)], finish_reason=reason)


async def run(agent: Any) -> Any:
    """Return the agent's output."""
    return await agent.run("Delete it.")


def reasons(message: ChatMessage) -> list[str]:
    """Return why the calls of a message are invalid."""
    return [call["reason"] for call in message.additional_kwargs.get(INVALID_CALLS, ())]


@pytest.mark.parametrize("method", ["chat_with_tools", "stream_chat_with_tools"])
def test_every_method_returns_the_same_invalid_call(
    way: Way, llm: Piccc, emulator: Emulator, disk: Disk, kind: str, method: str
) -> None:
    emulator.script([invalid_reply(kind)])
    if method.startswith("stream"):
        response = way.stream(llm, method, [disk.tool], "Delete it.")[-1]
    else:
        response = way.call(llm, method, [disk.tool], "Delete it.")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    assert reasons(response.message) == [KINDS[kind][2]]
    (block,) = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
    assert isinstance(block.tool_kwargs, str)  # the text as received
    with pytest.raises(NoToolCallError, match="No tool was run") as caught:
        llm.get_tool_calls_from_response(response)
    assert caught.value.invalid_calls[0]["name"] == "delete"
    kept = ChatMessage.model_validate_json(response.message.model_dump_json())
    response.message = kept
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []


def test_predict_and_call_does_not_run_an_invalid_call(
    way: Way, llm: Piccc, emulator: Emulator, disk: Disk, kind: str
) -> None:
    emulator.script([invalid_reply(kind)])
    with pytest.raises(NoToolCallError):
        way.call(llm, "predict_and_call", [disk.tool], "Delete it.")
    assert disk.deleted == []


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("agent", ["agent", "workflow"])
def test_an_agent_ends_without_running_the_tool_and_reports_why(
    llm: Piccc, emulator: Emulator, disk: Disk, kind: str, agent: str, streaming: bool
) -> None:
    emulator.script([invalid_reply(kind)])
    made: Any = FunctionAgent(name="a", description="d", tools=[disk.tool], llm=llm, streaming=streaming)
    if agent == "workflow":
        made = AgentWorkflow(agents=[made])
    output = asyncio.run(run(made))
    assert disk.deleted == []
    assert reasons(output.response) == [KINDS[kind][2]]


@pytest.mark.parametrize("streaming", [True, False])
def test_retry_invalid_calls_tells_the_model_what_was_wrong(
    llm: Piccc, emulator: Emulator, disk: Disk, kind: str, streaming: bool
) -> None:
    llm.retry_invalid_calls = True
    emulator.script([invalid_reply(kind), Scripted(calls=[("delete", VALID_ARGUMENTS)]), "Done."])
    output = asyncio.run(run(FunctionAgent(tools=[disk.tool], llm=llm, streaming=streaming)))
    assert (disk.deleted, str(output)) == ([("/home/ann", False)], "Done.")
    messages = json.dumps(emulator.requests[1].body["messages"])
    assert "the tool was not run" in messages


def test_retry_invalid_calls_retries_only_once(
    way: Way, llm: Piccc, emulator: Emulator, disk: Disk, kind: str
) -> None:
    llm.retry_invalid_calls = True
    emulator.rule(lambda _: True, invalid_reply(kind))
    with pytest.raises(NoToolCallError):
        way.call(llm, "predict_and_call", [disk.tool], "Delete it.")
    assert len(emulator.requests) == 2
    assert disk.deleted == []


@pytest.mark.parametrize("streaming", [True, False])
def test_valid_calls_still_run_and_the_model_learns_of_the_invalid_one(
    llm: Piccc, emulator: Emulator, disk: Disk, kind: str, streaming: bool
) -> None:
    emulator.script([invalid_reply(kind, ("delete", VALID_ARGUMENTS)), "Done."])
    output = asyncio.run(run(FunctionAgent(tools=[disk.tool], llm=llm, streaming=streaming)))
    assert (disk.deleted, str(output)) == ([("/home/ann", False)], "Done.")
    messages = json.dumps(emulator.requests[-1].body["messages"])
    assert "deleted /home/ann" in messages
    assert "the tool was not run" in messages


def test_a_conversation_continues_after_an_invalid_call(
    way: Way, llm: Piccc, emulator: Emulator, disk: Disk, kind: str
) -> None:
    emulator.script([invalid_reply(kind), "Good."])
    question = ChatMessage(role="user", content="Delete it.")
    response = way.call(llm, "chat_with_tools", [disk.tool], question)
    history = [question, response.message, ChatMessage(role="user", content="Leave it.")]
    assert way.call(llm, "chat_with_tools", [disk.tool], None, history).message.content == "Good."


def test_the_valid_call_is_kept_if_only_one_is_allowed(
    way: Way, llm: Piccc, emulator: Emulator, disk: Disk
) -> None:
    calls = [("delete", '"not an object"'), ("delete", VALID_ARGUMENTS)]
    emulator.script([Scripted(calls=calls)])
    response = way.call(llm, "chat_with_tools", [disk.tool], "Delete it.")
    (selection,) = llm.get_tool_calls_from_response(response)
    assert selection.tool_kwargs == VALID_ARGUMENTS
    assert len([block for block in response.message.blocks if isinstance(block, ToolCallBlock)]) == 1


TRUNCATED_ACTIONS = [
    'Thought: I delete it.\nAction: delete\nAction Input: {"path": "/ho',
    "Thought: I delete it.\nAction: delete\nAction Input: {",
    'Thought: I delete it.\nAction: delete\nAction Input: {"force": {"a": 1}, "path": "/home/ann/old',
    "Thought: I delete it.\nAction: delete",
    'Thought: I delete it.\nAction: delete\nAction Input: {"path": "/home/ann", "force" false}',
    "Thought: I delete it.\nAction: delete\nAction Input: {}",
    'Thought: I delete it.\nAction: delete\nAction Input: [{"path": "/home/ann"}',
    "Thought: I delete it.\nAction: delete\nAction Input: {'/home/ann'}",
]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("text", TRUNCATED_ACTIONS, ids=range(len(TRUNCATED_ACTIONS)))
def test_a_react_agent_does_not_run_a_truncated_action(
    make: Callable[..., Piccc], emulator: Emulator, disk: Disk, text: str, streaming: bool, dialect: str
) -> None:
    emulator.script([Scripted(text, finish_reason="length"), "Thought: I can answer.\nAnswer: Sorry."])
    output = asyncio.run(run(ReActAgent(tools=[disk.tool], llm=make(dialect=dialect), streaming=streaming)))
    assert disk.deleted == []
    assert str(output)
