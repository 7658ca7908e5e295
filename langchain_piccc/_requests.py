"""Convert LangChain messages, tools and settings to neutral chat requests."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from binascii import Error as BinasciiError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from mimetypes import guess_type
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import SecretStr

from langchain_piccc._replies import invalid_reasons, without_ending
from langchain_piccc._settings import Dialect
from piccc.arguments import as_json
from piccc.conversation import (
    PROVIDER,
    Audio,
    CachePoint,
    ChatRequest,
    File,
    Image,
    InvalidToolCall,
    JSONSchema,
    Message,
    NamedTool,
    Part,
    Raw,
    Reasoning,
    Refusal,
    Role,
    Source,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    wrong_field,
)
from piccc.errors import InvalidArgumentError, UnsupportedContentError
from piccc.options import check_options, describe_unknown

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

    ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool

Block = Mapping[str, Any]
_log = logging.getLogger(__name__)

_ROLES: dict[str, Role] = {
    "ai": "assistant",
    "assistant": "assistant",
    "developer": "system",
    "human": "user",
    "system": "system",
    "user": "user",
}
_CALLS = frozenset({"custom_tool_call", "function_call", "tool_call", "tool_call_chunk", "tool_use"})
"""Blocks that mark the position of a call; the call itself is in `tool_calls`."""
_UNSENDABLE = frozenset(
    {"input_json_delta", "server_tool_call", "server_tool_call_chunk", "server_tool_result"}
)
"""Fragments of calls, and LangChain's blocks for server-side tools, which no dialect accepts."""
_DATA = frozenset({"base64", "blob", "bytes", "data"})
SHOWN_IMAGE = "piccc_image"
"""The key in an image block's extras that names the image's task; see `shown_images`."""


def shown_image(block: Any) -> Block | None:
    """Return a block's reference to a task's image; None for any other block."""
    shown = _extras(block).get(SHOWN_IMAGE) if isinstance(block, Mapping) else None
    return shown if isinstance(shown, Mapping) else None


def shows_images(messages: Sequence[BaseMessage]) -> bool:
    """Return whether messages refer to images that must be fetched for the request."""
    return any(
        any(map(shown_image, message.content)) for message in messages if isinstance(message.content, list)
    )


def to_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """Read LangChain messages; raise InvalidArgumentError or UnsupportedContentError for invalid ones."""
    foreign = {id for message in messages if isinstance(message, AIMessage) for id in _foreign_calls(message)}
    return [neutral for message in messages for neutral in _messages(message, foreign)]


def _foreign_calls(message: AIMessage) -> Iterator[str]:
    """Yield the ids of calls to OpenAI's own tools, such as `computer_call`, which are not sent."""
    for block in message.content if isinstance(message.content, list) else ():
        if not isinstance(block, Mapping) or (kind := _kind(block)) in _CALLS:
            continue
        if kind.endswith("_call") and isinstance(id := block.get("call_id"), str):
            yield id


def _messages(message: BaseMessage, foreign: Set[str]) -> Iterator[Message]:
    if isinstance(message, AIMessage):
        yield Message("assistant", _assistant_parts(message), name=message.name)
    elif isinstance(message, ToolMessage):
        parts = _result_parts(message.content)
        is_foreign = message.additional_kwargs.get("type") == "computer_call_output"
        if is_foreign or str(message.tool_call_id) in foreign:
            yield Message("user", parts)
        else:
            failed = message.status == "error"
            yield Message("tool", parts, tool_call_id=message.tool_call_id, is_error=failed)
    else:
        role = _role(message)
        content = _items(message.content)
        rest: list[Any] = []
        for item in content:
            kind = _kind(item) if role == "user" and isinstance(item, Mapping) else ""
            if kind in _RESULTS:
                yield _RESULTS[kind](cast("Block", item))
            elif kind in _APPROVALS:
                _log.debug("Left out a block of type %r: the call it answers is not sent either.", kind)
            else:
                rest.append(item)
        if rest or not any(content):
            yield Message(role, to_parts(rest), name=message.name if role == "user" else None)


