"""The ledger in Postgres, for all processes that reach it."""

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
"""How many connections a process opens at most."""
CONNECT_SECONDS = 5
STATEMENT_SECONDS = 5.0
LATE = "it did not answer in time"
IDLE_SECONDS = 5.0
"""After how long a connection that was idle is tried before it is used."""
WATCH_SECONDS = 0.25
"""How often to look for a server that does not answer."""
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
    statements, no settings of a session, no startup parameters. Forget what is old with `prune`.

    A pickle holds no password: it is taken from `PICCC_LEDGER` where the ledger is loaded.

    Args:
        url: `postgresql://[user:password@]host[:port]/database`, with libpq's parameters behind a `?`.

    Raises:
        ConfigurationError: a malformed address.
        LedgerUnavailable: from every method, where Postgres cannot be reached or answers a statement not
            within 5 seconds.
        LedgerError: from every method, where it refuses.
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
        # Without its ledger a connection cannot be used again.
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
    def connection(self, *, is_atomic: bool = False) -> Iterator[_Postgres]:
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
        self._outage.check()
        if not self._room.acquire(timeout=CONNECT_SECONDS + STATEMENT_SECONDS):
            raise self._outage.error("all its connections are in use")
        lent = None
        try:
            self._outage.check()
            lent = self._taken()
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
        """Return pyrate-limiter's bucket of this name, on the server's clock."""
        from pyrate_limiter import PostgresBucket

        table = f"piccc_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return PostgresBucket(cast("Any", _Pool(self)), table, rates)

    def _taken(self) -> _Postgres:
        import psycopg

        while self._idle:
            try:
                lent = self._idle.pop()
            except IndexError:  # another thread was quicker
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
                if lent.is_late:  # nor would the others be answered
                    raise self._outage.error(LATE) from error
            else:
                return lent
        lent = _Postgres(
            psycopg.connect(
                self._url.reveal(),
                autocommit=True,
                prepare_threshold=None,  # PgBouncer may give the next statement to another process
                connect_timeout=CONNECT_SECONDS,
                keepalives_idle=10,
                tcp_user_timeout=int(STATEMENT_SECONDS * 1000),  # a server that is gone without a word
            )
        )
        self._watch.begin(lent)
        try:
            with self._lock:
                if not self._has_tables:
                    self._make_tables(lent.connection)
                    self._has_tables = True
        except BaseException:
            self._watch.end(lent)
            lent.close()
            raise
        return lent

    def _make_tables(self, connection: Connection[Any]) -> None:
        made = connection.execute("SELECT to_regclass('piccc_ledger.spent')").fetchone()
        if made and made[0] is None:
            with connection.transaction():
                # `IF NOT EXISTS` alone fails where two processes do it at once.
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
        return f"PostgresLedger({str(self._url)!r})"

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
    """Lend connections to pyrate-limiter, each within a transaction, as psycopg_pool does."""

    closed = True  # there is nothing for it to close

    def __init__(self, ledger: PostgresLedger) -> None:
        self._ledger = ledger

    @contextmanager
    def connection(self) -> Iterator[Connection[Any]]:
        with self._ledger.connection(is_atomic=True) as lent:
            yield lent.connection


class _Postgres:
    """A connection that understands the statements which SQLite and Postgres share.

    Attributes:
        until: when the server must have answered.
        used_at: when it was last given back.
        is_late: whether it had not.
    """

    def __init__(self, connection: Connection[Any]) -> None:
        self.connection = connection
        # A descriptor of its own: the connection's number may be another's as soon as that is closed.
        self._socket = socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM)
        self.until = math.inf
        self.used_at = -math.inf
        self.is_late = False

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        self.until = time.monotonic() + STATEMENT_SECONDS
        rows = self.connection.execute(_translated(statement), values or None)
        self.until = time.monotonic() + STATEMENT_SECONDS  # for what follows, a COMMIT perhaps
        return rows

    def hang_up(self) -> None:
        """End the wait for the server, in whichever thread that is."""
        self.is_late = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.close()
        self._socket.close()


class _Watch:
    """Hang up where a server that was asked something does not answer: one thread while there is anything.

    psycopg waits for an answer without a limit, and `tcp_user_timeout` ends that only where the host is gone.
    A server that hangs does not heed its own `statement_timeout` either, and PgBouncer refuses that setting
    at the start of a connection.
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
                with suppress(RuntimeError):  # the interpreter ends, and no thread starts any more
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
                for each in self._lent:
                    idle_since = now
                    if each.until < now and not each.is_late:
                        self._outage.begin()
                        each.hang_up()
                if now - idle_since > IDLE_SECONDS:
                    self._is_running = False
                    return


@lru_cache(maxsize=128)
def _translated(statement: str) -> bytes:
    return statement.replace("main.", "piccc_ledger.").replace("?", "%s").encode()
