"""Agents that are killed for good, in rounds: `python -m tests.media.kills [ROUNDS]`, 10 by default.

An agent makes an image, then a video of it. A round kills its process at a request that a seed chooses and
that gets no answer, then another process, and lets a third go on. Each mode of LangGraph's tools is tried
with each durability, and each mode of LlamaIndex's at the moments that its saved contexts allow.
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
REQUESTS = 7
"""How many requests a run has at least; one of these is its last."""


def reply(ask: Any) -> Any:
    """Speak as a model that has an image made, then a video, whatever it was asked before."""
    results = sum(turn.role == "tool" for turn in ask.turns)
    if results == 0:
        return Scripted(calls=[("generate_image", {"prompt": "A kite"})])
    return Scripted(calls=[("generate_video", {"prompt": "It rises"})]) if results == 1 else "Both are done."


def killed(folder: Path, mode: str, durability: str, seed: int, kills: int = 2) -> dict[str, int]:
    """Run LangGraph's agent, killed at random requests; return what was charged once it came to its end."""
    draw = random.Random(f"{mode} {durability} {seed}")
    with Emulator(clock=ManualClock(start=time.time()), speed=float("inf")) as emulator:
        emulator.script([reply] * 100)
        has_ended = threading.Event()

        def go_on() -> None:
            while not has_ended.wait(0.01):
                emulator.advance(1)

        clock = threading.Thread(target=go_on)
        clock.start()
        try:
            for _ in range(kills):
                chosen = len(emulator.requests) + draw.randrange(1, REQUESTS)
                last = emulator.fault(
                    "stall;seconds=1000000",
                    when=lambda _, chosen=chosen: len(emulator.requests) >= chosen,
                    times=1,
                )
                running = AgentProcess(emulator, LANGCHAIN, folder, mode, durability)
                give_up = time.monotonic() + PATIENCE
                while not last.hit and running.is_alive and time.monotonic() < give_up:
                    time.sleep(0.01)
                running.kill()
            said = AgentProcess(emulator, LANGCHAIN, folder, mode, durability).finish()
            assert said.endswith("Both are done.\n"), said
        finally:
            has_ended.set()
            clock.join()
        kinds = [charge.kind for charge in emulator.charges]
    return {kind: kinds.count(kind) for kind in ("image", "video")}


def main() -> None:
    """Run all rounds; exit with 1 where something was paid twice that should not be."""
    rounds, bad = int(sys.argv[1]) if len(sys.argv) > 1 else 10, 0
    for mode, durability in product(MODES, DURABILITIES):
        total = {"image": 0, "video": 0}
        for seed in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                for kind, count in killed(Path(folder), mode, durability, seed).items():
                    total[kind] += count
        bad += durability == "sync" and total != {"image": rounds, "video": rounds}
        print(f"LangGraph, {mode}, {durability}: {rounds} wanted of each, paid {total}", flush=True)
    for mode, moments in SAVED.items():
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                killed_twice(LLAMA_INDEX, Path(folder), mode, *moments)  # asserts one charge for each
        print(f"LlamaIndex, {mode}: {rounds} wanted of each, paid as many", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
