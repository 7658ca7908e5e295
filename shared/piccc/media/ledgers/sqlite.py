"""The ledger in an SQLite file, for all threads and processes of one machine."""

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
MOST_NOTES = 10_000
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
    """What a statement gives back."""

    @property
    def rowcount(self) -> int:
        """How many rows it wrote."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows."""
        ...


class Database(Protocol):
    """A connection, as the statements of an `SQLLedger` need it."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """Run a statement with `?` for each value."""
        ...


class SQLLedger(ABC):
    """The statements that SQLite and Postgres share, over tables of the schema `main`."""

    @abstractmethod
    def _write(self, act: Callable[[Database], T], *, is_durable: bool = False, is_atomic: bool = False) -> T:
        """Run an act that writes; `is_atomic` where it is several statements that must stand together."""

    @abstractmethod
    def _read(self, act: Callable[[Database], T]) -> T:
        """Run an act that reads."""

    def claim(self, entry: Submission) -> Submission | None:
        """Write an entry down unless its key is taken; return the entry that took it, or None."""
        return self._write(lambda database: _claim(database, entry), is_durable=True)

    def claim_within(self, entry: Submission, spends: Sequence[Spend]) -> Submission | None:
        """Claim and count; raise SpendLimitExceeded, doing neither, where it is too much."""
        # In the same order everywhere, so that no two claims wait for each other's rows.
        ordered = sorted(spends, key=lambda each: each[:2])

        def act(database: Database) -> Submission | Spend | None:
            if taken := _first(database, "key", entry.key):
                return taken
            if broken := next((each for each in ordered if not _has_room(database, each)), None):
                return broken
            if taken := _claim(database, entry):
                return taken
            for each in ordered:
                _count(database, each, each.amount)
            return None

        result = self._write(act, is_durable=True, is_atomic=True)
        if isinstance(result, Spend):
            raise exceeded(result)
        return result

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Claim again a key written down at `since` that never became a task; return False if it changed."""
        statement = (
            "UPDATE main.submissions SET at = ?, digest = ?, request = ? "
            "WHERE key = ? AND at = ? AND task_id IS NULL"
        )
        row = (entry.at, entry.digest, _json(entry), entry.key, since)
        return self._write(lambda database: database.execute(statement, row).rowcount == 1, is_durable=True)

    def settle(self, key: str, task_id: str) -> bool:
        """Note which task a submission became; return False where the key or the task is taken."""
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
        """Forget a submission that never became a task."""
        self.release_within(key, ())

    def release_within(self, key: str, spends: Sequence[Spend]) -> None:
        """Forget a submission that never became a task, and take back what it counted for."""
        statement = "DELETE FROM main.submissions WHERE key = ? AND task_id IS NULL"

        def act(database: Database) -> None:
            if database.execute(statement, (key,)).rowcount:
                for each in sorted(spends, key=lambda each: each[:2]):
                    _count(database, each, -each.amount)

        self._write(act, is_atomic=bool(spends))

    def spent(self, limit: str) -> dict[str, int]:
        """Return how much of each unit has been counted against a limit."""
        select = "SELECT unit, amount FROM main.spent WHERE name = ?"
        return dict(self._read(lambda database: database.execute(select, (limit,)).fetchall()))

    def handled(self, key: str) -> None:
        """Note that a batch has handed over the result of a submission."""
        statement = "UPDATE main.submissions SET is_handled = 1 WHERE key = ?"
        self._write(lambda database: database.execute(statement, (key,)))

    def get(self, key: str) -> Submission | None:
        """Return the entry of a key."""
        return self._read(lambda database: _first(database, "key", key))

    def key_of(self, task_id: str) -> str | None:
        """Return the key of the submission that became this task."""
        entry = self._read(lambda database: _first(database, "task_id", task_id))
        return entry.key if entry else None

    def unsettled(self) -> list[Submission]:
        """Return the submissions that are not yet known to have become a task, oldest first."""
        return self._read(lambda database: _entries(database, "task_id IS NULL ORDER BY at"))

    def prune(self, older_than: float) -> int:
        """Forget submissions that became a task more than this many seconds ago; return how many.

        Their keys may then be used for new submissions, and a run that has some goes on by submitting them
        again. Submissions with an unknown outcome are kept.
        """
        statement = "DELETE FROM main.submissions WHERE task_id IS NOT NULL AND at < ?"
        moment = time.time() - older_than
        return self._write(lambda database: database.execute(statement, (moment,)).rowcount)

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew a lease for some seconds, or give it up with 0; return whether it is `holder`'s."""
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
        """Let `blocked` return this many seconds from now, unless it returns more already."""
        statement = (
            f"INSERT INTO main.leases (name, holder, until) VALUES (?, '', {self._now} + ?) "  # noqa: S608  ours
            "ON CONFLICT (name) DO UPDATE SET until = excluded.until WHERE leases.until < excluded.until"
        )
        self._write(lambda database: database.execute(statement, (name, seconds)))

    def blocked(self, name: str) -> float:
        """Return for how many seconds still nothing is to be sent; 0 or less where something may be."""
        select = f"SELECT until - {self._now} FROM main.leases WHERE name = ?"  # noqa: S608  ours
        rows = self._read(lambda database: database.execute(select, (name,)).fetchall())
        return float(rows[0][0]) if rows else 0.0

    _now = "(julianday('now') - 2440587.5) * 86400.0"
    """The store's own time as a Unix time: the clocks of its clients may differ."""

    def post(self, server: str, notes: Sequence[Note]) -> None:
        """Append to the server's stream, of which the latest 10,000 notes are kept."""
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
            database.execute(trim, (MOST_NOTES,))

        self._write(act, is_atomic=True)

    def _lock_stream(self, database: Database) -> None:  # noqa: B027  in SQLite writers take turns anyhow
        """Have notes become visible in the order of their numbers, which a cursor relies on."""

    def notes(self, server: str, cursor: str | None) -> Notes:
        """Return up to 1,000 notes behind a cursor, each once and in order; none, and the end, for None."""
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
    """Remember in an SQLite file, which any number of threads and processes of one machine may share.

    The file is made readable by its owner alone, for it holds prompts: that of each submission until it has
    become a task, and then only a hash. Back it up with `sqlite3 tasks.db ".backup copy.db"`, and let go of
    what is old with `prune`. Not for network file systems, whose locks do not hold.

    A claim is on the disk before its submission is sent, whatever happens to the machine; claims of the same
    moment share one `fsync`. What else is written survives the process at once and the machine within
    seconds: a submission whose task was not written down yet is found again among the account's tasks.

    Args:
        path: the file; its folder must exist.

    Raises:
        ConfigurationError: the path is a URL or `:memory:`.
        LedgerError: from every method, where the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A URL also where pathlib has dropped one of its slashes; a drive of Windows has one letter.
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/|:memory:|file:", os.fspath(path)):
            raise ConfigurationError(
                f"A ledger cannot be at {os.fspath(path).partition(':/')[0]!r}.",
                hint="Give a file's path, redis://… or postgresql://…, or leave ledger out.",
            )
        self.path = Path(path)
        self._unchanged: dict[str, tuple[str | None, object]] = {}
        self._file: _File | None = None
        self._lock = threading.Lock()

    def notes(self, server: str, cursor: str | None) -> Notes:
        """Return up to 1,000 notes behind a cursor, each once and in order; none, and the end, for None."""
        state = self._state_of_file()
        if cursor is not None and self._unchanged.get(server) == (cursor, state):
            return Notes((), cursor)
        found = super().notes(server, cursor)
        # Two writes may lie within one tick of the file system's clock: so look again after a find.
        self._unchanged[server] = (None if found.notes else found.cursor, state)
        return found

    def _state_of_file(self) -> object:
        """Return what changes with each write, which costs less than to look into the file."""
        states = []
        for path in (self.path, Path(f"{self.path}-wal")):
            with suppress(FileNotFoundError):
                found = path.stat()
                states.append((path, found.st_mtime_ns, found.st_size))
        return states or None

    def _write(self, act: Callable[[Database], T], *, is_durable: bool = False, is_atomic: bool = False) -> T:
        with self._errors():
            return self._opened().write(act, is_durable=is_durable)

    def _read(self, act: Callable[[Database], T]) -> T:
        with self._errors():
            return self._opened().read(act)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerError(
                f"The ledger at {self.path} cannot be used: {error}.",
                hint="Nothing is submitted without it. Check the path, its permissions and the free space.",
            ) from error

    def _opened(self) -> _File:
        """Return the open file, a new one in a child process or where the path now leads to another."""
        file = self._file
        if file is None or not file.is_current(self.path):
            if file is not None and file.process != os.getpid():
                self._lock = threading.Lock()  # a thread that did not come along may hold it
            with self._lock:
                if self._file is file:
                    self._file = _File(self.path)
                file = self._file
        assert file is not None  # noqa: S101  for the type checker
        return file

    def __repr__(self) -> str:
        return f"SQLiteLedger({str(self.path)!r})"

    def __reduce__(self) -> tuple[type[SQLiteLedger], tuple[str]]:
        return (SQLiteLedger, (str(self.path),))


class _Act(Generic[T]):
    """What one thread wants written, and what came of it."""

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
    """One connection for all threads of a process, which writes what they want in common transactions.

    Whichever thread gets the lock writes for all that wait for it, so many claims cost one `fsync`.
    """

    def __init__(self, path: Path) -> None:
        self.process = os.getpid()
        # SQLite gives its -wal and -shm files the permissions of this one.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        self._database = sqlite3.connect(
            path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close, self._database, self.process, self._lock)
        self._acts: deque[_Act[Any]] = deque()
        self._synchronous = ""
        _share(self._database)
        _migrate(self._database)
        found = path.stat()
        self._identity = (found.st_dev, found.st_ino)

    def is_current(self, path: Path) -> bool:
        """Return whether this is still the file at the path, and this process's to use."""
        if self.process != os.getpid():
            return False
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        return self._identity == (found.st_dev, found.st_ino)

    def read(self, act: Callable[[Database], T]) -> T:
        """Look something up."""
        with self._lock:
            return act(self._database)

    def write(self, act: Callable[[Database], T], *, is_durable: bool) -> T:
        """Write something, perhaps with what other threads want written."""
        mine = _Act(act, is_durable=is_durable)
        self._acts.append(mine)
        with self._lock:
            if not mine.is_done:
                self._write_all([self._acts.popleft() for _ in range(len(self._acts))])
        return mine.result()

    def _write_all(self, acts: list[_Act[Any]]) -> None:
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
        # Only this thread's own interruption is its own: the others learn that nothing was written.
        is_ours = error is None or isinstance(error, Exception)
        for act in acts:
            act.end(error if is_ours else sqlite3.OperationalError("the write was interrupted"))
        if error is not None and not is_ours:
            raise error


def _close(database: sqlite3.Connection, process: int, lock: threading.Lock) -> None:
    # A child may not even close the connection of its parent: https://www.sqlite.org/howtocorrupt.html
    if process == os.getpid():
        # At the end of the process a daemon thread may be writing, and SQLite would crash.
        with lock:
            database.close()
    else:
        _of_the_parent.append(database)


_of_the_parent: list[sqlite3.Connection] = []


def _share(database: sqlite3.Connection) -> None:
    """Let readers and a writer use the file at once."""
    patience = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:  # for this alone, SQLite does not wait until others are done
            if time.monotonic() > patience:
                raise
            time.sleep(LOOK_SECONDS)


def _migrate(database: sqlite3.Connection) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError("it was written by a newer version of piccc")
    # Version 0 had the same columns and no index; 0 and 1 had notices, which only shortened waits.
    database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")


def _has_died(holder: str) -> bool:
    """Return whether a lease's holder was a process of this machine that has ended."""
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
    # By way of a row that is locked from here to the end: so two claims cannot both see the last of the room.
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
