"""Agents and workflows with the media tools: progress, events, saved contexts; nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.workflow import Context, JsonPickleSerializer, StartEvent, StopEvent, Workflow, step

from llama_index_piccc import (
    Piccc,
    PicccMediaToolSpec,
    PicccTaskFinished,
    PicccTaskProgress,
    PicccTaskSubmitted,
    media,
    media_from,
)
from piccc.emulator import Emulator, ManualClock, Scripted
from tests.llama_index.media import BOTH, ONE, agent, client, spec, tools
from tests.media.paid import made

PICKLING = JsonPickleSerializer()  # an agent's memory is no JSON

# core's agents are pydantic models whose workflow looks at all of its own attributes, old ones too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211"),
]


@pytest.fixture
def still() -> Iterator[Emulator]:
    """Run an emulator whose tasks stand still until its clock is advanced, and whose model never waits."""
    with Emulator(clock=ManualClock(), speed=float("inf")) as running:
        yield running


async def finished(handler: Any, emulator: Emulator) -> list[Any]:
    """Run a workflow to its end, answering each task that it waits for; return its events."""
    events = []
    async for event in handler.stream_events():
        events.append(event)
        if isinstance(event, PicccTaskSubmitted):
            await emulator.aadvance(60)
            handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
    await handler
    return events


def results(events: list[Any]) -> list[Any]:
    """Return the tasks of the tools' results."""
    found = [event.tool_output for event in events if isinstance(event, ToolCallResult)]
    return [task for output in found for task in media_from(output)]


async def test_an_agent_makes_an_image_and_then_a_video_of_it(emulator: Emulator) -> None:
    def video(ask: Any) -> Scripted:
        address = ask.turns[-1].text.rpartition(": ")[2]
        return Scripted(calls=[("generate_video", {"prompt": f"{address} begins to move"})])

    emulator.script([ONE, video, "Both are done."])
    handler = agent(emulator).run("Make an image, then a video of it.")
    image, video = results(await finished(handler, emulator))
    assert image.outputs[0].url in video.prompt
    assert str(await handler) == "Both are done."
    assert made(emulator) == ["image", "video"]


async def test_progress_is_written_to_the_stream(emulator: Emulator) -> None:
    emulator.script([ONE, "Done."])
    events = await finished(agent(emulator).run("Make it."), emulator)
    news = [event for event in events if isinstance(event, PicccTaskProgress)]
    assert (news[-1].type, news[-1].status, news[-1].progress) == ("image", "completed", 100)


async def test_a_model_that_sees_is_shown_the_image(emulator: Emulator) -> None:
    emulator.script([ONE, lambda ask: f"I see {len(ask.turns[-1].media) + len(ask.turns[-2].media)} image."])
    handler = agent(emulator, show="thumbnail").run("Make it.")
    assert str(await handler) == "I see 1 image."


async def test_a_failure_ends_no_agent(emulator: Emulator) -> None:
    emulator.fault("moderated", route="POST /v1/images/tasks")
    emulator.script([ONE, "It was refused."])
    assert str(await agent(emulator).run("Make it.")) == "It was refused."


@pytest.mark.parametrize("kind", [FunctionAgent, AgentWorkflow])
async def test_an_agent_that_waits_for_events_pays_once_for_each(still: Emulator, kind: type[Any]) -> None:
    still.script([BOTH, "Both are done."])
    alone = agent(still, mode="event")
    handler = (alone if kind is FunctionAgent else AgentWorkflow(agents=[alone])).run(user_msg="Make both.")
    events = await finished(handler, still)
    assert {task.type: task.status for task in results(events)} == {
        "image": "completed",
        "video": "completed",
    }
    assert str(await handler) == "Both are done."
    assert sorted(made(still)) == ["image", "video"]


