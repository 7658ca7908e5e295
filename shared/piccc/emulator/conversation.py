"""Chat requests, completions and scripted replies, as the routes and the model exchange them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Medium:
    """An image, file or audio in a message: its type and size, never its bytes."""

    kind: Literal["image", "file", "audio"]
    mime_type: str
    size: int | None = None
    name: str | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One tool call; `arguments` is the parsed object."""

    id: str
    name: str
    arguments: dict[str, Any]
    partial: str | None = None
    """The JSON text if it was cut or is not an object; sent instead of `arguments`."""


@dataclass(frozen=True, slots=True)
class ModelMessage:
    """One message. A tool result has the role `tool` and the `call_id` of its call."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    media: tuple[Medium, ...] = ()
    calls: tuple[ModelCall, ...] = ()
    call_id: str | None = None
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool definition; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One chat request, in a form shared by both routes.

    Attributes:
        model: the requested model.
        turns: the messages, each with `role`, `text`, `media`, `calls`, `call_id` and `is_error`.
        tools: the available tools, each with `name`, `description` and `parameters` (a JSON Schema).
        named_tool: the tool that must be called, or None.
        parallel_tool_calls: whether one reply may call several tools.
        json_mode: whether JSON without a schema was requested.
        stop: the stop sequences.
        max_tokens: the maximum number of tokens in the reply, or None.
        seed: the seed, or None.
        reasoning: whether reasoning was requested.
    """

    model: str
    turns: tuple[ModelMessage, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or `named` (see `named_tool`)."""
    named_tool: str | None = None
    parallel_tool_calls: bool = True
    schema: dict[str, Any] | None = None
    """The JSON Schema that the text must satisfy, or None."""
    json_mode: bool = False
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    seed: int | None = None
    reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts, the same on both routes, streamed or not."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(slots=True)
class Completion:
    """One reply: reasoning, then text, then calls."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ModelCall, ...] = ()
    refusal: str | None = None
    """The refusal text, "" for a refusal without text, or None."""
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=lambda: Usage(0, 0))
    blocks: tuple[Mapping[str, Any], ...] = ()
    """Content blocks to send unchanged after the text."""
    usage_fields: Mapping[str, Any] | None = None
    """Fields that override those of the usage."""


ScriptedCall = tuple[str, Mapping[str, Any] | str] | tuple[str, Mapping[str, Any] | str, str]


@dataclass(frozen=True, slots=True)
class Scripted:
    """One reply, sent verbatim even if malformed; `max_tokens` and `stop` still truncate it.

    Attributes:
        text: the reply's text.
        calls: the tool calls: (name, arguments) or (name, arguments, id). Arguments are a mapping or raw
            text, which may be truncated or invalid JSON; a name or id may be empty.
        reasoning: the reasoning before the text.
        refusal: the refusal text; "" refuses without text, None does not refuse.
        finish_reason: why the reply ends; by default `tool_calls` with calls, else `stop`.
        usage: fields that override the reply's usage, under the route's own names; in a stream they are
            sent with the final usage. Charges are not affected.
        blocks: content blocks sent unchanged after the text: items of `content` on `/v1/messages`, content
            parts on `/v1/chat/completions`.

    Examples:
        >>> from piccc import Client
        >>> from piccc.emulator import Emulator, Scripted
        >>> with Emulator() as emulator:
        ...     emulator.script(["Good morning.", Scripted(calls=[("weather", {"city": "Oslo"})])])
        ...     client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
        ...     print(client.chat.create("Hello").text)
        ...     client.chat.create("Hello").parts[0]
        Good morning.
        ToolCall(id='call_...', name='weather', arguments='{"city":"Oslo"}')
    """

    text: str = ""
    calls: Sequence[ScriptedCall] = ()
    reasoning: str = ""
    refusal: str | None = None
    finish_reason: FinishReason | None = None
    usage: Mapping[str, Any] | None = None
    blocks: Sequence[Mapping[str, Any]] = ()


ScriptLine = str | Scripted | Callable[[ModelRequest], "str | Scripted"]


@dataclass(slots=True)
class Script:
    """Scripted replies: a queue of replies used once, and rules that apply until cleared."""

    lines: deque[ScriptLine] = field(default_factory=deque)
    rules: list[tuple[Callable[[ModelRequest], bool], ScriptLine]] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def answer(self, request: ModelRequest) -> Completion | None:
        """Return the reply of the first matching rule, else the next queued reply, else None."""
        line = next((then for when, then in self.rules if when(request)), None)
        if line is None:
            if not self.lines:
                return None
            line = self.lines.popleft()
        scripted = line(request) if callable(line) else line
        if isinstance(scripted, str):
            return Completion(text=scripted)
        return Completion(
            text=scripted.text,
            reasoning=scripted.reasoning,
            calls=tuple(self._call(*call) for call in scripted.calls),
            refusal=scripted.refusal,
            finish_reason=scripted.finish_reason or ("tool_calls" if scripted.calls else "stop"),
            usage_fields=scripted.usage,
            blocks=tuple(scripted.blocks),
        )

    def _call(self, name: str, given: Mapping[str, Any] | str, call_id: str | None = None) -> ModelCall:
        made = f"call_{next(self._numbers):024d}" if call_id is None else call_id
        if isinstance(given, str):
            return ModelCall(made, name, {}, partial=given)
        return ModelCall(made, name, dict(given))
