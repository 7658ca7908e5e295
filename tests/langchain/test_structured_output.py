"""Structured output in LangChain; `tests/test_structured.py` tests the shared engine."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, StructuredOutputValidationError
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
from tests.langchain.replay import KEY, Replay, chunks, completion, fragment, json_response, stream


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
VALUES = {"name": "Oslo", "people": 700000}
TEXT = json.dumps(VALUES)


def text_reply(answer: str, **more: Any) -> Any:
    return json_response(completion({"content": answer}, **more))


def call_reply(arguments: str, name: str = "City") -> Any:
    function = {"name": name, "arguments": arguments}
    return json_response(completion({"tool_calls": [{"id": "c1", "type": "function", "function": function}]}))


def unsupported(word: str) -> Any:
    return json_response({"error": {"message": f"{word} is not supported", "param": word}}, status=400)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [(City, City(**VALUES)), (OldCity, OldCity(**VALUES)), (CityDict, VALUES), (SCHEMA, VALUES)],
    ids=["pydantic", "pydantic v1", "TypedDict", "JSON Schema"],
)
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode", None])
async def test_every_schema_works_with_every_method(schema: Any, expected: Any, method: Any) -> None:
    name = convert_to_json_schema(schema)["title"]
    reply = call_reply(TEXT, name) if method == "function_calling" else text_reply(TEXT)
    structured_model = Replay(reply).model().with_structured_output(schema, method=method)
    assert structured_model.invoke("?") == expected
    assert await structured_model.ainvoke("?") == expected


def test_the_schema_is_sent_as_response_format() -> None:
    server = Replay(text_reply(TEXT))
    server.model().with_structured_output(City, strict=True).invoke("?")
    named = server.bodies[0]["response_format"]["json_schema"]
    assert (named["name"], named["strict"]) == ("City", True)
    assert named["schema"]["required"] == ["name", "people"]


def test_a_rejected_schema_falls_back_to_a_tool_then_text_and_is_remembered() -> None:
    server = Replay(
        unsupported("response_format"), unsupported("tool_choice"), text_reply(f"Sure:\n```json\n{TEXT}\n```")
    )
    structured_model = server.model().with_structured_output(City)
    assert structured_model.invoke("?") == City(**VALUES)
    first, second, third = server.bodies
    assert "response_format" in first
    assert second["tool_choice"] == {"type": "function", "function": {"name": "City"}}
    assert "JSON Schema" in third["messages"][-1]["content"]
    structured_model.invoke("?")
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("message", "requests"),
    [("messages must not be empty", 3), ("The model `nope` does not exist", 1)],
    ids=["unrelated cause", "recognised cause"],
)
def test_if_every_method_is_rejected_the_first_error_is_raised(message: str, requests: int) -> None:
    refusals = [json_response({"error": {"message": text}}, status=400) for text in (message, "second")]
    server = Replay(*refusals)
    with pytest.raises(InvalidRequestError, match=message):
        server.model().with_structured_output(City).invoke("?")
    assert len(server.requests) == requests


def test_an_explicit_method_has_no_fallback() -> None:
    server = Replay(unsupported("response_format"))
    with pytest.raises(InvalidRequestError):
        server.model().with_structured_output(City, method="json_schema").invoke("?")
    assert len(server.requests) == 1


async def test_an_invalid_answer_is_sent_back_once_with_the_reason() -> None:
    for ask in ("invoke", "ainvoke", "stream", "astream"):
        is_streaming = "stream" in ask
        invalid = '{"name": "Oslo", "people": -1}'
        first = stream(chunks([{"content": invalid}])) if is_streaming else text_reply(invalid)
        server = Replay(first, text_reply(TEXT))
        structured_model = server.model().with_structured_output(City)
        match ask:
            case "invoke":
                answer = structured_model.invoke("?")
            case "ainvoke":
                answer = await structured_model.ainvoke("?")
            case "stream":
                (answer,) = list(structured_model.stream("?"))
            case _:
                (answer,) = [answer async for answer in structured_model.astream("?")]
        assert answer == City(**VALUES), ask
        question, reply, complaint = server.bodies[1]["messages"]
        assert (question["content"], reply["content"]) == ("?", invalid)
        assert "greater than 0" in complaint["content"]


@pytest.mark.parametrize("answer_text", ['["Oslo"]', '{"value": ["Oslo"]}', '```json\n["Oslo"]\n```'])
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_list_needs_one_call_with_or_without_a_wrapper_object(answer_text: str, way: str) -> None:
    delta = fragment(answer_text, index=0, id="c1", name="answer")
    reply = (
        call_reply(answer_text, "answer") if way == "invoke" else stream(chunks([delta], reason="tool_calls"))
    )
    server = Replay(reply)
    schema = {"type": "array", "items": {"type": "string"}}
    structured_model = server.model().with_structured_output(schema, method="function_calling")
    assert (structured_model.invoke("?") if way == "invoke" else list(structured_model.stream("?"))[-1]) == [
        "Oslo"
    ]
    assert len(server.requests) == 1


def test_the_error_of_a_truncated_call_keeps_its_text() -> None:
    delta = fragment('{"name": "Os', index=0, id="c1", name="City")
    server = Replay(stream(chunks([delta], reason="length")))
    structured_model = server.model().with_structured_output(City, method="function_calling")
    with pytest.raises(StructuredOutputError) as caught:
        list(structured_model.stream("?"))
    assert (caught.value.reason, caught.value.text) == ("cut", '{"name": "Os')


def test_an_invalid_call_is_sent_back_as_text() -> None:
    server = Replay(call_reply('{"name": "Os'), call_reply(TEXT))
    assert server.model().with_structured_output(City, method="function_calling").invoke("?") == City(
        **VALUES
    )
    _, answer, complaint = server.bodies[1]["messages"]
    assert answer == {"role": "assistant", "content": '{"name": "Os'}
    assert complaint["role"] == "user"


def test_a_second_invalid_answer_raises_an_error_with_the_raw_text() -> None:
    server = Replay(text_reply("I cannot say."))
    with pytest.raises(StructuredOutputError) as caught:
        server.model().with_structured_output(City).invoke("?")
    assert isinstance(caught.value, OutputParserException)
    assert (caught.value.llm_output, caught.value.finish_reason) == ("I cannot say.", "stop")
    assert caught.value.raw.content == "I cannot say."
    assert len(server.requests) == 2


def test_a_truncated_answer_is_not_retried() -> None:
    server = Replay(text_reply('{"name": "Os', reason="length"))
    with pytest.raises(StructuredOutputError, match="max_tokens") as caught:
        server.model().with_structured_output(City).invoke("?")
    assert caught.value.finish_reason == "length"
    assert len(server.requests) == 1


def test_a_refusal_is_not_retried() -> None:
    server = Replay(json_response(completion({"content": None, "refusal": "I will not."})))
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


def test_a_refusal_next_to_other_blocks_is_reported() -> None:
    function = {"name": "look", "arguments": "{}"}
    message = {
        "content": None,
        "refusal": "I will not.",
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        "reasoning_content": "Hm.",
    }
    server = Replay(json_response(completion(message)))
    structured_model = server.model().with_structured_output(City, method="function_calling")
    with pytest.raises(StructuredOutputError, match="I will not"):
        structured_model.invoke("?")


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_filtered_answer_without_details_is_reported_as_filtered(dialect: Any) -> None:
    bodies = {
        "openai": completion({"content": ""}, reason="content_filter"),
        "anthropic": {"type": "message", "content": [], "stop_reason": "refusal"},
    }
    server = Replay(json_response(bodies[dialect]))
    with pytest.raises(StructuredOutputError, match="filtered") as caught:
        server.model(dialect=dialect).with_structured_output(City).invoke("?")
    assert is_refusal(caught.value)
    assert len(server.requests) == 1


def test_include_raw_returns_the_error_instead_of_raising_it() -> None:
    good = Replay(text_reply(TEXT)).model().with_structured_output(City, include_raw=True).invoke("?")
    assert (good["parsed"], good["parsing_error"], good["raw"].content) == (City(**VALUES), None, TEXT)
    bad = Replay(text_reply("no")).model().with_structured_output(City, include_raw=True).invoke("?")
    assert bad["parsed"] is None
    assert isinstance(bad["parsing_error"], StructuredOutputError)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_a_streamed_dict_grows(method: Any) -> None:
    pieces = ['{"name": "Os', 'lo", "peop', 'le": 700000}']
    deltas: list[Any] = [{"content": piece} for piece in pieces]
    if method == "function_calling":
        head = fragment("", index=0, id="c1", name="City")
        deltas = [head, *(fragment(piece, index=0) for piece in pieces)]
    structured_model = Replay(stream(chunks(deltas))).model().with_structured_output(SCHEMA, method=method)
    partials = list(structured_model.stream("?"))
    assert partials == [{"name": "Os"}, {"name": "Oslo"}, VALUES]
    assert [answer async for answer in structured_model.astream("?")] == partials


def test_the_trace_carries_the_structured_output_format() -> None:
    class OptionsRecorder(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, **more: Any) -> None:
            self.options = more["options"]

    recorder = OptionsRecorder()
    structured_model = Replay(text_reply(TEXT)).model().with_structured_output(City)
    structured_model.invoke("?", config={"callbacks": [recorder]})
    output_format = recorder.options["ls_structured_output_format"]
    assert output_format == {"kwargs": {"method": "json_schema"}, "schema": convert_to_json_schema(City)}


@pytest.mark.parametrize("invalid", [{"method": "telepathy"}, {"method": "json_mode", "strict": True}])
def test_an_unsupported_method_or_option_is_rejected(invalid: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        Replay(text_reply(TEXT)).model().with_structured_output(City, **invalid)


class Names(RootModel[list[str]]):
    """Names."""


UNTITLED = {name: value for name, value in SCHEMA.items() if name != "title"}
NAMED = {"name": "City", "strict": True, "schema": UNTITLED}


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode", None])
@pytest.mark.parametrize(
    ("schema", "answer", "expected"),
    [
        (Names, {"value": ["Anna"]}, Names(["Anna"])),
        (list[City], {"value": [VALUES]}, [City(**VALUES)]),
        (City | None, {"value": VALUES}, City(**VALUES)),
        (UNTITLED, VALUES, VALUES),
        (NAMED, VALUES, VALUES),
        ({"type": "json_schema", "json_schema": NAMED}, VALUES, VALUES),
    ],
    ids=["RootModel", "list", "optional", "no title", "name and schema", "response_format"],
)
async def test_every_schema_format_needs_one_answer(
    schema: Any, answer: Any, expected: Any, method: Any
) -> None:
    answer_text = json.dumps(answer)
    server = Replay(
        call_reply(answer_text, "anything") if method == "function_calling" else text_reply(answer_text)
    )
    structured_model = server.model().with_structured_output(schema, method=method)
    assert structured_model.invoke("?") == await structured_model.ainvoke("?") == expected
    assert len(server.requests) == 2


@pytest.mark.parametrize("schema", [{"type": "json_object"}, {"what": 1}, "City", object()], ids=range(4))
def test_an_invalid_schema_is_rejected_at_construction(schema: Any) -> None:
    with pytest.raises(InvalidArgumentError):
        Replay(text_reply(TEXT)).model().with_structured_output(schema)


@pytest.mark.parametrize(
    "schema", [City, CityDict, SCHEMA, list[int]], ids=["class", "TypedDict", "dict", "list"]
)
def test_a_structured_model_pickles_without_its_key(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICCC_API_KEY", KEY)
    structured_model = Replay(text_reply(TEXT)).model().with_structured_output(schema, include_raw=True)
    restored = pickle.loads(pickle.dumps(structured_model))  # noqa: S301  our own data
    assert restored._schema == structured_model._schema
    assert KEY.encode() not in pickle.dumps(structured_model)


def test_call_options_are_sent() -> None:
    server = Replay(text_reply(TEXT))
    structured_model = server.model().with_structured_output(City, temperature=0.5)
    structured_model.invoke("?", max_tokens=9)
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0.5, 9)


def weather(city: str) -> str:
    """Return the weather of a city."""
    return f"Sunny in {city}."


def test_the_model_may_call_tools_instead_of_answering() -> None:
    tool_call = call_reply('{"city": "Oslo"}', "weather")
    server = Replay(tool_call, text_reply(TEXT))
    structured_model = server.model().with_structured_output(City, tools=[weather], include_raw=True)
    result = structured_model.invoke("?")
    assert (result["parsed"], result["parsing_error"]) == (None, None)
    assert result["raw"].tool_calls[0]["args"] == {"city": "Oslo"}
    assert structured_model.invoke("?")["parsed"] == City(**VALUES)
    assert all("response_format" in body and "tool_choice" not in body for body in server.bodies)
    with pytest.raises(InvalidArgumentError, match="function_calling"):
        server.model().with_structured_output(City, tools=[weather], method="function_calling")


async def test_max_answers_allows_more_attempts() -> None:
    invalid = text_reply('{"name": "Oslo"}')
    server = Replay(invalid, invalid, text_reply(TEXT))
    structured_model = server.model().with_structured_output(City, max_answers=3)
    assert await structured_model.ainvoke("?") == City(**VALUES)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_streaming_a_dict_takes_linear_work(monkeypatch: pytest.MonkeyPatch, method: Any) -> None:
    read: list[int] = []
    parse = structured.from_json

    def counted(text: str, **options: Any) -> Any:
        read.append(len(text))
        return parse(text, **options)

    monkeypatch.setattr(structured, "from_json", counted)

    def cost(length: int) -> int:
        answer_text = json.dumps({"name": "x" * length, "people": 1})
        pieces = [answer_text[at : at + 4] for at in range(0, len(answer_text), 4)]
        deltas: list[Any] = [{"content": piece} for piece in pieces]
        if method == "function_calling":
            deltas = [fragment("", index=0, id="c1", name="City")]
            deltas += [fragment(piece, index=0) for piece in pieces]
        structured_model = (
            Replay(stream(chunks(deltas))).model(coalesce=False).with_structured_output(SCHEMA, method=method)
        )
        read.clear()
        assert len(list(structured_model.stream("?"))) > 50
        return sum(read)

    assert cost(16384) < 5 * cost(4096)


@pytest.mark.parametrize(
    ("reply", "finish_reason", "refusal"),
    [
        (completion({"content": '{"name": "Par'}, reason="length"), "length", None),
        (completion({"content": None, "refusal": "I will not."}), "stop", "I will not."),
    ],
)
def test_an_agents_own_error_has_the_reason(reply: Any, finish_reason: str, refusal: str | None) -> None:
    agent: Any = create_agent(Replay(json_response(reply)).model(), response_format=ProviderStrategy(City))
    with pytest.raises(StructuredOutputValidationError) as caught:
        agent.invoke({"messages": [("user", "A city?")]})
    message = caught.value.ai_message
    assert message.response_metadata["finish_reason"] == finish_reason
    assert message.additional_kwargs.get("refusal") == refusal
