"""LangChain messages → the neutral conversation. Pure.

Content may come as a string, as LangChain's standard blocks, or as OpenAI's and Anthropic's own blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from piccc.chat import (
    Audio,
    CachePoint,
    File,
    Image,
    Message,
    Part,
    Raw,
    Reasoning,
    Refusal,
    Role,
    Source,
    Text,
    ToolCall,
)
from piccc.errors import InvalidArgumentError, UnsupportedContentError

Block = Mapping[str, Any]

_ROLES: dict[str, Role] = {
    "ai": "assistant",
    "assistant": "assistant",
    "developer": "system",
    "human": "user",
    "system": "system",
    "user": "user",
}
_CALLS = frozenset({"tool_call", "tool_use", "invalid_tool_call"})
# Pieces of a call that `tool_calls` holds whole, and what another provider's own tools did.
_NOT_REPLAYED = frozenset(
    {
        "function_call",
        "input_json_delta",
        "server_tool_call",
        "server_tool_call_chunk",
        "server_tool_result",
        "tool_call_chunk",
    }
)


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """Read LangChain messages; raise InvalidArgumentError or UnsupportedContentError for nonsense."""
    return [_message(each) for each in messages]


def _message(message: BaseMessage) -> Message:
    if isinstance(message, AIMessage):
        return Message("assistant", _assistant_parts(message), name=message.name)
    if isinstance(message, ToolMessage):
        return Message(
            "tool",
            to_parts(message.content),
            tool_call_id=message.tool_call_id,
            is_error=message.status == "error",
        )
    role = _role(message)
    return Message(role, to_parts(message.content), name=message.name if role == "user" else None)


def _role(message: BaseMessage) -> Role:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    role = message.role if isinstance(message, ChatMessage) else message.type
    if role not in _ROLES:
        raise InvalidArgumentError(
            f"A message of type {type(message).__name__} has the role {role!r}.",
            hint=f"It is one of {', '.join(_ROLES)}; a tool's result is a ToolMessage.",
        )
    return _ROLES[role]


def to_parts(content: str | Iterable[str | Block]) -> list[Part]:
    """Read a message's content."""
    if isinstance(content, str):
        return [Text(content)] if content else []
    parts: list[Part] = []
    for item in content:
        if isinstance(item, str):
            parts.append(Text(item))
        elif isinstance(item, Mapping):
            parts.extend(_parts(item))
        else:
            parts.append(Text(json.dumps(item, ensure_ascii=False, default=str)))
    return parts


def _parts(block: Block) -> list[Part]:
    kind = block.get("type", "text" if "text" in block else None)
    read = _READERS.get(kind) if isinstance(kind, str) else None
    part = read(block) if read else Raw({name: block[name] for name in block if name != "index"})
    mark = block.get("cache_control") or _extras(block).get("cache_control")
    if isinstance(mark, Mapping):
        return [part, CachePoint(mark.get("ttl"))]
    return [part]


def _assistant_parts(message: AIMessage) -> list[Part]:
    calls = _calls_of(message)
    parts: list[Part] = []
    content = [message.content] if isinstance(message.content, str) else message.content
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind in _CALLS and isinstance(item, Mapping):
            id = str(item.get("id"))
            parts.append(calls.pop(id) if id in calls else _call(item))
        elif kind not in _NOT_REPLAYED and item:
            parts.extend(to_parts([item]))
    return [*_kept_aside(message, parts), *parts, *_refused_aside(message, parts), *calls.values()]


def _calls_of(message: AIMessage) -> dict[str, ToolCall]:
    calls = [_call(each) for each in (*message.tool_calls, *message.invalid_tool_calls)]
    return {call.id or str(number): call for number, call in enumerate(calls)}


def _call(call: Any) -> ToolCall:
    arguments = call.get("args", call.get("input"))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return ToolCall(call.get("id") or "", call.get("name") or "", arguments or "{}")


def _kept_aside(message: AIMessage, parts: Sequence[Part]) -> list[Part]:
    # A streamed message keeps its first reasoning here even where its content is a list.
    aside = message.additional_kwargs
    text, signature = aside.get("reasoning_content"), aside.get("reasoning_signature")
    if not (text or signature):
        return []
    thought = Reasoning(text or "", signature)
    return [] if thought in parts else [thought]


def _refused_aside(message: AIMessage, parts: Sequence[Part]) -> list[Part]:
    text = message.additional_kwargs.get("refusal")
    if not text or any(isinstance(part, Refusal) for part in parts):
        return []
    return [Refusal(text)]


def _extras(block: Block) -> Block:
    extras = block.get("extras")
    return extras if isinstance(extras, Mapping) else {}


def _text(block: Block) -> Part:
    return Text(str(block.get("text") or ""))


