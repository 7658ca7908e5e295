"""Reading: the values that a text holds, each with its place, so that none is used twice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

from piccc.emulator.model.words import STOPWORDS, bag, stem


@dataclass(frozen=True, slots=True)
class Found:
    """One value and the span of text it was read from; a number also knows the words around it."""

    value: Any
    start: int
    end: int
    unit: str = ""
    before: tuple[str, ...] = ()


_QUOTED = re.compile(
    r"“([^”]+)”|「([^」]+)」|『([^』]+)』|《([^》]+)》|«\s*([^»]+?)\s*»|\"([^\"\n]+)\"|`([^`\n]+)`"
    r"|(?<![\w’'])['‘]([^\n'’]+(?:['’]\w[^\n'’]*)*)['’](?!\w)"
)
_URL = re.compile(
    r"\b(?:https?|ftp|s3|data):[^\s<>\"'」』》”)\]，。]+[^\s<>\"'」』》”)\].,;:!?，。]", re.ASCII
)
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+", re.ASCII)
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = rf"(?a:({'|'.join(_MONTHS)})[a-z]*)\.?"
_DATE = re.compile(
    rf"\b(\d{{4}})-(\d\d?)-(\d\d?)\b|(\d{{4}})\s*年\s*(\d\d?)\s*月\s*(\d\d?)\s*[日号]"
    rf"|\b{_MONTH}\s+(\d\d?)(?:st|nd|rd|th)?,?\s+(\d{{4}})\b"
    rf"|\b(\d\d?)(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+(\d{{4}})\b|\b(\d\d?)/(\d\d?)/(\d{{4}})\b",
    re.IGNORECASE,
)
_DAY = re.compile(
    r"\b(?:today|tonight|tomorrow|yesterday|(?:next|this|last) (?:\w+day|week|month|weekend))\b"
    r"|今天|明天|后天|昨天|今晚",
    re.IGNORECASE,
)
_TIME = re.compile(
    r"\b([01]?\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?\s*([ap]\.?m\b)?|\b(1[0-2]|[1-9])\s*([ap]\.?m\b)",
    re.IGNORECASE | re.ASCII,
)
_MOMENT = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?")
_RATIO = re.compile(r"(?<![\d:])(\d{1,2})\s?[:：]\s?(\d{1,2})(?![\d:]|\s?[ap]m)")
_RESOLUTION = re.compile(r"(?<![\w.])(\d{1,2}\s?[kK](?![\w])|\d{3,4}p\b|\d{3,5}\s?[x×]\s?\d{3,5})", re.ASCII)
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
_ID = re.compile(
    r"\b[A-Za-z]{2,}[_-](?=[\w-]*\d)[\w-]+\b|#\d+\b|\b(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{8,}\b", re.ASCII
)
_FILE = re.compile(r"(?<![\w@])(?:[\w.~-]*/)*[\w-]+\.[a-z][a-z0-9]{1,4}\b(?!@)", re.ASCII)
_EXPRESSION = re.compile(r"(?<![\d.(-])[-(]*\d[\d.]*(?:\s*(?:\*\*|[-+*/×÷^%])\s*[-(]*\d[\d.]*\)*)+")
_SHARE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)\s*%\s+of\s+(\d+(?:\.\d+)?)", re.IGNORECASE)
_CODE = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?(?:e[+-]?\d+)?(?![\d:])",
    re.IGNORECASE | re.ASCII,
)
_HIGHEST = 1e300
_UNIT = re.compile(
    r"[\s-]*(%|°\s?[CF]|[€£¥$]|秒钟?|分钟|小时|公[里斤]|[天周岁元块人位张个段条份次度米克]|[A-Za-z]+)?"
)
_CURRENCY = re.compile(r"([$€£¥])\s?$")
_ENGLISH = (
    None,
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
_NUMBER_WORDS = (
    {word: at for at, word in enumerate(_ENGLISH) if word}
    | {"fifteen": 15, "twenty": 20, "thirty": 30, "sixty": 60, "hundred": 100, "两": 2}
    | {word: at + 1 for at, word in enumerate("一二三四五六七八九十")}
)
_NUMBER_WORD = re.compile(
    rf"\b(?a:{'|'.join(w for w in _NUMBER_WORDS if w.isascii())})\b"
    r"|[一二两三四五六七八九十](?=[秒分个张段条名人次小天])",
    re.IGNORECASE,
)
_CAPITALS = r"[A-Z][\w'’.&-]*[\w]"
NAME = rf"{_CAPITALS}(?:\s+(?:(?:de|la|le|of|the|da|van|von|du)\s+)?{_CAPITALS})*(?:,\s[A-Z]{{2}}\b)?"
_NAME = re.compile(NAME)
_FORMAT_NAMES = frozenset({"JSON", "YAML", "XML", "CSV", "HTML", "API", "URL", "ID"})
_OPENERS = bag(
    "what who when where why how which please can could would is are do does did the it this "
    "that he she they we "
    "i i'm if in on at for from to and or but then also now next first make create generate draw paint "
    "write tell "
    "give show find search look use call add multiply divide subtract translate send get set book render "
    "produce "
    "extract summarize explain describe convert compare check schedule remind plan list say repeat hello hi"
)


class Reading:
    """The values of one text, each kind read once, at first use."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def quoted(self) -> list[Found]:
        """What stands between quotation marks."""
        found = []
        for match in _QUOTED.finditer(self.text):
            value = next(group for group in match.groups() if group)
            found.append(Found(value.strip(), match.start(), match.end()))
        return found

    @cached_property
    def urls(self) -> list[Found]:
        """Addresses on the web."""
        return self._all(_URL)

    @cached_property
    def emails(self) -> list[Found]:
        """Addresses of mail."""
        return self._all(_EMAIL)

    @cached_property
    def dates(self) -> list[Found]:
        """Whole dates, as ISO 8601."""
        return self._all(_DATE, _iso_date)

    @cached_property
    def days(self) -> list[Found]:
        """Days said in words, such as `tomorrow`."""
        return self._all(_DAY)

    @cached_property
    def times(self) -> list[Found]:
        """Times of the day, as `HH:MM`."""
        return self._all(_TIME, _clock_time)

    @cached_property
    def moments(self) -> list[Found]:
        """Dates with a time of the day."""
        return self._all(_MOMENT)

    @cached_property
    def ratios(self) -> list[Found]:
        """Aspect ratios, as `16:9`."""
        times = {
            (found.start, found.end)
            for found in self.times
            if re.search(r"[ap]\.?m", self.text[found.start : found.end], re.I)
        }
        ratios = self._all(_RATIO, lambda match: f"{int(match[1])}:{int(match[2])}")
        return [found for found in ratios if (found.start, found.end) not in times]

    @cached_property
    def resolutions(self) -> list[Found]:
        """Sizes of pictures and films, as `2K` or `720p`."""
        return self._all(_RESOLUTION, lambda match: re.sub(r"\s", "", match[0]).replace("k", "K"))

    @cached_property
    def ids(self) -> list[Found]:
        """Names that only a program would give."""
        uuids = self._all(_UUID)
        return uuids + [found for found in self._all(_ID) if not _inside(found, uuids + self.urls)]

    @cached_property
    def files(self) -> list[Found]:
        """Names of files."""
        return [found for found in self._all(_FILE) if not _inside(found, self.urls + self.emails)]

    @cached_property
    def expressions(self) -> list[Found]:
        """Sums to work out; `15% of 80` is written as one."""
        shares = self._all(_SHARE, lambda match: f"{match[1]} / 100 * {match[2]}")
        sums = [found for found in self._all(_EXPRESSION) if not _inside(found, self.dates + self.urls)]
        return shares + sums

    @cached_property
    def code(self) -> list[Found]:
        """What stands between fences."""
        return self._all(_CODE, lambda match: match[1].strip())

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """JSON objects written out in the text."""
        return list(json_objects(self.text))

    @cached_property
    def numbers(self) -> list[Found]:
        """Numbers in figures, then those in words, each with the word after it and the words before it."""
        taken = [
            *self.urls,
            *self.dates,
            *self.moments,
            *self.ratios,
            *self.resolutions,
            *self.quoted,
            *self.ids,
        ]
        found = [*self._numbers(_NUMBER, _figure), *self._numbers(_NUMBER_WORD, _spelled)]
        free = [one for one in found if not _inside(one, taken)]
        sides = [
            Found(int(side), one.start, one.end, "", (name,))
            for one in self.resolutions
            for name, side in zip(("width", "height"), re.split("[x×]", one.value), strict=False)
            if "K" not in one.value and "p" not in one.value
        ]
        return sides + ([one for one in free if not _inside(one, self.times)] if len(free) > 1 else free)

    @cached_property
    def names(self) -> list[Found]:
        """Runs of capitalised words, without the verb or question word that opens a sentence."""
        found = (self._name(match) for match in _NAME.finditer(self.text))
        return [one for one in found if one is not None and not _inside(one, self.quoted)]

    def _name(self, match: re.Match[str]) -> Found | None:
        start, words = match.start(), match[0].split()
        opens = not self.text[:start].strip(" \"'“*#>-") or bool(re.search(r"[.!?\n]\W*$", self.text[:start]))
        if words[-1] in _FORMAT_NAMES:
            return None
        while opens and words and words[0].lower().rstrip(",") in _OPENERS:
            start = self.text.index(words[1], start + 1) if len(words) > 1 else match.end()
            words, opens = words[1:], len(words) == 1
        if not words or (len(words) == 1 and words[0].lower() in STOPWORDS | _OPENERS):
            return None
        if (
            opens
            and len(words) == 1
            and not re.match(
                r"(?:'s|\s*[,(:]|\s+(?:is|was|has|will|lives|works)\b)", self.text[match.end() :]
            )
        ):
            return None
        return Found(self.text[start : match.end()].removesuffix("'s"), start, match.end())

    def _numbers(
        self, pattern: re.Pattern[str], value: Callable[[str], float | int | None]
    ) -> Iterator[Found]:
        for match in pattern.finditer(self.text):
            if (number := value(match[0])) is None:
                continue
            unit = _UNIT.match(self.text, match.end())
            sign = _CURRENCY.search(self.text[: match.start()])
            word = (sign[1] if sign else "") or (unit and unit[1]) or ""
            counted = unit is not None and unit[1] and not sign and not re.fullmatch("[A-Z]{3}", unit[1])
            end = unit.end() if unit is not None and counted else match.end()
            before = re.findall(r"[^\W_]+", self.text[max(0, match.start() - 60) : match.start()])[-4:]
            yield Found(number, match.start(), end, word, tuple(stem(one) for one in before))

    def _all(
        self, pattern: re.Pattern[str], value: Callable[[re.Match[str]], Any] = lambda match: match[0]
    ) -> list[Found]:
        matches = ((match, value(match)) for match in pattern.finditer(self.text))
        return [Found(one, match.start(), match.end()) for match, one in matches if one is not None]


