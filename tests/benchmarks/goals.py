"""What ours is to reach, and whether it did."""

from __future__ import annotations

from typing import NamedTuple

LANGCHAIN, LLAMA_INDEX = "langchain-piccc", "llama-index-piccc"
OPENAI, MISTRAL = "langchain-openai", "langchain-mistralai"

Row = dict[str, float]


class Goal(NamedTuple):
    """Ours is at most `times` the peer's figure and `more`, which is all where there is no peer."""

    work: str
    ours: str
    peer: str = ""
    times: float = 1.0
    more: float = 0.0


def _goals(works: tuple[str, ...], ours: str, peers: dict[str, float]) -> list[Goal]:
    return [Goal(work, ours, peer, times) for work in works for peer, times in peers.items()]


ONE = ("token, one per read, sync, µs", "token, one per read, async, µs")
MANY = (
    "token, eight per write, sync, µs",
    "token, eight per write, async, µs",
    "token, 100 streams at once, µs",
)
GOALS = (
    *_goals(ONE, LANGCHAIN, {OPENAI: 0.33, MISTRAL: 0.95}),
    *_goals(MANY, LANGCHAIN, {MISTRAL: 0.40}),
    *_goals(("call, µs",), LANGCHAIN, {OPENAI: 0.45, MISTRAL: 0.95}),
    *_goals(("call of 400 at once, µs",), LANGCHAIN, {OPENAI: 0.45, MISTRAL: 0.90}),
    *_goals(ONE, LLAMA_INDEX, {"llama-index-openai-like": 0.25, "llama-index-anthropic": 0.75}),
    *_goals(("call, µs",), LLAMA_INDEX, {"llama-index-openai-like": 0.50}),
    Goal("v3 event, µs", LANGCHAIN, more=3.0),
    *(
        Goal(work, ours, more=more)
        for ours in (LANGCHAIN, LLAMA_INDEX, "piccc")
        for work, more in {
            "call, OpenTelemetry loaded without a provider, µs more": 1.0,
            "call, OpenTelemetry set up, times one without": 1.10,
            "call, OpenTelemetry set up: what it adds, times its SDK alone": 1.15,
            "token, OpenTelemetry set up, µs more": 1.0,
        }.items()
    ),
    Goal("import, s", LANGCHAIN, "langchain-floor", more=0.10),
    Goal("import, s", LLAMA_INDEX, "llama-index-floor", more=0.10),
    Goal("10 models, ms", LANGCHAIN, more=5.0),
    Goal("10 models, ms", LLAMA_INDEX, more=5.0),
)


def verdicts(figures: dict[str, Row], ours: str) -> list[str]:
    """Return a line for each goal of ours whose figures were measured."""
    rows = [(goal, figures.get(goal.work, {})) for goal in GOALS if goal.ours == ours]
    return [_verdict(goal, row) for goal, row in rows if {goal.ours, goal.peer or goal.ours} <= row.keys()]


def _verdict(goal: Goal, row: Row) -> str:
    reached = row[goal.ours]
    most, limit = goal.more, f"{goal.more:.2f}"
    if goal.peer and goal.more:
        reached -= row[goal.peer]
        limit = f"{goal.more:.2f} more than {goal.peer}"
    elif goal.peer:
        reached /= row[goal.peer]
        most, limit = goal.times, f"{goal.times:.2f} × {goal.peer}"
    is_met = reached <= most
    return f"{'met' if is_met else 'missed'} {reached:.3f} {'≤' if is_met else '>'} {limit}: {goal.work}"
