"""Piccc AI for LangChain: a chat model, and tools that make images and videos.

- `ChatPiccc` is the chat model.
- `PicccMediaToolkit` has all media tools; `PicccTasksMiddleware` tells an agent what was finished meanwhile.
- `media_from` reads from messages what the tools made; `resume_when_done` goes on with interrupted runs.

Importing it makes LangChain read our messages rightly; each of its names is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from piccc._version import __version__
from piccc.errors import MissingExtraError

if find_spec("langchain_core") is None:
    raise MissingExtraError('langchain_piccc needs langchain-core: pip install "piccc[langchain]"')

from langchain_piccc import _replies
from langchain_piccc.registry import admit, register

if TYPE_CHECKING:
    from langchain_piccc.chat_models import ChatPiccc
    from langchain_piccc.interrupts import aresume_when_done, interrupted_tasks, resume_when_done
    from langchain_piccc.media_tools import (
        PicccImageTool,
        PicccMediaToolkit,
        PicccTaskListTool,
        PicccTaskTool,
        PicccVideoTool,
        media_from,
    )
    from langchain_piccc.middleware import PicccTasksMiddleware
    from langchain_piccc.structured import StructuredOutputError

_replies.register()
admit()

_HOMES = {
    "ChatPiccc": "chat_models",
    "PicccImageTool": "media_tools",
    "PicccMediaToolkit": "media_tools",
    "PicccTaskListTool": "media_tools",
    "PicccTaskTool": "media_tools",
    "PicccTasksMiddleware": "middleware",
    "PicccVideoTool": "media_tools",
    "StructuredOutputError": "structured",
    "aresume_when_done": "interrupts",
    "interrupted_tasks": "interrupts",
    "media_from": "media_tools",
    "resume_when_done": "interrupts",
}

__all__ = [
    "ChatPiccc",
    "PicccImageTool",
    "PicccMediaToolkit",
    "PicccTaskListTool",
    "PicccTaskTool",
    "PicccTasksMiddleware",
    "PicccVideoTool",
    "StructuredOutputError",
    "__version__",
    "aresume_when_done",
    "interrupted_tasks",
    "media_from",
    "register",
    "resume_when_done",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
