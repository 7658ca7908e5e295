"""Values for JSON Schemas, validated with jsonschema, and JSON extracted from text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from typing import Any

from piccc.emulator.model.extract import Values


def json_value(text: str, at: int = 0) -> tuple[Any, int]:
    """Return the JSON value at a position in a text, and its end. Raises ValueError if there is none."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
        json.dumps(value, allow_nan=False)  # refuses what JSON cannot write, such as `NaN` or `1e999`
    except RecursionError as error:
        raise ValueError("The JSON is nested too deeply.") from error
    return value, end


def json_objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield the outermost JSON objects in a text, with their positions."""
    end = 0
    for brace in re.finditer("{", text):
        with suppress(ValueError):
            if brace.start() >= end:
                value, end = json_value(text, brace.start())
                yield value, brace.start(), end


Schema = Mapping[str, Any]
_DEEPEST, _MOST_STEPS, _MOST_ITEMS, _LONGEST_TEXT = 12, 10_000, 1000, 100_000
_KINDS = ("string", "integer", "number", "object", "array", "boolean", "null")
_FORMATS = {
    "date-time": "2026-01-01T12:00:00Z",
    "date": "2026-01-01",
    "time": "12:00:00Z",
    "email": "ada@example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
}


class Unfillable(ValueError):
    """No valid value was found for a schema; there may be none."""


def is_schema(value: Any) -> bool:
    """Return whether a value is a JSON Schema for an object."""
    # Imported here because it takes a third of the startup time.
    from jsonschema.validators import Draft202012Validator
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it has no annotations

    rules = Draft202012Validator(Draft202012Validator.META_SCHEMA, registry=REGISTRY)
    return bool(mapping(value, "properties")) and rules.is_valid(value)


def filled(schema: Schema, values: Values) -> Any:
    """Return a valid value with the required parts and those stated in `values`, or raise `Unfillable`."""
    from referencing.exceptions import Unresolvable

    try:
        return _Filler(schema, values).value(schema, "")
    except (Unresolvable, RecursionError, OverflowError, re.error) as error:
        raise Unfillable(f"The schema cannot be resolved: {str(error)[:200]}") from error


class _Filler:
    """Proposes candidates for each part of a schema, and uses the first one that validates."""

    def __init__(self, schema: Schema, values: Values) -> None:
        from jsonschema.validators import Draft202012Validator, validator_for
        from jsonschema_specifications import REGISTRY
        from referencing import Registry, Resource
        from referencing.jsonschema import DRAFT202012

        kind = validator_for(schema, default=Draft202012Validator)
        # This registry has only the drafts; the default one fetches any other URI.
        self._validator = kind(schema, registry=REGISTRY, format_checker=kind.FORMAT_CHECKER)
        root = Resource.from_contents(schema, default_specification=DRAFT202012)
        self._resolver = Registry().with_resource(root.id() or "", root).resolver(root.id() or "")
        self._values = values
        self._open: list[int] = []  # schemas being filled, with references resolved
        self._steps = _MOST_STEPS

    def value(self, schema: Any, name: str, *, required: bool = True) -> Any:
        self._steps -= 1
        if self._steps > 0 and len(self._open) <= _DEEPEST:
            self._open.append(id(self._target(schema)))
            try:
                for value in self._candidates(schema, name, required):
                    if self._validator.evolve(schema=schema).is_valid(value):
                        self._values.claim(value)
                        return value
            finally:
                self._open.pop()
        raise Unfillable(f"No valid value was found for {name or 'the schema'}.")

    def _candidates(self, schema: Any, name: str, required: bool) -> Iterator[Any]:
        shapes = self._shapes(schema)
        for shape in shapes if len(self._open) < 6 else ():
            for kind in _kinds(shape):
                if kind == "object" and "enum" not in shape and "const" not in shape:
                    yield from self._objects(shape, stated=True)
                elif kind != "null":
                    yield from self._values.stated(name, {**shape, "type": kind})
        if not required:
            return
        for shape in shapes:
            yield from (*([shape["default"]] if "default" in shape else ()), *_list(shape, "examples"))
        if len(self._open) > 1 and any(_kinds(shape) == ["null"] for shape in shapes):
            yield None
        for shape in shapes:
            yield from (fixed := [shape["const"]] if "const" in shape else _list(shape, "enum"))
            for kind in _kinds(shape) if not fixed else ():
                with suppress(Unfillable):
                    yield from self._made(shape, kind, name)

    def _made(self, shape: Schema, kind: str, name: str) -> Iterator[Any]:
        if kind == "object":
            yield from self._objects(shape, stated=False)
        elif kind == "array":
            low = _whole(shape, "minItems")
            likely = min(1, _whole(shape, "maxItems", 1)) if len(self._open) < 4 else 0
            heads = _list(shape, "prefixItems") or _list(shape, "items")
            rest = shape.get("items", {}) if heads is not shape.get("items") else {}
            for length in (min(max(likely, low), _MOST_ITEMS), min(low, _MOST_ITEMS)):
                with suppress(Unfillable):
                    yield [self.value(one, name) for one in [*heads, *[rest] * length][:length]]
        elif kind in ("string", "number", "integer"):
            yield from self._values.likely(name, {**shape, "type": kind})
            yield from _texts(shape) if kind == "string" else _numbers(shape)
        else:
            yield from (False, True) if kind == "boolean" else (None,)

    def _objects(self, shape: Schema, *, stated: bool) -> Iterator[dict[str, Any]]:
        """Yield an object with required and stated properties, then one with every property."""
        parts, made = mapping(shape, "properties"), dict[str, Any]()
        for name, part in parts.items() if stated else ():
            with suppress(Unfillable):
                made[name] = self.value(part, name, required=False)
        if stated and not made:
            return
        needed = [name for name in _list(shape, "required") if name not in made]
        # Strings come last: they get the words that the other values leave.
        for name in sorted(needed, key=lambda name: mapping(parts, name).get("type") == "string"):
            made[name] = self.value(parts.get(name, shape.get("additionalProperties", {})), name)
        yield {name: made[name] for name in (*parts, *made) if name in made}
        more = (f"item_{at + 1}" for at in range(min(_whole(shape, "minProperties"), _MOST_ITEMS)))
        for name in (one for one in (*parts, *more) if one not in made):
            with suppress(Unfillable):
                made[name] = self.value(parts.get(name, shape.get("additionalProperties", {})), name)
        yield made

    def _target(self, schema: Any) -> Any:
        """Return the schema that a reference points to, or the schema itself."""
        name = schema.get("$ref") if isinstance(schema, Mapping) else None
        return self._resolver.lookup(name).contents if isinstance(name, str) else schema

    def _shapes(self, schema: Any, above: tuple[int, ...] = ()) -> Sequence[Schema]:
        """Return a schema's variants, with references, `allOf` and branches merged."""
        self._steps -= 1
        if not isinstance(schema, Mapping) or id(schema) in above or len(above) > 20 or self._steps < 0:
            return [] if schema is False or isinstance(schema, Mapping) else [{}]
        target = self._target(schema)
        groups = [*([[target]] if target is not schema else ()), *([part] for part in _list(schema, "allOf"))]
        # Recursive branches come last; otherwise no value would ever be complete.
        for branches in filter(None, (_list(schema, "anyOf"), _list(schema, "oneOf"))):
            groups.append(sorted(branches, key=lambda part: id(self._target(part)) in self._open))
        shapes = [{key: schema[key] for key in schema if key not in ("$ref", "allOf", "anyOf", "oneOf")}]
        for group in groups:
            inner = [one for part in group for one in self._shapes(part, (*above, id(schema)))]
            shapes = [_merged(one, two) for one in shapes for two in inner][:40]
        return shapes


