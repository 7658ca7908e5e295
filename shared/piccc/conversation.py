"""The neutral conversation: messages, requests, replies, stream deltas, call records, models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from piccc.arguments import is_strict_object, read_arguments, write_arguments

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a chat model can take and give.

    The names are documented by the provider. Every limit and ability here is **assumed**.

    Attributes:
        name: the model's public name.
        context_window: tokens that prompt and answer may have together.
        max_output_tokens: tokens that one answer may have.
        tools: whether it calls tools.
        json_schema: whether it keeps to a JSON Schema by itself.
        image_input: whether it reads images.
    """

    name: str
    context_window: int = 128_000
    max_output_tokens: int = 16_384
    tools: bool = True
    json_schema: bool = True
    image_input: bool = True


MODELS = {name: ModelInfo(name) for name in ("piccc-flash", "piccc-pro", "piccc-ultra")}
"""The documented chat models by their names; what is said of them is assumed."""
DEFAULT_MODEL = "piccc-pro"
DEFAULT_MAX_TOKENS = 4096
"""How many tokens an answer may have over the Anthropic route, which demands a limit, where none is set.

It is ours, not the provider's: small enough for small servers, long enough for most answers. With reasoning,
its budget is added.
"""
MAX_ANSWERS = 2
"""How many replies one object may cost: the first, and one more if it does not fit."""


def model_info(name: str) -> ModelInfo:
    """Return what is assumed of a model.

    Args:
        name: the model's id; one that is not in the table gets the same assumptions.
    """
    return MODELS.get(name) or ModelInfo(name)


@dataclass(slots=True)
class Attempt:
    """One sending of a request.

    Attributes:
        outcome: the HTTP status as text, or what went wrong; `stale connection` where the server had closed
            an idle connection and the request was sent once more on a fresh one, which is no retry.
        elapsed: seconds until the outcome was known.
        request_id: the server's id of it, or None.
        waited: seconds slept afterwards, before the next attempt.
        queued: seconds spent waiting for one of `max_connections`.
    """

    outcome: str
    elapsed: float
    request_id: str | None = None
    waited: float = 0.0
    queued: float = 0.0


@dataclass(slots=True)
class Record:
    """What one call did; it is on every reply and on every error.

    Attributes:
        method, path: of the request.
        backend: what sent it, with its version: `h11` (our own connections), `httpx` or `httpx2`.
        attempts: each sending of it, in order.
        bytes_received: of the reply's body.
        time_to_first_event: seconds from the call's beginning to a stream's first event, or None.
        elapsed: seconds of the whole call.
        rate_limit: the reply's `x-ratelimit-*` headers (assumed, may be empty).
        adapted: what was changed of what was asked for, so that the server takes it, in words.
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
        """The server's id of the last attempt that had one."""
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
    # `asdict` copies each leaf with care, which every reply would pay for.
    return {name: getattr(value, name) for name in value.__slots__}


Role = Literal["system", "user", "assistant", "tool"]
JSON = dict[str, Any]
PROVIDER = "piccc"
"""Whose reasoning and raw blocks those of our replies are."""


@dataclass(slots=True)
class Text:
    """Plain `text`, with the `citations` of a reply as the server gave them."""

    text: str
    citations: list[JSON] = field(default_factory=list)


@dataclass(slots=True)
class Image:
    """An image: by `url`, or as base64 `data` with its `media_type`; `detail` is `low`, `high` or `auto`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None


@dataclass(slots=True)
class File:
    """A document: by `url`, by `file_id`, or as base64 `data` with its `media_type`; `name` is its file's.

    `context` is what to know of it besides, and `citations` whether the answer may cite it. The OpenAI
    dialect has a word for neither: there the context is a text before it, and a text document with either is
    a text.
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
    """Sound as base64 `data`; `format` is `wav`, `mp3` and so on."""

    data: str
    format: str


@dataclass(slots=True)
class Source:
    """A passage that the model may cite: its `title`, the `url` where it is from, and its `text`."""

    text: str
    title: str = ""
    url: str = ""


@dataclass(slots=True)
class CachePoint:
    """A mark: what stands before it may be cached by the server, for as long as `ttl` says, such as `5m`.

    Dialects without caching leave it out.
    """

    ttl: str | None = None


@dataclass(slots=True)
class Reasoning:
    """What a model thought, as `text`.

    `signature` and `redacted` go back unchanged to the `provider` whose model made them, and to no other.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    provider: str = PROVIDER


@dataclass(slots=True)
class Refusal:
    """The model's words where it declined to answer, as `text`; empty where it gave none."""

    text: str


