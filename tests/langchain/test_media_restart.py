"""An agent whose process is killed for good, twice, goes on where it was and pays for each thing once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from piccc.emulator import Emulator, ManualClock, Scripted
from piccc.emulator.journal import RequestRecord
from tests.media.paid import made

PATIENCE = 60
SCRIPT = Path(__file__).with_name("restarting_agent.py")


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that stands still, so that no task ends until it is advanced."""
    return ManualClock(start=time.time())


@pytest.fixture
def still(clock: ManualClock) -> Iterator[Emulator]:
    """Run an emulator on that clock, whose model never waits."""
    with Emulator(clock=clock, speed=float("inf")) as running:
        yield running


def process(emulator: Emulator, folder: Path, mode: str) -> subprocess.Popen[str]:
    """Start the agent in a process of its own."""
    environment = {**os.environ, "PICCC_BASE_URL": emulator.base_url, "PICCC_API_KEY": emulator.api_key}
    command = [sys.executable, str(SCRIPT), str(folder), mode]
    return subprocess.Popen(  # noqa: S603  our own command
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def killed(running: subprocess.Popen[str]) -> None:
    """Kill a process as no program can prevent, and wait until it is gone."""
    running.kill()
    running.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("mode", ["wait", "interrupt"])
def test_an_agent_that_is_killed_twice_pays_for_each_once(
    still: Emulator, clock: ManualClock, tmp_path: Path, mode: str
) -> None:
    still.script(
        [
            Scripted(calls=[("generate_image", {"prompt": "A kite"})]),
            Scripted(calls=[("generate_video", {"prompt": "The kite rises"})]),
            "Both are done.",
        ]
    )
    answer_is_held_back = still.fault("stall;seconds=3600", route="POST /v1/images/tasks", times=1)
    first = process(still, tmp_path, mode)
    clock.until_sleeping(timeout=PATIENCE)
    killed(first)
    assert answer_is_held_back.hit == 1
    assert made(still) == ["image"]

    still.advance(60)
    film_is_waited_for = threading.Event()

    def notice(record: RequestRecord) -> bool:
        if "video" in made(still):
            film_is_waited_for.set()
        return False

    still.fault("500", route="GET /v1/tasks*", when=notice)
    second = process(still, tmp_path, mode)
    assert film_is_waited_for.wait(PATIENCE)
    killed(second)

    still.advance(60)
    third = process(still, tmp_path, mode)
    out, err = third.communicate(timeout=PATIENCE)
    assert out == "image completed\nvideo completed\nBoth are done.\n", err
    assert made(still) == ["image", "video"]
    assert sum(charge.kind == "chat" for charge in still.charges) == 3
