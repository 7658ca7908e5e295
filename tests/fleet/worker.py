"""One process of the fleet: it makes images for whoever tells it to, until it is killed."""

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
"""How much faster than life everything goes: tasks, looks, and when a submission counts as lost."""
PACE = Polling(min=2.0 / SPEED, max=5.0 / SPEED)
SELDOM = Polling(min=3600.0, max=3600.0)


def work(connection: Connection, ledger: str | None, rate: str | None, pace: Polling) -> None:
    """Serve jobs: `(kind, name)` comes, `(name, outcome)` goes, and at the end the CPU time it took."""
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
        await asyncio.to_thread(
            client.ledger.get, "nothing"
        )  # what is loaded at the first use is not counted
        connection.send(("ready", ""))
        running, began = set[asyncio.Task[None]](), time.process_time()
        while (job := await jobs.get()) is not None:
            task = asyncio.create_task(_answer(connection, job[1], partial(JOBS[job[0]], client, *job[1:])))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)
        connection.send(("cpu", str(time.process_time() - began)))

    asyncio.run(serve())


async def _answer(connection: Connection, name: str, job: Callable[[], Awaitable[str]]) -> None:
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
    """Submit with so many copies of a client until its limit is used up; return how often that went well."""

    def spend(number: int) -> int:
        count = 0
        with pickle.loads(pickled) as copy:  # noqa: S301  of our own fleet
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
