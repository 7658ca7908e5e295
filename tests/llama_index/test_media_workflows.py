"""Agents and workflows with the media tools: progress, events, saved contexts; nothing is paid twice."""

from __future__ import annotations

import asyncio
import json
import sys
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.workflow import (
    Context,
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    JsonPickleSerializer,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from workflows.runtime.types import results as results_of_workflows

from llama_index_piccc import (
    Piccc,
    PicccMediaToolSpec,
    PicccTaskFinished,
    PicccTaskProgress,
    PicccTaskSubmitted,
    media,
    media_from,
)
from piccc.emulator import Emulator, Scripted
from piccc.media import agent_tools
from tests.llama_index.media import BOTH, ONE, agent, client, spec, tools
from tests.media.paid import made

PICKLING = JsonPickleSerializer()  # an agent's memory is no JSON

# core's agents are pydantic models whose workflow looks at all of its own attributes, old ones too.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211"),
]


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


KITES = [f"Kite {number}" for number in range(6)]  # more than an agent runs tools at a time


def told_of(emulator: Emulator) -> dict[str, str]:
    """Return what the model was told of each call: results by the call's prompt."""
    body = emulator.requests[-1].body
    calls = {
        call["id"]: json.loads(call["function"]["arguments"])["prompt"]
        for message in body["messages"]
        for call in message.get("tool_calls") or ()
    }
    answers = [each for each in body["messages"] if each["role"] == "tool"]
    assert len(answers) == len(calls)
    return {calls[each["tool_call_id"]]: each["content"] for each in answers}


@pytest.mark.parametrize("second", ["at once", "while the task is read", "afterwards"])
@pytest.mark.parametrize("kind", [FunctionAgent, AgentWorkflow])
async def test_an_event_that_comes_twice_gives_each_call_its_own_result_once(
    still: Emulator, kind: type[Any], second: str
) -> None:
    still.script([Scripted(calls=[("generate_image", {"prompt": each}) for each in KITES]), "All are done."])
    alone = agent(still, mode="event")
    handler = (alone if kind is FunctionAgent else AgentWorkflow(agents=[alone])).run(user_msg="Make them.")
    loop, prompts, answered = asyncio.get_running_loop(), {}, 0

    def send(task_id: str) -> None:
        handler.ctx.send_event(PicccTaskFinished(task_id=task_id))

    async def sent(task_id: str) -> None:
        send(task_id)
        for _ in range(20):
            await asyncio.sleep(0)

    def read(record: Any) -> bool:
        asyncio.run_coroutine_threadsafe(sent(record.path.rpartition("/")[2]), loop).result(30)
        return False

    if second == "while the task is read":
        still.fault("500", route="GET /v1/tasks/*", when=read)
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            prompts[event.task_id] = None
            if len(prompts) == len(KITES):
                await still.aadvance(60)
                for task_id in prompts:
                    send(task_id)
                    if second == "at once":
                        send(task_id)
        if isinstance(event, ToolCallResult):
            answered += 1
            if second == "afterwards":
                send(event.tool_output.raw_output["task_id"])
    assert str(await handler) == "All are done."
    assert answered == len(KITES)
    told = told_of(still)
    tasks = {task.prompt: task.id for task in client(still).tasks.list()}
    assert [prompt for prompt in KITES if tasks[prompt] not in told[prompt]] == []
    assert made(still) == ["image"] * len(KITES)


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


class Made(Event):
    """What a step made, and a human's word."""

    ids: list[str]
    word: str


class TwoSteps(Workflow):
    """A workflow that makes the same image twice in one step, asks a human, and counts its ends."""

    def __init__(self, own: PicccMediaToolSpec) -> None:
        super().__init__(timeout=60)
        self._own = own
        self.ended = 0

    @step(num_workers=1)
    async def make(self, ctx: Context, ev: StartEvent) -> Made:
        """Make two images and ask for a word."""
        outputs = [await self._own.agenerate_image("A kite", ctx=ctx) for _ in range(2)]
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
        self.ended += 1
        return Made(ids=[each.raw_output["task_id"] for each in outputs], word=answer.word)

    @step
    async def end(self, ctx: Context, ev: Made) -> StopEvent:
        """Wait for events that are sent twice."""
        for _ in range(20):
            await asyncio.sleep(0.001)
        return StopEvent(result=ev)


@pytest.mark.parametrize("times", [1, 2])
async def test_equal_calls_in_one_step_are_two_images_and_a_human_is_asked(
    still: Emulator, times: int
) -> None:
    workflow = TwoSteps(spec(still, mode="event"))
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            await still.aadvance(60)
            for _ in range(times):
                handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
        elif isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(word="good"))
    result = await handler
    assert len(set(result.ids)) == 2
    assert (result.word, workflow.ended) == ("good", 1)
    assert made(still) == ["image"] * 2


@pytest.mark.parametrize("fault", ["429", "503", "404"])
async def test_a_task_that_cannot_be_read_when_it_ended_keeps_its_id(still: Emulator, fault: str) -> None:
    handler = Gallery(spec(still, mode="event", client=client(still, max_retries=0))).run()
    still.fault(fault, route="GET /v1/tasks*", times=1)
    [submitted] = [each for each in await finished(handler, still) if isinstance(each, PicccTaskSubmitted)]
    output = await handler
    assert [task.id for task in media_from(output)] == [submitted.task_id]
    assert output["tool_error"]["may_retry"] is False
    assert made(still) == ["image"]


async def test_a_server_that_numbers_calls_anew_gets_another_order_for_each(still: Emulator) -> None:
    same = Scripted(calls=[("generate_image", {"prompt": "A kite"}, "call_0")])
    own = client(still)
    for _ in range(2):
        still.script([same, same, "Done."])
        await agent(still, mode="submit", client=own).run("Make it.")
    assert made(still) == ["image"] * 4


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


RESULTS, TAGS = "workflows.runtime.types.results", "llama_index_instrumentation.dispatcher"
STEP, WAITING, UNSET = "StepWorkerStateContextVar", "WaitingForEvent", ContextVar[Any]("unset")
OTHER_STEP = ContextVar[Any]("other", default="no step")
LOST: list[tuple[str, dict[str, Any]]] = [
    (RESULTS, {WAITING: results_of_workflows.WaitingForEvent}),
    (RESULTS, {WAITING: results_of_workflows.WaitingForEvent, STEP: UNSET}),
    (RESULTS, {WAITING: results_of_workflows.WaitingForEvent, STEP: OTHER_STEP}),
    (RESULTS, {STEP: results_of_workflows.StepWorkerStateContextVar}),
    (TAGS, {}),
    (TAGS, {"active_instrument_tags": UNSET}),
]


@pytest.mark.parametrize(
    ("module", "names", "mode"),
    [(*lost, "wait") for lost in LOST] + [(*lost, "event") for lost in LOST if lost[0] == RESULTS],
)
async def test_a_name_that_a_later_version_has_not_is_warned_of(
    emulator: Emulator, caplog: Any, monkeypatch: pytest.MonkeyPatch, module: str, names: Any, mode: Any
) -> None:
    monkeypatch.setattr(agent_tools, "_warned", set())
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**names))
    emulator.script([ONE, "Done."])
    events = await finished(agent(emulator, mode=mode).run("Make it."), emulator)
    assert caplog.text.count("This version of LlamaIndex's workflows does not expose") == 1
    assert [task.status for task in results(events)] == ["completed"] * (mode == "wait")
    assert made(emulator) == ["image"] * (mode == "wait")
