"""Tasks that a command waits for and saves; whatever stops it leaves their ids and the way on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from piccc.cli.bars import Bars
from piccc.cli.failures import INTERRUPTED, tell
from piccc.cli.screen import document, notes, say, write
from piccc.errors import OutputError, PicccError, TaskWaitTimeout

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.handle import OutputHandle, TaskHandle


@contextmanager
def interruptible(way_on: str) -> Iterator[None]:
    """On Ctrl-C say how to go on, and end as interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nInterrupted. {way_on}")
        raise typer.Exit(INTERRUPTED) from None


class Job:
    """Wait for tasks, report on them, and save their outputs to `to` if it is given."""

    def __init__(
        self,
        client: Client,
        tasks: Iterable[TaskHandle],
        *,
        to: Path | None = None,
        timeout: float | None = None,
        opens: bool = False,
        as_json: bool = False,
    ) -> None:
        self._client = client
        self._tasks = {task.id: task for task in tasks}
        self._to = to
        if len(self._tasks) > 1 and self._names_a_file():
            raise typer.BadParameter("Several tasks need a folder.", param_hint="--to")
        self._timeout = timeout
        self._opens = opens
        self._as_json = as_json

    def run(self) -> None:
        """Wait, then report and save; exit with the code that the tasks' ends mean."""
        self._wait()
        self.close()

    def hand_out(self) -> None:
        """Print the tasks' ids, and do not wait."""
        for task in self._tasks.values():
            document(_documented(task)) if self._as_json else write(f"{task.id}\n")

    def close(self) -> None:
        """Report and save as the tasks are now; exit with the code that this means."""
        code = max([self._closed(task) for task in self._tasks.values()], default=0)
        if code:
            raise typer.Exit(code)

    def _wait(self) -> None:
        with interruptible(self._way_on()):
            for task in self._tasks.values():
                if not task.is_terminal:
                    say(f"Task {task.id} is {task.status}; Ctrl-C leaves it running.", "dim")
            with Bars(notes()) as bars:
                self._follow(bars)

    def _follow(self, bars: Bars) -> None:
        for task in self._tasks.values():
            bars.update(task)
        try:
            for seen in self._client.tasks.events(*self._tasks.values(), timeout=self._timeout):
                bars.update(self._tasks[seen.id].take(seen))
        except TaskWaitTimeout:
            return  # each task is reported as it is

    def _closed(self, task: TaskHandle) -> int:
        error = self._ending(task)
        if error is not None:
            self._report(task, [])
            return tell(error)
        try:
            with interruptible(f"What was made is not lost. {self._saving(task)}"):
                files = self._save(task)
        except (OSError, OutputError) as failure:
            self._report(task, [])
            return tell(self._unsaved(task, failure))
        self._report(task, files)
        for file in files if self._opens else ():
            if typer.launch(str(file), wait=True):
                say(f"No program was found that opens {file}.")
        return 0

    def _ending(self, task: TaskHandle) -> PicccError | None:
        if task.is_terminal:
            return task.failure()
        return TaskWaitTimeout(
            f"Task {task.id} is still {task.status}.", hint=self._way_on(task.id), task_id=task.id, task=task
        )

    def _save(self, task: TaskHandle) -> list[Path]:
        if self._to is None:
            return []
        return [
            output.save(path) for output, path in zip(task.outputs, self._paths(task.outputs), strict=True)
        ]

    def _paths(self, outputs: list[OutputHandle]) -> list[Path | str]:
        to = self._to or Path()
        if not self._names_a_file():
            return [f"{to}/" for _ in outputs]
        later = [to.with_stem(f"{to.stem}-{number}") for number in range(2, len(outputs) + 1)]
        return [to, *later]

    def _names_a_file(self) -> bool:
        return self._to is not None and bool(self._to.suffix) and not self._to.is_dir()

    def _report(self, task: TaskHandle, files: list[Path]) -> None:
        if self._as_json:
            document(_documented(task, files))
        elif self._to is None:
            write(f"{task.id}\t{task.status}\n")
        else:
            for file, output in zip(files, task.outputs, strict=False):
                write(f"{file}\n")
                say(_described(output, file), "dim")

    def _unsaved(self, task: TaskHandle, failure: Exception) -> PicccError:
        hint = self._saving(task)
        if isinstance(failure, OutputError):
            failure.hint = f"{failure.hint} {hint}".strip()
            return failure
        return OutputError(f"The output of task {task.id} cannot be saved: {failure}", hint=hint)

    def _saving(self, task: TaskHandle) -> str:
        return f"Save it later with:\n  {self._command('save', task.id)}"

    def _way_on(self, *ids: str) -> str:
        verb = "wait" if self._to is None else "resume"
        return (
            f"It goes on and is paid for: do not submit it again. Go on with:\n  {self._command(verb, *ids)}"
        )

    def _command(self, verb: str, *ids: str) -> str:
        words: list[Any] = ["piccc", "tasks", verb, *(ids or self._tasks)]
        if self._to not in (None, Path()):
            words += ["--to", self._to]
        return shlex.join(map(str, words))


def _documented(task: TaskHandle, files: Iterable[Path] = ()) -> dict[str, Any]:
    return {**task.to_dict(), "files": [str(file) for file in files]}


def _described(output: OutputHandle, file: Path) -> str:
    size = f"{output.width}×{output.height}" if output.width and output.height else ""
    length = f"{output.duration_seconds:g} s" if output.duration_seconds else ""
    facts = output.mime_type or "", size, length, f"{file.stat().st_size:,} bytes"
    return ", ".join(fact for fact in facts if fact)
