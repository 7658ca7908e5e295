"""The benchmark report prints a goal's reason only if the goal was missed."""

from __future__ import annotations

import pytest

from tests.benchmarks.goals import GOALS, KEPT_WHY, reasons

FAMILIES = {"LangChain": ("langchain-piccc", "langchain-openai")}
MEMORY = "100 streams of 3 s: memory of a stream, KB"


@pytest.mark.parametrize(
    ("kilobytes", "expected"),
    [(41.0, [f"LangChain: {MEMORY}. {KEPT_WHY}"]), (40.0, [])],
    ids=["missed", "met"],
)
def test_a_reason_is_printed_only_for_a_missed_goal(kilobytes: float, expected: list[str]) -> None:
    assert reasons({MEMORY: {"langchain-piccc": kilobytes}}, FAMILIES) == expected


def test_goals_missed_for_the_same_reason_share_a_line() -> None:
    benchmarks = [MEMORY, MEMORY.replace("100", "500")]
    found = reasons({name: {"langchain-piccc": 90.0} for name in benchmarks}, FAMILIES)
    assert found == [f"LangChain: {benchmarks[0]}; {benchmarks[1]}. {KEPT_WHY}"]


def test_every_reason_ends_with_a_period() -> None:
    assert all(goal.why.endswith(".") for goal in GOALS if goal.why)
