"""Measure and check a fleet of processes with real servers and real kills: `python -m tests.fleet`.

Counts are checked; times and CPU are only printed. Tasks, polling and the time until a submission counts as
lost are ten times as fast as usual. The server ignores `Idempotency-Key`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pickle
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from piccc import AsyncClient, Client, Ledger, Polling, SpendLimit
from piccc.media.ledgers import ledger_at
from tests.fleet.server import Counts, Server, server
from tests.fleet.worker import PACE, SELDOM, SPEED, work
from tests.services import Missing, postgres_server, redis_server

SPAWN = get_context("spawn")
IN_FLIGHT = 50
"""The number of jobs that a process runs at a time."""
PATIENCE = 900.0
"""The seconds that a run may take, and again for every 20,000 jobs."""
PROGRESS_SECONDS = 10.0
"""The interval of progress messages on stderr."""
ROWS = ["kills", "reads", "webhooks", "twice", "spending", "rate", "stall"]
BEGIN, END = "<!-- fleet: begin -->", "<!-- fleet: end -->"
"""The marks between which `--publish` puts the table."""


@dataclass
class Worker:
    """A process, its jobs, and whether it has started."""

    process: Any
    jobs: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    is_ready: bool = False


class Fleet:
    """Processes that run jobs; as in an engine, the jobs of a killed process run again in others."""

    def __init__(
        self, ledger: str | None, processes: int, rate: str | None = None, pace: Polling = PACE
    ) -> None:
        self._settings = (ledger, rate, pace)
        self._workers: dict[Connection, Worker] = {}
        self.outcomes: dict[str, str] = {}
        self.again = 0
        self.megabytes = 0.0
        self.cpu = 0.0
        for _ in range(processes):
            self._start()

    def _start(self) -> None:
        parent_end, child_end = SPAWN.Pipe()
        process = SPAWN.Process(target=work, args=(child_end, *self._settings), daemon=True)
        process.start()
        child_end.close()
        self._workers[parent_end] = Worker(process)

    def run(self, jobs: list[tuple[Any, ...]], kills: int = 0, in_flight: int = IN_FLIGHT) -> float:
        """Run all jobs, with `kills` evenly spaced kills of processes; return the seconds that it took."""
        deadline = time.monotonic() + PATIENCE * (1 + len(jobs) / 20_000)
        while not all(worker.is_ready for worker in self._workers.values()):
            self._collect(deadline)
        pending, rng = deque(jobs), random.Random(1)
        began = reported_at = time.monotonic()
        kill_at = [len(jobs) * (number + 1) // (kills + 1) for number in range(kills)]
        while len(self.outcomes) < len(jobs):
            for connection, worker in self._workers.items():
                while pending and worker.is_ready and len(worker.jobs) < in_flight:
                    job = pending.popleft()
                    worker.jobs[job[1]] = job
                    connection.send(job)
            if kill_at and len(self.outcomes) >= kill_at[0]:
                kill_at.pop(0)
                busy = [worker for worker in self._workers.values() if worker.jobs]
                (rng.choice(busy) if busy else next(iter(self._workers.values()))).process.kill()
            pending.extend(self._collect(deadline))
            if time.monotonic() > reported_at + PROGRESS_SECONDS:
                reported_at = time.monotonic()
                self.megabytes = max([self.megabytes, *map(_megabytes, self._pids())])
                seconds = reported_at - began
                progress = f"{seconds:5.0f} s: {len(self.outcomes)} of {len(jobs)} done, {self.again} rerun"
                print(f"{progress}, at most {self.megabytes:.0f} MB a process", file=sys.stderr, flush=True)
        self.megabytes = max([self.megabytes, *map(_megabytes, self._pids())])
        return time.monotonic() - began

    def _pids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers.values()]

    def _collect(self, deadline: float) -> Iterator[tuple[Any, ...]]:
        """Receive outcomes; return the jobs of processes that died."""
        if time.monotonic() > deadline:
            sys.exit(f"Timed out after {len(self.outcomes)} jobs.")
        again: list[tuple[Any, ...]] = []
        for connection in wait(list(self._workers), timeout=1.0):
            assert isinstance(connection, Connection)
            worker = self._workers[connection]
            try:
                while connection.poll():
                    name, outcome = connection.recv()
                    if name == "ready":
                        worker.is_ready = True
                    else:
                        worker.jobs.pop(name, None)
                        self.outcomes[name] = outcome
            except (EOFError, OSError):
                again += worker.jobs.values()
                self.again += len(worker.jobs)
                worker.process.join()
                del self._workers[connection]
                self._start()
        return iter(again)

    def close(self) -> None:
        """Stop the processes and add up the CPU time of their jobs."""
        for connection, worker in self._workers.items():
            if worker.is_ready:
                connection.send(None)
                name, seconds = connection.recv()
                assert name == "cpu"
                self.cpu += float(seconds)
            worker.process.kill()
            worker.process.join()


@contextmanager
def fleet(ledger: str | None, processes: int, **settings: Any) -> Iterator[Fleet]:
    """Run a fleet, and stop it at the end."""
    running = Fleet(ledger, processes, **settings)
    try:
        yield running
    finally:
        running.close()


class Table:
    """The measurements with one kind of ledger; `_check` prints a row and records failed checks."""

    def __init__(self, kind: str, ledger: str, asked: Server, jobs: int) -> None:
        self._kind, self._ledger, self._server, self._jobs = kind, ledger, asked, jobs
        self.broken: list[str] = []
        self.rows: list[str] = []

    def _check(self, name: str, text: str, holds: bool) -> None:
        self.rows.append(f"| {self._kind} | {name} | {text} | {'yes' if holds else '**no**'} |")
        print(self.rows[-1], flush=True)
        if not holds:
            self.broken.append(f"{self._kind}: {name}: {text}")

    def _named(self, run: str, count: int) -> list[tuple[Any, ...]]:
        return [("generate", f"{self._kind}-{run}-{number}") for number in range(count)]

    def kills(self, processes: int, kills: int) -> None:
        """Kill processes at random, so that their jobs run again."""
        self._server.counts()
        with fleet(self._ledger, processes) as running:
            seconds = running.run(self._named("kills", self._jobs), kills)
            outcomes = Counter(running.outcomes.values())
            store = _store(self._ledger)
        counts = self._server.counts()
        charged, distinct = counts.prompts.total(), len(counts.prompts)
        text = f"{charged} charges, {distinct} distinct, {outcomes['completed']} completed in {seconds:.0f} s"
        text += _wrong(outcomes)
        name = f"{self._jobs} jobs, {processes} processes, {kills} kills"
        self._check(name, text, charged == distinct == outcomes["completed"] == self._jobs)
        asked = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.asked.items()))
        self._check("requests of these", f"{asked}; {running.again} jobs were begun again", True)
        text = f"{running.megabytes:.0f} MB a worker, {_megabytes(self._server.pid):.0f} MB the server"
        self._check("memory at most", text, True)
        per_job = (
            f"{store.bytes / self._jobs:.0f} bytes a job ({store.bytes / 1e6:.0f} MB in {store.rows} rows)"
        )
        self._check("store", f"{per_job}, {store.connections} connections", True)

    def reads(self, processes: int) -> None:
        """Compare the reads and CPU time of several processes with those of one."""
        results: list[tuple[Counts, float]] = []
        jobs = self._jobs // 2
        for number in (1, processes):
            self._server.counts()
            with fleet(self._ledger, number) as running:
                in_flight = IN_FLIGHT * processes // number
                running.run(self._named(f"reads-{number}", jobs), in_flight=in_flight)
            results.append((self._server.counts(), running.cpu / jobs * 1000))
        (alone, alone_ms), (together, together_ms) = results
        text = f"{dict(alone.asked)} by one process, {dict(together.asked)} by {processes}"
        # Short tasks end within one or two polls, so one process reads little: allow 20 more.
        self._check(f"reads, {jobs} jobs", text, together.reads <= 1.2 * alone.reads + 20)
        self._check(
            "CPU per job", f"{alone_ms:.1f} ms by one process, {together_ms:.1f} ms by {processes}", True
        )

    def twice(self) -> None:
        """Use the same keys in two processes at the same time."""
        self._server.counts()
        outcomes = Counter[str]()
        with fleet(self._ledger, 1) as first, fleet(self._ledger, 1) as second:
            for running in (first, second):
                for connection in running._workers:
                    running._workers[connection].is_ready = connection.recv()[0] == "ready"
            for job in self._named("twice", 60):
                for running in (first, second):
                    for connection, worker in running._workers.items():
                        worker.jobs[job[1]] = job
                        connection.send(job)
            for running in (first, second):
                while len(running.outcomes) < 60:
                    list(running._collect(time.monotonic() + PATIENCE))
                outcomes.update(running.outcomes.values())
        charged = self._server.counts().prompts.total()
        text = f"{charged} charges, {outcomes['completed']} of 120 completed"
        self._check("60 keys in two processes at once", text, charged == 60 and outcomes["completed"] == 120)

    def spending(self) -> None:
        """Spend from one limit with 50 copies of a client in 4 processes."""
        limit = SpendLimit(max_tasks=100, name=f"{self._kind}-limit")
        pickled = pickle.dumps(Client(ledger=self._ledger, spend_limit=limit))
        self._server.counts()
        with fleet(self._ledger, 4) as running:
            jobs = [
                ("spend", f"{self._kind}-{number}", pickled, size)
                for number, size in enumerate((13, 13, 12, 12))
            ]
            running.run(jobs, in_flight=1)
        charged = self._server.counts().prompts.total()
        submitted = sum(int(outcome) for outcome in running.outcomes.values() if outcome.isdigit())
        self._check(
            "a limit of 100, 50 workers",
            f"{charged} charges, {submitted} submitted",
            charged == submitted == 100,
        )

    def webhooks(self) -> None:
        """Receive in this process the webhooks of tasks that other processes wait for."""
        jobs, secret, called = self._jobs // 4, "of the receiver of webhooks", list[str]()
        receiver = Client(ledger=self._ledger).webhooks(
            secret=secret, on_task=lambda task: called.append(task.id)
        )
        with fleet(self._ledger, 4, pace=SELDOM) as running, receiver.serve() as serving:
            self._server.counts()
            running.run([("webhook", name, serving.url, secret) for _, name in self._named("webhooks", jobs)])
            # A new leader reads the lists at once, possibly before a delivery arrives.
            deadline = time.monotonic() + PATIENCE / 10
            while len(called) < jobs and time.monotonic() < deadline:
                time.sleep(0.1)
        reads, outcomes = self._server.counts().reads, Counter(running.outcomes.values())
        completed = outcomes["completed"]
        text = f"{reads / jobs:.2f} GETs per task, on_task {len(called)} times{_wrong(outcomes)}"
        holds = completed == len(called) == len(set(called)) == jobs and reads <= 1.05 * jobs
        self._check(f"webhooks, {jobs} jobs", text, holds)

    def stall(self) -> None:
        """Submit from an event loop with a ledger that is 20 ms away."""
        self._check("100 submissions, ledger 20 ms away", f"{asyncio.run(_stall(self._ledger)):.0f} ms", True)

    def rate(self) -> None:
        """Send requests from 4 processes as fast as a rate allows."""
        limit, window, count = 100, 5.0, 300
        self._server.counts()
        with fleet(self._ledger, 4, rate=f"{limit}/5seconds") as running:
            jobs = [("list", f"{self._kind}-{number}") for number in range(count)]
            running.run(jobs)
        moments = sorted(self._server.counts().moments)
        # A request may arrive late after its permit: the window is two seconds shorter to allow for that.
        most = max(sum(start <= moment < start + window - 2.0 for moment in moments) for start in moments)
        least = (count / limit - 1) * window
        used = least / (moments[-1] - moments[0])
        text = f"at most {most} in {window:.0f} s for a rate of {limit}; {used:.0%} of it used"
        self._check("rate, 4 processes", text, most <= limit and len(moments) == count)


class Store(NamedTuple):
    """The size of a store, its keys or rows, and its open connections."""

    bytes: int
    rows: int
    connections: int


def _store(ledger: str) -> Store:
    if ledger.startswith("redis"):
        from redis import Redis

        with Redis.from_url(ledger) as client:
            memory: Any = client.info("memory")
            clients: Any = client.info("clients")
            keys: Any = client.dbsize()
        return Store(memory["used_memory_dataset"], keys, clients["connected_clients"] - 1)
    if ledger.startswith("postgres"):
        import psycopg

        with psycopg.connect(ledger, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            sizes: Any = connection.execute(
                "SELECT sum(pg_total_relation_size(oid)), sum(greatest(reltuples, 0)) FROM pg_class "
                "WHERE relnamespace = 'piccc_ledger'::regnamespace AND relkind = 'r'"
            ).fetchone()
            clients = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            ).fetchone()
        return Store(int(sizes[0]), int(sizes[1]), clients[0] - 1)
    sizes = [path.stat().st_size for path in Path(ledger).parent.glob(f"{Path(ledger).name}*")]
    with sqlite3.connect(ledger) as database:
        rows = database.execute("SELECT count(*) FROM submissions").fetchone()[0]
    return Store(sum(sizes), rows, 0)


def _megabytes(pid: int) -> float:
    """Return the resident memory of a process on Linux, else 0."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _wrong(outcomes: Counter[str]) -> str:
    """Return the first error, to append to a figure."""
    return next((f"; {outcome:.200}" for outcome in outcomes if outcome != "completed"), "")


