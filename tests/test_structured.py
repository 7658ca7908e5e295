"""One engine for structured output: schemas, reading, strategies, memory, partial objects."""

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
def test_every_schema_asks_for_an_object_and_reads_it(kind: str) -> None:
    given, value, expected = SCHEMAS[kind]
    schema = OutputSchema.of(given)
    assert schema.schema["type"] == "object"
    assert "$ref" not in schema.schema
    assert schema.validate(value) == expected
    again = pickle.loads(pickle.dumps(schema))  # noqa: S301  our own
    assert again.validate(value) == expected


@pytest.mark.parametrize(
    "given",
    [{"type": "json_object"}, {"foo": 1}, {}, {"name": "thing"}, {"type": "strings"}, len, object(), "Kiln",
     None, {"type": "object", "properties": {"at": object()}}],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_schema_is_refused_at_once(given: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        OutputSchema.of(given)


MISFITS = {
    "no object": (OBJECT, ["a"]),
    "a field is missing": (OBJECT, {}),
    "no list": (list[int], {"value": "a"}),
    "no list, plain": ({"type": "array"}, {"value": True}),
    "a boolean is no integer": ({"type": "integer"}, {"value": True}),
    "not among the enum": ({"enum": ["a"]}, {"value": "b"}),
    "class": (Kiln, {"degrees": 3}),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_misfit_is_a_value_error(kind: str) -> None:
    given, value = MISFITS[kind]
    with pytest.raises(ValueError, match=r".+"):
        OutputSchema.of(given).validate(value)


def test_a_strict_schema_has_every_field_and_no_other() -> None:
    schema = OutputSchema.of(list[Kiln], strict=True).schema
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Kiln"]["additionalProperties"] is False
    assert schema["$defs"]["Kiln"]["required"] == ["name", "degrees"]
    inner = {"type": ["object", "null"], "properties": {"x": {"type": "string"}}}
    schema = OutputSchema.of({"type": "object", "properties": {"o": inner}}, strict=True).schema
    assert schema["properties"]["o"]["additionalProperties"] is False
    assert schema["properties"]["o"]["required"] == ["x"]


READ: dict[str, tuple[str, Any]] = {
    "plain": ('{"a": 1}', {"a": 1}),
    "list": ("[1, 2]", [1, 2]),
    "byte order mark": ('\ufeff{"a": 1}', {"a": 1}),
    "fence": ('```json\n{"a": 1}\n```', {"a": 1}),
    "fence with words around": ('Sure! Here:\n```json\n{"a": 1}\n```\nAnything else?', {"a": 1}),
    "leading sentence": ('Sure: {"a": 1}', {"a": 1}),
    "words around": ('Using {name}: {"a": {"b": [1]}}. Anything else [1]?', {"a": {"b": [1]}}),
    "raw newline": ('{"a": "x\ny"}', {"a": "x\ny"}),
    "raw newline among words": ('So: {"a": "x\ny"}', {"a": "x\ny"}),
    "half a character": ('{"a": "\\ud800"}', {"a": "\ufffd"}),
    "half a character among words": ('So: {"a": "\\uDC00"}', {"a": "\ufffd"}),
    "trailing commas": ('{"a": [1, {"b": ",}"},\n],\n}', {"a": [1, {"b": ",}"}]}),
    "trailing comma in a fence": ('```json\n{"a": ",]",}\n```', {"a": ",]"}),
    "trailing comma among words": ('Of 5" pipe: {"a": "x,}",}. Anything else?', {"a": "x,}"}),
    "thoughts": ('<think>maybe {"a": 2}</think>{"a": 1}', {"a": 1}),
}
NOT_READ: dict[str, tuple[str, type[ValueError]]] = {
    "prose": ("I cannot say.", NoJSONError),
    "nothing": ("", NoJSONError),
    "footnote": ("It is hot [1].", NoJSONError),
    "cut": ('{"a": {"b": 1}, "c', ValueError),
    "missing brace": ('{"a": 1', ValueError),
    "comma for a value": ('{"a": [1,,]}', ValueError),
    "comma alone": ('{"a": [,]}', ValueError),
    "cut behind a comma": ('{"a": [1, 2,', ValueError),
    "escaped quotes without end": ('{"' + '" \\' * 100_000, ValueError),
    "two objects": ('{"a": 1} {"a": 2}', ValueError),
    "two fences": ('```\n{"a": 1}\n```\nor\n```\n{"a": 2}\n```', ValueError),
    "not a number": ('{"a": NaN}', ValueError),
    "too deep": ('{"a":' * 5000, ValueError),
    "whole and too deep": ('{"a":' * 5000 + "1" + "}" * 5000, ValueError),
}


@pytest.mark.parametrize("kind", READ)
def test_an_answer_without_doubt_is_read(kind: str) -> None:
    text, value = READ[kind]
    assert read_json(text) == value


@pytest.mark.parametrize("kind", NOT_READ)
def test_a_doubtful_answer_is_not(kind: str) -> None:
    text, error = NOT_READ[kind]
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
def test_an_object_that_was_encoded_twice_is_read_and_a_string_stays_one(
    given: Any, value: str, expected: Any
) -> None:
    assert OutputSchema.of(given).validate(read_json(json.dumps(value))) == expected


def refused(message: str, *, status: int = 400, kind: type[InvalidRequestError] = InvalidRequestError) -> Any:
    return kind(message, status=status)


def drive(call: StructuredCall, *replies: Any) -> list[str]:
    """Answer a call's attempts with texts, Answers or errors; return the strategies that were used."""
    left, used = list(replies), []
    while attempt := call.attempt:
        used.append(attempt.strategy)
        reply = left.pop(0)
        if isinstance(reply, Exception):
            call.refuse(reply)
        else:
            call.take(reply if isinstance(reply, Answer) else Answer(reply, "stop"))
    return used


FITS, WRONG, PROSE = json.dumps(ANNA), '{"nam": 1}', "Anna."
SCHEMA = OutputSchema.of(OBJECT)

# The wordings are real servers', as far as they are known: vLLM, llama.cpp, Ollama, Gemini, pydantic.
REFUSALS = [
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
@pytest.mark.parametrize("words", REFUSALS)
def test_a_refusal_in_any_words_means_the_next_strategy(words: str, status: int) -> None:
    call = StructuredCall(SCHEMA)
    assert drive(call, refused(words, status=status), FITS) == ["schema", "tool"]
    assert call.result() == ANNA


OWN_CAUSES = {
    "context overflow": refused("too long", kind=ContextOverflowError),
    "unknown model": refused("The model `nope` does not exist"),
    "moderation": refused("Your input was flagged by moderation"),
    "another parameter": InvalidRequestError("no", status=400, body='{"error": {"param": "temperature"}}'),
    "too large": refused("too large", status=413),
}


@pytest.mark.parametrize("kind", OWN_CAUSES)
def test_a_refusal_with_a_cause_of_its_own_is_raised_at_once(kind: str) -> None:
    call = StructuredCall(SCHEMA)
    with pytest.raises(InvalidRequestError) as caught:
        call.refuse(OWN_CAUSES[kind])
    assert caught.value is OWN_CAUSES[kind]


def test_the_first_refusal_is_raised_where_all_are_refused() -> None:
    errors = [refused(each) for each in ("one", "two", "three")]
    memory = StrategyMemory()
    with pytest.raises(InvalidRequestError) as caught:
        drive(StructuredCall(SCHEMA, memory=memory), *errors)
    assert caught.value is errors[0]
    assert drive(StructuredCall(SCHEMA, memory=memory), FITS) == ["schema"]


COSTS: dict[str, tuple[list[Any], list[str], str]] = {
    "fits": ([FITS], ["schema"], ""),
    "misfit, repaired": ([WRONG, FITS], ["schema", "schema"], ""),
    "misfit twice": ([WRONG, WRONG], ["schema", "schema"], "unfit"),
    "prose, then the next strategy": ([PROSE, FITS], ["schema", "tool"], ""),
    "prose twice": ([PROSE, PROSE], ["schema", "tool"], "unfit"),
    "prose, and the next is refused": ([PROSE, refused("tools?"), FITS], ["schema", "tool", "text"], ""),
    "prose, the rest refused": ([PROSE, refused("a"), refused("b")], ["schema", "tool", "text"], "unfit"),
    "misfit, and its repair is refused": ([WRONG, refused("messages?")], ["schema", "schema"], "unfit"),
    "refused, then a misfit": ([refused("a"), WRONG, FITS], ["schema", "tool", "tool"], ""),
    "cut": ([Answer('{"name": "An', "length")], ["schema"], "cut"),
    "cut before it began": ([Answer("", "length")], ["schema"], "cut"),
    "whole although cut later": ([Answer(FITS, "length")], ["schema"], ""),
    "refusal": ([Answer("", "stop", "I will not.")], ["schema"], "refused"),
    "filtered": ([Answer("", "content_filter")], ["schema"], "filtered"),
    "a call that was cut": ([Answer("{}", invalid="It was cut."), FITS], ["schema", "schema"], ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", COSTS)
def test_an_object_costs_two_answers_at_most(kind: str) -> None:
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


def test_more_answers_are_paid_for_where_the_caller_says_so() -> None:
    call = StructuredCall(SCHEMA, max_answers=4)
    assert drive(call, PROSE, PROSE, PROSE, FITS) == ["schema", "tool", "text", "text"]
    assert call.result() == ANNA


def test_a_repair_says_what_is_wrong_and_never_repeats_a_broken_call() -> None:
    call = StructuredCall(OutputSchema.of(Kiln), ["tool"])
    call.take(Answer('{"name": "A", "degrees": "hot"}'))
    assert call.attempt is not None
    (first, said), (second, complaint) = call.attempt.turns
    assert (first, said, second) == ("assistant", '{"name": "A", "degrees": "hot"}', "user")
    assert "degrees: Input should be a valid integer" in complaint


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def used_next(memory: StrategyMemory, schema: OutputSchema = SCHEMA, server: str = "a") -> str:
    attempt = StructuredCall(schema, memory=memory, server=server).attempt
    assert attempt is not None
    return attempt.strategy


def test_a_refused_strategy_is_remembered_for_a_while_for_this_server_and_schema() -> None:
    clock = Clock()
    memory = StrategyMemory(clock)
    drive(StructuredCall(SCHEMA, memory=memory, server="a"), refused("no"), FITS)
    assert used_next(memory) == "tool"
    assert used_next(memory, server="b") == "schema"
    assert used_next(memory, OutputSchema.of(Kiln)) == "schema"
    clock.now = FORGET_AFTER
    assert used_next(memory) == "schema"


def test_prose_rules_a_strategy_out_only_twice_in_a_row_and_for_a_while() -> None:
    clock = Clock()
    memory = StrategyMemory(clock)
    for _ in range(3):
        drive(StructuredCall(SCHEMA, memory=memory, server="a"), PROSE, FITS)
        assert used_next(memory) == "schema"
        drive(StructuredCall(SCHEMA, memory=memory, server="a"), FITS)
    for _ in range(2):
        drive(StructuredCall(SCHEMA, memory=memory, server="a"), PROSE, FITS)
    assert used_next(memory) == "tool"
    clock.now = FORGET_AFTER
    assert used_next(memory) == "schema"


def test_a_memory_stays_small_and_is_empty_in_copies() -> None:
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
    """Return how many characters are parsed while a text of this length comes, four at a time."""
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


def test_partial_objects_cost_work_in_proportion_to_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    assert characters_read(monkeypatch, 65536) < 5 * characters_read(monkeypatch, 16384)


@pytest.mark.parametrize(
    "given", [Kiln, JSONSchema(Kiln), OutputSchema.of(Kiln).response_format, OutputSchema.of(Kiln).schema],  # type: ignore[arg-type]
    ids=["class", "JSONSchema of a class", "JSONSchema", "dict"],
)  # fmt: skip
def test_the_client_takes_a_schema_in_any_form(given: Any) -> None:
    wanted = chat_request("x", {"response_format": given}).response_format
    assert isinstance(wanted, JSONSchema)
    assert wanted.schema["properties"].keys() == {"name", "degrees"}


@pytest.mark.parametrize("given", [42, "xml", {"type": "json_object"}, JSONSchema("x")], ids=range(4))  # type: ignore[arg-type]
def test_the_client_refuses_a_response_format_that_is_none(given: Any) -> None:
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
def test_a_schema_is_judged_down_to_its_leaves(schema: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        OutputSchema.of(schema)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("The list: [1, 2, 3]", [1, 2, 3]),
        ('Here they are.\n\n[{"a": 1}, {"a": 2}]\n', [{"a": 1}, {"a": 2}]),
        ('Set x to [1]. {"a": 1}', {"a": 1}),
    ],
)
def test_a_list_behind_a_sentence_is_read(said: str, read: Any) -> None:
    assert read_json(said) == read


def test_a_footnote_is_no_list() -> None:
    with pytest.raises(NoJSONError):
        read_json("Yes, as the report says [1]")
