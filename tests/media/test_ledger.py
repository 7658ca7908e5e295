"""All ledgers satisfy one contract; file and server ledgers satisfy it across processes too."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from piccc import AsyncClient, Client
from piccc.emulator import Emulator
from piccc.errors import (
    ConfigurationError,
    LedgerError,
    LedgerUnavailable,
    MissingExtraError,
    SpendLimitExceeded,
)
from piccc.media.ledgers import (
    OUTAGE_SECONDS,
    Lease,
    Ledger,
    MemoryLedger,
    Note,
    Notes,
    Spend,
    SpendingLedger,
    Submission,
    TaskStream,
    ledger_at,
)
from piccc.media.ledgers.postgres import PostgresLedger
from piccc.media.ledgers.redis import RedisLedger
from piccc.media.ledgers.sqlite import SQLiteLedger
from tests.media.driven import QUICK
from tests.services import PASSWORD, hanging, redis_server


class OwnLedger:
    """The smallest possible ledger: everything required, nothing optional."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries: dict[str, Submission] = {}

    def claim(self, entry: Submission) -> Submission | None:
        with self.lock:
            taken = self.entries.setdefault(entry.key, entry)
            return None if taken is entry else taken

    def reclaim(self, entry: Submission, since: float) -> bool:
        with self.lock:
            known = self.entries.get(entry.key)
            if known is None or known.task_id or known.at != since:
                return False
            self.entries[entry.key] = entry
            return True

    def settle(self, key: str, task_id: str) -> bool:
        with self.lock:
            known = self.entries.get(key)
            if known and not known.task_id and self.key_of(task_id) is None:
                known = self.entries[key] = replace(known, task_id=task_id, request={})
            return known is not None and known.task_id == task_id

    def release(self, key: str) -> None:
        with self.lock:
            if key in self.entries and not self.entries[key].task_id:
                del self.entries[key]

    def handled(self, key: str) -> None:
        self.entries[key] = replace(self.entries[key], is_handled=True)

    def get(self, key: str) -> Submission | None:
        return self.entries.get(key)

    def key_of(self, task_id: str) -> str | None:
        return next((key for key, each in self.entries.items() if each.task_id == task_id), None)

    def unsettled(self) -> list[Submission]:
        return sorted((each for each in self.entries.values() if not each.task_id), key=lambda each: each.at)


