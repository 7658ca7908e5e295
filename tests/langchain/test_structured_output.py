"""Answers in a shape: three ways down a ladder, one repair, and a typed error in the end."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.utils.function_calling import convert_to_json_schema
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as OldModel
from typing_extensions import TypedDict

from langchain_piccc import StructuredOutputError
from piccc.errors import InvalidArgumentError, InvalidRequestError
from tests.langchain.replay import Replay, chunks, completion, fragment, stream, whole


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
    assert second["tool_choice"] == "required"
    assert "JSON Schema" in third["messages"][-1]["content"]
    shaped.invoke("?")
    assert len(server.requests) == 4


def test_another_bad_request_is_not_asked_again() -> None:
    server = Replay(whole({"error": {"message": "messages must not be empty"}}, status=400))
    with pytest.raises(InvalidRequestError, match="must not be empty"):
        server.model().with_structured_output(City).invoke("?")
    assert len(server.requests) == 1


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


def test_a_call_that_does_not_fit_is_answered_as_a_tool_would() -> None:
    server = Replay(call('{"name": "Oslo"}'), call(TEXT))
    assert server.model().with_structured_output(City, method="function_calling").invoke("?") == City(**GIVEN)
    complaint = server.bodies[1]["messages"][-1]
    assert (complaint["role"], complaint["tool_call_id"]) == ("tool", "c1")
    assert "people" in complaint["content"]


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
    with pytest.raises(Exception, match="I will not"):
        server.model().with_structured_output(City).invoke("?")
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
