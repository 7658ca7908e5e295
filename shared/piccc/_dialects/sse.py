"""Server-sent events, bytes in and events out, as the WHATWG HTML standard parses an event stream."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from piccc.errors import StreamError

BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 8 * 1024 * 1024
_LF, _CR = 0x0A, 0x0D


class Event(NamedTuple):
    """One dispatched event: its type (`message` where none was named) and its data."""

    type: str
    data: str


class EventDecoder:
    """Turn an event stream into events, each given as soon as its last byte has come.

    Memory is bounded by `max_bytes` for one event. `comments` counts keep-alive lines.
    """

    __slots__ = ("_data", "_max", "_pending", "_size", "_skip_lf", "_started", "_type", "comments")

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_bytes
        self._pending = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._type = b""
        self._skip_lf = False
        self._started = False
        self.comments = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; return the events that they complete. Raise StreamError past the bound."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            if chunk[0] == _LF:
                chunk = chunk[1:]
        if not chunk:
            return []
        if b"\n" not in chunk and b"\r" not in chunk:
            self._hold(chunk)
            return []
        if self._pending:
            self._size -= len(self._pending)
            chunk = bytes(self._pending + chunk)
            self._pending.clear()
        if chunk.startswith(b"data: ") and (events := self._plain(chunk)):
            return events
        lines = chunk.splitlines()
        self._skip_lf = chunk[-1] == _CR
        if chunk[-1] not in (_LF, _CR):
            self._hold(lines.pop())
        return self._dispatch(lines)

    @property
    def is_inside_event(self) -> bool:
        """Whether bytes of an event have come whose end has not."""
        return bool(self._data or self._pending)

    def _plain(self, chunk: bytes) -> list[Event]:
        """Return the events of a chunk that is nothing but lines of data, each an event, as most are."""
        texts = chunk[6:-2].split(b"\n\ndata: ")
        is_plain = chunk.endswith(b"\n\n") and chunk.count(b"\n") == 2 * len(texts) and b"\r" not in chunk
        if not is_plain or self._data or self._type or len(chunk) > self._max:
            return []
        self._started = True
        return [Event("message", text.decode(errors="replace")) for text in texts]

    def _dispatch(self, lines: list[bytes]) -> list[Event]:
        if not self._started and lines:
            self._started = True
            lines[0] = lines[0].removeprefix(BOM)
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
            elif not line:
                if self._data:
                    events.append(self._finish())
                self._type = b""
            elif line[0] == 0x3A:
                self.comments += 1
            else:
                self._read_field(line)
        if self._size > self._max:
            self._refuse()
        return events

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"event":
            self._type = value.removeprefix(b" ")
        elif name == b"data":
            self._data.append(b"")
            self._size += len(line)

    def _finish(self) -> Event:
        if self._size > self._max:
            self._refuse()
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data = []
        self._size = 0
        type = self._type.decode(errors="replace") if self._type else "message"
        return Event(type, data.decode(errors="replace"))

    def _hold(self, tail: bytes) -> None:
        self._pending += tail
        self._size += len(tail)
        if self._size > self._max:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise StreamError(
            f"One event of the stream is larger than {self._max} bytes.", may_have_been_billed=True
        )
