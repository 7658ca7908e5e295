"""`/v1/chat/completions`, OpenAI's chat format (model, messages and stream are documented)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from piccc.emulator.conversation import Completion, Medium, ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model import pieces
from piccc.emulator.wire import (
    INTEGRAL,
    APIError,
    Form,
    Name,
    Positive,
    Share,
    URLText,
    arguments_text,
    checked_schema,
    encoded,
    from_base64,
    from_url,
)


class Text(Form):
    """A text part."""

    type: Literal["text"]
    text: str


class Refusal(Form):
    """A refusal part of an assistant message."""

    type: Literal["refusal"]
    refusal: str


class ImageURL(Form):
    """An image's URL, which may be a data URL."""

    url: URLText
    detail: str | None = None


class Image(Form):
    """An image part."""

    type: Literal["image_url"]
    image_url: ImageURL


class AudioData(Form):
    """Audio as base64."""

    data: str
    format: str


class Audio(Form):
    """An audio part."""

    type: Literal["input_audio"]
    input_audio: AudioData


class FileData(Form):
    """A file: inline as a data URL or base64, or the id of an uploaded file."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class File(Form):
    """A file part."""

    type: Literal["file"]
    file: FileData


Part = Annotated[Text | Refusal | Image | Audio | File, Field(discriminator="type")]
Content = str | list[Part]


class Function(Form):
    """A called function's name, and its arguments as JSON text."""

    name: Name
    arguments: str


class ToolCall(Form):
    """A tool call in an earlier reply."""

    id: Name
    type: Literal["function"] = "function"
    function: Function


class Instruction(Form):
    """A system or developer message."""

    role: Literal["system", "developer"]
    content: Content


class Question(Form):
    """A user message."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class Reply(Form):
    """An assistant message."""

    role: Literal["assistant"]
    content: Content | None = None
    tool_calls: list[ToolCall] | None = None


class Result(Form):
    """A tool result."""

    role: Literal["tool"]
    tool_call_id: Name
    content: Content


Message = Annotated[Instruction | Question | Reply | Result, Field(discriminator="role")]


class FunctionOffer(Form):
    """A function's name, description and parameters as a JSON Schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolOffer(Form):
    """A tool definition."""

    type: Literal["function"]
    function: FunctionOffer


class FunctionName(Form):
    """The function that must be called."""

    name: Name


class NamedTool(Form):
    """The choice of one tool by name."""

    type: Literal["function"]
    function: FunctionName


class Schema(Form):
    """A JSON Schema that the reply must satisfy."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class PlainFormat(Form):
    """Text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Form):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: Schema


class StreamOptions(Form):
    """Stream options."""

    include_usage: bool | None = None


class ChatRequest(Form):
    """A request for a chat completion; model, messages and stream are documented, the rest is assumed."""

    model: Name
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[ToolOffer] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    seed: Annotated[int, INTEGRAL] | None = None
    n: Annotated[int, Field(ge=1, le=1), INTEGRAL] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), INTEGRAL] | None = None
    reasoning_effort: str | None = None

    def model_request(self) -> ModelRequest:
        """Translate the request. Raises APIError 400 if its parts contradict each other."""
        tools = tuple(_tool(offer.function, at) for at, offer in enumerate(self.tools or ()))
        choice, named = _choice(self.tool_choice, {tool.name for tool in tools})
        wanted = self.response_format
        return ModelRequest(
            model=self.model,
            turns=tuple(_turns(self.messages)),
            tools=tools,
            tool_choice=choice,
            named_tool=named,
            parallel_tool_calls=self.parallel_tool_calls is not False,
            schema=_schema(wanted) if isinstance(wanted, SchemaFormat) else None,
            json_mode=wanted is not None and wanted.type == "json_object",
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            max_tokens=self.max_completion_tokens or self.max_tokens,
            seed=self.seed,
            reasoning=self.reasoning_effort not in (None, "none"),
        )


def _tool(function: FunctionOffer, at: int) -> Tool:
    parameters = checked_schema(
        function.parameters or {"type": "object"}, param=f"tools.{at}.function.parameters"
    )
    return Tool(function.name, function.description or "", parameters)


