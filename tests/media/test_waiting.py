"""Waits against the emulator: what they return, what they cost, and how they end."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from typing import Any

import pytest

from piccc import AsyncClient, Client, Polling
from piccc._http.backends import run_sync
from piccc.emulator import Emulator, ManualClock
from piccc.errors import (
    NotFoundError,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskRejected,
    TaskWaitTimeout,
)
from piccc.media.polling import still_running, way_on
from piccc.tasks import Task
from tests.media.driven import QUICK, Connect

IMAGE = {"model": "piccc-image"}


def reads(emulator: Emulator) -> int:
    return sum(
        request.method == "GET" and request.path.startswith("/v1/tasks") for request in emulator.requests
    )


def test_generate_returns_the_task_with_its_outputs(client: Any) -> None:
    task = client.images.generate("a fox", **IMAGE)
    assert (task.status, task.type, task.prompt) == ("completed", "image", "a fox")
    assert task.outputs[0].url.startswith("http")


def test_a_handle_shows_the_status_that_was_read_last(client: Any) -> None:
    task = client.images.submit("a fox", **IMAGE)
    assert task.status == "queued"
    statuses = [seen.status for seen in task.events()]
    assert statuses[-1] == task.status == "completed"
    assert client.tasks.get(task.id).status == task.refresh().status == "completed"


def test_a_task_can_be_waited_for_by_id(client: Any) -> None:
    task = client.tasks.wait(client.videos.submit("a fox", model="piccc-video", duration_seconds=1).id)
    assert (task.status, task.type) == ("completed", "video")


def test_each_update_is_reported_once(client: Any) -> None:
    seen: list[tuple[str, float | None]] = []
    client.images.generate("a fox", **IMAGE, on_update=lambda task: seen.append((task.status, task.progress)))
    assert len(seen) == len(set(seen))
    assert seen[-1] == ("completed", 100.0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("failed", TaskFailed),
        ("moderated", TaskRejected),
        ("cancelled", TaskCancelled),
        ("expired", TaskExpired),
        ("no-output", TaskFailed),
    ],
)
def test_a_task_without_an_output_raises_its_reason(
    client: Any, emulator: Emulator, fault: str, error: type
) -> None:
    emulator.fault(fault, route="POST /v1/images/tasks")
    task = client.images.submit("a fox", **IMAGE)
    with pytest.raises(error) as raised:
        task.wait()
    assert raised.value.task_id == task.id


def test_a_completed_task_without_output_is_read_once_more(connect: Connect) -> None:
    with Emulator(speed=math.inf) as emulator:  # the first read already shows it as completed
        emulator.fault("no-output", route="POST /v1/images/tasks")
        client = connect(base_url=emulator.base_url, api_key=emulator.api_key)
        task = client.images.submit("a fox", **IMAGE)
        with pytest.raises(TaskFailed, match="no output"):
            task.wait()
        assert reads(emulator) == 2


def test_an_unknown_status_does_not_end_a_wait_and_warns_once(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with Emulator(speed=6) as emulator, caplog.at_level(logging.WARNING, "piccc"):
        emulator.fault("status:dreaming", route="POST /v1/images/tasks")
        client = connect(base_url=emulator.base_url, api_key=emulator.api_key)
        assert client.images.generate("a fox", **IMAGE).status == "completed"
    assert sum("dreaming" in record.message for record in caplog.records) == 1


def test_a_wait_that_times_out_explains_how_to_resume(client: Any, emulator: Emulator) -> None:
    emulator.fault("stuck", route="POST /v1/images/tasks")
    task = client.images.submit("a fox", **IMAGE)
    with pytest.raises(TaskWaitTimeout) as raised:
        task.wait(timeout=0.1)
    assert raised.value.task_id == task.id
    assert f"client.tasks.wait('{task.id}')" in str(raised.value)
    assert "do not submit it again" in str(raised.value)


@pytest.mark.parametrize(
    ("statuses", "message", "hint"),
    [
        (
            ["queued"],
            "Task t0 is still queued after 0.0 s.",
            "It keeps running and is billed: do not submit it",
        ),
        (
            ["completed"],
            "Task t0 is completed but has no output yet (waited 0.0 s).",
            "Do not submit it again.",
        ),
        (
            ["queued", "processing"],
            "Task t0 and 1 more are still running after 0.0 s.",
            "They keep running and are billed: do not submit them again.",
        ),
    ],
)
def test_a_timeout_describes_the_tasks_in_plain_sentences(
    statuses: list[str], message: str, hint: str
) -> None:
    running = [Task(f"t{number}", status=status) for number, status in enumerate(statuses)]
    assert still_running(running, 0.04) == message
    assert way_on(running).startswith(hint)


def test_failed_reads_do_not_end_a_wait(client: Any, emulator: Emulator) -> None:
    task = client.images.submit("a fox", **IMAGE)
    rule = emulator.fault("500", route="GET /v1/tasks*", times=3)
    emulator.fault("disconnect", route="GET /v1/tasks*", times=2)
    assert task.wait().status == "completed"
    assert rule.hit == 3


def test_a_task_that_is_not_found_at_first_is_waited_for(client: Any, emulator: Emulator) -> None:
    emulator.fault("hidden:2", route="POST /v1/images/tasks")
    assert client.images.generate("a fox", **IMAGE).status == "completed"


def test_an_unknown_id_raises_at_once(client: Any, emulator: Emulator) -> None:
    with pytest.raises(NotFoundError) as raised:
        client.tasks.wait("task_nowhere")
    assert raised.value.task_id == "task_nowhere"
    assert "client.tasks.wait" not in raised.value.hint
    assert reads(emulator) == 1


def test_wait_all_keeps_the_order_and_does_not_raise_for_failed_tasks(
    client: Any, emulator: Emulator
) -> None:
    emulator.fault("failed", route="POST /v1/images/tasks", times=1, after=2)
    tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(5)]
    ended = client.tasks.wait_all([tasks[0], *tasks])
    assert [task.id for task in ended] == [tasks[0].id, *(task.id for task in tasks)]
    assert [task.status for task in ended[1:]].count("failed") == 1
    assert isinstance(ended[3].failure(), TaskFailed)


def test_one_unreadable_task_does_not_affect_the_others(client: Any) -> None:
    tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(2)]
    seen: list[str] = []
    ended = client.tasks.as_completed([tasks[0], "task_nowhere", tasks[1]])
    with pytest.raises(NotFoundError):
        seen.extend(task.id for task in ended)
    assert sorted(seen) == sorted(task.id for task in tasks)


def test_an_error_of_wait_all_carries_every_task(client: Any, emulator: Emulator) -> None:
    tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(2)]
    with pytest.raises(NotFoundError) as raised:
        client.tasks.wait_all([tasks[0].id, "task_nowhere", tasks[1].id])
    assert [task.id for task in raised.value.tasks] == [tasks[0].id, "task_nowhere", tasks[1].id]
    assert [task.status for task in raised.value.tasks] == ["completed", "queued", "completed"]
    emulator.fault("stuck", route="POST /v1/images/tasks", times=1)
    stuck = client.images.submit("stuck", **IMAGE)
    with pytest.raises(TaskWaitTimeout) as late:
        client.tasks.wait_all([stuck.id, tasks[0].id], timeout=1.0)
    assert [task.status for task in late.value.tasks][1] == "completed"


def test_as_completed_yields_a_quick_task_before_a_slow_one(client: Any, emulator: Emulator) -> None:
    emulator.fault("stuck", route="POST /v1/images/tasks", times=1)
    slow = client.images.submit("slow", **IMAGE)
    quick = client.images.submit("quick", **IMAGE)
    seen: list[str] = []
    ended = client.tasks.as_completed([slow, quick], timeout=1.5)
    with pytest.raises(TaskWaitTimeout):
        seen.extend(task.id for task in ended)
    assert seen == [quick.id]


def test_events_of_several_tasks_continue_until_all_have_ended(client: Any) -> None:
    tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(3)]
    last = {event.id: event.status for event in client.tasks.events(*tasks)}
    assert last == {task.id: "completed" for task in tasks}


def test_the_list_has_every_task_once_while_pages_drift(client: Any, emulator: Emulator) -> None:
    tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(205)]
    emulator.fault("drift", route="GET /v1/tasks")
    listed = [task.id for task in client.tasks.list(type="image")]
    assert sorted(listed) == sorted(task.id for task in tasks)
    assert [task.id for task in client.tasks.list(type="video")] == []


@pytest.mark.parametrize("fault", ["repeat-cursor", "no-cursor"])
def test_the_list_ends_at_a_repeated_or_missing_cursor(client: Any, emulator: Emulator, fault: str) -> None:
    for number in range(205):
        client.images.submit(f"fox {number}", **IMAGE)
    emulator.fault(fault, route="GET /v1/tasks")
    assert 100 <= len(list(client.tasks.list())) <= 205


@pytest.mark.parametrize("fault", ["drift", "repeat-cursor", "no-cursor", "500", "404"])
def test_wait_all_succeeds_despite_list_faults(client: Any, emulator: Emulator, fault: str) -> None:
    tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(120)]
    emulator.fault(fault, route="GET /v1/tasks", rate=0.5)
    ended = client.tasks.wait_all(tasks, timeout=30)
    assert {task.status for task in ended} == {"completed"}


@pytest.mark.parametrize("quirks", ["evolink", "kie", "kling", "ark", "openrouter"])
def test_waits_work_with_every_known_variant_of_the_wire(connect: Connect, quirks: str) -> None:
    with Emulator(speed=60, quirks=quirks) as emulator:
        client = connect(base_url=emulator.base_url, api_key=emulator.api_key)
        tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(30)]
        ended = client.tasks.wait_all(tasks)
        assert all(task.status == "completed" and task.outputs[0].bytes() for task in ended[:1])
        assert len(list(client.tasks.list())) == 30


def test_a_429_on_one_poll_pauses_all_polls() -> None:
    clock = ManualClock()
    with Emulator(clock=clock) as emulator:
        client = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
        tasks = [client.images.submit(f"fox {number}", **IMAGE) for number in range(3)]
        emulator.fault("429;retry-after=3600", route="GET /v1/tasks*", times=1)
        with pytest.raises(TaskWaitTimeout):
            client.tasks.wait_all(tasks, timeout=3)
        assert reads(emulator) == 1


async def test_many_waits_on_one_loop_share_requests(emulator: Emulator) -> None:
    polling = Polling(min=0.05, max=0.05)
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=polling) as client:
        tasks = [
            await client.videos.submit(f"fox {n}", model="piccc-video", duration_seconds=1) for n in range(60)
        ]
        before = reads(emulator)
        ended = await asyncio.gather(*(task.wait() for task in tasks))
        assert {task.status for task in ended} == {"completed"}
        assert reads(emulator) - before < 60


def test_waits_in_many_threads_share_requests(emulator: Emulator) -> None:
    polling = Polling(min=0.05, max=0.05)
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=polling)
    tasks = [client.videos.submit(f"fox {n}", model="piccc-video", duration_seconds=1) for n in range(60)]
    before, ended = reads(emulator), []
    threads = [threading.Thread(target=lambda task=task: ended.append(task.wait().status)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert ended == ["completed"] * 60
    assert reads(emulator) - before < 60


async def test_a_cancelled_wait_explains_how_to_resume(emulator: Emulator) -> None:
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK) as client:
        emulator.fault("stuck", route="POST /v1/images/tasks", times=1)
        stuck = await client.images.submit("stuck", **IMAGE)
        other = await client.images.submit("other", **IMAGE)
        leader = asyncio.create_task(stuck.wait())
        await asyncio.sleep(0)
        follower = asyncio.create_task(other.wait())
        await asyncio.sleep(0)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await leader
        assert any(stuck.id in note and "do not submit it again" in note for note in raised.value.__notes__)
        assert (await follower).status == "completed"


def test_ctrl_c_explains_how_to_resume(emulator: Emulator) -> None:
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)

    def interrupt(task: Any) -> None:
        raise KeyboardInterrupt

    emulator.fault("stuck", route="POST /v1/images/tasks")
    task = client.images.submit("a fox", **IMAGE)
    waiting = client._account.watch([task])
    waiting.signal.wait = interrupt  # type: ignore[method-assign]  # like Ctrl-C during the wait
    with waiting, pytest.raises(KeyboardInterrupt) as raised:
        run_sync(waiting.next())
    assert task.id in "".join(raised.value.__notes__)


def test_one_client_can_wait_on_successive_event_loops(emulator: Emulator) -> None:
    client = AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)

    async def make() -> str:
        return (await client.images.generate("a fox", **IMAGE)).status

    assert [asyncio.run(make()) for _ in range(3)] == ["completed"] * 3
