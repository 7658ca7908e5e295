"""Dialect-neutral data types: messages, requests, replies, stream deltas, call records, models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from piccc.arguments import is_strict_object, read_arguments, write_arguments

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The limits and capabilities of a chat model.

    The provider documents the names only. All limits and capabilities here are **assumed**.

    Attributes:
        name: the model's public name.
        context_window: the maximum number of tokens of prompt and answer together.
        max_output_tokens: the maximum number of tokens of one answer.
        tools: whether it supports tool calls.
        json_schema: whether it natively supports JSON Schema output.
        image_input: whether it accepts images.
    """

    name: str
    context_window: int = 128_000
    max_output_tokens: int = 16_384
    tools: bool = True
    json_schema: bool = True
    image_input: bool = True


MODELS = {name: ModelInfo(name) for name in ("piccc-flash", "piccc-pro", "piccc-ultra")}
"""The documented chat models by name; their properties are assumed."""
DEFAULT_MODEL = "piccc-pro"
DEFAULT_MAX_TOKENS = 4096
"""The default max_tokens on the Anthropic route, which requires a value.

It is chosen by this library, not the provider: small enough for small servers, enough for most answers. The
reasoning budget, if any, is added to it.
"""
MAX_ANSWERS = 2
"""How many replies one object may take: the first, and one more if it is not valid."""


def model_info(name: str) -> ModelInfo:
    """Return the assumed properties of a model.

    Args:
        name: the model's name; unknown models get the same assumptions.
    """
    return MODELS.get(name) or ModelInfo(name)


@dataclass(slots=True)
class Attempt:
    """One attempt to send a request.

    Attributes:
        outcome: the HTTP status as text, or what went wrong; `stale connection` if the server had closed an
            idle connection and the request was sent on a new one, which does not count as a retry.
        elapsed: seconds until the outcome was known.
        request_id: the server's id for it, or None.
        waited: seconds slept before the next attempt.
        queued: seconds spent waiting for one of `max_connections`.
    """

    outcome: str
    elapsed: float
    request_id: str | None = None
    waited: float = 0.0
    queued: float = 0.0


