"""Bodies that come compressed although none was asked for: unpacked in bounded steps."""

from __future__ import annotations

import zlib

from piccc.transport.port import Failure, Outcome

STEP_BYTES = 1024 * 1024


class Decoder:
    """Unpack a body; what one piece holds beyond a step is given by `more`."""

    def __init__(self, wbits: int) -> None:
        self._zlib = zlib.decompressobj(wbits)

    def feed(self, data: bytes) -> bytes:
        """Return at most one step of what a piece unpacks to; raise Failure where it is damaged."""
        try:
            return self._zlib.decompress(data, STEP_BYTES)
        except zlib.error as error:
            raise Failure(Outcome.UNKNOWN, "the compressed body is damaged") from error

    def more(self) -> bytes:
        """Return the next step of the last piece, b"" when it is used up."""
        return self.feed(self._zlib.unconsumed_tail) if self._zlib.unconsumed_tail else b""


class Unreadable(Decoder):
    """Refuse an encoding that cannot be unpacked here."""

    def __init__(self, encoding: str) -> None:
        super().__init__(zlib.MAX_WBITS)
        self._encoding = encoding

    def feed(self, data: bytes) -> bytes:
        """Raise Failure."""
        raise Failure(Outcome.UNKNOWN, f"the body is encoded as {self._encoding!r}, which was not asked for")


def decoder_for(encoding: str | None) -> Decoder | None:
    """Return what unpacks a body of this content-encoding, None where nothing needs to."""
    match (encoding or "identity").strip().lower():
        case "identity":
            return None
        case "gzip" | "x-gzip":
            return Decoder(16 + zlib.MAX_WBITS)
        case "deflate":
            return Decoder(zlib.MAX_WBITS)
    return Unreadable((encoding or "")[:80])
