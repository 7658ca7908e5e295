"""Replies written by the user of the emulator: they go before the model's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from piccc.emulator.conversation import Completion, FinishReason, ModelCall, ModelRequest
from piccc.emulator.model.tokens import measured


@dataclass(frozen=True, slots=True)
class Scripted:
    """A reply word for word; `max_tokens` and `stop` cut it like any other.

    Attributes:
        text: what the model says.
        calls: the tools it calls, as pairs of a name and arguments.
        reasoning: what it thinks first.
        refusal: its words where it declines.
        finish_reason: why it ends; by default `tool_calls` with calls, else `stop`.

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
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()
    reasoning: str = ""
    refusal: str = ""
    finish_reason: FinishReason | None = None


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
            calls=tuple(
                ModelCall(f"call_{next(self._numbers):024d}", name, dict(given)) for name, given in said.calls
            ),
            refusal=said.refusal,
            finish_reason=said.finish_reason or ("tool_calls" if said.calls else "stop"),
        )
