"""What came with a message: the kind and size of an image, a file or a sound, read from its bytes."""

from __future__ import annotations

import base64
import binascii
import io
import mimetypes
from typing import Literal

from piccc.emulator.conversation import Medium
from piccc.emulator.problems import Problem

Kind = Literal["image", "file", "audio"]


def from_url(kind: Kind, url: str, *, param: str, name: str | None = None) -> Medium:
    """Read a data URL; any other URL is noticed, never fetched."""
    if not url.startswith("data:"):
        mime_type = mimetypes.guess_type(url.partition("?")[0])[0] or f"{kind}/*"
        return Medium(kind, mime_type, name=name or url.partition("?")[0].rsplit("/", 1)[-1] or None)
    head, _, data = url[len("data:") :].partition(",")
    mime_type = head.partition(";")[0] or "text/plain"
    return from_base64(kind, mime_type, data, param=param, name=name)


def from_base64(kind: Kind, mime_type: str, data: str, *, param: str, name: str | None = None) -> Medium:
    """Read base64 data; a 400 Problem naming the field when it is none."""
    try:
        raw = base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, f"{param}: is not valid base64.", code="invalid_value", param=param) from None
    width, height = _dimensions(raw, param) if kind == "image" else (None, None)
    return Medium(kind, mime_type, size=len(raw), name=name, width=width, height=height)


def _dimensions(raw: bytes, param: str) -> tuple[int, int]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(raw)) as image:
            return image.size
    except (UnidentifiedImageError, OSError):
        raise Problem(400, f"{param}: is not an image.", code="invalid_image", param=param) from None
