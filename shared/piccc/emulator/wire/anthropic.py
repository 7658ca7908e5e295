"""`/v1/messages`, Anthropic's chat format (model, max_tokens and messages are documented)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
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
    compact,
    from_base64,
    from_url,
)

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class Base64Source(Form):
    """Data sent with the request."""

    type: Literal["base64"]
    media_type: Name
    data: str


class URLSource(Form):
    """Data at a URL."""

    type: Literal["url"]
    url: URLText


class TextSource(Form):
    """A plain text document."""

    type: Literal["text"]
    media_type: Name
    data: str


class FileSource(Form):
    """A file uploaded earlier."""

    type: Literal["file"]
    file_id: Name


class Text(Form):
    """A text block."""

    type: Literal["text"]
    text: str


class Image(Form):
    """An image block."""

    type: Literal["image"]
    source: Annotated[Base64Source | URLSource | FileSource, Field(discriminator="type")]


class ContentSource(Form):
    """A document in separately citable pieces."""

    type: Literal["content"]
    content: str | list[Annotated[Text | Image, Field(discriminator="type")]]


class Document(Form):
    """A document block."""

    type: Literal["document"]
    source: Annotated[
        Base64Source | URLSource | TextSource | ContentSource | FileSource, Field(discriminator="type")
    ]
    title: str | None = None
    context: str | None = None


class SearchResult(Form):
    """A passage that the reply may cite."""

    type: Literal["search_result"]
    source: str
    title: str
    content: list[Text]

    @property
    def text(self) -> str:
        """The passage below its title and source."""
        return "\n".join(
            [each for each in (self.title, self.source) if each] + [each.text for each in self.content]
        )


class ToolUse(Form):
    """A tool call in an earlier reply."""

    type: Literal["tool_use"]
    id: Name
    name: Name
    input: dict[str, Any]


class ToolResult(Form):
    """A tool result."""

    type: Literal["tool_result"]
    tool_use_id: Name
    content: (
        str | list[Annotated[Text | Image | Document | SearchResult, Field(discriminator="type")]] | None
    ) = None
    is_error: bool | None = None


class Thinking(Form):
    """Thinking in an earlier reply."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class RedactedThinking(Form):
    """Encrypted thinking in an earlier reply."""

    type: Literal["redacted_thinking"]
    data: str


class ServerToolUse(Form):
    """A call in an earlier reply that the server ran itself."""

    type: Literal["server_tool_use"]
    id: Name
    name: Name
    input: dict[str, Any]


class ServerToolResult(Form):
    """The result of such a call."""

    type: Literal[
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
    ]
    tool_use_id: Name
    content: Any


Block = Annotated[
    Text
    | Image
    | Document
    | SearchResult
    | ToolUse
    | ToolResult
    | Thinking
    | RedactedThinking
    | ServerToolUse
    | ServerToolResult,
    Field(discriminator="type"),
]


class Message(Form):
    """One turn."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolOffer(Form):
    """A tool definition; `input_schema` is a JSON Schema."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    input_schema: dict[str, Any]
    description: str | None = None


class OpenChoice(Form):
    """Whether to call a tool."""

    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(Form):
    """Which tool to call."""

    type: Literal["tool"]
    name: Name
    disable_parallel_tool_use: bool | None = None


class ThinkingOn(Form):
    """Thinking with a token budget."""

    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1024), INTEGRAL]


class ThinkingOpen(Form):
    """Thinking without a budget, or no thinking."""

    type: Literal["adaptive", "disabled"]


class Format(Form):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Form):
    """The required format of the reply."""

    format: Format | None = None


