"""All waits of an account in a process ask as one, whoever of them comes, goes, breaks down or dies."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from piccc import AsyncClient, Client, Polling
from piccc._http.backends import AsyncSignal
from piccc.emulator import Emulator
from piccc.errors import ConfigurationError, NotFoundError, PicccError, TaskWaitTimeout
from piccc.media import polling
from piccc.media.account import Account
from piccc.media.polling import Subscription, joint
from tests.media.driven import QUICK
from tests.media.fleet import Fleet, all_at_once
from tests.media.world import World

KEY = "pcc_live_world"


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """See that a test leaves no wait behind."""
    before = set(polling._pollers.keys())
    yield
    by = time.monotonic() + 30  # a poller ends in a thread of its own
    while gc.collect() >= 0 and not set(polling._pollers.keys()) <= before and time.monotonic() < by:
        time.sleep(0.01)
    assert set(polling._pollers.keys()) <= before


def one_task(end: float = 20.0, count: int = 1) -> World:
    return World(Fleet([0.0] * count, [end] * count))


def wait(account: Account, *ids: str, timeout: float = 600.0) -> Subscription:
    return account.watch(ids, timeout=timeout)


async def told(watching: Subscription, into: list[str]) -> None:
    """Wait to the end, and note what is told."""
    with watching:
        while (task := await watching.next()) is not None:
            into.append(f"{task.id} {task.status}")


def begun(watching: Subscription) -> Any:
    """Let a wait begin, to the point where it sends or sleeps; return what goes on with it."""
    going = told(watching, [])
    going.send(None)
    return going


def dealt_out(accounts: list[Account], world: World, ids: list[str]) -> Counter[str]:
    """Wait for the tasks, dealt out to accounts; return how often each was told."""
    seen: list[str] = []
    waits = [wait(accounts[place % len(accounts)], id) for place, id in enumerate(ids)]
    world.run(*(told(each, seen) for each in waits))
    return Counter(seen)


def test_waits_of_many_loops_and_threads_cost_what_one_wait_for_all_costs() -> None:
    ids = [f"t{number}" for number in range(300)]
    alone, seen = World(all_at_once(300, median=60)), list[str]()
    alone.run(told(wait(alone.account(), *ids), seen))
    together = World(all_at_once(300, median=60))
    counts = dealt_out([together.account() for _ in range(5)], together, ids)
    assert set(seen) == set(counts) == {f"{id} completed" for id in ids}
    assert set(counts.values()) == {1}
    assert together.asked == alone.asked


def test_all_waits_of_a_process_share_one_budget() -> None:
    world = World(all_at_once(100, median=60))
    slow = Polling(requests_per_second=4, use_list=False)
    ids = [f"t{number}" for number in range(100)]
    counts = dealt_out([world.account(polling=slow) for _ in range(5)], world, ids)
    assert len(counts) == 100
    moments = [moment for moment, _ in world.asked]
    assert all(later - sooner >= 1.0 for sooner, later in zip(moments, moments[9:], strict=False))


def test_a_429_holds_back_the_waits_of_all() -> None:
    world = one_task(count=3)
    world.refusals = 1
    counts = dealt_out([world.account() for _ in range(3)], world, ["t0", "t1", "t2"])
    assert len(counts) == 3
    assert world.asked[1][0] - world.asked[0][0] >= 60


def test_of_several_pollings_the_quickest_pace_and_the_smallest_budget_hold() -> None:
    mine = Polling(min=1, max=9, requests_per_second=4, timeout=60)
    yours = Polling(min=2, max=5, requests_per_second=50, use_list=False, timeout=90)
    assert joint([mine, yours]) == Polling(min=1, max=5, requests_per_second=4, use_list=False, timeout=90)


def test_the_pace_of_a_quick_wait_holds_for_all_only_while_it_waits() -> None:
    world, seen = one_task(end=100.0, count=2), list[str]()
    slow = wait(world.account(polling=Polling(min=30, max=30)), "t0")
    quick = wait(world.account(polling=Polling(min=1, max=1)), "t1", timeout=20)

    async def gives_up() -> None:
        with pytest.raises(TaskWaitTimeout):
            await told(quick, seen)

    world.run(told(slow, seen), gives_up())
    moments = [moment for moment, _ in world.asked]
    assert seen == ["t0 completed"]
    assert sum(moment < 20 for moment in moments) >= 15
    assert sum(20 < moment < 100 for moment in moments) <= 3


@pytest.mark.parametrize("how", ["cancelled", "interrupted", "collected"])
def test_a_wait_that_is_broken_off_costs_the_others_nothing(how: str) -> None:
    world, seen = one_task(), list[str]()
    broken, other = begun(wait(world.account(), "t0")), wait(world.account(), "t0")
    if how == "collected":
        del broken
    else:
        error = asyncio.CancelledError() if how == "cancelled" else KeyboardInterrupt()
        with pytest.raises(type(error)) as raised:
            broken.throw(error)
        assert "client.tasks.wait('t0')" in "".join(raised.value.__notes__)
    world.run(told(other, seen))
    assert seen == ["t0 completed"]
    assert world.now < 30


def test_a_wait_whose_time_is_up_leaves_the_others_waiting() -> None:
    world, seen = one_task(), list[str]()
    short = wait(world.account(), "t0", timeout=3)

    async def gives_up() -> None:
        with pytest.raises(TaskWaitTimeout):
            await told(short, seen)

    world.run(gives_up(), told(wait(world.account(), "t0"), seen))
    assert seen == ["t0 completed"]
    assert world.now < 30


def test_a_poller_ends_with_its_last_wait_and_starts_again_with_the_next() -> None:
    world, seen = one_task(count=2), list[str]()
    account = world.account()
    world.run(told(wait(account, "t0"), seen))
    asked = len(world.asked)
    world.now += 1000
    world.run(told(wait(account, "t1"), seen))
    assert seen == ["t0 completed", "t1 completed"]
    assert asked < len(world.asked) <= asked + 2


def test_a_poller_that_breaks_down_raises_for_everybody_and_can_start_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world, seen = one_task(count=2), list[str]()
    caplog.set_level(logging.CRITICAL, "piccc")  # a record would hold the poller's frames, and so the poller

    async def breaks(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async def fails(subscription: Subscription) -> None:
        with pytest.raises(PicccError, match="a bug"):
            await told(subscription, seen)

    account = world.account()
    with monkeypatch.context() as patched:
        patched.setattr(Account, "poll", breaks)
        world.run(*(fails(wait(account, id)) for id in ("t0", "t1", "t0")))
    world.run(told(wait(account, "t0", "t1"), seen))
    assert sorted(seen) == ["t0 completed", "t1 completed"]


def test_a_poller_whose_loop_shut_down_goes_on_where_another_wait_needs_it() -> None:
    world, seen = one_task(), list[str]()
    going = begun(wait(world.account(), "t0"))
    poller_runs = world.started.popleft()()
    poller_runs.send(None)
    with pytest.raises(asyncio.CancelledError):
        poller_runs.throw(asyncio.CancelledError())
    world.run(told(wait(world.account(), "t0"), seen))
    assert seen == ["t0 completed"]
    going.close()


def test_each_wait_raises_an_error_of_its_own_for_a_task_that_cannot_be_read() -> None:
    world, raised = one_task(), list[NotFoundError]()

    async def fails(watching: Subscription) -> None:
        with pytest.raises(NotFoundError, match="t9") as caught:
            await told(watching, [])
        raised.append(caught.value)

    waits = [wait(world.account(), "t9") for _ in range(2)]
    world.run(*map(fails, waits))
    assert raised[0] is not raised[1]
    assert str(raised[0]) == str(raised[1])
    assert len(world.asked) == 1


def test_a_child_process_starts_afresh_with_the_waits_that_it_took_over() -> None:
    world, seen = one_task(), list[str]()
    inherited = wait(world.account(), "t0")
    world.started.clear()  # the parent's thread does not run in the child
    lock = polling.poller_for(world.account())._lock
    lock.acquire()
    polling._after_fork()
    world.run(told(inherited, seen))
    assert seen == ["t0 completed"]
    assert world.now < 30
    lock.release()


def test_accounts_are_told_apart_by_server_and_key_however_the_key_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = one_task()
    monkeypatch.setenv("PICCC_API_KEY", KEY)
    mine = [world.account(key=key) for key in (KEY, SecretStr(KEY), None)]
    shared = [polling.poller_for(account) for account in mine]
    assert len(set(map(id, shared))) == 1
    assert polling.poller_for(world.account(key="pcc_live_other")) is not shared[0]
    assert KEY not in repr(list(polling._pollers.keys()))


def test_a_wait_without_a_key_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICCC_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="No API key"):
        wait(one_task().account(key=None), "t0")


def test_two_loops_and_three_threads_wait_as_one_on_real_connections(emulator: Emulator) -> None:
    settings: dict[str, Any] = {"base_url": emulator.base_url, "polling": Polling(min=0.05, max=0.05)}
    blocking = Client(api_key=emulator.api_key, **settings)
    running = AsyncClient(api_key=SecretStr(emulator.api_key), **settings)
    ids = [blocking.videos.submit(f"fox {n}", model="piccc-video", duration_seconds=1).id for n in range(100)]
    before, ended = len(emulator.requests), list[str]()

    async def in_loop(mine: list[str]) -> None:
        for task in await asyncio.gather(*(running.tasks.wait(id) for id in mine)):
            ended.append(task.id)

    def in_thread(mine: list[str]) -> None:
        for task in blocking.tasks.as_completed(mine):
            ended.append(task.id)

    threads = [threading.Thread(target=asyncio.run, args=(in_loop(ids[start::5]),)) for start in range(2)]
    threads += [threading.Thread(target=in_thread, args=(ids[start::5],)) for start in range(2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    asked = [each.path for each in emulator.requests[before:]]
    assert sorted(ended) == sorted(ids)
    assert len(asked) < len(ids)


def test_a_callers_asynchronous_client_polls_on_its_own_loop(emulator: Emulator) -> None:
    threads = set[int]()

    class Watched(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            threads.add(threading.get_ident())
            return await super().handle_async_request(request)

    async def make() -> str:
        async with httpx.AsyncClient(transport=Watched()) as mine:
            client = AsyncClient(
                base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK, http_client=mine
            )
            return (await client.images.generate("a fox", model="piccc-image")).status

    assert [asyncio.run(make()) for _ in range(2)] == ["completed"] * 2
    assert threads == {threading.get_ident()}


def test_a_key_that_a_coroutine_gives_is_asked_for_on_its_loop(emulator: Emulator) -> None:
    async def key() -> str:
        asyncio.get_running_loop()
        return emulator.api_key

    async def make() -> str:
        client = AsyncClient(base_url=emulator.base_url, api_key=key, polling=QUICK)
        return (await client.images.generate("a fox", model="piccc-image")).status

    assert [asyncio.run(make()) for _ in range(2)] == ["completed"] * 2


def test_waking_who_waited_on_a_loop_that_is_closed_does_no_harm() -> None:
    async def made() -> AsyncSignal:
        return AsyncSignal()

    asyncio.run(made()).set()
