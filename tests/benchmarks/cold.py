"""Cold start: imports, alone and after the framework's, and the first call's cost over a later one."""

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
    """Return the CPU seconds of a user's import."""
    return _import_time(IMPORTS[subject])


def imports_over(subject: str, server: str) -> float:
    """Return the CPU milliseconds of a user's import after the framework's.

    Not the sum of self times in `-X importtime`: it omits modules loaded by `importlib.import_module`, which
    is how packages load a class that is asked for by name.
    """
    floor = next(
        each for family in FAMILIES.values() if subject in family for each in family if each in FLOORS
    )
    return _import_time(IMPORTS[subject], IMPORTS[floor]) * 1e3


def _import_time(statement: str, before: str = "") -> float:
    """Return the CPU seconds of an import statement in a fresh process.

    Garbage collection is off: one pass over a framework's objects costs more than our import, and which
    import it hits is random.
    """
    begin, end = "began = time.process_time()", "print(time.process_time() - began)"
    program = "\n".join(("import gc, time", "gc.disable()", before, begin, statement, end))
    return min(float(_fresh(program)) for _ in range(TIMES))


def _fresh(program: str) -> str:
    """Return the output of a program in a separate process with compiled modules cached, as for users."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603  ours
    return run.stdout


def first_call(subject: str, server: str) -> float:
    """Return the cost of creating a model and its first call over a later call, in milliseconds."""
    exec(IMPORTS[subject])  # noqa: S102  our own constant
    made = list[Subject]()

    def begin() -> None:
        made.append(make(subject, f"{server}/eight-1"))
        made[0].call()

    return (cpu(begin, 1) - cpu(lambda: [made[0].call() for _ in range(50)], 50)) / 1e3
