"""The pytest fixture `piccc_emulator`: an emulator, and environment variables that point to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from piccc.emulator import Emulator


@pytest.fixture
def piccc_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an emulator for one test, with PICCC_BASE_URL and PICCC_API_KEY set to reach it.

    It waits for nothing: tokens come at once, and a task is finished by the first read after its submission.
    For another pace or a manual clock, enter `piccc.emulator.Emulator` yourself. Needs `piccc[emulator]`.
    """
    from piccc.emulator import Emulator

    with Emulator(speed=float("inf")) as emulator:
        monkeypatch.setenv("PICCC_BASE_URL", emulator.base_url)
        monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
        yield emulator
