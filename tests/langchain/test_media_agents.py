"""Agents with the media tools: interrupts, background updates and retries; nothing is paid twice."""

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


def user_input(text: str = "Make both.") -> dict[str, Any]:
    """Return an agent's input: one user message."""
    return {"messages": [HumanMessage(text)]}


def test_an_agent_makes_an_image_and_then_a_video_of_it(own_emulator: Emulator, way: Way) -> None:
    def video(ask: Any) -> Scripted:
        address = ask.turns[-1].text.rpartition(": ")[2]
        return Scripted(calls=[("generate_video", {"prompt": f"{address} begins to move"})])

    own_emulator.script([ONE, video, "Both are done."])
    graph = agent(own_emulator)
    state = way.run(graph, "invoke", user_input(), THREAD)
    image, video = media_from(state["messages"])
    assert image.outputs[0].url in video.prompt
    assert media_from(graph.get_state(THREAD).values["messages"]) == [image, video]
    assert state["messages"][-1].text == "Both are done."
    assert made(own_emulator) == ["image", "video"]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_vision_model_is_shown_the_image(own_emulator: Emulator, way: Way, dialect: str) -> None:
    own_emulator.script([ONE, lambda ask: f"I see {sum(len(turn.media) for turn in ask.turns)} image."])
    state = way.run(agent(own_emulator, show="thumbnail", dialect=dialect), "invoke", user_input(), THREAD)
    assert state["messages"][-1].text == "I see 1 image."


def test_a_human_can_approve_before_anything_is_paid(own_emulator: Emulator, way: Way) -> None:
    own_emulator.script([ONE, "Done."])
    graph = agent(own_emulator, middleware=[HumanInTheLoopMiddleware({"generate_image": True})])
    stopped = way.run(graph, "invoke", user_input(), THREAD)
    assert interrupted_tasks(stopped["__interrupt__"]) == {}
    assert made(own_emulator) == []
    state = way.run(graph, "invoke", Command(resume={"decisions": [{"type": "approve"}]}), THREAD)
    assert state["messages"][-1].text == "Done."
    assert made(own_emulator) == ["image"]


def test_progress_is_sent_to_the_custom_stream(own_emulator: Emulator) -> None:
    own_emulator.script([ONE, "Done."])
    updates = list(agent(own_emulator).stream(user_input(), THREAD, stream_mode="custom"))
    assert updates[-1]["piccc_task"]["status"] == "completed"


async def test_progress_is_sent_to_the_async_custom_stream(own_emulator: Emulator) -> None:
    own_emulator.script([ONE, "Done."])
    stream = agent(own_emulator).astream(user_input(), THREAD, stream_mode="custom")
    assert [update async for update in stream][-1]["piccc_task"]["status"] == "completed"


def test_a_failed_task_does_not_end_the_agent(own_emulator: Emulator, way: Way) -> None:
    own_emulator.fault("moderated", route="POST /v1/images/tasks")
    own_emulator.script([ONE, "It was refused."])
    state = way.run(agent(own_emulator), "invoke", user_input(), THREAD)
    assert state["messages"][-2].status == "error"
    assert state["messages"][-1].text == "It was refused."


def test_an_interrupted_run_resumes_without_paying_again(paused: Emulator, way: Way) -> None:
    paused.script([BOTH, "Both are done."])
    graph = agent(paused, mode="interrupt")
    stopped = way.run(graph, "invoke", user_input(), THREAD)
    waiting = interrupted_tasks(stopped["__interrupt__"])
    assert len(waiting) == 2
    assert sorted(made(paused)) == ["image", "video"]
    paused.advance(60)
    if way.is_async:
        client = AsyncClient(**settings(paused))
        state = asyncio.run(aresume_when_done(graph, THREAD, client, timeout=30))
    else:
        state = resume_when_done(graph, THREAD, Client(**settings(paused)), timeout=30)
    assert {task.id for task in media_from(state["messages"])} == set(waiting)
    assert state["messages"][-1].text == "Both are done."
    assert sorted(made(paused)) == ["image", "video"]


def test_a_run_can_be_resumed_one_task_at_a_time(paused: Emulator, way: Way) -> None:
    paused.script([BOTH, "Both are done."])
    graph = agent(paused, mode="interrupt")
    waiting = interrupted_tasks(way.run(graph, "invoke", user_input(), THREAD)["__interrupt__"])
    paused.advance(60)
    for interrupt in waiting.values():
        state = way.run(graph, "invoke", Command(resume={interrupt: True}), THREAD)
    assert state["messages"][-1].text == "Both are done."
    assert sorted(made(paused)) == ["image", "video"]


def test_a_run_resumed_too_early_is_interrupted_again(paused: Emulator, way: Way) -> None:
    paused.script([ONE, "Done."])
    graph = agent(paused, mode="interrupt")
    first = interrupted_tasks(way.run(graph, "invoke", user_input(), THREAD)["__interrupt__"])
    for _ in range(2):
        [interrupt] = interrupted_tasks(graph.get_state(THREAD).interrupts).values()
        interrupted = way.run(graph, "invoke", Command(resume={interrupt: True}), THREAD)
        assert interrupted_tasks(interrupted["__interrupt__"]).keys() == first.keys()
    paused.advance(60)
    [interrupt] = interrupted_tasks(graph.get_state(THREAD).interrupts).values()
    state = way.run(graph, "invoke", Command(resume={interrupt: True}), THREAD)
    assert state["messages"][-1].text == "Done."
    assert made(paused) == ["image"]


