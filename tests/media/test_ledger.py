"""Both ledgers keep the same promises; the one in a file keeps them between processes and across crashes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from pathlib import Path

import pytest

from piccc.media.ledgers import Ledger, MemoryLedger, Notifier, Submission
from piccc.media.ledgers.sqlite import SQLiteLedger

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
