"""Sending a client's requests, with retries under one deadline and a retry budget."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urljoin

from piccc._dialects import Dialect
from piccc._dialects.common import LargeBody, parse, request_body, serialize
from piccc._dialects.reader import as_events
from piccc._dialects.tasks import read_error, read_task
from piccc._http.backend import Backend, Failure, HTTPRequest, HTTPResponse, Outcome
from piccc._http.backends import read_all
from piccc._http.chat_stream import StreamParser
from piccc._http.connections import earliest, request_id
from piccc._http.responses import (
    WEB_PAGE,
    RawResponse,
    Reread,
    is_web_page,
    outcome_of,
    read_error_text,
    status_error,
)
from piccc.config import (
    Config,
    Rate,
    Timeout,
    as_timeout,
    check_headers,
    origin_of,
    redact,
    redact_causes,
    secrets_in,
    ways_out,
)
from piccc.conversation import Attempt, ChatReply, ChatRequest, Record
from piccc.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ConfigurationError,
    InvalidArgumentError,
    LedgerError,
    PicccError,
    ResponseError,
    ResponseLostError,
    SubmissionUnknown,
)
from piccc.tasks import Task

CAPACITY = 500.0
COST = 14.0
COST_WHEN_REFUSED = 5.0
REFUND = 1.0


class RetryBudget:
    """A token bucket: retries take tokens, successes return them."""

    def __init__(self, capacity: float = CAPACITY) -> None:
        self._capacity = capacity
        self._tokens = capacity
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether no tokens are missing."""
        return self._tokens >= self._capacity

    def take(self, cost: float) -> bool:
        """Take the tokens for one retry; return False, taking none, if too few are left."""
        with self._lock:
            if self._tokens < cost:
                return False
            self._tokens -= cost
            return True

    def give(self, amount: float) -> None:
        """Return tokens after a success: the cost of its retries, or at least a few."""
        if self._tokens < self._capacity:
            with self._lock:
                self._tokens = min(self._capacity, self._tokens + amount)


MAX_BUDGETS = 256
_budgets: dict[tuple[str, str, int], RetryBudget] = {}


def budget_of(origin: tuple[str, str, int]) -> RetryBudget:
    """Return the budget that all clients in this process share for a server."""
    budget = _budgets.get(origin)
    if budget is None:
        if len(_budgets) >= MAX_BUDGETS:  # a full budget is no different from a new one
            for other, unused in list(_budgets.items()):
                if unused.is_full:
                    _budgets.pop(other, None)
        budget = _budgets.setdefault(origin, RetryBudget())
    return budget


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_budgets.clear)


logger = logging.getLogger("piccc")

MAX_JSON_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
ERROR_BODY_SECONDS = 5.0
_EVENT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:data|event|id|retry)?:")
"""The start of server-sent events, which some servers send with another content type."""
FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 20.0
LONGEST_WAIT = 600.0
"""The longest `retry-after`, in seconds, that a call without a deadline waits for."""
MAX_REDIRECTS = 3
ROTATION_SECONDS = 0.2
"""The shortest wait before fetching the key again after the server refused it."""
STALE = "stale connection"


# `re` compiles these at the first error; at import they would take 0.6 ms.
_CAUSES = (
    # OpenSSL's errors if a plain HTTP server answers its ClientHello.
    (
        "WRONG_VERSION_NUMBER|record layer failure|packet length too long",
        "The server does not speak TLS: start base_url with http://.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "The server's certificate is not trusted: set SSL_CERT_FILE to its authority's certificate.",
    ),
    (
        "NO_CERTIFICATE_OR_CRL_FOUND|No such file or directory",
        "SSL_CERT_FILE or SSL_CERT_DIR contains no certificates: correct it.",
    ),
    # A TLS server's alert in response to plain HTTP.
    ("speaks TLS", "Start base_url with https://."),
)
_MAYBE_TLS = (
    "without a response|without sending a response|reset by peer|aborted|forcibly closed|illegal request line"
)
"""Errors with which a TLS port may refuse plain HTTP: a disconnect, or h11's error for a TLS alert."""


class Retryability(Enum):
    """The kind of a call, which determines the outcomes that allow a retry."""

    READ = "read"
    CHAT = "chat"
    SUBMISSION = "submission"


