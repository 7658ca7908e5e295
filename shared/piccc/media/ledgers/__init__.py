"""Ledgers record each submission before it is sent, so that a crash never causes a double charge.

A custom store only needs to implement `Ledger`. The other protocols for sharing between processes (`Lease`,
`TaskStream`, `SpendingLedger`) are optional: without them, each process works alone.
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
"""Replaces a password in a URL. It must not contain brackets, which enclose IPv6 hosts."""

MAX_REMEMBERED = 100_000
OUTAGE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Submission:
    """One submission in a `Ledger`.

    Attributes:
        key: its identifier, given by the caller or random.
        type: `image` or `video`.
        digest: a hash of the request, so that a key cannot be reused for a different one.
        request: the request body; empty once the submission has a task.
        at: when it was recorded, as a Unix time in seconds.
        task_id: its task, or None until there is a response.
        is_handled: whether a batch has delivered its result.
    """

    key: str
    type: str
    digest: str
    request: Mapping[str, Any] = field(default_factory=dict, repr=False)
    at: float = field(default_factory=time.time)
    task_id: str | None = None
    is_handled: bool = False


class Ledger(Protocol):
    """A store of submissions. Every method must be atomic, including between processes that share it.

    Methods are never called on an event loop. Their exceptions reach the caller as a `LedgerError`.
    """

    def claim(self, entry: Submission) -> Submission | None:
        """Record an entry unless its key is in use; return the existing entry, or None.

        Args:
            entry: the submission about to be sent.
        """
        ...

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Replace the entry of a key without a task; return False if the entry has changed.

        This lets only one of several processes resend a lost submission.

        Args:
            entry: the submission about to be resent.
            since: when the entry to replace was recorded, as a Unix time in seconds.
        """
        ...

    def settle(self, key: str, task_id: str) -> bool:
        """Record a submission's task; return False if the key or the task is in use.

        Args:
            key: the submission's key.
            task_id: the task's id.
        """
        ...

    def release(self, key: str) -> None:
        """Delete a submission that has no task.

        Args:
            key: the submission's key.
        """
        ...

    def handled(self, key: str) -> None:
        """Record that a batch delivered a submission's result.

        Args:
            key: the submission's key.
        """
        ...

    def get(self, key: str) -> Submission | None:
        """Return a key's entry, or None.

        Args:
            key: the submission's key.
        """
        ...

    def key_of(self, task_id: str) -> str | None:
        """Return the key of a task's submission, or None.

        Args:
            task_id: the task's id.
        """
        ...

    def unsettled(self) -> list[Submission]:
        """Return the submissions without a known task, oldest first."""
        ...


class Note(NamedTuple):
    """A message about a task from one process to the others.

    Attributes:
        kind: `wanted`: a process is waiting for it; `ended`: it was read and has ended; `look`: it reportedly
            ended, or could not be read, so each waiting process should read it.
        task_id: the task's id.
        text: for `wanted`, when the task was created, as a Unix time, or ""; for `ended`, the task as JSON.
    """

    kind: Literal["wanted", "ended", "look"]
    task_id: str
    text: str = ""


class Notes(NamedTuple):
    """Part of a stream: its notes, the cursor after them, and whether earlier ones were lost."""

    notes: Sequence[Note]
    cursor: str
    is_cut: bool = False


