"""Every format of a tool or a tool choice produces the same request."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as OldModel
from pydantic.v1 import Field as OldField
from typing_extensions import TypedDict

from langchain_piccc import ChatPiccc
from piccc.errors import InvalidArgumentError
from tests.langchain.replay import Replay, completion, json_response


class Add(BaseModel):
    """Add two numbers."""

    a: int = Field(description="the first")
    b: int = Field(description="the second")


class OldAdd(OldModel):
    """Add two numbers."""

    a: int = OldField(description="the first")
    b: int = OldField(description="the second")


class AddDict(TypedDict):
    """Add two numbers."""

    a: int
    b: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


add_tool = tool("Add")(add)
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
FORMS: dict[str, Any] = {
    "pydantic": Add,
    "pydantic v1": OldAdd,
    "TypedDict": AddDict,
    "function": add,
    "LangChain tool": add_tool,
    "JSON Schema": {"title": "Add", "description": "Add two numbers.", **PARAMETERS},
    "OpenAI": {
        "type": "function",
        "function": {"name": "Add", "description": "Add two numbers.", "parameters": PARAMETERS},
    },
    "OpenAI function": {"name": "Add", "description": "Add two numbers.", "parameters": PARAMETERS},
    "Anthropic": {"name": "Add", "description": "Add two numbers.", "input_schema": PARAMETERS},
}


def request_body(*tools: Any, dialect: str = "openai", **options: Any) -> dict[str, Any]:
    """Return the request body of a call with bound tools."""
    reply = completion({"content": "Hi"})
    if dialect == "anthropic":
        reply = {
            "id": "m",
            "model": "piccc-pro",
            "content": [{"type": "text", "text": "Hi"}],
            "stop_reason": "end_turn",
        }
    server = Replay(json_response(reply))
    server.model(dialect=dialect).bind_tools(tools, **options).invoke("?")
    return server.bodies[0]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_tool_format_is_converted(form: Any) -> None:
    function = request_body(form)["tools"][0]["function"]
    assert function["name"].lower().replace("dict", "").replace("old", "") == "add"
    assert function["description"] == "Add two numbers."
    assert set(function["parameters"]["properties"]) == {"a", "b"}
    assert sorted(function["parameters"]["required"]) == ["a", "b"]
    tool = request_body(form, dialect="anthropic")["tools"][0]
    assert set(tool["input_schema"]["properties"]) == {"a", "b"}


@pytest.mark.parametrize(
    ("choice", "openai", "anthropic"),
    [
        ("any", "required", {"type": "any"}),
        ("required", "required", {"type": "any"}),
        (True, "required", {"type": "any"}),
        ("auto", "auto", {"type": "auto"}),
        ("none", "none", {"type": "none"}),
        (None, None, None),
        (False, None, None),
        ("Add", {"type": "function", "function": {"name": "Add"}}, {"type": "tool", "name": "Add"}),
        ({"type": "function", "function": {"name": "Add"}}, ..., {"type": "tool", "name": "Add"}),
        ({"type": "tool", "name": "Add"}, {"type": "function", "function": {"name": "Add"}}, ...),
        ({"type": "any"}, "required", {"type": "any"}),
    ],
)
def test_every_tool_choice_format_is_converted(choice: Any, openai: Any, anthropic: Any) -> None:
    for dialect, expected in (("openai", openai), ("anthropic", anthropic)):
        expected_choice = choice if expected is ... else expected
        assert request_body(Add, dialect=dialect, tool_choice=choice).get("tool_choice") == expected_choice


def test_choosing_an_unbound_tool_is_rejected() -> None:
    with pytest.raises(InvalidArgumentError, match="Add"):
        request_body(Add, tool_choice="Subtract")


def test_without_tools_no_tool_options_are_sent() -> None:
    body = request_body(tool_choice="any", response_format=Add)
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)
    assert body["response_format"]["json_schema"]["name"] == "Add"


def test_strict_parallel_calls_and_response_format_are_sent_with_tools() -> None:
    body = request_body(Add, strict=True, parallel_tool_calls=False, response_format=Add)
    assert body["tools"][0]["function"]["strict"] is True
    assert body["parallel_tool_calls"] is False
    assert body["response_format"]["json_schema"]["strict"] is True


def test_provider_specific_tool_keys_are_sent() -> None:
    tool_with_extras = tool("Add", extras={"cache_control": {"type": "ephemeral"}})(add)
    assert request_body(tool_with_extras, dialect="anthropic")["tools"][0]["cache_control"] == {
        "type": "ephemeral"
    }
    native = {**FORMS["Anthropic"], "cache_control": {"type": "ephemeral"}}
    assert request_body(native, dialect="anthropic")["tools"][0]["cache_control"] == {"type": "ephemeral"}


def test_another_providers_tool_is_rejected_with_advice() -> None:
    with pytest.raises(InvalidArgumentError, match="extra_body"):
        request_body({"type": "web_search"})


@pytest.mark.parametrize("call", [{"tools": [42]}, {"tools": ["abc"]}, {"response_format": 42}])
def test_values_that_are_not_a_tool_or_schema_are_rejected(call: dict[str, Any]) -> None:
    model = ChatPiccc(api_key="k")
    for attempt in (lambda: model.bind_tools(**{"tools": [], **call}), lambda: model.invoke("?", **call)):
        with pytest.raises(InvalidArgumentError, match=r"is not a tool|is not a schema"):
            attempt()


def test_bound_tools_can_be_bound_further() -> None:
    bound = ChatPiccc(api_key="k").bind_tools([Add])
    assert isinstance(bound, RunnableBinding)
    assert bound.bind(stop=["x"]).kwargs["stop"] == ["x"]


def test_call_options_override_model_settings() -> None:
    server = Replay(json_response(completion({"content": "Hi"})))
    model = server.model(temperature=0.1, stop="END", seed=1, extra_body={"a": 1, "b": 1})
    model.invoke(
        [HumanMessage("?")],
        model="piccc-ultra",
        temperature=0.9,
        stop=["STOP"],
        max_tokens=5,
        top_p=0.5,
        reasoning_effort="low",
        extra_body={"b": 2},
        timeout=5,
    )
    model.invoke("?")
    first, second = server.bodies
    expected = {
        "model": "piccc-ultra", "temperature": 0.9, "stop": ["STOP"], "max_tokens": 5, "top_p": 0.5,
        "seed": 1, "reasoning_effort": "low", "a": 1, "b": 2,
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert (second["model"], second["temperature"], second["stop"]) == ("piccc-pro", 0.1, ["END"])
