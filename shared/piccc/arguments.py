"""The arguments of tool calls: read from the text that a model wrote, written from any values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

from pydantic_core import from_json, to_json

MAX_DEPTH = 100
"""How deep arguments may nest; pydantic's parser gives up at 200, Python's where its stack ends."""
_MARKS = re.compile(r'[\\"\[\]{}]')
_CLOSING = {"[": "]", "{": "}"}


def read_arguments(text: str) -> dict[str, Any] | None:
    """Return the object that the arguments of a call are, `{}` for empty text and `null`, None for no object.

    Line breaks and other control characters may stand in strings as they are, for models write them so.
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
    # An escape may be half of a surrogate pair too, which cannot be sent on.
    return dict(as_json(value)) if "\\ud" in text.lower() else value


def is_strict_object(text: str) -> bool:
    """Return whether readers without our tolerance read this text as an object too."""
    try:
        return isinstance(from_json(text, allow_inf_nan=False), dict)
    except (ValueError, TypeError):  # the latter for halves of surrogate pairs
        return False


def write_arguments(arguments: Mapping[str, Any]) -> str:
    """Return arguments as JSON text; what JSON has no word for, such as dates and NaN, becomes text."""
    try:
        return json.dumps(as_json(arguments), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        try:
            said = join_halves(str(arguments))
        except RecursionError:
            said = "nested too deeply"
        return json.dumps({"invalid_arguments": said}, ensure_ascii=False)


class Nesting:
    """Follow the brackets and strings of JSON text that comes in pieces.

    Attributes:
        closing: the brackets that would close what is open.
        deepest: how many were open at once.
        is_in_string: whether the text ends within a string.
    """

    __slots__ = ("_escaped", "closing", "deepest", "is_in_string")

    def __init__(self, text: str = "") -> None:
        self.closing: list[str] = []
        self.deepest = 0
        self.is_in_string = False
        self._escaped = -1  # where a character stands that a backslash escapes
        self.add(text)

    def add(self, piece: str) -> None:
        """Take the next piece."""
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
    """Return a value as JSON can hold it."""
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
    """Join surrogate pairs that came as two halves, and replace halves without a partner."""
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
