"""Results of tools and odd figures: told as what they are, and never more than JSON can say."""

from __future__ import annotations

import json

import pytest

from piccc.emulator.conversation import Medium, ModelCall, ModelMessage, ModelRequest
from tests.emulator.model.talk import MODEL, TOOLS, ask, carry_on

CALL = ModelCall("c1", "get_weather", {"city": "Paris"})


def told(text: str, prompt: str = "the weather in Paris") -> str:
    turns = (
        ModelMessage("user", prompt),
        ModelMessage("assistant", calls=(CALL,)),
        ModelMessage("tool", text, call_id="c1"),
    )
    return MODEL.answer(ModelRequest("piccc-pro", turns, tools=TOOLS)).text


@pytest.mark.parametrize(
    "text",
    [
        "Error: timeout",
        "error 404: no such city",
        "Error executing tool get_weather",
        "Exception：超时",
        "Traceback (most recent call last)",
    ],
)
def test_a_failure_is_told_as_one(text: str) -> None:
    assert told(text).startswith("get_weather failed: ")


@pytest.mark.parametrize(
    "text", ["Error handling in Python uses try and except.", "Errors are rare.", "Exceptional: 30 degrees"]
)
def test_words_about_failures_are_none(text: str) -> None:
    assert "failed" not in told(text)


def test_a_result_of_no_known_call_is_told_too() -> None:
    def said(prompt: str) -> str:
        return MODEL.answer(
            ModelRequest("m", (ModelMessage("user", prompt), ModelMessage("tool", "", call_id="?")))
        ).text

    assert said("今天天气怎么样？") == "工具 已完成。"
    assert said("How is the weather?").startswith("The tool is done")


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, "[" * 600 + "]" * 600, '{"a":' * 600 + "1" + "}" * 600, "[" * 100_000, "NaN", "[1e999]"],
    ids=lambda text: text[:9],
)
def test_no_result_is_too_odd_to_be_told(text: str) -> None:
    assert told(text)
    calls = MODEL.answer(
        ModelRequest(
            "m",
            (
                ModelMessage("user", "the weather in Paris, then send it to ada@example.org by email"),
                ModelMessage("assistant", calls=(CALL,)),
                ModelMessage("tool", text, call_id="c1"),
            ),
            tools=TOOLS,
        )
    ).calls
    json.dumps([call.arguments for call in calls], allow_nan=False)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 600 + "1" + "}" * 600,
        f'{{"n": {"1" * 5000}}}',
        '{"n": NaN}',
        "1" + ",000" * 2000 + " weeks",
        "You have ſix days, ſeven nights",
        "Come on 4 ſep 2027",
    ],
    ids=lambda text: text[:9],
)
def test_no_figure_is_too_odd_for_an_answer(text: str) -> None:
    assert ask(text).text
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "date": {"type": "string"}, "timeout": {"type": "number"}},
        "required": ["n", "date", "timeout"],
    }
    json.dumps(json.loads(ask(text, schema=schema).text), allow_nan=False)
    calls = ask(f"Set a timer, and the weather in Rome: {text}", tools=TOOLS).calls
    json.dumps([call.arguments for call in calls], allow_nan=False)


@pytest.mark.parametrize(
    ("result", "link"),
    [
        ("The image is at https://x.test/a.png.", "https://x.test/a.png"),
        ("See (https://x.test/a.png), which is new", "https://x.test/a.png"),
        ("图片在 https://x.test/a.png。", "https://x.test/a.png"),
        ("https://x.test/a.png?size=2&name=b", "https://x.test/a.png?size=2&name=b"),
    ],
)
def test_a_link_of_a_result_goes_on_without_the_signs_around_it(result: str, link: str) -> None:
    rounds, _ = carry_on(
        "Create an image of a fox, then make a video of it dancing",
        lambda call: result if call.name == "create_image" else "done",
    )
    assert rounds[1][0][1]["image_url"] == link


def test_media_are_noticed_in_the_users_language() -> None:
    media = (Medium("image", "image/png", 1234, "猫.png", 640, 480), Medium("audio", "audio/wav"))
    said = MODEL.answer(ModelRequest("m", (ModelMessage("user", "这是什么？", media=media),))).text
    assert said == "我看到了2个附件：图片“猫.png”（image/png，640×480 像素，1,234 字节）；音频（audio/wav）。"


@pytest.mark.parametrize(
    ("number", "seen", "given"),
    [(1, "There is 1 attachment.", " 1 result,"), (2, "There are 2 attachments.", " 2 results,")],
)
def test_reasoning_counts_in_good_english(number: int, seen: str, given: str) -> None:
    user = ModelMessage("user", "What is this?", media=(Medium("image", "image/png"),) * number)
    calls = tuple(ModelCall(str(at), "look", {}) for at in range(number))
    results = [ModelMessage("tool", "a fox", call_id=call.id) for call in calls]
    asked = ModelRequest("m", (user, ModelMessage("assistant", calls=calls), *results), reasoning=True)
    assert seen in MODEL.answer(asked).reasoning
    assert given in MODEL.answer(asked).reasoning
