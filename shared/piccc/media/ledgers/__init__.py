"""Ledgers record each submission before it is sent, so that no crash pays twice.

A `Ledger` is all that needs to be written for a store of one's own. What else processes may share through it
(`Lease`, `TaskStream`, `SpendingLedger`) is optional: where it is missing, each process goes by itself.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from piccc.errors import ConfigurationError, LedgerError, LedgerUnavailable, SpendLimitExceeded

LEDGER_VARIABLE = "PICCC_LEDGER"
HIDDEN = "***"
"""What stands for a password in an address; brackets, as elsewhere, are those of an IPv6 host."""

MOST_REMEMBERED = 100_000
OUTAGE_SECONDS = 1.0


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
        """Write an entry down unless its key is taken; return the entry that took it, or None.

        Args:
            entry: the submission that is about to be sent.
        """
        ...

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Claim a key again that never became a task; return False if its entry has changed.

        So of several processes that want to send a lost submission again, one does.

        Args:
            entry: the submission that is about to be sent again.
            since: when the entry that it replaces was written down, as a Unix time in seconds.
        """
        ...

    def settle(self, key: str, task_id: str) -> bool:
        """Note which task a submission became; return False where the key or the task is taken.

        Args:
            key: the submission's key.
            task_id: the task's id.
        """
        ...

    def release(self, key: str) -> None:
        """Forget a submission that never became a task.

        Args:
            key: the submission's key.
        """
        ...

    def handled(self, key: str) -> None:
        """Note that a batch has handed over the result of a submission.

        Args:
            key: the submission's key.
        """
        ...

    def get(self, key: str) -> Submission | None:
        """Return the entry of a key, or None.

        Args:
            key: the submission's key.
        """
        ...

    def key_of(self, task_id: str) -> str | None:
        """Return the key of the submission that became a task, or None.

        Args:
            task_id: the task's id.
        """
        ...

    def unsettled(self) -> list[Submission]:
        """Return the submissions that are not yet known to have become a task, oldest first."""
        ...


class Note(NamedTuple):
    """What one process lets the others know about a task.

    Attributes:
        kind: `wanted`: a process waits for it; `ended`: it was read and has ended; `look`: it is said to have
            ended, or cannot be read: the processes that wait read it.
        task_id: the task.
        text: of a task that is wanted, when it was made, a Unix time, or ""; of one that ended, the task as
            JSON.
    """

    kind: Literal["wanted", "ended", "look"]
    task_id: str
    text: str = ""


class Notes(NamedTuple):
    """Part of a stream: its notes, the cursor behind them, and whether some before them are gone."""

    notes: Sequence[Note]
    cursor: str
    is_cut: bool = False


@runtime_checkable
class Lease(Protocol):
    """A ledger by which one process at a time gets to do something."""

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease for some seconds, or give it up with 0; return whether it is `holder`'s."""
        ...


@runtime_checkable
class TaskStream(Lease, Protocol):
    """A ledger by which the processes of an account read each task's end once between them.

    The one that holds the account's lease reads what any of them waits for, and posts what has ended. A
    stream is named by the server's address, without credentials.
    """

    def post(self, server: str, notes: Sequence[Note]) -> None:
        """Append to the server's stream, which may forget all but the latest 10,000 notes.

        What is `wanted` is open until it has `ended`.
        """
        ...

    def notes(self, server: str, cursor: str | None) -> Notes:
        """Return up to 1,000 notes behind a cursor, each once and in order; none, and the end, for None."""
        ...

    def open_tasks(self, server: str) -> list[tuple[str, str]]:
        """Return the id and the text of each task that is wanted and has not ended."""
        ...


class Spend(NamedTuple):
    """What a submission counts for against a spend limit, in whole units, and how many there may be.

    Attributes:
        limit: the name of the limit.
        unit: `tasks`, `video_ms` or `micros` of money.
        amount: how many it counts for.
        most: the bound, or None.
    """

    limit: str
    unit: str
    amount: int
    most: int | None


@runtime_checkable
class SpendingLedger(Protocol):
    """A ledger that counts what was spent in the same act as it writes the submission down."""

    def claim_within(self, entry: Submission, spends: Sequence[Spend]) -> Submission | None:
        """Claim, and count; for a key that is taken count nothing.

        Raise `exceeded(spend)` for the first that is too much, and then neither claim nor count.
        """
        ...

    def release_within(self, key: str, spends: Sequence[Spend]) -> None:
        """Release, and if there was something to release take back what it counted for."""
        ...

    def spent(self, limit: str) -> dict[str, int]:
        """Return how much of each unit has been counted against a limit."""
        ...


