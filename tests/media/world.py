"""A world on a virtual clock: a server with tasks, and waits in threads and event loops of its own.

Ports of this world suspend where real ones would wait. `run` goes on with whoever is due next, so that any
number of loops and threads run in one thread, the same way each time.
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
    """What a coroutine awaits in this world: a moment, or a signal before it."""

    def __init__(self, until: float, signal: WorldSignal | None = None) -> None:
        self.until = until
        self.signal = signal

    def __await__(self) -> Generator[Pause]:
        yield self

    @property
    def is_over(self) -> bool:
        """Whether its signal was given."""
        return self.signal is not None and self.signal.is_set


class WorldSignal:
    """A signal of this world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.is_set = False

    def set(self) -> None:
        """Wake who waits, or who waits next."""
        self.is_set = True

    async def wait(self, seconds: float) -> None:
        """Return when it was set or when `seconds` have passed, and forget that it was set."""
        await Pause(self._world.now + seconds, self)
        self.is_set = False


@dataclass
class World:
    """A server with a fleet of tasks `t0` to `tN`, and its clock; `asked` is when it was asked for what."""

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
        """Return an account over a port of its own."""
        config = resolve(api_key=key, base_url=f"http://world-{id(self)}.test")
        return Account(Session(config, WorldIO(self, **port)), polling=polling, ledger=ledger)

    def seconds_for(self, request: HTTPRequest) -> float:
        """Return how long the server takes for a request."""
        return 0.0

    def headers(self) -> dict[str, str]:
        """Return the headers of every reply."""
        return {}

    def answer(self, request: HTTPRequest) -> WorldResponse:
        """Answer a request."""
        path = request.url.partition(".test")[2]
        self.asked.append((self.now, path))
        if self.refusals:
            self.refusals -= 1
            return WorldResponse(429, {"error": {"message": "Slow down"}}, {"retry-after": "60"})
        if path.startswith("/v1/tasks?"):
            found = self.fleet.page(path, self.now)
            page = {"data": [_body(task) for task in found.tasks], "has_more": bool(found.following)}
            return WorldResponse(200, {**page, "next_cursor": (found.following or {}).get("cursor")})
        number = int(urlsplit(path).path.rpartition("t")[2])
        if number >= len(self.fleet.ends):
            return WorldResponse(404, {"error": {"message": "No such task"}})
        return WorldResponse(200, _body(self.fleet.read(number, self.now)))

    def run(self, *coroutines: Coroutine[Any, Any, Any]) -> None:
        """Run coroutines until all have ended, each going on when its pause is over."""
        pauses: dict[Coroutine[Any, Any, Any], Pause] = {each: Pause(self.now) for each in coroutines}
        while pauses or self.started:
            pauses |= {self.started.popleft()(): Pause(self.now) for _ in range(len(self.started))}
            next_one = min(pauses, key=lambda each: self.now if pauses[each].is_over else pauses[each].until)
            if not pauses[next_one].is_over:
                assert pauses[next_one].until < FOREVER, "all wait for ever"
                self.now = max(self.now, pauses[next_one].until)
            try:
                pauses[next_one] = next_one.send(None)
            except StopIteration:
                del pauses[next_one]


class WorldIO:
    """A port of this world. What it sends is answered after `latency` seconds, or fails to be sent."""

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
        """Return a middling number."""
        return 0.5

    def signal(self) -> WorldSignal:
        """Make a signal."""
        return WorldSignal(self._world)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in place: in this world nothing blocks."""
        return function(*args)

    def start(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a coroutine in the background, when the world goes on."""
        self._world.started.append(work)

    def in_thread(self) -> WorldIO:
        """Return itself: there are no threads in this world."""
        return self

    async def close(self) -> None:
        """Do nothing."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await Pause(self._world.now + seconds)

    async def send(self, request: HTTPRequest) -> WorldResponse:
        """Send."""
        if self._fails:
            raise Failure(Outcome.NOT_SENT, "no route")
        if request.before_sending is not None:
            await request.before_sending()
        response = self._world.answer(request)
        response.headers = {**self._world.headers(), **response.headers}
        await Pause(self._world.now + self._latency + self._world.seconds_for(request))
        return response


class WorldResponse:
    """A reply that is there at once."""

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
"""What happens to a submission instead of its being accepted; None accepts it after all."""


@dataclass
class Server(World):
    """A server that takes submissions: each costs one charge, takes `post` seconds, and its task `seconds`.

    `faults` are what happens to submissions from one moment to another, the first that fits; `read_faults`
    what happens to the next reads.
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
        """Take a submission."""
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
        there = (
            each
            for each in reversed(self.charges)
            if each["task_id"] not in self.gone and self._status(each) in wanted
        )
        shown = [self._shown(each) for each in islice(there, start, start + size + 1)]
        more = len(shown) > size
        page = {"data": shown[:size], "has_more": more}
        return WorldResponse(200, {**page, "next_cursor": str(start + size) if more else None})


def refusal(status: int, body: object = None, **headers: str) -> Fault:
    """Return a fault that answers with a status."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda: WorldResponse(status, body or {"error": {"message": "Slow down"}}, told)


def not_sent() -> WorldResponse:
    """Refuse the connection."""
    raise Failure(Outcome.NOT_SENT, "connection refused")
