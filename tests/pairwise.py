"""Rows of a table that have each pair of its values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any


def pairwise(table: Sequence[Any]) -> Iterator[Any]:
    """Yield rows until each pair of values of a table was in one: greedily, the row with most new pairs."""

    def pairs(row: Any) -> set[Any]:
        return set(combinations(enumerate(row), 2))

    missing = set().union(*map(pairs, table))
    while missing:
        best = max(table, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        yield best
