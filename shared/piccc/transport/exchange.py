"""One call from request to answer: its attempts, its waits, its deadline. Written once for sync and async."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import NoReturn
from urllib.parse import urljoin

from piccc.config import WAYS_OUT, Config, Timeout, origin_of
from piccc.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    PicccError,
    ResponseError,
    SubmissionUnknown,
)
from piccc.record import Attempt, Record
from piccc.redaction import redact
from piccc.transport.budget import COST, COST_WHEN_REFUSED, REFUND, budget_of
from piccc.transport.port import IO, Failure, HTTPRequest, HTTPResponse, Outcome, read_all
from piccc.transport.statuses import outcome_of, request_id, snippet, status_error

logger = logging.getLogger("piccc")

MAX_JSON_BYTES = 32 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
ERROR_BODY_SECONDS = 5.0
FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 20.0
MAX_REDIRECTS = 3


class Kind(Enum):
    """What a call does, and so what may be sent again after which outcome."""

    READ = "read"
    CHAT = "chat"
    SUBMISSION = "submission"


_AGAIN = {
    Kind.READ: {Outcome.NOT_SENT, Outcome.REFUSED, Outcome.FAILED, Outcome.UNKNOWN, Outcome.UNTIMELY},
    Kind.CHAT: {Outcome.NOT_SENT, Outcome.REFUSED, Outcome.FAILED},
    Kind.SUBMISSION: {Outcome.NOT_SENT, Outcome.REFUSED},
}
_MAY_BILL = {Outcome.FAILED, Outcome.UNKNOWN}


@dataclass(slots=True, kw_only=True)
class Call:
    """What is to be sent, and how patiently. `path` begins with `/v1`, or is a URL on the server's origin."""

    kind: Kind
    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: Timeout
    is_stream: bool = False


@dataclass(slots=True)
class Answer:
    """A call's answer: its whole body, or for a stream the open response.

    `started` and `deadline` are on the port's clock.
    """

    response: HTTPResponse
    record: Record
    started: float
    deadline: float | None
    body: bytes = b""


class _Failed(Exception):
    def __init__(self, outcome: Outcome, error: PicccError) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome
        self.error = error


async def exchange(io: IO, config: Config, call: Call) -> Answer:
    """Send until there is an answer; raise the last attempt's error where no other attempt may follow.

    Sends at most `max_retries + 1` times. What the server may have acted on is sent again only if it bills
    nothing (a read), if the server itself said that it broke (chat), or if `retry_unknown` says so.
    """
    run = _Run(io, config, call)
    while True:
        try:
            return await run.attempt()
        except _Failed as failed:
            await run.pause_or_raise(failed)


