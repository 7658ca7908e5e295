"""What the media tools left in a conversation, as tasks."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from piccc.media.report import tasks_in
from piccc.tasks import Task

NEWS = "piccc_tasks"
"""Where a message that tells of finished tasks keeps them, among its additional keywords."""


def media_from(messages: BaseMessage | Iterable[BaseMessage]) -> list[Task]:
    """Return the tasks that messages of the media tools tell of, each once, as it was last told.

    It reads messages fresh from an agent and from a checkpoint alike; `client.tasks.get(task)` then gives the
    task with outputs that can be saved.
    """
    found: dict[str, Task] = {}
    for message in [messages] if isinstance(messages, BaseMessage) else messages:
        for artifact in _artifacts(message):
            found.update({task.id: task for task in tasks_in(artifact)})
    return list(found.values())


def _artifacts(message: BaseMessage) -> list[object]:
    if isinstance(message, ToolMessage):
        return [message.artifact]
    if isinstance(message, HumanMessage):
        return list(message.additional_kwargs.get(NEWS, []))
    return []
