"""Celery with Redis as queue and ledger: a worker is killed while it waits, and its job runs again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from piccc import Client
from piccc.emulator import Emulator, ManualClock
from piccc.errors import SubmissionUnknown
from tests.fleet.server import Counts, counted
from tests.services import redis_url

__all__ = ["redis_url"]
APP = Path(__file__).with_name("celery_app.py")
PATIENCE = 120


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "celery_app",
        "worker",
        "--pool=solo",
        "--loglevel=ERROR",
    ]
    process = subprocess.Popen(command, cwd=APP.parent, env=environment)  # noqa: S603  our own command
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_job_whose_worker_is_killed_is_billed_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("celery", reason="Celery is not installed: uv run --with celery pytest tests/engines")
    clock = ManualClock(start=time.time())  # no task ends until the test advances it
    emulator = Emulator(clock=clock, speed=float("inf"))
    # This app ignores the idempotency key, which would otherwise hide double charges.
    emulator.app = counted(emulator.app, Counts())
    with emulator:
        settings = {"STUDIO_REDIS": redis_url, "STUDIO_PATIENCE": "2", "PICCC_LEDGER": redis_url}
        environment = {**os.environ, **emulator.environment, **settings}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        from tests.engines.celery_app import image

        job = image.delay("A mug")
        with worker(environment):
            deadline = time.monotonic() + PATIENCE
            while not emulator.charges and time.monotonic() < deadline:
                time.sleep(0.02)
        assert not job.ready()
        emulator.advance(60)
        time.sleep(2)  # until Redis redelivers the job
        with worker(environment):
            task_id = job.get(timeout=PATIENCE)
            assert len(emulator.charges) == 1
            assert Client().tasks.get(task_id).status == "completed"

            # The error keeps the key with which the caller finds the task.
            emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
            with pytest.raises(SubmissionUnknown) as lost:
                image.delay("A cup").get(timeout=PATIENCE)
            assert str(lost.value.submission_key).startswith("celery-")
            assert Client().tasks.resume(str(lost.value.submission_key)).prompt == "A cup"
            assert len(emulator.charges) == 2
        image.app.close()
