"""Media: 10,000 tasks with `map` on each ledger, and 200 concurrent downloads of 5 MB from a paced server."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.cpu import settle
from tests.benchmarks.raw import KEY
from tests.benchmarks.served_tasks import QUEUE_PACE, task
from tests.benchmarks.server import FILE_BYTES, FILE_PAUSE, FILE_PIECE

TASKS, RUNNING, DOWNLOADS = 10_000, 4_000, 200
DOWNLOAD_SECONDS = FILE_BYTES / FILE_PIECE * FILE_PAUSE


def mapped(ledger: str) -> Callable[..., dict[str, float]]:
    """Return the benchmark for running tasks with `map` on a kind of ledger."""

    def measure(subject: str, server: str, redis: str = "") -> dict[str, float]:
        from piccc import Client

        with tempfile.TemporaryDirectory() as folder:
            place = {"memory": None, "SQLite": str(Path(folder, "tasks.db")), "Redis": redis}[ledger]
            with Client(api_key=KEY, base_url=f"{server}/map-{os.getpid()}", ledger=place) as client:
                prompts = [f"A red kite over the sea, number {number}" for number in range(TASKS)]
                client.images.map(["A kite"], model="piccc-image")
                settle()
                began, spent = time.monotonic(), time.process_time()
                batch = client.images.map(prompts, model="piccc-image", concurrency=RUNNING)
                spent, wall = time.process_time() - spent, time.monotonic() - began
        if len(batch) != TASKS or batch.errors:
            raise RuntimeError(f"{batch!r}: {batch.errors}")
        return {
            f"map of 10,000 tasks, {ledger} ledger: CPU of a task, ms": spent / TASKS * 1e3,
            f"map of 10,000 tasks, {ledger} ledger: wall, times the server's": wall * QUEUE_PACE / TASKS,
        }

    return measure


def downloads(subject: str, server: str) -> dict[str, float]:
    """Return the figures for saving 200 files concurrently."""
    from piccc import AsyncClient

    async def ours(folder: str, names: list[str]) -> None:
        async with AsyncClient(api_key=KEY, base_url=server) as client:
            made = (
                task(name, "completed", time.time(), time.time(), f"{server}/files/{name}") for name in names
            )
            tasks = [client.tasks.load(json.dumps(each)) for each in made]
            await asyncio.gather(*[each.outputs[0].save(Path(folder, each.id)) for each in tasks])

    async def httpx(folder: str, names: list[str]) -> None:
        import httpx

        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:

            async def save(name: str) -> None:
                async with client.stream("GET", f"{server}/files/{name}") as response:
                    with Path(folder, name).open("wb") as file:  # noqa: ASYNC230  as users write it
                        async for block in response.aiter_raw():
                            file.write(block)

            await asyncio.gather(*[save(name) for name in names])

    return asyncio.run(_downloaded({"piccc": ours, "httpx": httpx}[subject]))


async def _downloaded(save: Callable[[str, list[str]], Any]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        await save(folder, ["warm.mp4"])
        settle()
        before, began, spent = _peak(), time.monotonic(), time.process_time()
        await save(folder, [f"{number}.mp4" for number in range(DOWNLOADS)])
        spent, wall = time.process_time() - spent, time.monotonic() - began
        after = _peak()
        sizes = [each.stat().st_size for each in Path(folder).glob("[0-9]*")]
    if sizes != [FILE_BYTES] * DOWNLOADS:
        raise RuntimeError(f"{len(sizes)} files of {set(sizes)} bytes")
    megabytes = DOWNLOADS * FILE_BYTES / 1e6
    return {
        "200 downloads of 5 MB: CPU of a MB, ms": spent / megabytes * 1e3,
        "200 downloads of 5 MB: wall, times the server's": wall / DOWNLOAD_SECONDS,
        "200 downloads of 5 MB: memory, MB": (after - before) / 1e6,
    }


def _peak() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