def _image_url(block: Block) -> Part:
    given = block.get("image_url")
    if isinstance(given, Mapping):
        return Image(url=given.get("url"), detail=given.get("detail"))
    return Image(url=given, detail=block.get("detail"))


def _image(block: Block) -> Part:
    url, data, id, media_type = _source(block)
    if id is not None:
        return Raw({"type": "image", "source": {"type": "file", "file_id": id}})
    if url is None and data is None:
        raise _unreadable(block)
    return Image(url, data, media_type, _extras(block).get("detail"))


def _audio(block: Block) -> Part:
    given = block.get("input_audio")
    if isinstance(given, Mapping):
        return Audio(given.get("data", ""), given.get("format", "wav"))
    _, data, _, media_type = _source(block)
    if data is None:
        raise UnsupportedContentError(
            "An audio block has no data.", hint="Send audio as base64 with its mime_type, not by URL or id."
        )
    return Audio(data, _AUDIO_FORMATS.get(media_type or "", (media_type or "audio/wav").rpartition("/")[2]))


_AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/x-wav": "wav", "audio/wave": "wav"}


def _file(block: Block) -> Part:
    given = block.get("file")
    if isinstance(given, Mapping):
        data, media_type = _cut_data_url(given.get("file_data"))
        return File(data, media_type, given.get("filename"), file_id=given.get("file_id"))
    url, data, id, media_type = _source(block)
    extras = _extras(block)
    name = block.get("filename") or extras.get("filename") or block.get("title") or extras.get("name")
    if url is None and data is None and id is None:
        raise _unreadable(block)
    return File(data, media_type, name, url, id)


def _document(block: Block) -> Part:
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") == "text":
        return Text(str(source.get("data") or ""))
    if isinstance(source, Mapping) and source.get("type") == "content":
        return Raw(dict(block))
    return _file(block)


def _plain(block: Block) -> Part:
    if isinstance(block.get("text"), str):
        return Text(block["text"])
    return _file(block)


def _search_result(block: Block) -> Part:
    content = block.get("content")
    texts = [each.get("text", "") for each in content or () if isinstance(each, Mapping)]
    return Source("\n".join(texts), str(block.get("title") or ""), str(block.get("source") or ""))


def _source(block: Block) -> tuple[str | None, str | None, str | None, str | None]:
    """Find URL, base64 data, file id and media type in a standard, older standard, or Anthropic block."""
    nested = block.get("source")
    source: Block = nested if isinstance(nested, Mapping) else block
    media_type = source.get("mime_type") or source.get("media_type")
    data = source.get("base64") or source.get("data")
    id = source.get("file_id") or (source.get("id") if source.get("source_type") == "id" else None)
    url = source.get("url")
    if isinstance(url, str) and url.startswith("data:"):
        data, media_type = _cut_data_url(url)
        url = None
    return url, data, id, media_type


def _cut_data_url(value: Any) -> tuple[str | None, str | None]:
    if not isinstance(value, str) or not value.startswith("data:"):
        return value, None
    head, _, data = value.partition(",")
    return data, head.removeprefix("data:").partition(";")[0] or None


def _thinking(block: Block) -> Part:
    return Reasoning(str(block.get("thinking") or ""), block.get("signature"))


def _redacted(block: Block) -> Part:
    return Reasoning(redacted=str(block.get("data") or ""))


def _reasoning(block: Block) -> Part:
    text = block.get("reasoning")
    if text is None:
        summary = block.get("summary")
        text = "".join(each.get("text", "") for each in summary or () if isinstance(each, Mapping))
    return Reasoning(text, block.get("signature") or _extras(block).get("signature"))


def _refusal(block: Block) -> Part:
    return Refusal(str(block.get("refusal") or ""))


def _non_standard(block: Block) -> Part:
    value = block.get("value")
    if not isinstance(value, Mapping):
        raise _unreadable(block)
    read = _READERS.get(value.get("type", ""))
    return read(value) if read else Raw(dict(value))


def _unreadable(block: Block) -> UnsupportedContentError:
    return UnsupportedContentError(
        f"A content block of type {block.get('type')!r} has only the fields {sorted(block)}.",
        hint="Give url, base64 with mime_type, or file_id.",
    )


def _video(block: Block) -> Part:
    raise UnsupportedContentError(
        "The chat API has no video input.", hint="Send single frames of it as images."
    )


_READERS: dict[str, Callable[[Block], Part]] = {
    "audio": _audio,
    "document": _document,
    "file": _file,
    "image": _image,
    "image_url": _image_url,
    "input_audio": _audio,
    "non_standard": _non_standard,
    "reasoning": _reasoning,
    "redacted_thinking": _redacted,
    "refusal": _refusal,
    "search_result": _search_result,
    "text": _text,
    "text-plain": _plain,
    "thinking": _thinking,
    "tool_call": _call,
    "tool_use": _call,
    "video": _video,
}