def _items(content: Any) -> Sequence[Any]:
    """Return the blocks of a message's content, which may not have been validated."""
    if isinstance(content, list | tuple):
        return content
    if content is None or isinstance(content, str):
        return [content] if content else []
    raise InvalidArgumentError(
        f"A message's content is of type {type(content).__name__}.", hint="Pass text or a list of blocks."
    )


def _role(message: BaseMessage) -> Role:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    role = message.role if isinstance(message, ChatMessage) else message.type
    if role not in _ROLES:
        raise InvalidArgumentError(
            f"A message of type {type(message).__name__} has the role {role!r}.",
            hint=f"Use one of {', '.join(_ROLES)}; pass a tool's result as a ToolMessage.",
        )
    return _ROLES[role]


def _tool_result(block: Block) -> Message:
    return _result(block.get("tool_use_id"), block.get("content"), is_error=bool(block.get("is_error")))


def _bedrock_result(block: Block) -> Message:
    nested = block.get("toolResult")
    given = nested if isinstance(nested, Mapping) else {}
    return _result(given.get("toolUseId"), given.get("content"), is_error=given.get("status") == "error")


def _responses_result(block: Block) -> Message:
    return _result(block.get("call_id"), block.get("output"), is_error=False)


_RESULTS = {
    "function_call_output": _responses_result,
    "toolResult": _bedrock_result,
    "tool_result": _tool_result,
}
"""Readers of tool results in user messages: OpenAI's Responses API, Bedrock, Anthropic."""
_APPROVALS = frozenset({"computer_call_output", "local_shell_call_output", "mcp_approval_response"})
"""Answers to calls and approval requests of OpenAI's own tools."""


def _result(id: Any, content: Any, *, is_error: bool) -> Message:
    return Message("tool", _result_parts(content or ""), tool_call_id=str(id or ""), is_error=is_error)


def _result_parts(content: Any) -> list[Part]:
    """Read a tool's result; content that no dialect supports becomes text without its bytes."""
    if isinstance(content, str):
        return to_parts(content)
    parts: list[Part] = []
    for item in content if isinstance(content, Sequence) else [content]:
        if isinstance(item, Mapping) and item.get("type", "json") == "json" and "json" in item:
            parts.append(Text(json.dumps(as_json(item.get("json")), ensure_ascii=False)))
            continue
        try:
            parts += to_parts([item])
        except UnsupportedContentError:
            described = {name: value for name, value in cast("Block", item).items() if name not in _DATA}
            parts.append(Text(json.dumps(as_json(described), ensure_ascii=False)))
    return parts


def to_parts(content: str | Iterable[str | Block], provider: str = PROVIDER) -> list[Part]:
    """Read a message's content; `provider` is the origin of its reasoning and raw blocks."""
    parts: list[Part] = []
    for item in _items(content):
        if isinstance(item, str):
            parts.append(Text(item))
        elif isinstance(item, Mapping):
            parts.extend(_parts(item, provider))
        else:
            parts.append(Text(json.dumps(as_json(item), ensure_ascii=False)))
    return parts


def _parts(block: Block, provider: str) -> list[Part]:
    read = _READERS.get(_kind(block))
    try:
        part = read(block) if read else Raw({name: block[name] for name in block if name != "index"})
    except (AttributeError, TypeError, BinasciiError) as error:  # a field is in none of the forms below
        raise _unreadable(block) from error
    if wrong_field(part):
        raise _unreadable(block)
    if isinstance(part, Reasoning | Raw):
        part.provider = provider
    mark = block.get("cache_control") or _extras(block).get("cache_control")
    if isinstance(mark, Mapping):
        return [part, CachePoint(mark.get("ttl"))]
    return [part]


def _kind(block: Block) -> str:
    kind = block.get("type") or next((key for key in _UNTYPED if key in block), None)
    return kind if isinstance(kind, str) else ""