def exceeded(spend: Spend) -> SpendLimitExceeded:
    """Return the error of a limit that is used up."""
    scale, name = {"video_ms": (1000, "max_video_seconds"), "micros": (1_000_000, "max_cost")}.get(
        spend.unit, (1, "max_tasks")
    )
    return SpendLimitExceeded(
        f"The spend limit is used up: {name}={(spend.most or 0) / scale:g}.",
        hint="Nothing was sent. Raise the spend limit if more is meant to be spent.",
    )


class StoreURL:
    """The address of a store, whose password shows nowhere.

    Written as text it has no password. An address without one takes that of `PICCC_LEDGER`, if it is the same
    but for it. Raise ConfigurationError where there is no host.
    """

    def __init__(self, url: str) -> None:
        given, known = _split(url), _split(os.environ.get(LEDGER_VARIABLE, ""))
        if given is None:
            raise ConfigurationError(
                "The ledger's address cannot be read.",
                hint="Give it as redis://host:6379/0 or postgresql://user:password@host/database.",
            )
        self._shown, self.secrets = given
        if HIDDEN in url and known is not None and known[0] == self._shown:
            url, self.secrets = os.environ[LEDGER_VARIABLE], known[1]
        # In no attribute, where a debugger or a log of `vars` would show it.
        self.reveal: Callable[[], str] = lambda: url

    def __str__(self) -> str:
        return self._shown


def _split(url: str) -> tuple[str, list[str]] | None:
    """Return an address without what is secret in it, and that; None where it is no address."""
    try:
        parts = urlsplit(url.strip())
        if not parts.scheme or not (parts.hostname or parts.path.strip("/") or parts.query):
            return None
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        parts.port  # noqa: B018  it raises where it is no number
    except ValueError:
        return None
    is_secret = [(name, value, "password" in name.lower()) for name, value in pairs]
    secrets = [value for _, value, secret in is_secret if secret]
    host = parts.netloc.rpartition("@")[2]
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if colon:
        secrets += [password, unquote(password)]
        host = f"{user}:{HIDDEN}@{host}"
    elif user:
        host = f"{user}@{host}"
    query = urlencode([(name, HIDDEN if secret else value) for name, value, secret in is_secret], safe=HIDDEN)
    shown = urlunsplit((parts.scheme, host, parts.path, query, ""))
    return shown, sorted({each for each in secrets if each}, key=len, reverse=True)


def ledger_at(place: str | os.PathLike[str] | None) -> Ledger:
    """Return the ledger at a file's path or a URL; for None the one at `PICCC_LEDGER`, else one in memory.

    Raise ConfigurationError for a URL of an unknown kind.
    """
    place = place or os.environ.get(LEDGER_VARIABLE) or ":memory:"
    scheme = place.partition("://")[0].lower() if isinstance(place, str) and "://" in place else ""
    if place == ":memory:":
        return MemoryLedger()
    if scheme in ("redis", "rediss"):
        from piccc.media.ledgers.redis import RedisLedger

        return RedisLedger(str(place))
    if scheme in ("postgresql", "postgres"):
        from piccc.media.ledgers.postgres import PostgresLedger

        return PostgresLedger(str(place))
    from piccc.media.ledgers.sqlite import SQLiteLedger

    return SQLiteLedger(place)


class Outage:
    """For a second after a store has not answered in time, refuse at once what else is asked of it.

    Otherwise many calls would wait for it in turn, for want of connections or threads, each for as long.
    """

    def __init__(self, place: object) -> None:
        self._place = place
        self._until = -math.inf

    def check(self) -> None:
        """Raise LedgerUnavailable while the store is taken to be away."""
        if time.monotonic() < self._until:
            raise self.error("it did not answer a moment ago")

    def begin(self) -> None:
        """Take the store to be away from now on."""
        self._until = time.monotonic() + OUTAGE_SECONDS

    def error(self, reason: object, *, is_away: bool = True) -> LedgerError:
        """Return the error for a store that is away, or refuses."""
        return (LedgerUnavailable if is_away else LedgerError)(
            f"The ledger at {self._place} cannot be used: {reason}",
            hint="Nothing is submitted without it. Check the address and the server.",
        )


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
        """Return the submissions that are not yet known to have become a task, oldest first."""
        with _lock:
            return [entry for entry in self._entries.values() if entry.task_id is None]

    def __reduce__(self) -> tuple[type[MemoryLedger], tuple[()]]:
        return (MemoryLedger, ())