_RETRYABLE = {
    Retryability.READ: {Outcome.NOT_SENT, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN, Outcome.UNTIMELY},
    Retryability.CHAT: {Outcome.NOT_SENT, Outcome.REFUSED, Outcome.FAILED},
    Retryability.SUBMISSION: {Outcome.NOT_SENT, Outcome.REFUSED},
}


_NOT_FOUND = {
    Retryability.READ: "Check the task's id, and base_url.",
    Retryability.CHAT: "Check the model's name, and base_url.",
    Retryability.SUBMISSION: "Check the model's name, and base_url.",
}


@dataclass(slots=True, eq=False, kw_only=True)
class APICall:
    """A call to send. `path` starts with `/v1`, or is a URL on the server's origin.

    `plainer` takes an error's text and returns a simpler body to send instead, or None.
    """

    kind: Retryability
    method: str
    path: str
    body: bytes | LargeBody | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: Timeout
    is_stream: bool = False
    plainer: Callable[[str], bytes | LargeBody | None] | None = field(default=None, repr=False)
    before_sending: Callable[[], Awaitable[None]] | None = None


@dataclass(slots=True, eq=False)
class _Failed:
    """A failed attempt and its error."""

    outcome: Outcome
    error: PicccError
    cause: BaseException | None = None


async def send_with_retries(io: Backend, config: Config, call: APICall) -> RawResponse:
    """Send until an attempt succeeds; raise the last attempt's error if no retry is allowed.

    Sends at most `max_retries + 1` times. A request that the server may have acted on is sent again only if
    it costs nothing (a read) or `retry_unknown` is set.
    """
    run = _RetryState(io, config, call)
    while isinstance(result := await run.attempt(), _Failed):
        wait = run.wait_after(result)
        if wait is None:
            raise run.completed(result) from result.cause
        await io.sleep(wait)
    return result


_proxy: Any = None
"""The OpenTelemetry API's proxy provider, while no provider is set."""


def telemetry() -> ModuleType | None:
    """Return `piccc.telemetry` if the program has set up OpenTelemetry, else None.

    Every call checks, so without a provider this must be almost free and import nothing.
    """
    known = sys.modules.get("piccc.telemetry")
    if known is not None and known.instruments is not None:
        return known
    # Libraries import the API, and LangSmith the SDK, in programs that use neither.
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    # Without a provider, the API looks up its name in the environment at each call, which takes 0.8 µs. The
    # proxy that it returns takes 0.3 µs: until there is a provider, its tracers are proxies too.
    global _proxy
    if isinstance(provider := _proxy or api.get_tracer_provider(), api.ProxyTracerProvider):
        _proxy = provider
        if isinstance(provider.get_tracer("piccc"), api.ProxyTracer):
            return None
        _proxy = None
    from piccc import telemetry as module

    return module if module.enable() else None


def _in_event_loop() -> bool:
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


