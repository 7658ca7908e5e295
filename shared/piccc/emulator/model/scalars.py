"""Scalars: the plainest numbers and texts that a shape allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from piccc.emulator.model.pattern import sample
from piccc.emulator.model.shapes import Schema, whole

LONGEST = 100_000
"""The most signs of a text that is made up."""
_FORMATS = {
    "date-time": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "duration": "PT1M",
    "email": "ada@example.com",
    "idn-email": "ada@example.com",
    "hostname": "example.com",
    "idn-hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "/",
    "iri": "https://example.com/",
    "iri-reference": "/",
    "uri-template": "https://example.com/{id}",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "json-pointer": "",
    "relative-json-pointer": "0",
    "regex": "a",
    "binary": "a",
    "byte": "YQ==",
}


def texts(shape: Schema, phrase: str, variant: int) -> Iterator[str]:
    """Give texts for a shape: its format, the phrase, its pattern, then whatever has the length."""
    low, high = whole(shape, "minLength", 0), shape.get("maxLength")
    if low > LONGEST:
        return
    if shape.get("format") in _FORMATS:
        yield _FORMATS[shape["format"]]
    phrase += f" {variant + 1}" if variant else ""
    if "pattern" not in shape:
        yield phrase
    else:
        samples = (
            sample(shape["pattern"], min_length=low + extra, max_length=high, variant=variant)
            for extra in (0, 1, 2, variant)
        )
        yield from (made for made in samples if made is not None)
    number = str(variant) if variant else ""
    yield number
    phrase = phrase or "a"
    yield (phrase * (low // len(phrase) + 1))[: max(low, 1) - len(number)] + number


def numbers(shape: Schema, variant: int) -> Iterator[float | int]:
    """Give numbers within the bounds, the plainest first."""
    low = _bound(max, shape.get("minimum"), shape.get("exclusiveMinimum"))
    high = _bound(min, shape.get("maximum"), shape.get("exclusiveMaximum"))
    step = Fraction(str(shape.get("multipleOf", 1)))
    bases: list[Fraction] = [Fraction(1), Fraction(0)]
    if low is not None:
        first = math.ceil(low / step) * step
        bases = [first, first + step, low, *bases]
    if high is not None:
        last = math.floor(high / step) * step
        bases += [last, last - step, high]
    if low is not None and high is not None:
        bases += [(low + high) / 2]
    bases += [step, -step]
    for base in bases:
        value = base + variant * step
        yield int(value) if value.denominator == 1 else float(value)


def _bound(tighter: Callable[[list[Fraction]], Fraction], *limits: Any) -> Fraction | None:
    """Give the tighter of two limits; an older draft's `exclusiveMinimum: true` is none."""
    given = [
        Fraction(str(one)) for one in limits if isinstance(one, int | float) and not isinstance(one, bool)
    ]
    return tighter(given) if given else None
