"""A value for a JSON Schema: what was found where it fits, else the default, else the smallest valid one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

from jsonschema.validators import Draft202012Validator, validator_for
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]  # it ships no types
from referencing.exceptions import Unresolvable

from piccc.emulator.model.pattern import sample
from piccc.emulator.model.scalars import LONGEST, numbers, texts
from piccc.emulator.model.shapes import REFS, Schema, Shapes, is_text, kinds, properties, same, whole

_DEPTH = 12
_TRIES = 10_000
_LARGEST = 1000
_MISSING: Any = object()


def flaw(schema: Any) -> str:
    """Say what makes a schema none by the rules of its draft; "" when it is one.

    Its patterns are not judged, for other engines know classes of characters that `re` does not; nor are
    empty lists, which pydantic writes for a union without members.
    """
    try:
        return _flaw(json.dumps(schema, allow_nan=False))
    except RecursionError:
        return "It nests too deep."
    except ValueError:
        return "It holds a number or an address that is none."


@lru_cache(maxsize=256)  # the same tools come with every turn of a conversation
def _flaw(written: str) -> str:
    schema = json.loads(written)
    if not isinstance(schema, dict) or not isinstance(schema.get("$schema", ""), str):
        return "It is no object, or its $schema is no text."
    rules = validator_for(schema, default=Draft202012Validator)
    errors = rules(rules.META_SCHEMA, registry=REGISTRY).iter_errors(schema)
    error = next((one for one in errors if one.validator != "minItems"), None)
    if error is None:
        return ""
    where = ".".join(str(part) for part in error.absolute_path)
    return f"{where}: {error.message[:200]}" if where else error.message[:200]


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

    def __init__(self, schema: Schema, finder: Finder) -> None:
        kind = validator_for(schema, default=Draft202012Validator)
        # The registry holds the drafts alone: the default one fetches every other address.
        self._checker = kind(schema, registry=REGISTRY, format_checker=kind.FORMAT_CHECKER)
        self._schema, self._finder = schema, finder
        self._shapes = Shapes(schema)
        self._depth = 0
        self._variant = 0
        self._tries = _TRIES

    def fill(self) -> Any:
        """Give a value for the schema, or raise `Unsatisfiable`."""
        if self._shapes.circular():
            raise Unsatisfiable("")
        return self._value(self._schema, "")

    def _valid(self, value: Any, schema: Schema | bool) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            return False
        try:
            return self._checker.evolve(schema=schema).is_valid(value)
        except (Unresolvable, re.error, ValueError):
            return True
        except RecursionError:
            return False

    def _value(self, schema: Any, name: str) -> Any:
        """Give the first valid candidate for a value that is required."""
        self._tries -= 1
        if self._depth > _DEPTH or schema is False or self._tries < 0:
            raise Unsatisfiable(name)
        self._depth += 1
        opened = len(self._shapes.open)
        try:
            for value in self._candidates(schema, name):
                if self._valid(value, schema):
                    self._finder.claim(value)
                    return value
        finally:
            self._depth -= 1
            del self._shapes.open[opened:]
        raise Unsatisfiable(name)

    def _found(self, schema: Any, name: str, *, free: bool = False) -> Any:
        """Give the value that the words speak of, or `_MISSING`; `free` takes unnamed values too."""
        if self._depth > 4:
            return _MISSING
        self._depth += 1
        try:
            for shape in self._shapes.of(schema):
                for value in _while_possible(
                    chain(self._spoken(shape, name), self._unnamed(shape, name) if free else ())
                ):
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
        if self._depth > 4:  # the plainest first, or a tree doubles at every level
            shapes = sorted(shapes, key=lambda one: bool(one.get("required")))
        for shape in shapes:
            yield from _while_possible(self._made(shape, name))

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
            yield found[: whole(shape, "maxItems", len(found))]
        if any(kinds(one) == ["object"] for one in self._shapes.of(item)) and "prefixItems" not in shape:
            yield from self._spoken_rows(item)

    def _spoken_rows(self, item: Any) -> Iterator[list[Any]]:
        """Give one object for each part of the words that holds a value for all its required scalars."""
        every, best = self._finder, list[Any]()
        try:
            for shape in self._shapes.of(item)[:1]:
                for parts in every.parts():
                    rows = [row for part in parts for row in self._row(shape, part) if self._valid(row, item)]
                    best = max(best, rows, key=len)
        finally:
            self._finder = every
        if best:
            yield best

    def _row(self, shape: Schema, part: Finder) -> list[Any]:
        self._finder = part
        known = properties(shape)
        needed = [name for name in _required_by(shape) if name in known]
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
            *(one for one in _mapping(shape, "dependentSchemas").values() if isinstance(one, Mapping)),
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
        needed = _required_by(shape)
        rules = {**_mapping(shape, "dependencies"), **_mapping(shape, "dependentRequired")}
        for name in chain(known, needed):  # the list grows while it is read
            more = rules.get(name)
            needed += [one for one in more if one not in needed] if isinstance(more, list) else []
        made = dict(known)
        for name in sorted(needed, key=lambda name: is_text(properties(shape).get(name))):
            if name not in made:
                made[name] = self._property(shape, name)
        return made

    def _property(self, shape: Schema, name: str) -> Any:
        if name in properties(shape):
            return self._value(properties(shape)[name], name)
        matching = [
            one for pattern, one in _mapping(shape, "patternProperties").items() if _matches(pattern, name)
        ]
        parts = matching or [shape.get("additionalProperties", {})]
        return self._value({"allOf": parts} if len(parts) > 1 else parts[0], name)

    def _grow(self, shape: Schema, made: dict[str, Any]) -> None:
        """Add properties until there are as many as the schema wants."""
        low, rule = whole(shape, "minProperties", 0), shape.get("propertyNames", True)
        names = [*properties(shape), *self._new_names(shape, low)] if 0 < low <= _LARGEST else []
        for name in names:
            if len(made) >= low:
                return
            if name not in made and self._valid(name, rule):
                try:
                    made[name] = self._property(shape, name)
                except Unsatisfiable:
                    continue

    def _new_names(self, shape: Schema, most: int) -> Iterator[str]:
        """Give names that a property without one of its own may have."""
        rule = _mapping(shape, "propertyNames")
        patterns = [*_mapping(shape, "patternProperties"), *([rule["pattern"]] if "pattern" in rule else [])]
        low = min(whole(rule, "minLength", 1), LONGEST)
        yield from rule.get("enum", ())
        for number in range(most + len(properties(shape)) + 2):
            made = (sample(one, min_length=low, variant=number) for one in patterns)
            longer = (sample(one, min_length=low + number) for one in patterns)
            yield from (one for one in (*made, *longer) if one is not None)
            yield f"item_{number + 1}".rjust(low, "_")
            yield str(number + 1).rjust(low, "0")[: whole(rule, "maxLength", LONGEST)]

    def _lists(self, shape: Schema, name: str) -> Iterator[list[Any]]:
        low, inner = whole(shape, "minItems", 0), shape.get("contains")
        wanted = max(low, whole(shape, "minContains", 1) if inner is not None else 0)
        high = whole(shape, "maxItems", wanted + 1)
        generous = min(max(wanted, 1), high) if self._depth < 6 and not self._variant else wanted
        for length in dict.fromkeys((generous, wanted, low)):
            try:
                yield self._list(shape, name, length, inner)
            except Unsatisfiable:
                continue

    def _list(self, shape: Schema, name: str, length: int, inner: Any) -> list[Any]:
        if length > _LARGEST:
            raise Unsatisfiable(name)
        items: list[Any] = []
        before = self._variant
        heads: list[Any] = next(
            (shape[key] for key in ("prefixItems", "items") if isinstance(shape.get(key), list)), []
        )
        rest = shape.get("additionalItems" if isinstance(shape.get("items"), list) else "items", {})
        contained = whole(shape, "minContains", 1) if inner is not None else 0
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


def _while_possible(values: Iterator[Any]) -> Iterator[Any]:
    """Give values until a part of one has none: what comes from elsewhere is tried then."""
    try:
        yield from values
    except Unsatisfiable:
        return


def _required_by(shape: Schema) -> list[str]:
    found = shape.get("required")
    return list(found) if isinstance(found, list) else []


def _mapping(shape: Schema, key: str) -> Mapping[str, Any]:
    found = shape.get(key)
    return found if isinstance(found, Mapping) else {}


def _turned(values: list[Any], by: int) -> list[Any]:
    """Start the list at another place, so that each variant prefers another value."""
    by = by % len(values) if values else 0
    return values[by:] + values[:by]


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False