def _schema(wanted: SchemaFormat) -> dict[str, Any]:
    return checked_schema(wanted.json_schema.schema_ or {}, param="response_format.json_schema.schema")


def _choice(choice: Any, offered: set[str]) -> tuple[str, str | None]:
    if isinstance(choice, NamedTool):
        if choice.function.name not in offered:
            message = f"tool_choice.function.name: no tool named {choice.function.name!r} was given."
            raise APIError(400, message, code="invalid_value", param="tool_choice.function.name")
        return "named", choice.function.name
    if choice == "required" and not offered:
        raise APIError(400, "tool_choice: needs tools.", code="invalid_value", param="tool_choice")
    return choice or "auto", None


def _turns(messages: list[Any]) -> Iterator[ModelMessage]:
    called: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        text, media = _content(message.content, f"{where}.content")
        if isinstance(message, Reply):
            calls = tuple(_call(call) for call in message.tool_calls or ())
            called.update(call.id for call in calls)
            yield ModelMessage("assistant", text, media, calls)
        elif isinstance(message, Result):
            if message.tool_call_id not in called:
                text = f"{where}.tool_call_id: no earlier message has the call {message.tool_call_id!r}."
                raise APIError(400, text, code="invalid_value", param=f"{where}.tool_call_id")
            yield ModelMessage("tool", text, media, call_id=message.tool_call_id)
        else:
            yield ModelMessage("user" if isinstance(message, Question) else "system", text, media)


def _content(content: Any, where: str) -> tuple[str, tuple[Medium, ...]]:
    if content is None or isinstance(content, str):
        return content or "", ()
    texts: list[str] = []
    media: list[Medium] = []
    for number, part in enumerate(content):
        if isinstance(part, Text | Refusal):
            texts.append(part.text if isinstance(part, Text) else part.refusal)
        else:
            media.append(_medium(part, f"{where}.{number}"))
    return "\n".join(texts), tuple(media)


def _medium(part: Image | Audio | File, where: str) -> Medium:
    if isinstance(part, Image):
        return from_url("image", part.image_url.url, param=f"{where}.image_url.url")
    if isinstance(part, Audio):
        sound = part.input_audio
        return from_base64("audio", f"audio/{sound.format}", sound.data, param=f"{where}.input_audio.data")
    file = part.file
    if file.file_data is None:
        if file.file_id is None:
            raise APIError(400, f"{where}.file: needs file_data or file_id.", param=f"{where}.file")
        return Medium("file", "application/octet-stream", name=file.filename or file.file_id)
    param = f"{where}.file.file_data"
    if file.file_data.startswith("data:"):
        return from_url("file", file.file_data, param=param, name=file.filename)
    return from_base64("file", "application/octet-stream", file.file_data, param=param, name=file.filename)


def _call(call: ToolCall) -> ModelCall:
    """Parse a call; arguments that are not a JSON object stay text."""
    text = call.function.arguments
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return ModelCall(call.id, call.function.name, {}, partial=text)
    return ModelCall(call.id, call.function.name, arguments)


def reply(request: ChatRequest, answer: Completion, *, reply_id: str, created: int) -> dict[str, Any]:
    """Return the completion's JSON."""
    silent = answer.calls or answer.refusal is not None
    content: Any = answer.text or None if silent else answer.text
    if answer.blocks:  # a list of parts, as in Mistral's API
        content = [*([{"type": "text", "text": answer.text}] if answer.text else []), *answer.blocks]
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": answer.refusal or None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["tool_calls"] = [_call_shown(call) for call in answer.calls]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": _logprobs(request, answer.text),
        "finish_reason": _finish_reason(answer),
    }
    head = _head(request, reply_id, created, "chat.completion")
    return {**head, "choices": [choice], "usage": _usage(answer)}


