"""A server that answers both dialects from memory, as cheaply as asyncio allows, to measure clients.

The first part of the path is the scenario: `one-500` is a stream of 500 tokens, one event per write;
`object-16` a JSON object of 16 KB, four characters per event; `paced-20` 20 tokens, ten a second, each with
the time it was sent; `wait-7` and `map-7` the tasks of the client named 7; `refused-7` its calls, of which
the first two are refused; `files` 5 MB at 1 MB a second.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import islice, repeat

from tests.benchmarks.served_tasks import Queue, Tasks

TOKEN = " token"
PAUSE = {"one": 0.0004, "eight": 0.0032, "slow": 0.02, "paced": 0.1, "args": 0.0004, "object": 0.0004}
PER_WRITE = {"one": 1, "eight": 8, "slow": 1, "paced": 1, "args": 1, "object": 1}
MOMENT = "%18.6f"
UNWRITTEN = "?" * 18
"""Placeholder for the time at which a token is sent, of the same length."""
REFUSALS = 2
FILE_BYTES, FILE_PIECE, FILE_PAUSE = 5_000_000, 50_000, 0.05
ARGUMENTS = json.dumps({"text": "x" * 8_000})
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


def _chunk(delta: dict[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    return _data({**_OPENAI, "object": "chat.completion.chunk", "choices": [choice]})


def _data(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **fields})


_OPENAI = {"id": "chatcmpl-1", "created": 1790000000, "model": "piccc-pro", "system_fingerprint": "fp_1"}
_ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "piccc-pro",
    "stop_sequence": None,
}


def openai_stream(kind: str, count: int) -> Iterator[bytes]:
    """Yield the events of a stream."""
    yield _chunk({"role": "assistant", "content": ""})
    if kind == "args":
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "note", "arguments": ""}}
        yield _chunk({"tool_calls": [call]})
        for start in range(0, len(ARGUMENTS), 4):
            piece = {"index": 0, "function": {"arguments": ARGUMENTS[start : start + 4]}}
            yield _chunk({"tool_calls": [piece]})
    elif kind == "object":
        text = json.dumps({"text": "x" * count * 1024})
        for start in range(0, len(text), 4):
            yield _chunk({"content": text[start : start + 4]})
    else:
        for _ in range(count):
            yield _chunk({"content": UNWRITTEN if kind == "paced" else TOKEN})
    yield _chunk({}, "tool_calls" if kind == "args" else "stop")
    yield _data({**_OPENAI, "object": "chat.completion.chunk", "choices": [], "usage": USAGE})
    yield b"data: [DONE]\n\n"


def _anthropic_stream(kind: str, count: int) -> Iterator[bytes]:
    message: dict[str, object] = {
        **_ANTHROPIC,
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 7, "output_tokens": 1},
    }
    yield _event("message_start", message=message)
    yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for _ in range(count):
        text = UNWRITTEN if kind == "paced" else TOKEN
        yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    yield _event("content_block_stop", index=0)
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _event("message_delta", delta=delta, usage={"output_tokens": 2})
    yield _event("message_stop")


@cache
def _writes(scenario: str, anthropic: bool) -> tuple[bytes, ...]:
    kind, _, count = scenario.partition("-")
    events = (_anthropic_stream if anthropic else openai_stream)(kind, int(count or 0))
    writes = []
    while several := b"".join(islice(events, PER_WRITE[kind])):
        writes.append(b"%x\r\n%s\r\n" % (len(several), several))
    return (*writes, b"0\r\n\r\n")


@cache
def _whole(anthropic: bool) -> bytes:
    if anthropic:
        content = [{"type": "text", "text": "Hello there"}]
        usage = {"input_tokens": 7, "output_tokens": 2}
        body: dict[str, object] = {
            **_ANTHROPIC,
            "content": content,
            "stop_reason": "end_turn",
            "usage": usage,
        }
    else:
        message = {"role": "assistant", "content": "Hello there"}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        body = {**_OPENAI, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    return _json(body)


def _json(body: object) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(text),
        text,
    )


_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n"
_FILE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\ncontent-length: %d\r\n\r\n" % FILE_BYTES
_FILE_START = b"\0\0\0\x18ftypisom\0\0\0\0isommp42"

_tasks: defaultdict[str, Tasks] = defaultdict(Tasks)
_queues: defaultdict[str, Queue] = defaultdict(Queue)
_refusals: defaultdict[str, int] = defaultdict(int)


class Answers(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._needed = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exception: Exception | None) -> None:
        """Forget the transport."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self._received += data
        if len(self._received) < self._needed or (end := self._received.find(b"\r\n\r\n")) < 0:
            return
        head = bytes(self._received[:end])
        self._needed = end + 4
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                self._needed += int(line[15:])
        if len(self._received) < self._needed:
            return
        body = bytes(self._received[end + 4 : self._needed])
        del self._received[: self._needed]
        self._needed = 0
        self._answer(head.split(b" ", 2)[1].decode(), body)

    def _answer(self, path: str, body: bytes) -> None:
        anthropic = path.endswith("/messages")
        scenario = path.split("/")[1]
        kind = scenario.partition("-")[0]
        assert self._transport is not None
        if kind == "wait":
            self._transport.write(_json(_tasks[scenario].answer(path)))
        elif kind == "map":
            self._transport.write(_json(_queues[scenario].answer(path)))
        elif kind == "files":
            self._transport.write(_FILE_HEAD + _FILE_START)
            pieces = repeat(bytes(FILE_PIECE), FILE_BYTES // FILE_PIECE - 1)
            began = asyncio.get_running_loop().time()
            self._write_next(iter((bytes(FILE_PIECE - len(_FILE_START)), *pieces)), FILE_PAUSE, began)
        elif kind == "refused" and _refusals[scenario] < REFUSALS:
            _refusals[scenario] += 1
            self._transport.write(_BUSY)
        elif b'"stream": true' not in body and b'"stream":true' not in body:
            self._transport.write(_whole(anthropic))
        else:
            self._transport.write(_STREAM_HEAD)
            self._write_next(iter(_writes(scenario, anthropic)), PAUSE[kind])

    def _write_next(self, writes: Iterator[bytes], pause: float, due: float | None = None) -> None:
        """Write the pieces with pauses between them, or on a schedule if the first one has a `due` time.

        A pause ends late, because other writes take time: a file of 100 pieces would take 5% longer.
        """
        loop = asyncio.get_running_loop()
        if due is not None and self._transport is not None and self._transport.get_write_buffer_size():
            loop.call_later(pause / 10, self._write_next, writes, pause, due)
            return
        write = next(writes, None)
        if write is not None and self._transport is not None:
            if pause == PAUSE["paced"]:
                write = write.replace(UNWRITTEN.encode(), (MOMENT % time.time()).encode())
            self._transport.write(write)
            at = (loop.time() if due is None else due) + pause
            loop.call_at(at, self._write_next, writes, pause, None if due is None else at)


async def main() -> None:
    """Serve on a free port; print it."""
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
