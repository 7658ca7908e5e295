"""Read chat streams: server-sent events, and the reader shared by both dialects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from pydantic_core import from_json

from piccc._dialects.common import SurrogateJoiner, parse, server_error, shorten
from piccc._dialects.tasks import read_error
from piccc.arguments import as_json
from piccc.conversation import (
    JSON,
    ChatReply,
    Delta,
    Part,
    Raw,
    RawDelta,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    judge_calls,
)
from piccc.errors import ResponseError, StreamError

BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 8 * 1024 * 1024
_LF, _CR = 0x0A, 0x0D
_IN_PIECES = ("choices", "content_block", "delta")
_ERROR_FIELDS = ("base_resp", "code", "errors", "msg", "success")


class Event(NamedTuple):
    """One server-sent event: its type (`message` by default) and its data."""

    type: str
    data: str


class EventDecoder:
    """An incremental decoder of server-sent events, which returns each as soon as its last byte arrives.

    An event may have at most `max_bytes`. `comments` counts keep-alive lines.
    """

    __slots__ = ("_data", "_max", "_pending", "_size", "_skip_lf", "_started", "_type", "comments")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_bytes
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._type = b""
        self._skip_lf = False
        self._started = False
        self.comments = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """Add bytes and return the events they complete; raise StreamError if an event is too large."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        if self._pending and (b"\n" in chunk or b"\r" in chunk):
            self._size -= len(self._pending)
            chunk = bytes(self._pending + chunk)
            self._pending.clear()
        if chunk.startswith(b"data: ") and chunk.endswith(b"\n\n"):
            # Most chunks consist of single-line data events only.
            texts = chunk[6:-2].decode("utf-8", "replace").split("\n\ndata: ")
            is_plain = chunk.count(b"\n") == 2 * len(texts) and b"\r" not in chunk
            if is_plain and len(chunk) <= self._max and not (self._data or self._type):
                self._started = True
                return [Event("message", text) for text in texts]
        if b"\n" not in chunk and b"\r" not in chunk:
            self._hold(chunk)
            return []
        lines = chunk.splitlines()
        self._skip_lf = chunk[-1] == _CR
        if chunk[-1] not in (_LF, _CR):
            self._hold(lines.pop())
        return self._dispatch(lines)

    @property
    def is_inside_event(self) -> bool:
        """Whether an event has started but not ended."""
        return bool(self._data or self._pending)

    def _dispatch(self, lines: list[bytes]) -> list[Event]:
        if not self._started and lines:
            self._started = True
            lines[0] = lines[0].removeprefix(BOM)
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
            elif not line:
                if self._data:
                    events.append(self._finish())
                self._type = b""
            elif line[0] == 0x3A:
                self.comments += 1
            else:
                self._read_field(line)
        if self._size > self._max:
            self._refuse()
        return events

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._type = value.removeprefix(b" ")
        elif name == b"data":
            self._data.append(b"")
            self._size += len(line)

    def _finish(self) -> Event:
        if self._size > self._max:
            self._refuse()
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data = []
        self._size = 0
        type = self._type.decode(errors="replace") if self._type else "message"
        return Event(type, data.decode(errors="replace"))

    def _hold(self, tail: bytes) -> None:
        self._pending += tail
        self._size += len(tail)
        if self._size > self._max:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise StreamError(
            f"An event of the stream is larger than {self._max} bytes.", may_have_been_billed=True
        )


