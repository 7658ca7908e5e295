"""Agents in both dialects: tools, thinking, images, handoff and structured answers."""

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

# core's agents are pydantic models whose workflow reads all of its attributes, even deprecated ones.
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
    """Return an agent's answer and its events."""
    handler = agent.run(question, **options)
    events = [event async for event in handler.stream_events()]
    return await handler, events


def results(events: list[Any]) -> list[tuple[str, dict[str, Any], str]]:
    """Return the name, the arguments and the result of each tool call."""
    tool_results = [event for event in events if isinstance(event, ToolCallResult)]
    return [(event.tool_name, event.tool_kwargs, str(event.tool_output)) for event in tool_results]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_calls_a_tool_and_answers_from_its_result(llm: Piccc, streaming: bool) -> None:
    agent = FunctionAgent(tools=[weather, kiln_heat], llm=llm, streaming=streaming)
    answer, events = await run(agent, "What is the weather in Paris?")
    assert results(events) == [("weather", {"city": "Paris"}, "It is sunny in Paris, 21 degrees.")]
    assert "sunny in Paris" in str(answer)
    if streaming:
        deltas = [event.delta for event in events if isinstance(event, AgentStream)]
        assert "".join(deltas) == str(answer)


async def test_an_agent_completes_a_task_of_three_steps(llm: Piccc) -> None:
    def send_email(to: str, body: str) -> str:
        """Send an e-mail to an address."""
        return "sent"

    agent = FunctionAgent(tools=[weather, send_email], llm=llm)
    question = "Tell me the weather in Oslo, then send an e-mail with the result to ada@example.com."
    answer, events = await run(agent, question)
    first, second = results(events)
    assert first[:2] == ("weather", {"city": "Oslo"})
    assert (second[0], second[1]["to"], second[2]) == ("send_email", "ada@example.com", "sent")
    assert str(answer)


