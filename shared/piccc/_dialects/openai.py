"""The OpenAI-compatible route. Only path, model, messages and stream are documented; the rest is assumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from mimetypes import guess_extension
from typing import Any

from piccc._dialects import NO_NAMES, DialectName, EncodedRequest
from piccc._dialects.common import (
    ToolNames,
    arguments_of,
    call_id_of,
    check,
    count,
    finish_reason_of,
    flat,
    id_of,
    large,
    last_finish_reason,
    log_omitted,
    logger,
    mapping,
    mappings,
    merge_usage,
    placeholder,
    sendable,
    sent_arguments,
    sent_name,
    server_error,
    text_of,
)
from piccc._dialects.content import Inline, document_source, image_source
from piccc._dialects.reader import Event, Reader, not_a_reply
from piccc.arguments import is_strict_object, write_arguments
from piccc.conversation import (
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
    Raw,
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
    ToolChoice,
    Usage,
    judge_calls,
)
from piccc.errors import InvalidArgumentError, StreamError, UnsupportedContentError

_REASONING, _TEXT, _REFUSAL, _CALLS = range(4)


class OpenAIDialect:
    """`POST /v1/chat/completions`."""

    name: DialectName = "openai"
    path = "/v1/chat/completions"
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, request: ChatRequest, *, stream: bool) -> EncodedRequest:
        """Encode a request; raise InvalidArgumentError or UnsupportedContentError if it cannot be sent."""
        check(request, stream=stream)
        names = ToolNames(request)
        body: JSON = {"model": request.model, "messages": _messages(request, names), "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        options: JSON = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "stop": list(request.stop) or None,
            "seed": request.seed,
            "reasoning_effort": request.reasoning_effort,
            "response_format": _response_format(request.response_format),
        }
        if "max_completion_tokens" in request.extra_body:
            del options["max_tokens"]  # servers reject both together
        if request.tools:
            body["tools"] = [_tool(tool, names) for tool in request.tools]
            options["tool_choice"] = _tool_choice(request.tool_choice, names)
            options["parallel_tool_calls"] = request.parallel_tool_calls
        body.update({name: value for name, value in options.items() if value is not None})
        body.update(request.extra_body)
        return EncodedRequest(body, names.originals, names.adapted)

    def decode(self, payload: object, names: Mapping[str, str] = NO_NAMES) -> ChatReply:
        """Decode a complete reply; raise ResponseError if it is malformed. `names`: see `EncodedRequest`."""
        choice = _first_choice(payload)
        if not isinstance(payload, dict) or choice is None or not isinstance(choice.get("message"), dict):
            raise not_a_reply(payload)
        if error := payload.get("error") or _error_in(choice):
            raise not_a_reply({"error": error})
        message = choice["message"]
        parts: list[Part] = []
        if reasoning := _reasoning_text(message):
            parts.append(Reasoning(reasoning))
        if text := text_of(message.get("content")):
            parts.append(Text(text, mappings(message.get("annotations"))))
        if refusal := text_of(message.get("refusal")):
            parts.append(Refusal(refusal))
        ids: set[str] = set()
        for each in mappings(message.get("tool_calls")):
            call = _whole_call(each, ids, names)
            ids.add(call.id)
            parts.append(call)
        finish_reason = finish_reason_of(choice.get("finish_reason"))
        reply = ChatReply(judge_calls(parts, finish_reason), finish_reason, raw=payload)
        _read_envelope(reply, payload, choice)
        if isinstance(usage := payload.get("usage"), dict):
            reply.usage = _usage(usage, reply.extra)
        return reply

    def reader(self, names: Mapping[str, str] = NO_NAMES) -> OpenAIReader:
        """Return a reader for one stream. `names`: see `EncodedRequest`."""
        return OpenAIReader(names)


@dataclass(slots=True)
class _Call:
    index: int
    wire_index: int | None
    id: str | None = None
    name: str = ""
    held: str = ""
    is_open: bool = False


class OpenAIReader(Reader):
    """A reader of one stream of chunks, which repairs malformed tool call deltas of compatible servers."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(names)
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}
        self._unopened: _Call | None = None

    def _rest(self) -> list[Delta]:
        return [self._open(call) for call in self._calls if not call.is_open]  # calls without a name

    def _read(self, event: Event, body: JSON) -> list[Delta]:
        choice = _first_choice(body)
        reply = self._builder.reply
        has_envelope = (
            not reply.id
            or choice is None
            or choice.get("finish_reason")
            or body.get("usage")
            or choice.get("logprobs")
        )
        if has_envelope:
            _read_envelope(reply, body, choice or {})
            if isinstance(usage := body.get("usage"), dict):
                merge_usage(self._usage, usage)
                reply.usage = _usage(self._usage, reply.extra)
        if choice is None:
            return []
        if error := _error_in(choice):
            message, code = server_error(error)
            raise StreamError(f"The server ended the stream: {message}", code=code, body=event.data)
        if reason := choice.get("finish_reason"):
            reply.finish_reason = last_finish_reason(reply.finish_reason, reason)
            self.is_complete = True
        delta = mapping(choice.get("delta", choice.get("message")))  # some send a whole reply as one event
        unopened, self._unopened = self._unopened, None
        deltas = self._deltas(delta)
        if unopened is not None and not unopened.is_open and unopened is not self._unopened:
            deltas.insert(0, self._open(unopened))
        names = [name for name, value in delta.items() if value and name != "role"]
        if not has_envelope and len(names) == len(deltas) == 1:
            self._template.learn(event, body, delta, names[0], deltas[0])
        return deltas

    def _deltas(self, delta: JSON) -> list[Delta]:
        deltas: list[Delta] = []
        if len(delta) == 1 and isinstance(content := delta.get("content"), str):
            return [TextDelta(content, _TEXT)] if content else deltas  # fast path for most events
        if reasoning := _reasoning_text(delta):
            deltas.append(ReasoningDelta(reasoning, _REASONING))
        if content := text_of(delta.get("content")):
            deltas.append(TextDelta(content, _TEXT))
        if annotations := delta.get("annotations"):
            deltas += [TextDelta("", _TEXT, each) for each in mappings(annotations)]
        if refusal := text_of(delta.get("refusal")):
            deltas.append(RefusalDelta(refusal, _REFUSAL))
        if fragments := delta.get("tool_calls"):
            for fragment in mappings(fragments):
                deltas.extend(self._fragment(fragment))
        return deltas

    def _fragment(self, fragment: JSON) -> list[Delta]:
        function = mapping(fragment.get("function"))
        name = text_of(function.get("name"))
        arguments = arguments_of(function.get("arguments"))
        call = self._find(id_of(fragment.get("id")), _index(fragment.get("index")), name)
        if call.is_open:
            return [ToolCallDelta(call.index, arguments, block=_CALLS + call.index)] if arguments else []
        # Servers may send a name in pieces, repeat it with each piece, or send the name so far each time.
        call.name = name if name.startswith(call.name) else call.name + name
        call.held += arguments
        if call.name and call.held:
            return [self._open(call)]
        if call.name:
            self._unopened = call  # the next event may continue its name
        return []

    def _find(self, id: str | None, index: int | None, name: str) -> _Call:
        known = self._by_index.get(index) if index is not None else None
        twin: str | None = None
        if id is not None and (named := self._by_id.get(id)) is not None:
            if index is None or named.wire_index in (None, index):
                return named
            twin, id = id, None  # a different call with the same id
        if known is not None and (id is None or not name or known.id is None):
            call = known
        elif not name and self._calls and (id is None or self._gets_its_id_late(self._calls[-1], index)):
            call = self._calls[-1]
            if id is None:
                return call
        else:
            call = _Call(len(self._calls), index)
            self._calls.append(call)
            id = id or (call_id_of(twin, self._by_id) if twin else None)
        if id is not None:
            call.id = call.id or id
            self._by_id[id] = call
        if index is not None:
            self._by_index[index] = call
        return call

    def _gets_its_id_late(self, call: _Call, index: int | None) -> bool:
        return call.id not in self._by_id and (index is None or call.wire_index in (None, index))

    def _open(self, call: _Call) -> Delta:
        call.is_open = True
        call.id = call_id_of(call.id)
        name = self._names.get(call.name, call.name)
        return ToolCallDelta(call.index, call.held, call.id, name, _CALLS + call.index)


