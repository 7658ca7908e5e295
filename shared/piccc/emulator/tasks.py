"""Image and video tasks: request forms, state over time, and the task list."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from piccc.emulator.wire import INTEGRAL, APIError, Form

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
    """An accepted task, whose state depends on the clock.

    `duration` is in seconds; `odd_status` is the status reported while it runs; `hidden_reads` is how many
    reads get a 404; `base` is the origin that it was submitted to; `given_error` is the error of a recorded
    or live task; `is_live` means that another server runs it.
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
    given_error: dict[str, Any] | None = None
    is_live: bool = False

    @property
    def ends_at(self) -> float:
        """When the task becomes terminal; infinity if stuck."""
        return float("inf") if self.outcome == "stuck" else self.created_at + self.duration

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels (assumed)."""
        return pixels(self.kind, self.resolution, self.aspect_ratio)

    def ended(self, now: float) -> bool:
        """Whether the task is terminal."""
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
        """Whether the task completes with an output."""
        return self.outcome == "completed"

    def error(self, now: float) -> dict[str, Any] | None:
        """Return the error of a failed task."""
        if self.given_error and self.ended(now):
            return self.given_error
        if not self.ended(now) or self.outcome not in _ERRORS:
            return None
        return dict(zip(("message", "type", "code"), _ERRORS[self.outcome], strict=True))

    def to_json(self) -> dict[str, Any]:
        """Return the task as JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Task:
        """Restore a task from `to_json`."""
        idempotency = values.pop("idempotency")
        return cls(**values, idempotency=tuple(idempotency) if idempotency else None)


def pixels(kind: Kind, resolution: str, aspect_ratio: str) -> tuple[int, int]:
    """Return width and height, both even; `resolution` is the longer side (videos: the shorter) (assumed)."""
    wide, high = (int(part) for part in aspect_ratio.split(":"))
    if kind == "image":
        scale = IMAGE_SIDES[resolution] / max(wide, high)
    else:
        scale = VIDEO_SIDES[resolution] / min(wide, high)
    return 2 * round(wide * scale / 2), 2 * round(high * scale / 2)


def view(
    task: Task, now: float, base: str, outputs: Callable[[Task, float, str], dict[str, Any]]
) -> dict[str, Any]:
    """Return the task's JSON at `now` for the origin `base`; `outputs` builds its result."""
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
    """Return the error for a task that does not exist."""
    return APIError(404, f"Task {task_id!r} does not exist.", code="task_not_found", param="task_id")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the list: the tasks, and where the next page starts."""

    tasks: list[Task]
    next_cursor: str | None


class Tasks:
    """All tasks in order of creation, accessible by id, idempotency key or page."""

    def __init__(self) -> None:
        self._order: list[Task] = []
        self._places: dict[str, int] = {}
        self._by_idempotency: dict[str, Task] = {}
        self._ended = 0

    def __iter__(self) -> Iterator[Task]:
        return iter(self._order.copy())

    def __len__(self) -> int:
        return len(self._order)

    def add(self, task: Task) -> None:
        """Add a task."""
        self._places[task.id] = len(self._order)
        self._order.append(task)
        if task.idempotency:
            self._by_idempotency[task.idempotency[0]] = task

    def replace(self, task: Task) -> None:
        """Replace the task with the same id."""
        self._order[self._places[task.id]] = task

    def get(self, task_id: str) -> Task:
        """Return a task. Raises APIError 404."""
        try:
            return self._order[self._places[task_id]]
        except KeyError:
            raise missing(task_id) from None

    def replayed(self, idempotency: tuple[str, str]) -> Task | None:
        """Return the task submitted earlier with this key. Raises APIError 409 if that request differed."""
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

    def first_running(self, now: float) -> int:
        """Return an index before which every task has ended, so that lists of running tasks can skip them."""
        while self._ended < len(self._order) and self._order[self._ended].ended(now):
            self._ended += 1
        return self._ended

    def page(self, *, fits: Callable[[Task], bool], limit: int, cursor: str | None, first: int = 0) -> Page:
        """Return the newest matching tasks older than `cursor`; new tasks do not shift pages.

        Tasks before the index `first` are skipped.
        """
        end = len(self._order) if cursor is None else self._position(cursor)
        matching: list[Task] = []
        for index in range(end - 1, first - 1, -1):
            if not fits(self._order[index]):
                continue
            if len(matching) == limit:
                return Page(matching, _cursor(matching[-1]))
            matching.append(self._order[index])
        return Page(matching, None)

    def drifting_page(self, *, fits: Callable[[Task], bool], limit: int, cursor: str | None) -> Page:
        """Return a page by offset, shifted as if a task had been added, so the last task repeats."""
        start = int(cursor) if cursor and cursor.isdecimal() and len(cursor) < _LONGEST_NUMBER else 0
        start -= 1 if start and limit > 1 else 0
        matching = [task for task in reversed(self._order) if fits(task)]
        end = start + limit
        return Page(matching[start:end], str(end) if end < len(matching) else None)

    def numbered_page(
        self, *, fits: Callable[[Task], bool], number: int, size: int
    ) -> tuple[list[Task], int]:
        """Return a page by number, from 1, and the total number of tasks."""
        matching = [task for task in reversed(self._order) if fits(task)]
        return matching[(number - 1) * size : number * size], len(matching)

    def _position(self, cursor: str) -> int:
        try:
            return self._places[base64.urlsafe_b64decode(cursor.encode()).decode()]
        except (binascii.Error, KeyError, ValueError):
            message = "The cursor is not valid. Use the next_cursor of a previous page."
            raise APIError(404, message, code="cursor_not_found", param="cursor") from None


def _cursor(task: Task) -> str:
    return base64.urlsafe_b64encode(task.id.encode()).decode()


AspectRatio = Literal["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9"]


_FAR = r"https://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
_NEAR = r"http://(127\.0\.0\.1|localhost|\[::1\])"
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_REST = rf"(:{_PORT})?([/?][!-~]*)?"


class Webhook(Form):
    """The URL to notify when a task ends: https anywhere, http on loopback only."""

    url: Annotated[str, Field(pattern=f"^({_FAR}|{_NEAR}){_REST}$")]


class TaskRequest(Form):
    """Fields of both kinds of task."""

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    seed: Annotated[int, Field(ge=0, lt=2**63), INTEGRAL] | None = None
    webhook: Webhook | None = None


class ImageTaskRequest(TaskRequest):
    """An image task."""

    aspect_ratio: AspectRatio = "1:1"
    resolution: Literal["1K", "2K", "4K"] = "1K"
    output_format: Literal["png", "jpeg", "webp"] = "png"


class VideoTaskRequest(TaskRequest):
    """A video task; its length is in whole seconds."""

    aspect_ratio: AspectRatio = "16:9"
    resolution: Literal["480p", "720p", "1080p"] = "720p"
    duration_seconds: Annotated[int, Field(ge=1, le=30), INTEGRAL] = 6


FORMS: dict[Kind, type[ImageTaskRequest] | type[VideoTaskRequest]] = {
    "image": ImageTaskRequest,
    "video": VideoTaskRequest,
}
