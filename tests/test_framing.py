"""Responses are read the same however their bytes are split, and chunked bodies as h11 reads them."""

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
    """Draw a chunked body and its content."""
    content = draw(contents)
    encoded = [b"%x%s\r\n%s\r\n" % (len(chunk), draw(extensions), chunk) for chunk in content]
    return b"".join(encoded) + b"0\r\n" + draw(trailers) + b"\r\n", b"".join(content)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    ends = sorted({cut % (len(data) + 1) for cut in cuts} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


cuts = st.lists(st.integers(min_value=0, max_value=400), max_size=12)


@given(bodies(), cuts, st.binary(max_size=10))
def test_a_chunked_body_is_read_the_same_however_it_is_split(
    body: tuple[bytes, bytes], cuts: list[int], after: bytes
) -> None:
    encoded, content = body
    chunks, rest = ChunkedBody(), b""
    read = b"".join(b"" if chunks.is_over else chunks.feed(piece) for piece in split(encoded, cuts))
    rest = chunks.rest
    assert (read, chunks.is_over, rest) == (content, True, b"")
    unsplit = ChunkedBody()
    assert unsplit.feed(encoded + after) == content
    assert unsplit.rest == after


@given(bodies(known_to_h11), cuts, st.binary(min_size=1, max_size=1), st.integers(min_value=0, max_value=400))
def test_a_damaged_body_is_never_read_as_a_different_complete_one(
    body: tuple[bytes, bytes], cuts: list[int], damage: bytes, place: int
) -> None:
    encoded, content = body
    place %= len(encoded)
    encoded = encoded[:place] + damage + encoded[place + len(damage) :]
    reference = _h11(split(encoded, cuts))
    chunks, read = ChunkedBody(), b""
    for piece in split(encoded, cuts):
        if not chunks.is_over and not chunks.damage:
            read += chunks.feed(piece)
    if chunks.is_over and not chunks.damage:
        # Trailers are not parsed, so damage to them, which h11 rejects, goes unnoticed.
        assert (read, True) == (reference or (content, True))


def _h11(pieces: list[bytes]) -> tuple[bytes, bool] | None:
    """Return the content that h11 reads and whether the body is complete; None if h11 rejects it."""
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
                read += bytes(event.data)  # type: ignore[union-attr]  # no other event is possible
    except h11.RemoteProtocolError:
        return None
    return read, False


@pytest.mark.parametrize(
    ("encoded", "reason"),
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
def test_an_invalid_chunk_is_rejected(encoded: bytes, reason: str) -> None:
    chunks = ChunkedBody()
    assert chunks.feed(b"5\r\nhello\r\n" + encoded)[:5] == b"hello"
    assert reason in chunks.damage


def requested() -> Exchange:
    exchange = Exchange()
    assert exchange.request("GET", "/", [("host", "a.test")], None) == [
        b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n"
    ]
    return exchange


def test_a_large_body_is_not_copied_and_a_small_one_joins_the_headers() -> None:
    large = bytes(JOINED_BYTES + 1)
    head, body = Exchange().request("POST", "/", [("host", "a.test")], large)
    assert head.endswith(b"content-length: 65537\r\n\r\n")
    assert body is large
    [encoded] = Exchange().request("POST", "/", [("host", "a.test")], b"{}")
    assert encoded.endswith(b"content-length: 2\r\n\r\n{}")


@given(st.binary(max_size=60), cuts)
def test_response_headers_are_read_however_they_are_split(body: bytes, cuts: list[int]) -> None:
    exchange, later = requested(), b""
    for piece in split(HEAD + body, cuts):
        if exchange.is_begun:
            later += piece
        else:
            exchange.feed(piece)
    assert exchange.is_begun
    assert (exchange.status, exchange.headers["content-type"]) == (200, "text/event-stream")
    assert exchange.rest + later == body


@pytest.mark.parametrize(
    ("head", "content", "is_complete", "may_continue"),
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
def test_the_headers_determine_where_the_body_ends(
    head: bytes, content: bytes, is_complete: bool, may_continue: bool
) -> None:
    exchange = requested()
    exchange.feed(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 " + head + b"\r\n\r\nhello")
    body = exchange.body
    read = b"" if body.is_over else body.feed(exchange.rest)
    if not body.is_over:
        body.end()
    assert (read, body.is_over, not body.damage) == (content, is_complete, is_complete)
    assert exchange.may_continue is may_continue


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
def test_malformed_or_contradictory_response_headers_are_rejected(head: bytes) -> None:
    with pytest.raises(MalformedResponse):
        requested().feed(head)


COMPRESSED = gzip.compress(b"hello " * 1000, mtime=0)


@pytest.mark.parametrize(
    ("encoding", "compressed", "content"),
    [
        ("gzip", COMPRESSED, b"hello " * 1000),
        ("x-gzip", COMPRESSED + gzip.compress(b"again", mtime=0), b"hello " * 1000 + b"again"),
        ("gzip", COMPRESSED + b"\0" * 64, b"hello " * 1000),
        ("deflate", zlib.compress(b"hello"), b"hello"),
        ("gzip", b"", b""),
    ],
    ids=["one", "two", "padded", "deflate", "empty"],
)
@given(cuts=cuts)
def test_a_compressed_body_is_decompressed_however_it_is_split(
    encoding: str, compressed: bytes, content: bytes, cuts: list[int]
) -> None:
    decompressor, read = decompressor_for(encoding), b""
    assert decompressor is not None
    for piece in split(compressed, cuts):
        read += decompressor.feed(piece)
        while more := decompressor.more():
            read += more
    decompressor.end()
    assert read == content


@pytest.mark.parametrize(
    "compressed",
    [
        COMPRESSED[:-9],
        COMPRESSED[:30],
        COMPRESSED + gzip.compress(b"again", mtime=0)[:-1],
        b"\x1f\x8b no gzip",
    ],
    ids=["truncated", "truncated early", "truncated in the second", "damaged"],
)
def test_a_truncated_or_damaged_compressed_body_is_rejected(compressed: bytes) -> None:
    decompressor = decompressor_for("gzip")
    assert decompressor is not None
    with pytest.raises(MalformedResponse):  # noqa: PT012  either call may raise
        decompressor.feed(compressed)
        while decompressor.more():
            pass
        decompressor.end()


def test_a_decompression_bomb_is_stopped() -> None:
    decompressor = decompressor_for("gzip")
    assert decompressor is not None
    decompressed = len(decompressor.feed(gzip.compress(b" " * 2**28, 9)))
    with pytest.raises(MalformedResponse, match="far more"):  # noqa: PT012  one of the steps raises
        while step := decompressor.more():
            decompressed += len(step)
    assert decompressed < 2**27
