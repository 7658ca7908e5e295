"""OpenTelemetry: one span per call in every API, what spans contain and omit, and when it is off."""

from __future__ import annotations

import asyncio
import contextvars
import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanKind, StatusCode

from langchain_piccc import ChatPiccc, PicccImageTool
from llama_index_piccc import Piccc, PicccMediaToolSpec
from piccc import AsyncClient, Client, Polling, telemetry
from piccc.emulator import Emulator, Scripted
from piccc.errors import ConfigurationError, PicccError
from piccc.media.deliveries import MAX_WORKERS
from piccc.telemetry import GAP_EVERY

QUICK = Polling(min=0.01, max=0.02)
SECRET = "pcc_test_not_to_be_seen"
PROMPT = "a lighthouse of felt"


class Recorded(NamedTuple):
    """The exported spans and metrics."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracer: trace.Tracer
    instrument: Callable[[], None]
    """Set telemetry up again, which rereads the environment."""

    def spans(self, prefix: str = "") -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(prefix)]

    def metrics(self) -> dict[str, list[HistogramDataPoint]]:
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider, meters = TracerProvider(), MeterProvider([reader])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument = partial(telemetry.instrument, tracer_provider=provider, meter_provider=meters)
    instrument()
    yield Recorded(exporter, reader, provider.get_tracer("the program"), instrument)
    telemetry.uninstrument()
    provider.shutdown()
    meters.shutdown()


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=math.inf, api_key=SECRET) as running:
        yield running


def settings(emulator: Emulator) -> dict[str, Any]:
    return {"base_url": emulator.base_url, "api_key": SECRET}


def client(emulator: Emulator) -> Client:
    return Client(**settings(emulator), polling=QUICK)


def raw_stream(emulator: Emulator) -> None:
    with client(emulator).chat.stream(PROMPT) as stream:
        list(stream)


def in_loop(work: Callable[[AsyncClient], Any]) -> Callable[[Emulator], None]:
    async def run(emulator: Emulator) -> None:
        async with AsyncClient(**settings(emulator), polling=QUICK) as async_client:
            await work(async_client)

    return lambda emulator: asyncio.run(run(emulator))


async def read(async_client: AsyncClient) -> None:
    async with await async_client.chat.stream(PROMPT) as stream:
        async for _ in stream:
            pass


CALLS: dict[str, Callable[[Emulator], Any]] = {
    "raw": lambda emulator: client(emulator).chat.create(PROMPT),
    "raw, Anthropic": lambda emulator: Client(**settings(emulator), dialect="anthropic").chat.create(PROMPT),
    "raw, stream": raw_stream,
    "raw, async": in_loop(lambda async_client: async_client.chat.create(PROMPT)),
    "raw, async, stream": in_loop(read),
    "LangChain": lambda emulator: ChatPiccc(**settings(emulator)).invoke(PROMPT),
    "LangChain, stream": lambda emulator: list(ChatPiccc(**settings(emulator)).stream(PROMPT)),
    "LangChain, async": lambda emulator: asyncio.run(ChatPiccc(**settings(emulator)).ainvoke(PROMPT)),
    "LlamaIndex": lambda emulator: Piccc(**settings(emulator)).chat([ChatMessage(PROMPT)]),
    "LlamaIndex, stream": lambda emulator: list(
        Piccc(**settings(emulator)).stream_chat([ChatMessage(PROMPT)])
    ),
}


@pytest.mark.parametrize("way", CALLS)
def test_every_api_records_one_span_and_its_metrics_per_call(
    way: str, recorded: Recorded, emulator: Emulator
) -> None:
    CALLS[way](emulator)
    (span,) = recorded.spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "chat piccc-pro",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    attributes = dict(span.attributes or {})
    known = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "piccc",
        "gen_ai.request.model": "piccc-pro",
        "gen_ai.response.model": "piccc-pro",
        "gen_ai.response.finish_reasons": ("stop",),
        "server.address": "127.0.0.1",
    }
    assert attributes.items() >= known.items()
    request = emulator.requests[-1]
    assert attributes["gen_ai.usage.input_tokens"] == request.prompt_tokens
    assert attributes["gen_ai.usage.output_tokens"] == request.completion_tokens
    assert str(attributes["piccc.request_id"]).startswith("req_")
    assert f":{attributes['server.port']}" in emulator.base_url
    metrics = recorded.metrics()
    assert len(metrics["gen_ai.client.operation.duration"]) == 1
    types = {point.attributes["gen_ai.token.type"] for point in metrics["gen_ai.client.token.usage"]}  # type: ignore[index]
    assert types == {"input", "output"}
    is_stream = "stream" in way
    assert attributes.get("gen_ai.request.stream", False) is is_stream
    assert ("gen_ai.response.time_to_first_chunk" in attributes) is is_stream
    assert ("gen_ai.client.operation.time_to_first_chunk" in metrics) is is_stream


def test_reasoning_tokens_are_a_separate_attribute(recorded: Recorded, emulator: Emulator) -> None:
    emulator.script([Scripted("Yes.", reasoning="Well, well.")])
    client(emulator).chat.create(PROMPT, reasoning_effort="low")
    (span,) = recorded.spans()
    assert span.attributes is not None
    thought = span.attributes["gen_ai.usage.reasoning.output_tokens"]
    assert 0 < thought < span.attributes["gen_ai.usage.output_tokens"]  # type: ignore[operator]


def test_the_options_of_a_request_are_span_attributes(recorded: Recorded, emulator: Emulator) -> None:
    options = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 40, "seed": 7}
    added = {"top_k": 5, "frequency_penalty": 0.1, "presence_penalty": 0.2}
    client(emulator).chat.create(PROMPT, stop=["END"], response_format="json", extra_body=added, **options)
    (span,) = recorded.spans()
    attributes = {
        name.removeprefix("gen_ai.request."): value for name, value in (span.attributes or {}).items()
    }
    assert (
        attributes.items()
        >= {**options, **added, "stop_sequences": ("END",), "gen_ai.output.type": "json"}.items()
    )


def test_the_time_between_chunks_is_a_metric(recorded: Recorded) -> None:
    class OneEventPerRead(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from [b'data: {"choices": [{"delta": {"content": "so "}}]}\n\n'] * 2 * GAP_EVERY
            yield b"data: [DONE]\n\n"

    head = {"content-type": "text/event-stream"}
    transport = httpx.MockTransport(lambda _: httpx.Response(200, headers=head, stream=OneEventPerRead()))
    with httpx.Client(transport=transport) as http_client:
        known = Client(base_url="http://piccc.test", api_key="unused", http_client=http_client)
        with known.chat.stream(PROMPT) as stream:
            list(stream)
    assert recorded.metrics()["gen_ai.client.operation.time_per_output_chunk"][0].count == 2


FAILURES = {
    "rejected": ("401", "AuthenticationError", 401, 0),
    "rejected after retries": ("429;retry-after=0", "RateLimitError", 429, 2),
    "disconnected": ("disconnect", "ResponseLostError", None, 0),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failed_call_records_its_error_type_status_and_retries(
    how: str, recorded: Recorded, emulator: Emulator
) -> None:
    fault, kind, status, retries = FAILURES[how]
    emulator.fault(fault)
    with pytest.raises(PicccError):
        client(emulator).chat.create(PROMPT)
    (span,) = recorded.spans()
    attributes = dict(span.attributes or {})
    assert span.status.status_code is StatusCode.ERROR
    assert (attributes["error.type"], attributes.get("http.response.status_code")) == (kind, status)
    assert [event.name for event in span.events] == ["piccc.retry"] * retries
    (point,) = recorded.metrics()["gen_ai.client.operation.duration"]
    assert (point.attributes or {})["error.type"] == kind
    for event in span.events:
        assert (event.attributes or {})["piccc.outcome"] == "429"
        assert span.start_time is not None
        assert event.timestamp >= span.start_time


def test_a_successful_retry_is_an_event_of_a_span_without_error(
    recorded: Recorded, emulator: Emulator
) -> None:
    emulator.fault("503", times=1)
    client(emulator).chat.create(PROMPT)
    (span,) = recorded.spans()
    assert [event.name for event in span.events] == ["piccc.retry"]
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["http.request.resend_count"] == 1


@pytest.mark.parametrize("how", ["closed", "collected", "cut"])
def test_a_stream_that_ends_early_ends_its_span_once(
    how: str, recorded: Recorded, emulator: Emulator
) -> None:
    emulator.script(["word " * 50])
    if how == "cut":
        emulator.fault("cut")
        with pytest.raises(PicccError), client(emulator).chat.stream(PROMPT) as stream:
            list(stream)
    else:
        stream = client(emulator).chat.stream(PROMPT)
        deltas = iter(stream)
        next(deltas)
        if how == "closed":
            stream.close()
        else:
            deltas.close()  # type: ignore[attr-defined]  # the iterator is a generator
    (span,) = recorded.spans()
    assert (span.status.status_code is StatusCode.ERROR) is (how == "cut")
    assert (span.attributes or {})["gen_ai.response.model"] == "piccc-pro"


def test_the_wait_span_of_a_task_is_linked_to_its_submission_span(
    recorded: Recorded, emulator: Emulator
) -> None:
    task = client(emulator).images.generate(PROMPT, model="piccc-image")
    (submission,) = recorded.spans("generate_content piccc-image")
    attributes = dict(submission.attributes or {})
    assert (attributes["gen_ai.output.type"], attributes["piccc.task.id"]) == ("image", task.id)
    (wait,) = recorded.spans("piccc.wait")
    assert [link.context.span_id for link in wait.links] == [submission.context.span_id]  # type: ignore[union-attr]
    assert [event.name for event in wait.events] == ["piccc.task.ended"]


def test_a_batch_has_one_submission_span_per_row_under_the_current_span(
    recorded: Recorded, emulator: Emulator
) -> None:
    with recorded.tracer.start_as_current_span("the program") as current:
        client(emulator).images.map(["a", "b", "c"], model="piccc-image")
    submissions = recorded.spans("generate_content")
    (wait,) = recorded.spans("piccc.wait")
    assert {span.parent and span.parent.span_id for span in [*submissions, wait]} == {
        current.get_span_context().span_id
    }
    assert (len(submissions), len(wait.links)) == (3, 3)


TOOLS: dict[str, Callable[[Emulator], Any]] = {
    "LangChain": lambda emulator: PicccImageTool(client=client(emulator), model="piccc-image").invoke(
        {"prompt": PROMPT}
    ),
    "LlamaIndex": lambda emulator: PicccMediaToolSpec(
        client(emulator), image_model="piccc-image"
    ).generate_image(PROMPT),
}


def called_by_langchain(emulator: Emulator) -> str:
    tool = PicccImageTool(client=client(emulator), model="piccc-image")
    tool.invoke({"type": "tool_call", "id": "call_of_a_model", "name": tool.name, "args": {"prompt": PROMPT}})
    return "call_of_a_model"


def called_by_an_agent(emulator: Emulator) -> str:
    async def run() -> Any:
        spec = PicccMediaToolSpec(client(emulator), image_model="piccc-image")
        agent = FunctionAgent(tools=[*spec.to_tool_list()], llm=Piccc(**settings(emulator)))
        return await agent.run(f'Make an image "{PROMPT}".')

    (call,) = asyncio.run(run()).tool_calls
    return str(call.tool_id)


CALL_IDS: dict[str, Callable[[Emulator], str | None]] = {
    "LangChain": called_by_langchain,
    "LlamaIndex": called_by_an_agent,
    "no model": TOOLS["LangChain"],
}


# LlamaIndex workflows read every attribute of an agent, including deprecated pydantic ones.
@pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211")
@pytest.mark.parametrize("framework", CALL_IDS)
def test_a_tool_span_has_the_id_of_the_models_tool_call(
    framework: str, recorded: Recorded, emulator: Emulator
) -> None:
    call_id = CALL_IDS[framework](emulator)
    (tool,) = recorded.spans("execute_tool generate_image")
    expected = None if framework == "no model" else call_id
    assert (tool.attributes or {}).get("gen_ai.tool.call.id") == expected


@pytest.mark.parametrize("framework", TOOLS)
def test_a_tool_span_contains_the_submission_and_wait_spans(
    framework: str, recorded: Recorded, emulator: Emulator
) -> None:
    TOOLS[framework](emulator)
    (tool,) = recorded.spans("execute_tool generate_image")
    assert tool.context is not None
    inside = [span for span in recorded.spans() if span is not tool]
    assert {span.name for span in inside} == {"generate_content piccc-image", "piccc.wait"}
    assert {span.parent and span.parent.span_id for span in inside} == {tool.context.span_id}


def test_a_webhook_span_is_linked_to_the_submission_span(recorded: Recorded, emulator: Emulator) -> None:
    api, ended = client(emulator), threading.Event()
    receiver = api.webhooks(secret="sixteen random characters", on_task=lambda task: ended.set())
    with receiver.serve():
        api.images.submit(PROMPT, model="piccc-image", webhook=receiver)
        assert ended.wait(30)
    (submission,) = recorded.spans("generate_content")
    linked = [link.context.span_id for span in recorded.spans("piccc.webhook") for link in span.links]
    assert submission.context is not None
    assert submission.context.span_id in linked


def test_a_webhook_span_is_a_child_of_the_request_that_delivered_it(
    recorded: Recorded, emulator: Emulator
) -> None:
    count = 2 * MAX_WORKERS  # a worker continues with deliveries of other requests

    async def deliver(async_client: AsyncClient) -> None:
        receiver = async_client.webhooks(
            secret="sixteen random characters", public_url="https://h.example", on_task=str
        )
        emulator.fault("webhook:never")
        tasks = [
            await async_client.images.submit(PROMPT, model="piccc-image", key=str(number), webhook=receiver)
            for number in range(count)
        ]
        await async_client.tasks.wait_all(tasks)

        async def request(number: int) -> None:
            with recorded.tracer.start_as_current_span(f"request {tasks[number].id}"):
                body = json.dumps({"task_id": tasks[number].id}).encode()
                path = receiver.url_for(str(number)).removeprefix("https://h.example")
                scope = {"type": "http", "method": "POST", "path": path, "headers": []}
                sent: list[Any] = []
                given = partial(asyncio.sleep, 0, {"type": "http.request", "body": body, "more_body": False})
                await receiver.asgi(scope, given, lambda event: asyncio.sleep(0, sent.append(event)))
                assert sent[0]["status"] == 204

        await asyncio.gather(*map(request, range(count)))

    in_loop(deliver)(emulator)
    named = {span.context.span_id: span.name for span in recorded.spans() if span.context}
    spans = recorded.spans("piccc.webhook")
    assert [named[span.parent.span_id] for span in spans if span.parent] == [
        f"request {(span.attributes or {})['piccc.task.id']}" for span in spans
    ]
    assert len(spans) == count


def test_calls_in_threads_and_tasks_are_children_of_the_current_span(
    recorded: Recorded, emulator: Emulator
) -> None:
    async def tasks() -> None:
        async with AsyncClient(**settings(emulator)) as async_client:
            await asyncio.gather(*[async_client.chat.create(PROMPT) for _ in range(2)])

    with recorded.tracer.start_as_current_span("the program") as current:
        asyncio.run(tasks())
        call = contextvars.copy_context().run
        thread = threading.Thread(target=call, args=(client(emulator).chat.create, PROMPT))
        thread.start()
        thread.join()
        ChatPiccc(**settings(emulator)).batch([PROMPT, PROMPT])
    parents = [span.parent.span_id for span in recorded.spans("chat") if span.parent]
    assert parents == [current.get_span_context().span_id] * 5


SUPPRESSORS: dict[str, Callable[[trace.Tracer], Any]] = {
    "OpenLLMetry, which suppresses the clients below it": lambda tracer: context.attach(
        context.set_value("suppress_language_model_instrumentation", True)
    ),
    "suppress_instrumentation": lambda tracer: context.attach(
        context.set_value("suppress_instrumentation", True)
    ),
    "a GenAI chat span": lambda tracer: context.attach(
        trace.set_span_in_context(tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}))
    ),
    "an OpenInference span": lambda tracer: context.attach(
        trace.set_span_in_context(tracer.start_span("llm", attributes={"openinference.span.kind": "LLM"}))
    ),
}


@pytest.mark.parametrize("what", SUPPRESSORS)
@pytest.mark.parametrize("way", ["raw", "raw, stream"])
def test_no_second_span_under_one_for_the_same_call(
    what: str, way: str, recorded: Recorded, emulator: Emulator
) -> None:
    token = SUPPRESSORS[what](recorded.tracer)
    try:
        CALLS[way](emulator)
    finally:
        context.detach(token)
    assert recorded.spans("chat piccc-pro") == []


LATER: dict[str, Callable[[Piccc], Callable[[], Any]]] = {
    "stream_chat": lambda llm: partial(list, llm.stream_chat([ChatMessage(PROMPT)])),
    "stream_complete": lambda llm: partial(list, llm.stream_complete(PROMPT)),
    "astream_chat": lambda llm: read_later(llm.astream_chat([ChatMessage(PROMPT)])),
    "astream_complete": lambda llm: read_later(llm.astream_complete(PROMPT)),
}


def read_later(call: Any) -> Callable[[], None]:
    stream = asyncio.run(call)

    async def read_all() -> None:
        async for _ in stream:
            pass

    return lambda: asyncio.run(read_all())


@pytest.mark.parametrize("way", LATER)
@pytest.mark.parametrize("is_covered", [True, False])
def test_a_stream_read_later_belongs_to_the_span_of_its_call(
    is_covered: bool, way: str, recorded: Recorded, emulator: Emulator
) -> None:
    parent = recorded.tracer.start_span(
        "chat", attributes={"gen_ai.operation.name": "chat"} if is_covered else {}
    )
    with trace.use_span(parent):
        read_stream = LATER[way](Piccc(**settings(emulator)))
    read_stream()
    assert len(recorded.spans("chat piccc-pro")) == (0 if is_covered else 1)


@pytest.mark.parametrize("way", [way for way in CALLS if way.startswith("LangChain")])
@pytest.mark.parametrize("is_on", [True, False])
def test_no_second_span_beside_openinference_for_langchain(
    is_on: bool, way: str, recorded: Recorded, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenInference's spans of LangChain are never current, so its instrumentor is asked.
    instrumentor = SimpleNamespace(is_instrumented_by_opentelemetry=is_on)
    module = SimpleNamespace(LangChainInstrumentor=lambda: instrumentor)
    monkeypatch.setitem(sys.modules, "openinference.instrumentation.langchain", module)
    CALLS[way](emulator)
    assert len(recorded.spans()) == (0 if is_on else 1)
    CALLS["raw"](emulator)
    assert len(recorded.spans()) == (1 if is_on else 2)


@pytest.mark.parametrize("value", [None, "NO_CONTENT", "EVENT_ONLY", "true", "SPAN_ONLY", "SPAN_AND_EVENT"])
def test_content_is_captured_only_if_the_standard_variable_enables_it(
    value: str | None, recorded: Recorded, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    recorded.instrument()
    for way in CALLS.values():
        way(emulator)
    client(emulator).images.generate(PROMPT, model="piccc-image")
    emulator.fault("400")
    with pytest.raises(PicccError):
        client(emulator).chat.create(PROMPT)
    is_enabled = value in ("true", "SPAN_ONLY", "SPAN_AND_EVENT")
    for span in recorded.spans("chat") + recorded.spans("generate_content"):
        assert (PROMPT in span.to_json()) is is_enabled
        if is_enabled:
            messages = json.loads(str((span.attributes or {})["gen_ai.input.messages"]))
            assert messages[-1] == {"role": "user", "parts": [{"type": "text", "content": PROMPT}]}


def test_no_secret_is_in_any_span(
    recorded: Recorded, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    recorded.instrument()
    for way in [*CALLS.values(), *TOOLS.values()]:
        way(emulator)
    api = client(emulator)
    api.chat.create(f"Basic understanding of\n{SECRET} at https://me:{SECRET}@h.example/x, please")
    api.images.submit(f"a poster that says {SECRET}", model="piccc-image")
    assert "Basic understanding" in str(
        (recorded.spans("chat")[-1].attributes or {})["gen_ai.input.messages"]
    )
    emulator.fault("401")
    with pytest.raises(PicccError):
        client(emulator).chat.create(PROMPT, extra_headers={"authorization": f"Bearer {SECRET}"})
    assert not [span.name for span in recorded.spans() if SECRET in span.to_json()]


@pytest.mark.parametrize("is_enabled", [False, True])
def test_traceparent_is_sent_only_if_enabled(
    is_enabled: bool, recorded: Recorded, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_enabled:
        monkeypatch.setenv("PICCC_TRACEPARENT", "1")
        recorded.instrument()
    CALLS["raw"](emulator)
    (span,) = recorded.spans()
    assert span.context is not None
    sent = emulator.requests[-1].headers.get("traceparent")
    expected = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"
    assert sent == (expected if is_enabled else None)


OFF = """
import sys
from piccc import Client
from piccc._http.session import telemetry
Client(api_key="k", base_url="http://127.0.0.1:1")
assert telemetry() is None
assert not [name for name in sys.modules if name.startswith("opentelemetry")], "the API is loaded"
import opentelemetry.trace
import opentelemetry.sdk.trace as sdk
assert telemetry() is None, "there is no provider"
assert "piccc.telemetry" not in sys.modules
opentelemetry.trace.set_tracer_provider(sdk.TracerProvider())
print(telemetry().__name__)
"""


def fail(*_: object, **__: object) -> Any:
    raise RuntimeError("raised by the program")


class Foreign(NonRecordingSpan):
    """A span from another SDK."""

    def attributes(self) -> dict[str, str]:
        return {}


class Failing(NonRecordingSpan):
    """A span whose attributes cannot be read."""

    attributes = property(fail)


FAILING: dict[str, Callable[[], dict[str, Any]]] = {
    "a processor on start": lambda: {"processor": {"on_start": fail}},
    "a processor on end": lambda: {"processor": {"on_end": fail}},
    "a sampler": lambda: {"sampler": SimpleNamespace(should_sample=fail)},
    "a meter": lambda: {"meter": SimpleNamespace(record=fail)},
    "a current span that cannot be read": lambda: {"span": Failing(trace.INVALID_SPAN_CONTEXT)},
    "a current span whose attributes are a method": lambda: {"span": Foreign(trace.INVALID_SPAN_CONTEXT)},
}


@pytest.mark.parametrize("what", FAILING)
def test_failing_opentelemetry_components_break_no_call_and_lose_no_task(
    what: str, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    added = FAILING[what]()
    processor, provider = SpanProcessor(), TracerProvider(sampler=added.get("sampler"))
    vars(processor).update(added.get("processor", {}))
    provider.add_span_processor(processor)
    meter = SimpleNamespace(create_histogram=lambda *_, **__: added.get("meter"))
    meters: Any = SimpleNamespace(get_meter=lambda *_, **__: meter) if "meter" in added else None
    telemetry.instrument(tracer_provider=provider, meter_provider=meters)
    token = context.attach(trace.set_span_in_context(added.get("span", trace.INVALID_SPAN)))
    try:
        for way in ("raw", "raw, stream", "raw, async"):
            CALLS[way](emulator)
        with client(emulator) as api:
            task = api.images.submit(PROMPT, model="piccc-image", key="one")
            assert api.tasks.resume("one").id == task.id  # the ledger has it
            assert len(api.images.map(["a", "b"], model="piccc-image")) == 2
    finally:
        context.detach(token)
        telemetry.uninstrument()
        provider.shutdown()
    assert ("OpenTelemetry failed; the call continues." in caplog.messages) is ("span" not in added)


@pytest.mark.parametrize("given", [{"tracer_provider": "otlp"}, {"meter_provider": 4317}])
def test_an_invalid_provider_is_rejected(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is of type"):
        telemetry.instrument(**given)


def test_spans_with_half_a_surrogate_pair_can_be_exported(
    recorded: Recorded, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", " TRUE ")
    recorded.instrument()
    api, half = client(emulator), "half \ud83d of it"
    api.chat.create(half, stop=[half])
    api.images.submit(half, model="piccc-image")
    with pytest.raises(PicccError):
        api.chat.create(PROMPT, model=half)
    for span in recorded.spans():
        exported = [span.name, span.status.description, dict(span.attributes or {})]
        assert json.dumps(exported, ensure_ascii=False).encode(), "as an exporter encodes it"
    assert len(recorded.spans()) == 3


def test_nothing_is_imported_until_a_provider_is_set() -> None:
    def run(**variables: str) -> str:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", OFF], env=variables, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() + done.stderr.strip().rpartition("\n")[2]

    assert run() == "piccc.telemetry"
    assert "'NoneType'" in run(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="requests, piccc")
