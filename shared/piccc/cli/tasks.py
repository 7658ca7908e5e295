"""`piccc tasks`: list, show, wait for, resume and save tasks."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from piccc.cli.common import (
    AsJSON,
    Commands,
    LedgerPlace,
    Open,
    Poll,
    Seconds,
    To,
    connect,
    document,
    open_ledger,
    option,
    printable,
    results,
    say,
    write,
)
from piccc.cli.media import Job
from piccc.tasks import TaskType

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.handles import TaskHandle
    from piccc.tasks import Task

tasks = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="List the account's tasks, wait for them, and save their outputs.",
)

TaskID = Annotated[str, typer.Argument(metavar="ID", help="The task id.")]
TaskIDs = Annotated[list[str], typer.Argument(metavar="ID", help="The task ids.")]


@tasks.command("list")
def list_(
    type: Annotated[
        TaskType | None, typer.Option("--type", help="Only this type.", show_default=False)
    ] = None,
    status: Annotated[str | None, option("--status", "WORD", "Only this status, such as completed.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="COUNT", min=1, help="Maximum number of tasks.")
    ] = 20,
    as_json: AsJSON = False,
) -> None:
    """List the account's tasks, newest first.

    Prints a table on a terminal and tab-separated columns to a pipe.

    \b
    Examples:
      piccc tasks list --type video --status processing
      piccc tasks list --json | jq -r .task_id
    """
    with connect() as client:
        handles = list(islice(client.tasks.list(type=type, status=status), limit))
    if as_json:
        for task in handles:
            document(task.to_dict())
    elif sys.stdout.isatty():
        results().print(_table(handles)) if handles else say("No tasks.")
    else:
        for task in handles:
            write("\t".join(_row(task)) + "\n")


@tasks.command()
def show(id: TaskID, as_json: AsJSON = False) -> None:
    """Show one task.

    \b
    Examples:
      piccc tasks show task_123 --json
    """
    with connect() as client:
        task = client.tasks.get(id)
    if as_json:
        document(task.to_dict())
        return
    for name, value in _facts(task):
        if value:
            results().print(f"{name:<9} {printable(value)}", soft_wrap=True)


@tasks.command()
def wait(ids: TaskIDs, timeout: Seconds = None, poll: Poll = None, as_json: AsJSON = False) -> None:
    """Wait until tasks end; print the id and status of each.

    \b
    Examples:
      piccc tasks wait task_123 task_456 --timeout 600
      piccc tasks list --status processing --json | jq -r .task_id | xargs piccc tasks wait
    """
    with connect(poll) as client:
        Job(client, map(client.tasks.get, ids), timeout=timeout, as_json=as_json).run()


@tasks.command()
def resume(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Task ids, or keys of submissions.", show_default=False),
    ] = None,
    resubmit: Annotated[
        bool, typer.Option("--resubmit", help="Submit again if not found. This may be billed twice.")
    ] = False,
    to: To = Path(),
    opens: Open = False,
    timeout: Seconds = None,
    poll: Poll = None,
    ledger: LedgerPlace = None,
    as_json: AsJSON = False,
) -> None:
    """Continue after an interruption: find the task, wait for it, save its output.

    Without an ID, resume every submission to this server whose response was lost.

    \b
    Examples:
      piccc tasks resume task_123 --to mug.png
      piccc tasks resume
    """
    if resubmit and not ids:
        raise typer.BadParameter("Name the submissions to send again.", param_hint="--resubmit")
    with connect(poll, open_ledger(ledger)) as client:
        names = ids or [submission.key for submission in client.ledger.unsettled()]
        if not names:
            say("No lost submissions.")
        handles = [_resumed(client, name, resubmit=resubmit) for name in names]
        Job(client, handles, to=to, timeout=timeout, opens=opens, as_json=as_json).run()


@tasks.command()
def save(ids: TaskIDs, to: To = Path(), opens: Open = False, as_json: AsJSON = False) -> None:
    """Save tasks' outputs; print the files' paths.

    \b
    Examples:
      piccc tasks save task_123 --to images/ --open
    """
    with connect() as client:
        Job(client, map(client.tasks.get, ids), to=to, opens=opens, as_json=as_json).close()


def _resumed(client: Client, name: str, *, resubmit: bool) -> TaskHandle:
    is_submission = client.ledger.get(name) is not None
    return client.tasks.resume(name, resubmit=resubmit) if is_submission else client.tasks.get(name)


def _table(handles: list[TaskHandle]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("TASK", "TYPE", "STATUS", "CREATED"):
        table.add_column(title, no_wrap=True, header_style="dim")
    table.add_column("PROMPT", no_wrap=True, overflow="ellipsis", header_style="dim")
    for task in handles:
        progress = f" {task.progress:.0f} %" if task.progress is not None and not task.is_terminal else ""
        prompt = printable(" ".join(task.prompt.split()))
        table.add_row(task.id, task.type, f"{task.status}{progress}", _ago(task.created_at), prompt)
    return table


def _row(task: Task) -> tuple[str, ...]:
    return task.id, task.type, task.status, _moment(task.created_at), " ".join(task.prompt.split())


def _facts(task: Task) -> list[tuple[str, str]]:
    progress = "" if task.progress is None or task.is_terminal else f", {task.progress:.0f} %"
    return [
        ("task", task.id),
        ("type", task.type),
        ("status", f"{task.status}{progress}"),
        ("model", task.model),
        ("prompt", task.prompt),
        ("created", _moment(task.created_at)),
        ("completed", _moment(task.completed_at)),
        ("error", " ".join(filter(None, (task.error_message, task.error_code and f"({task.error_code})")))),
        *(("output", output.url) for output in task.outputs),
        ("expires", _moment(task.expires_at)),
    ]


def _moment(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")


def _ago(at: float | None) -> str:
    if at is None:
        return ""
    seconds = max(0.0, time.time() - at)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
