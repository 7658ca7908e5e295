"""An agent in a process of its own that is killed for good, twice, in the middle of its work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from piccc.emulator import Emulator, ManualClock, Scripted
from piccc.emulator.request_log import RequestRecord
from tests.media.paid import made

PATIENCE = 60
SAID = [
    Scripted(calls=[("generate_image", {"prompt": "A kite"})]),
    Scripted(calls=[("generate_video", {"prompt": "The kite rises"})]),
    "Both are done.",
]


def killed_twice(script: Path, folder: Path, mode: str, *after: str) -> str:
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
        first = process(emulator, script, folder, mode)
        clock.until_sleeping(timeout=PATIENCE)
        kill(first, first_line)
        assert answer_is_held_back.hit == 1
        assert made(emulator) == ["image"]

        emulator.advance(60)
        video_is_waited_for = threading.Event()

        def notice(record: RequestRecord) -> bool:
            if "video" in made(emulator):
                video_is_waited_for.set()
            return False

        emulator.fault("500", route="GET /v1/tasks*", when=notice)
        second = process(emulator, script, folder, mode)
        assert video_is_waited_for.wait(PATIENCE)
        kill(second, second_line)

        emulator.advance(60)
        third = process(emulator, script, folder, mode)
        out, err = third.communicate(timeout=PATIENCE)
        assert third.returncode == 0, err
        assert made(emulator) == ["image", "video"]
        assert sum(charge.kind == "chat" for charge in emulator.charges) == 3
    return out


def process(emulator: Emulator, script: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Run a script in a process of its own."""
    environment = {**os.environ, "PICCC_BASE_URL": emulator.base_url, "PICCC_API_KEY": emulator.api_key}
    command = [sys.executable, str(script), str(folder), *arguments]
    return subprocess.Popen(  # noqa: S603  our own command
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill(running: subprocess.Popen[str], after: str) -> None:
    """Kill a process as no program can prevent, once it has printed a line; wait until it is gone."""
    assert running.stdout
    said = not after or any(line.strip() == after for line in running.stdout)
    running.kill()
    _, err = running.communicate(timeout=PATIENCE)
    assert said, err
