"""Tasks and their outputs as plain data, and media type detection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

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
"""The first atoms of QuickTime files without `ftyp`."""


def mime_type_of(head: bytes) -> str | None:
    """Return the media type of an image or video that starts with these bytes, or None if it is neither."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:12] == b"qt  " else _BRANDS.get(head[8:12], "video/mp4")
    if head[4:8] in _QUICKTIME_ATOMS:
        return "video/quicktime"
    if head[:2] == b"BM" and head[6:10] != bytes(4):
        return None  # text: in a bitmap's header, these bytes are reserved and zero
    return next((mime_type for start, mime_type in _STARTS if head.startswith(start)), None)


def content_type_of(data: bytes) -> str | None:
    """Return the media type of complete content, `text/plain` for any text, or None if it is unknown."""
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
    # Only binary formats contain control characters other than white space.
    return None if any(char < " " and char not in "\t\n\r\f" for char in text) else "text/plain"


def suffix_of(mime_type: str | None) -> str:
    """Return the usual file name extension, or `.bin` for unknown types."""
    return _SUFFIXES.get(mime_type or "", ".bin")


TaskType = Literal["image", "video"]

ASPECT_RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9")
IMAGE_RESOLUTIONS = ("1K", "2K", "4K")
VIDEO_RESOLUTIONS = ("480p", "720p", "1080p")
TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})
STATUSES = TERMINAL | {"queued", "processing"}


REFUSALS = frozenset({"rejected", "refused", "moderated", "blocked", "banned", "content_filtered"})
"""Status values that mean failed because of moderation."""
_MODERATION_CODES = (
    *("contentpolicy", "policyviolation", "moderat", "contentfilter", "nsfw", "safety", "sensitive"),
    *(
        "datainspection",
        "inappropriate",
        "prohibitedcontent",
        "contentblocked",
        "blockedcontent",
        "riskcontrol",
    ),
    *("contentrejected", "promptrejected", "promptblocked", "recitation", "greennet", "explicitcontent"),
    *("contentviolation", "copyright", "infringement", "unsafe", "flagged", "sexual", "celebrity"),
    *("likeness", "publicfigure", "raifilter", "raimedia", "blocklist", "facedetected", "minordetected"),
)
"""Substrings of moderation error codes, in lower case and without punctuation.

Collected from public documentation and reports on OpenAI, Azure, Google, BytePlus Ark, DashScope, MiniMax,
Kling, Luma and Runway.
"""
_MODERATION_NUMBERS = frozenset({"1026", "1027", "1301"})
_MODERATION_PHRASES = (
    *("content policy", "content filter", "moderation", "nsfw", "safety system", "safety filter"),
    *("sensitive content", "sensitive information", "risk control system", "inappropriate content"),
    *("content management policy", "safety policy", "safety guidelines", "usage policy", "usage policies"),
    *("was flagged", "were flagged", "prohibited content", "prohibited_content", "content violates"),
    *("敏感内容", "敏感信息", "敏感词", "内容违规", "违规内容", "内容审核", "内容安全"),
)


@dataclass(slots=True)
class Output:
    """One finished image, video or audio file.

    Attributes:
        url: its URL until it expires; needs no key.
        type: `image`, `video` or `audio`, or empty if unknown.
        mime_type: such as `image/png`, or None if the server did not send it.
        width, height: pixels, or None.
        duration_seconds: the length of a video or audio, or None.
        task_id: the id of the task that produced it.
        sha256: the digest of its content, in hex, or None before it has been fetched.
        place: its index among the outputs of its task, from 0.
        thumbnail_url: the URL of a video's still image, or None if the server sent none.
    """

    url: str
    type: str = ""
    mime_type: str | None = None
    width: int | None = None
    height: int | None = None
    duration_seconds: float | None = None
    task_id: str = ""
    sha256: str | None = None
    place: int = 0
    thumbnail_url: str | None = None


@dataclass(slots=True)
class Task:
    """The last known state of a task.

    Only the id, the status field and `polling_url` are documented. The status values and all other fields are
    assumed, and many variants are accepted.

    Attributes:
        id: the task's id.
        status: `queued`, `processing`, `completed`, `failed`, `cancelled`, `expired`, or an unknown value.
        type: `image`, `video`, or empty if the server did not send it.
        model: the model requested, or empty.
        prompt: the prompt, or empty.
        progress: 0 to 100, or None.
        polling_url: the server's URL for polling the task.
        outputs: its outputs; empty until it is completed.
        error_message, error_code: why it failed, or None.
        created_at, updated_at, completed_at: Unix times in seconds, or None.
        expires_at: when the outputs' URLs expire, as a Unix time in seconds, or None.
        raw: the task as the server sent it, including fields not listed here.
    """

    id: str
    status: str = "queued"
    type: str = ""
    model: str = ""
    prompt: str = ""
    progress: float | None = None
    polling_url: str | None = None
    outputs: list[Output] = field(default_factory=list)
    error_message: str | None = None
    error_code: str | None = None
    created_at: float | None = None
    updated_at: float | None = None
    completed_at: float | None = None
    expires_at: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended; a task with an unknown status has not."""
        return self.status in TERMINAL

    @property
    def is_known_status(self) -> bool:
        """Whether the status is a known one."""
        return self.status in STATUSES

    @property
    def has_output(self) -> bool:
        """Whether the task has outputs to fetch."""
        return bool(self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the task as plain JSON data, in the server's format."""
        known = {"status": self.status, "type": self.type, "model": self.model, "prompt": self.prompt}
        return {**self.raw, "task_id": self.id, **{name: value for name, value in known.items() if value}}


class Page(NamedTuple):
    """One page of the task list.

    Attributes:
        tasks: its tasks.
        following: the query parameters of the next page, or None at the end.
        unreadable: how many of its rows could not be read as tasks.
    """

    tasks: list[Task]
    following: Mapping[str, str] | None = None
    unreadable: int = 0


def is_moderation(code: str | None, message: str | None = None) -> bool:
    """Return whether an error code or message means that moderation rejected the request."""
    if code in _MODERATION_NUMBERS:
        return True
    plain = "".join(filter(str.isalnum, code or "")).lower()
    if plain in REFUSALS or any(each in plain for each in _MODERATION_CODES):
        return True
    return any(each in (message or "").lower() for each in _MODERATION_PHRASES)
