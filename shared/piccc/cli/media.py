"""`piccc image` and `piccc video`: submit, wait, save."""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from piccc.cli.common import (
    INTERRUPTED,
    SECRET_VARIABLE,
    AsJSON,
    LedgerPath,
    Open,
    Poll,
    Prompt,
    Seconds,
    To,
    connect,
    document,
    notes,
    open_ledger,
    option,
    prompt_of,
    say,
    settings_of,
    tell,
    write,
)
from piccc.errors import OutputError, PicccError, TaskWaitTimeout
from piccc.tasks import Task

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.handles import OutputHandle, TaskHandle
    from piccc.media.webhooks import Webhooks
    from piccc.tasks import TaskType


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


ImageModel = Annotated[str, option("--model", "NAME", "The model's id.", envvar="PICCC_IMAGE_MODEL")]
VideoModel = Annotated[str, option("--model", "NAME", "The model's id.", envvar="PICCC_VIDEO_MODEL")]
Ratio = Annotated[str | None, option("--aspect-ratio", "W:H", "Width to height, such as 16:9.")]
ImageSize = Annotated[str | None, option("--resolution", "SIZE", "Such as 1K.")]
VideoSize = Annotated[str | None, option("--resolution", "SIZE", "Such as 720p.")]
Length = Annotated[float | None, option("--duration", "SECONDS", "The film's length.")]
Others = Annotated[list[str] | None, option("--set", "NAME=VALUE", "Any other parameter of the API.")]
Webhook = Annotated[
    str | None,
    option(
        "--webhook",
        "URL",
        "An https address to report the task's end to. Where PICCC_WEBHOOK_SECRET is set, it is that of "
        "a receiver: piccc webhooks listen --receive.",
    ),
]
Key = Annotated[
    str | None,
    option(
        "--key", "NAME", "Name the submission: one name never submits twice, it finds the same task again."
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Submit, print the task's id, and end.")]


def image(
    model: ImageModel,
    prompt: Prompt = None,
    to: To = Path(),
    aspect_ratio: Ratio = None,
    resolution: ImageSize = None,
    others: Others = None,
    opens: Open = False,
    no_wait: NoWait = False,
    timeout: Seconds = None,
    poll: Poll = None,
    webhook: Webhook = None,
    key: Key = None,
    ledger: LedgerPath = None,
    as_json: AsJSON = False,
) -> None:
    """Make a picture and save it; print the file's path.

    Ctrl-C leaves the task running, and says how to go on with it.

    \b
    Examples:
      piccc image "A ceramic mug, studio light" --to mug.png --open
      piccc image "A mug" --aspect-ratio 16:9 --resolution 2K --to pictures/
      id=$(piccc image "A mug" --no-wait) && piccc tasks resume "$id"
    """
    _make(
        "image",
        prompt,
        {
            **settings_of(others),
            "model": model,
            "aspect_ratio": aspect_ratio,
            "resolution": resolution,
            "webhook": webhook,
        },
        key=key,
        no_wait=no_wait,
        poll=poll,
        ledger=ledger,
        to=to,
        timeout=timeout,
        opens=opens,
        as_json=as_json,
    )


def video(
    model: VideoModel,
    prompt: Prompt = None,
    to: To = Path(),
    aspect_ratio: Ratio = None,
    resolution: VideoSize = None,
    duration: Length = None,
    others: Others = None,
    opens: Open = False,
    no_wait: NoWait = False,
    timeout: Seconds = None,
    poll: Poll = None,
    webhook: Webhook = None,
    key: Key = None,
    ledger: LedgerPath = None,
    as_json: AsJSON = False,
) -> None:
    """Make a film and save it; print the file's path.

    Ctrl-C leaves the task running, and says how to go on with it.

    \b
    Examples:
      piccc video "The mug turns slowly while steam rises" --to mug.mp4 --open
      piccc video "Rain" --duration 6 --resolution 720p --set seed=7 --json
    """
    _make(
        "video",
        prompt,
        {
            **settings_of(others),
            "model": model,
            "aspect_ratio": aspect_ratio,
            "resolution": resolution,
            "duration_seconds": duration,
            "webhook": webhook,
        },
        key=key,
        no_wait=no_wait,
        poll=poll,
        ledger=ledger,
        to=to,
        timeout=timeout,
        opens=opens,
        as_json=as_json,
    )


def _make(
    type: TaskType,
    prompt: str | None,
    ordered: dict[str, Any],
    *,
    key: str | None,
    no_wait: bool,
    poll: float | None,
    ledger: Path | None,
    **kept: Any,
) -> None:
    text, key = prompt_of(prompt), key or str(uuid.uuid4())
    way_on = f"It may have been submitted. Look for it with:\n  piccc tasks resume {shlex.quote(key)}"
    with connect(poll, open_ledger(ledger)) as client, interruptible(way_on):
        media = client.images if type == "image" else client.videos
        webhook = _receiver(client, ordered.pop("webhook"))
        job = Job(client, [media.submit(text, key=key, webhook=webhook, **ordered)], **kept)
        job.hand_out() if no_wait else job.run()


def _receiver(client: Client, url: str | None) -> str | Webhooks | None:
    secret = os.environ.get(SECRET_VARIABLE)
    return client.webhooks(secret=secret, public_url=url) if url and secret else url
