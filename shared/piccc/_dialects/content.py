"""Images and documents for the wire, with their actual media types, detected from the content."""

from __future__ import annotations

import string
from base64 import b64decode, b64encode
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass, replace
from urllib.parse import unquote_to_bytes

from piccc._dialects.common import LargeText, large
from piccc.conversation import File, Image
from piccc.errors import InvalidArgumentError
from piccc.tasks import content_type_of, mime_type_of

_HEAD = 64  # the first bytes of an image, enough to detect its type


@dataclass(slots=True)
class Inline:
    """Content embedded in the request, as base64 `data`."""

    media_type: str
    data: str
    is_text: bool = False
    original: str = ""
    """The data URL that the caller passed, if any."""

    @property
    def text(self) -> str | None:
        """The content as a string, or None if it is not text; raises InvalidArgumentError if not Unicode."""
        return _decode_text(b64decode(self.data)) if self.is_text else None

    @property
    def url(self) -> str | LargeText:
        """The content as a data URL: the original if it is equal, to avoid a large copy."""
        head = f"data:{self.media_type};base64,"
        is_same = self.original.startswith(head) and len(self.original) == len(head) + len(self.data)
        return large(self.original) if is_same else large(head, self.data)


def image_source(part: Image) -> Inline | str:
    """Return an image's URL, or its content with its detected type, which overrides the declared one.

    Raise InvalidArgumentError if it is not an image, or if its type is neither detected nor declared.
    """
    source = _source(part, "An image")
    if isinstance(source, str):
        return source
    media_type = source.media_type
    detected = mime_type_of(_decode(source.data[: 4 * _HEAD], "An image")[:_HEAD])
    if detected is None:
        content = _decode(source.data, "An image")
        detected = content_type_of(content)
        if detected == "text/plain" and (media_type.startswith("image/svg") or content.lstrip()[:1] != b"<"):
            detected = None  # otherwise it is a web page, such as a 404 page
    if detected and not detected.startswith("image/"):
        raise InvalidArgumentError(
            f"An image has {detected} content.", hint="Pass it as a File, or check its bytes."
        )
    media_type = detected or media_type
    if not media_type:
        raise InvalidArgumentError(
            "The media type of an image is unknown.",
            hint="Check that it is an image, and declare its type, such as media_type='image/png'.",
        )
    return replace(source, media_type=media_type)


def document_source(part: File) -> Inline | str:
    """Return a document's URL, or its content with its detected type, which overrides the declared one.

    If the type is neither detected nor declared, it is `application/octet-stream`. Raise InvalidArgumentError
    if there is no document.
    """
    source = _source(part, "A file")
    if isinstance(source, str):
        return source
    content, declared = _decode(source.data, "A file"), source.media_type
    detected = content_type_of(content)
    if detected == "text/plain" or (detected is None and declared.startswith("text/")):
        return Inline(declared if _may_be_text(declared) else "text/plain", source.data, is_text=True)
    if detected is None and declared == "application/pdf" and b"%PDF-" not in content[:1024]:
        declared = ""  # PDF readers accept a header that is not at the very start, but not a missing one
    return Inline(detected or declared or "application/octet-stream", source.data)


def _decode_text(content: bytes) -> str:
    is_wide = content.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidArgumentError("A text file is not UTF-8.", hint="Convert it to UTF-8.") from None


def _may_be_text(media_type: str) -> bool:
    kind, _, form = media_type.partition("/")
    return kind == "text" or (kind == "application" and form not in ("pdf", "octet-stream"))


def _source(part: Image | File, what: str) -> Inline | str:
    declared, data = part.media_type or "", part.data
    url = part.url or ""
    if url[:5].lower() == "data:":
        head, _, data = url[5:].partition(",")
        declared = head.partition(";")[0] or declared
        if not head.endswith(";base64"):
            data = b64encode(unquote_to_bytes(data)).decode()
    elif url:
        scheme, has_scheme, _ = url.partition(":")
        if not has_scheme or not scheme.isalnum() or scheme.lower() == "file":
            raise InvalidArgumentError(
                f"{what}'s url is not one that the server can fetch: {url[:60]!r}.",
                hint="Pass an https:// URL, or the content as base64 in data.",
            )
        return url
    if not data:
        raise InvalidArgumentError(f"{what} is empty.", hint="Pass base64 data, or a url.")
    if any(char in data for char in string.whitespace):  # ten times as fast as always splitting a large image
        data = "".join(data.split())
    return Inline(declared, data, original=url)


def _decode(data: str, what: str) -> bytes:
    try:
        return b64decode(data, validate=True)
    except ValueError:
        raise InvalidArgumentError(f"{what}'s data is not base64.", hint="Encode the bytes first.") from None
