"""What either chat route asks of the model, and what the model answers: the seam between wire and model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, file or sound that came with a turn: what it is, and how large, never its bytes."""

    kind: Literal["image", "file", "audio"]
    mime_type: str
    size: int | None = None
    name: str | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call of a tool; `arguments` is the parsed object."""

    id: str
    name: str
    arguments: dict[str, Any]
    partial: str | None = None
    """The JSON text, where it was cut or is no object: the wire shows it in place of `arguments`."""


@dataclass(frozen=True, slots=True)
class ModelMessage:
    """One message. A tool's result has the role `tool` and the `call_id` that it answers."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    media: tuple[Medium, ...] = ()
    calls: tuple[ModelCall, ...] = ()
    call_id: str | None = None
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool on offer; `parameters` is its JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request for a reply, with both routes' words translated into one set.

    Attributes:
        model: the model that was asked.
        turns: the conversation: each turn has `role`, `text`, `media`, `calls`, `call_id` and `is_error`.
        tools: the tools on offer: each has `name`, `description` and `parameters`, a JSON Schema.
        named_tool: the tool that must be called, where one was named; else None.
        parallel_tool_calls: whether one reply may call several tools.
        json_mode: whether JSON was asked for, without a schema.
        stop: texts at which the reply ends.
        max_tokens: how many tokens the reply may have, or None.
        seed: the seed that was given, or None.
        reasoning: whether reasoning was asked for.
    """

    model: str
    turns: tuple[ModelMessage, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or `named` (then `named_tool` says which)."""
    named_tool: str | None = None
    parallel_tool_calls: bool = True
    schema: dict[str, Any] | None = None
    """The JSON Schema that the text must satisfy, when structured output was asked for."""
    json_mode: bool = False
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    seed: int | None = None
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the emulator counts them: the same rule on both routes, whole and streamed."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model says: reasoning first, then text, then calls."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ModelCall, ...] = ()
    refusal: str | None = None
    """The words of a refusal, "" for one without any, or None when the model does not refuse."""
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    blocks: tuple[Mapping[str, Any], ...] = ()
    """Content blocks to send as they are, after the text."""
    usage_fields: Mapping[str, Any] | None = None
    """Fields that go over those of the reply's usage."""