def _assistant_parts(message: AIMessage) -> list[Part]:
    # Only reasoning and raw blocks from our own messages, which name us as the provider, are sent back.
    provider = str(message.response_metadata.get("model_provider") or "")
    calls = _calls_of(message)
    parts: list[Part] = []
    for item in _items(message.content):
        kind = _kind(item) if isinstance(item, Mapping) else None
        if isinstance(item, Mapping) and (kind in _CALLS or kind == "invalid_tool_call"):
            id = item.get("call_id") or item.get("id")
            known = next((call for call in calls if call.id == id), None)
            if known is not None:
                calls.remove(known)
            if part := known or _content_call(item):
                parts.append(part)
        elif kind not in _UNSENDABLE and item:
            parts += _assistant_item(item, provider)
    return [*_aside_reasoning(message, parts, provider), *parts, *_aside_refusal(message, parts), *calls]


def _assistant_item(item: str | Block, provider: str) -> list[Part]:
    if isinstance(item, str):
        return [Text(item)]
    try:
        parts = to_parts([item], provider)
    except UnsupportedContentError as error:
        _log.debug("Left out a block of an earlier answer: %s", error)
        return []
    if provider == PROVIDER and isinstance(parts[0], Text) and isinstance(item, Mapping):
        parts[0].citations = _citations(item)
    return parts


def _citations(block: Block) -> list[JSON]:
    cited = block.get("citations")
    if isinstance(cited, list):
        return [citation for citation in cited if isinstance(citation, dict)]
    annotations = block.get("annotations")
    values = [
        annotation.get("value")
        for annotation in (annotations if isinstance(annotations, list) else ())
        if isinstance(annotation, Mapping) and annotation.get("type") == "non_standard_annotation"
    ]
    return [value for value in values if isinstance(value, dict)]


def _calls_of(message: AIMessage) -> list[ToolCall | InvalidToolCall]:
    reasons = invalid_reasons(message)
    invalid = [
        InvalidToolCall(
            call.get("id") or "",
            call.get("name") or "",
            without_ending(str(call.get("args") or "")),
            next((reason for id, reason in reasons.items() if id == call.get("id")), "malformed"),
        )
        for call in message.invalid_tool_calls
    ]
    return [
        *(
            ToolCall.of(call.get("id") or "", call.get("name") or "", call.get("args") or {})
            for call in message.tool_calls
        ),
        *invalid,
    ]


def _content_call(block: Block) -> ToolCall | InvalidToolCall | None:
    """Return a call that only the content has; None for a fragment."""
    name, id = str(block.get("name") or ""), str(block.get("call_id") or block.get("id") or "")
    arguments = block.get("args", block.get("input", block.get("arguments")))
    if block.get("type") == "invalid_tool_call":
        return InvalidToolCall(id, name, str(arguments or ""), "malformed")
    if not name:
        return None
    if isinstance(arguments, Mapping) or not arguments:
        return ToolCall.of(id, name, arguments or {})
    return ToolCall(id, name, arguments if isinstance(arguments, str) else json.dumps(as_json(arguments)))


def _aside_reasoning(message: AIMessage, parts: Sequence[Part], provider: str) -> list[Part]:
    # A streamed message keeps its first reasoning in `additional_kwargs`, even if its content is a list.
    aside = message.additional_kwargs
    text, signature = aside.get("reasoning_content"), aside.get("reasoning_signature")
    if not isinstance(text, str | None) or not (text or signature):
        return []
    reasoning = Reasoning(text or "", signature, provider=provider)
    return [] if reasoning in parts else [reasoning]


def _aside_refusal(message: AIMessage, parts: Sequence[Part]) -> list[Part]:
    text = message.additional_kwargs.get("refusal")
    if text is None or any(isinstance(part, Refusal) for part in parts):
        return []
    return [Refusal(str(text))]


def _extras(block: Block) -> Block:
    extras = block.get("extras")
    return extras if isinstance(extras, Mapping) else {}


def _text(block: Block) -> Part:
    return Text(str(block.get("text") or ""))


