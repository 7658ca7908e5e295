"""What can be asked of one server with one key over one port: coroutines that sync and async both drive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
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


class Session:
    """Ask the server; every method is a coroutine over the port."""

    def __init__(self, config: Config, io: Backend) -> None:
        self.config = config
        self.io = io
        self.is_closed = False

    def __reduce__(self) -> tuple[Any, ...]:
        # A port holds sockets: what is loaded gets a fresh one of its kind.
        return (_rebuild, (self.config, type(self.io)))

    async def chat(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None = None
    ) -> ChatReply:
        """Ask for a whole reply."""
        call = self._chat_call(dialect, request, timeout, is_stream=False)
        answer = await self._send(call)
        try:
            reply = dialect.decode(self._json(answer, call.kind))
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
        call = self._chat_call(dialect, request, timeout, is_stream=True)
        call.plainer = lambda refusal: _plainer(dialect, request, refusal)
        answer = await self._send(call)
        return answer, StreamParser(self.io, answer, dialect.reader(), call.timeout)

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
        payload = self._json(answer, call.kind)
        if refusal := _refusal_in(payload, answer, call.kind):
            raise refusal
        try:
            return read_task(payload)
        except ResponseError as error:
            wrong = answer.explain(SubmissionUnknown(**{**vars(error), "may_have_been_billed": True}))
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
        payload = self._json(answer, Retryability.READ)
        if refusal := _refusal_in(payload, answer, Retryability.READ):
            raise refusal
        try:
            return decode(payload), answer.response.headers
        except ResponseError as error:
            wrong = answer.explain(error)
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
        self._json(answer, call.kind)
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

    def _chat_call(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None, *, is_stream: bool
    ) -> APICall:
        check_headers(request.extra_headers)
        return APICall(
            kind=Retryability.CHAT,
            method="POST",
            path=dialect.path,
            body=serialize(dialect.encode(request, stream=is_stream)),
            headers=(*dialect.headers, *request.extra_headers.items()),
            timeout=as_timeout(timeout, self.config.timeout),
            is_stream=is_stream,
        )

    def _json(self, answer: RawResponse, kind: Retryability) -> object:
        try:
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


def _plainer(dialect: Dialect, request: ChatRequest, refusal: str) -> bytes | None:
    """Return the body without the option that asks for usage, where an older server refuses that."""
    if "stream_options" not in refusal:
        return None
    body = dialect.encode(request, stream=True)
    body.pop("stream_options", None)
    return serialize(body)
