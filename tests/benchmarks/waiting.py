"""Wait for a thousand tasks that end within a minute: requests, CPU, and how late each end is noticed.

Piccc waits through `client.tasks`. The others poll each task: OpenAI's SDK in its own loop, and `httpx` in a
typical user's loop, with a pause in the middle of the advised range. That loop is careful to send no more
concurrent requests than httpx has connections, because more would cost much more.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.benchmarks.cpu import settle
from tests.benchmarks.raw import KEY

PAUSE = 3.5
CONNECTIONS = 100


class Run:
    """One client's thousand tasks on the server; CPU and delays are measured from `begin`."""

    def __init__(self, server: str) -> None:
        self.base = f"{server}/wait-{os.getpid()}"
        self._noticed: dict[str, float] = {}
        self._ends: dict[str, float] = {}
        self._cpu = 0.0

    def begin(self) -> list[dict[str, Any]]:
        """Submit the tasks; return them as the server reported them."""
        begun = self._ask("begin")
        self._ends = begun["ends"]
        settle()
        self._cpu = time.process_time()
        return list(begun["tasks"])

    def notice(self, id: str) -> None:
        """Record that a task has ended."""
        self._noticed[id] = time.time()

    def figures(self) -> dict[str, float]:
        """Return requests, CPU milliseconds, and the median seconds from a task's end to its notice."""
        spent = (time.process_time() - self._cpu) * 1e3
        delays = [self._noticed[id] - end for id, end in self._ends.items()]
        requests = self._ask("requests")["requests"]
        return {"requests": requests, "CPU, ms": spent, "delay, s": statistics.median(delays)}

    def _ask(self, what: str) -> Any:
        import httpx

        return httpx.get(f"{self.base}/{what}").raise_for_status().json()


def waiting(subject: str, server: str) -> dict[str, float]:
    """Return the figures of one subject."""
    run = Run(server)
    asyncio.run(_WAYS[subject](run))
    return {f"waiting for 1,000 tasks: {name}": figure for name, figure in run.figures().items()}


async def _piccc(run: Run) -> None:
    from piccc import AsyncClient

    async with AsyncClient(api_key=KEY, base_url=run.base) as client:
        handles = [client.tasks.load(json.dumps(task)) for task in run.begin()]
        async for task in client.tasks.as_completed(handles):
            run.notice(task.id)


async def _httpx(run: Run) -> None:
    import httpx

    free = asyncio.Semaphore(CONNECTIONS)
    async with httpx.AsyncClient(base_url=run.base, timeout=60) as client:

        async def status(id: str) -> object:
            async with free:
                return (await client.get(f"/v1/tasks/{id}")).json()["status"]

        async def wait(id: str) -> None:
            while await status(id) != "completed":  # noqa: ASYNC110  polling is what we measure
                await asyncio.sleep(PAUSE)
            run.notice(id)

        await asyncio.gather(*[wait(task["task_id"]) for task in run.begin()])


async def _openai(run: Run) -> None:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=KEY, base_url=f"{run.base}/v1") as client:

        async def wait(id: str) -> None:
            await client.videos.poll(id)
            run.notice(id)

        await asyncio.gather(*[wait(task["task_id"]) for task in run.begin()])


_WAYS: dict[str, Callable[[Run], Coroutine[Any, Any, None]]] = {
    "piccc": _piccc,
    "httpx": _httpx,
    "openai": _openai,
}
