"""HTTP/1.1 messages (RFC 9112): requests to bytes, bytes to replies. No I/O.

h11 writes the request and reads the reply's head. The body is read here: h11 takes about 14 µs more for each
chunk, which is a quarter of what a streamed token costs in all (docs/benchmarks.md).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from typing import Protocol

import h11

MAX_HEAD_BYTES = 100 * 1024
MAX_LINE_BYTES = 16 * 1024
MAX_TRAILER_BYTES = 64 * 1024
STEP_BYTES = 64 * 1024
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_UNPACKED_RATIO = 100

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")


class MalformedReply(Exception):
    """A reply, or its body, that cannot be read; `str()` says why."""


class Reply:
    """One request's reply, read from the bytes of a connection that nothing else is read from.

    Feed bytes until `is_begun`, then read the body through `body`, whose first bytes `rest` may hold.
    """

    def __init__(self) -> None:
        self._parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: Body = LengthBody(0)
        self.rest = b""
        self.is_begun = False
        self.may_continue = False

    def request(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None
    ) -> bytes:
        """Return a request as bytes; raise h11.LocalProtocolError for what HTTP cannot carry."""
        fields = list(headers)
        if body is not None:
            fields.append(("content-length", str(len(body))))
        written = [self._parser.send(h11.Request(method=method, target=target, headers=fields))]
        if body:
            written.append(self._parser.send(h11.Data(data=body)))
        written.append(self._parser.send(h11.EndOfMessage()))
        return b"".join(each for each in written if each)

    def feed(self, data: bytes) -> None:
        """Read on until the head is whole; raise MalformedReply for what is no HTTP/1.1."""
        try:
            self._parser.receive_data(data)
            event = self._parser.next_event()
            while isinstance(event, h11.InformationalResponse):
                event = self._parser.next_event()
        except h11.RemoteProtocolError as error:
            raise MalformedReply(f"the reply is not HTTP/1.1: {error}") from None
        if isinstance(event, h11.Response):
            self._begin(event)

    def _begin(self, head: h11.Response) -> None:
        self.is_begun = True
        self.status = head.status_code
        for name, value in head.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text
        self.rest = self._parser.trailing_data[0]
        self.may_continue = self._parser.our_state is h11.DONE  # MUST_CLOSE where either side said "close"
        # RFC 9112, section 6.3; h11 has refused what contradicts itself.
        if self.status in (204, 304):
            self.body = LengthBody(0)
        elif "transfer-encoding" in self.headers:
            self.body = ChunkedBody()
        elif "content-length" in self.headers:
            self.body = LengthBody(int(self.headers["content-length"].partition(",")[0]))
        else:
            self.body = UnboundedBody()
            self.may_continue = False


class Body(Protocol):
    """What says where a body ends. Once `is_over`, `rest` is what came behind it.

    `damage` says what made the body unreadable from there on; feed nothing after that.
    """

    is_over: bool
    rest: bytes
    damage: str

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next bytes."""
        ...

    def end(self) -> None:
        """Note that the connection was closed: either the body `is_over` with it, or it was cut."""
        ...


class LengthBody:
    """A body of so many bytes."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.is_over = not length
        self.rest = b""
        self.damage = ""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next bytes."""
        content, self.rest = data[: self._left], data[self._left :]
        self._left -= len(content)
        self.is_over = not self._left
        return content

    def end(self) -> None:
        """Note that the rest is missing."""
        self.damage = f"was cut: {self._left} bytes are missing"


class UnboundedBody:
    """A body that ends with its connection."""

    is_over = False
    rest = b""
    damage = ""

    def feed(self, data: bytes) -> bytes:
        """Return all of it."""
        return data

    def end(self) -> None:
        """Note the end."""
        self.is_over = True


