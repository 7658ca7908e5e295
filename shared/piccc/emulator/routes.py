"""The API's routes, the dashboard page and its data."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from importlib.resources import files
from itertools import islice
from typing import Any, TypeVar, get_args

from piccc.emulator.api import EmulatedAPI
from piccc.emulator.conversation import Completion, ModelRequest
from piccc.emulator.faults import Fault, FaultRule, RequestContext
from piccc.emulator.model import pieces
from piccc.emulator.model.tokens import prompt_tokens
from piccc.emulator.request_log import Charge, RequestRecord
from piccc.emulator.responses import (
    Events,
    Frame,
    PassedOn,
    Receive,
    Response,
    Send,
    anthropic_frames,
    file_response,
    json_response,
    openai_frames,
)
from piccc.emulator.tasks import FORMS, STATUSES, Kind, Task
from piccc.emulator.wire import APIError, anthropic, encoded, ignored_fields, openai, read, strict

_CALLS = 100
_TASKS = 48
_BARS = 40


def dashboard_state(api: EmulatedAPI, base: str, filtered: str = "") -> dict[str, Any]:
    """Return the dashboard's data, newest first, with only requests that contain all words of the filter."""
    charges = list(api.charges.copy())
    tasks = list(api.tasks)
    words = filtered.lower().split()
    calls = (record for record in reversed(api.request_log.records()) if _fits(record, words))
    return {
        "calls": [_call(record) for record in islice(calls, _CALLS)],
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
            {
                "fault": str(rule.fault),
                "route": rule.route,
                "times": rule.times,
                "hit": rule.hit,
                "is_paused": rule.is_paused,
            }
            for rule in api.faults.rules
        ],
        "script": len(api.script.lines),
        "speed": str(api.latency.speed),
        "variables": api.environment(base)
        | ({} if api.api_key.startswith("pcc_test_") else {"PICCC_API_KEY": None}),
    }


def _fits(record: RequestRecord, words: list[str]) -> bool:
    if not words:
        return True
    facts = (
        record.method,
        record.path,
        record.model,
        record.status,
        record.fault,
        record.task_id,
        record.error,
    )
    text = " ".join(str(fact) for fact in facts if fact is not None).lower()
    return all(word in text for word in words)


