"""Many streams in one event loop, each at ten tokens a second: CPU, delay, memory, and concurrency.

A token's text is the time at which the server sent it; both processes share one clock.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.cpu import settle
from tests.benchmarks.langchain import model

SAMPLED = 200
"""How many tokens to read between memory samples."""


class Run:
    """Concurrent streams of one model and their measurements."""

    def __init__(self, base: str, subject: str, streams: int, tokens: int) -> None:
        self._model = model(subject, f"{base}/paced-{tokens}")
        self._streams = streams
        self._delays: list[float] = []
        self._open = self._most = 0
        self._before = self._during = 0

    async def figures(self) -> dict[str, float]:
        """Read all streams; return the figures."""
        await asyncio.gather(*[self._read() for _ in range(5)])
        self._delays, self._most, self._during = [], 0, 0
        settle()
        self._before, began, spent = _resident(), time.time(), time.process_time()
        await asyncio.gather(*[self._read() for _ in range(self._streams)])
        spent, wall = time.process_time() - spent, time.time() - began
        return {
            "CPU of a token, µs": spent / len(self._delays) * 1e6,
            "99th percentile of a token's delay, ms": statistics.quantiles(self._delays, n=100)[-1] * 1e3,
            "memory of a stream, KB": (self._during - self._before) / self._streams / 1024,
            "open at once": self._most,
            "wall, s": wall,
        }

    async def _read(self) -> None:
        is_open = False
        async for chunk in self._model.astream("hi"):
            now = time.time()
            for written in chunk.text.split():
                self._delays.append(now - float(written))
                if not len(self._delays) % SAMPLED:
                    self._during = max(self._during, _resident())
            if not is_open:
                is_open = True
                self._open += 1
                self._most = max(self._most, self._open)
        self._open -= is_open


def paced(streams: int, tokens: int, *kept: str) -> Callable[[str, str], dict[str, float]]:
    """Return the benchmark for a number of streams with `tokens` each; `kept` names its figures."""

    def measure(subject: str, server: str) -> dict[str, float]:
        found = asyncio.run(Run(server, subject, streams, tokens).figures())
        seconds = tokens // 10
        return {f"{streams:,} streams of {seconds} s: {name}": found[name] for name in kept}

    return measure


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
