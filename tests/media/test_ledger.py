"""Both ledgers keep the same promises; the one in a file keeps them between processes and across crashes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from piccc import AsyncClient, Client
from piccc.emulator import Emulator
from piccc.errors import ConfigurationError, LedgerError
from piccc.media.ledgers import Ledger, MemoryLedger, Notifier, Submission
from piccc.media.ledgers.sqlite import SQLiteLedger
from tests.media.driven import QUICK

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(params=["memory", "file"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    return MemoryLedger() if request.param == "memory" else SQLiteLedger(tmp_path / "tasks.db")


def entry(key: str = "k", at: float = 1.5) -> Submission:
    return Submission(key, "image", "digest", {"prompt": "狐狸 🦊"}, at)


def test_a_key_is_claimed_once(ledger: Ledger) -> None:
    assert ledger.claim(entry()) is None
    assert ledger.claim(entry(at=9.0)) == entry()
    assert ledger.get("k") == entry()
    assert ledger.get("other") is None


def test_a_submission_becomes_one_task_and_a_task_belongs_to_one_submission(ledger: Ledger) -> None:
    ledger.claim(entry("k"))
    ledger.claim(entry("l"))
    assert ledger.settle("k", "task_1")
    assert ledger.settle("k", "task_1")
    assert not ledger.settle("k", "task_2")
    assert not ledger.settle("l", "task_1")
    assert not ledger.settle("unknown", "task_3")
    assert ledger.key_of("task_1") == "k"
    assert ledger.key_of("task_2") is None


def test_unsettled_submissions_are_listed_and_refused_ones_forgotten(ledger: Ledger) -> None:
    for key, at in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        ledger.claim(entry(key, at))
    ledger.settle("b", "task_1")
    ledger.release("c")
    ledger.release("b")
    assert [each.key for each in ledger.unsettled()] == ["a"]
    assert ledger.get("b") is not None


def test_a_result_that_was_handed_over_is_remembered(ledger: Ledger) -> None:
    ledger.claim(entry())
    ledger.settle("k", "task_1")
    ledger.handled("k")
    known = ledger.get("k")
    assert known is not None
    assert known.is_handled


def test_a_ledger_in_a_file_outlives_its_object_and_travels(tmp_path: Path) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry())
    for other in (
        SQLiteLedger(str(tmp_path / "tasks.db")),
        pickle.loads(pickle.dumps(ledger)),  # noqa: S301  our own bytes
        copy.deepcopy(ledger),
    ):
        assert other.get("k") == entry()


def test_the_memory_forgets_the_oldest_settled_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc.media.ledgers.MOST_REMEMBERED", 2)
    ledger = MemoryLedger()
    for number in range(4):
        ledger.claim(entry(f"k{number}"))
        if number:
            ledger.settle(f"k{number}", f"task_{number}")
    assert [key for key in ("k0", "k1", "k2", "k3") if ledger.get(key)] == ["k0", "k2", "k3"]


def test_of_four_processes_one_gets_each_key(tmp_path: Path) -> None:
    with SPAWN.Pool(4) as pool:
        won = pool.map(_claim_all, [str(tmp_path / "tasks.db")] * 4)
    assert sorted(key for keys in won for key in keys) == sorted(f"k{number}" for number in range(25))


def _claim_all(path: str) -> list[str]:
    ledger = SQLiteLedger(path)
    return [f"k{number}" for number in range(25) if ledger.claim(entry(f"k{number}")) is None]


def test_what_one_process_is_told_the_others_see_once(tmp_path: Path) -> None:
    one, two, three = (SQLiteLedger(tmp_path / "tasks.db") for _ in range(3))
    assert one.notices() == two.notices() == []
    one.notify("task_1")
    assert [each.notices() for each in (one, two, two)] == [[], ["task_1"], []]
    two.notify("task_2")
    one.notify("task_3")
    assert one.notices() == ["task_2", "task_3"]
    assert two.notices() == ["task_3"]
    assert three.notices() == ["task_1", "task_2", "task_3"]


def test_only_the_latest_notices_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc.media.ledgers.sqlite.MOST_NOTICES", 3)
    one, two = (SQLiteLedger(tmp_path / "tasks.db") for _ in range(2))
    for number in range(5):
        one.notify(f"task_{number}")
    assert two.notices() == ["task_2", "task_3", "task_4"]


def test_a_file_that_nobody_wrote_to_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry())
    assert ledger.notices() == []
    monkeypatch.setattr("sqlite3.connect", None)
    assert ledger.notices() == []
    assert SQLiteLedger(tmp_path / "none.db").notices() == []


def test_only_the_ledger_in_a_file_is_a_noticeboard(tmp_path: Path) -> None:
    assert isinstance(SQLiteLedger(tmp_path / "tasks.db"), Notifier)
    assert not isinstance(MemoryLedger(), Notifier)


def test_a_lost_submission_is_claimed_again_by_one(ledger: Ledger) -> None:
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


def test_the_file_is_its_owners_alone_and_forgets_what_is_old(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    ledger = SQLiteLedger(path)
    for key, age in (("old", 100.0), ("lost", 100.0), ("new", 1.0)):
        ledger.claim(entry(key, time.time() - age))
    ledger.settle("old", "task_1")
    ledger.settle("new", "task_2")
    assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}
    assert ledger.prune(older_than=50.0) == 1
    assert [key for key in ("old", "lost", "new") if ledger.get(key)] == ["lost", "new"]


def not_a_database(path: Path) -> None:
    path.write_text("this is no database, but it is longer than a header " * 100)


def of_a_newer_version(path: Path) -> None:
    SQLiteLedger(path).claim(entry())
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 99")


def in_no_folder(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize("harm", [not_a_database, of_a_newer_version, in_no_folder])
@pytest.mark.parametrize(
    "act",
    [
        lambda ledger: ledger.claim(entry()),
        lambda ledger: ledger.settle("k", "task_1"),
        lambda ledger: ledger.release("k"),
        lambda ledger: ledger.get("k"),
        lambda ledger: ledger.unsettled(),
        lambda ledger: ledger.prune(0.0),
    ],
)
def test_whatever_is_wrong_with_the_file_is_a_ledger_error(
    tmp_path: Path, harm: Callable[[Path], None], act: Callable[[SQLiteLedger], object]
) -> None:
    folder = tmp_path / "ledgers"
    folder.mkdir()
    harm(folder / "tasks.db")
    with pytest.raises(LedgerError, match=r"tasks\.db"):
        act(SQLiteLedger(folder / "tasks.db"))


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE submissions (key TEXT PRIMARY KEY, type TEXT NOT NULL, digest TEXT NOT NULL, "
            "request TEXT NOT NULL, at REAL NOT NULL, task_id TEXT UNIQUE, is_handled INTEGER NOT NULL "
            "DEFAULT 0) WITHOUT ROWID; INSERT INTO submissions VALUES ('k', 'image', 'd', '{}', 1, 't', 1)"
        )
    ledger = SQLiteLedger(path)
    assert ledger.key_of("t") == "k"
    ledger.notify("t")


def test_a_file_that_was_deleted_meanwhile_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    ledger = SQLiteLedger(path)
    ledger.claim(entry())
    for each in list(tmp_path.iterdir()):
        each.unlink()
    assert ledger.claim(entry()) is None
    assert SQLiteLedger(path).get("k") == entry()


@pytest.mark.parametrize("place", ["redis://host/0", "postgresql://host/db", "file:tasks.db?mode=ro"])
def test_an_address_of_an_unknown_kind_is_refused(place: str) -> None:
    with pytest.raises(ConfigurationError, match="file's path"):
        Client(ledger=place)


def test_the_ledger_in_memory_has_its_sqlite_name_too() -> None:
    assert isinstance(Client(ledger=":memory:").ledger, MemoryLedger)


def test_claims_of_the_same_moment_share_one_transaction(tmp_path: Path) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry("first"))
    file = ledger._opened()
    statements: list[str] = []
    file._database.set_trace_callback(statements.append)
    threads = [threading.Thread(target=ledger.claim, args=(entry(f"k{n}"),)) for n in range(20)]
    with file._lock:
        for thread in threads:
            thread.start()
        while len(file._acts) < 20:
            time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert statements.count("COMMIT") == 1
    assert len(ledger.unsettled()) == 21


def test_a_child_process_opens_the_file_for_itself(tmp_path: Path) -> None:
    ledger = SQLiteLedger(tmp_path / "tasks.db")
    ledger.claim(entry("parent"))
    child = os.fork()
    if not child:
        ledger.claim(entry("child"))
        os._exit(0 if ledger.get("parent") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert {each.key for each in ledger.unsettled()} == {"parent", "child"}


async def test_the_ledger_never_runs_on_the_event_loop(emulator: Emulator, tmp_path: Path) -> None:
    loop, threads = threading.get_ident(), set[int]()

    class Watched(SQLiteLedger):
        def _opened(self) -> Any:
            threads.add(threading.get_ident())
            return super()._opened()

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
