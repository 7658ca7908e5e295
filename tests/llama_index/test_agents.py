"""Agents over both dialects: tools, thinking, images, hand-off and objects as answers, on the emulator."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.agent.workflow import (
    AgentStream,
    AgentWorkflow,
    FunctionAgent,
    ReActAgent,
    ToolCallResult,
)
from llama_index.core.base.llms.types import AudioBlock, ImageBlock, TextBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from PIL import Image
from pydantic import BaseModel, Field

from llama_index_piccc import Piccc
from piccc.emulator import Emulator, Scripted
from piccc.errors import InvalidArgumentError

# core's agents are pydantic models whose workflow looks at all of its own attributes, old ones too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211"),
]


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"It is sunny in {city}, 21 degrees."


def kiln_heat(kiln: str) -> int:
    """Tell how hot a kiln is, in degrees."""
    return 1200


class Report(BaseModel):
    """A report on the weather."""

    city: str = Field(description="the city")
    degrees: int = Field(description="the temperature in degrees")


async def run(agent: Any, question: str, **options: Any) -> tuple[Any, list[Any]]:
    """Return an agent's answer and the events on the way to it."""
    handler = agent.run(question, **options)
    events = [each async for each in handler.stream_events()]
    return await handler, events


def results(events: list[Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return what was called, with what, and what came of it."""
    found = [each for each in events if isinstance(each, ToolCallResult)]
    return [(each.tool_name, each.tool_kwargs, str(each.tool_output)) for each in found]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_calls_a_tool_and_answers_from_its_result(llm: Piccc, streaming: bool) -> None:
    agent = FunctionAgent(tools=[weather, kiln_heat], llm=llm, streaming=streaming)
    answer, events = await run(agent, "What is the weather in Paris?")
    assert results(events) == [("weather", {"city": "Paris"}, "It is sunny in Paris, 21 degrees.")]
    assert "sunny in Paris" in str(answer)
    if streaming:
        deltas = [each.delta for each in events if isinstance(each, AgentStream)]
        assert "".join(deltas) == str(answer)


async def test_an_agent_finishes_a_task_of_three_steps(llm: Piccc) -> None:
    def send_email(to: str, body: str) -> str:
        """Send an e-mail to an address."""
        return "sent"

    agent = FunctionAgent(tools=[weather, send_email], llm=llm)
    asked = "Tell me the weather in Oslo, then send an e-mail with the result to ada@example.com."
    answer, events = await run(agent, asked)
    first, second = results(events)
    assert first[:2] == ("weather", {"city": "Oslo"})
    assert (second[0], second[1]["to"], second[2]) == ("send_email", "ada@example.com", "sent")
    assert str(answer)


async def test_parallel_calls_all_run_and_their_results_pair_up(llm: Piccc, emulator: Emulator) -> None:
    calls = [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})]
    emulator.script([Scripted(calls=calls), "Sunny in both."])
    agent = FunctionAgent(tools=[weather], llm=llm)
    answer, events = await run(agent, "How is it in Paris and in Rome?")
    assert [each[1] for each in results(events)] == [{"city": "Paris"}, {"city": "Rome"}]
    assert str(answer) == "Sunny in both."


async def test_an_agents_tokens_are_counted_exactly(llm: Piccc, emulator: Emulator) -> None:
    counter = TokenCountingHandler()
    llm.callback_manager = CallbackManager([counter])
    await run(FunctionAgent(tools=[weather], llm=llm), "What is the weather in Paris?")
    charged = sum((each.prompt_tokens or 0) + (each.completion_tokens or 0) for each in emulator.requests)
    assert len(emulator.requests) > 1
    assert counter.total_llm_token_count == charged


async def test_thinking_is_streamed_and_goes_back_with_the_tools_result(
    make: Callable[..., Piccc], emulator: Emulator
) -> None:
    llm = make(dialect="anthropic", reasoning_effort="low")
    emulator.script([Scripted(reasoning="Ask the sky.", calls=[("weather", {"city": "Paris"})]), "Sunny."])
    _, events = await run(FunctionAgent(tools=[weather], llm=llm), "How is it in Paris?")
    thoughts = [each.thinking_delta or "" for each in events if isinstance(each, AgentStream)]
    assert "".join(thoughts) == "Ask the sky."
    replayed = emulator.requests[-1].body["messages"][1]["content"]
    assert [each["type"] for each in replayed] == ["thinking", "tool_use"]
    assert replayed[0]["signature"]


async def test_an_image_that_a_tool_made_reaches_the_model(llm: Piccc, emulator: Emulator) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "navy").save(buffer, "PNG")

    def draw() -> list[Any]:
        """Draw an image."""
        return [TextBlock(text="drawn"), ImageBlock(image=buffer.getvalue())]

    emulator.script([Scripted(calls=[("draw", {})]), "A blue square."])
    answer, _ = await run(FunctionAgent(tools=[draw], llm=llm), "Draw something.")
    assert str(answer) == "A blue square."
    assert base64.b64encode(buffer.getvalue()).decode() in json.dumps(emulator.requests[-1].body)


async def test_the_first_call_can_be_named(llm: Piccc, emulator: Emulator) -> None:
    agent = FunctionAgent(tools=[weather, kiln_heat], llm=llm, initial_tool_choice="kiln_heat")
    _, events = await run(agent, "Tell me of the kiln 'Blue Oven'.")
    assert results(events)[0][0] == "kiln_heat"
    choices = [json.dumps(each.body.get("tool_choice")) for each in emulator.requests]
    assert "kiln_heat" in choices[0]
    assert "kiln_heat" not in choices[-1]


async def test_a_tools_answer_may_be_the_agents(llm: Piccc) -> None:
    tool = FunctionTool.from_defaults(weather, return_direct=True)
    agent = FunctionAgent(tools=[tool], llm=llm)
    answer, _ = await run(agent, "What is the weather in Paris?")
    assert str(answer) == "It is sunny in Paris, 21 degrees."


async def test_a_failing_tool_is_told_to_the_model(llm: Piccc, emulator: Emulator) -> None:
    def broken(city: str) -> str:
        """Tell the weather in a city."""
        raise OSError(f"no sky over {city}")

    emulator.script([Scripted(calls=[("broken", {"city": "Paris"})]), "I cannot tell."])
    answer, _ = await run(FunctionAgent(tools=[broken], llm=llm), "How is it in Paris?")
    assert str(answer) == "I cannot tell."
    assert "no sky over Paris" in json.dumps(emulator.requests[-1].body)


async def test_an_agent_answers_with_an_object(llm: Piccc) -> None:
    agent = FunctionAgent(tools=[weather], llm=llm, output_cls=Report)
    answer, _ = await run(agent, "What is the weather in Paris?")
    assert answer.get_pydantic_model(Report) == Report(city="Paris", degrees=21)


# core's own agent asks its workflow in a way that is going out of use.
@pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning")
async def test_a_reasoning_agent_acts_through_text(llm: Piccc, emulator: Emulator) -> None:
    emulator.script(
        [
            'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Paris"}',
            "Thought: I can answer without using any more tools.\nAnswer: It is sunny.",
        ]
    )
    answer, events = await run(ReActAgent(tools=[weather], llm=llm), "How is it in Paris?")
    assert results(events) == [("weather", {"city": "Paris"}, "It is sunny in Paris, 21 degrees.")]
    assert str(answer) == "It is sunny."


async def test_a_workflow_hands_over_and_answers_with_an_object(llm: Piccc, emulator: Emulator) -> None:
    handover = ("handoff", {"to_agent": "forecaster", "reason": "a question about the weather"})
    emulator.script([Scripted(calls=[handover]), Scripted(calls=[("weather", {"city": "Paris"})])])
    host = FunctionAgent(
        name="host",
        description="greets",
        tools=[],
        llm=llm,
        can_handoff_to=["forecaster"],
        system_prompt="Greet.",
    )
    forecaster = FunctionAgent(name="forecaster", description="knows the weather", tools=[weather], llm=llm)
    workflow = AgentWorkflow(agents=[host, forecaster], root_agent="host", output_cls=Report)
    answer, events = await run(workflow, "What is the weather in Paris?")
    assert [each[0] for each in results(events)] == ["handoff", "weather"]
    assert answer.current_agent_name == "forecaster"
    assert answer.get_pydantic_model(Report) == Report(city="Paris", degrees=21)


async def test_a_workflow_chooses_tool_calls_without_a_flag(llm: Piccc) -> None:
    workflow = AgentWorkflow.from_tools_or_functions([weather], llm=llm)
    (agent,) = workflow.agents.values()
    assert isinstance(agent, FunctionAgent)


def test_an_agent_runs_again_in_another_event_loop(llm: Piccc) -> None:
    llm.max_retries = 0
    for _ in range(3):
        agent = FunctionAgent(tools=[weather], llm=llm)
        answer, _ = asyncio.run(run(agent, "What is the weather in Paris?"))
        assert "sunny in Paris" in str(answer)


def test_tools_are_called_without_an_event_loop_of_ones_own(llm: Piccc) -> None:
    answer = llm.predict_and_call([FunctionTool.from_defaults(weather)], "What is the weather in Paris?")
    assert answer.response == "It is sunny in Paris, 21 degrees."


async def test_an_agent_goes_on_with_what_was_said(llm: Piccc, emulator: Emulator) -> None:
    history = [
        ChatMessage(role="user", content="I am Ada."),
        ChatMessage(role="assistant", content="Hello Ada."),
    ]
    await run(FunctionAgent(tools=[weather], llm=llm), "Who am I?", chat_history=history)
    assert "I am Ada." in json.dumps(emulator.requests[-1].body)


async def test_sound_that_a_tool_returns_does_not_end_the_run(llm: Piccc, emulator: Emulator) -> None:
    def listen() -> list[Any]:
        """Record a sound."""
        return [TextBlock(text="recorded"), AudioBlock(audio=b"RIFF$\x00\x00\x00WAVEfmt sound", format="wav")]

    emulator.script([Scripted(calls=[("listen", {})]), "A hum."])
    answer, _ = await run(FunctionAgent(tools=[listen], llm=llm), "Listen.")
    assert str(answer) == "A hum."


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_on_a_structured_model_says_what_to_do_instead(llm: Piccc, streaming: bool) -> None:
    agent = FunctionAgent(tools=[weather], llm=llm.as_structured_llm(Report), streaming=streaming)
    with pytest.raises(InvalidArgumentError, match="output_cls"):
        await run(agent, "What is the weather in Paris?")
