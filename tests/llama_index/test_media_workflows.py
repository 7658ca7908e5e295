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

PICKLING = JsonPickleSerializer()  # an agent's memory is not JSON

# core's agents are pydantic models whose workflow reads all of its attributes, even deprecated ones.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211"),
]


async def run_to_end(handler: Any, emulator: Emulator) -> list[Any]:
    """Run a workflow to its end, finishing each task that it waits for; return its events."""
    events = []
    async for event in handler.stream_events():
        events.append(event)
        if isinstance(event, PicccTaskSubmitted):
            await emulator.aadvance(60)
            handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
    await handler
    return events


def results(events: list[Any]) -> list[Any]:
    """Return the tasks in the tool results."""
    outputs = [event.tool_output for event in events if isinstance(event, ToolCallResult)]
    return [task for output in outputs for task in media_from(output)]


async def test_an_agent_makes_an_image_and_then_a_video_of_it(emulator: Emulator) -> None:
    def video(ask: Any) -> Scripted:
        address = ask.turns[-1].text.rpartition(": ")[2]
        return Scripted(calls=[("generate_video", {"prompt": f"{address} begins to move"})])

    emulator.script([ONE, video, "Both are done."])
    handler = agent(emulator).run("Make an image, then a video of it.")
    image, video = results(await run_to_end(handler, emulator))
    assert image.outputs[0].url in video.prompt
    assert str(await handler) == "Both are done."
    assert made(emulator) == ["image", "video"]


async def test_the_same_question_in_another_run_pays_again(emulator: Emulator) -> None:
    for _ in range(2):
        await agent(emulator).run('Make an image "a red mug".')
    assert made(emulator) == ["image", "image"]


async def test_progress_is_written_to_the_stream(emulator: Emulator) -> None:
    emulator.script([ONE, "Done."])
    events = await run_to_end(agent(emulator).run("Make it."), emulator)
    updates = [event for event in events if isinstance(event, PicccTaskProgress)]
    assert (updates[-1].type, updates[-1].status, updates[-1].progress) == ("image", "completed", 100)


async def test_a_vision_model_is_shown_the_image(emulator: Emulator) -> None:
    emulator.script([ONE, lambda ask: f"I see {len(ask.turns[-1].media) + len(ask.turns[-2].media)} image."])
    handler = agent(emulator, show="thumbnail").run("Make it.")
    assert str(await handler) == "I see 1 image."


async def test_a_failed_task_does_not_end_the_agent(emulator: Emulator) -> None:
    emulator.fault("moderated", route="POST /v1/images/tasks")
    emulator.script([ONE, "It was refused."])
    assert str(await agent(emulator).run("Make it.")) == "It was refused."


@pytest.mark.parametrize("kind", [FunctionAgent, AgentWorkflow])
async def test_an_agent_in_event_mode_pays_for_each_task_once(paused: Emulator, kind: type[Any]) -> None:
    paused.script([BOTH, "Both are done."])
    single_agent = agent(paused, mode="event")
    handler = (single_agent if kind is FunctionAgent else AgentWorkflow(agents=[single_agent])).run(
        user_msg="Make both."
    )
    events = await run_to_end(handler, paused)
    assert {task.type: task.status for task in results(events)} == {
        "image": "completed",
        "video": "completed",
    }
    assert str(await handler) == "Both are done."
    assert sorted(made(paused)) == ["image", "video"]


async def test_an_early_event_makes_the_step_wait_again(paused: Emulator) -> None:
    paused.script([ONE, "Done."])
    handler = agent(paused, mode="event").run("Make it.")
    asked = []
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            asked.append(event.task_id)
            if len(asked) == 3:
                await paused.aadvance(60)
            handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
    assert str(await handler) == "Done."
    assert len(set(asked)) == 1
    assert made(paused) == ["image"]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[str]:
    """Return a queue with the ids of the tasks that tools start to wait for."""
    started: asyncio.Queue[str] = asyncio.Queue()
    wait = media._wait_for_event

    async def recording_wait(ctx: Any, call: Any, task_id: str, *rest: Any) -> None:
        started.put_nowait(task_id)
        await wait(ctx, call, task_id, *rest)

    monkeypatch.setattr(media, "_wait_for_event", recording_wait)
    return started


@pytest.mark.parametrize("is_ledger_kept", [True, False])
async def test_a_wait_resumes_from_a_saved_context_without_paying_again(
    paused: Emulator, waits: asyncio.Queue[str], is_ledger_kept: bool
) -> None:
    paused.script([BOTH, "Both are done."])
    media_client = client(paused)
    handler = agent(paused, mode="event", client=media_client).run("Make both.")
    waiting = set()
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            waiting.add(event.task_id)
            if len(waiting) == 2:
                break
    saved = json.dumps(handler.ctx.to_dict(PICKLING))
    await handler.cancel_run()

    await paused.aadvance(60)
    restarted = agent(paused, mode="event", client=media_client if is_ledger_kept else client(paused))
    assert {await waits.get() for _ in waiting} == waiting
    resumed = restarted.run(ctx=Context.from_dict(restarted, json.loads(saved), PICKLING))
    assert {await waits.get() for _ in waiting} == waiting
    for task_id in waiting:
        await media_client.as_async().tasks.wait(task_id)
        resumed.ctx.send_event(PicccTaskFinished(task_id=task_id))
    events = [event async for event in resumed.stream_events()]
    assert sorted(task.type for task in results(events)) == ["image", "video"]
    assert str(await resumed) == "Both are done."
    assert sorted(made(paused)) == ["image", "video"]


