"""What can be asked of one server with one key over one port: coroutines that sync and async both drive."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from piccc._dialects import Dialect
from piccc._dialects.json_text import parse, serialize
from piccc._dialects.tasks import read_error, read_task
from piccc._http.backend import Backend, Outcome
from piccc._http.chat_stream import StreamParser
from piccc._http.responses import RawResponse, outcome_of, status_error
from piccc._http.retry import APICall, Retryability, send_with_retries
from piccc.config import Config, Timeout, as_timeout, check_headers
from piccc.conversation import ChatReply, ChatRequest
from piccc.errors import ConfigurationError, PicccError, ResponseError, SubmissionUnknown
from piccc.tasks import Task

T = TypeVar("T")

READ_SECONDS = 30.0
LARGE_BODY = 1024 * 1024
"""Bytes from which a reply is parsed beside the event loop and not on it."""


class Session:
    """Ask the server; every method is a coroutine over the port."""

    def __init__(self, config: Config, io: Backend) -> None:
        self.config = config
        self.io = io
        self.is_closed = False
        self.token_limits: dict[tuple[str, str], int] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # A port holds sockets: what is loaded gets a fresh one of its kind.
        return (_rebuild, (self.config, type(self.io)))

    async def chat(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None = None
    ) -> ChatReply:
        """Ask for a whole reply."""
        exchange = _Exchange(self, dialect, request, is_stream=False)
        answer = await exchange.send(timeout)
        try:
            reply = dialect.decode(await self._json(answer, Retryability.CHAT), exchange.sent.names)
        except PicccError as error:
            wrong = answer.explain(error)
        else:
            reply.record = answer.record
            return reply
        raise wrong

    async def stream(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None = None
    ) -> tuple[RawResponse, StreamParser]:
        """Ask for a stream; return it open, with the machine that reads it."""
        exchange = _Exchange(self, dialect, request, is_stream=True)
        answer = await exchange.send(timeout)
        bounds = as_timeout(timeout, self.config.timeout)
        return answer, StreamParser(self.io, answer, dialect.reader(exchange.sent.names), bounds)

    async def submit(
        self,
        path: str,
        body: Mapping[str, Any],
        key: str,
        *,
        seconds: float | None = None,
        retries: int | None = None,
    ) -> Task:
        """Submit a task and return it; raise SubmissionUnknown where no answer came that is a task.

        The key goes along as `Idempotency-Key`; that a server heeds it is not relied on. An error in a reply
        of 200 is raised as if its status said so. `seconds` bounds it, by default the client's timeout.
        """
        config = self.config if retries is None else replace(self.config, max_retries=retries)
        call = APICall(
            kind=Retryability.SUBMISSION,
            method="POST",
            path=path,
            body=serialize(body),
            headers=(("idempotency-key", key),),
            timeout=_bounded(config.timeout, seconds),
        )
        answer = await self._send(call, config)
        payload = await self._json(answer, call.kind)
        wrong = _refusal_in(payload, answer, call.kind)
        if wrong is None:
            try:
                return read_task(payload)
            except ResponseError as error:
                wrong = answer.explain(SubmissionUnknown(**{**vars(error), "may_have_been_billed": True}))
        del payload  # an error's frames must not hold what the server said: it may echo the key
        raise wrong

    async def read(
        self,
        path: str,
        decode: Callable[[object], T],
        *,
        seconds: float = READ_SECONDS,
        retries: int | None = None,
    ) -> tuple[T, Mapping[str, str]]:
        """Read a path or a URL on the server's origin in at most `seconds`; return content and headers."""
        config = self.config if retries is None else replace(self.config, max_retries=retries)
        timeout = _bounded(config.timeout, seconds)
        call = APICall(kind=Retryability.READ, method="GET", path=path, timeout=timeout)
        answer = await self._send(call, config)
        payload = await self._json(answer, Retryability.READ)
        wrong = _refusal_in(payload, answer, Retryability.READ)
        if wrong is None:
            try:
                return decode(payload), answer.response.headers
            except ResponseError as error:
                wrong = answer.explain(error)
        del payload  # as in submit
        raise wrong

    async def probe(self, method: str, path: str, *, seconds: float) -> Mapping[str, str]:
        """Send a request with an empty object where it has a body; return the reply's headers."""
        call = APICall(
            kind=Retryability.READ,
            method=method,
            path=path,
            body=b"{}" if method == "POST" else None,
            timeout=replace(self.config.timeout, total=seconds),
        )
        answer = await self._send(call)
        await self._json(answer, call.kind)
        return answer.response.headers

    async def close(self) -> None:
        """Close the connections; no call can be made afterwards."""
        self.is_closed = True
        await self.io.close()

    async def _send(self, call: APICall, config: Config | None = None) -> RawResponse:
        if self.is_closed:
            raise ConfigurationError(
                "The client is closed.", hint="Make another one: connections are shared, so it costs little."
            )
        try:
            self.io.now()
        except RuntimeError:
            no_loop = ConfigurationError(
                "An asynchronous client needs a running asyncio event loop.",
                hint="Under trio, call the blocking client in trio.to_thread.run_sync.",
            )
        else:
            return await send_with_retries(self.io, config or self.config, call)
        raise no_loop

    async def _json(self, answer: RawResponse, kind: Retryability) -> object:
        try:
            if len(answer.body) > LARGE_BODY and b"\\ud" not in answer.body:
                return await self.io.run(partial(parse, answer.body, slowly=True))
            return parse(answer.body)
        except ValueError:
            wrong = _not_json(answer, kind)
        raise wrong


