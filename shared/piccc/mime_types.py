"""Media types of content, by its bytes rather than by what is claimed of it."""

from __future__ import annotations

_SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/webp": ".webp",
    "image/gif": ".gif",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/tiff": ".tiff",
    "image/bmp": ".bmp",
    "image/jxl": ".jxl",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-msvideo": ".avi",
}
_STARTS = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"BM", "image/bmp"),
    (b"\xff\x0a", "image/jxl"),
    (b"\x00\x00\x00\x0cJXL ", "image/jxl"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
)
_OTHER_STARTS = (
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"\xff\xf3", "audio/mpeg"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
)
_RIFF = {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "image/heic"),
}
_QUICKTIME_ATOMS = (b"moov", b"mdat", b"wide")
"""What QuickTime files begin with that have no `ftyp`."""


def mime_type_of(head: bytes) -> str | None:
    """Return the type of an image or a video that begins with these bytes, None where it is neither."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else _BRANDS.get(head[8:12], "video/mp4")
    if head[4:8] in _QUICKTIME_ATOMS:
        return "video/quicktime"
    if head[:2] == b"BM" and head[6:10] != bytes(4):
        return None  # a text: these bytes of a bitmap's header are reserved and zero
    return next((mime_type for start, mime_type in _STARTS if head.startswith(start)), None)


def content_type_of(data: bytes) -> str | None:
    """Return the media type of whole content, `text/plain` for any text, None where it is unknown."""
    known = mime_type_of(data[:64])
    if known:
        return known
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    for start, mime_type in _OTHER_STARTS:
        if data.startswith(start):
            return mime_type
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    # Control characters other than white space stand in binary formats only.
    return None if any(each < " " and each not in "\t\n\r\f" for each in text) else "text/plain"


def suffix_of(mime_type: str | None) -> str:
    """Return the usual ending of a file's name, `.bin` for what has none here."""
    return _SUFFIXES.get(mime_type or "", ".bin")
