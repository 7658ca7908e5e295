"""An emulator that waits for nothing, one whose clock stands still, and clients with the key."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import httpx
import pytest

from piccc.emulator import Emulator, ManualClock
from tests.emulator.wire import connect


@pytest.fixture(autouse=True)
def silence(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Hold that nothing that a client does, or that is provoked, makes the server complain."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.get_records("teardown")]
    said = [record.getMessage() for record in records if record.levelno >= logging.WARNING]
    assert set(said) <= {"Refused a client that sent an invalid or oversized HTTP/1.1 request head."}


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator at full speed."""
    with Emulator(speed=math.inf) as running:
        yield running


@pytest.fixture
def clock() -> ManualClock:
    """Make a clock that stands still."""
    return ManualClock()


@pytest.fixture
def still(clock: ManualClock) -> Iterator[Emulator]:
    """Run an emulator by the clock that stands still."""
    with Emulator(clock=clock) as running:
        yield running


@pytest.fixture
def client(emulator: Emulator) -> Iterator[httpx.Client]:
    """Open a client of the emulator at full speed."""
    with connect(emulator) as opened:
        yield opened


@pytest.fixture
def still_client(still: Emulator) -> Iterator[httpx.Client]:
    """Open a client of the emulator whose clock stands still."""
    with connect(still) as opened:
        yield opened