def _image_url(block: Block) -> Part:
    """Read an image block of OpenAI's Chat API (`image_url`) or Responses API (`input_image`)."""
    given = block.get("image_url")
    fields = given if isinstance(given, Mapping) else {"url": given, "detail": block.get("detail")}
    if not fields.get("url"):
        raise _unreadable(block)
    return Image(url=str(fields["url"]), detail=fields.get("detail"))


def _image(block: Block) -> Part:
    if isinstance(nested := block.get("image"), Mapping):
        return Image(data=_bedrock_bytes(block, nested), media_type=f"image/{nested.get('format')}")
    url, data, id, media_type = _source(block)
    if id is not None:
        return Raw({"type": "image", "source": {"type": "file", "file_id": id}})
    if url is None and data is None:
        raise _unreadable(block)
    return Image(url, data, media_type, _extras(block).get("detail"))


def _audio(block: Block) -> Part:
    given = block.get("input_audio")
    if isinstance(given, Mapping):
        if not given.get("data"):
            raise _unreadable(block)
        return Audio(given["data"], given.get("format", "wav"))
    _, data, _, media_type = _source(block)
    if data is None:
        raise UnsupportedContentError(
            "An audio block has no data.", hint="Send audio as base64 with its mime_type, not by URL or id."
        )
    return Audio(data, _AUDIO_FORMATS.get(media_type or "", (media_type or "audio/wav").rpartition("/")[2]))


_AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/x-wav": "wav", "audio/wave": "wav"}


def _file(block: Block) -> File:
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
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind == "content":
        return Raw(dict(block))
    wanted = block.get("citations")
    cited = bool(wanted.get("enabled")) if isinstance(wanted, Mapping) else None
    context = block.get("context")
    if isinstance(source, Mapping) and kind == "text":
        text, title = str(source.get("data") or ""), block.get("title")
        if not (title or context or cited):
            return Text(text)
        data = b64encode(text.encode(errors="replace")).decode()
        return File(data, "text/plain", title, context=context, citations=bool(cited))
    part = _file(block)
    return replace(part, context=context, citations=cited)


def _plain(block: Block) -> Part:
    if isinstance(block.get("text"), str):
        return Text(block["text"])
    return _file(block)


def _search_result(block: Block) -> Part:
    content = block.get("content")
    texts = [item.get("text", "") for item in content or () if isinstance(item, Mapping)]
    return Source("\n".join(texts), str(block.get("title") or ""), str(block.get("source") or ""))


def _source(block: Block) -> tuple[str | None, str | None, str | None, str | None]:
    """Return URL, base64 data, file id and media type of a standard, older standard, or Anthropic block."""
    nested = block.get("source")
    source: Block = nested if isinstance(nested, Mapping) else block
    media_type = source.get("mime_type") or source.get("media_type") or source.get("mimeType")
    data = source.get("base64") or source.get("data")
    id = source.get("file_id") or (source.get("id") if source.get("source_type") == "id" else None)
    url = source.get("url")
    if isinstance(url, str) and url.startswith("data:"):
        data, media_type = _cut_data_url(url)
        url = None
    if isinstance(data, bytes):  # Gemini's blocks
        data = b64encode(data).decode()
    return url, data, id, media_type


def _cut_data_url(value: Any) -> tuple[str | None, str | None]:
    if not isinstance(value, str) or not value.startswith("data:"):
        return value, None
    head, _, data = value.partition(",")
    return data, head.removeprefix("data:").partition(";")[0] or None


def _bedrock_bytes(block: Block, nested: Block) -> str:
    """Return the base64 data of Bedrock's `{"image": {"format", "source": {"bytes"}}}`."""
    source = nested.get("source")
    given = source.get("bytes") if isinstance(source, Mapping) else None
    if not given:
        raise _unreadable(block)
    return b64encode(given).decode() if isinstance(given, bytes) else str(given)


def _bedrock_document(block: Block) -> Part:
    nested = block.get("document")
    if not isinstance(nested, Mapping):
        return _document(block)
    source = nested.get("source")
    if isinstance(source, Mapping) and isinstance(source.get("text"), str):
        return Source(source["text"], str(nested.get("name") or ""))
    media_type = guess_type(f"a.{nested.get('format')}")[0]
    return File(_bedrock_bytes(block, nested), media_type, nested.get("name"))


