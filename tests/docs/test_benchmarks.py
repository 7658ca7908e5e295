"""What the benchmark report says of a goal: met or missed, in how many rounds, and why it was missed."""

from __future__ import annotations

import pytest

from tests.benchmarks.goals import GOALS, KEPT_WHY, reasons, verdicts

FAMILIES = {"LangChain": ("langchain-piccc", "langchain-openai")}
MEMORY = "100 streams of 3 s: memory of a stream, KB"


@pytest.mark.parametrize(
    ("kilobytes", "expected"),
    [(41.0, [f"LangChain: {MEMORY}. {KEPT_WHY}"]), (40.0, [])],
    ids=["missed", "met"],
)
def test_a_reason_is_printed_only_for_a_missed_goal(kilobytes: float, expected: list[str]) -> None:
    assert reasons([{MEMORY: {"langchain-piccc": kilobytes}}], FAMILIES) == expected


def test_goals_missed_for_the_same_reason_share_a_line() -> None:
    benchmarks = [MEMORY, MEMORY.replace("100", "500")]
    found = reasons([{name: {"langchain-piccc": 90.0} for name in benchmarks}], FAMILIES)
    assert found == [f"LangChain: {benchmarks[0]}; {benchmarks[1]}. {KEPT_WHY}"]


def test_a_peer_that_opens_fewer_streams_is_no_measure_for_delays() -> None:
    ours, openai, mistral = members = ("langchain-piccc", "langchain-openai", "langchain-mistralai")
    row = "500 streams of 3 s"
    figures = {
        f"{row}: 99th percentile of a token's delay, ms": {ours: 20.0, openai: 100.0, mistral: 10.0},
        f"{row}: open at once": {ours: 500.0, openai: 500.0, mistral: 100.0},
    }
    delay = verdicts([figures], members)[0]
    assert delay.startswith("met 0.200 ≤ 0.50 × the best peer that opens all streams at once")


def test_multiples_are_taken_within_each_round() -> None:
    ours, openai = members = ("langchain-piccc", "langchain-openai")
    rounds = [{"call, µs": {ours: x, openai: y}} for x, y in ((40.0, 100.0), (90.0, 200.0), (50.0, 100.0))]
    assert verdicts(rounds, members) == ["met 0.450 ≤ 0.45 × langchain-openai: call, µs (2 of 3 rounds)"]


def test_every_reason_ends_with_a_period() -> None:
    assert all(goal.why.endswith(".") for goal in GOALS if goal.why)
