"""OpenTelemetry spans and metrics of calls, by the GenAI semantic conventions of version 1.41.

1.41 is the newest release that has them; they since live, unreleased, in a repository of their own:
https://github.com/open-telemetry/semantic-conventions/tree/v1.41.1/docs/gen-ai. Names that begin with
`piccc.` are ours, for what the conventions have no name for.

This module is imported once a program has set a tracer provider (`piccc._http.session.telemetry`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Token
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Self

from piccc.errors import MissingExtraError

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError(
        "OpenTelemetry is not installed.", hint='Install it: pip install "piccc[otel]".'
    ) from error

from piccc._version import __version__
from piccc.config import Config, origin_of, redact
from piccc.conversation import (
    Audio,
    File,
    Image,
    InvalidToolCall,
    Message,
    Reasoning,
    Record,
    Refusal,
    Source,
    Text,
    ToolCall,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from piccc.conversation import ChatReply, ChatRequest, Part
    from piccc.tasks import Task

__all__ = ["instrument", "uninstrument"]

logger = logging.getLogger("piccc")
Given = ParamSpec("Given")

SCHEMA = "https://opentelemetry.io/schemas/1.41.1"
PROVIDER = "piccc"
CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
DISABLED_VARIABLE = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
TRACEPARENT_VARIABLE = "PICCC_TRACEPARENT"
GAP_EVERY = 128
"""Of how many gaps between a stream's chunks one is recorded: a value costs 10 µs, a token 6 to read."""
KEPT_SUBMISSIONS = 10_000
"""Of how many tasks the submission's span is remembered, for links to it."""

Attributes = dict[str, "AttributeValue"]

# The boundaries are those that the conventions ask for.
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS = [4.0**power for power in range(14)]
_CHUNK_SECONDS = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5]
_FIRST_SECONDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0]
_USAGE = (
    ("gen_ai.usage.cache_read.input_tokens", "cache_read_tokens"),
    ("gen_ai.usage.cache_creation.input_tokens", "cache_creation_tokens"),
    ("gen_ai.usage.reasoning.output_tokens", "reasoning_tokens"),
)
_REQUEST = (
    ("gen_ai.request.temperature", "temperature"),
    ("gen_ai.request.top_p", "top_p"),
    ("gen_ai.request.max_tokens", "max_tokens"),
    ("gen_ai.request.seed", "seed"),
)
_EXTRA = (
    ("gen_ai.request.top_k", "top_k"),
    ("gen_ai.request.frequency_penalty", "frequency_penalty"),
    ("gen_ai.request.presence_penalty", "presence_penalty"),
    ("gen_ai.request.choice.count", "n"),
)
"""What programs add to a request beside its fields."""


class _Instruments:
    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self.tracer = trace.get_tracer("piccc", __version__, tracer_provider, schema_url=SCHEMA)
        meter = metrics.get_meter("piccc", __version__, meter_provider, schema_url=SCHEMA)

        def histogram(name: str, unit: str, description: str, boundaries: list[float]) -> Histogram:
            return meter.create_histogram(
                f"gen_ai.client.{name}", unit, description, explicit_bucket_boundaries_advisory=boundaries
            )

        self.duration = histogram("operation.duration", "s", "GenAI operation duration.", _SECONDS)
        self.tokens = histogram("token.usage", "{token}", "Number of tokens used.", _TOKENS)
        self.first = histogram("operation.time_to_first_chunk", "s", "Time to first chunk.", _FIRST_SECONDS)
        self.gap = histogram("operation.time_per_output_chunk", "s", "Time per chunk.", _CHUNK_SECONDS)

        # Read once: each look at the environment costs a call as much as three attributes of a span.
        def asks(variable: str, *answers: str) -> bool:
            return os.environ.get(variable, "").lower() in ("true", "1", *answers)

        self.captures_content = asks(CONTENT_VARIABLE, "span_only", "span_and_event")
        self.sends_traceparent = asks(TRACEPARENT_VARIABLE)


instruments: _Instruments | None = None
"""What spans and metrics are made with; None while there is no provider."""
_submissions: OrderedDict[str, SpanContext] = OrderedDict()


def enable() -> bool:
    """Use the global providers, unless the environment disables `piccc`; return whether it does not."""
    if "piccc" in os.environ.get(DISABLED_VARIABLE, "").replace(" ", "").split(","):
        return False
    instrument()
    return True


