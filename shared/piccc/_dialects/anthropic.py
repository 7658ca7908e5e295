"""The Anthropic-compatible route. Documented: path, version, model, max_tokens, messages; else assumed."""

from __future__ import annotations

from base64 import b64decode
from dataclasses import dataclass, field

from piccc._dialects import DialectName
from piccc._dialects.json_text import (
    arguments_of,
    count,
    id_of,
    mapping,
    mappings,
    merge_usage,
    not_a_reply,
    own_id,
    sent_arguments,
    text_of,
)
from piccc._dialects.reader import Reader
from piccc._dialects.sse import Event
from piccc.arguments import read_arguments
from piccc.conversation import (
    JSON,
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
    Raw,
    RawDelta,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Source,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
    judge_calls,
)
from piccc.errors import InvalidArgumentError, UnsupportedContentError
from piccc.models import model_info

_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_THINKING_TOKENS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 12288}
_TEXT_OF = {"text_delta": "text", "thinking_delta": "thinking"}
_SAYS_NOTHING = (Text(""), Reasoning())
_JSON_ONLY = "Answer with one JSON object and nothing else."


class AnthropicDialect:
    """`POST /v1/messages`."""

    name: DialectName = "anthropic"
    path = "/v1/messages"
    headers: tuple[tuple[str, str], ...] = (("anthropic-version", "2023-06-01"),)

    def encode(self, request: ChatRequest, *, stream: bool) -> JSON:
        """Return the request's body."""
        body: JSON = {
            "model": request.model,
            "max_tokens": request.max_tokens or model_info(request.model).max_output_tokens,
            "messages": _messages(request),
            "stream": stream,
        }
        options: JSON = {
            "system": _system(request),
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stop_sequences": list(request.stop) or None,
            "thinking": _thinking(request.reasoning_effort, request.max_tokens),
            "output_config": _output_config(request.response_format),
        }
        if request.tools:
            options["tools"] = [_tool(tool) for tool in request.tools]
            options["tool_choice"] = _tool_choice(request)
        body.update({name: value for name, value in options.items() if value is not None})
        body.update(request.extra_body)
        return body

    def decode(self, payload: object) -> ChatReply:
        """Read a whole reply; raise ResponseError if it is none."""
        if not isinstance(payload, dict) or not isinstance(payload.get("content"), list):
            raise not_a_reply(payload)
        reply = ChatReply(raw=payload)
        _read_envelope(reply, payload)
        if isinstance(usage := payload.get("usage"), dict):
            reply.usage = _usage(usage)
        _read_end(reply, payload)
        parts: list[Part] = []
        ids: set[str] = set()
        for part in map(_read_part, mappings(payload["content"])):
            if isinstance(part, ToolCall):
                part.id = own_id(part.id, ids)
                ids.add(part.id)
            if part not in _SAYS_NOTHING:
                parts.append(part)
        if _is_refusal(payload):
            parts.append(Refusal(_refusal_text(payload)))
        reply.parts = judge_calls(parts, reply.finish_reason)
        return reply

    def reader(self) -> AnthropicReader:
        """Return a reader for one stream."""
        return AnthropicReader()


@dataclass(slots=True)
class _Held:
    """A block that is given when it ends: its start, and the pieces of its input."""

    block: JSON
    pieces: list[str] = field(default_factory=list)


