"""Our messages → LangChain's standard content blocks. Pure.

Each block of a chunk has an `lc_…` index of its own, so that summing chunks never mixes text, reasoning and
calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.block_translators import register_translator
from langchain_core.messages.content import KNOWN_BLOCK_TYPES, ContentBlock

from langchain_piccc._output import PROVIDER

Block = dict[str, Any]
Calls = dict[Any, Block]


def translate(message: AIMessage) -> list[ContentBlock]:
    """Return the blocks of a whole message."""
    return _translate(message, _whole_calls(message), index=False)


def translate_chunk(chunk: AIMessageChunk) -> list[ContentBlock]:
    """Return the blocks of a chunk, or of a sum of chunks."""
    calls = _whole_calls(chunk) if chunk.chunk_position == "last" else _partial_calls(chunk)
    return _translate(chunk, calls, index=True)


def register() -> None:
    """Make LangChain read our messages with these functions."""
    register_translator(PROVIDER, translate, translate_chunk)


def _translate(message: AIMessage, calls: Calls, *, index: bool) -> list[ContentBlock]:
    blocks: list[Block] = []
    if thought := _thought_aside(message.additional_kwargs):
        blocks.append(thought)
    content = [message.content] if isinstance(message.content, str) else message.content
    for item in content:
        if isinstance(item, str):
            blocks += [{"type": "text", "text": item, "index": "lc_txt_0"}] if item else []
        elif item.get("type") in ("tool_use", "tool_call"):
            blocks += _marked_call(item, calls, is_chunk=index)
        else:
            blocks.append(_block(item))
    if refusal := message.additional_kwargs.get("refusal"):
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
    for wrong in message.invalid_tool_calls:
        calls[wrong["id"]] = {**wrong, "type": "invalid_tool_call"}
    return calls


def _partial_calls(chunk: AIMessageChunk) -> Calls:
    return {
        call.get("id") or ("fragment", position): {
            "type": "tool_call_chunk",
            "id": call.get("id"),
            "name": call.get("name"),
            "args": call.get("args"),
            "index": f"lc_tc_{call.get('index') or 0}",
        }
        for position, call in enumerate(chunk.tool_call_chunks)
    }


def _thought_aside(aside: Mapping[str, Any]) -> Block | None:
    text, signature = aside.get("reasoning_content"), aside.get("reasoning_signature")
    if not (text or signature):
        return None
    return {**to_reasoning(text or "", signature), "index": "lc_rs_0"}


def _block(item: Mapping[str, Any]) -> Block:
    index = {"index": item["index"]} if "index" in item else {}
    match item.get("type"):
        case "thinking":
            return {**to_reasoning(item.get("thinking", ""), item.get("signature")), **index}
        case "refusal":
            return {**to_refusal(item.get("refusal", "")), **index}
        case kind if kind in KNOWN_BLOCK_TYPES:
            return dict(item)
    return {**to_non_standard({name: item[name] for name in item if name != "index"}), **index}


def to_reasoning(text: str, signature: str | None) -> Block:
    """Return a reasoning block; its signature must go back unchanged where it came from."""
    extras = {"extras": {"signature": signature}} if signature else {}
    return {"type": "reasoning", "reasoning": text, **extras}


def to_refusal(text: str) -> Block:
    """Return a refusal block, in LangChain's own form where the installed version knows it."""
    refusal = {"type": "refusal", "refusal": text}
    return refusal if "refusal" in KNOWN_BLOCK_TYPES else to_non_standard(refusal)


def to_non_standard(value: Block) -> Block:
    """Return a block for what LangChain has no word for."""
    return {"type": "non_standard", "value": value}


def to_call(id: str | None, name: str, arguments: Mapping[str, Any]) -> Block:
    """Return a tool call block."""
    return {"type": "tool_call", "id": id, "name": name, "args": arguments}
