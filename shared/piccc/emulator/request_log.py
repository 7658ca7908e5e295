"""The request log and charges: bounded, with secrets redacted."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

_LARGE_BODY = 256 * 1024
_LONG_STRING = 1_000
_KEPT_RESPONSE = 64 * 1024
_SECRET_HEADERS = frozenset({"authorization", "x-api-key", "cookie", "proxy-authorization"})
_SECRET = re.compile(rb"\b(?:pcc_(?:live|test)_|whsec_|sk-)[\w+/=-]+")
_REDACTED = "[redacted]"


@dataclass(slots=True)
class RequestRecord:
    """One request and its response; keys are redacted wherever they occur.

    Attributes:
        method, path, query, headers: of the request; header names in lower case.
        started_at: when it arrived, in seconds since 1970 on the emulator's clock.
        request_id: the response's id.
        number: counts requests from 1.
        raw: the JSON body, with very long strings shortened when it is larger than 256 KiB.
        status: the response's status, or None if there was no response.
        model: the requested model, or None.
        prompt_tokens, completion_tokens: of a chat response, or None.
        task_id: the task that was submitted or read, or None.
        fault: the injected faults, or None.
        seconds: the duration until the response ended, or None.
        done: whether the response has ended.
        error, param: the message of an error response and the field at fault, or None.
        raw_response: the first 64 KiB of the response's body; empty for files.
        ignored_fields: top-level fields of the body that the emulator accepted and ignored.
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
    error: str | None = None
    param: str | None = None
    ignored_fields: list[str] = field(default_factory=list)
    raw_response: bytearray = field(default_factory=bytearray, repr=False)

    def keep_response(self, piece: bytes) -> None:
        """Keep a piece of the response's body, up to 64 KiB together.

        Args:
            piece: the next bytes of the body.
        """
        self.raw_response += piece[: max(0, _KEPT_RESPONSE - len(self.raw_response))]

    @property
    def body(self) -> Any:
        """The body as parsed JSON, as text if it is not JSON, or None if it was dropped to save memory."""
        if not self.raw:
            return None
        try:
            return json.loads(self.raw)
        except ValueError:
            return self.raw.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Charge:
    """One billed request: a chat response or an accepted task, whether or not its response arrived.

    Attributes:
        kind: `chat`, `image` or `video`.
        model: the requested model.
        request_id: of the request that was billed.
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


class RequestLog:
    """The latest requests, without secrets; numbers keep counting when old records are dropped.

    Of the bodies, the latest are kept up to `size` bytes.
    """

    def __init__(
        self, secrets: Sequence[str] = (), *, length: int = 1_000, size: int = 64 * 1024 * 1024
    ) -> None:
        self.length = length
        self.count = 0
        self._records: deque[RequestRecord] = deque(maxlen=length)
        self._with_body: deque[RequestRecord] = deque()
        self._size = size
        self._used = 0
        self._own = [re.compile(_pattern(secret)) for secret in secrets if secret]
        # A secret that looks like one is found by that, unless it is written with percent signs.
        self._odd = any(not _SECRET.fullmatch(secret.encode()) for secret in secrets if secret)

    def new(
        self,
        *,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        at: float,
        request_id: str,
    ) -> RequestRecord:
        """Make the record of a request; it is in the log only after `keep`."""
        shown = dict(headers)
        for name in _SECRET_HEADERS & shown.keys():
            shown[name] = _REDACTED
        # One pass over all of it: most requests hold no secret but in these headers.
        path = path.replace("\n", " ")
        told = "\n".join((path, query, *shown.values()))
        if (redacted := self.redacted(told)) != told:
            path, query, *values = redacted.split("\n")
            shown = dict(zip(shown, values, strict=True))
        return RequestRecord(method, path, query, shown, at, request_id)

    def keep(self, record: RequestRecord) -> None:
        """Number a record and append it."""
        self.count += 1
        record.number = self.count
        self._records.append(record)

    def readable(self, body: bytes) -> bytes:
        """Return a body as the log keeps it: without secrets, with long strings cut if it is large."""
        if len(body) > _LARGE_BODY:
            try:
                body = json.dumps(_shortened(json.loads(body)), ensure_ascii=False).encode(errors="replace")
            except (ValueError, RecursionError):
                body = body[:_LARGE_BODY]
        return self._redact(body)

    def keep_body(self, record: RequestRecord, body: bytes) -> None:
        """Keep a readable body, and drop the oldest ones if all are too large together."""
        record.raw = body
        self._used += len(body)
        self._with_body.append(record)
        while self._with_body and (self._used > self._size or len(self._with_body) > self.length):
            oldest = self._with_body.popleft()
            self._used -= len(oldest.raw)
            oldest.raw = b""

    def reset(self) -> None:
        """Forget all requests, and count from 1 again."""
        self.count = self._used = 0
        self._records.clear()
        self._with_body.clear()

    def records(self) -> list[RequestRecord]:
        """Return the records, oldest first."""
        return list(self._records.copy())

    def redacted(self, text: str) -> str:
        """Redact the emulator's own secrets and everything that looks like a key or a webhook secret."""
        return self._redact(text.encode(errors="replace")).decode()

    def _redact(self, raw: bytes) -> bytes:
        for pattern in self._own if self._odd or b"%" in raw else ():
            raw = pattern.sub(_REDACTED.encode(), raw)
        # The pattern takes ten times as long as looking for how its matches begin.
        if b"sk-" in raw or b"pcc_" in raw or b"whsec_" in raw:
            raw = _SECRET.sub(_REDACTED.encode(), raw)
        return raw


def _pattern(secret: str) -> bytes:
    """Return a pattern for a secret as it is, percent-encoded, or inside a JSON string."""
    return b"".join(
        b"(?:%b%b|(?i:%%%02x))" % (rb"\\?" if byte in b'"\\' else b"", re.escape(bytes([byte])), byte)
        for byte in secret.encode()
    )


def _shortened(value: Any) -> Any:
    """Copy JSON with strings of more than 1,000 characters cut, which are images and files as a rule."""
    if isinstance(value, str):
        return value if len(value) <= _LONG_STRING else f"{value[:_LONG_STRING]}… [{len(value)} characters]"
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    return value
