"""A simulated server and simulated waits, in any number of threads and event loops, on a virtual clock.

Where a real backend would wait, a simulated one suspends its coroutine. `run` resumes the coroutine that is
due next, so everything runs in one thread and in the same order each time.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, urlsplit

from piccc._http.backend import Failure, HTTPRequest, Outcome
from piccc._http.session import Session
from piccc.config import resolve
from piccc.media.account import Account
from piccc.media.ledgers import Ledger
from piccc.media.schedule import Polling
from piccc.tasks import Task
from tests.media.fleet import LATENCY, Fleet

FOREVER = float("inf")


class Pause:
    """An awaitable that ends at a given time, or earlier if its signal is set."""

    def __init__(self, until: float, signal: WorldSignal | None = None) -> None:
        self.until = until
        self.signal = signal

    def __await__(self) -> Generator[Pause]:
        yield self

    @property
    def is_over(self) -> bool:
        """Whether the signal was set."""
        return self.signal is not None and self.signal.is_set


class WorldSignal:
    """A signal between simulated waits."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_set = False

    def set(self) -> None:
        """Wake the current waiter, or the next one."""
        self.is_set = True

    async def wait(self, seconds: float) -> None:
        """Return once the signal is set or `seconds` have passed, and clear it."""
        await Pause(self._world.now + seconds, self)
        self.is_set = False


