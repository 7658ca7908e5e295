"""Where the head of a reply ends, and what the chunks of its body hold, after RFC 9112. Pure."""

from __future__ import annotations

import re

LAST_CHUNK = b"0\r\n\r\n"
MAX_LINE_BYTES = 16 * 1024
MAX_TRAILER_BYTES = 64 * 1024

_BLANK_LINE = re.compile(rb"\n\r?\n")  # where h11 sees the end of a head
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")


class HeaderSplitter:
    """Stand before an HTTP library's parser: of a stream's bytes it gets the head alone, the rest is held.

    So who reads the body need not send each token through the library: what is held, and the connection
    after it, is the body from its first byte.
    """

    __slots__ = ("_blank_lines", "_is_shut", "_last", "held")

    def __init__(self) -> None:
        self.held = b""
        self._last = b""
        self._is_shut = False
        self._blank_lines = 0

    def notice(self, sent: bytes) -> None:
        """Look at what is sent: a request for a stream shuts the gate, any other opens it."""
        if b" HTTP/1.1\r\n" in sent:
            self._is_shut = b"text/event-stream" in sent
            self._blank_lines, self._last = 0, b""

    def let_through(self, data: bytes) -> bytes:
        """Return the bytes up to the next blank line; hold the rest."""
        if not self._is_shut:
            return data
        found = _BLANK_LINE.search(self._last + data)
        if found is None:
            self._last = (self._last + data)[-2:]
            return data
        end = found.end() - len(self._last)
        self._last = b""
        self._blank_lines += 1
        self.held = data[end:]
        return data[:end]

    def take(self) -> bytes:
        """Return what is held, and hold it no more."""
        data, self.held = self.held, b""
        return data

    @property
    def is_at_body(self) -> bool:
        """Whether a head, and nothing else, has been let through."""
        return self._is_shut and self._blank_lines == 1 and not self._last


class ChunkedDecoder:
    """Take a body's chunks apart. Once `is_over`, `rest` is what came after the last.

    `damage` says what made the body unreadable from there on; feed nothing after that.
    """

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
            self.damage = "a chunk's size takes too many bytes"
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_line(self, line: bytes) -> None:
        if self._at_line_end:
            self._at_line_end = False
            if line:
                self.damage = "a chunk is longer than it says"
        elif self._in_trailer:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                self.damage = "the trailer is too long"
            self.is_over = not line
        elif size := _SIZE.fullmatch(line):
            self._left = int(size[1], 16)
            self._in_trailer = not self._left
        else:
            self.damage = f"not the size of a chunk: {line[:20]!r}"
