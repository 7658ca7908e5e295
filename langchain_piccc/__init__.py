"""Piccc AI for LangChain: a chat model, and tools that make images and videos.

- `ChatPiccc` is the chat model.
- `PicccMediaToolkit` has all media tools; `PicccTasksMiddleware` tells an agent which tasks have finished.
- `media_from` returns the tools' tasks from messages; `resume_when_done` resumes interrupted runs.

Importing this package registers our message translator with LangChain. Each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from piccc._version import __version__
from piccc.errors import MissingExtraError, PicccError

if find_spec("langchain_core") is None:
    raise MissingExtraError("langchain_piccc needs langchain-core.", hint='pip install "piccc[langchain]"')

from langchain_piccc import _replies
from piccc.conversation import PROVIDER

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
    from langchain_piccc.middleware import PicccInvalidCallsMiddleware, PicccTasksMiddleware
    from langchain_piccc.structured import StructuredOutputError

_replies.register()

_HOMES = {
    "ChatPiccc": "chat_models",
    "PicccImageTool": "media_tools",
    "PicccInvalidCallsMiddleware": "middleware",
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
    "PicccInvalidCallsMiddleware",
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


def register() -> None:
    """Make `piccc:MODEL` strings work in LangChain; calling this again has no effect.

    LangChain has no public API for this, so it writes to a private table of the `langchain` package. Raise
    PicccError if that table is not as expected; passing a ChatPiccc object always works.
    """
    try:
        home = import_module("langchain.chat_models.base")
    except ImportError as error:
        raise MissingExtraError("register() needs langchain.", hint="pip install langchain") from error
    table: Any = getattr(home, "_BUILTIN_PROVIDERS", None)
    rows = list(table.values()) if isinstance(table, dict) else []
    if not rows or not all(isinstance(row, tuple) and len(row) == 3 for row in rows):
        raise PicccError(
            "register() does not support this version of langchain.",
            hint="Pass a model object: create_agent(ChatPiccc(model=…), …).",
        )
    table[PROVIDER] = ("langchain_piccc", "ChatPiccc", _make)


def _make(cls: Any, **settings: Any) -> Any:
    return cls(**settings)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
