"""A reply is read the same however its bytes are cut, and its chunks as h11 reads them."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piccc._http.connections import (
    JOINED_BYTES,
    MAX_LINE_BYTES,
    MAX_TRAILER_BYTES,
    ChunkedBody,
    Exchange,
    MalformedResponse,
    decompressor_for,
)

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

contents = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
known_to_h11 = st.sampled_from([b"", b";name=value"])
extensions = known_to_h11 | st.sampled_from([b" ; a", b"  "])
trailers = st.lists(st.sampled_from([b"x-checksum: 1\r\n", b"x-more: two\r\n"]), max_size=2).map(b"".join)


@st.composite
def bodies(draw: st.DrawFn, extensions: st.SearchStrategy[bytes] = extensions) -> tuple[bytes, bytes]:
    """A chunked body, and what it holds."""
    content = draw(contents)
    written = [b"%x%s\r\n%s\r\n" % (len(each), draw(extensions), each) for each in content]
    return b"".join(written) + b"0\r\n" + draw(trailers) + b"\r\n", b"".join(content)


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    ends = sorted({each % (len(data) + 1) for each in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


cuts = st.lists(st.integers(min_value=0, max_value=400), max_size=12)


@given(bodies(), cuts, st.binary(max_size=10))
def test_chunks_say_the_same_however_they_are_cut(
    body: tuple[bytes, bytes], cuts: list[int], after: bytes
) -> None:
    written, content = body
    chunks, rest = ChunkedBody(), b""
    read = b"".join(b"" if chunks.is_over else chunks.feed(piece) for piece in cut(written, cuts))
    rest = chunks.rest
    assert (read, chunks.is_over, rest) == (content, True, b"")
    whole = ChunkedBody()
    assert whole.feed(written + after) == content
    assert whole.rest == after


@given(bodies(known_to_h11), cuts, st.binary(min_size=1, max_size=1), st.integers(min_value=0, max_value=400))
def test_a_damaged_body_is_never_read_as_another_whole_one(
    body: tuple[bytes, bytes], cuts: list[int], damage: bytes, place: int
) -> None:
    written, content = body
    place %= len(written)
    written = written[:place] + damage + written[place + len(damage) :]
    judged = _h11(cut(written, cuts))
    chunks, read = ChunkedBody(), b""
    for piece in cut(written, cuts):
        if not chunks.is_over and not chunks.damage:
            read += chunks.feed(piece)
    if chunks.is_over and not chunks.damage:
        # Trailers are not read, so that damage to them, which h11 refuses, is not seen.
        assert (read, True) == (judged or (content, True))


def _h11(pieces: list[bytes]) -> tuple[bytes, bool] | None:
    """What h11 makes of a body and whether it ends; None where it refuses it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a.test")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(HEAD)
    read = b""
    try:
        assert isinstance(connection.next_event(), h11.Response)
        for piece in pieces:
            connection.receive_data(piece)
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.EndOfMessage):
                    return read, True
                read += bytes(event.data)  # type: ignore[union-attr]  # nothing else can come
    except h11.RemoteProtocolError:
        return None
    return read, False


