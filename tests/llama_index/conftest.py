"""Fixtures of the LlamaIndex tests: emulators, models in both dialects, and sync and async calls."""

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
    """Sync calls."""

    def call(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method's result."""
        return getattr(owner, method)(*args, **kwargs)

    def stream(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return all that the method yields."""
        return list(getattr(owner, method)(*args, **kwargs))


class Async:
    """Async calls: await the method of the same name with an `a` before it, in a new event loop."""

    def call(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method's result."""

        async def run() -> Any:
            return await getattr(owner, f"a{method}")(*args, **kwargs)

        return asyncio.run(run())

    def stream(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Return all that the method yields."""

        async def run() -> list[Any]:
            return [item async for item in await getattr(owner, f"a{method}")(*args, **kwargs)]

        return asyncio.run(run())


@pytest.fixture(scope="session", autouse=True)
def _nltk(tmp_path_factory: pytest.TempPathFactory) -> None:
    ensure_nltk_data(tmp_path_factory.mktemp("nltk"))


@pytest.fixture(autouse=True)
def _unset_event_loop() -> None:
    # If the thread has no event loop, core runs coroutines in a loop that it closes again.
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _reset_settings() -> Iterator[None]:
    yield
    Settings._llm = None
    Settings._callback_manager = None
    Settings._tokenizer = None
    llama_index.core.global_tokenizer = None


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator without delays."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture(params=["openai", "anthropic"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Run the test in each dialect."""
    return str(request.param)


@pytest.fixture
def paused() -> Iterator[Emulator]:
    """Run an emulator whose tasks make progress only when the test advances its clock."""
    with Emulator(clock=ManualClock(start=time.time()), speed=math.inf) as running:
        yield running


@pytest.fixture(params=[Sync(), Async()], ids=["sync", "async"])
def way(request: pytest.FixtureRequest) -> Sync | Async:
    """Run the test with sync and with async calls."""
    caller: Sync | Async = request.param
    return caller


@pytest.fixture
def make(emulator: Emulator) -> Callable[..., Piccc]:
    """Return a factory for models on the emulator."""

    def made(**settings: Any) -> Piccc:
        return Piccc(**{"base_url": emulator.base_url, "api_key": emulator.api_key, **settings})

    return made


@pytest.fixture
def llm(make: Callable[..., Piccc], dialect: str) -> Piccc:
    """Return a model in each dialect."""
    return make(dialect=dialect)


@pytest.fixture(scope="session")
def documents() -> Path:
    """Return the folder with the guides."""
    return Path(__file__).parent / "documents"
