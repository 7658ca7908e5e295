"""The Anthropic-compatible route. Only path, version, model, max_tokens and messages are documented."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from piccc._dialects import NO_NAMES, DialectName, EncodedRequest
from piccc._dialects.common import (
    ToolNames,
    arguments_of,
    call_id_of,
    check,
    count,
    id_of,
    large,
    last_finish_reason,
    log_omitted,
    mapping,
    mappings,
    merge_usage,
    placeholder,
    sendable,
    sent_arguments,
    text_of,
)
from piccc._dialects.content import Inline, document_source, image_source
from piccc._dialects.reader import Event, Reader, not_a_reply
from piccc.arguments import as_json, read_arguments
from piccc.conversation import (
    DEFAULT_MAX_TOKENS,
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

_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 4096, "high": 12288}
_MIN_BUDGET = 1024
_MIN_TOP_P = 0.95
_RECONCILED = ("max_tokens", "temperature", "thinking", "tool_choice", "top_k", "top_p")
_MAX_CACHE_MARKS = 4
_SERVER_TOOLS = ("server_tool_use", "container_upload")
_CITATIONS = (
    "char_location",
    "page_location",
    "content_block_location",
    "search_result_location",
    "web_search_result_location",
)
_TEXT_OF = {"text_delta": "text", "thinking_delta": "thinking"}
_EMPTY_PARTS = (Text(""), Reasoning())
_OPENING = "(The conversation begins with your own words.)"
_JSON_ONLY = "Answer with one JSON object and nothing else."


class AnthropicDialect:
    """`POST /v1/messages`."""

    name: DialectName = "anthropic"
    path = "/v1/messages"
    headers: tuple[tuple[str, str], ...] = (("anthropic-version", "2023-06-01"),)

    def encode(self, request: ChatRequest, *, stream: bool) -> EncodedRequest:
        """Encode a request; raise InvalidArgumentError or UnsupportedContentError if it cannot be sent."""
        check(request, stream=stream)
        if request.seed is not None:
            raise InvalidArgumentError(
                "The Anthropic dialect does not support seed.",
                hint="Leave it out, or use dialect='openai'.",
            )
        names = ToolNames(request)
        messages = _without_unfinished(sendable(request.messages))
        turns = _turns(messages, request.replay_reasoning is not False, names)
        settings, adapted = _reconcile(request, turns, names)
        if turns[0]["role"] == "assistant":  # "messages: first message must use the "user" role"
            turns.insert(0, {"role": "user", "content": _OPENING})
            adapted.append("a user turn is added before the first turn, which was the assistant's")
        if any(message.name for message in messages if message.role != "tool"):
            adapted.append("speaker names are left out: this route has no field for them")
        if any(isinstance(part, Image) and part.detail for message in messages for part in message.parts):
            adapted.append("image detail is left out: this route has no field for it")
        body: JSON = {"model": request.model, "messages": turns, "stream": stream}
        options: JSON = {
            "system": _system(request, messages),
            "stop_sequences": list(request.stop) or None,
            "output_config": _output_config(request.response_format),
            "tools": [_tool(tool, names) for tool in request.tools] or None,
            **settings,
        }
        body.update({name: value for name, value in options.items() if value is not None})
        body.update({name: value for name, value in request.extra_body.items() if name not in _RECONCILED})
        _check_cache_marks(body)
        return EncodedRequest(body, names.originals, (*names.adapted, *adapted))

    def decode(self, payload: object, names: Mapping[str, str] = NO_NAMES) -> ChatReply:
        """Decode a complete reply; raise ResponseError if it is malformed. `names`: see `EncodedRequest`."""
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
                part.id, part.name = call_id_of(part.id, ids), names.get(part.name, part.name)
                ids.add(part.id)
            if part not in _EMPTY_PARTS:
                parts.append(part)
        if _is_refusal(payload):
            parts.append(Refusal(_refusal_text(payload)))
        reply.parts = judge_calls(parts, reply.finish_reason)
        return reply

    def reader(self, names: Mapping[str, str] = NO_NAMES) -> AnthropicReader:
        """Return a reader for one stream. `names`: see `EncodedRequest`."""
        return AnthropicReader(names)


@dataclass(slots=True)
class _Held:
    """A block held back until it ends: its start, and the pieces of its input."""

    block: JSON
    pieces: list[str] = field(default_factory=list)


class AnthropicReader(Reader):
    """A reader of one stream of events."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(names)
        self._calls: dict[int, int] = {}
        self._ids: set[str] = set()
        self._held: dict[int, _Held] = {}
        self._blocks: dict[int, int] = {}
        self._next_block = 0

    def _read(self, event: Event, body: JSON) -> list[Delta]:
        kind = body.get("type") or event.type
        if kind not in ("content_block_start", "content_block_delta", "content_block_stop"):
            return self._frame(str(kind), body)
        # Some servers give every block the index 0, so an index means the latest block that began with it.
        index = count(body.get("index"))
        if kind == "content_block_start" or index not in self._blocks:
            self._blocks[index] = self._next_block
            self._next_block += 1
        block = self._blocks[index]
        if kind == "content_block_start":
            return self._start(block, mapping(body.get("content_block")))
        if kind == "content_block_stop":
            return self._release(block)
        delta = mapping(body.get("delta"))
        deltas = self._delta(block, delta)
        if len(deltas) == 1 and (name := _TEXT_OF.get(str(delta.get("type")))):
            self._template.learn(event, body, delta, name, deltas[0])
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
            return self._end(mapping(body.get("delta")))
        elif kind == "message" and isinstance(body.get("content"), list):  # a whole reply
            self._merge_usage(body)
            _read_envelope(reply, body)
            blocks = list(enumerate(mappings(body.get("content"))))
            self._next_block = len(blocks)
            deltas = [each for number, block in blocks for each in self._start(number, block)]
            self.is_complete = self.is_done = True
            return [*deltas, *self._rest(), *self._end(body)]
        elif kind == "message_stop":
            self.is_complete = self.is_done = True
        return []

    def _end(self, end: JSON) -> list[Delta]:
        reply = self._builder.reply
        was_refusal = reply.finish_reason == "content_filter"
        _read_end(reply, end)
        is_new = _is_refusal(end) and not was_refusal
        return [RefusalDelta(_refusal_text(end), self._next_block)] if is_new else []

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
                    self._held[index] = _Held(as_json(block))  # dropped if deltas repeat the input
                id = call_id_of(block.get("id"), self._ids)
                self._ids.add(id)
                name = text_of(block.get("name"))
                return [ToolCallDelta(number, "", id, self._names.get(name, name), index)]
        if block:
            self._held[index] = _Held(as_json(block))
        return []

    def _release(self, index: int) -> list[Delta]:
        """Return the deltas of a block that was held back until its end."""
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
                arguments = arguments_of(delta.get("partial_json"))
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


