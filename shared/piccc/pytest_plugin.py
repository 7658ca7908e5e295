"""The pytest fixture `piccc_emulator`: an emulator, and environment variables that point to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from piccc.emulator import Emulator


@pytest.fixture
def piccc_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an emulator for one test, with the environment variables PICCC_* set to reach it.

    PICCC_BASE_URL, PICCC_API_KEY, PICCC_IMAGE_MODEL and PICCC_VIDEO_MODEL are set, and NO_PROXY keeps proxies
    of the environment away from it. It waits for nothing: tokens come at once, and a task is finished by the
    first read after its submission. For another speed or a manual clock, enter `piccc.emulator.Emulator`
    yourself. Needs `piccc[emulator]`.
    """
    from piccc.emulator import Emulator

    with Emulator(speed=float("inf")) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("NO_PROXY", "no_proxy"):
            spared = [os.environ.get(name, ""), "127.0.0.1", "localhost"]
            monkeypatch.setenv(name, ",".join(filter(None, spared)))
        yield emulator
