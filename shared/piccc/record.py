"""The diagnostic record of one call: what was sent, what came, what was waited for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Attempt:
    """One sending of a request.

    Attributes:
        outcome: the HTTP status as text, or what went wrong; `stale connection` where the server had closed
            an idle connection and the request was sent once more on a fresh one, which is no retry.
        elapsed: seconds until the outcome was known.
        request_id: the server's id of it, or None.
        waited: seconds slept afterwards, before the next attempt.
        queued: seconds spent waiting for one of `max_connections`.
    """

    outcome: str
    elapsed: float
    request_id: str | None = None
    waited: float = 0.0
    queued: float = 0.0


@dataclass(slots=True)
class Record:
    """What one call did; it is on every reply and on every error.

    Attributes:
        method, path: of the request.
        backend: what sent it, with its version: `h11` (our own connections), `httpx` or `httpx2`.
        attempts: each sending of it, in order.
        bytes_received: of the reply's body.
        time_to_first_event: seconds from the call's beginning to a stream's first event, or None.
        elapsed: seconds of the whole call.
        rate_limit: the reply's `x-ratelimit-*` headers (assumed, may be empty).
        adapted: what was changed of what was asked for, so that the server takes it, in words.
    """

    method: str = ""
    path: str = ""
    backend: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    bytes_received: int = 0
    time_to_first_event: float | None = None
    elapsed: float = 0.0
    rate_limit: dict[str, str] = field(default_factory=dict)
    adapted: list[str] = field(default_factory=list)

    @property
    def request_id(self) -> str | None:
        """The server's id of the last attempt that had one."""
        return next((each.request_id for each in reversed(self.attempts) if each.request_id), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON data."""
        return {
            **_fields(self),
            "attempts": [_fields(each) for each in self.attempts],
            "rate_limit": dict(self.rate_limit),
            "adapted": list(self.adapted),
        }


def _fields(value: Attempt | Record) -> dict[str, Any]:
    # `asdict` copies each leaf with care, which every reply would pay for.
    return {name: getattr(value, name) for name in value.__slots__}
