"""What an HTTP status means: which error it is, and whether the server can have acted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from piccc.dialects.wire import id_of, parse, server_error, shorten
from piccc.errors import (
    SNIPPET_BYTES,
    APIStatusError,
    AuthenticationError,
    ConflictError,
    ContextOverflowError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
)
from piccc.redaction import is_secret_header, redact
from piccc.transport.port import Outcome
from piccc.transport.retry_after import retry_after

ERRORS: dict[int, tuple[type[APIStatusError], Outcome, str]] = {
    400: (InvalidRequestError, Outcome.REJECTED, "Correct the request."),
    401: (AuthenticationError, Outcome.REJECTED, "Check the key: pass api_key= or set PICCC_API_KEY."),
    402: (PaymentRequiredError, Outcome.REJECTED, "Top up the account."),
    403: (PermissionDeniedError, Outcome.REJECTED, "Use a key that may do this."),
    404: (NotFoundError, Outcome.REJECTED, "Check the model's name, the task's id, and base_url."),
    408: (InvalidRequestError, Outcome.UNTIMELY, "Try again."),
    409: (ConflictError, Outcome.REJECTED, "Look at what the request conflicts with."),
    413: (InvalidRequestError, Outcome.REJECTED, "Send less: the request is too large."),
    422: (InvalidRequestError, Outcome.REJECTED, "Correct the request."),
    425: (InvalidRequestError, Outcome.UNTIMELY, "Try again."),
    429: (RateLimitError, Outcome.REFUSED, "Wait as long as retry_after says, or send less at once."),
    503: (OverloadedError, Outcome.REFUSED, "Try again later."),
    529: (OverloadedError, Outcome.REFUSED, "Try again later."),
}
_OTHER_4XX = (InvalidRequestError, Outcome.REJECTED, "Correct the request.")
_5XX = (ServerError, Outcome.FAILED, "Try again later; the provider's status page may say more.")
_OVERFLOW_WORDS = (
    "context_length_exceeded",
    "maximum context length",
    "prompt is too long",
    "context window",
)


def outcome_of(status: int) -> Outcome:
    """Class an error status by what it says of the server's having acted."""
    return _row(status)[1]


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, secrets: Sequence[str] = ()
) -> APIStatusError:
    """Return the error for an answer with an error status."""
    kind, _, hint = _row(status)
    text = redact(body.decode(errors="replace"), secrets)
    message, code = read_error(text)
    if kind is InvalidRequestError and any(word in text.lower() for word in _OVERFLOW_WORDS):
        kind, hint = ContextOverflowError, "Shorten the conversation, or trim its history."
    return kind(
        f"The server said: {message}" if message else "The server gave no reason.",
        hint=hint,
        status=status,
        code=code,
        request_id=request_id(headers),
        retry_after=retry_after(headers),
        body=snippet(text),
        headers={
            name: redact(value, secrets) for name, value in headers.items() if not is_secret_header(name)
        },
    )


def read_error(text: str) -> tuple[str, str | None]:
    """Read message and code of an error body: either envelope, `{code, msg}`, `{detail}`, text or HTML."""
    try:
        body = parse(text)
    except ValueError:
        return _plain(text), None
    if not isinstance(body, dict):
        return _plain(text), None
    if error := body.get("error"):
        return server_error(error)
    message = next((body[name] for name in ("message", "msg", "detail") if body.get(name)), None)
    return shorten(message) if isinstance(message, str) else _plain(text), id_of(body.get("code"))


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the server's id of a request."""
    return headers.get("x-request-id") or headers.get("request-id")


def snippet(text: str) -> str:
    """Return at most 1 KB of a text."""
    return text.encode(errors="replace")[:SNIPPET_BYTES].decode(errors="ignore")


def _row(status: int) -> tuple[type[APIStatusError], Outcome, str]:
    if status in ERRORS:
        return ERRORS[status]
    return _5XX if status >= 500 else _OTHER_4XX


def _plain(text: str) -> str:
    if text.lstrip()[:1] == "<":
        return "a web page instead of an API reply. Is base_url the API's address?"
    return shorten(text, 200)
