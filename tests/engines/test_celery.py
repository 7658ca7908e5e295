"""Celery with Redis for queue and ledger: a worker is killed while it waits, and its job runs again."""

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
def test_a_job_whose_worker_is_killed_pays_once(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("celery", reason="Celery is not installed: uv run --with celery pytest tests/engines")
    clock = ManualClock(start=time.time())  # which stands still, so that no task ends until it is advanced
    emulator = Emulator(clock=clock, speed=float("inf"))
    emulator.app = counted(
        emulator.app, Counts()
    )  # it ignores the key in the header, which would hide charges
    with emulator:
        ours = {"STUDIO_REDIS": redis_url, "STUDIO_PATIENCE": "2", "PICCC_LEDGER": redis_url}
        environment = {**os.environ, **emulator.environment, **ours}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        from tests.engines.celery_app import image

        job = image.delay("A mug")
        with worker(environment):
            until = time.monotonic() + PATIENCE
            while not emulator.charges and time.monotonic() < until:
                time.sleep(0.02)
        assert not job.ready()
        emulator.advance(60)
        time.sleep(2)  # until Redis hands the job to another worker
        with worker(environment):
            made = job.get(timeout=PATIENCE)
            assert len(emulator.charges) == 1
            assert Client().tasks.get(made).status == "completed"

            # What went wrong comes back with the key by which the caller finds the task.
            emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
            with pytest.raises(SubmissionUnknown) as lost:
                image.delay("A cup").get(timeout=PATIENCE)
            assert str(lost.value.submission_key).startswith("celery-")
            assert Client().tasks.resume(str(lost.value.submission_key)).prompt == "A cup"
            assert len(emulator.charges) == 2
        image.app.close()
