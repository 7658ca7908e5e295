"""Controlled time: no test here waits in real time."""

from __future__ import annotations

import asyncio
import threading

import httpx
import pytest

from piccc.emulator import Emulator, ManualClock
from piccc.emulator.clock import turns
from tests.emulator.wire import chat, connect


def test_sleepers_wake_in_order_and_on_time(clock: ManualClock) -> None:
    start = clock.now()
    woken: list[tuple[str, float]] = []

    async def wait(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.now() - start))

    async def run() -> None:
        waiters = [asyncio.ensure_future(wait("a", 5, 5)), asyncio.ensure_future(wait("b", 1, 2, 3))]
        await clock.move(7, turns)
        assert clock.now() == start + 7
        await clock.move(3, turns)
        await asyncio.gather(*waiters)

    asyncio.run(run())
    assert woken == [("b", 1), ("b", 3), ("a", 5), ("b", 6), ("a", 10)]


def test_a_cancelled_sleeper_is_skipped(clock: ManualClock) -> None:
    async def run() -> None:
        waiter = asyncio.ensure_future(clock.sleep(1))
        await turns()
        assert clock.sleepers == 1
        waiter.cancel()
        await turns()
        assert clock.sleepers == 0
        await clock.move(2, turns)

    asyncio.run(run())


def test_the_clock_cannot_go_back(manual: Emulator) -> None:
    with pytest.raises(ValueError, match="cannot go back"):
        manual.advance(-1)


def test_only_a_manual_clock_can_be_advanced(emulator: Emulator) -> None:
    with pytest.raises(TypeError, match="ManualClock"):
        emulator.advance(1)


@pytest.mark.parametrize("speed", [0, -1, float("nan")])
def test_an_invalid_speed_is_rejected(speed: float) -> None:
    with pytest.raises(ValueError, match="speed"):
        Emulator(speed=speed)


def test_streamed_tokens_follow_the_clock(manual: Emulator, clock: ManualClock) -> None:
    manual.script(["One two three."])
    arrived: list[str] = []

    def listen() -> None:
        with (
            connect(manual) as client,
            client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response,
        ):
            arrived.extend(line for line in response.iter_lines() if line)

    listener = threading.Thread(target=listen)
    listener.start()
    clock.until_sleeping()
    assert arrived == []
    manual.advance(0.2)
    clock.until_sleeping()
    assert listener.is_alive()
    manual.advance(60)
    listener.join(10)
    assert arrived[-1] == "data: [DONE]"


def test_an_unstreamed_reply_arrives_after_all_its_tokens(manual: Emulator, clock: ManualClock) -> None:
    manual.script(["One two three."])
    responses: list[httpx.Response] = []

    def ask() -> None:
        with connect(manual) as client:
            responses.append(client.post("/v1/chat/completions", json=chat()))

    asker = threading.Thread(target=ask)
    asker.start()
    clock.until_sleeping()
    manual.advance(60)
    asker.join(10)
    assert responses[0].json()["choices"][0]["message"]["content"] == "One two three."


async def test_the_clock_can_be_advanced_without_blocking_the_event_loop(clock: ManualClock) -> None:
    async with Emulator(clock=clock) as emulator:
        headers = {"x-api-key": emulator.api_key}
        async with httpx.AsyncClient(base_url=emulator.base_url, headers=headers, trust_env=False) as client:
            request = asyncio.ensure_future(client.post("/v1/chat/completions", json=chat()))
            await asyncio.to_thread(clock.until_sleeping)
            await emulator.aadvance(60)
            assert (await request).status_code == 200


def test_waiting_for_sleepers_times_out(clock: ManualClock) -> None:
    with pytest.raises(TimeoutError, match="0 of 1"):
        clock.until_sleeping(timeout=0.0)