class _RetryState:
    def __init__(self, io: Backend, config: Config, call: APICall) -> None:
        self.io = io
        self.config = config
        self.call = call
        self.url = config.base_url + call.path if call.path.startswith("/") else call.path
        if origin_of(self.url) != config.origin:
            raise InvalidArgumentError(
                f"A URL is not on {config.base_url}.", hint="Your key is sent to that server only."
            )
        self.body = call.body
        self.headers: list[tuple[str, str]] = []
        self.started = self.sent = io.now()
        self.deadline = None if call.timeout.total is None else self.started + call.timeout.total
        self.record = Record(call.method, call.path.partition("?")[0], io.backend)
        self.budget = budget_of(config.origin)
        self.spent = 0.0
        self.may_bill = False
        self.has_rotated = False
        self.queued = 0.0
        self.tries = 0
        """The number of attempts, not counting repeats after a stale connection."""

    async def attempt(self) -> RawResponse | _Failed:
        """Send once and read the response."""
        self.tries += 1
        try:
            if self.config.rate is not None:
                await self._permit(self.config.rate)
            self.headers = await self._headers()
        except PicccError as error:
            return _Failed(Outcome.HOPELESS, error, error.__cause__)
        self.sent = self.io.now()
        self.queued = 0.0
        try:
            response = await self._send()
        except Failure as failure:
            self._record(failure.reason, None)
            return self._no_response(failure)
        except PicccError as error:
            return _Failed(Outcome.HOPELESS, error, error.__cause__)
        result = None
        try:
            self._record(str(response.status), response)
            result = await self._read(response)
            return result
        finally:
            if not (self.call.is_stream and isinstance(result, RawResponse)):
                await response.close()

    async def _permit(self, rate: Rate) -> None:
        """Wait for the rate limit; raise APITimeoutError if that would pass the deadline.

        Reads continue if a shared rate limit cannot be reached; polling slows down then.
        """
        while (wait := await self._take(rate)) > 0:
            if self.deadline is not None and self.io.now() + wait >= self.deadline:
                raise APITimeoutError(
                    "The deadline passes before the rate limit allows this request.",
                    hint="Nothing was sent. Raise the rate limit or the timeout.",
                )
            await self.io.sleep(wait)

    async def _take(self, rate: Rate) -> float:
        try:
            return await self.io.run(rate.take)
        except LedgerError:
            if self.call.kind is Retryability.READ:
                return 0.0
            raise

    def wait_after(self, failed: _Failed) -> float | None:
        """Return the seconds to wait before a retry, None if none is allowed."""
        if failed.outcome is Outcome.UNKNOWN and self.call.kind is not Retryability.READ:
            self.may_bill = True
        if self.tries > self.config.max_retries:
            return None
        rotates = self._rotates(failed.error)
        is_free = rotates or self._gets_plainer(failed.error)
        # A vault may return the new key slightly after the server starts refusing the old one.
        pause = ROTATION_SECONDS * (1 + self.io.random()) if rotates else 0.0
        wait = pause if is_free else self._backoff(failed)
        if wait is None or (self.deadline is not None and self.io.now() + wait >= self.deadline):
            return None
        if not is_free and not self._pay(failed):
            return None
        self.record.attempts[-1].waited = wait
        return wait

    def completed(self, failed: _Failed) -> PicccError:
        """Return the last attempt's error with the details of all attempts."""
        error = failed.error
        error.is_retryable = self._may_repeat(failed)
        error.attempts = len(self.record.attempts)
        error.elapsed = self.record.elapsed = self.io.now() - self.started
        error.may_have_been_billed = error.may_have_been_billed or self.may_bill
        error.request_id = error.request_id or self.record.request_id
        error.record = self.record
        return error

    async def _send(self) -> HTTPResponse:
        for _ in range(MAX_REDIRECTS):
            response = await self._exchange()
            target = self._redirect(response)
            if target is None:
                return response
            await response.close()
            self.url = target
        return await self._exchange()

    async def _exchange(self) -> HTTPResponse:
        request = self._request()
        try:
            return await self.io.send(request)
        finally:
            self.queued += request.notes.queued
            if request.notes.stale is not None:
                self.may_bill = self.may_bill or self.call.kind is not Retryability.READ
                self.record.attempts.append(Attempt(STALE, request.notes.stale))

    async def _headers(self) -> list[tuple[str, str]]:
        headers = {
            "accept": "text/event-stream" if self.call.is_stream else "application/json",
            "accept-encoding": "identity",
        }
        if self.body is not None:
            headers["content-type"] = "application/json"
        headers.update(await self._authorization())
        headers.update({name.lower(): value for name, value in self.config.headers.items()})
        headers.update({name.lower(): value for name, value in self.call.headers})
        return list(headers.items())

    async def _authorization(self) -> list[tuple[str, str]]:
        """Return the headers with the key; raise APITimeoutError if the deadline passes first."""
        if self.config.key.is_fixed or self.deadline is None:
            return await self.config.authorize(self.io.run)
        left = self.deadline - self.io.now()
        # Only a coroutine on an event loop can be interrupted.
        with suppress(TimeoutError):
            async with asyncio.timeout(left) if _in_event_loop() else nullcontext():
                headers = await self.config.authorize(self.io.run)
            if self.io.now() < self.deadline:
                return headers
        raise APITimeoutError(
            "The deadline passed before the api_key function returned a key.",
            hint="Nothing was sent. Make the function faster, or raise the timeout.",
        )

    def _request(self) -> HTTPRequest:
        timeout = self.call.timeout
        idle = timeout.idle if self.call.is_stream else None
        return HTTPRequest(
            self.call.method,
            self.url,
            self.headers,
            self.body,
            timeout.connect,
            idle,
            self._headers_by(),
            # The server may close an idle connection just now, which would leave the outcome unknown.
            # So a call that may bill is repeated at most once for a stale connection.
            fresh=self.call.kind is Retryability.SUBMISSION or self.may_bill,
            max_connections=self.config.max_connections,
            before_sending=self.call.before_sending,
        )

    def _headers_by(self) -> float | None:
        """Return the deadline for the response headers."""
        timeout, bound = self.call.timeout, None
        if self.call.is_stream:
            bound = timeout.first_event
        elif self.call.kind is Retryability.READ and timeout.total is not None:
            # A read may be repeated, so one that hangs must leave time for retries.
            bound = timeout.total / (self.config.max_retries + 1)
        return earliest(None if bound is None else self.sent + bound, self.deadline)

    def _redirect(self, response: HTTPResponse) -> str | None:
        location = response.headers.get("location")
        if self.call.kind is not Retryability.READ or not 300 <= response.status < 400 or not location:
            return None
        try:
            target = urljoin(self.url, location)
        except ValueError:
            return None
        return target if origin_of(target) == self.config.origin else None

    async def _read(self, response: HTTPResponse) -> RawResponse | _Failed:
        raw = RawResponse(response, self.record, self.headers, self.started, self.sent, self.deadline)
        if response.status >= 400:
            body = await self._snippet(response)
            error = status_error(response.status, response.headers, body, secrets_in(self.headers))
            if response.status == 404:
                error.hint = _NOT_FOUND[self.call.kind]
            elif self.call.kind is Retryability.READ and outcome_of(response.status) is Outcome.UNKNOWN:
                error.hint = self._advice(sent=True)  # a read changes nothing
            if response.status == 429 and self.config.rate is not None:
                # If others cannot be held back, this call still waits before its retry.
                with suppress(PicccError):
                    await self.io.run(self.config.rate.block, error.retry_after or FIRST_BACKOFF)
            return self._refused(error, outcome_of(response.status))
        if not 200 <= response.status < 300:
            return self._rejected(raw, "The server redirects to an address that is not followed.")
        if self.call.is_stream:
            return await self._stream(raw)
        try:
            raw.body = await read_all(response, MAX_JSON_BYTES, self.deadline)
        except Failure as failure:
            return self._no_response(failure)
        except OverflowError:
            return self._rejected(raw, f"The response is larger than {MAX_JSON_BYTES} bytes.")
        self.record.bytes_received += len(raw.body)
        self.record.elapsed = self.io.now() - self.started
        self.budget.give(max(self.spent, REFUND))
        return raw

    def _refused(self, error: APIStatusError, outcome: Outcome) -> _Failed:
        # A task may have been created and billed before the server failed; only 503 and 529 rule that out.
        if self.call.kind is not Retryability.SUBMISSION or outcome not in (Outcome.FAILED, Outcome.UNKNOWN):
            return _Failed(outcome, error)
        lost = SubmissionUnknown(**{**vars(error), "hint": self._advice(sent=True)})
        return _Failed(Outcome.UNKNOWN, lost)

    async def _stream(self, raw: RawResponse) -> RawResponse | _Failed:
        if "text/event-stream" not in raw.response.headers.get("content-type", "").lower():
            try:
                start = await raw.response.receive(self._headers_by())
                if start.lstrip().startswith(b"{"):  # some servers ignore `stream` and send a whole reply
                    start += await read_all(raw.response, MAX_JSON_BYTES, self.deadline)
            except Failure as failure:
                return self._no_response(failure)
            except OverflowError:
                return self._rejected(raw, f"The response is larger than {MAX_JSON_BYTES} bytes.")
            events = start if _EVENT.match(start) else as_events(start)
            if not events:
                return await self._no_stream(raw, start)
            raw.response = Reread(raw.response, events)
        self.budget.give(max(self.spent, REFUND))
        return raw

    async def _no_stream(self, raw: RawResponse, start: bytes) -> _Failed:
        body = (start + await self._snippet(raw.response))[:MAX_ERROR_BYTES].decode(errors="replace")
        if is_web_page(body):
            return self._rejected(raw, WEB_PAGE, body)
        text = read_error_text(body)[0] if body.strip() else "an empty body"
        return self._rejected(raw, f"The server did not return a stream: {text}", body)

    async def _snippet(self, response: HTTPResponse) -> bytes:
        by = earliest(self.io.now() + ERROR_BODY_SECONDS, self.deadline)
        body = b""
        try:
            while len(body) < MAX_ERROR_BYTES and (piece := await response.receive(by)):
                body += piece
        except Failure:
            return body  # the status is enough
        return body[:MAX_ERROR_BYTES]

    def _rejected(self, raw: RawResponse, message: str, body: str = "") -> _Failed:
        # A 303 points to the result of what the server has done (RFC 9110, section 15.4.4).
        is_done = raw.response.status < 300 or raw.response.status == 303
        may_have_acted = self.call.kind is not Retryability.READ and is_done
        lost = may_have_acted and self.call.kind is Retryability.SUBMISSION
        error = (SubmissionUnknown if lost else ResponseError)(
            message,
            hint="Check that base_url is the URL of a Piccc API.",
            may_have_been_billed=may_have_acted,
            body=body,
        )
        return _Failed(Outcome.REJECTED, raw.explain(error))

    def _no_response(self, failure: Failure) -> _Failed:
        call, sent, secrets = self.call, failure.outcome is Outcome.UNKNOWN, secrets_in(self.headers)
        kind: type[PicccError] = APIConnectionError
        if sent and call.kind is Retryability.SUBMISSION:
            kind = SubmissionUnknown
        elif failure.timed_out:
            kind = APITimeoutError
        elif sent and call.kind is Retryability.CHAT:
            kind = ResponseLostError
        error = kind(
            f"No response from {self.config.base_url} to {call.method} {self.record.path}: "
            f"{redact(failure.reason, secrets)}",
            hint=failure.hint or self._advice(sent=sent, reason=failure.reason),
        )
        redact_causes(failure.__cause__, secrets)
        is_hopeless = self.config.is_placeholder and not sent
        return _Failed(Outcome.HOPELESS if is_hopeless else failure.outcome, error, failure.__cause__)

    def _advice(self, *, sent: bool, reason: str = "") -> str:
        if self.config.is_placeholder:
            return f"No server is configured: {self.config.base_url} is a placeholder. {ways_out()}"
        if not sent:
            general = "Check base_url, the network and the proxy; `piccc doctor` helps."
            hint = next((hint for pattern, hint in _CAUSES if re.search(pattern, reason)), general)
            return f"Nothing was sent. {hint}"
        is_plain = self.url.startswith("http://") and re.search(_MAYBE_TLS, reason)
        tls = " If the server speaks TLS, start base_url with https://." if is_plain else ""
        if self.call.kind is Retryability.READ:
            return f"Try again later.{tls}"
        acted = "The server may have acted on the request"
        if self.config.retry_unknown:
            return f"{acted}.{tls}"
        return f"{acted}, so it was not sent again. retry_unknown=True sends it again anyway.{tls}"

    def _rotates(self, error: PicccError) -> bool:
        if error.status != 401 or self.has_rotated or self.config.key.is_fixed:
            return False
        self.has_rotated = True
        return True

    def _gets_plainer(self, error: PicccError) -> bool:
        if self.call.plainer is None or error.status not in (400, 422):
            return False
        body = self.call.plainer(f"{error.message} {error.body}")
        if body is None or body == self.body:
            return False
        self.body = body
        return True

    def _backoff(self, failed: _Failed) -> float | None:
        """Return how long to wait before a retry, None if none is allowed."""
        retry_after = failed.error.retry_after or 0.0
        if not self._may_repeat(failed) or (self.deadline is None and retry_after > LONGEST_WAIT):
            return None
        longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (self.tries - 1))
        return max(self.io.random() * longest, retry_after)

    def _may_repeat(self, failed: _Failed) -> bool:
        """Return whether the call may be sent again, now or by the code that catches the error."""
        headers = getattr(failed.error, "headers", {})
        if headers.get("x-should-retry", "").lower() == "false":
            return False
        may_bill_twice = failed.outcome is Outcome.UNKNOWN and self.config.retry_unknown
        return may_bill_twice or failed.outcome in _RETRYABLE[self.call.kind]

    def _pay(self, failed: _Failed) -> bool:
        cost = COST_WHEN_REFUSED if failed.outcome is Outcome.REFUSED else COST
        if not self.budget.take(cost):
            failed.error.hint = (
                "Too many calls to this server failed recently, so nothing more is sent. Try again later."
            )
            return False
        self.spent += cost
        return True

    def _record(self, outcome: str, response: HTTPResponse | None) -> None:
        elapsed, secrets = self.io.now() - self.sent, secrets_in(self.headers)
        if response is None:
            outcome = redact(outcome, secrets)
            self.record.attempts.append(Attempt(outcome, elapsed, queued=self.queued))
        else:
            identifier = request_id(response.headers, secrets)
            self.record.attempts.append(Attempt(outcome, elapsed, identifier, queued=self.queued))
            self.record.rate_limit = {
                name.lower(): redact(value, secrets)
                for name, value in response.headers.items()
                if name.lower().startswith("x-ratelimit-")
            }
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s %s: %s in %.3f s", self.call.method, self.record.path, outcome, elapsed)


