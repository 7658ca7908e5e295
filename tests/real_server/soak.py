"""Call a real server for minutes and watch our memory and sockets: `python -m tests.real_server.soak`.

Uses both clients and both dialects: complete replies, streams, streams left early, and calls that time out or
are cancelled. Prints a line every half minute; `--publish` writes docs/soak.md.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import random
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from piccc import AsyncClient, Client
from piccc.errors import APITimeoutError
from tests.real_server.__main__ import KEY, ROOT, install, server

PROMPT = "The capital of France is"
STATES = {"01": "established", "08": "CLOSE_WAIT"}
"""The codes in /proc/net/tcp, from Linux's include/net/tcp_states.h."""
INTERVAL = 30.0
GROWTH = 50
"""Types that have gained this many objects by the end are listed."""
ABOUT = """# Soak

`python -m tests.real_server.soak --minutes {minutes:g} --publish` made this page: one process with both
clients and both dialects calls llama.cpp's own server: whole replies, streams, streams that are left after
their first piece, calls that are cancelled or time out. The last line was taken {idle:g} s after the last
call, with the clients still open; blocking connections that the server has closed meanwhile wait for the next
call.

"""


def objects() -> Counter[str]:
    """Return the number of objects of each type."""
    gc.collect()
    return Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())


class Soak:
    """The counts of calls and failures, and whether the run is over."""

    def __init__(self) -> None:
        self.grown: list[str] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.is_over = threading.Event()

    def note(self, kind: str, error: Exception | None) -> None:
        """Count a call."""
        self.counts[kind] += 1
        if error is not None:
            self.failures.append(f"{kind}: {type(error).__name__}: {error}")


def blocking(soak: Soak, client: Client) -> None:
    """Make blocking calls until the run is over."""
    kinds = itertools.cycle(("whole", "stream", "left early", "timed out"))
    while not soak.is_over.is_set():
        kind, failed = next(kinds), None
        try:
            if kind == "whole":
                client.chat.create(PROMPT, max_tokens=2)
            elif kind == "timed out":
                with suppress(APITimeoutError):
                    client.chat.create(PROMPT, max_tokens=100, timeout=0.05)
            else:
                with client.chat.stream(PROMPT, max_tokens=2 if kind == "stream" else 100) as stream:
                    for _ in stream.texts():
                        if kind == "left early":
                            break
        except Exception as error:
            failed = error
        soak.note(kind, failed)


async def asynchronous(soak: Soak, client: AsyncClient) -> None:
    """Make calls on the event loop until the run is over."""
    kinds = itertools.cycle(("whole", "stream", "left early", "cancelled"))

    async def stream(tokens: int, *, leave: bool) -> None:
        async with await client.chat.stream(PROMPT, max_tokens=tokens) as opened:
            async for _ in opened.texts():
                if leave:
                    return

    while not soak.is_over.is_set():
        kind, failed = next(kinds), None
        try:
            if kind == "whole":
                await client.chat.create(PROMPT, max_tokens=2)
            elif kind == "cancelled":
                task = asyncio.create_task(stream(100, leave=False))
                await asyncio.sleep(random.random() / 5)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            else:
                await stream(2 if kind == "stream" else 100, leave=kind == "left early")
        except Exception as error:
            failed = error
        soak.note(kind, failed)


def sample(soak: Soak, seconds: float) -> list[str]:
    """Return the cells of one line of the table."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
    )
    memory = int(status["VmRSS"].split()[0]) / 1024
    inodes = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it was closed in the meantime
            inodes.add(str(each.readlink()).removeprefix("socket:[").removesuffix("]"))
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    states = Counter(STATES.get(line[3], "other") for line in lines if line[9] in inodes)
    calls = sum(soak.counts.values())
    figures = [states["established"], states["CLOSE_WAIT"], len(inodes), threading.active_count()]
    return [
        f"{seconds:.0f}",
        f"{memory:.1f}",
        *map(str, figures),
        str(objects().total()),
        str(calls),
        str(len(soak.failures)),
    ]


HEAD = [
    "s",
    "memory, MB",
    "established",
    "CLOSE_WAIT",
    "descriptors",
    "threads",
    "objects",
    "calls",
    "failures",
]


def line(cells: list[str]) -> str:
    """Format cells as a line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


async def run(address: str, minutes: float, idle: float) -> tuple[Soak, list[str]]:
    """Run the clients; return the counts and the table."""
    soak, began = Soak(), time.monotonic()
    dialects: tuple[Literal["openai", "anthropic"], ...] = ("openai", "anthropic")
    options: list[dict[str, Any]] = [
        {"base_url": address, "api_key": KEY, "dialect": dialect} for dialect in dialects
    ]
    clients, async_clients = [Client(**each) for each in options], [AsyncClient(**each) for each in options]
    threads = [threading.Thread(target=blocking, args=(soak, client)) for client in clients]
    tasks = [asyncio.create_task(asynchronous(soak, client)) for client in async_clients for _ in range(2)]
    lines = [line(HEAD), "|" + "---:|" * len(HEAD)]
    print(*lines, sep="\n", flush=True)
    for each in threads:
        each.start()
    try:
        for number in itertools.count(1):
            await asyncio.sleep(max(0.0, began + number * INTERVAL - time.monotonic()))
            if number == 1:
                before = objects()
            lines.append(line(sample(soak, time.monotonic() - began)))
            print(lines[-1], flush=True)
            if time.monotonic() - began >= minutes * 60:
                break
    finally:
        soak.is_over.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await asyncio.gather(*tasks)
    await asyncio.sleep(idle)
    soak.grown = [f"{kind} +{more}" for kind, more in (objects() - before).most_common() if more >= GROWTH]
    lines.append(line(sample(soak, time.monotonic() - began)))
    print(lines[-1], flush=True)
    for client in clients:
        client.close()
    for async_client in async_clients:
        await async_client.aclose()
    return soak, lines


def main() -> None:
    """Run, and print or publish the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_server.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--idle", type=float, default=15.0, help="seconds to wait after the last call")
    parser.add_argument("--publish", action="store_true", help="also write docs/soak.md")
    arguments = parser.parse_args()
    python = install()
    if python is None:
        sys.exit("The server or its model cannot be installed.")
    with server(python) as address:
        soak, lines = asyncio.run(run(address, arguments.minutes, arguments.idle))
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(soak.counts.items()))
    grown = ", ".join(soak.grown) or "none"
    end = f"\nCalls: {kinds}. Failures: {len(soak.failures)}. Types with more objects at the end: {grown}.\n"
    print(end, *soak.failures[:10], sep="\n")
    if arguments.publish:
        about = ABOUT.format(minutes=arguments.minutes, idle=arguments.idle)
        (ROOT / "docs" / "soak.md").write_text(about + "\n".join(lines) + "\n" + end)
    if soak.failures:
        sys.exit(f"{len(soak.failures)} calls failed")


if __name__ == "__main__":
    main()
