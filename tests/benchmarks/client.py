"""One figure in one process: `python -m tests.benchmarks.client SUBJECT WORK SERVER`; prints JSON.

CPU figures are seconds of this process, threads included, from after a warm-up to the end.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.subjects import MODULES, make

TOKENS = 500


def cpu(work: Callable[[], object], units: int) -> float:
    """Return CPU microseconds per unit of a work."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / units * 1e6


def imports(subject: str, server: str) -> float:
    """Return CPU seconds of importing the package in a fresh process."""
    return cpu(lambda: exec(f"import {MODULES[subject]}"), 1) / 1e6  # noqa: S102  a constant of ours


def construct(subject: str, server: str) -> float:
    """Return CPU milliseconds of making ten models, after the first."""
    make(subject, f"{server}/call")
    return cpu(lambda: [make(subject, f"{server}/call") for _ in range(10)], 1) / 1e3


def memory(subject: str, server: str) -> float:
    """Return the largest resident size in MB, after one call."""
    _call(subject, server)()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def call(subject: str, server: str) -> float:
    """Return CPU microseconds of one blocking call."""
    one = _call(subject, server)
    for _ in range(20):
        one()
    return cpu(lambda: [one() for _ in range(200)], 200)


def calls_400(subject: str, server: str) -> float:
    """Return CPU microseconds per call of 400 calls at once."""
    model = make(subject, f"{server}/call")
    ask = model.ainvoke if hasattr(model, "ainvoke") else model.achat

    async def many(count: int) -> None:
        await asyncio.gather(*[ask(_prompt(model)) for _ in range(count)])

    async def measured() -> float:
        await many(20)
        began = time.process_time()
        await many(400)
        return (time.process_time() - began) / 400 * 1e6

    return asyncio.run(measured())


def stream_sync(scenario: str) -> Callable[[str, str], float]:
    """Return the work of streaming in blocking code."""

    def work(subject: str, server: str) -> float:
        count = int(scenario.partition("-")[2] or 2000)
        warm, model = make(subject, f"{server}/eight-50"), make(subject, f"{server}/{scenario}")
        _read(warm)
        return cpu(lambda: _read(model), count)

    return work


def stream_async(scenario: str, streams: int = 1) -> Callable[[str, str], float]:
    """Return the work of streaming in asynchronous code, so many streams at once."""

    def work(subject: str, server: str) -> float:
        count = int(scenario.partition("-")[2] or 2000)

        async def measured() -> float:
            warm, model = make(subject, f"{server}/eight-50"), make(subject, f"{server}/{scenario}")
            await _aread(warm)
            began = time.process_time()
            await asyncio.gather(*[_aread(model) for _ in range(streams)])
            return (time.process_time() - began) / count / streams * 1e6

        return asyncio.run(measured())

    return work


WORKS: dict[str, Callable[[str, str], float]] = {
    "import, s": imports,
    "10 models, ms": construct,
    "memory, MB": memory,
    "call, µs": call,
    "call of 400 at once, µs": calls_400,
    "token, one per read, sync, µs": stream_sync(f"one-{TOKENS}"),
    "token, one per read, async, µs": stream_async(f"one-{TOKENS}"),
    "token, eight per write, sync, µs": stream_sync(f"eight-{TOKENS}"),
    "token, eight per write, async, µs": stream_async(f"eight-{TOKENS}"),
    "token, 100 streams at once, µs": stream_async("slow-100", streams=100),
    "token of 20,000, µs": stream_sync("eight-20000"),
    "fragment of 8 KB tool arguments, µs": stream_sync("args"),
}


def _prompt(model: Any) -> Any:
    if hasattr(model, "invoke"):
        return "hi"
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(role="user", content="hi")]


def _call(subject: str, server: str) -> Callable[[], object]:
    model = make(subject, f"{server}/call")
    ask = model.invoke if hasattr(model, "invoke") else model.chat
    prompt = _prompt(model)
    return lambda: ask(prompt)


def _read(model: Any) -> None:
    stream = model.stream_chat if hasattr(model, "stream_chat") else model.stream
    for _ in stream(_prompt(model)):
        pass


async def _aread(model: Any) -> None:
    if hasattr(model, "astream_chat"):
        async for _ in await model.astream_chat(_prompt(model)):
            pass
        return
    async for _ in model.astream("hi"):
        pass


def main(subject: str, work: str, server: str) -> None:
    """Measure and print."""
    print(json.dumps(WORKS[work](subject, server)))


if __name__ == "__main__":
    main(*sys.argv[1:])
