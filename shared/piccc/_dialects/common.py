"""What both dialects share: reading and writing JSON, and conversations that strict servers accept."""

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
    Role,
    Source,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    wrong_field,
)
from piccc.errors import InvalidArgumentError, ResponseError, UnsupportedContentError
from piccc.tasks import is_moderation

MESSAGE_LENGTH = 500
MAX_VALUES = 1_000_000
"""How many values a text may hold: 27 MB of `[[],[],…]` would take 700 MB of memory."""


def parse(text: str | bytes, *, slowly: bool = False) -> Any:
    """Parse JSON; a half of a surrogate pair, and what is no UTF-8, becomes U+FFFD.

    `slowly` is for another thread beside an event loop: it lets that run now and then.

    Raise ValueError where it is no JSON, nests deeper than any reply does, or holds more than `MAX_VALUES`.
    """
    if len(text) > MAX_VALUES:
        data = text.encode() if isinstance(text, str) else text
        if sum(data.count(mark) for mark in (b"[", b"{", b",")) > MAX_VALUES:
            raise ValueError("too many values")
    try:
        # A parser holds the interpreter from end to end, unless it calls a Python function now and then.
        return _loads(text, object_hook=lambda each: each) if slowly else from_json(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        return from_json(join_halves(_rewritten(text)))


def _rewritten(text: str | bytes) -> str:
    # The slow parser knows a byte order mark and lone halves of surrogate pairs; it does not bound the depth.
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
    """A text of a body, in `parts`, that is written when it is sent: images and files as base64."""

    def __init__(self, *parts: str) -> None:  # no dataclass: pydantic's writer would take it for an object
        self.parts = parts


def large(*parts: str) -> str | LargeText:
    """Return the parts as one text, or apart where that would copy much."""
    return "".join(parts) if sum(map(len, parts)) < LARGE_TEXT else LargeText(*parts)


class LargeBody:
    """A request's body, whose bytes are made as they are sent.

    To write all of 50 images at once takes two to three times their size, and half of the call's CPU: for
    memory that is touched for the first time.
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
    """Write JSON; raise InvalidArgumentError for what JSON cannot say."""
    return bytes(request_body(body))


def request_body(body: Any) -> bytes | LargeBody:
    """Write JSON, but for large texts; raise InvalidArgumentError for what JSON cannot say."""
    large_texts: list[LargeText] = []
    mark = ""

    def hold(value: object) -> str:
        nonlocal mark
        if not isinstance(value, LargeText):
            raise TypeError(f"{type(value).__name__} is not JSON")
        # Whatever JSON escapes gets longer; so does, in UTF-8, what is not ASCII.
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
        pass  # halves of surrogate pairs, which the careful writer replaces, or nonsense, which it names
    try:
        whole = json.loads(json.dumps(body, allow_nan=False, default=_plain))
        return json.dumps(as_json(whole), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"The request cannot be written as JSON: {error}", hint="Give plain JSON values only."
        ) from None


def _has_constant(written: bytes) -> bool:
    """Return whether NaN or an infinity may stand in compact JSON as a value.

    The letters alone say nothing: the base64 of a large image has NaN in it somewhere.
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
    """Read a text where null, a string, or a list of text parts may stand."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = [each.get("text") if isinstance(each, dict) else each for each in value]
        return "".join([each for each in texts if isinstance(each, str)])
    return ""


def mapping(value: Any) -> JSON:
    """Read an object where anything may stand."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[JSON]:
    """Read a list of objects where anything may stand."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def count(value: Any) -> int:
    """Read a count where null, a float or nonsense may stand."""
    return int(value) if isinstance(value, int | float) and 0 < value < 2**63 else 0


def id_of(value: Any) -> str | None:
    """Read an id where a string, a number or nothing may stand."""
    return str(value) if isinstance(value, str | int) and value != "" else None


def arguments_of(value: Any) -> str:
    """Read a call's arguments where JSON text, an object or null may stand."""
    if isinstance(value, str):
        return value
    return "" if value is None else join_halves(json.dumps(value, ensure_ascii=False))


def own_id(value: Any, taken: Collection[str] = ()) -> str:
    """Read the id of a tool call; make one where it came without, and tell it apart from another's."""
    id = id_of(value) or f"call_{uuid.uuid4().hex[:24]}"
    return next(each for each in (id, *(f"{id}_{n}" for n in range(2, len(taken) + 3))) if each not in taken)


def merge_usage(known: JSON, usage: JSON) -> None:
    """Add to what is known of a call's usage; a later null or 0 does not wipe a count out.

    Some servers end a stream with zeros for what they have counted before.
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
    """Read why an answer ended; servers of either dialect pass their model's own word through."""
    if not isinstance(value, str) or not value:
        return None
    if known := _FINISH.get(value.lower()):
        return known
    return "content_filter" if is_moderation(value) else value


def shorten(text: str, length: int = MESSAGE_LENGTH) -> str:
    """Return a text on one line, cut to a length."""
    text = " ".join(text[: length * 4].split())
    return text if len(text) <= length else text[: length - 1] + "…"


def server_error(error: Any) -> tuple[str, str | None]:
    """Read message and code where an error object or a string may stand."""
    if not isinstance(error, dict):
        return shorten(str(error)), None
    message = text_of(error.get("message")) or text_of(error.get("msg"))
    code = id_of(error.get("code")) or id_of(error.get("type"))
    return shorten(message) or "no reason was given", code


def not_a_reply(payload: object) -> ResponseError:
    """Return the error for a reply of the wrong shape."""
    if isinstance(payload, dict) and payload.get("error"):
        message, code = server_error(payload["error"])
        return ResponseError(f"The server answered 200 with an error: {message}", code=code)
    kind = f"an object with {sorted(payload)[:8]}" if isinstance(payload, dict) else type(payload).__name__
    return ResponseError(
        f"The server's reply is not a chat reply but {shorten(kind)}.",
        hint="Check that base_url is the address of a Piccc API, and that the dialect is one it speaks.",
        may_have_been_billed=True,
    )


# A half as an escape, which a whole pair and an escaped backslash are not; and what may become such a pair.
_HEX = "[0-9a-fA-F]"
_HIGH, _LOW = rf"\\u[dD][89abAB]{_HEX}{{2}}", rf"\\u[dD][c-fC-F]{_HEX}{{2}}"
_HALF = re.compile(rf"{_HIGH}{_LOW}|({_HIGH}|{_LOW})|\\.", re.DOTALL)
_BEGUN = re.compile(
    rf"(?<!\\)(?:\\\\)*(\\(?:u{_HEX}{{0,3}})?|{_HIGH}(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?)\Z"
)


class SurrogateJoiner:
    """Hold the first half of a character back until its second half comes, block by block.

    In the arguments of a call, which are JSON text themselves, a half may be an escape too.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[int, Delta] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a first half is held."""
        return bool(self._waiting)

    def join(self, deltas: Iterable[Delta]) -> list[Delta]:
        """Return the deltas with whole characters only."""
        joined = [self._join(delta) for delta in deltas]
        return [delta for delta in joined if not _is_empty(delta)]

    def finish(self) -> list[Delta]:
        """Return a replacement character for each half whose other half never came."""
        lost = [_with_text(delta, _text(delta)) for delta in self._waiting.values()]
        self._waiting.clear()
        return lost

    def _join(self, delta: Delta) -> Delta:
        if isinstance(delta, RawDelta):
            return delta
        held = self._waiting.pop(delta.block, None)
        text = (_text(held) if held is not None else "") + _text(delta)
        begun = 1 if "\ud800" <= text[-1:] <= "\udbff" else 0
        if isinstance(delta, ToolCallDelta) and "\\" in text:
            begun = len(found[1]) if (found := _BEGUN.search(text)) else begun
        if begun:
            self._waiting[delta.block] = _more(delta, text[-begun:])
            text = text[:-begun]
        return _with_text(delta, text)


def _more(delta: Delta, text: str) -> Delta:
    """Return a delta that goes on where this one began."""
    match delta:
        case ToolCallDelta():
            return ToolCallDelta(delta.index, text, block=delta.block)
        case ReasoningDelta():
            return ReasoningDelta(text, delta.block)
        case RawDelta():
            return delta
    return replace(delta, text=text)


def _text(delta: Delta) -> str:
    if isinstance(delta, ToolCallDelta):
        return delta.arguments
    return "" if isinstance(delta, RawDelta) else delta.text


def _with_text(delta: Delta, text: str) -> Delta:
    """Return the delta with this text, whose halves without a partner are replaced."""
    text = join_halves(text)
    match delta:
        case ToolCallDelta():
            text = _HALF.sub(lambda found: "\\ufffd" if found[1] else found[0], text)
            return replace(delta, arguments=text, name=delta.name and join_halves(delta.name))
        case TextDelta():
            return replace(delta, text=text, citation=as_json(delta.citation))
        case RawDelta():
            return delta
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
_ID_LENGTH = 40  # what OpenAI's API takes: "string too long. Expected a string with maximum length 40"
_OUTSIDE = re.compile(r"[^A-Za-z0-9_-]")
_SPEAKER = re.compile(r"[\s<|\\/>]+")  # the complement of the pattern in OpenAI's own error message
_NOT_RUN = "There is no result: the call was not run."


class ToolNames:
    """The names of tools as servers take them, `[A-Za-z0-9_-]{1,64}`, and the way back.

    A name within that alphabet stays; others, such as `files.read`, are rewritten, alike in each request.
    """

    def __init__(self, request: ChatRequest) -> None:
        names = [tool.name for tool in request.tools]
        if not all(isinstance(name, str) and name for name in names):
            raise InvalidArgumentError("A tool has no name.", hint="Give each tool a name.")
        self._sent = {name: name for name in names if _fits(name)}
        for name in names:
            if name not in self._sent:
                self._sent[name] = _untaken(
                    _fitting(name, _NAME_LENGTH), _NAME_LENGTH, set(self._sent.values())
                )
        choice = request.tool_choice
        if isinstance(choice, NamedTool) and choice.name not in self._sent:
            raise InvalidArgumentError(
                f"tool_choice names the tool {choice.name!r}, which is not on offer.",
                hint=f"Choose one of {', '.join(names)}." if names else "Give it in tools=.",
            )
        if choice == "required" and not names:
            raise InvalidArgumentError(
                "tool_choice is 'required', but no tool is on offer.", hint="Give tools=."
            )

    def sent(self, name: str) -> str:
        """Return the name that is sent for a tool's, whether it is on offer or not."""
        return self._sent.get(name) or _fitting(name, _NAME_LENGTH) or "unnamed"

    @property
    def adapted(self) -> list[str]:
        """What was rewritten, in words."""
        return [f"the tool {name!r} is sent as {sent!r}" for sent, name in self.originals.items()]

    @property
    def originals(self) -> dict[str, str]:
        """The names that were rewritten, by what is sent for them."""
        return {sent: name for name, sent in self._sent.items() if sent != name}


def check(request: ChatRequest) -> None:
    """Raise InvalidArgumentError for what neither dialect can carry or answer."""
    if not request.messages:
        raise InvalidArgumentError("There is no message.", hint="Give a string or at least one message.")
    for at, message in enumerate(request.messages):
        if message.role not in _ROLES:
            raise InvalidArgumentError(
                f"Message {at} has the role {message.role!r}.", hint=f"It is one of {', '.join(_ROLES)}."
            )
        wrong = [f"{type(part).__name__}.{name}" for part in message.parts if (name := wrong_field(part))]
        wrong += [
            name for name in ("name", "tool_call_id") if not isinstance(getattr(message, name), str | None)
        ]
        if wrong:
            raise InvalidArgumentError(
                f"Message {at} has a wrong type in {', '.join(wrong)}.",
                hint="Most fields of a message are text.",
            )
    if request.extra_body.get("n", 1) not in (1, None):
        raise InvalidArgumentError(
            "n is more than 1, but a reply has one answer here; each further one would be paid for and lost.",
            hint="Ask several times, at once if need be.",
        )


def sent_arguments(call: AnyToolCall) -> JSON:
    """Return a call's arguments as they go back to a server, which takes nothing but an object.

    The text of what is none goes along in it, so that the model sees what it said.
    """
    arguments = read_arguments(call.arguments)
    if isinstance(call, ToolCall) and arguments is not None:
        return arguments
    return {} if arguments == {} else {"invalid_arguments": join_halves(call.arguments)}


def sent_name(message: Message) -> str | None:
    """Return the name of who speaks as servers take it."""
    return _SPEAKER.sub("_", message.name)[:_NAME_LENGTH] if message.name else None


def flat(part: Text | Refusal | Source) -> str:
    """Return a text or a passage as text."""
    if not isinstance(part, Source):
        return part.text
    return "\n".join(each for each in (part.title, part.url, part.text) if each)


def sendable(messages: Sequence[Message]) -> list[Message]:
    """Return the conversation with only what each role may hold, and each call with its one result behind it.

    - Images, files and audio of system and assistant messages follow in a user's turn of their own.
    - What other providers' tools did is left out, and so are their signatures.
    - Results stand right behind their calls, whatever came between; what came twice is one result; a call
      without a result gets one that says so.
    - Ids of calls are within `[A-Za-z0-9_-]`, and no two calls have the same.

    Raise InvalidArgumentError for a result without a call, UnsupportedContentError for a user's message with
    calls.
    """
    turns = [turn for at, message in enumerate(messages) for turn in _turns(message, at)]
    calls, results = _answered(turns)
    return [each for turn in turns if turn.role != "tool" for each in _in_order(turn, calls, results)]


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


def _answered(turns: Iterable[Message]) -> tuple[dict[int, str], dict[int, Message]]:
    """Give each call an id of its own, and find its result; both by the call's identity."""
    ids: dict[int, str] = {}
    results: dict[int, Message] = {}
    latest: dict[str, list[AnyToolCall]] = {}
    taken: set[str] = set()
    for turn in turns:
        calls = [part for part in turn.parts if isinstance(part, AnyToolCall)]
        for call in calls:
            ids[id(call)] = _untaken(_fitting(call.id, _ID_LENGTH) or "call", _ID_LENGTH, taken)
            taken.add(ids[id(call)])
        if calls:
            latest.update({call.id: [each for each in calls if each.id == call.id] for call in calls})
        if turn.role == "tool":
            named = latest.get(turn.tool_call_id or "")
            if not named:
                raise InvalidArgumentError(
                    f"There is a result of the call {turn.tool_call_id!r}, which no message before it makes.",
                    hint="Keep calls and their results together when a conversation is shortened.",
                )
            call = next((each for each in named if id(each) not in results), named[-1])
            if (known := results.get(id(call))) is not None:
                turn = replace(
                    known, parts=[*known.parts, *turn.parts], is_error=known.is_error and turn.is_error
                )
            results[id(call)] = turn
    return ids, results


def _turns(message: Message, at: int) -> Iterator[Message]:
    """Yield a message with what its role may hold, and a user's turn with the media that it may not."""
    match message.role:
        case "user":
            yield replace(message, parts=[_users(part) for part in message.parts])
        case "tool":
            if not message.tool_call_id:
                raise InvalidArgumentError(
                    f"Message {at} is the result of a call, but does not say of which.",
                    hint="Give it tool_call_id, the id of the call.",
                )
            yield replace(message, parts=[_results(part) for part in message.parts])
        case "system":
            kept = [part for part in message.parts if isinstance(part, Text | Refusal | Source | CachePoint)]
            if any(not isinstance(part, CachePoint) for part in kept):
                yield replace(
                    message,
                    parts=[part if isinstance(part, CachePoint) else Text(flat(part)) for part in kept],
                )
            yield from _media_of(message, (Raw,))
        case "assistant":
            yield replace(message, parts=[each for part in message.parts for each in _assistants(part)])
            yield from _media_of(message, ())


def _media_of(message: Message, further: tuple[type[Part], ...]) -> Iterator[Message]:
    media: list[Part] = [part for part in message.parts if isinstance(part, (Image, File, Audio, *further))]
    if media:
        yield Message("user", media)


def _users(part: Part) -> Part:
    if isinstance(part, AnyToolCall):
        raise UnsupportedContentError(
            "A user's message cannot hold a call of a tool.", hint="Put it into an assistant's message."
        )
    return Text(part.text) if isinstance(part, Refusal | Reasoning) else part


def _results(part: Part) -> Part:
    match part:
        case Refusal() | Reasoning():
            return Text(part.text)
        case ToolCall() | InvalidToolCall():
            return Text(f"{part.name}({part.arguments})")
        case Raw():
            return Text(json.dumps(as_json(part.data), ensure_ascii=False))
    return part


def _assistants(part: Part) -> Iterator[Part]:
    match part:
        case Source():
            yield Text(flat(part))
        case ToolCall() if read_arguments(part.arguments) is None:
            yield InvalidToolCall(part.id, part.name, part.arguments, "malformed")
        case ToolCall() | InvalidToolCall():
            yield replace(part)  # one object may stand in two places, and is told by its identity here
        case Reasoning() if part.provider != PROVIDER:
            if part.text:
                yield Reasoning(part.text)
        case Raw() if part.provider != PROVIDER:
            left_out(part, f"it is from {part.provider}")
        case Image() | File() | Audio():
            pass
        case _:
            yield part


def left_out(part: Raw, why: str) -> None:
    """Log that a block of an assistant's message is not sent back."""
    logger.debug("A block of the type %r is not sent back: %s.", part.data.get("type"), why)


def _fits(name: str) -> bool:
    return len(name) <= _NAME_LENGTH and not _OUTSIDE.search(name)


def _fitting(name: str, length: int) -> str:
    """Return a name within the alphabet and the length, the same each time."""
    fitting = _OUTSIDE.sub("_", name)
    if len(fitting) <= length:
        return fitting
    return f"{fitting[: length - 9]}_{blake2b(name.encode(errors='replace'), digest_size=4).hexdigest()}"


def _untaken(name: str, length: int, taken: set[str]) -> str:
    numbered = (f"{name[: length - 6]}_{n}" for n in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)
