"""The ASGI middleware around the routes: authentication, faults, the request log."""

from __future__ import annotations

import secrets

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from piccc.emulator.api import EmulatedAPI
from piccc.emulator.errors import APIError
from piccc.emulator.event_stream import JSON
from piccc.emulator.faults import Line, RequestContext, ResponseFaults
from piccc.emulator.request_log import record_of

_LARGEST_BODY = 64 * 1024 * 1024
# The page asks for its own things several times a second: these are nobody's calls.
_KEPT = ("/v1/", "/files/")
_HTML = "<!doctype html><title>Gateway</title><h1>The service is being moved.</h1>"


class APIMiddleware:
    """The ASGI app: the routes behind what holds for all of them."""

    def __init__(self, provider: EmulatedAPI, routes: ASGIApp) -> None:
        self._provider = provider
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        exchange = self._open(scope)
        try:
            await self._serve(exchange, scope, receive, send)
        finally:
            self._close(exchange)

    async def _serve(self, exchange: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["exchange"] = exchange
        line, recorded = Line(scope, receive), self._recorded(exchange, send)
        try:
            exchange.body = await _body(receive)
            exchange.record.keep(exchange.body)
            self._check(exchange)
            if await self._refused(exchange, line, scope, receive, recorded):
                return
        except APIError as problem:
            body = problem.envelope(scope["path"], exchange.record.request_id)
            await JSON(body, status_code=problem.status, headers=problem.headers)(scope, receive, recorded)
            return
        for fault in exchange.faults:
            if fault.harms_answers:
                recorded = ResponseFaults(fault, exchange, self._provider.clock, line, recorded).send
        await self._routes(scope, receive, recorded)

    def _check(self, exchange: RequestContext) -> None:
        """Check the key and the rate, and draw what is to befall the request."""
        record, provider = exchange.record, self._provider
        if not record.path.startswith(_KEPT):
            return
        if record.path.startswith("/v1/"):
            provider.admit(exchange)
        try:
            exchange.faults = provider.faults.choose(record, exchange.headers.get("x-piccc-fault"))
        except ValueError as error:
            raise APIError(400, str(error), code="invalid_value", param="x-piccc-fault") from None
        record.fault = ",".join(map(str, exchange.faults)) or None
        now = provider.clock.now()
        if record.path.startswith("/v1/") and not provider.limit.take(now):
            wait = {"retry-after": str(provider.limit.wait(now))}
            raise APIError(429, "Too many requests in this minute.", code="rate_limit_exceeded", headers=wait)

    async def _refused(
        self, exchange: RequestContext, line: Line, scope: Scope, receive: Receive, send: Send
    ) -> bool:
        """Do what the faults say before anything is done; True when that is all."""
        for fault in exchange.faults:
            if fault.kind == "slow":
                await self._provider.clock.sleep(fault.number(1))
            elif fault.status is not None:
                raise fault.problem(self._provider.clock.now())
            elif fault.kind == "disconnect":
                await line.hang_up()
                return True
            elif fault.kind in ("html", "empty"):
                content = _HTML if fault.kind == "html" else ""
                status = int(fault.options.get("status", "200"))
                await Response(content, status_code=status, media_type="text/html")(scope, receive, send)
                return True
        return False

    def _open(self, scope: Scope) -> RequestContext:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        record = record_of(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            headers=headers.items(),
            at=self._provider.clock.now(),
            request_id=f"req_{secrets.token_hex(12)}",
        )
        if record.path.startswith(_KEPT):
            self._provider.journal.keep(record)
        return RequestContext(record, headers, base=f"{scope['scheme']}://{headers.get('host', 'localhost')}")

    def _recorded(self, exchange: RequestContext, send: Send) -> Send:
        """Note on the record what is sent, before the client can know it."""
        record = exchange.record

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message["headers"], *self._headers(exchange)]}
            elif not message.get("more_body"):
                self._close(exchange)
            await send(message)

        return noting

    def _close(self, exchange: RequestContext) -> None:
        record = exchange.record
        if not record.done:
            record.done = True
            record.seconds = self._provider.clock.now() - record.started_at

    def _headers(self, exchange: RequestContext) -> list[tuple[bytes, bytes]]:
        record = exchange.record
        headers = {"x-request-id": record.request_id}
        if record.path.startswith("/v1/"):
            headers.update(self._provider.limit.headers(self._provider.clock.now()))
        if record.path.startswith("/v1/messages"):
            headers["request-id"] = record.request_id
        return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if not message.get("more_body"):
            break
    if size > _LARGEST_BODY:
        raise APIError(413, f"The body is larger than {_LARGEST_BODY} bytes.", code="request_too_large")
    return b"".join(chunks)
