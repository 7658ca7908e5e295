"""The ledger in Postgres, for all processes that reach it."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from piccc.config import redact_causes
from piccc.errors import LedgerError, LedgerUnavailable, MissingExtraError
from piccc.media.ledgers import StoreURL
from piccc.media.ledgers.sqlite import Database, Rows, SQLLedger

if TYPE_CHECKING:
    from psycopg import Connection
    from pyrate_limiter import AbstractBucket, Rate

T = TypeVar("T")

MAX_CONNECTIONS = 4
"""How many connections a process opens at most."""
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 5.0
IDLE_SECONDS = 5.0
"""After how long a connection that was idle is tried before it is used."""
_LOCK = 0x9ACCC
"""The advisory lock under which tables are made and notes are appended."""

# Not a name that a user may have too: a schema called as the user comes first in its search_path, and hides
# the tables that its other programs made in `public`.
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
    """Remember in Postgres, for any number of processes and machines; needs `pip install "piccc[postgres]"`.

    The tables are made in the schema `piccc_ledger` at the first use, for which the user must be allowed to
    create it; or make it beforehand. Works through PgBouncer in transaction mode: no LISTEN, no prepared
    statements, no settings of a session. Forget what is old with `prune`.

    A pickle holds no password: it is taken from `PICCC_LEDGER` where the ledger is loaded.

    Args:
        url: `postgresql://[user:password@]host[:port]/database`, with libpq's parameters behind a `?`.

    Raises:
        ConfigurationError: a malformed address.
        LedgerUnavailable: from every method, where Postgres cannot be reached.
        LedgerError: from every method, where it refuses.
    """

    _now = "EXTRACT(EPOCH FROM clock_timestamp())"

    def __init__(self, url: str) -> None:
        self._url = StoreURL(url)
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._idle: list[tuple[Connection[Any], float]] = []
        self._room = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._has_tables = False
        # Without its ledger nobody can use a connection again.
        weakref.finalize(self, _close, self._idle, self._process)

    def settle(self, key: str, task_id: str) -> bool:
        """Note which task a submission became; return False where the key or the task is taken."""
        try:
            return super().settle(key, task_id)
        except LedgerError as error:
            # Another process has settled another key with the task at the same moment.
            if getattr(error.__cause__, "sqlstate", None) == "23505":
                return False
            raise

    @contextmanager
    def connection(self, *, is_atomic: bool = False) -> Iterator[Connection[Any]]:
        """Lend a connection, at most four at a time, which commits each statement or with `is_atomic` all."""
        try:
            import psycopg
        except ImportError as error:
            raise MissingExtraError(
                "A ledger in Postgres needs psycopg 3.", hint='pip install "piccc[postgres]"'
            ) from error
        if self._process != os.getpid():  # the parent's connections are its own
            _of_the_parent.append(self._idle)
            self._start()
        with self._room:
            connection = None
            try:
                connection = self._taken()
                with connection.transaction() if is_atomic else nullcontext():
                    yield connection
            except psycopg.Error as error:
                redact_causes(error, self._url.secrets)
                is_away = isinstance(error, psycopg.OperationalError)
                raise (LedgerUnavailable if is_away else LedgerError)(
                    f"The ledger at {self._url} cannot be used: {error}",
                    hint="Nothing is submitted without it. Check the address and the server.",
                ) from error
            finally:
                if connection is not None:
                    if connection.closed or connection.broken:
                        connection.close()
                    else:
                        self._idle.append((connection, time.monotonic()))

    def bucket(self, name: str, rates: list[Rate]) -> AbstractBucket:
        """Return pyrate-limiter's bucket of this name, on the server's clock."""
        from pyrate_limiter import PostgresBucket

        table = f"piccc_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return PostgresBucket(cast("Any", _Pool(self)), table, rates)

    def _taken(self) -> Connection[Any]:
        import psycopg

        while self._idle:
            with suppress(IndexError):  # another thread was quicker
                connection, since = self._idle.pop()
                if time.monotonic() - since < IDLE_SECONDS:
                    return connection
                with suppress(psycopg.Error):
                    connection.execute("SELECT 1")
                    return connection
                connection.close()
        opened = psycopg.connect(
            self._url.reveal(),
            autocommit=True,
            prepare_threshold=None,  # behind PgBouncer the next statement may go to another server process
            connect_timeout=CONNECT_SECONDS,
            keepalives_idle=10,
            tcp_user_timeout=int(STATEMENT_SECONDS * 1000),  # a server that is gone without a word
        )
        with self._lock:
            if not self._has_tables:
                self._make_tables(opened)
                self._has_tables = True
        return opened

    def _make_tables(self, connection: Connection[Any]) -> None:
        made = connection.execute("SELECT to_regclass('piccc_ledger.spent')").fetchone()
        if made and made[0] is None:
            with connection.transaction():
                # `IF NOT EXISTS` alone fails where two processes do it at once.
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                for statement in filter(str.strip, _TABLES.split(";")):
                    connection.execute(statement.encode())

    def _write(self, act: Callable[[Database], T], *, is_durable: bool = False, is_atomic: bool = False) -> T:
        with self.connection(is_atomic=is_atomic) as connection:
            return act(_Postgres(connection))

    def _read(self, act: Callable[[Database], T]) -> T:
        return self._write(act)

    def _lock_stream(self, database: Database) -> None:
        database.execute("SELECT pg_advisory_xact_lock(?)", (_LOCK,))

    def __repr__(self) -> str:
        return f"PostgresLedger({str(self._url)!r})"

    def __reduce__(self) -> tuple[type[PostgresLedger], tuple[str]]:
        return (PostgresLedger, (str(self._url),))


def _close(idle: list[tuple[Connection[Any], float]], process: int) -> None:
    if process == os.getpid():
        while idle:
            idle.pop()[0].close()
    else:
        _of_the_parent.append(idle)


_of_the_parent: list[list[tuple[Connection[Any], float]]] = []


class _Pool:
    """Lend connections to pyrate-limiter, each within a transaction, as psycopg_pool does."""

    closed = True  # there is nothing for it to close

    def __init__(self, ledger: PostgresLedger) -> None:
        self._ledger = ledger

    def connection(self) -> AbstractContextManager[Connection[Any]]:
        return self._ledger.connection(is_atomic=True)


class _Postgres:
    """A connection that understands the statements which SQLite and Postgres share."""

    def __init__(self, connection: Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        return self._connection.execute(_translated(statement), values or None)


@lru_cache(maxsize=128)
def _translated(statement: str) -> bytes:
    return statement.replace("main.", "piccc_ledger.").replace("?", "%s").encode()
