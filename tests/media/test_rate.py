"""Clients that share a ledger share a rate, its pauses after a 429, and a spend limit."""

from __future__ import annotations

import copy
import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.rate_limiters import BaseRateLimiter

from piccc import Client, RateLimit, SpendLimit
from piccc.emulator import Emulator
from piccc.errors import (
    APITimeoutError,
    ConfigurationError,
    InvalidRequestError,
    RateLimitError,
    SpendLimitExceeded,
)
from piccc.media.ledgers import ledger_at
from piccc.media.requests import build_task_request
from tests.media.driven import QUICK
from tests.media.test_ledger import SHARED, shared_place

__all__ = ["shared_place"]  # a fixture
IMAGE = {"model": "piccc-image"}


@SHARED
def test_clients_together_never_exceed_a_rate_and_use_most_of_it(shared_place: str) -> None:
    limits = [RateLimit("20/second", ledger=shared_place) for _ in range(4)]
    if shared_place.endswith(".db"):  # a file ledger counts per process
        limits = limits[:1] * 4
    deadline = time.monotonic() + 2.5

    def take_all(limit: RateLimit) -> list[float]:
        taken = []
        while (now := time.monotonic()) < deadline:
            if not (wait := limit.take()):
                taken.append(now)
            time.sleep(min(wait, 0.01))
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = sorted(moment for moments in pool.map(take_all, limits) for moment in moments)
    # The time is read before the permit is taken, so 0.2 s of the window allow for a busy machine.
    windows = [sum(start <= moment < start + 0.8 for moment in taken) for start in taken]
    assert max(windows) <= 20
    assert len(taken) >= 40


@SHARED
def test_blocking_a_rate_holds_back_every_client_that_shares_it(shared_place: str) -> None:
    first, second = (RateLimit("1000/second", ledger=shared_place) for _ in range(2))
    assert second.take() == 0.0
    first.block(30.0)
    first.block(1.0)
    assert 25.0 < second.take() <= 30.0
    assert not second.acquire(blocking=False)
    assert RateLimit("1000/second", ledger=shared_place, name="another").take() == 0.0


def test_every_request_of_a_client_counts_toward_its_rate(emulator: Emulator) -> None:
    client = Client(
        base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK, rate="3/hour", max_retries=0
    )
    client.chat.create("Hello")
    list(client.tasks.list())
    emulator.fault("400", times=1)  # a 429 would pause the client, whether or not it was counted
    with pytest.raises(InvalidRequestError):
        client.images.submit("a fox", **IMAGE)
    with pytest.raises(APITimeoutError, match="rate"):
        client.chat.create("Hello", timeout=1)
    assert len(emulator.requests) == 3
    pickle.loads(pickle.dumps(client)).close()  # noqa: S301  our own bytes


def test_a_429_holds_back_a_client_that_has_permits_left(emulator: Emulator) -> None:
    client = Client(
        base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK, rate="1000/hour", max_retries=0
    )
    emulator.fault("429;retry-after=30", times=1)
    with pytest.raises(RateLimitError):
        client.images.submit("a fox", **IMAGE)
    with pytest.raises(APITimeoutError, match="rate"):
        client.chat.create("Hello", timeout=1)
    assert len(emulator.requests) == 1


async def test_a_rate_limit_implements_both_frameworks_interfaces() -> None:
    limit = RateLimit("2/hour")
    assert isinstance(limit, BaseRateLimiter)
    assert await limit.aacquire()
    await limit.async_acquire()
    assert not await limit.aacquire(blocking=False)
    assert not limit.acquire(blocking=False)


@pytest.mark.parametrize("rate", ["600", "0/minute", "5/0seconds", "fast", "6/year"])
def test_an_invalid_rate_is_rejected(rate: str) -> None:
    with pytest.raises(ConfigurationError, match="600/minute"):
        Client(rate=rate)


@SHARED
def test_copies_of_a_client_share_one_spend_limit(shared_place: str, emulator: Emulator) -> None:
    prices = {"piccc-image": 0.5}
    limit = SpendLimit(max_tasks=100, max_cost=1.6, prices=prices, name="spring")
    server = {"base_url": emulator.base_url, "api_key": emulator.api_key}
    client = Client(**server, ledger=shared_place, spend_limit=limit)
    loaded = pickle.loads(pickle.dumps(limit))  # noqa: S301  our own bytes
    clients = [
        client,
        Client(config=client.config, ledger=shared_place, spend_limit=loaded),
    ]
    for number in range(3):
        clients[number % 2].images.submit("a fox", **IMAGE)
    for limited in clients:
        with pytest.raises(SpendLimitExceeded, match=r"max_cost=1\.6"):
            limited.images.submit("a fox", **IMAGE)
    assert ledger_at(shared_place).spent("spring") == {"tasks": 3, "micros": 1_500_000}  # type: ignore[attr-defined]
    assert len(emulator.charges) == 3


def test_a_spend_limit_without_a_shared_ledger_stays_in_its_process(emulator: Emulator) -> None:
    limit = SpendLimit(max_tasks=1)
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key, spend_limit=limit)
    assert copy.deepcopy(client)._media["spend_limit"] is limit
    with pytest.raises(ConfigurationError, match="each would count separately"):
        pickle.dumps(client)
    loaded = pickle.loads(pickle.dumps(limit))  # noqa: S301  our own bytes
    with pytest.raises(ConfigurationError, match="with a ledger that both share"):
        Client(config=client.config, spend_limit=loaded).images.submit("a fox", **IMAGE)
    assert not emulator.charges


@pytest.mark.parametrize(
    ("limits", "shown"),
    [
        ({}, "SpendLimit()"),
        ({"max_tasks": 3}, "SpendLimit(0 of 3 tasks)"),
        (
            {"max_video_seconds": 7.5, "max_cost": 1_000_000},
            "SpendLimit(0 of 7.5 s of video, 0 of 1000000 money)",
        ),
    ],
)
def test_a_spend_limit_shows_only_the_limits_that_are_set(limits: dict[str, Any], shown: str) -> None:
    assert repr(SpendLimit(**limits)) == shown


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"max_tasks": -1},
            {"max_video_seconds": -0.5},
            {"max_cost": float("nan")},
            {"prices": {"m": -1.0}},
        ),
        *({"prices": {"m": math.inf}}, {"max_cost": Decimal(1)}),
    ],
)
def test_a_spend_limit_that_is_not_a_number_from_0_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        SpendLimit(**wrong)


def test_an_infinite_spend_limit_limits_nothing() -> None:
    limit = SpendLimit(max_tasks=math.inf, max_video_seconds=math.inf, max_cost=math.inf, prices={"m": 0.5})  # type: ignore[arg-type]
    limit.spend(build_task_request("video", "rain", model="m", duration_seconds=4))
    assert (limit.tasks, limit.video_seconds, limit.cost) == (1, 4.0, 2.0)
