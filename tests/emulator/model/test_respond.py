"""Text answers: from a context, from tool results, to the frameworks' prompts, and plain echoes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import PromptTemplate
from llama_index.core.agent.react.formatter import ReActChatFormatter
from llama_index.core.agent.react.output_parser import ReActOutputParser
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.output_parsers.selection import SelectionOutputParser
from llama_index.core.prompts import default_prompts as prompts
from llama_index.core.query_engine.citation_query_engine import CITATION_QA_TEMPLATE
from llama_index.core.question_gen.output_parser import SubQuestionOutputParser
from llama_index.core.question_gen.prompts import DEFAULT_SUB_QUESTION_PROMPT_TMPL, build_tools_text
from llama_index.core.selectors.prompts import (
    DEFAULT_MULTI_SELECT_PROMPT_TMPL,
    DEFAULT_SINGLE_SELECT_PROMPT_TMPL,
)
from llama_index.core.tools import FunctionTool, ToolMetadata

from piccc.emulator.conversation import Medium, ModelCall, ModelMessage, ModelRequest
from piccc.emulator.model.react import react_request
from tests.emulator.model.talk import MODEL, TOOLS, ask, converse

CONTEXT = """file_path: docs/tasks.md

# Tasks

Image tasks finish in a few seconds. Video tasks take one to three minutes, depending on their length.
Poll the task every 2 to 5 seconds. Output links expire after 24 hours.

## Webhooks

Webhooks are signed with HMAC-SHA256. A delivery is retried for a day.
- Answer with status 204.

