"""Harm done to an answer on its way out: the work behind it is done and charged for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Scope, Send

from piccc.emulator.clock import Clock
from piccc.emulator.encoding import encoded
from piccc.emulator.exchange import Exchange
from piccc.emulator.faults import Fault
from piccc.emulator.problems import Problem

_HALF_A_FRAME = b'data: {"choices":[{"delta":{"con\n\n'


class Line:
    """The connection under a request: it can be hung up, or left until the client hangs up."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._transport: asyncio.Transport | None = scope["state"].get("transport")
        self._receive = receive

    async def hang_up(self) -> None:
        """Close the connection, once what was written has been sent."""
        if self._transport is None:
            raise ConnectionAbortedError(
                "a provoked disconnect; this server gives the app no way to close quietly"
            )
        self._transport.close()
        await self.until_hung_up()

    async def until_hung_up(self) -> None:
        """Wait until the connection is closed."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


class Harm:
    """Stand between the app and the connection, and do what one fault says."""

    def __init__(self, fault: Fault, exchange: Exchange, clock: Clock, line: Line, send: Send) -> None:
        self._fault = fault
        self._exchange = exchange
        self._clock = clock
        self._line = line
        self._send = send
        self._events = 0
        self._streamed = False
        self._spent = False
        self._over = False
        self._ways: dict[str, Callable[[Message], Awaitable[None]]] = {
            "cut": self._cut,
            "stall": self._stall,
            "garbled": self._garble,
            "error-event": self._err,
        }

    async def send(self, message: Message) -> None:
        """Send a message of the app's, or what the fault makes of it."""
        if self._over:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._fault.kind == "drip":
            await self._drip(message)
        elif not self._spent and self._events == self._after:
            self._spent = True
            await self._ways[self._fault.kind](message)
        else:
            self._events += 1
            await self._send(message)

    @property
    def _after(self) -> int:
        return int(self._fault.number(1)) if self._streamed else 0

    async def _start(self, message: Message) -> None:
        if self._fault.kind == "lost-answer":
            await self._end()
            return
        self._streamed = any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in message["headers"]
        )
        self._spent = self._fault.kind == "error-event" and not self._streamed
        await self._send(message)

    async def _end(self) -> None:
        self._over = True
        await self._line.hang_up()

    async def _cut(self, message: Message) -> None:
        if not self._streamed:
            body = message["body"]
            kept = int(self._fault.number(len(body) // 2))
            await self._send({**message, "body": body[:kept], "more_body": True})
        await self._end()

    async def _stall(self, message: Message) -> None:
        seconds = self._fault.options.get("seconds")
        if seconds is None:
            self._over = True
            await self._line.until_hung_up()
            return
        await self._clock.sleep(float(seconds))
        await self._send(message)

    async def _garble(self, message: Message) -> None:
        body = message["body"]
        half = _HALF_A_FRAME if self._streamed else body[: len(body) // 2].ljust(len(body))
        await self._send({**message, "body": half})

    async def _err(self, message: Message) -> None:
        record = self._exchange.record
        problem = Problem(529, "The provider is overloaded.", code="overloaded")
        name = b"event: error\n" if record.path.startswith("/v1/messages") else b""
        body = name + b"data: " + encoded(problem.envelope(record.path, record.request_id)) + b"\n\n"
        self._over = True
        await self._send({"type": "http.response.body", "body": body})

    async def _drip(self, message: Message) -> None:
        body, step = message.get("body", b""), max(1, int(self._fault.number(1)))
        for start in range(0, len(body), step):
            await self._send(
                {"type": "http.response.body", "body": body[start : start + step], "more_body": True}
            )
            await asyncio.sleep(0)
        await self._send({**message, "body": b""})
