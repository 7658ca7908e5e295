"""The ledger in an SQLite file, for all threads and processes of one machine."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from piccc.media.ledgers import Submission

LOCK_SECONDS = 30.0
LOOK_SECONDS = 0.01

MOST_NOTICES = 1000

_TABLES = """
CREATE TABLE IF NOT EXISTS submissions (
    key TEXT PRIMARY KEY, type TEXT NOT NULL, digest TEXT NOT NULL, request TEXT NOT NULL, at REAL NOT NULL,
    task_id TEXT UNIQUE, is_handled INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notices (number INTEGER PRIMARY KEY AUTOINCREMENT, task_id TEXT NOT NULL)
"""
_COLUMNS = "key, type, digest, request, at, task_id, is_handled"


class SQLiteLedger:
    """Remember in an SQLite file, which any number of threads and processes of one machine may share.

    Each act opens the file anew: so there is no connection to share between threads or to lose in a fork.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._is_made = False
        self._last_notice = 0
        self._state: object = None

    def claim(self, entry: Submission) -> Submission | None:
        """Write an entry down unless its key is taken; return the entry that took it, or None."""
        request = json.dumps(entry.request)
        row = (entry.key, entry.type, entry.digest, request, entry.at, entry.task_id, entry.is_handled)
        statement = (
            f"INSERT INTO submissions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING"  # noqa: S608  names of ours
        )
        with self._open() as database:
            if database.execute(statement, row).rowcount:
                return None
            taken = _first(database, "key = ?", entry.key)
        return taken or self.claim(entry)

    def settle(self, key: str, task_id: str) -> bool:
        """Note which task a submission became; return False where the key or the task is taken."""
        with self._open() as database:
            try:
                database.execute(
                    "UPDATE submissions SET task_id = ? WHERE key = ? AND task_id IS NULL", (task_id, key)
                )
            except sqlite3.IntegrityError:
                return False
            entry = _first(database, "key = ?", key)
        return entry is not None and entry.task_id == task_id

    def release(self, key: str) -> None:
        """Forget a submission that never became a task."""
        with self._open() as database:
            database.execute("DELETE FROM submissions WHERE key = ? AND task_id IS NULL", (key,))

    def handled(self, key: str) -> None:
        """Note that a batch has handed over the result of a submission."""
        with self._open() as database:
            database.execute("UPDATE submissions SET is_handled = 1 WHERE key = ?", (key,))

    def get(self, key: str) -> Submission | None:
        """Return the entry of a key."""
        with self._open() as database:
            return _first(database, "key = ?", key)

    def key_of(self, task_id: str) -> str | None:
        """Return the key of the submission that became this task."""
        with self._open() as database:
            entry = _first(database, "task_id = ?", task_id)
        return entry.key if entry else None

    def unsettled(self) -> list[Submission]:
        """Return the submissions of which nobody knows yet whether they became a task, oldest first."""
        with self._open() as database:
            return list(_entries(database, "task_id IS NULL ORDER BY at"))

    def post(self, task_id: str) -> None:
        """Tell the other processes that a task is said to have ended."""
        with self._open() as database:
            number = database.execute("INSERT INTO notices (task_id) VALUES (?)", (task_id,)).lastrowid or 0
            database.execute("DELETE FROM notices WHERE number <= ?", (number - MOST_NOTICES,))
        if self._last_notice == number - 1:
            self._last_notice = number

    def posted(self) -> list[str]:
        """Return the tasks of which others told since this was last asked."""
        state = self._state_of_file()
        if state == self._state:
            return []
        with self._open() as database:
            select = "SELECT number, task_id FROM notices WHERE number > ? ORDER BY number"
            notices = database.execute(select, (self._last_notice,)).fetchall()
        self._last_notice = max([self._last_notice, *(number for number, _ in notices)])
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

    def __repr__(self) -> str:
        return f"SQLiteLedger({str(self.path)!r})"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=LOCK_SECONDS, isolation_level=None)) as database:
            if not self._is_made:
                _share(database)
                database.executescript(_TABLES)
                self._is_made = True
            # A submission must be on the disk before it is sent, whatever happens to the machine.
            database.execute("PRAGMA synchronous = FULL")
            yield database


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


def _first(database: sqlite3.Connection, condition: str, *values: object) -> Submission | None:
    return next(_entries(database, condition, *values), None)


def _entries(database: sqlite3.Connection, condition: str, *values: object) -> Iterator[Submission]:
    statement = f"SELECT {_COLUMNS} FROM submissions WHERE {condition}"  # noqa: S608  conditions of ours
    for key, type, digest, request, at, task_id, is_handled in database.execute(statement, values):
        yield Submission(key, type, digest, json.loads(request), at, task_id, bool(is_handled))
