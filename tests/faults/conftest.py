"""One raw server for all tests of a module, and a fresh retry budget for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trustme

from piccc._http import connections
from piccc._http import session as budget
from tests.faults.server import FaultServer


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    """Run a raw server."""
    with FaultServer() as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_budget() -> None:
    """Reset the retry budget spent by earlier tests."""
    budget._budgets.clear()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Create a certificate authority that is not trusted yet."""
    return trustme.CA()


@pytest.fixture(autouse=True)
def fresh_connections() -> None:
    """Close idle connections of earlier tests, because failures differ on reused connections."""
    connections.blocking_pool.close()
