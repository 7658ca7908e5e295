"""Piccc AI for Python: chat, images and videos, also used by the LangChain and LlamaIndex integrations.

- Start with `Client`, or with `AsyncClient`, which has the same methods as coroutines.
- Chat (`Chat`) takes prompts or `Message`s and returns a `ChatReply` or a `ChatStream`.
- Images and videos (`Media`, `Tasks`) are tasks: a `TaskHandle` has `OutputHandle`s that can be saved.
- Every error is a `PicccError`; `piccc.errors` lists the classes as a tree.

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from piccc._version import __version__

if TYPE_CHECKING:
    from piccc._http.chat_stream import AsyncChatStream, ChatStream
    from piccc.client import AsyncChat, AsyncClient, Chat, ChatOptions, Client
    from piccc.config import Timeout
    from piccc.conversation import (
        MODELS,
        Attempt,
        Audio,
        CachePoint,
        ChatReply,
        ChatRequest,
        File,
        Image,
        InvalidToolCall,
        JSONSchema,
        Message,
        ModelInfo,
        NamedTool,
        Raw,
        RawDelta,
        Reasoning,
        ReasoningDelta,
        Record,
        Refusal,
        RefusalDelta,
        Source,
        Text,
        TextDelta,
        Tool,
        ToolCall,
        ToolCallDelta,
        Usage,
        model_info,
    )
    from piccc.errors import PicccError
    from piccc.media.batch import Batch
    from piccc.media.handles import AsyncOutputHandle, AsyncTaskHandle, OutputHandle, TaskHandle
    from piccc.media.ledgers import Ledger, Submission
    from piccc.media.rate import RateLimit
    from piccc.media.requests import SpendLimit
    from piccc.media.resources import AsyncMedia, AsyncTasks, Media, Tasks
    from piccc.media.schedule import Polling
    from piccc.media.webhooks import Webhooks, WebhookServer
    from piccc.tasks import Output, Task

_HOMES = {
    "piccc.conversation": (
        "MODELS", "ModelInfo", "model_info",
        "Attempt", "Record",
        "Audio", "CachePoint", "ChatReply", "ChatRequest", "File", "Image", "InvalidToolCall",
        "JSONSchema", "Message", "NamedTool", "Raw", "RawDelta", "Reasoning", "ReasoningDelta", "Refusal",
        "RefusalDelta", "Source", "Text", "TextDelta", "Tool", "ToolCall", "ToolCallDelta", "Usage",
    ),
    "piccc.client": ("AsyncChat", "AsyncClient", "Chat", "ChatOptions", "Client"),
    "piccc.config": ("Timeout",),
    "piccc.errors": ("PicccError",),
    "piccc.media.rate": ("RateLimit",),
    "piccc.media.requests": ("SpendLimit",),
    "piccc.media.batch": ("Batch",),
    "piccc.media.handles": ("AsyncOutputHandle", "AsyncTaskHandle", "OutputHandle", "TaskHandle"),
    "piccc.media.ledgers": ("Ledger", "Submission"),
    "piccc.media.schedule": ("Polling",),
    "piccc.media.resources": ("AsyncMedia", "AsyncTasks", "Media", "Tasks"),
    "piccc.media.webhooks": ("WebhookServer", "Webhooks"),
    "piccc.tasks": ("Output", "Task"),
    "piccc._http.chat_stream": ("AsyncChatStream", "ChatStream"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "MODELS",
    "AsyncChat",
    "AsyncChatStream",
    "AsyncClient",
    "AsyncMedia",
    "AsyncOutputHandle",
    "AsyncTaskHandle",
    "AsyncTasks",
    "Attempt",
    "Audio",
    "Batch",
    "CachePoint",
    "Chat",
    "ChatOptions",
    "ChatReply",
    "ChatRequest",
    "ChatStream",
    "Client",
    "File",
    "Image",
    "InvalidToolCall",
    "JSONSchema",
    "Ledger",
    "Media",
    "Message",
    "ModelInfo",
    "NamedTool",
    "Output",
    "OutputHandle",
    "PicccError",
    "Polling",
    "RateLimit",
    "Raw",
    "RawDelta",
    "Reasoning",
    "ReasoningDelta",
    "Record",
    "Refusal",
    "RefusalDelta",
    "Source",
    "SpendLimit",
    "Submission",
    "Task",
    "TaskHandle",
    "Tasks",
    "Text",
    "TextDelta",
    "Timeout",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
    "WebhookServer",
    "Webhooks",
    "__version__",
    "model_info",
]


_RENAMED = {"Allowance": "SpendLimit", "Entry": "Submission"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"piccc.{name} was renamed to {_RENAMED[name]}.", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name in _HOME_OF:
        from importlib import import_module

        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'piccc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
