"""No asynchronous entry point blocks its event loop, in a cold process or a warm one."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from piccc.emulator import Emulator
from tests.event_loop.entry_points import ENTRY_POINTS

PROGRAM = Path(__file__).with_name("entry_points.py")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_point_does_not_block_the_event_loop(name: str, emulator: Emulator) -> None:
    variables = {"PICCC_BASE_URL": emulator.base_url, "PICCC_API_KEY": emulator.api_key}
    done = subprocess.run(  # noqa: S603  our own program
        [sys.executable, str(PROGRAM), name],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
