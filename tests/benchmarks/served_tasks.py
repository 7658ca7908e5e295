"""Tasks as the server reports them: a thousand that start together and end at seeded times, and a queue."""

from __future__ import annotations

import bisect
import random
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

COUNT = 1_000
SECONDS = 60.0
PAGE = 20
QUEUE_PACE = 400.0
"""Tasks that a queue completes per second."""
OPENAI = {"queued": "queued", "processing": "in_progress", "completed": "completed"}


class Tasks:
    """One client's tasks, from their creation on."""

    def __init__(self) -> None:
        chance = random.Random(8)
        self._began = time.time()
        self._ends = {f"task_{number:04}": chance.uniform(2.0, SECONDS) for number in range(COUNT)}
        self._requests = 0

    def answer(self, path: str) -> dict[str, Any]:
        """Return the response to a request, and count it unless it belongs to the measurement."""
        url = urlsplit(path)
        *_, kind, name = url.path.split("/")
        if name == "begin":
            return self._beginning()
        if name == "requests":
            return {"requests": self._requests}
        self._requests += 1
        if name == "tasks":
            return self._page(**{key: values[0] for key, values in parse_qs(url.query).items()})
        return self._video(name) if kind == "videos" else self._task(name)

    def _beginning(self) -> dict[str, Any]:
        ends = {id: self._began + seconds for id, seconds in self._ends.items()}
        return {"tasks": [self._task(id) for id in self._ends], "ends": ends}

    def _status(self, id: str) -> str:
        passed = (time.time() - self._began) / self._ends[id]
        return "queued" if passed < 0.2 else "processing" if passed < 1 else "completed"

    def _task(self, id: str) -> dict[str, Any]:
        return task(id, self._status(id), self._began, self._began + self._ends[id])

    def _video(self, id: str) -> dict[str, Any]:
        return {
            "id": id,
            "object": "video",
            "status": OPENAI[self._status(id)],
            "progress": 0,
            "created_at": int(self._began),
            "model": "sora-2",
            "seconds": "4",
            "size": "720x1280",
        }

    def _page(self, status: str = "", limit: str = str(PAGE), cursor: str = "~", **_: str) -> dict[str, Any]:
        newest_first = sorted(self._ends, reverse=True)
        fitting = [id for id in newest_first if id < cursor and status in ("", self._status(id))]
        shown = fitting[: int(limit)]
        more = len(fitting) > len(shown)
        return {
            "object": "list",
            "data": [self._task(id) for id in shown],
            "has_more": more,
            "next_cursor": shown[-1] if more else None,
        }


class Queue:
    """The tasks that one client submits. They end in order, at the queue's pace."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def answer(self, path: str) -> dict[str, Any]:
        """Return the response to a submission, a list request or a task read."""
        url = urlsplit(path)
        name = url.path.rpartition("/")[2]
        if url.path.endswith("/images/tasks"):
            self._ends.append(max([time.time(), *self._ends[-1:]]) + 1 / QUEUE_PACE)
            return self._task(len(self._ends) - 1)
        if name == "tasks":
            return self._page(**{key: values[0] for key, values in parse_qs(url.query).items()})
        return self._task(int(name.removeprefix("task_")))

    def _task(self, number: int) -> dict[str, Any]:
        end = self._ends[number]
        return task(f"task_{number}", "completed" if time.time() >= end else "processing", end - 1, end)

    def _page(self, status: str = "", limit: str = str(PAGE), cursor: str = "", **_: str) -> dict[str, Any]:
        # Tasks end in order, so the running ones are last.
        done = bisect.bisect_right(self._ends, time.time())
        first, last = {"completed": (0, done), "processing": (done, len(self._ends))}.get(
            status, (0, 0 if status else len(self._ends))
        )
        last = min(last, int(cursor or last))
        shown = range(last - 1, max(first, last - int(limit)) - 1, -1)
        more = bool(shown) and shown[-1] > first
        return {
            "object": "list",
            "data": [self._task(number) for number in shown],
            "has_more": more,
            "next_cursor": str(shown[-1]) if more else None,
        }


def task(id: str, status: str, began: float, end: float, url: str = "") -> dict[str, Any]:
    """Return a task as the server reports it."""
    done = status == "completed"
    url = url or f"https://files.example.com/{id}.mp4"
    return {
        "task_id": id,
        "object": "task",
        "type": "video",
        "status": status,
        "progress": 100 if done else 0,
        "model": "piccc-video",
        "polling_url": f"v1/tasks/{id}",
        "created_at": int(began),
        "completed_at": int(end) if done else None,
        "prompt": "A red kite over the sea",
        "result": {"outputs": [{"type": "video", "url": url, "mime_type": "video/mp4"}]} if done else None,
        "error": None,
    }