def _bedrock_guarded(block: Block) -> Part:
    nested = block.get("guardContent")
    text = nested.get("text") if isinstance(nested, Mapping) else None
    if not isinstance(text, Mapping):
        raise _unreadable(block)
    return _text(text)


def _bedrock_cache_point(block: Block) -> Part:
    nested = block.get("cachePoint")
    return CachePoint(nested.get("ttl") if isinstance(nested, Mapping) else None)


def _document_url(block: Block) -> Part:
    """Read Mistral's document block."""
    url = block.get("document_url")
    return _file({"type": "document_url", "url": url, "filename": block.get("document_name")})


def _media(block: Block) -> Part:
    """Read Gemini's `media` block; its `mime_type` says whether it is an image, audio or a file."""
    kind = str(block.get("mime_type") or "").partition("/")[0]
    read = {"image": _image, "audio": _audio, "video": _video}.get(kind, _file)
    return read({**block, "url": block.get("file_uri") or block.get("url")})


def _generated_image(block: Block) -> Part:
    """Read an image generated by OpenAI's image tool."""
    if not block.get("result"):
        raise _unreadable(block)
    return Image(data=str(block["result"]), media_type=f"image/{block.get('output_format') or 'png'}")


def _input_file(block: Block) -> Part:
    data, media_type = _cut_data_url(block.get("file_data"))
    return File(data, media_type, block.get("filename"), block.get("file_url"), block.get("file_id"))


def _thinking(block: Block) -> Part:
    given = block.get("thinking")
    if isinstance(given, list):  # Mistral's
        given = "".join(item.get("text") or "" for item in given if isinstance(item, Mapping))
    return Reasoning(str(given or ""), block.get("signature"))


def _bedrock_reasoning(block: Block) -> Part:
    nested = block.get("reasoning_content")
    given = nested if isinstance(nested, Mapping) else {}
    return Reasoning(str(given.get("text") or ""), given.get("signature"))


def _redacted(block: Block) -> Part:
    return Reasoning(redacted=str(block.get("data") or ""))


def _reasoning(block: Block) -> Part:
    text = block.get("reasoning")
    if not isinstance(text, str):
        summary = block.get("summary")
        text = "".join(item.get("text") or "" for item in summary or () if isinstance(item, Mapping))
    return Reasoning(text, block.get("signature") or _extras(block).get("signature"))


def _refusal(block: Block) -> Part:
    return Refusal(str(block.get("refusal") or ""))


def _non_standard(block: Block) -> Part:
    value = block.get("value")
    if not isinstance(value, Mapping):
        raise _unreadable(block)
    read = _READERS.get(_kind(value))
    return read(value) if read else Raw(dict(value))


def _unreadable(block: Block) -> UnsupportedContentError:
    return UnsupportedContentError(
        f"Cannot read a content block of type {block.get('type')!r} with the fields {sorted(block)}.",
        hint="Pass url, base64 with mime_type, or file_id.",
    )


def _video(block: Block) -> Part:
    raise UnsupportedContentError("The chat API does not accept video.", hint="Send frames of it as images.")


_READERS: dict[str, Callable[[Block], Part]] = {
    "audio": _audio,
    "cachePoint": _bedrock_cache_point,
    "document": _bedrock_document,
    "document_url": _document_url,
    "file": _file,
    "guardContent": _bedrock_guarded,
    "guard_content": _text,
    "image": _image,
    "image_generation_call": _generated_image,
    "image_url": _image_url,
    "input_audio": _audio,
    "input_file": _input_file,
    "input_image": _image_url,
    "input_text": _text,
    "media": _media,
    "non_standard": _non_standard,
    "output_text": _text,
    "reasoning": _reasoning,
    "reasoning_content": _bedrock_reasoning,
    "redacted_thinking": _redacted,
    "refusal": _refusal,
    "search_result": _search_result,
    "text": _text,
    "text-plain": _plain,
    "thinking": _thinking,
    "video": _video,
}
_UNTYPED = (
    "text",
    "image",
    "document",
    "video",
    "reasoning_content",
    "cachePoint",
    "guardContent",
    "toolResult",
)
"""Keys that identify blocks without a type, such as Bedrock's."""


