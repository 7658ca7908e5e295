"""What the media tools gave out, as tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.tools import ToolOutput

from piccc.media.report import tasks_in
from piccc.tasks import Task


def media_from(output: ToolOutput | Mapping[str, Any]) -> list[Task]:
    """Return the tasks that a media tool's output, or its `raw_output`, tells of; none for another tool's.

    `client.tasks.get(task)` then gives a task with outputs that can be saved.
    """
    return tasks_in(output.raw_output if isinstance(output, ToolOutput) else output)