@dataclass(slots=True)
class Record:
    """The diagnostic record of one call, part of every reply and every error.

    Attributes:
        method, path: the request's.
        backend: the HTTP backend and its version: `h11` (our own connections), `httpx` or `httpx2`.
        attempts: all attempts, in order.
        bytes_received: the size of the response body.
        time_to_first_event: seconds from the start of the call to a stream's first event, or None.
        elapsed: seconds taken by the whole call.
        rate_limit: the response's `x-ratelimit-*` headers (assumed, may be empty).
        adapted: descriptions of what was changed in the request so that the server accepts it.
    """

    method: str = ""
    path: str = ""
    backend: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    bytes_received: int = 0
    time_to_first_event: float | None = None
    elapsed: float = 0.0
    rate_limit: dict[str, str] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)

    @property
    def request_id(self) -> str | None:
        """The server's id for the last attempt that has one."""
        return next((each.request_id for each in reversed(self.attempts) if each.request_id), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON data."""
        return {
            **_fields(self),
            "attempts": [_fields(each) for each in self.attempts],
            "rate_limit": dict(self.rate_limit),
            "adapted": list(self.adapted),
        }


def _fields(value: Attempt | Record) -> dict[str, Any]:
    # Not `asdict`: its deep copies would slow down every reply.
    return {name: getattr(value, name) for name in value.__slots__}


Role = Literal["system", "user", "assistant", "tool"]
JSON = dict[str, Any]
PROVIDER = "piccc"
"""The provider of the reasoning and raw blocks in our replies."""


@dataclass(slots=True)
class Text:
    """Plain `text`, with a reply's `citations` as the server sent them."""

    text: str
    citations: list[JSON] = field(default_factory=list)


@dataclass(slots=True)
class Image:
    """An image: a `url`, or base64 `data` and its `media_type`; `detail` is `low`, `high` or `auto`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None


@dataclass(slots=True)
class File:
    """A document: a `url`, a `file_id`, or base64 `data` and its `media_type`; `name` is the file name.

    `context` is background information on it, and `citations` says whether the answer may cite it. The OpenAI
    dialect has a field for neither: it sends the context as text before the file, and a text document that
    has either as text.
    """

    data: str | None = None
    media_type: str | None = None
    name: str | None = None
    url: str | None = None
    file_id: str | None = None
    context: str | None = None
    citations: bool | None = None


@dataclass(slots=True)
class Audio:
    """Audio as base64 `data`; `format` is `wav`, `mp3` and so on."""

    data: str
    format: str


@dataclass(slots=True)
class Source:
    """A passage that the model may cite: its `title`, source `url` and `text`."""

    text: str
    title: str = ""
    url: str = ""


@dataclass(slots=True)
class CachePoint:
    """A cache breakpoint: the server may cache everything before it, for `ttl` such as `5m`.

    Dialects without caching ignore it.
    """

    ttl: str | None = None


@dataclass(slots=True)
class Reasoning:
    """A model's reasoning, as `text`.

    `signature` and `redacted` are sent back unchanged, and only to the `provider` they came from.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    provider: str = PROVIDER


@dataclass(slots=True)
class Refusal:
    """A refusal to answer, with the model's explanation as `text`; empty if it gave none."""

    text: str


@dataclass(slots=True)
class ToolCall:
    """A tool call by the model. In a reply it is safe to run; unsafe ones are `InvalidToolCall`s.

    Attributes:
        id: identifies the call; the message with its result has it as `tool_call_id`.
        name: the tool's name.
        arguments: the arguments as JSON text, in a reply always of an object; see `parse`.
    """

    id: str
    name: str
    arguments: str = "{}"

    @classmethod
    def of(cls, id: str, name: str, arguments: Mapping[str, Any]) -> ToolCall:
        """Return a call with the given arguments.

        Args:
            id: the call's id.
            name: the tool's name.
            arguments: the arguments; values that JSON lacks, such as dates and decimals, become strings.
        """
        return cls(id, name, write_arguments(arguments))

    def parse(self) -> JSON:
        """Return the arguments as an object.

        Raises:
            ValueError: they are not a JSON object; never raised for a call in a reply.
        """
        arguments = read_arguments(self.arguments)
        if arguments is None:
            raise ValueError(f"The arguments of a call to {self.name!r} are not a JSON object.")
        return arguments


InvalidReason = Literal["cut", "malformed", "unnamed"]


@dataclass(slots=True)
class InvalidToolCall:
    """A tool call that must not be run because it is incomplete or cannot be parsed.

    A reply has the same invalid calls whether or not it was streamed, and in either dialect. As part of a
    message, an invalid call can be sent back.

    Attributes:
        id: identifies the call; the message with its result has it as `tool_call_id`.
        name: the tool's name, or empty if none was received.
        arguments: the text of the arguments as far as it was received.
        reason: `cut` if the answer ended before the arguments did, `malformed` if they are not a JSON object,
            or `unnamed`.
    """

    id: str
    name: str
    arguments: str
    reason: InvalidReason

    @property
    def error(self) -> str:
        """What is wrong and what to do about it: a text for the model, used as the call's result."""
        return _INVALID[self.reason]


INVALID_REASONS = get_args(InvalidReason)
_INVALID: dict[InvalidReason, str] = {
    "cut": (
        "The call was cut off before its arguments were complete, so the tool was not run. "
        "Call it again with all of its arguments; if they are long, split the work into smaller calls."
    ),
    "malformed": (
        "The arguments of the call are not a JSON object, so the tool was not run. "
        "Call it again with valid JSON."
    ),
    "unnamed": (
        "The call does not name a tool, so nothing was run. Call one of the available tools by its name."
    ),
}


@dataclass(slots=True)
class Raw:
    """A content block in the dialect's own format.

    In a user message it is sent unchanged. In an assistant message it is sent only if `provider` is Piccc and
    the dialect allows its type there. In a tool result it is sent as text.
    """

    data: JSON
    provider: str = PROVIDER


Part = (
    Text | Image | File | Audio | Source | CachePoint | Reasoning | Refusal | ToolCall | InvalidToolCall | Raw
)


_FIELDS: dict[str, Any] = {"str": str, "str | None": str | None, "JSON": dict, "list[JSON]": list}
"""The field types that are checked, by their annotations above."""


def wrong_field(part: Part) -> str | None:
    """Return the name of a field with a wrong type, which frameworks' histories may contain, or None."""
    for each in fields(part):
        value, kind = getattr(part, each.name), _FIELDS.get(str(each.type))
        is_wrong = kind is not None and not isinstance(value, kind)
        if is_wrong or (kind is list and not all(isinstance(item, dict) for item in value)):
            return each.name
    return None


@dataclass(slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        parts: its content: text, images, files, audio, reasoning, tool calls.
        name: the speaker's name, to distinguish several with the same role; or None.
        tool_call_id: for the role `tool`, the id of the call that this is the result of.
        is_error: for the role `tool`, whether the call failed.

    Examples:
        >>> from piccc import Client, Message, Text
        >>> asked = Message("user", [Text("Say hello.")])
        >>> reply = Client().chat.create([asked])
        >>> [message.text for message in (asked, reply.message)]
        ['Say hello.', 'hello.']
    """

    role: Role
    parts: list[Part] = field(default_factory=list)
    name: str | None = None
    tool_call_id: str | None = None
    is_error: bool = False

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join([part.text for part in self.parts if isinstance(part, Text)])


@dataclass(slots=True)
class Tool:
    """A tool that the model may call.

    Attributes:
        name: the tool's name.
        description: what it does, for the model.
        parameters: the JSON Schema of its arguments; its type must be `object`.
        strict: whether the server must follow the schema exactly; None lets the server decide.
        extra: fields that are sent unchanged, such as cache marks.

    Examples:
        >>> from piccc import Client, Tool
        >>> schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        >>> weather = Tool("weather", "Return the weather of a city.", schema)
        >>> [call] = Client().chat.create("What is the weather in Oslo?", tools=[weather]).tool_calls
        >>> call.name, call.parse()
        ('weather', {'city': 'Oslo'})
    """

    name: str
    description: str = ""
    parameters: JSON = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None
    extra: JSON = field(default_factory=dict)


@dataclass(slots=True, frozen=True)
class NamedTool:
    """A tool choice that forces the tool with this `name`."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


@dataclass(slots=True)
class JSONSchema:
    """A response format: the answer must satisfy a JSON Schema.

    Attributes:
        schema: the JSON Schema, or a pydantic class.
        name: the schema's name in the request.
        strict: whether the server must follow the schema exactly; None lets the server decide.
        description: a description of the answer for the model.

    Examples:
        >>> from piccc import Client, JSONSchema
        >>> schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
        >>> print(Client().chat.create("Anna is 31 years old.", response_format=JSONSchema(schema)).text)
        {"age": 31}
    """

    schema: JSON | type[BaseModel]
    name: str = "answer"
    strict: bool | None = None
    description: str | None = None


@dataclass(slots=True, kw_only=True)
class ChatRequest:
    """A chat request. Fields that are None are left out of the body, so that the server decides.

    Only `model`, `messages` and Anthropic's `max_tokens` are documented; the rest is assumed to work as in
    the OpenAI and Anthropic APIs.

    Attributes:
        model: the model's name.
        messages: the conversation so far.
        tools: the tools that the model may call.
        tool_choice: `auto`, `none`, `required`, or a `NamedTool`.
        parallel_tool_calls: whether one reply may call several tools.
        response_format: a `JSONSchema` that the answer must satisfy, or `json` for any JSON.
        temperature: the sampling temperature.
        top_p: the cumulative probability for nucleus sampling, 0 to 1.
        max_tokens: the maximum number of tokens in the answer.
        stop: strings at which generation stops.
        seed: makes answers reproducible if the server supports it.
        reasoning_effort: how much to reason first, such as `low` or `high`.
        replay_reasoning: whether to send earlier reasoning back; None sends only signed reasoning, and only
            in the Anthropic dialect.
        extra_body: fields merged into the body last; they override all others.
        extra_headers: headers for this call only.
    """

    model: str
    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: JSONSchema | Literal["json"] | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    seed: int | None = None
    reasoning_effort: str | None = None
    replay_reasoning: bool | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    extra_headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Usage:
    """Token usage of one call, as counted by the server.

    Attributes:
        input_tokens: tokens in the prompt, including cached ones.
        output_tokens: tokens in the answer, including reasoning.
        cache_read_tokens: prompt tokens read from the server's cache.
        cache_creation_tokens: prompt tokens written to the server's cache.
        reasoning_tokens: reasoning tokens in the answer.
        audio_input_tokens, audio_output_tokens: audio tokens in prompt and answer.
        cache_creation_5m_tokens, cache_creation_1h_tokens: tokens written to the cache for five minutes and
            for an hour; 0 if the server does not report them.
        service_tier: the service tier that handled the call, or None.
        raw: the usage as the server sent it.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    cache_creation_5m_tokens: int = 0
    cache_creation_1h_tokens: int = 0
    service_tier: str | None = None
    raw: JSON = field(default_factory=dict, compare=False, repr=False)

    @property
    def total_tokens(self) -> int:
        """The sum of input and output tokens."""
        return self.input_tokens + self.output_tokens


@dataclass(slots=True)
class ChatReply:
    """A reply, complete or partial.

    Attributes:
        parts: reasoning, text, refusal and tool calls, valid and invalid, in the order of the reply.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter`, or another value from the server.
        usage: token usage, or None if the server reported none.
        model: the model that answered.
        id: the server's id for the reply.
        raw: the unmodified response body; empty for a stream.
        extra: other fields of the response, such as `system_fingerprint` and `logprobs`.
        record: the diagnostic record of the call.
    """

    parts: list[Part] = field(default_factory=list)
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str = ""
    id: str = ""
    raw: JSON = field(default_factory=dict)
    extra: JSON = field(default_factory=dict)
    record: Record = field(default_factory=Record)

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join([part.text for part in self.parts if isinstance(part, Text)])

    @property
    def reasoning(self) -> str:
        """The model's reasoning, as text."""
        return "".join([part.text for part in self.parts if isinstance(part, Reasoning)])

    @property
    def refusal(self) -> str:
        """The model's explanation of a refusal; may be empty even if `is_refusal` is true."""
        return "".join([part.text for part in self.parts if isinstance(part, Refusal)])

    @property
    def is_refusal(self) -> bool:
        """Whether the model refused to answer, with or without an explanation."""
        return any(isinstance(part, Refusal) for part in self.parts)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that are safe to run: their names and arguments are complete."""
        return [part for part in self.parts if isinstance(part, ToolCall)]

    @property
    def invalid_calls(self) -> list[InvalidToolCall]:
        """The calls that must not be run, each with its reason."""
        return [part for part in self.parts if isinstance(part, InvalidToolCall)]

    @property
    def message(self) -> Message:
        """The reply as a message, to continue the conversation."""
        return Message("assistant", list(self.parts))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Show the answer in a notebook, with model and usage below it."""
        from html import escape  # imported only when a reply is displayed

        answer = "\n".join([each for each in (self.text, self.refusal) if each])
        calls = [f"{call.name}({call.arguments})" for call in self.tool_calls]
        text = "\n".join([answer, *calls]).strip()
        details = [self.model] if self.model else []
        if self.usage is not None:
            details.append(f"{self.usage.input_tokens} tokens in, {self.usage.output_tokens} out")
        footer = " · ".join(details)
        html = (
            f'<div style="white-space:pre-wrap">{escape(text)}</div>'
            f'<div style="opacity:.6;font-size:85%">{escape(footer)}</div>'
        )
        return {"text/html": html, "text/plain": f"{text}\n({footer})" if footer else text}


@dataclass(slots=True)
class TextDelta:
    """More `text` or a `citation`; `block` is the text block's position in the reply."""

    text: str
    block: int = 0
    citation: JSON | None = None


@dataclass(slots=True)
class ReasoningDelta:
    """More reasoning: `text`, part of its `signature`, or a `redacted` block.

    `block` is its position in the reply.
    """

    text: str = ""
    block: int = 0
    signature: str | None = None
    redacted: str | None = None


@dataclass(slots=True)
class RefusalDelta:
    """More of a refusal's `text`; `block` is its position in the reply."""

    text: str
    block: int = 0


@dataclass(slots=True)
class ToolCallDelta:
    """The start of a tool call (`id` and `name` are set), or more of its `arguments`.

    `index` numbers the calls from 0; `block` is the call's position in the reply.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    block: int = 0


@dataclass(slots=True)
class RawDelta:
    """A complete content block in the dialect's own format, passed through unchanged."""

    data: JSON
    block: int = 0


Delta = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | RawDelta


CUT = ("length", "content_filter")
"""Finish reasons of answers that were cut off."""
_FINISHED = ("stop", "tool_calls")


def judge_calls(parts: Sequence[Part], finish_reason: str | None) -> list[Part]:
    """Return the parts of a reply, with each tool call either validated or made an `InvalidToolCall`.

    Only this function decides which calls are safe to run:

    - A call without a name is invalid.
    - If the answer was cut off (`length`, `content_filter`), a call that is its last part is always invalid:
      servers that parse arguments themselves, such as Anthropic's, close truncated JSON.
    - Empty text, `null` and `{}` mean no arguments if the answer ended normally. Otherwise the call is
      invalid in any position: a server may announce all calls before it sends any arguments.
    - Raw line breaks in strings are accepted, and escaped in `ToolCall.arguments`.
    - Anything else that is not a single JSON object, or is nested too deeply, is invalid.
    """
    last = next((part for part in reversed(parts) if not isinstance(part, Refusal)), None)
    return [
        _judge(part, finish_reason, is_last=part is last) if isinstance(part, ToolCall) else part
        for part in parts
    ]


def _judge(call: ToolCall, finish_reason: str | None, *, is_last: bool) -> ToolCall | InvalidToolCall:
    arguments = read_arguments(call.arguments)
    if not call.name:
        return InvalidToolCall(call.id, "", call.arguments, "unnamed")
    is_missing = arguments == {} and finish_reason not in _FINISHED
    if is_missing or (is_last and finish_reason in CUT):
        return InvalidToolCall(call.id, call.name, call.arguments, "cut")
    if arguments is None:
        return InvalidToolCall(call.id, call.name, call.arguments, "malformed")
    if is_strict_object(call.arguments):
        return call
    return ToolCall.of(call.id, call.name, arguments)
