"""Error responses mapped to exceptions, and the raw response that a dialect decodes."""

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

WEB_PAGE = "The server returned a web page instead of an API response."
_GATEWAY_TIMEOUT = (
    "The server may have acted on it: check before you retry. "
    "A smaller request, or streaming, may avoid this."
)
ERRORS: dict[int, tuple[type[APIStatusError], Outcome, str]] = {
    400: (InvalidRequestError, Outcome.REJECTED, "Correct the request."),
    401: (AuthenticationError, Outcome.REJECTED, "Check the key: pass api_key= or set PICCC_API_KEY."),
    402: (PaymentRequiredError, Outcome.REJECTED, "Top up the account."),
    403: (PermissionDeniedError, Outcome.REJECTED, "Use a key with permission for this."),
    404: (NotFoundError, Outcome.REJECTED, "Check the model's name, the task's id, and base_url."),
    408: (InvalidRequestError, Outcome.UNTIMELY, "Try again."),
    409: (ConflictError, Outcome.REJECTED, "Resolve the conflict that the message describes."),
    413: (InvalidRequestError, Outcome.REJECTED, "Make the request smaller."),
    422: (InvalidRequestError, Outcome.REJECTED, "Correct the request."),
    425: (InvalidRequestError, Outcome.UNTIMELY, "Try again."),
    429: (RateLimitError, Outcome.REFUSED, "Wait `retry_after` seconds, or send fewer requests at once."),
    503: (OverloadedError, Outcome.REFUSED, "Try again later."),
    504: (GatewayTimeoutError, Outcome.UNKNOWN, _GATEWAY_TIMEOUT),
    524: (GatewayTimeoutError, Outcome.UNKNOWN, _GATEWAY_TIMEOUT),
    529: (OverloadedError, Outcome.REFUSED, "Try again later."),
}
_OTHER_4XX = (InvalidRequestError, Outcome.REJECTED, "Correct the request.")
_5XX = (ServerError, Outcome.FAILED, "Try again later, and check the provider's status page.")
# The wording of OpenAI, Anthropic, llama.cpp, LiteLLM, vLLM, SGLang, Ollama, Gemini and others: see its test.
_OVERFLOW = (  # compiled at the first error: it would add 0.5 ms to every start
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
    """Return whether a server that sent this error status may have acted on the request."""
    return _row(status)[1]


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, secrets: Sequence[str] = ()
) -> APIStatusError:
    """Return the error for a response with an error status."""
    kind, _, hint = _row(status)
    text = redact(body.decode(errors="replace"), secrets)
    message, code = read_error_text(text)
    if kind is InvalidRequestError and re.search(_OVERFLOW, _without_quotes(text)):
        kind, hint = ContextOverflowError, "Shorten the conversation, or trim its history."
    elif status in (400, 403, 422) and is_moderation(code, _without_quotes(text)):
        hint = "Moderation refused the request: change the prompt or its media."
    elif status == 400 and re.search(_NEEDS_TLS, text):
        hint = "The server speaks TLS: start base_url with https://."
    elif is_web_page(text):
        hint = f"{hint} Is base_url the API's address?"
    said = f"The server said: {message}" if message else "The server gave no reason."
    return kind(
        WEB_PAGE if is_web_page(text) else said,
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
    """Return an error body's message and code: either envelope, `{code, msg}`, `{detail}`, or text."""
    try:
        body = parse(text)
    except ValueError:
        return shorten(text, 200), None
    if not isinstance(body, dict):
        return shorten(text, 200), None
    if error := body.get("error"):
        return server_error(error)
    message = next((body[name] for name in ("message", "msg", "detail") if body.get(name)), None)
    return shorten(message) if isinstance(message, str) else shorten(_without_quotes(text), 200), id_of(
        body.get("code")
    )


def _without_quotes(text: str) -> str:
    """Return an error body without the parts that echo the request, such as `input` in FastAPI's 422."""
    try:
        body = parse(text)
    except ValueError:
        return text
    return write_arguments(_without_echoes(body)) if isinstance(body, dict | list) else text


def _without_echoes(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_echoes(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_echoes(item) for name, item in value.items() if name not in _ECHOES}


def snippet(text: str) -> str:
    """Return the first 1 KB of a text."""
    return text.encode(errors="replace")[:SNIPPET_BYTES].decode(errors="ignore")


def _row(status: int) -> tuple[type[APIStatusError], Outcome, str]:
    if status in ERRORS:
        return ERRORS[status]
    return _5XX if status >= 500 else _OTHER_4XX


def is_web_page(text: str) -> bool:
    """Return whether a body is HTML, which no route of the API returns."""
    return text.lstrip()[:1] == "<"


E = TypeVar("E", bound=PicccError)


class Reread:
    """A response of which the first bytes were read and are returned again."""

    def __init__(self, response: HTTPResponse, first: bytes) -> None:
        self.status, self.headers = response.status, response.headers
        self.close, self.abandon = response.close, response.abandon
        self._first, self._response = first, response

    async def receive(self, by: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise Failure on an error or when `by` passes."""
        first, self._first = self._first, b""
        return first or await self._response.receive(by)


@dataclass(slots=True, eq=False)
class RawResponse:
    """A successful call's response: its whole body, or for a stream the open response.

    `started` (the call), `sent` (its last attempt) and `deadline` are on the backend's clock.
    """

    response: HTTPResponse
    record: Record
    headers: Sequence[tuple[str, str]] = field(repr=False)
    started: float
    sent: float
    deadline: float | None
    body: bytes = field(default=b"", repr=False)

    def explain(self, error: E, cause: BaseException | None = None) -> E:
        """Add the call's details to an error and return it; redact secrets in it and its cause.

        Its traceback is dropped: those frames hold the server's text, which may echo the key.
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
