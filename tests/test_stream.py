"""Leaving a stream: which way the connection is closed, and that no lock is taken where none may be."""

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
    """A reply that notes how it is ended."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012  never changed

    def __init__(self) -> None:
        self.pieces: Iterator[bytes] = iter(EVENTS["chat"].values())
        self.ended: list[str] = []

    async def receive(self, by: float | None = None) -> bytes:
        return next(self.pieces, b"")

    async def close(self) -> None:
        self.ended.append("closed")

    def abandon(self) -> None:
        self.ended.append("abandoned")


def opened() -> tuple[ChatStream, Response]:
    response = Response()
    answer = RawResponse(response, Record(), [], 0.0, 0.0, None)
    return ChatStream(
        answer, StreamParser(SyncBackend(), answer, dialect_named("openai").reader(), Timeout())
    ), response


def test_a_stream_that_is_read_to_its_end_gives_its_connection_back() -> None:
    stream, response = opened()
    assert "".join(stream.texts()) == "Hello, world"
    assert response.ended == ["closed"]


def test_a_stream_that_is_dropped_half_read_is_abandoned() -> None:
    # The garbage collector may do it amid another call, whose lock closing would wait for.
    stream, response = opened()
    batches = iter(stream.batches())
    next(batches)
    del batches, stream
    assert response.ended == ["abandoned"]


def test_a_stream_that_is_left_is_closed_once_by_who_closes_it() -> None:
    stream, response = opened()
    with stream:
        for _ in stream:
            break
        stream.close()
    assert response.ended == ["abandoned", "closed"]
