"""Read and write JSON as the two dialects need it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, cast

from pydantic_core import from_json, to_json

from piccc._dialects.sse import Event
from piccc.arguments import as_json, join_halves
from piccc.conversation import (
    JSON,
    Delta,
    RawDelta,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from piccc.errors import InvalidArgumentError, ResponseError, StreamError

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


def read_event(event: Event) -> tuple[JSON, bool]:
    """Return the object that an event carries, and whether it may hold halves of surrogate pairs.

    Raise StreamError where it carries none, or the server's word of an error.
    """
    has_halves = False
    try:
        body = from_json(event.data)
    except ValueError:
        body, has_halves = _with_halves(event.data), True
    if not isinstance(body, dict):
        raise StreamError("The stream holds an event that is not an object.", body=event.data)
    if body.get("error") or event.type == "error" or body.get("type") == "error":
        message, code = server_error(body.get("error") or body)
        raise StreamError(f"The server ended the stream: {message}", code=code, body=event.data)
    return body, has_halves


def _with_halves(text: str) -> Any:
    try:
        parse(text)  # which bounds the depth
        return json.loads(text)
    except ValueError:
        raise StreamError("The stream holds an event that is not JSON.", body=text) from None


def serialize(body: Any) -> bytes:
    """Write JSON; raise InvalidArgumentError for what JSON cannot say."""
    try:
        written: bytes = to_json(body, inf_nan_mode="constants")
        if b"NaN" not in written and b"Infinity" not in written:
            return written
    except (ValueError, RecursionError):
        pass  # halves of surrogate pairs, which the careful writer replaces, or nonsense, which it names
    try:
        whole = json.loads(json.dumps(body, allow_nan=False, default=_plain))
        return json.dumps(as_json(whole), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(
            f"The request cannot be written as JSON: {error}", hint="Give plain JSON values only."
        ) from None


def _plain(value: Any) -> Any:
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
    return "" if value is None else json.dumps(value, ensure_ascii=False)


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


class SurrogateJoiner:
    """Hold the first half of a character back until its second half comes, block by block."""

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
        lost = [_with_text(delta, "\ufffd") for delta in self._waiting.values()]
        self._waiting.clear()
        return lost

    def _join(self, delta: Delta) -> Delta:
        if isinstance(delta, RawDelta):
            return delta
        held = self._waiting.pop(delta.block, None)
        text = (_text(held) if held is not None else "") + _text(delta)
        if "\ud800" <= text[-1:] <= "\udbff":
            self._waiting[delta.block] = _more(delta, text[-1])
            text = text[:-1]
        return _with_text(delta, join_halves(text))


def _more(delta: Delta, text: str) -> Delta:
    """Return a delta that goes on where this one began."""
    if isinstance(delta, ToolCallDelta):
        return ToolCallDelta(delta.index, text, block=delta.block)
    if isinstance(delta, ReasoningDelta):
        return ReasoningDelta(text, delta.block)
    return _with_text(delta, text)


def _text(delta: Delta) -> str:
    if isinstance(delta, ToolCallDelta):
        return delta.arguments
    return "" if isinstance(delta, RawDelta) else delta.text


def _with_text(delta: Delta, text: str) -> Delta:
    if isinstance(delta, ToolCallDelta):
        return replace(delta, arguments=text)
    return delta if isinstance(delta, RawDelta) else replace(delta, text=text)


def _is_empty(delta: Delta) -> bool:
    if isinstance(delta, ToolCallDelta):
        return not delta.arguments and delta.name is None
    if isinstance(delta, ReasoningDelta):
        return not delta.text and delta.signature is None and delta.redacted is None
    return isinstance(delta, TextDelta) and not delta.text and delta.citation is None
