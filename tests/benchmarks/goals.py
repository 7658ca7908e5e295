"""Performance goals and whether they are met."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.benchmarks.subjects import FLOORS

LANGCHAIN, LLAMA_INDEX = "langchain-piccc", "llama-index-piccc"
OPENAI, MISTRAL = "langchain-openai", "langchain-mistralai"
OPENAI_LIKE = "llama-index-openai-like"
BEST = "the best peer"

Row = dict[str, float]


class Goal(NamedTuple):
    """An upper limit for our figure: `times` the peer's figure plus `more`, or just `more` without a peer.

    `of` names another benchmark to take the peer's figure from; `least` makes `more` a lower limit.
    """

    work: str
    ours: str
    peer: str = ""
    times: float = 1.0
    more: float = 0.0
    of: str = ""
    least: bool = False


def _goals(works: tuple[str, ...], ours: str, peers: dict[str, float]) -> list[Goal]:
    return [Goal(work, ours, peer, times) for work in works for peer, times in peers.items()]


SYNC, ASYNC = "token, one per read, sync, µs", "token, one per read, async, µs"
HUNDRED = "token, 100 streams at once, µs"
MANY = ("token, eight per write, sync, µs", "token, eight per write, async, µs", HUNDRED)
FIRST = (
    *_goals((SYNC, ASYNC), LANGCHAIN, {OPENAI: 0.33, MISTRAL: 0.95}),
    *_goals(MANY, LANGCHAIN, {MISTRAL: 0.40}),
    *_goals(("call, µs",), LANGCHAIN, {OPENAI: 0.45, MISTRAL: 0.95}),
    *_goals(("call of 400 at once, µs",), LANGCHAIN, {OPENAI: 0.45, MISTRAL: 0.90}),
    *_goals((SYNC, ASYNC), LLAMA_INDEX, {OPENAI_LIKE: 0.25, "llama-index-anthropic": 0.75}),
    *_goals(("call, µs",), LLAMA_INDEX, {OPENAI_LIKE: 0.50}),
    Goal("v3 event, µs", LANGCHAIN, more=3.0),
    Goal("import, s", LANGCHAIN, "langchain-floor", more=0.10),
    Goal("import, s", LLAMA_INDEX, "llama-index-floor", more=0.10),
    Goal("10 models, ms", LANGCHAIN, more=5.0),
    Goal("10 models, ms", LLAMA_INDEX, more=5.0),
)
"""The first published goals, which `--against` checks."""


def _paced(streams: int) -> Iterator[Goal]:
    row = f"{streams:,} streams of 3 s"
    yield Goal(f"{row}: CPU of a token, µs", LANGCHAIN, BEST, 0.35)
    yield Goal(f"{row}: 99th percentile of a token's delay, ms", LANGCHAIN, BEST, 0.5)
    # Below the floor: LangChain keeps a stream's 30 chunks of 1.8 KB (54 KB) until it ends.
    yield Goal(f"{row}: memory of a stream, KB", LANGCHAIN, more=40.0)
    yield Goal(f"{row}: open at once", LANGCHAIN, more=streams, least=True)


def _mapped(ledger: str, milliseconds: float) -> Iterator[Goal]:
    row = f"map of 10,000 tasks, {ledger} ledger"
    yield Goal(f"{row}: CPU of a task, ms", "piccc", more=milliseconds)
    yield Goal(f"{row}: wall, times the server's", "piccc", more=1.1)


LARGE = "2,000 messages with 50 images"
GOALS = (
    *FIRST,
    *_goals(("call, µs",), LANGCHAIN, {"langchain-floor": 1.03}),
    *_goals((SYNC,), LANGCHAIN, {"langchain-bare": 1.25, OPENAI: 0.22}),
    *_goals((ASYNC,), LANGCHAIN, {"langchain-bare": 1.25, OPENAI: 0.18}),
    *_goals((HUNDRED,), LANGCHAIN, {MISTRAL: 0.36}),
    *_goals((SYNC, ASYNC), LLAMA_INDEX, {OPENAI_LIKE: 0.22}),
    *(goal for streams in (100, 500, 1_000) for goal in _paced(streams)),
    Goal("300 streams of 5 s: wall, s", LANGCHAIN, more=5.5),
    *(
        Goal("token of a 64 KB object, µs", ours, ours, 5 / 4, of="token of a 16 KB object, µs")
        for ours in (LANGCHAIN, LLAMA_INDEX)
    ),
    Goal("token of a 16 KB object, µs", LANGCHAIN, OPENAI, 0.2),
    Goal("token of a 16 KB object, µs", LLAMA_INDEX, OPENAI_LIKE, 0.2),
    Goal("fragment of 8 KB tool arguments, µs", LANGCHAIN, "langchain-floor", 1 / 1.2),
    *(
        goal
        for ours in (LANGCHAIN, LLAMA_INDEX)
        for goal in (
            Goal(f"{LARGE}, ms", ours, BEST, 0.5),
            Goal(f"{LARGE}: memory, times the inputs", ours, BEST, 0.5),
            Goal(
                f"{LARGE}, refused twice: memory, times the inputs",
                ours,
                ours,
                more=0.1,
                of=f"{LARGE}: memory, times the inputs",
            ),
            Goal("import over the framework's, ms", ours, more=20.0),
        )
    ),
    # LangChain itself imports its tracers on the first call.
    Goal("first call over a later one, ms", LANGCHAIN, "langchain-bare", more=15.0),
    Goal("first call over a later one, ms", LLAMA_INDEX, more=15.0),
    Goal("first call over a later one, ms", "piccc", more=15.0),
    *_mapped("memory", 1.0),
    *_mapped("SQLite", 1.5),
    *_mapped("Redis", 3.0),
    Goal("200 downloads of 5 MB: wall, times the server's", "piccc", more=1 / 0.95),
    Goal("200 downloads of 5 MB: memory, MB", "piccc", more=50.0),
    Goal("token of a real model's 60, µs", LANGCHAIN, OPENAI, 0.40),
    Goal("token of a real model's 60, µs", LLAMA_INDEX, OPENAI_LIKE, 0.40),
    Goal("token of a real model's 60, µs", "piccc", "openai", 0.40),
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
    Goal("emulator: start, s", "emulator", more=0.5),
    Goal("emulator: CPU of a whole request, µs", "emulator", more=180.0),
    Goal("emulator: CPU of a streamed request, µs", "emulator", more=250.0),
)


def verdicts(figures: dict[str, Row], members: Sequence[str], goals: Sequence[Goal] = GOALS) -> list[str]:
    """Return a line for each measured goal of a family, which lists our package first."""
    ours = members[0].partition("@")[0]
    return [line for goal in goals if goal.ours == ours and (line := _verdict(goal, figures, members))]


def _verdict(goal: Goal, figures: dict[str, Row], members: Sequence[str]) -> str | None:
    ours, *others = members
    reached = figures.get(goal.work, {}).get(ours)
    row = figures.get(goal.of or goal.work, {})
    if goal.peer == goal.ours:
        theirs = row.get(ours)
    elif goal.peer == BEST:
        theirs = min((row[each] for each in others if each in row and each not in FLOORS), default=None)
    else:
        theirs = row.get(goal.peer)
    if reached is None or (goal.peer and not theirs):
        return None
    most, limit = goal.more, f"{goal.more:,.2f}"
    if theirs and goal.more:
        reached -= theirs
        limit = f"{goal.more:.2f} more than {goal.of or goal.peer}"
    elif theirs:
        reached /= theirs
        most, limit = goal.times, f"{goal.times:.2f} × {goal.of or goal.peer}"
    is_met = reached >= most if goal.least else reached <= most
    sign = ("≥" if is_met else "<") if goal.least else ("≤" if is_met else ">")
    return f"{'met' if is_met else 'missed'} {reached:,.3f} {sign} {limit}: {goal.work}"
