"""A ledger in Postgres, shared by processes on any number of machines."""

from __future__ import annotations

import hashlib
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from piccc.config import redact_causes
from piccc.errors import LedgerError, MissingExtraError
from piccc.media.ledgers import Outage, StoreURL
from piccc.media.ledgers.sqlite import Database, Rows, SQLLedger

if TYPE_CHECKING:
    from psycopg import Connection
    from pyrate_limiter import AbstractBucket, Rate

T = TypeVar("T")

MAX_CONNECTIONS = 4
"""Maximum number of connections per process."""
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 5.0
LATE = "it did not respond in time"
IDLE_SECONDS = 5.0
"""Idle time after which a connection is checked before use."""
WATCH_SECONDS = 0.25
"""How often to check for an unresponsive server."""
_LOCK = 0x9ACCC
"""The advisory lock for creating tables and appending notes."""

# Avoid a schema name that could be a user name: a schema named after the user comes first in its search_path
# and would hide other programs' tables in `public`.
_TABLES = """
CREATE SCHEMA IF NOT EXISTS piccc_ledger;
CREATE TABLE IF NOT EXISTS piccc_ledger.submissions (
    key TEXT PRIMARY KEY, type TEXT NOT NULL, digest TEXT NOT NULL, request TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL, task_id TEXT UNIQUE, is_handled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS unsettled ON piccc_ledger.submissions (at) WHERE task_id IS NULL;
CREATE TABLE IF NOT EXISTS piccc_ledger.notes (
    number BIGSERIAL PRIMARY KEY, server TEXT NOT NULL, kind TEXT NOT NULL, task_id TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS piccc_ledger.open_tasks (
    server TEXT, task_id TEXT, text TEXT NOT NULL, PRIMARY KEY (server, task_id)
);
CREATE TABLE IF NOT EXISTS piccc_ledger.leases (
    name TEXT PRIMARY KEY, holder TEXT NOT NULL, until DOUBLE PRECISION NOT NULL
);
CREATE TABLE IF NOT EXISTS piccc_ledger.spent (
    name TEXT, unit TEXT, amount BIGINT NOT NULL, PRIMARY KEY (name, unit)
);
"""


class PostgresLedger(SQLLedger):
    """A ledger in Postgres, for any number of processes and machines; needs `pip install "piccc[postgres]"`.

    On first use it creates the schema `piccc_ledger` with its tables; the user needs permission to create
    it, unless it exists. Works through PgBouncer in transaction mode: no LISTEN, no prepared statements, no
    session settings, no startup parameters. Delete old entries with `prune`.

    Pickles contain no password; it is read from `PICCC_LEDGER` when they are loaded.

    Args:
        url: `postgresql://[user:password@]host[:port]/database`, with libpq's parameters after a `?`.

    Raises:
        ConfigurationError: the URL is invalid.
        LedgerUnavailable: from every method, if Postgres is unreachable or takes more than 5 seconds for a
            statement.
        LedgerError: from every method, if Postgres rejects a statement.
    """

    _now = "EXTRACT(EPOCH FROM clock_timestamp())"

    def __init__(self, url: str) -> None:
        self._url = StoreURL(url)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._outage = Outage(self._url)
        self._watch = _Watch(self._outage)
        self._idle: list[_Postgres] = []
        self._room = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._has_tables = False
        # Close the idle connections together with the ledger.
        weakref.finalize(self, _close, self._idle, self._process)

    def settle(self, key: str, task_id: str) -> bool:
        """Record a submission's task; return False if the key or the task is in use."""
        try:
            return super().settle(key, task_id)
        except LedgerError as error:
            # Another process settled a different key with this task at the same time.
            if getattr(error.__cause__, "sqlstate", None) == "23505":
                return False
            raise

    @contextmanager
    def connection(self, *, is_atomic: bool = False) -> Iterator[_Postgres]:
        """Lend one of at most four connections; `is_atomic` uses one transaction instead of autocommit."""
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtraError(
                "A Postgres ledger needs psycopg 3.", hint='pip install "piccc[postgres]"'
            ) from error
        if self._process != os.getpid():  # after a fork: leave the parent's connections alone
            _of_the_parent.append(self._idle)
            self._start()
        self._outage.check()
        if not self._room.acquire(timeout=CONNECT_SECONDS + STATEMENT_SECONDS):
            raise self._outage.error("all its connections are in use")
        lent = None
        try:
            self._outage.check()
            lent = self._acquire()
            with lent.connection.transaction() if is_atomic else nullcontext():
                yield lent
        except psycopg.Error as error:
            redact_causes(error, self._url.secrets)
            if isinstance(error, psycopg.errors.ConnectionTimeout):
                self._outage.begin()
            reason = LATE if lent is not None and lent.is_late else error
            is_away = isinstance(error, psycopg.OperationalError)
            raise self._outage.error(reason, is_away=is_away) from error
        finally:
            if lent is not None:
                self._watch.end(lent)
                if lent.connection.closed or lent.connection.broken:
                    lent.close()
                else:
                    self._idle.append(lent)
            self._room.release()

    def bucket(self, name: str, rates: list[Rate]) -> AbstractBucket:
        """Return pyrate-limiter's bucket of this name, using the server's clock."""
        from pyrate_limiter import PostgresBucket

        table = f"piccc_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return PostgresBucket(cast("Any", _Pool(self)), table, rates)

    def _acquire(self) -> _Postgres:
        import psycopg

        while self._idle:
            try:
                lent = self._idle.pop()
            except IndexError:  # another thread took it
                break
            is_fresh = time.monotonic() - lent.used_at < IDLE_SECONDS
            self._watch.begin(lent)
            if is_fresh:
                return lent
            try:
                lent.execute("SELECT 1")
            except psycopg.Error as error:
                self._watch.end(lent)
                lent.close()
                if lent.is_late:  # the others would not get a response either
                    raise self._outage.error(LATE) from error
            else:
                return lent
        lent = _Postgres(
            psycopg.connect(
                self._url.reveal(),
                autocommit=True,
                prepare_threshold=None,  # PgBouncer may run the next statement on another backend
                connect_timeout=CONNECT_SECONDS,
                keepalives_idle=10,
                tcp_user_timeout=int(STATEMENT_SECONDS * 1000),  # for a host that silently disappears
            )
        )
        self._watch.begin(lent)
        try:
            with self._lock:
                if not self._has_tables:
                    self._create_tables(lent.connection)
                    self._has_tables = True
        except BaseException:
            self._watch.end(lent)
            lent.close()
            raise
        return lent

    def _create_tables(self, connection: Connection[Any]) -> None:
        made = connection.execute("SELECT to_regclass('piccc_ledger.spent')").fetchone()
        if made and made[0] is None:
            with connection.transaction():
                # `IF NOT EXISTS` alone fails if two processes create it concurrently.
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement.encode())

    def _write(self, act: Callable[[Database], T], *, is_durable: bool = False, is_atomic: bool = False) -> T:
        with self.connection(is_atomic=is_atomic) as database:
            return act(database)

    def _read(self, act: Callable[[Database], T]) -> T:
        return self._write(act)

    def _lock_stream(self, database: Database) -> None:
        database.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))

    def __repr__(self) -> str:
        return f"PostgresLedger({str(getattr(self, '_url', None))!r})"  # the URL may have been refused

    def __reduce__(self) -> tuple[type[PostgresLedger], tuple[str]]:
        return (PostgresLedger, (str(self._url),))


