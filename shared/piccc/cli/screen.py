"""What is written where: results on stdout, all else on stderr, colours and bars on a terminal only."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Take control characters out: text from elsewhere must not steer the terminal that shows it."""
    return _CONTROLS.sub("", text)


def notes() -> Console:
    """Return the console on stderr."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def results() -> Console:
    """Return the console on stdout."""
    return Console(highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """Tell the person something on stderr."""
    console = notes()
    # A log must not find a command broken in two, a terminal breaks lines between words.
    console.print(Text(printable(text), style=style), soft_wrap=not console.is_terminal)


def write(text: str) -> None:
    """Write a piece of a result to stdout at once."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def document(value: Any) -> None:
    """Write a JSON document to stdout, on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()
