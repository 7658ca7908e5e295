"""The ASGI middleware around the routes: authentication, faults and the request log."""

from __future__ import annotations

import re
import secrets

from piccc.emulator.api import EmulatedAPI
from piccc.emulator.faults import Connection, RequestContext, ResponseFaults
from piccc.emulator.responses import Message, Receive, Response, Scope, Send
from piccc.emulator.routes import Routes, off_loop, refusal
from piccc.emulator.webhooks import on_loopback
from piccc.emulator.wire import APIError

_LENGTH = re.compile(r"[0-9]{1,15}")
_LARGEST_BODY = 64 * 1024 * 1024
# The dashboard polls its own routes several times a second, so those requests are not logged.
_LOGGED = ("/v1/", "/files/")
_HTML = b"<!doctype html><title>Gateway</title><h1>The service is being moved.</h1>"


class APIMiddleware:
    """The ASGI app: wraps the routes with authentication, rate limits, faults and the request log.

    Its lifespan delivers webhooks.
    """

    def __init__(self, api: EmulatedAPI, routes: Routes) -> None:
        self._api = api
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"the emulator serves http only, not {scope['type']}")
        context = self._open(scope)
        try:
            await self._serve(context, scope, receive, send)
        finally:
            self._close(context)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and stop with the server (ASGI lifespan protocol)."""
        await receive()
        self.start()  # the server logs what is raised, and does not start
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def start(self) -> None:
        """Deliver webhooks that the previous run left undelivered."""
        self._api.resume()

    async def stop(self) -> None:
        """Cancel deliveries, and close connections to the upstream."""
        await self._api.webhooks.close()
        if self._api.source is not None:
            await self._api.source.close()

    async def _serve(self, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        connection, recorded = Connection(scope, receive), self._recorded(context, send)
        try:
            self._authorize(context)
            await self._read(context, receive)
            self._choose_faults(context)
            if await self._refused(context, connection, receive, recorded):
                return
        except APIError as error:
            await refusal(context, error).send(receive, recorded)
            return
        for fault in context.faults:
            if fault.breaks_response:
                recorded = ResponseFaults(fault, context, self._api.clock, connection, recorded).send
        await self._routes.serve(context, receive, recorded)
        for fault in context.faults:
            connection.after_response(fault, self._api.clock)

    def _authorize(self, context: RequestContext) -> None:
        """Check the host and the key before reading the body."""
        # A foreign web page could reach this machine through its own domain name (DNS rebinding).
        if self._api.webhooks.loopback_only and not on_loopback(context.base):
            raise APIError(403, "The emulator accepts loopback hosts only.", code="not_on_loopback")
        if context.record.path.startswith("/v1/"):
            self._api.admit(context)

    async def _read(self, context: RequestContext, receive: Receive) -> None:
        length = context.headers.get("content-length", "")
        context.body = await _body(receive, int(length) if _LENGTH.fullmatch(length) else 0)
        if context.body and context.record.path.startswith(_LOGGED):
            log = self._api.request_log
            log.keep_body(context.record, await off_loop(context, lambda: log.readable(context.body)))

    def _choose_faults(self, context: RequestContext) -> None:
        """Select the request's faults and check the rate limit."""
        record, api = context.record, self._api
        if not record.path.startswith(_LOGGED):
            return
        try:
            context.faults = api.faults.choose(record, context.headers.get("x-piccc-fault"))
        except ValueError as error:
            raise APIError(400, str(error), code="invalid_value", param="x-piccc-fault") from None
        record.fault = ",".join(map(str, context.faults)) or None
        now = api.clock.now()
        if record.path.startswith("/v1/") and not api.limit.take(now):
            wait = {"retry-after": str(api.limit.wait(now))}
            raise APIError(429, "Too many requests this minute.", code="rate_limit_exceeded", headers=wait)

    async def _refused(
        self, context: RequestContext, connection: Connection, receive: Receive, send: Send
    ) -> bool:
        """Apply faults that replace the work; return whether the request is finished."""
        for fault in context.faults:
            if fault.kind == "slow":
                await self._api.clock.sleep(fault.number(1))
            elif fault.status is not None:
                raise fault.refusal(self._api.clock.now())
            elif fault.kind == "disconnect":
                await connection.close()
                return True
            elif fault.kind in ("html", "empty"):
                content = _HTML if fault.kind == "html" else b""
                status = int(fault.options.get("status", "200"))
                html = Response(content, status=status, mime_type="text/html; charset=utf-8")
                await html.send(receive, send)
                return True
        return False

    def _open(self, scope: Scope) -> RequestContext:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        record = self._api.request_log.new(
            method=scope["method"],
            path=scope["path"],
            query=query,
            headers=headers,
            at=self._api.clock.now(),
            request_id=f"req_{secrets.token_hex(12)}",
        )
        if record.path.startswith(_LOGGED):
            self._api.request_log.keep(record)
        # A TLS proxy in front of the emulator sets this header.
        scheme = "https" if headers.get("x-forwarded-proto") == "https" else scope["scheme"]
        base = f"{scheme}://{headers.get('host', 'localhost')}"
        return RequestContext(record, headers, base, scope["path"], query)

    def _recorded(self, context: RequestContext, send: Send) -> Send:
        """Record the response before sending it, so clients that have it also find it in the log."""
        record, kept = context.record, context.path.startswith("/v1/")

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message["headers"], *self._headers(context)]}
            else:
                if kept:
                    record.keep_response(message.get("body", b""))
                if not message.get("more_body"):
                    self._close(context)
            await send(message)

        return noting

    def _close(self, context: RequestContext) -> None:
        record = context.record
        if not record.done:
            record.done = True
            record.seconds = self._api.clock.now() - record.started_at

    def _headers(self, context: RequestContext) -> list[tuple[bytes, bytes]]:
        record = context.record
        request_id = record.request_id.encode()
        headers = [(b"x-request-id", request_id)]
        if context.faults and context.fault("close"):
            headers.append((b"connection", b"close"))
        if record.path.startswith("/v1/"):
            headers += self._api.limit.headers(self._api.clock.now())
        if record.path.startswith("/v1/messages"):
            headers.append((b"request-id", request_id))
        return headers


async def _body(receive: Receive, announced: int) -> bytes:
    """Read the body. Raises APIError 413 as soon as it is too large; the server discards the rest."""
    chunks: list[bytes] = []
    size = 0
    while max(size, announced) <= _LARGEST_BODY:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise APIError(
                400, "The client disconnected before sending the whole body.", code="incomplete_body"
            )
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if not message.get("more_body"):
            return b"".join(chunks)
    raise APIError(413, f"The body is larger than {_LARGEST_BODY} bytes.", code="request_too_large")