def _chart(charges: list[Charge], now: float) -> list[dict[str, Any]]:
    """Return each model's charges and tokens, in equal time spans from the first charge until now."""
    models: dict[str, dict[str, Any]] = {}
    start = min((charge.at for charge in charges), default=now)
    span = max(now - start, 1.0) / _BARS
    for charge in charges:
        row = models.setdefault(
            charge.model,
            {"model": charge.model, "charges": 0, "tokens": 0, "bars": [0] * _BARS},
        )
        tokens = charge.prompt_tokens + charge.completion_tokens
        row["charges"] += 1
        row["tokens"] += tokens
        row["bars"][max(0, min(_BARS - 1, int((charge.at - start) / span)))] += tokens or 1
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
        "error": record.error,
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
    """The routes of one emulated API."""

    def __init__(self, api: EmulatedAPI) -> None:
        self._api = api

        routes: list[tuple[str, str, Handler]] = [
            ("POST", "/v1/chat/completions", self.chat),
            ("POST", "/v1/messages", self.messages),
            ("POST", "/v1/messages/count_tokens", self.count_tokens),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{model_id}", self.model),
            ("POST", "/v1/images/tasks", self.submit_image),
            ("POST", "/v1/videos/tasks", self.submit_video),
            ("GET", "/v1/tasks", self.tasks),
            ("GET", "/v1/tasks/{task_id}", self.task),
            ("GET", "/files/{name}", self.file),
            ("GET", "/health", self.health),
            ("GET", "/", self.page),
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/emulator/feed", self.feed),
            ("GET", "/emulator/outputs/{task_id}", self.output),
            ("GET", "/emulator/requests/{number}", self.request),
            ("GET", "/emulator/tasks/{task_id}", self.task_details),
            ("POST", "/emulator/actions", self.act),
        ]
        self._plain = {path: (method, handler) for method, path, handler in routes if "{" not in path}
        self._patterns = [
            (re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path)), (method, handler))
            for method, path, handler in routes
            if "{" in path
        ]

    async def serve(self, context: RequestContext, receive: Receive, send: Send) -> None:
        """Route a request and send its response. Re-raise unexpected exceptions for the server's log."""
        try:
            response = await self._handler(context)(context)
        except APIError as error:
            response = refusal(context, error)
        except Exception:
            failure = APIError(500, "The emulator failed; see its console.", code="emulator_error")
            await refusal(context, failure).send(receive, send)
            raise
        await response.send(receive, send)

    def _handler(self, context: RequestContext) -> Handler:
        """Return a request's handler. Raises APIError 404 or 405."""
        method, path, found = context.record.method, context.path, self._plain.get(context.path)
        for pattern, route in self._patterns if found is None else ():
            if match := pattern.fullmatch(path):
                found, context.parts = route, match.groupdict()
                break
        message = f"{method} {path} is not a route of this API."
        if found is None:
            raise APIError(404, message, code="unknown_route")
        allowed = ("GET", "HEAD") if found[0] == "GET" else (found[0],)
        if method not in allowed:
            headers = {"allow": ", ".join(allowed)}
            raise APIError(405, message, code="unknown_route", headers=headers)
        return found[1]

    async def chat(self, context: RequestContext) -> Response:
        """Answer a chat request, OpenAI dialect."""
        form, answer = await off_loop(context, lambda: self._answer(openai.ChatRequest, context))
        if answer is None:
            return await self._sourced(form, context)
        reply_id, created = f"chatcmpl-{secrets.token_hex(12)}", int(self._api.clock.now())
        if form.stream:
            quirks = self._api.quirks
            chunks = openai.encoded_chunks(form, answer, reply_id=reply_id, created=created)
            if quirks.change_chunks:
                plain = openai.chunks(form, answer, reply_id=reply_id, created=created)
                chunks = ((encoded(chunk), tokens) for chunk, tokens in quirks.chunks(plain))
            return self._events(openai_frames(chunks, done="no-done" not in quirks), context)
        await self._think(answer)
        return json_response(openai.reply(form, answer, reply_id=reply_id, created=created))

    async def messages(self, context: RequestContext) -> Response:
        """Answer a chat request, Anthropic dialect."""
        form, answer = await off_loop(context, lambda: self._answer(anthropic.MessageRequest, context))
        if answer is None:
            return await self._sourced(form, context)
        reply_id = f"msg_{secrets.token_hex(12)}"
        if form.stream:
            return self._events(anthropic_frames(anthropic.events(form, answer, reply_id=reply_id)), context)
        await self._think(answer)
        return json_response(anthropic.reply(form, answer, reply_id=reply_id))

    async def count_tokens(self, context: RequestContext) -> Response:
        """Count a message's input tokens."""

        def count() -> int:
            return prompt_tokens(self._understood(read(anthropic.CountRequest, context.json()), context))

        return json_response({"input_tokens": await off_loop(context, count)})

    async def _sourced(
        self, form: openai.ChatRequest | anthropic.MessageRequest, context: RequestContext
    ) -> Response:
        """Answer from the upstream or the recording, and charge for it."""
        from piccc.emulator.upstream import Meter, frames

        api, path = self._api, context.record.path
        assert api.source is not None  # noqa: S101  otherwise the model has answered
        answer = await api.source.answer(path, context.json(), form)
        meter = Meter(form, lambda prompt, completion: api.charge_chat(context, prompt, completion))
        if isinstance(answer, dict):
            meter.count(answer)
            meter.charge()
            return json_response(answer)
        events = frames(answer, meter, lambda error: error.envelope(path, context.record.request_id))
        return PassedOn(events)

    def _answer(self, form: type[AnyChat], context: RequestContext) -> tuple[AnyChat, Completion | None]:
        request = read(form, context.json())
        understood = self._understood(request, context)
        characters = sum(len(turn.text) for turn in understood.turns) if self._api.strict else 0
        # A token has at least one character, so most prompts need no count.
        if characters > _CONTEXT_WINDOW and (tokens := _text_tokens(understood)) > _CONTEXT_WINDOW:
            # OpenAI's and Anthropic's own wording, which clients recognize.
            message = f"This model's maximum context length is {_CONTEXT_WINDOW} tokens, not {tokens}."
            if isinstance(request, anthropic.MessageRequest):
                message = f"prompt is too long: {tokens} tokens > {_CONTEXT_WINDOW} maximum"
            raise APIError(400, message, code="context_length_exceeded", param="messages")
        return request, self._api.answer(understood, context)

    def _understood(
        self, form: openai.ChatRequest | anthropic.CountRequest, context: RequestContext
    ) -> ModelRequest:
        """Check and translate a request."""
        record, api = context.record, self._api
        record.model = form.model
        api.check_model(form.model, "chat")
        record.ignored_fields = ignored_fields(form, status=400, strict=api.strict)
        request = form.model_request()
        if api.strict:
            strict.check(form, signatures=api.source is None or not api.source.is_piccc)
        return request

    async def models(self, context: RequestContext) -> Response:
        """List the models."""
        return json_response(self._api.model_list())

    async def model(self, context: RequestContext) -> Response:
        """Return one model."""
        wanted = context.parts["model_id"]
        for model in self._api.model_list()["data"]:
            if model["id"] == wanted:
                return json_response(model)
        raise APIError(404, f"Model {wanted!r} does not exist.", code="model_not_found", param="model")

    async def submit_image(self, context: RequestContext) -> Response:
        """Submit an image task."""
        return await self._submit("image", context)

    async def submit_video(self, context: RequestContext) -> Response:
        """Submit a video task."""
        return await self._submit("video", context)

    async def task(self, context: RequestContext) -> Response:
        """Return one task."""
        task = self._api.read(context.parts["task_id"])
        context.record.task_id, context.record.model = task.id, task.model
        await self._api.refresh(task)
        task = self._api.tasks.get(task.id)
        return self._reply(self._api.show(task, context.base))

    async def tasks(self, context: RequestContext) -> Response:
        """List tasks, newest first."""
        query, quirks = context.query, self._api.quirks
        if self._api.source is not None:
            await self._api.refresh(*self._api.tasks)
        status = _one_of(query.get("status"), STATUSES, "status")
        fits = self._api.fits(kind=_one_of(query.get("type"), get_args(Kind), "type"), status=status)
        if "page-numbers" in quirks:
            return self._numbered(context, fits)
        limit = _whole_number(query.get("limit"), "limit", _PAGE_LIMIT, _LARGEST_PAGE)
        cursor = query.get("cursor")
        tasks = self._api.tasks
        if context.fault("drift"):
            page = tasks.drifting_page(fits=fits, limit=limit, cursor=cursor)
        else:
            is_running = status in ("queued", "processing")
            first = tasks.first_running(self._api.clock.now()) if is_running else 0
            page = tasks.page(fits=fits, limit=limit, cursor=cursor, first=first)
        following = page.next_cursor
        if following and context.fault("repeat-cursor"):
            following = cursor or following
        if context.fault("no-cursor"):
            following = None
        more = page.next_cursor is not None
        shown = [self._api.show(task, context.base) for task in page.tasks]
        body = {"object": "list", "data": shown, "has_more": more, "next_cursor": following}
        return self._reply(quirks.list(body))

    async def file(self, context: RequestContext) -> Response:
        """Serve an output file."""
        name, query = context.parts["name"], context.query
        now = self._api.clock.now()
        known = self._api.output_urls.valid(name, query.get("expires", ""), query.get("signature", ""), now)
        if not known or context.fault("expired-url"):
            raise APIError(
                403, "This URL has expired. Read the task again to get a new one.", code="url_expired"
            )
        task = self._api.tasks.get(name.rpartition(".")[0])
        return file_response(context.headers, await self._api.media.get(task), task.mime_type)

    async def health(self, context: RequestContext) -> Response:
        """Report that the emulator is running; needs no key."""
        return json_response({"status": "ok"})

    async def page(self, context: RequestContext) -> Response:
        """Serve the dashboard page."""
        html = files("piccc.emulator").joinpath("page.html").read_text(encoding="utf-8")
        nonce = secrets.token_urlsafe(16)
        html = html.replace("{{nonce}}", nonce).replace("{{token}}", self._api.page_token)
        headers = {"content-security-policy": _PAGE_POLICY.format(nonce=nonce), "cache-control": "no-store"}
        return Response(html.encode(), mime_type="text/html; charset=utf-8", headers=headers)

    async def request(self, context: RequestContext) -> Response:
        """Serve one logged request and its response to the dashboard."""
        number, log = context.parts["number"], self._api.request_log
        record = next((record for record in log.records() if str(record.number) == number), None)
        if record is None:
            raise APIError(404, "The request is no longer in the log.", code="not_logged")
        response = log.redacted(record.raw_response.decode(errors="replace"))
        charged = any(charge.request_id == record.request_id for charge in self._api.charges.copy())
        details = {
            "query": record.query,
            "headers": record.headers,
            "body": record.body,
            "response": response,
            "param": record.param,
            "request_id": record.request_id,
            "charged": charged,
        }
        return json_response({**_call(record), **details}, headers={"cache-control": "no-store"})

    async def task_details(self, context: RequestContext) -> Response:
        """Serve one task and its webhook deliveries to the dashboard."""
        task = self._api.tasks.get(context.parts["task_id"])
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
        return json_response(shown, headers={"cache-control": "no-store"})

    async def act(self, context: RequestContext) -> Response:
        """Perform the action of a dashboard button; only the page knows the token."""
        token = context.headers.get("x-piccc-page-token", "")
        if not secrets.compare_digest(token.encode(), self._api.page_token.encode()):
            raise APIError(403, "Only the emulator's own page may do this.", code="page_token")
        body, api = context.json(), self._api
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
                case {"action": "pause-fault", "index": int(index), "is_paused": bool(is_paused)}:
                    api.faults.rules[index].is_paused = is_paused
                case {"action": "reply", "text": str(text)}:
                    api.script.lines.append(text)
                case {"action": "redeliver", "event_id": str(event_id)}:
                    api.webhooks.redeliver(event_id)
                case {"action": "reset"}:
                    api.reset()
                case _:
                    raise ValueError("unknown action")
        except (LookupError, ValueError) as error:
            raise APIError(400, str(error), code="invalid_action") from None
        return json_response({"done": True})

    async def openapi(self, context: RequestContext) -> Response:
        """Serve the OpenAPI document."""
        from piccc.emulator.openapi import document  # imported here because it builds every form

        return json_response({**document(), "servers": [{"url": context.base}]})

    async def feed(self, context: RequestContext) -> Response:
        """Serve the dashboard's data."""
        state = dashboard_state(self._api, context.base, context.query.get("filter", ""))
        return json_response(state, headers={"cache-control": "no-store"})

    async def output(self, context: RequestContext) -> Response:
        """Serve an output to the dashboard without a signed URL."""
        task = self._api.tasks.get(context.parts["task_id"])
        if task.status(self._api.clock.now()) != "completed" or not task.has_output:
            raise APIError(404, "The task has no output.", code="no_output")
        return file_response(context.headers, await self._api.media.get(task), task.mime_type)

    async def _submit(self, kind: Kind, context: RequestContext) -> Response:
        form = read(FORMS[kind], context.json(), status=422)
        context.record.model = form.model
        self._api.check_model(form.model, kind)
        context.record.ignored_fields = ignored_fields(form, status=422, strict=self._api.strict)
        task, replayed = await self._api.submit(kind, form, context)
        headers = {"idempotency-replayed": "true"} if replayed else {}
        at = task.created_at if not replayed else None
        return self._reply(self._api.show(task, context.base, at), status=202, headers=headers)

    def _numbered(self, context: RequestContext, fits: Callable[[Task], bool]) -> Response:
        query = context.query
        number = _whole_number(query.get("page"), "page", 1, 1_000_000)
        size = _whole_number(query.get("page_size"), "page_size", _PAGE_LIMIT, 500)
        tasks, total = self._api.tasks.numbered_page(fits=fits, number=number, size=size)
        shown = [self._api.show(task, context.base) for task in tasks]
        body = {"data": shown, "total": total, "page": number, "page_size": size}
        return self._reply(self._api.quirks.list(body))

    def _reply(
        self, shown: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        return json_response(self._api.quirks.reply(shown), status=status, headers=headers)

    def _events(self, frames: Iterable[Frame], context: RequestContext) -> Events:
        # Faults count events, so they must be sent separately.
        return Events(frames, clock=self._api.clock, latency=self._api.latency, apart=bool(context.faults))

    async def _think(self, answer: Completion) -> None:
        latency = self._api.latency
        if seconds := latency.first_token + answer.usage.completion_tokens * latency.token:
            await self._api.clock.sleep(seconds)


def _one_of(value: str | None, allowed: tuple[str, ...], name: str) -> str | None:
    if value is not None and value not in allowed:
        raise APIError(400, f"{name}: must be one of {', '.join(allowed)}.", code="invalid_value", param=name)
    return value


def _whole_number(value: str | None, name: str, default: int, most: int) -> int:
    if value is None:
        return default
    if not (_NUMBER.fullmatch(value) and 1 <= int(value) <= most):
        message = f"{name}: must be a whole number from 1 to {most}."
        raise APIError(400, message, code="invalid_value", param=name)
    return int(value)


def _text_tokens(request: ModelRequest) -> int:
    """Count the tokens in parts, because a regular expression match blocks other threads."""
    parts = (
        turn.text[at : at + _LARGE_BODY]
        for turn in request.turns
        for at in range(0, len(turn.text), _LARGE_BODY)
    )
    return sum(len(pieces(part)) for part in parts)


Handler = Callable[[RequestContext], Awaitable[Response]]
T = TypeVar("T")
AnyChat = TypeVar("AnyChat", openai.ChatRequest, anthropic.MessageRequest)


async def off_loop(context: RequestContext, work: Callable[[], T]) -> T:
    """Run work on a request, in a thread if its body is large, so that other requests are not blocked."""
    return await asyncio.to_thread(work) if len(context.body) > _LARGE_BODY else work()


def refusal(context: RequestContext, error: APIError) -> Response:
    """Record an error and return its response in the path's dialect."""
    record = context.record
    record.error, record.param = error.message, error.param
    body = error.envelope(record.path, record.request_id)
    return json_response(body, status=error.status, headers=error.headers)
