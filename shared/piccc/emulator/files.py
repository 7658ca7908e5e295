"""Outputs over HTTP: whole, by range, or only their description."""

from __future__ import annotations

import re
from hashlib import sha256

from starlette.requests import Request
from starlette.responses import Response

from piccc.emulator.problems import Problem

_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def served(request: Request, content: bytes, mime_type: str) -> Response:
    """Return a file, or the range of it that was asked for; a 416 Problem when it has no such range."""
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {"accept-ranges": "bytes", "etag": etag, "cache-control": "private, immutable"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    span = None if request.headers.get("if-range", etag) != etag else _span(request, len(content))
    if span is None:
        return Response(content, media_type=mime_type, headers=headers)
    headers["content-range"] = f"bytes {span.start}-{span.stop - 1}/{len(content)}"
    return Response(content[span.start : span.stop], status_code=206, media_type=mime_type, headers=headers)


def _span(request: Request, length: int) -> range | None:
    """Read a single range; what is not one is ignored, as HTTP says."""
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        span = range(max(0, length - int(last)), length)
    else:
        span = range(int(first), min(length, int(last) + 1 if last else length))
    if not span:
        raise Problem(416, "The file has no such range.", headers={"content-range": f"bytes */{length}"})
    return span
