"""What the page shows: the latest calls and tasks, and what they add up to."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, get_args

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from piccc.emulator.api import EmulatedAPI
from piccc.emulator.conversation import Completion, ModelRequest
from piccc.emulator.errors import APIError
from piccc.emulator.event_stream import JSON, Events, anthropic_frames, openai_frames
from piccc.emulator.faults import RequestContext
from piccc.emulator.model.tokens import prompt_tokens
from piccc.emulator.openapi import document
from piccc.emulator.render import served
from piccc.emulator.request_log import RequestRecord
from piccc.emulator.tasks import STATUSES, Kind, Task
from piccc.emulator.webhooks import on_loopback
from piccc.emulator.wire import anthropic, openai, strict
from piccc.emulator.wire.fields import read
from piccc.emulator.wire.media import FORMS

_CALLS = 100
_TASKS = 48


def dashboard_state(provider: EmulatedAPI) -> dict[str, Any]:
    """Return the page's data; calls and tasks newest first."""
    charges = list(provider.charges.copy())
    tasks = list(provider.tasks)
    return {
        "calls": [_call(record) for record in reversed(provider.journal.records()[-_CALLS:])],
        "tasks": [_task(task, provider.clock.now()) for task in reversed(tasks[-_TASKS:])],
        "totals": {
            "calls": provider.journal.count,
            "tasks": len(tasks),
            "prompt_tokens": sum(charge.prompt_tokens for charge in charges),
            "completion_tokens": sum(charge.completion_tokens for charge in charges),
            "charges": Counter(charge.kind for charge in charges),
        },
        "speed": str(provider.pace.speed),
        "api_key": provider.api_key if provider.api_key.startswith("pcc_test_") else None,
    }


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
_LARGEST_PAGE = 100
_PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; media-src 'self'; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


