"""Agents with the media tools: interrupted, told of what was finished, run again; nothing is paid twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, HumanInTheLoopMiddleware
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, Interrupt

from langchain_piccc import (
    ChatPiccc,
    PicccImageTool,
    PicccMediaToolkit,
    PicccTasksMiddleware,
    PicccVideoTool,
    aresume_when_done,
    interrupted_tasks,
    media_from,
    resume_when_done,
)
from piccc import AsyncClient, Client
from piccc.emulator import Emulator, Scripted
from tests.langchain.media import Way, clients, settings
from tests.media.paid import made

THREAD = RunnableConfig(configurable={"thread_id": "t1"})
BOTH = Scripted(
    calls=[
        ("generate_image", {"prompt": "A kite"}),
        ("generate_video", {"prompt": "A kite rises", "resolution": "480p", "duration_seconds": 1}),
    ]
)
ONE = Scripted(calls=[("generate_image", {"prompt": "A kite"})])


def agent(emulator: Emulator, *, middleware: Any = (), dialect: Any = "openai", **options: Any) -> Any:
    """Return an agent with all media tools."""
    models = {"image_model": "piccc-image", "video_model": "piccc-video"}
    tools = PicccMediaToolkit(**{**clients(emulator), **models, **options}).get_tools()
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect)
    return create_agent(model, tools, middleware=middleware, checkpointer=InMemorySaver())


def asked(text: str = "Make both.") -> dict[str, Any]:
    """Return what an agent is asked."""
    return {"messages": [HumanMessage(text)]}


def test_an_agent_makes_an_image_and_then_a_video_of_it(own_emulator: Emulator, way: Way) -> None:
    def video(ask: Any) -> Scripted:
        address = ask.turns[-1].text.rpartition(": ")[2]
        return Scripted(calls=[("generate_video", {"prompt": f"{address} begins to move"})])

    own_emulator.script([ONE, video, "Both are done."])
    graph = agent(own_emulator)
    state = way.run(graph, "invoke", asked(), THREAD)
    image, video = media_from(state["messages"])
    assert image.outputs[0].url in video.prompt
    assert media_from(graph.get_state(THREAD).values["messages"]) == [image, video]
    assert state["messages"][-1].text == "Both are done."
    assert made(own_emulator) == ["image", "video"]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_model_that_sees_is_shown_the_image(own_emulator: Emulator, way: Way, dialect: str) -> None:
    own_emulator.script([ONE, lambda ask: f"I see {sum(len(turn.media) for turn in ask.turns)} image."])
    state = way.run(agent(own_emulator, show="thumbnail", dialect=dialect), "invoke", asked(), THREAD)
    assert state["messages"][-1].text == "I see 1 image."


def test_a_human_may_agree_before_anything_is_paid(own_emulator: Emulator, way: Way) -> None:
    own_emulator.script([ONE, "Done."])
    graph = agent(own_emulator, middleware=[HumanInTheLoopMiddleware({"generate_image": True})])
    stopped = way.run(graph, "invoke", asked(), THREAD)
    assert interrupted_tasks(stopped["__interrupt__"]) == {}
    assert made(own_emulator) == []
    state = way.run(graph, "invoke", Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
    assert state["messages"][-1].text == "Done."
    assert made(own_emulator) == ["image"]


def test_progress_goes_into_the_graphs_custom_stream(own_emulator: Emulator) -> None:
    own_emulator.script([ONE, "Done."])
    news = list(agent(own_emulator).stream(asked(), THREAD, stream_mode="custom"))
    assert news[-1]["piccc_task"]["status"] == "completed"


async def test_progress_goes_into_the_graphs_custom_stream_of_coroutines(own_emulator: Emulator) -> None:
    own_emulator.script([ONE, "Done."])
    stream = agent(own_emulator).astream(asked(), THREAD, stream_mode="custom")
    assert [each async for each in stream][-1]["piccc_task"]["status"] == "completed"


def test_a_failure_ends_no_agent(own_emulator: Emulator, way: Way) -> None:
    own_emulator.fault("moderated", route="POST /v1/images/tasks")
    own_emulator.script([ONE, "It was refused."])
    state = way.run(agent(own_emulator), "invoke", asked(), THREAD)
    assert state["messages"][-2].status == "error"
    assert state["messages"][-1].text == "It was refused."


def test_an_interrupted_run_stops_for_its_tasks_and_is_resumed_without_paying_again(
    still: Emulator, way: Way
) -> None:
    still.script([BOTH, "Both are done."])
    graph = agent(still, mode="interrupt")
    stopped = way.run(graph, "invoke", asked(), THREAD)
    waiting = interrupted_tasks(stopped["__interrupt__"])
    assert len(waiting) == 2
    assert sorted(made(still)) == ["image", "video"]
    still.advance(60)
    if way.is_async:
        client = AsyncClient(**settings(still))
        state = asyncio.run(aresume_when_done(graph, THREAD, client, timeout=30))
    else:
        state = resume_when_done(graph, THREAD, Client(**settings(still)), timeout=30)
    assert {task.id for task in media_from(state["messages"])} == set(waiting)
    assert state["messages"][-1].text == "Both are done."
    assert sorted(made(still)) == ["image", "video"]


def test_webhooks_may_resume_a_run_one_by_one(still: Emulator, way: Way) -> None:
    still.script([BOTH, "Both are done."])
    graph = agent(still, mode="interrupt")
    waiting = interrupted_tasks(way.run(graph, "invoke", asked(), THREAD)["__interrupt__"])
    still.advance(60)
    for interrupt in waiting.values():
        state = way.run(graph, "invoke", Command(resume={interrupt: True}), THREAD)
    assert state["messages"][-1].text == "Both are done."
    assert sorted(made(still)) == ["image", "video"]


def test_a_run_that_is_resumed_too_early_stops_again(still: Emulator, way: Way) -> None:
    still.script([ONE, "Done."])
    graph = agent(still, mode="interrupt")
    first = interrupted_tasks(way.run(graph, "invoke", asked(), THREAD)["__interrupt__"])
    for _ in range(2):
        [interrupt] = interrupted_tasks(graph.get_state(THREAD).interrupts).values()
        again = way.run(graph, "invoke", Command(resume={interrupt: True}), THREAD)
        assert interrupted_tasks(again["__interrupt__"]).keys() == first.keys()
    still.advance(60)
    [interrupt] = interrupted_tasks(graph.get_state(THREAD).interrupts).values()
    state = way.run(graph, "invoke", Command(resume={interrupt: True}), THREAD)
    assert state["messages"][-1].text == "Done."
    assert made(still) == ["image"]


def test_other_interrupts_are_not_ours() -> None:
    assert interrupted_tasks(
        [Interrupt("approve?", id="1"), Interrupt({"piccc_task": {"task_id": "t"}}, id="2")]
    ) == {"t": "2"}


def test_an_agent_is_told_of_what_was_finished_before_its_next_word(still: Emulator, way: Way) -> None:
    both = clients(still)
    middleware = [PicccTasksMiddleware(both["client"], async_client=both["async_client"])]
    graph = agent(still, mode="background", middleware=middleware, **both)
    still.script([ONE, "It is on its way.", "Here it is."])
    begun = way.run(graph, "invoke", asked(), THREAD)
    assert "You will be told when it is finished." in str(begun["messages"][-2].content)
    still.advance(60)
    state = way.run(graph, "invoke", asked("Is it done?"), THREAD)
    *_, news, last = state["messages"]
    [task] = media_from(state["messages"])
    assert isinstance(news, HumanMessage)
    assert task.outputs[0].url in news.text
    assert task.status == "completed"
    assert last.text == "Here it is."
    assert made(still) == ["image"]


def test_an_agent_is_told_once(still: Emulator, way: Way) -> None:
    both = clients(still)
    middleware = [PicccTasksMiddleware(both["client"], async_client=both["async_client"])]
    graph = agent(still, mode="background", middleware=middleware, **both)
    still.script([ONE, "Soon.", "Here it is.", "I said so."])
    way.run(graph, "invoke", asked(), THREAD)
    still.advance(60)
    way.run(graph, "invoke", asked("Is it done?"), THREAD)
    state = way.run(graph, "invoke", asked("Really?"), THREAD)
    assert sum("Media task updates" in message.text for message in state["messages"]) == 1


def test_an_agent_that_is_about_to_end_waits_for_what_is_running(own_emulator: Emulator, way: Way) -> None:
    # The first look at the task finds nothing, so it counts as running until the model has spoken.
    own_emulator.fault("hidden:1", route="POST /v1/images/tasks")
    middleware = [PicccTasksMiddleware(Client(**settings(own_emulator)), wait_s=30)]
    graph = agent(own_emulator, mode="background", middleware=middleware)
    own_emulator.script([ONE, "It is on its way.", "Here it is."])
    state = way.run(graph, "invoke", asked(), THREAD)
    said = [message.text for message in state["messages"] if message.type == "ai"]
    assert said == ["", "It is on its way.", "Here it is."]
    assert made(own_emulator) == ["image"]


def test_an_agent_without_a_script_ends_with_what_was_asked_for(own_emulator: Emulator, way: Way) -> None:
    own_emulator.fault("hidden:1", route="POST /v1/images/tasks")
    middleware = [PicccTasksMiddleware(Client(**settings(own_emulator)), wait_s=30)]
    graph = agent(own_emulator, mode="background", middleware=middleware)
    state = way.run(graph, "invoke", asked("Paint a red mug on a table."), {**THREAD, "recursion_limit": 20})
    assert state["messages"][-1].type == "ai"
    assert [task.status for task in media_from(state["messages"])] == ["completed"]
    assert made(own_emulator) == ["image"]


def test_an_agent_is_told_of_a_failure_too(still: Emulator, way: Way) -> None:
    still.fault("moderated", route="POST /v1/images/tasks")
    both = clients(still)
    middleware = [PicccTasksMiddleware(both["client"], async_client=both["async_client"])]
    graph = agent(still, mode="background", middleware=middleware, **both)
    still.script([ONE, "Soon.", "It was refused."])
    way.run(graph, "invoke", asked(), THREAD)
    still.advance(60)
    state = way.run(graph, "invoke", asked("Is it done?"), THREAD)
    assert "Change the prompt" in state["messages"][-2].text
    assert [task.status for task in media_from(state["messages"])] == ["failed"]


def test_a_tool_that_a_middleware_runs_again_is_paid_once(own_emulator: Emulator, way: Way) -> None:
    class Twice(AgentMiddleware):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            handler(request)
            return handler(request)

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            await handler(request)
            return await handler(request)

    own_emulator.script([BOTH, "Both are done."])
    state = way.run(agent(own_emulator, middleware=[Twice()]), "invoke", asked(), THREAD)
    results = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [media_from(each)[0].type for each in results] == ["image", "video"]
    assert sorted(made(own_emulator)) == ["image", "video"]


def test_servers_that_number_calls_anew_do_not_mix_up_what_is_made(own_emulator: Emulator) -> None:
    both = clients(own_emulator)
    image = PicccImageTool(model="piccc-image", **both)
    video = PicccVideoTool(model="piccc-video", **both)
    call = {"type": "tool_call", "id": "call_0"}
    for prompt in ("A kite", "A tree"):
        image.invoke({**call, "name": image.name, "args": {"prompt": prompt}}, THREAD)
        video.invoke({**call, "name": video.name, "args": {"prompt": prompt}}, THREAD)
    assert made(own_emulator) == ["image", "video"] * 2
