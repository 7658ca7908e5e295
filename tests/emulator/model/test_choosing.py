"""The rule model calls the tools that the words speak of, with the values they hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from piccc.emulator.conversation import ModelCall, ModelMessage, ModelRequest, Tool
from piccc.emulator.model.choosing import requests
from tests.emulator.model.talk import MODEL, TEXT, TEXTS, TOOLS, WHOLE, ask, calls, carry_on, one_of, tool

IMAGE, VIDEO, WEATHER = "create_image", "create_video", "get_weather"

ONE_CALL: list[tuple[str, str, dict[str, Any]]] = [
    (
        "Make an image of a red fox in the snow, 16:9, 2K.",
        IMAGE,
        {"prompt": "a red fox in the snow", "aspect_ratio": "16:9", "resolution": "2K"},
    ),
    ("Could you please draw a lighthouse at dusk?", IMAGE, {"prompt": "a lighthouse at dusk"}),
    ("I need a square picture of a teapot", IMAGE, {"prompt": "a teapot", "aspect_ratio": "1:1"}),
    (
        "paint me a picture of Romeo and Juliet on a balcony",
        IMAGE,
        {"prompt": "Romeo and Juliet on a balcony"},
    ),
    (
        "I'd like a photo showing two astronauts playing chess, portrait orientation, 4K please",
        IMAGE,
        {"prompt": "two astronauts playing chess", "aspect_ratio": "9:16", "resolution": "4K"},
    ),
    ("Create 3 images of a tabby cat", IMAGE, {"prompt": "a tabby cat", "n": 3}),
    (
        "create_image with prompt='a blue door' and resolution=2K",
        IMAGE,
        {"prompt": "a blue door", "resolution": "2K"},
    ),
    (
        "Generate an image of the text “OPEN” on a wooden sign",
        IMAGE,
        {"prompt": "the text “OPEN” on a wooden sign"},
    ),
    ('Make a square picture "a red mug".', IMAGE, {"prompt": "a red mug", "aspect_ratio": "1:1"}),
    ('Generate an image: "a fox in snow"', IMAGE, {"prompt": "a fox in snow"}),
    ('Draw a sign that says "open late"', IMAGE, {"prompt": 'a sign that says "open late"'}),
    ("Draw a cat and a dog", IMAGE, {"prompt": "a cat and a dog"}),
    ("请画一张一只红狐狸在雪地里的图片", IMAGE, {"prompt": "一只红狐狸在雪地里"}),
    ("用4K画一幅山水画，16:9", IMAGE, {"prompt": "山水画", "aspect_ratio": "16:9", "resolution": "4K"}),
    (
        "Please generate a 6 second video of waves crashing on rocks",
        VIDEO,
        {"prompt": "waves crashing on rocks", "duration_seconds": 6},
    ),
    (
        "make a video of a dog running for 8 seconds",
        VIDEO,
        {"prompt": "a dog running", "duration_seconds": 8},
    ),
    (
        "Film a 10-second clip of a train crossing a bridge, 16:9",
        VIDEO,
        {"prompt": "a train crossing a bridge", "duration_seconds": 10, "aspect_ratio": "16:9"},
    ),
    (
        "a half hour is too long: make a 2 minute movie about bees",
        VIDEO,
        {"prompt": "bees", "duration_seconds": 120},
    ),
    (
        "Film: a kite over the dunes, vertical, 12 seconds, no audio",
        VIDEO,
        {
            "prompt": "a kite over the dunes",
            "duration_seconds": 12,
            "aspect_ratio": "9:16",
            "with_audio": False,
        },
    ),
    (
        "make me a 10s landscape movie about bees with audio",
        VIDEO,
        {"prompt": "bees", "duration_seconds": 10, "aspect_ratio": "16:9", "with_audio": True},
    ),
    (
        "Can you turn this picture https://example.com/a.png into a 5s clip of leaves falling?",
        VIDEO,
        {"prompt": "leaves falling", "duration_seconds": 5, "image_url": "https://example.com/a.png"},
    ),
    ("生成一段6秒的视频：海浪拍打礁石", VIDEO, {"prompt": "海浪拍打礁石", "duration_seconds": 6}),
    ("What's the weather like in San Francisco, CA?", WEATHER, {"city": "San Francisco, CA"}),
    ("how warm is it in oslo right now?", WEATHER, {"city": "oslo"}),
    ("What is the forecast for Paris in fahrenheit?", WEATHER, {"city": "Paris", "unit": "fahrenheit"}),
    ("巴黎的天气怎么样？", WEATHER, {"city": "巴黎"}),
    ("帮我查一下北京明天的天气", WEATHER, {"city": "北京"}),
    ("What is 3 + 4", "add", {"a": 3, "b": 4}),
    ("twelve times nine, please", "multiply", {"a": 12, "b": 9}),
    ("Subtract 5 from 12", "subtract", {"a": 12, "b": 5}),
    ("Translate 'hello world' to French", "translate", {"text": "hello world", "target_language": "French"}),
    ("把「你好」翻译成英文", "translate", {"text": "你好", "target_language": "英文"}),
    ("Search the docs for how webhooks are signed", "search_docs", {"query": "how webhooks are signed"}),
    (
        "Find the top 3 results about retry limits in the documentation",
        "search_docs",
        {"query": "retry limits in the documentation", "top_k": 3},
    ),
    ("How long do links live? Look it up.", "search_docs", {"query": "How long do links live"}),
    (
        "Send an email to bob@example.com with subject 'Lunch' saying see you at noon",
        "send_email",
        {"to": "bob@example.com", "subject": "Lunch", "body": "see you at noon"},
    ),
    (
        "Schedule a meeting called 'Design review' on May 4, 2027 at 3 pm with Ada and Bob",
        "create_event",
        {"title": "Design review", "date": "2027-05-04", "time": "15:00", "attendees": ["Ada", "Bob"]},
    ),
    (
        "Book a flight from Paris to New York for 2 passengers tomorrow",
        "book_flight",
        {"origin": "Paris", "destination": "New York", "passengers": 2, "date": "tomorrow"},
    ),
    ("Set a timer for 2 hours", "set_timer", {"minutes": 120}),
    ("What's the status of task_8f3a2b?", "get_task", {"task_id": "task_8f3a2b"}),
    (
        "Convert 100 USD to EUR",
        "convert_currency",
        {"amount": 100, "from_currency": "USD", "to_currency": "EUR"},
    ),
    ("Read the file notes/todo.md", "read_file", {"path": "notes/todo.md"}),
    ("Draw a sunset after the rain", IMAGE, {"prompt": "a sunset after the rain"}),
    ("Draw a dog, then a cat", IMAGE, {"prompt": "a dog, then a cat"}),
    ("画一个人挥手再见", IMAGE, {"prompt": "人挥手再见"}),
    (
        "Draw a cat, a dog and a bird in one picture",
        IMAGE,
        {"prompt": "a cat, a dog and a bird in one picture"},
    ),
    ("Draw cats and dogs in one picture", IMAGE, {"prompt": "cats and dogs in one picture"}),
    (
        "an image of a hill, take inspiration from Monet",
        IMAGE,
        {"prompt": "a hill, take inspiration from Monet"},
    ),
    (
        "Translate good morning to German",
        "translate",
        {"text": "good morning", "target_language": "German"},
    ),
    ("What is 9-4?", "subtract", {"a": 9, "b": 4}),
    (
        "an image of a red fox, but don't use blue",
        IMAGE,
        {"prompt": "a red fox, but don't use blue"},
    ),
    ("Draw a horse that does not run", IMAGE, {"prompt": "a horse that does not run"}),
]


@pytest.mark.parametrize(("text", "name", "arguments"), ONE_CALL)
def test_one_request_becomes_one_call_with_the_values_it_names(
    text: str, name: str, arguments: dict[str, Any]
) -> None:
    assert calls(text) == [(name, arguments)]


SEVERAL: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = [
    ("What's the weather in Paris and in Rome?", [(WEATHER, {"city": "Paris"}), (WEATHER, {"city": "Rome"})]),
    (
        "weather in Paris, Rome and New York",
        [(WEATHER, {"city": city}) for city in ("Paris", "Rome", "New York")],
    ),
    ("巴黎和罗马的天气怎么样？", [(WEATHER, {"city": "巴黎"}), (WEATHER, {"city": "罗马"})]),
    (
        "Three images: a cat, a dog and a bird",
        [(IMAGE, {"prompt": one}) for one in ("a cat", "a dog", "a bird")],
    ),
    (
        "Create these images:\n- a cat in a hat\n- a dog",
        [(IMAGE, {"prompt": "a cat in a hat"}), (IMAGE, {"prompt": "a dog"})],
    ),
    (
        "an image of a cat and an image of a dog please",
        [(IMAGE, {"prompt": "a cat"}), (IMAGE, {"prompt": "a dog"})],
    ),
    (
        "Sketch a lighthouse in portrait and tell me how warm it is in Oslo",
        [(IMAGE, {"prompt": "a lighthouse", "aspect_ratio": "9:16"}), (WEATHER, {"city": "Oslo"})],
    ),
    (
        "Make a square picture of a teapot. Also set a timer for 3 minutes.",
        [(IMAGE, {"prompt": "a teapot", "aspect_ratio": "1:1"}), ("set_timer", {"minutes": 3})],
    ),
    (
        "weather in Isle of Man and Oslo",
        [(WEATHER, {"city": "Isle of Man"}), (WEATHER, {"city": "Oslo"})],
    ),
    ("weather in Paris & Rome", [(WEATHER, {"city": "Paris"}), (WEATHER, {"city": "Rome"})]),
    (
        "Draw a fox and check on the weather in Oslo",
        [(IMAGE, {"prompt": "a fox"}), (WEATHER, {"city": "Oslo"})],
    ),
]


@pytest.mark.parametrize(("text", "expected"), SEVERAL)
def test_independent_requests_become_parallel_calls(
    text: str, expected: list[tuple[str, dict[str, Any]]]
) -> None:
    assert calls(text) == expected


@pytest.mark.parametrize(("text", "expected"), SEVERAL)
def test_without_parallel_calls_they_come_one_after_another(
    text: str, expected: list[tuple[str, dict[str, Any]]]
) -> None:
    rounds, _ = carry_on(text, lambda call: "done", parallel_tool_calls=False)
    assert rounds == [[call] for call in expected]


@pytest.mark.parametrize(
    "text",
    [
        "Hello!",
        "What is the capital of France?",
        "Write a poem about rain",
        "Thanks, that's all!",
        "Tell me about images without calling tools",
        "An image of a fox, but do not use any tools",
        "Draw a fox. Don't call create_image!",
        "Tell me about images, but functions: do not use.",
        "画一只猫，但不要使用工具",
        "Write 3-5 bullet points",
        "What happened in 1914-1918?",
        "My number is 555-1234",
        "你好",
        "Who are you?",
        "Tell me a story about a dragon",
    ],
)
def test_words_that_speak_of_no_tool_get_words(text: str) -> None:
    answer = ask(text, tools=TOOLS)
    assert not answer.calls
    assert answer.text


def _media(call: ModelCall) -> str:
    return json.dumps(
        {"task_id": f"task_{call.name}", "status": "completed", "url": f"https://cdn.example/{call.name}"}
    )


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("make an image of a cat, then a video from it", "a cat", "a cat"),
        ("Create an image of a fox and then turn it into a video", "a fox", "a fox"),
        ("First create an image of a robot, then make a video of it dancing", "a robot", "a robot dancing"),
        ("Draw a kite. Animate it.", "a kite", "a kite"),
        ("画一只猫，然后用它生成一段视频", "一只猫", "一只猫"),
    ],
)
def test_a_step_that_needs_a_result_waits_for_it_and_uses_it(text: str, first: str, second: str) -> None:
    rounds, said = carry_on(text, _media)
    assert rounds == [
        [(IMAGE, {"prompt": first})],
        [(VIDEO, {"prompt": second, "image_url": "https://cdn.example/create_image"})],
    ]
    assert "https://cdn.example/create_video" in said


def test_a_number_from_a_result_goes_into_the_next_call() -> None:
    rounds, said = carry_on(
        "Multiply 3 by 4, add 5 to the result and then subtract 2 from that",
        lambda call: str({"multiply": 12, "add": 17, "subtract": 15}[call.name]),
    )
    assert [name for batch in rounds for name, _ in batch] == ["multiply", "add", "subtract"]
    assert rounds[1][0][1] == {"a": 5, "b": 12}
    assert rounds[2][0][1] == {"a": 17, "b": 2}
    assert "15" in said


def test_a_text_from_a_result_goes_into_the_next_call() -> None:
    rounds, _ = carry_on(
        "Translate 'good night' to German, then email it to ada@example.org with subject 'Night'",
        lambda call: "Gute Nacht",
    )
    assert rounds[1] == [("send_email", {"to": "ada@example.org", "subject": "Night", "body": "Gute Nacht"})]


def test_a_failed_step_ends_the_task_and_is_told() -> None:
    first = ask("make an image of a cat, then a video from it", tools=TOOLS)
    turns = (
        ModelMessage("user", "make an image of a cat, then a video from it"),
        ModelMessage("assistant", calls=first.calls),
        ModelMessage("tool", "quota exceeded", call_id=first.calls[0].id, is_error=True),
    )
    answer = MODEL.answer(ModelRequest("piccc-pro", turns, tools=TOOLS))
    assert not answer.calls
    assert "create_image failed: quota exceeded" in answer.text


def test_the_same_call_is_never_made_again_once_its_result_is_there() -> None:
    for text, *_ in ONE_CALL:
        rounds, said = carry_on(text, lambda call: "done")
        assert len(rounds) == 1
        assert said


def test_a_named_tool_is_called_whatever_the_words() -> None:
    assert [name for name, _ in calls("Hello!", tool_choice="named", named_tool="get_task")] == ["get_task"]


def test_a_required_choice_calls_the_best_tool_even_for_a_greeting() -> None:
    assert len(calls("Hello!", tool_choice="required")) == 1
    assert calls("the weather in Rome", tool_choice="required") == [(WEATHER, {"city": "Rome"})]


def test_none_calls_nothing() -> None:
    assert calls("the weather in Rome", tool_choice="none") == []


def test_a_required_choice_ends_with_the_tool_that_takes_the_results() -> None:
    report = tool("WeatherReport", "", "city degrees", city=TEXT, degrees=WHOLE)
    turns: list[ModelMessage] = [ModelMessage("user", "What's the weather in Paris?")]
    for _ in range(2):
        answer = MODEL.answer(
            ModelRequest("piccc-pro", tuple(turns), tools=(*TOOLS, report), tool_choice="required")
        )
        turns.append(ModelMessage("assistant", calls=answer.calls))
        turns.append(ModelMessage("tool", '{"city": "Paris", "degrees": 21}', call_id=answer.calls[0].id))
    assert [(call.name, call.arguments) for call in answer.calls] == [
        ("WeatherReport", {"city": "Paris", "degrees": 21})
    ]


def test_a_short_follow_up_uses_the_tool_of_the_turn_before() -> None:
    turns = (
        ModelMessage("user", "What is the weather in Paris?"),
        ModelMessage("assistant", calls=(ModelCall("c1", WEATHER, {"city": "Paris"}),)),
        ModelMessage("tool", "sunny", call_id="c1"),
        ModelMessage("assistant", "It is sunny."),
        ModelMessage("user", "And in Rome?"),
    )
    answer = MODEL.answer(ModelRequest("piccc-pro", turns, tools=TOOLS))
    assert [(call.name, call.arguments) for call in answer.calls] == [(WEATHER, {"city": "Rome"})]


def test_a_tool_without_arguments_gets_none() -> None:
    assert calls("Please ping the server", (tool("ping_server", "Ping the server."),)) == [
        ("ping_server", {})
    ]


def test_a_list_argument_takes_the_whole_list() -> None:
    label = tool("save_note", "Save a note.", "text", text=TEXT, tags=TEXTS)
    text = "Save a note saying 'call the bank' with tags urgent and finance"
    assert calls(text, (label,)) == [("save_note", {"text": "call the bank", "tags": ["urgent", "finance"]})]


def test_call_ids_are_unique_within_a_conversation() -> None:
    ids = []
    turns = [ModelMessage("user", "weather in Paris, Rome and Oslo")]
    for _ in range(3):
        answer = MODEL.answer(ModelRequest("piccc-pro", tuple(turns), tools=TOOLS, parallel_tool_calls=False))
        ids += [call.id for call in answer.calls]
        turns += [
            ModelMessage("assistant", calls=answer.calls),
            ModelMessage("tool", "sunny", call_id=answer.calls[0].id),
        ]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    "report",
    [
        "The image is finished: a red mug on a table.",
        "Your picture is ready.",
        "The video was refused: another prompt may help.",
    ],
)
def test_a_report_of_what_was_made_asks_for_nothing(report: str) -> None:
    assert calls(report) == []


def test_a_request_after_a_report_is_heard() -> None:
    assert [name for name, _ in calls("The picture is ready. Make a video of a waving fox.")] == [VIDEO]


def test_a_tool_that_is_not_to_be_used_leaves_the_others() -> None:
    assert [name for name, _ in calls("Don't use create_image: make a film of a picture of a fox")] == [VIDEO]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"properties": None, "required": None},
        {"properties": {"city": True}, "required": ["city"]},
        {"properties": {"city": None}, "required": ["city", 1]},
        {"properties": {"city": "string"}, "required": "city"},
        {"properties": ["city"], "required": {"city": True}},
    ],
)
def test_a_tool_with_a_sloppy_schema_is_chosen_all_the_same(parameters: dict[str, Any]) -> None:
    sloppy = Tool("get_weather", "Get the weather in a city.", parameters)
    assert [one.tool for one in requests([sloppy], "the weather in Paris, please")] == [sloppy]


def test_the_users_words_are_never_a_pattern() -> None:
    rounds, _ = carry_on(r"Make an image of C:\dir, then make a video of it dancing", _media)
    assert rounds[1][0][1]["prompt"] == r"C:\dir dancing"


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("Save a note, now!", ["", "high"], None),
        ("Save a note, now!", [" ", "high"], None),
        ("Save a note (now - or later)", ["_", "high"], None),
        ("Save a note with priority high", ["", "high"], "high"),
        ("Save a note with priority -", ["-", "high"], "-"),
    ],
)
def test_an_empty_choice_is_found_in_no_words(text: str, values: list[str], expected: str | None) -> None:
    save = tool("save_note", "Save a note.", priority=one_of(*values))
    assert calls(text, (save,))[0][1].get("priority") == expected
