"""What an agent is told of a task: a few words for the model, JSON for the program. For both frameworks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from piccc import errors
from piccc.errors import PicccError
from piccc.media.arguments import GET_TASK, LIST_TASKS, faults
from piccc.tasks import Task, read_task

LONGEST_URL = 200
"""Characters of an address that a model reads; it would garble a longer one, which the program has anyway."""
LONGEST_REASON = 200
LONGEST_PROMPT = 60
MAKER = "piccc"

_TELL_THE_USER = "Do not retry: tell the user."
_CORRECT = "Nothing was made. Correct the arguments and call again."
_ADVICE: dict[type[Exception], tuple[bool, str]] = {
    ValidationError: (True, _CORRECT),
    errors.TaskRejected: (
        True,
        "Change the prompt before you call again: the same one will be refused again.",
    ),
    errors.TaskFailed: (True, "You may call again once."),
    errors.TaskCancelled: (False, _TELL_THE_USER),
    errors.TaskExpired: (True, "You may call again once."),
    errors.BudgetExceeded: (False, f"The allowance is used up and nothing was sent. {_TELL_THE_USER}"),
    errors.NotFoundError: (False, f"Look for the right id with {LIST_TASKS}, or tell the user."),
    errors.RateLimitError: (True, "Nothing was made. Call again later."),
    errors.OverloadedError: (True, "Nothing was made. Call again later."),
    errors.InvalidRequestError: (True, _CORRECT),
    # A model's arguments have been checked before: what the client refuses is the program's mistake.
    errors.InvalidArgumentError: (False, f"Nothing was made. {_TELL_THE_USER}"),
    errors.APIConnectionError: (True, "Nothing was made. You may call again once."),
    errors.PicccError: (False, _TELL_THE_USER),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent is told.

    Attributes:
        text: what the model reads.
        artifact: what the program gets: a task or `{"tasks": […]}`, and `tool_error` where something failed.
        pictures: content blocks `{type, base64, mime_type}` for models that see.
        error: why it failed, or None.
    """

    text: str
    artifact: dict[str, Any]
    pictures: Sequence[Mapping[str, str]] = field(default=(), repr=False)
    error: Exception | None = None


def told(task: Task, then: str = "") -> str:
    """Return what the model reads of a task that is finished or still running."""
    kind = task.type or "task"
    if not task.is_terminal:
        progress = "" if task.progress is None else f", {task.progress:.0f} %"
        go_on = then or f"Ask for it later with {GET_TASK}."
        now = f"The {kind} is still being made ({task.status}{progress}): task {task.id}."
        return f"{now} Do not submit it again. {go_on}"
    short = [output.url for output in task.outputs if len(output.url) <= LONGEST_URL]
    where = f": {' '.join(short)}" if short else ""
    return f"The {kind} is finished (task {task.id}){where}"


def progress(task: Task) -> dict[str, Any]:
    """Return what an event says of a task on its way."""
    return {"task_id": task.id, "type": task.type, "status": task.status, "progress": task.progress}


def artifact_of(task: Task) -> dict[str, Any]:
    """Return a task as JSON data, which a checkpoint keeps as it is."""
    return {**task.to_dict(), "made_by": MAKER}


def tasks_in(artifact: object) -> list[Task]:
    """Return the tasks of an artifact, none where it is not one of ours."""
    if not isinstance(artifact, Mapping) or artifact.get("made_by") != MAKER:
        return []
    return [read_task(dict(body)) for body in artifact.get("tasks", [artifact]) if body.get("task_id")]


def listed(tasks: Sequence[Task]) -> Report:
    """Report on several tasks."""
    lines = [
        f"{task.type or 'task'} {task.id} {task.status}: {_short(task.prompt, LONGEST_PROMPT)}"
        for task in tasks
    ]
    text = "\n".join(lines) or "There are no such tasks."
    return Report(text, {"tasks": [task.to_dict() for task in tasks], "made_by": MAKER})


def failed(error: Exception, task: Task | None = None, *, may_exist: bool = False) -> Report:
    """Report on a failure, and say whether the model may call again.

    `task` is the one that it befell; `may_exist` tells that a task may have come of it that nobody knows.
    """
    may_retry, advice = _advice(error, task, may_exist=may_exist)
    message = _message(error)
    named = {
        "kind": type(error).__name__,
        "message": message,
        "may_retry": may_retry,
        "hint": getattr(error, "hint", None),
        "code": getattr(error, "code", None),
        "submission_key": getattr(error, "submission_key", None),
    }
    known = {name: value for name, value in named.items() if value not in (None, "")}
    artifact = {**(artifact_of(task) if task else {"made_by": MAKER}), "tool_error": known}
    return Report(f"{_short(message, LONGEST_REASON)} {advice}", artifact, error=error)


def _message(error: Exception) -> str:
    if isinstance(error, PicccError):
        return error.message
    if isinstance(error, ValidationError):
        return faults(error)
    return f"{type(error).__name__}: {error}"


def _advice(error: Exception, task: Task | None, *, may_exist: bool) -> tuple[bool, str]:
    if may_exist or (task is None and getattr(error, "may_have_been_billed", False)):
        return (
            False,
            f"It may be in the making and paid for: do not submit it again. Look for it with {LIST_TASKS}.",
        )
    if task is not None and not task.is_terminal:
        return False, f"Task {task.id} goes on: do not submit it again. Ask for it later with {GET_TASK}."
    return next((_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE), (False, _TELL_THE_USER))


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"