def _bounded(timeout: Timeout, seconds: float | None) -> Timeout:
    if seconds is None:
        return timeout
    return replace(timeout, total=seconds if timeout.total is None else min(timeout.total, seconds))


def _refusal_in(payload: object, answer: RawResponse, kind: Retryability) -> PicccError | None:
    """Return the error that a reply of 200 to a media request carries, as if its status said so."""
    found = read_error(payload)
    if found is None:
        return None
    status, message, code = found
    body = serialize({"error": {"message": message, "code": code}})
    error: PicccError = status_error(status, answer.response.headers, body)
    if kind is Retryability.SUBMISSION and outcome_of(status) in (Outcome.FAILED, Outcome.UNKNOWN):
        error = SubmissionUnknown(**{**vars(error), "may_have_been_billed": True})
    error.body = answer.body.decode(errors="replace")
    answer.explain(error).status = status
    return error


def _not_json(answer: RawResponse, kind: Retryability) -> PicccError:
    text = answer.body.decode(errors="replace")
    what = "empty" if not text.strip() else "a web page" if text.lstrip()[:1] == "<" else "not JSON"
    error = (SubmissionUnknown if kind is Retryability.SUBMISSION else ResponseError)(
        f"The server's reply is {what}.",
        hint="Check that base_url is the address of a Piccc API.",
        may_have_been_billed=kind is not Retryability.READ,
        body=text,
    )
    return answer.explain(error)


def _rebuild(config: Config, port: type[Backend]) -> Session:
    return Session(config, port())


class _Exchange:
    """One chat request, sent as it was asked for, or once more as the server can take it."""

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
        """Send it; return the answer, with what was adapted in its record."""
        session = self._session
        call = APICall(
            kind=Retryability.CHAT,
            method="POST",
            path=self._dialect.path,
            body=serialize(self.sent.body),
            headers=(*self._dialect.headers, *self._request.extra_headers.items()),
            timeout=as_timeout(timeout, session.config.timeout),
            is_stream=self._is_stream,
            plainer=self._again,
        )
        try:
            answer = await session._send(call)
        except PicccError as error:
            if error.record is not None:
                error.record.adapted = [*self.sent.adapted]
            raise
        answer.record.adapted = [*self.sent.adapted]
        return answer

    def _again(self, refusal: str) -> bytes | None:
        """Return another body where the refusal says what to change, None where it does not.

        An older server refuses the option that asks for usage. A smaller one names the most tokens that an
        answer may have: that is used once if nobody asked for a number, and remembered for the model.
        """
        if "stream_options" in refusal and self.sent.body.pop("stream_options", None):
            return serialize(self.sent.body)
        limit, is_of_model = _token_limit(refusal)
        if self._is_limited or not self._limit(limit):
            return None
        self._is_limited = True
        if is_of_model:
            self._session.token_limits[self._model] = limit
        return serialize(self.sent.body)

    @property
    def _model(self) -> tuple[str, str]:
        return self._dialect.name, self._request.model

    def _limit(self, limit: int) -> bool:
        """Keep to a limit that the server named; tell whether that changes anything."""
        request, sent = self._request, self.sent.body.get("max_tokens")
        is_ours = request.max_tokens is None and "max_tokens" not in request.extra_body
        if not is_ours or sent is None or not 0 < limit < sent:
            return False
        encoded = self._dialect.encode(replace(request, max_tokens=limit), stream=self._is_stream)
        note = f"max_tokens is {limit}: the server takes no more"
        self.sent = replace(encoded, adapted=(*encoded.adapted, note))
        return True


# What servers say of a limit that is the model's (assumed; typed from public reports).
_MODEL_LIMIT = re.compile(
    r"max_tokens: \d+ > (\d+)"  # Anthropic: "max_tokens: 16384 > 8192, which is the maximum allowed …"
    r"|at most (\d+) (?:completion|output) tokens"  # OpenAI
    r"|max_tokens[^.]{0,60}?(?:less than or equal to|<=|at most|up to|\[1,) ?(\d+)"  # DeepSeek and others
    r"|exceeds the model limit of (\d+)",  # Bedrock
    re.IGNORECASE,
)
# What vLLM says where the prompt and the answer together are too long: the window, then the prompt's tokens.
_CONTEXT_LIMIT = re.compile(
    r"> (\d+) - (\d+)\)|maximum context length is (\d+) tokens.{0,80}?(\d+) in the (?:messages|prompt)"
)


def _token_limit(refusal: str) -> tuple[int, bool]:
    """Return the most tokens of an answer that a refusal names, else 0, and whether it is the model's."""
    if found := _MODEL_LIMIT.search(refusal):
        return int(next(number for number in found.groups() if number)), True
    if found := _CONTEXT_LIMIT.search(refusal):
        window, prompt = (int(number) for number in found.groups() if number)
        return window - prompt, False
    return 0, False
