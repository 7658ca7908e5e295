"""Convert stream deltas to LangChain chunks and v3 events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from langchain_piccc._replies import (
    PROVIDER,
    invalid_ending,
    is_plain,
    rank,
    read_calls,
    to_block,
    to_call,
    to_metadata,
    to_non_standard,
    to_reasoning,
    to_usage,
)
from piccc.arguments import MAX_DEPTH, Nesting
from piccc.conversation import (
    ChatReply,
    Delta,
    InvalidToolCall,
    Part,
    Raw,
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

if TYPE_CHECKING:
    from langchain_protocol.protocol import MessagesData


def coalesce(deltas: Sequence[Delta]) -> Sequence[Delta]:
    """Join the deltas of each block into one, in order of the blocks' first appearance."""
    if len(deltas) == 1:
        return deltas
    block = deltas[0].block
    texts = [
        each.text
        for each in deltas
        if isinstance(each, TextDelta) and each.block == block and each.citation is None
    ]
    if len(texts) == len(deltas):  # the common case
        return [TextDelta("".join(texts), block)]
    if any(_is_citation(delta) for delta in deltas):
        return deltas
    blocks: dict[int, list[Delta]] = {}
    for delta in deltas:
        blocks.setdefault(delta.block, []).append(delta)
    return [_join(group) if len(group) > 1 else group[0] for group in blocks.values()]


def _join(group: Sequence[Delta]) -> Delta:
    first = group[0]
    match first:
        case TextDelta():
            return TextDelta("".join([each.text for each in cast("list[TextDelta]", group)]), first.block)
        case RefusalDelta():
            return RefusalDelta(
                "".join([each.text for each in cast("list[RefusalDelta]", group)]), first.block
            )
        case ReasoningDelta():
            pieces = cast("list[ReasoningDelta]", group)
            signature = "".join([piece.signature for piece in pieces if piece.signature]) or None
            text = "".join([piece.text for piece in pieces])
            return ReasoningDelta(text, first.block, signature, first.redacted)
        case ToolCallDelta():
            arguments = "".join([each.arguments for each in cast("list[ToolCallDelta]", group)])
            return ToolCallDelta(first.index, arguments, first.id, first.name, first.block)
        case RawDelta():
            return first


class ChunkWriter:
    """Writer of one reply's chunks: text while the reply is plain, then lists of blocks.

    `id` is the message's id; if empty, LangChain assigns one.
    """

    def __init__(self, id: str = "") -> None:
        self._id = id or None
        self._ranks: dict[int, int] = {}
        self._calls: list[ToolCallDelta] = []
        self._arguments: dict[int, list[str]] = {}
        self._held: dict[int, str] = {}
        self._nesting: dict[int, Nesting] = {}
        self._plain = True

    def start(self, model: str) -> Iterable[ChatGenerationChunk]:
        """Return nothing: the first delta opens the message."""
        return ()

    def write(self, deltas: Sequence[Delta]) -> Iterable[ChatGenerationChunk]:
        """Return the chunks for deltas that arrived together: one, or two if the reply stops being plain."""
        for position, delta in enumerate(deltas):
            if (delta.block not in self._ranks or _is_citation(delta)) and self._ends_plain(delta):
                before = [self._plain_chunk(deltas[:position])] if position else []
                return [*before, self._block_chunk(deltas[position:], self._calls)]
        return [self._plain_chunk(deltas) if self._plain else self._block_chunk(deltas)]

    def finish(self, reply: ChatReply) -> Iterable[ChatGenerationChunk]:
        """Return the last chunk, the only one with usage, model name and finish reason."""
        message = AIMessageChunk(
            content="" if self._plain else [],
            tool_call_chunks=self._call_ends(reply),
            usage_metadata=to_usage(reply.usage),
            response_metadata=to_metadata(reply),
            chunk_position="last",
            id=self._id,
        )
        return [ChatGenerationChunk(message=message)]

    def _call_ends(self, reply: ChatReply) -> list[ToolCallChunk]:
        """Return the last fragments of the calls, so that a sum of chunks has the same calls as the reply."""
        ends = []
        calls = [part for part in reply.parts if isinstance(part, ToolCall | InvalidToolCall)]
        for index, call in enumerate(calls):
            sent, held = "".join(self._arguments.get(index, ())), self._held.get(index, "")
            if isinstance(call, InvalidToolCall):
                ends.append(tool_call_chunk(args=held + invalid_ending(sent + held), index=index))
            elif not sent:
                ends.append(tool_call_chunk(args=call.arguments, index=index))
        return ends

    def _call_chunk(self, delta: ToolCallDelta) -> ToolCallChunk:
        """Return a call's fragment, holding back text that LangChain must not parse.

        This is text before an object begins: we read `null` as empty arguments, LangChain does not, and
        a sent chunk cannot be corrected. It is also text nested so deeply that the call is invalid, because
        LangChain's partial JSON parser recurses.
        """
        arguments = self._held.pop(delta.index, "") + delta.arguments
        nesting = self._nesting.setdefault(delta.index, Nesting())
        nesting.add(delta.arguments)
        if delta.index not in self._arguments and arguments.lstrip().startswith("{"):
            self._arguments[delta.index] = []
        if delta.index not in self._arguments or nesting.deepest > MAX_DEPTH:
            self._held[delta.index], arguments = arguments, ""
        if arguments:
            self._arguments[delta.index].append(arguments)
        return tool_call_chunk(name=delta.name, args=arguments, id=delta.id, index=delta.index)

    def _ends_plain(self, delta: Delta) -> bool:
        """Record a new block; return whether the reply stops being plain here."""
        self._ranks[delta.block] = rank(delta)
        ends = self._plain and not is_plain([self._ranks[block] for block in sorted(self._ranks)])
        if ends:
            self._plain = False
        elif isinstance(delta, ToolCallDelta):
            self._calls.append(delta)
        return ends

    def _plain_chunk(self, deltas: Sequence[Delta]) -> ChatGenerationChunk:
        if len(deltas) == 1:
            if isinstance(delta := deltas[0], TextDelta):
                return _copied_chunk(delta.text, self._id)
            if isinstance(delta, ToolCallDelta):
                call = self._call_chunk(delta)
                arguments = call["args"] or ""
                # LangChain parses each fragment separately: only one that starts an object can be a call.
                if arguments and not arguments.lstrip().startswith("{"):
                    return _copied_chunk("", self._id, call)
                return self._chunk("", [call], {})
        text, calls = "", list[ToolCallChunk]()
        aside: dict[str, str] = {}
        for delta in deltas:
            match delta:
                case TextDelta():
                    text += delta.text
                case ToolCallDelta():
                    calls.append(self._call_chunk(delta))
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
        calls = [self._call_chunk(delta) for delta in deltas if isinstance(delta, ToolCallDelta)]
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


