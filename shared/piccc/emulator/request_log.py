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
    """One request and its response, with keys redacted everywhere.

    Attributes:
        method, path, query, headers: the request's; header names in lower case.
        started_at: when it arrived, in seconds since 1970 on the emulator's clock.
        request_id: the response's request id.
        number: the request's number, from 1.
        raw: the JSON body; if it is larger than 256 KiB, long strings are shortened.
        status: the response's status, or None without a response.
        model: the requested model, or None.
        prompt_tokens, completion_tokens: a chat response's token counts, or None.
        task_id: the task that was submitted or read, or None.
        fault: the injected faults, or None.
        seconds: the time until the response ended, or None.
        done: whether the response has ended.
        error, param: an error response's message and the field at fault, or None.
        raw_response: the first 64 KiB of the response body; empty for files.
        ignored_fields: top-level fields of the body that the emulator accepted but ignored.
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
        """Append a piece of the response body, up to 64 KiB in total.

        Args:
            piece: the next bytes of the body.
        """
        self.raw_response += piece[: max(0, _KEPT_RESPONSE - len(self.raw_response))]

    @property
    def body(self) -> Any:
        """The body as parsed JSON, as text if it is not JSON, or None if dropped to save memory."""
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
        request_id: the billed request's id.
        at: when it was billed, in seconds since 1970 on the emulator's clock.
        task_id: the task, or None for chat.
        prompt_tokens, completion_tokens: token counts of a chat response.
    """

    kind: Literal["chat", "image", "video"]
    model: str
    request_id: str
    at: float
    task_id: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the charge as JSON data."""
        return asdict(self)


class RequestLog:
    """The latest requests, without secrets. Numbering continues when old records are dropped.

    The latest bodies are kept, up to `size` bytes.
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
        # The pattern for keys already finds secrets that look like keys, unless they are percent-encoded.
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
        """Create a request's record; `keep` adds it to the log."""
        shown = dict(headers)
        for name in _SECRET_HEADERS & shown.keys():
            shown[name] = _REDACTED
        # One pass over everything: most requests have secrets only in these headers.
        path = path.replace("\n", " ")
        text = "\n".join((path, query, *shown.values()))
        if (redacted := self.redacted(text)) != text:
            path, query, *values = redacted.split("\n")
            shown = dict(zip(shown, values, strict=True))
        return RequestRecord(method, path, query, shown, at, request_id)

    def keep(self, record: RequestRecord) -> None:
        """Number a record and append it."""
        self.count += 1
        record.number = self.count
        self._records.append(record)

    def readable(self, body: bytes) -> bytes:
        """Return a body without secrets and, if it is large, with long strings shortened."""
        if len(body) > _LARGE_BODY:
            try:
                body = json.dumps(_shortened(json.loads(body)), ensure_ascii=False).encode(errors="replace")
            except (ValueError, RecursionError):
                body = body[:_LARGE_BODY]
        return self._redact(body)

    def keep_body(self, record: RequestRecord, body: bytes) -> None:
        """Store a readable body, and drop the oldest ones if the total exceeds the limit."""
        record.raw = body
        self._used += len(body)
        self._with_body.append(record)
        while self._with_body and (self._used > self._size or len(self._with_body) > self.length):
            oldest = self._with_body.popleft()
            self._used -= len(oldest.raw)
            oldest.raw = b""

    def reset(self) -> None:
        """Remove all requests and restart numbering at 1."""
        self.count = self._used = 0
        self._records.clear()
        self._with_body.clear()

    def records(self) -> list[RequestRecord]:
        """Return the records, oldest first."""
        return list(self._records.copy())

    def redacted(self, text: str) -> str:
        """Redact the emulator's secrets and anything that looks like a key or webhook secret."""
        return self._redact(text.encode(errors="replace")).decode()

    def _redact(self, raw: bytes) -> bytes:
        for pattern in self._own if self._odd or b"%" in raw else ():
            raw = pattern.sub(_REDACTED.encode(), raw)
        # Searching for these prefixes is ten times faster than the pattern.
        if b"sk-" in raw or b"pcc_" in raw or b"whsec_" in raw:
            raw = _SECRET.sub(_REDACTED.encode(), raw)
        return raw


def _pattern(secret: str) -> bytes:
    """Return a pattern for a secret in plain form, percent-encoded or in a JSON string."""
    return b"".join(
        b"(?:%b%b|(?i:%%%02x))" % (rb"\\?" if byte in b'"\\' else b"", re.escape(bytes([byte])), byte)
        for byte in secret.encode()
    )


def _shortened(value: Any) -> Any:
    """Copy JSON with strings over 1,000 characters shortened, usually images and files."""
    if isinstance(value, str):
        return value if len(value) <= _LONG_STRING else f"{value[:_LONG_STRING]}… [{len(value)} characters]"
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    return value
