"""Tools, choices among them, and the calls that come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

from llama_index_piccc._input import listed_calls
from llama_index_piccc._output import GrowingToolCall
from piccc.chat import JSON, NamedTool, Tool, ToolCall, ToolChoice
from piccc.errors import InvalidArgumentError

_WORDS: dict[str, ToolChoice] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",
}


def offered(tool: BaseTool) -> JSON:
    """Return a tool as plain JSON, so that events and traces can show what was on offer."""
    return tool.metadata.to_openai_tool(skip_length_check=True)


def as_tool(tool: Tool | BaseTool | Mapping[str, Any]) -> Tool:
    """Read a tool in any of its forms; raise InvalidArgumentError for anything else."""
    if isinstance(tool, Tool):
        return tool
    shown = offered(tool) if isinstance(tool, BaseTool) else tool
    function = shown.get("function", shown) if isinstance(shown, Mapping) else {}
    if not isinstance(function, Mapping) or not function.get("name"):
        raise InvalidArgumentError(
            f"A tool is {type(tool).__name__} without a name.",
            hint="Give a FunctionTool, a piccc.Tool, or a mapping with name, description and parameters.",
        )
    empty = {"type": "object", "properties": {}}
    return Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters=function.get("parameters") or function.get("input_schema") or empty,
        strict=function.get("strict"),
    )


def as_choice(choice: Any) -> ToolChoice | None:
    """Read a choice: a word, a tool's name, or a mapping as either API writes it."""
    if choice is None or isinstance(choice, NamedTool):
        return choice
    if isinstance(choice, str):
        return _WORDS.get(choice) or NamedTool(choice)
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if name:
            return NamedTool(name)
        if choice.get("type") in _WORDS:
            return _WORDS[choice["type"]]
    raise InvalidArgumentError(
        f"tool_choice is {choice!r}.",
        hint="Give 'auto', 'none', 'required', a tool's name, or the object that the API takes.",
    )


def selections(response: ChatResponse) -> list[ToolSelection]:
    """Return the calls of a response, whole or on its way."""
    message = response.message
    blocks = [each for each in message.blocks if isinstance(each, ToolCallBlock)]
    if blocks:
        return [_selection(each) for each in blocks]
    calls = listed_calls(message)
    return [
        ToolSelection(tool_id=call.id, tool_name=call.name, tool_kwargs=call.parse() or {}) for call in calls
    ]


def _selection(block: ToolCallBlock) -> ToolSelection:
    return ToolSelection.model_construct(
        tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=_kwargs(block)
    )


def _kwargs(block: ToolCallBlock) -> JSON:
    if isinstance(block, GrowingToolCall):
        return block.known
    if isinstance(block.tool_kwargs, str):
        return ToolCall("", "", block.tool_kwargs).parse() or {}
    return block.tool_kwargs


def only_first_call(response: ChatResponse) -> ChatResponse:
    """Return the response with no more than one call."""
    message = response.message
    calls = [each for each in message.blocks if isinstance(each, ToolCallBlock)]
    if len(calls) < 2:
        return response
    kept = [each for each in message.blocks if not isinstance(each, ToolCallBlock) or each is calls[0]]
    listed = message.additional_kwargs.get("tool_calls", [])
    extra = {**message.additional_kwargs, "tool_calls": listed[:1]}
    single = ChatMessage(role=message.role, blocks=kept, additional_kwargs=extra)
    return response.model_copy(update={"message": single})


def extended(history: Sequence[ChatMessage] | None, user: str | ChatMessage | None) -> list[ChatMessage]:
    """Return a new list: the history, then the user's message."""
    messages = list(history or ())
    if isinstance(user, str):
        user = ChatMessage(role="user", content=user)
    return messages if user is None else [*messages, user]
