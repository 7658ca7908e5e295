"""An emulator that waits for nothing, one whose clock stands still, and shells that lead to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from piccc.emulator import Emulator, ManualClock
from piccc.emulator.api import MODELS
from tests.cli.shell import Shell


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator at full speed."""
    with Emulator(speed=math.inf, models=[*MODELS, "other"]) as running:
        yield running


@pytest.fixture
def shell(tmp_path: Path, emulator: Emulator) -> Shell:
    """Make a shell that leads to the emulator at full speed."""
    return Shell(tmp_path, emulator)


@pytest.fixture
def still(tmp_path: Path) -> Iterator[Emulator]:
    """Run an emulator whose clock stands still."""
    with Emulator(clock=ManualClock()) as running:
        yield running


@pytest.fixture
def still_shell(tmp_path: Path, still: Emulator) -> Shell:
    """Make a shell that leads to the emulator whose clock stands still."""
    return Shell(tmp_path, still)
