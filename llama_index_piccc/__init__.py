"""Piccc AI for LlamaIndex: the chat models as an LLM, and tools that make images and videos.

- `Piccc` is the LLM; `llama_index.llms.piccc` has it too.
- `PicccMediaToolSpec` has the media tools; `media_from` reads what they made.
- `PicccTaskReader` makes documents of finished tasks, `PicccQuestionGenerator` splits questions.
"""

from importlib.util import find_spec

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

# Only after the check can these be imported.
from llama_index_piccc.artifacts import media_from  # noqa: E402  see above
from llama_index_piccc.errors import NoToolCallError, StructuredOutputError  # noqa: E402  see above
from llama_index_piccc.llm import Piccc  # noqa: E402  see above
from llama_index_piccc.media import PicccMediaToolSpec  # noqa: E402  see above
from llama_index_piccc.media_events import (  # noqa: E402  see above
    PicccTaskFinished,
    PicccTaskProgress,
    PicccTaskSubmitted,
)
from llama_index_piccc.offline import ensure_nltk_data  # noqa: E402  see above
from llama_index_piccc.question_generator import PicccQuestionGenerator  # noqa: E402  see above
from llama_index_piccc.reader import PicccTaskReader  # noqa: E402  see above
from llama_index_piccc.structured_llm import PicccStructuredLLM  # noqa: E402  see above

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
