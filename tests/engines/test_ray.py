"""Ray with a ledger in Redis: workers are killed, rows fail one by one, and workers share a rate."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from piccc import Client
from piccc.emulator import Emulator
from tests.engines.ray_data import Columns, Images, Replies
from tests.fleet.server import Counts, counted
from tests.services import redis_url

__all__ = ["redis_url"]
pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).parents[2]


class KilledOnce(Images):
    """Kills its process after the first batch was billed, before Ray has the result."""

    def __init__(self, run: str, marker: str, **options: Any) -> None:
        super().__init__(run, **options)
        self.marker = Path(marker)

    def __call__(self, batch: Columns) -> Columns:
        result = super().__call__(batch)
        if not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result


@pytest.fixture(scope="module")
def counts() -> Counts:
    return Counts()


@pytest.fixture(scope="module")
def emulator(redis_url: str, counts: Counts) -> Iterator[Emulator]:
    emulator = Emulator(speed=float("inf"))
    emulator.app = counted(emulator.app, counts)
    with pytest.MonkeyPatch.context() as patch, emulator:
        settings = {"PICCC_LEDGER": redis_url, "PYTHONPATH": str(ROOT), "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
        for name, value in {**emulator.environment, **settings}.items():
            patch.setenv(name, value)  # inherited by the processes that Ray starts
        yield emulator


@pytest.fixture(scope="module")
def ray(emulator: Emulator) -> Iterator[Any]:
    ray = pytest.importorskip(
        "ray", reason='Ray is not installed: uv run --with "ray[data]" pytest tests/engines'
    )
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def test_a_killed_batch_is_billed_once_and_a_bad_row_fails_alone(
    ray: Any, emulator: Emulator, counts: Counts, tmp_path: Path
) -> None:
    emulator.fault(
        "moderated", route="POST /v1/images/tasks", when=lambda request: b"forbidden" in request.raw
    )
    prompts = [*(f"A mug, number {number}" for number in range(19)), "A forbidden mug"]
    rows = (
        ray.data.from_items([{"prompt": prompt} for prompt in prompts], override_num_blocks=5)
        .map_batches(
            KilledOnce,
            fn_constructor_kwargs={"run": "mugs", "marker": str(tmp_path / "killed")},
            batch_size=4,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        .take_all()
    )
    assert (tmp_path / "killed").exists()
    assert dict(counts.prompts) == dict.fromkeys(prompts, 1)
    assert {row["prompt"] for row in rows if row["url"]} == set(prompts[:-1])
    (failed,) = (row for row in rows if row["error"])
    assert failed["prompt"] == "A forbidden mug"
    assert "content policy" in failed["error"]


def test_a_task_whose_worker_dies_is_billed_once(ray: Any, counts: Counts, tmp_path: Path) -> None:
    marker = tmp_path / "died"

    @ray.remote(max_retries=2)
    def make() -> str:
        task_id = Client().images.generate("A jug", model="piccc-image").id
        if not marker.exists():
            marker.touch()
            os._exit(9)
        return task_id

    first, second = ray.get(make.remote()), ray.get(make.remote())
    assert marker.exists()
    assert first != second
    assert counts.prompts["A jug"] == 2


def test_all_workers_together_stay_within_a_rate(ray: Any, emulator: Emulator, counts: Counts) -> None:
    counts.moments.clear()
    emulator.fault("400", route="POST /v1/chat/*", when=lambda request: b"number 7 " in request.raw)
    rows = (
        ray.data.from_items([{"prompt": f"Say number {number} ."} for number in range(60)])
        .map_batches(
            Replies,
            fn_constructor_kwargs={"rate": "20/2seconds"},
            batch_size=15,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        .take_all()
    )
    assert sum(bool(row["reply"]) for row in rows) == 59
    assert [row["prompt"] for row in rows if row["error"]] == ["Say number 7 ."]
    # A request may arrive late after its permit: the window of 0.5 s leaves 1.5 s for that.
    most = max(sum(start <= moment < start + 0.5 for moment in counts.moments) for start in counts.moments)
    assert len(counts.moments) == 60
    assert most <= 20
