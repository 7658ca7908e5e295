"""Piccc AI for LlamaIndex: `Piccc`, the chat models as a LlamaIndex LLM."""

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

from llama_index_piccc.llm import Piccc  # noqa: E402  only after the check can this import work

__all__ = ["Piccc"]