class CountRequest(Form):
    """A request to count a conversation's tokens."""

    model: Name
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[Text] | None = None
    tools: list[ToolOffer] | None = None
    tool_choice: Annotated[OpenChoice | NamedChoice, Field(discriminator="type")] | None = None
    thinking: Annotated[ThinkingOn | ThinkingOpen, Field(discriminator="type")] | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None

    def model_request(self) -> ModelRequest:
        """Translate the request. Raises APIError 400 if its parts contradict each other."""
        tools = tuple(_tool(offer, at) for at, offer in enumerate(self.tools or ()))
        choice, named = self._choice({tool.name for tool in tools})
        return ModelRequest(
            model=self.model,
            turns=tuple(self._turns()),
            tools=tools,
            tool_choice=choice,
            named_tool=named,
            parallel_tool_calls=not (self.tool_choice and self.tool_choice.disable_parallel_tool_use),
            schema=self._schema(),
            reasoning=self.thinking is not None and self.thinking.type != "disabled",
        )

    def _schema(self) -> dict[str, Any] | None:
        if self.output_config and self.output_config.format:
            return checked_schema(self.output_config.format.schema_, param="output_config.format.schema")
        return (
            checked_schema(self.output_format.schema_, param="output_format.schema")
            if self.output_format
            else None
        )

    def _choice(self, offered: set[str]) -> tuple[str, str | None]:
        choice = self.tool_choice
        if isinstance(choice, NamedChoice):
            if choice.name not in offered:
                message = f"tool_choice.name: no tool named {choice.name!r} was given."
                raise APIError(400, message, param="tool_choice.name")
            return "named", choice.name
        if choice and choice.type == "any" and not offered:
            raise APIError(400, "tool_choice: needs tools.", param="tool_choice")
        return {"any": "required", "none": "none"}.get(choice.type if choice else "auto", "auto"), None

    def _turns(self) -> Iterator[ModelMessage]:
        if self.system:
            texts = [self.system] if isinstance(self.system, str) else [block.text for block in self.system]
            yield ModelMessage("system", "\n".join(texts))
        called: set[str] = set()
        for number, message in enumerate(self.messages):
            where = f"messages.{number}.content"
            blocks = message.content
            if isinstance(blocks, str):
                yield ModelMessage(message.role, blocks)
                continue
            yield from _results(blocks, called, where)
            others = [block for block in blocks if not isinstance(block, ToolResult)]
            if others:
                turn = _turn(message.role, others, where)
                called.update(call.id for call in turn.calls)
                yield turn


class MessageRequest(CountRequest):
    """A request for a message; model, max_tokens and messages are documented, the rest is assumed."""

    max_tokens: Positive
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0), INTEGRAL] | None = None

    def model_request(self) -> ModelRequest:
        """Translate the request, including its limits."""
        return replace(
            super().model_request(), stop=tuple(self.stop_sequences or ()), max_tokens=self.max_tokens
        )


def _tool(offer: ToolOffer, at: int) -> Tool:
    schema = checked_schema(offer.input_schema, param=f"tools.{at}.input_schema")
    return Tool(offer.name, offer.description or "", schema)


def _results(blocks: list[Any], called: set[str], where: str) -> Iterator[ModelMessage]:
    for number, block in enumerate(blocks):
        if not isinstance(block, ToolResult):
            continue
        if block.tool_use_id not in called:
            param = f"{where}.{number}.tool_use_id"
            raise APIError(
                400, f"{param}: no earlier message has the call {block.tool_use_id!r}.", param=param
            )
        content = block.content or ""
        if isinstance(content, str):
            yield ModelMessage("tool", content, call_id=block.tool_use_id, is_error=bool(block.is_error))
        else:
            turn = _turn("user", content, f"{where}.{number}.content")
            yield ModelMessage(
                "tool", turn.text, turn.media, call_id=block.tool_use_id, is_error=bool(block.is_error)
            )


def _turn(role: Literal["user", "assistant"], blocks: list[Any], where: str) -> ModelMessage:
    texts: list[str] = []
    media: list[Medium] = []
    calls: list[ModelCall] = []
    for number, block in enumerate(blocks):
        if isinstance(block, Text | SearchResult):
            texts.append(block.text)
        elif isinstance(block, ToolUse):
            calls.append(ModelCall(block.id, block.name, block.input))
        elif isinstance(block, Document) and isinstance(block.source, TextSource):
            texts.append(block.source.data)
        elif isinstance(block, Document) and isinstance(block.source, ContentSource):
            content = block.source.content
            inner = _turn(role, content if isinstance(content, list) else [], where)
            texts.append(content if isinstance(content, str) else inner.text)
            media += inner.media
        elif isinstance(block, Image | Document):
            media.append(_medium(block, f"{where}.{number}.source"))
    return ModelMessage(role, "\n".join(texts), tuple(media), tuple(calls))


