"""Page through the task list: which page comes next, and which of its tasks are new."""

from __future__ import annotations

from urllib.parse import urlencode

from piccc.tasks import Task


class Pages:
    """A walk over the list, newest first. Tasks move between pages meanwhile; each is given once.

    It ends at a missing or repeated cursor.
    """

    def __init__(self, *, type: str | None = None, status: str | None = None, page_size: int = 100) -> None:
        self._query = {"type": type, "status": status, "limit": page_size}
        self._cursor: str | None = None
        self._cursors: set[str] = set()
        self._seen: set[str] = set()
        self.is_done = False

    @property
    def path(self) -> str:
        """The next page's path."""
        query = {**self._query, "cursor": self._cursor}
        return f"/v1/tasks?{urlencode({name: value for name, value in query.items() if value is not None})}"

    def take(self, tasks: list[Task], cursor: str | None) -> list[Task]:
        """Take a page and the cursor of the next; return the tasks that no earlier page had."""
        new = [task for task in tasks if task.id not in self._seen]
        self._seen.update(task.id for task in new)
        self.is_done = cursor is None or cursor in self._cursors
        self._cursor = cursor
        if cursor is not None:
            self._cursors.add(cursor)
        return new