T = TypeVar("T")

READ_SECONDS = 30.0
LARGE_BODY = 1024 * 1024
"""Bytes from which a response is parsed in a worker thread, not on the event loop."""


class Session:
    """The calls of one client; every method is a coroutine over the backend."""

    def __init__(self, config: Config, io: Backend) -> None:
        self.config = config
        self.io = io
        self.is_closed = False
        self.token_limits: dict[tuple[str, str], int] = {}
        telemetry()  # its first import reads files, which would block an event loop

    def __reduce__(self) -> tuple[Any, ...]:
        # A backend holds sockets, so the copy gets a new one of the same class.
        return (_rebuild, (self.config, type(self.io)))

    async def chat(
        self,
        dialect: Dialect,
        request: ChatRequest,
        timeout: float | Timeout | None = None,
        *,
        is_traced: bool = False,
    ) -> ChatReply:
        """Return a complete reply; `is_traced` means that the framework's instrumentation has a span."""
        observer = telemetry()
        span = observer and not is_traced and observer.chat(self.config, request, is_stream=False)
        if not span:
            return await self._chat(dialect, request, timeout)
        with span:
            reply = await self._chat(dialect, request, timeout)
        span.completed(reply)
        return reply

    async def _chat(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None
    ) -> ChatReply:
        exchange = _ChatExchange(self, dialect, request, is_stream=False)
        raw = await exchange.send(timeout)
        try:
            reply = dialect.decode(await self._json(raw, Retryability.CHAT), exchange.sent.names)
        except PicccError as error:
            wrong = raw.explain(error)
        else:
            reply.record = raw.record
            return reply
        raise wrong

    async def stream(
        self,
        dialect: Dialect,
        request: ChatRequest,
        timeout: float | Timeout | None = None,
        *,
        is_traced: bool = False,
    ) -> tuple[RawResponse, StreamParser]:
        """Open a stream and return it with its parser; `is_traced` as in `chat`."""
        observer = telemetry()
        span = observer and not is_traced and observer.chat(self.config, request, is_stream=True)
        if not span:
            return await self._stream(dialect, request, timeout)
        with span:
            raw, parser = await self._stream(dialect, request, timeout)
        parser.span = span
        return raw, parser

    async def _stream(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None
    ) -> tuple[RawResponse, StreamParser]:
        exchange = _ChatExchange(self, dialect, request, is_stream=True)
        raw = await exchange.send(timeout)
        limits = as_timeout(timeout, self.config.timeout)
        return raw, StreamParser(self.io, raw, dialect.reader(exchange.sent.names), limits)

    async def submit(
        self,
        path: str,
        body: Mapping[str, Any],
        key: str,
        *,
        seconds: float | None = None,
        retries: int | None = None,
        before_sending: Callable[[], Awaitable[None]] | None = None,
    ) -> Task:
        """Submit a task and return it; raise SubmissionUnknown if the response contains no task.

        The key is sent as `Idempotency-Key`, but nothing relies on the server honouring it. An error in a 200
        response is raised as if it were its status. `seconds` limits the call, by default to the client's
        timeout. `before_sending` is awaited before each attempt, once its connection is open.
        """
        call = APICall(
            kind=Retryability.SUBMISSION,
            method="POST",
            path=path,
            body=serialize(body),
            headers=(("idempotency-key", key),),
            timeout=_bounded(self.config.timeout, seconds),
            before_sending=before_sending,
        )
        observer = telemetry()
        if observer is None:
            return (await self._submit(call, retries))[0]
        with observer.Submission(self.config, path, body) as span:
            task, record = await self._submit(call, retries)
            span.submitted(task, record)
        return task

    async def _submit(self, call: APICall, retries: int | None) -> tuple[Task, Record]:
        raw = await self._send(call, retries)
        payload = await self._json(raw, call.kind)
        wrong = _error_in(payload, raw, call.kind)
        if wrong is None:
            try:
                return read_task(payload), raw.record
            except ResponseError as error:
                wrong = raw.explain(SubmissionUnknown(**{**vars(error), "may_have_been_billed": True}))
        del payload  # an error's frames must not hold the server's text, which may echo the key
        raise wrong

    async def read(
        self,
        path: str,
        decode: Callable[[object], T],
        *,
        seconds: float = READ_SECONDS,
        retries: int | None = None,
    ) -> tuple[T, Mapping[str, str]]:
        """Return the content and headers of a path or a URL on the server's origin, within `seconds`."""
        timeout = _bounded(self.config.timeout, seconds)
        call = APICall(kind=Retryability.READ, method="GET", path=path, timeout=timeout)
        raw = await self._send(call, retries)
        payload = await self._json(raw, Retryability.READ)
        wrong = _error_in(payload, raw, Retryability.READ)
        if wrong is None:
            try:
                return decode(payload), raw.response.headers
            except ResponseError as error:
                wrong = raw.explain(error)
        del payload  # as in submit
        raise wrong

    async def probe(self, method: str, path: str, *, seconds: float) -> Mapping[str, str]:
        """Send a request, with an empty object as a POST's body; return the response headers."""
        call = APICall(
            kind=Retryability.READ,
            method=method,
            path=path,
            body=b"{}" if method == "POST" else None,
            timeout=replace(self.config.timeout, total=seconds),
        )
        raw = await self._send(call)
        await self._json(raw, call.kind)
        return raw.response.headers

    async def close(self) -> None:
        """Close the connections; later calls fail."""
        self.is_closed = True
        await self.io.close()

    async def _send(self, call: APICall, retries: int | None = None) -> RawResponse:
        if self.is_closed:
            raise ConfigurationError(
                "The client is closed.", hint="Create a new one; clients share connections, so it is cheap."
            )
        try:
            self.io.now()
        except RuntimeError:
            no_loop = ConfigurationError(
                "An asynchronous client needs a running asyncio event loop.",
                hint="Call it inside asyncio.run(...), or use piccc.Client. "
                "Under trio, call the blocking client in trio.to_thread.run_sync.",
            )
        else:
            # The caller has already called `telemetry` for its span; calling it again would cost 1 µs.
            observer = None if call.kind is Retryability.READ else sys.modules.get("piccc.telemetry")
            if observer is not None:
                call.headers = (*call.headers, *observer.trace_headers())
            config = self.config if retries is None else replace(self.config, max_retries=retries)
            return await send_with_retries(self.io, config, call)
        raise no_loop

    async def _json(self, raw: RawResponse, kind: Retryability) -> object:
        try:
            if len(raw.body) > LARGE_BODY and b"\\ud" not in raw.body:
                return await self.io.run(partial(parse, raw.body, slowly=True))
            return parse(raw.body)
        except ValueError:
            wrong = _not_json(raw, kind)
        raise wrong