async def test_an_event_that_comes_too_early_only_makes_the_step_wait_again(still: Emulator) -> None:
    still.script([ONE, "Done."])
    handler = agent(still, mode="event").run("Make it.")
    asked = []
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            asked.append(event.task_id)
            if len(asked) == 3:
                await still.aadvance(60)
            handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
    assert str(await handler) == "Done."
    assert len(set(asked)) == 1
    assert made(still) == ["image"]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[str]:
    """Give the tasks that tools begin to wait for."""
    begun: asyncio.Queue[str] = asyncio.Queue()
    wait = media._wait_for_event

    async def noted(ctx: Any, call: Any, task_id: str, *rest: Any) -> None:
        begun.put_nowait(task_id)
        await wait(ctx, call, task_id, *rest)

    monkeypatch.setattr(media, "_wait_for_event", noted)
    return begun


@pytest.mark.parametrize("is_ledger_kept", [True, False])
async def test_a_wait_goes_on_from_a_saved_context_without_paying_again(
    still: Emulator, waits: asyncio.Queue[str], is_ledger_kept: bool
) -> None:
    still.script([BOTH, "Both are done."])
    own = client(still)
    handler = agent(still, mode="event", client=own).run("Make both.")
    waiting = set()
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            waiting.add(event.task_id)
            if len(waiting) == 2:
                break
    saved = json.dumps(handler.ctx.to_dict(PICKLING))
    await handler.cancel_run()

    await still.aadvance(60)
    again = agent(still, mode="event", client=own if is_ledger_kept else client(still))
    assert {await waits.get() for _ in waiting} == waiting
    resumed = again.run(ctx=Context.from_dict(again, json.loads(saved), PICKLING))
    assert {await waits.get() for _ in waiting} == waiting
    for task_id in waiting:
        await own.as_async().tasks.wait(task_id)
        resumed.ctx.send_event(PicccTaskFinished(task_id=task_id))
    events = [event async for event in resumed.stream_events()]
    assert sorted(task.type for task in results(events)) == ["image", "video"]
    assert str(await resumed) == "Both are done."
    assert sorted(made(still)) == ["image", "video"]


class Gallery(Workflow):
    """A workflow of one's own that calls a tool in a step."""

    def __init__(self, own: PicccMediaToolSpec) -> None:
        super().__init__(timeout=60)
        self._own = own

    @step
    async def make(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Make an image."""
        output = await self._own.agenerate_image("A kite", ctx=ctx)
        return StopEvent(result=output.raw_output)


async def test_a_step_of_ones_own_waits_for_events_and_pays_once(still: Emulator) -> None:
    handler = Gallery(spec(still, mode="event")).run()
    events = await finished(handler, still)
    assert sum(isinstance(event, PicccTaskSubmitted) for event in events) == 1
    assert media_from(await handler)[0].status == "completed"
    assert made(still) == ["image"]


async def test_a_step_of_ones_own_goes_on_from_a_saved_context_without_paying_again(still: Emulator) -> None:
    handler = Gallery(spec(still, mode="event")).run()
    submitted = await anext(each async for each in handler.stream_events() if hasattr(each, "task_id"))
    saved = json.dumps(handler.ctx.to_dict())
    await handler.cancel_run()

    again = Gallery(spec(still, mode="event"))
    resumed = again.run(ctx=Context.from_dict(again, json.loads(saved)))
    await still.aadvance(60)
    await client(still).as_async().tasks.wait(submitted.task_id)
    resumed.ctx.send_event(PicccTaskFinished(task_id=submitted.task_id))
    assert [task.id for task in media_from(await resumed)] == [submitted.task_id]
    assert made(still) == ["image"]


@pytest.mark.parametrize(("session", "times"), [("", 2), ("tuesday", 1)])
async def test_another_run_is_another_order_unless_the_session_is_the_same(
    emulator: Emulator, session: str, times: int
) -> None:
    own = client(emulator)
    for _ in range(2):
        await Gallery(spec(emulator, client=own, session=session)).run()
    assert made(emulator) == ["image"] * times


async def test_a_tool_that_is_called_by_a_model_without_an_agent_works(emulator: Emulator) -> None:
    llm = Piccc(base_url=emulator.base_url, api_key=emulator.api_key)
    emulator.script([ONE])
    answer = await llm.apredict_and_call(list(tools(emulator).values()), "Make it.")
    assert "The image is finished" in str(answer)