def decoded(text: str, at: int = 0) -> tuple[Any, int]:
    """Decode the JSON value that begins at a place, and tell where it ends; a ValueError where none does.

    A number that JSON cannot write again becomes null. What nests deeper than anyone reads is no value.
    """
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in _within(one)]
    if level:
        raise ValueError(_TOO_DEEP)
    return value, end


def _within(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _finite(figure: str) -> float | None:
    return value if math.isfinite(value := float(figure)) else None


_DEEPEST = 50
_TOO_DEEP = "The JSON nests too deep."
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """Give every JSON object that stands in a text, outermost only."""
    return (value for value, _, _ in _json_spans(text))


def without_json(text: str) -> str:
    """Give a text without its JSON objects and fenced blocks."""
    for _, start, end in reversed(list(_json_spans(text))):
        text = text[:start] + text[end:]
    return re.sub(r"```.*?```", " ", text, flags=re.DOTALL)


def _json_spans(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoded(text, at)
        except ValueError:
            end = at + 1
        else:
            yield value, at, end
        at = text.find("{", end)


def _inside(found: Found, others: list[Found]) -> bool:
    return any(
        other.start <= found.start and found.start < other.end for other in others if other is not found
    )


def _figure(text: str) -> float | int | None:
    """Read figures; None when they are beyond what can be reckoned with."""
    plain = text.replace(",", "")
    value = float(plain)
    if abs(value) > _HIGHEST:
        return None
    return int(plain) if re.fullmatch(r"-?\d+", plain) else value


def _spelled(text: str) -> int:
    return _NUMBER_WORDS[text.lower()]


def _iso_date(match: re.Match[str]) -> str | None:
    groups = match.groups()
    if groups[0] or groups[3]:
        year, month, day = (int(part) for part in (groups[0:3] if groups[0] else groups[3:6]))
    elif groups[6]:
        year, month, day = int(groups[8]), 1 + _MONTHS.index(groups[6].lower()), int(groups[7])
    elif groups[10]:
        year, month, day = int(groups[11]), 1 + _MONTHS.index(groups[10].lower()), int(groups[9])
    else:
        first, second, year = (int(part) for part in groups[12:15])
        month, day = (second, first) if first > 12 else (first, second)
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None


def _clock_time(match: re.Match[str]) -> str:
    hour, minute = (int(match[1]), match[2]) if match[1] else (int(match[4]), "00")
    half = (match[3] or match[5] or "").lower().replace(".", "")
    hour = hour % 12 + (12 if half == "pm" else 0) if half else hour
    return f"{hour:02}:{minute}"
