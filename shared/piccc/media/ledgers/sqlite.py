"""The ledger in an SQLite file, for all threads and processes of one machine."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from piccc.errors import ConfigurationError, LedgerError
from piccc.media.ledgers import Submission

T = TypeVar("T")

LOCK_SECONDS = 30.0
LOOK_SECONDS = 0.01
MOST_NOTICES = 1000
SCHEMA_VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS submissions (
    key TEXT PRIMARY KEY, type TEXT NOT NULL, digest TEXT NOT NULL, request TEXT NOT NULL, at REAL NOT NULL,
    task_id TEXT UNIQUE, is_handled INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (number INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS unsettled ON submissions (at) WHERE task_id IS NULL;
"""
_COLUMNS = "key, type, digest, request, at, task_id, is_handled"


class SQLiteLedger:
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
        if "://" in os.fspath(path) or os.fspath(path).startswith((":memory:", "file:")):
            raise ConfigurationError(
                f"A ledger cannot be at {os.fspath(path).partition('://')[0]!r}.",
                hint="Give a file's path; leave ledger out to remember in memory.",
            )
        self.path = Path(path)
        self._last_notice = 0
        self._state: object = None
        self._file: _File | None = None
        self._lock = threading.Lock()

    def claim(self, entry: Submission) -> Submission | None:
        """Write an entry down unless its key is taken; return the entry that took it, or None."""
        row = (entry.key, entry.type, entry.digest, _json(entry), entry.at, entry.task_id, entry.is_handled)
        statement = (
            f"INSERT INTO submissions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"  # noqa: S608  names of ours
        )

        def act(database: sqlite3.Connection) -> Submission | None:
            return None if database.execute(statement, row).rowcount else _first(database, "key", entry.key)

        return self._write(act, is_durable=True)

    def reclaim(self, entry: Submission, since: float) -> bool:
        """Claim again a key written down at `since` that never became a task; return False if it changed."""
        statement = (
            "UPDATE submissions SET at = ?, digest = ?, request = ? "
            "WHERE key = ? AND at = ? AND task_id IS NULL"
        )
        row = (entry.at, entry.digest, _json(entry), entry.key, since)
        return self._write(lambda database: database.execute(statement, row).rowcount == 1, is_durable=True)

    def settle(self, key: str, task_id: str) -> bool:
        """Note which task a submission became; return False where the key or the task is taken."""
        statement = (
            "UPDATE OR IGNORE submissions SET task_id = ?, request = '{}' WHERE key = ? AND task_id IS NULL"
        )

        def act(database: sqlite3.Connection) -> bool:
            database.execute(statement, (task_id, key))
            entry = _first(database, "key", key)
            return entry is not None and entry.task_id == task_id

        return self._write(act)

    def release(self, key: str) -> None:
        """Forget a submission that never became a task."""
        self._execute("DELETE FROM submissions WHERE key = ? AND task_id IS NULL", key)

    def handled(self, key: str) -> None:
        """Note that a batch has handed over the result of a submission."""
        self._execute("UPDATE submissions SET is_handled = 1 WHERE key = ?", key)

    def get(self, key: str) -> Submission | None:
        """Return the entry of a key."""
        return self._read(lambda database: _first(database, "key", key))

    def key_of(self, task_id: str) -> str | None:
        """Return the key of the submission that became this task."""
        entry = self._read(lambda database: _first(database, "task_id", task_id))
        return entry.key if entry else None

    def unsettled(self) -> list[Submission]:
        """Return the submissions of which nobody knows yet whether they became a task, oldest first."""
        return self._read(lambda database: list(_entries(database, "task_id IS NULL ORDER BY at")))

    def prune(self, older_than: float) -> int:
        """Forget submissions that became a task more than so many seconds ago; return how many.

        Their keys may then be used for new submissions, and a run that has some goes on by submitting them
        again. Submissions of which nobody knows what became of them are kept.
        """
        statement = "DELETE FROM submissions WHERE task_id IS NOT NULL AND at < ?"
        moment = time.time() - older_than
        return self._write(lambda database: database.execute(statement, (moment,)).rowcount)

    def notify(self, task_id: str) -> None:
        """Notify the other processes that a task is said to have ended."""

        def act(database: sqlite3.Connection) -> int:
            number = database.execute("INSERT INTO notices (task_id) VALUES (?)", (task_id,)).lastrowid or 0
            database.execute("DELETE FROM notices WHERE number <= ?", (number - MOST_NOTICES,))
            return number

        number = self._write(act)
        if self._last_notice == number - 1:
            self._last_notice = number

    def notices(self) -> list[str]:
        """Return the tasks of which others gave notice since the last call."""
        state = self._state_of_file()
        if state == self._state:
            return []
        select = "SELECT number, task_id FROM notices WHERE number > ? ORDER BY number"
        last = self._last_notice
        notices = self._read(lambda database: database.execute(select, (last,)).fetchall())
        self._last_notice = max([last, *(number for number, _ in notices)])
        # Two writes may lie within one tick of the file system's clock: so look again after a find.
        self._state = None if notices else state
        return [task_id for _, task_id in notices]

    def _state_of_file(self) -> object:
        """Return what changes when somebody writes, which costs less than to look into the file."""
        states = []
        for path in (self.path, Path(f"{self.path}-wal")):
            with suppress(FileNotFoundError):
                found = path.stat()
                states.append((path, found.st_mtime_ns, found.st_size))
        return states or None

    def _execute(self, statement: str, key: str) -> None:
        self._write(lambda database: database.execute(statement, (key,)))

    def _write(self, act: Callable[[sqlite3.Connection], T], *, is_durable: bool = False) -> T:
        with self._errors():
            return self._opened().write(act, is_durable=is_durable)

    def _read(self, act: Callable[[sqlite3.Connection], T]) -> T:
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

    def __init__(self, act: Callable[[sqlite3.Connection], T], *, is_durable: bool) -> None:
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
        self._finalizer = weakref.finalize(self, _close, self._database, self.process)
        self._lock = threading.Lock()
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

    def read(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Look something up."""
        with self._lock:
            return act(self._database)

    def write(self, act: Callable[[sqlite3.Connection], T], *, is_durable: bool) -> T:
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


def _close(database: sqlite3.Connection, process: int) -> None:
    # A child may not even close the connection of its parent: https://www.sqlite.org/howtocorrupt.html
    if process == os.getpid():
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
    # Version 0 had the same columns, no index, and at first no notices.
    database.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")


def _json(entry: Submission) -> str:
    return json.dumps(entry.request)


def _first(database: sqlite3.Connection, column: str, value: str) -> Submission | None:
    return next(_entries(database, f"{column} = ?", value), None)


def _entries(database: sqlite3.Connection, condition: str, *values: object) -> Iterator[Submission]:
    statement = f"SELECT {_COLUMNS} FROM submissions WHERE {condition}"  # noqa: S608  conditions of ours
    for key, type, digest, request, at, task_id, is_handled in database.execute(statement, values):
        yield Submission(key, type, digest, json.loads(request), at, task_id, bool(is_handled))