class EventTemplate:
    """The JSON around the text of a stream's last event, so that only the text of similar events is parsed.

    It applies to texts that JSON does not escape; others are left to the parser. Parsing every event would
    take a fifth more time per token, with eight tokens per read.
    """

    __slots__ = ("_after", "_before", "_block", "_is_used", "_kind", "_type")

    def __init__(self) -> None:
        self._type = self._before = self._after = ""
        self._kind: type[TextDelta | ReasoningDelta] = TextDelta
        self._block = 0
        self._is_used = True

    def read(self, event: Event) -> TextDelta | ReasoningDelta | None:
        """Return the delta of an event that matches the template; otherwise forget the template."""
        before, after, data = self._before, self._after, event.data
        if before and data.startswith(before) and data.endswith(after) and event.type == self._type:
            text = data[len(before) : -len(after)]
            if _is_unescaped(text):
                self._is_used = True
                return self._kind(text, self._block)
        self._before = ""
        return None

    def learn(self, event: Event, body: JSON, holder: JSON, key: str, delta: Delta) -> None:
        """Make a template of an event whose only delta is `delta`, at `holder[key]` in its `body`.

        Once a template was not used for the following event, do not learn again: it does not pay off.
        """
        if not self._is_used or not isinstance(delta, TextDelta | ReasoningDelta):
            return
        if holder.get(key) != delta.text or not _is_unescaped(delta.text):
            return
        before, quoted, after = event.data.partition(f'"{delta.text}"')
        if not quoted:
            return
        # The text may also occur elsewhere in the event: replace it to check that this is the right place.
        holder[key] = other = f"{delta.text}."
        try:
            is_right = from_json(f'{before}"{other}"{after}') == body
        except ValueError:
            is_right = False
        if is_right:
            self._type, self._before, self._after = event.type, f'{before}"', f'"{after}'
            self._kind, self._block = type(delta), delta.block
            self._is_used = False


def _is_unescaped(text: str) -> bool:
    return bool(text) and text.isprintable() and '"' not in text and "\\" not in text


