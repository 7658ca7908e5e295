"""Count tokens without the network.

The provider documents no tokenizer, so every count is an estimate. It uses a tiktoken vocabulary if one is
already on this machine (in tiktoken's cache or an installed llama-index-core), otherwise the text's length:
four bytes of UTF-8 per token.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from piccc.arguments import join_halves, write_arguments
from piccc.conversation import (
    Audio,
    CachePoint,
    File,
    Image,
    InvalidToolCall,
    Message,
    Part,
    Raw,
    Reasoning,
    Refusal,
    Source,
    Text,
    Tool,
    ToolCall,
)

if TYPE_CHECKING:
    from tiktoken import Encoding

BYTES_PER_TOKEN = 4
"""UTF-8 bytes per token if no vocabulary is available."""
TOKENS_PER_MESSAGE = 4
"""Tokens of a message in addition to its content (assumed)."""
TOKENS_PER_IMAGE = {"low": 85, "high": 765}
"""Tokens of an image by its `detail`; any other detail, or none, counts as high (assumed)."""
TOKENS_PER_PAGE = 1500
"""Tokens of a page of a document (assumed)."""
BYTES_PER_PAGE = 50_000
"""Bytes of a page of a document, rounded up to whole pages (assumed)."""
AUDIO_BYTES_PER_TOKEN = 1600
"""Bytes of audio per token (assumed)."""

# Each vocabulary's name, its file name in tiktoken's cache, and the file's SHA-256: tiktoken would delete a
# file with any other content and download it again.
_VOCABULARIES = (
    (
        "o200k_base",
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    (
        "cl100k_base",
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
)
_CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"
_loading = threading.Lock()


@cache
def encoding() -> Encoding | None:
    """Return the best vocabulary on this machine, or None; never download one."""
    for name, file, digest in _VOCABULARIES:
        for folder in _folders():
            if _matches(folder / file, digest):
                return _load(name, folder)
    return None


def token_ids(text: str) -> list[int]:
    """Return a text's token ids; without a vocabulary they are placeholders, and only their number matters.

    Args:
        text: the text.
    """
    vocabulary, text = encoding(), join_halves(text)
    if vocabulary is None:
        return list(range(_by_length(text)))
    return vocabulary.encode(text, disallowed_special=())


def count_text(text: str) -> int:
    """Return the number of tokens in a text.

    Args:
        text: the text.
    """
    vocabulary, text = encoding(), join_halves(text)
    return _by_length(text) if vocabulary is None else len(vocabulary.encode(text, disallowed_special=()))


def count_tokens(messages: Iterable[Message], tools: Iterable[Tool] = ()) -> int:
    """Return the number of tokens in a conversation when sent as a prompt.

    Args:
        messages: the conversation.
        tools: the tools that the model may call.
    """
    content = sum(TOKENS_PER_MESSAGE + _count_message(message) for message in messages)
    return content + sum(_count_tool(tool) for tool in tools)


def _count_message(message: Message) -> int:
    name = count_text(message.name) if message.name else 0
    return name + sum(_count_part(part) for part in message.parts)


def _count_part(part: Part) -> int:
    match part:
        case Text() | Reasoning() | Refusal():
            return count_text(part.text)
        case Source():
            return count_text(f"{part.title}\n{part.url}\n{part.text}")
        case ToolCall() | InvalidToolCall():
            return count_text(part.name) + count_text(part.arguments)
        case Image():
            return TOKENS_PER_IMAGE.get(part.detail or "high", TOKENS_PER_IMAGE["high"])
        case File():
            return TOKENS_PER_PAGE * max(1, math.ceil(_decoded_size(part.data) / BYTES_PER_PAGE))
        case Audio():
            return math.ceil(_decoded_size(part.data) / AUDIO_BYTES_PER_TOKEN)
        case Raw():
            return count_text(write_arguments(part.data))
        case CachePoint():
            return 0


def _count_tool(tool: Tool) -> int:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return count_text(write_arguments(function))


def _decoded_size(base64: str | None) -> int:
    return len(base64 or "") * 3 // 4


def _by_length(text: str) -> int:
    return math.ceil(len(text.encode()) / BYTES_PER_TOKEN)


def _folders() -> Iterator[Path]:
    for variable in (_CACHE_VARIABLE, "DATA_GYM_CACHE_DIR"):
        if folder := os.environ.get(variable):
            yield Path(folder)
    yield Path(tempfile.gettempdir(), "data-gym-cache")
    spec = find_spec("llama_index")
    for location in spec.submodule_search_locations or () if spec else ():
        yield Path(location, "core", "_static", "tiktoken_cache")


def _matches(file: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _load(name: str, folder: Path) -> Encoding:
    import tiktoken

    with _loading:
        before = os.environ.get(_CACHE_VARIABLE)
        os.environ[_CACHE_VARIABLE] = str(folder)
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ[_CACHE_VARIABLE]
            else:
                os.environ[_CACHE_VARIABLE] = before