@pytest.mark.parametrize(
    ("written", "what"),
    [
        (b"0\r\n\0\r\n0\r\n\r\n", "not a trailer line"),
        (b"ten\r\n", "not a chunk size"),
        (b"-1\r\n", "not a chunk size"),
        (b"1_0\r\n", "not a chunk size"),
        (b"\r\n", "not a chunk size"),
        (b"11111111111111111\r\n", "not a chunk size"),
        (b"1\r\nab\r\n", "longer than its size"),
        (b"1" * (MAX_LINE_BYTES + 1), "size line is too long"),
        (b"0\r\n" + b"x-filler: 0123456789\r\n" * (MAX_TRAILER_BYTES // 20), "too long"),
    ],
)
def test_what_is_no_chunk_is_refused(written: bytes, what: str) -> None:
    chunks = ChunkedBody()
    assert chunks.feed(b"5\r\nhello\r\n" + written)[:5] == b"hello"
    assert what in chunks.damage


def asked() -> Exchange:
    reply = Exchange()
    assert reply.request("GET", "/", [("host", "a.test")], None) == [
        b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"
    ]
    return reply


def test_a_large_body_is_sent_as_it_is_without_a_copy_and_a_small_one_with_its_head() -> None:
    large = bytes(JOINED_BYTES + 1)
    head, body = Exchange().request("POST", "/", [("host", "a.test")], large)
    assert head.endswith(b"content-length: 65537\r\n\r\n")
    assert body is large
    [written] = Exchange().request("POST", "/", [("host", "a.test")], b"{}")
    assert written.endswith(b"content-length: 2\r\n\r\n{}")


@given(st.binary(max_size=60), cuts)
def test_a_head_is_read_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    reply, behind = asked(), b""
    for piece in cut(HEAD + body, cuts):
        if reply.is_begun:
            behind += piece
        else:
            reply.feed(piece)
    assert reply.is_begun
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
    assert reply.rest + behind == body


@pytest.mark.parametrize(
    ("head", "content", "is_whole", "may_continue"),
    [
        (b"200 OK\r\ncontent-length: 5", b"hello", True, True),
        (b"200 OK\r\ncontent-length: 9", b"hello", False, True),
        (b"200 OK\r\ncontent-length: 5\r\nconnection: close", b"hello", True, False),
        (b"200 OK", b"hello", True, False),
        (b"204 No Content\r\ntransfer-encoding: chunked", b"", True, True),
        (b"204 No Content\r\ncontent-length: 5", b"", True, True),
        (b"304 Not Modified\r\ncontent-length: 5", b"", True, True),
    ],
)
def test_a_body_ends_where_the_head_says(
    head: bytes, content: bytes, is_whole: bool, may_continue: bool
) -> None:
    reply = asked()
    reply.feed(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 " + head + b"\r\n\r\nhello")
    body = reply.body
    read = b"" if body.is_over else body.feed(reply.rest)
    if not body.is_over:
        body.end()
    assert (read, body.is_over, not body.damage) == (content, is_whole, is_whole)
    assert reply.may_continue is may_continue


@pytest.mark.parametrize(
    "head",
    [
        b"220 smtp.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 200_000,
    ],
)
def test_a_head_that_contradicts_itself_is_refused(head: bytes) -> None:
    with pytest.raises(MalformedResponse):
        asked().feed(head)


PACKED = gzip.compress(b"hello " * 1000, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "packed", "content"),
    [
        ("gzip", PACKED, b"hello " * 1000),
        ("x-gzip", PACKED + gzip.compress(b"again", mtime=0), b"hello " * 1000 + b"again"),
        ("gzip", PACKED + b"\0" * 64, b"hello " * 1000),
        ("deflate", zlib.compress(b"hello"), b"hello"),
        ("gzip", b"", b""),
    ],
    ids=["one", "two", "padded", "deflate", "empty"],
)
@given(cuts=cuts)
def test_a_coded_body_is_unpacked_however_it_is_cut(
    encoding: str, packed: bytes, content: bytes, cuts: list[int]
) -> None:
    decompressor, read = decompressor_for(encoding), b""
    assert decompressor is not None
    for piece in cut(packed, cuts):
        read += decompressor.feed(piece)
        while more := decompressor.more():
            read += more
    decompressor.end()
    assert read == content


@pytest.mark.parametrize(
    "packed",
    [PACKED[:-9], PACKED[:30], PACKED + gzip.compress(b"again", mtime=0)[:-1], b"\x1f\x8b no gzip"],
    ids=["cut", "cut early", "cut in the second", "damaged"],
)
def test_a_coded_body_that_is_cut_or_damaged_is_refused(packed: bytes) -> None:
    decompressor = decompressor_for("gzip")
    assert decompressor is not None
    with pytest.raises(MalformedResponse):  # noqa: PT012  either may say so
        decompressor.feed(packed)
        while decompressor.more():
            pass
        decompressor.end()


def test_a_small_body_does_not_become_endless_work() -> None:
    decompressor = decompressor_for("gzip")
    assert decompressor is not None
    unpacked = len(decompressor.feed(gzip.compress(b" " * 2**28, 9)))
    with pytest.raises(MalformedResponse, match="far more"):  # noqa: PT012  some step does
        while step := decompressor.more():
            unpacked += len(step)
    assert unpacked < 2**27
