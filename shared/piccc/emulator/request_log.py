"""What was asked of the emulator and what it charged for: bounded, and without a secret."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

_LENGTH = 1_000
_BODY_LIMIT = 16_384
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "cookie", "proxy-authorization"})
_SECRET = re.compile(rb"\b(?:pcc_(?:live|test)_|whsec_|sk-)[\w+/=-]+")
_REDACTED = "[redacted]"


@dataclass(slots=True)
class RequestRecord:
    """One request as it was received and answered; keys are redacted wherever they stood.

    Attributes:
        method, path, query, headers: of the request; the headers' names are in lower case.
        started_at: when it came, in seconds since 1970 on the emulator's clock.
        request_id: the id that the reply had.
        number: counts requests from 1.
        raw: the body, or its length alone where that is above 16 KiB.
        status: the reply's status, or None where there is none.
        model: the model that was asked, or None.
        prompt_tokens, completion_tokens: what a chat reply counted, or None.
        task_id: the task that was submitted, or None.
        fault: what was provoked, or None.
        seconds: how long the whole reply took, or None.
        done: whether the reply has ended.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    started_at: float
    request_id: str
    number: int = 0
    raw: bytes = field(default=b"", repr=False)
    status: int | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    task_id: str | None = None
    fault: str | None = None
    seconds: float | None = None
    done: bool = False

    def keep(self, body: bytes) -> None:
        """Keep the body, unless it is larger than 16 KiB."""
        self.raw = _redact(body) if len(body) <= _BODY_LIMIT else f"[{len(body)} bytes]".encode()

    @property
    def body(self) -> Any:
        """Return the body as parsed JSON, or as text when it is none."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return self.raw.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Charge:
    """One billable act: a chat reply, or an accepted task, whether or not its answer arrived.

    Attributes:
        kind: `chat`, `image` or `video`.
        model: the model that was asked.
        request_id: of the request that it was for.
        at: when, in seconds since 1970 on the emulator's clock.
        task_id: the task, or None for chat.
        prompt_tokens, completion_tokens: of chat.
    """

    kind: Literal["chat", "image", "video"]
    model: str
    request_id: str
    at: float
    task_id: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the charge as plain values."""
        return asdict(self)


def record_of(
    *, method: str, path: str, query: str, headers: Iterable[tuple[str, str]], at: float, request_id: str
) -> RequestRecord:
    """Begin the record of a request."""
    return RequestRecord(
        method=method,
        path=redacted(path),
        query=redacted(query),
        headers={name: _header(name, value) for name, value in headers},
        started_at=at,
        request_id=request_id,
    )


@dataclass(slots=True)
class RequestLog:
    """Keep the latest requests; what falls out of the window is forgotten, its number is not."""

    length: int = _LENGTH
    count: int = 0
    _records: deque[RequestRecord] = field(init=False)

    def __post_init__(self) -> None:
        self._records = deque(maxlen=self.length)

    def keep(self, record: RequestRecord) -> None:
        """Number a record and keep it."""
        self.count += 1
        record.number = self.count
        self._records.append(record)

    def records(self) -> list[RequestRecord]:
        """Return the records, oldest first."""
        return list(self._records.copy())


def redacted(text: str) -> str:
    """Blot out whatever looks like a key or a webhook secret."""
    return _redact(text.encode(errors="replace")).decode()


def _redact(raw: bytes) -> bytes:
    return _SECRET.sub(_REDACTED.encode(), raw)


def _header(name: str, value: str) -> str:
    return _REDACTED if name.lower() in _SECRET_HEADERS else redacted(value)