class ChunkedBody:
    """A body in chunks (RFC 9112, section 7.1)."""

    __slots__ = ("_at_line_end", "_in_trailer", "_left", "_trailer_bytes", "damage", "is_over", "rest")

    def __init__(self) -> None:
        self._left = 0
        self._at_line_end = False
        self._in_trailer = False
        self._trailer_bytes = 0
        self.damage = ""
        self.is_over = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the next bytes, as far as they are chunks."""
        if self.rest:
            data = self.rest + data
        at, pieces = 0, []
        while at < len(data) and not self.is_over and not self.damage:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                self._at_line_end = not self._left
                pieces.append(piece)
                if self._at_line_end and data[at : at + 2] == b"\r\n":  # as nearly always, all at once
                    self._at_line_end = False
                    at += 2
                continue
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            self._read_line(data[at:end])
            at = end + 2
        self.rest = data[at:]
        if len(self.rest) > MAX_LINE_BYTES and not self.is_over:
            self.damage = "is damaged: a chunk's size takes too many bytes"
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def end(self) -> None:
        """Note that the last chunk did not come."""
        self.damage = "was cut: the connection was closed amid it"

    def _read_line(self, line: bytes) -> None:
        if self._at_line_end:
            self._at_line_end = False
            if line:
                self.damage = "is damaged: a chunk is longer than it says"
        elif self._in_trailer:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                self.damage = "is damaged: the trailer is too long"
            self.is_over = not line
        elif size := _SIZE.fullmatch(line):
            self._left = int(size[1], 16)
            self._in_trailer = not self._left
        else:
            self.damage = f"is damaged: not the size of a chunk: {line[:20]!r}"


class Unpacker:
    """Unpack a body's content coding, a step at a time, so that a small body cannot become endless work."""

    def __init__(self, wbits: int) -> None:
        self._wbits = wbits
        self._zlib = zlib.decompressobj(wbits)
        self._packed = self._unpacked = 0

    def feed(self, data: bytes) -> bytes:
        """Return at most one step of what a piece unpacks to; raise MalformedReply where it is damaged."""
        self._packed += len(data)
        return self._step(data)

    def more(self) -> bytes:
        """Return the next step of the last piece, b"" when it is used up."""
        return self._step(self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail)

    def end(self) -> None:
        """Note that the body has ended; raise MalformedReply where its content has not."""
        if self._packed and not self._zlib.eof:
            raise MalformedReply("the compressed body was cut")

    def _step(self, data: bytes) -> bytes:
        while data:
            if self._zlib.eof:
                # RFC 1952, section 2.2: gzip is a series of members. What is none is padding.
                if self._wbits <= zlib.MAX_WBITS or not data.startswith(b"\x1f"):
                    return b""
                self._zlib = zlib.decompressobj(self._wbits)
            try:
                content = self._zlib.decompress(data, STEP_BYTES)
            except zlib.error as error:
                raise MalformedReply("the compressed body is damaged") from error
            if content:
                self._unpacked += len(content)
                if self._unpacked > max(MAX_UNPACKED_BYTES, MAX_UNPACKED_RATIO * self._packed):
                    raise MalformedReply("the compressed body unpacks to far more than its size")
                return content
            data = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
        return b""


class Unreadable(Unpacker):
    """Refuse a content coding that is not unpacked here; the status and the headers are read all the same."""

    def __init__(self, encoding: str) -> None:
        super().__init__(zlib.MAX_WBITS)
        self._encoding = encoding[:80]

    def feed(self, data: bytes) -> bytes:
        """Raise MalformedReply."""
        raise MalformedReply(f"the body is encoded as {self._encoding!r}, which was not asked for")


def unpacker_for(encoding: str) -> Unpacker | None:
    """Return what unpacks a body of this content-encoding, None where nothing needs to."""
    match encoding.strip().lower():
        case "identity" | "":
            return None
        case "gzip" | "x-gzip":
            return Unpacker(16 + zlib.MAX_WBITS)
        case "deflate":
            return Unpacker(zlib.MAX_WBITS)
    return Unreadable(encoding)
