"""Tool call arguments: tolerant parsing of a model's JSON, and JSON output of arbitrary values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from pydantic_core import from_json, to_json

MAX_DEPTH = 100
"""How deep arguments may nest; pydantic's parser fails at 200, Python's at its recursion limit."""
_MARKS = re.compile(r'[\\"\[\]{}]')
_CLOSING = {"[": "]", "{": "}"}


def read_arguments(text: str) -> dict[str, Any] | None:
    """Parse a call's arguments: `{}` for empty text and `null`, None for anything but an object.

    Raw line breaks and other control characters in strings are accepted because models write them.
    """
    if not text.strip():
        return {}
    if text.count("[") + text.count("{") > MAX_DEPTH and Nesting(text).deepest > MAX_DEPTH:
        return None
    try:
        value = json.loads(join_halves(text), strict=False, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if value is None:
        return {}
    if not isinstance(value, dict):
        return None
    # An escape may also be a lone surrogate, which cannot be encoded.
    return dict(as_json(value)) if "\\ud" in text.lower() else value


def is_strict_object(text: str) -> bool:
    """Return whether a strict parser also accepts this text as an object."""
    try:
        return isinstance(from_json(text, allow_inf_nan=False), dict)
    except (ValueError, TypeError):  # TypeError: lone surrogates
        return False


def write_arguments(arguments: Mapping[str, Any]) -> str:
    """Return arguments as JSON text; values that JSON lacks, such as dates and NaN, become strings."""
    try:
        return json.dumps(as_json(arguments), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        try:
            text = join_halves(str(arguments))
        except RecursionError:
            text = "nested too deeply"
        return json.dumps({"invalid_arguments": text}, ensure_ascii=False)


class Nesting:
    """The open brackets and strings of JSON text that arrives in pieces.

    Attributes:
        closing: the brackets that would close the open ones.
        deepest: the maximum number of brackets open at once.
        is_in_string: whether the text so far ends inside a string.
    """

    __slots__ = ("_escaped", "closing", "deepest", "is_in_string")

    def __init__(self, text: str = "") -> None:
        self.closing: list[str] = []
        self.deepest = 0
        self.is_in_string = False
        self._escaped = -1  # the position of a character escaped by a backslash
        self.add(text)

    def add(self, piece: str) -> None:
        """Add the next piece."""
        for mark in _MARKS.finditer(piece):
            char, at = mark[0], mark.start()
            if self.is_in_string:
                if at == self._escaped:
                    continue
                if char == "\\":
                    self._escaped = at + 1
                self.is_in_string = char != '"'
            elif char == '"':
                self.is_in_string = True
            elif char in _CLOSING:
                self.closing.append(_CLOSING[char])
                self.deepest = max(self.deepest, len(self.closing))
            elif self.closing and self.closing[-1] == char:
                self.closing.pop()
        self._escaped -= len(piece)


def as_json(value: Any) -> Any:
    """Convert a value to one that JSON can represent."""
    if isinstance(value, str):
        return join_halves(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {join_halves(str(name)): as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(each) for each in value]
    return from_json(to_json(value, inf_nan_mode="strings", bytes_mode="base64", fallback=str))


def join_halves(text: str) -> str:
    """Join surrogate pairs that were split into halves, and replace lone halves with U+FFFD."""
    return (
        text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