JSON = dict[str, Any]
_CHOICES: dict[str, Literal["auto", "none", "required"]] = {
    "any": "required",
    "required": "required",
    "auto": "auto",
    "none": "none",
}


def bound_tools(tools: Sequence[ToolLike], *, strict: bool | None = None) -> list[JSON]:
    """Return the tools as JSON in OpenAI's form, as tracers expect them.

    A tool's provider-specific keys (`extras`, `cache_control`) go beside its function.
    """
    return [_bound_tool(tool, strict=strict) for tool in tools]


def _bound_tool(tool: ToolLike, *, strict: bool | None) -> JSON:
    from langchain_core.tools import BaseTool  # only needed with tools; convert_to_openai_tool loads it too

    try:
        bound: JSON = convert_to_openai_tool(tool, strict=strict)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"An object of type {type(tool).__name__} is not a tool.",
            hint="Pass a BaseTool, an annotated function, a pydantic class, or a tool as JSON.",
        ) from error
    if isinstance(tool, BaseTool) and tool.extras:
        bound = {**bound, **tool.extras}
    if isinstance(tool, Mapping) and "input_schema" in tool and "cache_control" in tool:
        bound = {**bound, "cache_control": tool["cache_control"]}
    return bound


def bound_choice(choice: Any, tools: Sequence[JSON]) -> str | JSON | None:
    """Return a choice in bound form; raise InvalidArgumentError for a tool that is not bound."""
    if choice is None or choice is False:
        return None
    if choice is True:
        choice = "required"
    if isinstance(choice, Mapping):
        return dict(choice)
    names = [tool["function"]["name"] for tool in tools if "function" in tool]
    if choice in names:
        return {"type": "function", "function": {"name": choice}}
    if choice in _CHOICES:
        return _CHOICES[choice]
    raise InvalidArgumentError(
        f"tool_choice is {choice!r}.",
        hint=f"Use 'auto', 'none', 'any' or a tool's name: {', '.join(names) or 'no tool is bound'}.",
    )


def to_tools(tools: Sequence[ToolLike] | None) -> list[Tool]:
    """Read tools, bound or as passed by the caller."""
    return [_tool(tool) for tool in tools or ()]


def _tool(tool: ToolLike) -> Tool:
    bound = tool if isinstance(tool, dict) and "function" in tool else _bound_tool(tool, strict=None)
    function = bound.get("function")
    if not isinstance(function, Mapping):
        raise InvalidArgumentError(
            f"A tool of type {bound.get('type')!r} is not a function.",
            hint="Piccc supports only function tools; send others with extra_body={'tools': [...]}.",
        )
    return Tool(
        name=function["name"],
        description=function.get("description", ""),
        parameters=function.get("parameters") or {"type": "object", "properties": {}},
        strict=function.get("strict"),
        extra={name: bound[name] for name in bound if name not in ("type", "function")},
    )


def to_choice(choice: Any) -> ToolChoice | None:
    """Read a choice in OpenAI's or Anthropic's form, bound or as passed by the caller."""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if name:
            return NamedTool(name)
        choice = choice.get("type")
    if choice in (None, False):
        return None
    return "required" if choice is True else _CHOICES.get(str(choice)) or NamedTool(str(choice))


def bound_format(schema: Any, *, strict: bool | None = None) -> JSON:
    """Convert a schema in any form to OpenAI's `response_format`."""
    if isinstance(schema, Mapping) and schema.get("type") in ("json_schema", "json_object"):
        return dict(schema)
    try:
        body = convert_to_json_schema(schema, strict=strict)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"response_format is not a schema: it is of type {type(schema).__name__}.",
            hint="Pass a pydantic class, a TypedDict, or a JSON Schema with a title.",
        ) from error
    inner = {name: value for name, value in body.items() if name not in ("title", "description")}
    described = {"description": body["description"]} if body.get("description") else {}
    named: JSON = {"name": body["title"], **described, "schema": inner}
    return {"type": "json_schema", "json_schema": named if strict is None else {**named, "strict": strict}}


