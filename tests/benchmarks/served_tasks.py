"""A thousand tasks as the server tells of them: they begin together and end at seeded moments."""

from __future__ import annotations

import random
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

COUNT = 1_000
SECONDS = 60.0
PAGE = 20
OPENAI = {"queued": "queued", "processing": "in_progress", "completed": "completed"}


class Tasks:
    """The tasks of one client, from the moment they are made."""

    def __init__(self) -> None:
        chance = random.Random(8)
        self._began = time.time()
        self._ends = {f"task_{number:04}": chance.uniform(2.0, SECONDS) for number in range(COUNT)}
        self._requests = 0

    def answer(self, path: str) -> dict[str, Any]:
        """Return the answer to one request, and count it unless it is about the measurement itself."""
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
        status = self._status(id)
        done = status == "completed"
        output = {"type": "video", "url": f"https://files.example.com/{id}.mp4", "mime_type": "video/mp4"}
        return {
            "task_id": id,
            "object": "task",
            "type": "video",
            "status": status,
            "progress": 100 if done else 0,
            "model": "piccc-video",
            "polling_url": f"v1/tasks/{id}",
            "created_at": int(self._began),
            "completed_at": int(self._began + self._ends[id]) if done else None,
            "prompt": "A red kite over the sea",
            "result": {"outputs": [output]} if done else None,
            "error": None,
        }

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
