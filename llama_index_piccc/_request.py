"""The keywords of a call as one neutral request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from llama_index_piccc._tools import as_choice, as_tool
from piccc.chat import ChatRequest, JSONSchema, Message
from piccc.errors import InvalidArgumentError

_KNOWN = frozenset(field.name for field in fields(ChatRequest)) - {"messages"}


def chat_request(messages: Sequence[Message], options: Mapping[str, Any]) -> ChatRequest:
    """Make a request; keywords that have no place of their own go into its body as they are."""
    known = {name: value for name, value in options.items() if name in _KNOWN and value is not None}
    further = {name: value for name, value in options.items() if name not in _KNOWN}
    known["tools"] = [as_tool(each) for each in known.get("tools", ())]
    if known["tools"]:
        known["tool_choice"] = as_choice(known.get("tool_choice"))
    else:
        known.pop("tool_choice", None)
        known.pop("parallel_tool_calls", None)
    stop = known.get("stop", ())
    known["stop"] = [stop] if isinstance(stop, str) else list(stop)
    known["extra_body"] = {**known.get("extra_body", {}), **further}
    if isinstance(known.get("response_format"), Mapping):
        known["response_format"] = _response_format(known["response_format"])
    return ChatRequest(messages=messages, **known)


def _response_format(wanted: Mapping[str, Any]) -> JSONSchema | str | None:
    """Read the form in which the OpenAI API writes it."""
    match wanted:
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": dict()} as given}:
            names = ("schema", "name", "strict", "description")
            return JSONSchema(**{name: given[name] for name in names if name in given})
        case {"type": "text"}:
            return None
    raise InvalidArgumentError(
        "response_format is not understood.", hint="Give 'json', a piccc.JSONSchema, or the API's own object."
    )
