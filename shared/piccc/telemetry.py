"""OpenTelemetry spans and metrics for calls, following version 1.41 of the GenAI semantic conventions.

That is the last release that includes them; they have since moved to a separate repository without releases:
https://github.com/open-telemetry/semantic-conventions/tree/v1.41.1/docs/gen-ai. The `piccc.` prefix marks
names that the conventions do not define.

This module is imported once the program has set a tracer provider (`piccc._http.session.telemetry`).
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

from piccc.errors import ConfigurationError, MissingExtraError

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise MissingExtraError(
        "piccc.telemetry needs OpenTelemetry.", hint='pip install "piccc[otel]"'
    ) from error

from piccc._version import __version__
from piccc.arguments import join_halves
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
"""Record one in this many gaps between a stream's chunks: recording takes 10 µs, reading a token 6."""
KEPT_SUBMISSIONS = 10_000
"""How many tasks' submission spans are remembered, to link to them."""

Attributes = dict[str, "AttributeValue"]

# Bucket boundaries recommended by the conventions.
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

        # Read only once: an environment lookup takes as long as setting three span attributes.
        def is_enabled(variable: str, *values: str) -> bool:
            return os.environ.get(variable, "").strip().lower() in ("true", "1", *values)

        self.captures_content = is_enabled(CONTENT_VARIABLE, "span_only", "span_and_event")
        self.sends_traceparent = is_enabled(TRACEPARENT_VARIABLE)


instruments: _Instruments | None = None
"""The tracer and metric instruments in use; None if there is no provider."""
_submissions: OrderedDict[str, SpanContext] = OrderedDict()


def enable() -> bool:
    """Use the global providers unless the environment disables `piccc`; return whether they are used."""
    if "piccc" in os.environ.get(DISABLED_VARIABLE, "").replace(" ", "").split(","):
        return False
    instrument()
    return True


