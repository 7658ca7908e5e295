"""The fleet's server: an emulator in its own process that counts requests and charges."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from piccc.emulator import Emulator


@dataclass
class Counts:
    """The number and times of requests by kind, and how often each prompt was charged."""

    asked: Counter[str] = field(default_factory=Counter)
    moments: list[float] = field(default_factory=list)
    prompts: Counter[str] = field(default_factory=Counter)

    @property
    def reads(self) -> int:
        """The number of GETs."""
        return self.asked["list"] + self.asked["task"]


class Server:
    """The running server, as its parent sees it."""

    def __init__(self, connection: Connection, environment: dict[str, str], pid: int) -> None:
        self._connection = connection
        self.environment = environment
        self.pid = pid

    def counts(self) -> Counts:
        """Return the counts since the last call."""
        self._connection.send("counts")
        counts: Counts = self._connection.recv()
        return counts


@contextmanager
def server(speed: float) -> Iterator[Server]:
    """Run a server that ignores `Idempotency-Key`, as real servers may."""
    parent_end, child_end = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(child_end, speed), daemon=True
    )
    process.start()
    child_end.close()
    assert process.pid is not None
    try:
        yield Server(parent_end, parent_end.recv(), process.pid)
    finally:
        process.kill()
        process.join()


def counted(app: Any, counts: Counts) -> Any:
    """Wrap an emulator's app: count its requests and ignore `Idempotency-Key`."""

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if not path.startswith("/v1/"):
            await app(scope, receive, send)
            return
        kind = "list" if path == "/v1/tasks" else "task" if path.startswith("/v1/tasks/") else "other"
        kind = "submission" if path.endswith("s/tasks") else kind
        counts.asked[kind] += 1
        counts.moments.append(time.monotonic())
        headers = [header for header in scope["headers"] if header[0] != b"idempotency-key"]
        body = b""

        async def received() -> Any:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start" and kind == "submission" and message["status"] < 300:
                counts.prompts[json.loads(body)["prompt"]] += 1
            await send(message)

        await app({**scope, "headers": headers}, received, sent)

    return counting


def _serve(connection: Connection, speed: float) -> None:
    counts = Counts()
    emulator = Emulator(speed=speed)
    emulator.app = counted(emulator.app, counts)
    with emulator:
        connection.send(emulator.environment)
        while True:
            try:
                connection.recv()
            except EOFError:
                return
            connection.send(counts)
            counts.asked, counts.moments, counts.prompts = Counter(), [], Counter()
