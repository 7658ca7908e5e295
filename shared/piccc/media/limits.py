"""How much may be ordered, so that a loop or an agent cannot spend without end."""

from __future__ import annotations

import threading

from piccc.errors import SpendLimitExceeded
from piccc.media.requests import TaskRequest


class SpendLimit:
    """Bound what is submitted: `max_tasks` tasks, `max_video_seconds` of film; None sets no bound.

    One spend_limit may be shared by clients, threads and runs. What the server refused is given back.

    Attributes:
        max_tasks: how many tasks may be submitted.
        max_video_seconds: how many seconds of film.
        tasks: how many have been.
        video_seconds: how many seconds have been.

    Examples:
        >>> from piccc import SpendLimit, Client
        >>> spend_limit = SpendLimit(max_tasks=10)
        >>> task = Client(spend_limit=spend_limit).images.submit("A ceramic mug", model="piccc-image")
        >>> spend_limit
        SpendLimit(1 of 10 tasks, 0.0 of None s of film)
    """

    def __init__(self, *, max_tasks: int | None = None, max_video_seconds: float | None = None) -> None:
        self.max_tasks = max_tasks
        self.max_video_seconds = max_video_seconds
        self.tasks = 0
        self.video_seconds = 0.0
        self._lock = threading.Lock()

    def spend(self, order: TaskRequest) -> None:
        """Count an order; raise SpendLimitExceeded, counting nothing, where it is too much.

        A film of which no length was asked cannot be counted, so it is refused under `max_video_seconds`.
        """
        with self._lock:
            tasks, seconds = self.tasks + 1, self.video_seconds + order.video_seconds
            if self.max_tasks is not None and tasks > self.max_tasks:
                raise _exceeded(f"max_tasks={self.max_tasks}")
            if order.type == "video" and self.max_video_seconds is not None:
                if not order.video_seconds:
                    raise _exceeded("max_video_seconds needs duration_seconds")
                if seconds > self.max_video_seconds:
                    raise _exceeded(f"max_video_seconds={self.max_video_seconds}")
            self.tasks, self.video_seconds = tasks, seconds

    def give_back(self, order: TaskRequest) -> None:
        """Take back the count of an order that was not accepted."""
        with self._lock:
            self.tasks -= 1
            self.video_seconds -= order.video_seconds

    def __repr__(self) -> str:
        return (
            f"SpendLimit({self.tasks} of {self.max_tasks} tasks, "
            f"{self.video_seconds} of {self.max_video_seconds} s of film)"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.max_tasks, self.max_video_seconds, self.tasks, self.video_seconds))


def _rebuild(
    max_tasks: int | None, max_video_seconds: float | None, tasks: int, video_seconds: float
) -> SpendLimit:
    spend_limit = SpendLimit(max_tasks=max_tasks, max_video_seconds=max_video_seconds)
    spend_limit.tasks, spend_limit.video_seconds = tasks, video_seconds
    return spend_limit


def _exceeded(bound: str) -> SpendLimitExceeded:
    return SpendLimitExceeded(
        f"The spend_limit is used up: {bound}.",
        hint="Nothing was sent. Raise the spend limit if more is meant to be spent.",
    )