@dataclass
class World:
    """A server with tasks `t0` to `tN`, and its clock; `asked` logs the time and path of requests."""

    fleet: Fleet
    now: float = 0.0
    asked: list[tuple[float, str]] = field(default_factory=list)
    refusals: int = 0
    started: deque[Callable[[], Coroutine[Any, Any, Any]]] = field(default_factory=deque)

    def account(
        self,
        *,
        key: Any = "pcc_live_world",
        polling: Polling | None = None,
        ledger: Ledger | None = None,
        **port: Any,
    ) -> Account:
        """Return an account with its own simulated backend."""
        config = resolve(api_key=key, base_url=f"http://world-{id(self)}.test")
        return Account(Session(config, WorldIO(self, **port)), polling=polling, ledger=ledger)

    def seconds_for(self, request: HTTPRequest) -> float:
        """Return how long the server takes for a request."""
        return 0.0

    def headers(self) -> dict[str, str]:
        """Return the headers of every response."""
        return {}

    def answer(self, request: HTTPRequest) -> WorldResponse:
        """Answer a request."""
        path = request.url.partition(".test")[2]
        self.asked.append((self.now, path))
        if self.refusals:
            self.refusals -= 1
            return WorldResponse(429, {"error": {"message": "Slow down"}}, {"retry-after": "60"})
        if path.startswith("/v1/tasks?"):
            listed = self.fleet.page(path, self.now)
            page = {"data": [_body(task) for task in listed.tasks], "has_more": bool(listed.following)}
            return WorldResponse(200, {**page, "next_cursor": (listed.following or {}).get("cursor")})
        number = int(urlsplit(path).path.rpartition("t")[2])
        if number >= len(self.fleet.ends):
            return WorldResponse(404, {"error": {"message": "No such task"}})
        return WorldResponse(200, _body(self.fleet.read(number, self.now)))

    def run(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        """Run coroutines until all have ended; resume each when its pause is over."""
        pauses: dict[Coroutine[Any, Any, Any], Pause] = {each: Pause(self.now) for each in coroutines}

        def due(coroutine: Coroutine[Any, Any, Any]) -> float:
            return self.now if pauses[coroutine].is_over else pauses[coroutine].until

        while pauses or self.started:
            pauses |= {self.started.popleft()(): Pause(self.now) for _ in range(len(self.started))}
            coroutine = min(pauses, key=due)
            if not pauses[coroutine].is_over:
                assert pauses[coroutine].until < FOREVER, "every coroutine waits forever"
                self.now = max(self.now, pauses[coroutine].until)
            try:
                pauses[coroutine] = coroutine.send(None)
            except StopIteration:
                del pauses[coroutine]


class WorldIO:
    """A simulated backend: requests get a response after `latency` seconds, or fail before sending."""

    backend = "world"
    client = None

    def __init__(self, world: World, *, latency: float = LATENCY, fails: bool = False) -> None:
        self._world = world
        self._latency = latency
        self._fails = fails

    def now(self) -> float:
        """Return the time."""
        return self._world.now

    def random(self) -> float:
        """Return a constant, so that jitter is predictable."""
        return 0.5

    def signal(self) -> WorldSignal:
        """Return a signal."""
        return WorldSignal(self._world)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function directly: nothing blocks here."""
        return function(*args)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Schedule a coroutine in the background."""
        self._world.started.append(work)

    def in_thread(self) -> WorldIO:
        """Return this backend: there are no threads here."""
        return self

    async def close(self) -> None:
        """Do nothing."""

    async def sleep(self, seconds: float) -> None:
        """Pause for `seconds`."""
        await Pause(self._world.now + seconds)

    async def send(self, request: HTTPRequest) -> WorldResponse:
        """Send a request, or fail to."""
        if self._fails:
            raise Failure(Outcome.NOT_SENT, "no route")
        if request.before_sending is not None:
            await request.before_sending()
        response = self._world.answer(request)
        response.headers = {**self._world.headers(), **response.headers}
        await Pause(self._world.now + self._latency + self._world.seconds_for(request))
        return response


class WorldResponse:
    """A response whose body is available at once."""

    def __init__(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers: Mapping[str, str] = headers or {}
        self._body = json.dumps(body).encode()

    async def receive(self, by: float | None = None) -> bytes:
        """Return the body, then nothing."""
        body, self._body = self._body, b""
        return body

    async def close(self) -> None:
        """Do nothing."""


def _body(task: Task) -> dict[str, Any]:
    return {"task_id": task.id, "status": task.status, "images": [output.url for output in task.outputs]}


Fault = Callable[[], "WorldResponse | None"]
"""Returns the response to a submission, or raises; None accepts the submission."""


@dataclass
class Server(World):
    """A server that accepts submissions; each is charged and takes `post` seconds, and its task `seconds`.

    `faults` has the start and end time of each fault of submissions; the first that matches applies.
    `read_faults` apply to the next reads, the last one first.
    """

    fleet: Fleet = field(default_factory=lambda: Fleet([], []))
    post: float = 1.0
    seconds: float = 3.0
    faults: list[tuple[float, float, Fault]] = field(default_factory=list)
    charges: list[dict[str, Any]] = field(default_factory=list)
    read_faults: list[Fault] = field(default_factory=list)
    posts: int = 0
    gone: set[str] = field(default_factory=set)
    epoch: float = field(default_factory=time.time)

    def headers(self) -> dict[str, str]:
        """Return the time by this server's clock."""
        return {"date": formatdate(self.epoch + self.now, usegmt=True)}

    def seconds_for(self, request: HTTPRequest) -> float:
        """Return how long the server takes for a request."""
        return self.post if request.method == "POST" else 0.0

    def answer(self, request: HTTPRequest) -> WorldResponse:
        """Answer a request."""
        path = urlsplit(request.url.partition(".test")[2])
        if request.method == "POST":
            self.posts += 1
            return self._fault() or self.accept(request)
        self.asked.append((self.now, path.geturl()))
        if self.read_faults and (fault := self.read_faults.pop()()):
            return fault
        if path.path == "/v1/tasks":
            return self._page(parse_qs(path.query))
        digits = path.path.removeprefix("/v1/tasks/t")
        number = int(digits) if digits.isdigit() else len(self.charges)
        if number >= len(self.charges) or f"t{number}" in self.gone:
            return WorldResponse(404, {"error": {"message": "No such task"}})
        return WorldResponse(200, self._shown(self.charges[number]))

    def accept(self, request: HTTPRequest) -> WorldResponse:
        """Accept a submission."""
        body = json.loads(request.body or b"{}")
        task = {
            **body,
            "task_id": f"t{len(self.charges)}",
            "type": "image",
            "created_at": self.epoch + self.now,
            "key": dict(request.headers)["idempotency-key"],
            "ends": self.now + self.post + self.seconds,
        }
        self.charges.append(task)
        return WorldResponse(202, self._shown(task))

    def lists(self) -> int:
        """Return how many pages of the list were read."""
        return sum(path.startswith("/v1/tasks?") for _, path in self.asked)

    def _fault(self) -> WorldResponse | None:
        return next((fault() for start, end, fault in self.faults if start <= self.now < end), None)

    def _status(self, task: dict[str, Any]) -> str:
        return "completed" if self.now >= task["ends"] else "processing"

    def _shown(self, task: dict[str, Any]) -> dict[str, Any]:
        status = self._status(task)
        output = (
            {"images": [f"https://files.example.com/{task['task_id']}.png"]} if status == "completed" else {}
        )
        return {**task, **output, "status": status}

    def _page(self, query: dict[str, list[str]]) -> WorldResponse:
        start, size = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
        wanted = query.get("status", ["completed", "processing"])
        matching = (
            task
            for task in reversed(self.charges)
            if task["task_id"] not in self.gone and self._status(task) in wanted
        )
        shown = [self._shown(task) for task in islice(matching, start, start + size + 1)]
        more = len(shown) > size
        page = {"data": shown[:size], "has_more": more}
        return WorldResponse(200, {**page, "next_cursor": str(start + size) if more else None})


def refusal(status: int, body: object = None, **headers: str) -> Fault:
    """Return a fault that answers with a status."""
    response_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: WorldResponse(status, body or {"error": {"message": "Slow down"}}, response_headers)


def not_sent() -> WorldResponse:
    """Refuse the connection."""
    raise Failure(Outcome.NOT_SENT, "connection refused")