_MESSAGE = AIMessageChunk(content="", id=None, response_metadata={"model_provider": PROVIDER})
_FRAGMENT = _MESSAGE.model_copy(update={"tool_call_chunks": [], "invalid_tool_calls": []})
_CHUNK = ChatGenerationChunk(message=_MESSAGE)


def _copied_chunk(text: str, id: str | None, call: ToolCallChunk | None = None) -> ChatGenerationChunk:
    """Return a chunk of text, or of a fragment that is not yet a call, by copying a template.

    Nearly every chunk is one of these. With cold caches, validation would cost 13 µs more per token, and
    `model_copy(update=…)` 3 µs more.
    """
    message = (_MESSAGE if call is None else _FRAGMENT).model_copy()
    # `model_copy` documents that the fields are in `__dict__`.
    message.__dict__.update(
        content=text,
        id=id,
        additional_kwargs={},
        response_metadata={"model_provider": PROVIDER},
        tool_calls=[],
        invalid_tool_calls=[]
        if call is None
        else [invalid_tool_call(name=call["name"], args=call["args"], id=call["id"])],
        tool_call_chunks=[] if call is None else [call],
    )
    chunk = _CHUNK.model_copy()
    chunk.__dict__.update(text=text, message=message)
    return chunk


def _is_citation(delta: Delta) -> bool:
    return isinstance(delta, TextDelta) and delta.citation is not None


def _delta_block(delta: Delta) -> dict[str, Any] | None:
    match delta:
        case TextDelta():
            cited = [delta.citation] if delta.citation else []
            return {**to_block(Text(delta.text, cited)), "index": f"lc_txt_{delta.block + 1}"}
        case ReasoningDelta():
            reasoning = Reasoning(delta.text, delta.signature, delta.redacted)
            return {**to_block(reasoning), "index": f"lc_rs_{delta.block + 1}"}
        case RefusalDelta():
            return {**to_block(Refusal(delta.text)), "index": f"lc_rf_{delta.block + 1}"}
        case ToolCallDelta(id=str() as id):
            # Only marks the call's position; the call itself is in `tool_call_chunks`.
            return {**to_block(ToolCall(id, delta.name or "")), "index": f"lc_tc_{delta.index}"}
        case RawDelta():
            return {**delta.data, "index": f"lc_ns_{delta.block + 1}"}
    return None


_NOTHING: dict[str, Any] = {}


class EventWriter:
    """Writer of one reply's events; `id` is the message's id."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._indexes: dict[int, int] = {}

    def start(self, model: str) -> Iterable[MessagesData]:
        """Return the event that opens the message."""
        metadata = {"provider": PROVIDER, "model": model}
        return [_event("message-start", role="ai", id=self._id, metadata=metadata)]

    def write(self, deltas: Sequence[Delta]) -> Iterable[MessagesData]:
        """Yield the events for deltas that arrived together."""
        for delta in deltas:
            index = self._indexes.get(delta.block)
            if index is None:
                index = self._indexes[delta.block] = len(self._indexes)
                yield _event("content-block-start", index=index, content=_opening(delta))
            if growth := _growth(delta):
                yield _event("content-block-delta", index=index, delta=growth)

    def finish(self, reply: ChatReply) -> Iterable[MessagesData]:
        """Yield the events that close the blocks and the message."""
        parts = dict(zip(sorted(self._indexes), reply.parts, strict=True))
        for block, index in self._indexes.items():
            yield _event("content-block-finish", index=index, content=_whole(parts[block]))
        extra: dict[str, Any] = {"metadata": to_metadata(reply)}
        if usage := to_usage(reply.usage):
            extra["usage"] = usage
        if reply.is_refusal:
            extra["additional_kwargs"] = {"refusal": reply.refusal}
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
            cited = [{"type": "non_standard_annotation", "value": each} for each in part.citations]
            return {"type": "text", "text": part.text, **({"annotations": cited} if cited else {})}
        case Reasoning(redacted=str()):
            return to_non_standard({"type": "redacted_thinking", "data": part.redacted})
        case Reasoning():
            return to_reasoning(part.text, part.signature)
        case ToolCall():
            return to_call(part.id, part.name, part.parse())
        case InvalidToolCall():
            return {**read_calls([part])[1][0]}
        case Refusal():
            # LangChain drops `refusal` blocks when it assembles these events.
            return to_non_standard({"type": "refusal", "refusal": part.text})
        case Raw():
            return to_non_standard(part.data)
    raise TypeError(f"A reply cannot contain {type(part).__name__}.")
