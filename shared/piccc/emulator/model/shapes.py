"""Shapes: the plain schemas that a schema allows, with references and branches laid together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

Schema = Mapping[str, Any]
REFS = "x-followed"
_BRANCHES = ("anyOf", "oneOf")
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_MOST = 40
_KEYWORDS = {
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "propertyNames",
    ),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


class Shapes:
    """The shapes of one root schema and its parts."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        resource = Resource.from_contents(root, default_specification=DRAFT202012)
        self._resolver = Registry().with_resource(resource.id() or "", resource).resolver(resource.id() or "")
        self.open: list[Sequence[str]] = []
        """The references that lead to where a value is being made."""

    def circular(self) -> bool:
        """Tell whether a part leads back to itself for one and the same value: no check of it would end."""
        parts: list[Any] = [self._root]
        for part in parts:  # it grows while it is read
            inner = part.values() if isinstance(part, Mapping) else part
            parts += [one for one in inner if isinstance(one, Mapping | list)]
        done: set[int] = set()
        return any(self._circles(part, (), done) for part in parts)

    def _circles(self, part: Any, above: tuple[int, ...], done: set[int]) -> bool:
        if not isinstance(part, Mapping) or id(part) in done:
            return False
        if id(part) in above:
            return True
        found = any(self._circles(one, (*above, id(part)), done) for one in self._in_place(part))
        done.add(id(part))
        return found

    def _in_place(self, part: Schema) -> Iterator[Any]:
        """Give the schemas that judge the same value as this one."""
        yield from (part[word] for word in ("not", "if", "then", "else") if word in part)
        for word in ("allOf", *_BRANCHES):
            yield from part[word] if isinstance(part.get(word), list) else ()
        if isinstance(part.get("dependentSchemas"), Mapping):
            yield from part["dependentSchemas"].values()
        for word in _REFERENCES:
            if isinstance(part.get(word), str):
                try:
                    yield self._resolver.lookup(part[word]).contents
                except (Unresolvable, ValueError):
                    continue

    def of(self, schema: Any) -> list[Schema]:
        """Give the plain schemas that a schema allows: references, `allOf` and the branches laid together."""
        if not isinstance(schema, Mapping):
            return [{}] if schema is not False else []
        return self._unfold(schema, (id(schema),))

    def _unfold(self, schema: Schema, above: tuple[int, ...]) -> list[Schema]:
        for word in _REFERENCES:
            if isinstance(schema.get(word), str):
                return self._follow(schema, word, above)
        shapes: list[Schema] = [
            {key: value for key, value in schema.items() if key not in ("allOf", *_BRANCHES)}
        ]
        for part in schema.get("allOf", ()):
            shapes = self._crossed(shapes, [part], above)
        for word in _BRANCHES:
            if word in schema:
                shapes = self._crossed(shapes, sorted(schema[word], key=self._is_open), above)
        if "if" in schema:
            ways = [{"allOf": [schema["if"], schema.get("then", True)]}, schema.get("else", True)]
            shapes += self._crossed(shapes, ways, above)
        return shapes

    def _crossed(self, shapes: list[Schema], parts: list[Any], above: tuple[int, ...]) -> list[Schema]:
        crossed = (_merged(one, two) for part in parts for one in shapes for two in self._plain(part, above))
        return list(islice(crossed, _MOST))

    def _plain(self, part: Any, above: tuple[int, ...]) -> list[Schema]:
        """Give the plain schemas of a part: none where it leads back to itself, or on and on."""
        if not isinstance(part, Mapping):
            return [{}] if part else []
        return self._unfold(part, (*above, id(part))) if id(part) not in above and len(above) <= 20 else []

    def _follow(self, schema: Schema, word: str, above: tuple[int, ...]) -> list[Schema]:
        rest = {key: value for key, value in schema.items() if key != word}
        try:
            target = self._resolver.lookup(schema[word]).contents
        except (Unresolvable, ValueError):  # a ValueError: it is no address at all
            return [rest]
        passed = {**rest, REFS: [*schema.get(REFS, ()), schema[word]]}
        return [_merged(shape, passed) for shape in self._plain(target, above)]

    def _is_open(self, part: Any) -> bool:
        """Tell whether a branch leads back to where we are, so that the others are tried first."""
        return isinstance(part, Mapping) and any(part.get("$ref") in refs for refs in self.open)


def kinds(shape: Schema) -> list[str]:
    """Give the types that a plain schema allows, the likeliest first."""
    kind = shape.get("type")
    if isinstance(kind, str):
        return [kind]
    if isinstance(kind, list):
        return sorted(kind, key=lambda one: bool(one == "null"))
    if "const" in shape:
        return [_kind_of(shape["const"])]
    if shape.get("enum"):
        return list(dict.fromkeys(_kind_of(one) for one in shape["enum"]))
    told = [kind for kind, words in _KEYWORDS.items() if any(word in shape for word in words)]
    return [
        *told,
        *(kind for kind in ("string", "integer", "object", "array", "boolean", "null") if kind not in told),
    ]


def _kind_of(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def is_text(schema: Any) -> bool:
    """Tell whether a schema lets any text through."""
    return isinstance(schema, Mapping) and schema.get("type") == "string" and "enum" not in schema


def whole(shape: Schema, key: str, default: int) -> int:
    """Read a count, which JSON may write as `3.0`."""
    found = shape.get(key)
    return int(found) if isinstance(found, int | float) and not isinstance(found, bool) else default


def properties(shape: Schema) -> Mapping[str, Any]:
    """Return the schemas of an object's properties."""
    found = shape.get("properties", {})
    return found if isinstance(found, Mapping) else {}


def _merged(one: Schema, two: Schema) -> dict[str, Any]:
    """Lay two schemas together so that a value for the result is likely valid for both."""
    out = dict(one)
    for key, value in two.items():
        out[key] = _joined(key, out[key], value) if key in out else value
    return out


def _joined(key: str, one: Any, two: Any) -> Any:
    if key in ("properties", "patternProperties"):
        return {**one, **two, **{name: {"allOf": [one[name], two[name]]} for name in one if name in two}}
    if key in ("required", REFS) and isinstance(one, list) and isinstance(two, list):
        return list(dict.fromkeys([*one, *two]))
    if key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
        return max(one, two)
    if key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
        return min(one, two)
    if key == "enum":
        return [value for value in one if any(same(value, other) for other in two)]
    if key == "type":
        return _common_kinds(one, two)
    if key == "prefixItems" and isinstance(one, list) and isinstance(two, list):
        return (
            [{"allOf": [*pair]} for pair in zip(one, two, strict=False)] + one[len(two) :] + two[len(one) :]
        )
    if key == "items" and isinstance(one, Mapping) and isinstance(two, Mapping):
        return {"allOf": [one, two]}
    return one if key in ("description", "title", "default", "format") else two


def _common_kinds(one: str | list[str], two: str | list[str]) -> list[str]:
    first, second = ([kind] if isinstance(kind, str) else list(kind) for kind in (one, two))
    first = [kind for kind in first if kind in second or (kind == "integer" and "number" in second)]
    return first or [kind for kind in second if kind == "integer"]


def same(one: Any, two: Any) -> bool:
    """Compare as JSON does: `1` equals `1.0`, but not `true`."""
    return bool(one == two) and isinstance(one, bool) == isinstance(two, bool)