class Reader:
    """A reader of one stream, which turns events into deltas and collects them; subclasses interpret events.

    `is_complete` says whether the end of the answer was received, `is_done` whether nothing more will follow.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.is_complete = False
        self.is_done = False
        self._builder = ReplyBuilder()
        self._characters = SurrogateJoiner()
        self._template = EventTemplate()
        self._usage: JSON = {}

    def feed(self, events: Iterable[Event]) -> list[Delta]:
        """Return the deltas of the events; raise StreamError for an error event or a malformed one."""
        deltas: list[Delta] = []
        try:
            for event in events:
                if self.is_done:
                    break
                if (known := self._template.read(event)) is not None:
                    deltas.append(known)
                elif event.data:
                    deltas += self._take(event)
        finally:
            self._builder.add(deltas)
        return deltas

    def finish(self) -> list[Delta]:
        """Return the deltas that were held back for a continuation."""
        deltas = [*self._characters.finish(), *self._rest()]
        self._builder.add(deltas)
        return deltas

    def reply(self) -> ChatReply:
        """Return the reply so far."""
        return self._builder.build()

    def _take(self, event: Event) -> list[Delta]:
        if event.data.strip() == "[DONE]":  # proxies end streams of either dialect with it
            self.is_complete = self.is_done = True
            return []
        body, has_halves = read_event(event)
        deltas = self._read(event, body)
        # Two backslashes: arguments are JSON text within JSON text, so their escapes are escaped again.
        if has_halves or self._characters.is_waiting or "\\\\" in event.data:
            deltas = self._characters.join(deltas)
            self._template = EventTemplate()  # the next event may need joining too
        return deltas

    def _read(self, event: Event, body: JSON) -> list[Delta]:
        """Return the deltas of an event."""
        raise NotImplementedError

    def _rest(self) -> Iterable[Delta]:
        """Return the deltas that the dialect held back."""
        return ()


def as_events(body: bytes) -> bytes:
    """Return a whole reply as server-sent events, b"" if the body is something else."""
    try:
        reply = parse(body)
    except ValueError:
        return b""
    if not isinstance(reply, dict) or not (reply.get("choices") or isinstance(reply.get("content"), list)):
        return b""
    return b"data: %s\n\ndata: [DONE]\n\n" % body.translate(None, b"\r\n")  # JSON strings have no line ends


def read_event(event: Event) -> tuple[JSON, bool]:
    """Return an event's JSON object, and whether it may contain lone surrogates.

    Raise StreamError if it is not an object, or if it reports an error.
    """
    has_halves = False
    try:
        body = from_json(event.data)
    except ValueError:
        body, has_halves = _with_halves(event.data), True
        if isinstance(body, dict):  # only fields that arrive in pieces may be continued with the other half
            body = {name: each if name in _IN_PIECES else as_json(each) for name, each in body.items()}
    if not isinstance(body, dict):
        raise StreamError("The stream contains an event that is not an object.", body=event.data)
    if (failure := reported_error(body, is_error=event.type == "error")) is not None:
        message, code = failure
        raise StreamError(f"The server ended the stream: {message}", code=code, body=event.data)
    return body, has_halves


def reported_error(body: JSON, *, is_error: bool = False) -> tuple[str, str | None] | None:
    """Return the message and code of an error that was sent with status 200, or None.

    Besides `error`, gateways send `{code, msg}` and others that media routes send too; see `read_error`.
    """
    if is_error or body.get("error") or body.get("type") == "error":
        return server_error(body.get("error") or body)
    if body.get("choices") or not any(name in body for name in _ERROR_FIELDS):
        return None
    # Only these fields: a reply's `id` or `data` would make it a task.
    known = {name: body[name] for name in (*_ERROR_FIELDS, "message") if name in body}
    details = read_error(known)
    return None if details is None else (shorten(details[1]), details[2])


def not_a_reply(payload: object) -> ResponseError:
    """Return the error for a response that is not a chat reply."""
    if isinstance(payload, dict) and (failure := reported_error(payload)) is not None:
        return ResponseError(f"The server answered 200 with an error: {failure[0]}", code=failure[1])
    kind = f"an object with {sorted(payload)[:8]}" if isinstance(payload, dict) else type(payload).__name__
    return ResponseError(
        f"The server's response is not a chat reply but {shorten(kind)}.",
        hint="Check that base_url is the URL of a Piccc API, and that the server supports the dialect.",
        may_have_been_billed=True,
    )


def _with_halves(text: str) -> Any:
    try:
        parse(text)  # for its depth limit
        return json.loads(text)
    except ValueError:
        raise StreamError("The stream contains an event that is not JSON.", body=text) from None


class ReplyBuilder:
    """A linear-time builder that turns deltas into the reply a call without streaming would return."""

    __slots__ = ("_citations", "_pieces", "_signatures", "_starts", "reply")

    def __init__(self) -> None:
        self.reply = ChatReply()
        self._starts: dict[int, Delta] = {}
        self._pieces: dict[int, list[str]] = {}
        self._signatures: dict[int, str] = {}
        self._citations: dict[int, list[JSON]] = {}

    def add(self, deltas: Iterable[Delta]) -> None:
        """Add more deltas."""
        for delta in deltas:
            block = delta.block
            pieces = self._pieces.get(block)
            if pieces is None:
                self._starts[block] = delta
                pieces = self._pieces[block] = []
            if isinstance(delta, TextDelta):
                pieces.append(delta.text)
                if delta.citation:
                    self._citations.setdefault(block, []).append(delta.citation)
            elif isinstance(delta, ToolCallDelta):
                pieces.append(delta.arguments)
            elif not isinstance(delta, RawDelta):
                pieces.append(delta.text)
                if isinstance(delta, ReasoningDelta) and delta.signature:
                    self._signatures[block] = self._signatures.get(block, "") + delta.signature

    def build(self) -> ChatReply:
        """Return the reply so far, with its parts in the order of their blocks."""
        starts = sorted(self._starts.items(), key=lambda each: each[0])
        parts = [self._part(block, start) for block, start in starts]
        self.reply.parts = judge_calls(parts, self.reply.finish_reason)
        return self.reply

    def _part(self, block: int, start: Delta) -> Part:
        text = "".join(self._pieces[block])
        match start:
            case TextDelta():
                return Text(text, self._citations.get(block, []))
            case ReasoningDelta():
                return Reasoning(text, self._signatures.get(block), start.redacted)
            case RefusalDelta():
                return Refusal(text)
            case ToolCallDelta():
                return ToolCall(start.id or "", start.name or "", text)
            case RawDelta():
                return Raw(start.data)