def _messages(request: ChatRequest, names: ToolNames) -> list[JSON]:
    messages: list[JSON] = []
    media: list[JSON] = []  # tool results are text here, so their media follow in a user turn
    for message in sendable(request.messages):
        if message.role != "tool" and media:
            messages.append({"role": "user", "content": media})
            media = []
        if message.role == "tool":
            texts = [flat(each) for each in message.parts if isinstance(each, Text | Source)]
            for part in message.parts:
                if isinstance(part, File) and part.url:
                    texts.append(part.url)
                elif isinstance(part, Image | File | Audio):
                    try:
                        media = [*media, _part(part)]
                    except (UnsupportedContentError, InvalidArgumentError) as error:
                        texts.append(placeholder(part, error).text)
            result = "\n".join(texts)
            messages.append({"role": "tool", "tool_call_id": message.tool_call_id, "content": result})
        elif message.role == "assistant":
            messages.append(_assistant(message, bool(request.replay_reasoning), names))
        else:
            messages.append({"role": message.role, **_named(message), "content": _content(message.parts)})
    return [*messages, {"role": "user", "content": media}] if media else messages


def _named(message: Message) -> JSON:
    name = sent_name(message)
    return {"name": name} if name else {}


def _assistant(message: Message, replay: bool, names: ToolNames) -> JSON:
    calls = [each for each in message.parts if isinstance(each, ToolCall | InvalidToolCall)]
    kept = [each for each in message.parts if _is_sent_back(each)]
    content = _content(kept) if kept or not calls else None
    body: JSON = {"role": "assistant", **_named(message), "content": content}
    if calls:
        body["tool_calls"] = [_sent_call(each, names) for each in calls]
    reasoning = "".join([each.text for each in message.parts if isinstance(each, Reasoning)])
    if replay and reasoning:
        body["reasoning_content"] = reasoning
    return body


