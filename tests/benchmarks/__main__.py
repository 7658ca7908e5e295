"""Measure ours beside the peers: `python -m tests.benchmarks`. Prints tables; writes them, JSON and a chart.

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
from tests.benchmarks.client import WORKS
from tests.benchmarks.goals import verdicts
from tests.benchmarks.subjects import EVERYONE, FAMILIES, PEERS
from tests.benchmarks.table import Figures, table, written

ROOT = Path(__file__).parents[2]


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
        for round_, work, subject in _schedule(rounds, works, subjects):
            for row, figure in _measured(pythons[PEERS.get(subject)], subject, work, address).items():
                taken[row][subject].append(figure)
                print(f"{round_ + 1}/{rounds} {row}: {subject} {written(figure)}", file=sys.stderr)
    return {
        row: {subject: statistics.median(each) for subject, each in found.items()}
        for row, found in taken.items()
    }


def _schedule(rounds: int, works: list[str], subjects: list[str]) -> Iterator[tuple[int, str, str]]:
    for round_ in range(rounds):
        for work in works:
            if not (WORKS[work].once and round_):
                yield from ((round_, work, each) for each in subjects if each in WORKS[work].subjects)


def _measured(python: Path, subject: str, work: str, address: str) -> dict[str, float]:
    command = [str(python), "-m", "tests.benchmarks.client", subject, work, address]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    found = json.loads(done.stdout.splitlines()[-1])
    return found if isinstance(found, dict) else {work: found}


def main() -> None:
    """Read the options, measure, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="measure works whose name has this in it")
    parser.add_argument("--subjects", nargs="*", choices=EVERYONE, help="measure these alone")
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "benchmarks")
    options = parser.parse_args()
    works = [each for each in WORKS if options.only in each]
    subjects = options.subjects or list(EVERYONE)
    figures = measure(options.rounds, works, subjects)
    about = {"python": platform.python_version(), "piccc": version("piccc"), "rounds": options.rounds}
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "benchmarks.json").write_text(json.dumps({"about": about, "figures": figures}, indent=2))
    (options.to / "benchmarks.svg").write_text(chart(figures, FAMILIES))
    report = "\n\n".join(_report(figures))
    (options.to / "benchmarks.md").write_text(f"{report}\n")
    print(f"\n{report}")


def _report(figures: Figures) -> Iterator[str]:
    for family, members in FAMILIES.items():
        if any(members[0] in row for row in figures.values()):
            yield f"**{family}**"
            yield table(figures, members)
            if lines := verdicts(figures, members[0]):
                yield "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    main()
