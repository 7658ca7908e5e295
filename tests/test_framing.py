"""The head goes to the HTTP library, the chunks are ours: however they are cut, and as h11 reads them."""

from __future__ import annotations

from collections.abc import Iterable

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piccc._http.chunked import MAX_LINE_BYTES, MAX_TRAILER_BYTES, ChunkedDecoder, HeaderSplitter

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\naccept: text/event-stream\r\n\r\n"
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
    chunks, rest = ChunkedDecoder(), b""
    read = b"".join(b"" if chunks.is_over else chunks.feed(piece) for piece in cut(written, cuts))
    rest = chunks.rest
    assert (read, chunks.is_over, rest) == (content, True, b"")
    whole = ChunkedDecoder()
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
    chunks, read = ChunkedDecoder(), b""
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
        (b"ten\r\n", "not the size"),
        (b"-1\r\n", "not the size"),
        (b"1_0\r\n", "not the size"),
        (b"\r\n", "not the size"),
        (b"11111111111111111\r\n", "not the size"),
        (b"1\r\nab\r\n", "longer than it says"),
        (b"1" * (MAX_LINE_BYTES + 1), "too many bytes"),
        (b"0\r\n" + b"x-filler: 0123456789\r\n" * (MAX_TRAILER_BYTES // 20), "too long"),
    ],
)
def test_what_is_no_chunk_is_refused(written: bytes, what: str) -> None:
    chunks = ChunkedDecoder()
    assert chunks.feed(b"5\r\nhello\r\n" + written)[:5] == b"hello"
    assert what in chunks.damage


@given(st.binary(max_size=60), cuts)
def test_the_library_gets_the_head_alone(body: bytes, cuts: list[int]) -> None:
    gate = HeaderSplitter()
    gate.notice(REQUEST)
    given_, held = b"", b""
    for piece in cut(HEAD + body, cuts):
        if gate.is_at_body:
            held += piece
        else:
            given_ += gate.let_through(piece)
    assert given_ == HEAD
    assert gate.take() + held == body
    assert gate.take() == b""


def test_after_an_interim_reply_the_body_is_left_to_the_library() -> None:
    gate = HeaderSplitter()
    gate.notice(REQUEST)
    assert gate.let_through(b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD) == b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert gate.let_through(gate.take()) == HEAD
    assert not gate.is_at_body


def test_what_answers_no_request_for_a_stream_passes_whole() -> None:
    gate = HeaderSplitter()
    for sent in (b"\x05\x01\x00", b"GET /v1/tasks/1 HTTP/1.1\r\naccept: application/json\r\n\r\n"):
        gate.notice(sent)
        assert gate.let_through(b"\x05\x00\x00\x01\n\n\n\n") == b"\x05\x00\x00\x01\n\n\n\n"
        assert not gate.is_at_body


def test_the_next_request_shuts_the_gate_anew() -> None:
    gate = HeaderSplitter()
    for _ in range(2):
        gate.notice(REQUEST)
        assert gate.let_through(HEAD + b"5\r\n") == HEAD
        assert gate.is_at_body
        assert gate.take() == b"5\r\n"