def _is_sent_back(part: Part) -> bool:
    """Return whether a part of an earlier answer is sent back as content."""
    if isinstance(part, Raw):
        if part.data.get("type") in ("text", "refusal"):
            return True
        log_omitted(part, "the OpenAI dialect does not allow it in an assistant message")
        return False
    return isinstance(part, Text | Refusal) and bool(part.text)


def _sent_call(call: ToolCall | InvalidToolCall, names: ToolNames) -> JSON:
    text = call.arguments
    if isinstance(call, InvalidToolCall) or not is_strict_object(text):
        text = write_arguments(sent_arguments(call))
    return {"id": call.id, "type": "function", "function": {"name": names.sent(call.name), "arguments": text}}


def _content(parts: Iterable[Part]) -> str | list[JSON]:
    kept = [each for part in parts for each in _with_context(part) if not isinstance(each, CachePoint)]
    if all(isinstance(each, Text) for each in kept) and len(kept) < 2:
        return kept[0].text if kept and isinstance(kept[0], Text) else ""
    return [_part(each) for each in kept]


def _with_context(part: Part) -> list[Part]:
    """Return a part with a document's context as text, since this dialect has no field for it."""
    if not isinstance(part, File) or (part.context is None and part.citations is None):
        return [part]
    if part.citations:
        logger.debug("A document's citations are left out: the OpenAI dialect has no field for them.")
    source = None if part.file_id else document_source(part)
    if not isinstance(source, Inline) or source.text is None:
        return [Text(part.context), part] if part.context else [part]
    return [Text("\n".join(each for each in (part.name, part.context, source.text) if each))]


def _part(part: Part) -> JSON:
    match part:
        case Text() | Source():
            return {"type": "text", "text": flat(part)}
        case Image():
            source = image_source(part)
            detail = {"detail": part.detail} if part.detail else {}
            url = source if isinstance(source, str) else source.url
            return {"type": "image_url", "image_url": {"url": url, **detail}}
        case File(file_id=str()):
            return {"type": "file", "file": {"file_id": part.file_id}}
        case File() if not isinstance(document := document_source(part), str):
            name = part.name or "document" + (guess_extension(document.media_type) or "")
            return {"type": "file", "file": {"filename": name, "file_data": document.url}}
        case Audio():
            return {"type": "input_audio", "input_audio": {"data": large(part.data), "format": part.format}}
        case Refusal():
            return {"type": "refusal", "refusal": part.text}
        case Raw():
            return part.data
    kind = "files by URL" if isinstance(part, File) else f"{type(part).__name__} content here"
    raise UnsupportedContentError(
        f"The OpenAI dialect does not support {kind}.",
        hint="Send files as base64 data or by file_id, or use dialect='anthropic'.",
    )


