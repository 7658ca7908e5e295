"""Convert LlamaIndex messages, tools and settings to neutral chat requests, and replies to responses."""

from __future__ import annotations

import ast
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from io import IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.base.llms.types import CachePoint as CacheBlock
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

from piccc.arguments import as_json, read_arguments
from piccc.client import carries
from piccc.conversation import (
    INVALID_REASONS,
    JSON,
    Audio,
    CachePoint,
    ChatReply,
    ChatRequest,
    Delta,
    File,
    Image,
    InvalidToolCall,
    JSONSchema,
    Message,
    NamedTool,
    Part,
    Reasoning,
    ReasoningDelta,
    RefusalDelta,
    Role,
    Source,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from piccc.errors import InvalidArgumentError, ResponseError, UnsupportedContentError
from piccc.options import check_options, refuse_typos
from piccc.tasks import content_type_of

if TYPE_CHECKING:
    from piccc.structured import PartialObject

DialectName = Literal["openai", "anthropic"]
OnUnsupported = Literal["error", "text", "drop"]

_PROVIDER = "piccc"
_MAX_QUOTED = 200

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

INVALID_CALLS = "invalid_tool_calls"
"""The key in a message's `additional_kwargs` for calls that must not be run."""


def to_messages(
    messages: Iterable[ChatMessage], dialect: DialectName, on_unsupported: OnUnsupported
) -> list[Message]:
    """Return neutral messages; raise UnsupportedContentError if `on_unsupported` says so."""
    listed = list(messages) if isinstance(messages, Iterable) else [messages]
    wrong = {type(message).__name__ for message in listed if not isinstance(message, ChatMessage)}
    if wrong:
        raise InvalidArgumentError(
            f"Not a ChatMessage: {', '.join(sorted(wrong))}.",
            hint="Pass a list of ChatMessage; complete() takes a text.",
        )
    return [_message(message, dialect, on_unsupported) for message in listed]


def _message(message: ChatMessage, dialect: DialectName, on_unsupported: OnUnsupported) -> Message:
    role = _ROLES[message.role]
    if role in ("assistant", "tool") and on_unsupported == "error":
        on_unsupported = "text"  # the model or the tool chose this content, not the caller
    if role == "assistant":
        parts = list(_assistant_parts(message, dialect, on_unsupported))
    else:
        parts = [part for block in message.blocks for part in _supported(block, dialect, on_unsupported)]
    return Message(
        role,
        parts,
        name=message.additional_kwargs.get("name") if role != "tool" else None,
        tool_call_id=message.additional_kwargs.get("tool_call_id") if role == "tool" else None,
    )


def _assistant_parts(
    message: ChatMessage, dialect: DialectName, on_unsupported: OnUnsupported
) -> Iterator[Part]:
    """Read an assistant message of this or another integration."""
    for block in message.blocks:
        if not isinstance(block, ToolCallBlock):
            yield from _supported(block, dialect, on_unsupported)
    yield from _calls(message)


def _calls(message: ChatMessage) -> Iterator[ToolCall | InvalidToolCall]:
    """Read a message's calls, from its blocks or from where older and other integrations keep them."""
    listed = message.additional_kwargs.get(INVALID_CALLS)
    entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
    reasons = {
        str(entry.get("id")): entry["reason"] for entry in entries if entry.get("reason") in INVALID_REASONS
    }
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    for block in blocks:
        # Ollama and Gemini have no ids: their integrations use the tool's name in the result.
        id = block.tool_call_id or block.tool_name
        yield _read_call(id, block.tool_name, block.tool_kwargs, reasons.get(id))
    calls = message.additional_kwargs.get("tool_calls")
    if not blocks and isinstance(calls, list | tuple):
        yield from map(_read_listed_call, calls)


def _read_call(id: str, name: str, arguments: Any, reason: Any = None) -> ToolCall | InvalidToolCall:
    if not isinstance(arguments, str) and reason is None:
        return ToolCall.of(id, name, arguments or {})
    text = arguments if isinstance(arguments, str) else json.dumps(as_json(arguments))
    read = read_arguments(text)
    if reason is None and read is not None and name:
        return ToolCall.of(id, name, read)
    return InvalidToolCall(id, name, text, reason or ("malformed" if name else "unnamed"))


def _supported(block: Any, dialect: DialectName, on_unsupported: OnUnsupported) -> Sequence[Part]:
    if on_unsupported == "error":
        return _parts(block)
    with suppress(UnsupportedContentError):
        parts = _parts(block)
        if all(carries(dialect, part) for part in parts if isinstance(part, Audio | File)):
            return parts
    return [Text(_placeholder(block))] if on_unsupported == "text" else ()


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
            return [part for content in block.content for part in _citable(content, block)]
        case CitationBlock():
            return ()  # the text beside it already has what was cited
        case ThinkingBlock():
            return _reasoning(block)
    raise UnsupportedContentError(
        f"{type(block).__name__} cannot be sent to a chat model.",
        hint="Leave it out, or set on_unsupported='text' or 'drop'.",
    )


def _image(block: ImageBlock) -> Image:
    data = _base64(block, block.image)
    return Image(None if data else str(block.url), data, block.image_mimetype, block.detail)


def _document(block: DocumentBlock) -> File:
    data = _base64(block, block.data)
    is_named = block.title not in (None, "input_document")  # core's default title
    name = block.title if is_named or not block.path else Path(block.path).name
    return File(data, block.document_mimetype, name, None if data else block.url)


def _audio(block: AudioBlock) -> Audio:
    data = _base64(block, block.audio)
    if data is None:
        raise UnsupportedContentError(
            "Audio cannot be sent by URL.", hint="Pass AudioBlock(audio=bytes) or a path."
        )
    detected = {"audio/wav": "wav", "audio/mpeg": "mp3"}.get(content_type_of(b64decode(data[:256])) or "")
    if (audio_format := detected or block.format) is None:
        raise UnsupportedContentError("The audio format is unknown.", hint="Pass it: format='wav'.")
    return Audio(data, audio_format)


def _citable(content: Any, block: CitableBlock) -> Sequence[Part]:
    if isinstance(content, TextBlock):
        return [Source(content.text, block.title, block.source)]
    return _parts(content)


def _reasoning(block: ThinkingBlock) -> Sequence[Part]:
    info = block.additional_information
    # A signature is only sent back to its provider; other integrations do not name theirs.
    provider = str(info.get("provider") or "")
    values = [info.get(name) for name in ("signature", "redacted")]
    signature, redacted = [value if isinstance(value, str) else None for value in values]
    reasoning = Reasoning(block.content or "", signature, redacted, provider)
    return [reasoning] if reasoning != Reasoning(provider=provider) else ()


def _base64(block: ImageBlock | DocumentBlock | AudioBlock, content: bytes | IOBase | None) -> str | None:
    """Return a block's content as base64 text, or None if it only has a URL."""
    try:
        if isinstance(content, bytes):
            data = content.decode("ascii")  # blocks hold their bytes as base64 already
        elif content is not None:
            content.seek(0)
            data = b64encode(content.read()).decode("ascii")
        else:
            data = b64encode(Path(block.path).read_bytes()).decode("ascii") if block.path else ""
    except (OSError, ValueError, TypeError) as error:  # deleted, closed, not seekable, in text mode
        raise UnsupportedContentError(
            f"{type(block).__name__} cannot be read: {error}",
            hint="Pass bytes, the path of an existing file, or a file that is open in binary mode.",
        ) from error
    if not data and block.url is None:
        raise UnsupportedContentError(
            f"{type(block).__name__} is empty.", hint="Pass bytes, a path or a URL."
        )
    return data or None


def _read_listed_call(call: Any) -> ToolCall | InvalidToolCall:
    """Read a call in the form of OpenAI's Chat or Responses API, Anthropic's or Bedrock's API, or core."""
    function = _get(call, "function") or call
    arguments: Any = next(
        (value for name in ("arguments", "input", "args") if (value := _get(function, name)) is not None), {}
    )
    name = str(_get(function, "name") or "")
    ids = (_get(call, key) for key in ("call_id", "id", "toolUseId"))
    return _read_call(str(next(filter(None, ids), name)), name, arguments)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _placeholder(block: Any) -> str:
    kind = getattr(block, "block_type", type(block).__name__)
    name = next((str(name) for name in _names(block) if name), "")
    return f"[{kind}: {name}]" if name else f"[{kind}]"


def _names(block: Any) -> Iterable[Any]:
    """Yield candidate names for a block: its URL, file name or title, never its content."""
    path, url = getattr(block, "path", None), str(getattr(block, "url", None) or "")
    yield "" if url.startswith("data:") else url
    yield Path(path).name if path else None
    yield getattr(block, "title", None)
    yield from (getattr(block, f"{kind}_mimetype", None) for kind in ("document", "video", "image"))
    yield getattr(block, "format", None)


_CHOICES: dict[str, ToolChoice] = {
    "auto": "auto",
    "none": "none",
    "required": "required",
    "any": "required",
}


def tool_json(tool: BaseTool) -> JSON:
    """Return a tool as plain JSON, so that events and traces can show it."""
    given = tool.metadata.to_openai_tool(skip_length_check=True)
    # Core replaces characters in the name, but its agents look up the original. Our dialects map it back.
    return {**given, "function": {**given["function"], "name": tool.metadata.name}}


def as_tool(tool: Tool | BaseTool | Mapping[str, Any]) -> Tool:
    """Read a tool in any of its forms; raise InvalidArgumentError for anything else."""
    if isinstance(tool, Tool):
        return tool
    given = tool_json(tool) if isinstance(tool, BaseTool) else tool
    function = given.get("function", given) if isinstance(given, Mapping) else {}
    if not isinstance(function, Mapping) or not function.get("name"):
        raise InvalidArgumentError(
            f"A tool of type {type(tool).__name__} has no name.",
            hint="Pass a FunctionTool, a piccc.Tool, or a mapping with name, description and parameters.",
        )
    empty = {"type": "object", "properties": {}}
    return Tool(
        name=function["name"],
        description=function.get("description") or "",
        parameters=function.get("parameters") or function.get("input_schema") or empty,
        strict=function.get("strict"),
    )


def as_choice(choice: Any) -> ToolChoice | None:
    """Read a choice: a keyword, a tool's name, or a mapping in either API's form."""
    if choice is None or isinstance(choice, NamedTool):
        return choice
    if isinstance(choice, str):
        return _CHOICES.get(choice) or NamedTool(choice)
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if name:
            return NamedTool(name)
        if choice.get("type") in _CHOICES:
            return _CHOICES[choice["type"]]
    raise InvalidArgumentError(
        f"tool_choice is {choice!r}.",
        hint="Pass 'auto', 'none', 'required', a tool's name, or the API's own object.",
    )


def selections(response: ChatResponse) -> list[ToolSelection]:
    """Return a response's valid calls; for a partial response, all calls received so far."""
    message = response.message
    growing = [block for block in message.blocks if isinstance(block, GrowingToolCall)]
    if growing:
        return [_selection(call.tool_call_id, call.tool_name, call.known) for call in growing]
    calls = [call for call in _calls(message) if isinstance(call, ToolCall)]
    return [_selection(call.id, call.name, call.parse()) for call in calls]


def _selection(id: str | None, name: str, kwargs: JSON) -> ToolSelection:
    return ToolSelection.model_construct(tool_id=id or "", tool_name=name, tool_kwargs=kwargs)


def only_first_call(response: ChatResponse) -> ChatResponse:
    """Return the response with at most one call, preferably a valid one."""
    message = response.message
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    if len(calls) < 2:
        return response
    valid = {selection.tool_id for selection in selections(response)}
    only = next((call for call in calls if call.tool_call_id in valid), calls[0])
    blocks = [block for block in message.blocks if not isinstance(block, ToolCallBlock) or block is only]
    extra = {
        name: [entry for entry in value if entry["id"] == only.tool_call_id]
        if name in ("tool_calls", INVALID_CALLS)
        else value
        for name, value in message.additional_kwargs.items()
    }
    single = ChatMessage(role=message.role, blocks=blocks, additional_kwargs=extra)
    return response.model_copy(update={"message": single})


def with_user_message(
    history: Sequence[ChatMessage] | None, user: str | ChatMessage | None
) -> list[ChatMessage]:
    """Return a new list with the history and the user's message."""
    messages = list(history or ())
    if isinstance(user, str):
        user = ChatMessage(role="user", content=user)
    return messages if user is None else [*messages, user]


_KNOWN = frozenset(field.name for field in fields(ChatRequest)) - {"messages"}


def chat_request(messages: Sequence[Message], options: Mapping[str, Any]) -> ChatRequest:
    """Return a request; unknown keywords go into its body, unless they look misspelt."""
    known = {name: value for name, value in options.items() if name in _KNOWN and value is not None}
    unknown = {name: value for name, value in options.items() if name not in _KNOWN}
    if unknown:
        refuse_typos(unknown, _KNOWN)
    if known.get("extra_headers"):
        check_options({"extra_headers": known["extra_headers"]})
    known["tools"] = [as_tool(tool) for tool in known.get("tools", ())]
    if known["tools"]:
        known["tool_choice"] = as_choice(known.get("tool_choice"))
    else:
        known.pop("tool_choice", None)
        known.pop("parallel_tool_calls", None)
    stop = known.get("stop", ())
    known["stop"] = [stop] if isinstance(stop, str) else list(stop)
    known["extra_body"] = {**known.get("extra_body", {}), **unknown}
    wanted = known.get("response_format")
    if wanted not in (None, "json") and not isinstance(wanted, JSONSchema):
        known["response_format"] = _response_format(wanted)
    return ChatRequest(messages=messages, **known)


def _response_format(wanted: object) -> JSONSchema | str | None:
    """Read a `response_format` in OpenAI's form."""
    match wanted:
        case {"type": "json_object"}:
            return "json"
        case {"type": "json_schema", "json_schema": {"schema": dict()} as given}:
            names = ("schema", "name", "strict", "description")
            return JSONSchema(**{name: given[name] for name in names if name in given})
        case {"type": "text"}:
            return None
    raise InvalidArgumentError(
        "response_format is not valid.", hint="Pass 'json', a piccc.JSONSchema, or the API's own object."
    )


class NoToolCallError(ResponseError, ValueError):
    """A tool call was expected, but the model made no valid one.

    Attributes:
        text: the model's reply.
        finish_reason: why it stopped, such as `stop` or `length`.
        invalid_calls: calls that are truncated or not JSON, each with its `error`.
    """

    text: str = ""
    finish_reason: str | None = None
    invalid_calls: Sequence[JSON] = ()

    @classmethod
    def of(cls, response: ChatResponse) -> NoToolCallError:
        """Return the error for a response.

        Args:
            response: a response without a valid tool call.
        """
        facts = response.additional_kwargs
        text = response.message.content or ""
        quoted = repr(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…")
        message = f"The model called no tool; its reply: {quoted}"
        hint = "Pass tool_required=True, or error_on_no_tool_call=False to accept an answer in words."
        invalid = response.message.additional_kwargs.get(INVALID_CALLS) or ()
        if invalid:
            message = f"No tool was run. {invalid[0]['name'] or 'A tool'}: {invalid[0]['error']}"
            hint = "If it was truncated, raise max_tokens. Piccc(retry_invalid_calls=True) asks again once."
        return cls(
            message,
            hint=hint,
            text=text,
            finish_reason=facts.get("finish_reason"),
            invalid_calls=invalid,
            request_id=facts.get("request_id"),
            may_have_been_billed=True,
        )


class GrowingToolCall(ToolCallBlock):
    """A partial tool call: `tool_kwargs` is the JSON text so far, `known` its parsed part."""

    _known: JSON = PrivateAttr(default_factory=dict)

    @property
    def known(self) -> JSON:
        """The arguments parsed so far."""
        return self._known


class GrowingReply:
    """Converter of one stream's deltas to responses, each with everything received so far."""

    def __init__(self) -> None:
        self._text = ""
        self._reasoning: dict[int, Reasoning] = {}
        self._calls: dict[int, tuple[str, str, PartialObject]] = {}

    def add(self, deltas: Sequence[Delta]) -> ChatResponse:
        """Add deltas; return the response so far."""
        texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
        if len(texts) == len(deltas) and not (self._reasoning or self._calls):  # the common case
            self._text += (text := "".join(texts))
            return _copied_response(self._text, text)
        text = thinking = ""
        for delta in deltas:
            match delta:
                case TextDelta() | RefusalDelta():
                    text += delta.text
                case ReasoningDelta():
                    thinking += delta.text
                    self._add_reasoning(delta)
                case ToolCallDelta():
                    self._add_call(delta)
        self._text += text
        extra = {"thinking_delta": thinking} if thinking else {}
        calls = [_growing_call(call) for call in self._calls.values()] if self._calls else []
        message = _message_of(self._text, self._reasoning.values(), calls)
        return ChatResponse(message=message, delta=text, raw={}, additional_kwargs=extra)

    def _add_reasoning(self, delta: ReasoningDelta) -> None:
        reasoning = self._reasoning.setdefault(delta.block, Reasoning())
        reasoning.text += delta.text
        reasoning.signature = (reasoning.signature or "") + (delta.signature or "") or None
        reasoning.redacted = reasoning.redacted or delta.redacted

    def _add_call(self, delta: ToolCallDelta) -> None:
        if delta.block not in self._calls:
            from piccc.structured import PartialObject  # only needed with tools

            self._calls[delta.block] = (delta.id or "", delta.name or "", PartialObject())
            self._calls = dict(sorted(self._calls.items()))  # calls may begin out of order
        self._calls[delta.block][2].add(delta.arguments)


_BLOCK = TextBlock(text="")
_MESSAGE = ChatMessage(role=MessageRole.ASSISTANT, blocks=[])
_RESPONSE = ChatResponse(message=_MESSAGE, delta="", raw={}, additional_kwargs={})


def _copied_response(text: str, delta: str) -> ChatResponse:
    """Return a text-only response, as nearly all are, by copying a template.

    Validation would cost a streamed token a tenth more CPU time.
    """
    # `model_copy` documents that the fields are in `__dict__`; it copies no containers.
    block, message, response = _BLOCK.model_copy(), _MESSAGE.model_copy(), _RESPONSE.model_copy()
    block.__dict__["text"] = text
    message.__dict__.update(blocks=[block], additional_kwargs={})
    response.__dict__.update(message=message, delta=delta, raw={}, additional_kwargs={})
    return response


def to_response(reply: ChatReply) -> ChatResponse:
    """Return a complete reply as a response.

    Invalid calls are in the message's `additional_kwargs["invalid_tool_calls"]`, each with its error; the
    text of a reply with an unparseable ReAct action is in `additional_kwargs["unreadable_action"]`.
    """
    reasoning = [part for part in reply.parts if isinstance(part, Reasoning)]
    calls = [
        _call(part) for part in reply.parts if isinstance(part, ToolCall | InvalidToolCall) and part.name
    ]
    text = reply.text + reply.refusal
    readable = _without_unreadable_action(text, is_cut=reply.finish_reason in ("length", "content_filter"))
    message = _message_of(readable, reasoning, calls)
    if readable != text:
        message.additional_kwargs["unreadable_action"] = text
    message.blocks += [block for part in reply.parts if isinstance(part, Text) for block in _citations(part)]
    if reply.invalid_calls:
        message.additional_kwargs[INVALID_CALLS] = [
            {
                "id": call.id,
                "name": call.name,
                "arguments": call.arguments,
                "reason": call.reason,
                "error": call.error,
            }
            for call in reply.invalid_calls
        ]
    if reply.is_refusal:
        message.additional_kwargs["refusal"] = reply.refusal
    return ChatResponse(
        message=message,
        raw=_raw(reply),
        logprobs=_logprobs(reply),
        additional_kwargs=_details(reply),
    )


_ACTION_INPUT = re.compile(r"\nAction Input:[^{]*(\{.*\})", re.DOTALL)


def _without_unreadable_action(text: str, *, is_cut: bool) -> str:
    """Return the text without a ReAct action input that is truncated or not a JSON object.

    If core's ReAct parser cannot parse an action's input, it extracts whatever looks like a string field
    and runs the tool with defaults for the rest. Without the input, it asks the model to try again.
    """
    match = _ACTION_INPUT.search(text)
    if match is None or (_is_object(match[1]) and not (is_cut and not text[match.end() :].strip(" \n`"))):
        return text
    return text[: match.start()] + "\nThe action input was not a complete JSON object, so no tool was run."


def _is_object(text: str) -> bool:
    if read_arguments(text) is not None:
        return True
    try:
        return isinstance(ast.literal_eval(text), dict)  # core accepts Python's quotes too
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def to_last_response(reply: ChatReply) -> ChatResponse:
    """Return a stream's last response: the complete reply, with usage and finish reason."""
    response = to_response(reply)
    response.delta = ""
    return response


def to_completion(response: ChatResponse) -> CompletionResponse:
    """Convert a chat response to a completion response."""
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        logprobs=response.logprobs,
        additional_kwargs=response.additional_kwargs,
    )


def _message_of(
    text: str, reasoning: Iterable[Reasoning], calls: list[tuple[ToolCallBlock, JSON | None]]
) -> ChatMessage:
    blocks = [*map(_thinking, reasoning), TextBlock(text=text)]
    if not calls:
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks)
    blocks += [block for block, _ in calls]
    listed = [call for _, call in calls if call]
    extra = {"tool_calls": listed} if listed else {}
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=extra)


