"""The retry budget: retries spend it, successes refill it, and an outage empties it."""

from __future__ import annotations

import pytest

from piccc._http import session as budget
from piccc._http.session import CAPACITY, COST, COST_WHEN_REFUSED, RetryBudget, budget_of
from piccc.config import resolve
from piccc.errors import OverloadedError
from tests.faults.calls import MODES, Mode, call
from tests.faults.replies import whole
from tests.faults.server import FaultServer, reply
from tests.faults.virtual import VirtualIO


@pytest.fixture(autouse=True)
def fresh_budget() -> None:
    """Reset the budgets: failures in earlier tests spent them."""
    budget._budgets.clear()


def test_a_budget_pays_until_it_is_empty() -> None:
    tokens = RetryBudget(30.0)
    assert [tokens.take(COST) for _ in range(3)] == [True, True, False]
    assert tokens.take(2.0)
    assert not tokens.take(0.5)


def test_a_budget_never_exceeds_its_initial_amount() -> None:
    tokens = RetryBudget(10.0)
    tokens.give(100.0)
    assert not tokens.take(10.5)
    assert tokens.take(10.0)


def test_each_server_has_its_own_budget() -> None:
    server, other = ("https", "a.test", 443), ("https", "b.test", 443)
    assert budget_of(server) is budget_of(server)
    assert budget_of(server) is not budget_of(other)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_an_outage_stops_retries_and_recovery_restores_them(mode: Mode) -> None:
    with FaultServer() as server:
        case = server.case([reply(503)])
        config = resolve(api_key="pcc_live_outage", base_url=case.base_url)
        attempts = []
        for _ in range(60):
            with pytest.raises(OverloadedError) as caught:
                call(mode, "chat", config, VirtualIO(mode.port()))
            attempts.append(caught.value.attempts)
        assert sum(attempts) == 60 + CAPACITY // COST_WHEN_REFUSED
        assert attempts[:50] == [3] * 50
        assert attempts[50:] == [1] * 10
        assert "nothing more is sent" in caught.value.hint
        case.answers = [[reply(200, whole("chat"))]]
        for _ in range(int(COST_WHEN_REFUSED)):
            call(mode, "chat", config, VirtualIO(mode.port()))
        case.answers = [[reply(503)]]
        with pytest.raises(OverloadedError) as caught:
            call(mode, "chat", config, VirtualIO(mode.port()))
        assert caught.value.attempts == 2