def instrument(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Use these providers from now on; a global tracer provider is found without a call of this.

    Args:
        tracer_provider: makes the spans; by default the global one.
        meter_provider: takes the metrics; by default the global one.

    Raises:
        MissingExtraError: at the import of this module, where opentelemetry-api is not installed.
    """
    global instruments
    instruments = _Instruments(tracer_provider, meter_provider)


def uninstrument() -> None:
    """Forget the providers of `instrument`; the global ones count again."""
    global instruments
    instruments = None


def trace_headers() -> tuple[tuple[str, str], ...]:
    """Return `traceparent` and `tracestate` of the current span where `PICCC_TRACEPARENT=1` asks for them."""
    if instruments is None or not instruments.sends_traceparent:
        return ()
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def _harmless(method: Callable[Given, None]) -> Callable[Given, None]:
    """Log what a method raises: the API should not, but a program's own processors and readers do.

    A task that has been paid for, or an answer, must not be lost with its span.
    """

    @wraps(method)
    def call(*args: Given.args, **options: Given.kwargs) -> None:
        try:
            method(*args, **options)
        except Exception:
            logger.warning("OpenTelemetry failed, and the call goes on.", exc_info=True)

    return call


class Operation:
    """One operation: its span is current within `with`, and it ends once, with its metrics.

    A failure that leaves the `with` block ends it. What ends later, as a stream does, calls `end` itself.
    """

    _is_measured = False

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        more: Attributes | None = None,
        *,
        content: Callable[[], Attributes] | None = None,
        links: Sequence[Link] = (),
        within: context.Context | None = None,
    ) -> None:
        """Begin; `attributes` go to the metrics too, `more` and `content` (if captured) to the span alone.

        The span belongs to the current one, or to that of `within`.
        """
        assert instruments is not None  # noqa: S101  `telemetry` has been asked
        self._instruments = instruments
        self._attributes = attributes
        if more:
            attributes = attributes | more
        self._began, self._began_ns = time.perf_counter(), time.time_ns()
        self._span: Span = trace.INVALID_SPAN
        self._within = within
        self._start(name, kind, attributes, content, links)
        self._token: Token[context.Context] | None = None
        self._has_ended = False

    @_harmless
    def _start(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        content: Callable[[], Attributes] | None,
        links: Sequence[Link],
    ) -> None:
        if content is not None and self._instruments.captures_content:
            attributes = attributes | content()
        self._span = self._instruments.tracer.start_span(
            name,
            context=self._within,
            kind=kind,
            attributes=attributes,
            links=links,
            start_time=self._began_ns,
        )

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span, self._within))
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._token is not None:
            context.detach(self._token)
        if error is not None:
            self.end(error=error)

    @_harmless
    def end(
        self,
        *,
        record: Record | None = None,
        error: BaseException | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        """End the span, with what is known, unless it has ended before."""
        if self._has_ended:
            return
        self._has_ended = True
        found = attributes or {}
        if error is not None:
            self._attributes["error.type"] = found["error.type"] = type(error).__name__
            record = record or getattr(error, "record", None)
            if status := getattr(error, "status", None):
                found["http.response.status_code"] = status
        if self._span.is_recording():
            if record is not None:
                self._note(record, found)
            self._span.set_attributes(found)
            if error is not None:
                # What a server says of a request may quote it: so it counts as content.
                said = str(error) if self._instruments.captures_content else type(error).__name__
                self._span.set_status(Status(StatusCode.ERROR, said))
        self._span.end()
        if self._is_measured:
            self._instruments.duration.record(time.perf_counter() - self._began, self._attributes)

    def _note(self, record: Record, found: Attributes) -> None:
        if request_id := record.request_id:
            found["piccc.request_id"] = request_id
        if record.adapted:
            found["piccc.adapted"] = list(record.adapted)
        if len(record.attempts) < 2:
            return
        found["http.request.resend_count"] = len(record.attempts) - 1
        at = float(self._began_ns)
        for number, attempt in enumerate(record.attempts[:-1], 1):
            at += (attempt.queued + attempt.elapsed) * 1e9
            about: Attributes = {"piccc.attempt": number, "piccc.waited": attempt.waited}
            about["piccc.outcome"] = attempt.outcome
            if attempt.request_id:
                about["piccc.request_id"] = attempt.request_id
            self._span.add_event("piccc.retry", about, timestamp=int(at))
            at += attempt.waited * 1e9


class Chat(Operation):
    """A chat call: `chat {model}`."""

    _is_measured = True

    def __init__(self, config: Config, request: ChatRequest, *, is_stream: bool) -> None:
        attributes = _attributes("chat", config, request.model)
        more: Attributes = {
            name: value for name, field in _REQUEST if (value := getattr(request, field)) is not None
        }
        if request.extra_body:
            given = ((name, request.extra_body.get(field)) for name, field in _EXTRA)
            more |= {name: value for name, value in given if isinstance(value, int | float)}
        if is_stream:
            more["gen_ai.request.stream"] = True
        if request.stop:
            more["gen_ai.request.stop_sequences"] = list(request.stop)
        if request.response_format is not None:
            more["gen_ai.output.type"] = "json"
        content = partial(_input, request)
        super().__init__(f"chat {request.model}", SpanKind.CLIENT, attributes, more, content=content)
        self._last = 0.0
        self._until_gap = 2
        self._gaps: list[float] = []

    def chunk(self) -> None:
        """Note that a chunk of the stream has come: what one read brought."""
        self._until_gap = left = self._until_gap - 1
        if left > 1:
            return
        now = time.perf_counter()
        if left == 0:
            self._gaps.append(now - self._last)
            self._until_gap = GAP_EVERY
        self._last = now

    @_harmless
    def completed(self, reply: ChatReply, error: BaseException | None = None) -> None:
        """End with a reply, whole or as far as it had come."""
        if self._has_ended:
            return
        found: Attributes = {}
        usage, record = reply.usage, reply.record
        if reply.model:
            found["gen_ai.response.model"] = self._attributes["gen_ai.response.model"] = reply.model
        if self._span.is_recording():
            if reply.id:
                found["gen_ai.response.id"] = reply.id
            if reply.finish_reason:
                found["gen_ai.response.finish_reasons"] = [reply.finish_reason]
            if record.time_to_first_event is not None:
                found["gen_ai.response.time_to_first_chunk"] = record.time_to_first_event
            if usage is not None:
                found["gen_ai.usage.input_tokens"] = usage.input_tokens
                found["gen_ai.usage.output_tokens"] = usage.output_tokens
                for name, field in _USAGE:
                    if count := getattr(usage, field):
                        found[name] = count
            if self._instruments.captures_content:
                found["gen_ai.output.messages"] = _json([_output(reply)])
        self.end(record=record, error=error, attributes=found)
        made, attributes = self._instruments, self._attributes
        if record.time_to_first_event is not None:
            made.first.record(record.time_to_first_event, attributes)
        for gap in self._gaps:
            made.gap.record(gap, attributes)
        if usage is not None:
            made.tokens.record(usage.input_tokens, {**attributes, "gen_ai.token.type": "input"})
            made.tokens.record(usage.output_tokens, {**attributes, "gen_ai.token.type": "output"})


class Submission(Operation):
    """The submission of an image or a video task: `generate_content {model}`."""

    _is_measured = True

    def __init__(self, config: Config, path: str, body: Mapping[str, Any]) -> None:
        model = str(body.get("model") or "")
        kind = "video" if "/video" in path else "image"
        more: Attributes = {"gen_ai.output.type": kind}
        attributes = _attributes("generate_content", config, model)
        name, content = f"generate_content {model}".strip(), partial(_prompt, body)
        super().__init__(name, SpanKind.CLIENT, attributes, more, content=content)

    @_harmless
    def submitted(self, task: Task, record: Record) -> None:
        """End with the task, and remember the span for links to it."""
        found: Attributes = {"piccc.task.id": task.id, "piccc.task.status": task.status}
        self.end(record=record, attributes=found)
        _submissions[task.id] = self._span.get_span_context()
        while len(_submissions) > KEPT_SUBMISSIONS:
            with suppress(KeyError):  # another thread may have been first
                _submissions.popitem(last=False)


class Wait(Operation):
    """A wait for tasks: `piccc.wait`, with a link to each task's submission, and an event for each end."""

    def __init__(self) -> None:
        super().__init__("piccc.wait", SpanKind.INTERNAL, {})

    @_harmless
    def add(self, task_id: str) -> None:
        """Link the task's submission, if it was sent by this process."""
        if (submission := _submissions.get(task_id)) is not None:
            self._span.add_link(submission, {"piccc.task.id": task_id})

    @_harmless
    def ended(self, task: Task) -> None:
        """Note the end of a task; from any thread."""
        self._span.add_event("piccc.task.ended", {"piccc.task.id": task.id, "piccc.task.status": task.status})


def chat(config: Config, request: ChatRequest, *, is_stream: bool) -> Chat | None:
    """Begin a chat call; return None where a span for it is current already, as a framework's is."""
    if is_traced("chat", "LLM"):
        return None
    return Chat(config, request, is_stream=is_stream)


def tool(name: str, call_id: str | None) -> Operation | None:
    """Begin a run of one of the media tools; return None where a span for it is current already."""
    if not name or is_traced("execute_tool", "TOOL"):
        return None
    attributes: Attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    attributes["gen_ai.tool.type"] = "function"
    if call_id:
        attributes["gen_ai.tool.call.id"] = call_id
    return Operation(f"execute_tool {name}", SpanKind.INTERNAL, attributes)


def delivery(task_id: str, within: context.Context | None) -> Operation:
    """Begin to act on a webhook within its request's context, with a link to the task's submission."""
    submission = _submissions.get(task_id)
    links = [] if submission is None else [Link(submission)]
    attributes: Attributes = {"piccc.task.id": task_id}
    return Operation("piccc.webhook", SpanKind.CONSUMER, attributes, links=links, within=within)


def is_traced(operation: str, kind: str) -> bool:
    """Return whether instrumentation above us has a span for the same operation, or asks for silence.

    OpenLLMetry's instrumentations of frameworks set the first key for the clients below them, and
    opentelemetry-instrumentation's `suppress_instrumentation` the second.
    """
    current = context.get_current()
    if not current:
        return False
    if context.get_value("suppress_language_model_instrumentation", current) is True and kind == "LLM":
        return True
    if context.get_value("suppress_instrumentation", current):
        return True
    # The SDK's spans can be read, those of the API alone cannot.
    span = trace.get_current_span(current)
    known: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    if known.get("gen_ai.operation.name") == operation or known.get("openinference.span.kind") == kind:
        return True
    # OpenInference's LlamaIndex spans say at their end what they are; before, only their names do.
    scope, name = getattr(span, "instrumentation_scope", None), getattr(span, "name", "")
    is_theirs = scope is not None and scope.name == "openinference.instrumentation.llama_index"
    return is_theirs and kind == "LLM" and _LLM_METHOD.search(name) is not None


_LLM_METHOD = re.compile(r"\.a?(stream_)?(chat|complete)$")
_addresses: dict[str, tuple[str, int]] = {}


def _attributes(operation: str, config: Config, model: str) -> Attributes:
    if (address := _addresses.get(config.base_url)) is None:
        if len(_addresses) > 256:
            _addresses.clear()
        address = _addresses[config.base_url] = origin_of(config.base_url)[1:]
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "server.address": address[0],
        "server.port": address[1],
    }


