"""Fixtures of the LangChain tests: emulators without delays, and models that use them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_piccc import ChatPiccc
from piccc.emulator import Emulator, ManualClock
from tests.langchain.media import Way


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """Run one emulator for the whole session."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture
def own_emulator() -> Iterator[Emulator]:
    """Run an emulator for a single test, which may inject faults."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture
def paused() -> Iterator[Emulator]:
    """Run an emulator whose tasks make progress only when the test advances its clock."""
    with Emulator(clock=ManualClock(start=time.time()), speed=math.inf) as running:
        yield running


@pytest.fixture(params=["", "a"], ids=["sync", "async"])
def way(request: pytest.FixtureRequest) -> Way:
    """Run the test with sync and with async calls."""
    return Way(request.param)


@pytest.fixture(params=["openai", "anthropic"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Run the test in each dialect."""
    return str(request.param)


@pytest.fixture
def chat(emulator: Emulator, dialect: str) -> Callable[..., ChatPiccc]:
    """Return a factory for models on the emulator."""

    def make(**settings: Any) -> ChatPiccc:
        return ChatPiccc(
            base_url=emulator.base_url, api_key=emulator.api_key, **{"dialect": dialect, **settings}
        )

    return make
