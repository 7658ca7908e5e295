"""Sub-questions name only existing tools, and the prompt can be replaced."""

from __future__ import annotations

import json
from collections.abc import Callable

from llama_index.core import Settings
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import ToolMetadata

from llama_index_piccc import Piccc, PicccQuestionGenerator
from piccc.emulator import Emulator
from tests.llama_index.conftest import Async, Sync

TOOLS = [
    ToolMetadata(name="errors", description="errors and retries"),
    ToolMetadata(name="media", description="images and videos"),
]
QUERY = QueryBundle("Which errors are retried, and how long does a video take?")
QUESTIONS = {
    "items": [
        {"sub_question": "Which errors are retried?", "tool_name": "errors"},
        {"sub_question": "How long does a video take?", "tool_name": "media"},
    ]
}


def test_a_query_is_split_among_the_tools(way: Sync | Async, llm: Piccc, emulator: Emulator) -> None:
    emulator.script([json.dumps(QUESTIONS)])
    questions = way.call(PicccQuestionGenerator.from_defaults(llm), "generate", TOOLS, QUERY)
    assert [question.model_dump() for question in questions] == QUESTIONS["items"]


def test_an_unknown_tool_name_is_sent_back_to_the_model(
    way: Sync | Async, llm: Piccc, emulator: Emulator
) -> None:
    wrong = {"items": [{"sub_question": "What is it?", "tool_name": "oracle"}]}
    emulator.script([json.dumps(wrong), json.dumps(QUESTIONS)])
    questions = way.call(PicccQuestionGenerator.from_defaults(llm), "generate", TOOLS, QUERY)
    assert [question.tool_name for question in questions] == ["errors", "media"]
    assert "'errors' or 'media'" in json.dumps(emulator.requests[-1].body)


def test_the_emulators_model_names_only_existing_tools(way: Sync | Async, llm: Piccc) -> None:
    questions = way.call(PicccQuestionGenerator.from_defaults(llm), "generate", TOOLS, QUERY)
    assert questions
    assert {question.tool_name for question in questions} <= {"errors", "media"}


def test_the_prompt_can_be_replaced(make: Callable[..., Piccc], emulator: Emulator) -> None:
    Settings.llm = make()
    generator = PicccQuestionGenerator.from_defaults(prompt_template_str="Of {tools_str} ask: {query_str}")
    assert generator.get_prompts().keys() == {"question_gen_prompt"}
    generator.update_prompts({"question_gen_prompt": PromptTemplate("Ask {tools_str}: {query_str}")})
    emulator.script([json.dumps(QUESTIONS)])
    generator.generate(TOOLS, QUERY)
    assert (
        emulator.requests[-1].body["messages"][0]["content"].startswith("Ask - errors: errors and retries\n")
    )
