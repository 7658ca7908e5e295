"""Build replies as servers of either dialect send them, whole or streamed, and read them with piccc."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from piccc._dialects import NO_NAMES, DialectName, dialect_named
from piccc._dialects.reader import Event
from piccc.conversation import ChatReply, Delta

JSON = dict[str, Any]
Call = tuple[str, str, Sequence[str]]
"""A call's id, its name, and the pieces in which its arguments arrive."""
DIALECTS: tuple[DialectName, ...] = get_args(DialectName)
WAYS = ("whole", "event by event", "events at once")
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


def reply_of(
    dialect: DialectName,
    way: str,
    calls: Iterable[Call],
    finish_reason: str | None,
    *,
    text: str = "",
    names: Mapping[str, str] = NO_NAMES,
) -> ChatReply:
    """Return a reply with a text and calls, as read from the wire."""
    at_once = way == "events at once"
    if dialect == "openai":
        if way == "whole":
            return dialect_named(dialect).decode(_completion(calls, finish_reason, text), names)
        return read(dialect, _chunks(calls, finish_reason, text), at_once=at_once, names=names)[1]
    reason = _STOP_REASONS.get(finish_reason or "")
    if way == "whole":
        return dialect_named(dialect).decode(_message(calls, reason, text), names)
    return read(dialect, _events(calls, reason, text), at_once=at_once, names=names)[1]


def read(
    dialect: DialectName,
    events: Sequence[JSON | str],
    *,
    at_once: bool = False,
    names: Mapping[str, str] = NO_NAMES,
) -> tuple[list[Delta], ChatReply]:
    """Read a stream's events; return its deltas and the complete reply."""
    reader = dialect_named(dialect).reader(names)
    sent = [Event("message", event if isinstance(event, str) else json.dumps(event)) for event in events]
    deltas: list[Delta] = []
    for batch in [sent] if at_once else [[event] for event in sent]:
        deltas += reader.feed(batch)
    deltas += reader.finish()
    return deltas, reader.reply()


def _completion(calls: Iterable[Call], finish_reason: str | None, text: str) -> JSON:
    listed = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": "".join(pieces)}}
        for id, name, pieces in calls
    ]
    message = {"role": "assistant", "content": text or None, "tool_calls": listed}
    return {"id": "1", "model": "m", "choices": [{"message": message, "finish_reason": finish_reason}]}


def _chunks(calls: Iterable[Call], finish_reason: str | None, text: str) -> list[JSON | str]:
    deltas: list[JSON] = [{"role": "assistant", "content": text}]
    for index, (id, name, pieces) in enumerate(calls):
        function = {"name": name, "arguments": ""}
        deltas.append({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
        deltas += [{"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces]
    chunks = [{"delta": delta, "finish_reason": None} for delta in deltas]
    chunks.append({"delta": {}, "finish_reason": finish_reason})
    return [*({"id": "1", "model": "m", "choices": [chunk]} for chunk in chunks), "[DONE]"]


def _message(calls: Iterable[Call], stop_reason: str | None, text: str) -> JSON:
    content: list[JSON] = [{"type": "text", "text": text}]
    for id, name, pieces in calls:
        arguments = "".join(pieces)
        try:
            input = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            input = {} if stop_reason == "max_tokens" else arguments
        content.append({"type": "tool_use", "id": id, "name": name, "input": input})
    return {"id": "1", "model": "m", "content": content, "stop_reason": stop_reason}


def _events(calls: Iterable[Call], stop_reason: str | None, text: str) -> list[JSON | str]:
    blocks: list[tuple[JSON, list[JSON]]] = [
        ({"type": "text", "text": ""}, [{"type": "text_delta", "text": text}])
    ]
    for id, name, pieces in calls:
        start = {"type": "tool_use", "id": id, "name": name, "input": {}}
        blocks.append((start, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]))
    events: list[JSON | str] = [{"type": "message_start", "message": {"id": "1", "model": "m"}}]
    for index, (start, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    return [
        *events,
        {"type": "message_delta", "delta": {"stop_reason": stop_reason}},
        {"type": "message_stop"},
    ]
