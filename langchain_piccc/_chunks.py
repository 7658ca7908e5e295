"""Deltas → LangChain message chunks, whose sum has the same blocks as the whole reply. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from langchain_piccc._output import PROVIDER, is_plain, late_refusal, rank, to_block, to_metadata, to_usage
from piccc.chat import (
    ChatReply,
    Delta,
    RawDelta,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)


class ChunkWriter:
    """Write one reply's chunks: plain ones for as long as the reply is plain, then lists of blocks.

    `id` is the message's; without one, LangChain gives it.
    """

    def __init__(self, id: str = "") -> None:
        self._id = id or None
        self._ranks: dict[int, int] = {}
        self._calls: list[ToolCallDelta] = []
        self._plain = True

    def start(self, model: str) -> Iterable[ChatGenerationChunk]:
        """Return nothing: the first words open a message."""
        return ()

    def write(self, deltas: Sequence[Delta]) -> Iterable[ChatGenerationChunk]:
        """Return the chunks for deltas that came together: one, or two where the reply stops being plain."""
        for position, delta in enumerate(deltas):
            if delta.block not in self._ranks and self._notice(delta):
                before = [self._plain_chunk(deltas[:position])] if position else []
                return [*before, self._block_chunk(deltas[position:], self._calls)]
        return [self._plain_chunk(deltas) if self._plain else self._block_chunk(deltas)]

    def finish(self, reply: ChatReply) -> Iterable[ChatGenerationChunk]:
        """Return the chunk that ends the stream: the only one with usage, model name and finish reason."""
        message = AIMessageChunk(
            content="" if self._plain else [],
            additional_kwargs=late_refusal(reply),
            usage_metadata=to_usage(reply.usage),
            response_metadata=to_metadata(reply),
            chunk_position="last",
            id=self._id,
        )
        return [ChatGenerationChunk(message=message)]

    def _notice(self, delta: Delta) -> bool:
        """Take note of a new block; tell whether the reply is plain no more from here."""
        self._ranks[delta.block] = rank(delta)
        ends = self._plain and not is_plain([self._ranks[block] for block in sorted(self._ranks)])
        if ends:
            self._plain = False
        elif isinstance(delta, ToolCallDelta):
            self._calls.append(delta)
        return ends

    def _plain_chunk(self, deltas: Sequence[Delta]) -> ChatGenerationChunk:
        if len(deltas) == 1 and isinstance(delta := deltas[0], TextDelta):
            return _text_chunk(delta.text, self._id)
        text, calls = "", list[ToolCallChunk]()
        aside: dict[str, str] = {}
        for delta in deltas:
            match delta:
                case TextDelta():
                    text += delta.text
                case ToolCallDelta():
                    calls.append(_call_chunk(delta))
                case ReasoningDelta():
                    aside["reasoning_content"] = aside.get("reasoning_content", "") + delta.text
                    if delta.signature:
                        aside["reasoning_signature"] = aside.get("reasoning_signature", "") + delta.signature
                case RefusalDelta():
                    aside["refusal"] = aside.get("refusal", "") + delta.text
        return self._chunk(text, calls, aside)

    def _block_chunk(
        self, deltas: Sequence[Delta], opened: Sequence[ToolCallDelta] = ()
    ) -> ChatGenerationChunk:
        blocks = [_delta_block(delta) for delta in (*opened, *deltas)]
        calls = [_call_chunk(delta) for delta in deltas if isinstance(delta, ToolCallDelta)]
        return self._chunk([block for block in blocks if block], calls, {})

    def _chunk(
        self, content: str | list[dict[str, Any]], calls: list[ToolCallChunk], aside: dict[str, Any]
    ) -> ChatGenerationChunk:
        message = AIMessageChunk(
            content=content,
            id=self._id,
            tool_call_chunks=calls,
            additional_kwargs=aside,
            response_metadata={"model_provider": PROVIDER},
        )
        return ChatGenerationChunk(message=message)


_MESSAGE = AIMessageChunk(content="").__getstate__()
_CHUNK = ChatGenerationChunk(message=AIMessageChunk(content="")).__getstate__()


def _text_chunk(text: str, id: str | None) -> ChatGenerationChunk:
    """Return what nearly every chunk is, made as unpickling does: to validate it would cost more."""
    message = AIMessageChunk.__new__(AIMessageChunk)
    fields = {
        **_MESSAGE["__dict__"],
        "content": text,
        "id": id,
        "additional_kwargs": {},
        "response_metadata": {"model_provider": PROVIDER},
        "tool_calls": [],
        "invalid_tool_calls": [],
        "tool_call_chunks": [],
    }
    given = {"content", "id", "response_metadata", "tool_call_chunks"}
    message.__setstate__(
        {**_MESSAGE, "__dict__": fields, "__pydantic_fields_set__": given, "__pydantic_extra__": {}}
    )
    chunk = ChatGenerationChunk.__new__(ChatGenerationChunk)
    fields = {**_CHUNK["__dict__"], "text": text, "message": message}
    chunk.__setstate__({**_CHUNK, "__dict__": fields, "__pydantic_fields_set__": {"text", "message"}})
    return chunk


def _call_chunk(delta: ToolCallDelta) -> ToolCallChunk:
    return tool_call_chunk(name=delta.name, args=delta.arguments, id=delta.id, index=delta.index)


def _delta_block(delta: Delta) -> dict[str, Any] | None:
    match delta:
        case TextDelta():
            return {**to_block(Text(delta.text)), "index": f"lc_txt_{delta.block + 1}"}
        case ReasoningDelta():
            thought = Reasoning(delta.text, delta.signature, delta.redacted)
            return {**to_block(thought), "index": f"lc_rs_{delta.block + 1}"}
        case RefusalDelta():
            return {**to_block(Refusal(delta.text)), "index": f"lc_rf_{delta.block + 1}"}
        case ToolCallDelta(id=str() as id):
            # It marks where the call stands; the call itself is in `tool_call_chunks`.
            return {**to_block(ToolCall(id, delta.name or "")), "index": f"lc_tc_{delta.index}"}
        case RawDelta():
            return {**delta.data, "index": f"lc_ns_{delta.block + 1}"}
    return None
