"""`piccc image` and `piccc video`: submit, wait and save, for one prompt or a file of prompts."""

from __future__ import annotations

import csv
import inspect
import json
import mimetypes
import os
import re
import shlex
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from piccc.cli.common import (
    INTERRUPTED,
    SECRET_VARIABLE,
    AsJSON,
    LedgerPlace,
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
    report_error,
    say,
    settings_of,
    value_of,
    write,
)
from piccc.errors import BatchStopped, OutputError, PicccError, TaskWaitTimeout
from piccc.tasks import Task, TaskType

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.handles import OutputHandle, TaskHandle
    from piccc.media.webhooks import Webhooks


class Bars:
    """Progress bars for running tasks, as a context manager."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[status]}")
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        )
        self._rows: dict[str, Any] = {}

    def update(self, task: Task) -> None:
        """Show a task's state; the bar is indeterminate while the server reports no progress."""
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
def interruptible(next_step: str) -> Iterator[None]:
    """On Ctrl-C, print how to continue and exit with the interrupt code."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nInterrupted. {next_step}")
        raise typer.Exit(INTERRUPTED) from None


class Job:
    """Waits for tasks, prints their results, and saves their outputs to `to` if given."""

    def __init__(
        self,
        client: Client,
        tasks: Iterable[TaskHandle],
        *,
        to: Path | str | None = None,
        timeout: float | None = None,
        opens: bool = False,
        as_json: bool = False,
    ) -> None:
        self._client = client
        self._tasks = {task.id: task for task in tasks}
        self._to = to
        if len(self._tasks) > 1 and names_a_file(to):
            raise typer.BadParameter("Several tasks need a folder, not a file name.", param_hint="--to")
        self._timeout = timeout
        self._opens = opens
        self._as_json = as_json

    def run(self) -> None:
        """Wait, save and print; exit with the code for the tasks' outcome."""
        self._wait()
        self.close()

    def print_ids(self) -> None:
        """Print the tasks' ids without waiting."""
        try:
            for task in self._tasks.values():
                document(_documented(task)) if self._as_json else write(f"{task.id}\n")
        except OSError:  # a full disk or a closed pipe
            say(f"The ids could not be printed. {self._next_step()}", "red")
            raise

    def close(self) -> None:
        """Save and print the tasks as they are; exit with the code for their state."""
        code = max([self._closed(task) for task in self._tasks.values()], default=0)
        if code:
            raise typer.Exit(code)

    def _wait(self) -> None:
        with interruptible(self._next_step()):
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
            return  # `close` reports each task's state

    def _closed(self, task: TaskHandle) -> int:
        error = self._ending(task)
        if error is not None:
            self._report(task, [])
            return report_error(error)
        try:
            with interruptible(f"The output is not lost. {self._saving(task)}"):
                files = self._save(task)
        except (OSError, OutputError) as failure:
            self._report(task, [])
            return report_error(self._unsaved(task, failure))
        self._report(task, files)
        for file in files if self._opens else ():
            if typer.launch(str(file), wait=True):
                say(f"No program can open {file}.")
        return 0

    def _ending(self, task: TaskHandle) -> PicccError | None:
        if task.is_terminal:
            return task.failure()
        return TaskWaitTimeout(
            f"Task {task.id} is still {task.status}.",
            hint=self._next_step(task.id),
            task_id=task.id,
            task=task,
        )

    def _save(self, task: TaskHandle) -> list[Path | str]:
        if self._to is None:
            return []
        return [
            output.save(path, overwrite=True)
            for output, path in zip(task.outputs, self._paths(task.outputs), strict=True)
        ]

    def _paths(self, outputs: list[OutputHandle]) -> list[str]:
        if not names_a_file(self._to):
            folder = str(self._to)
            return [folder if folder.endswith("/") else f"{folder}/"] * len(outputs)
        from piccc.media.downloads import is_stream

        if is_stream(str(self._to)):
            return [str(self._to)] * len(outputs)
        suffix = PurePath(str(self._to)).suffix
        root = str(self._to).removesuffix(suffix)
        later = [f"{root}-{number}{suffix}" for number in range(2, len(outputs) + 1)]
        return [str(self._to), *later]

    def _report(self, task: TaskHandle, files: list[Path | str]) -> None:
        if self._as_json:
            document(_documented(task, files))
        elif self._to is None:
            write(f"{task.id}\t{task.status}\n")
        else:
            for file, output in zip(files, task.outputs, strict=False):
                if not _is_stdout(file):
                    write(f"{file}\n")
                say(_described(output, file), "dim")
                suffix = PurePath(str(file)).suffix
                if (
                    output.mime_type
                    and suffix
                    and suffix not in mimetypes.guess_all_extensions(output.mime_type)
                ):
                    say(f"Note: {file} contains {output.mime_type}, despite its name.", "yellow")

    def _unsaved(self, task: TaskHandle, failure: Exception) -> PicccError:
        hint = self._saving(task)
        if isinstance(failure, OutputError):
            failure.hint = f"{failure.hint} {hint}".strip()
            return failure
        return OutputError(f"Cannot save the output of task {task.id}: {failure}", hint=hint)

    def _saving(self, task: TaskHandle) -> str:
        return f"Save it later with:\n  {self._command('save', task.id)}"

    def _next_step(self, *ids: str) -> str:
        command = self._command("wait" if self._to is None else "resume", *ids)
        return f"The task keeps running and is billed, so do not submit it again. Continue with:\n  {command}"

    def _command(self, verb: str, *ids: str) -> str:
        words: list[Any] = ["piccc", "tasks", verb, *(ids or self._tasks)]
        if self._to not in (None, Path()):
            words += ["--to", self._to]
        return shlex.join(map(str, words))


