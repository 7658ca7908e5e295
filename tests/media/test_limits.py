"""A full disk causes no double billing, and 10,000 rows do not accumulate in memory."""

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


@pytest.mark.parametrize("method", ["claim", "settle", "handled"])
def test_a_run_stopped_by_a_full_disk_resumes_when_there_is_space(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.db"

    class Full(SQLiteLedger):
        calls = 0

    def full(ledger: Full, *args: Any) -> Any:
        Full.calls += 1
        if Full.calls > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        return getattr(SQLiteLedger, method)(ledger, *args)

    monkeypatch.setattr(Full, method, full)
    world = Server()
    error = stopped(world, world.account(ledger=Full(path)), rows(40), run="night", concurrency=10)
    assert isinstance(error.__cause__, LedgerError)
    assert error.batch is not None
    assert len([task for task in error.batch.tasks if task]) == len(world.charges)
    batch = run(world, world.account(ledger=SQLiteLedger(path)), rows(40), run="night", lost="resend")
    assert len(batch) == 40
    assert len(world.charges) == len({task["prompt"] for task in world.charges}) == 40


def test_a_batch_of_10000_rows_keeps_only_running_rows_in_memory() -> None:
    def requests() -> int:
        return sum(isinstance(item, TaskRequest) for item in gc.get_objects())

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