KITES = [f"Kite {number}" for number in range(6)]  # more than an agent runs in parallel


def results_by_prompt(emulator: Emulator) -> dict[str, str]:
    """Return the results that the model received, by the prompt of their call."""
    body = emulator.requests[-1].body
    calls = {
        call["id"]: json.loads(call["function"]["arguments"])["prompt"]
        for message in body["messages"]
        for call in message.get("tool_calls") or ()
    }
    answers = [message for message in body["messages"] if message["role"] == "tool"]
    assert len(answers) == len(calls)
    return {calls[result["tool_call_id"]]: result["content"] for result in answers}


@pytest.mark.parametrize("second", ["at once", "while the task is read", "afterwards"])
@pytest.mark.parametrize("kind", [FunctionAgent, AgentWorkflow])
async def test_duplicate_events_give_each_call_its_own_result_once(
    paused: Emulator, kind: type[Any], second: str
) -> None:
    paused.script(
        [Scripted(calls=[("generate_image", {"prompt": prompt}) for prompt in KITES]), "All are done."]
    )
    single_agent = agent(paused, mode="event")
    handler = (single_agent if kind is FunctionAgent else AgentWorkflow(agents=[single_agent])).run(
        user_msg="Make them."
    )
    loop, prompts, result_count = asyncio.get_running_loop(), {}, 0

    def send(task_id: str) -> None:
        handler.ctx.send_event(PicccTaskFinished(task_id=task_id))

    async def send_and_run(task_id: str) -> None:
        send(task_id)
        for _ in range(20):
            await asyncio.sleep(0)

    def read(record: Any) -> bool:
        asyncio.run_coroutine_threadsafe(send_and_run(record.path.rpartition("/")[2]), loop).result(30)
        return False

    if second == "while the task is read":
        paused.fault("500", route="GET /v1/tasks/*", when=read)
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            prompts[event.task_id] = None
            if len(prompts) == len(KITES):
                await paused.aadvance(60)
                for task_id in prompts:
                    send(task_id)
                    if second == "at once":
                        send(task_id)
        if isinstance(event, ToolCallResult):
            result_count += 1
            if second == "afterwards":
                send(event.tool_output.raw_output["task_id"])
    assert str(await handler) == "All are done."
    assert result_count == len(KITES)
    results_received = results_by_prompt(paused)
    tasks = {task.prompt: task.id for task in client(paused).tasks.list()}
    assert [prompt for prompt in KITES if tasks[prompt] not in results_received[prompt]] == []
    assert made(paused) == ["image"] * len(KITES)


class Gallery(Workflow):
    """A custom workflow that calls a tool in a step."""

    def __init__(self, media_tools: PicccMediaToolSpec) -> None:
        super().__init__(timeout=60)
        self._media_tools = media_tools

    @step
    async def make(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Make an image."""
        output = await self._media_tools.agenerate_image("A kite", ctx=ctx)
        return StopEvent(result=output.raw_output)


async def test_a_custom_step_waits_for_events_and_pays_once(paused: Emulator) -> None:
    handler = Gallery(spec(paused, mode="event")).run()
    events = await run_to_end(handler, paused)
    assert sum(isinstance(event, PicccTaskSubmitted) for event in events) == 1
    assert media_from(await handler)[0].status == "completed"
    assert made(paused) == ["image"]


class Made(Event):
    """The tasks of a step and a human's answer."""

    ids: list[str]
    word: str


class TwoSteps(Workflow):
    """A workflow that makes the same image twice in one step, asks a human, and counts how often it ends."""

    def __init__(self, media_tools: PicccMediaToolSpec) -> None:
        super().__init__(timeout=60)
        self._media_tools = media_tools
        self.ended = 0

    @step(num_workers=1)
    async def make(self, ctx: Context, ev: StartEvent) -> Made:
        """Make two images and ask a human."""
        outputs = [await self._media_tools.agenerate_image("A kite", ctx=ctx) for _ in range(2)]
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=InputRequiredEvent())
        self.ended += 1
        return Made(ids=[output.raw_output["task_id"] for output in outputs], word=answer.word)

    @step
    async def end(self, ctx: Context, ev: Made) -> StopEvent:
        """Wait for duplicate events."""
        for _ in range(20):
            await asyncio.sleep(0.001)
        return StopEvent(result=ev)


