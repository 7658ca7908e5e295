"""Media tools in every kind of workflow: `python -m tests.llama_index.media_table` runs all rows.

A row combines a mode, a kind of workflow, how its tasks end, and whether another run continues from a saved
context. The suite runs enough rows to cover each pair of values.
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
    ("FunctionAgent", "AgentWorkflow", "custom step"),
    ("early", "late", "refused", "vanished", "429"),
    ("one run", "saved"),
)
PROMPTS = ("Kite 0", "Kite 1")
PICKLING = JsonPickleSerializer()  # an agent's memory is not JSON


class Row(NamedTuple):
    """One row of the table."""

    mode: str
    workflow: str
    ending: str
    saved: str


def rows() -> list[Row]:
    """Return all rows; only event mode has a point at which a run can be saved."""
    table = [Row(*values) for values in product(*DIMENSIONS)]
    return [row for row in table if row.mode == "event" or row.saved == "one run"]


async def ask_human(ctx: Context, question: str) -> str:
    """Ask a human."""
    asked = InputRequiredEvent(question=question)
    answer = await ctx.wait_for_event(HumanResponseEvent, waiter_id=f"ask {question}", waiter_event=asked)
    return str(answer.response)


class CustomStep(Workflow):
    """A workflow whose step makes the images and asks a human."""

    def __init__(self, media_tools: PicccMediaToolSpec) -> None:
        super().__init__(timeout=120)
        self._media_tools = media_tools

    @step
    async def make(self, ctx: Context, ev: StartEvent) -> StopEvent:
        """Make the images, and ask whether to publish them."""
        outputs = [await self._media_tools.agenerate_image(prompt, ctx=ctx) for prompt in PROMPTS]
        answer = await ask_human(ctx, "Publish?")
        return StopEvent(result=([output.raw_output for output in outputs], answer))


def workflow_of(row: Row, emulator: Emulator, media_client: Any) -> Any:
    """Return a new workflow of a row's kind."""
    wait_s = 0.05 if row.ending in ("late", "vanished") else 30
    tools = spec(emulator, client=media_client, mode=row.mode, wait_s=wait_s, session="tuesday")
    if row.workflow == "custom step":
        return CustomStep(tools)
    llm = Piccc(base_url=emulator.base_url, api_key=emulator.api_key)
    agent = FunctionAgent(
        tools=[*tools.to_tool_list(), FunctionTool.from_defaults(async_fn=ask_human)], llm=llm
    )
    return agent if row.workflow == "FunctionAgent" else AgentWorkflow(agents=[agent])


async def run(row: Row) -> None:
    """Run a row and check what must hold in every row."""
    with emulator_for(row) as (emulator, is_clock_paused):
        calls = [("generate_image", {"prompt": prompt}) for prompt in PROMPTS]
        # LlamaIndex loses an answer that is on its way when a context is saved.
        asks = [("ask_human", {"question": "Publish?"})] if row.saved == "one run" else []
        emulator.script([Scripted(calls=[*calls, *asks]), "Done."])
        if row.ending == "vanished":
            emulator.fault("404", route="GET /v1/tasks*")
        if row.ending == "429":
            emulator.fault("429;retry-after=0", route="GET /v1/tasks*", times=1)
        media_client = client(emulator, max_retries=0)
        workflow = workflow_of(row, emulator, media_client)
        begin = {} if row.workflow == "custom step" else {"user_msg": "Go."}
        handler, results, answers = workflow.run(**begin), [], 0
        is_save_due, has_new_handler = row.saved == "saved", True
        parallel_calls = 1 if row.workflow == "custom step" else len(PROMPTS)
        submitted: list[str] = []

        def send_finished(task_id: str) -> None:
            for _ in range(2):  # webhooks can arrive twice
                handler.ctx.send_event(PicccTaskFinished(task_id=task_id))

        while has_new_handler:
            has_new_handler = False
            async for event in handler.stream_events():
                if isinstance(event, ToolCallResult) and event.tool_name == "generate_image":
                    results.append((event.tool_kwargs["prompt"], event.tool_output.raw_output))
                if isinstance(event, PicccTaskSubmitted):
                    submitted.append(event.task_id)
                    if is_save_due:
                        if len(submitted) < parallel_calls:
                            continue
                        is_save_due, has_new_handler = False, True
                        saved = json.dumps(handler.ctx.to_dict(PICKLING))
                        await handler.cancel_run()
                        workflow = workflow_of(row, emulator, media_client)
                        handler = workflow.run(ctx=Context.from_dict(workflow, json.loads(saved), PICKLING))
                        if is_clock_paused:
                            await emulator.aadvance(60)
                        for task_id in submitted:
                            send_finished(task_id)
                        break
                    if row.ending == "late":  # an event that arrives too early
                        handler.ctx.send_event(PicccTaskFinished(task_id=event.task_id))
                    if is_clock_paused:
                        await emulator.aadvance(60)
                    send_finished(event.task_id)
                elif isinstance(event, InputRequiredEvent):
                    answers += 1
                    handler.ctx.send_event(HumanResponseEvent(response="the human"))
        value = await handler
        if row.workflow == "custom step":
            outputs, answer = value
            results = list(zip(PROMPTS, outputs, strict=True))
            assert answer == "the human"
        posts = [request for request in emulator.requests if request.path == "/v1/images/tasks"]
        orders = {request.task_id: request.body["prompt"] for request in posts}
        assert sorted(request.body["prompt"] for request in posts) == list(PROMPTS), (
            "one submission per request"
        )
        assert answers == (row.workflow == "custom step" or bool(asks)), "a human is asked once"
        own_tasks = {prompt: [orders[task.id] for task in media_from(output)] for prompt, output in results}
        assert own_tasks == {prompt: [prompt] for prompt in PROMPTS}, "each call has its own task"
        assert len(results) == len(PROMPTS), "each call is answered once"


if __name__ == "__main__":
    run_all(rows(), lambda row: asyncio.run(asyncio.wait_for(run(row), 20)))
