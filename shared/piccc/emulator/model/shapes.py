"""Shapes: the plain schemas that a schema allows, with references and branches laid together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

Schema = Mapping[str, Any]
REFS = "x-followed"
_BRANCHES = ("anyOf", "oneOf")
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
        resource = Resource.from_contents(root, default_specification=DRAFT202012)
        self._resolver = Registry().with_resource(resource.id() or "", resource).resolver(resource.id() or "")
        self.open: list[Sequence[str]] = []
        """The references that lead to where a value is being made."""

    def of(self, schema: Any) -> list[Schema]:
        """Give the plain schemas that a schema allows: references, `allOf` and the branches laid together."""
        if not isinstance(schema, Mapping):
            return [{}] if schema is not False else []
        return self._unfold(schema, 0)

    def _unfold(self, schema: Schema, level: int) -> list[Schema]:
        if level > 20:
            return []
        for word in ("$ref", "$dynamicRef", "$recursiveRef"):
            if word in schema:
                return self._follow(schema, word, level)
        shapes: list[Schema] = [
            {key: value for key, value in schema.items() if key not in ("allOf", *_BRANCHES)}
        ]
        for part in schema.get("allOf", ()):
            shapes = self._crossed(shapes, [part], level)
        for word in _BRANCHES:
            if word in schema:
                shapes = self._crossed(shapes, sorted(schema[word], key=self._is_open), level)
        if "if" in schema:
            ways = [{"allOf": [schema["if"], schema.get("then", True)]}, schema.get("else", True)]
            shapes += self._crossed(shapes, ways, level)
        return shapes

    def _crossed(self, shapes: list[Schema], parts: list[Any], level: int) -> list[Schema]:
        crossed = (_merged(one, two) for part in parts for one in shapes for two in self._plain(part, level))
        return list(islice(crossed, _MOST))

    def _plain(self, part: Any, level: int) -> list[Schema]:
        if isinstance(part, Mapping):
            return self._unfold(part, level + 1)
        return [{}] if part else []

    def _follow(self, schema: Schema, word: str, level: int) -> list[Schema]:
        rest = {key: value for key, value in schema.items() if key != word}
        try:
            target = self._resolver.lookup(schema[word]).contents
        except Unresolvable:
            return [rest]
        passed = {**rest, REFS: [*schema.get(REFS, ()), schema[word]]}
        return [_merged(shape, passed) for shape in self._plain(target, level)]

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
    if key in ("required", REFS):
        return list(dict.fromkeys([*one, *two]))
    if key in ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"):
        return max(one, two)
    if key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"):
        return min(one, two)
    if key == "enum":
        return [value for value in one if any(same(value, other) for other in two)]
    if key == "type":
        return _common_kinds(one, two)
    if key == "prefixItems":
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
