"""Prompts that tell in words how to reply: only what they really offer is taken for a tool or a schema."""

from __future__ import annotations

import pytest

from piccc.emulator.conversation import ModelMessage, ModelRequest
from piccc.emulator.model.formats import formatted, schema_in
from piccc.emulator.model.react import offered
from tests.emulator.model.talk import MODEL, ask

REACT = """Answer the questions. You have access to the following tools:

weather(city: str) -> str - Weather in a city
search(query: str) -> str - Search the web

Use the following format:

Question: the input question
Thought: think
Action: the action to take, should be one of [weather, search]
Action Input: the input to the action
Observation: the result
Final Answer: the answer

Begin!

Question: What is the weather in Oslo?
Thought:"""


def test_a_prompt_with_a_scratchpad_is_worked_off() -> None:
    first = ask(REACT, stop=("\nObservation",)).text
    assert first.endswith("Action: weather\nAction Input: Oslo")
    said = ask(f"{REACT}{first}\nObservation: snow\nThought:").text
    assert said.endswith("Final Answer: weather (Oslo): snow")


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("one of [weather, search]", ["weather", "search"]),
        ("one of (weather, oracle)", ["weather", "oracle"]),
        ("one of weather or search", ["weather", "search"]),
        ("one of the following tools: 'weather', 'search'", ["weather", "search"]),
        ("one of weather, search if you need one", ["weather", "search"]),
        ("one of the tools listed above", []),
        ("one of them, as you see fit", []),
        ("one of these", []),
    ],
)
def test_a_prompt_offers_the_tools_that_it_lists_and_no_words_of_its_prose(
    listed: str, names: list[str]
) -> None:
    prompt = REACT.replace("one of [weather, search]", listed)
    found = offered(ModelRequest("m", (ModelMessage("user", prompt),)))
    assert [tool.name for tool in (found[0].tools if found else ())] == names


def test_the_reasoning_that_was_asked_for_is_kept() -> None:
    assert "I call weather" in ask(REACT, reasoning=True).reasoning
    assert ask(REACT).reasoning == ""


NO_PARTS = ['{"a": {"type": "any"}}', '{"a": "string"}', '{"a": {"multipleOf": 0}}', '{"a": {"allOf": null}}']


@pytest.mark.parametrize("parts", NO_PARTS)
def test_what_only_looks_like_a_schema_is_not_followed(parts: str) -> None:
    told = f'Answer in JSON, as {{"properties": {parts}, "required": ["a"]}}.'
    assert schema_in(told) is None
    assert ask(told).text


@pytest.mark.parametrize("parts", NO_PARTS)
def test_a_tool_described_by_what_only_looks_like_a_schema_takes_a_text(parts: str) -> None:
    described = f'weather {{"properties": {parts}, "required": ["a"]}}'
    prompt = REACT.replace("weather(city: str) -> str", described)
    assert "Action: weather\nAction Input: " in ask(prompt).text


def test_steps_with_blank_lines_between_are_read() -> None:
    prompt = f"{REACT} look\nAction: weather \n\nAction Input: Oslo\n\n\nObservation: snow\n\nThought:"
    assert ask(prompt).text.endswith("Final Answer: weather (Oslo): snow")


_MANY_WORDS = " ".join("".join("abcdefghij"[int(one)] for one in str(at)) for at in range(100, 90_000))


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 300_000,
        " \n" * 300_000 + "Action: x",
        "Action: one of [a]" + "\n" * 300_000,
        "Answer YES or NO.\nresponse: a" + "\n" * 300_000 + "context: b",
        "question" + " \n" * 300_000,
        f"format: 'KEYWORDS: <keywords>'\n{_MANY_WORDS}",
    ],
    ids=range(6),
)
def test_a_long_prompt_is_read_in_passing(text: str) -> None:
    formatted(text)
    assert offered(ModelRequest("m", (ModelMessage("user", text),))) is None


def test_a_prompt_is_answered_the_same_with_a_tab_before_its_form() -> None:
    assert (
        ask(REACT.replace("\nAction", "\n\tAction")).text
        == MODEL.answer(ModelRequest("piccc-pro", (ModelMessage("user", REACT),))).text
    )