def _medium(block: Image | Document, where: str) -> Medium:
    kind: Literal["image", "file"] = "image" if isinstance(block, Image) else "file"
    name = block.title if isinstance(block, Document) else None
    source = block.source
    if isinstance(source, Base64Source):
        return from_base64(kind, source.media_type, source.data, param=f"{where}.data", name=name)
    if isinstance(source, URLSource):
        return from_url(kind, source.url, param=f"{where}.url", name=name)
    if isinstance(source, FileSource):
        return Medium(kind, "application/octet-stream", name=name or source.file_id)
    if isinstance(source, ContentSource):
        return Medium(kind, "text/plain", name=name)
    return Medium(kind, source.media_type, size=len(source.data.encode()), name=name)


def reply(request: MessageRequest, answer: Completion, *, reply_id: str) -> dict[str, Any]:
    """Return the message's JSON."""
    return {
        **_head(request, reply_id),
        "content": [block for block, _ in _blocks(answer)],
        **stop(answer),
        "usage": _usage(answer),
    }


def events(
    request: MessageRequest, answer: Completion, *, reply_id: str
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the message's events, each with its cost in tokens."""
    opening = {
        **_head(request, reply_id),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _counted(answer.usage.prompt_tokens, 0),
    }
    yield {"type": "message_start", "message": opening}, 0
    yield {"type": "ping"}, 0
    for index, (block, arguments) in enumerate(_blocks(answer)):
        yield {"type": "content_block_start", "index": index, "content_block": _opened(block)}, 0
        for delta, tokens in _deltas(block, arguments):
            yield {"type": "content_block_delta", "index": index, "delta": delta}, tokens
        yield {"type": "content_block_stop", "index": index}, 0
    yield {"type": "message_delta", "delta": stop(answer), "usage": _usage(answer)}, 0
    yield {"type": "message_stop"}, 0


def stop(answer: Completion) -> dict[str, Any]:
    """Return why the reply ended; only refusals with text have details."""
    reason = "stop_sequence" if answer.stop_sequence else _STOP_REASONS[answer.finish_reason]
    if answer.refusal is None:
        return {"stop_reason": reason, "stop_sequence": answer.stop_sequence}
    details = {"type": "refusal", "category": None, "explanation": answer.refusal} if answer.refusal else None
    return {"stop_reason": "refusal", "stop_sequence": None, "stop_details": details}


def _usage(answer: Completion) -> dict[str, Any]:
    counted = _counted(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return {**counted, **(answer.usage_fields or {})}


def _counted(taken: int, given: int) -> dict[str, int]:
    return {
        "input_tokens": taken,
        "output_tokens": given,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _head(request: MessageRequest, reply_id: str) -> dict[str, Any]:
    return {"id": reply_id, "type": "message", "role": "assistant", "model": request.model}


def _blocks(answer: Completion) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Yield each content block; tool calls come with their arguments as text."""
    if answer.reasoning:
        yield (
            {
                "type": "thinking",
                "thinking": answer.reasoning,
                "signature": signature(answer.reasoning),
            },
            None,
        )
    if answer.text or not (answer.calls or answer.blocks or answer.refusal is not None):
        yield {"type": "text", "text": answer.text}, None
    for block in answer.blocks:
        yield dict(block), None
    for call in answer.calls:
        yield (
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)},
            arguments_text(call),
        )


def signature(thinking: str) -> str:
    """Return a signature for thinking, so that foreign thinking can be refused."""
    return blake2b(thinking.encode(errors="surrogatepass"), digest_size=32).hexdigest()


def _input(call: ModelCall) -> Any:
    """Return a call's parsed arguments, or `{}` if their text is not JSON."""
    if call.partial is None:
        return call.arguments
    try:
        return json.loads(call.partial)
    except (ValueError, RecursionError):
        return {}


def _opened(block: dict[str, Any]) -> dict[str, Any]:
    blank = {"thinking": "", "signature": "", "text": "", "input": {}}
    return {key: blank.get(key, value) for key, value in block.items()}


def _deltas(block: dict[str, Any], arguments: str | None) -> Iterator[tuple[dict[str, Any], int]]:
    if block["type"] == "thinking":
        for piece in pieces(block["thinking"]):
            yield {"type": "thinking_delta", "thinking": piece}, 1
        yield {"type": "signature_delta", "signature": block["signature"]}, 0
    elif block["type"] == "text":
        for piece in pieces(block["text"]):
            yield {"type": "text_delta", "text": piece}, 1
    elif "input" in block:
        yield {"type": "input_json_delta", "partial_json": ""}, 0
        for piece in pieces(arguments if arguments is not None else compact(block["input"])):
            yield {"type": "input_json_delta", "partial_json": piece}, 1
