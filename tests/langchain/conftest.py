"""What the LangChain tests share: an emulator that waits for nothing, and models that speak with it."""

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
    """Run one emulator for all tests of a session."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture
def own_emulator() -> Iterator[Emulator]:
    """Run an emulator for one test, which may break it."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture
def still() -> Iterator[Emulator]:
    """Run an emulator whose tasks stand still until its clock is advanced, and whose model never waits."""
    with Emulator(clock=ManualClock(start=time.time()), speed=math.inf) as running:
        yield running


@pytest.fixture(params=["", "a"], ids=["sync", "async"])
def way(request: pytest.FixtureRequest) -> Way:
    """Run a test blocking and asynchronously."""
    return Way(request.param)


@pytest.fixture(params=["openai", "anthropic"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Run a test once over each dialect."""
    return str(request.param)


@pytest.fixture
def chat(emulator: Emulator, dialect: str) -> Callable[..., ChatPiccc]:
    """Return a function that makes a model for the emulator."""

    def make(**settings: Any) -> ChatPiccc:
        return ChatPiccc(
            base_url=emulator.base_url, api_key=emulator.api_key, **{"dialect": dialect, **settings}
        )

    return make
