"""Shared by both dialects: tolerant JSON I/O, and normalizing conversations for strict servers."""

from __future__ import annotations

import json
import logging
import os
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import zip_longest
from typing import Any, cast, get_args

from pydantic_core import from_json, to_json

from piccc.arguments import as_json, join_halves, read_arguments
from piccc.conversation import (
    CUT,
    JSON,
    PROVIDER,
    Audio,
    CachePoint,
    ChatRequest,
    Delta,
    File,
    Image,
    InvalidToolCall,
    Message,
    NamedTool,
    Part,
    Raw,
    RawDelta,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Role,
    Source,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    wrong_field,
)
from piccc.errors import InvalidArgumentError, UnsupportedContentError
from piccc.tasks import is_moderation

MESSAGE_LENGTH = 500
MAX_VALUES = 1_000_000
"""The maximum number of values in a text: 27 MB of `[[],[],…]` would take 700 MB of memory."""


def parse(text: str | bytes, *, slowly: bool = False) -> Any:
    """Parse JSON; lone surrogates and invalid UTF-8 become U+FFFD.

    `slowly` is for a worker thread: it releases the GIL now and then, so that the event loop can run.

    Raise ValueError if it is not JSON, is nested deeper than any reply, or has more than `MAX_VALUES` values.
    """
    if len(text) > MAX_VALUES:
        data = text.encode() if isinstance(text, str) else text
        if sum(data.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES:
            raise ValueError("too many values")
    try:
        # The parser holds the GIL throughout, unless it calls a Python function now and then.
        return _loads(text, object_hook=lambda each: each) if slowly else from_json(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        return from_json(join_halves(_rewritten(text)))


def _rewritten(text: str | bytes) -> str:
    # The slow parser accepts a byte order mark and lone surrogates, but does not limit the depth.
    try:
        return json.dumps(_loads(text), ensure_ascii=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _loads(text: str | bytes, **options: Any) -> Any:
    try:
        return json.loads(text, **options)
    except UnicodeDecodeError:
        return json.loads(cast("bytes", text).decode(errors="replace"), **options)


LARGE_TEXT = 64 * 1024


class LargeText:
    """A large string in a body, in `parts`, that is encoded as it is sent: base64 images and files."""

    def __init__(self, *parts: str) -> None:  # not a dataclass: pydantic would serialize it as an object
        self.parts = parts


def large(*parts: str) -> str | LargeText:
    """Join the parts, or keep them apart if joining would copy a lot."""
    return "".join(parts) if sum(map(len, parts)) < LARGE_TEXT else LargeText(*parts)


class LargeBody:
    """A request body whose bytes are produced as they are sent.

    Producing all bytes of 50 images at once takes two to three times their size in memory, and half of the
    call's CPU time to touch that memory for the first time.
    """

    def __init__(self, pieces: Sequence[bytes | LargeText]) -> None:
        self._pieces = pieces
        self._size = sum(
            len(each) if isinstance(each, bytes) else sum(map(len, each.parts)) for each in pieces
        )

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        for each in self._pieces:
            if isinstance(each, bytes):
                yield each
            else:
                yield from (part.encode("ascii") for part in each.parts)

    def __bytes__(self) -> bytes:
        return b"".join(self)


def serialize(body: Any) -> bytes:
    """Serialize to JSON; raise InvalidArgumentError for values that JSON cannot represent."""
    return bytes(request_body(body))


def request_body(body: Any) -> bytes | LargeBody:
    """Serialize like `serialize`, but encode large strings only as they are sent."""
    large_texts: list[LargeText] = []
    mark = ""

    def hold(value: object) -> str:
        nonlocal mark
        if not isinstance(value, LargeText):
            raise TypeError(f"{type(value).__name__} is not JSON")
        # Characters that JSON escapes get longer, and so do non-ASCII characters in UTF-8.
        if any(len(to_json(part)) != len(part) + 2 for part in value.parts):
            return "".join(value.parts)
        large_texts.append(value)
        mark = mark or os.urandom(16).hex()
        return mark

    try:
        written: bytes = to_json(body, inf_nan_mode="constants", fallback=hold)
        if not _has_constant(written):
            between = written.split(mark.encode()) if mark else [written]
            if len(between) == 1:
                return written
            return LargeBody([each for pair in zip_longest(between, large_texts) for each in pair if each])
    except (ValueError, RecursionError):
        pass  # the slower writer below replaces lone surrogates, and its error names an invalid value
    try:
        plain = json.loads(json.dumps(body, allow_nan=False, default=_plain))
        return json.dumps(as_json(plain), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"The request cannot be serialized to JSON: {error}", hint="Pass plain JSON values only."
        ) from None


def _has_constant(written: bytes) -> bool:
    """Return whether compact JSON may contain NaN or an infinity as a value.

    Finding the letters is not enough: the base64 of a large image is likely to contain NaN somewhere.
    """
    for name in (b"NaN", b"Infinity"):
        at = written.find(name)
        while at >= 0:
            if written[at - 1 : at] in (b"", b":", b",", b"[", b"-"):
                return True
            at = written.find(name, at + 1)
    return False


def _plain(value: Any) -> Any:
    if isinstance(value, LargeText):
        return "".join(value.parts)
    return json.loads(to_json(value))


def text_of(value: Any) -> str:
    """Read text that may be null, a string, or a list of text parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [each.get("text") if isinstance(each, dict) else each for each in value]
        return "".join([each for each in texts if isinstance(each, str)])
    return ""


def mapping(value: Any) -> JSON:
    """Return the value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[JSON]:
    """Return the objects in a list; anything else gives an empty list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def count(value: Any) -> int:
    """Read a count; anything but a positive number gives 0."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**63 else 0


def id_of(value: Any) -> str | None:
    """Read an id that may be a string, a number or missing."""
    return str(value) if isinstance(value, str | int) and value != "" else None


def arguments_of(value: Any) -> str:
    """Read a call's arguments, which may be JSON text, an object or null."""
    if isinstance(value, str):
        return value
    return "" if value is None else join_halves(json.dumps(value, ensure_ascii=False))


def call_id_of(value: Any, taken: Collection[str] = ()) -> str:
    """Read a tool call's id, generating one if it is missing; add a number if it is already taken."""
    id = id_of(value) or f"call_{uuid.uuid4().hex[:24]}"
    return next(each for each in (id, *(f"{id}_{n}" for n in range(2, len(taken) + 3))) if each not in taken)


def merge_usage(known: JSON, usage: JSON) -> None:
    """Update `known` with later usage of the same call; a later null or 0 does not erase a count.

    Some servers end a stream with zeros for tokens that they have already counted.
    """
    for name, value in usage.items():
        if isinstance(value, dict):
            inner = known.get(name)
            if not isinstance(inner, dict):
                inner = known[name] = {}
            merge_usage(inner, value)
        elif value or not known.get(name):
            known[name] = value


_FINISH = {
    **{word: word for word in ("stop", "length", "tool_calls", "content_filter")},
    "end_turn": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "model_length": "length",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "refusal": "content_filter",
}


def finish_reason_of(value: Any) -> str | None:
    """Normalize a finish reason; servers of both dialects may pass through their model's own values."""
    if not isinstance(value, str) or not value:
        return None
    if known := _FINISH.get(value.lower()):
        return known
    return "content_filter" if is_moderation(value) else value


def last_finish_reason(known: str | None, value: Any) -> str | None:
    """Return the finish reason after another one, which gateways may send: a cut answer stays cut."""
    return known if known in CUT else finish_reason_of(value) or known


def shorten(text: str, length: int = MESSAGE_LENGTH) -> str:
    """Put text on one line and truncate it."""
    text = " ".join(text[: length * 4].split())
    return text if len(text) <= length else text[: length - 1] + "…"


def server_error(error: Any) -> tuple[str, str | None]:
    """Return the message and code of an error, which may be an object or a string."""
    if not isinstance(error, dict):
        return shorten(str(error)), None
    message = text_of(error.get("message")) or text_of(error.get("msg"))
    code = id_of(error.get("code")) or id_of(error.get("type"))
    return shorten(message) or "no reason was given", code


# _HALF matches whole pairs and other escapes first, so that group 1 is a lone half. _BEGUN matches the start
# of an escape, or of a pair, at the end of the text.
_HEX = "[0-9a-fA-F]"
_HIGH, _LOW = rf"\\u[dD][89abAB]{_HEX}{{2}}", rf"\\u[dD][c-fC-F]{_HEX}{{2}}"
_HALF = re.compile(rf"{_HIGH}{_LOW}|({_HIGH}|{_LOW})|\\.", re.DOTALL)
_BEGUN = re.compile(
    rf"(?<!\\)(?:\\\\)*(\\(?:u{_HEX}{{0,3}})?|{_HIGH}(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?)\Z"
)


_TextualDelta = TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta


class SurrogateJoiner:
    """A buffer that holds back the first half of a surrogate pair until the second arrives, for each block.

    In a call's arguments, which are JSON text themselves, a half may also be an escape sequence.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[int, _TextualDelta] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a first half is held back."""
        return bool(self._waiting)

    def join(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Return the deltas with complete characters only."""
        joined = [self._join(delta) for delta in deltas]
        return [delta for delta in joined if not _is_empty(delta)]

    def finish(self) -> list[Delta]:
        """Return a replacement character for each half that is still held back."""
        deltas: list[Delta] = [_with_text(delta, _text(delta)) for delta in self._waiting.values()]
        self._waiting.clear()
        return deltas

    def _join(self, delta: Delta) -> Delta:
        if isinstance(delta, RawDelta):
            return delta
        held = self._waiting.pop(delta.block, None)
        text = (_text(held) if held is not None else "") + _text(delta)
        begun = 1 if "\ud800" <= text[-1:] <= "\udbff" else 0
        if isinstance(delta, ToolCallDelta) and "\\" in text:
            begun = len(match[1]) if (match := _BEGUN.search(text)) else begun
        if begun:
            self._waiting[delta.block] = _continuation(delta, text[-begun:])
            text = text[:-begun]
        return _with_text(delta, text)


def _continuation(delta: _TextualDelta, text: str) -> _TextualDelta:
    """Return a delta with more text for the same block."""
    match delta:
        case ToolCallDelta():
            return ToolCallDelta(delta.index, text, block=delta.block)
        case ReasoningDelta():
            return ReasoningDelta(text, delta.block)
    return replace(delta, text=text)


def _text(delta: _TextualDelta) -> str:
    return delta.arguments if isinstance(delta, ToolCallDelta) else delta.text


def _with_text(delta: _TextualDelta, text: str) -> _TextualDelta:
    """Return the delta with this text, replacing lone surrogates."""
    text = join_halves(text)
    match delta:
        case ToolCallDelta():
            text = _HALF.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
            return replace(delta, arguments=text, name=delta.name and join_halves(delta.name))
        case TextDelta():
            return replace(delta, text=text, citation=as_json(delta.citation))
    return replace(delta, text=text)


def _is_empty(delta: Delta) -> bool:
    if isinstance(delta, ToolCallDelta):
        return not delta.arguments and delta.name is None
    if isinstance(delta, ReasoningDelta):
        return not delta.text and delta.signature is None and delta.redacted is None
    return isinstance(delta, TextDelta) and not delta.text and delta.citation is None


logger = logging.getLogger("piccc")
AnyToolCall = ToolCall | InvalidToolCall
_ROLES = get_args(Role)
_NAME_LENGTH = 64
_ID_LENGTH = 40  # OpenAI's API: "string too long. Expected a string with maximum length 40"
_INVALID = re.compile(r"[^A-Za-z0-9_-]")
_SPEAKER = re.compile(r"[\s<|\\/>]+")  # the complement of the pattern in OpenAI's own error message
_NOT_RUN = "There is no result because the call was not run."


class ToolNames:
    """A mapping of tool names to names that servers accept, `[A-Za-z0-9_-]{1,64}`, and back.

    Valid names are kept. Others, such as `files.read`, are rewritten in the same way in every request.
    """

    def __init__(self, request: ChatRequest) -> None:
        names = [tool.name for tool in request.tools]
        if not all(isinstance(name, str) and name for name in names):
            raise InvalidArgumentError("A tool has no name.", hint="Give each tool a name.")
        self._sent = {name: name for name in names if _is_valid(name)}
        for name in names:
            if name not in self._sent:
                self._sent[name] = _unique(
                    _valid_name(name, _NAME_LENGTH), _NAME_LENGTH, set(self._sent.values())
                )
        choice = request.tool_choice
        if isinstance(choice, NamedTool) and choice.name not in self._sent:
            raise InvalidArgumentError(
                f"tool_choice names the tool {choice.name!r}, which is not in tools.",
                hint=f"Choose one of {', '.join(names)}." if names else "Pass it in tools=.",
            )
        if choice == "required" and not names:
            raise InvalidArgumentError(
                "tool_choice is 'required', but there are no tools.", hint="Pass tools=."
            )

    def sent(self, name: str) -> str:
        """Return the name to send for a tool, which need not be among the request's tools."""
        return self._sent.get(name) or _valid_name(name, _NAME_LENGTH) or "unnamed"

    @property
    def adapted(self) -> list[str]:
        """Descriptions of the rewritten names."""
        return [f"the tool {name!r} is sent as {sent!r}" for sent, name in self.originals.items()]

    @property
    def originals(self) -> dict[str, str]:
        """The original names of rewritten tools, by the names that are sent."""
        return {sent: name for name, sent in self._sent.items() if sent != name}


def check(request: ChatRequest, *, stream: bool) -> None:
    """Raise InvalidArgumentError for requests that neither dialect supports."""
    if not request.messages:
        raise InvalidArgumentError("There are no messages.", hint="Pass a string or at least one message.")
    for at, message in enumerate(request.messages):
        if message.role not in _ROLES:
            raise InvalidArgumentError(
                f"Message {at} has the unknown role {message.role!r}.",
                hint=f"Use one of {', '.join(_ROLES)}.",
            )
        wrong = [f"{type(part).__name__}.{name}" for part in message.parts if (name := wrong_field(part))]
        wrong += [
            name for name in ("name", "tool_call_id") if not isinstance(getattr(message, name), str | None)
        ]
        if wrong:
            raise InvalidArgumentError(
                f"Message {at} has fields of the wrong type: {', '.join(wrong)}.",
                hint="Most fields of a message are strings.",
            )
    if request.extra_body.get("n", 1) not in (1, None):
        raise InvalidArgumentError(
            "n is more than 1, but only one answer is returned: the others would be billed and lost.",
            hint="Make several calls, concurrently if needed.",
        )
    if request.extra_body.get("stream") and not stream:
        raise InvalidArgumentError(
            "extra_body asks for a stream, but this method reads a whole reply: it would be billed and lost.",
            hint="Leave stream out, and call the method that streams.",
        )


def sent_arguments(call: AnyToolCall) -> JSON:
    """Return a call's arguments as they are sent back to the server, which accepts only an object.

    Invalid arguments are wrapped in an object as text, so that the model can see what it wrote.
    """
    arguments = read_arguments(call.arguments)
    if isinstance(call, ToolCall) and arguments is not None:
        return arguments
    return {} if arguments == {} else {"invalid_arguments": join_halves(call.arguments)}


def sent_name(message: Message) -> str | None:
    """Return the speaker's name in a form that servers accept."""
    return _SPEAKER.sub("_", message.name)[:_NAME_LENGTH] if message.name else None


def flat(part: Text | Refusal | Source) -> str:
    """Return a text or a passage as text."""
    if not isinstance(part, Source):
        return part.text
    return "\n".join(each for each in (part.title, part.url, part.text) if each)


def sendable(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with only the content each role allows, and with each call's result after it.

    - Images, files and audio in system and assistant messages are moved to a separate user turn after them.
    - Blocks of other providers' tools and other providers' signatures are left out.
    - Results are moved directly after their calls, and duplicate results are merged. A call without a result
      gets one that says so.
    - Call ids are unique and consist of `[A-Za-z0-9_-]`.

    Raise InvalidArgumentError for a result without a call, and UnsupportedContentError for calls in a user
    message.
    """
    turns = [turn for at, message in enumerate(messages) for turn in _turns(message, at)]
    ids, results = _match_results(turns)
    return [each for turn in turns if turn.role != "tool" for each in _in_order(turn, ids, results)]


def _in_order(turn: Message, ids: dict[int, str], results: dict[int, Message]) -> Iterator[Message]:
    calls = [part for part in turn.parts if isinstance(part, AnyToolCall)]
    yield replace(
        turn,
        parts=[
            replace(part, id=ids[id(part)]) if isinstance(part, AnyToolCall) else part for part in turn.parts
        ],
    )
    for call in calls:
        if (result := results.get(id(call))) is None:
            error = call.error if isinstance(call, InvalidToolCall) else _NOT_RUN
            result = Message("tool", [Text(error)], is_error=True)
        yield replace(result, tool_call_id=ids[id(call)])


def _match_results(turns: Iterable[Message]) -> tuple[dict[int, str], dict[int, Message]]:
    """Return a unique id and the result of each call, both by the call's `id()`."""
    ids: dict[int, str] = {}
    results: dict[int, Message] = {}
    latest: dict[str, list[AnyToolCall]] = {}
    taken: set[str] = set()
    for turn in turns:
        calls = [part for part in turn.parts if isinstance(part, AnyToolCall)]
        for call in calls:
            ids[id(call)] = _unique(_valid_name(call.id, _ID_LENGTH) or "call", _ID_LENGTH, taken)
            taken.add(ids[id(call)])
        if calls:
            latest.update({call.id: [each for each in calls if each.id == call.id] for call in calls})
        if turn.role == "tool":
            candidates = latest.get(turn.tool_call_id or "")
            if not candidates:
                raise InvalidArgumentError(
                    f"There is a result for the call {turn.tool_call_id!r}, but no such call before it.",
                    hint="Keep calls and their results together when you shorten a conversation.",
                )
            call = next((each for each in candidates if id(each) not in results), candidates[-1])
            if (known := results.get(id(call))) is not None:
                turn = replace(
                    known, parts=[*known.parts, *turn.parts], is_error=known.is_error and turn.is_error
                )
            results[id(call)] = turn
    return ids, results


def _turns(message: Message, at: int) -> Iterator[Message]:
    """Yield a message with the content its role allows, then a user turn with media that it does not."""
    match message.role:
        case "user":
            yield replace(message, parts=[_user_part(part) for part in message.parts])
        case "tool":
            if not message.tool_call_id:
                raise InvalidArgumentError(
                    f"Message {at} is a tool result without tool_call_id.",
                    hint="Set tool_call_id to the id of the call.",
                )
            yield replace(message, parts=[_result_part(part) for part in message.parts])
        case "system":
            kept = [part for part in message.parts if isinstance(part, Text | Refusal | Source | CachePoint)]
            if any(not isinstance(part, CachePoint) for part in kept):
                yield replace(
                    message,
                    parts=[part if isinstance(part, CachePoint) else Text(flat(part)) for part in kept],
                )
            yield from _media_of(message, (Raw,))
        case "assistant":
            yield replace(message, parts=[each for part in message.parts for each in _assistant_parts(part)])
            yield from _media_of(message, ())


def _media_of(message: Message, further: tuple[type[Part], ...]) -> Iterator[Message]:
    media: list[Part] = [part for part in message.parts if isinstance(part, (Image, File, Audio, *further))]
    if media:
        yield Message("user", media)


def _user_part(part: Part) -> Part:
    if isinstance(part, AnyToolCall):
        raise UnsupportedContentError(
            "A user message cannot contain a tool call.", hint="Put it in an assistant message."
        )
    return Text(part.text) if isinstance(part, Refusal | Reasoning) else part


def _result_part(part: Part) -> Part:
    match part:
        case Refusal() | Reasoning():
            return Text(part.text)
        case ToolCall() | InvalidToolCall():
            return Text(f"{part.name}({part.arguments})")
        case Raw():
            return Text(json.dumps(as_json(part.data), ensure_ascii=False))
    return part


def placeholder(part: Part, error: UnsupportedContentError | InvalidArgumentError) -> Text:
    """Return a text in place of a tool's content that cannot be sent.

    The error itself would end the agent, and each later call with the same history.
    """
    kind = type(part).__name__.lower()
    logger.warning("A tool returned %s content that cannot be sent: %s", kind, error.message)
    return Text(f"[{kind} content, which cannot be shown here: {error.message}]")


def _assistant_parts(part: Part) -> Iterator[Part]:
    match part:
        case Source():
            yield Text(flat(part))
        case ToolCall() if read_arguments(part.arguments) is None:
            yield InvalidToolCall(part.id, part.name, part.arguments, "malformed")
        case ToolCall() | InvalidToolCall():
            yield replace(part)  # a copy: calls are identified by `id()`, and one object may occur twice
        case Reasoning() if part.provider != PROVIDER:
            if part.text:
                yield Reasoning(part.text)
        case Raw() if part.provider != PROVIDER:
            log_omitted(part, f"it is from {part.provider}")
        case Image() | File() | Audio():
            pass
        case _:
            yield part


def log_omitted(part: Raw, reason: str) -> None:
    """Log that a block of an assistant message is not sent back."""
    logger.debug("A block of type %r is not sent back: %s.", part.data.get("type"), reason)


def _is_valid(name: str) -> bool:
    return len(name) <= _NAME_LENGTH and not _INVALID.search(name)


def _valid_name(name: str, length: int) -> str:
    """Replace invalid characters and shorten the name, always in the same way."""
    valid = _INVALID.sub("_", name)
    if len(valid) <= length:
        return valid
    return f"{valid[: length - 9]}_{blake2b(name.encode(errors='replace'), digest_size=4).hexdigest()}"


def _unique(name: str, length: int, taken: set[str]) -> str:
    numbered = (f"{name[: length - 6]}_{n}" for n in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)