def to_format(wanted: Any, *, strict: bool | None = None) -> JSONSchema | Literal["json"] | None:
    """Read a `response_format`, or a schema in any form."""
    if wanted is None or wanted == {"type": "text"}:
        return None
    body = bound_format(wanted, strict=strict)
    if body["type"] == "json_object":
        return "json"
    named = body.get("json_schema", body)
    return JSONSchema(
        named["schema"], named.get("name", "answer"), named.get("strict"), named.get("description")
    )


SETTINGS = ("model", "temperature", "top_p", "max_tokens", "seed", "reasoning_effort", "replay_reasoning")
_OTHERS = (
    "extra_body", "extra_headers", "parallel_tool_calls", "response_format", "strict", "timeout",
    "tool_choice", "tools",
)  # fmt: skip
_IGNORED = ("stream",)


class CallSettings(Protocol):
    """A model's call settings; those in `SETTINGS` are read by name."""

    model: str
    stop: list[str] | str | None
    extra_body: dict[str, Any] | None


def to_request(
    model: CallSettings,
    messages: Sequence[BaseMessage],
    stop: Sequence[str] | str | None,
    options: Mapping[str, Any],
) -> ChatRequest:
    """Return the request; raise InvalidArgumentError for an unknown option."""
    if unknown := sorted(set(options) - {*SETTINGS, *_OTHERS, *_IGNORED}):
        raise InvalidArgumentError(
            f"Unknown options: {describe_unknown(unknown, (*SETTINGS, *_OTHERS, 'stop'))}.",
            hint=f"Valid options: {', '.join((*SETTINGS, *_OTHERS))}, stop. "
            "Pass other server parameters in extra_body={...}.",
        )
    stop = model.stop if stop is None else stop
    settings = {name: options[name] if name in options else getattr(model, name) for name in SETTINGS}
    if settings["model"] is None:
        settings["model"] = model.model
    try:
        return ChatRequest(
            messages=to_messages(messages),
            tools=to_tools(options.get("tools")),
            tool_choice=to_choice(options.get("tool_choice")),
            parallel_tool_calls=options.get("parallel_tool_calls"),
            response_format=to_format(options.get("response_format"), strict=options.get("strict")),
            stop=as_list(stop),
            extra_body={**(model.extra_body or {}), **(options.get("extra_body") or {})},
            extra_headers=in_clear(options.get("extra_headers")),
            **settings,
        )
    except TypeError:
        check_options({**options, "stop": stop})  # only now, to keep it off the path of every call
        raise


def to_dialect(preferred: Dialect, request: ChatRequest) -> Dialect:
    """Return the preferred dialect, or the other one if only that supports the content."""
    parts = [part for message in request.messages if message.role != "assistant" for part in message.parts]
    needs: set[Dialect] = set()
    if any(isinstance(part, Audio) for part in parts):
        needs.add("openai")
    if any(
        (isinstance(part, File) and part.url) or (isinstance(part, Raw) and "source" in part.data)
        for part in parts
    ):
        needs.add("anthropic")
    return needs.pop() if len(needs) == 1 else preferred


def as_list(stop: Sequence[str] | str | None) -> list[str]:
    """Return stop sequences as a list."""
    return [stop] if isinstance(stop, str) else list(stop or ())


def in_clear(headers: Mapping[str, str | SecretStr] | None) -> dict[str, str]:
    """Return headers without their SecretStr wrappers."""
    if not headers:
        return {}
    check_options({"extra_headers": headers})
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in headers.items()
    }


def hidden(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's options with headers wrapped, to keep them out of traces and cache keys."""
    headers = options.get("extra_headers")
    if not headers:
        return dict(options)
    wrapped = {name: SecretStr(value) for name, value in in_clear(headers).items()}
    return {**options, "extra_headers": wrapped}