def _tool(tool: Tool, names: ToolNames) -> JSON:
    function: JSON = {
        "name": names.sent(tool.name),
        "description": tool.description,
        "parameters": tool.parameters,
    }
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function, **tool.extra}


def _tool_choice(choice: ToolChoice | None, names: ToolNames) -> JSON | str | None:
    if not isinstance(choice, NamedTool):
        return choice
    return {"type": "function", "function": {"name": names.sent(choice.name)}}


def _response_format(wanted: JSONSchema | str | None) -> JSON | None:
    if wanted is None:
        return None
    if not isinstance(wanted, JSONSchema):
        return {"type": "json_object"}
    schema: JSON = {"name": wanted.name, "schema": wanted.schema}
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}


def _first_choice(payload: object) -> JSON | None:
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if isinstance(choices, list):
        for choice in choices:
            if isinstance(choice, dict) and not choice.get("index"):
                return choice
    return None


def _error_in(choice: JSON) -> Any:
    """Return the error of a choice, if any: so OpenRouter reports that the model's provider failed.

    https://openrouter.ai/docs/api-reference/errors
    """
    return choice.get("error") or ({"code": "error"} if choice.get("finish_reason") == "error" else None)


def _reasoning_text(message: JSON) -> str:
    return text_of(message.get("reasoning_content")) or text_of(message.get("reasoning"))


def _index(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _whole_call(call: JSON, ids: set[str], names: Mapping[str, str]) -> ToolCall:
    function = mapping(call.get("function"))
    arguments = arguments_of(function.get("arguments"))
    name = text_of(function.get("name"))
    return ToolCall(call_id_of(call.get("id"), ids), names.get(name, name), arguments)


def _read_envelope(reply: ChatReply, payload: JSON, choice: JSON) -> None:
    reply.id = reply.id or text_of(payload.get("id"))
    reply.model = text_of(payload.get("model")) or reply.model
    for name in ("system_fingerprint", "service_tier", "created"):
        if payload.get(name) is not None:
            reply.extra[name] = payload[name]
    if isinstance(logprobs := choice.get("logprobs"), dict):
        known = reply.extra.setdefault("logprobs", {"content": []})
        for name in ("content", "refusal"):
            if more := mappings(logprobs.get(name)):
                known.setdefault(name, []).extend(more)


def _usage(usage: JSON, extra: JSON) -> Usage:
    prompt = mapping(usage.get("prompt_tokens_details"))
    completion = mapping(usage.get("completion_tokens_details"))
    # LiteLLM, OpenRouter, DeepSeek and Moonshot have different names for cache reads and writes.
    read = count(prompt.get("cached_tokens")) or count(usage.get("prompt_cache_hit_tokens"))
    created = count(prompt.get("cache_creation_tokens")) or count(prompt.get("cache_write_tokens"))
    written = mapping(prompt.get("cache_creation_token_details"))
    # Gateways that also serve other routes may use those routes' names.
    return Usage(
        input_tokens=count(usage.get("prompt_tokens")) or count(usage.get("input_tokens")),
        output_tokens=count(usage.get("completion_tokens")) or count(usage.get("output_tokens")),
        cache_read_tokens=read or count(usage.get("cached_tokens")),
        cache_creation_tokens=created or count(usage.get("cache_creation_input_tokens")),
        reasoning_tokens=count(completion.get("reasoning_tokens")),
        audio_input_tokens=count(prompt.get("audio_tokens")),
        audio_output_tokens=count(completion.get("audio_tokens")),
        cache_creation_5m_tokens=count(written.get("ephemeral_5m_input_tokens")),
        cache_creation_1h_tokens=count(written.get("ephemeral_1h_input_tokens")),
        service_tier=text_of(extra.get("service_tier")) or text_of(usage.get("service_tier")) or None,
        raw=usage,
    )
