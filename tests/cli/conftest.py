"""Emulators at full speed and on a manual clock, and shells configured for them."""

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
    """Return a shell configured for the emulator at full speed."""
    return Shell(tmp_path, emulator)


@pytest.fixture
def manual(tmp_path: Path) -> Iterator[Emulator]:
    """Run an emulator on a manual clock."""
    with Emulator(clock=ManualClock()) as running:
        yield running


@pytest.fixture
def manual_shell(tmp_path: Path, manual: Emulator) -> Shell:
    """Return a shell configured for the emulator on the manual clock."""
    return Shell(tmp_path, manual)
