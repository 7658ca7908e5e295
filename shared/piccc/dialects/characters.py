"""Characters that a server cut between the two halves of their surrogate pair."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from piccc.chat import Delta, RawDelta, ReasoningDelta, ToolCallDelta
from piccc.dialects.wire import join_halves


class Characters:
    """Hold the first half of a character back until its second half comes, block by block."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[int, Delta] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a first half is held."""
        return bool(self._waiting)

    def join(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Return the deltas with whole characters only."""
        joined = [self._join(delta) for delta in deltas]
        return [delta for delta in joined if not _is_empty(delta)]

    def finish(self) -> list[Delta]:
        """Return a replacement character for each half whose other half never came."""
        lost = [_with_text(delta, "\ufffd") for delta in self._waiting.values()]
        self._waiting.clear()
        return lost

    def _join(self, delta: Delta) -> Delta:
        if isinstance(delta, RawDelta):
            return delta
        held = self._waiting.pop(delta.block, None)
        text = (_text(held) if held is not None else "") + _text(delta)
        if "\ud800" <= text[-1:] <= "\udbff":
            self._waiting[delta.block] = _more(delta, text[-1])
            text = text[:-1]
        return _with_text(delta, join_halves(text))


def _more(delta: Delta, text: str) -> Delta:
    """Return a delta that goes on where this one began."""
    if isinstance(delta, ToolCallDelta):
        return ToolCallDelta(delta.index, text, block=delta.block)
    if isinstance(delta, ReasoningDelta):
        return ReasoningDelta(text, delta.block)
    return _with_text(delta, text)


def _text(delta: Delta) -> str:
    if isinstance(delta, ToolCallDelta):
        return delta.arguments
    return "" if isinstance(delta, RawDelta) else delta.text


def _with_text(delta: Delta, text: str) -> Delta:
    if isinstance(delta, ToolCallDelta):
        return replace(delta, arguments=text)
    return delta if isinstance(delta, RawDelta) else replace(delta, text=text)


def _is_empty(delta: Delta) -> bool:
    if isinstance(delta, ToolCallDelta):
        return not delta.arguments and delta.name is None
    if isinstance(delta, ReasoningDelta):
        return not delta.text and delta.signature is None and delta.redacted is None
    return not isinstance(delta, RawDelta) and not delta.text
