"""Page through the task list: which page comes next, and which of its tasks are new."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from piccc.tasks import Task

PAGE_SIZE = 100
Page = tuple[list[Task], Mapping[str, str] | None]
"""A page's tasks, and what names the next one."""


class Pages:
    """A walk over the list, newest first. Tasks move between pages meanwhile; each is given once.

    It ends where no next page is named, where one is named again, or where a numbered page has nothing new.
    """

    def __init__(self, *, type: str | None = None, status: str | None = None) -> None:
        filters = {"type": type, "status": status, "limit": str(PAGE_SIZE)}
        self._query = {name: value for name, value in filters.items() if value is not None}
        self._next: dict[str, str] = {}
        self._asked: set[str] = set()
        self._seen: set[str] = set()
        self.is_done = False

    @property
    def path(self) -> str:
        """The next page's path."""
        return f"/v1/tasks?{urlencode({**self._query, **self._next})}"

    @property
    def count(self) -> int:
        """How many pages were taken."""
        return len(self._asked)

    def take(self, tasks: list[Task], following: Mapping[str, str] | None) -> list[Task]:
        """Take a page and what names the next; return the tasks that no earlier page had."""
        new = [task for task in tasks if task.id not in self._seen]
        self._seen.update(task.id for task in new)
        self._asked.add(self.path)
        self._next = dict(following or {})
        circles = self.path in self._asked or ("page" in self._next and not new)
        self.is_done = not self._next or circles
        return new
