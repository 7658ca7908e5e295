"""Deltas → the events of LangChain's content-block protocol. Pure.

A block opens at its first delta, may grow while others grow, and is closed at the end with all that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_piccc._blocks import to_call, to_non_standard, to_reasoning
from langchain_piccc._output import PROVIDER, late_refusal, read_calls, to_metadata, to_usage
from piccc.chat import (
    ChatReply,
    Delta,
    Part,
    Raw,
    Reasoning,
    ReasoningDelta,
    Refusal,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)

if TYPE_CHECKING:
    from langchain_protocol.protocol import MessagesData

_NOTHING: dict[str, Any] = {}


class EventWriter:
    """Write one reply's events; `id` is the message's."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._wire: dict[int, int] = {}

    def start(self, model: str) -> Iterable[MessagesData]:
        """Return the event that opens the message."""
        metadata = {"provider": PROVIDER, "model": model}
        return [_event("message-start", role="ai", id=self._id, metadata=metadata)]

    def write(self, deltas: Sequence[Delta]) -> Iterable[MessagesData]:
        """Yield the events for deltas that came together."""
        for delta in deltas:
            index = self._wire.get(delta.block)
            if index is None:
                index = self._wire[delta.block] = len(self._wire)
                yield _event("content-block-start", index=index, content=_opening(delta))
            if growth := _growth(delta):
                yield _event("content-block-delta", index=index, delta=growth)

    def finish(self, reply: ChatReply) -> Iterable[MessagesData]:
        """Yield the events that close the blocks and the message."""
        parts = dict(zip(sorted(self._wire), reply.parts, strict=True))
        for block, index in self._wire.items():
            yield _event("content-block-finish", index=index, content=_whole(parts[block]))
        if late := late_refusal(reply):
            index = len(self._wire)
            yield _event("content-block-start", index=index, content=to_non_standard({}))
            yield _event("content-block-finish", index=index, content=_whole(Refusal(late["refusal"])))
        extra: dict[str, Any] = {"metadata": to_metadata(reply)}
        if usage := to_usage(reply.usage):
            extra["usage"] = usage
        if refusal := reply.refusal or late.get("refusal"):
            extra["additional_kwargs"] = {"refusal": refusal}
        yield _event("message-finish", **extra)


def _event(name: str, **fields: Any) -> MessagesData:
    return cast("MessagesData", {"event": name, **fields})


def _opening(delta: Delta) -> dict[str, Any]:
    match delta:
        case TextDelta():
            return {"type": "text", "text": ""}
        case ReasoningDelta(redacted=None):
            return {"type": "reasoning", "reasoning": ""}
        case ToolCallDelta():
            names = {"id": delta.id, "name": delta.name}
            return {"type": "tool_call_chunk", **names, "args": "", "index": delta.index}
    return to_non_standard({})


def _growth(delta: Delta) -> dict[str, Any]:
    match delta:
        case TextDelta():
            return {"type": "text-delta", "text": delta.text}
        case ToolCallDelta() if delta.arguments:
            return {"type": "tool-call-delta", "args": delta.arguments}
        case ReasoningDelta() if delta.text:
            return {"type": "reasoning-delta", "reasoning": delta.text}
    return _NOTHING


def _whole(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Reasoning(redacted=str()):
            return to_non_standard({"type": "redacted_thinking", "data": part.redacted})
        case Reasoning():
            return to_reasoning(part.text, part.signature)
        case ToolCall():
            valid, invalid = read_calls([part])
            return {**invalid[0]} if invalid else to_call(part.id, part.name, valid[0]["args"])
        case Refusal():
            # The stream that assembles these events drops a block of the type `refusal`.
            return to_non_standard({"type": "refusal", "refusal": part.text})
        case Raw():
            return to_non_standard(part.data)
    raise TypeError(f"A reply does not hold {type(part).__name__}.")
