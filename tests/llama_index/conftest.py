"""An emulator that waits for nothing, models of both dialects on it, and both ways to call them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_index.core
import pytest
from llama_index.core import Settings

from llama_index_piccc import Piccc, ensure_nltk_data
from piccc.emulator import Emulator, ManualClock


class Sync:
    """Call the blocking methods."""

    def call(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns."""
        return getattr(owner, method)(*args, **kwargs)

    def stream(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return all that the method yields."""
        return list(getattr(owner, method)(*args, **kwargs))


class Async:
    """Await the twins of the same names with an `a` before them, in an event loop of their own."""

    def call(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns."""

        async def run() -> Any:
            return await getattr(owner, f"a{method}")(*args, **kwargs)

        return asyncio.run(run())

    def stream(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return all that the method yields."""

        async def run() -> list[Any]:
            return [each async for each in await getattr(owner, f"a{method}")(*args, **kwargs)]

        return asyncio.run(run())


@pytest.fixture(scope="session", autouse=True)
def _nltk(tmp_path_factory: pytest.TempPathFactory) -> None:
    ensure_nltk_data(tmp_path_factory.mktemp("nltk"))


@pytest.fixture(autouse=True)
def _no_loop() -> None:
    # Where a thread seems to have none, core runs what it awaits in a loop that it closes again.
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    yield
    Settings._llm = None
    Settings._callback_manager = None
    Settings._tokenizer = None
    llama_index.core.global_tokenizer = None


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator at full speed."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture(params=["openai", "anthropic"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Name each dialect in turn."""
    return str(request.param)


@pytest.fixture
def still() -> Iterator[Emulator]:
    """Run an emulator whose tasks stand still until its clock is advanced, and whose model never waits."""
    with Emulator(clock=ManualClock(start=time.time()), speed=math.inf) as running:
        yield running


@pytest.fixture(params=[Sync(), Async()], ids=["sync", "async"])
def way(request: pytest.FixtureRequest) -> Sync | Async:
    """Give each way to call in turn."""
    given: Sync | Async = request.param
    return given


@pytest.fixture
def make(emulator: Emulator) -> Callable[..., Piccc]:
    """Return a function that makes a model on the emulator."""

    def made(**settings: Any) -> Piccc:
        return Piccc(**{"base_url": emulator.base_url, "api_key": emulator.api_key, **settings})

    return made


@pytest.fixture
def llm(make: Callable[..., Piccc], dialect: str) -> Piccc:
    """Make a model of each dialect in turn."""
    return make(dialect=dialect)


@pytest.fixture(scope="session")
def documents() -> Path:
    """Return the folder of guides that questions are asked about."""
    return Path(__file__).parent / "documents"
