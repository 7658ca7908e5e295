"""LlamaIndex messages, tools and settings as neutral chat requests."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from io import IOBase
from pathlib import Path
from typing import Any, Literal

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
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
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

from llama_index_piccc._replies import GrowingToolCall
from piccc.client import carries
from piccc.conversation import (
    JSON,
    Audio,
    CachePoint,
    ChatRequest,
    File,
    Image,
    JSONSchema,
    Message,
    NamedTool,
    Part,
    Reasoning,
    Role,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from piccc.errors import InvalidArgumentError, UnsupportedContentError

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


_WORDS: dict[str, ToolChoice] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",
}


def offered(tool: BaseTool) -> JSON:
    """Return a tool as plain JSON, so that events and traces can show what was on offer."""
    return tool.metadata.to_openai_tool(skip_length_check=True)


def as_tool(tool: Tool | BaseTool | Mapping[str, Any]) -> Tool:
    """Read a tool in any of its forms; raise InvalidArgumentError for anything else."""
    if isinstance(tool, Tool):
        return tool
    shown = offered(tool) if isinstance(tool, BaseTool) else tool
    function = shown.get("function", shown) if isinstance(shown, Mapping) else {}
    if not isinstance(function, Mapping) or not function.get("name"):
        raise InvalidArgumentError(
            f"A tool is {type(tool).__name__} without a name.",
            hint="Give a FunctionTool, a piccc.Tool, or a mapping with name, description and parameters.",
        )
    empty = {"type": "object", "properties": {}}
    return Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters=function.get("parameters") or function.get("input_schema") or empty,
        strict=function.get("strict"),
    )


def as_choice(choice: Any) -> ToolChoice | None:
    """Read a choice: a word, a tool's name, or a mapping as either API writes it."""
    if choice is None or isinstance(choice, NamedTool):
        return choice
    if isinstance(choice, str):
        return _WORDS.get(choice) or NamedTool(choice)
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if name:
            return NamedTool(name)
        if choice.get("type") in _WORDS:
            return _WORDS[choice["type"]]
    raise InvalidArgumentError(
        f"tool_choice is {choice!r}.",
        hint="Give 'auto', 'none', 'required', a tool's name, or the object that the API takes.",
    )


def selections(response: ChatResponse) -> list[ToolSelection]:
    """Return the calls of a response, whole or on its way."""
    message = response.message
    blocks = [each for each in message.blocks if isinstance(each, ToolCallBlock)]
    if blocks:
        return [_selection(each) for each in blocks]
    calls = listed_calls(message)
    return [ToolSelection(tool_id=call.id, tool_name=call.name, tool_kwargs=call.parse()) for call in calls]


def _selection(block: ToolCallBlock) -> ToolSelection:
    return ToolSelection.model_construct(
        tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=_kwargs(block)
    )


def _kwargs(block: ToolCallBlock) -> JSON:
    if isinstance(block, GrowingToolCall):
        return block.known
    if isinstance(block.tool_kwargs, str):
        return ToolCall("", block.tool_name, block.tool_kwargs).parse()
    return block.tool_kwargs


def only_first_call(response: ChatResponse) -> ChatResponse:
    """Return the response with no more than one call."""
    message = response.message
    calls = [each for each in message.blocks if isinstance(each, ToolCallBlock)]
    if len(calls) < 2:
        return response
    kept = [each for each in message.blocks if not isinstance(each, ToolCallBlock) or each is calls[0]]
    listed = message.additional_kwargs.get("tool_calls", [])
    extra = {**message.additional_kwargs, "tool_calls": listed[:1]}
    single = ChatMessage(role=message.role, blocks=kept, additional_kwargs=extra)
    return response.model_copy(update={"message": single})


def extended(history: Sequence[ChatMessage] | None, user: str | ChatMessage | None) -> list[ChatMessage]:
    """Return a new list: the history, then the user's message."""
    messages = list(history or ())
    if isinstance(user, str):
        user = ChatMessage(role="user", content=user)
    return messages if user is None else [*messages, user]


_KNOWN = frozenset(field.name for field in fields(ChatRequest)) - {"messages"}


def chat_request(messages: Sequence[Message], options: Mapping[str, Any]) -> ChatRequest:
    """Make a request; keywords that have no place of their own go into its body as they are."""
    known = {name: value for name, value in options.items() if name in _KNOWN and value is not None}
    further = {name: value for name, value in options.items() if name not in _KNOWN}
    known["tools"] = [as_tool(each) for each in known.get("tools", ())]
    if known["tools"]:
        known["tool_choice"] = as_choice(known.get("tool_choice"))
    else:
        known.pop("tool_choice", None)
        known.pop("parallel_tool_calls", None)
    stop = known.get("stop", ())
    known["stop"] = [stop] if isinstance(stop, str) else list(stop)
    known["extra_body"] = {**known.get("extra_body", {}), **further}
    if isinstance(known.get("response_format"), Mapping):
        known["response_format"] = _response_format(known["response_format"])
    return ChatRequest(messages=messages, **known)


def _response_format(wanted: Mapping[str, Any]) -> JSONSchema | str | None:
    """Read the form in which the OpenAI API writes it."""
    match wanted:
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": dict()} as given}:
            names = ("schema", "name", "strict", "description")
            return JSONSchema(**{name: given[name] for name in names if name in given})
        case {"type": "text"}:
            return None
    raise InvalidArgumentError(
        "response_format is not understood.", hint="Give 'json', a piccc.JSONSchema, or the API's own object."
    )
