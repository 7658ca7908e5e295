"""Piccc AI for Python: chat, images and videos over one transport, for notebooks and for both frameworks.

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from piccc._version import __version__

if TYPE_CHECKING:
    from piccc.chat import (
        Audio,
        CachePoint,
        ChatReply,
        ChatRequest,
        File,
        Image,
        JSONSchema,
        Message,
        NamedTool,
        Reasoning,
        Refusal,
        Source,
        Text,
        Tool,
        ToolCall,
        Usage,
    )
    from piccc.client import AsyncClient, Client
    from piccc.config import Timeout
    from piccc.errors import PicccError
    from piccc.media.allowance import Allowance
    from piccc.media.handle import AsyncTaskHandle, TaskHandle
    from piccc.media.polling import Polling
    from piccc.models import MODELS, ModelInfo, model_info
    from piccc.tasks import Output, Task

_HOMES = {
    "piccc.chat": (
        "Audio", "CachePoint", "ChatReply", "ChatRequest", "File", "Image", "JSONSchema", "Message",
        "NamedTool", "Reasoning", "Refusal", "Source", "Text", "Tool", "ToolCall", "Usage",
    ),
    "piccc.client": ("AsyncClient", "Client"),
    "piccc.config": ("Timeout",),
    "piccc.errors": ("PicccError",),
    "piccc.media.allowance": ("Allowance",),
    "piccc.media.handle": ("AsyncTaskHandle", "TaskHandle"),
    "piccc.media.polling": ("Polling",),
    "piccc.models": ("MODELS", "ModelInfo", "model_info"),
    "piccc.tasks": ("Output", "Task"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "MODELS",
    "Allowance",
    "AsyncClient",
    "AsyncTaskHandle",
    "Audio",
    "CachePoint",
    "ChatReply",
    "ChatRequest",
    "Client",
    "File",
    "Image",
    "JSONSchema",
    "Message",
    "ModelInfo",
    "NamedTool",
    "Output",
    "PicccError",
    "Polling",
    "Reasoning",
    "Refusal",
    "Source",
    "Task",
    "TaskHandle",
    "Text",
    "Timeout",
    "Tool",
    "ToolCall",
    "Usage",
    "__version__",
    "model_info",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        from importlib import import_module

        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'piccc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
