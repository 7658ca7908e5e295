"""Piccc AI for LlamaIndex: the chat models as an LLM, and tools that make images and videos.

- `Piccc` is the LLM; `llama_index.llms.piccc` has it too.
- `PicccMediaToolSpec` has the media tools; `media_from` reads what they made.
- `PicccTaskReader` makes documents of finished tasks, `PicccQuestionGenerator` splits questions.

Each of its names is loaded at its first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from piccc.errors import MissingExtraError


def _has_core() -> bool:
    try:
        return find_spec("llama_index.core") is not None
    except ModuleNotFoundError:
        return False


if not _has_core():
    raise MissingExtraError(
        "llama_index_piccc needs llama-index-core.", hint='pip install "piccc[llama-index]"'
    )

if TYPE_CHECKING:
    from llama_index_piccc.errors import NoToolCallError, StructuredOutputError
    from llama_index_piccc.llm import Piccc
    from llama_index_piccc.media import (
        PicccMediaToolSpec,
        PicccTaskFinished,
        PicccTaskProgress,
        PicccTaskSubmitted,
        media_from,
    )
    from llama_index_piccc.offline import ensure_nltk_data
    from llama_index_piccc.question_generator import PicccQuestionGenerator
    from llama_index_piccc.reader import PicccTaskReader
    from llama_index_piccc.structured import PicccStructuredLLM

_HOMES = {
    "NoToolCallError": "errors",
    "Piccc": "llm",
    "PicccMediaToolSpec": "media",
    "PicccQuestionGenerator": "question_generator",
    "PicccStructuredLLM": "structured",
    "PicccTaskFinished": "media",
    "PicccTaskProgress": "media",
    "PicccTaskReader": "reader",
    "PicccTaskSubmitted": "media",
    "StructuredOutputError": "errors",
    "ensure_nltk_data": "offline",
    "media_from": "media",
}

__all__ = [
    "NoToolCallError",
    "Piccc",
    "PicccMediaToolSpec",
    "PicccQuestionGenerator",
    "PicccStructuredLLM",
    "PicccTaskFinished",
    "PicccTaskProgress",
    "PicccTaskReader",
    "PicccTaskSubmitted",
    "StructuredOutputError",
    "ensure_nltk_data",
    "media_from",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
