"""An agent in a process of its own that is killed for good, twice, in the middle of its work."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from uuid import uuid4

from piccc.emulator import Emulator, ManualClock, Scripted
from piccc.emulator.request_log import RequestRecord
from tests.media.paid import made

PATIENCE = 60
LANGCHAIN = "tests.langchain.restarting_agent"
LLAMA_INDEX = "tests.llama_index.restarting_agent"
SAID = [
    Scripted(calls=[("generate_image", {"prompt": "A kite"})]),
    Scripted(calls=[("generate_video", {"prompt": "The kite rises"})]),
    "Both are done.",
]
_FORKS = multiprocessing.get_context("forkserver")
# Processes are forked from one that has loaded the frameworks and done nothing else: that takes seconds.
_FORKS.set_forkserver_preload([LANGCHAIN, LLAMA_INDEX])


class AgentProcess:
    """An agent in a process of its own, and what it prints.

    Args:
        emulator: the server that its environment names.
        module: has the agent's `main`.
        folder: where the agent keeps its files, and what it prints is written.
        options: what else `main` is given.
    """

    def __init__(self, emulator: Emulator, module: str, folder: Path, *options: str) -> None:
        self._output = folder / f"{uuid4().hex}.out"
        environment = {**os.environ, "PICCC_BASE_URL": emulator.base_url, "PICCC_API_KEY": emulator.api_key}
        self._process = _FORKS.Process(target=_run, args=(module, folder, options, environment, self._output))
        self._process.start()

    @property
    def is_alive(self) -> bool:
        """Whether it has neither ended nor been killed."""
        return self._process.is_alive()

    @property
    def said(self) -> str:
        """What it has printed until now."""
        return self._output.read_text() if self._output.exists() else ""

    def kill(self, after: str = "") -> None:
        """Kill it as no program can prevent, once it has printed a line, if any; wait until it is gone."""
        give_up = time.monotonic() + PATIENCE
        while not (has_said := not after or f"{after}\n" in self.said):
            if not self.is_alive or time.monotonic() > give_up:
                break
            time.sleep(0.01)
        self._process.kill()
        self._process.join(PATIENCE)
        assert has_said, self.said

    def finish(self) -> str:
        """Wait until it has ended of itself; return what it printed."""
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0, self.said
        return self.said


def _run(
    module: str, folder: Path, options: tuple[str, ...], environment: Mapping[str, str], output: Path
) -> None:
    os.environ.update(environment)
    with output.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        importlib.import_module(module).main(folder, *options)


def killed_twice(module: str, folder: Path, mode: str, *after: str) -> str:
    """Run an agent that makes an image, then a video of it; return what it prints after two restarts.

    The first process is killed while the image's submission has no answer yet, the second while the video
    is waited for, each not before it has printed its line of `after`, if there is one. See that the third
    pays for nothing again.
    """
    first_line, second_line = after or ("", "")
    clock = ManualClock(start=time.time())  # which stands still, so that no task ends until it is advanced
    with Emulator(clock=clock, speed=float("inf")) as emulator:
        emulator.script(SAID)
        answer_is_held_back = emulator.fault("stall;seconds=3600", route="POST /v1/images/tasks", times=1)
        first = AgentProcess(emulator, module, folder, mode)
        clock.until_sleeping(timeout=PATIENCE)
        first.kill(first_line)
        assert answer_is_held_back.hit == 1
        assert made(emulator) == ["image"]

        emulator.advance(60)
        video_is_waited_for = threading.Event()

        def notice(record: RequestRecord) -> bool:
            if "video" in made(emulator):
                video_is_waited_for.set()
            return False

        emulator.fault("500", route="GET /v1/tasks*", when=notice)
        second = AgentProcess(emulator, module, folder, mode)
        assert video_is_waited_for.wait(PATIENCE), second.said
        second.kill(second_line)

        emulator.advance(60)
        said = AgentProcess(emulator, module, folder, mode).finish()
        assert made(emulator) == ["image", "video"]
        assert sum(charge.kind == "chat" for charge in emulator.charges) == 3
    return said