def chunks(
    request: ChatRequest, answer: Completion, *, reply_id: str, created: int
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the completion's chunks, each with its cost in tokens."""
    head = _chunk_head(request, reply_id, created)
    for delta, tokens in _deltas(answer):
        piece = delta.get("content") if tokens else None
        logprobs = _logprobs(request, piece) if isinstance(piece, str) else None
        yield _chunk(head, delta, logprobs=logprobs), tokens
    for last in _last_chunks(head, answer):
        yield last, 0


def encoded_chunks(
    request: ChatRequest, answer: Completion, *, reply_id: str, created: int
) -> Iterator[tuple[bytes, int]]:
    """Yield the completion's chunks as JSON, each with its cost in tokens."""
    if request.logprobs:
        for chunk, tokens in chunks(request, answer, reply_id=reply_id, created=created):
            yield encoded(chunk), tokens
        return
    # Only the delta differs: building and encoding each chunk in full takes four times as long.
    head = _chunk_head(request, reply_id, created)
    before, after = encoded(_chunk(head, {})).rsplit(b"{}", 1)
    for delta, tokens in _deltas(answer):
        yield before + encoded(delta) + after, tokens
    for last in _last_chunks(head, answer):
        yield encoded(last), 0


def _chunk_head(request: ChatRequest, reply_id: str, created: int) -> dict[str, Any]:
    head = _head(request, reply_id, created, "chat.completion.chunk")
    if request.stream_options and request.stream_options.include_usage:
        head["usage"] = None
    return head


def _last_chunks(head: dict[str, Any], answer: Completion) -> Iterator[dict[str, Any]]:
    yield _chunk(head, {}, finish=_finish_reason(answer))
    if "usage" in head:
        yield {**head, "choices": [], "usage": _usage(answer)}


def _chunk(
    head: dict[str, Any], delta: dict[str, Any], *, finish: str | None = None, logprobs: Any = None
) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return {**head, "choices": [choice]}


def _deltas(answer: Completion) -> Iterator[tuple[dict[str, Any], int]]:
    yield {"role": "assistant", "content": None if answer.calls and not answer.text else ""}, 0
    for piece in pieces(answer.reasoning):
        yield {"reasoning_content": piece}, 1
    for piece in pieces(answer.text):
        yield {"content": piece}, 1
    for piece in pieces(answer.refusal or ""):
        yield {"refusal": piece}, 1
    for block in answer.blocks:
        yield {"content": [block]}, 1
    for delta in _call_deltas(answer.calls):
        yield {"tool_calls": [delta]}, 1


def _finish_reason(answer: Completion) -> str:
    """Return why the reply ended; a refusal without text shows only here."""
    return "content_filter" if answer.refusal == "" else answer.finish_reason


def _usage(answer: Completion) -> dict[str, Any]:
    counted = answer.usage
    return {
        "prompt_tokens": counted.prompt_tokens,
        "completion_tokens": counted.completion_tokens,
        "total_tokens": counted.prompt_tokens + counted.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": counted.reasoning_tokens},
        **(answer.usage_fields or {}),
    }


def _head(request: ChatRequest, reply_id: str, created: int, kind: str) -> dict[str, Any]:
    return {"id": reply_id, "object": kind, "created": created, "model": request.model}


def _call_shown(call: ModelCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments_text(call)},
    }


def _call_deltas(calls: Iterable[ModelCall]) -> Iterator[dict[str, Any]]:
    for index, call in enumerate(calls):
        shown = _call_shown(call)
        yield {"index": index, **shown, "function": {"name": call.name, "arguments": ""}}
        for piece in pieces(arguments_text(call)):
            yield {"index": index, "function": {"arguments": piece}}


def _logprobs(request: ChatRequest, text: str) -> dict[str, Any] | None:
    if not request.logprobs:
        return None
    shown = [_logprob(token, request.top_logprobs or 0) for token in pieces(text)]
    return {"content": shown, "refusal": None}


def _logprob(token: str, alternatives: int) -> dict[str, Any]:
    """Return a token as the only likely one, because a rule-based model is certain."""
    certain = {"token": token, "logprob": 0.0, "bytes": list(token.encode(errors="surrogatepass"))}
    return {**certain, "top_logprobs": [certain] if alternatives else []}