def _close(idle: list[_Postgres], process: int) -> None:
    if process == os.getpid():
        while idle:
            idle.pop().close()
    else:
        _of_the_parent.append(idle)


_of_the_parent: list[list[_Postgres]] = []


class _Pool:
    """A psycopg_pool-like pool for pyrate-limiter, which lends connections inside a transaction."""

    closed = True  # pyrate-limiter has nothing to close

    def __init__(self, ledger: PostgresLedger) -> None:
        self._ledger = ledger

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        with self._ledger.connection(is_atomic=True) as lent:
            yield lent.connection


class _Postgres:
    """A connection that translates the statements shared with SQLite.

    Attributes:
        until: the server's deadline to respond.
        used_at: when the connection was last returned.
        is_late: whether the server missed the deadline.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        # A duplicate descriptor, because the original number can be reused once the connection is closed.
        self._socket = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        self.until = math.inf
        self.used_at = -math.inf
        self.is_late = False

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        self.until = time.monotonic() + STATEMENT_SECONDS
        rows = self.connection.execute(_translated(statement), values or None)
        self.until = time.monotonic() + STATEMENT_SECONDS  # for the next statement, such as a COMMIT
        return rows

    def shut_down(self) -> None:
        """Abort the wait for the server, in whichever thread it is."""
        self.is_late = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.close()
        self._socket.close()


class _Watch:
    """A watchdog that shuts down connections to an unresponsive server; one thread, only while needed.

    psycopg waits for a response without a limit, and `tcp_user_timeout` helps only if the host is gone. A
    hanging server does not enforce its own `statement_timeout` either, and PgBouncer rejects that setting at
    startup.
    """

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._lent = set[_Postgres]()
        self._lock = threading.Lock()
        self._is_running = False

    def begin(self, lent: _Postgres) -> None:
        lent.until = time.monotonic() + STATEMENT_SECONDS
        with self._lock:
            self._lent.add(lent)
            if not self._is_running:
                with suppress(RuntimeError):  # no thread can be started at interpreter exit
                    threading.Thread(target=self._run, name="piccc-postgres", daemon=True).start()
                    self._is_running = True

    def end(self, lent: _Postgres) -> None:
        with self._lock:
            self._lent.discard(lent)
        lent.used_at = time.monotonic()

    def _run(self) -> None:
        idle_since = time.monotonic()
        while True:
            time.sleep(WATCH_SECONDS)
            now = time.monotonic()
            with self._lock:
                for connection in self._lent:
                    idle_since = now
                    if connection.until < now and not connection.is_late:
                        self._outage.begin()
                        connection.shut_down()
                if now - idle_since > IDLE_SECONDS:
                    self._is_running = False
                    return


@lru_cache(maxsize=128)
def _translated(statement: str) -> bytes:
    return statement.replace("main.", "piccc_ledger.").replace("?", "%s").encode()
