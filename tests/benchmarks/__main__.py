"""Measure ours beside the peers: `python -m tests.benchmarks`. Prints tables; writes JSON and a chart.

Each figure is the median over rounds of one client process each; a round goes through all subjects in turn,
so that a slow minute falls on all of them. The tables show multiples of ours: compare nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.chart import chart
from tests.benchmarks.subjects import PEERS

ROOT = Path(__file__).parents[2]
FAMILIES = {
    "LangChain": (
        "langchain-piccc",
        "langchain-openai",
        "langchain-anthropic",
        "langchain-mistralai",
        "langchain-deepseek",
        "langchain-floor",
    ),
    "LlamaIndex": ("llama-index-piccc", "llama-index-openai-like", "llama-index-anthropic"),
}
NOT_FOR = {
    "import, s": ("langchain-floor",),
    "10 models, ms": ("langchain-floor",),
    "fragment of 8 KB tool arguments, µs": (
        "langchain-floor",
        "langchain-anthropic",
        "llama-index-anthropic",
    ),
}
"""Works that say nothing of a subject: the floor imports nothing; arguments come in OpenAI's dialect."""
WORKS = (
    "import, s",
    "10 models, ms",
    "memory, MB",
    "call, µs",
    "call of 400 at once, µs",
    "token, one per read, sync, µs",
    "token, one per read, async, µs",
    "token, eight per write, sync, µs",
    "token, eight per write, async, µs",
    "token, 100 streams at once, µs",
    "token of 20,000, µs",
    "fragment of 8 KB tool arguments, µs",
)

Figures = dict[str, dict[str, float]]


def environment(group: str | None) -> Path:
    """Return the interpreter of an environment with the group's peers and our extras; make it if need be."""
    folder = ROOT / (f".venv-peers-{group}" if group else ".venv-peers-ours")
    command = ["uv", "sync", "-q", "--no-default-groups", "--extra", "langchain", "--extra", "llama-index"]
    command += ["--group", f"peers-{group}"] if group else []
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "UV_PROJECT_ENVIRONMENT": str(folder)})  # noqa: S603
    return folder / "bin" / "python"


@contextmanager
def server(python: Path) -> Iterator[str]:
    """Serve from memory in a process of its own; yield its address."""
    command = [str(python), "-m", "tests.benchmarks.server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def measure(rounds: int, works: list[str], subjects: list[str]) -> Figures:
    """Return the median of each work of each subject."""
    pythons = {group: environment(group) for group in {PEERS.get(subject) for subject in subjects}}
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with server(next(iter(pythons.values()))) as address:
        for round_ in range(rounds):
            for work in works:
                for subject in subjects:
                    if subject in NOT_FOR.get(work, ()):
                        continue
                    figure = _figure(pythons[PEERS.get(subject)], subject, work, address)
                    taken[work][subject].append(figure)
                    print(f"{round_ + 1}/{rounds} {work}: {subject} {figure:.3g}", file=sys.stderr)
    return {
        work: {subject: statistics.median(each) for subject, each in row.items()}
        for work, row in taken.items()
    }


def table(figures: Figures, subjects: tuple[str, ...]) -> str:
    """Return a Markdown table: ours in figures, the others as multiples of ours."""
    ours, *others = [each for each in subjects if any(each in row for row in figures.values())]
    lines = [f"| work | {ours} | {' | '.join(others)} |", "|---" * (len(others) + 2) + "|"]
    for work, row in figures.items():
        if ours in row:
            cells = [f"{row[each] / row[ours]:.2f} ×" if each in row else "–" for each in others]
            lines.append(f"| {work} | {row[ours]:.3g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(python: Path, subject: str, work: str, address: str) -> float:
    command = [str(python), "-m", "tests.benchmarks.client", subject, work, address]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Read the options, measure, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="measure works whose name has this in it")
    parser.add_argument("--subjects", nargs="*", help="measure these alone")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args()
    works = [each for each in WORKS if options.only in each]
    subjects = options.subjects or [each for family in FAMILIES.values() for each in family]
    figures = measure(options.rounds, works, subjects)
    about = {"python": platform.python_version(), "piccc": version("piccc"), "rounds": options.rounds}
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "benchmarks.json").write_text(json.dumps({"about": about, "figures": figures}, indent=2))
    (options.to / "benchmarks.svg").write_text(chart(figures, FAMILIES))
    for family, members in FAMILIES.items():
        if any(each in subjects for each in members):
            print(f"\n{family}\n\n{table(figures, members)}")


if __name__ == "__main__":
    main()
