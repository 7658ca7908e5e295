"""The API's routes, the page and its data, and streamed responses."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from typing import Any, TypeVar, get_args

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from piccc.emulator.api import EmulatedAPI
from piccc.emulator.clock import Clock, Latency
from piccc.emulator.conversation import Completion, ModelRequest
from piccc.emulator.faults import Fault, FaultRule, RequestContext
from piccc.emulator.model import pieces
from piccc.emulator.model.tokens import prompt_tokens
from piccc.emulator.openapi import document
from piccc.emulator.render import served
from piccc.emulator.request_log import Charge, RequestRecord
from piccc.emulator.tasks import FORMS, STATUSES, Kind, Task
from piccc.emulator.wire import APIError, anthropic, encoded, ignored_fields, openai, read, strict

_CALLS = 100
_TASKS = 48
_BARS = 40


def dashboard_state(api: EmulatedAPI) -> dict[str, Any]:
    """Return the page's data, newest first."""
    charges = list(api.charges.copy())
    tasks = list(api.tasks)
    return {
        "calls": [_call(record) for record in reversed(api.request_log.records()[-_CALLS:])],
        "tasks": [_task(task, api.clock.now()) for task in reversed(tasks[-_TASKS:])],
        "totals": {
            "calls": api.request_log.count,
            "tasks": len(tasks),
            "prompt_tokens": sum(charge.prompt_tokens for charge in charges),
            "completion_tokens": sum(charge.completion_tokens for charge in charges),
            "charges": Counter(charge.kind for charge in charges),
        },
        "chart": _chart(charges, api.clock.now()),
        "faults": [
            {"fault": str(rule.fault), "route": rule.route, "times": rule.times, "hit": rule.hit}
            for rule in api.faults.rules
        ],
        "script": len(api.script.lines),
        "speed": str(api.latency.speed),
        "api_key": api.api_key if api.api_key.startswith("pcc_test_") else None,
    }


def _chart(charges: list[Charge], now: float) -> list[dict[str, Any]]:
    """Return for each model its charges and tokens, in equal spans from the first charge until now."""
    models: dict[str, dict[str, Any]] = {}
    start = min((charge.at for charge in charges), default=now)
    span = max(now - start, 1.0) / _BARS
    for charge in charges:
        of = models.setdefault(
            charge.model,
            {"model": charge.model, "charges": 0, "tokens": 0, "bars": [0] * _BARS},
        )
        tokens = charge.prompt_tokens + charge.completion_tokens
        of["charges"] += 1
        of["tokens"] += tokens
        of["bars"][max(0, min(_BARS - 1, int((charge.at - start) / span)))] += tokens or 1
    return [models[name] for name in sorted(models)]


def _call(record: RequestRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "model": record.model,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "task_id": record.task_id,
        "fault": record.fault,
        "ignored_fields": record.ignored_fields,
        "started_at": record.started_at,
        "seconds": record.seconds,
        "done": record.done,
    }


def _task(task: Task, now: float) -> dict[str, Any]:
    width, height = task.size
    status = task.status(now)
    return {
        "task_id": task.id,
        "type": task.kind,
        "status": status,
        "progress": task.progress(now),
        "model": task.model,
        "prompt": task.prompt,
        "width": width,
        "height": height,
        "duration_seconds": task.duration_seconds,
        "output": f"/emulator/outputs/{task.id}" if status == "completed" and task.has_output else None,
        "error": (task.error(now) or {}).get("message"),
    }


