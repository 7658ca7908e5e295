"""Processes that share a ledger elect one of them to poll, and replace it if it dies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from piccc.errors import LedgerUnavailable
from piccc.media import polling
from piccc.media.ledgers import MemoryLedger, Note, Notes
from piccc.media.polling import Subscription
from tests.media.fleet import all_at_once
from tests.media.world import World


class Store:
    """The state that the processes share, on the world's clock."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_down = False
        self.stream: list[tuple[str, Note]] = []
        self.open: dict[str, str] = {}
        self.leases: dict[str, tuple[str, float]] = {}


class Shared(MemoryLedger):
    """A process's ledger in the store, named after the process."""

    def __init__(self, store: Store, name: str) -> None:
        super().__init__()
        self.store, self.name, self.is_dead = store, name, False

    def _reach(self) -> None:
        if self.store.is_down or self.is_dead:
            raise LedgerUnavailable("unreachable")

    def lease(self, name: str, holder: str, seconds: float) -> bool:
        self._reach()
        known, until = self.store.leases.get(name, (holder, 0.0))
        if known != holder and until > self.store.world.now:
            return False
        self.store.leases[name] = (holder, self.store.world.now + seconds)
        return seconds > 0

    def post(self, server: str, notes: Sequence[Note]) -> None:
        self._reach()
        for note in notes:
            self.store.stream.append((server, note))
            if note.kind == "wanted":
                self.store.open[note.task_id] = note.text
            elif note.kind == "ended":
                self.store.open.pop(note.task_id, None)

    def notes(self, server: str, cursor: str | None) -> Notes:
        self._reach()
        start = len(self.store.stream) if cursor is None else int(cursor)
        return Notes([note for _, note in self.store.stream[start:]], str(len(self.store.stream)))

    def open_tasks(self, server: str) -> list[tuple[str, str]]:
        self._reach()
        return list(self.store.open.items())

    def __repr__(self) -> str:
        return self.name


async def wait(watching: Subscription, ended: dict[str, tuple[float, str]]) -> None:
    with watching:
        while (task := await watching.next()) is not None:
            ended[task.id] = (watching.now(), task.status)


def run(world: World, store: Store, processes: int, *more: Any) -> dict[str, tuple[float, str]]:
    """Wait for the world's tasks in several processes, each for its share of them."""
    ended: dict[str, tuple[float, str]] = {}
    waits = []
    for number in range(processes):
        watching = world.account(ledger=Shared(store, f"process {number}")).watch(timeout=3600.0)
        for task in world.fleet.queued[number::processes]:
            watching.add(task)
        waits.append(wait(watching, ended))
    world.run(*waits, *more)
    return ended


def lists(world: World) -> int:
    return sum(path.startswith("/v1/tasks?") for _, path in world.asked)


@pytest.mark.parametrize("processes", [4, 16])
def test_many_processes_poll_at_most_20_percent_more_than_one(processes: int) -> None:
    alone, together = World(all_at_once(800, 30.0)), World(all_at_once(800, 30.0))
    assert len(run(alone, Store(alone), 1)) == 800
    ended = run(together, Store(together), processes)
    assert len(ended) == 800
    assert lists(together) <= 1.2 * lists(alone)
    assert len(together.asked) <= 1.2 * len(alone.asked)
    late = [moment - together.fleet.ends[int(id[1:])] for id, (moment, _) in ended.items()]
    assert max(late) < 12.0


def test_another_process_polls_within_15_seconds_of_the_leaders_death() -> None:
    world = World(all_at_once(300, 200.0))
    store = Store(world)

    accounts = [world.account(ledger=Shared(store, f"process {number}")) for number in range(3)]
    ended: dict[str, tuple[float, str]] = {}
    waits = []
    for number, account in enumerate(accounts):
        watching = account.watch(timeout=3600.0)
        for task in world.fleet.queued[number::3]:
            watching.add(task)
        waits.append(wait(watching, ended))
    killed: list[float] = []

    async def kill() -> None:
        await accounts[0].session.io.sleep(30.0)
        [(holder, _)] = store.leases.values()
        [leader] = [
            poller
            for poller in polling._pollers.values()
            if poller._fleet and poller._fleet._holder == holder
        ]
        killed.append(world.now)
        assert leader._stream is not None
        leader._stream.is_dead = True  # type: ignore[attr-defined]
        leader._turn = _hung(leader)  # type: ignore[method-assign]

    world.run(*[_ignore_errors(waiting) for waiting in waits], kill())
    after = min(moment for moment, _ in world.asked if moment > killed[0])
    assert after - killed[0] <= 15.0
    assert len(ended) >= 200


def test_waits_continue_at_a_tenth_of_the_rate_while_the_store_is_down() -> None:
    calm, down = World(all_at_once(400, 60.0)), World(all_at_once(400, 60.0))
    run(calm, Store(calm), 4)
    store = Store(down)
    store.is_down = True
    ended = run(down, store, 4)
    assert len(ended) == 400
    first_minute, with_store = (sum(moment < 60.0 for moment, _ in world.asked) for world in (down, calm))
    assert 0 < first_minute < with_store
    back = World(all_at_once(400, 60.0))
    store = Store(back)
    store.is_down = True

    async def restore() -> None:
        await back.account().session.io.sleep(20.0)
        store.is_down = False

    assert len(run(back, store, 4, restore())) == 400
    assert list(store.leases.values())


def test_a_webhook_in_one_process_ends_the_waits_in_the_others() -> None:
    world = World(all_at_once(40, 30.0))
    store = Store(world)
    receiver = world.account(ledger=Shared(store, "receiver"))

    async def deliver() -> None:
        await receiver.session.io.sleep(5.0)
        for task in world.fleet.completed:
            await receiver.take(task)

    ended = run(world, store, 2, deliver())
    assert len(ended) == 40
    assert all(moment <= 7.0 for moment, _ in ended.values())


def test_an_end_announced_without_its_task_is_read_by_the_waiter() -> None:
    world = World(all_at_once(2, 1.0))
    store = Store(world)
    ended: dict[str, tuple[float, str]] = {}
    leader = world.account(ledger=Shared(store, "leader")).watch(timeout=100.0)
    leader.add(world.fleet.queued[0])
    follower = world.account(ledger=Shared(store, "follower")).watch(timeout=100.0)
    follower.add(world.fleet.queued[1])
    Shared(store, "ghost").post(world.account().session.config.base_url, [Note("ended", "t1")])
    world.run(wait(leader, ended), wait(follower, ended))
    assert {id: status for id, (_, status) in ended.items()} == {"t0": "completed", "t1": "completed"}


def _hung(leader: Any) -> Any:
    async def turn() -> None:
        await leader._io.sleep(10_000.0)
        leader._subscriptions.clear()
        leader._commands.clear()

    return turn


async def _ignore_errors(waiting: Any) -> None:
    try:
        await waiting
    except Exception:
        return
