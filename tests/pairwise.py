"""Select rows of a test table so that every pair of values occurs (pairwise testing)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any


def pairwise(table: Sequence[Any]) -> Iterator[Any]:
    """Yield rows until every pair of values has occurred: greedily, the row with the most new pairs."""

    def pairs(row: Any) -> set[Any]:
        return set(combinations(enumerate(row), 2))

    missing = set().union(*map(pairs, table))
    while missing:
        best = max(table, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        yield best
