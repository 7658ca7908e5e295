"""Piccc AI for LlamaIndex: the chat models as an LLM, and tools that make images and videos.

- `Piccc` is the LLM; also in `llama_index.llms.piccc`.
- `PicccMediaToolSpec` provides the media tools, and `media_from` returns their tasks; also in
  `llama_index.tools.piccc`.
- `PicccTaskReader` turns finished tasks into documents; also in `llama_index.readers.piccc`.
- `PicccQuestionGenerator` generates sub-questions; also in `llama_index.question_gen.piccc`.

Each name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from piccc._version import __version__
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
    from llama_index_piccc.convert import NoToolCallError
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
    from piccc.structured import StructuredOutputError

_HOMES = {
    "NoToolCallError": "llama_index_piccc.convert",
    "Piccc": "llama_index_piccc.llm",
    "PicccMediaToolSpec": "llama_index_piccc.media",
    "PicccQuestionGenerator": "llama_index_piccc.question_generator",
    "PicccStructuredLLM": "llama_index_piccc.structured",
    "PicccTaskFinished": "llama_index_piccc.media",
    "PicccTaskProgress": "llama_index_piccc.media",
    "PicccTaskReader": "llama_index_piccc.reader",
    "PicccTaskSubmitted": "llama_index_piccc.media",
    "StructuredOutputError": "piccc.structured",
    "ensure_nltk_data": "llama_index_piccc.offline",
    "media_from": "llama_index_piccc.media",
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
    "__version__",
    "ensure_nltk_data",
    "media_from",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
