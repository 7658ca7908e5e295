"""What the tables of media tools in graphs and workflows share: their emulator, and a run of all rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from piccc.emulator import Emulator, ManualClock


@contextmanager
def emulator_for(row: Any) -> Iterator[tuple[Emulator, bool]]:
    """Run the emulator of a row that has a mode and an ending; say whether its time stands still."""
    stands_still = row.ending in ("late", "vanished") or (row.ending == "429" and row.mode != "wait")
    clock = ManualClock(start=time.time()) if stands_still else None
    with Emulator(clock=clock, speed=float("inf")) as emulator:
        if row.ending == "refused":
            emulator.fault("moderated", route="POST /v1/images/tasks")
        yield emulator, stands_still


def run_all(table: Sequence[Any], run: Callable[[Any], object]) -> None:
    """Run all rows, or those that have all words of the command line; exit with 1 where one fails."""
    failures = 0
    chosen = [row for row in table if set(sys.argv[1:]) <= set(row)]
    for row in chosen:
        try:
            run(row)
        except Exception as error:  # the next row goes on
            failures += 1
            print("FAILED", *row, f"{type(error).__name__}: {error}"[:2000], sep=" | ", flush=True)
    print(f"{len(chosen) - failures} of {len(chosen)} rows hold.")
    sys.exit(bool(failures))
