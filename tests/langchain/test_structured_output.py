"""Structured output in LangChain: methods, schemas, streams, traces; `test_structured.py` has the engine."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from langchain_core import exceptions as core
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel, Field, RootModel
from pydantic.v1 import BaseModel as OldModel
from typing_extensions import TypedDict

from langchain_piccc import StructuredOutputError
from piccc import structured
from piccc.errors import InvalidArgumentError, InvalidRequestError
from tests.langchain.replay import KEY, Replay, chunks, completion, fragment, stream, whole


class City(BaseModel):
    """A city."""

    name: str
    people: int = Field(gt=0)


class OldCity(OldModel):
    """A city."""

    name: str
    people: int


class CityDict(TypedDict):
    """A city."""

    name: str
    people: int


SCHEMA = {
    "title": "City",
    "description": "A city.",
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}
GIVEN = {"name": "Oslo", "people": 700000}
TEXT = json.dumps(GIVEN)


def text(answer: str, **more: Any) -> Any:
    return whole(completion({"content": answer}, **more))


def call(arguments: str, name: str = "City") -> Any:
    function = {"name": name, "arguments": arguments}
    return whole(completion({"tool_calls": [{"id": "c1", "type": "function", "function": function}]}))


def unknown(word: str) -> Any:
    return whole({"error": {"message": f"{word} is not supported", "param": word}}, status=400)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [(City, City(**GIVEN)), (OldCity, OldCity(**GIVEN)), (CityDict, GIVEN), (SCHEMA, GIVEN)],
    ids=["pydantic", "pydantic v1", "TypedDict", "JSON Schema"],
)
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode", None])
async def test_every_schema_works_with_every_method(schema: Any, expected: Any, method: Any) -> None:
    name = convert_to_json_schema(schema)["title"]
    reply = call(TEXT, name) if method == "function_calling" else text(TEXT)
    shaped = Replay(reply).model().with_structured_output(schema, method=method)
    assert shaped.invoke("?") == expected
    assert await shaped.ainvoke("?") == expected


def test_the_schema_goes_out_in_the_servers_words() -> None:
    server = Replay(text(TEXT))
    server.model().with_structured_output(City, strict=True).invoke("?")
    named = server.bodies[0]["response_format"]["json_schema"]
    assert (named["name"], named["strict"]) == ("City", True)
    assert named["schema"]["required"] == ["name", "people"]


def test_a_refused_schema_becomes_a_forced_tool_then_text_and_stays_so() -> None:
    server = Replay(unknown("response_format"), unknown("tool_choice"), text(f"Sure:\n```json\n{TEXT}\n```"))
    shaped = server.model().with_structured_output(City)
    assert shaped.invoke("?") == City(**GIVEN)
    first, second, third = server.bodies
    assert "response_format" in first
    assert second["tool_choice"] == {"type": "function", "function": {"name": "City"}}
    assert "JSON Schema" in third["messages"][-1]["content"]
    shaped.invoke("?")
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("message", "requests"),
    [("messages must not be empty", 3), ("The model `nope` does not exist", 1)],
    ids=["any other cause", "a recognised cause"],
)
def test_where_all_ways_are_refused_the_first_refusal_is_raised(message: str, requests: int) -> None:
    refusals = [whole({"error": {"message": each}}, status=400) for each in (message, "second")]
    server = Replay(*refusals)
    with pytest.raises(InvalidRequestError, match=message):
        server.model().with_structured_output(City).invoke("?")
    assert len(server.requests) == requests


def test_a_named_method_is_the_only_one() -> None:
    server = Replay(unknown("response_format"))
    with pytest.raises(InvalidRequestError):
        server.model().with_structured_output(City, method="json_schema").invoke("?")
    assert len(server.requests) == 1


async def test_an_answer_that_does_not_fit_is_sent_back_once_with_the_reason() -> None:
    for ask in ("invoke", "ainvoke", "stream", "astream"):
        flowing = "stream" in ask
        wrong = '{"name": "Oslo", "people": -1}'
        first = stream(chunks([{"content": wrong}])) if flowing else text(wrong)
        server = Replay(first, text(TEXT))
        shaped = server.model().with_structured_output(City)
        match ask:
            case "invoke":
                answer = shaped.invoke("?")
            case "ainvoke":
                answer = await shaped.ainvoke("?")
            case "stream":
                (answer,) = list(shaped.stream("?"))
            case _:
                (answer,) = [each async for each in shaped.astream("?")]
        assert answer == City(**GIVEN), ask
        question, reply, complaint = server.bodies[1]["messages"]
        assert (question["content"], reply["content"]) == ("?", wrong)
        assert "greater than 0" in complaint["content"]


@pytest.mark.parametrize("said", ['["Oslo"]', '{"value": ["Oslo"]}', '```json\n["Oslo"]\n```'])
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_list_costs_one_call_with_or_without_the_object_around_it(said: str, way: str) -> None:
    delta = fragment(said, index=0, id="c1", name="answer")
    reply = call(said, "answer") if way == "invoke" else stream(chunks([delta], reason="tool_calls"))
    server = Replay(reply)
    schema = {"type": "array", "items": {"type": "string"}}
    shaped = server.model().with_structured_output(schema, method="function_calling")
    assert (shaped.invoke("?") if way == "invoke" else list(shaped.stream("?"))[-1]) == ["Oslo"]
    assert len(server.requests) == 1


def test_the_text_of_a_cut_call_is_in_the_error_as_it_came() -> None:
    delta = fragment('{"name": "Os', index=0, id="c1", name="City")
    server = Replay(stream(chunks([delta], reason="length")))
    shaped = server.model().with_structured_output(City, method="function_calling")
    with pytest.raises(StructuredOutputError) as caught:
        list(shaped.stream("?"))
    assert (caught.value.reason, caught.value.text) == ("cut", '{"name": "Os')


def test_a_call_that_does_not_fit_goes_back_as_text_which_every_server_takes() -> None:
    server = Replay(call('{"name": "Os'), call(TEXT))
    assert server.model().with_structured_output(City, method="function_calling").invoke("?") == City(**GIVEN)
    _, answer, complaint = server.bodies[1]["messages"]
    assert answer == {"role": "assistant", "content": '{"name": "Os'}
    assert complaint["role"] == "user"


def test_a_second_misfit_is_an_error_with_the_raw_text() -> None:
    server = Replay(text("I cannot say."))
    with pytest.raises(StructuredOutputError) as caught:
        server.model().with_structured_output(City).invoke("?")
    assert isinstance(caught.value, OutputParserException)
    assert (caught.value.llm_output, caught.value.finish_reason) == ("I cannot say.", "stop")
    assert caught.value.raw.content == "I cannot say."
    assert len(server.requests) == 2


def test_a_cut_answer_is_not_asked_for_again() -> None:
    server = Replay(text('{"name": "Os', reason="length"))
    with pytest.raises(StructuredOutputError, match="max_tokens") as caught:
        server.model().with_structured_output(City).invoke("?")
    assert caught.value.finish_reason == "length"
    assert len(server.requests) == 1


def test_a_refusal_is_not_asked_for_again() -> None:
    server = Replay(whole(completion({"content": None, "refusal": "I will not."})))
    with pytest.raises(StructuredOutputError, match="I will not") as caught:
        server.model().with_structured_output(City).invoke("?")
    assert is_refusal(caught.value)
    assert len(server.requests) == 1


def is_refusal(error: StructuredOutputError) -> bool:
    kind = getattr(core, "ModelRefusalError", StructuredOutputError)
    return isinstance(error, kind) and error.raw.response_metadata["finish_reason"] in (
        "stop",
        "content_filter",
    )


def test_a_refusal_among_other_blocks_is_one_too() -> None:
    function = {"name": "look", "arguments": "{}"}
    message = {
        "content": None,
        "refusal": "I will not.",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        "reasoning_content": "Hm.",
    }
    server = Replay(whole(completion(message)))
    shaped = server.model().with_structured_output(City, method="function_calling")
    with pytest.raises(StructuredOutputError, match="I will not"):
        shaped.invoke("?")


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_filtered_answer_without_details_is_a_refusal_that_says_filtered(dialect: Any) -> None:
    bodies = {
        "openai": completion({"content": ""}, reason="content_filter"),
        "anthropic": {"type": "message", "content": [], "stop_reason": "refusal"},
    }
    server = Replay(whole(bodies[dialect]))
    with pytest.raises(StructuredOutputError, match="filtered") as caught:
        server.model(dialect=dialect).with_structured_output(City).invoke("?")
    assert is_refusal(caught.value)
    assert len(server.requests) == 1


def test_include_raw_returns_the_error_instead() -> None:
    good = Replay(text(TEXT)).model().with_structured_output(City, include_raw=True).invoke("?")
    assert (good["parsed"], good["parsing_error"], good["raw"].content) == (City(**GIVEN), None, TEXT)
    bad = Replay(text("no")).model().with_structured_output(City, include_raw=True).invoke("?")
    assert bad["parsed"] is None
    assert isinstance(bad["parsing_error"], StructuredOutputError)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_a_dict_grows_while_it_streams(method: Any) -> None:
    pieces = ['{"name": "Os', 'lo", "peop', 'le": 700000}']
    deltas: list[Any] = [{"content": piece} for piece in pieces]
    if method == "function_calling":
        head = fragment("", index=0, id="c1", name="City")
        deltas = [head, *(fragment(piece, index=0) for piece in pieces)]
    shaped = Replay(stream(chunks(deltas))).model().with_structured_output(SCHEMA, method=method)
    grown = list(shaped.stream("?"))
    assert grown == [{"name": "Os"}, {"name": "Oslo"}, GIVEN]
    assert [each async for each in shaped.astream("?")] == grown


def test_the_trace_says_what_shape_was_asked_for() -> None:
    class Ears(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, **more: Any) -> None:
            self.options = more["options"]

    ears = Ears()
    shaped = Replay(text(TEXT)).model().with_structured_output(City)
    shaped.invoke("?", config={"callbacks": [ears]})
    told = ears.options["ls_structured_output_format"]
    assert told == {"kwargs": {"method": "json_schema"}, "schema": convert_to_json_schema(City)}


@pytest.mark.parametrize("wrong", [{"method": "telepathy"}, {"method": "json_mode", "strict": True}])
def test_a_way_that_does_not_exist_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Replay(text(TEXT)).model().with_structured_output(City, **wrong)


class Names(RootModel[list[str]]):
    """Names."""


UNTITLED = {name: value for name, value in SCHEMA.items() if name != "title"}
NAMED = {"name": "City", "strict": True, "schema": UNTITLED}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode", None])
@pytest.mark.parametrize(
    ("schema", "answer", "expected"),
    [
        (Names, {"value": ["Anna"]}, Names(["Anna"])),
        (list[City], {"value": [GIVEN]}, [City(**GIVEN)]),
        (City | None, {"value": GIVEN}, City(**GIVEN)),
        (UNTITLED, GIVEN, GIVEN),
        (NAMED, GIVEN, GIVEN),
        ({"type": "json_schema", "json_schema": NAMED}, GIVEN, GIVEN),
    ],
    ids=["RootModel", "list", "optional", "no title", "name and schema", "response_format"],
)
async def test_a_schema_costs_one_answer_whatever_its_form(
    schema: Any, answer: Any, expected: Any, method: Any
) -> None:
    said = json.dumps(answer)
    server = Replay(call(said, "anything") if method == "function_calling" else text(said))
    shaped = server.model().with_structured_output(schema, method=method)
    assert shaped.invoke("?") == await shaped.ainvoke("?") == expected
    assert len(server.requests) == 2


@pytest.mark.parametrize("schema", [{"type": "json_object"}, {"what": 1}, "City", object()], ids=range(4))
def test_what_is_no_schema_is_refused_before_anything_is_sent(schema: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        Replay(text(TEXT)).model().with_structured_output(schema)


@pytest.mark.parametrize(
    "schema", [City, CityDict, SCHEMA, list[int]], ids=["class", "TypedDict", "dict", "list"]
)
def test_a_structured_model_pickles(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICCC_API_KEY", KEY)
    shaped = Replay(text(TEXT)).model().with_structured_output(schema, include_raw=True)
    again = pickle.loads(pickle.dumps(shaped))  # noqa: S301  our own
    assert again._schema == shaped._schema
    assert KEY.encode() not in pickle.dumps(shaped)


def test_options_of_every_call_may_be_given() -> None:
    server = Replay(text(TEXT))
    shaped = server.model().with_structured_output(City, temperature=0.5)
    shaped.invoke("?", max_tokens=9)
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0.5, 9)


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sunny in {city}."


def test_tools_may_be_called_instead_of_answering() -> None:
    asks = call('{"city": "Oslo"}', "weather")
    server = Replay(asks, text(TEXT))
    shaped = server.model().with_structured_output(City, tools=[weather], include_raw=True)
    result = shaped.invoke("?")
    assert (result["parsed"], result["parsing_error"]) == (None, None)
    assert result["raw"].tool_calls[0]["args"] == {"city": "Oslo"}
    assert shaped.invoke("?")["parsed"] == City(**GIVEN)
    assert all("response_format" in each and "tool_choice" not in each for each in server.bodies)
    with pytest.raises(InvalidArgumentError, match="function_calling"):
        server.model().with_structured_output(City, tools=[weather], method="function_calling")


async def test_more_answers_are_paid_for_where_the_caller_says_so() -> None:
    wrong = text('{"name": "Oslo"}')
    server = Replay(wrong, wrong, text(TEXT))
    shaped = server.model().with_structured_output(City, max_answers=3)
    assert await shaped.ainvoke("?") == City(**GIVEN)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_growing_dict_costs_work_in_proportion_to_its_length(
    monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    read: list[int] = []
    parse = structured.from_json

    def counted(text: str, **options: Any) -> Any:
        read.append(len(text))
        return parse(text, **options)

    monkeypatch.setattr(structured, "from_json", counted)

    def cost(length: int) -> int:
        given = json.dumps({"name": "x" * length, "people": 1})
        pieces = [given[at : at + 4] for at in range(0, len(given), 4)]
        deltas: list[Any] = [{"content": piece} for piece in pieces]
        if method == "function_calling":
            deltas = [fragment("", index=0, id="c1", name="City")]
            deltas += [fragment(piece, index=0) for piece in pieces]
        shaped = (
            Replay(stream(chunks(deltas))).model(coalesce=False).with_structured_output(SCHEMA, method=method)
        )
        read.clear()
        assert len(list(shaped.stream("?"))) > 50
        return sum(read)

    assert cost(16384) < 5 * cost(4096)
