"""One retry budget per server and process, so that an outage does not become a storm of retries."""

from __future__ import annotations

import os
import threading

CAPACITY = 500.0
COST = 14.0
COST_WHEN_REFUSED = 5.0
REFUND = 1.0


class Budget:
    """A bucket of tokens: retries take from it, successes put back."""

    def __init__(self, capacity: float = CAPACITY) -> None:
        self._capacity = capacity
        self._tokens = capacity
        self._lock = threading.Lock()

    def take(self, cost: float) -> bool:
        """Pay for one retry; return False, taking nothing, where too little is left."""
        with self._lock:
            if self._tokens < cost:
                return False
            self._tokens -= cost
            return True

    def give(self, amount: float) -> None:
        """Put back after a success, what its retries had cost or at least a little."""
        if self._tokens < self._capacity:
            with self._lock:
                self._tokens = min(self._capacity, self._tokens + amount)


_budgets: dict[tuple[str, str, int], Budget] = {}


def budget_of(origin: tuple[str, str, int]) -> Budget:
    """Return the one budget that all clients of this process share for a server."""
    return _budgets.get(origin) or _budgets.setdefault(origin, Budget())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_budgets.clear)
