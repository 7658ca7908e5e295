"""What a call brought: the reply under way, and all that is known of how it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from piccc.errors import PicccError
from piccc.record import Record
from piccc.redaction import redact, secrets_in
from piccc.transport.port import HTTPResponse
from piccc.transport.statuses import request_id, snippet

E = TypeVar("E", bound=PicccError)


@dataclass(slots=True)
class Answer:
    """A call's answer: its whole body, or for a stream the open response.

    `started` (of the call), `sent` (of its last attempt) and `deadline` are on the port's clock.
    """

    response: HTTPResponse
    record: Record
    headers: Sequence[tuple[str, str]] = field(repr=False)
    started: float
    sent: float
    deadline: float | None
    body: bytes = field(default=b"", repr=False)

    def explain(self, error: E) -> E:
        """Write on an error all that is known of the call, and return it without a secret.

        The frames it went through are let go of: they hold what the server said, which may echo the key.
        """
        error.__traceback__ = error.__context__ = None
        secrets = secrets_in(self.headers)
        error.message = redact(error.message, secrets)
        error.args = (error.message,)
        error.code = redact(error.code, secrets) if error.code else None
        error.body = snippet(redact(error.body, secrets)) if error.body else None
        error.status = self.response.status
        error.request_id = error.request_id or request_id(self.response.headers) or self.record.request_id
        error.attempts = len(self.record.attempts)
        error.elapsed = self.record.elapsed
        error.record = self.record
        return error
