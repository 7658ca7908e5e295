"""A fast emulator, and sync and async clients that one test body can use in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from piccc import AsyncClient, Client
from piccc.emulator import Emulator
from piccc.emulator.api import MODELS
from tests.media.driven import QUICK, Connect, Driven


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=60, models=[*MODELS, "other"]) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Return a function that creates a client; an async client is wrapped so that its calls block."""
    if request.param == "sync":
        clients: list[Client] = []

        def blocking(**settings: Any) -> Client:
            clients.append(Client(**{"polling": QUICK, **settings}))
            return clients[-1]

        yield blocking
        for client in clients:
            client.close()
        return
    with asyncio.Runner() as runner:
        yield lambda **settings: Driven(AsyncClient(**{"polling": QUICK, **settings}), runner)


@pytest.fixture
def client(connect: Connect, emulator: Emulator) -> Any:
    return connect(base_url=emulator.base_url, api_key=emulator.api_key)