def instrument(
    *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> None:
    """Use these providers from now on; a global tracer provider is used without calling this.

    Args:
        tracer_provider: creates the spans; by default the global one.
        meter_provider: receives the metrics; by default the global one.

    Raises:
        ConfigurationError: an argument is not a provider.
        MissingExtraError: opentelemetry-api is not installed; raised when this module is imported.
    """
    global instruments
    for name, given, method in (
        ("tracer_provider", tracer_provider, "get_tracer"),
        ("meter_provider", meter_provider, "get_meter"),
    ):
        if given is not None and not hasattr(given, method):
            raise ConfigurationError(
                f"{name} is of type {type(given).__name__}.", hint="Pass an OpenTelemetry SDK provider."
            )
    instruments = _Instruments(tracer_provider, meter_provider)


def uninstrument() -> None:
    """Undo `instrument`: use the global providers again."""
    global instruments
    instruments = None


def trace_headers() -> tuple[tuple[str, str], ...]:
    """Return the current span's `traceparent` and `tracestate` headers if `PICCC_TRACEPARENT=1` is set."""
    if instruments is None or not instruments.sends_traceparent:
        return ()
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def _never_raises(method: Callable[Given, None]) -> Callable[Given, None]:
    """Log a method's exceptions: the API should raise none, but custom processors and readers may.

    A failing span must not lose an answer or a task that has been paid for.
    """

    @wraps(method)
    def call(*args: Given.args, **options: Given.kwargs) -> None:
        try:
            method(*args, **options)
        except Exception:
            logger.warning("OpenTelemetry failed; the call continues.", exc_info=True)

    return call


class Operation:
    """One operation, whose span is current inside its `with` block and ends once, with its metrics.

    An exception that leaves the `with` block ends it; otherwise call `end`, which a stream does later.
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
        """Start the span.

        `attributes` are set on the span and its metrics; `more` and `content` (if captured) on the span only.
        The parent is the current span, or that of the context `within`.
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

    @_never_raises
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

    @_never_raises
    def end(
        self,
        *,
        record: Record | None = None,
        error: BaseException | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        """End the span unless it has already ended."""
        if self._has_ended:
            return
        self._has_ended = True
        final = attributes or {}
        if error is not None:
            self._attributes["error.type"] = final["error.type"] = type(error).__name__
            record = record or getattr(error, "record", None)
            if status := getattr(error, "status", None):
                final["http.response.status_code"] = status
        if self._span.is_recording():
            if record is not None:
                self._add_record(record, final)
            self._span.set_attributes(final)
            if error is not None:
                # Server errors may quote the request, so their text counts as content.
                captures = self._instruments.captures_content
                description = join_halves(str(error)) if captures else type(error).__name__
                self._span.set_status(Status(StatusCode.ERROR, description))
        try:
            self._span.end()
        finally:
            if self._is_measured:
                self._instruments.duration.record(time.perf_counter() - self._began, self._attributes)

    def _add_record(self, record: Record, attributes: Attributes) -> None:
        if request_id := record.request_id:
            attributes["piccc.request_id"] = request_id
        if record.adapted:
            attributes["piccc.adapted"] = list(record.adapted)
        if len(record.attempts) < 2:
            return
        attributes["http.request.resend_count"] = len(record.attempts) - 1
        timestamp = float(self._began_ns)
        for number, attempt in enumerate(record.attempts[:-1], 1):
            timestamp += (attempt.queued + attempt.elapsed) * 1e9
            event: Attributes = {"piccc.attempt": number, "piccc.waited": attempt.waited}
            event["piccc.outcome"] = attempt.outcome
            if attempt.request_id:
                event["piccc.request_id"] = attempt.request_id
            self._span.add_event("piccc.retry", event, timestamp=int(timestamp))
            timestamp += attempt.waited * 1e9


class Chat(Operation):
    """A chat call: `chat {model}`."""

    _is_measured = True

    def __init__(self, config: Config, request: ChatRequest, *, is_stream: bool) -> None:
        model = join_halves(request.model)
        attributes = _attributes("chat", config, model)
        more: Attributes = {
            name: value for name, field in _REQUEST if (value := getattr(request, field)) is not None
        }
        if request.extra_body:
            given = ((name, request.extra_body.get(field)) for name, field in _EXTRA)
            more |= {name: value for name, value in given if isinstance(value, int | float)}
        if is_stream:
            more["gen_ai.request.stream"] = True
        if request.stop:
            more["gen_ai.request.stop_sequences"] = [join_halves(each) for each in request.stop]
        if request.response_format is not None:
            more["gen_ai.output.type"] = "json"
        content = partial(_input, request)
        super().__init__(f"chat {model}", SpanKind.CLIENT, attributes, more, content=content)
        self._last = 0.0
        self._until_gap = 2
        self._gaps: list[float] = []

    def chunk(self) -> None:
        """Record that a chunk of the stream (the result of one read) was received."""
        self._until_gap = left = self._until_gap - 1
        if left > 1:
            return
        now = time.perf_counter()
        if left == 0:
            self._gaps.append(now - self._last)
            self._until_gap = GAP_EVERY
        self._last = now

    @_never_raises
    def completed(self, reply: ChatReply, error: BaseException | None = None) -> None:
        """End with a reply, complete or partial."""
        if self._has_ended:
            return
        final: Attributes = {}
        usage, record = reply.usage, reply.record
        if reply.model:
            final["gen_ai.response.model"] = self._attributes["gen_ai.response.model"] = reply.model
        if self._span.is_recording():
            if reply.id:
                final["gen_ai.response.id"] = reply.id
            if reply.finish_reason:
                final["gen_ai.response.finish_reasons"] = [reply.finish_reason]
            if record.time_to_first_event is not None:
                final["gen_ai.response.time_to_first_chunk"] = record.time_to_first_event
            if usage is not None:
                final["gen_ai.usage.input_tokens"] = usage.input_tokens
                final["gen_ai.usage.output_tokens"] = usage.output_tokens
                for name, field in _USAGE:
                    if count := getattr(usage, field):
                        final[name] = count
            if self._instruments.captures_content:
                final["gen_ai.output.messages"] = _json([_output(reply)])
        self.end(record=record, error=error, attributes=final)
        histograms, attributes = self._instruments, self._attributes
        if record.time_to_first_event is not None:
            histograms.first.record(record.time_to_first_event, attributes)
        for gap in self._gaps:
            histograms.gap.record(gap, attributes)
        if usage is not None:
            histograms.tokens.record(usage.input_tokens, {**attributes, "gen_ai.token.type": "input"})
            histograms.tokens.record(usage.output_tokens, {**attributes, "gen_ai.token.type": "output"})


class Submission(Operation):
    """The submission of an image or video task: `generate_content {model}`."""

    _is_measured = True

    def __init__(self, config: Config, path: str, body: Mapping[str, Any]) -> None:
        kind = "video" if "/video" in path else "image"
        more: Attributes = {"gen_ai.output.type": kind}
        model = join_halves(str(body.get("model") or ""))
        attributes = _attributes("generate_content", config, model)
        name, content = f"generate_content {model}".strip(), partial(_prompt, body)
        super().__init__(name, SpanKind.CLIENT, attributes, more, content=content)

    @_never_raises
    def submitted(self, task: Task, record: Record) -> None:
        """End with the task, and remember the span to link to it."""
        attributes: Attributes = {"piccc.task.id": task.id, "piccc.task.status": task.status}
        self.end(record=record, attributes=attributes)
        _submissions[task.id] = self._span.get_span_context()
        while len(_submissions) > KEPT_SUBMISSIONS:
            with suppress(KeyError):  # another thread may be first
                _submissions.popitem(last=False)


class Wait(Operation):
    """A wait for tasks: `piccc.wait`, with a link to each task's submission and an event when it ends."""

    def __init__(self) -> None:
        super().__init__("piccc.wait", SpanKind.INTERNAL, {})

    @_never_raises
    def add(self, task_id: str) -> None:
        """Link the task's submission if this process sent it."""
        if (submission := _submissions.get(task_id)) is not None:
            self._span.add_link(submission, {"piccc.task.id": task_id})

    @_never_raises
    def ended(self, task: Task) -> None:
        """Record the end of a task; may be called from any thread."""
        self._span.add_event("piccc.task.ended", {"piccc.task.id": task.id, "piccc.task.status": task.status})


def chat(config: Config, request: ChatRequest, *, is_stream: bool) -> Chat | None:
    """Start a chat call; return None if it already has a current span, such as a framework's."""
    if is_traced("chat", "LLM"):
        return None
    return Chat(config, request, is_stream=is_stream)


def tool(name: str, call_id: str | None) -> Operation | None:
    """Start a run of one of the media tools; return None if it already has a current span."""
    if not name or is_traced("execute_tool", "TOOL"):
        return None
    attributes: Attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
    attributes["gen_ai.tool.type"] = "function"
    if call_id:
        attributes["gen_ai.tool.call.id"] = call_id
    return Operation(f"execute_tool {name}", SpanKind.INTERNAL, attributes)


def delivery(task_id: str, within: context.Context | None) -> Operation:
    """Start handling a webhook in its request's context, with a link to the task's submission."""
    submission = _submissions.get(task_id)
    links = [] if submission is None else [Link(submission)]
    attributes: Attributes = {"piccc.task.id": task_id}
    return Operation("piccc.webhook", SpanKind.CONSUMER, attributes, links=links, within=within)


def is_traced(operation: str, kind: str) -> bool:
    """Return whether other instrumentation has a span for the same operation, or suppresses ours.

    OpenLLMetry's framework instrumentations set the first context key for the clients that they call;
    opentelemetry-instrumentation's `suppress_instrumentation` sets the second.
    """
    current = context.get_current()
    if not current:
        return False
    if context.get_value("suppress_language_model_instrumentation", current) is True and kind == "LLM":
        return True
    if context.get_value("suppress_instrumentation", current):
        return True
    span: Any = trace.get_current_span(current)
    # The API's spans have no readable attributes, and those of other SDKs may be of any type.
    try:
        attributes = getattr(span, "attributes", None) or {}
        if attributes.get("gen_ai.operation.name") == operation:
            return True
        if attributes.get("openinference.span.kind") == kind:
            return True
        # OpenInference's LlamaIndex spans get their kind when they end; until then, only their names show it.
        scope = getattr(span, "instrumentation_scope", None)
        is_openinference = scope is not None and scope.name == "openinference.instrumentation.llama_index"
        return is_openinference and kind == "LLM" and _LLM_METHOD.search(span.name) is not None
    except Exception:
        return False


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
    """Return the conversation in the format of the conventions' JSON schemas."""
    attributes: Attributes = {"gen_ai.input.messages": _json([_message(each) for each in request.messages])}
    if request.tools:
        tools = [{"type": "function", "name": each.name} for each in request.tools]
        attributes["gen_ai.tool.definitions"] = _json(tools)
    return attributes


def _prompt(body: Mapping[str, Any]) -> Attributes:
    parts = [{"type": "text", "content": str(body.get("prompt") or "")}]
    return {"gen_ai.input.messages": _json([{"role": "user", "parts": parts}])}


def _message(message: Message) -> dict[str, Any]:
    if message.tool_call_id is not None:
        result = {"type": "tool_call_response", "id": message.tool_call_id, "response": message.text}
        return {"role": message.role, "parts": [result]}
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _output(reply: ChatReply) -> dict[str, Any]:
    parts = [_part(part) for part in reply.parts]
    return {"role": "assistant", "parts": parts, "finish_reason": reply.finish_reason or ""}


def _part(part: Part) -> dict[str, Any]:
    """Return a part in the conventions' format; files without their content, which would fill the span."""
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
    return json.dumps(_redacted(value), ensure_ascii=False, default=str)


def _redacted(value: object) -> object:
    match value:
        case str():
            return redact(join_halves(value), is_prose=True)
        case Mapping():
            return {name: _redacted(each) for name, each in value.items()}
        case list():
            return [_redacted(each) for each in value]
    return value
