"""A cold start: what an import adds to its framework's, and the first answered call to a later one."""

from __future__ import annotations

import statistics
import subprocess
import sys

from tests.benchmarks import langchain, llama_index, raw  # noqa: F401  they are not what starts cold
from tests.benchmarks.cpu import cpu
from tests.benchmarks.subjects import FAMILIES, FLOORS, IMPORTS, Subject, make

TIMES = 3


def imports_over(subject: str, server: str) -> float:
    """Return the sum of self times of the modules that are not the framework's, in milliseconds."""
    floor = next(
        each for family in FAMILIES.values() if subject in family for each in family if each in FLOORS
    )
    known = _self_times(floor).keys()
    sums = [
        sum(time for name, time in _self_times(subject).items() if name not in known) for _ in range(TIMES)
    ]
    return statistics.median(sums) / 1e3


def _self_times(subject: str) -> dict[str, float]:
    """Return the microseconds that each module takes itself, as `-X importtime` reports them."""
    command = [sys.executable, "-X", "importtime", "-c", f"import gc; gc.disable(); {IMPORTS[subject]}"]
    report = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr  # noqa: S603  a constant
    rows = (
        line.removeprefix("import time:").split("|") for line in report.splitlines() if line.count("|") == 2
    )
    return {name.strip(): float(own) for own, _, name in rows if own.strip().isdecimal()}


def first_call(subject: str, server: str) -> float:
    """Return what making a model and its first answer cost above a later answer, in milliseconds."""
    exec(IMPORTS[subject])  # noqa: S102  a constant of ours
    made = list[Subject]()

    def begin() -> None:
        made.append(make(subject, f"{server}/eight-1"))
        made[0].call()

    return (cpu(begin, 1) - cpu(lambda: [made[0].call() for _ in range(50)], 50)) / 1e3