def test_interrupted_tasks_ignores_other_interrupts() -> None:
    assert interrupted_tasks(
        [Interrupt("approve?", id="1"), Interrupt({"piccc_task": {"task_id": "t"}}, id="2")]
    ) == {"t": "2"}


def test_an_agent_is_notified_of_a_finished_task_before_its_next_reply(paused: Emulator, way: Way) -> None:
    both_clients = clients(paused)
    middleware = [PicccTasksMiddleware(both_clients["client"], async_client=both_clients["async_client"])]
    graph = agent(paused, mode="background", middleware=middleware, **both_clients)
    paused.script([ONE, "It is on its way.", "Here it is."])
    first_state = way.run(graph, "invoke", user_input(), THREAD)
    assert "You will be told when it is finished." in str(first_state["messages"][-2].content)
    paused.advance(60)
    state = way.run(graph, "invoke", user_input("Is it done?"), THREAD)
    *_, update, last = state["messages"]
    [task] = media_from(state["messages"])
    assert isinstance(update, HumanMessage)
    assert task.outputs[0].url in update.text
    assert task.status == "completed"
    assert last.text == "Here it is."
    assert made(paused) == ["image"]


def test_an_agent_is_notified_once(paused: Emulator, way: Way) -> None:
    both_clients = clients(paused)
    middleware = [PicccTasksMiddleware(both_clients["client"], async_client=both_clients["async_client"])]
    graph = agent(paused, mode="background", middleware=middleware, **both_clients)
    paused.script([ONE, "Soon.", "Here it is.", "I said so."])
    way.run(graph, "invoke", user_input(), THREAD)
    paused.advance(60)
    way.run(graph, "invoke", user_input("Is it done?"), THREAD)
    state = way.run(graph, "invoke", user_input("Really?"), THREAD)
    assert sum("Media task updates" in message.text for message in state["messages"]) == 1


def test_an_agent_waits_for_running_tasks_before_it_ends(own_emulator: Emulator, way: Way) -> None:
    # The first poll does not find the task, so it counts as running until the model has replied.
    own_emulator.fault("hidden:1", route="POST /v1/images/tasks")
    middleware = [PicccTasksMiddleware(Client(**settings(own_emulator)), wait_s=30)]
    graph = agent(own_emulator, mode="background", middleware=middleware)
    own_emulator.script([ONE, "It is on its way.", "Here it is."])
    state = way.run(graph, "invoke", user_input(), THREAD)
    replies = [message.text for message in state["messages"] if message.type == "ai"]
    assert replies == ["", "It is on its way.", "Here it is."]
    assert made(own_emulator) == ["image"]


def test_an_agent_without_a_script_ends_with_the_requested_image(own_emulator: Emulator, way: Way) -> None:
    own_emulator.fault("hidden:1", route="POST /v1/images/tasks")
    middleware = [PicccTasksMiddleware(Client(**settings(own_emulator)), wait_s=30)]
    graph = agent(own_emulator, mode="background", middleware=middleware)
    state = way.run(
        graph, "invoke", user_input("Paint a red mug on a table."), {**THREAD, "recursion_limit": 20}
    )
    assert state["messages"][-1].type == "ai"
    assert [task.status for task in media_from(state["messages"])] == ["completed"]
    assert made(own_emulator) == ["image"]


def test_an_agent_is_notified_of_a_failure(paused: Emulator, way: Way) -> None:
    paused.fault("moderated", route="POST /v1/images/tasks")
    both_clients = clients(paused)
    middleware = [PicccTasksMiddleware(both_clients["client"], async_client=both_clients["async_client"])]
    graph = agent(paused, mode="background", middleware=middleware, **both_clients)
    paused.script([ONE, "Soon.", "It was refused."])
    way.run(graph, "invoke", user_input(), THREAD)
    paused.advance(60)
    state = way.run(graph, "invoke", user_input("Is it done?"), THREAD)
    assert "Change the prompt" in state["messages"][-2].text
    assert [task.status for task in media_from(state["messages"])] == ["failed"]


def test_a_tool_call_repeated_by_middleware_is_paid_once(own_emulator: Emulator, way: Way) -> None:
    class Twice(AgentMiddleware):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            handler(request)
            return handler(request)

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            await handler(request)
            return await handler(request)

    own_emulator.script([BOTH, "Both are done."])
    state = way.run(agent(own_emulator, middleware=[Twice()]), "invoke", user_input(), THREAD)
    results = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [media_from(result)[0].type for result in results] == ["image", "video"]
    assert sorted(made(own_emulator)) == ["image", "video"]


def test_reused_call_ids_create_separate_tasks(own_emulator: Emulator) -> None:
    both_clients = clients(own_emulator)
    image = PicccImageTool(model="piccc-image", **both_clients)
    video = PicccVideoTool(model="piccc-video", **both_clients)
    call = {"type": "tool_call", "id": "call_0"}
    for prompt in ("A kite", "A tree"):
        image.invoke({**call, "name": image.name, "args": {"prompt": prompt}}, THREAD)
        video.invoke({**call, "name": video.name, "args": {"prompt": prompt}}, THREAD)
    assert made(own_emulator) == ["image", "video"] * 2