def _bounded(timeout: Timeout, seconds: float | None) -> Timeout:
    return replace(timeout, total=earliest(timeout.total, seconds))


def _error_in(payload: object, raw: RawResponse, kind: Retryability) -> PicccError | None:
    """Return the error in a 200 response to a media request, as if it were its status, or None."""
    details = read_error(payload)
    if details is None:
        return None
    status, message, code = details
    body = serialize({"error": {"message": message, "code": code}})
    error: PicccError = status_error(status, raw.response.headers, body)
    if kind is Retryability.SUBMISSION and outcome_of(status) in (Outcome.FAILED, Outcome.UNKNOWN):
        error = SubmissionUnknown(**{**vars(error), "may_have_been_billed": True})
    error.body = raw.body.decode(errors="replace")
    raw.explain(error).status = status
    return error


def _not_json(raw: RawResponse, kind: Retryability) -> PicccError:
    text = raw.body.decode(errors="replace")
    what = "empty" if not text.strip() else "not JSON"
    error = (SubmissionUnknown if kind is Retryability.SUBMISSION else ResponseError)(
        WEB_PAGE if is_web_page(text) else f"The server's response is {what}.",
        hint="Check that base_url is the URL of a Piccc API.",
        may_have_been_billed=kind is not Retryability.READ,
        body=text,
    )
    return raw.explain(error)


