"""A healthy server's responses to each kind of call, complete and as events."""

from __future__ import annotations

import json
from typing import Any

TEXT = "Hello, world"
TIMEOUT = 2.0
TASK = {"task_id": "task_1", "object": "task", "type": "image", "status": "queued", "polling_url": None}

WHOLE: dict[str, Any] = {
    "chat": {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "piccc-flash",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    },
    "messages": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "piccc-flash",
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 4},
    },
    "submit": TASK,
    "poll": TASK,
    "list": {"object": "list", "data": [TASK], "has_more": False, "next_cursor": None},
}


def whole(kind: str) -> bytes:
    """Return a healthy body for a kind of call."""
    return json.dumps(WHOLE[kind]).encode()


def event(data: Any, type: str = "") -> bytes:
    """Encode one event."""
    name = f"event: {type}\n" if type else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


def openai_chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
    """Encode a chunk in the OpenAI dialect."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "chatcmpl-1", "model": "piccc-flash", "choices": [choice], **more})


def anthropic_event(type: str, **fields: Any) -> bytes:
    """Encode an event in the Anthropic dialect."""
    return event({"type": type, **fields}, type)


def anthropic_text(text: str) -> bytes:
    """Encode a text delta in the Anthropic dialect."""
    return anthropic_event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


DONE = b"data: [DONE]\n\n"
USAGE = event({"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
MESSAGE = {"id": "msg_1", "model": "piccc-flash", "usage": {"input_tokens": 3, "output_tokens": 0}}

EVENTS: dict[str, dict[str, bytes]] = {
    "chat": {
        "start": openai_chunk({"role": "assistant", "content": ""}),
        "one": openai_chunk({"content": "Hello, "}),
        "two": openai_chunk({"content": "world"}),
        "finish": openai_chunk({}, "stop"),
        "usage": USAGE,
        "done": DONE,
    },
    "messages": {
        "start": anthropic_event("message_start", message=MESSAGE)
        + anthropic_event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        "one": anthropic_text("Hello, "),
        "two": anthropic_text("world"),
        "finish": anthropic_event("content_block_stop", index=0)
        + anthropic_event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}),
        "usage": b"",
        "done": anthropic_event("message_stop"),
    },
}
