"""Kill agents repeatedly and count charges: `python -m tests.media.kills [ROUNDS]`, 10 by default.

An agent generates an image, then a video from it. Each round kills its process at a request that a seed
chooses, before the response, kills a second process in the same way, and lets a third finish. LangGraph runs
in each mode of the tools and each durability; LlamaIndex runs in each mode and is killed after it saves.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
import time
from itertools import product
from pathlib import Path
from typing import Any

from piccc.emulator import Emulator, ManualClock, Scripted
from tests.media.restarting import LANGCHAIN, LLAMA_INDEX, PATIENCE, AgentProcess, killed_twice

MODES = ("wait", "submit", "background", "interrupt")
DURABILITIES = ("sync", "async", "exit")
SAVED = {
    "wait": ("saved ToolCall generate_image", "saved ToolCall generate_video"),
    "event": ("saved ToolCall generate_image", "saved PicccTaskSubmitted"),
}
"""For each mode of LlamaIndex, the output lines after which the two processes are killed."""
REQUESTS = 7
"""The minimum number of requests in a run; the process is killed at one of them."""


def reply(ask: Any) -> Any:
    """Act as a model that requests an image, then a video."""
    results = sum(turn.role == "tool" for turn in ask.turns)
    if results == 0:
        return Scripted(calls=[("generate_image", {"prompt": "A kite"})])
    return Scripted(calls=[("generate_video", {"prompt": "It rises"})]) if results == 1 else "Both are done."


def killed(folder: Path, mode: str, durability: str, seed: int, kills: int = 2) -> dict[str, int]:
    """Run the LangGraph agent, killed at random requests, to its end; return the charges by kind."""
    rng = random.Random(f"{mode} {durability} {seed}")
    with Emulator(clock=ManualClock(start=time.time()), speed=float("inf")) as emulator:
        emulator.script([reply] * 100)
        has_ended = threading.Event()

        def advance() -> None:
            while not has_ended.wait(0.01):
                emulator.advance(1)

        clock = threading.Thread(target=advance)
        clock.start()
        try:
            for _ in range(kills):
                chosen = len(emulator.requests) + rng.randrange(1, REQUESTS)
                last = emulator.fault(
                    "stall;seconds=1000000",
                    when=lambda _, chosen=chosen: len(emulator.requests) >= chosen,
                    times=1,
                )
                running = AgentProcess(emulator, LANGCHAIN, folder, mode, durability)
                deadline = time.monotonic() + PATIENCE
                while not last.hit and running.is_alive and time.monotonic() < deadline:
                    time.sleep(0.01)
                running.kill()
            output = AgentProcess(emulator, LANGCHAIN, folder, mode, durability).finish()
            assert output.endswith("Both are done.\n"), output
        finally:
            has_ended.set()
            clock.join()
        kinds = [charge.kind for charge in emulator.charges]
    return {kind: kinds.count(kind) for kind in ("image", "video")}


def main() -> None:
    """Run all rounds; exit with 1 if anything was charged twice under `sync` durability."""
    rounds, failures = int(sys.argv[1]) if len(sys.argv) > 1 else 10, 0
    for mode, durability in product(MODES, DURABILITIES):
        total = {"image": 0, "video": 0}
        for seed in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                for kind, count in killed(Path(folder), mode, durability, seed).items():
                    total[kind] += count
        failures += durability == "sync" and total != {"image": rounds, "video": rounds}
        print(f"LangGraph, {mode}, {durability}: {rounds} wanted of each, paid {total}", flush=True)
    for mode, lines in SAVED.items():
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                killed_twice(LLAMA_INDEX, Path(folder), mode, *lines)  # asserts one charge for each
        print(f"LlamaIndex, {mode}: {rounds} wanted of each, paid as many", flush=True)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
