"""Batches: every prompt gets one task, none is billed twice, and an interrupted run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from piccc.emulator import Emulator
from piccc.errors import (
    AuthenticationError,
    BatchStopped,
    InvalidArgumentError,
    InvalidRequestError,
    SpendLimitExceeded,
    SubmissionUnknown,
    TaskFailed,
)
from tests.media.driven import Connect

IMAGE = {"model": "piccc-image"}
SUBMISSIONS = "POST /v1/images/tasks"
FOXES = [f"fox {number}" for number in range(12)]


def test_a_batch_returns_one_task_per_prompt_in_order(client: Any, emulator: Emulator) -> None:
    seen: list[str] = []
    batch = client.images.map(FOXES, **IMAGE, concurrency=5, on_result=lambda task: seen.append(task.prompt))
    assert [task.prompt for task in batch] == FOXES
    assert {task.status for task in batch} == {"completed"}
    assert sorted(seen) == sorted(FOXES)
    assert len(emulator.charges) == len(FOXES)


def test_concurrency_limits_the_tasks_that_run_at_once(client: Any, emulator: Emulator) -> None:
    seconds = 3 / 60
    client.images.map(FOXES, **IMAGE, concurrency=3)
    starts = [charge.at for charge in emulator.charges]
    running = [sum(other <= start < other + seconds for other in starts) for start in starts]
    assert max(running) == 3


def test_a_row_overrides_the_settings_of_its_batch(client: Any, emulator: Emulator) -> None:
    rows = [
        "plain",
        {"prompt": "wide", "aspect_ratio": "16:9"},
        {"prompt": "other", "model": "other", "seed": 3},
    ]
    batch = client.images.map(rows, **IMAGE, resolution="2K")
    assert [task.raw["aspect_ratio"] for task in batch] == ["1:1", "16:9", "1:1"]
    assert {task.raw["resolution"] for task in batch} == {"2K"}
    assert [task.model for task in batch] == ["piccc-image", "piccc-image", "other"]


def test_an_invalid_row_is_rejected_before_anything_is_sent(client: Any, emulator: Emulator) -> None:
    with pytest.raises(InvalidArgumentError, match="prompt"):
        client.images.map(["fox", ""], **IMAGE)
    assert not emulator.requests


def test_an_interrupted_run_resumes_without_paying_twice(
    connect: Connect, emulator: Emulator, tmp_path: Path
) -> None:
    settings = {"base_url": emulator.base_url, "api_key": emulator.api_key, "ledger": tmp_path / "run.db"}
    reported: list[str] = []

    def interrupt(task: Any) -> None:
        if len(reported) == 4:
            raise KeyboardInterrupt
        reported.append(task.prompt)

    with pytest.raises(KeyboardInterrupt):
        connect(**settings).images.map(FOXES, **IMAGE, run="foxes", concurrency=6, on_result=interrupt)
    charged = len(emulator.charges)
    assert 4 <= charged < len(FOXES)
    batch = connect(**settings).images.map(
        FOXES, **IMAGE, run="foxes", on_result=lambda task: reported.append(task.prompt)
    )
    assert [task.prompt for task in batch] == FOXES
    assert sorted(reported) == sorted(FOXES)
    assert len(emulator.charges) == len(FOXES)


def test_equal_prompts_and_separate_runs_get_separate_tasks(client: Any, emulator: Emulator) -> None:
    assert len({task.id for task in client.images.map(["fox"] * 3, **IMAGE, run="one")}) == 3
    client.images.map(["fox"] * 3, **IMAGE, run="one")
    assert len(emulator.charges) == 3
    client.images.map(["fox"] * 3, **IMAGE, run="two")
    client.images.map(["fox"] * 3, **IMAGE)
    assert len(emulator.charges) == 9


def test_repeating_a_run_of_equal_rows_keeps_the_order_of_tasks(client: Any, emulator: Emulator) -> None:
    rows = ["fox"] * 40
    first, second = (
        client.images.map(rows, **IMAGE, run="same", concurrency=40, submissions=40) for _ in range(2)
    )
    assert [task.id for task in first.tasks] == [task.id for task in second.tasks]


def test_a_failed_row_does_not_affect_the_others(client: Any, emulator: Emulator) -> None:
    emulator.fault("failed", route=SUBMISSIONS, times=1)
    emulator.fault("lost-answer", route=SUBMISSIONS, times=1)
    emulator.fault("422", route=SUBMISSIONS, times=1)
    batch = client.images.map(FOXES, **IMAGE)
    assert [type(error) for error in batch.errors.values()] == [InvalidRequestError]
    failures = [failure for task in batch if (failure := task.failure())]
    assert [type(failure) for failure in failures] == [TaskFailed]
    assert "10 completed of 12, 1 errors" in repr(batch)
    assert len(emulator.charges) == len({task.id for task in batch}) == 11


def test_a_submission_without_a_response_is_an_error_of_its_row(client: Any, emulator: Emulator) -> None:
    emulator.fault("disconnect", route=SUBMISSIONS, times=1)
    batch = client.images.map(FOXES, **IMAGE)
    assert [type(error) for error in batch.errors.values()] == [SubmissionUnknown]
    assert len(batch) == len(emulator.charges) == 11


def test_repeated_429s_lose_no_row(connect: Connect, emulator: Emulator) -> None:
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key, max_retries=0)
    emulator.fault("429;retry-after-ms=1", route=SUBMISSIONS, rate=0.7)
    batch = client.images.map(FOXES, **IMAGE)
    assert len(batch) == len(emulator.charges) == len(FOXES)


def test_an_authentication_error_stops_the_batch_and_keeps_its_tasks(client: Any, emulator: Emulator) -> None:
    emulator.fault("401", route=SUBMISSIONS, after=4)
    with pytest.raises(BatchStopped) as raised:
        client.images.map(FOXES, **IMAGE, run="foxes", concurrency=2)
    assert isinstance(raised.value.__cause__, AuthenticationError)
    assert raised.value.batch is not None
    assert [task.status for task in raised.value.batch] == ["completed"] * 4
    assert "run=" in str(raised.value)


def test_spend_limits_stop_a_batch_before_it_overspends(client: Any, emulator: Emulator) -> None:
    with pytest.raises(BatchStopped) as raised:
        client.images.map(FOXES, **IMAGE, max_tasks=5)
    assert isinstance(raised.value.__cause__, SpendLimitExceeded)
    assert len(emulator.charges) == 5
    with pytest.raises(BatchStopped):
        client.videos.map(FOXES, model="piccc-video", duration_seconds=4, max_video_seconds=10)
    assert sum(charge.kind == "video" for charge in emulator.charges) == 2


def test_a_batch_that_times_out_keeps_its_completed_tasks(client: Any, emulator: Emulator) -> None:
    emulator.fault("stuck", route=SUBMISSIONS, times=1)
    with pytest.raises(BatchStopped) as raised:
        client.images.map(FOXES[:3], **IMAGE, timeout=1.5)
    assert raised.value.batch is not None
    assert len(raised.value.batch) == 2


@pytest.mark.parametrize(("is_terminal", "line"), [(True, "████████████████████ 12/12"), (False, "12/12")])
def test_progress_is_one_line_that_ends_complete(
    client: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    line: str,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    client.images.map(FOXES, **IMAGE, progress=True)
    shown = capsys.readouterr().err
    assert shown.split("\r")[-1] == f"{line}\n"
    assert shown.count("\n") == 1


def test_an_empty_list_of_prompts_returns_an_empty_batch(client: Any, emulator: Emulator) -> None:
    assert len(client.images.map([], **IMAGE)) == 0
    assert not emulator.requests