@dataclass(slots=True)
class ToolCall:
    """A request of the model to call a tool. In a reply it may be acted on; else it is an `InvalidToolCall`.

    Attributes:
        id: names the call; the message with its result has it as `tool_call_id`.
        name: the tool's name.
        arguments: their JSON text; in a reply always that of an object. `parse` reads it.
    """

    id: str
    name: str
    arguments: str = "{}"

    @classmethod
    def of(cls, id: str, name: str, arguments: Mapping[str, Any]) -> ToolCall:
        """Return a call from arguments as an object.

        Args:
            id: the call's id.
            name: the tool's name.
            arguments: the arguments; what JSON has no word for, such as dates and decimals, becomes text.
        """
        return cls(id, name, write_arguments(arguments))

    def parse(self) -> JSON:
        """Return the arguments as an object.

        Raises:
            ValueError: they are not the JSON text of one; never so in a call of a reply.
        """
        arguments = read_arguments(self.arguments)
        if arguments is None:
            raise ValueError(f"The arguments of a call of {self.name!r} are not the JSON text of an object.")
        return arguments


InvalidReason = Literal["cut", "malformed", "unnamed"]


@dataclass(slots=True)
class InvalidToolCall:
    """A call that must not be acted on: what it asks for did not come whole, or cannot be read.

    A reply has the same invalid calls whether it was read whole or as a stream, over either dialect. As a
    part of a message it can be sent back.

    Attributes:
        id: names the call; the message with its result has it as `tool_call_id`.
        name: the tool's name, or empty where none came.
        arguments: their text as far as it came.
        reason: `cut` where the answer ended before the arguments did, `malformed` where they are not the JSON
            text of an object, or `unnamed`.
    """

    id: str
    name: str
    arguments: str
    reason: InvalidReason

    @property
    def error(self) -> str:
        """What is wrong and what to do about it, in words for the model: the result of such a call."""
        return _INVALID[self.reason]


INVALID_REASONS = get_args(InvalidReason)
_INVALID: dict[InvalidReason, str] = {
    "cut": (
        "The call was cut off before its arguments were complete, so the tool was not run. "
        "Call it again with all of its arguments; if they are long, split the work into smaller calls."
    ),
    "malformed": (
        "The arguments of the call are not the JSON text of an object, so the tool was not run. "
        "Call it again with valid JSON."
    ),
    "unnamed": (
        "The call does not name a tool, so nothing was run. Call one of the available tools by its name."
    ),
}


@dataclass(slots=True)
class Raw:
    """A content block in the dialect's own words.

    In a user's message it is sent as it is. In an assistant's it is sent only if `provider` is Piccc and
    the dialect takes its type there, and in a tool's result it is sent as text.
    """

    data: JSON
    provider: str = PROVIDER


Part = (
    Text | Image | File | Audio | Source | CachePoint | Reasoning | Refusal | ToolCall | InvalidToolCall | Raw
)


_FIELDS: dict[str, Any] = {"str": str, "str | None": str | None, "JSON": dict, "list[JSON]": list}
"""The fields of parts whose types are checked, as they are written above."""


def wrong_field(part: Part) -> str | None:
    """Return the name of a part's field that is not of its type, as frameworks' histories may have it."""
    for each in fields(part):
        value, kind = getattr(part, each.name), _FIELDS.get(str(each.type))
        is_wrong = kind is not None and not isinstance(value, kind)
        if is_wrong or (kind is list and not all(isinstance(one, dict) for one in value)):
            return each.name
    return None


