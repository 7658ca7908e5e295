"""A process pool whose worker is killed while it waits bills nothing twice."""

from __future__ import annotations

import os
import signal
from multiprocessing import active_children
from pathlib import Path

import pytest

from piccc.emulator import Emulator
from piccc.emulator.request_log import RequestRecord
from tests.engines.process_pool import make_all
from tests.fleet.server import Counts, counted


def test_a_pool_whose_worker_is_killed_is_billed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator, counts, killed = Emulator(speed=float("inf")), Counts(), list[int]()
    emulator.app = counted(emulator.app, counts)
    prompts = [f"Mug {number}" for number in range(6)]

    def kill_once(_: RequestRecord) -> bool:
        pids = [child.pid for child in active_children() if child.pid]
        if not killed:
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)
        return False

    emulator.fault("500", route="GET /v1/tasks*", when=kill_once)
    with emulator:
        ledger = {"PICCC_LEDGER": str(tmp_path / "tasks.db")}
        for name, value in {**emulator.environment, **ledger}.items():
            monkeypatch.setenv(name, value)
        task_ids = make_all(prompts)
    assert killed
    assert dict(counts.prompts) == dict.fromkeys(prompts, 1)
    assert len(set(task_ids.values())) == len(task_ids) == len(prompts)