def _kinds(shape: Schema) -> list[str]:
    """Return the types that a schema allows, likeliest first."""
    if isinstance(kind := shape.get("type", []), str):
        return [kind]
    hinted = ["object"] * ("properties" in shape or "required" in shape) + ["array"] * ("items" in shape)
    return sorted(kind or dict.fromkeys([*hinted, *_KINDS]), key=lambda one: one == "null")


def _merged(one: Schema, two: Schema) -> dict[str, Any]:
    """Merge two schemas; if both set a keyword, the second wins and the validator decides."""
    ones, twos = mapping(one, "properties"), mapping(two, "properties")
    both = {name: {"allOf": [ones[name], twos[name]]} for name in ones if name in twos}
    required = [*_list(one, "required"), *_list(two, "required")]
    joined = {"properties": {**ones, **twos, **both}, "required": required}
    return {**one, **two, **{key: value for key, value in joined.items() if value}}


def mapping(shape: Schema, key: str) -> Mapping[str, Any]:
    """Return the mapping at a schema's key, or an empty one."""
    return found if isinstance(found := shape.get(key), Mapping) else {}


def _list(shape: Schema, key: str) -> list[Any]:
    return found if isinstance(found := shape.get(key), list) else []


def _whole(shape: Schema, key: str, default: int = 0) -> int:
    """Return a count, which JSON may write as `3.0`."""
    return int(found) if isinstance(found := shape.get(key), int | float) else default


def _numbers(shape: Schema) -> Iterator[float | int]:
    """Yield numbers within the bounds, simplest first."""
    given = {key: Fraction(str(one)) for key, one in shape.items() if type(one) in (int, float)}
    step, bases = given.get("multipleOf", Fraction(1)), [Fraction(1), Fraction(0)]
    low = max((given[key] for key in ("minimum", "exclusiveMinimum") if key in given), default=None)
    high = min((given[key] for key in ("maximum", "exclusiveMaximum") if key in given), default=None)
    if low is not None:
        bases = [first := math.ceil(low / step) * step, first + step, low, *bases]
    if high is not None:
        middle = (high + (high - 1 if low is None else low)) / 2
        bases += [last := math.floor(high / step) * step, last - step, high, middle]
    for value in (*bases, step, -step):
        yield int(value) if value.denominator == 1 else float(value)


def _texts(shape: Schema) -> Iterator[str]:
    """Yield an example of the format, then a text of the right length; nothing for a pattern."""
    low, high = _whole(shape, "minLength"), _whole(shape, "maxLength", _LONGEST_TEXT)
    yield from [_FORMATS[shape["format"]]] if shape.get("format") in _FORMATS else []
    yield ("text" * (min(low, _LONGEST_TEXT) // 4 + 1))[: max(min(low, _LONGEST_TEXT), min(high, 4))]
