"""JSON Schema: what is wrong with one, and a valid value for it, from given values or made up."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import Any

from jsonschema.validators import Draft202012Validator, validator_for
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it ships no types
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from piccc.emulator.model.extract import Values

Schema = Mapping[str, Any]
_DEEPEST, _MOST_STEPS, _MOST_ITEMS, _LONGEST_TEXT = 12, 10_000, 1000, 100_000
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_KINDS = ("string", "integer", "number", "object", "array", "boolean", "null")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_FORMATS = {
    "date-time": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "duration": "PT1M",
    "email": "ada@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
}


class Unfillable(ValueError):
    """No valid value was found for a schema, which may have none."""


def flaw(schema: Any) -> str:
    """Return why a value is no JSON Schema by the rules of its draft; "" when it is one.

    Its patterns are not judged, for other engines know classes of characters that `re` does not; nor are
    empty lists, which pydantic writes for a union without members.
    """
    try:
        return _flaw(json.dumps(schema, allow_nan=False))
    except (RecursionError, ValueError):
        return "It nests too deep, or has a number or an address that is not valid."


@lru_cache(maxsize=256)  # the same tools come with every turn of a conversation
def _flaw(written: str) -> str:
    schema = json.loads(written)
    if not isinstance(schema, dict) or not isinstance(schema.get("$schema", ""), str):
        return "It is not an object, or its $schema is not a string."
    rules = validator_for(schema, default=Draft202012Validator)
    for error in rules(rules.META_SCHEMA, registry=REGISTRY).iter_errors(schema):
        if error.validator != "minItems":
            return f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}".removeprefix(": ")
    return ""


def filled(schema: Schema, values: Values) -> Any:
    """Return a valid value with what is required and what `values` states; else raise `Unfillable`."""
    try:
        return _Filler(schema, values).value(schema, "")
    except (Unresolvable, RecursionError, OverflowError, re.error) as error:
        raise Unfillable(f"The schema cannot be followed: {str(error)[:200]}") from error


class _Filler:
    """Proposes candidates for each part of a schema, and takes the first that the validator accepts."""

    def __init__(self, schema: Schema, values: Values) -> None:
        kind = validator_for(schema, default=Draft202012Validator)
        # The registry holds the drafts alone: the default one fetches every other address.
        self._validator = kind(schema, registry=REGISTRY, format_checker=kind.FORMAT_CHECKER)
        root = Resource.from_contents(schema, default_specification=DRAFT202012)
        self._resolver = Registry().with_resource(root.id() or "", root).resolver(root.id() or "")
        self._values = values
        self._open: list[int] = []  # the parts that are being filled, references followed
        self._variant = 0  # asks for another value, where items must differ
        self._steps = _MOST_STEPS

    def value(self, schema: Any, name: str, *, required: bool = True) -> Any:
        self._steps -= 1
        if self._steps > 0 and len(self._open) <= _DEEPEST:
            self._open.append(id(self._target(schema)))
            try:
                for value in self._candidates(schema, name, required):
                    if self._valid(value, schema):
                        self._values.claim(value)
                        return value
            finally:
                self._open.pop()
        raise Unfillable(f"No valid value was found for {name or 'the schema'}.")

    def _valid(self, value: Any, schema: Any) -> bool:
        return bool(self._validator.evolve(schema=schema).is_valid(value))

    def _candidates(self, schema: Any, name: str, required: bool) -> Iterator[Any]:
        shapes = self._shapes(schema)
        for shape in shapes if not self._variant and len(self._open) < 6 else ():
            for kind in _kinds(shape):
                if kind == "object" and "enum" not in shape and "const" not in shape:
                    yield from self._objects(shape, found) if (found := self._stated(shape)) else ()
                elif kind != "null":
                    yield from self._values.stated(name, {**shape, "type": kind})
        if not required:
            return
        for shape in shapes:
            yield from (*([shape["default"]] if "default" in shape else ()), *_list(shape, "examples"))
        if len(self._open) > 1 and any(_kinds(shape) == ["null"] for shape in shapes):
            yield None
        for shape in shapes:
            fixed = [shape["const"]] if "const" in shape else _list(shape, "enum")
            yield from _rotated(fixed, self._variant)
            for kind in _kinds(shape) if not fixed else ():
                with suppress(Unfillable):
                    yield from self._made(shape, kind, name)

    def _made(self, shape: Schema, kind: str, name: str) -> Iterator[Any]:
        if kind == "object":
            yield from self._objects(shape, {})
        elif kind == "array":
            low = _whole(shape, "minItems")
            for length in (
                max(min(1, _whole(shape, "maxItems", 1)), low) if len(self._open) < 4 else low,
                low,
            ):
                with suppress(Unfillable):
                    yield self._array(shape, name, length)
        elif kind in ("string", "number", "integer"):
            yield from () if self._variant else self._values.likely(name, {**shape, "type": kind})
            yield from (_texts if kind == "string" else _numbers)(shape, self._variant)
        else:
            yield from _rotated([False, True], self._variant) if kind == "boolean" else [None]

    def _stated(self, shape: Schema) -> dict[str, Any]:
        found = {}
        for name, part in mapping(shape, "properties").items():
            with suppress(Unfillable):
                found[name] = self.value(part, name, required=False)
        return found

    def _objects(self, shape: Schema, stated: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield an object with what is required and stated, then one with every property."""
        parts, made = mapping(shape, "properties"), dict(stated)
        rules = {**mapping(shape, "dependencies"), **mapping(shape, "dependentRequired")}
        needed = [*stated, *_list(shape, "required")]
        for name in needed:  # the list grows while it is read
            needed += [one for one in _list(rules, name) if one not in needed]
        # Texts come last: they take the words that the other values leave.
        for name in sorted(needed, key=lambda name: mapping(parts, name).get("type") == "string"):
            if name not in made:
                made[name] = self._property(shape, name)
        low = _whole(shape, "minProperties")
        for name in (*parts, *(f"item_{at + 1}" for at in range(min(low, _MOST_ITEMS)))):
            if len(made) < low and name not in made and self._valid(name, shape.get("propertyNames", True)):
                with suppress(Unfillable):
                    made[name] = self._property(shape, name)
        yield {name: made[name] for name in (*parts, *made) if name in made}
        for name in (*parts, *mapping(shape, "dependentSchemas")):
            with suppress(Unfillable):
                made[name] = made[name] if name in made else self._property(shape, name)
        yield made

    def _property(self, shape: Schema, name: str) -> Any:
        patterns, named = mapping(shape, "patternProperties").items(), mapping(shape, "properties")
        parts = [named[name]] if name in named else [one for key, one in patterns if re.search(key, name)]
        return self.value(parts[0] if parts else shape.get("additionalProperties", {}), name)

    def _array(self, shape: Schema, name: str, length: int) -> list[Any]:
        heads = _list(shape, "prefixItems") or _list(shape, "items")
        rest = shape.get("additionalItems" if isinstance(shape.get("items"), list) else "items", {})
        items: list[Any] = []
        before, unique = self._variant, bool(shape.get("uniqueItems"))
        try:
            for turn in range(4 * length + 4 if length <= _MOST_ITEMS else 0):
                if len(items) >= length:
                    break
                self._variant = before + turn * unique
                value = self.value(heads[len(items)] if len(items) < len(heads) else rest, name)
                items += [value] if not unique or not any(_same(value, one) for one in items) else []
        finally:
            self._variant = before
        return items

    def _target(self, schema: Any) -> Any:
        """Return what a schema refers to, or the schema itself."""
        given = [schema[key] for key in _REFERENCES if key in schema] if isinstance(schema, Mapping) else []
        return self._resolver.lookup(given[0]).contents if given and isinstance(given[0], str) else schema

    def _shapes(self, schema: Any, above: tuple[int, ...] = ()) -> Sequence[Schema]:
        """Return the schemas that a schema allows, with references, `allOf` and branches merged in."""
        self._steps -= 1
        if not isinstance(schema, Mapping) or id(schema) in above or len(above) > 20 or self._steps < 0:
            return [] if schema is False or isinstance(schema, Mapping) else [{}]
        target = self._target(schema)
        groups = [*([[target]] if target is not schema else ()), *([part] for part in _list(schema, "allOf"))]
        # A branch that leads back to where we are comes last, or no value would ever end.
        for branches in filter(None, (_list(schema, "anyOf"), _list(schema, "oneOf"))):
            groups.append(sorted(branches, key=lambda part: id(self._target(part)) in self._open))
        if "if" in schema:
            groups.append([{"allOf": [schema["if"], schema.get("then", True)]}, schema.get("else", True)])
        apart = (*_REFERENCES, "allOf", "anyOf", "oneOf", "if")
        shapes = [{key: one for key, one in schema.items() if key not in apart}]
        for group in groups:
            inner = [one for part in group for one in self._shapes(part, (*above, id(schema)))]
            shapes = [_merged(one, two) for one in shapes for two in inner][:40]
        return shapes