def _input(request: ChatRequest) -> Attributes:
    """Return the conversation in the form of the conventions' JSON schemas."""
    found: Attributes = {"gen_ai.input.messages": _json([_message(each) for each in request.messages])}
    if request.tools:
        names = [{"type": "function", "name": each.name} for each in request.tools]
        found["gen_ai.tool.definitions"] = _json(names)
    return found


def _prompt(body: Mapping[str, Any]) -> Attributes:
    said = [{"type": "text", "content": str(body.get("prompt") or "")}]
    return {"gen_ai.input.messages": _json([{"role": "user", "parts": said}])}


def _message(message: Message) -> dict[str, Any]:
    if message.tool_call_id is not None:
        said = "".join([part.text for part in message.parts if isinstance(part, Text)])
        answer = {"type": "tool_call_response", "id": message.tool_call_id, "response": said}
        return {"role": message.role, "parts": [answer]}
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _output(reply: ChatReply) -> dict[str, Any]:
    parts = [_part(part) for part in reply.parts]
    return {"role": "assistant", "parts": parts, "finish_reason": reply.finish_reason or ""}


def _part(part: Part) -> dict[str, Any]:
    """Return a part in the conventions' form; of a file only its kind, for its bytes would fill the span."""
    match part:
        case Text() | Refusal() | Source():
            return {"type": "text", "content": part.text}
        case Reasoning():
            return {"type": "reasoning", "content": part.text}
        case ToolCall() | InvalidToolCall():
            return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
        case Image(url=str(url)) | File(url=str(url)) if not url.startswith("data:"):
            return {"type": "uri", "modality": type(part).__name__.lower(), "uri": url}
        case Image() | File() | Audio():
            return {"type": "piccc.file", "modality": type(part).__name__.lower()}
        case _:
            return {"type": f"piccc.{type(part).__name__.lower()}"}


def _json(value: object) -> str:
    return json.dumps(_without_keys(value), ensure_ascii=False, default=str)


def _without_keys(value: object) -> object:
    match value:
        case str():
            return redact(value, is_prose=True)
        case Mapping():
            return {name: _without_keys(each) for name, each in value.items()}
        case list():
            return [_without_keys(each) for each in value]
    return value
