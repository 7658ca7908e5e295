"""Wait for a task by asking about it, as the provider advises: every 2 to 5 seconds (documented)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from piccc.errors import NotFoundError, PicccError, TaskWaitTimeout
from piccc.transport.port import IO

if TYPE_CHECKING:
    from piccc.tasks import Task

logger = logging.getLogger("piccc")

NOT_FOUND_GRACE = 10.0
FAILED_READS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How often to ask about a task, in seconds: at random between `min` and `max`."""

    min: float = 2.0
    max: float = 5.0


async def wait(
    io: IO,
    read: Callable[[str], Awaitable[Task]],
    task: Task,
    *,
    timeout: float | None = None,
    polling: Polling | None = None,
    on_update: Callable[[Task], object] | None = None,
) -> Task:
    """Ask about a task until it has ended; return it when it has an output.

    Raise the error of a task that ended otherwise, and TaskWaitTimeout after `timeout` seconds. One failed
    read does not end the wait. Completed without an output is read once more, then it is an error.
    """
    polling = polling or Polling()
    started, last = io.now(), task
    failed_reads, reread, warned = 0, False, False
    while True:
        if task.is_terminal and (task.status != "completed" or task.has_output or reread):
            if error := task.failure():
                raise error
            return task
        reread = task.status == "completed"
        if not task.is_known_status and not warned:
            warned = True
            logger.warning("Task %s has the unknown status %r; waiting on.", task.id, task.status)
        pause = polling.min + io.random() * (polling.max - polling.min)
        if timeout is not None and io.now() + pause - started > timeout:
            raise still_running(last, io.now() - started)
        await io.sleep(pause)
        try:
            task = last = await read(task.id)
            failed_reads = 0
        except PicccError as error:
            failed_reads += 1
            early = isinstance(error, NotFoundError) and io.now() - started < NOT_FOUND_GRACE
            if not early and (error.status in (401, 403, 404) or failed_reads >= FAILED_READS):
                raise
            continue
        if on_update is not None:
            on_update(task)


def still_running(task: Task, elapsed: float) -> TaskWaitTimeout:
    """Return the error of a wait that ran out while the task goes on."""
    return TaskWaitTimeout(
        f"Task {task.id} is still {task.status} after {elapsed:.0f} s.",
        hint=f"It goes on and is paid for: do not submit again. Go on: client.tasks.wait({task.id!r}).",
        elapsed=elapsed,
        task_id=task.id,
        task=task,
    )
