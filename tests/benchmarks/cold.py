"""Cold start: imports, our cost over the framework's, and the first call's cost over a later one."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.benchmarks import langchain, llama_index, raw  # noqa: F401  imported before measuring
from tests.benchmarks.cpu import cpu
from tests.benchmarks.subjects import FAMILIES, FLOORS, IMPORTS, Subject, make

TIMES = 5
"""How many processes to run; the fastest counts, because the first reads its files from disk."""


def imports(subject: str, server: str) -> float:
    """Return the CPU seconds of a user's import.

    Garbage collection is off: one pass over a framework's objects costs more than our import, and which
    import it hits is random.
    """
    program = f"import gc, time; gc.disable(); b = time.process_time(); {IMPORTS[subject]}"
    return min(float(_fresh(f"{program}; print(time.process_time() - b)").stdout) for _ in range(TIMES))


def imports_over(subject: str, server: str) -> float:
    """Return the total self time of modules imported after the framework's, in milliseconds.

    The framework is imported first, because it loads parts of itself lazily through `importlib`, and
    `-X importtime` attributes that to the importing module.
    """
    floor = next(
        each for family in FAMILIES.values() if subject in family for each in family if each in FLOORS
    )
    return min(_self_times(IMPORTS[floor], IMPORTS[subject]) for _ in range(TIMES)) / 1e3


def _self_times(first: str, then: str) -> float:
    """Return the total self time of the second import's modules in microseconds."""
    program = f"import gc, sys; gc.disable(); {first}; print('then', file=sys.stderr); {then}"
    rows = _fresh(program, "-X", "importtime").stderr.partition("\nthen\n")[2].splitlines()
    owns = (row.removeprefix("import time:").partition("|")[0].strip() for row in rows)
    return sum(float(own) for own in owns if own.isdecimal())


def _fresh(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a separate process with compiled modules cached, as for users."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *options, "-c", program]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603  ours


def first_call(subject: str, server: str) -> float:
    """Return the cost of creating a model and its first call over a later call, in milliseconds."""
    exec(IMPORTS[subject])  # noqa: S102  our own constant
    made = list[Subject]()

    def begin() -> None:
        made.append(make(subject, f"{server}/eight-1"))
        made[0].call()

    return (cpu(begin, 1) - cpu(lambda: [made[0].call() for _ in range(50)], 50)) / 1e3