def _rebuild(config: Config, backend: type[Backend]) -> Session:
    return Session(config, backend())


class _ChatExchange:
    """A chat request, adapted and sent again if the server refuses an option."""

    def __init__(self, session: Session, dialect: Dialect, request: ChatRequest, *, is_stream: bool) -> None:
        check_headers(request.extra_headers)
        self._session = session
        self._dialect = dialect
        self._request = request
        self._is_stream = is_stream
        self._is_limited = False
        self.sent = dialect.encode(request, stream=is_stream)
        if (limit := session.token_limits.get(self._model)) is not None:
            self._limit(limit)

    async def send(self, timeout: float | Timeout | None) -> RawResponse:
        """Send the request; return the response, with any adaptations in its record."""
        session = self._session
        call = APICall(
            kind=Retryability.CHAT,
            method="POST",
            path=self._dialect.path,
            body=request_body(self.sent.body),
            headers=(*self._dialect.headers, *self._request.extra_headers.items()),
            timeout=as_timeout(timeout, session.config.timeout),
            is_stream=self._is_stream,
            plainer=self._adapt,
        )
        try:
            raw = await session._send(call)
        except PicccError as error:
            if error.record is not None:
                error.record.adapted = [*self.sent.adapted]
            raise
        raw.record.adapted = [*self.sent.adapted]
        return raw

    def _adapt(self, refusal: str) -> bytes | LargeBody | None:
        """Return another body if the refusal says what to change, else None.

        Older servers refuse the option that requests usage. Others state their maximum of output tokens; it
        is used once, unless the caller set `max_tokens`, and remembered for the model.
        """
        if "stream_options" in refusal and self.sent.body.pop("stream_options", None):
            return request_body(self.sent.body)
        limit, is_of_model = _token_limit(refusal)
        if self._is_limited or not self._limit(limit):
            return None
        self._is_limited = True
        if is_of_model:
            self._session.token_limits[self._model] = limit
        return request_body(self.sent.body)

    @property
    def _model(self) -> tuple[str, str]:
        return self._dialect.name, self._request.model

    def _limit(self, limit: int) -> bool:
        """Apply a limit that the server stated; return whether that changes anything."""
        request, sent = self._request, self.sent.body.get("max_tokens")
        is_default = request.max_tokens is None and "max_tokens" not in request.extra_body
        if not is_default or sent is None or not 0 < limit < sent:
            return False
        encoded = self._dialect.encode(replace(request, max_tokens=limit), stream=self._is_stream)
        note = f"max_tokens is {limit}: the server takes no more"
        self.sent = replace(encoded, adapted=(*encoded.adapted, note))
        return True


# Error messages that state the model's limit (assumed; typed from public reports).
_MODEL_LIMIT = (
    r"(?i)max_tokens: \d+ > (\d+)"  # Anthropic: "max_tokens: 16384 > 8192, which is the maximum allowed …"
    r"|at most (\d+) (?:completion|output) tokens"  # OpenAI
    r"|max_tokens[^.]{0,60}?(?:less than or equal to|<=|at most|up to|\[1,) ?(\d+)"  # DeepSeek and others
    r"|exceeds the model limit of (\d+)"  # Bedrock
)
# vLLM's error if prompt and answer together are too long: the context window, then the prompt's tokens.
_CONTEXT_LIMIT = (
    r"> (\d+) - (\d+)\)|maximum context length is (\d+) tokens.{0,80}?(\d+) in the (?:messages|prompt)"
)


def _token_limit(refusal: str) -> tuple[int, bool]:
    """Return the output limit that a refusal states, else 0, and whether it is the model's own."""
    if match := re.search(_MODEL_LIMIT, refusal):
        return int(next(number for number in match.groups() if number)), True
    if match := re.search(_CONTEXT_LIMIT, refusal):
        window, prompt = (int(number) for number in match.groups() if number)
        return window - prompt, False
    return 0, False
