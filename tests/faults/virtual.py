"""A backend that sends for real but skips sleeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from piccc._http.backend import HTTPRequest, HTTPResponse


class VirtualIO:
    """Sends over a real backend; a sleep only advances the clock. `jitter` is the value of `random`."""

    def __init__(self, io: Any, *, jitter: float = 1.0) -> None:
        self.io = io
        self.sleeps: list[float] = []
        self.jitter = jitter

    @property
    def backend(self) -> str:
        """The HTTP library's name and version."""
        return str(self.io.backend)

    @property
    def skipped(self) -> float:
        """The total seconds of skipped sleeps."""
        return sum(self.sleeps)

    def now(self) -> float:
        """Return the time, including skipped sleeps."""
        return float(self.io.now()) + self.skipped

    def random(self) -> float:
        """Return the fixed jitter."""
        return self.jitter

    async def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.sleeps.append(seconds)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that may block."""
        return await self.io.run(function, *args)

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send a request."""
        by = None if request.by is None else request.by - self.skipped
        return _Response(await self.io.send(replace(request, by=by)), self)

    async def close(self) -> None:
        """Close the real backend."""
        await self.io.close()


class _Response:
    def __init__(self, response: HTTPResponse, io: VirtualIO) -> None:
        self._response = response
        self._io = io
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def receive(self, by: float | None = None) -> bytes:
        return await self._response.receive(None if by is None else by - self._io.skipped)

    async def close(self) -> None:
        await self._response.close()

    def abandon(self) -> None:
        self._response.abandon()