| size | price |
|------|-------|
| 4K   | 8 credits |"""


def answer(*turns: ModelMessage, **more: Any) -> str:
    return MODEL.answer(ModelRequest("piccc-pro", turns, **more)).text


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (
            "How long do video tasks take?",
            "Video tasks take one to three minutes, depending on their length.",
        ),
        ("How are webhooks signed?", "Webhooks are signed with HMAC-SHA256."),
        ("When do output links expire?", "Output links expire after 24 hours."),
        ("What is the price of 4K?", "4K   | 8 credits"),
        ("Who won the cup?", "The context does not say."),
    ],
)
@pytest.mark.parametrize(
    "template",
    [
        prompts.DEFAULT_TEXT_QA_PROMPT_TMPL,
        prompts.DEFAULT_TREE_SUMMARIZE_TMPL,
        "Answer the question based only on the following context:\n{context_str}\n\nQuestion: {query_str}\n",
        "<context>\n{context_str}\n</context>\n\n{query_str}",
        "Question: {query_str}\nContext: {context_str}\nAnswer:",
    ],
)
def test_a_question_is_answered_with_a_sentence_from_the_context(
    template: str, question: str, expected: str
) -> None:
    assert answer(ModelMessage("user", template.format(context_str=CONTEXT, query_str=question))) == expected


def test_a_context_in_the_system_prompt_answers_the_users_question() -> None:
    system = (
        "Use the following pieces of retrieved context to answer the question.\n\nMars has two moons. "
        "Jupiter has 95 known moons.\n\nVenus has none."
    )
    assert (
        answer(ModelMessage("system", system), ModelMessage("user", "How many moons does Jupiter have?"))
        == "Jupiter has 95 known moons."
    )


RETRIEVED = (
    "Use the context documents to answer.\n\nMars has two moons. Jupiter has 95 known moons.\nVenus has none."
)


@pytest.mark.parametrize("text", ["How many moons has Mars?", "Explain the moons of Mars", "Mars有几颗卫星"])
def test_a_context_in_the_system_prompt_answers_any_phrasing(text: str) -> None:
    assert answer(ModelMessage("system", RETRIEVED), ModelMessage("user", text)) == "Mars has two moons."


def test_a_chinese_context_answers_a_chinese_question() -> None:
    context = "图片任务通常在几秒内完成。视频任务需要一到三分钟。链接在24小时后过期。"
    text = f"上下文：\n{context}\n\n问题：视频任务需要多久？\n回答："
    assert answer(ModelMessage("user", text)) == "视频任务需要一到三分钟。"


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ("Output links live for 24 hours.", "Output links live for 24 hours."),
        ("Bananas are yellow.", "Links live for a day."),
    ],
)
def test_refine_keeps_the_better_answer(context: str, expected: str) -> None:
    text = prompts.DEFAULT_REFINE_PROMPT_TMPL.format(
        query_str="How long do output links live?",
        existing_answer="Links live for a day.",
        context_msg=context,
    )
    assert answer(ModelMessage("user", text)) == expected


def test_a_cited_answer_names_its_source() -> None:
    sources = "Source 1:\nThe emulator starts on loopback.\n\nSource 2:\nVideo tasks take two minutes.\n"
    text = CITATION_QA_TEMPLATE.format(context_str=sources, query_str="How long do video tasks take?")
    assert answer(ModelMessage("user", text)) == "Video tasks take two minutes. [2]"


SLEEP = (
    "Cats sleep a lot. They sleep sixteen hours a day, mostly by daylight. Dogs sleep less, and bark more."
)


@pytest.mark.parametrize("lead", ["Summarize: ", "Give me an overview of this text:\n", "TL;DR: ", "概括："])
def test_a_summary_covers_the_text_and_not_the_instruction(lead: str) -> None:
    assert ask(f"{lead}{SLEEP}").text == SLEEP


def test_a_sentence_with_a_quotation_is_returned_unchanged() -> None:
    context = 'The note says: "Links live for a day." It was written by Ada. Bananas are yellow.'
    text = f"Context:\n{context}\n\nQuestion: Who is it written by, and what says the note of links?"
    assert answer(ModelMessage("user", text)).startswith('The note says: "Links live for a day."')


def test_a_question_with_double_spaces_is_not_taken_as_context() -> None:
    context = f"{CONTEXT}\n\nDr. No wrote the part on links, late at night, in a tower by the sea."
    text = f"{context}\n\nWhich part was written by Dr.  No?"
    assert (
        answer(ModelMessage("user", text))
        == "Dr. No wrote the part on links, late at night, in a tower by the sea."
    )


CHOICES = (
    "(1) Useful for questions about images and pictures\n\n(2) Useful for questions about films "
    "and their length\n\n(3) Prices"
)


def test_a_selector_prompt_is_answered_in_its_format() -> None:
    parser = SelectionOutputParser()
    single = DEFAULT_SINGLE_SELECT_PROMPT_TMPL.format(
        num_choices=3, context_list=CHOICES, query_str="How long can a film be?"
    )
    several = DEFAULT_MULTI_SELECT_PROMPT_TMPL.format(
        num_choices=3, max_outputs=2, context_list=CHOICES, query_str="What do films and images share?"
    )
    chosen = [
        parser.parse(answer(ModelMessage("user", parser.format(text)))).parsed_output
        for text in (single, several)
    ]
    assert [[selection.choice for selection in found] for found in chosen] == [[2], [1, 2]]
    numbered = prompts.DEFAULT_QUERY_PROMPT_TMPL.format(
        num_chunks=3, context_list=CHOICES, query_str="How long is a film?"
    )
    assert answer(ModelMessage("user", numbered)).startswith("ANSWER: 2\n")


def test_a_question_generator_prompt_selects_the_matching_tools() -> None:
    tools = [
        ToolMetadata(name="march", description="Sales in March"),
        ToolMetadata(name="april", description="Sales in April"),
        ToolMetadata(name="weather", description="Rain and wind"),
    ]
    text = PromptTemplate(DEFAULT_SUB_QUESTION_PROMPT_TMPL).format(
        tools_str=build_tools_text(tools), query_str="Compare the sales in March and April"
    )
    parsed = SubQuestionOutputParser().parse(answer(ModelMessage("user", text))).parsed_output
    assert [question.tool_name for question in parsed] == ["march", "april"]


def test_a_react_prompt_is_followed_step_by_step() -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def weather(city: str) -> str:
        """Tell the weather in a city."""
        return "sunny"

    tools = [FunctionTool.from_defaults(add), FunctionTool.from_defaults(weather)]
    question = ChatMessage(role="user", content="What is 3 plus 4, and then the weather in Paris?")
    turns = [
        ModelMessage("system" if message.role == "system" else "user", message.content or "")
        for message in ReActChatFormatter.from_defaults().format(tools, [question])
    ]
    steps: list[Any] = []
    for observation in ("7", "sunny", ""):
        reply = answer(*turns)
        steps.append(ReActOutputParser().parse(reply))
        turns += [ModelMessage("assistant", reply), ModelMessage("user", f"Observation: {observation}")]
    assert [(step.action, step.action_input) for step in steps[:2]] == [
        ("add", {"a": 3, "b": 4}),
        ("weather", {"city": "Paris"}),
    ]
    assert "7" in steps[2].response
    assert "sunny" in steps[2].response


def test_a_schema_written_in_the_prompt_is_followed() -> None:
    schema = {
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    text = (
        f"Anna is 25 years old.\n\nHere's a JSON schema to follow:\n{json.dumps(schema)}\n\nOutput "
        f"a valid JSON object."
    )
    assert json.loads(answer(ModelMessage("user", text))) == {"name": "Anna", "age": 25}


def _answer_to_result(text: str, *, is_error: bool = False) -> str:
    call = ModelCall("c1", "get_weather", {"city": "Paris"})
    turns = (
        ModelMessage("user", "the weather in Paris"),
        ModelMessage("assistant", calls=(call,)),
        ModelMessage("tool", text, call_id="c1", is_error=is_error),
    )
    return answer(*turns, tools=TOOLS)


def test_an_error_result_is_reported_as_a_failure() -> None:
    assert _answer_to_result("timeout", is_error=True) == "get_weather failed: timeout"
    assert _answer_to_result("Error: timeout").startswith("get_weather failed")
    assert "failed" in _answer_to_result('{"status": "failed", "message": "no such city"}')


def test_all_results_are_reported() -> None:
    _, text = converse(
        "weather in Paris. weather in Rome. weather in Oslo.",
        lambda call: f"fine in {call.arguments['city']}",
    )
    assert all(f"fine in {city}" in text for city in ("Paris", "Rome", "Oslo"))


def test_a_long_result_is_searched_for_the_answer() -> None:
    filler = "The museum opens late on weekdays and serves tea in the garden. " * 12
    turns = (
        ModelMessage("user", "Search the docs: how are webhooks signed?"),
        ModelMessage(
            "assistant", calls=(ModelCall("c1", "search_docs", {"query": "how are webhooks signed"}),)
        ),
        ModelMessage("tool", f"{filler}Webhooks are signed with HMAC-SHA256. {filler}", call_id="c1"),
    )
    assert "HMAC-SHA256" in answer(*turns, tools=TOOLS)
    assert "museum" not in answer(*turns, tools=TOOLS)


def test_reasoning_is_returned_only_on_request_and_names_the_tool() -> None:
    assert ask("the weather in Oslo", tools=TOOLS).reasoning == ""
    assert "get_weather" in ask("the weather in Oslo", tools=TOOLS, reasoning=True).reasoning


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "?", "a" * 50_000, "1" * 50_000, "(" * 20_000, "'a " * 10_000, '{"a":' * 500),
        "Question: cite [1]?\ncontext:" + "\n" * 200_000 + "[1] x",
        "Make a film" + "\n" * 3_000 + "of a cat",
    ],
    ids=range(10),
)
def test_odd_prompts_still_get_an_answer(text: str) -> None:
    assert ask(text).text
    ask(text, tools=TOOLS)
    json.loads(
        ask(text, schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}).text
    )


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("sunny", "get_weather (Paris): sunny"),
        ('{"sky": "clear", "degrees": 21, "wind": null}', "get_weather (Paris): sky: clear; degrees: 21"),
        ('["a", "b"]', "get_weather (Paris): a, b"),
        ("", "get_weather (Paris): done"),
        ("Error: timeout", "get_weather failed: Error: timeout"),
        ("Traceback (most recent call last)", "get_weather failed: Traceback (most recent call last)"),
        ("Error handling in Python uses try.", "get_weather (Paris): Error handling in Python uses try."),
    ],
)
def test_results_are_reported_as_text(result: str, expected: str) -> None:
    assert _answer_to_result(result) == expected


@pytest.mark.parametrize(
    "text",
    ["9" * 5000, "[" * 600 + "]" * 600, '{"a":' * 600 + "1" + "}" * 600, "[" * 100_000, "NaN", "[1e999]"],
    ids=lambda text: text[:9],
)
def test_odd_results_still_get_an_answer(text: str) -> None:
    assert _answer_to_result(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Write a launch caption for a ceramic mug.",
            "Meet the ceramic mug: made with care, ready for every day.",
        ),
        ("Now in five words.", "This answer has five words."),
        ("Hello", "You said: Hello (This is the emulator; it only echoes your words.)"),
    ],
)
def test_captions_lengths_and_plain_prompts_are_answered_by_rule(text: str, expected: str) -> None:
    assert ask(text).text == expected


@pytest.mark.parametrize("length", [1, 5, 120, 1000])
def test_a_requested_word_count_is_met(length: int) -> None:
    assert len(ask(f"Write about clay in {length} words.").text.split()) == length


def test_attached_media_are_listed_with_their_types() -> None:
    media = (
        Medium("image", "image/png", 1234, None, 640, 480),
        Medium("file", "application/pdf", 99, "plan.pdf"),
    )
    text = answer(ModelMessage("user", "What is this?", media=media))
    assert text == "I see: image (image/png), file (application/pdf)."


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


def test_a_react_prompt_with_a_scratchpad_is_followed() -> None:
    first = ask(REACT, stop=("\nObservation",)).text
    assert first.endswith("Action: weather\nAction Input: Oslo")
    final = ask(f"{REACT}{first}\nObservation: snow\nThought:").text
    assert final.endswith("Final Answer: weather (Oslo): snow")
    assert "I call weather" in ask(REACT, reasoning=True).reasoning


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("one of [weather, search]", ["weather", "search"]),
        ("one of (weather, oracle)", ["weather"]),
        ("one of weather or search", ["weather", "search"]),
        ("one of the tools listed above", []),
        ("one of them, as you see fit", []),
    ],
)
def test_react_tools_are_parsed_from_the_list_and_not_from_prose(listed: str, names: list[str]) -> None:
    prompt = REACT.replace("one of [weather, search]", listed)
    parsed = react_request(ModelRequest("m", (ModelMessage("user", prompt),)))
    assert [tool.name for tool in (parsed[0].tools if parsed else ())] == names


@pytest.mark.parametrize(
    "properties", ['{"a": {"type": "any"}}', '{"a": "string"}', '{"a": {"multipleOf": 0}}']
)
def test_an_invalid_schema_in_the_prompt_still_gets_an_answer(properties: str) -> None:
    assert ask(f'Answer in JSON, as {{"properties": {properties}, "required": ["a"]}}.').text


@settings(deadline=None)
@given(st.text())
def test_the_same_request_gets_the_same_answer(text: str) -> None:
    assert ask(text, tools=TOOLS, reasoning=True) == ask(text, tools=TOOLS, reasoning=True)
