"""Take secrets out of text that people and logs will see."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HIDDEN = "[redacted]"
SHORTEST_SECRET = 6

_PATTERNS = (
    (re.compile(r"pcc_[A-Za-z]+_[A-Za-z0-9_\-]{4,}"), HIDDEN),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=\-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"(?<=://)[^/\s@]+@"), f"{HIDDEN}@"),
)
_SECRET_HEADER = re.compile(
    r"(?!x-ratelimit-|idempotency-key$).*(auth|key|token|secret|cookie|password|signature)", re.IGNORECASE
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace known secrets, everything shaped like a Piccc key, and credentials in headers and URLs."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def secrets_in(headers: Iterable[tuple[str, str]]) -> list[str]:
    """Return the values of secret headers, and what follows a scheme's name in them; the longest first."""
    values = {value for name, value in headers if is_secret_header(name)}
    values |= {value.partition(" ")[2] for value in values}
    return sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)


def is_secret_header(name: str) -> bool:
    """Tell whether a header of this name usually carries a secret."""
    return _SECRET_HEADER.match(name) is not None


def redact_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Copy headers, with the values of those hidden that usually carry a secret."""
    return {name: HIDDEN if is_secret_header(name) else redact(value) for name, value in headers.items()}
