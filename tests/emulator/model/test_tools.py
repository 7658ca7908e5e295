"""Tool calls: the rule model calls the tools that a prompt asks for, with the values that it names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from piccc.emulator.conversation import ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model.tools import steps
from tests.emulator.model.talk import (
    INTEGER,
    MODEL,
    STRING,
    STRINGS,
    TOOLS,
    ask,
    calls,
    converse,
    one_of,
    tool,
)

IMAGE, VIDEO, WEATHER = "create_image", "create_video", "get_weather"

ONE_CALL: list[tuple[str, str, dict[str, Any]]] = [
    (
        "Make an image of a red fox in the snow, 16:9, 2K.",
        IMAGE,
        {"prompt": "a red fox in the snow", "aspect_ratio": "16:9", "resolution": "2K"},
    ),
    ("Could you please draw a lighthouse at dusk?", IMAGE, {"prompt": "a lighthouse at dusk"}),
    ("I need a square picture of a teapot", IMAGE, {"prompt": "a teapot", "aspect_ratio": "1:1"}),
    ("paint me a picture of Romeo and Juliet", IMAGE, {"prompt": "Romeo and Juliet"}),
    ("Create 3 images of a tabby cat", IMAGE, {"prompt": "a tabby cat", "n": 3}),
    (
        "create_image with prompt='a blue door', resolution=2K",
        IMAGE,
        {"prompt": "a blue door", "resolution": "2K"},
    ),
    ('Make a square picture "a red mug".', IMAGE, {"prompt": "a red mug", "aspect_ratio": "1:1"}),
    ("Draw a cat and a dog", IMAGE, {"prompt": "a cat and a dog"}),
    (
        "Generate a 6 second video of waves on rocks",
        VIDEO,
        {"prompt": "waves on rocks", "duration_seconds": 6},
    ),
    (
        "make a video of a dog running for 8 seconds",
        VIDEO,
        {"prompt": "a dog running", "duration_seconds": 8},
    ),
    (
        "Film a 2 minute clip of bees, 16:9",
        VIDEO,
        {"prompt": "bees", "duration_seconds": 120, "aspect_ratio": "16:9"},
    ),
    ("What's the weather like in San Francisco, CA?", WEATHER, {"city": "San Francisco, CA"}),
    ("What is the forecast for Paris in fahrenheit?", WEATHER, {"city": "Paris", "unit": "fahrenheit"}),
    ("Add 3 and 4", "add", {"a": 3, "b": 4}),
    ("nine times two, please", "multiply", {"a": 9, "b": 2}),
    ("Translate 'hello world' to French", "translate", {"text": "hello world", "target_language": "French"}),
    ("Search the docs for how webhooks are signed", "search_docs", {"query": "how webhooks are signed"}),
    ("Set a timer for 2 hours", "set_timer", {"minutes": 120}),
    ("What's the status of task_8f3a2b?", "get_task", {"task_id": "task_8f3a2b"}),
]


@pytest.mark.parametrize(("text", "name", "arguments"), ONE_CALL)
def test_one_request_becomes_one_call_with_its_values(
    text: str, name: str, arguments: dict[str, Any]
) -> None:
    assert calls(text) == [(name, arguments)]


@pytest.mark.parametrize(("text", "name", "arguments"), ONE_CALL)
def test_a_call_is_not_repeated_after_its_result(text: str, name: str, arguments: dict[str, Any]) -> None:
    rounds, answer = converse(text, lambda call: "done")
    assert len(rounds) == 1
    assert answer


SEVERAL: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = [
    ("Draw a cat. Draw a dog.", [(IMAGE, {"prompt": "a cat"}), (IMAGE, {"prompt": "a dog"})]),
    ("an image of a cat and an image of a dog", [(IMAGE, {"prompt": "a cat"}), (IMAGE, {"prompt": "a dog"})]),
    (
        "Make a square picture of a teapot and set a timer for 3 minutes",
        [(IMAGE, {"prompt": "a teapot", "aspect_ratio": "1:1"}), ("set_timer", {"minutes": 3})],
    ),
]


@pytest.mark.parametrize(("text", "expected"), SEVERAL)
def test_independent_requests_become_parallel_calls(
    text: str, expected: list[tuple[str, dict[str, Any]]]
) -> None:
    assert calls(text) == expected


@pytest.mark.parametrize(("text", "expected"), SEVERAL)
def test_without_parallel_calls_requests_are_called_in_turn(
    text: str, expected: list[tuple[str, dict[str, Any]]]
) -> None:
    rounds, _ = converse(text, lambda call: "done", parallel_tool_calls=False)
    assert rounds == [[call] for call in expected]


@pytest.mark.parametrize(
    "text",
    [
        *("Hello!", "What is the capital of France?", "Write a poem about rain", "你好", "Who are you?"),
    ],
)
def test_a_prompt_that_needs_no_tool_gets_text(text: str) -> None:
    answer = ask(text, tools=TOOLS)
    assert not answer.calls
    assert answer.text


def _media(call: ModelCall) -> str:
    return json.dumps({"task_id": f"task_{call.name}", "url": f"https://cdn.example/{call.name}"})


@pytest.mark.parametrize("result", [_media, lambda call: f"It is at https://cdn.example/{call.name}."])
@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("Create an image of a kite, then make a video of it dancing", "it dancing"),
        ('Make a picture "a kite", and then a video "it dancing".', "it dancing"),
        ("Draw a kite. Make a video of it dancing.", "it dancing"),
    ],
)
def test_a_dependent_step_waits_for_the_result_and_uses_it(text: str, second: str, result: Any) -> None:
    rounds, answer = converse(text, result)
    assert [[name for name, _ in batch] for batch in rounds] == [[IMAGE], [VIDEO]]
    assert rounds[1][0][1] == {"prompt": second, "image_url": f"https://cdn.example/{IMAGE}"}
    assert f"https://cdn.example/{VIDEO}" in answer


def test_a_number_from_a_result_is_passed_to_the_next_call() -> None:
    rounds, answer = converse("Multiply 3 by 4 and then add 5 to the result", lambda call: "12")
    assert rounds == [[("multiply", {"a": 3, "b": 4})], [("add", {"a": 5, "b": 12})]]
    assert "12" in answer


def test_a_failed_step_ends_the_task_and_is_reported() -> None:
    text = "make an image of a cat, then a video from it"
    [call] = ask(text, tools=TOOLS).calls
    turns = (
        ModelMessage("user", text),
        ModelMessage("assistant", calls=(call,)),
        ModelMessage("tool", "quota exceeded", call_id=call.id, is_error=True),
    )
    answer = MODEL.answer(ModelRequest("piccc-pro", turns, tools=TOOLS))
    assert (answer.calls, answer.text) == ((), "create_image failed: quota exceeded")


@pytest.mark.parametrize("prompt", ["Hello!", "the weather in Rome"])
@pytest.mark.parametrize(
    "choice", [{"tool_choice": "required"}, {"tool_choice": "named", "named_tool": WEATHER}]
)
def test_a_forced_tool_is_called_on_every_turn(prompt: str, choice: dict[str, Any]) -> None:
    turns = [ModelMessage("user", prompt)]
    for _ in range(4):
        answer = MODEL.answer(ModelRequest("piccc-pro", tuple(turns), tools=TOOLS, **choice))
        assert len(answer.calls) == 1
        assert choice["tool_choice"] == "required" or answer.calls[0].name == WEATHER
        turns.append(ModelMessage("assistant", calls=answer.calls))
        turns.append(ModelMessage("tool", "done", call_id=answer.calls[0].id))


def test_tool_choice_none_calls_nothing() -> None:
    assert calls("the weather in Rome", tool_choice="none") == []


def test_a_required_choice_ends_with_the_tool_that_fits_the_results() -> None:
    report = tool("WeatherReport", "", "city degrees", city=STRING, degrees=INTEGER)
    turns = [ModelMessage("user", "What's the weather in Paris?")]
    for _ in range(2):
        answer = MODEL.answer(
            ModelRequest("piccc-pro", tuple(turns), tools=(*TOOLS, report), tool_choice="required")
        )
        turns.append(ModelMessage("assistant", calls=answer.calls))
        turns.append(ModelMessage("tool", '{"city": "Paris", "degrees": 21}', call_id=answer.calls[0].id))
    assert [(call.name, call.arguments) for call in answer.calls] == [
        ("WeatherReport", {"city": "Paris", "degrees": 21})
    ]


def test_a_tool_without_parameters_is_called_without_arguments() -> None:
    assert calls("Please ping the server", (tool("ping_server", "Ping the server."),)) == [
        ("ping_server", {})
    ]


@pytest.mark.parametrize("polite", ["Please", "Could you please", "Hi,"])
def test_polite_words_are_not_argument_values(polite: str) -> None:
    water = tool("water_plants", "Water the plants of a room.", "room", room=STRING)
    [(_, values)] = calls(f"{polite} water the plants in the kitchen.", (water,))
    assert values == {"room": "the kitchen"}


def test_a_list_argument_takes_the_quoted_strings() -> None:
    note = tool("save_note", "Save a note.", tags=STRINGS)
    assert calls("Save a note with tags 'urgent' and 'finance'", (note,)) == [
        ("save_note", {"tags": ["urgent", "finance"]})
    ]


def test_call_ids_are_unique_within_a_conversation() -> None:
    ids = []
    turns = [ModelMessage("user", "weather in Paris. weather in Rome. weather in Oslo.")]
    for _ in range(3):
        answer = MODEL.answer(ModelRequest("piccc-pro", tuple(turns), tools=TOOLS, parallel_tool_calls=False))
        ids += [call.id for call in answer.calls]
        turns.append(ModelMessage("assistant", calls=answer.calls))
        turns.append(ModelMessage("tool", "sunny", call_id=answer.calls[0].id))
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"properties": None, "required": None},
        {"properties": {"city": True}, "required": ["city"]},
        {"properties": {"city": "string"}, "required": "city"},
        {"properties": ["city"], "required": {"city": True}},
    ],
)
def test_a_tool_with_a_malformed_schema_is_still_chosen(parameters: dict[str, Any]) -> None:
    malformed = Tool("get_weather", "Get the weather in a city.", parameters)
    assert [step.tool for step in steps([malformed], "the weather in Paris, please")] == [malformed]


@pytest.mark.parametrize("value", ["", " ", "_", "-"])
def test_an_enum_value_without_letters_is_never_matched(value: str) -> None:
    save = tool("save_note", "Save a note.", priority=one_of(value, "high"))
    assert calls("Save a note (now - or later)", (save,)) == [("save_note", {})]
