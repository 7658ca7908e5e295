"""Speech: plain replies do what they were asked, and nothing that only looks as if it was asked."""

from __future__ import annotations

import pytest

from piccc.emulator.conversation import ModelMessage, ModelRequest
from piccc.emulator.model.forms import topic_of
from tests.emulator.model.talk import MODEL, ask


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3+4=?", "3+4 = 7"),
        ("12 plus 30", "12 + 30 = 42"),
        ("What’s 10-3?", "10-3 = 7"),
        ("Hi! How much is 8/2?", "8/2 = 4"),
        ("Calculate: 2*21, please", "2*21 = 42"),
        ("What is the sum of 3 + 4?", "3 + 4 = 7"),
        ("What does 6*7 equal?", "6*7 = 42"),
        ("What is 15% of 80?", "15 / 100 * 80 = 12"),
        ("17*23等于多少", "17*23 = 391"),
        ("请问17*23是多少？", "17*23 = 391"),
    ],
)
def test_a_sum_that_is_asked_for_or_stands_alone_is_worked_out(text: str, expected: str) -> None:
    assert ask(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "Write 3-5 bullet points about cats",
        "What happened in 1914-1918?",
        "We are open 24/7",
        "My number is 555-1234",
        "Meet me on 3/4",
    ],
)
def test_a_range_a_date_and_a_number_to_call_are_no_sums(text: str) -> None:
    assert " = " not in ask(text).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Say: hello", "hello"),
        ("请说你好", "你好"),
        ("重复一遍：你好世界", "你好世界"),
        ("说：早上好", "早上好"),
        ("请回复“收到”", "收到"),
        ("只回复OK", "OK"),
        ("请回复 OK", "OK"),
    ],
)
def test_what_is_to_be_said_is_said(text: str, expected: str) -> None:
    assert ask(text).text == expected


@pytest.mark.parametrize(
    ("text", "echo"),
    [
        ("Printers are great, which should I buy?", "ers are great"),
        ("Outputs differ", "s differ"),
        ("说明一下什么是光合作用", "明一下"),
        ("请说明一下什么是光合作用", "明一下"),
        ("请说说你的看法", "说你的看法"),
        ("回答以下问题：天为什么是蓝的？", "问题："),
    ],
)
def test_a_word_that_only_begins_like_an_order_is_no_order(text: str, echo: str) -> None:
    assert not ask(text).text.startswith(echo)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hi, I'm Bob. What's my name?", "Your name is Bob."),
        ("I'm Bob, what's my name?", "Your name is Bob."),
        ("I live in Oslo. Where do I live?", "You live in Oslo."),
        ("My cat is called Miu. What is my cat?", "Your cat is Miu."),
        ("What's my name? I'm Bob.", "Your name is Bob."),
        ("我叫小明。我叫什么？", "你的名字是小明。"),
        ("What's my name?", "You have not told me your name yet."),
    ],
)
def test_what_the_same_message_tells_is_known(text: str, expected: str) -> None:
    assert ask(text).text == expected


def test_a_question_for_a_name_tells_none() -> None:
    turns = (
        ModelMessage("user", "我叫什么？"),
        ModelMessage("assistant", "你还没有告诉我。"),
        ModelMessage("user", "我叫什么？"),
    )
    assert MODEL.answer(ModelRequest("piccc-pro", turns)).text == "你还没有告诉我。"


@pytest.mark.parametrize(
    "text",
    ["Who are you?", "Which model are you?", "What kind of model is this?", "你是什么模型？", "你是谁"],
)
def test_the_model_introduces_itself(text: str) -> None:
    assert "piccc-pro" in ask(text).text


@pytest.mark.parametrize(
    "text",
    [
        "Which model of car should I buy?",
        "What are you waiting for?",
        "Who are you voting for?",
        "用什么模型飞机比较好",
    ],
)
def test_a_question_about_something_else_is_no_question_who_it_is(text: str) -> None:
    assert "piccc-pro" not in ask(text).text


@pytest.mark.parametrize("amount", ["1e999", "0", "-3", "1e300"])
def test_an_odd_number_of_tips_is_still_answered(amount: str) -> None:
    assert ask(f"Give me {amount} tips").text


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("Explain Node.js", "Node.js"),
        ("Explain GPT-4.5 in one sentence.", "GPT-4.5"),
        ("Describe in one sentence the plot of Hamlet.", "plot of Hamlet"),
        ("Explain rain in 50 words for kids", "rain for kids"),
        ("Tell me about the U.S. economy, please", "the U.S. economy"),
        ("Compare cats vs. dogs", "Compare cats vs. dogs"),
        ("Explain photosynthesis in 50 words or less", "photosynthesis"),
        ("Explain in three sentences: black holes", "black holes"),
        ("Tell me about tea. Keep it short.", "tea"),
        ("Write a slogan for a dog with 3 legs", "a dog with 3 legs"),
        ("说明一下什么是光合作用", "什么是光合作用"),
        ("给陶瓷杯写一句文案", "陶瓷杯"),
    ],
)
def test_a_topic_is_whole_and_without_its_manner(text: str, topic: str) -> None:
    assert topic_of(text) == topic


@pytest.mark.parametrize("text", ["I am German", "Draw the number 5."])
def test_a_topic_that_is_a_clause_stands_in_quotes(text: str) -> None:
    assert f"“{text.rstrip('.')}”" in ask(text).text


def test_a_poem_about_nothing_is_about_an_ordinary_day() -> None:
    assert "an ordinary day" in ask("Write a poem").text
