"""A short, readable text that matches a regular expression."""

from __future__ import annotations

import math
import re
from re import (  # type: ignore[attr-defined]  # typeshed leaves out the parser that `re` itself uses
    _constants as op,
)
from re import (  # type: ignore[attr-defined]  # the same
    _parser as parser,
)
from typing import Any

_FEW = 32
_MOST = 100_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ -_./:@,+#中"
_CLASSES = {
    op.CATEGORY_DIGIT: "0123456789",
    op.CATEGORY_SPACE: " ",
    op.CATEGORY_WORD: _LETTERS[:62],
    op.CATEGORY_NOT_DIGIT: _LETTERS[:26],
    op.CATEGORY_NOT_SPACE: _LETTERS[:62],
    op.CATEGORY_NOT_WORD: "-",
}


def sample(
    pattern: str, *, min_length: int = 0, max_length: int | None = None, variant: int = 0
) -> str | None:
    """Make a short text that matches `pattern` (searched, as JSON Schema does) within the lengths.

    Returns None when none was found: look-arounds are passed over, and the result is checked with `re`.
    """
    try:
        rule, tree = re.compile(pattern), parser.parse(pattern)
        shortest, longer = (len(_Writer(extra, variant).write(tree)) for extra in (0, 1))
        short = max(min_length - shortest, 0)
        # A text that lacks signs has them after as many repeats, or fewer where a repeat adds several.
        enough = math.ceil(short / max(longer - shortest, 1))
        for extra in dict.fromkeys((*range(min(min_length, _FEW) + 2), enough, short)):
            text = _Writer(extra, variant).write(tree)
            text += "a" * (min_length - len(text)) if extra >= short else ""
            fits = min_length <= len(text) and (max_length is None or len(text) <= max_length)
            if fits and rule.search(text):
                return text
    except (re.error, RecursionError, OverflowError):
        return None
    return None


class _Writer:
    """Writes one text for a parsed pattern, and repeats where it may, `extra` times in all.

    A text that would grow beyond all use is an OverflowError.
    """

    def __init__(self, extra: int, variant: int) -> None:
        self._extra, self._variant = extra, variant
        self._groups: dict[int, str] = {}
        self._left = _MOST

    def write(self, tree: Any) -> str:  # `re` publishes no type for its parse tree
        return "".join(self._node(kind, value) for kind, value in tree)

    def _node(self, kind: Any, value: Any) -> str:
        if kind is op.LITERAL:
            return chr(value)
        if kind is op.NOT_LITERAL:
            return next(sign for sign in _LETTERS if ord(sign) != value)
        if kind is op.ANY:
            return "a"
        if kind is op.IN:
            return self._member(value)
        if kind is op.BRANCH:
            return self.write(min(value[1], key=len))
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            return self._repeat(*value)
        if kind is op.SUBPATTERN:
            text = self.write(value[3])
            self._groups[value[0]] = text
            return text
        if kind is op.ATOMIC_GROUP:
            return self.write(value)
        if kind is op.GROUPREF:
            return self._groups.get(value, "")
        return ""

    def _repeat(self, low: int, high: int, item: Any) -> str:
        more = min(self._extra, int(high) - low)
        self._extra -= more
        return "".join(self._repeated(item) for _ in range(low + more))

    def _repeated(self, item: Any) -> str:
        text = self.write(item)
        self._left -= 1 + len(text)
        if self._left < 0:
            raise OverflowError
        return text

    def _member(self, parts: list[Any]) -> str:
        """Choose a member of a character class, another for each variant; plain ones first."""
        inverted = parts[0][0] is op.NEGATE
        held = [sign for sign in _LETTERS if any(_holds(part, sign) for part in parts) != inverted]
        if held:
            self._variant, at = divmod(self._variant, len(held))
            return held[at]
        kind, value = parts[-1]
        return chr(value[0] if kind is op.RANGE else value if kind is op.LITERAL else 0x2603)


def _holds(part: Any, sign: str) -> bool:
    kind, value = part
    if kind is op.LITERAL:
        return ord(sign) == int(value)
    if kind is op.RANGE:
        return bool(value[0] <= ord(sign) <= value[1])
    return kind is op.CATEGORY and sign in _CLASSES.get(value, "")
