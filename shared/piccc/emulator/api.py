"""The emulated API behind the routes: chat, tasks and charges."""

from __future__ import annotations

import hmac
import json
import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from piccc.emulator.clock import Clock, Latency, RateLimit
from piccc.emulator.conversation import Completion, ModelCall, ModelRequest, Script
from piccc.emulator.faults import Fault, Faults, RequestContext
from piccc.emulator.model import RuleModel, Unfillable
from piccc.emulator.model.tokens import measured
from piccc.emulator.quirks import Quirks
from piccc.emulator.render import MediaCache, OutputURLs
from piccc.emulator.request_log import Charge, RequestLog
from piccc.emulator.tasks import (
    OUTCOMES,
    ImageTaskRequest,
    Kind,
    Task,
    Tasks,
    VideoTaskRequest,
    missing,
    view,
)
from piccc.emulator.webhooks import Webhooks
from piccc.emulator.wire import APIError

if TYPE_CHECKING:
    from piccc.emulator.upstream import Given, Source

StoredKind = Literal["tasks", "charges", "reported"]


class State:
    """Tasks and charges on disk, as append-only JSON lines.

    Each line starts with its newline, so a line truncated by a crash does not corrupt the next. Truncated
    lines are skipped.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)

    def append(self, kind: StoredKind, values: dict[str, Any]) -> None:
        """Append one line."""
        with self._path(kind).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(values))

    def read(self, kind: StoredKind) -> Iterator[dict[str, Any]]:
        """Yield all valid lines."""
        path = self._path(kind)
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def _path(self, kind: StoredKind) -> Path:
        return self._directory / f"{kind}.jsonl"


_CHARGES = 10_000
_LONGEST_KEY = 255
MODELS: dict[str, Literal["chat", "image", "video"]] = {
    "piccc-flash": "chat",
    "piccc-pro": "chat",
    "piccc-ultra": "chat",
    "piccc-image": "image",
    "piccc-video": "video",
}


class EmulatedAPI:
    """The state and behaviour of the API, independent of HTTP."""

    def __init__(
        self,
        *,
        api_key: str,
        clock: Clock,
        latency: Latency,
        seed: int,
        faults: Faults,
        quirks: Quirks,
        strict: bool,
        models: Iterable[str] | None,
        limit: RateLimit,
        webhooks: Webhooks,
        url_lifetime: float,
        state: State | None,
        source: Source | None = None,
    ) -> None:
        self.api_key = api_key
        self.clock = clock
        self.latency = latency
        self.seed = seed
        self.faults = faults
        self.quirks = quirks
        self.strict = strict
        self.models = tuple(MODELS if models is None else models)
        self.limit = limit
        self.webhooks = webhooks
        self.request_log = RequestLog([api_key, webhooks.secret, (source and source.key) or ""])
        self.script = Script()
        self.tasks = Tasks()
        self.page_token = secrets.token_urlsafe(16)
        self.charges: deque[Charge] = deque(maxlen=_CHARGES)
        self.media = MediaCache()
        self.output_urls = OutputURLs(sha256(api_key.encode()).digest(), lifetime=url_lifetime)
        self.source = source
        self._model = RuleModel()
        self._reads: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._live: dict[str, dict[str, Any]] = {}
        self._state = state
        if state:
            self._restore(state)

    def reset(self) -> None:
        """Clear requests, charges, tasks, webhooks, faults and scripted replies; files on disk are kept."""
        self.clear_scripts()
        self.request_log.reset()
        self.charges.clear()
        self.tasks = Tasks()
        self.webhooks.deliveries.clear()
        self._live.clear()
        if self.source:
            self.source.reset()

    def clear_scripts(self) -> None:
        """Remove scripted replies, reply rules and all faults."""
        self.script.lines.clear()
        self.script.rules.clear()
        self.faults.rules.clear()

    def resume(self) -> None:
        """Deliver webhooks that the previous run left undelivered."""
        reported = {line["task_id"] for line in self._state.read("reported")} if self._state else set()
        for task in self.tasks:
            if task.id not in reported:
                self._follow(task, None)

    def admit(self, context: RequestContext) -> None:
        """Check the API key in either header. Raises APIError 401."""
        scheme, _, bearer = context.headers.get("authorization", "").partition(" ")
        offered = [
            context.headers.get("x-api-key", ""),
            bearer.strip() if scheme.lower() == "bearer" else "",
        ]
        if not any(offered):
            message = "No API key was sent. Send Authorization: Bearer KEY, or X-API-Key: KEY."
            raise APIError(401, message, code="missing_api_key")
        if not any(hmac.compare_digest(key.encode(), self.api_key.encode()) for key in offered):
            raise APIError(401, "The API key is not valid.", code="invalid_api_key")

    def check_model(self, name: str, kind: Literal["chat", "image", "video"]) -> None:
        """Raise APIError 404 if a model is unknown or of another kind."""
        if self.strict and (name not in self.models or MODELS.get(name, kind) != kind):
            known = [model for model in self.models if MODELS.get(model, kind) == kind]
            message = f"model: no {kind} model is named {name!r}. Available: {', '.join(known) or 'none'}."
            raise APIError(404, message, code="model_not_found", param="model")

    def answer(self, request: ModelRequest, context: RequestContext) -> Completion | None:
        """Answer a chat request and charge for it, or return None if `source` must answer.

        Raises APIError 400 if no valid value can be found for the request's schema.
        """
        try:
            scripted = self.script.answer(request)
            if scripted is None and self.source is not None:
                return None
            answer = measured(request, scripted) if scripted else self._model.answer(request)
            if scripted is None:
                answer.calls = tuple(map(self._with_own_id, answer.calls))
        except Unfillable as error:
            raise APIError(400, f"{error} Give it an example or a default.", code="invalid_value") from None
        self.charge_chat(context, answer.usage.prompt_tokens, answer.usage.completion_tokens)
        return answer

    def _with_own_id(self, call: ModelCall) -> ModelCall:
        """Number a call whose id was used before: the model repeats itself, but servers repeat no id."""
        self._calls[call.id] += 1
        number = self._calls[call.id]
        if len(self._calls) > _CHARGES:
            del self._calls[next(iter(self._calls))]
        return call if number == 1 else replace(call, id=f"{call.id}_{number}")

    def charge_chat(self, context: RequestContext, prompt_tokens: int, completion_tokens: int) -> None:
        """Charge for a chat response."""
        record = context.record
        record.prompt_tokens, record.completion_tokens = prompt_tokens, completion_tokens
        self._charge(
            Charge(
                kind="chat",
                model=record.model or "",
                request_id=record.request_id,
                at=self.clock.now(),
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
            )
        )

    async def submit(
        self, kind: Kind, form: ImageTaskRequest | VideoTaskRequest, context: RequestContext
    ) -> tuple[Task, bool]:
        """Accept a task and charge for it. Return the earlier task and True for a known Idempotency-Key."""
        idempotency = _idempotency(kind, context)
        earlier = self.tasks.replayed(idempotency) if idempotency else None
        if earlier:
            context.record.task_id = earlier.id
            return earlier, True
        given: Given | None = None
        if self.source and not context.fault(*OUTCOMES):
            route = f"{context.record.method} {context.record.path}"
            given = await self.source.submit(route, context.json(), context.headers)
        task = self._new_task(kind, form, context, idempotency, given)
        self.tasks.add(task)
        context.record.task_id = task.id
        self._charge(Charge(kind, task.model, context.record.request_id, at=task.created_at, task_id=task.id))
        if self._state:
            self._state.append("tasks", task.to_json())
        self._follow(task, context.fault("webhook"))
        return task, False

    async def refresh(self, *tasks: Task) -> None:
        """Read the tasks that run on a live server, and end those that have ended there."""
        for task in tasks:
            if self.source is None or not task.is_live:
                continue
            seen = await self.source.read(task.id)
            if seen is None:
                continue
            if seen.shown:
                self._live[task.id] = seen.shown
            if (outcome := seen.outcome) and task.outcome == "stuck":
                done = replace(
                    task,
                    duration=self.clock.now() - task.created_at,
                    outcome=outcome["status"],
                    given_error=outcome.get("error"),
                )
                self.tasks.replace(done)
                self._follow(done, None)

    def read(self, task_id: str) -> Task:
        """Return a task. Raises APIError 404 if it is unknown or hidden by a fault."""
        task = self.tasks.get(task_id)
        if self._reads[task_id] < task.hidden_reads:
            self._reads[task_id] += 1
            raise missing(task_id)
        return task

    def show(self, task: Task, base: str, at: float | None = None) -> dict[str, Any]:
        """Return the task's JSON at a given time, by default now."""
        moment = self.clock.now() if at is None else at
        if live := self._live.get(task.id):
            return {**live, "polling_url": f"{base}/v1/tasks/{task.id}"}
        shown = view(task, moment, base, self.output_urls.result)
        if "other-host" in self.quirks and shown["result"]:
            for output in shown["result"]["outputs"]:
                output["url"] = output["url"].replace("//127.0.0.1", "//localhost", 1)
        return self.quirks.task(shown)

    def fits(self, *, kind: str | None, status: str | None) -> Callable[[Task], bool]:
        """Return a predicate that matches tasks by type and status."""
        now = self.clock.now()
        return lambda task: kind in (None, task.kind) and status in (None, task.status(now))

    def environment(self, base_url: str) -> dict[str, str]:
        """Return the environment variables that point a client at the emulator."""
        models = self.models
        return {
            "PICCC_BASE_URL": base_url,
            "PICCC_API_KEY": self.api_key,
            "PICCC_IMAGE_MODEL": next((name for name in models if MODELS.get(name) == "image"), models[-1]),
            "PICCC_VIDEO_MODEL": next((name for name in models if MODELS.get(name) == "video"), models[-1]),
        }

    def model_list(self) -> dict[str, Any]:
        """Return the list of models (assumed)."""
        made = {"object": "model", "created": 1_780_000_000, "owned_by": "piccc"}
        return {"object": "list", "data": [{"id": name, **made} for name in self.models]}

    def _charge(self, charge: Charge) -> None:
        self.charges.append(charge)
        if self._state:
            self._state.append("charges", charge.to_json())

    def _restore(self, state: State) -> None:
        for values in state.read("tasks"):
            self.tasks.add(Task.from_json(values))
        self.charges.extend(Charge(**values) for values in state.read("charges"))

    def _follow(self, task: Task, fault: Fault | None) -> None:
        def reported() -> None:
            if self._state:
                self._state.append("reported", {"task_id": task.id})

        self.webhooks.follow(task, lambda at: self.show(task, task.base, at), fault, reported)

    def _new_task(
        self,
        kind: Kind,
        form: ImageTaskRequest | VideoTaskRequest,
        context: RequestContext,
        idempotency: tuple[str, str] | None,
        given: Given | None,
    ) -> Task:
        outcome, odd, hidden = context.fault(*OUTCOMES), context.fault("status"), context.fault("hidden")
        fate = (given.status or ("stuck" if given.is_live else "completed")) if given else "completed"
        return Task(
            id=given.id if given else f"task_{secrets.token_hex(12)}",
            kind=kind,
            model=form.model,
            prompt=form.prompt,
            aspect_ratio=form.aspect_ratio,
            resolution=form.resolution,
            created_at=self.clock.now(),
            duration=self.latency.task(kind),
            base=context.base,
            duration_seconds=form.duration_seconds if isinstance(form, VideoTaskRequest) else None,
            seed=self.seed if form.seed is None else form.seed,
            mime_type="video/mp4" if isinstance(form, VideoTaskRequest) else f"image/{form.output_format}",
            webhook_url=form.webhook.url if form.webhook else None,
            outcome=outcome.kind if outcome else fate,
            given_error=given.error if given else None,
            is_live=given is not None and given.is_live,
            odd_status=odd.value if odd else None,
            hidden_reads=int(hidden.number(1)) if hidden else 0,
            idempotency=idempotency,
        )


def _idempotency(kind: Kind, context: RequestContext) -> tuple[str, str] | None:
    key = context.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= _LONGEST_KEY:
        message = f"Idempotency-Key: must have 1 to {_LONGEST_KEY} characters."
        raise APIError(400, message, code="invalid_value", param="Idempotency-Key")
    canonical = json.dumps([kind, context.json()], sort_keys=True)
    return key, sha256(canonical.encode()).hexdigest()
