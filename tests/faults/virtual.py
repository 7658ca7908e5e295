"""A port whose sends are real and whose sleeps take no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from piccc._http.backend import HTTPRequest, HTTPResponse


class VirtualIO:
    """Send over a real port; note each sleep and set the clock on by it. `jitter` is what `random` gives."""

    def __init__(self, io: Any, *, jitter: float = 1.0) -> None:
        self.io = io
        self.sleeps: list[float] = []
        self.jitter = jitter

    @property
    def backend(self) -> str:
        """Name and version of the HTTP library."""
        return str(self.io.backend)

    @property
    def skipped(self) -> float:
        """Seconds that were slept without waiting."""
        return sum(self.sleeps)

    def now(self) -> float:
        """Return the time, with the sleeps in it."""
        return float(self.io.now()) + self.skipped

    def random(self) -> float:
        """Return the jitter."""
        return self.jitter

    async def sleep(self, seconds: float) -> None:
        """Set the clock on."""
        self.sleeps.append(seconds)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that may block."""
        return await self.io.run(function, *args)

    async def send(self, request: HTTPRequest) -> HTTPResponse:
        """Send."""
        by = None if request.by is None else request.by - self.skipped
        return _Response(await self.io.send(replace(request, by=by)), self)

    async def close(self) -> None:
        """Close the real port."""
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
