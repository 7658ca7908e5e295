"""JSON that stands in texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any


def json_value(text: str, at: int = 0) -> tuple[Any, int]:
    """Return the JSON value at a place of a text and its end; raise ValueError where there is none."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
        json.dumps(value, allow_nan=False)  # refuses what JSON cannot write, such as `NaN` or `1e999`
    except RecursionError as error:
        raise ValueError("The JSON nests too deep.") from error
    return value, end


def json_or_text(text: str) -> Any:
    """Return the JSON value that a text is, or the text."""
    with suppress(ValueError):
        value, end = json_value(text := text.strip())
        return value if end == len(text) else text
    return text


def json_objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield the JSON objects that stand in a text with their places, outermost only."""
    end = 0
    for brace in re.finditer("{", text):
        with suppress(ValueError):
            if brace.start() >= end:
                value, end = json_value(text, brace.start())
                yield value, brace.start(), end
