"""What both dialects do alike with JSON from the wire."""

from __future__ import annotations

import json
import uuid
from typing import Any

from pydantic_core import from_json, to_json

from piccc.errors import InvalidArgumentError, ResponseError


def parse(text: str | bytes) -> Any:
    """Parse JSON; halves of surrogate pairs are kept, so that a later delta can complete them.

    Raise ValueError where it is none.
    """
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)


def serialize(body: Any) -> bytes:
    """Write JSON; raise InvalidArgumentError for what JSON cannot say."""
    try:
        return to_json(body, inf_nan_mode="strings")
    except Exception as error:
        try:
            return json.dumps(body, ensure_ascii=True, allow_nan=False).encode()
        except (TypeError, ValueError):
            raise InvalidArgumentError(
                f"The request cannot be written as JSON: {error}", hint="Give plain JSON values only."
            ) from None


def join_halves(text: str) -> str:
    """Join surrogate pairs that came as two halves, and replace halves without a partner."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def ends_in_half(text: str) -> bool:
    """Tell whether the last character is the first half of a surrogate pair."""
    return "\ud800" <= text[-1:] <= "\udbff"


def text_of(value: Any) -> str:
    """Read a text where null, a string, or a list of text parts may stand."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(
            text_of(each.get("text")) if isinstance(each, dict) else text_of(each) for each in value
        )
    return ""


def count(value: Any) -> int:
    """Read a count where null, a float or nonsense may stand."""
    return int(value) if isinstance(value, int | float) and value == value and value > 0 else 0


def arguments_of(value: Any) -> str:
    """Read a call's arguments where JSON text, an object or null may stand."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def fresh_id() -> str:
    """Make an id for a tool call that came without one."""
    return f"call_{uuid.uuid4().hex[:24]}"


def data_url(data: str, media_type: str | None, fallback: str) -> str:
    """Return base64 data as a data URL."""
    return f"data:{media_type or fallback};base64,{data}"


def server_error(error: Any) -> tuple[str, str | None]:
    """Read message and code where an error object or a string may stand."""
    if isinstance(error, dict):
        code = error.get("code") or error.get("type")
        return text_of(error.get("message")) or "The server gave no reason.", str(code) if code else None
    return str(error), None


def not_a_reply(payload: object) -> ResponseError:
    """Return the error for a reply of the wrong shape."""
    if isinstance(payload, dict) and payload.get("error"):
        message, code = server_error(payload["error"])
        return ResponseError(f"The server answered 200 with an error: {message}", code=code)
    kind = (
        f"an object with {sorted(payload)[:8]}"
        if isinstance(payload, dict)
        else f"a {type(payload).__name__}"
    )
    return ResponseError(
        f"The server's reply is not a chat reply but {kind}.",
        hint="Check that base_url is the address of a Piccc API, and that the dialect is one it speaks.",
        may_have_been_billed=True,
    )
