"""Finding: which of the values in the words belongs to an argument, by its name, unit and kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from piccc.emulator.model import hints
from piccc.emulator.model.clause import request_of, subject_of, tidy, without
from piccc.emulator.model.reading import Found, Reading
from piccc.emulator.model.schema import Finder
from piccc.emulator.model.shapes import Schema
from piccc.emulator.model.words import GENERIC, STOPWORDS, WIDE, is_wide, stem, stemmed, stems


class Words:
    """The finder over a request: its own clause first, then the words and results around it."""

    def __init__(
        self,
        text: str,
        *,
        around: Iterable[str] = (),
        tool: Iterable[str] = (),
        about: str = "",
        given: str = "",
        known: Iterable[dict[str, Any]] = (),
        phrase: Callable[[str, Schema], str],
    ) -> None:
        self._reading = Reading(text)
        self._around = [Reading(one) for one in dict.fromkeys(around) if one.strip() and one != text]
        self._tool = frozenset(tool)
        self._known = list(known)
        self._phrase, self._about, self._given = phrase, about, given
        self._offered: dict[str, tuple[Reading, Found]] = {}
        self._used: set[tuple[int, int, int]] = set()

    def phrase(self, name: str, schema: Schema) -> str:
        """Make up a short text for a name."""
        return self._phrase(name, schema)

    def claim(self, value: Any) -> None:
        """Note that a value was used."""
        if (offer := self._offered.pop(repr(value), None)) is not None:
            self._used.add((id(offer[0]), offer[1].start, offer[1].end))

    def bound(self, name: str, schema: Schema) -> Iterator[Any]:
        """Give the values that the words tie to this name, best first."""
        wanted = _meant(name)
        yield from _stated(self._reading.objects, name, wanted)
        yield from self._tied(self._reading, name, schema)
        if wanted & hints.HANDLES or hints.MEDIA_URL.search(name):
            yield from _stated(self._known, name, wanted)
            if schema.get("type") == "string" and "id" not in wanted:
                yield from (link for known in self._known for link in _links(known))

    def free(self, name: str, schema: Schema) -> Iterator[Any]:
        """Give values of the right kind that nothing else has used."""
        wanted = _meant(name)
        yield from _stated(self._known, name, wanted)
        for reading in self._around:
            yield from self._tied(reading, name, schema)
        if "enum" in schema or "const" in schema:
            return
        if schema.get("type") in ("integer", "number"):
            for reading in (self._reading, *self._around):
                yield from self._offer(reading, reading.numbers)
        elif schema.get("type") == "string" and wanted & hints.FREE_TEXT:
            yield from self._offer(self._reading, self._reading.quoted if wanted & hints.QUOTABLE else ())
            yield self._subject(wanted)
        elif schema.get("type") == "string":
            for reading in (self._reading, *self._around[:1]):
                yield from self._offer(reading, [*reading.quoted, *reading.names])
            yield from _exemplary(schema)
            subject = self._subject(wanted)
            if self._tool and 0 < len(subject.split()) <= 4 and not is_wide(subject):
                yield subject

    def items(self, name: str, schema: Schema) -> Iterator[list[Any]]:
        """Give lists that the words tie to this name."""
        for found in self._lists(self._reading, name, _meant(name), schema):
            if found:
                yield list(dict.fromkeys(found))

    def parts(self) -> Iterator[list[Finder]]:
        """Give ways to part the words, each as one finder for each part."""
        for pattern in (r"\n+|;|；|。", r"(?<=[.!?])\s+", r",?\s+and\s+|[；;、]|，", r",\s*"):
            parts = [part for part in re.split(pattern, self._reading.text) if part.strip()]
            yield [Words(part, tool=self._tool, phrase=self._phrase) for part in parts]

    def _tied(self, reading: Reading, name: str, schema: Schema) -> Iterator[Any]:
        found = sorted(
            self._bound(reading, name, _meant(name), schema), key=lambda pair: pair[0], reverse=True
        )
        yield from self._offer(reading, (one for _, one in found))

    def _subject(self, wanted: frozenset[str]) -> str:
        """Give the free text that is left of the clause, else what it points back to."""
        reading = self._reading
        spans = {(start, end) for owner, start, end in self._used if owner == id(reading)}
        if wanted & hints.SCENE:
            timed = [one for one in reading.numbers if stem(one.unit) in hints.SECONDS]
            spans |= {(one.start, one.end) for one in (*reading.ratios, *reading.resolutions, *timed)}
        if len(reading.quoted) == 1 and wanted & hints.SCENE:
            [quote] = reading.quoted
            if not subject_of(without(reading.text, {*spans, (quote.start, quote.end)}), self._tool):
                return str(quote.value)
        rest = without(reading.text, spans)
        subject = subject_of(rest, self._tool)
        if self._about and re.match(r"(?:it|them|this|that)\b", subject, re.IGNORECASE):
            return re.sub(r"^\w+", lambda _: self._about, subject)
        back = self._given if wanted & hints.QUOTABLE else self._about
        return subject or back or self._about or request_of(rest) or tidy(reading.text)

    def _offer(self, reading: Reading, found: Iterable[Found]) -> Iterator[Any]:
        for one in found:
            if not any(
                owner == id(reading) and start < one.end and one.start < end
                for owner, start, end in self._used
            ):
                self._offered[repr(one.value)] = (reading, one)
                yield one.value

    def _bound(
        self, reading: Reading, name: str, wanted: frozenset[str], schema: Schema
    ) -> Iterator[tuple[float, Found]]:
        kind = schema.get("type")
        if "enum" in schema or "const" in schema:
            yield from _choices(reading, wanted, schema.get("enum", [schema.get("const")]))
        elif kind == "boolean":
            yield from _switches(reading, wanted)
        elif kind in ("integer", "number"):
            told = f"{schema.get('description', '')} {schema.get('title', '')}"
            yield from (
                (score, one)
                for one in reading.numbers
                for score, one in [_score(one, name, wanted, told, self._tool)]
                if score
            )
        elif kind == "string":
            yield from ((5, one) for one in _explicit(reading, name))
            yield from ((3, one) for one in self._hinted(reading, wanted, schema))

    def _hinted(self, reading: Reading, wanted: frozenset[str], schema: Schema) -> Iterator[Found]:
        for stems_of, formats, kinds in hints.KINDS:
            if wanted & stems_of or schema.get("format") in formats:
                yield from (one for kind in kinds for one in getattr(reading, kind))
        if wanted & stemmed("aspect ratio"):
            yield from (one for _, one in _choices(reading, wanted, ["1:1", "16:9", "9:16", "21:9"]))
        if wanted & stemmed("image video audio picture media source reference"):
            yield from reading.urls
        for stems_of, patterns in hints.HINTS:
            if wanted & stems_of:
                yield from (one for pattern in patterns for one in _matches(reading, pattern))

    def _lists(
        self, reading: Reading, name: str, wanted: frozenset[str], schema: Schema
    ) -> Iterator[list[Any]]:
        kind = schema.get("type")
        if "enum" in schema:
            yield [
                one.value
                for _, one in sorted(
                    _choices(reading, wanted, schema["enum"]), key=lambda pair: pair[1].start
                )
            ]
        elif kind in ("integer", "number"):
            yield [one.value for one in reading.numbers]
        elif kind == "string":
            for stems_of, formats, kinds in hints.KINDS:
                if wanted & stems_of or schema.get("format") in formats:
                    yield [one.value for one in getattr(reading, kinds[0])]
            yield from (_listed(match[1]) for match in _naming(name).finditer(reading.text))
            if wanted & _NAMED_THINGS or len(reading.quoted) > 1:
                yield [*self._offer(reading, reading.names if wanted & _NAMED_THINGS else reading.quoted)]


def _meant(name: str) -> frozenset[str]:
    ways = {"from", "to", "by", "at"} & set(name.split("_"))
    return frozenset(stems(name)) | ways or frozenset({stem(name)})


_NAMED_THINGS = stemmed(
    "names people cities places countries locations attendees participants authors companies persons"
)


def _stated(objects: Iterable[dict[str, Any]], name: str, wanted: frozenset[str]) -> Iterator[Any]:
    """Give the values whose key is the name, then those whose key means as much."""
    objects = list(objects)
    yield from (known[name] for known in objects if name in known)
    for known in objects:
        for key, value in known.items():
            other = set(stems(key))
            if (
                key != name
                and other
                and (other <= wanted or wanted <= other)
                and not isinstance(value, dict | list)
            ):
                yield value


def _exemplary(schema: Schema) -> Iterator[str]:
    """Give the example that a description names: `the city, e.g. Paris`."""
    match = hints.EXAMPLE.search(str(schema.get("description", "")))
    if match:
        yield match[1].strip(" '\"`“”")


def _naming(name: str) -> re.Pattern[str]:
    word = r"[\s_-]+".join(re.escape(part) for part in re.findall(r"[^\W_]+", name)) or "(?!)"
    singular = f"{word[:-1]}s?" if word.endswith("s") else f"{word}s?"
    return re.compile(
        rf"\b{singular}\b(?:\s+(?:are|is|of|like|such as|include))?\s*[:=]?\s+([^.!?\n;]+)", re.IGNORECASE
    )


def _listed(text: str) -> list[str]:
    parts = re.split(r"\s*(?:,|、|，)\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+|和", text)
    return [part.strip(" \"'“”「」") for part in parts if part.strip(" \"'“”「」")]


def _links(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _links(one)
    elif isinstance(value, str) and re.match(r"https?://", value):
        yield value


def _matches(reading: Reading, pattern: str) -> Iterator[Found]:
    for match in re.finditer(pattern, reading.text):
        yield Found(match[1].strip().removesuffix("'s"), match.start(1), match.end(1))


_LINK = r"\s*(?:is|are|of|as|to|set to|should be|为|是|用)?\s*[:：=]?\s*"


def _explicit(reading: Reading, name: str) -> Iterator[Found]:
    """Give what is said to be the argument: `title "Dawn"`, `seed=7`, `style: noir`."""
    word = r"[\s_-]+".join(re.escape(part) for part in re.findall(r"[^\W_]+", name))
    if not word:
        return
    named = rf"(?<![\w'\"“]){word}(?![\w'\"”])(?P<link>{_LINK})"
    for match in re.finditer(named, reading.text, re.IGNORECASE):
        yield from (replace(one, start=match.start()) for one in reading.quoted if one.start == match.end())
        sign = re.compile(
            r"\s*[:：=]\s*([^\s,;，；)}][^,;，；)}\n]*?)(?=\s*(?:[,;，；)}\n]|$|\.\s|\.$|\s\w+\s*=))"
        ).match(reading.text, match.start("link"))
        if sign and not sign[1].startswith(('"', "'", "“", "「", "{", "[")):
            yield Found(sign[1], match.start(), sign.end(1))


def _choices(reading: Reading, wanted: frozenset[str], values: list[Any]) -> Iterator[tuple[float, Found]]:
    """Give the values of an enumeration that the text names, the longest first."""
    for value in values:
        if isinstance(value, bool) or value is None or not str(value).strip():
            continue
        for rank, word in enumerate((str(value), *hints.WORDS_FOR.get(str(value).lower(), "").split())):
            for match in _saying(word).finditer(reading.text):
                if (
                    len(word) > 1
                    or not word.isalpha()
                    or _named_before(reading.text[: match.start()], wanted)
                ):
                    yield len(word) - rank / 10, Found(value, match.start(), match.end())


def _saying(word: str) -> re.Pattern[str]:
    if re.search(WIDE, word):
        return re.compile(re.escape(word))
    parts = r"[\s_-]*".join(re.escape(part) for part in re.split(r"[\s_-]+", word) if part)
    parts = parts or re.escape(word)
    return re.compile(rf"(?<![\w:]){parts}(?:s|es)?(?![\w:])", re.IGNORECASE | re.ASCII)


def _named_before(text: str, wanted: frozenset[str]) -> bool:
    return bool(wanted & set(stems(" ".join(text.split()[-3:]))))


_SWITCH_WORDS = stemmed("is has enable enabled include included allow use with should add")
_NEGATION = re.compile(
    r"\b(?:no|not|without|don't|disable|never|exclude|skip|minus)\s+(?:\w+\s+){0,2}$", re.IGNORECASE
)
_OFF = re.compile(r"\W*(?:=|:|is|to)?\s*(?:off|false|no)\b", re.IGNORECASE)


def _switches(reading: Reading, wanted: frozenset[str]) -> Iterator[tuple[float, Found]]:
    """Give true for what the text asks for by name, false for what it asks to leave out."""
    telling = wanted - GENERIC - _SWITCH_WORDS
    words = [(match, stem(match[0])) for match in re.finditer(r"[^\W_]+", reading.text)]
    if not telling or not telling <= {one for _, one in words}:
        return
    for match, one in words:
        if one in telling:
            left_out = _NEGATION.search(reading.text[: match.start()])
            off = left_out or _OFF.match(reading.text, match.end())
            yield 3, Found(not off, left_out.start() if left_out else match.start(), match.end())


def _score(
    number: Found, name: str, wanted: frozenset[str], told: str, tool: frozenset[str]
) -> tuple[float, Found]:
    """Weigh how firmly a number belongs to a name, and convert it when its unit is one of time."""
    unit = stem(number.unit.replace(" ", "")) if number.unit else ""
    before = [word for word in number.before if word not in STOPWORDS][-2:]
    own = wanted | {stem(part) for part in re.findall(r"[a-z]+", name.lower())}
    if unit in hints.SECONDS and own & (hints.DURATION | set(hints.SECONDS)):
        return 4, _in_time(number, unit, own | set(stems(told)))
    counts = own & hints.COUNT and number.value != 1
    if unit and (unit in own or any(unit in units for one, units in hints.ALIASES.items() if one in own)):
        return (4 if counts or not own & hints.COUNT else 0), number
    if own & set(before[-1:]) or (len(before) == 2 and before[0] in own and not before[1].isdigit()):
        return 3, number
    counted = unit in tool | hints.COUNTED | set(stems(told)) or (number.unit.endswith("s") and not tool)
    if counts and (counted or {"top", "first", "last", "limit"} & set(before)):
        return 2, number
    if unit and unit not in STOPWORDS and unit in stems(told) and unit not in GENERIC:
        return 2, number
    is_year = isinstance(number.value, int) and 1000 <= number.value <= 2100 and not number.unit.endswith("s")
    return (2 if "year" in own and is_year else 0), number


def _in_time(number: Found, unit: str, own: set[str] | frozenset[str]) -> Found:
    target = next(
        (one for one in ("ms", "millisecond", "second", "minut", "hour", "day", "week") if one in own),
        "second",
    )
    value = number.value * hints.SECONDS[unit] / hints.SECONDS[target]
    return Found(int(value) if float(value).is_integer() else value, number.start, number.end, number.unit)
