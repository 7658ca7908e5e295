"""An agent process that can be killed at any moment: run again, it continues where it stopped.

Arguments: a folder for the ledger and the context, the tools' mode. It prints what it saves and what it made.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent, ToolCall, ToolCallResult
from llama_index.core.utils import get_tokenizer
from llama_index.core.workflow import Context, JsonPickleSerializer

from llama_index_piccc import Piccc, PicccMediaToolSpec, PicccTaskFinished, PicccTaskSubmitted
from piccc import AsyncClient, Polling

PICKLING = JsonPickleSerializer()  # an agent's memory is not JSON


def main(folder: Path, mode: Any) -> None:
    """Start or continue the run."""
    asyncio.run(_main(folder, mode))


async def _main(folder: Path, mode: Any) -> None:
    client = AsyncClient(ledger=folder / "tasks.db", polling=Polling(min=0.001, max=0.002))
    models = {"image_model": "piccc-image", "video_model": "piccc-video"}
    spec = PicccMediaToolSpec(async_client=client, mode=mode, wait_s=None, **models)
    agent = FunctionAgent(tools=list(spec.to_tool_list()), llm=Piccc())
    saved = folder / "context.json"
    get_tokenizer()  # a saved memory names its tokenizer, which only core can load offline
    pending_ids: list[str] = []
    if saved.exists():
        state = json.loads(saved.read_text())
        handler = agent.run(ctx=Context.from_dict(agent, state["context"], PICKLING))
        pending_ids = state["waiting"]
    else:
        handler = agent.run("An image, then a video of it.")

    async def save(event: ToolCall | PicccTaskSubmitted) -> None:
        # A step that is saved while it emits its events would emit them again.
        while "parse_agent_output" in await handler.ctx.running_steps():  # noqa: ASYNC110  core has no event
            await asyncio.sleep(0)
        ids = [event.task_id] if isinstance(event, PicccTaskSubmitted) else []
        part = saved.with_suffix(".part")
        part.write_text(json.dumps({"context": handler.ctx.to_dict(PICKLING), "waiting": ids}))
        part.replace(saved)
        print("saved", *[type(event).__name__, *([event.tool_name] if isinstance(event, ToolCall) else [])])

    async def answer(task_id: str) -> None:
        await client.tasks.wait(task_id)
        handler.ctx.send_event(PicccTaskFinished(task_id=task_id))

    for task_id in pending_ids:
        await answer(task_id)
    async for event in handler.stream_events():
        if isinstance(event, ToolCall | PicccTaskSubmitted):
            await save(event)
        if isinstance(event, PicccTaskSubmitted):
            await answer(event.task_id)
        if isinstance(event, ToolCallResult):
            print(event.tool_output.content.partition(" (")[0])
    print(await handler)