@pytest.fixture
def shared_place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path or URL of an empty ledger that processes can share."""
    if request.param == "file":
        return str(tmp_path / "tasks.db")
    url: str = request.getfixturevalue(f"{request.param}_url")
    clear(url)
    return url


SHARED = pytest.mark.parametrize("shared_place", ["file", "redis", "postgres"], indirect=True)


def clear(url: str) -> None:
    """Delete everything from a ledger on a test server."""
    ledger = ledger_at(url)
    if isinstance(ledger, RedisLedger):
        ledger.client.flushall()
    elif isinstance(ledger, PostgresLedger):
        with ledger.connection() as connection:
            connection.execute("DROP SCHEMA IF EXISTS piccc_ledger CASCADE")


@pytest.fixture(params=["memory", "minimal", "file", "redis", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param in ("redis", "postgres"):
        url: str = request.getfixturevalue(f"{request.param}_url")
        clear(url)
        return ledger_at(url)
    create = {
        "memory": MemoryLedger,
        "minimal": OwnLedger,
        "file": lambda: SQLiteLedger(tmp_path / "tasks.db"),
    }
    return create[request.param]()


def entry(key: str = "k", at: float = 1.5) -> Submission:
    return Submission(key, "image", "digest", {"prompt": "狐狸 🦊"}, at)


def test_a_key_is_claimed_once(ledger: Ledger) -> None:
    assert ledger.claim(entry()) is None
    assert ledger.claim(entry(at=9.0)) == entry()
    assert ledger.get("k") == entry()
    assert ledger.get("other") is None


def test_submissions_and_tasks_are_matched_one_to_one(ledger: Ledger) -> None:
    ledger.claim(entry("k"))
    ledger.claim(entry("l"))
    assert ledger.settle("k", "task_1")
    assert ledger.settle("k", "task_1")
    assert not ledger.settle("k", "task_2")
    assert not ledger.settle("l", "task_1")
    assert not ledger.settle("unknown", "task_3")
    assert ledger.key_of("task_1") == "k"
    assert ledger.key_of("task_2") is None


def test_unsettled_omits_settled_and_released_submissions(ledger: Ledger) -> None:
    for key, at in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        ledger.claim(entry(key, at))
    ledger.settle("b", "task_1")
    ledger.release("c")
    ledger.release("b")
    assert [submission.key for submission in ledger.unsettled()] == ["a"]
    assert ledger.get("b") is not None


def test_handled_marks_a_submission_as_handled(ledger: Ledger) -> None:
    ledger.claim(entry())
    ledger.settle("k", "task_1")
    ledger.handled("k")
    known = ledger.get("k")
    assert known is not None
    assert known.is_handled


def test_a_file_ledger_can_be_reopened_pickled_and_copied(tmp_path: Path) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry())
    for other in (
        SQLiteLedger(str(tmp_path / "tasks.db")),
        pickle.loads(pickle.dumps(ledger)),  # noqa: S301  our own bytes
        copy.deepcopy(ledger),
    ):
        assert other.get("k") == entry()


def test_a_memory_ledger_evicts_the_oldest_settled_entry_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc.media.ledgers.MAX_REMEMBERED", 2)
    ledger = MemoryLedger()
    for number in range(4):
        ledger.claim(entry(f"k{number}"))
        if number:
            ledger.settle(f"k{number}", f"task_{number}")
    assert [key for key in ("k0", "k1", "k2", "k3") if ledger.get(key)] == ["k0", "k2", "k3"]


@SHARED
def test_concurrent_claims_and_reclaims_of_a_key_succeed_once(shared_place: str) -> None:
    with ThreadPoolExecutor(4) as pool:  # each with its own connections
        for operation in (_claim_all, _reclaim_all):
            won = list(pool.map(operation, [shared_place] * 4))
            assert sorted(key for keys in won for key in keys) == sorted(f"k{number}" for number in range(25))


def _claim_all(place: str) -> list[str]:
    ledger = ledger_at(place)
    return [f"k{number}" for number in range(25) if ledger.claim(entry(f"k{number}")) is None]


def _reclaim_all(place: str) -> list[str]:
    ledger, keys = ledger_at(place), [f"k{number}" for number in range(25)]
    return [key for key in keys if ledger.reclaim(entry(key, at=2.5), 1.5)]


def wanted(*ids: str) -> list[Note]:
    return [Note("wanted", id, "1.5") for id in ids]


@SHARED
def test_notes_are_read_once_and_in_order(shared_place: str) -> None:
    first, second = ledger_at(shared_place), ledger_at(shared_place)
    assert isinstance(first, TaskStream)
    assert isinstance(second, TaskStream)
    start = first.notes("a", None)
    assert start.notes == ()
    first.post("a", [*wanted("t1", "t2"), Note("look", "t3")])
    second.post("other", wanted("t9"))
    second.post("a", [Note("ended", "t1", "{}")])
    read = second.notes("a", start.cursor)
    assert read.notes == [*wanted("t1", "t2"), Note("look", "t3"), Note("ended", "t1", "{}")]
    assert not read.is_cut
    assert not first.notes("a", read.cursor).notes
    assert first.open_tasks("a") == [("t2", "1.5")]
    assert first.open_tasks("other") == [("t9", "1.5")]


@SHARED
def test_a_note_stream_is_bounded_and_reports_truncation(
    shared_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sqlite", "redis"):
        monkeypatch.setattr(f"piccc.media.ledgers.{module}.MAX_NOTES", 100)
        monkeypatch.setattr(f"piccc.media.ledgers.{module}.NOTES_AT_ONCE", 1000)
    ledger = ledger_at(shared_place)
    assert isinstance(ledger, TaskStream)
    ledger.post("a", wanted("t0"))
    start = ledger.notes("a", None).cursor
    for _ in range(10):
        ledger.post("a", wanted(*(f"t{number}" for number in range(100))))
    read = ledger.notes("a", start)
    assert read.is_cut
    assert 100 <= len(read.notes) < 1000
    assert not ledger.notes("a", read.cursor).is_cut
    assert len(ledger.open_tasks("a")) == 100


def test_a_file_ledger_reassigns_the_lease_of_a_dead_process(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (f"{socket.gethostname()}:{pid}:x" for pid in (ended.pid, os.getpid()))
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    assert ledger.lease("polling", dead, 30.0)
    assert ledger.lease("polling", alive, 30.0)
    assert not ledger.lease("polling", "another machine:1:x", 30.0)
    assert ledger.lease("elsewhere", "another machine:1:x", 30.0)
    assert not ledger.lease("elsewhere", alive, 30.0)


@SHARED
def test_a_lease_has_one_holder_until_it_expires_or_is_released(shared_place: str) -> None:
    first, second = ledger_at(shared_place), ledger_at(shared_place)
    assert isinstance(first, Lease)
    assert isinstance(second, Lease)
    assert first.lease("polling", "first", 30.0)
    assert first.lease("polling", "first", 30.0)
    assert not second.lease("polling", "second", 30.0)
    assert second.lease("another", "second", 30.0)
    second.lease("polling", "second", 0.0)  # no effect, as "second" does not hold it
    assert not second.lease("polling", "second", 30.0)
    first.lease("polling", "first", 0.0)
    assert second.lease("polling", "second", 0.05)
    deadline = time.monotonic() + 10.0
    while not first.lease("polling", "first", 30.0):
        assert time.monotonic() < deadline


@SHARED
def test_claims_of_concurrent_ledgers_count_toward_one_spend_limit(shared_place: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(_spend_all, [shared_place] * 4, "abcd"))
    assert sum(claimed) == 25
    ledger = ledger_at(shared_place)
    assert isinstance(ledger, SpendingLedger)
    assert ledger.spent("spring") == {"micros": 25_000_000, "tasks": 25}
    assert len(ledger.unsettled()) == 25
    claimed_key = ledger.unsettled()[0].key
    assert ledger.claim_within(entry(claimed_key), SPENDS) is not None  # already claimed, so not counted
    ledger.release_within(claimed_key, SPENDS)
    ledger.release_within(claimed_key, SPENDS)
    assert ledger.spent("spring")["tasks"] == 24
    assert ledger.claim_within(entry("again"), SPENDS) is None
    with pytest.raises(SpendLimitExceeded, match="max_tasks=25"):
        ledger.claim_within(entry("more"), SPENDS)
    with pytest.raises(SpendLimitExceeded, match="max_cost"):
        ledger.claim_within(
            entry("more"), [Spend("small", "tasks", 1, None), Spend("small", "micros", 600_000, 500_000)]
        )
    assert ledger.get("more") is None
    assert sum(ledger.spent("small").values()) == 0


SPENDS = [Spend("spring", "tasks", 1, 25), Spend("spring", "micros", 1_000_000, None)]


def _spend_all(place: str, name: str) -> int:
    ledger, count = ledger_at(place), 0
    assert isinstance(ledger, SpendingLedger)
    for number in range(10):
        with suppress(SpendLimitExceeded):
            ledger.claim_within(entry(f"{name}{number}"), SPENDS)
            count += 1
    return count


def test_an_unchanged_file_is_not_opened_to_read_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry())
    cursor = ledger.notes("a", None).cursor
    for _ in range(2):
        assert ledger.notes("a", cursor).notes in ([], ())
    monkeypatch.setattr("sqlite3.connect", None)
    assert ledger.notes("a", cursor) == Notes((), cursor)


def test_process_local_ledgers_do_not_offer_shared_features() -> None:
    shared = (Lease, TaskStream, SpendingLedger)
    assert not any(isinstance(ledger, shared) for ledger in (MemoryLedger(), OwnLedger()))


def test_a_lost_submission_can_be_reclaimed_once(ledger: Ledger) -> None:
    ledger.claim(entry(at=1.5))
    assert not ledger.reclaim(entry(at=9.0), 2.5)
    assert ledger.reclaim(entry(at=9.0), 1.5)
    assert not ledger.reclaim(entry(at=10.0), 1.5)
    assert not ledger.reclaim(entry("other", at=10.0), 1.5)
    ledger.settle("k", "task_1")
    assert not ledger.reclaim(entry(at=10.0), 9.0)
    settled = ledger.get("k")
    assert settled is not None
    assert (settled.at, settled.task_id, settled.request) == (9.0, "task_1", {})


def test_only_the_owner_can_access_the_file_and_prune_drops_old_entries(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    ledger = SQLiteLedger(path)
    for key, age in (("old", 100.0), ("lost", 100.0), ("new", 1.0)):
        ledger.claim(entry(key, time.time() - age))
    ledger.settle("old", "task_1")
    ledger.settle("new", "task_2")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    assert ledger.prune(older_than=50.0) == 1
    assert [key for key in ("old", "lost", "new") if ledger.get(key)] == ["lost", "new"]


def not_a_database(path: Path) -> None:
    path.write_text("this is no database, but it is longer than a header " * 100)


def newer_version(path: Path) -> None:
    SQLiteLedger(path).claim(entry())
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def missing_folder(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize("damage", [not_a_database, newer_version, missing_folder])
@pytest.mark.parametrize(
    "call",
    [
        lambda ledger: ledger.claim(entry()),
        lambda ledger: ledger.settle("k", "task_1"),
        lambda ledger: ledger.release("k"),
        lambda ledger: ledger.get("k"),
        lambda ledger: ledger.unsettled(),
        lambda ledger: ledger.prune(0.0),
    ],
)
def test_every_problem_with_the_file_raises_a_ledger_error(
    tmp_path: Path, damage: Callable[[Path], None], call: Callable[[SQLiteLedger], object]
) -> None:
    folder = tmp_path / "ledgers"
    folder.mkdir()
    damage(folder / "tasks.db")
    with pytest.raises(LedgerError, match=r"tasks\.db"):
        call(SQLiteLedger(folder / "tasks.db"))


def test_a_file_of_the_first_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE submissions (key TEXT PRIMARY KEY, type TEXT NOT NULL, digest TEXT NOT NULL, "
            "request TEXT NOT NULL, at REAL NOT NULL, task_id TEXT UNIQUE, is_handled INTEGER NOT NULL "
            "DEFAULT 0) WITHOUT ROWID; INSERT INTO submissions VALUES ('k', 'image', 'd', '{}', 1, 't', 1)"
        )
    ledger = SQLiteLedger(path)
    assert ledger.key_of("t") == "k"
    ledger.post("a", wanted("t"))


def test_a_deleted_file_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    ledger = SQLiteLedger(path)
    ledger.claim(entry())
    for file in list(tmp_path.iterdir()):
        file.unlink()
    assert ledger.claim(entry()) is None
    assert SQLiteLedger(path).get("k") == entry()


@pytest.mark.parametrize(
    "place",
    ["mysql://host/db", "s3://bucket/tasks.db", "file:tasks.db?mode=ro", "redis://", "postgresql://h:x/d"],
)
def test_an_unsupported_ledger_url_is_rejected(place: str) -> None:
    with pytest.raises(ConfigurationError, match="redis://"):
        Client(ledger=place)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}@127.0.0.1:1/0",
        f"postgresql://piccc:{PASSWORD}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=piccc&password={PASSWORD}",
    ],
)
def test_a_ledger_password_is_never_shown_or_pickled(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(ledger=url, base_url="http://127.0.0.1:1", api_key="k" * 20, max_retries=0)
    with pytest.raises(LedgerUnavailable) as raised:
        client.images.submit("a fox", model="piccc-image")
    pickled = pickle.dumps(client)
    texts = [repr(client), repr(client.ledger), str(vars(client.ledger)), repr(pickled)]
    texts += traceback.format_exception(raised.value)
    assert not any(PASSWORD in text for text in texts)
    assert "***" in repr(client.ledger)
    monkeypatch.setenv("PICCC_LEDGER", url)
    for ledger in (pickle.loads(pickled).ledger, Client().ledger):  # noqa: S301  our own bytes
        assert ledger._url.reveal() == url


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_wrong_ledger_password_is_reported_but_not_shown(kind: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    with pytest.raises(LedgerError, match="password") as raised:
        ledger_at(url.replace(PASSWORD, PASSWORD[::-1])).get("k")
    assert PASSWORD[::-1] not in "".join(traceback.format_exception(raised.value))


def test_while_the_store_is_down_nothing_is_submitted_and_waits_continue(
    redis_url: str, emulator: Emulator
) -> None:
    del redis_url  # skips the test if there is no Redis; the test stops its own Redis server
    server: dict[str, Any] = {"base_url": emulator.base_url, "api_key": emulator.api_key, "polling": QUICK}
    with redis_server() as url:
        client = Client(**server, ledger=url)
        task = client.images.submit("a fox", model="piccc-image")
    with pytest.raises(LedgerUnavailable):
        client.images.submit("a hare", model="piccc-image")
    assert task.wait(timeout=60).status == "completed"
    assert [request.path for request in emulator.requests if request.method == "POST"] == ["/v1/images/tasks"]


@pytest.mark.parametrize("is_idle", [False, True], ids=["in use", "idle"])
@pytest.mark.parametrize("kind", ["redis", "postgres"])
async def test_while_the_store_hangs_only_submissions_fail(
    kind: str, is_idle: bool, request: pytest.FixtureRequest, emulator: Emulator, monkeypatch: Any
) -> None:
    url: str = request.getfixturevalue(f"{kind}_url")
    module = import_module(f"piccc.media.ledgers.{kind}")
    monkeypatch.setattr(module, "SOCKET_SECONDS" if kind == "redis" else "STATEMENT_SECONDS", 0.5)
    monkeypatch.setattr(module, "CONNECT_SECONDS", 2, raising=False)
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.001 if is_idle else 60)
    server: dict[str, Any] = {"base_url": emulator.base_url, "api_key": emulator.api_key, "polling": QUICK}
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async with AsyncClient(**server, ledger=url) as client:
        task = await client.images.submit("a fox", model="piccc-image")
        with hanging(url):
            began, ticking = time.monotonic(), asyncio.create_task(tick())
            submissions = [client.images.submit("a hare", model="piccc-image") for _ in range(200)]
            outcomes = await asyncio.gather(*submissions, return_exceptions=True)
            assert {type(error) for error in outcomes} == {LedgerUnavailable}, {
                str(error) for error in outcomes
            }
            assert time.monotonic() - began < 30
            assert (await task.wait(timeout=60)).status == "completed"
            ticking.cancel()
            assert ticks > 20
        assert [request.path for request in emulator.requests if request.method == "POST"] == [
            "/v1/images/tasks"
        ]
        await asyncio.sleep(OUTAGE_SECONDS)
        assert (await client.images.generate("a hare", model="piccc-image")).status == "completed"


@pytest.mark.parametrize("extra", ["redis", "psycopg"])
def test_a_ledger_whose_library_is_missing_names_the_extra(
    extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    url = "redis://host" if extra == "redis" else "postgresql://host/db"
    with pytest.raises(MissingExtraError, match=r"piccc\[(redis|postgres)\]"):
        ledger_at(url).get("k")


def test_the_sqlite_name_for_memory_selects_a_memory_ledger() -> None:
    assert isinstance(Client(ledger=":memory:").ledger, MemoryLedger)


def test_concurrent_claims_share_one_transaction(tmp_path: Path) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry("first"))
    file = ledger._open()
    statements: list[str] = []
    file._database.set_trace_callback(statements.append)
    threads = [threading.Thread(target=ledger.claim, args=(entry(f"k{n}"),)) for n in range(20)]
    with file._lock:
        for thread in threads:
            thread.start()
        while len(file._queue) < 20:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert statements.count("COMMIT") == 1
    assert len(ledger.unsettled()) == 21


def test_a_file_ledger_works_in_a_forked_child(tmp_path: Path) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry("parent"))
    child = os.fork()
    if not child:
        ledger.claim(entry("child"))
        os._exit(0 if ledger.get("parent") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {submission.key for submission in ledger.unsettled()} == {"parent", "child"}


async def test_the_ledger_never_runs_on_the_event_loop(emulator: Emulator, tmp_path: Path) -> None:
    loop, threads = threading.get_ident(), set[int]()

    class Watched(SQLiteLedger):
        def _open(self) -> Any:
            threads.add(threading.get_ident())
            return super()._open()

    client = AsyncClient(
        base_url=emulator.base_url,
        api_key=emulator.api_key,
        polling=QUICK,
        ledger=Watched(tmp_path / "tasks.db"),
    )
    await client.images.map(["a fox", "a hare"], model="piccc-image", run="r")
    await client.images.generate("a fox", model="piccc-image", key="k")
    await client.tasks.resume("k")
    assert threads
    assert loop not in threads
