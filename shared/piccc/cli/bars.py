"""One progress bar for each task that runs, on a terminal only."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from piccc.tasks import Task


class Bars:
    """Show tasks as they are made; use it as a context manager."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}")
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        )
        self._rows: dict[str, Any] = {}

    def update(self, task: Task) -> None:
        """Show a task as it is now; a bar runs to and fro where the server does not say how far it is."""
        if task.id not in self._rows:
            self._rows[task.id] = self._progress.add_task(f"{task.type} {task.id[-6:]}", status="")
        known = task.progress if task.status != "completed" else 100.0
        percent = "" if known is None or task.is_terminal else f" {known:.0f} %"
        self._progress.update(
            self._rows[task.id],
            total=None if known is None and not task.is_terminal else 100.0,
            completed=known or 0.0,
            status=f"{task.status}{percent}",
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()
