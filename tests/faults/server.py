"""A raw loopback server that sends the given bytes, and can break off anywhere."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

PATIENCE = 10.0
TURNS = 5


class End(Enum):
    """How an answer ends, unless the connection is kept alive."""

    CLOSE = "close the connection"
    RESET = "reset the connection"
    HANG = "send nothing more until the client leaves"


CLOSE, RESET, HANG = End
Step = bytes | float | Callable[[], object] | End
"""Bytes to send, a pause in seconds, or a function to call."""
Answer = Sequence[Step]


@dataclass(slots=True)
class Request:
    """One received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Case:
    """The server's answers for one base URL, in order; the last one repeats."""

    name: str
    base_url: str
    answers: list[Answer]
    requests: list[Request] = field(default_factory=list)

    @property
    def methods(self) -> Counter[str]:
        """The number of requests per method."""
        return Counter(request.method for request in self.requests)


class FaultServer:
    """Serves cases in a background thread; enter it with `with`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._cases: dict[str, Case] = {}
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._changed = threading.Condition()
        self.connections = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults", daemon=True)

    def __enter__(self) -> FaultServer:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls, limit=2**24)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(PATIENCE)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    def case(self, *answers: Answer, host: str = "127.0.0.1") -> Case:
        """Create a base URL with the given answers."""
        name = f"case{len(self._cases)}"
        scheme = "https" if self._tls else "http"
        case = Case(name, f"{scheme}://{host}:{self.port}/{name}", list(answers))
        self._cases[name] = case
        return case

    def tunnel(self, authority: str, *answers: Answer) -> Case:
        """Set a proxy's answers to requests for a tunnel to `host:port`."""
        self._cases[authority] = Case(authority, f"http://127.0.0.1:{self.port}", list(answers))
        return self._cases[authority]

    @property
    def open_connections(self) -> int:
        """The number of open client connections."""
        return len(self._writers)

    def wait_until_all_closed(self) -> None:
        """Wait until all clients have closed their connections; fail after a while."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._writers, PATIENCE):
                raise AssertionError(f"{len(self._writers)} connections stay open")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                if not await self._answer(request, reader, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self._serving.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            with self._changed:
                self._writers.discard(writer)
                self._changed.notify_all()

    async def _answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        name = request.path if request.method == "CONNECT" else urlsplit(request.path).path.split("/")[1]
        case = self._cases[name]
        answer = case.answers[min(len(case.requests), len(case.answers) - 1)]
        case.requests.append(request)
        for step in answer:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif callable(step):
                step()
            else:
                await _end(step, reader, writer)
                return False
        return True

    async def _stop(self) -> None:
        # Otherwise connections accepted now would leak: python/cpython#109564.
        for listening in self._server.sockets:
            self._loop.remove_reader(listening.fileno())
        for _ in range(TURNS):  # let the last accepted connections start, so they can be aborted
            await asyncio.sleep(0)
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()  # under TLS, closing would wait for the client
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for _ in range(TURNS):  # let closed connections finish
            await asyncio.sleep(0)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    pairs = [line.partition(":") for line in lines if line]
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ", 2)
    return Request(method, path, headers, body)


async def _end(end: End, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if end is HANG:
        await reader.read()
    elif end is RESET:
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def reply(status: int | str, body: bytes = b"", *headers: str, type: str = "application/json") -> bytes:
    """Encode a complete response with its length."""
    return head(status, f"content-type: {type}", f"content-length: {len(body)}", *headers) + body


def head(status: int | str, *headers: str) -> bytes:
    """Encode a status line and headers."""
    reason = status if isinstance(status, str) else f"{status} Said"
    return "\r\n".join([f"HTTP/1.1 {reason}", *headers, "", ""]).encode("latin-1")


def stream_head(*headers: str) -> bytes:
    """Encode the head of a chunked event stream."""
    return head(200, "content-type: text/event-stream", "transfer-encoding: chunked", *headers)


def chunk(data: bytes) -> bytes:
    """Encode one chunk of a body; an empty one ends it."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def stream(*pieces: bytes) -> list[Step]:
    """Return the steps of a complete stream, one per piece."""
    return [stream_head(), *(chunk(piece) for piece in pieces if piece), chunk(b"")]
