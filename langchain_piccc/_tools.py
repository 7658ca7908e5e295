"""Tools, choices and schemas in any form → JSON, which is bound → the neutral conversation. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from piccc.chat import JSONSchema, NamedTool, Tool, ToolChoice
from piccc.errors import InvalidArgumentError

ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
JSON = dict[str, Any]
_WORDS = {"any": "required", "required": "required", "auto": "auto", "none": "none"}


def bound_tools(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[JSON]:
    """Return the tools as JSON in OpenAI's form, as tracers expect them.

    A tool's own keys for a provider (`extras`, `cache_control`) stand beside its function.
    """
    return [_bound_tool(tool, strict=strict) for tool in tools]


def _bound_tool(tool: ToolLike, *, strict: bool | None) -> JSON:
    bound: JSON = convert_to_openai_tool(tool, strict=strict)
    if isinstance(tool, BaseTool) and tool.extras:
        bound = {**bound, **tool.extras}
    if isinstance(tool, Mapping) and "input_schema" in tool and "cache_control" in tool:
        bound = {**bound, "cache_control": tool["cache_control"]}
    return bound


def bound_choice(choice: Any, tools: Sequence[JSON]) -> str | JSON | None:
    """Return a choice as it is bound; raise InvalidArgumentError for a tool that is not on offer."""
    if choice is None or choice is False:
        return None
    if choice is True:
        choice = "required"
    if isinstance(choice, Mapping):
        return dict(choice)
    names = [tool["function"]["name"] for tool in tools if "function" in tool]
    if choice in names:
        return {"type": "function", "function": {"name": choice}}
    if choice in _WORDS:
        return _WORDS[choice]
    raise InvalidArgumentError(
        f"tool_choice is {choice!r}.",
        hint=f"It is 'auto', 'none', 'any' or one of the tools: {', '.join(names) or 'none is bound'}.",
    )


def to_tools(tools: Sequence[ToolLike] | None) -> list[Tool]:
    """Read tools as they were bound, or as a caller gave them."""
    return [_tool(tool) for tool in tools or ()]


def _tool(tool: ToolLike) -> Tool:
    bound = tool if isinstance(tool, dict) and "function" in tool else _bound_tool(tool, strict=None)
    function = bound.get("function")
    if not isinstance(function, Mapping):
        raise InvalidArgumentError(
            f"A tool of type {bound.get('type')!r} is not a function.",
            hint="Piccc knows function tools only; send other ones with extra_body={'tools': [...]}.",
        )
    return Tool(
        name=function["name"],
        description=function.get("description", ""),
        parameters=function.get("parameters") or {"type": "object", "properties": {}},
        strict=function.get("strict"),
        extra={name: bound[name] for name in bound if name not in ("type", "function")},
    )


def to_choice(choice: Any) -> ToolChoice | None:
    """Read a choice in OpenAI's or Anthropic's form, bound or given."""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if name:
            return NamedTool(name)
        choice = choice.get("type")
    if choice is True:
        return "required"
    if choice in (None, False):
        return None
    if choice in ("any", "required"):
        return "required"
    if choice == "auto":
        return "auto"
    return "none" if choice == "none" else NamedTool(str(choice))


def bound_format(schema: Any, *, strict: bool | None = None) -> JSON:
    """Return a schema in any form as a `response_format` in OpenAI's form."""
    if isinstance(schema, Mapping) and schema.get("type") in ("json_schema", "json_object"):
        return dict(schema)
    body = convert_to_json_schema(schema, strict=strict)
    inner = {name: value for name, value in body.items() if name not in ("title", "description")}
    described = {"description": body["description"]} if body.get("description") else {}
    named: JSON = {"name": body["title"], **described, "schema": inner}
    return {"type": "json_schema", "json_schema": named if strict is None else {**named, "strict": strict}}


def to_format(wanted: Any, *, strict: bool | None = None) -> JSONSchema | Literal["json"] | None:
    """Read a `response_format`; a schema in any form is one too."""
    if wanted is None or wanted == {"type": "text"}:
        return None
    body = bound_format(wanted, strict=strict)
    if body["type"] == "json_object":
        return "json"
    named = body.get("json_schema", body)
    return JSONSchema(
        named["schema"], named.get("name", "answer"), named.get("strict"), named.get("description")
    )
