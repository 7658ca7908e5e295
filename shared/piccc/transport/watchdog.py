"""One thread that interrupts blocking reads whose time has passed."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections.abc import Callable


class Alarm:
    """A call that will be made at a moment, unless it is cancelled."""

    __slots__ = ("action", "fired", "moment")

    def __init__(self, moment: float, action: Callable[[], None]) -> None:
        self.moment = moment
        self.action: Callable[[], None] | None = action
        self.fired = False

    def cancel(self) -> None:
        """Forget the call."""
        self.action = None

    def fire(self) -> None:
        """Make the call, if it was not cancelled."""
        action, self.action = self.action, None
        if action is not None:
            self.fired = True
            action()


class Watchdog:
    """Fire alarms on `time.monotonic`; the thread starts with the first one."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Alarm]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def set(self, moment: float, action: Callable[[], None]) -> Alarm:
        """Arrange a call at a moment."""
        alarm = Alarm(moment, action)
        with self._changed:
            heapq.heappush(self._queue, (moment, next(self._numbers), alarm))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="piccc-watchdog", daemon=True)
                self._thread.start()
            self._changed.notify()
        return alarm

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue or self._queue[0][0] > time.monotonic():
                    self._drop_cancelled()
                    self._changed.wait(self._queue[0][0] - time.monotonic() if self._queue else None)
                alarm = heapq.heappop(self._queue)[2]
            alarm.fire()

    def _drop_cancelled(self) -> None:
        while self._queue and self._queue[0][2].action is None:
            heapq.heappop(self._queue)


watchdog = Watchdog()


def _after_fork() -> None:
    watchdog.__init__()  # type: ignore[misc]  # the child has neither the thread nor its waiters


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
