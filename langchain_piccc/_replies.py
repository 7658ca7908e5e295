"""Convert neutral chat replies to LangChain messages and content blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, OutputTokenDetails, UsageMetadata
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import KNOWN_BLOCK_TYPES, ContentBlock
from langchain_core.messages.content import InvalidToolCall as LangChainInvalidToolCall
from langchain_core.messages.tool import ToolCall as LangChainToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call

from piccc.arguments import Nesting
from piccc.conversation import (
    INVALID_REASONS,
    ChatReply,
    Delta,
    InvalidReason,
    InvalidToolCall,
    Part,
    Raw,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from piccc.conversation import PROVIDER as PROVIDER

INVALID = "invalid_tool_calls"
"""The `response_metadata` key that says why calls are invalid."""
_TIERS = ("flex", "priority")
_ORDER: dict[type[Part | Delta], int] = {
    Reasoning: 0,
    ReasoningDelta: 0,
    Text: 1,
    TextDelta: 1,
    Refusal: 2,
    RefusalDelta: 2,
    ToolCall: 3,
    InvalidToolCall: 3,
    ToolCallDelta: 3,
}
_CALL, _NEVER_PLAIN = 3, 4


def to_message(reply: ChatReply) -> AIMessage:
    """Return a complete reply as a message."""
    plain = is_plain([rank(part) for part in reply.parts])
    calls, invalid = read_calls(reply.parts)
    return AIMessage(
        content=reply.text if plain else [to_block(part) for part in reply.parts],
        additional_kwargs=_additional_kwargs(reply) if plain else {},
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=to_usage(reply.usage),
        response_metadata=to_metadata(reply),
    )


def read_calls(parts: Iterable[Part]) -> tuple[list[LangChainToolCall], list[LangChainInvalidToolCall]]:
    """Return the valid and the invalid tool calls."""
    valid, invalid = [], []
    for part in parts:
        if isinstance(part, ToolCall):
            valid.append(tool_call(name=part.name, args=part.parse(), id=part.id))
        elif isinstance(part, InvalidToolCall):
            invalid.append(
                invalid_tool_call(name=part.name, args=part.arguments, id=part.id, error=part.error)
            )
    return valid, invalid


_MARK = "<invalid>"
_MARKED = re.compile(re.escape(_MARK) + r'"?[\]}]\Z')


def invalid_ending(arguments: str) -> str:
    """Return a suffix for an invalid call's arguments that keeps the call invalid in a sum of chunks.

    LangChain parses the summed arguments with `parse_partial_json`, which closes open strings and brackets
    and drops the rest. It only fails on a closing bracket that was never opened. We strip the suffix when we
    read such a message.
    """
    nesting = Nesting(f"{arguments}{_MARK}")
    quote = '"' if nesting.is_in_string else ""
    return f"{_MARK}{quote}{']' if nesting.closing[-1:] == ['}'] else '}'}"


def without_ending(arguments: str) -> str:
    """Return the arguments of an invalid call as the model wrote them."""
    return _MARKED.sub("", arguments)


def invalid_reasons(message: AIMessage) -> dict[str, InvalidReason]:
    """Return why calls in our own messages are invalid, by call id."""
    if message.response_metadata.get("model_provider") != PROVIDER:
        return {}  # other providers may use the key differently
    listed = message.response_metadata.get(INVALID)
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    return {
        str(entry.get("id")): entry["reason"] for entry in entries if entry.get("reason") in INVALID_REASONS
    }


def _additional_kwargs(reply: ChatReply) -> dict[str, str]:
    signature = "".join(
        [part.signature or "" for part in reply.parts if isinstance(part, Reasoning) and part.signature]
    )
    aside = {"reasoning_content": reply.reasoning, "reasoning_signature": signature}
    refusal = {"refusal": reply.refusal} if reply.is_refusal else {}
    return {**{name: text for name, text in aside.items() if text}, **refusal}


def to_metadata(reply: ChatReply) -> dict[str, Any]:
    """Return `response_metadata`: model, finish reason, ids and the diagnostic record."""
    metadata = {
        "model_provider": PROVIDER,
        "model_name": reply.model,
        "finish_reason": reply.finish_reason,
        "id": reply.id,
        "request_id": reply.record.request_id,
        **reply.extra,
        INVALID: [{"id": call.id, "reason": call.reason} for call in reply.invalid_calls],
        "record": reply.record.to_dict(),
    }
    return {name: value for name, value in metadata.items() if value not in (None, "", [])}


def to_usage(usage: Usage | None) -> UsageMetadata | None:
    """Return `usage_metadata` without details that are 0."""
    if usage is None:
        return None
    counts = UsageMetadata(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
    )
    # As in langchain-openai and -anthropic, no token is counted in two details: each has its own price.
    written = {
        "ephemeral_5m_input_tokens": usage.cache_creation_5m_tokens,
        "ephemeral_1h_input_tokens": usage.cache_creation_1h_tokens,
    }
    tier = f"{usage.service_tier}_" if usage.service_tier in _TIERS else ""
    given = {
        "audio": usage.audio_input_tokens,
        f"{tier}cache_creation": usage.cache_creation_tokens - sum(written.values()),
        f"{tier}cache_read": usage.cache_read_tokens,
        **written,
    }
    made = {"audio": usage.audio_output_tokens, f"{tier}reasoning": usage.reasoning_tokens}
    if tier:
        given[tier[:-1]] = usage.input_tokens - usage.cache_read_tokens
        made[tier[:-1]] = usage.output_tokens - usage.reasoning_tokens
    if any(given.values()):
        counts["input_token_details"] = cast("InputTokenDetails", _positive(given))
    if any(made.values()):
        counts["output_token_details"] = cast("OutputTokenDetails", _positive(made))
    return counts


def _positive(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > 0}


def rank(piece: Part | Delta) -> int:
    """Return the position of a piece in a plain reply."""
    if isinstance(piece, Reasoning | ReasoningDelta) and piece.redacted is not None:
        return _NEVER_PLAIN
    if (isinstance(piece, Text) and piece.citations) or (isinstance(piece, TextDelta) and piece.citation):
        return _NEVER_PLAIN
    return _ORDER.get(type(piece), _NEVER_PLAIN)


def is_plain(ranks: Sequence[int]) -> bool:
    """Return whether pieces with these ranks, in this order, form a plain reply."""
    return _NEVER_PLAIN not in ranks and all(
        left < right or left == right == _CALL for left, right in pairwise(ranks)
    )


def to_block(part: Part) -> dict[str, Any]:
    """Return a part as a content block, for a reply that is not plain."""
    match part:
        case Text(citations=[]):
            return {"type": "text", "text": part.text}
        case Text():
            return {"type": "text", "text": part.text, "citations": part.citations}
        case Reasoning(redacted=str()):
            return {"type": "redacted_thinking", "data": part.redacted}
        case Reasoning():
            signature = {"signature": part.signature} if part.signature else {}
            return {"type": "thinking", "thinking": part.text, **signature}
        case Refusal():
            return {"type": "refusal", "refusal": part.text}
        case ToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.parse()}
        case InvalidToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
        case Raw():
            return part.data
    raise TypeError(f"A reply cannot contain {type(part).__name__}.")


Block = dict[str, Any]
Calls = dict[Any, Block]


def translate(message: AIMessage) -> list[ContentBlock]:
    """Return the blocks of a complete message."""
    return _translate(message, _whole_calls(message), index=False)


def translate_chunk(chunk: AIMessageChunk) -> list[ContentBlock]:
    """Return the blocks of a chunk, or of a sum of chunks."""
    # The last chunk by itself has the ends of calls, without ids; a sum has complete calls.
    is_sum = chunk.chunk_position == "last" and all(call.get("id") for call in chunk.tool_call_chunks)
    return _translate(chunk, _whole_calls(chunk) if is_sum else _partial_calls(chunk), index=True)


def register() -> None:
    """Register these translators with LangChain."""
    register_translator(PROVIDER, translate, translate_chunk)


def _translate(message: AIMessage, calls: Calls, *, index: bool) -> list[ContentBlock]:
    blocks: list[Block] = []
    if reasoning := _reasoning(message.additional_kwargs):
        blocks.append(reasoning)
    content = [message.content] if isinstance(message.content, str) else message.content
    for item in content:
        if isinstance(item, str):
            blocks += [{"type": "text", "text": item, "index": "lc_txt_0"}] if item else []
        elif item.get("type") in ("tool_use", "tool_call"):
            blocks += _marked_call(item, calls, is_chunk=index)
        else:
            blocks.append(_block(item))
    if (refusal := message.additional_kwargs.get("refusal")) is not None:
        blocks.append({**to_refusal(refusal), "index": "lc_rf_0"})
    blocks += calls.values()
    if not index:
        blocks = [{name: block[name] for name in block if name != "index"} for block in blocks]
    return cast("list[ContentBlock]", blocks)


def _marked_call(item: Mapping[str, Any], calls: Calls, *, is_chunk: bool) -> list[Block]:
    if (call := calls.pop(item.get("id"), None)) is not None:
        return [call]
    if is_chunk:
        return []  # the call itself came with an earlier chunk
    arguments = item.get("args") or item.get("input") or {}
    return [to_call(str(item.get("id") or ""), str(item.get("name") or ""), arguments)]


def _whole_calls(message: AIMessage) -> Calls:
    calls: Calls = {
        call["id"]: to_call(call["id"], call["name"], call["args"]) for call in message.tool_calls
    }
    reasons = invalid_reasons(message)
    for call in message.invalid_tool_calls:
        id = call["id"] or ""
        arguments, reason = without_ending(call["args"] or ""), reasons.get(id, "malformed")
        invalid = InvalidToolCall(id, call["name"] or "", arguments, reason)
        calls[id] = {**read_calls([invalid])[1][0]}
    return calls


def _partial_calls(chunk: AIMessageChunk) -> Calls:
    errors = [InvalidToolCall("", "", "", reason).error for reason in invalid_reasons(chunk).values()]
    calls: Calls = {}
    for position, call in enumerate(chunk.tool_call_chunks):
        arguments = call.get("args") or ""
        block: Block = {
            "type": "tool_call_chunk",
            "id": call.get("id"),
            "name": call.get("name"),
            "args": without_ending(arguments),
            "index": f"lc_tc_{call.get('index') or 0}",
        }
        if errors and block["args"] != arguments:
            block["error"] = errors.pop(0)  # merging chunks keeps the block's type, so this marks it invalid
        calls[call.get("id") or ("fragment", position)] = block
    return calls


def _reasoning(additional_kwargs: Mapping[str, Any]) -> Block | None:
    text = additional_kwargs.get("reasoning_content")
    signature = additional_kwargs.get("reasoning_signature")
    if not (text or signature):
        return None
    return {**to_reasoning(text or "", signature), "index": "lc_rs_0"}


def _block(item: Mapping[str, Any]) -> Block:
    index = {"index": item["index"]} if "index" in item else {}
    match item.get("type"):
        case "thinking":
            return {**to_reasoning(item.get("thinking", ""), item.get("signature")), **index}
        case "text" if item.get("citations"):
            cited = [{"type": "non_standard_annotation", "value": each} for each in item["citations"]]
            return {"type": "text", "text": item.get("text", ""), "annotations": cited, **index}
        case "refusal":
            return {**to_refusal(item.get("refusal", "")), **index}
        case kind if kind in KNOWN_BLOCK_TYPES:
            return dict(item)
    return {**to_non_standard({name: item[name] for name in item if name != "index"}), **index}


def to_reasoning(text: str, signature: str | None) -> Block:
    """Return a reasoning block; its signature must be sent back unchanged."""
    extras = {"extras": {"signature": signature}} if signature else {}
    return {"type": "reasoning", "reasoning": text, **extras}


def to_refusal(text: str) -> Block:
    """Return a refusal block, in LangChain's own form if the installed version has one."""
    refusal = {"type": "refusal", "refusal": text}
    return refusal if "refusal" in KNOWN_BLOCK_TYPES else to_non_standard(refusal)


def to_non_standard(value: Block) -> Block:
    """Return a block for content that has no LangChain type."""
    return {"type": "non_standard", "value": value}


def to_call(id: str | None, name: str, arguments: Mapping[str, Any]) -> Block:
    """Return a tool call block."""
    return {"type": "tool_call", "id": id, "name": name, "args": arguments}
