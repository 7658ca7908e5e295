"""What outlives the emulator when it is given a directory: its tasks, its charges, its reported tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Kind = Literal["tasks", "charges", "reported"]


class State:
    """Lines of JSON in a directory, only ever appended to.

    Each begins with its newline, so that a line torn by a crash does not tear the next; it is skipped.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)

    def append(self, kind: Kind, values: dict[str, Any]) -> None:
        """Write one line."""
        with self._path(kind).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(values))

    def read(self, kind: Kind) -> Iterator[dict[str, Any]]:
        """Read all lines."""
        path = self._path(kind)
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def _path(self, kind: Kind) -> Path:
        return self._directory / f"{kind}.jsonl"
