"""Images and documents as they go onto the wire: with their real types, found by content."""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from piccc.conversation import File, Image
from piccc.errors import InvalidArgumentError
from piccc.tasks import content_type_of, mime_type_of

_HEAD = 64  # bytes that tell the type of an image


@dataclass(frozen=True, slots=True)
class Inline:
    """Content that goes along with the request, as base64 `data`; `text` is what it says if it is text."""

    media_type: str
    data: str
    text: str | None = None

    @property
    def url(self) -> str:
        """The content as a data URL."""
        return f"data:{self.media_type};base64,{self.data}"


def image_source(part: Image) -> Inline | str:
    """Return an image's address or its content, with the type that it has, whatever it was declared.

    Raise InvalidArgumentError where there is no image, or its type is neither known nor declared.
    """
    source = _source(part, "An image")
    if isinstance(source, str):
        return source
    found = mime_type_of(_decode(source.data[: 4 * _HEAD], "An image")[:_HEAD])
    media_type = found if found and found.startswith("image/") else source.media_type
    if not media_type:
        raise InvalidArgumentError(
            "The type of an image is not known.",
            hint="Check that it is an image, and declare its type, such as media_type='image/png'.",
        )
    return Inline(media_type, source.data)


def document_source(part: File) -> Inline | str:
    """Return a document's address or its content, with the type that it has, whatever it was declared.

    A type that is neither known nor declared is `application/octet-stream`. Raise InvalidArgumentError where
    there is no document.
    """
    source = _source(part, "A file")
    if isinstance(source, str):
        return source
    content, declared = _decode(source.data, "A file"), source.media_type
    found = content_type_of(content)
    if found == "text/plain" or (found is None and declared.startswith("text/")):
        text = content.decode(errors="replace")
        return Inline(declared if _may_be_text(declared) else "text/plain", source.data, text)
    return Inline(found or declared or "application/octet-stream", source.data)


def _may_be_text(media_type: str) -> bool:
    kind, _, form = media_type.partition("/")
    return kind == "text" or (kind == "application" and form not in ("pdf", "octet-stream"))


def _source(part: Image | File, what: str) -> Inline | str:
    declared, data = part.media_type or "", part.data
    if part.url and part.url.startswith("data:"):
        head, _, data = part.url.removeprefix("data:").partition(",")
        declared = head.partition(";")[0] or declared
        if not head.endswith(";base64"):
            data = b64encode(unquote_to_bytes(data)).decode()
    elif part.url:
        return part.url
    if not data:
        raise InvalidArgumentError(f"{what} is empty.", hint="Give it data as base64, or a url.")
    return Inline(declared, "".join(data.split()))


def _decode(data: str, what: str) -> bytes:
    try:
        return b64decode(data, validate=True)
    except ValueError:
        raise InvalidArgumentError(f"{what}'s data is not base64.", hint="Encode its bytes first.") from None