def names_a_file(to: Path | str | None) -> bool:
    """Return whether a destination is a file, not a folder; a new name is one if it has a suffix."""
    if to is None or str(to).endswith("/"):
        return False
    try:
        return not stat.S_ISDIR(Path(to).stat().st_mode)
    except OSError:
        return bool(PurePath(str(to)).suffix)


def _is_stdout(to: Path | str | None) -> bool:
    try:
        return to is not None and os.path.samestat(Path(to).stat(), os.fstat(1))
    except OSError:
        return False


def _documented(task: TaskHandle, files: Iterable[Path | str] = ()) -> dict[str, Any]:
    return {**task.to_dict(), "files": [str(file) for file in files]}


def _described(output: OutputHandle, file: Path | str) -> str:
    size = f"{output.width}×{output.height}" if output.width and output.height else ""
    length = f"{output.duration_seconds:g} s" if output.duration_seconds else ""
    bytes_ = f"{file.stat().st_size:,} bytes" if isinstance(file, Path) and file.is_file() else ""
    facts = output.mime_type or "", size, length, bytes_
    return ", ".join(fact for fact in facts if fact)


ImageModel = Annotated[str, option("--model", "NAME", "The model id.", envvar="PICCC_IMAGE_MODEL")]
VideoModel = Annotated[str, option("--model", "NAME", "The model id.", envvar="PICCC_VIDEO_MODEL")]
Ratio = Annotated[str | None, option("--aspect-ratio", "W:H", "Aspect ratio, such as 16:9.")]
ImageSize = Annotated[str | None, option("--resolution", "SIZE", "Resolution, such as 1K.")]
VideoSize = Annotated[str | None, option("--resolution", "SIZE", "Resolution, such as 720p.")]
Length = Annotated[float | None, option("--duration", "SECONDS", "Length of the video.", above=0)]
Others = Annotated[list[str] | None, option("--set", "NAME=VALUE", "Any other parameter of the API.")]
Webhook = Annotated[
    str | None,
    option(
        "--webhook",
        "URL",
        "An https URL to call when the task ends. If PICCC_WEBHOOK_SECRET is set, the URL of a receiver: "
        "piccc webhooks listen --receive.",
    ),
]
Key = Annotated[
    str | None,
    option(
        "--key", "NAME", "Idempotency key: repeating it returns the same task instead of submitting again."
    ),
]
From = Annotated[
    Path | None,
    option(
        "--from",
        "FILE",
        "A file of prompts: .txt with one per line, or .csv or .jsonl with a prompt and other parameters per "
        "row. --key then names the batch: run it again to continue where it stopped.",
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Submit, print the task id, and exit.")]


def _make(
    type: TaskType,
    prompt: list[str] | None,
    parameters: dict[str, Any],
    *,
    to: To = Path(),
    others: Others = None,
    opens: Open = False,
    no_wait: NoWait = False,
    timeout: Seconds = None,
    poll: Poll = None,
    webhook: Webhook = None,
    key: Key = None,
    prompts: From = None,
    ledger: LedgerPlace = None,
    as_json: AsJSON = False,
) -> None:
    from piccc.media.downloads import check_target

    check_target(to, is_folder=not names_a_file(to))
    if as_json and _is_stdout(to):
        raise typer.BadParameter("It cannot be stdout, which --json writes to.", param_hint="--to")
    parameters = {**settings_of(others), **parameters}
    key = str(uuid.uuid4()) if key is None else key  # an empty one is an error: its variable may be unset
    if prompts is not None:
        if prompt or no_wait or names_a_file(to):
            given = "PROMPT" if prompt else "--no-wait" if no_wait else "a file name in --to"
            raise typer.BadParameter(f"It cannot be combined with {given}.", param_hint="--from")
        rows = list(_rows(prompts))
        with connect(poll, open_ledger(ledger)) as client:
            parameters["webhook"] = _receiver(client, webhook)
            batch = _Batch(client, type, to, opens=opens, as_json=as_json)
            batch.run(rows, key, timeout, **parameters)
        return
    text = prompt_of(prompt)
    next_step = f"It may have been submitted. Search for it with:\n  piccc tasks resume {shlex.quote(key)}"
    with connect(poll, open_ledger(ledger)) as client, interruptible(next_step):
        media = client.images if type == "image" else client.videos
        parameters["webhook"] = _receiver(client, webhook)
        task = media.submit(text, key=key, **parameters)
        job = Job(client, [task], to=to, timeout=timeout, opens=opens, as_json=as_json)
        job.print_ids() if no_wait else job.run()


C = TypeVar("C", bound=Callable[..., None])


def _with_shared_options(command: C) -> C:
    """Replace a command's **options with the options of `_make` in the signature that Typer sees."""
    shared = inspect.signature(_make, eval_str=True).parameters.values()
    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [parameter for parameter in own if parameter.kind is not parameter.VAR_KEYWORD]
    parameters += [parameter for parameter in shared if parameter.kind is parameter.KEYWORD_ONLY]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # PEP 362
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@_with_shared_options
def image(
    model: ImageModel,
    prompt: Prompt = None,
    *,
    aspect_ratio: Ratio = None,
    resolution: ImageSize = None,
    **options: Any,
) -> None:
    """Generate an image and save it; print the file's path.

    Ctrl-C leaves the task running and prints how to continue.

    \b
    Examples:
      piccc image "A ceramic mug, studio light" --to mug.png --open
      piccc image "A mug" --aspect-ratio 16:9 --resolution 2K --to images/
      id=$(piccc image "A mug" --no-wait) && piccc tasks resume "$id"
    """
    parameters = {"model": model, "aspect_ratio": aspect_ratio, "resolution": resolution}
    _make("image", prompt, parameters, **options)


@_with_shared_options
def video(
    model: VideoModel,
    prompt: Prompt = None,
    *,
    aspect_ratio: Ratio = None,
    resolution: VideoSize = None,
    duration: Length = None,
    **options: Any,
) -> None:
    """Generate a video and save it; print the file's path.

    Ctrl-C leaves the task running and prints how to continue.

    \b
    Examples:
      piccc video "The mug turns slowly while steam rises" --to mug.mp4 --open
      piccc video "Rain" --duration 6 --resolution 720p --set seed=7 --json
    """
    parameters = {"model": model, "aspect_ratio": aspect_ratio, "resolution": resolution}
    _make("video", prompt, {**parameters, "duration_seconds": duration}, **options)


def _rows(path: Path) -> Iterator[str | dict[str, Any]]:
    """Yield prompts from a file: lines, CSV rows with a column `prompt`, or JSON lines."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"Cannot read {path}: {error}", param_hint="--from") from error
    # Not `splitlines`: it also splits at U+2028, form feeds and others, which a prompt may contain.
    lines = re.split("\r\n?|\n", text)
    match path.suffix.lower():
        case ".csv":
            reader = csv.DictReader(StringIO(text, newline=""))  # a quoted field may have several lines
            try:
                if "prompt" not in (reader.fieldnames or ()):
                    raise typer.BadParameter(f"{path} has no column named prompt.", param_hint="--from")
                for row in reader:
                    others = {name: value_of(text) for name, text in row.items() if name and text}
                    yield {**others, "prompt": row["prompt"]}
            except csv.Error as error:
                where = f"{path}, line {reader.line_num}: {error}"
                raise typer.BadParameter(where, param_hint="--from") from error
        case ".jsonl" | ".ndjson":
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield json.loads(line)
                    except ValueError as error:
                        where = f"{path}, line {number}: not JSON: {error}"
                        raise typer.BadParameter(where, param_hint="--from") from error
        case ".json" | ".tsv" | ".yaml" | ".yml" | ".xml" | ".html":  # each line would be billed as a prompt
            raise typer.BadParameter(f"{path} is not .txt, .csv or .jsonl.", param_hint="--from")
        case _:
            yield from (line.strip() for line in lines if line.strip())


class _Batch:
    """A batch of prompts; saves each output and prints its path as soon as its task ends."""

    def __init__(self, client: Client, type: TaskType, to: Path | str, *, opens: bool, as_json: bool) -> None:
        self._client = client
        self._type: TaskType = type
        self._options: dict[str, Any] = {"to": to, "opens": opens, "as_json": as_json}
        self._code = 0
        self._saved: set[str] = set()

    def run(
        self, rows: list[str | dict[str, Any]], key: str, timeout: float | None, **parameters: Any
    ) -> None:
        """Submit, wait and save; exit with the highest code of any task."""
        media = self._client.images if self._type == "image" else self._client.videos
        next_step = f"To continue the batch, run the same command again with --key {shlex.quote(key)}."
        with interruptible(next_step):
            try:
                batch = media.map(rows, run=key, on_result=self._save, timeout=timeout, **parameters)
            except BatchStopped as error:
                cause = error.__cause__.hint if isinstance(error.__cause__, PicccError) else ""
                tasks = error.batch.tasks if error.batch else []
                running = sum(task is not None and not task.is_terminal for task in tasks)
                billed = f"{running} more are running and billed." if running else ""
                error.hint = " ".join(filter(None, (cause, billed, next_step)))
                raise
        for number, reason in batch.errors.items():
            say(f"Row {number + 1}:", "red")
            self._code = max(self._code, report_error(reason))
        say(f"{len(rows) - len(batch.errors)} of {len(rows)} done.", "dim")
        if earlier := [task.id for task in batch if task.id not in self._saved]:
            save = shlex.join(["piccc", "tasks", "save", *earlier, "--to", str(self._options["to"])])
            say(
                f"{len(earlier)} of them were delivered by an earlier run. To save them again:\n  {save}",
                "dim",
            )
        if self._code:
            raise typer.Exit(self._code)

    def _save(self, task: TaskHandle) -> None:
        self._saved.add(task.id)
        try:
            Job(self._client, [task], **self._options).close()
        except typer.Exit as failed:
            self._code = max(self._code, failed.exit_code)


def _receiver(client: Client, url: str | None) -> str | Webhooks | None:
    secret = os.environ.get(SECRET_VARIABLE)
    return client.webhooks(secret=secret, public_url=url) if url and secret else url
