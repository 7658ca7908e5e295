"""Write replies as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from piccc.emulator.clock import Clock
from piccc.emulator.latency import Latency


def encoded(value: Any) -> bytes:
    """Return JSON, escaped to ASCII only when it holds half a character, which UTF-8 cannot."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


Frame = tuple[bytes, int]


class JSON(Response):
    """A whole JSON reply."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the content."""
        return encoded(content)


class Events(Response):
    """A stream of server-sent events; each frame says how many tokens it took to make."""

    media_type = "text/event-stream"

    def __init__(self, frames: Iterable[Frame], *, clock: Clock, pace: Latency) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._frames = frames
        self._clock = clock
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send every frame when it is due, until the client leaves."""
        left = asyncio.ensure_future(_left(receive))
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            due = self._clock.now() + self._pace.first_token
            for frame, tokens in self._frames:
                due += tokens * self._pace.token
                # Even what is due already lets others have their turn, and word come that the client left.
                await self._clock.sleep(max(0.0, due - self._clock.now()))
                if left.done():
                    return
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            left.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def openai_frames(chunks: Iterable[tuple[dict[str, Any], int]], *, done: bool = True) -> Iterator[Frame]:
    """Write chunks as events without a name, and, if `done`, the mark of the end."""
    for chunk, tokens in chunks:
        yield b"data: " + encoded(chunk) + b"\n\n", tokens
    if done:
        yield b"data: [DONE]\n\n", 0


def anthropic_frames(events: Iterable[tuple[dict[str, Any], int]]) -> Iterator[Frame]:
    """Write events under the names of their types."""
    for event, tokens in events:
        yield b"event: " + event["type"].encode() + b"\ndata: " + encoded(event) + b"\n\n", tokens