_NUMBER = re.compile(r"[0-9]{1,9}")
_PAGE_LIMIT = 20
_LARGE_BODY = 64 * 1024
_CONTEXT_WINDOW = 128_000
_LARGEST_PAGE = 100
_PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Routes:
    """The API's routes over one api."""

    def __init__(self, api: EmulatedAPI) -> None:
        self._api = api

    def app(self) -> Starlette:
        """Return the routes as an ASGI app; its lifespan delivers webhooks."""
        routes = [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/messages", self.messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", self.count_tokens, methods=["POST"]),
            Route("/v1/models", self.models),
            Route("/v1/models/{model_id}", self.model),
            Route("/v1/images/tasks", self.submit_image, methods=["POST"]),
            Route("/v1/videos/tasks", self.submit_video, methods=["POST"]),
            Route("/v1/tasks", self.tasks),
            Route("/v1/tasks/{task_id}", self.task),
            Route("/files/{name}", self.file),
            Route("/health", self.health),
            Route("/", self.page),
            Route("/openapi.json", self.openapi),
            Route("/emulator/feed", self.feed),
            Route("/emulator/outputs/{task_id}", self.output),
            Route("/emulator/requests/{number:int}", self.request),
            Route("/emulator/tasks/{task_id}", self.task_details),
            Route("/emulator/actions", self.act, methods=["POST"]),
        ]
        handlers: dict[Any, Any] = {APIError: _refused, HTTPException: _not_routed, Exception: _broken}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._life)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        self._api.resume()
        yield
        await self._api.webhooks.close()
        if self._api.source is not None:
            await self._api.source.close()

    async def chat(self, request: Request) -> Response:
        """Chat, OpenAI dialect."""
        context = _context(request)
        form, answer = await off_loop(context, lambda: self._answer(openai.ChatRequest, context))
        if answer is None:
            return await self._sourced(form, context)
        reply_id, created = f"chatcmpl-{secrets.token_hex(12)}", int(self._api.clock.now())
        if form.stream:
            quirks = self._api.quirks
            chunks = quirks.chunks(openai.chunks(form, answer, reply_id=reply_id, created=created))
            return self._events(openai_frames(chunks, done="no-done" not in quirks))
        await self._think(answer)
        return JSON(openai.reply(form, answer, reply_id=reply_id, created=created))

    async def messages(self, request: Request) -> Response:
        """Chat, Anthropic dialect."""
        context = _context(request)
        form, answer = await off_loop(context, lambda: self._answer(anthropic.MessageRequest, context))
        if answer is None:
            return await self._sourced(form, context)
        reply_id = f"msg_{secrets.token_hex(12)}"
        if form.stream:
            return self._events(anthropic_frames(anthropic.events(form, answer, reply_id=reply_id)))
        await self._think(answer)
        return JSON(anthropic.reply(form, answer, reply_id=reply_id))

    async def count_tokens(self, request: Request) -> Response:
        """Count the input tokens of a message."""
        context = _context(request)

        def count() -> int:
            return prompt_tokens(self._understood(read(anthropic.CountRequest, context.json()), context))

        return JSON({"input_tokens": await off_loop(context, count)})

    async def _sourced(
        self, form: openai.ChatRequest | anthropic.MessageRequest, context: RequestContext
    ) -> Response:
        """Answer from the upstream or the recording, and charge for it."""
        from piccc.emulator.upstream import Meter, frames

        api, path = self._api, context.record.path
        assert api.source is not None  # noqa: S101  only then is there no answer
        answer = await api.source.answer(path, context.json(), form)
        meter = Meter(form, lambda prompt, completion: api.charge_chat(context, prompt, completion))
        if isinstance(answer, dict):
            meter.count(answer)
            meter.charge()
            return JSON(answer)
        events = frames(answer, meter, lambda error: error.envelope(path, context.record.request_id))
        headers = {"cache-control": "no-store"}
        return StreamingResponse(events, headers=headers, media_type="text/event-stream")

    def _answer(self, form: type[AnyChat], context: RequestContext) -> tuple[AnyChat, Completion | None]:
        request = read(form, context.json())
        understood = self._understood(request, context)
        if self._api.strict and (tokens := _text_tokens(understood)) > _CONTEXT_WINDOW:
            # The words of OpenAI and Anthropic, by which clients know it.
            message = f"This model's maximum context length is {_CONTEXT_WINDOW} tokens, not {tokens}."
            if isinstance(request, anthropic.MessageRequest):
                message = f"prompt is too long: {tokens} tokens > {_CONTEXT_WINDOW} maximum"
            raise APIError(400, message, code="context_length_exceeded", param="messages")
        return request, self._api.answer(understood, context)

    def _understood(
        self, form: openai.ChatRequest | anthropic.CountRequest, context: RequestContext
    ) -> ModelRequest:
        """Translate a request after all checks."""
        record, api = context.record, self._api
        record.model = form.model
        api.check_model(form.model, "chat")
        record.ignored_fields = ignored_fields(form, status=400, strict=api.strict)
        request = form.model_request()
        if api.strict:
            strict.check(form)
        return request

    async def models(self, request: Request) -> Response:
        """List the models."""
        return JSON(self._api.model_list())

    async def model(self, request: Request) -> Response:
        """Return one model."""
        wanted = request.path_params["model_id"]
        for model in self._api.model_list()["data"]:
            if model["id"] == wanted:
                return JSON(model)
        raise APIError(404, f"No model {wanted!r} is listed.", code="model_not_found", param="model")

    async def submit_image(self, request: Request) -> Response:
        """Submit an image task."""
        return await self._submit("image", request)

    async def submit_video(self, request: Request) -> Response:
        """Submit a video task."""
        return await self._submit("video", request)

    async def task(self, request: Request) -> Response:
        """Return one task."""
        context = _context(request)
        task = self._api.read(request.path_params["task_id"])
        context.record.task_id, context.record.model = task.id, task.model
        await self._api.refresh(task)
        return self._reply(self._api.show(task, context.base))

    async def tasks(self, request: Request) -> Response:
        """List tasks, newest first."""
        query, quirks = request.query_params, self._api.quirks
        await self._api.refresh(*self._api.tasks)
        fits = self._api.fits(
            kind=_one_of(query.get("type"), get_args(Kind), "type"),
            status=_one_of(query.get("status"), STATUSES, "status"),
        )
        if "page-numbers" in quirks:
            return self._numbered(request, fits)
        limit, cursor = _whole(query.get("limit"), "limit", _PAGE_LIMIT, _LARGEST_PAGE), query.get("cursor")
        context = _context(request)
        paged = self._api.tasks.drifting_page if context.fault("drift") else self._api.tasks.page
        page = paged(fits=fits, limit=limit, cursor=cursor)
        following = page.next_cursor
        if following and context.fault("repeat-cursor"):
            following = cursor or following
        if context.fault("no-cursor"):
            following = None
        more = page.next_cursor is not None
        shown = [self._api.show(task, context.base) for task in page.tasks]
        body = {"object": "list", "data": shown, "has_more": more, "next_cursor": following}
        return self._reply(quirks.list(body))

    async def file(self, request: Request) -> Response:
        """Serve an output file."""
        name, query = request.path_params["name"], request.query_params
        now = self._api.clock.now()
        known = self._api.output_urls.valid(name, query.get("expires", ""), query.get("signature", ""), now)
        if not known or _context(request).fault("expired-url"):
            raise APIError(
                403, "This URL has expired. Read the task again for a fresh one.", code="url_expired"
            )
        task = self._api.tasks.get(name.rpartition(".")[0])
        return served(request, await self._api.media.get(task), task.mime_type)

    async def health(self, request: Request) -> Response:
        """Say that the emulator serves; needs no key."""
        return JSON({"status": "ok"})

    async def page(self, request: Request) -> Response:
        """Serve the page."""
        html = files("piccc.emulator").joinpath("page.html").read_text(encoding="utf-8")
        nonce = secrets.token_urlsafe(16)
        html = html.replace("{{nonce}}", nonce).replace("{{token}}", self._api.page_token)
        headers = {"content-security-policy": _PAGE_POLICY.format(nonce=nonce), "cache-control": "no-store"}
        return HTMLResponse(html, headers=headers)

    async def request(self, request: Request) -> Response:
        """Serve one logged request and its response to the page."""
        number, log = request.path_params["number"], self._api.request_log
        record = next((one for one in log.records() if one.number == number), None)
        if record is None:
            raise APIError(404, "The request is not in the log any more.", code="not_logged")
        response = log.redacted(record.raw_response.decode(errors="replace"))
        charged = any(charge.request_id == record.request_id for charge in self._api.charges.copy())
        details = {
            "query": record.query,
            "headers": record.headers,
            "body": record.body,
            "response": response,
            "error": record.error,
            "param": record.param,
            "request_id": record.request_id,
            "charged": charged,
        }
        return JSON({**_call(record), **details}, headers={"cache-control": "no-store"})

    async def task_details(self, request: Request) -> Response:
        """Serve one task and its webhook deliveries to the page."""
        task = self._api.tasks.get(request.path_params["task_id"])
        deliveries = [
            {
                "event_id": delivery.event_id,
                "type": delivery.type,
                "url": delivery.url,
                "delivered": delivery.delivered,
                "attempts": [asdict(attempt) for attempt in delivery.attempts],
            }
            for delivery in self._api.webhooks.deliveries.copy()
            if delivery.task_id == task.id
        ]
        shown = {**_task(task, self._api.clock.now()), "seed": task.seed, "webhook": task.webhook_url}
        shown |= {"aspect_ratio": task.aspect_ratio, "resolution": task.resolution, "deliveries": deliveries}
        return JSON(shown, headers={"cache-control": "no-store"})

    async def act(self, request: Request) -> Response:
        """Do what a button of the page asks for; only the page knows the token."""
        token = _context(request).headers.get("x-piccc-page-token", "")
        if not secrets.compare_digest(token.encode(), self._api.page_token.encode()):
            raise APIError(403, "Only the emulator's own page may do this.", code="page_token")
        body, api = _context(request).json(), self._api
        try:
            match body:
                case {
                    "action": "fault",
                    "fault": str(text),
                    "route": str(route),
                    "times": int() | None as times,
                }:
                    api.faults.rules.append(FaultRule(Fault.parse(text), route or "*", times))
                case {"action": "remove-fault", "index": int(index)}:
                    del api.faults.rules[index]
                case {"action": "reply", "text": str(text)}:
                    api.script.lines.append(text)
                case {"action": "redeliver", "event_id": str(event_id)}:
                    api.webhooks.redeliver(event_id)
                case {"action": "reset"}:
                    api.reset()
                case _:
                    raise ValueError("there is no such action")
        except (LookupError, ValueError) as error:
            raise APIError(400, str(error), code="invalid_action") from None
        return JSON({"done": True})

    async def openapi(self, request: Request) -> Response:
        """Serve the OpenAPI document."""
        return JSON({**document(), "servers": [{"url": _context(request).base}]})

    async def feed(self, request: Request) -> Response:
        """Serve the page's data."""
        return JSON(dashboard_state(self._api), headers={"cache-control": "no-store"})

    async def output(self, request: Request) -> Response:
        """Serve an output to the page, without a signed URL."""
        task = self._api.tasks.get(request.path_params["task_id"])
        if task.status(self._api.clock.now()) != "completed" or not task.has_output:
            raise APIError(404, "The task has no output.", code="no_output")
        return served(request, await self._api.media.get(task), task.mime_type)

    async def _submit(self, kind: Kind, request: Request) -> Response:
        context = _context(request)
        form = read(FORMS[kind], context.json(), status=422)
        context.record.model = form.model
        self._api.check_model(form.model, kind)
        context.record.ignored_fields = ignored_fields(form, status=422, strict=self._api.strict)
        task, replayed = await self._api.submit(kind, form, context)
        headers = {"idempotency-replayed": "true"} if replayed else {}
        at = task.created_at if not replayed else None
        return self._reply(self._api.show(task, context.base, at), status=202, headers=headers)

    def _numbered(self, request: Request, fits: Callable[[Task], bool]) -> Response:
        query = request.query_params
        number = _whole(query.get("page"), "page", 1, 1_000_000)
        size = _whole(query.get("page_size"), "page_size", _PAGE_LIMIT, 500)
        tasks, total = self._api.tasks.numbered_page(fits=fits, number=number, size=size)
        shown = [self._api.show(task, _context(request).base) for task in tasks]
        body = {"data": shown, "total": total, "page": number, "page_size": size}
        return self._reply(self._api.quirks.list(body))

    def _reply(
        self, shown: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        return JSON(self._api.quirks.reply(shown), status_code=status, headers=headers)

    def _events(self, frames: Any) -> Events:
        return Events(frames, clock=self._api.clock, latency=self._api.latency)

    async def _think(self, answer: Completion) -> None:
        latency = self._api.latency
        await self._api.clock.sleep(latency.first_token + answer.usage.completion_tokens * latency.token)


def _context(request: Request) -> RequestContext:
    context: RequestContext = request.state.context
    return context


def _one_of(value: str | None, allowed: tuple[str, ...], name: str) -> str | None:
    if value is not None and value not in allowed:
        raise APIError(400, f"{name}: must be one of {', '.join(allowed)}.", code="invalid_value", param=name)
    return value


def _whole(value: str | None, name: str, default: int, most: int) -> int:
    if value is None:
        return default
    if not (_NUMBER.fullmatch(value) and 1 <= int(value) <= most):
        message = f"{name}: must be a whole number from 1 to {most}."
        raise APIError(400, message, code="invalid_value", param=name)
    return int(value)


def _text_tokens(request: ModelRequest) -> int:
    """Count the tokens of the turns, in parts, for a regular expression does not let other threads run."""
    parts = (
        turn.text[at : at + _LARGE_BODY]
        for turn in request.turns
        for at in range(0, len(turn.text), _LARGE_BODY)
    )
    return sum(len(pieces(part)) for part in parts)


T = TypeVar("T")
AnyChat = TypeVar("AnyChat", openai.ChatRequest, anthropic.MessageRequest)


async def off_loop(context: RequestContext, work: Callable[[], T]) -> T:
    """Do work on a request, in a thread when its body is large, so that others are served meanwhile."""
    return await asyncio.to_thread(work) if len(context.body) > _LARGE_BODY else work()


def refusal(context: RequestContext, error: APIError) -> Response:
    """Record an error and return its response, in the form of the path's dialect."""
    record = context.record
    record.error, record.param = error.message, error.param
    body = error.envelope(record.path, record.request_id)
    return JSON(body, status_code=error.status, headers=error.headers)


async def _refused(request: Request, error: APIError) -> Response:
    return refusal(_context(request), error)


async def _broken(request: Request, error: Exception) -> Response:
    """Respond in the route's error envelope; the server then logs the exception."""
    return await _refused(
        request, APIError(500, "The emulator failed; its console says why.", code="emulator_error")
    )


async def _not_routed(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path} is not a route of this API."
    headers = dict(error.headers or {})
    return await _refused(
        request, APIError(error.status_code, message, code="unknown_route", headers=headers)
    )


Frame = tuple[bytes, int]


class JSON(Response):
    """A JSON response."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the content."""
        return encoded(content)


class Events(Response):
    """A stream of server-sent events; each frame has its cost in tokens, which sets its time."""

    media_type = "text/event-stream"

    def __init__(self, frames: Iterable[Frame], *, clock: Clock, latency: Latency) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._frames = frames
        self._clock = clock
        self._latency = latency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send each frame when it is due, until the client disconnects."""
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            due = self._clock.now() + self._latency.first_token
            for frame, tokens in self._frames:
                due += tokens * self._latency.token
                # A sleep of zero still yields, so that a disconnect is noticed.
                await self._clock.sleep(max(0.0, due - self._clock.now()))
                if gone.done():
                    return
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def openai_frames(chunks: Iterable[tuple[dict[str, Any], int]], *, done: bool = True) -> Iterator[Frame]:
    """Encode chunks as unnamed events, ending in [DONE] if `done`."""
    for chunk, tokens in chunks:
        yield b"data: " + encoded(chunk) + b"\n\n", tokens
    if done:
        yield b"data: [DONE]\n\n", 0


def anthropic_frames(events: Iterable[tuple[dict[str, Any], int]]) -> Iterator[Frame]:
    """Encode events named by their types."""
    for event, tokens in events:
        yield b"event: " + event["type"].encode() + b"\ndata: " + encoded(event) + b"\n\n", tokens