class _Run:
    def __init__(self, io: IO, config: Config, call: Call) -> None:
        self.io = io
        self.config = config
        self.call = call
        self.url = call.path if "://" in call.path else config.base_url + call.path
        self.started = io.now()
        self.deadline = None if call.timeout.total is None else self.started + call.timeout.total
        self.record = Record(call.method, call.path, io.backend)
        self.budget = budget_of(config.origin)
        self.spent = 0.0
        self.may_bill = False
        self.rotated = False
        self.secrets: list[str] = []

    async def attempt(self) -> Answer:
        began = self.io.now()
        try:
            response = await self._send()
        except Failure as failure:
            self._note(failure.reason, began, None)
            raise self._unanswered(failure) from failure
        try:
            self._note(str(response.status), began, response)
            answer = await self._read(response)
        except BaseException:
            await response.close()
            raise
        self.budget.give(max(self.spent, REFUND))
        return answer

    async def pause_or_raise(self, failed: _Failed) -> None:
        error = failed.error
        self.may_bill = self.may_bill or (failed.outcome in _MAY_BILL and self.call.kind is not Kind.READ)
        rotating = self._may_rotate(error)
        if not (rotating or self._may_repeat(failed)) or len(self.record.attempts) > self.config.max_retries:
            self._raise(failed)
        wait = 0.0 if rotating else self._wait(error)
        if self.deadline is not None and self.io.now() + wait >= self.deadline:
            self._raise(failed)
        cost = COST_WHEN_REFUSED if failed.outcome is Outcome.REFUSED else COST
        if not self.budget.take(cost):
            error.hint = (
                "Too many calls to this server failed lately, so nothing more is sent. Try again later."
            )
            self._raise(failed)
        self.spent += cost
        self.rotated = self.rotated or rotating
        self.record.attempts[-1].waited = wait
        await self.io.sleep(wait)

    async def _send(self) -> HTTPResponse:
        headers = await self._headers()
        for _ in range(MAX_REDIRECTS):
            response = await self.io.send(self._request(headers))
            target = self._redirect(response)
            if target is None:
                return response
            await response.close()
            self.url = target
        return await self.io.send(self._request(headers))

    async def _headers(self) -> list[tuple[str, str]]:
        authorization = await self.config.authorize()
        self.secrets = [value.removeprefix("Bearer ") for _, value in authorization]
        headers = [
            ("accept", "text/event-stream" if self.call.is_stream else "application/json"),
            ("accept-encoding", "identity"),
            *self.config.headers.items(),
            *self.call.headers,
            *authorization,
        ]
        if self.call.body is not None:
            headers.append(("content-type", "application/json"))
        return headers

    def _request(self, headers: list[tuple[str, str]]) -> HTTPRequest:
        timeout = self.call.timeout
        by = self.deadline
        if self.call.is_stream and timeout.first_event is not None:
            first = self.io.now() + timeout.first_event
            by = first if by is None else min(by, first)
        idle = timeout.idle if self.call.is_stream else None
        return HTTPRequest(self.call.method, self.url, headers, self.call.body, timeout.connect, idle, by)

    def _redirect(self, response: HTTPResponse) -> str | None:
        location = response.headers.get("location")
        if self.call.kind is not Kind.READ or not 300 <= response.status < 400 or not location:
            return None
        target = urljoin(self.url, location)
        return target if origin_of(target) == self.config.origin else None

    async def _read(self, response: HTTPResponse) -> Answer:
        answer = Answer(response, self.record, self.started, self.deadline)
        if response.status >= 400:
            raise await self._refused(response)
        if not 200 <= response.status < 300:
            raise self._rejected(response, "The server redirects elsewhere, where your key must not go.")
        if self.call.is_stream:
            if "text/event-stream" in response.headers.get("content-type", ""):
                return answer
            body = await self._snippet(response)
            raise self._rejected(response, "The server answered with something else than a stream.", body)
        try:
            answer.body = await read_all(response, MAX_JSON_BYTES, self.deadline)
        except Failure as failure:
            raise self._unanswered(failure) from failure
        except OverflowError:
            raise self._rejected(response, f"The reply is larger than {MAX_JSON_BYTES} bytes.") from None
        await response.close()
        self.record.bytes_received += len(answer.body)
        self.record.elapsed = self.io.now() - self.started
        return answer

    async def _refused(self, response: HTTPResponse) -> _Failed:
        body = await self._snippet(response)
        error = status_error(response.status, response.headers, body, self.secrets)
        return _Failed(outcome_of(response.status), error)

    async def _snippet(self, response: HTTPResponse) -> bytes:
        by = self.io.now() + ERROR_BODY_SECONDS
        body = b""
        try:
            while len(body) < MAX_ERROR_BYTES and (piece := await response.receive(by)):
                body += piece
        except Failure:
            return body  # the status alone is an answer
        return body[:MAX_ERROR_BYTES]

    def _rejected(self, response: HTTPResponse, message: str, body: bytes = b"") -> _Failed:
        error = ResponseError(
            message,
            hint="Check that base_url is the address of a Piccc API.",
            status=response.status,
            request_id=request_id(response.headers),
            may_have_been_billed=self.call.kind is not Kind.READ and response.status < 300,
            body=snippet(redact(body.decode(errors="replace"), self.secrets)) or None,
        )
        return _Failed(Outcome.REJECTED, error)

    def _unanswered(self, failure: Failure) -> _Failed:
        call, sent = self.call, failure.outcome is Outcome.UNKNOWN
        kind: type[PicccError] = APITimeoutError if failure.timed_out else APIConnectionError
        if sent and call.kind is Kind.SUBMISSION:
            kind = SubmissionUnknown
        reason = redact(failure.reason, self.secrets)
        error = kind(
            f"No answer from {self.config.base_url} to {call.method} {call.path}: {reason}",
            hint=self._advice(sent=sent),
            may_have_been_billed=sent and call.kind is not Kind.READ,
        )
        return _Failed(failure.outcome, error)

    def _advice(self, *, sent: bool) -> str:
        if self.config.is_placeholder:
            return f"No server was named: {self.config.base_url} is a placeholder. {WAYS_OUT}."
        if not sent:
            return f"Nothing was sent. Check the address, the network and the proxy. {WAYS_OUT}."
        if self.call.kind is Kind.READ:
            return "Try again later."
        return "The request was sent, so the server may have acted on it: it was not sent again."

    def _may_repeat(self, failed: _Failed) -> bool:
        headers = failed.error.headers if isinstance(failed.error, APIStatusError) else {}
        if headers.get("x-should-retry", "").lower() == "false":
            return False
        may = failed.outcome in _AGAIN[self.call.kind]
        return may or (self.config.retry_unknown and failed.outcome in _MAY_BILL)

    def _may_rotate(self, error: PicccError) -> bool:
        return error.status == 401 and not self.rotated and not self.config.key.is_fixed

    def _wait(self, error: PicccError) -> float:
        longest = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** (len(self.record.attempts) - 1))
        return max(self.io.random() * longest, error.retry_after or 0.0)

    def _note(self, outcome: str, began: float, response: HTTPResponse | None) -> None:
        elapsed = self.io.now() - began
        id = request_id(response.headers) if response is not None else None
        self.record.attempts.append(Attempt(redact(outcome, self.secrets), elapsed, id))
        if response is not None:
            self.record.rate_limit = {
                name.lower(): value
                for name, value in response.headers.items()
                if name.lower().startswith("x-ratelimit-")
            }
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s %s: %s in %.3f s", self.call.method, self.call.path, outcome, elapsed)

    def _raise(self, failed: _Failed) -> NoReturn:
        error = failed.error
        error.attempts = len(self.record.attempts)
        error.elapsed = self.record.elapsed = self.io.now() - self.started
        error.may_have_been_billed = error.may_have_been_billed or self.may_bill
        error.request_id = error.request_id or self.record.request_id
        error.record = self.record
        raise error from failed.__cause__
