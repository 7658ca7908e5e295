"""Measure piccc beside other clients: `python -m tests.benchmarks`. Prints tables; writes them, JSON and a
chart.

Each figure is the median over rounds of one client process each. A round goes through all subjects in turn,
so that a slow minute falls on all of them. The tables show multiples of our figure and, in brackets, their
spread over the rounds: compare only figures of one row. `--publish` writes them into the documentation."""

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
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.chart import chart
from tests.benchmarks.client import WORKS
from tests.benchmarks.goals import verdicts
from tests.benchmarks.subjects import EVERYONE, FAMILIES, PEERS
from tests.benchmarks.table import Figures, Samples, table, written

ROOT = Path(__file__).parents[2]
ABOUT = """# Benchmarks

CPU of the client process: our figures, and other clients as multiples of ours, with the smallest and
largest multiple of any round in brackets. A floor is httpx, the cheapest honest parse, and what the
framework itself does with a chunk for each event. The server writes from memory and pauses between writes,
as a model does: caches are cold, and each figure is two to three times that of a tight loop. Compare only
figures of one row.

{made}

![Client CPU as multiples of ours, on a logarithmic scale](benchmarks.svg)
"""


def environment(group: str | None, *extras: str) -> Path:
    """Return the interpreter of an environment with the group's peers and our extras; make it if need be."""
    folder = ROOT / (f".venv-peers-{group}" if group else ".venv-peers-ours")
    command = ["uv", "sync", "-q", "--no-default-groups", "--extra", "langchain", "--extra", "llama-index"]
    command += [each for extra in extras for each in ("--extra", extra)]
    command += ["--group", f"peers-{group}" if group else "observed"]
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


def measure(rounds: int, works: list[str], subjects: list[str]) -> Samples:
    """Return the figures of each work of each subject, one for each round."""
    pythons = {group: environment(group) for group in {PEERS.get(subject) for subject in subjects}}
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with server(next(iter(pythons.values()))) as address:
        for round_, work, subject in _schedule(rounds, works, subjects):
            for row, figure in _measured(pythons[PEERS.get(subject)], subject, work, address).items():
                taken[row][subject].append(figure)
                print(f"{round_ + 1}/{rounds} {row}: {subject} {written(figure)}", file=sys.stderr)
    return {row: dict(found) for row, found in taken.items()}


def medians(samples: Samples) -> Figures:
    """Return the median of each subject's figures."""
    return {
        row: {subject: statistics.median(each) for subject, each in found.items()}
        for row, found in samples.items()
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
    parser.add_argument(
        "--publish", action="store_true", help="write docs/benchmarks.md and its chart as well"
    )
    options = parser.parse_args()
    works = [each for each in WORKS if options.only in each]
    subjects = options.subjects or list(EVERYONE)
    samples = measure(options.rounds, works, subjects)
    figures = medians(samples)
    about = {"python": platform.python_version(), "piccc": version("piccc"), "rounds": options.rounds}
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "benchmarks.json").write_text(json.dumps({"about": about, "samples": samples}, indent=2))
    report = "\n\n".join(_report(samples, figures))
    svg = chart(figures, FAMILIES)
    command = f"python -m tests.benchmarks --rounds {options.rounds} --publish"
    machine = f"Python {about['python']}, {os.cpu_count()} cores, {date.today().isoformat()}"
    made = f"Made by `{command}` with piccc {about['piccc']} on {machine}."
    folders = [options.to, ROOT / "docs"] if options.publish else [options.to]
    for folder in folders:
        (folder / "benchmarks.svg").write_text(svg)
        (folder / "benchmarks.md").write_text(f"{ABOUT.format(made=made)}\n{report}\n")
    print(f"\n{report}")


def _report(samples: Samples, figures: Figures) -> Iterator[str]:
    for family, members in FAMILIES.items():
        if any(members[0] in row for row in figures.values()):
            yield f"## {family}"
            yield table(samples, figures, members)
            if lines := verdicts(figures, members[0]):
                yield "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    main()
