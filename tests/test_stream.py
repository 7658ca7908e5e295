"""Ending a stream: whether its connection is closed or abandoned, which takes no lock."""

from __future__ import annotations

from collections.abc import Iterator

from piccc._dialects import dialect_named
from piccc._http.backends import SyncBackend
from piccc._http.chat_stream import ChatStream, StreamParser
from piccc._http.responses import RawResponse
from piccc.config import Timeout
from piccc.conversation import Record
from tests.faults.replies import EVENTS


class Response:
    """A response that records how it ends."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012  never mutated

    def __init__(self) -> None:
        self.pieces: Iterator[bytes] = iter(EVENTS["chat"].values())
        self.ended: list[str] = []

    async def receive(self, by: float | None = None) -> bytes:
        return next(self.pieces, b"")

    async def close(self) -> None:
        self.ended.append("closed")

    def abandon(self) -> None:
        self.ended.append("abandoned")


def open_stream() -> tuple[ChatStream, Response]:
    response = Response()
    raw = RawResponse(response, Record(), [], 0.0, 0.0, None)
    return ChatStream(
        raw, StreamParser(SyncBackend(), raw, dialect_named("openai").reader(), Timeout())
    ), response


def test_a_stream_read_to_its_end_releases_its_connection() -> None:
    stream, response = open_stream()
    assert "".join(stream.texts()) == "Hello, world"
    assert response.ended == ["closed"]


def test_a_half_read_stream_is_abandoned_by_garbage_collection() -> None:
    # Garbage collection may run within another call, which holds a lock that closing would wait for.
    stream, response = open_stream()
    batches = iter(stream.batches())
    next(batches)
    del batches, stream
    assert response.ended == ["abandoned"]


def test_a_stream_left_early_is_closed_once() -> None:
    stream, response = open_stream()
    with stream:
        for _ in stream:
            break
        stream.close()
    assert response.ended == ["abandoned", "closed"]
