"""The emulator's responses as ASGI messages: bytes, JSON, files and event streams."""

from __future__ import annotations

import asyncio
import re
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
)
from contextlib import aclosing
from hashlib import sha256
from typing import Any

from piccc.emulator.clock import Clock, Latency
from piccc.emulator.wire import APIError, encoded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Frame = tuple[bytes, int]

_BODILESS = (204, 304)
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")
_MOST_TOGETHER = 32


class Response:
    """A response with a body of known length."""

    def __init__(
        self,
        content: bytes = b"",
        *,
        status: int = 200,
        mime_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.content = content
        self.headers = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        if mime_type is not None:
            self.headers.append((b"content-type", mime_type.encode()))

    async def send(self, receive: Receive, send: Send) -> None:
        """Send the response."""
        length = [(b"content-length", b"%d" % len(self.content))] if self.status not in _BODILESS else []
        headers = [*self.headers, *length]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.content})


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(encoded(content), status=status, mime_type="application/json", headers=headers)


class Events(Response):
    """A stream of server-sent events. Each frame's cost in tokens sets its delay.

    Frames due at the same time are sent together unless `apart` is set.
    """

    def __init__(self, frames: Iterable[Frame], *, clock: Clock, latency: Latency, apart: bool) -> None:
        super().__init__(mime_type="text/event-stream", headers={"cache-control": "no-store"})
        self._frames = frames
        self._clock = clock
        self._latency = latency
        self._most = 1 if apart else _MOST_TOGETHER

    async def send(self, receive: Receive, send: Send) -> None:
        """Send each frame when it is due, until the client disconnects."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        gone: asyncio.Future[None] | None = None
        try:
            for number, (wait, frames) in enumerate(self._due()):
                # Even a zero sleep yields, so disconnects are noticed and other requests are served.
                if wait or number:
                    gone = gone or asyncio.ensure_future(_disconnected(receive))
                    await self._clock.sleep(wait)
                    if gone.done():
                        return
                await send({"type": "http.response.body", "body": frames, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            if gone is not None:
                gone.cancel()

    def _due(self) -> Iterator[tuple[float, bytes]]:
        """Yield the data to send, with the seconds to wait before each."""
        now, together, wait = self._clock.now(), list[bytes](), 0.0
        due, token = now + self._latency.first_token, self._latency.token
        for frame, tokens in self._frames:
            due += tokens * token
            if due > now:
                now = self._clock.now()
            if together and (len(together) == self._most or due > now):
                yield wait, b"".join(together)
                together.clear()
                now = self._clock.now()
            if not together:
                wait = max(0.0, due - now)
            together.append(frame)
        if together:
            yield wait, b"".join(together)


class PassedOn(Response):
    """A stream of server-sent events forwarded from another server as they arrive."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(mime_type="text/event-stream", headers={"cache-control": "no-store"})
        self._events = events

    async def send(self, receive: Receive, send: Send) -> None:
        """Forward each piece until the client disconnects."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        sending = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for piece in events:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def openai_frames(chunks: Iterable[tuple[bytes, int]], *, done: bool = True) -> Iterator[Frame]:
    """Encode chunks as unnamed events, ending with [DONE] if `done`."""
    for chunk, tokens in chunks:
        yield b"data: %b\n\n" % chunk, tokens
    if done:
        yield b"data: [DONE]\n\n", 0


def anthropic_frames(events: Iterable[tuple[dict[str, Any], int]]) -> Iterator[Frame]:
    """Encode events, named by their types."""
    for event, tokens in events:
        yield b"event: %b\ndata: %b\n\n" % (event["type"].encode(), encoded(event)), tokens


def file_response(request: Mapping[str, str], content: bytes, mime_type: str) -> Response:
    """Return a file, or the range that the request headers ask for.

    Raises APIError 416 if the range is outside the file.
    """
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {"accept-ranges": "bytes", "etag": etag, "cache-control": "private, immutable"}
    if request.get("if-none-match") == etag:
        return Response(status=304, headers=headers)
    span = None if request.get("if-range", etag) != etag else _span(request.get("range", ""), len(content))
    if span is None:
        return Response(content, mime_type=mime_type, headers=headers)
    headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{len(content)}"
    return Response(content[span.start : span.stop], status=206, mime_type=mime_type, headers=headers)


def _span(wanted: str, length: int) -> range | None:
    """Parse a single range; anything else is ignored (RFC 9110, section 14.2)."""
    match = _RANGE.fullmatch(wanted)
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        span = range(max(0, length - int(last)), length)
    else:
        span = range(int(first), min(length, int(last) + 1 if last else length))
    if not span:
        raise APIError(416, "The range is outside the file.", headers={"content-range": f"bytes */{length}"})
    return span
