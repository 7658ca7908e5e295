"""Image and video tasks: what was ordered, how far it is at a given moment, and the list of all."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from piccc.emulator.errors import APIError

Kind = Literal["image", "video"]

IMAGE_SIDES = {"1K": 1024, "2K": 2048, "4K": 4096}
VIDEO_SIDES = {"480p": 480, "720p": 720, "1080p": 1080}
ASPECT_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9")
STATUSES = ("queued", "processing", "completed", "failed", "cancelled", "expired")
OUTCOMES = frozenset({"completed", "failed", "moderated", "cancelled", "expired", "stuck", "no-output"})

_QUEUED_SHARE = 0.2
_LONGEST_NUMBER = 16
_ERRORS = {
    "failed": ("The generation failed.", "server_error", "generation_failed"),
    "moderated": (
        "The request was refused by the content policy.",
        "invalid_request_error",
        "content_policy_violation",
    ),
    "expired": ("The task was not finished in time.", "timeout_error", "task_expired"),
}


@dataclass(frozen=True, slots=True)
class Task:
    """An accepted task; everything else about it follows from the clock.

    `duration` is how long it takes, in seconds; `outcome` how it ends; `odd_status` a word that is reported
    while it runs; `hidden_reads` how many reads do not find it; `base` the origin it was ordered from.
    """

    id: str
    kind: Kind
    model: str
    prompt: str
    aspect_ratio: str
    resolution: str
    created_at: float
    duration: float
    base: str
    duration_seconds: int | None = None
    seed: int = 0
    mime_type: str = "image/png"
    webhook_url: str | None = None
    outcome: str = "completed"
    odd_status: str | None = None
    hidden_reads: int = 0
    idempotency: tuple[str, str] | None = None

    @property
    def ends_at(self) -> float:
        """Return the moment at which the task becomes terminal; infinity when it is stuck."""
        return float("inf") if self.outcome == "stuck" else self.created_at + self.duration

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height in pixels (assumed)."""
        return pixels(self.kind, self.resolution, self.aspect_ratio)

    def ended(self, now: float) -> bool:
        """Tell whether the task is terminal."""
        return now >= self.ends_at

    def status(self, now: float) -> str:
        """Return the status at `now`."""
        if self.ended(now):
            return {"moderated": "failed", "no-output": "completed"}.get(self.outcome, self.outcome)
        if now <= self.created_at + _QUEUED_SHARE * self.duration:
            return "queued"
        return self.odd_status or "processing"

    def progress(self, now: float) -> int:
        """Return the progress in percent: 100 exactly when completed."""
        if self.status(now) == "completed":
            return 100
        begun = self.created_at + _QUEUED_SHARE * self.duration
        share = (min(now, self.ends_at) - begun) / max(self.duration * (1 - _QUEUED_SHARE), 1e-9)
        return max(0, min(99, int(share * 100)))

    @property
    def has_output(self) -> bool:
        """Tell whether there will be something to show for it."""
        return self.outcome == "completed"

    def error(self, now: float) -> dict[str, str] | None:
        """Return the error of a task that ended badly."""
        if not self.ended(now) or self.outcome not in _ERRORS:
            return None
        return dict(zip(("message", "type", "code"), _ERRORS[self.outcome], strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the task as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Task:
        """Read what `to_json` wrote."""
        idempotency = values.pop("idempotency")
        return cls(**values, idempotency=tuple(idempotency) if idempotency else None)


def pixels(kind: Kind, resolution: str, aspect_ratio: str) -> tuple[int, int]:
    """Return width and height: images by the longer side, videos by the shorter, both even (assumed)."""
    wide, high = (int(part) for part in aspect_ratio.split(":"))
    if kind == "image":
        scale = IMAGE_SIDES[resolution] / max(wide, high)
    else:
        scale = VIDEO_SIDES[resolution] / min(wide, high)
    return 2 * round(wide * scale / 2), 2 * round(high * scale / 2)


def view(
    task: Task, now: float, base: str, outputs: Callable[[Task, float, str], dict[str, Any]]
) -> dict[str, Any]:
    """Return the task as the wire shows it at `now`, under the origin `base`; `outputs` gives its result."""
    status = task.status(now)
    shown = {
        "task_id": task.id,
        "object": "task",
        "type": task.kind,
        "status": status,
        "progress": task.progress(now),
        "model": task.model,
        "polling_url": f"{base}/v1/tasks/{task.id}",
        "created_at": int(task.created_at),
        "updated_at": int(min(now, task.ends_at)),
        "completed_at": int(task.ends_at) if status == "completed" else None,
        "prompt": task.prompt,
        "aspect_ratio": task.aspect_ratio,
        "resolution": task.resolution,
        "result": outputs(task, now, base) if status == "completed" and task.has_output else None,
        "error": task.error(now),
    }
    if task.duration_seconds is not None:
        shown["duration_seconds"] = task.duration_seconds
    return shown


def missing(task_id: str) -> APIError:
    """Return the refusal of a task that does not exist."""
    return APIError(404, f"No task {task_id!r} exists.", code="task_not_found", param="task_id")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the list: the tasks, and where the next page begins."""

    tasks: list[Task]
    next_cursor: str | None


class Tasks:
    """All tasks in the order of their creation, found by id, by idempotency key, or page by page."""

    def __init__(self) -> None:
        self._order: list[Task] = []
        self._places: dict[str, int] = {}
        self._by_idempotency: dict[str, Task] = {}

    def __iter__(self) -> Iterator[Task]:
        return iter(self._order.copy())

    def __len__(self) -> int:
        return len(self._order)

    def add(self, task: Task) -> None:
        """Remember a task."""
        self._places[task.id] = len(self._order)
        self._order.append(task)
        if task.idempotency:
            self._by_idempotency[task.idempotency[0]] = task

    def get(self, task_id: str) -> Task:
        """Find a task; a 404 Problem when there is none."""
        try:
            return self._order[self._places[task_id]]
        except KeyError:
            raise missing(task_id) from None

    def replayed(self, idempotency: tuple[str, str]) -> Task | None:
        """Find the task of an earlier submission with this key; a 409 Problem when that one differed."""
        key, fingerprint = idempotency
        task = self._by_idempotency.get(key)
        if task and task.idempotency and task.idempotency[1] != fingerprint:
            raise APIError(
                409,
                "This Idempotency-Key was used for a different request. Use a new key for a new submission.",
                code="idempotency_key_reused",
                param="Idempotency-Key",
            )
        return task

    def page(self, *, fits: Callable[[Task], bool], limit: int, cursor: str | None) -> Page:
        """Return the newest tasks that fit, older than `cursor`: what is added meanwhile shifts nothing."""
        end = len(self._order) if cursor is None else self._position(cursor)
        found: list[Task] = []
        for index in range(end - 1, -1, -1):
            if not fits(self._order[index]):
                continue
            if len(found) == limit:
                return Page(found, _cursor(found[-1]))
            found.append(self._order[index])
        return Page(found, None)

    def drifting_page(self, *, fits: Callable[[Task], bool], limit: int, cursor: str | None) -> Page:
        """Return a page by its offset, as if a task had come in since the last: its end is shown again."""
        start = int(cursor) if cursor and cursor.isdecimal() and len(cursor) < _LONGEST_NUMBER else 0
        start -= 1 if start and limit > 1 else 0
        found = [task for task in reversed(self._order) if fits(task)]
        end = start + limit
        return Page(found[start:end], str(end) if end < len(found) else None)

    def numbered_page(
        self, *, fits: Callable[[Task], bool], number: int, size: int
    ) -> tuple[list[Task], int]:
        """Return the page of that number, from 1, and how many tasks there are on all pages."""
        found = [task for task in reversed(self._order) if fits(task)]
        return found[(number - 1) * size : number * size], len(found)

    def _position(self, cursor: str) -> int:
        try:
            return self._places[base64.urlsafe_b64decode(cursor.encode()).decode()]
        except (binascii.Error, KeyError, ValueError):
            message = "The cursor is not one that this list gave out."
            raise APIError(404, message, code="cursor_not_found", param="cursor") from None


def _cursor(task: Task) -> str:
    return base64.urlsafe_b64encode(task.id.encode()).decode()