@dataclass(slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        parts: what it says: text, images, files, sound, reasoning, tool calls.
        name: who speaks, where several have one role; or None.
        tool_call_id: with the role `tool`, the call whose result this is.
        is_error: with the role `tool`, whether the call failed.

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
    """A tool on offer.

    Attributes:
        name: by which the model calls it.
        description: what it does, for the model to read.
        parameters: the JSON Schema of its arguments, an object's.
        strict: whether the server must keep to the schema exactly; None leaves it to the server.
        extra: fields that are passed on unread, such as cache marks.

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
    """The choice of one tool by its `name`."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedTool


@dataclass(slots=True)
class JSONSchema:
    """An answer that must satisfy a JSON Schema.

    Attributes:
        schema: the JSON Schema, or a pydantic class that has one.
        name: what the answer is called on the wire.
        strict: whether the server must keep to the schema exactly; None leaves it to the server.
        description: what the answer is, for the model to read.

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
    """All that one call asks for. What is None is left out of the body, so that the server decides.

    Documented are `model`, `messages`, and Anthropic's `max_tokens`; the rest is as either dialect's own API
    has it (assumed).

    Attributes:
        model: the model's name.
        messages: the conversation so far.
        tools: the tools on offer.
        tool_choice: `auto`, `none`, `required`, or a `NamedTool`.
        parallel_tool_calls: whether one reply may call several tools.
        response_format: a `JSONSchema` that the answer must satisfy, or `json` for any JSON.
        temperature: how freely to choose words.
        top_p: how much of the likely words to choose from, 0 to 1.
        max_tokens: how many tokens the answer may have.
        stop: texts at which the answer ends.
        seed: a number that makes answers repeatable, where the server can.
        reasoning_effort: how much to think first, such as `low` or `high`.
        replay_reasoning: send earlier reasoning back; None only what is signed, to the dialect that signs.
        extra_body: fields that are merged over the body last.
        extra_headers: headers of this call alone.
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
    """Tokens of one call, as the server counts them.

    Attributes:
        input_tokens: of the whole prompt, cached parts included.
        output_tokens: of the whole answer, reasoning included.
        cache_read_tokens: of the prompt, those read from the server's cache.
        cache_creation_tokens: of the prompt, those written to it.
        reasoning_tokens: of the answer, those thought.
        audio_input_tokens, audio_output_tokens: of prompt and answer, those of audio.
        cache_creation_5m_tokens, cache_creation_1h_tokens: of those written to the cache, those kept for five
            minutes and for an hour; 0 where the server does not say.
        service_tier: in which the call was served, or None.
        raw: the numbers as the server gave them.
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
        """Input and output together."""
        return self.input_tokens + self.output_tokens


@dataclass(slots=True)
class ChatReply:
    """A reply, whole or as far as it had come.

    Attributes:
        parts: reasoning, text, refusal and tool calls, valid and invalid, in the order of the reply.
        finish_reason: `stop`, `length`, `tool_calls`, `content_filter`, or the server's own word.
        usage: tokens, or None where the server gave none.
        model: the model that answered.
        id: the server's id of the reply.
        raw: a whole reply's body as it came; empty for a stream.
        extra: fields of the reply that have no place here, such as `system_fingerprint` and `logprobs`.
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
        """What the model thought, as text."""
        return "".join([part.text for part in self.parts if isinstance(part, Reasoning)])

    @property
    def refusal(self) -> str:
        """The model's words where it declined; empty where it did not, or gave none: see `is_refusal`."""
        return "".join([part.text for part in self.parts if isinstance(part, Refusal)])

    @property
    def is_refusal(self) -> bool:
        """Whether the model declined to answer, with words or without."""
        return any(isinstance(part, Refusal) for part in self.parts)

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that may be acted on: their names and whole arguments have come."""
        return [part for part in self.parts if isinstance(part, ToolCall)]

    @property
    def invalid_calls(self) -> list[InvalidToolCall]:
        """The calls that must not be acted on; each says why."""
        return [part for part in self.parts if isinstance(part, InvalidToolCall)]

    @property
    def message(self) -> Message:
        """The reply as a message, to go on with the conversation."""
        return Message("assistant", list(self.parts))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """Show the answer in a notebook, and below it what it used."""
        from html import escape  # for those who look at a reply only

        answer = "\n".join([each for each in (self.text, self.refusal) if each])
        calls = [f"{call.name}({call.arguments})" for call in self.tool_calls]
        text = "\n".join([answer, *calls]).strip()
        used = [self.model] if self.model else []
        if self.usage is not None:
            used.append(f"{self.usage.input_tokens} tokens in, {self.usage.output_tokens} out")
        facts = " · ".join(used)
        html = (
            f'<div style="white-space:pre-wrap">{escape(text)}</div>'
            f'<div style="opacity:.6;font-size:85%">{escape(facts)}</div>'
        )
        return {"text/html": html, "text/plain": f"{text}\n({facts})" if facts else text}


@dataclass(slots=True)
class TextDelta:
    """More of the `text`, or a `citation` of it; `block` tells one run of text from another."""

    text: str
    block: int = 0
    citation: JSON | None = None


@dataclass(slots=True)
class ReasoningDelta:
    """More of the reasoning: of its `text` or its `signature`, or a `redacted` piece of it.

    `block` tells where in the reply it stands.
    """

    text: str = ""
    block: int = 0
    signature: str | None = None
    redacted: str | None = None


@dataclass(slots=True)
class RefusalDelta:
    """More of the refusal's `text`; `block` tells where in the reply it stands."""

    text: str
    block: int = 0


@dataclass(slots=True)
class ToolCallDelta:
    """A call's beginning (`id` and `name` set) or more of its `arguments`.

    `index` counts calls from 0; `block` tells where in the reply the call stands.
    """

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None
    block: int = 0


@dataclass(slots=True)
class RawDelta:
    """A whole content block in the dialect's own words, passed through unread."""

    data: JSON
    block: int = 0


Delta = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | RawDelta


_CUT = ("length", "content_filter")
_FINISHED = ("stop", "tool_calls")


def judge_calls(parts: Sequence[Part], finish_reason: str | None) -> list[Part]:
    """Return the parts of a reply with each call, its text as it came, made valid or invalid.

    This is the one place that decides what may be acted on:

    - A call without a name is invalid.
    - Where the answer was cut off (`length`, `content_filter`), a call that is its last part is invalid
      whatever it says: a server that parses arguments itself, as Anthropic's does, closes what was cut.
    - Empty text, `null` and `{}` are an object without entries if the answer ended of itself. Else the call
      is invalid wherever it stands: a server may announce all calls before the arguments of any.
    - Line breaks within strings are read as they stand, and escaped in `ToolCall.arguments`.
    - Anything else that is not the text of one JSON object, or nests too deeply, is invalid.
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
    never_came = arguments == {} and finish_reason not in _FINISHED
    if never_came or (is_last and finish_reason in _CUT):
        return InvalidToolCall(call.id, call.name, call.arguments, "cut")
    if arguments is None:
        return InvalidToolCall(call.id, call.name, call.arguments, "malformed")
    if is_strict_object(call.arguments):
        return call
    return ToolCall.of(call.id, call.name, arguments)