def _kinds(shape: Schema) -> list[str]:
    """Return the types that a shape allows, the likeliest first."""
    if isinstance(kind := shape.get("type", []), str):
        return [kind]
    if "const" in shape or shape.get("enum"):
        values = [shape["const"]] if "const" in shape else shape["enum"]
        return list(dict.fromkeys(_TYPES.get(type(one), "null") for one in values))
    hinted = ["object"] * ("properties" in shape or "required" in shape) + ["array"] * ("items" in shape)
    return sorted(kind or dict.fromkeys([*hinted, *_KINDS]), key=lambda one: one == "null")


def _merged(one: Schema, two: Schema) -> dict[str, Any]:
    """Merge two schemas so that a value for the result is likely valid for both."""
    return {**one, **{key: _joined(key, one[key], two[key]) if key in one else two[key] for key in two}}


_JOIN: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    **dict.fromkeys(("description", "title", "default", "format"), lambda one, _: one),
    **dict.fromkeys(("items", "additionalProperties"), lambda one, two: {"allOf": [one, two]}),
    "required": lambda one, two: [*one, *two],
    "enum": lambda one, two: [value for value in one if any(_same(value, other) for other in two)],
    "properties": lambda one, two: {
        **one,
        **two,
        **{name: {"allOf": [one[name], two[name]]} for name in one if name in two},
    },
}