class AnthropicReader(Reader):
    """Read the events of one stream."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, int] = {}
        self._ids: set[str] = set()
        self._held: dict[int, _Held] = {}
        self._next_block = 0

    def _read(self, event: Event, body: JSON) -> list[Delta]:
        kind = body.get("type") or event.type
        index = count(body.get("index"))
        if kind == "content_block_start":
            self._next_block = max(self._next_block, index + 1)
            return self._start(index, mapping(body.get("content_block")))
        if kind == "content_block_stop":
            return self._release(index)
        if kind != "content_block_delta":
            return self._frame(str(kind), body)
        delta = mapping(body.get("delta"))
        deltas = self._delta(index, delta)
        if len(deltas) == 1 and (key := _TEXT_OF.get(str(delta.get("type")))):
            self._template.learn(event, body, delta, key, deltas[0])
        return deltas

    def _rest(self) -> list[Delta]:
        return [delta for index in list(self._held) for delta in self._release(index)]

    def _frame(self, kind: str, body: JSON) -> list[Delta]:
        reply = self._builder.reply
        if kind == "message_start" and isinstance(message := body.get("message"), dict):
            self._merge_usage(message)
            _read_envelope(reply, message)
        elif kind == "message_delta":
            self._merge_usage(body)
            end, was_refusal = mapping(body.get("delta")), reply.finish_reason == _FINISH["refusal"]
            _read_end(reply, end)
            if _is_refusal(end) and not was_refusal:
                return [RefusalDelta(_refusal_text(end), self._next_block)]
        elif kind == "message_stop":
            self.is_complete = self.is_done = True
        return []

    def _merge_usage(self, body: JSON) -> None:
        if isinstance(usage := body.get("usage"), dict):
            merge_usage(self._usage, usage)
            self._builder.reply.usage = _usage(self._usage)

    def _start(self, index: int, block: JSON) -> list[Delta]:
        match block.get("type"):
            case "text":
                cited = [TextDelta("", index, each) for each in mappings(block.get("citations"))]
                return [TextDelta(text, index), *cited] if (text := text_of(block.get("text"))) else [*cited]
            case "thinking":
                text, signature = text_of(block.get("thinking")), text_of(block.get("signature")) or None
                return [ReasoningDelta(text, index, signature)] if text or signature else []
            case "redacted_thinking":
                return [ReasoningDelta("", index, redacted=text_of(block.get("data")))]
            case "tool_use":
                number = self._calls.setdefault(index, len(self._calls))
                if block.get("input"):
                    self._held[index] = _Held(block)  # unless it comes again, in deltas
                id = own_id(block.get("id"), self._ids)
                self._ids.add(id)
                return [ToolCallDelta(number, "", id, text_of(block.get("name")), index)]
        if block:
            self._held[index] = _Held(block)
        return []

    def _release(self, index: int) -> list[Delta]:
        """Return what was held of a block until its end."""
        held = self._held.pop(index, None)
        if held is None:
            return []
        if (number := self._calls.get(index)) is not None:
            return [ToolCallDelta(number, arguments_of(held.block["input"]), block=index)]
        if held.pieces:
            text = "".join(held.pieces)
            arguments = read_arguments(text)
            held.block["input"] = {"invalid_arguments": text} if arguments is None else arguments
        return [RawDelta(held.block, index)]

    def _delta(self, index: int, delta: JSON) -> list[Delta]:
        match delta.get("type"):
            case "text_delta":
                return [TextDelta(text, index)] if (text := text_of(delta.get("text"))) else []
            case "input_json_delta":
                arguments = text_of(delta.get("partial_json"))
                number = self._calls.get(index)
                if not arguments:
                    return []
                if number is not None:
                    self._held.pop(index, None)
                    return [ToolCallDelta(number, arguments, block=index)]
                if index in self._held:
                    self._held[index].pieces.append(arguments)
            case "thinking_delta":
                return [ReasoningDelta(text, index)] if (text := text_of(delta.get("thinking"))) else []
            case "signature_delta":
                signature = text_of(delta.get("signature"))
                return [ReasoningDelta("", index, signature)] if signature else []
            case "citations_delta":
                citation = mapping(delta.get("citation"))
                return [TextDelta("", index, citation)] if citation else []
        return []


def _system(request: ChatRequest) -> str | list[JSON] | None:
    parts = [part for message in request.messages if message.role == "system" for part in message.parts]
    if request.response_format == "json":
        parts.append(Text(_JSON_ONLY))
    if any(isinstance(part, CachePoint) for part in parts):
        return _blocks(parts)
    return "\n\n".join(part.text for part in parts if isinstance(part, Text)) or None


def _messages(request: ChatRequest) -> list[JSON]:
    messages: list[JSON] = []
    for message in request.messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _message(message, request) if message.role != "system" else []
        if not blocks:
            continue
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    return [{"role": each["role"], "content": _plain(each["content"])} for each in messages]


def _plain(blocks: list[JSON]) -> str | list[JSON]:
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return str(blocks[0]["text"])
    return blocks


def _message(message: Message, request: ChatRequest) -> list[JSON]:
    if message.role == "tool":
        block: JSON = {
            "type": "tool_result",
            "tool_use_id": message.tool_call_id or "",
            "content": _blocks(message.parts),
        }
        return [{**block, "is_error": True} if message.is_error else block]
    replay = request.replay_reasoning
    kept = [
        part
        for part in message.parts
        if not isinstance(part, Reasoning)
        or (replay is not False and (replay or part.signature or part.redacted))
    ]
    return _blocks(kept)


def _blocks(parts: list[Part]) -> list[JSON]:
    blocks: list[JSON] = []
    for part in parts:
        if isinstance(part, CachePoint):
            if blocks:
                ttl = {"ttl": part.ttl} if part.ttl else {}
                blocks[-1] = {**blocks[-1], "cache_control": {"type": "ephemeral", **ttl}}
        elif not (isinstance(part, Text | Refusal) and not part.text):
            blocks.append(_block(part))
    return blocks


def _block(part: Part) -> JSON:
    match part:
        case Text() | Refusal():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image", "source": _source(part.url, part.data, part.media_type or "image/png")}
        case File():
            title = {"title": part.name} if part.name else {}
            if part.file_id:
                return {"type": "document", "source": {"type": "file", "file_id": part.file_id}, **title}
            return {"type": "document", "source": _document(part), **title}
        case Source():
            text = [{"type": "text", "text": part.text}]
            return {"type": "search_result", "source": part.url, "title": part.title, "content": text}
        case Reasoning(redacted=str()):
            return {"type": "redacted_thinking", "data": part.redacted}
        case Reasoning():
            signature = {"signature": part.signature} if part.signature else {}
            return {"type": "thinking", "thinking": part.text, **signature}
        case ToolCall() | InvalidToolCall():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": sent_arguments(part)}
        case Raw():
            return part.data
    raise UnsupportedContentError(
        f"The Anthropic dialect cannot carry {type(part).__name__.lower()} content.",
        hint="Send it as text or as a file, or use dialect='openai'.",
    )


def _document(part: File) -> JSON:
    media_type = part.media_type or "application/pdf"
    if part.data and media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _decoded(part.data)}
    return _source(part.url, part.data, media_type)


def _decoded(data: str) -> str:
    try:
        return b64decode("".join(data.split()), validate=True).decode(errors="replace")
    except ValueError:
        raise InvalidArgumentError("A file's data is not base64.", hint="Encode its bytes first.") from None


def _source(url: str | None, data: str | None, media_type: str) -> JSON:
    if url and url.startswith("data:"):
        head, _, data = url.partition(",")
        media_type = head.removeprefix("data:").partition(";")[0] or media_type
    elif url:
        return {"type": "url", "url": url}
    return {"type": "base64", "media_type": media_type, "data": data or ""}


def _tool(tool: Tool) -> JSON:
    body: JSON = {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
    if tool.strict is not None:
        body["strict"] = tool.strict
    return {**body, **tool.extra}


def _tool_choice(request: ChatRequest) -> JSON | None:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    if choice is None and parallel is None:
        return None
    if isinstance(choice, NamedTool):
        body: JSON = {"type": "tool", "name": choice.name}
    else:
        body = {"type": {"required": "any", None: "auto"}.get(choice, choice)}
    if parallel is not None and body["type"] != "none":
        body["disable_parallel_tool_use"] = not parallel
    return body


def _thinking(effort: str | None, max_tokens: int | None) -> JSON | None:
    if effort is None:
        return None
    if effort == "none":
        return {"type": "disabled"}
    budget = _THINKING_TOKENS.get(effort, _THINKING_TOKENS["high"])
    if max_tokens is not None:
        # The budget is part of max_tokens, so it must leave room for the answer.
        budget = min(budget, max(_THINKING_TOKENS["minimal"], max_tokens // 2))
    return {"type": "enabled", "budget_tokens": budget}


def _output_config(wanted: JSONSchema | str | None) -> JSON | None:
    if not isinstance(wanted, JSONSchema):
        return None
    return {"format": {"type": "json_schema", "schema": wanted.schema}}


def _read_part(block: JSON) -> Part:
    match block.get("type"):
        case "text":
            return Text(text_of(block.get("text")), mappings(block.get("citations")))
        case "thinking":
            return Reasoning(text_of(block.get("thinking")), text_of(block.get("signature")) or None)
        case "redacted_thinking":
            return Reasoning(redacted=text_of(block.get("data")))
        case "tool_use":
            arguments = arguments_of(block.get("input"))
            return ToolCall(id_of(block.get("id")) or "", text_of(block.get("name")), arguments)
    return Raw(block)


def _read_envelope(reply: ChatReply, message: JSON) -> None:
    reply.id = text_of(message.get("id"))
    reply.model = text_of(message.get("model"))


def _read_end(reply: ChatReply, end: JSON) -> None:
    if reason := text_of(end.get("stop_reason")):
        reply.finish_reason = _FINISH.get(reason, reason)
    for name in ("stop_sequence", "stop_details"):
        if end.get(name) is not None:
            reply.extra[name] = end[name]


def _is_refusal(end: JSON) -> bool:
    return end.get("stop_reason") == "refusal"


def _refusal_text(end: JSON) -> str:
    details = mapping(end.get("stop_details"))
    return text_of(details.get("explanation")) or text_of(details.get("category"))


def _usage(usage: JSON) -> Usage:
    read, created = (
        count(usage.get("cache_read_input_tokens")),
        count(usage.get("cache_creation_input_tokens")),
    )
    details = mapping(usage.get("output_tokens_details"))
    written = mapping(usage.get("cache_creation"))
    return Usage(
        input_tokens=count(usage.get("input_tokens")) + read + created,
        output_tokens=count(usage.get("output_tokens")),
        cache_read_tokens=read,
        cache_creation_tokens=created,
        reasoning_tokens=count(details.get("reasoning_tokens") or details.get("thinking_tokens")),
        cache_creation_5m_tokens=count(written.get("ephemeral_5m_input_tokens")),
        cache_creation_1h_tokens=count(written.get("ephemeral_1h_input_tokens")),
        service_tier=text_of(usage.get("service_tier")) or None,
        raw=usage,
    )
