"""A disk that is full, and 10,000 rows: nothing is paid for twice, and nothing piles up."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from piccc.errors import LedgerError
from piccc.media.ledgers.sqlite import SQLiteLedger
from piccc.media.requests import TaskRequest
from tests.media.test_batch_patience import rows, run, stopped
from tests.media.world import Server


@pytest.mark.parametrize("act", ["claim", "settle", "handled"])
def test_a_run_whose_ledger_finds_the_disk_full_goes_on_when_there_is_room(
    act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.db"

    class Full(SQLiteLedger):
        calls = 0

    def full(ledger: Full, *args: Any) -> Any:
        Full.calls += 1
        if Full.calls > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return getattr(SQLiteLedger, act)(ledger, *args)

    monkeypatch.setattr(Full, act, full)
    world = Server()
    error = stopped(world, world.account(ledger=Full(path)), rows(40), run="night", concurrency=10)
    assert isinstance(error.__cause__, LedgerError)
    assert error.batch is not None
    assert len([task for task in error.batch.tasks if task]) == len(world.charges)
    batch = run(world, world.account(ledger=SQLiteLedger(path)), rows(40), run="night", lost="resend")
    assert len(batch) == 40
    assert len(world.charges) == len({task["prompt"] for task in world.charges}) == 40


def test_of_10000_rows_only_those_under_way_are_held() -> None:
    def requests() -> int:
        return sum(isinstance(each, TaskRequest) for each in gc.get_objects())

    gc.collect()
    world, most, left_by_other_tests = Server(post=0.1, seconds=1.0), 0, requests()

    def prompts() -> Iterator[str]:
        nonlocal most
        for number in range(10_000):
            if number % 2000 == 1999:
                most = max(most, requests() - left_by_other_tests)
            yield f"fox {number}"

    batch = run(world, world.account(), prompts(), concurrency=100)
    assert len(batch) == 10_000
    assert most <= 400
