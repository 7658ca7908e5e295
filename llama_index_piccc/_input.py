"""LlamaIndex messages as the neutral conversation: every kind of block has a defined outcome."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from io import IOBase
from pathlib import Path
from typing import Any, Literal

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.base.llms.types import CachePoint as CacheBlock

from piccc.chat import (
    Audio,
    CachePoint,
    File,
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    Source,
    Text,
    ToolCall,
)
from piccc.client import carries
from piccc.errors import UnsupportedContentError

DialectName = Literal["openai", "anthropic"]
OnUnsupported = Literal["error", "text", "drop"]

_ROLES: dict[MessageRole, Role] = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def conversation(
    messages: Iterable[ChatMessage], dialect: DialectName, on_unsupported: OnUnsupported
) -> list[Message]:
    """Return the messages in neutral parts; raise UnsupportedContentError where that is chosen."""
    return [_message(each, dialect, on_unsupported) for each in messages]


def _message(message: ChatMessage, dialect: DialectName, on_unsupported: OnUnsupported) -> Message:
    parts = [part for block in message.blocks for part in _carried(block, dialect, on_unsupported)]
    role = _ROLES[message.role]
    if role == "assistant" and not any(isinstance(each, ToolCall) for each in parts):
        parts += listed_calls(message)
    return Message(
        role,
        parts,
        name=message.additional_kwargs.get("name") if role != "tool" else None,
        tool_call_id=message.additional_kwargs.get("tool_call_id") if role == "tool" else None,
    )


def _carried(block: Any, dialect: DialectName, on_unsupported: OnUnsupported) -> Sequence[Part]:
    if on_unsupported == "error":
        return _parts(block)
    with suppress(UnsupportedContentError):
        parts = _parts(block)
        if all(carries(dialect, each) for each in parts if isinstance(each, Audio | File)):
            return parts
    return [Text(_told(block))] if on_unsupported == "text" else ()


def _parts(block: Any) -> Sequence[Part]:
    match block:
        case TextBlock():
            return [Text(block.text)]
        case ImageBlock():
            return [_image(block)]
        case DocumentBlock():
            return [_document(block)]
        case AudioBlock():
            return [_audio(block)]
        case CacheBlock():
            return [CachePoint(block.cache_control.ttl)]
        case CitableBlock():
            return [part for each in block.content for part in _citable(each, block)]
        case CitationBlock():
            return ()  # what was cited stands in the text beside it
        case ThinkingBlock():
            return _reasoning(block)
        case ToolCallBlock():
            kwargs = block.tool_kwargs
            arguments = kwargs if isinstance(kwargs, str) else json.dumps(kwargs, ensure_ascii=False)
            return [ToolCall(block.tool_call_id or "", block.tool_name, arguments)]
    raise UnsupportedContentError(
        f"{type(block).__name__} cannot be sent to a chat model.",
        hint="Leave it out, or choose on_unsupported='text' or 'drop'.",
    )


def _image(block: ImageBlock) -> Image:
    data = _base64(block.image, block.path)
    url = str(block.url) if data is None and block.url else None
    if data is None and url is None:
        raise _empty(block)
    return Image(url, data, block.image_mimetype, block.detail)


def _document(block: DocumentBlock) -> File:
    data = _base64(block.data, block.path)
    url = block.url if data is None else None
    if data is None and url is None:
        raise _empty(block)
    return File(data, block.document_mimetype, block.title, url)


def _audio(block: AudioBlock) -> Audio:
    data = _base64(block.audio, block.path)
    if data is None and block.url:
        raise UnsupportedContentError(
            "Audio cannot be sent by its URL.", hint="Give AudioBlock(audio=bytes) or a path."
        )
    if data is None:
        raise _empty(block)
    return Audio(data, block.format or "wav")


def _empty(block: Any) -> UnsupportedContentError:
    return UnsupportedContentError(
        f"{type(block).__name__} holds nothing.", hint="Give bytes, a path or a URL."
    )


def _citable(content: Any, block: CitableBlock) -> Sequence[Part]:
    if isinstance(content, TextBlock):
        return [Source(content.text, block.title, block.source)]
    return _parts(content)


def _reasoning(block: ThinkingBlock) -> Sequence[Part]:
    known = block.additional_information
    signature, redacted = known.get("signature"), known.get("redacted")
    if not (block.content or signature or redacted):
        return ()
    return [Reasoning(block.content or "", signature, redacted)]


def _base64(content: bytes | IOBase | None, path: Any) -> str | None:
    """Read content as base64 text; the blocks hold their bytes as base64 already."""
    if isinstance(content, bytes):
        return content.decode("ascii")
    if content is not None:
        content.seek(0)
        return b64encode(content.read()).decode("ascii")
    return b64encode(Path(path).read_bytes()).decode("ascii") if path else None


def listed_calls(message: ChatMessage) -> list[ToolCall]:
    """Read the calls that older chat stores and other integrations keep beside the blocks."""
    return [_listed_call(each) for each in message.additional_kwargs.get("tool_calls") or ()]


def _listed_call(call: Any) -> ToolCall:
    function = _get(call, "function") or {}
    arguments = _get(function, "arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return ToolCall(_get(call, "id") or "", _get(function, "name") or "", arguments)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _told(block: Any) -> str:
    kind = getattr(block, "block_type", type(block).__name__)
    name = next((str(each) for each in _names(block) if each), "")
    return f"[{kind}: {name}]" if name else f"[{kind}]"


def _names(block: Any) -> Iterable[Any]:
    """Name a block for a reader: by its title or address, but never by its content."""
    path, url = getattr(block, "path", None), str(getattr(block, "url", None) or "")
    yield "" if url.startswith("data:") else url
    yield Path(path).name if path else None
    yield getattr(block, "title", None)
    yield from (getattr(block, f"{kind}_mimetype", None) for kind in ("document", "video", "image"))
    yield getattr(block, "format", None)