@runtime_checkable
class Lease(Protocol):
    """A ledger that grants leases: exclusive roles for one process at a time."""

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Acquire or renew a lease, or release it with 0 seconds; return whether `holder` has it."""
        ...


@runtime_checkable
class TaskStream(Lease, Protocol):
    """A ledger through which an account's processes share polling.

    The holder of the account's lease reads every task that any process waits for, and posts finished ones. A
    stream is identified by the server's URL, without credentials.
    """

    def post(self, server: str, notes: Sequence[Note]) -> None:
        """Append to the server's stream, which may keep only the latest 10,000 notes.

        A `wanted` task is open until it has `ended`.
        """
        ...

    def notes(self, server: str, cursor: str | None) -> Notes:
        """Return up to 1,000 notes after a cursor, each once and in order; for None, only the end cursor."""
        ...

    def open_tasks(self, server: str) -> list[tuple[str, str]]:
        """Return the id and the text of each task that is wanted and has not ended."""
        ...


class Spend(NamedTuple):
    """A submission's charge against a spend limit, in whole units.

    Attributes:
        limit: the limit's name.
        unit: `tasks`, `video_ms` or `micros` (millionths of the currency).
        amount: the number of units.
        most: the maximum, or None.
    """

    limit: str
    unit: str
    amount: int
    most: int | None


@runtime_checkable
class SpendingLedger(Protocol):
    """A ledger that counts spending atomically with recording the submission."""

    def claim_within(self, entry: Submission, spends: Sequence[Spend]) -> Submission | None:
        """Claim and count; if the key is in use, count nothing.

        Raise `exceeded(spend)` for the first spend over its limit, without claiming or counting.
        """
        ...

    def release_within(self, key: str, spends: Sequence[Spend]) -> None:
        """Release, and if there was an entry, undo its counts."""
        ...

    def spent(self, limit: str) -> dict[str, int]:
        """Return the amounts counted against a limit, by unit."""
        ...


def exceeded(spend: Spend) -> SpendLimitExceeded:
    """Return the error for an exhausted limit."""
    scale, name = {"video_ms": (1000, "max_video_seconds"), "micros": (1_000_000, "max_cost")}.get(
        spend.unit, (1, "max_tasks")
    )
    return SpendLimitExceeded(
        f"The spend limit is used up: {name}={(spend.most or 0) / scale:g}.",
        hint="This request was not sent. Raise the spend limit to submit more.",
    )


class StoreURL:
    """A store's URL that never exposes its password.

    Its string form hides the password. A URL with a hidden password takes it from `PICCC_LEDGER`, if the
    URLs are otherwise equal. Raise ConfigurationError if the URL is invalid.
    """

    def __init__(self, url: str) -> None:
        given, known = _split(url), _split(os.environ.get(LEDGER_VARIABLE, ""))
        if given is None:
            raise ConfigurationError(
                "The ledger's URL is invalid.",
                hint="Use redis://host:6379/0 or postgresql://user:password@host/database.",
            )
        self._shown, self.secrets = given
        if HIDDEN in url and known is not None and known[0] == self._shown:
            url, self.secrets = os.environ[LEDGER_VARIABLE], known[1]
        # A closure, because debuggers and logs of `vars` would show an attribute.
        self.reveal: Callable[[], str] = lambda: url

    def __str__(self) -> str:
        return self._shown


def _split(url: str) -> tuple[str, list[str]] | None:
    """Return a URL without its secrets, and the secrets; None if it is invalid."""
    try:
        parts = urlsplit(url.strip())
        if not parts.scheme or not (parts.hostname or parts.path.strip("/") or parts.query):
            return None
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        parts.port  # noqa: B018  raises if it is not a number
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
    return shown, sorted({secret for secret in secrets if secret}, key=len, reverse=True)


def ledger_at(place: str | os.PathLike[str] | None) -> Ledger:
    """Return the ledger for a path or URL; for None, the one in `PICCC_LEDGER`, or else one in memory.

    Raise ConfigurationError for an unsupported URL, and for "", which may be an unset variable.
    """
    if place == "":
        raise ConfigurationError(
            "The ledger's place is empty.", hint="Pass a file path or a URL, or omit it to use PICCC_LEDGER."
        )
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
    """A circuit breaker: for a second after a store's timeout, other calls fail immediately.

    Otherwise many calls would queue for connections or threads and each wait for the full timeout.
    """

    def __init__(self, place: object) -> None:
        self._place = place
        self._until = -math.inf

    def check(self) -> None:
        """Raise LedgerUnavailable during an outage."""
        if time.monotonic() < self._until:
            raise self.error("it did not respond a moment ago")

    def begin(self) -> None:
        """Start an outage."""
        self._until = time.monotonic() + OUTAGE_SECONDS

    def error(self, reason: object, *, is_away: bool = True) -> LedgerError:
        """Return the error for a store that is unreachable (`is_away`) or rejects a command."""
        return (LedgerUnavailable if is_away else LedgerError)(
            f"The ledger at {self._place} cannot be used: {reason}",
            hint="Nothing is submitted without it. Check the URL and the server.",
        )


_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class MemoryLedger:
    """A ledger in memory, which ends with the process and keeps the latest 100,000 settled submissions."""

    def __init__(self) -> None:
        self._entries: dict[str, Submission] = {}
        self._keys: dict[str, str] = {}

    def claim(self, entry: Submission) -> Submission | None:
        """Record an entry unless its key is in use; return the existing entry, or None."""
        with _lock:
            taken = self._entries.setdefault(entry.key, entry)
            return None if taken is entry else taken

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Replace an entry recorded at `since` that has no task; return False if it changed."""
        with _lock:
            known = self._entries.get(entry.key)
            if known is None or known.task_id or known.at != since:
                return False
            self._entries[entry.key] = entry
            return True

    def settle(self, key: str, task_id: str) -> bool:
        """Record a submission's task; return False if the key or the task is in use."""
        with _lock:
            entry = self._entries.get(key)
            if entry is None or entry.task_id or task_id in self._keys:
                return entry is not None and entry.task_id == task_id
            self._entries[key] = replace(entry, task_id=task_id, request={})
            self._keys[task_id] = key
            if len(self._keys) > MAX_REMEMBERED:
                oldest = next(iter(self._keys))
                del self._entries[self._keys.pop(oldest)]
            return True

    def release(self, key: str) -> None:
        """Delete a submission that has no task."""
        with _lock:
            if key in self._entries and self._entries[key].task_id is None:
                del self._entries[key]

    def handled(self, key: str) -> None:
        """Record that a batch delivered a submission's result."""
        with _lock:
            if key in self._entries:
                self._entries[key] = replace(self._entries[key], is_handled=True)

    def get(self, key: str) -> Submission | None:
        """Return a key's entry, or None."""
        return self._entries.get(key)

    def key_of(self, task_id: str) -> str | None:
        """Return the key of a task's submission, or None."""
        return self._keys.get(task_id)

    def unsettled(self) -> list[Submission]:
        """Return the submissions without a known task, oldest first."""
        with _lock:
            return [entry for entry in self._entries.values() if entry.task_id is None]

    def __reduce__(self) -> tuple[type[MemoryLedger], tuple[()]]:
        return (MemoryLedger, ())
