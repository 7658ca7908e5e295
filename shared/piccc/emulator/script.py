"""Replies written by the user of the emulator: they go before the model's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from piccc.emulator.conversation import Completion, FinishReason, ModelCall, ModelRequest
from piccc.emulator.model.tokens import measured

ScriptedCall = tuple[str, Mapping[str, Any] | str] | tuple[str, Mapping[str, Any] | str, str]


@dataclass(frozen=True, slots=True)
class Scripted:
    """One reply, word for word, also one that only a bad model gives; `max_tokens` and `stop` cut it.

    Attributes:
        text: the reply's text.
        calls: the tool calls: (name, arguments) or (name, arguments, id). Arguments are a mapping, or the
            raw text of them, which may be cut or no JSON at all; a name or an id may be empty.
        reasoning: the reasoning before the text.
        refusal: the words of a refusal; "" refuses without any, None does not refuse.
        finish_reason: why the reply ends; by default `tool_calls` with calls, else `stop`.
        usage: fields that replace those of the reply's usage, under the route's own names; in a stream they
            come with the last count. Charges stay as counted.
        blocks: content blocks sent as they are, after the text: of `content` on `/v1/messages`, parts of a
            list of content on `/v1/chat/completions`.

    Examples:
        >>> from piccc import Client
        >>> from piccc.emulator import Emulator, Scripted
        >>> with Emulator() as emulator:
        ...     emulator.script(["Good morning.", Scripted(calls=[("weather", {"city": "Oslo"})])])
        ...     client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
        ...     [client.chat.create("Hello").parts[0] for _ in range(2)]
        [Text(text='Good morning.'), ToolCall(id='call_...', name='weather', arguments='{"city":"Oslo"}')]
    """

    text: str = ""
    calls: Sequence[ScriptedCall] = ()
    reasoning: str = ""
    refusal: str | None = None
    finish_reason: FinishReason | None = None
    usage: Mapping[str, Any] | None = None
    blocks: Sequence[Mapping[str, Any]] = ()


Line = str | Scripted | Callable[[ModelRequest], "str | Scripted"]


@dataclass(slots=True)
class Script:
    """The lines that are still to be said, each once, and the rules that hold until they are withdrawn."""

    lines: deque[Line] = field(default_factory=deque)
    rules: list[tuple[Callable[[ModelRequest], bool], Line]] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def answer(self, ask: ModelRequest) -> Completion | None:
        """Return the answer to give instead of the model's, if there is one: a rule's, else the next line."""
        line = next((then for when, then in self.rules if when(ask)), None)
        if line is None:
            if not self.lines:
                return None
            line = self.lines.popleft()
        said = line(ask) if callable(line) else line
        return measured(ask, self._answer(Scripted(said) if isinstance(said, str) else said))

    def _answer(self, said: Scripted) -> Completion:
        return Completion(
            text=said.text,
            reasoning=said.reasoning,
            calls=tuple(self._call(*call) for call in said.calls),
            refusal=said.refusal,
            finish_reason=said.finish_reason or ("tool_calls" if said.calls else "stop"),
            usage_fields=said.usage,
            blocks=tuple(said.blocks),
        )

    def _call(self, name: str, given: Mapping[str, Any] | str, call_id: str | None = None) -> ModelCall:
        made = f"call_{next(self._numbers):024d}" if call_id is None else call_id
        if isinstance(given, str):
            return ModelCall(made, name, {}, partial=given)
        return ModelCall(made, name, dict(given))