class Remote:
    """A ledger that is 20 ms away."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._ledger, name)

        def delayed(*args: Any) -> Any:
            time.sleep(0.02)
            return attribute(*args)

        return delayed if callable(attribute) else attribute


async def _stall(ledger: str) -> float:
    """Return the longest time that the event loop was blocked, in milliseconds."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - began - 0.005)

    remote: Any = Remote(ledger_at(ledger))
    async with AsyncClient(ledger=remote, polling=SELDOM) as client:
        await client.images.submit("the first, for which much is loaded")
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(client.images.submit(f"stall {number}") for number in range(100)))
        watching.cancel()
    return longest * 1000


def main() -> None:
    """Run the selected measurements, print the table, and exit with 1 if a check fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument(
        "--ledgers", nargs="+", default=["redis", "postgres"], choices=["file", "redis", "postgres"]
    )
    parser.add_argument("--jobs", type=int, default=2000, help="number of jobs for each kind of ledger")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=ROWS, choices=ROWS)
    parser.add_argument(
        "--publish", type=Path, metavar="PAGE", help="put the table between the marks of a page"
    )
    options = parser.parse_args()
    broken: list[str] = []
    rows = ["| ledger | what | measured | holds |", "|---|---|---|---|"]
    print("\n".join(rows), flush=True)
    for kind in options.ledgers:
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                services = {"redis": redis_server, "postgres": postgres_server}
                ledger = (
                    stack.enter_context(services[kind]())
                    if kind in services
                    else str(Path(folder, "tasks.db"))
                )
            except Missing as missing:
                sys.exit(str(missing))
            asked = stack.enter_context(server(SPEED))
            os.environ.update(asked.environment, PICCC_LEDGER=ledger)
            table = Table(kind, ledger, asked, options.jobs)
            measures: dict[str, Callable[[], None]] = {
                "kills": lambda table=table: table.kills(options.processes, options.kills),  # type: ignore[misc]
                "reads": lambda table=table: table.reads(options.processes),  # type: ignore[misc]
                "webhooks": table.webhooks,
                "twice": table.twice,
                "stall": table.stall,
                "spending": table.spending,
                "rate": table.rate,
            }
            for name in options.only:
                if name != "rate" or kind != "file":  # a file ledger counts per process
                    measures[name]()
            broken += table.broken
            rows += table.rows
    if options.publish:
        page = options.publish.read_text()
        before, rest = page.split(BEGIN)
        options.publish.write_text("\n".join([before + BEGIN, *rows, END + rest.split(END)[1]]))
    if broken:
        sys.exit("Failed checks:\n" + "\n".join(broken))


if __name__ == "__main__":
    main()