def _thinking(reasoning: Reasoning) -> ThinkingBlock:
    values = {"signature": reasoning.signature, "redacted": reasoning.redacted}
    info = {name: value for name, value in values.items() if value is not None}
    return ThinkingBlock(
        content=reasoning.text, additional_information={**info, "provider": _PROVIDER} if info else {}
    )


def _citations(text: Text) -> Iterator[CitationBlock]:
    for citation in text.citations:
        title = str(citation.get("document_title") or citation.get("title") or "")
        yield CitationBlock(
            cited_content=TextBlock(text=str(citation.get("cited_text") or "")),
            source=str(citation.get("url") or citation.get("source") or title),
            title=title,
            additional_location_info={
                name: value for name, value in citation.items() if isinstance(value, int)
            },
        )


def _logprobs(reply: ChatReply) -> list[list[LogProb]] | None:
    """Return each token's alternatives, or the token itself if the server lists none."""
    content = (reply.extra.get("logprobs") or {}).get("content")
    return [
        [_logprob(option) for option in token.get("top_logprobs") or [token] if isinstance(option, dict)]
        for token in content or ()
    ] or None


def _logprob(token: JSON) -> LogProb:
    value, utf8 = token.get("logprob"), token.get("bytes")
    return LogProb(
        token=str(token.get("token")),
        logprob=value if isinstance(value, int | float) else 0.0,
        bytes=utf8 if isinstance(utf8, list) and all(isinstance(byte, int) for byte in utf8) else [],
    )