class Routes:
    """The API's routes over one provider."""

    def __init__(self, provider: EmulatedAPI) -> None:
        self._provider = provider

    def app(self) -> Starlette:
        """Return the routes as an ASGI app; while it lives, webhooks are sent."""
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
            Route("/", self.page),
            Route("/openapi.json", self.openapi),
            Route("/emulator/feed", self.feed),
            Route("/emulator/outputs/{task_id}", self.output),
        ]
        handlers: dict[Any, Any] = {APIError: _refused, HTTPException: _not_routed, Exception: _broken}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._life)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        self._provider.resume()
        yield
        await self._provider.webhooks.close()

    async def chat(self, request: Request) -> Response:
        """Answer in OpenAI's form."""
        exchange = _exchange(request)
        form = read(openai.ChatRequest, exchange.json(), status=400)
        answer = self._answer(form, exchange)
        reply_id, created = f"chatcmpl-{secrets.token_hex(12)}", int(self._provider.clock.now())
        if form.stream:
            quirks = self._provider.quirks
            chunks = quirks.chunks(openai.chunks(form, answer, reply_id=reply_id, created=created))
            return self._events(openai_frames(chunks, done="no-done" not in quirks))
        await self._think(answer)
        return JSON(openai.reply(form, answer, reply_id=reply_id, created=created))

    async def messages(self, request: Request) -> Response:
        """Answer in Anthropic's form."""
        exchange = _exchange(request)
        form = read(anthropic.MessageRequest, exchange.json(), status=400)
        answer = self._answer(form, exchange)
        reply_id = f"msg_{secrets.token_hex(12)}"
        if form.stream:
            return self._events(anthropic_frames(anthropic.events(form, answer, reply_id=reply_id)))
        await self._think(answer)
        return JSON(anthropic.reply(form, answer, reply_id=reply_id))

    async def count_tokens(self, request: Request) -> Response:
        """Count what a message would cost to read."""
        form = read(anthropic.CountRequest, _exchange(request).json(), status=400)
        return JSON({"input_tokens": prompt_tokens(self._asked(form))})

    def _answer(
        self, form: openai.ChatRequest | anthropic.MessageRequest, exchange: RequestContext
    ) -> Completion:
        exchange.record.model = form.model
        return self._provider.answer(self._asked(form), exchange)

    def _asked(self, form: openai.ChatRequest | anthropic.CountRequest) -> ModelRequest:
        ask = form.ask()
        if self._provider.strict:
            strict.check(form)
        return ask

    async def models(self, request: Request) -> Response:
        """List the models."""
        return JSON(self._provider.models())

    async def model(self, request: Request) -> Response:
        """Show one model."""
        wanted = request.path_params["model_id"]
        for model in self._provider.models()["data"]:
            if model["id"] == wanted:
                return JSON(model)
        raise APIError(404, f"No model {wanted!r} is listed.", code="model_not_found", param="model")

    async def submit_image(self, request: Request) -> Response:
        """Accept an order for a picture."""
        return self._submit("image", request)

    async def submit_video(self, request: Request) -> Response:
        """Accept an order for a film."""
        return self._submit("video", request)

    async def task(self, request: Request) -> Response:
        """Show one task."""
        exchange = _exchange(request)
        task = self._provider.read(request.path_params["task_id"])
        exchange.record.task_id, exchange.record.model = task.id, task.model
        return self._reply(self._provider.show(task, exchange.base))

    async def tasks(self, request: Request) -> Response:
        """List tasks, newest first."""
        query, quirks = request.query_params, self._provider.quirks
        fits = self._provider.fits(
            kind=_one_of(query.get("type"), get_args(Kind), "type"),
            status=_one_of(query.get("status"), STATUSES, "status"),
        )
        if "page-numbers" in quirks:
            return self._numbered(request, fits)
        limit, cursor = _whole(query.get("limit"), "limit", _PAGE_LIMIT, _LARGEST_PAGE), query.get("cursor")
        exchange = _exchange(request)
        paged = self._provider.tasks.drifting_page if exchange.fault("drift") else self._provider.tasks.page
        page = paged(fits=fits, limit=limit, cursor=cursor)
        following = page.next_cursor
        if following and exchange.fault("repeat-cursor"):
            following = cursor or following
        if exchange.fault("no-cursor"):
            following = None
        more = page.next_cursor is not None
        shown = [self._provider.show(task, exchange.base) for task in page.tasks]
        body = {"object": "list", "data": shown, "has_more": more, "next_cursor": following}
        return self._reply(quirks.list(body))

    async def file(self, request: Request) -> Response:
        """Give out a picture or a film."""
        name, query = request.path_params["name"], request.query_params
        now = self._provider.clock.now()
        known = self._provider.addresses.admits(
            name, query.get("expires", ""), query.get("signature", ""), now
        )
        if not known or _exchange(request).fault("expired-url"):
            raise APIError(
                403, "This URL has expired. Read the task again for a fresh one.", code="url_expired"
            )
        task = self._provider.tasks.get(name.rpartition(".")[0])
        return served(request, await self._provider.darkroom.develop(task), task.mime_type)

    async def page(self, request: Request) -> Response:
        """Show the page to look at."""
        html = files("piccc.emulator").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(html, headers={"content-security-policy": _PAGE_POLICY})

    async def openapi(self, request: Request) -> Response:
        """Describe the API."""
        return JSON({**document(), "servers": [{"url": _exchange(request).base}]})

    async def feed(self, request: Request) -> Response:
        """Give the page its data."""
        self._near(request)
        return JSON(dashboard_state(self._provider), headers={"cache-control": "no-store"})

    async def output(self, request: Request) -> Response:
        """Give the page a picture or a film."""
        self._near(request)
        task = self._provider.tasks.get(request.path_params["task_id"])
        if task.status(self._provider.clock.now()) != "completed" or not task.has_output:
            raise APIError(404, "The task has no output.", code="no_output")
        return served(request, await self._provider.darkroom.develop(task), task.mime_type)

    def _near(self, request: Request) -> None:
        """Refuse what a page from elsewhere could ask through a name that it points at this machine."""
        if self._provider.webhooks.loopback_only and not on_loopback(_exchange(request).base):
            raise APIError(403, "The emulator's page is for this machine only.", code="not_on_loopback")

    def _submit(self, kind: Kind, request: Request) -> Response:
        exchange = _exchange(request)
        form = read(FORMS[kind], exchange.json(), status=422)
        exchange.record.model = form.model
        task, replayed = self._provider.submit(kind, form, exchange)
        headers = {"idempotency-replayed": "true"} if replayed else {}
        at = task.created_at if not replayed else None
        return self._reply(self._provider.show(task, exchange.base, at), status=202, headers=headers)

    def _numbered(self, request: Request, fits: Callable[[Task], bool]) -> Response:
        query = request.query_params
        number = _whole(query.get("page"), "page", 1, 1_000_000)
        size = _whole(query.get("page_size"), "page_size", _PAGE_LIMIT, 500)
        tasks, total = self._provider.tasks.numbered_page(fits=fits, number=number, size=size)
        shown = [self._provider.show(task, _exchange(request).base) for task in tasks]
        body = {"data": shown, "total": total, "page": number, "page_size": size}
        return self._reply(self._provider.quirks.list(body))

    def _reply(
        self, shown: dict[str, Any], *, status: int = 200, headers: dict[str, str] | None = None
    ) -> Response:
        return JSON(self._provider.quirks.reply(shown), status_code=status, headers=headers)

    def _events(self, frames: Any) -> Events:
        return Events(frames, clock=self._provider.clock, pace=self._provider.pace)

    async def _think(self, answer: Completion) -> None:
        pace = self._provider.pace
        await self._provider.clock.sleep(pace.first_token + answer.usage.completion_tokens * pace.token)


def _exchange(request: Request) -> RequestContext:
    exchange: RequestContext = request.state.exchange
    return exchange


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


async def _refused(request: Request, problem: APIError) -> Response:
    body = problem.envelope(request.url.path, _exchange(request).record.request_id)
    return JSON(body, status_code=problem.status, headers=problem.headers)


async def _broken(request: Request, error: Exception) -> Response:
    """Answer in the route's own envelope; the server then reports the error itself."""
    return await _refused(
        request, APIError(500, "The emulator failed; its console says why.", code="emulator_error")
    )


async def _not_routed(request: Request, error: HTTPException) -> Response:
    message = f"{request.method} {request.url.path} is not a route of this API."
    headers = dict(error.headers or {})
    return await _refused(
        request, APIError(error.status_code, message, code="unknown_route", headers=headers)
    )
