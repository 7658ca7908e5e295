"""Events by which the media tools speak with whoever runs a workflow."""

from __future__ import annotations

from typing import Self

from workflows.events import Event, HumanResponseEvent, InputRequiredEvent

from piccc.tasks import Task


class PicccTaskProgress(Event):
    """Tells of a task at each change of its status or progress.

    Attributes:
        task_id: the task.
        type: `image` or `video`.
        status: as of `piccc.Task`.
        progress: 0 to 100, or None.
    """

    task_id: str
    type: str
    status: str
    progress: float | None = None

    @classmethod
    def of(cls, task: Task) -> Self:
        """Make the event of a task as it is now."""
        return cls(task_id=task.id, type=task.type, status=task.status, progress=task.progress)


class PicccTaskSubmitted(InputRequiredEvent):
    """Says that a tool waits for a task: answer with `PicccTaskFinished` when it has ended.

    Attributes:
        task_id: the task.
        type: `image` or `video`.
    """

    task_id: str
    type: str


class PicccTaskFinished(HumanResponseEvent):
    """Wakes the tool that waits for the task `task_id`; it asks for the task, so an early one is harmless.

    A run that goes on from a saved context first goes back to its waits; send it this after that, not in the
    same breath, or LlamaIndex runs the tool twice (nothing is submitted twice).
    """

    task_id: str