def _reconcile(request: ChatRequest, turns: Sequence[JSON], names: ToolNames) -> tuple[JSON, list[str]]:
    """Make the settings compatible with each other; return them with descriptions of the changes.

    With thinking, the API rejects several settings (assumed for Piccc).
    https://docs.claude.com/en/docs/build-with-claude/extended-thinking#feature-compatibility
    """
    given, effort = request.extra_body, request.reasoning_effort
    settings: JSON = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tool_choice": _tool_choice(request, names) if request.tools else None,
        **{name: given[name] for name in _RECONCILED if name in given},
    }
    limit = None if settings["max_tokens"] is None else count(settings["max_tokens"])
    if limit is None:
        settings["max_tokens"] = DEFAULT_MAX_TOKENS
    thinking: Any = settings.get("thinking")
    source = "thinking"
    if "thinking" not in given and effort is not None:
        source = "reasoning_effort"
        thinking = {"type": "enabled", "budget_tokens": _BUDGETS.get(effort, _BUDGETS["high"])}
        if effort == "none":
            thinking = {"type": "disabled"}
    settings["thinking"] = thinking
    if mapping(thinking).get("type", "disabled") == "disabled":
        return settings, []
    if conflict := _conflict(settings["tool_choice"], turns, limit):
        settings["thinking"] = None
        return settings, [f"{source} is left out: {conflict}"]
    adapted: list[str] = []
    if asked := count(thinking.get("budget_tokens")):
        budget = max(asked, _MIN_BUDGET)
        if limit is None:
            settings["max_tokens"] += budget  # max_tokens includes the budget
        elif source == "reasoning_effort" or budget >= limit:
            budget = min(budget, max(_MIN_BUDGET, limit // 2))
        if budget != asked and source == "thinking":
            adapted.append(
                f"thinking.budget_tokens is {budget}: at least {_MIN_BUDGET}, less than max_tokens"
            )
        settings["thinking"] = {**thinking, "budget_tokens": budget}
    refused = {
        "temperature": "it must be 1 with reasoning" if settings["temperature"] not in (None, 1) else None,
        "top_p": f"it must be at least {_MIN_TOP_P} with reasoning"
        if isinstance(top_p := settings["top_p"], int | float) and top_p < _MIN_TOP_P
        else None,
        "top_k": "it is not supported with reasoning" if settings.get("top_k") is not None else None,
    }
    for name, reason in refused.items():
        if reason:
            settings[name] = None
            adapted.append(f"{name} is left out: {reason}")
    return settings, adapted


def _conflict(tool_choice: object, turns: Sequence[JSON], limit: int | None) -> str | None:
    """Return why the request cannot use thinking, or None."""
    if mapping(tool_choice).get("type") in ("any", "tool"):
        return "a tool is forced"
    if turns[-1]["role"] == "assistant":
        return "the answer has already begun"
    if _continues_without_thinking(turns):
        return "the last tool calls were made without it"
    return "max_tokens leaves no room for it" if limit is not None and limit <= _MIN_BUDGET else None


def _continues_without_thinking(turns: Sequence[JSON]) -> bool:
    """Return whether the last turn has results of tool calls that were made without thinking.

    "When `thinking` is enabled, a final `assistant` message must start with a thinking block."
    """
    if not any(block["type"] == "tool_result" for block in mappings(turns[-1]["content"])):
        return False
    calling = mappings(turns[-2]["content"])
    return calling[0]["type"] not in ("thinking", "redacted_thinking")


def _check_cache_marks(body: JSON) -> None:
    def count_marks(value: object) -> int:
        if isinstance(value, Mapping):
            return ("cache_control" in value) + sum(map(count_marks, value.values()))
        return sum(map(count_marks, value)) if isinstance(value, list) else 0

    tools = [
        {name: tool[name] for name in ("cache_control",) if name in tool}
        for tool in mappings(body.get("tools"))
    ]
    marks = count_marks([tools, body.get("system"), body.get("messages")])
    if marks > _MAX_CACHE_MARKS:
        raise InvalidArgumentError(
            f"There are {marks} cache marks; the server accepts at most {_MAX_CACHE_MARKS}.",
            hint="Mark only the longest prefixes: the tools, the system message, the last turns.",
        )


def _system(request: ChatRequest, messages: Sequence[Message]) -> str | list[JSON] | None:
    parts = [part for message in messages if message.role == "system" for part in message.parts]
    if request.response_format == "json":
        parts.append(Text(_JSON_ONLY))
    if any(isinstance(part, CachePoint) for part in parts):
        return _blocks(parts, None) or None
    texts = [part.text for part in parts if isinstance(part, Text)]
    return "\n\n".join(text for text in texts if text.strip()) or None


def _turns(messages: Sequence[Message], replay: bool, names: ToolNames) -> list[JSON]:
    turns: list[JSON] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _message(message, replay, names) if message.role != "system" else []
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    if turns and turns[-1]["role"] == "assistant" and "text" in (last := turns[-1]["content"][-1]):
        last["text"] = last["text"].rstrip()  # servers reject trailing white space in a final assistant turn
    if not turns:
        raise InvalidArgumentError(
            "There is nothing to answer: all messages other than system messages are empty.",
            hint="Add a user message.",
        )
    return [{"role": each["role"], "content": _plain(each["content"])} for each in turns]


def _plain(blocks: list[JSON]) -> str | list[JSON]:
    if len(blocks) == 1 and blocks[0].keys() == {"type", "text"}:
        return str(blocks[0]["text"])
    return blocks


def _message(message: Message, replay: bool, names: ToolNames) -> list[JSON]:
    if message.role == "tool":
        block: JSON = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        if content := _blocks([_supported(part) for part in message.parts], names):
            block["content"] = content
        return [{**block, "is_error": True} if message.is_error else block]
    if message.role == "user":
        return _blocks(message.parts, names)
    blocks = _blocks([part for part in message.parts if _is_sent_back(part, replay)], names)
    while blocks and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
        blocks.pop()  # the answer was cut off while the model was thinking: servers reject thinking alone
    return blocks


def _without_unfinished(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation without unfinished calls of the server's own tools.

    The last message keeps them: a paused answer continues from there.
    """
    raw = [part.data for message in messages for part in message.parts if isinstance(part, Raw)]
    finished = [data.get("tool_use_id") for data in raw]
    unfinished = [
        data for data in raw if data.get("type") == "server_tool_use" and data.get("id") not in finished
    ]
    return [
        replace(
            message,
            parts=[part for part in message.parts if not (isinstance(part, Raw) and part.data in unfinished)],
        )
        if unfinished and message is not messages[-1]
        else message
        for message in messages
    ]


def _is_sent_back(part: Part, replay: bool) -> bool:
    """Return whether a part of an earlier answer is sent back; reasoning only if it is signed."""
    if isinstance(part, Reasoning):
        return replay and bool(part.signature or part.redacted)
    if isinstance(part, Raw):
        kind = str(part.data.get("type"))
        if not (kind in _SERVER_TOOLS or kind.endswith("_tool_result")):
            log_omitted(part, "the Anthropic dialect does not allow it in an assistant message")
            return False
    return True


def _supported(part: Part) -> Part:
    """Return a part of a tool result, or a placeholder if it cannot be sent."""
    try:
        _blocks([part], None)
    except (UnsupportedContentError, InvalidArgumentError) as error:
        return placeholder(part, error)
    return part


def _blocks(parts: Iterable[Part], names: ToolNames | None) -> list[JSON]:
    blocks: list[JSON] = []
    for part in parts:
        if isinstance(part, CachePoint):
            if blocks:
                ttl = {"ttl": part.ttl} if part.ttl else {}
                blocks[-1] = {**blocks[-1], "cache_control": {"type": "ephemeral", **ttl}}
        elif not (isinstance(part, Text | Refusal | Source) and not part.text.strip()):
            blocks.append(_block(part, names))
    return blocks


def _block(part: Part, names: ToolNames | None) -> JSON:
    match part:
        case Text():
            cited = [each for each in part.citations if each.get("type") in _CITATIONS]
            return {"type": "text", "text": part.text, **({"citations": cited} if cited else {})}
        case Refusal():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image", "source": _source(image_source(part))}
        case File():
            return _document(part)
        case Source():
            text = [{"type": "text", "text": part.text}]
            return {"type": "search_result", "source": part.url, "title": part.title, "content": text}
        case Reasoning(redacted=str()):
            return {"type": "redacted_thinking", "data": part.redacted}
        case Reasoning():
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        case ToolCall() | InvalidToolCall() if names is not None:
            name = names.sent(part.name)
            return {"type": "tool_use", "id": part.id, "name": name, "input": sent_arguments(part)}
        case Raw():
            return part.data
    raise UnsupportedContentError(
        f"The Anthropic dialect does not support {type(part).__name__.lower()} content.",
        hint="Send it as text or as a file, or use dialect='openai'.",
    )


def _document(part: File) -> JSON:
    known: JSON = {"title": part.name or None, "context": part.context or None}
    if part.citations is not None:
        known["citations"] = {"enabled": part.citations}
    known = {name: value for name, value in known.items() if value is not None}
    if part.file_id:
        return {"type": "document", "source": {"type": "file", "file_id": part.file_id}, **known}
    source = document_source(part)
    if isinstance(source, str) or source.media_type == "application/pdf":
        return {"type": "document", "source": _source(source), **known}
    if source.text is not None:
        text = {"type": "text", "media_type": "text/plain", "data": source.text}
        return {"type": "document", "source": text, **known}
    if source.media_type.startswith("image/"):
        return {"type": "image", "source": _source(source)}
    raise UnsupportedContentError(
        f"The Anthropic dialect does not support documents of type {source.media_type}.",
        hint="Send a PDF or text, or use dialect='openai'.",
    )


def _source(source: Inline | str) -> JSON:
    if isinstance(source, str):
        return {"type": "url", "url": source}
    return {"type": "base64", "media_type": source.media_type, "data": large(source.data)}


def _tool(tool: Tool, names: ToolNames) -> JSON:
    body: JSON = {
        "name": names.sent(tool.name),
        "description": tool.description,
        "input_schema": tool.parameters,
    }
    if tool.strict is not None:
        body["strict"] = tool.strict
    return {**body, **tool.extra}


def _tool_choice(request: ChatRequest, names: ToolNames) -> JSON | None:
    choice, parallel = request.tool_choice, request.parallel_tool_calls
    if choice is None and parallel is None:
        return None
    if isinstance(choice, NamedTool):
        body: JSON = {"type": "tool", "name": names.sent(choice.name)}
    else:
        body = {"type": {"required": "any", None: "auto"}.get(choice, choice)}
    if parallel is not None and body["type"] != "none":
        body["disable_parallel_tool_use"] = not parallel
    return body


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
    reply.finish_reason = last_finish_reason(reply.finish_reason, end.get("stop_reason"))
    for name in ("stop_sequence", "stop_details"):
        if end.get(name) is not None:
            reply.extra[name] = end[name]


def _is_refusal(end: JSON) -> bool:
    return end.get("stop_reason") == "refusal"


def _refusal_text(end: JSON) -> str:
    details = mapping(end.get("stop_details"))
    return text_of(details.get("explanation")) or text_of(details.get("category"))


def _usage(usage: JSON) -> Usage:
    details = mapping(usage.get("output_tokens_details"))
    written = mapping(usage.get("cache_creation"))
    for_5m, for_1h = (count(written.get(f"ephemeral_{time}_input_tokens")) for time in ("5m", "1h"))
    read = count(usage.get("cache_read_input_tokens"))
    created = count(usage.get("cache_creation_input_tokens")) or for_5m + for_1h
    return Usage(
        input_tokens=count(usage.get("input_tokens")) + read + created,
        output_tokens=count(usage.get("output_tokens")),
        cache_read_tokens=read,
        cache_creation_tokens=created,
        reasoning_tokens=count(details.get("reasoning_tokens") or details.get("thinking_tokens")),
        cache_creation_5m_tokens=for_5m,
        cache_creation_1h_tokens=for_1h,
        service_tier=text_of(usage.get("service_tier")) or None,
        raw=usage,
    )
