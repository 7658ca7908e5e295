"""The ways to ask for an answer in a shape: the server's own schema, a forced tool, JSON mode, plain text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.json import parse_json_markdown, parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from langchain_piccc._tools import bound_format
from piccc.errors import ContextOverflowError, InvalidArgumentError, InvalidRequestError

if TYPE_CHECKING:
    from langchain_piccc.chat_models import ChatPiccc

Method = Literal["json_schema", "function_calling", "json_mode"]
_METHODS: tuple[Method, ...] = ("json_schema", "function_calling", "json_mode")
_IN_WORDS = "Answer with one JSON object that satisfies this JSON Schema, and with nothing else:\n"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the answer must be: a pydantic class of either version, a TypedDict, or a JSON Schema."""

    schema: Any

    @property
    def is_class(self) -> bool:
        """Whether answers become objects of a pydantic class."""
        return isinstance(self.schema, type) and is_basemodel_subclass(self.schema)

    def fit(self, value: Any) -> Any:
        """Return the answer in its shape; raise ValueError that says what is wrong with it."""
        if not isinstance(value, dict):
            raise ValueError(f"It is not a JSON object but {type(value).__name__}.")
        if self.is_class:
            new = issubclass(self.schema, BaseModel)
            return self.schema.model_validate(value) if new else self.schema.parse_obj(value)
        required = convert_to_json_schema(self.schema).get("required", ())
        if missing := [name for name in required if name not in value]:
            raise ValueError(f"These fields are missing: {', '.join(missing)}.")
        return value


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to ask: the model with its options bound, and the words by which a server refuses this way."""

    model: Runnable[LanguageModelInput, AIMessage]
    is_tool: bool = False
    refused_by: tuple[str, ...] = ()
    instruction: str = ""

    def ask(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """Return the messages to send."""
        return [*messages, HumanMessage(self.instruction)] if self.instruction else messages

    def is_refused_by(self, error: InvalidRequestError) -> bool:
        """Tell whether the server does not know this way of asking."""
        said = f"{error} {error.body}"
        return not isinstance(error, ContextOverflowError) and any(word in said for word in self.refused_by)

    def text(self, message: AIMessage) -> str:
        """Return what should hold the answer."""
        if self.is_tool and message.tool_calls:
            return json.dumps(message.tool_calls[0]["args"], ensure_ascii=False)
        if self.is_tool and message.invalid_tool_calls:
            return message.invalid_tool_calls[0]["args"] or ""
        return message.text

    def answer(self, message: AIMessage) -> Any:
        """Return the answer; raise ValueError where it is no JSON."""
        return parse_json_markdown(self.text(message), parser=json.loads)

    def partial(self, message: AIMessage) -> Any:
        """Return the answer as far as it has come, or None."""
        try:
            return parse_partial_json(self.text(message))
        except ValueError:
            return None


def ladder(model: ChatPiccc, schema: Any, method: Method | None, strict: bool | None) -> list[Rung]:
    """Return the ways to ask for a shape, the best first; only one where a method was named."""
    match method:
        case "json_schema":
            return [_by_schema(model, schema, strict)]
        case "function_calling":
            return [_by_tool(model, schema, strict)]
        case "json_mode" if strict is None:
            return [_by_json_mode(model, schema)]
        case None:
            return _all(model, schema, strict)
    hint = f"It is one of {', '.join(_METHODS)}; json_mode knows no strict."
    raise InvalidArgumentError(f"method is {method!r} and strict is {strict!r}.", hint=hint)


def _all(model: ChatPiccc, schema: Any, strict: bool | None) -> list[Rung]:
    profile = model.profile or {}
    rungs = [_by_schema(model, schema, strict)] if profile.get("structured_output", True) else []
    rungs += [_by_tool(model, schema, strict)] if profile.get("tool_calling", True) else []
    return [*rungs, _by_text(model, schema)]


def _by_schema(model: ChatPiccc, schema: Any, strict: bool | None) -> Rung:
    wanted = bound_format(schema, strict=strict)
    bound = model.bind(response_format=wanted, **_traced("json_schema", schema))
    return Rung(bound, refused_by=("response_format", "json_schema", "output_config"))


def _by_tool(model: ChatPiccc, schema: Any, strict: bool | None) -> Rung:
    traced = _traced("function_calling", schema)
    bound = model.bind_tools([schema], tool_choice="any", strict=strict, **traced)
    return Rung(bound, is_tool=True, refused_by=("tool_choice", "tools", "tool use", "function"))


def _by_json_mode(model: ChatPiccc, schema: Any) -> Rung:
    # Anthropic's route knows no JSON mode, so there the schema itself is asked for.
    wanted = {"type": "json_object"} if model.dialect == "openai" else bound_format(schema)
    return Rung(model.bind(response_format=wanted, **_traced("json_mode", schema)))


def _by_text(model: ChatPiccc, schema: Any) -> Rung:
    text = _IN_WORDS + json.dumps(convert_to_json_schema(schema), ensure_ascii=False)
    return Rung(model.bind(**_traced("text", schema)), instruction=text)


def _traced(method: str, schema: Any) -> dict[str, Any]:
    return {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}
