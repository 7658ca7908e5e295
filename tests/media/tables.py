"""Shared code for the tables of media tools in graphs and workflows: the emulator, and a run of all rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from piccc.emulator import Emulator, ManualClock


@contextmanager
def emulator_for(row: Any) -> Iterator[tuple[Emulator, bool]]:
    """Run the emulator for a row with a mode and an ending; yield it and whether its clock is stopped."""
    is_stopped = row.ending in ("late", "vanished") or (row.ending == "429" and row.mode != "wait")
    clock = ManualClock(start=time.time()) if is_stopped else None
    with Emulator(clock=clock, speed=float("inf")) as emulator:
        if row.ending == "refused":
            emulator.fault("moderated", route="POST /v1/images/tasks")
        yield emulator, is_stopped


def run_all(table: Sequence[Any], run: Callable[[Any], object]) -> None:
    """Run all rows, or those that contain every word of the command line; exit with 1 if one fails."""
    failures = 0
    selected = [row for row in table if set(sys.argv[1:]) <= set(row)]
    for row in selected:
        try:
            run(row)
        except Exception as error:  # continue with the next row
            failures += 1
            print("FAILED", *row, f"{type(error).__name__}: {error}"[:2000], sep=" | ", flush=True)
    print(f"{len(selected) - failures} of {len(selected)} rows passed.")
    sys.exit(bool(failures))
