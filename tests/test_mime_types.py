"""Content types are detected from bytes; unknown content has none."""

from __future__ import annotations

import pytest

from piccc.tasks import content_type_of

CONTENT = {
    "image/png": b"\x89PNG\r\n\x1a\n....",
    "image/jpeg": b"\xff\xd8\xff\xe0....",
    "image/webp": b"RIFF....WEBPVP8 ",
    "audio/wav": b"RIFF....WAVEfmt ",
    "audio/mpeg": b"ID3\x03",
    "video/mp4": b"\x00\x00\x00\x20ftypisom",
    "application/pdf": b"%PDF-1.7",
    "text/plain": "Café\tau lait\n".encode(),
    None: b"\x00\x01\x02",
}


@pytest.mark.parametrize("mime_type", CONTENT)
def test_the_content_type_is_detected_from_the_bytes(mime_type: str | None) -> None:
    assert content_type_of(CONTENT[mime_type]) == mime_type


def test_text_that_is_not_utf8_has_no_content_type() -> None:
    assert content_type_of("Café".encode("latin-1")) is None
