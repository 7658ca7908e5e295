"""Emulators at full speed and on a manual clock, and clients that carry the key."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import httpx
import pytest

from piccc.emulator import Emulator, ManualClock
from tests.emulator.wire import connect


@pytest.fixture(autouse=True)
def no_server_warnings(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Assert that the server logs no warnings, whatever a client sends and whatever fault is injected."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.get_records("teardown")]
    messages = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert set(messages) <= {"Refused a client that sent an invalid or oversized HTTP/1.1 request head."}


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator at full speed."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    """Return a clock that moves only when told to."""
    return ManualClock()


@pytest.fixture
def manual(clock: ManualClock) -> Iterator[Emulator]:
    """Run an emulator on the manual clock."""
    with Emulator(clock=clock) as running:
        yield running


@pytest.fixture
def client(emulator: Emulator) -> Iterator[httpx.Client]:
    """Open a client for the emulator at full speed."""
    with connect(emulator) as opened:
        yield opened


@pytest.fixture
def manual_client(manual: Emulator) -> Iterator[httpx.Client]:
    """Open a client for the emulator on the manual clock."""
    with connect(manual) as opened:
        yield opened
