"""A ledger in an SQLite file, shared by the threads and processes of one machine."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from piccc.errors import ConfigurationError, LedgerError
from piccc.media.ledgers import Note, Notes, Spend, Submission, exceeded

T = TypeVar("T")

LOCK_SECONDS = 30.0
LOOK_SECONDS = 0.01
MAX_NOTES = 10_000
NOTES_AT_ONCE = 1000
SCHEMA_VERSION = 2

_TABLES = """
CREATE TABLE IF NOT EXISTS submissions (
    key TEXT PRIMARY KEY, type TEXT NOT NULL, digest TEXT NOT NULL, request TEXT NOT NULL, at REAL NOT NULL,
    task_id TEXT UNIQUE, is_handled INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unsettled ON submissions (at) WHERE task_id IS NULL;
DROP TABLE IF EXISTS notices;
CREATE TABLE IF NOT EXISTS notes (
    number INTEGER PRIMARY KEY AUTOINCREMENT, server TEXT NOT NULL,
    kind TEXT NOT NULL, task_id TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS open_tasks (
    server TEXT, task_id TEXT, text TEXT NOT NULL, PRIMARY KEY (server, task_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    name TEXT, unit TEXT, amount INTEGER NOT NULL, PRIMARY KEY (name, unit)
) WITHOUT ROWID;
"""
_COLUMNS = "key, type, digest, request, at, task_id, is_handled"


class Rows(Protocol):
    """A statement's result."""

    @property
    def rowcount(self) -> int:
        """The number of rows written."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows."""
        ...


class Database(Protocol):
    """The connection interface that `SQLLedger` uses."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """Run a statement with `?` placeholders."""
        ...


class SQLLedger(ABC):
    """The statements shared by SQLite and Postgres, on tables in the schema `main`."""

    @abstractmethod
    def _write(self, act: Callable[[Database], T], *, is_durable: bool = False, is_atomic: bool = False) -> T:
        """Run a write; `is_atomic` runs its statements in one transaction."""

    @abstractmethod
    def _read(self, act: Callable[[Database], T]) -> T:
        """Run a read."""

    def claim(self, entry: Submission) -> Submission | None:
        """Record an entry unless its key is in use; return the existing entry, or None."""
        return self._write(lambda database: _claim(database, entry), is_durable=True)

    def claim_within(self, entry: Submission, spends: Sequence[Spend]) -> Submission | None:
        """Claim and count; if it exceeds a limit, do neither and raise SpendLimitExceeded."""
        # Always lock rows in the same order, to avoid deadlocks between claims.
        ordered = sorted(spends, key=lambda spend: spend[:2])

        def act(database: Database) -> Submission | Spend | None:
            if taken := _first(database, "key", entry.key):
                return taken
            if too_much := next((spend for spend in ordered if not _has_room(database, spend)), None):
                return too_much
            if taken := _claim(database, entry):
                return taken
            for spend in ordered:
                _count(database, spend, spend.amount)
            return None

        result = self._write(act, is_durable=True, is_atomic=True)
        if isinstance(result, Spend):
            raise exceeded(result)
        return result

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Replace an entry recorded at `since` that has no task; return False if it changed."""
        statement = (
            "UPDATE main.submissions SET at = ?, digest = ?, request = ? "
            "WHERE key = ? AND at = ? AND task_id IS NULL"
        )
        row = (entry.at, entry.digest, _json(entry), entry.key, since)
        return self._write(lambda database: database.execute(statement, row).rowcount == 1, is_durable=True)

    def settle(self, key: str, task_id: str) -> bool:
        """Record a submission's task; return False if the key or the task is in use."""
        statement = (
            "UPDATE main.submissions SET task_id = ?, request = '{}' WHERE key = ? AND task_id IS NULL "
            "AND NOT EXISTS (SELECT 1 FROM main.submissions WHERE task_id = ?)"
        )

        def act(database: Database) -> bool:
            if database.execute(statement, (task_id, key, task_id)).rowcount:
                return True
            entry = _first(database, "key", key)
            return entry is not None and entry.task_id == task_id

        return self._write(act)

    def release(self, key: str) -> None:
        """Delete a submission that has no task."""
        self.release_within(key, ())

    def release_within(self, key: str, spends: Sequence[Spend]) -> None:
        """Delete a submission that has no task, and undo its counts."""
        statement = "DELETE FROM main.submissions WHERE key = ? AND task_id IS NULL"

        def act(database: Database) -> None:
            if database.execute(statement, (key,)).rowcount:
                for spend in sorted(spends, key=lambda spend: spend[:2]):
                    _count(database, spend, -spend.amount)

        self._write(act, is_atomic=bool(spends))

    def spent(self, limit: str) -> dict[str, int]:
        """Return the amounts counted against a limit, by unit."""
        select = "SELECT unit, amount FROM main.spent WHERE name = ?"
        return dict(self._read(lambda database: database.execute(select, (limit,)).fetchall()))

    def handled(self, key: str) -> None:
        """Record that a batch delivered a submission's result."""
        statement = "UPDATE main.submissions SET is_handled = 1 WHERE key = ?"
        self._write(lambda database: database.execute(statement, (key,)))

    def get(self, key: str) -> Submission | None:
        """Return a key's entry, or None."""
        return self._read(lambda database: _first(database, "key", key))

    def key_of(self, task_id: str) -> str | None:
        """Return the key of a task's submission, or None."""
        entry = self._read(lambda database: _first(database, "task_id", task_id))
        return entry.key if entry else None

    def unsettled(self) -> list[Submission]:
        """Return the submissions without a known task, oldest first."""
        return self._read(lambda database: _entries(database, "task_id IS NULL ORDER BY at"))

    def prune(self, older_than: float) -> int:
        """Delete settled submissions older than this many seconds; return how many.

        Their keys can then be used for new submissions, and resuming their run submits them again.
        Submissions with an unknown outcome are kept.
        """
        statement = "DELETE FROM main.submissions WHERE task_id IS NOT NULL AND at < ?"
        moment = time.time() - older_than
        return self._write(lambda database: database.execute(statement, (moment,)).rowcount)

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Acquire or renew a lease, or release it with 0 seconds; return whether `holder` has it."""
        statement = (
            f"INSERT INTO main.leases (name, holder, until) VALUES (?, ?, {self._now} + ?) "  # noqa: S608  ours
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until "
            f"WHERE leases.holder = excluded.holder OR leases.until <= {self._now}"
        )
        give_up, old = (
            "DELETE FROM main.leases WHERE name = ? AND holder = ?",
            "DELETE FROM main.leases WHERE until < ",
        )

        def act(database: Database) -> bool:
            rows = database.execute("SELECT holder FROM main.leases WHERE name = ?", (name,)).fetchall()
            if rows and _has_died(str(rows[0][0])):
                database.execute(give_up, (name, rows[0][0]))
            if not seconds:
                database.execute(give_up, (name, holder))
                database.execute(f"{old}{self._now} - 3600", ())
                return False
            return database.execute(statement, (name, holder, seconds)).rowcount == 1

        return self._write(act)

    def block(self, name: str, seconds: float) -> None:
        """Block requests for this many seconds, unless they are already blocked for longer."""
        statement = (
            f"INSERT INTO main.leases (name, holder, until) VALUES (?, '', {self._now} + ?) "  # noqa: S608  ours
            "ON CONFLICT (name) DO UPDATE SET until = excluded.until WHERE leases.until < excluded.until"
        )
        self._write(lambda database: database.execute(statement, (name, seconds)))

    def blocked(self, name: str) -> float:
        """Return the remaining seconds of the block; 0 or less if there is none."""
        select = f"SELECT until - {self._now} FROM main.leases WHERE name = ?"  # noqa: S608  ours
        rows = self._read(lambda database: database.execute(select, (name,)).fetchall())
        return float(rows[0][0]) if rows else 0.0

    _now = "(julianday('now') - 2440587.5) * 86400.0"
    """The store's time as a Unix time, because its clients' clocks may differ."""

    def post(self, server: str, notes: Sequence[Note]) -> None:
        """Append to the server's stream, which keeps the latest 10,000 notes."""
        wanted = (
            "INSERT INTO main.open_tasks (server, task_id, text) VALUES (?, ?, ?) "
            "ON CONFLICT (server, task_id) DO UPDATE SET text = excluded.text"
        )
        ended = "DELETE FROM main.open_tasks WHERE server = ? AND task_id = ?"
        append = "INSERT INTO main.notes (server, kind, task_id, text) VALUES (?, ?, ?, ?)"
        trim = "DELETE FROM main.notes WHERE number <= (SELECT MAX(number) FROM main.notes) - ?"

        def act(database: Database) -> None:
            self._lock_stream(database)
            for kind, task_id, text in notes:
                if kind == "wanted":
                    database.execute(wanted, (server, task_id, text))
                elif kind == "ended":
                    database.execute(ended, (server, task_id))
                database.execute(append, (server, kind, task_id, text))
            database.execute(trim, (MAX_NOTES,))

        self._write(act, is_atomic=True)

    def _lock_stream(self, database: Database) -> None:  # noqa: B027  SQLite serializes writers anyway
        """Make notes visible in the order of their numbers, which cursors rely on."""

    def notes(self, server: str, cursor: str | None) -> Notes:
        """Return up to 1,000 notes after a cursor, each once and in order; for None, only the end cursor."""
        select = (
            "SELECT number, kind, task_id, text FROM main.notes WHERE server = ? AND number > ? "
            "ORDER BY number LIMIT ?"
        )
        bounds = "SELECT MIN(number), MAX(number) FROM main.notes"

        def act(database: Database) -> Notes:
            oldest, latest = database.execute(bounds).fetchall()[0]
            if cursor is None:
                return Notes((), str(latest or 0))
            rows = database.execute(select, (server, int(cursor), NOTES_AT_ONCE)).fetchall()
            last = rows[-1][0] if rows else cursor
            return Notes([Note(*row[1:]) for row in rows], str(last), (oldest or 0) > int(cursor) + 1)

        return self._read(act)

    def open_tasks(self, server: str) -> list[tuple[str, str]]:
        """Return the id and the text of each task that is wanted and has not ended."""
        select = "SELECT task_id, text FROM main.open_tasks WHERE server = ?"
        rows = self._read(lambda database: database.execute(select, (server,)).fetchall())
        return [(task_id, text) for task_id, text in rows]


class SQLiteLedger(SQLLedger):
    """A ledger in an SQLite file, shared by any number of threads and processes on one machine.

    Only the owner can read the file, because it holds prompts: each submission's prompt until it has a task,
    then only a hash. Back it up with `sqlite3 tasks.db ".backup copy.db"`, and delete old entries with
    `prune`. Do not use it on network file systems, whose locks are unreliable.

    A claim is on disk before its submission is sent, even if the machine crashes; concurrent claims share one
    `fsync`. Other writes survive a crash of the process immediately, and of the machine after seconds: a
    submission whose task was not recorded is recovered from the account's list of tasks.

    Args:
        path: the file; its folder must exist.

    Raises:
        ConfigurationError: the path is a URL or `:memory:`.
        LedgerError: from every method, if the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Detect URLs even if pathlib dropped a slash. One letter would be a Windows drive.
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|:memory:|file:", os.fspath(path)):
            raise ConfigurationError(
                f"{os.fspath(path).partition(':/')[0]!r} is not supported as a ledger.",
                hint="Pass a file path, redis://… or postgresql://…, or omit ledger.",
            )
        self.path = Path(path)
        self._unchanged: dict[str, tuple[str | None, object]] = {}
        self._file: _File | None = None
        self._lock = threading.Lock()

    def notes(self, server: str, cursor: str | None) -> Notes:
        """Return up to 1,000 notes after a cursor, each once and in order; for None, only the end cursor."""
        state = self._state_of_file()
        if cursor is not None and self._unchanged.get(server) == (cursor, state):
            return Notes((), cursor)
        found = super().notes(server, cursor)
        # Two writes can fall within one tick of the file system's clock, so check again after finding notes.
        self._unchanged[server] = (None if found.notes else found.cursor, state)
        return found

    def _state_of_file(self) -> object:
        """Return a value that changes with each write and is cheaper than a query."""
        states = []
        for path in (self.path, Path(f"{self.path}-wal")):
            with suppress(FileNotFoundError):
                stat = path.stat()
                states.append((path, stat.st_mtime_ns, stat.st_size))
        return states or None

    def _write(self, act: Callable[[Database], T], *, is_durable: bool = False, is_atomic: bool = False) -> T:
        with self._errors():
            return self._open().write(act, is_durable=is_durable)

    def _read(self, act: Callable[[Database], T]) -> T:
        with self._errors():
            return self._open().read(act)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"The ledger at {self.path} cannot be used: {error}.",
                hint="Nothing is submitted without it. Check the path, its permissions and the disk space.",
            ) from error

    def _open(self) -> _File:
        """Return the open file; reopen it in a child process or if the path was replaced."""
        file = self._file
        if file is None or not file.is_current(self.path):
            if file is not None and file.process != os.getpid():
                self._lock = threading.Lock()  # a thread of the parent may hold the old one
            with self._lock:
                if self._file is file:
                    self._file = _File(self.path)
                file = self._file
        assert file is not None  # noqa: S101  for the type checker
        return file

    def __repr__(self) -> str:
        return f"SQLiteLedger({str(getattr(self, 'path', None))!r})"  # the path may have been refused

    def __reduce__(self) -> tuple[type[SQLiteLedger], tuple[str]]:
        return (SQLiteLedger, (str(self.path),))


class _Write(Generic[T]):
    """One thread's queued write and its result."""

    def __init__(self, act: Callable[[Database], T], *, is_durable: bool) -> None:
        self.is_durable = is_durable
        self.is_done = False
        self._act = act
        self._value: T
        self._error: BaseException | None = None

    def run(self, database: sqlite3.Connection) -> None:
        self._value = self._act(database)

    def end(self, error: BaseException | None) -> None:
        self._error, self.is_done = error, True

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value


class _File:
    """One connection for all threads of a process, with group commit.

    The thread that gets the lock also writes for all those waiting, so many claims cost one `fsync`.
    """

    def __init__(self, path: Path) -> None:
        self.process = os.getpid()
        # SQLite gives its -wal and -shm files the same permissions.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._database = sqlite3.connect(
            path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close, self._database, self.process, self._lock)
        self._queue: deque[_Write[Any]] = deque()
        self._synchronous = ""
        _enable_wal(self._database)
        _migrate(self._database)
        stat = path.stat()
        self._identity = (stat.st_dev, stat.st_ino)

    def is_current(self, path: Path) -> bool:
        """Return whether this process opened it and the path still refers to it."""
        if self.process != os.getpid():
            return False
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        return self._identity == (stat.st_dev, stat.st_ino)

    def read(self, act: Callable[[Database], T]) -> T:
        """Run a read."""
        with self._lock:
            return act(self._database)

    def write(self, act: Callable[[Database], T], *, is_durable: bool) -> T:
        """Run a write, possibly in one transaction with other threads' writes."""
        queued = _Write(act, is_durable=is_durable)
        self._queue.append(queued)
        with self._lock:
            if not queued.is_done:
                self._write_all([self._queue.popleft() for _ in range(len(self._queue))])
        return queued.result()

    def _write_all(self, acts: list[_Write[Any]]) -> None:
        database, error = self._database, None
        try:
            # In WAL mode, FULL syncs at each commit and NORMAL does not; neither can damage the file.
            # https://www.sqlite.org/pragma.html#pragma_synchronous
            wanted = "FULL" if any(act.is_durable for act in acts) else "NORMAL"
            if wanted != self._synchronous:
                database.execute(f"PRAGMA synchronous = {wanted}")
                self._synchronous = wanted
            database.execute("BEGIN IMMEDIATE")
            for act in acts:
                act.run(database)
            database.execute("COMMIT")
        except BaseException as caught:
            error = caught
            with suppress(sqlite3.Error):
                database.execute("ROLLBACK")
        # An interruption of this thread must not reach the others: they get an ordinary error.
        is_interruption = error is not None and not isinstance(error, Exception)
        for act in acts:
            act.end(sqlite3.OperationalError("the write was interrupted") if is_interruption else error)
        if error is not None and is_interruption:
            raise error


def _close(database: sqlite3.Connection, process: int, lock: threading.Lock) -> None:
    # A child must not even close its parent's connection: https://www.sqlite.org/howtocorrupt.html
    if process == os.getpid():
        # At exit, a daemon thread may still be writing, and SQLite would crash.
        with lock:
            database.close()
    else:
        _of_the_parent.append(database)


_of_the_parent: list[sqlite3.Connection] = []


def _enable_wal(database: sqlite3.Connection) -> None:
    """Enable WAL mode, so that reads and a write can run concurrently."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:  # this is the one statement that ignores SQLite's busy timeout
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)


def _migrate(database: sqlite3.Connection) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError("it was written by a newer version of piccc")
    # Version 0 had the same columns but no index; 0 and 1 had notices, which only shortened waits.
    database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")


def _has_died(holder: str) -> bool:
    """Return whether a lease's holder was a process on this machine that has ended."""
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if os.name != "posix" or host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _json(entry: Submission) -> str:
    return json.dumps(entry.request)


def _claim(database: Database, entry: Submission) -> Submission | None:
    statement = (
        f"INSERT INTO main.submissions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"  # noqa: S608  ours
    )
    row = (entry.key, entry.type, entry.digest, _json(entry), entry.at, entry.task_id, int(entry.is_handled))
    return None if database.execute(statement, row).rowcount else _first(database, "key", entry.key)


def _has_room(database: Database, spend: Spend) -> bool:
    # Writing the row locks it until the end of the transaction, so two claims cannot both take the last unit.
    _count(database, spend, 0)
    select = "SELECT amount FROM main.spent WHERE name = ? AND unit = ?"
    spent: int = database.execute(select, (spend.limit, spend.unit)).fetchall()[0][0]
    return spend.most is None or spent + spend.amount <= spend.most


def _count(database: Database, spend: Spend, amount: int) -> None:
    statement = (
        "INSERT INTO main.spent (name, unit, amount) VALUES (?, ?, ?) "
        "ON CONFLICT (name, unit) DO UPDATE SET amount = spent.amount + excluded.amount"
    )
    database.execute(statement, (spend.limit, spend.unit, amount))


def _first(database: Database, column: str, value: str) -> Submission | None:
    return next(iter(_entries(database, f"{column} = ?", value)), None)


def _entries(database: Database, condition: str, *values: object) -> list[Submission]:
    statement = f"SELECT {_COLUMNS} FROM main.submissions WHERE {condition}"  # noqa: S608  conditions of ours
    return [
        Submission(key, type, digest, json.loads(request), at, task_id, bool(is_handled))
        for key, type, digest, request, at, task_id, is_handled in database.execute(
            statement, values
        ).fetchall()
    ]
