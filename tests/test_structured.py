"""The engine for structured output: schemas, parsing, strategies, memory, partial objects."""

from __future__ import annotations

import copy
import enum
import json
import pickle
from typing import Any, Literal

import pytest
from pydantic import BaseModel, RootModel
from pydantic.v1 import BaseModel as OldModel
from typing_extensions import TypedDict

from piccc import JSONSchema, structured
from piccc.client import chat_request
from piccc.errors import ContextOverflowError, InvalidArgumentError, InvalidRequestError
from piccc.structured import (
    FORGET_AFTER,
    Answer,
    NoJSONError,
    OutputSchema,
    PartialObject,
    StrategyMemory,
    StructuredCall,
    StructuredOutputError,
    read_json,
)


class Kiln(BaseModel):
    """A kiln."""

    name: str
    degrees: int = 20


class OldKiln(OldModel):
    name: str


class KilnDict(TypedDict):
    name: str


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Names(RootModel[list[str]]):
    pass


class Glaze(enum.Enum):
    MATT = "matt"
    GLOSS = "gloss"


OBJECT = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
NAMED = {"name": "thing", "strict": True, "schema": OBJECT}
ANNA = {"name": "Anna"}

SCHEMAS: dict[str, tuple[Any, Any, Any]] = {
    "class": (Kiln, {"name": "A", "degrees": 9}, Kiln(name="A", degrees=9)),
    "class of v1": (OldKiln, ANNA, OldKiln(name="Anna")),
    "recursive class": (
        Node,
        {"name": "A", "children": [ANNA]},
        Node(name="A", children=[Node(name="Anna")]),
    ),
    "TypedDict": (KilnDict, ANNA, ANNA),
    "RootModel": (Names, {"value": ["A"]}, Names(["A"])),
    "RootModel, not wrapped": (Names, ["A"], Names(["A"])),
    "list": (list[int], {"value": [1]}, [1]),
    "list of classes": (list[Kiln], {"value": [ANNA]}, [Kiln(name="Anna")]),
    "union": (Kiln | None, {"value": None}, None),
    "union of classes": (Kiln | Node, {"value": {**ANNA, "degrees": 3}}, Kiln(name="Anna", degrees=3)),
    "enum": (Glaze, {"value": "matt"}, Glaze.MATT),
    "literal": (Literal["a", "b"], {"value": "b"}, "b"),
    "JSON Schema without a title": (OBJECT, ANNA, ANNA),
    "JSON Schema of a list": ({"type": "array", "items": {"type": "string"}}, {"value": ["A"]}, ["A"]),
    "JSON Schema of an enum": ({"enum": ["a", "b"]}, {"value": "a"}, "a"),
    "name and schema": (NAMED, ANNA, ANNA),
    "response_format": ({"type": "json_schema", "json_schema": NAMED}, ANNA, ANNA),
    "tool": ({"type": "function", "function": {"name": "thing", "parameters": OBJECT}}, ANNA, ANNA),
    "Anthropic's tool": ({"name": "thing", "input_schema": OBJECT}, ANNA, ANNA),
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_schema_requests_an_object_and_validates_it(kind: str) -> None:
    given, value, expected = SCHEMAS[kind]
    schema = OutputSchema.of(given)
    assert schema.schema["type"] == "object"
    assert "$ref" not in schema.schema
    assert schema.validate(value) == expected
    unpickled = pickle.loads(pickle.dumps(schema))  # noqa: S301  our own
    assert unpickled.validate(value) == expected


@pytest.mark.parametrize(
    "given",
    [{"type": "json_object"}, {"foo": 1}, {}, {"name": "thing"}, {"type": "strings"}, len, object(), "Kiln",
     None, {"type": "object", "properties": {"at": object()}}],
    ids=range(10),
)  # fmt: skip
def test_an_invalid_schema_is_rejected_immediately(given: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        OutputSchema.of(given)


INVALID_VALUES = {
    "not an object": (OBJECT, ["a"]),
    "a missing field": (OBJECT, {}),
    "not a list": (list[int], {"value": "a"}),
    "not a list, JSON Schema": ({"type": "array"}, {"value": True}),
    "a boolean for an integer": ({"type": "integer"}, {"value": True}),
    "not in the enum": ({"enum": ["a"]}, {"value": "b"}),
    "class": (Kiln, {"degrees": 3}),
}


@pytest.mark.parametrize("kind", INVALID_VALUES)
def test_a_value_that_violates_the_schema_is_a_value_error(kind: str) -> None:
    given, value = INVALID_VALUES[kind]
    with pytest.raises(ValueError, match=r".+"):
        OutputSchema.of(given).validate(value)


def test_a_strict_schema_requires_every_field_and_allows_no_other() -> None:
    schema = OutputSchema.of(list[Kiln], strict=True).schema
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Kiln"]["additionalProperties"] is False
    assert schema["$defs"]["Kiln"]["required"] == ["name", "degrees"]
    inner = {"type": ["object", "null"], "properties": {"x": {"type": "string"}}}
    schema = OutputSchema.of({"type": "object", "properties": {"o": inner}}, strict=True).schema
    assert schema["properties"]["o"]["additionalProperties"] is False
    assert schema["properties"]["o"]["required"] == ["x"]


READABLE: dict[str, tuple[str, Any]] = {
    "plain": ('{"a": 1}', {"a": 1}),
    "list": ("[1, 2]", [1, 2]),
    "byte order mark": ('\ufeff{"a": 1}', {"a": 1}),
    "fence": ('```json\n{"a": 1}\n```', {"a": 1}),
    "fence with words around": ('Sure! Here:\n```json\n{"a": 1}\n```\nAnything else?', {"a": 1}),
    "leading sentence": ('Sure: {"a": 1}', {"a": 1}),
    "words around": ('Using {name}: {"a": {"b": [1]}}. Anything else [1]?', {"a": {"b": [1]}}),
    "raw newline": ('{"a": "x\ny"}', {"a": "x\ny"}),
    "raw newline among words": ('So: {"a": "x\ny"}', {"a": "x\ny"}),
    "half a surrogate pair": ('{"a": "\\ud800"}', {"a": "\ufffd"}),
    "half a surrogate pair among words": ('So: {"a": "\\uDC00"}', {"a": "\ufffd"}),
    "trailing commas": ('{"a": [1, {"b": ",}"},\n],\n}', {"a": [1, {"b": ",}"}]}),
    "trailing comma in a fence": ('```json\n{"a": ",]",}\n```', {"a": ",]"}),
    "trailing comma among words": ('Of 5" pipe: {"a": "x,}",}. Anything else?', {"a": "x,}"}),
    "reasoning": ('<think>maybe {"a": 2}</think>{"a": 1}', {"a": 1}),
}
UNREADABLE: dict[str, tuple[str, type[ValueError]]] = {
    "prose": ("I cannot say.", NoJSONError),
    "nothing": ("", NoJSONError),
    "footnote": ("It is hot [1].", NoJSONError),
    "truncated": ('{"a": {"b": 1}, "c', ValueError),
    "missing brace": ('{"a": 1', ValueError),
    "comma instead of a value": ('{"a": [1,,]}', ValueError),
    "only a comma": ('{"a": [,]}', ValueError),
    "truncated after a comma": ('{"a": [1, 2,', ValueError),
    "endless escaped quotes": ('{"' + '" \\' * 100_000, ValueError),
    "two objects": ('{"a": 1} {"a": 2}', ValueError),
    "two fences": ('```\n{"a": 1}\n```\nor\n```\n{"a": 2}\n```', ValueError),
    "not a number": ('{"a": NaN}', ValueError),
    "too deep": ('{"a":' * 5000, ValueError),
    "complete but too deep": ('{"a":' * 5000 + "1" + "}" * 5000, ValueError),
}


@pytest.mark.parametrize("kind", READABLE)
def test_an_unambiguous_answer_is_parsed(kind: str) -> None:
    text, value = READABLE[kind]
    assert read_json(text) == value


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_ambiguous_or_malformed_answer_is_rejected(kind: str) -> None:
    text, error = UNREADABLE[kind]
    with pytest.raises(ValueError, match=r".+") as caught:
        read_json(text)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("given", "value", "expected"),
    [
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (list[int], '{"value": [1]}', [1]),
        (str, '{"value": "x"}', "x"),
        (str, '{"a": 1}', '{"a": 1}'),
        (str, "[1]", "[1]"),
    ],
)
def test_a_doubly_encoded_object_is_decoded_but_a_string_stays_a_string(
    given: Any, value: str, expected: Any
) -> None:
    assert OutputSchema.of(given).validate(read_json(json.dumps(value))) == expected


def rejection(
    message: str, *, status: int = 400, kind: type[InvalidRequestError] = InvalidRequestError
) -> Any:
    return kind(message, status=status)


def drive(call: StructuredCall, *replies: Any) -> list[str]:
    """Feed texts, Answers or errors to a call's attempts; return the strategies used."""
    left, used = list(replies), []
    while attempt := call.attempt:
        used.append(attempt.strategy)
        reply = left.pop(0)
        if isinstance(reply, Exception):
            call.refuse(reply)
        else:
            call.take(reply if isinstance(reply, Answer) else Answer(reply, "stop"))
    return used


VALID, INVALID, PROSE = json.dumps(ANNA), '{"nam": 1}', "Anna."
SCHEMA = OutputSchema.of(OBJECT)

# Messages of real servers as far as known: vLLM, llama.cpp, Ollama, Gemini, pydantic.
REJECTIONS = [
    "response_format is not supported",
    "The provided JSON schema contains features not supported by xgrammar.",
    "JSON schema conversion failed: Unrecognized schema",
    "failed to parse grammar",
    "Unknown name \"$defs\" at 'generation_config.response_schema'",
    "invalid JSON schema in format",
    "Extra inputs are not permitted",
    "Model piccc-flash: unknown parameter response_format",
    "Unsupported parameter",
    "",
]


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("words", REJECTIONS)
def test_a_rejected_request_uses_the_next_strategy_whatever_the_message(words: str, status: int) -> None:
    call = StructuredCall(SCHEMA)
    assert drive(call, rejection(words, status=status), VALID) == ["schema", "tool"]
    assert call.result() == ANNA


UNRELATED_ERRORS = {
    "context overflow": rejection("too long", kind=ContextOverflowError),
    "unknown model": rejection("The model `nope` does not exist"),
    "moderation": rejection("Your input was flagged by moderation"),
    "another parameter": InvalidRequestError("no", status=400, body='{"error": {"param": "temperature"}}'),
    "too large": rejection("too large", status=413),
}


@pytest.mark.parametrize("kind", UNRELATED_ERRORS)
def test_an_error_unrelated_to_the_schema_is_raised_immediately(kind: str) -> None:
    call = StructuredCall(SCHEMA)
    with pytest.raises(InvalidRequestError) as caught:
        call.refuse(UNRELATED_ERRORS[kind])
    assert caught.value is UNRELATED_ERRORS[kind]


def test_the_first_rejection_is_raised_if_every_strategy_is_rejected() -> None:
    errors = [rejection(message) for message in ("one", "two", "three")]
    memory = StrategyMemory()
    with pytest.raises(InvalidRequestError) as caught:
        drive(StructuredCall(SCHEMA, memory=memory), *errors)
    assert caught.value is errors[0]
    assert drive(StructuredCall(SCHEMA, memory=memory), VALID) == ["schema"]


COSTS: dict[str, tuple[list[Any], list[str], str]] = {
    "valid": ([VALID], ["schema"], ""),
    "invalid, repaired": ([INVALID, VALID], ["schema", "schema"], ""),
    "invalid twice": ([INVALID, INVALID], ["schema", "schema"], "unfit"),
    "prose, then the next strategy": ([PROSE, VALID], ["schema", "tool"], ""),
    "prose twice": ([PROSE, PROSE], ["schema", "tool"], "unfit"),
    "prose, then the next rejected": ([PROSE, rejection("tools?"), VALID], ["schema", "tool", "text"], ""),
    "prose, rest rejected": ([PROSE, rejection("a"), rejection("b")], ["schema", "tool", "text"], "unfit"),
    "invalid, its repair rejected": ([INVALID, rejection("messages?")], ["schema", "schema"], "unfit"),
    "rejected, then invalid": ([rejection("a"), INVALID, VALID], ["schema", "tool", "tool"], ""),
    "truncated": ([Answer('{"name": "An', "length")], ["schema"], "cut"),
    "truncated before it began": ([Answer("", "length")], ["schema"], "cut"),
    "complete although truncated later": ([Answer(VALID, "length")], ["schema"], ""),
    "refusal": ([Answer("", "stop", "I will not.")], ["schema"], "refused"),
    "filtered": ([Answer("", "content_filter")], ["schema"], "filtered"),
    "a truncated tool call": ([Answer("{}", invalid="It was cut."), VALID], ["schema", "schema"], ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", COSTS)
def test_an_object_costs_at_most_two_answers(kind: str) -> None:
    replies, used, reason = COSTS[kind]
    call = StructuredCall(SCHEMA)
    assert drive(call, *replies) == used
    assert call.answers <= 2
    if reason:
        with pytest.raises(StructuredOutputError) as caught:
            call.result()
        assert caught.value.reason == reason
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301  our own
    else:
        assert call.result() == ANNA


def test_max_answers_allows_more_answers() -> None:
    call = StructuredCall(SCHEMA, max_answers=4)
    assert drive(call, PROSE, PROSE, PROSE, VALID) == ["schema", "tool", "text", "text"]
    assert call.result() == ANNA


def test_a_repair_explains_the_error_and_quotes_the_broken_call_as_text() -> None:
    call = StructuredCall(OutputSchema.of(Kiln), ["tool"])
    call.take(Answer('{"name": "A", "degrees": "hot"}'))
    assert call.attempt is not None
    (first_role, quoted), (second_role, complaint) = call.attempt.turns
    assert (first_role, quoted, second_role) == ("assistant", '{"name": "A", "degrees": "hot"}', "user")
    assert "degrees: Input should be a valid integer" in complaint


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def next_strategy(memory: StrategyMemory, schema: OutputSchema = SCHEMA, server: str = "a") -> str:
    attempt = StructuredCall(schema, memory=memory, server=server).attempt
    assert attempt is not None
    return attempt.strategy


def test_a_rejected_strategy_is_avoided_per_server_and_schema_for_a_while() -> None:
    clock = Clock()
    memory = StrategyMemory(clock)
    drive(StructuredCall(SCHEMA, memory=memory, server="a"), rejection("no"), VALID)
    assert next_strategy(memory) == "tool"
    assert next_strategy(memory, server="b") == "schema"
    assert next_strategy(memory, OutputSchema.of(Kiln)) == "schema"
    clock.now = FORGET_AFTER
    assert next_strategy(memory) == "schema"


def test_two_prose_answers_in_a_row_rule_a_strategy_out_for_a_while() -> None:
    clock = Clock()
    memory = StrategyMemory(clock)
    for _ in range(3):
        drive(StructuredCall(SCHEMA, memory=memory, server="a"), PROSE, VALID)
        assert next_strategy(memory) == "schema"
        drive(StructuredCall(SCHEMA, memory=memory, server="a"), VALID)
    for _ in range(2):
        drive(StructuredCall(SCHEMA, memory=memory, server="a"), PROSE, VALID)
    assert next_strategy(memory) == "tool"
    clock.now = FORGET_AFTER
    assert next_strategy(memory) == "schema"


def test_the_memory_is_bounded_and_copies_start_empty() -> None:
    memory = StrategyMemory()
    for number in range(3000):
        memory.avoid(number, "schema")
        memory.read(number, "schema", was_prose=True)
    assert len(memory._avoided_until) + len(memory._prose_counts) < 3000
    for twin in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):  # noqa: S301  our own
        assert not twin._avoided_until


@pytest.mark.parametrize("head", ["", "  \n", "```json\n"])
def test_a_partial_object_grows(head: str) -> None:
    partial, seen = PartialObject(), []
    for piece in (head, '{"name": "Os', 'lo", "peop', 'le": 7', "}", "\n```" if head.strip() else ""):
        if partial.add(piece):
            seen.append(partial.value)
    assert seen == [{"name": "Os"}, {"name": "Oslo"}, {"name": "Oslo", "people": 7}]


def characters_read(monkeypatch: pytest.MonkeyPatch, length: int) -> int:
    """Return how many characters are parsed while a text of this length arrives, four at a time."""
    read: list[int] = []
    parse = structured.from_json
    monkeypatch.setattr(
        structured, "from_json", lambda text, **more: read.append(len(text)) or parse(text, **more)
    )
    text, partial = json.dumps({"text": "x" * length}), PartialObject()
    for at in range(0, len(text), 4):
        partial.add(text[at : at + 4])
    monkeypatch.undo()
    assert len(partial.value["text"]) > length * 0.96
    return sum(read)


def test_the_cost_of_partial_objects_is_linear_in_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    assert characters_read(monkeypatch, 65536) < 5 * characters_read(monkeypatch, 16384)


@pytest.mark.parametrize(
    "given", [Kiln, JSONSchema(Kiln), OutputSchema.of(Kiln).response_format, OutputSchema.of(Kiln).schema],  # type: ignore[arg-type]
    ids=["class", "JSONSchema of a class", "JSONSchema", "dict"],
)  # fmt: skip
def test_the_client_accepts_a_schema_in_any_form(given: Any) -> None:
    wanted = chat_request("x", {"response_format": given}).response_format
    assert isinstance(wanted, JSONSchema)
    assert wanted.schema["properties"].keys() == {"name", "degrees"}


@pytest.mark.parametrize("given", [42, "xml", {"type": "json_object"}, JSONSchema("x")], ids=range(4))  # type: ignore[arg-type]
def test_the_client_rejects_an_invalid_response_format(given: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        chat_request("x", {"response_format": given})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "strin"}}},
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": "a"},
        {"type": "array", "items": {"type": "lst"}},
        {"anyOf": [{"type": "integer"}, {"type": "text"}]},
        {"type": "object", "properties": {"a": 1}},
    ],
)
def test_a_schema_is_validated_down_to_its_leaves(schema: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        OutputSchema.of(schema)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The list: [1, 2, 3]", [1, 2, 3]),
        ('Here they are.\n\n[{"a": 1}, {"a": 2}]\n', [{"a": 1}, {"a": 2}]),
        ('Set x to [1]. {"a": 1}', {"a": 1}),
    ],
)
def test_a_list_or_object_after_a_sentence_is_parsed(answer: str, expected: Any) -> None:
    assert read_json(answer) == expected


def test_a_footnote_is_not_a_list() -> None:
    with pytest.raises(NoJSONError):
        read_json("Yes, as the report says [1]")