@pytest.mark.parametrize("times", [1, 2])
async def test_identical_calls_in_one_step_create_two_images_and_end_once(
    paused: Emulator, times: int
) -> None:
    workflow = TwoSteps(spec(paused, mode="event"))
    handler = workflow.run()
    async for event in handler.stream_events():
        if isinstance(event, PicccTaskSubmitted):
            await paused.aadvance(60)
            for _ in range(times):
                handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
        elif isinstance(event, InputRequiredEvent):
            handler.ctx.send_event(HumanResponseEvent(word="good"))
    result = await handler
    assert len(set(result.ids)) == 2
    assert (result.word, workflow.ended) == ("good", 1)
    assert made(paused) == ["image"] * 2


@pytest.mark.parametrize("fault", ["429", "503", "404"])
async def test_a_task_that_is_unreadable_when_it_ends_keeps_its_id(paused: Emulator, fault: str) -> None:
    handler = Gallery(spec(paused, mode="event", client=client(paused, max_retries=0))).run()
    paused.fault(fault, route="GET /v1/tasks*", times=1)
    [submitted] = [
        event for event in await run_to_end(handler, paused) if isinstance(event, PicccTaskSubmitted)
    ]
    output = await handler
    assert [task.id for task in media_from(output)] == [submitted.task_id]
    assert output["tool_error"]["may_retry"] is False
    assert made(paused) == ["image"]


async def test_reused_call_ids_create_separate_tasks(paused: Emulator) -> None:
    same = Scripted(calls=[("generate_image", {"prompt": "A kite"}, "call_0")])
    media_client = client(paused)
    for _ in range(2):
        paused.script([same, same, "Done."])
        await agent(paused, mode="submit", client=media_client).run("Make it.")
    assert made(paused) == ["image"] * 4


async def test_a_custom_step_resumes_from_a_saved_context_without_paying_again(paused: Emulator) -> None:
    handler = Gallery(spec(paused, mode="event")).run()
    submitted = await anext(event async for event in handler.stream_events() if hasattr(event, "task_id"))
    saved = json.dumps(handler.ctx.to_dict())
    await handler.cancel_run()

    restarted = Gallery(spec(paused, mode="event"))
    resumed = restarted.run(ctx=Context.from_dict(restarted, json.loads(saved)))
    await paused.aadvance(60)
    await client(paused).as_async().tasks.wait(submitted.task_id)
    resumed.ctx.send_event(PicccTaskFinished(task_id=submitted.task_id))
    assert [task.id for task in media_from(await resumed)] == [submitted.task_id]
    assert made(paused) == ["image"]


@pytest.mark.parametrize(("session", "times"), [("", 2), ("tuesday", 1)])
async def test_another_run_submits_again_unless_it_shares_the_session(
    emulator: Emulator, session: str, times: int
) -> None:
    media_client = client(emulator)
    for _ in range(2):
        await Gallery(spec(emulator, client=media_client, session=session)).run()
    assert made(emulator) == ["image"] * times


async def test_media_tools_work_without_an_agent(emulator: Emulator) -> None:
    llm = Piccc(base_url=emulator.base_url, api_key=emulator.api_key)
    emulator.script([ONE])
    answer = await llm.apredict_and_call(list(tools(emulator).values()), "Make it.")
    assert "The image is finished" in str(answer)


RESULTS, TAGS = "workflows.runtime.types.results", "llama_index_instrumentation.dispatcher"
STEP, WAITING, UNSET = "StepWorkerStateContextVar", "WaitingForEvent", ContextVar[Any]("unset")
OTHER_STEP = ContextVar[Any]("other", default="no step")
MISSING: list[tuple[str, dict[str, Any]]] = [
    (RESULTS, {WAITING: results_of_workflows.WaitingForEvent}),
    (RESULTS, {WAITING: results_of_workflows.WaitingForEvent, STEP: UNSET}),
    (RESULTS, {WAITING: results_of_workflows.WaitingForEvent, STEP: OTHER_STEP}),
    (RESULTS, {STEP: results_of_workflows.StepWorkerStateContextVar}),
    (TAGS, {}),
    (TAGS, {"active_instrument_tags": UNSET}),
]


@pytest.mark.parametrize(
    ("module", "names", "mode"),
    [(*missing, "wait") for missing in MISSING]
    + [(*missing, "event") for missing in MISSING if missing[0] == RESULTS],
)
async def test_a_name_missing_from_a_later_version_is_warned_about_once(
    emulator: Emulator, caplog: Any, monkeypatch: pytest.MonkeyPatch, module: str, names: Any, mode: Any
) -> None:
    monkeypatch.setattr(agent_tools, "_warned", set())
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**names))
    emulator.script([ONE, "Done."])
    events = await run_to_end(agent(emulator, mode=mode).run("Make it."), emulator)
    assert caplog.text.count("This version of LlamaIndex's workflows does not expose") == 1
    assert [task.status for task in results(events)] == ["completed"] * (mode == "wait")
    assert made(emulator) == ["image"] * (mode == "wait")
