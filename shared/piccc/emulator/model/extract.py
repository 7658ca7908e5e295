"""Extraction of argument values from a request's text: fixed patterns, matched by name, unit and type."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from piccc.emulator.model.context import stems

_NAME = r"[A-Z][\w'’&-]*(?:\s+(?:(?:of|the|de|la)\s+)?[A-Z][\w'’&-]*)*(?:,\s[A-Z]{2}\b)?"
_INNER_NAME = rf"(?<=.)\b({_NAME})"  # not at the start, where any word is capitalized
_QUOTED = r"“([^”]+)”|「([^」]+)」|\"([^\"\n]+)\"|`([^`\n]+)`|(?<![\w’'])'([^'\n]+(?:'\w[^'\n]*)*)'(?!\w)"
_URL = r"\b(?:https?|ftp|s3|data):[^\s<>\"'」》”)\]，。]+[^\s<>\"'」》”)\].,;:!?，。]"
_EMAIL = r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+"
_DATE = r"\b\d{4}-\d\d-\d\d\b(?:[T ]\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:\d\d)?)?"
_RATIO = r"(?<![\d:])\d{1,2}:\d{1,2}(?![\d:])"
_RESOLUTION = r"(?<![\w.])(?:\d{1,2}[kK]\b|\d{3,4}p\b|\d{3,5}[x×]\d{3,5})"
_ID = r"\b[A-Za-z]+[_-](?=[\w-]*\d)[\w-]+\b|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
_PATTERNS = (  # words in the argument's name (the first may be its format), and its value's pattern
    ("uri url link href image video picture media source reference", _URL),
    ("email mail to recipient cc", _EMAIL),
    ("date-time date day deadline when timestamp", _DATE),
    ("aspect ratio", _RATIO),
    ("resolution size quality", _RESOLUTION),
    ("uuid id task reference", _ID),
    ("origin from", rf"\bfrom ({_NAME})"),
    ("destination target recipient language", rf"\b(?:to|into) ({_NAME})"),
    ("author artist director", rf"\bby ({_NAME})"),
    ("city location place country town where", rf"\b(?:in|at|near|for|of|to|from) ({_NAME})"),
    ("name title customer", rf"\b(?:named|called|i'm|am|for) ({_NAME})"),
)
_TAKEN = "|".join((_URL, _DATE, _RATIO, _RESOLUTION, _ID))  # digits in these are not numbers
_FREE_TEXT = {*stems("prompt query question q text input message content body description instruction topic")}
_HANDLES = {*stems("url uri link id image video audio media file source reference")}
_COUNTS = {*stems("n count number limit top k results")}
_DURATIONS = {*stems("duration seconds minutes hours length timeout delay")}
_TIMES = ((1, "s sec second 秒"), (60, "min minut 分钟"), (3600, "hour 小时"))
_SECONDS = {unit: seconds for seconds, units in _TIMES for unit in units.split()}
_SAID_AS = {"1:1": "square 方形", "16:9": "landscape 横屏", "9:16": "portrait vertical 竖屏"}
WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
_NUMBER = re.compile(
    rf"(?i)([$€¥]\s?)?(?:(?<![\w.:-])(-?\d[\d,]*(?:\.\d+)?(?:e\d+)?)(?![\d:]|\.\d)|\b({'|'.join(WORDS)})\b)"
    r"(?:[\s-]?(%|秒|分钟|小时|[岁元]|[A-Za-z]+))?"
)
_POLITE = re.compile(
    r"(?i)^(?:(?:please|hey|hi|hello|ok|now|then|also|and|next|finally|first|(?:can|could|would|will) you"
    r"|i(?:'d| would)? (?:want|like|need)(?: you)?(?: to)?|let's|help me)(?![\w-])|请|帮我|给我|我想要?|然后)"
    r"[\s,:，：]*|\W*\bplease$"
)
_FILLERS = re.compile("(?i)(?:me|us|an?|the|some|new|short|one|my|this|in|for|up|on|like)$")
_LINK = re.compile(r"(?i)^(?:[\s,;:，、-]+|(?:of|about|for|showing|depicting|with|on|from|into|in)\s+)+")
_CUT = re.compile(
    r"(?i)(?:\b(?:in|at|with|for|of|lasting|and|an?|the|as|top)\s+){0,3}\x00[\x00\s,，]*"
    r"(?:(?:resolution|aspect ratio|format|long|quality|orientation|results?)\b[\s,]*)*"
)
_EDGES = " \t\n,;:，、；：-.!?。！？"


class _Found(NamedTuple):
    value: Any
    start: int
    end: int


class Values:
    """The values in a request. `around` are texts to search next; `known` are objects from tool results."""

    def __init__(self, text: str, around: Iterable[str] = (), known: Any = (), tool: Any = ()) -> None:
        self._text, self._around, self._known, self._tool = text, [*around], [*known], {*tool}
        self._offered, self._used = dict[str, _Found](), list[_Found]()

    def claim(self, value: Any) -> None:
        """Mark a value as used, so it is not offered again and not part of free text."""
        if found := self._offered.pop(repr(value), None):
            self._used.append(found)

    def stated(self, name: str, schema: Mapping[str, Any]) -> Iterator[Any]:
        """Yield the values that the request associates with a name, best first."""
        if schema["type"] != "array":
            yield from self._offer(_bound(self._text, name, schema, self._tool))
            yield from self._from_known(name) if _meaning(name) & _HANDLES else ()
        elif isinstance(item := schema.get("items"), Mapping):
            plain = _numbers(self._text) if item.get("type") != "string" else _matches(_QUOTED, self._text)
            listed = _choices(self._text, item["enum"]) if "enum" in item else plain
            found = [*dict.fromkeys(one.value for one in sorted(listed, key=lambda one: one.start))]
            yield from [found[: int(schema.get("maxItems", len(found)))]] if found else ()

    def likely(self, name: str, schema: Mapping[str, Any]) -> Iterator[Any]:
        """Yield values of the right type for a required name."""
        yield from self._from_known(name)
        yield from (one.value for text in self._around for one in _bound(text, name, schema, self._tool))
        text, string = self._text, schema["type"] == "string"
        free = string and _meaning(name) & _FREE_TEXT
        quoted = [*self._offer(_matches(_QUOTED, text))] if string else []
        if not free:
            inner = [_matches(_INNER_NAME, one) if string else _numbers(one) for one in (text, *self._around)]
            yield from (*quoted, *self._offer(inner[0]), *(one.value for found in inner[1:] for one in found))
        elif len(quoted) == 1 and not {*stems(self.subject(without=_QUOTED))} - _FREE_TEXT:
            yield quoted[0]
        if string:
            yield from () if free else (one.value for one in _matches(_NAME, _POLITE.sub("", text)))
            yield self.subject() or text or name or "text"

    def subject(self, without: str = "(?!)") -> str:
        """Return the request's subject: its words without politeness, the tool's name and used values."""
        text = self._text
        for _, start, end in (*self._used, *_matches(without, text)):
            text = text[:start] + "\x00" * (end - start) + text[end:]
        text = re.sub(r"\s+", " ", _CUT.sub(" ", text)).replace(" ,", ",").strip(_EDGES)
        while (shorter := _POLITE.sub("", text)) != text:
            text = shorter
        head = 0
        for at, word in enumerate(re.finditer(r"[\w'’-]+", text)):
            if self._tool & {*stems(word[0])}:
                head = word.end()
            elif at and not _FILLERS.match(word[0]):
                break
        return _LINK.sub("", text[head:]).strip(_EDGES)

    def _from_known(self, name: str) -> Iterator[Any]:
        wanted = _meaning(name)
        yield from (known[name] for known in self._known if name in known)
        for key, value in (pair for known in self._known for pair in known.items()):
            if not isinstance(value, dict | list) and (_meaning(key) <= wanted or wanted <= _meaning(key)):
                yield value

    def _offer(self, found: Iterable[_Found]) -> Iterator[Any]:
        for one in found:
            if not any(used.start < one.end and one.start < used.end for used in self._used):
                self._offered[repr(one.value)] = one
                yield one.value


def _bound(text: str, name: str, schema: Mapping[str, Any], tool: Collection[str]) -> Iterator[_Found]:
    """Yield the values that a text associates with a name."""
    kind, wanted = schema["type"], _meaning(name)
    if "enum" in schema or "const" in schema:
        yield from _choices(text, schema.get("enum", [schema.get("const")]))
    elif kind in ("integer", "number"):
        yield from _numbers(text, wanted | {*re.findall("[a-z]+", name)}, tool)
    else:
        spaced = r"[\s_-]+".join(re.escape(part) for part in re.findall(r"[^\W_]+", name)) or "(?!)"
        for match in re.finditer(rf"(?<![\w'\"]){spaced}\s*(?:is\s*)?([:：=]?)\s*", text, re.I):
            yield from (one for one in _matches(_QUOTED, text) if one.start == match.end())
            plain = re.compile(r"[^\s,;，；\"'“「{\[][^,;，；\n]*?(?=[,;，；\n]|\.?\s*$|\.\s|\s\w+\s*=)")
            if match[1] and (found := plain.match(text, match.end())):
                yield _Found(found[0], match.start(), found.end())
        for words, pattern in _PATTERNS:
            if wanted & {*stems(words)} or name in words.split() or schema.get("format") == words.split()[0]:
                yield from _matches(pattern, text)


def _meaning(name: str) -> set[str]:
    return {*stems(name)} or {name.lower()}


def _matches(pattern: str, text: str) -> Iterator[_Found]:
    for match in re.finditer(pattern, text):
        yield _Found(next((one for one in match.groups() if one), match[0]).strip(), *match.span())


def _choices(text: str, values: Iterable[Any]) -> Iterator[_Found]:
    """Yield the enumeration values named in a text, longest first."""
    plain = [one for one in values if isinstance(one, str | int | float) and re.search(r"[^\W_]", str(one))]
    for value in sorted(plain, key=lambda one: -len(str(one))):
        for word in (str(value), *_SAID_AS.get(str(value), "").split()):
            spaced = re.sub(r"\\?[ _-]", "[ _-]", re.escape(word))
            found = _matches(rf"(?i)(?<![a-zA-Z0-9:]){spaced}s?(?![a-zA-Z0-9:])", text)
            yield from (one._replace(value=value) for one in found)


def _numbers(text: str, names: set[str] | None = None, tool: Collection[str] = ()) -> Iterator[_Found]:
    """Yield the numbers in a text, or only those whose unit or preceding word matches one of the names."""
    taken = [*_matches(_TAKEN, text)]
    for match in _NUMBER.finditer(text):
        sign, figure, word, unit = match.groups()
        if len(match[0]) > 40 or any(one.start < match.end() and match.start() < one.end for one in taken):
            continue
        value = float(WORDS[word.lower()] if word else figure.replace(",", ""))
        unit, end = next(iter(stems(unit or "")), (unit or sign or "").lower().strip()), match.end()
        if names is not None and unit in _SECONDS and names & (_DURATIONS | {*_SECONDS}):
            value *= _SECONDS[unit] / next((_SECONDS[one] for one in ("minut", "hour") if one in names), 1)
        elif names is None or not {unit} & names:
            end = match.end(2 if figure else 3)  # the next word is not this value's unit
            before = {*stems(text[max(0, match.start() - 30) : match.start()])[-1:]}
            counted = names and names & _COUNTS and ({unit} & {*tool, *_COUNTS} or "top" in before)
            if names is not None and not names & before and not counted:
                continue
        if math.isfinite(value):
            whole = value.is_integer() and abs(value) < 1e16
            yield _Found(int(value) if whole else value, match.start(), end)