def _joined(key: str, one: Any, two: Any) -> Any:
    if key != "type":
        return _JOIN[key](one, two) if key in _JOIN else two
    sets = [{kind} if isinstance(kind, str) else {*kind} for kind in (one, two)]
    first, second = (kinds | {"integer"} if "number" in kinds else kinds for kinds in sets)
    return sorted(first & second, reverse=True)


def _same(one: Any, two: Any) -> bool:
    """Compare as JSON does: `1` equals `1.0`, but not `true`."""
    return bool(one == two) and isinstance(one, bool) == isinstance(two, bool)


def mapping(shape: Schema, key: str) -> Mapping[str, Any]:
    """Return the mapping under a key of a schema; empty when there is none."""
    return found if isinstance(found := shape.get(key), Mapping) else {}


def _list(shape: Schema, key: str) -> list[Any]:
    return found if isinstance(found := shape.get(key), list) else []


def _whole(shape: Schema, key: str, default: int = 0) -> int:
    """Read a count, which JSON may write as `3.0`."""
    return int(found) if isinstance(found := shape.get(key), int | float) else default


def _rotated(values: list[Any], by: int) -> list[Any]:
    return [values[(at + by) % len(values)] for at in range(len(values))]


def _numbers(shape: Schema, variant: int) -> Iterator[float | int]:
    """Yield numbers within the bounds, the plainest first."""
    step = Fraction(str(shape.get("multipleOf", 1)))
    # An older draft writes `exclusiveMinimum: true`.
    given = {key: Fraction(str(one)) for key, one in shape.items() if type(one) in (int, float)}
    low = max((given[key] for key in ("minimum", "exclusiveMinimum") if key in given), default=None)
    high = min((given[key] for key in ("maximum", "exclusiveMaximum") if key in given), default=None)
    bases = [Fraction(1), Fraction(0), step, -step]
    if low is not None:
        bases = [first := math.ceil(low / step) * step, first + step, low, *bases]
    if high is not None:
        middle = (high + (high - 1 if low is None else low)) / 2
        bases += [last := math.floor(high / step) * step, last - step, high, middle]
    for value in (base + variant * step for base in bases):
        yield int(value) if value.denominator == 1 else float(value)


def _texts(shape: Schema, variant: int) -> Iterator[str]:
    """Yield texts: the example of a format, ones that match the pattern, then any of the right length."""
    low, high = _whole(shape, "minLength"), _whole(shape, "maxLength", _LONGEST_TEXT)
    if low > _LONGEST_TEXT:
        return
    yield from [_FORMATS[shape["format"]]] if shape.get("format") in _FORMATS else []
    if "pattern" in shape:
        re.compile(shape["pattern"])  # an error refuses the schema: nothing made here could be checked
        short = max(low - len(_sample(shape["pattern"], 0, variant)), 0)
        yield from (_sample(shape["pattern"], extra, variant) for extra in (0, 1, variant, short))
    text = f"text {variant + 1}" if variant else "text"
    yield (text * (low // len(text) + 1))[:low] if low > len(text) else text[:high]
    yield str(variant) if variant else ""


_GROUP = re.compile(r"(?<!\\)\((?:\?:|\?P<\w+>)?([^()|]*)(?:\|[^()]*)?\)(?:\{(\d+)[^}]*\}|([*?])|\+)?")
_ATOM = re.compile(r"(\\.|\[\^?[^\]]+\]|.)(?:\{(\d+)(,?)[^}]*\}|([*?+]))?")
_SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ -_./:@,+#中"


def _sample(pattern: str, extra: int, variant: int) -> str:
    """Write a text that likely matches a pattern, with `extra` more repeats; the validator judges it."""
    text, out = pattern.removeprefix("^").removesuffix("$"), ""
    while (group := _GROUP.search(text)) and len(text) < 1000:
        text = text[: group.start()] + group[1] * min(int(group[2] or not group[3]), 99) + text[group.end() :]
    for atom, times, more, optional in _ATOM.findall(text[:1000]):
        held = [sign for sign in _SIGNS if re.fullmatch(atom, sign)] or [atom[-1]]
        longer = extra if more or optional in ("*", "+") else 0
        out += held[variant % len(held)] * (min(int(times or optional in ("", "+")), _LONGEST_TEXT) + longer)
        extra, variant = extra - longer, variant // len(held)
    return out
