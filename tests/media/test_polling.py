"""All waits of an account in a process share one poller, whichever of them starts, stops or fails."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from piccc import AsyncClient, Client, Polling
from piccc._http.backend import HTTPRequest
from piccc._http.backends import AsyncSignal
from piccc.emulator import Emulator
from piccc.errors import (
    ConfigurationError,
    NotFoundError,
    PicccError,
    ResponseError,
    ServerError,
    TaskWaitTimeout,
)
from piccc.media import polling
from piccc.media.account import Account
from piccc.media.polling import Subscription, joint
from tests.media.driven import QUICK
from tests.media.fleet import Fleet, all_at_once
from tests.media.world import World, WorldResponse

KEY = "pcc_live_world"


@pytest.fixture(autouse=True)
def no_poller_left() -> Iterator[None]:
    """Check that each test leaves no poller behind."""
    before = set(polling._pollers.keys())
    yield
    deadline = time.monotonic() + 30  # a poller ends in its own thread
    while gc.collect() >= 0 and not set(polling._pollers.keys()) <= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(polling._pollers.keys()) <= before


def one_task(end: float = 20.0, count: int = 1) -> World:
    return World(Fleet([0.0] * count, [end] * count))


def wait(account: Account, *ids: str, timeout: float = 600.0) -> Subscription:
    return account.watch(ids, timeout=timeout)


async def collect(watching: Subscription, into: list[str]) -> None:
    """Wait until all tasks have ended, and record each."""
    with watching:
        while (task := await watching.next()) is not None:
            into.append(f"{task.id} {task.status}")


def begin(watching: Subscription) -> Any:
    """Run a wait until it first sends or sleeps; return its coroutine."""
    waiting = collect(watching, [])
    waiting.send(None)
    return waiting


def wait_distributed(accounts: list[Account], world: World, ids: list[str]) -> Counter[str]:
    """Wait for the tasks, distributed over accounts; return how often each was reported."""
    seen: list[str] = []
    waits = [wait(accounts[place % len(accounts)], id) for place, id in enumerate(ids)]
    world.run(*(collect(subscription, seen) for subscription in waits))
    return Counter(seen)


def test_many_separate_waits_cost_the_same_requests_as_one() -> None:
    ids = [f"t{number}" for number in range(300)]
    alone, seen = World(all_at_once(300, median=60)), list[str]()
    alone.run(collect(wait(alone.account(), *ids), seen))
    together = World(all_at_once(300, median=60))
    counts = wait_distributed([together.account() for _ in range(5)], together, ids)
    assert set(seen) == set(counts) == {f"{id} completed" for id in ids}
    assert set(counts.values()) == {1}
    assert together.asked == alone.asked


def test_all_waits_of_a_process_share_one_request_budget() -> None:
    world = World(all_at_once(100, median=60))
    slow = Polling(requests_per_second=4, use_list=False)
    ids = [f"t{number}" for number in range(100)]
    counts = wait_distributed([world.account(polling=slow) for _ in range(5)], world, ids)
    assert len(counts) == 100
    moments = [moment for moment, _ in world.asked]
    assert all(later - sooner >= 1.0 for sooner, later in zip(moments, moments[9:], strict=False))


def test_a_429_pauses_every_wait() -> None:
    world = one_task(count=3)
    world.refusals = 1
    counts = wait_distributed([world.account() for _ in range(3)], world, ["t0", "t1", "t2"])
    assert len(counts) == 3
    assert world.asked[1][0] - world.asked[0][0] >= 60


@pytest.mark.parametrize(
    ("unreadable", "message", "hint"),
    [
        (["t0"], "Task t0 could not be read in 60 s", "It may be running and billed: do not submit it"),
        (
            ["t0", "t1"],
            "Task t0 and 1 more could not be read in 60 s",
            "They may be running and billed: do not submit them",
        ),
        (
            ["t1"],
            "Task t0 and 1 more are still running after 60 s. 1 of them could not be read",
            "They keep running and are billed: do not submit them",
        ),
    ],
)
def test_a_timeout_of_a_task_that_could_not_be_read_gives_the_last_error(
    unreadable: list[str], message: str, hint: str
) -> None:
    class FailingWorld(World):
        def answer(self, request: HTTPRequest) -> WorldResponse:
            if request.url.rpartition("/")[2] in unreadable:
                return WorldResponse(500, {"error": {"message": "Out of order"}})
            return super().answer(request)

    world = FailingWorld(Fleet([0.0, 0.0], [600.0, 600.0]))
    ids = sorted({"t0", *unreadable})

    async def fail() -> None:
        with wait(world.account(), *ids, timeout=60.0) as watching, pytest.raises(TaskWaitTimeout) as raised:
            await watching.next()
        assert raised.value.message == f"{message} (the last error: The server said: Out of order)."
        assert raised.value.hint.startswith(hint)
        assert isinstance(raised.value.__cause__, ServerError)

    world.run(fail())


@pytest.mark.parametrize("times", [3, math.inf])
def test_a_response_about_another_task_is_read_again(times: float) -> None:
    class Mixed(World):
        mixed = 0

        def answer(self, request: HTTPRequest) -> WorldResponse:
            if self.mixed >= times:
                return super().answer(request)
            self.mixed += 1
            url = "https://cdn.test/other.png"
            return WorldResponse(200, {"task_id": "other", "status": "completed", "url": url})

    world, seen = Mixed(Fleet([0.0], [20.0])), list[str]()
    if times == math.inf:
        with pytest.raises(ResponseError, match="a read of task t0 with task other"):
            world.run(collect(wait(world.account(), "t0"), seen))
        assert not seen
    else:
        world.run(collect(wait(world.account(), "t0"), seen))
        assert seen == ["t0 completed"]


def test_joint_polling_takes_the_fastest_pace_and_the_smallest_budget() -> None:
    patient = Polling(min=1, max=9, requests_per_second=4, timeout=60)
    quick = Polling(min=2, max=5, requests_per_second=50, use_list=False, timeout=90)
    assert joint([patient, quick]) == Polling(min=1, max=5, requests_per_second=4, use_list=False, timeout=90)


def test_a_fast_wait_speeds_up_the_others_only_while_it_lasts() -> None:
    world, seen = one_task(end=100.0, count=2), list[str]()
    slow = wait(world.account(polling=Polling(min=30, max=30)), "t0")
    quick = wait(world.account(polling=Polling(min=1, max=1)), "t1", timeout=20)

    async def gives_up() -> None:
        with pytest.raises(TaskWaitTimeout):
            await collect(quick, seen)

    world.run(collect(slow, seen), gives_up())
    moments = [moment for moment, _ in world.asked]
    assert seen == ["t0 completed"]
    assert sum(moment < 20 for moment in moments) >= 15
    assert sum(20 < moment < 100 for moment in moments) <= 3


@pytest.mark.parametrize("how", ["cancelled", "interrupted", "collected"])
def test_an_aborted_wait_does_not_affect_the_others(how: str) -> None:
    world, seen = one_task(), list[str]()
    aborted, other = begin(wait(world.account(), "t0")), wait(world.account(), "t0")
    if how == "collected":
        del aborted
    else:
        error = asyncio.CancelledError() if how == "cancelled" else KeyboardInterrupt()
        with pytest.raises(type(error)) as raised:
            aborted.throw(error)
        assert "client.tasks.wait('t0')" in "".join(raised.value.__notes__)
    world.run(collect(other, seen))
    assert seen == ["t0 completed"]
    assert world.now < 30


def test_a_wait_that_times_out_does_not_affect_the_others() -> None:
    world, seen = one_task(), list[str]()
    short = wait(world.account(), "t0", timeout=3)

    async def gives_up() -> None:
        with pytest.raises(TaskWaitTimeout):
            await collect(short, seen)

    world.run(gives_up(), collect(wait(world.account(), "t0"), seen))
    assert seen == ["t0 completed"]
    assert world.now < 30


def test_a_poller_stops_with_its_last_wait_and_restarts_with_the_next() -> None:
    world, seen = one_task(count=2), list[str]()
    account = world.account()
    world.run(collect(wait(account, "t0"), seen))
    asked = len(world.asked)
    world.now += 1000
    world.run(collect(wait(account, "t1"), seen))
    assert seen == ["t0 completed", "t1 completed"]
    assert asked < len(world.asked) <= asked + 2


def test_a_crashed_poller_fails_every_wait_and_can_restart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, seen = one_task(count=2), list[str]()
    caplog.set_level(logging.CRITICAL, "piccc")  # a log record would keep the poller alive through its frames

    async def breaks(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async def fails(subscription: Subscription) -> None:
        with pytest.raises(PicccError, match="a bug"):
            await collect(subscription, seen)

    account = world.account()
    with monkeypatch.context() as patched:
        patched.setattr(Account, "poll", breaks)
        world.run(*(fails(wait(account, id)) for id in ("t0", "t1", "t0")))
    world.run(collect(wait(account, "t0", "t1"), seen))
    assert sorted(seen) == ["t0 completed", "t1 completed"]


def test_another_wait_takes_over_when_the_pollers_loop_shuts_down() -> None:
    world, seen = one_task(), list[str]()
    waiting = begin(wait(world.account(), "t0"))
    poller_runs = world.started.popleft()()
    poller_runs.send(None)
    with pytest.raises(asyncio.CancelledError):
        poller_runs.throw(asyncio.CancelledError())
    world.run(collect(wait(world.account(), "t0"), seen))
    assert seen == ["t0 completed"]
    waiting.close()


def test_each_wait_raises_its_own_copy_of_a_read_error() -> None:
    world, raised = one_task(), list[NotFoundError]()

    async def fails(watching: Subscription) -> None:
        with pytest.raises(NotFoundError, match="t9") as caught:
            await collect(watching, [])
        raised.append(caught.value)

    waits = [wait(world.account(), "t9") for _ in range(2)]
    world.run(*map(fails, waits))
    assert raised[0] is not raised[1]
    assert str(raised[0]) == str(raised[1])
    assert len(world.asked) == 1


def test_a_forked_child_restarts_polling_for_inherited_waits() -> None:
    world, seen = one_task(), list[str]()
    inherited = wait(world.account(), "t0")
    world.started.clear()  # the parent's thread does not exist in the child
    lock = polling.poller_for(world.account())._lock
    lock.acquire()
    polling._after_fork()
    world.run(collect(inherited, seen))
    assert seen == ["t0 completed"]
    assert world.now < 30
    lock.release()


def test_accounts_with_one_key_share_a_poller_however_the_key_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = one_task()
    monkeypatch.setenv("PICCC_API_KEY", KEY)
    accounts = [world.account(key=key) for key in (KEY, SecretStr(KEY), None)]
    shared = [polling.poller_for(account) for account in accounts]
    assert len(set(map(id, shared))) == 1
    assert polling.poller_for(world.account(key="pcc_live_other")) is not shared[0]
    assert KEY not in repr(list(polling._pollers.keys()))


def test_a_wait_without_an_api_key_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICCC_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="No API key"):
        wait(one_task().account(key=None), "t0")


def test_two_loops_and_three_threads_share_polls_on_real_connections(emulator: Emulator) -> None:
    settings: dict[str, Any] = {"base_url": emulator.base_url, "polling": Polling(min=0.05, max=0.05)}
    blocking = Client(api_key=emulator.api_key, **settings)
    running = AsyncClient(api_key=SecretStr(emulator.api_key), **settings)
    ids = [blocking.videos.submit(f"fox {n}", model="piccc-video", duration_seconds=1).id for n in range(100)]
    before, ended = len(emulator.requests), list[str]()

    async def in_loop(ids: list[str]) -> None:
        for task in await asyncio.gather(*(running.tasks.wait(id) for id in ids)):
            ended.append(task.id)

    def in_thread(ids: list[str]) -> None:
        for task in blocking.tasks.as_completed(ids):
            ended.append(task.id)

    threads = [threading.Thread(target=asyncio.run, args=(in_loop(ids[start::5]),)) for start in range(2)]
    threads += [threading.Thread(target=in_thread, args=(ids[start::5],)) for start in range(2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    asked = [request.path for request in emulator.requests[before:]]
    assert sorted(ended) == sorted(ids)
    assert len(asked) < len(ids)


def test_a_callers_async_http_client_is_used_on_its_own_loop(emulator: Emulator) -> None:
    threads = set[int]()

    class Watched(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            threads.add(threading.get_ident())
            return await super().handle_async_request(request)

    async def make() -> str:
        async with httpx.AsyncClient(transport=Watched()) as http:
            client = AsyncClient(
                base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK, http_client=http
            )
            return (await client.images.generate("a fox", model="piccc-image")).status

    assert [asyncio.run(make()) for _ in range(2)] == ["completed"] * 2
    assert threads == {threading.get_ident()}


def test_an_async_api_key_function_works_on_successive_event_loops(emulator: Emulator) -> None:
    async def key() -> str:
        asyncio.get_running_loop()
        return emulator.api_key

    async def make() -> str:
        client = AsyncClient(base_url=emulator.base_url, api_key=key, polling=QUICK)
        return (await client.images.generate("a fox", model="piccc-image")).status

    assert [asyncio.run(make()) for _ in range(2)] == ["completed"] * 2


def test_setting_a_signal_of_a_closed_loop_is_harmless() -> None:
    async def create_signal() -> AsyncSignal:
        return AsyncSignal()

    asyncio.run(create_signal()).set()