def _call(call: ToolCall | InvalidToolCall) -> tuple[ToolCallBlock, JSON | None]:
    is_valid = isinstance(call, ToolCall)
    kwargs = call.parse() if isinstance(call, ToolCall) else call.arguments
    block = ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=kwargs)
    return block, _openai_call(call.id, call.name, call.arguments) if is_valid else None


def _growing_call(call: tuple[str, str, PartialObject]) -> tuple[ToolCallBlock, JSON | None]:
    id, name, partial = call
    block = GrowingToolCall(tool_call_id=id, tool_name=name, tool_kwargs=partial.text)
    block._known = partial.value if isinstance(partial.value, dict) else {}
    return block, _openai_call(id, name, partial.text)


def _openai_call(id: str, name: str, arguments: str) -> JSON:
    """Return a call in the form that core still reads from `additional_kwargs`."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _raw(reply: ChatReply) -> JSON:
    raw = reply.raw or {
        "id": reply.id,
        "model": reply.model,
        "finish_reason": reply.finish_reason,
        **reply.extra,
    }
    usage = {**reply.usage.raw, **_counts(reply.usage)} if reply.usage else None
    return {**raw, "usage": usage}


def _counts(usage: Usage) -> JSON:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


def _details(reply: ChatReply) -> JSON:
    facts: dict[str, Any] = {
        "finish_reason": reply.finish_reason,
        "model": reply.model,
        "request_id": reply.record.request_id,
    }
    if usage := reply.usage:
        facts |= {
            **_counts(usage),
            "cached_tokens": usage.cache_read_tokens,
            "cache_creation_tokens": usage.cache_creation_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        }
        tiers = ("cache_creation_5m_tokens", "cache_creation_1h_tokens", "service_tier")
        facts |= {name: value for name in tiers if (value := getattr(usage, name))}
    return facts
