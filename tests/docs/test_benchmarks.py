"""The benchmark report says why a goal was missed, and only then."""

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
def test_only_a_missed_goal_has_its_reason_printed(kilobytes: float, expected: list[str]) -> None:
    assert reasons({MEMORY: {"langchain-piccc": kilobytes}}, FAMILIES) == expected


def test_goals_missed_for_one_reason_share_its_line() -> None:
    works = [MEMORY, MEMORY.replace("100", "500")]
    found = reasons({work: {"langchain-piccc": 90.0} for work in works}, FAMILIES)
    assert found == [f"LangChain: {works[0]}; {works[1]}. {KEPT_WHY}"]


def test_every_reason_ends_as_a_sentence() -> None:
    assert all(goal.why.endswith(".") for goal in GOALS if goal.why)