async def test_parallel_calls_all_run_with_their_own_arguments(llm: Piccc, emulator: Emulator) -> None:
    calls = [("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})]
    emulator.script([Scripted(calls=calls), "Sunny in both."])
    agent = FunctionAgent(tools=[weather], llm=llm)
    answer, events = await run(agent, "How is it in Paris and in Rome?")
    assert [result[1] for result in results(events)] == [{"city": "Paris"}, {"city": "Rome"}]
    assert str(answer) == "Sunny in both."


async def test_an_agents_tokens_are_counted_exactly(llm: Piccc, emulator: Emulator) -> None:
    counter = TokenCountingHandler()
    llm.callback_manager = CallbackManager([counter])
    await run(FunctionAgent(tools=[weather], llm=llm), "What is the weather in Paris?")
    charged = sum(
        (request.prompt_tokens or 0) + (request.completion_tokens or 0) for request in emulator.requests
    )
    assert len(emulator.requests) > 1
    assert counter.total_llm_token_count == charged


async def test_thinking_is_streamed_and_sent_back_with_the_tool_result(
    make: Callable[..., Piccc], emulator: Emulator
) -> None:
    llm = make(dialect="anthropic", reasoning_effort="low")
    emulator.script([Scripted(reasoning="Ask the sky.", calls=[("weather", {"city": "Paris"})]), "Sunny."])
    _, events = await run(FunctionAgent(tools=[weather], llm=llm), "How is it in Paris?")
    thinking_deltas = [event.thinking_delta or "" for event in events if isinstance(event, AgentStream)]
    assert "".join(thinking_deltas) == "Ask the sky."
    replayed = emulator.requests[-1].body["messages"][1]["content"]
    assert [block["type"] for block in replayed] == ["thinking", "tool_use"]
    assert replayed[0]["signature"]


async def test_an_image_returned_by_a_tool_reaches_the_model(llm: Piccc, emulator: Emulator) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "navy").save(buffer, "PNG")

    def draw() -> list[Any]:
        """Draw an image."""
        return [TextBlock(text="drawn"), ImageBlock(image=buffer.getvalue())]

    emulator.script([Scripted(calls=[("draw", {})]), "A blue square."])
    answer, _ = await run(FunctionAgent(tools=[draw], llm=llm), "Draw something.")
    assert str(answer) == "A blue square."
    assert base64.b64encode(buffer.getvalue()).decode() in json.dumps(emulator.requests[-1].body)


async def test_initial_tool_choice_applies_only_to_the_first_call(llm: Piccc, emulator: Emulator) -> None:
    agent = FunctionAgent(tools=[weather, kiln_heat], llm=llm, initial_tool_choice="kiln_heat")
    _, events = await run(agent, "Tell me of the kiln 'Blue Oven'.")
    assert results(events)[0][0] == "kiln_heat"
    choices = [json.dumps(request.body.get("tool_choice")) for request in emulator.requests]
    assert "kiln_heat" in choices[0]
    assert "kiln_heat" not in choices[-1]


async def test_return_direct_makes_the_tool_result_the_answer(llm: Piccc) -> None:
    tool = FunctionTool.from_defaults(weather, return_direct=True)
    agent = FunctionAgent(tools=[tool], llm=llm)
    answer, _ = await run(agent, "What is the weather in Paris?")
    assert str(answer) == "It is sunny in Paris, 21 degrees."


async def test_a_tool_error_reaches_the_model(llm: Piccc, emulator: Emulator) -> None:
    def broken(city: str) -> str:
        """Tell the weather in a city."""
        raise OSError(f"no sky over {city}")

    emulator.script([Scripted(calls=[("broken", {"city": "Paris"})]), "I cannot tell."])
    answer, _ = await run(FunctionAgent(tools=[broken], llm=llm), "How is it in Paris?")
    assert str(answer) == "I cannot tell."
    assert "no sky over Paris" in json.dumps(emulator.requests[-1].body)


async def test_an_agent_answers_with_a_pydantic_object(llm: Piccc) -> None:
    agent = FunctionAgent(tools=[weather], llm=llm, output_cls=Report)
    answer, _ = await run(agent, "What is the weather in Paris?")
    assert answer.get_pydantic_model(Report) == Report(city="Paris", degrees=21)


# core's own agent uses a deprecated method of its workflow.
@pytest.mark.filterwarnings("ignore:is_running called:DeprecationWarning")
async def test_a_react_agent_calls_tools_through_text(llm: Piccc, emulator: Emulator) -> None:
    emulator.script(
        [
            'Thought: I need a tool.\nAction: weather\nAction Input: {"city": "Paris"}',
            "Thought: I can answer without using any more tools.\nAnswer: It is sunny.",
        ]
    )
    answer, events = await run(ReActAgent(tools=[weather], llm=llm), "How is it in Paris?")
    assert results(events) == [("weather", {"city": "Paris"}, "It is sunny in Paris, 21 degrees.")]
    assert str(answer) == "It is sunny."


async def test_a_workflow_hands_off_and_answers_with_a_pydantic_object(
    llm: Piccc, emulator: Emulator
) -> None:
    handoff = ("handoff", {"to_agent": "forecaster", "reason": "a question about the weather"})
    emulator.script([Scripted(calls=[handoff]), Scripted(calls=[("weather", {"city": "Paris"})])])
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
    assert [result[0] for result in results(events)] == ["handoff", "weather"]
    assert answer.current_agent_name == "forecaster"
    assert answer.get_pydantic_model(Report) == Report(city="Paris", degrees=21)


async def test_a_workflow_uses_function_calling_by_default(llm: Piccc) -> None:
    workflow = AgentWorkflow.from_tools_or_functions([weather], llm=llm)
    (agent,) = workflow.agents.values()
    assert isinstance(agent, FunctionAgent)


def test_one_model_serves_agents_in_three_event_loops(llm: Piccc) -> None:
    llm.max_retries = 0
    for _ in range(3):
        agent = FunctionAgent(tools=[weather], llm=llm)
        answer, _ = asyncio.run(run(agent, "What is the weather in Paris?"))
        assert "sunny in Paris" in str(answer)


def test_predict_and_call_works_without_an_event_loop(llm: Piccc) -> None:
    answer = llm.predict_and_call([FunctionTool.from_defaults(weather)], "What is the weather in Paris?")
    assert answer.response == "It is sunny in Paris, 21 degrees."


async def test_an_agent_sends_the_chat_history(llm: Piccc, emulator: Emulator) -> None:
    history = [
        ChatMessage(role="user", content="I am Ada."),
        ChatMessage(role="assistant", content="Hello Ada."),
    ]
    await run(FunctionAgent(tools=[weather], llm=llm), "Who am I?", chat_history=history)
    assert "I am Ada." in json.dumps(emulator.requests[-1].body)


async def test_audio_returned_by_a_tool_does_not_end_the_run(llm: Piccc, emulator: Emulator) -> None:
    def listen() -> list[Any]:
        """Record a sound."""
        return [TextBlock(text="recorded"), AudioBlock(audio=b"RIFF$\x00\x00\x00WAVEfmt sound", format="wav")]

    emulator.script([Scripted(calls=[("listen", {})]), "A hum."])
    answer, _ = await run(FunctionAgent(tools=[listen], llm=llm), "Listen.")
    assert str(answer) == "A hum."


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_agent_on_a_structured_llm_is_rejected_with_advice(llm: Piccc, streaming: bool) -> None:
    agent = FunctionAgent(tools=[weather], llm=llm.as_structured_llm(Report), streaming=streaming)
    with pytest.raises(InvalidArgumentError, match="output_cls"):
        await run(agent, "What is the weather in Paris?")
