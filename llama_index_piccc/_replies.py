"""Neutral chat replies as LlamaIndex responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import PrivateAttr

from piccc.conversation import (
    JSON,
    ChatReply,
    Delta,
    InvalidToolCall,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from piccc.structured import PartialObject


class GrowingToolCall(ToolCallBlock):
    """A tool call on its way: `tool_kwargs` is the JSON text so far, `known` what can be read from it."""

    _known: JSON = PrivateAttr(default_factory=dict)

    @property
    def known(self) -> JSON:
        """The arguments as far as they can be read."""
        return self._known


class GrowingReply:
    """Turn the deltas of one stream into responses, each of which holds all that has come."""

    def __init__(self) -> None:
        self._text = ""
        self._thoughts: dict[int, Reasoning] = {}
        self._calls: dict[int, tuple[str, str, PartialObject]] = {}

    def add(self, deltas: Iterable[Delta]) -> ChatResponse:
        """Take what came together; return the response so far."""
        text = thinking = ""
        for delta in deltas:
            match delta:
                case TextDelta() | RefusalDelta():
                    text += delta.text
                case ReasoningDelta():
                    thinking += delta.text
                    self._think(delta)
                case ToolCallDelta():
                    self._call(delta)
        self._text += text
        extra = {"thinking_delta": thinking} if thinking else {}
        calls = [_growing_call(each) for each in self._calls.values()] if self._calls else []
        message = _message(self._text, self._thoughts.values(), calls)
        return ChatResponse(message=message, delta=text, raw={}, additional_kwargs=extra)

    def _think(self, delta: ReasoningDelta) -> None:
        thought = self._thoughts.setdefault(delta.block, Reasoning())
        thought.text += delta.text
        thought.signature = (thought.signature or "") + (delta.signature or "") or None
        thought.redacted = thought.redacted or delta.redacted

    def _call(self, delta: ToolCallDelta) -> None:
        if delta.block not in self._calls:
            self._calls[delta.block] = (delta.id or "", delta.name or "", PartialObject())
        self._calls[delta.block][2].add(delta.arguments)


def whole(reply: ChatReply) -> ChatResponse:
    """Return a whole reply as a response."""
    thoughts = [each for each in reply.parts if isinstance(each, Reasoning)]
    calls = [_call(each) for each in reply.parts if isinstance(each, ToolCall | InvalidToolCall)]
    message = _message(reply.text + reply.refusal, thoughts, calls)
    if reply.refusal:
        message.additional_kwargs["refusal"] = reply.refusal
    return ChatResponse(message=message, raw=_raw(reply), additional_kwargs=_facts(reply))


def last(reply: ChatReply) -> ChatResponse:
    """Return a stream's last response: it repeats everything, with usage and finish reason."""
    response = whole(reply)
    response.delta = ""
    return response


def completion(response: ChatResponse) -> CompletionResponse:
    """Return a chat response as the completion of a prompt."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


def _message(
    text: str, thoughts: Iterable[Reasoning], calls: list[tuple[ToolCallBlock, JSON]]
) -> ChatMessage:
    blocks = [*map(_thinking, thoughts), TextBlock(text=text)]
    if not calls:
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
    blocks += [block for block, _ in calls]
    extra = {"tool_calls": [listed for _, listed in calls]}
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=extra)


def _thinking(thought: Reasoning) -> ThinkingBlock:
    known = {"signature": thought.signature, "redacted": thought.redacted}
    return ThinkingBlock(
        content=thought.text,
        additional_information={name: value for name, value in known.items() if value is not None},
    )


def _call(call: ToolCall | InvalidToolCall) -> tuple[ToolCallBlock, JSON]:
    kwargs = call.parse() if isinstance(call, ToolCall) else call.arguments
    block = ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=kwargs)
    return block, _listed(call.id, call.name, call.arguments)


def _growing_call(call: tuple[str, str, PartialObject]) -> tuple[ToolCallBlock, JSON]:
    id, name, partial = call
    block = GrowingToolCall(tool_call_id=id, tool_name=name, tool_kwargs=partial.text)
    block._known = partial.value if isinstance(partial.value, dict) else {}
    return block, _listed(id, name, partial.text)


def _listed(id: str, name: str, arguments: str) -> JSON:
    """Return a call as core still looks for it beside the blocks."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _raw(reply: ChatReply) -> JSON:
    raw = reply.raw or {
        "id": reply.id,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        **reply.extra,
    }
    usage = {**(raw.get("usage") or {}), **_counts(reply.usage)} if reply.usage else None
    return {**raw, "usage": usage}


def _counts(usage: Usage) -> JSON:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def _facts(reply: ChatReply) -> JSON:
    facts: dict[str, Any] = {
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "request_id": reply.record.request_id,
    }
    if reply.usage:
        facts |= _counts(reply.usage)
        facts |= {
            "cached_tokens": reply.usage.cache_read_tokens,
            "reasoning_tokens": reply.usage.reasoning_tokens,
        }
    return facts
