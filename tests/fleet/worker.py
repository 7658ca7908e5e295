"""A worker process of the fleet, which runs jobs from a pipe until it is killed."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from piccc import AsyncClient, Client, Polling
from piccc.errors import SpendLimitExceeded
from piccc.media import account, polling

SPEED = 10.0
"""The factor by which everything is sped up: tasks, polling, and when a submission counts as lost."""
PACE = Polling(min=2.0 / SPEED, max=5.0 / SPEED)
SELDOM = Polling(min=3600.0, max=3600.0)


def work(connection: Connection, ledger: str | None, rate: str | None, pace: Polling) -> None:
    """Receive jobs `(kind, name, ...)`, send `(name, outcome)` for each, and at the end the CPU time."""
    account.RESEND_SECONDS /= SPEED
    account.FLIGHT_SECONDS /= SPEED
    polling.LOOK_SECONDS /= SPEED
    client = AsyncClient(ledger=ledger, polling=pace, rate=rate)

    async def serve() -> None:
        loop, jobs = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def read() -> None:
            while True:
                try:
                    loop.call_soon_threadsafe(jobs.put_nowait, connection.recv())
                except (EOFError, OSError):
                    os._exit(0)

        threading.Thread(target=read, daemon=True).start()
        # Load what the first use of the ledger loads, so that its CPU time does not count.
        await asyncio.to_thread(client.ledger.get, "nothing")
        connection.send(("ready", ""))
        running, started = set[asyncio.Task[None]](), time.process_time()
        while (job := await jobs.get()) is not None:
            task = asyncio.create_task(_run_job(connection, job[1], partial(JOBS[job[0]], client, *job[1:])))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)
        connection.send(("cpu", str(time.process_time() - started)))

    asyncio.run(serve())


async def _run_job(connection: Connection, name: str, job: Callable[[], Awaitable[str]]) -> None:
    try:
        outcome = await job()
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    connection.send((name, outcome))


async def _generate(client: AsyncClient, name: str) -> str:
    return (await client.images.generate(f"picture {name}", key=name, lost="resend", timeout=600)).status


async def _webhook(client: AsyncClient, name: str, url: str, secret: str) -> str:
    receiver = client.webhooks(secret=secret, public_url=url)
    return (await client.images.generate(f"picture {name}", key=name, webhook=receiver, timeout=600)).status


async def _list(client: AsyncClient, name: str) -> str:
    async for _ in client.tasks.list():
        break
    return "completed"


async def _spend(_: AsyncClient, name: str, pickled: bytes, workers: int) -> str:
    """Submit with several copies of a client until the limit is reached; return the number of submissions."""

    def spend(number: int) -> int:
        count = 0
        with pickle.loads(pickled) as copy:  # noqa: S301  from our own fleet
            assert isinstance(copy, Client)
            try:
                while True:
                    copy.images.submit(f"{name} {number} {count}")
                    count += 1
            except SpendLimitExceeded:
                return count

    def spend_all() -> int:
        with ThreadPoolExecutor(workers) as pool:
            return sum(pool.map(spend, range(workers)))

    return str(await asyncio.to_thread(spend_all))


JOBS: dict[str, Callable[..., Awaitable[str]]] = {
    "generate": _generate,
    "webhook": _webhook,
    "list": _list,
    "spend": _spend,
}
