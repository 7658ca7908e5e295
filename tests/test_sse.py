"""Event streams are parsed as the WHATWG HTML standard says, however their bytes are split."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piccc._dialects.reader import Event, EventDecoder
from piccc.errors import StreamError

VECTORS: dict[str, tuple[bytes, list[tuple[str, str]]]] = {
    "nothing": (b"", []),
    "one event": (b"data: a\n\n", [("message", "a")]),
    "two events": (b"data: a\n\ndata: b\n\n", [("message", "a"), ("message", "b")]),
    "lines of data are joined by a line feed": (b"data: a\ndata: b\n\n", [("message", "a\nb")]),
    "a named event": (b"event: add\ndata: 7\n\n", [("add", "7")]),
    "the name after the data": (b"data: 7\nevent: add\n\n", [("add", "7")]),
    "the last name wins": (b"event: a\nevent: b\ndata: 1\n\n", [("b", "1")]),
    "an empty name means the default": (b"event: a\nevent:\ndata: 1\n\n", [("message", "1")]),
    "a name lasts for one event": (b"event: a\ndata: 1\n\ndata: 2\n\n", [("a", "1"), ("message", "2")]),
    "a name without data is forgotten": (b"event: a\n\ndata: 2\n\n", [("message", "2")]),
    "CR ends a line": (b"data: a\rdata: b\r\r", [("message", "a\nb")]),
    "CRLF ends a line": (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb")]),
    "line ends may be mixed": (
        b"data: a\r\n\ndata: b\n\rdata: c\r\r\n",
        [("message", data) for data in "abc"],
    ),
    "one space after the colon is dropped": (
        b"data:a\n\ndata:  b\n\n",
        [("message", "a"), ("message", " b")],
    ),
    "a tab after the colon is kept": (b"data:\ta\n\n", [("message", "\ta")]),
    "a space before the colon makes another field": (b"data : a\n\n", []),
    "a line with only a field name": (b"data\n\n", [("message", "")]),
    "two lines with only a field name": (b"data\ndata\n\n", [("message", "\n")]),
    "empty data is an event": (b"data:\n\n", [("message", "")]),
    "colons in the data": (b"data: a:b: c\n\n", [("message", "a:b: c")]),
    "a comment": (b": ping\n\ndata: a\n\n", [("message", "a")]),
    "a comment inside an event": (b"data: a\n:\ndata: b\n\n", [("message", "a\nb")]),
    "only an id": (b"id: 1\n\n: ping\n\ndata: a\n\n", [("message", "a")]),
    "only a retry": (b"retry: 3000\n\ndata: a\n\n", [("message", "a")]),
    "a retry that is not a number": (b"retry: soon\n\ndata: a\n\n", [("message", "a")]),
    "an unknown field": (b"mood: good\ndata: a\n\n", [("message", "a")]),
    "names are case-sensitive": (b"Data: a\n\nDATA: b\n\n", []),
    "blank lines": (b"\n\n\n\ndata: a\n\n\n\n", [("message", "a")]),
    "a byte order mark at the start": (b"\xef\xbb\xbfdata: a\n\n", [("message", "a")]),
    "a byte order mark before a blank line": (b"\xef\xbb\xbf\ndata: a\n\n", [("message", "a")]),
    "a second byte order mark": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "a byte order mark later": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("message", "a")]),
    "a byte order mark in the data": (b"data: \xef\xbb\xbfa\n\n", [("message", "\ufeffa")]),
    "the last event is truncated": (b"data: a\n\ndata: b\n", [("message", "a")]),
    "the last line is truncated": (b"data: a\n\ndata: b", [("message", "a")]),
    "invalid UTF-8": (b"data: \xff\xfea\n\n", [("message", "\ufffd\ufffda")]),
    "a character split by a line end": (b"data: \xf0\x9f\ndata: b\n\n", [("message", "\ufffd\nb")]),
    "UTF-8 of every length": ("data: é€😀\n\n".encode(), [("message", "é€😀")]),
    "line ends of other standards": (
        "data: a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\n\n".encode(),
        [("message", "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg")],
    ),
    "NUL in the data": (b"data: a\x00b\n\n", [("message", "a\x00b")]),
    "NUL in an id": (b"id: a\x00b\ndata: 1\n\n", [("message", "1")]),
}


def decode(pieces: Iterable[bytes], decoder: EventDecoder | None = None) -> list[Event]:
    decoder = decoder or EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize(("stream", "events"), VECTORS.values(), ids=VECTORS)
def test_a_stream_is_parsed_as_the_standard_says_however_it_is_split(
    stream: bytes, events: list[tuple[str, str]]
) -> None:
    assert decode([stream]) == events
    assert decode(bytes([byte]) for byte in stream) == events
    for cut in range(len(stream) + 1):
        assert decode([stream[:cut], stream[cut:]]) == events
        assert decode([stream[:cut], b"", stream[cut:]]) == events


@pytest.mark.parametrize("ending", [b"\n\n", b"\r\r", b"\r\n\r", b"\n\r", b"\r\n\n"])
def test_an_event_is_emitted_with_its_last_byte(ending: bytes) -> None:
    decoder = EventDecoder()
    assert decode([b"data: a" + ending[:-1]], decoder) == []
    assert decode([ending[-1:]], decoder) == [("message", "a")]


@given(
    st.lists(
        st.sampled_from(
            [b"data: a", b"data", b":", b"event: e", b"\n", b"\r", b"\xef\xbb\xbf", b"\xff", b" "]
        )
    ),
    st.data(),
)
def test_splitting_the_bytes_differently_changes_nothing(tokens: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(tokens)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(pieces) == decode([stream])


@given(st.lists(st.binary(max_size=64)))
def test_any_bytes_yield_events_or_a_typed_error(pieces: list[bytes]) -> None:
    try:
        events = decode(pieces, EventDecoder(max_bytes=100))
    except StreamError:
        return
    assert all(event.type and "\n" not in event.type for event in events)


@pytest.mark.parametrize(
    "pieces",
    [[b"data: " + b"a" * 101], [b"data: a\n"] * 60, [b"a"] * 101, [b"data: " + b"a" * 101 + b"\n\n"]],
    ids=["a line", "many lines", "a line in pieces", "a whole event"],
)
def test_the_size_of_one_event_is_limited(pieces: list[bytes]) -> None:
    with pytest.raises(StreamError, match="larger than 100 bytes"):
        decode(pieces, EventDecoder(max_bytes=100))


def test_the_total_size_of_events_is_not_limited() -> None:
    assert len(decode([b"data: a\n\n"] * 1000, EventDecoder(max_bytes=100))) == 1000


def test_emitted_events_do_not_count_towards_the_limit() -> None:
    decoder = EventDecoder(max_bytes=100)
    for _ in range(100):
        assert len(decode([b": ping\n", b"data: " + b"a" * 40, b"\n", b"\n"], decoder)) == 1


def test_keep_alive_comments_are_counted() -> None:
    decoder = EventDecoder()
    assert decode([b": ping\n\n:\n\ndata: a\n\n"], decoder) == [("message", "a")]
    assert decoder.comments == 2


@pytest.mark.parametrize(("stream", "inside"), [(b"data: a\n", True), (b"da", True), (b"data: a\n\n", False)])
def test_the_decoder_knows_whether_it_is_inside_an_event(stream: bytes, inside: bool) -> None:
    decoder = EventDecoder()
    decoder.feed(stream)
    assert decoder.is_inside_event is inside
