"""A value for a JSON Schema: what was found where it fits, else the default, else the smallest valid one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Protocol

from jsonschema.validators import Draft202012Validator, validator_for
from referencing.exceptions import Unresolvable

from piccc.emulator.model.pattern import sample
from piccc.emulator.model.scalars import numbers, texts
from piccc.emulator.model.shapes import REFS, Schema, Shapes, is_text, kinds, properties, same

_DEPTH = 12
_MISSING: Any = object()


class Finder(Protocol):
    """Where values come from: the words of the conversation, or nothing at all."""

    def bound(self, name: str, schema: Schema) -> Iterable[Any]:
        """Give the values that the words tie to this name, best first."""

    def free(self, name: str, schema: Schema) -> Iterable[Any]:
        """Give values of the right kind that nothing else has used."""

    def items(self, name: str, schema: Schema) -> Iterable[list[Any]]:
        """Give lists that the words tie to this name."""

    def parts(self) -> Iterable[list[Finder]]:
        """Give ways to part the words, each as one finder for each part."""

    def claim(self, value: Any) -> None:
        """Note that a value was used."""

    def phrase(self, name: str, schema: Schema) -> str:
        """Make up a short text for a name."""


class Unsatisfiable(ValueError):
    """No value for a part of a schema."""


class Filler:
    """Fills one schema; every value is checked against the schema before it is taken."""

    def __init__(self, schema: Schema | bool, finder: Finder) -> None:
        root = schema if isinstance(schema, Mapping) else {}
        kind = validator_for(root, default=Draft202012Validator)
        self._checker = kind(schema, format_checker=kind.FORMAT_CHECKER)
        self._schema, self._finder = schema, finder
        self._shapes = Shapes(root)
        self._depth = 0
        self._variant = 0

    def fill(self, name: str = "") -> Any:
        """Give a value for the schema, or raise `Unsatisfiable`."""
        return self._value(self._schema, name)

    def _valid(self, value: Any, schema: Schema | bool) -> bool:
        try:
            return self._checker.evolve(schema=schema).is_valid(value)
        except (Unresolvable, re.error):
            return True

    def _value(self, schema: Any, name: str) -> Any:
        """Give the first valid candidate for a value that is required."""
        if self._depth > _DEPTH or schema is False:
            raise Unsatisfiable(name)
        self._depth += 1
        try:
            for value in self._candidates(schema, name):
                if self._valid(value, schema):
                    self._finder.claim(value)
                    return value
        finally:
            self._depth -= 1
        raise Unsatisfiable(name)

    def _found(self, schema: Any, name: str, *, free: bool = False) -> Any:
        """Give the value that the words speak of, or `_MISSING`; `free` takes unnamed values too."""
        if self._depth > 4:
            return _MISSING
        self._depth += 1
        try:
            for shape in self._shapes.of(schema):
                for value in chain(self._spoken(shape, name), self._unnamed(shape, name) if free else ()):
                    if self._valid(value, schema):
                        self._finder.claim(value)
                        return value
        finally:
            self._depth -= 1
        return _MISSING

    def _candidates(self, schema: Any, name: str) -> Iterator[Any]:
        if not self._variant:
            spoken = self._found(schema, name)
            if spoken is not _MISSING:
                yield spoken
        shapes = self._shapes.of(schema)
        for shape in shapes:
            if "default" in shape:
                yield shape["default"]
            if isinstance(shape.get("examples"), list):
                yield from shape["examples"]
        if any(kinds(shape) == ["null"] for shape in shapes) and self._depth > 1:
            yield None
        for shape in shapes:
            yield from self._made(shape, name)

    def _spoken(self, shape: Schema, name: str) -> Iterator[Any]:
        for kind in kinds(shape):
            if "const" in shape or "enum" in shape or kind not in ("object", "array", "null"):
                yield from self._finder.bound(name, {**shape, "type": kind})
            elif kind == "object" and self._depth < 4:
                yield from self._spoken_object(shape)
            elif kind == "array":
                yield from self._spoken_list(shape, name)

    def _unnamed(self, shape: Schema, name: str) -> Iterator[Any]:
        for kind in kinds(shape):
            if kind in ("string", "integer", "number") and "enum" not in shape and "const" not in shape:
                yield from self._finder.free(name, {**shape, "type": kind})

    def _spoken_object(self, shape: Schema) -> Iterator[Any]:
        if spoken := self._spoken_properties(shape, {}):
            yield from self._objects(shape, spoken)

    def _spoken_properties(self, shape: Schema, known: Mapping[str, Any]) -> dict[str, Any]:
        spoken = dict(known)
        for name, part in properties(shape).items():
            if name not in spoken and (found := self._found(part, name)) is not _MISSING:
                spoken[name] = found
        return spoken

    def _spoken_list(self, shape: Schema, name: str) -> Iterator[Any]:
        item = shape.get("items", {})
        for found in self._finder.items(name, item if isinstance(item, Mapping) else {}):
            yield found[: shape.get("maxItems")]
        if any(kinds(one) == ["object"] for one in self._shapes.of(item)) and "prefixItems" not in shape:
            yield from self._spoken_rows(item)

    def _spoken_rows(self, item: Any) -> Iterator[list[Any]]:
        """Give one object for each part of the words that holds a value for all its required scalars."""
        whole, best = self._finder, list[Any]()
        for shape in self._shapes.of(item)[:1]:
            for parts in whole.parts():
                rows = [row for part in parts for row in self._row(shape, part) if self._valid(row, item)]
                best = max(best, rows, key=len)
        self._finder = whole
        if best:
            yield best

    def _row(self, shape: Schema, part: Finder) -> list[Any]:
        self._finder = part
        known = properties(shape)
        needed = [name for name in shape.get("required", ()) if name in known]
        found = {name: self._found(known[name], name, free=True) for name in needed}
        return [] if not found or _MISSING in found.values() else [next(self._objects(shape, found))]

    def _made(self, shape: Schema, name: str) -> Iterator[Any]:
        if "const" in shape:
            yield shape["const"]
        elif "enum" in shape:
            if not self._variant:
                yield from self._finder.free(name, shape)
            yield from _turned(shape["enum"], self._variant)
        else:
            for kind in kinds(shape):
                yield from self._made_kind(kind, shape, name)

    def _made_kind(self, kind: str, shape: Schema, name: str) -> Iterator[Any]:
        if kind in ("object", "array"):
            self._shapes.open.append(shape.get(REFS, ()))
            yield from self._objects(shape) if kind == "object" else self._lists(shape, name)
            self._shapes.open.pop()
        elif kind == "string":
            if not self._variant:
                yield from self._finder.free(name, {**shape, "type": "string"})
            yield from texts(shape, self._finder.phrase(name, shape), self._variant)
        elif kind in ("integer", "number"):
            if not self._variant:
                yield from self._finder.free(name, {**shape, "type": kind})
            yield from numbers(shape, self._variant)
        elif kind == "boolean":
            yield from _turned([False, True], self._variant)
        else:
            yield None

    def _objects(self, shape: Schema, known: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Give an object with what is required and what was found, then ones with more."""
        made = self._required(shape, self._spoken_properties(shape, known or {}))
        ordered = {name: made[name] for name in (*properties(shape), *made) if name in made}
        self._grow(shape, ordered)
        yield ordered
        yield self._required(shape, {})
        for extra in (
            {},
            *(one for one in shape.get("dependentSchemas", {}).values() if isinstance(one, Mapping)),
        ):
            yield self._fuller(ordered, {**properties(shape), **properties(extra)})

    def _fuller(self, made: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
        fuller = dict(made)
        for name, part in parts.items():
            if name not in fuller:
                try:
                    fuller[name] = self._value(part, name)
                except Unsatisfiable:
                    continue
        return fuller

    def _required(self, shape: Schema, known: Mapping[str, Any]) -> dict[str, Any]:
        """Add to the known properties the required ones, texts last: they take the words that remain."""
        needed = list(shape["required"]) if isinstance(shape.get("required"), list) else []
        rules = {**shape.get("dependencies", {}), **shape.get("dependentRequired", {})}
        for name in (*known, *needed):
            needed += (
                [one for one in rules.get(name, ()) if one not in needed]
                if isinstance(rules.get(name), list)
                else []
            )
        made = dict(known)
        for name in sorted(needed, key=lambda name: is_text(properties(shape).get(name))):
            if name not in made:
                made[name] = self._property(shape, name)
        return made

    def _property(self, shape: Schema, name: str) -> Any:
        if name in properties(shape):
            return self._value(properties(shape)[name], name)
        matching = [
            one for pattern, one in shape.get("patternProperties", {}).items() if _matches(pattern, name)
        ]
        parts = matching or [shape.get("additionalProperties", {})]
        return self._value({"allOf": parts} if len(parts) > 1 else parts[0], name)

    def _grow(self, shape: Schema, made: dict[str, Any]) -> None:
        """Add properties until there are as many as the schema wants."""
        rule = shape.get("propertyNames", True)
        names = [*properties(shape), *self._new_names(shape)] if shape.get("minProperties") else []
        for name in names:
            if len(made) >= shape["minProperties"]:
                return
            if name not in made and self._valid(name, rule):
                try:
                    made[name] = self._property(shape, name)
                except Unsatisfiable:
                    continue

    def _new_names(self, shape: Schema) -> Iterator[str]:
        """Give names that a property without one of its own may have."""
        rule = shape.get("propertyNames", {})
        rule = rule if isinstance(rule, Mapping) else {}
        patterns = [*shape.get("patternProperties", ()), *([rule["pattern"]] if "pattern" in rule else [])]
        low = int(rule.get("minLength", 1))
        yield from rule.get("enum", ())
        for number in range(int(shape["minProperties"]) + len(properties(shape)) + 2):
            made = (sample(one, min_length=low, variant=number) for one in patterns)
            longer = (sample(one, min_length=low + number) for one in patterns)
            yield from (one for one in (*made, *longer) if one is not None)
            yield f"item_{number + 1}".rjust(low, "_")
            yield str(number + 1).rjust(low, "0")[: rule.get("maxLength")]

    def _lists(self, shape: Schema, name: str) -> Iterator[list[Any]]:
        low, high = int(shape.get("minItems", 0)), shape.get("maxItems", math.inf)
        inner = shape.get("contains")
        wanted = max(low, int(shape.get("minContains", 1)) if inner is not None else 0)
        generous = min(max(wanted, 1), high) if self._depth < 6 and not self._variant else wanted
        for length in dict.fromkeys((generous, wanted, low)):
            try:
                yield self._list(shape, name, int(length), inner)
            except Unsatisfiable:
                continue

    def _list(self, shape: Schema, name: str, length: int, inner: Any) -> list[Any]:
        items: list[Any] = []
        before = self._variant
        heads = shape.get("prefixItems") or (shape["items"] if isinstance(shape.get("items"), list) else [])
        rest = shape.get("additionalItems" if isinstance(shape.get("items"), list) else "items", {})
        contained = int(shape.get("minContains", 1)) if inner is not None else 0
        try:
            for turn in range(4 * length + 4):
                if len(items) >= length:
                    break
                self._variant = before + turn if shape.get("uniqueItems") or contained else before
                at = len(items)
                part = heads[at] if at < len(heads) else rest
                if at >= length - contained:
                    part = {"allOf": [part, inner]}
                value = self._value(part, name)
                if not (shape.get("uniqueItems") and any(same(value, one) for one in items)):
                    items.append(value)
        finally:
            self._variant = before
        return items


def _turned(values: list[Any], by: int) -> list[Any]:
    """Start the list at another place, so that each variant prefers another value."""
    by = by % len(values) if values else 0
    return values[by:] + values[:by]


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False
