"""What a status and an error body mean, and the reply before a dialect reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from piccc._dialects.common import id_of, parse, server_error, shorten
from piccc._http.backend import HTTPResponse, Outcome
from piccc._http.connections import request_id, retry_after
from piccc.arguments import write_arguments
from piccc.config import is_secret_header, redact, redact_causes, secrets_in
from piccc.conversation import Record
from piccc.errors import (
    SNIPPET_BYTES,
    APIStatusError,
    AuthenticationError,
    ConflictError,
    ContextOverflowError,
    GatewayTimeoutError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    PicccError,
    RateLimitError,
    ServerError,
)
from piccc.tasks import is_moderation

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
    504: (GatewayTimeoutError, Outcome.UNKNOWN, "Send less, or ask for a stream: the gateway did not wait."),
    524: (GatewayTimeoutError, Outcome.UNKNOWN, "Send less, or ask for a stream: the gateway did not wait."),
    529: (OverloadedError, Outcome.REFUSED, "Try again later."),
}
_OTHER_4XX = (InvalidRequestError, Outcome.REJECTED, "Correct the request.")
_5XX = (ServerError, Outcome.FAILED, "Try again later; the provider's status page may say more.")
# As OpenAI, Anthropic, llama.cpp, LiteLLM, vLLM, SGLang, Ollama, Gemini and others word it: see its test.
_OVERFLOW = (  # compiled with the first error: it would take 0.5 ms of every start
    r"(?i:context[ _]?(length|size|window|limit)"
    r"|(input|prompt|messages?)( is| are)? too long"
    r"|maximum (model|prompt|input|sequence) length"
    r"|exceeds the maximum (number of tokens|allowed length|input length)"
    r"|reduce the length of the (input|messages|prompt)"
    r"|range of input length|exceeded model token limit|inputs` tokens \+|tokens in the prompt cannot exceed"
    r"|inputs` must have less than|exceed max_seq_len|token count is \d+ but model only supports"
    r"|too many tokens: size limit exceeded)"
)
_ECHOES = ("body", "ctx", "input", "messages", "params", "prompt", "request")
_NEEDS_TLS = r"(?i)HTTP request (was sent to|to an) HTTPS (port|server)"


def outcome_of(status: int) -> Outcome:
    """Class an error status by what it says of the server's having acted."""
    return _row(status)[1]


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, secrets: Sequence[str] = ()
) -> APIStatusError:
    """Return the error for an answer with an error status."""
    kind, _, hint = _row(status)
    text = redact(body.decode(errors="replace"), secrets)
    message, code = read_error_text(text)
    if kind is InvalidRequestError and re.search(_OVERFLOW, _own_words(text)):
        kind, hint = ContextOverflowError, "Shorten the conversation, or trim its history."
    elif status in (400, 403, 422) and is_moderation(code, _own_words(text)):
        hint = "Moderation refused the request: change what it asks for."
    elif status == 400 and re.search(_NEEDS_TLS, text):
        hint = "The server speaks TLS: begin base_url with https://."
    return kind(
        f"The server said: {message}" if message else "The server gave no reason.",
        hint=hint,
        status=status,
        code=code,
        request_id=request_id(headers, secrets),
        retry_after=retry_after(headers),
        body=snippet(text),
        headers={
            name: redact(value, secrets) for name, value in headers.items() if not is_secret_header(name)
        },
    )


def read_error_text(text: str) -> tuple[str, str | None]:
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
    return shorten(message) if isinstance(message, str) else _plain(_own_words(text)), id_of(body.get("code"))


def _own_words(text: str) -> str:
    """Return an error body without what it quotes of the request, as FastAPI's 422 does in `input`."""
    try:
        body = parse(text)
    except ValueError:
        return text
    return write_arguments(_without_echoes(body)) if isinstance(body, dict | list) else text


def _without_echoes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_echoes(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_echoes(each) for name, each in value.items() if name not in _ECHOES}


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


E = TypeVar("E", bound=PicccError)


@dataclass(slots=True, eq=False)
class RawResponse:
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

    def explain(self, error: E, cause: BaseException | None = None) -> E:
        """Write on an error all that is known of the call; return it, and leave its cause, without a secret.

        The frames it went through are let go of: they hold what the server said, which may echo the key.
        """
        error.__traceback__ = error.__context__ = None
        secrets = secrets_in(self.headers)
        redact_causes(cause, secrets)
        error.message = redact(error.message, secrets)
        error.args = (error.message,)
        error.code = redact(error.code, secrets) if error.code else None
        error.body = snippet(redact(error.body, secrets)) if error.body else None
        error.status = self.response.status
        error.request_id = (
            error.request_id or request_id(self.response.headers, secrets) or self.record.request_id
        )
        error.attempts = len(self.record.attempts)
        error.elapsed = self.record.elapsed
        error.record = self.record
        return error
