"""Values that the rule model generates are valid for their schema and use the prompt's values."""

from __future__ import annotations

import importlib
import json
import pkgutil
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import AnyUrl, BaseModel, Field, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from piccc.emulator.conversation import ModelMessage, ModelRequest, Tool
from piccc.emulator.model import Unfillable
from piccc.emulator.wire import flaw
from tests.emulator.model.talk import MODEL, ask

WORDS = (
    "Ada Lovelace, 36, of London wrote 'Notes' on 10 July 1843: see https://example.org or ada@example.org."
)
PACKAGES = ("langchain_core", "langgraph", "langsmith", "llama_index.core")


def generate(schema: Any, words: str = WORDS) -> Any:
    return json.loads(ask(words, schema=schema).text)


def errors(schema: Any, value: Any) -> list[str]:
    kind = validator_for(schema, default=Draft202012Validator)
    return [error.message for error in kind(schema, format_checker=kind.FORMAT_CHECKER).iter_errors(value)]


def installed_models() -> Iterator[type[BaseModel]]:
    """Yield the pydantic models of public packages: schemas that were not written for this test."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    members = vars(importlib.import_module(module.name))
            except ImportError:  # an optional dependency of that package
                continue
            yield from (
                obj
                for obj in list(members.values())
                if isinstance(obj, type) and issubclass(obj, BaseModel) and obj is not BaseModel
            )


@cache
def installed_schemas() -> dict[str, dict[str, Any]]:
    schemas = {}
    for model in set(installed_models()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                schemas[f"{model.__module__}.{model.__qualname__}"] = model.model_json_schema()
        except (PydanticInvalidForJsonSchema, PydanticUserError):  # no JSON Schema exists for it
            continue
    return schemas


# Each test takes a sample of the schemas from all packages: all of them would take half a minute.
def test_values_for_schemas_of_public_packages_are_valid() -> None:
    schemas = installed_schemas()
    assert len(schemas) >= 500
    failures = {name: errors(schema, generate(schema)) for name, schema in sorted(schemas.items())[::2]}
    assert {name: messages for name, messages in failures.items() if messages} == {}


def test_schemas_of_public_packages_are_accepted_as_valid() -> None:
    flaws = {name: flaw(schema) for name, schema in sorted(installed_schemas().items())[::3]}
    assert {name: reason for name, reason in flaws.items() if reason} == {}


def test_arguments_for_schemas_of_public_packages_are_valid() -> None:
    for name, schema in sorted(installed_schemas().items())[::5]:
        tool = Tool("record", "Record something.", schema)
        request = ModelRequest(
            "m", (ModelMessage("user", WORDS),), tools=(tool,), tool_choice="named", named_tool="record"
        )
        (call,) = MODEL.answer(request).calls
        assert errors(schema, call.arguments) == [], name


_INTEGER = st.builds(
    lambda low, span, step: Annotated[int, Field(ge=low, le=low + span + step, multiple_of=step)],
    st.integers(-50, 50),
    st.integers(0, 20),
    st.integers(1, 7),
)
_NUMBER = st.builds(
    lambda low, span: Annotated[float, Field(gt=low, lt=low + span)], st.floats(-9, 9), st.floats(0.5, 9)
)
_STRING = st.builds(
    lambda low, more: Annotated[str, Field(min_length=low, max_length=low + more)],
    st.integers(0, 40),
    st.integers(0, 9),
)
_CHOICE = st.lists(
    st.sampled_from(["red", "green", 3, 7, True, None]), min_size=1, max_size=4, unique_by=repr
).map(lambda values: Literal[tuple(values)])
_TYPES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        _INTEGER, _NUMBER, _STRING, _CHOICE, st.sampled_from([bool, int, float, str, type(None), AnyUrl])
    ),
    lambda inner: st.one_of(
        inner.map(lambda one: one | None),
        st.tuples(inner, inner).map(lambda pair: pair[0] | pair[1]),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),  # type: ignore[valid-type]  # made at run time
        st.builds(
            lambda one, low: Annotated[list[one], Field(min_length=low, max_length=low + 2)],  # type: ignore[valid-type]  # made at run time
            inner,
            st.integers(0, 3),
        ),
        inner.map(lambda one: dict[str, one]),  # type: ignore[valid-type]  # made at run time
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["name", "age", "tags", "url", "count", "note", "a b", "题目"]), _TYPES, min_size=1
    )
)
def test_values_for_schemas_of_generated_types_are_valid(types: dict[str, Any]) -> None:
    properties = {
        name: TypeAdapter(annotation).json_schema(ref_template="#/$defs/{model}")
        for name, annotation in types.items()
    }
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    assert errors(schema, generate(schema)) == []


KEYWORDS: list[Any] = [
    {"allOf": [{"type": "integer", "minimum": 3}, {"multipleOf": 4}]},
    {"oneOf": [{"type": "number", "minimum": 0}, {"type": "number", "maximum": 10}]},
    {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "array", "minItems": 1}]},
    {"not": {"type": "string"}},
    {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 7},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    {"type": "number", "multipleOf": 0.25, "minimum": 0.3},
    {"type": "array", "prefixItems": [{"const": 1}, {"type": "string"}], "items": False, "minItems": 2},
    {
        "if": {"properties": {"kind": {"const": "dog"}}},
        "then": {"required": ["bark"]},
        "required": ["kind"],
        "properties": {"kind": {"enum": ["dog"]}},
    },
    {"type": ["null", "integer"], "minimum": 12},
    {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "integer",
        "minimum": 3,
        "exclusiveMinimum": True,
    },
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
        "$ref": "#/$defs/node",
    },
    {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "minItems": 0}},
                "required": ["kids"],
            }
        },
        "$ref": "#/$defs/tree",
    },
    *(
        {"type": "string", "format": one}
        for one in (
            "date",
            "date-time",
            "time",
            "email",
            "uri",
            "uuid",
            "ipv4",
            "ipv6",
            "hostname",
            "regex",
            "duration",
        )
    ),
    {"properties": {"x": True}, "required": ["x"]},
    {"anyOf": [{"properties": {"a": False}, "required": ["a"]}, {"type": "integer"}]},
    {"anyOf": [{"type": "object", "properties": {"a": False}, "required": ["a"]}, {"type": "integer"}]},
    {"anyOf": [{"type": "array", "items": False, "minItems": 1}, {"const": 4}]},
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "a": {"anyOf": [{"required": ["b"]}, {"type": "null"}]}},
        "required": ["name", "a"],
    },
    {"type": "array", "items": {"type": "string"}, "minItems": 1.0, "maxItems": 2.0},
    {"type": "string", "minLength": 1.0, "maxLength": 2.0},
    {"type": "string", "minLength": 50_000},
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"a": {"type": "array", "items": [{"const": 1}], "minItems": 1, "prefixItems": 5}},
        "required": ["a"],
        "$dynamicRef": 5,
        "dependentRequired": 5,
        "dependentSchemas": 5,
    },
    {},
]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e400 dollars", "1" + ",000" * 2000, "9" * 5000])
def test_a_huge_number_in_the_prompt_is_not_used_as_a_value(number: str) -> None:
    schema = {"type": "object", "properties": {"price": {"type": "number"}}, "required": ["price"]}
    text = ask(f"The price is {number}.", schema=schema).text
    assert abs(json.loads(text, parse_constant=_reject_constant)["price"]) < 10**16


def _reject_constant(word: str) -> float:
    raise AssertionError(f"{word} is not valid JSON")


def test_structured_output_uses_values_from_tool_results() -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "number"}},
        "required": ["city", "degrees"],
    }
    turns = (
        ModelMessage("user", "What is the weather in Paris?"),
        ModelMessage("tool", '{"place": "Paris", "degrees": 21.5}', call_id="1"),
    )
    answer = MODEL.answer(ModelRequest("m", turns, schema=schema))
    assert json.loads(answer.text) == {"city": "Paris", "degrees": 21.5}


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (
            "Tell me a joke about cats. Respond in JSON with `setup` and `punchline` keys.",
            {"setup", "punchline"},
        ),
        ('Give me JSON with "title" and "body".', {"title", "body"}),
        ("Return JSON", {"answer"}),
    ],
)
def test_json_mode_returns_an_object_with_the_keys_from_the_prompt(words: str, keys: set[str]) -> None:
    value = json.loads(ask(words, json_mode=True).text)
    assert set(value) == keys
    assert all(value.values())


@pytest.mark.parametrize("schema", KEYWORDS, ids=lambda schema: json.dumps(schema)[:60])
def test_generated_values_satisfy_each_keyword(schema: Any) -> None:
    assert errors(schema, generate(schema)) == []


UNFILLABLE: list[Any] = [
    {"type": "array", "contains": {"const": "x"}, "minContains": 2},
    {"type": "object", "propertyNames": {"pattern": "^[A-Z]{2}$"}, "minProperties": 3},
    {"type": "array", "uniqueItems": True, "minItems": 2, "items": {"type": "boolean"}},
    {"type": "object", "required": ["a"], "dependentRequired": {"a": ["b"], "b": ["c"]}},
    {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    {"type": "integer", "minimum": 3, "maximum": 2},
    {"$ref": "#"},
    {"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}, {"type": "integer"}]},
    {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": {key: {"$ref": "#"} for key in "abcd"}, "required": list("abcd")},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 3},
    {"type": "array", "minItems": 10**9},
    {"type": "array", "minItems": 900, "items": {"type": "array", "minItems": 900}},
    {"type": "object", "minProperties": 10**9},
    {"type": "string", "minLength": 10**9},
    {"type": "object", "properties": {"a": {"anyOf": []}}, "required": ["a"]},
    {"type": "string", "pattern": r"^\p{L}+$"},
    {"$ref": "https://example.com/x.json"},
    {"$ref": "file:///etc/hostname"},
]


@pytest.mark.parametrize("schema", UNFILLABLE, ids=lambda schema: json.dumps(schema)[:60])
def test_an_unfillable_schema_is_rejected_and_no_reference_is_fetched(
    schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", fetched.append)
    with pytest.raises(Unfillable):
        generate(schema)
    assert fetched == []


def _object(**types: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in types.items()},
        "required": list(types),
    }


@pytest.mark.parametrize(
    ("words", "schema", "value"),
    [
        ("Anna is 25 years old.", _object(name="string", age="integer"), {"name": "Anna", "age": 25}),
        (
            "name: Sunrise, price: 24.5",
            _object(name="string", price="number"),
            {"name": "Sunrise", "price": 24.5},
        ),
        (
            "The kiln 'Blue Oven' reaches 1200 degrees.",
            _object(name="string", degrees="integer"),
            {"name": "Blue Oven", "degrees": 1200},
        ),
        (
            "See https://example.org and ada@example.org",
            _object(url="string", email="string"),
            {"url": "https://example.org", "email": "ada@example.org"},
        ),
    ],
)
def test_structured_output_uses_values_from_the_prompt(words: str, schema: Any, value: Any) -> None:
    assert generate(schema, words) == value


@pytest.mark.parametrize("degrees", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_nan_and_infinity_in_a_result_do_not_reach_the_response(degrees: str) -> None:
    turns = (
        ModelMessage("user", "The weather?"),
        ModelMessage("tool", f'{{"degrees": {degrees}}}', call_id="1"),
    )
    text = MODEL.answer(ModelRequest("m", turns, schema=_object(degrees="number"))).text
    assert isinstance(json.loads(text, parse_constant=_reject_constant)["degrees"], int | float)
