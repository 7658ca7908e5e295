"""Ledgers record each submission before it is sent, so that no crash pays twice."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

MOST_REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Submission:
    """One submission, as a `Ledger` remembers it.

    Attributes:
        key: names it; the caller's own or a random one.
        type: `image` or `video`.
        digest: of what was ordered, so that a key cannot stand for two different orders.
        request: the body that was sent, or was about to be; empty once it has become a task.
        at: when it was written down, a Unix time in seconds.
        task_id: the task it became, or None as long as no answer came.
        is_handled: whether a batch has handed its result over.
    """

    key: str
    type: str
    digest: str
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    at: float = field(default_factory=time.time)
    task_id: str | None = None
    is_handled: bool = False


class Ledger(Protocol):
    """Where submissions are remembered. Every method is atomic, also between processes that share it.

    No method is called on an event loop. What one raises reaches the caller as a `LedgerError`.
    """

    def claim(self, entry: Submission) -> Submission | None:
        """Write an entry down unless its key is taken; return the entry that took it, or None."""
        ...

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Claim a key again that was written down at `since` and never became a task; False if that changed.

        So of several processes that want to send a lost submission again, one does.
        """
        ...

    def settle(self, key: str, task_id: str) -> bool:
        """Note which task a submission became; return False where the key or the task is taken."""
        ...

    def release(self, key: str) -> None:
        """Forget a submission that never became a task."""
        ...

    def handled(self, key: str) -> None:
        """Note that a batch has handed over the result of a submission."""
        ...

    def get(self, key: str) -> Submission | None:
        """Return the entry of a key."""
        ...

    def key_of(self, task_id: str) -> str | None:
        """Return the key of the submission that became this task."""
        ...

    def unsettled(self) -> list[Submission]:
        """Return the submissions of which nobody knows yet whether they became a task, oldest first."""
        ...


@runtime_checkable
class Notifier(Protocol):
    """A ledger by which processes notify one another that a task is said to have ended.

    It only shortens waits, so neither losing nor repeating a notice does harm.
    """

    def notify(self, task_id: str) -> None:
        """Notify the other processes of a task."""
        ...

    def notices(self) -> list[str]:
        """Return the tasks of which others gave notice since the last call; it is called every second."""
        ...


_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class MemoryLedger:
    """Remember for as long as the process lives; of settled submissions the latest 100,000."""

    def __init__(self) -> None:
        self._entries: dict[str, Submission] = {}
        self._keys: dict[str, str] = {}

    def claim(self, entry: Submission) -> Submission | None:
        """Write an entry down unless its key is taken; return the entry that took it, or None."""
        with _lock:
            taken = self._entries.setdefault(entry.key, entry)
            return None if taken is entry else taken

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Claim again a key written down at `since` that never became a task; return False if it changed."""
        with _lock:
            known = self._entries.get(entry.key)
            if known is None or known.task_id or known.at != since:
                return False
            self._entries[entry.key] = entry
            return True

    def settle(self, key: str, task_id: str) -> bool:
        """Note which task a submission became; return False where the key or the task is taken."""
        with _lock:
            entry = self._entries.get(key)
            if entry is None or entry.task_id or task_id in self._keys:
                return entry is not None and entry.task_id == task_id
            self._entries[key] = replace(entry, task_id=task_id, request={})
            self._keys[task_id] = key
            if len(self._keys) > MOST_REMEMBERED:
                oldest = next(iter(self._keys))
                del self._entries[self._keys.pop(oldest)]
            return True

    def release(self, key: str) -> None:
        """Forget a submission that never became a task."""
        with _lock:
            if key in self._entries and self._entries[key].task_id is None:
                del self._entries[key]

    def handled(self, key: str) -> None:
        """Note that a batch has handed over the result of a submission."""
        with _lock:
            if key in self._entries:
                self._entries[key] = replace(self._entries[key], is_handled=True)

    def get(self, key: str) -> Submission | None:
        """Return the entry of a key."""
        return self._entries.get(key)

    def key_of(self, task_id: str) -> str | None:
        """Return the key of the submission that became this task."""
        return self._keys.get(task_id)

    def unsettled(self) -> list[Submission]:
        """Return the submissions of which nobody knows yet whether they became a task, oldest first."""
        with _lock:
            return [entry for entry in self._entries.values() if entry.task_id is None]

    def __reduce__(self) -> tuple[type[MemoryLedger], tuple[()]]:
        return (MemoryLedger, ())
