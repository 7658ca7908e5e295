"""Agents in processes of their own that are killed twice while they work."""

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
REPLIES = [
    Scripted(calls=[("generate_image", {"prompt": "A kite"})]),
    Scripted(calls=[("generate_video", {"prompt": "The kite rises"})]),
    "Both are done.",
]
_CONTEXT = multiprocessing.get_context("forkserver")
# Fork from a process that has only loaded the frameworks, as loading them takes seconds.
_CONTEXT.set_forkserver_preload([LANGCHAIN, LLAMA_INDEX])


class AgentProcess:
    """An agent in its own process, and what it prints.

    Args:
        emulator: the server that the agent's environment names.
        module: the module with the agent's `main`.
        folder: the folder for the agent's files and its output.
        options: further arguments of `main`.
    """

    def __init__(self, emulator: Emulator, module: str, folder: Path, *options: str) -> None:
        self._output = folder / f"{uuid4().hex}.out"
        environment = {**os.environ, "PICCC_BASE_URL": emulator.base_url, "PICCC_API_KEY": emulator.api_key}
        arguments = (module, folder, options, environment, self._output)
        self._process = _CONTEXT.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def is_alive(self) -> bool:
        """Whether the process is still running."""
        return self._process.is_alive()

    @property
    def output(self) -> str:
        """The output so far."""
        return self._output.read_text() if self._output.exists() else ""

    def kill(self, after: str = "") -> None:
        """Send SIGKILL, once the process has printed the line `after` if given; wait until it has ended."""
        deadline = time.monotonic() + PATIENCE
        while not (has_printed := not after or f"{after}\n" in self.output):
            if not self.is_alive or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        self._process.kill()
        self._process.join(PATIENCE)
        assert has_printed, self.output

    def finish(self) -> str:
        """Wait until the agent has finished; return its output."""
        self._process.join(PATIENCE)
        assert self._process.exitcode == 0, self.output
        return self.output


def _run(
    module: str, folder: Path, options: tuple[str, ...], environment: Mapping[str, str], output: Path
) -> None:
    os.environ.update(environment)
    with output.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        importlib.import_module(module).main(folder, *options)


def killed_twice(module: str, folder: Path, mode: str, *after: str) -> str:
    """Run an agent that generates an image, then a video from it; return its output after two restarts.

    The first process is killed before the image's submission gets a response, the second while it waits for
    the video; if `after` has two lines, each must first print its own. Check that nothing is charged twice.
    """
    first_line, second_line = after or ("", "")
    clock = ManualClock(start=time.time())  # no task ends until the test advances it
    with Emulator(clock=clock, speed=float("inf")) as emulator:
        emulator.script(REPLIES)
        stalled = emulator.fault("stall;seconds=3600", route="POST /v1/images/tasks", times=1)
        first = AgentProcess(emulator, module, folder, mode)
        clock.until_sleeping(timeout=PATIENCE)
        first.kill(first_line)
        assert stalled.hit == 1
        assert made(emulator) == ["image"]

        emulator.advance(60)
        waits_for_video = threading.Event()

        def notice_video(record: RequestRecord) -> bool:
            if "video" in made(emulator):
                waits_for_video.set()
            return False

        emulator.fault("500", route="GET /v1/tasks*", when=notice_video)
        second = AgentProcess(emulator, module, folder, mode)
        assert waits_for_video.wait(PATIENCE), second.output
        second.kill(second_line)

        emulator.advance(60)
        output = AgentProcess(emulator, module, folder, mode).finish()
        assert made(emulator) == ["image", "video"]
        assert sum(charge.kind == "chat" for charge in emulator.charges) == 3
    return output
