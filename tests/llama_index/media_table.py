"""Media tools in every kind of workflow: `python -m tests.llama_index.media_table` runs all rows.

A row is a mode, a kind of workflow, how its tasks end, and whether it goes on in another run from a saved
context. The suite runs as many rows as it takes for each pair of values to be in one.
"""

import asyncio
import json
from itertools import product
from typing import Any, NamedTuple

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import (
    Context,
    HumanResponseEvent,
    InputRequiredEvent,
    JsonPickleSerializer,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)

from llama_index_piccc import Piccc, PicccMediaToolSpec, PicccTaskFinished, PicccTaskSubmitted, media_from
from piccc.emulator import Emulator, Scripted
from tests.llama_index.media import client, spec
from tests.media.tables import emulator_for, run_all

DIMENSIONS = (
    ("wait", "submit", "event"),
    ("FunctionAgent", "AgentWorkflow", "own step"),
    ("early", "late", "refused", "vanished", "429"),
    ("one run", "saved"),
)
PROMPTS = ("Kite 0", "Kite 1")
PICKLING = JsonPickleSerializer()  # an agent's memory is no JSON


class Row(NamedTuple):
    """One row of the table."""

    mode: str
    workflow: str
    ending: str
    saved: str


def rows() -> list[Row]:
    """Return all rows; only what waits for events has a moment to be saved."""
    table = [Row(*values) for values in product(*DIMENSIONS)]
    return [row for row in table if row.mode == "event" or row.saved == "one run"]


async def ask_human(ctx: Context, question: str) -> str:
    """Ask a human."""
    asked = InputRequiredEvent(question=question)
    answer = await ctx.wait_for_event(HumanResponseEvent, waiter_id=f"ask {question}", waiter_event=asked)
    return str(answer.response)


class OwnStep(Workflow):
    """A workflow whose step makes the images and asks a human."""

    def __init__(self, own: PicccMediaToolSpec) -> None:
        super().__init__(timeout=120)
        self._own = own

    @step
    async def make(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Make the images, and ask whether to publish them."""
        outputs = [await self._own.agenerate_image(each, ctx=ctx) for each in PROMPTS]
        word = await ask_human(ctx, "Publish?")
        return StopEvent(result=([each.raw_output for each in outputs], word))


def workflow_of(row: Row, emulator: Emulator, own: Any) -> Any:
    """Return a new workflow of a row's kind."""
    wait_s = 0.05 if row.ending in ("late", "vanished") else 30
    tools = spec(emulator, client=own, mode=row.mode, wait_s=wait_s, session="tuesday")
    if row.workflow == "own step":
        return OwnStep(tools)
    llm = Piccc(base_url=emulator.base_url, api_key=emulator.api_key)
    alone = FunctionAgent(
        tools=[*tools.to_tool_list(), FunctionTool.from_defaults(async_fn=ask_human)], llm=llm
    )
    return alone if row.workflow == "FunctionAgent" else AgentWorkflow(agents=[alone])


async def run(row: Row) -> None:
    """Run a row, and assert what must hold in each."""
    with emulator_for(row) as (emulator, stands_still):
        calls = [("generate_image", {"prompt": each}) for each in PROMPTS]
        # An answer that is on its way when a context is saved is lost, which is LlamaIndex's own matter.
        asks = [("ask_human", {"question": "Publish?"})] if row.saved == "one run" else []
        emulator.script([Scripted(calls=[*calls, *asks]), "Done."])
        if row.ending == "vanished":
            emulator.fault("404", route="GET /v1/tasks*")
        if row.ending == "429":
            emulator.fault("429;retry-after=0", route="GET /v1/tasks*", times=1)
        own = client(emulator, max_retries=0)
        workflow = workflow_of(row, emulator, own)
        begin = {} if row.workflow == "own step" else {"user_msg": "Go."}
        handler, results, answers = workflow.run(**begin), [], 0
        is_to_be_saved, going = row.saved == "saved", True
        at_once = 1 if row.workflow == "own step" else len(PROMPTS)
        submitted: list[str] = []

        def finished(task_id: str) -> None:
            for _ in range(2):  # as webhooks do
                handler.ctx.send_event(PicccTaskFinished(task_id=task_id))

        while going:
            going = False
            async for event in handler.stream_events():
                if isinstance(event, ToolCallResult) and event.tool_name == "generate_image":
                    results.append((event.tool_kwargs["prompt"], event.tool_output.raw_output))
                if isinstance(event, PicccTaskSubmitted):
                    submitted.append(event.task_id)
                    if is_to_be_saved:
                        if len(submitted) < at_once:
                            continue
                        is_to_be_saved, going = False, True
                        saved = json.dumps(handler.ctx.to_dict(PICKLING))
                        await handler.cancel_run()
                        workflow = workflow_of(row, emulator, own)
                        handler = workflow.run(ctx=Context.from_dict(workflow, json.loads(saved), PICKLING))
                        if stands_still:
                            await emulator.aadvance(60)
                        for task_id in submitted:
                            finished(task_id)
                        break
                    if row.ending == "late":  # an event that comes too early
                        handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
                    if stands_still:
                        await emulator.aadvance(60)
                    finished(event.task_id)
                elif isinstance(event, InputRequiredEvent):
                    answers += 1
                    handler.ctx.send_event(HumanResponseEvent(response="the human"))
        value = await handler
        if row.workflow == "own step":
            made, word = value
            results = list(zip(PROMPTS, made, strict=True))
            assert word == "the human"
        posts = [each for each in emulator.requests if each.path == "/v1/images/tasks"]
        orders = {each.task_id: each.body["prompt"] for each in posts}
        assert sorted(each.body["prompt"] for each in posts) == list(PROMPTS), "one order for each request"
        assert answers == (row.workflow == "own step" or bool(asks)), "a human is asked once"
        own_tasks = {prompt: [orders[task.id] for task in media_from(output)] for prompt, output in results}
        assert own_tasks == {prompt: [prompt] for prompt in PROMPTS}, "each call has its own task"
        assert len(results) == len(PROMPTS), "each call is answered once"


if __name__ == "__main__":
    run_all(rows(), lambda row: asyncio.run(asyncio.wait_for(run(row), 20)))
