"""OpenTelemetry: one span a call on every surface, what it says, what it keeps quiet, and when it is off."""

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

QUICK = Polling(min=0.01, max=0.02)
SECRET = "pcc_test_not_to_be_seen"
PROMPT = "a lighthouse of felt"


class Seen(NamedTuple):
    """What was exported."""

    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracer: trace.Tracer
    instrument: Callable[[], None]
    """Set up once more: the environment is read then."""

    def spans(self, prefix: str = "") -> list[ReadableSpan]:
        return [each for each in self.exporter.get_finished_spans() if each.name.startswith(prefix)]

    def metrics(self) -> dict[str, list[HistogramDataPoint]]:
        data = self.reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def seen() -> Iterator[Seen]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider, meters = TracerProvider(), MeterProvider([reader])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrument = partial(telemetry.instrument, tracer_provider=provider, meter_provider=meters)
    instrument()
    yield Seen(exporter, reader, provider.get_tracer("the program"), instrument)
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
        async with AsyncClient(**settings(emulator), polling=QUICK) as own:
            await work(own)

    return lambda emulator: asyncio.run(run(emulator))


async def read(own: AsyncClient) -> None:
    async with await own.chat.stream(PROMPT) as stream:
        async for _ in stream:
            pass


CALLS: dict[str, Callable[[Emulator], Any]] = {
    "raw": lambda emulator: client(emulator).chat.create(PROMPT),
    "raw, Anthropic": lambda emulator: Client(**settings(emulator), dialect="anthropic").chat.create(PROMPT),
    "raw, stream": raw_stream,
    "raw, async": in_loop(lambda own: own.chat.create(PROMPT)),
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
def test_every_surface_has_one_span_and_its_metrics_for_a_call(
    way: str, seen: Seen, emulator: Emulator
) -> None:
    CALLS[way](emulator)
    (span,) = seen.spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "chat piccc-pro",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    said = dict(span.attributes or {})
    known = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "piccc",
        "gen_ai.request.model": "piccc-pro",
        "gen_ai.response.model": "piccc-pro",
        "gen_ai.response.finish_reasons": ("stop",),
        "server.address": "127.0.0.1",
    }
    assert said.items() >= known.items()
    charge = emulator.requests[-1]
    assert said["gen_ai.usage.input_tokens"] == charge.prompt_tokens
    assert said["gen_ai.usage.output_tokens"] == charge.completion_tokens
    assert str(said["piccc.request_id"]).startswith("req_")
    assert f":{said['server.port']}" in emulator.base_url
    metrics = seen.metrics()
    assert len(metrics["gen_ai.client.operation.duration"]) == 1
    types = {point.attributes["gen_ai.token.type"] for point in metrics["gen_ai.client.token.usage"]}  # type: ignore[index]
    assert types == {"input", "output"}
    is_stream = "stream" in way
    assert said.get("gen_ai.request.stream", False) is is_stream
    assert ("gen_ai.response.time_to_first_chunk" in said) is is_stream
    assert ("gen_ai.client.operation.time_to_first_chunk" in metrics) is is_stream


def test_tokens_of_cache_and_reasoning_are_told_apart(seen: Seen, emulator: Emulator) -> None:
    emulator.script([Scripted("Yes.", reasoning="Well, well.")])
    client(emulator).chat.create(PROMPT, reasoning_effort="low")
    (span,) = seen.spans()
    assert span.attributes is not None
    thought = span.attributes["gen_ai.usage.reasoning.output_tokens"]
    assert 0 < thought < span.attributes["gen_ai.usage.output_tokens"]  # type: ignore[operator]


def test_what_a_request_asks_for_is_on_its_span(seen: Seen, emulator: Emulator) -> None:
    asked = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 40, "seed": 7}
    added = {"top_k": 5, "frequency_penalty": 0.1, "presence_penalty": 0.2}
    client(emulator).chat.create(PROMPT, stop=["END"], response_format="json", extra_body=added, **asked)
    (span,) = seen.spans()
    said = {name.removeprefix("gen_ai.request."): value for name, value in (span.attributes or {}).items()}
    assert (
        said.items() >= {**asked, **added, "stop_sequences": ("END",), "gen_ai.output.type": "json"}.items()
    )


def test_a_gap_between_chunks_is_a_metric(seen: Seen) -> None:
    with Emulator(speed=20) as slow:
        slow.script(["word " * 30])
        with Client(base_url=slow.base_url, api_key=slow.api_key).chat.stream(PROMPT) as stream:
            list(stream)
    assert seen.metrics()["gen_ai.client.operation.time_per_output_chunk"][0].count >= 1


FAILURES = {
    "refused": ("401", "AuthenticationError", 401, 0),
    "refused, retried": ("429;retry-after=0", "RateLimitError", 429, 2),
    "broken off": ("disconnect", "ResponseLostError", None, 0),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_failure_names_its_kind_its_status_and_its_retries(
    how: str, seen: Seen, emulator: Emulator
) -> None:
    fault, kind, status, retries = FAILURES[how]
    emulator.fault(fault)
    with pytest.raises(PicccError):
        client(emulator).chat.create(PROMPT)
    (span,) = seen.spans()
    said = dict(span.attributes or {})
    assert span.status.status_code is StatusCode.ERROR
    assert (said["error.type"], said.get("http.response.status_code")) == (kind, status)
    assert [event.name for event in span.events] == ["piccc.retry"] * retries
    (point,) = seen.metrics()["gen_ai.client.operation.duration"]
    assert (point.attributes or {})["error.type"] == kind
    for event in span.events:
        assert (event.attributes or {})["piccc.outcome"] == "429"
        assert span.start_time is not None
        assert event.timestamp >= span.start_time


def test_a_retry_that_succeeds_is_an_event_of_a_span_without_error(seen: Seen, emulator: Emulator) -> None:
    emulator.fault("503", times=1)
    client(emulator).chat.create(PROMPT)
    (span,) = seen.spans()
    assert [event.name for event in span.events] == ["piccc.retry"]
    assert span.status.status_code is StatusCode.UNSET
    assert (span.attributes or {})["http.request.resend_count"] == 1


@pytest.mark.parametrize("how", ["closed", "collected", "cut"])
def test_a_stream_that_ends_early_ends_its_span_once(how: str, seen: Seen, emulator: Emulator) -> None:
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
            deltas.close()  # type: ignore[attr-defined]  # an iterator that is a generator
    (span,) = seen.spans()
    assert (span.status.status_code is StatusCode.ERROR) is (how == "cut")
    assert (span.attributes or {})["gen_ai.response.model"] == "piccc-pro"


def test_a_task_has_spans_for_its_submission_and_its_wait_which_are_linked(
    seen: Seen, emulator: Emulator
) -> None:
    task = client(emulator).images.generate(PROMPT, model="piccc-image")
    (submission,) = seen.spans("generate_content piccc-image")
    said = dict(submission.attributes or {})
    assert (said["gen_ai.output.type"], said["piccc.task.id"]) == ("image", task.id)
    (wait,) = seen.spans("piccc.wait")
    assert [link.context.span_id for link in wait.links] == [submission.context.span_id]  # type: ignore[union-attr]
    assert [event.name for event in wait.events] == ["piccc.task.ended"]


def test_a_batch_has_one_submission_a_row_under_the_programs_span(seen: Seen, emulator: Emulator) -> None:
    with seen.tracer.start_as_current_span("the program's") as own:
        client(emulator).images.map(["a", "b", "c"], model="piccc-image")
    submissions = seen.spans("generate_content")
    (wait,) = seen.spans("piccc.wait")
    assert {each.parent and each.parent.span_id for each in [*submissions, wait]} == {
        own.get_span_context().span_id
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


# LlamaIndex's workflows look at every attribute of an agent, deprecated ones of pydantic too.
@pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211")
@pytest.mark.parametrize("framework", CALL_IDS)
def test_a_tools_span_has_the_id_of_the_models_call(framework: str, seen: Seen, emulator: Emulator) -> None:
    call_id = CALL_IDS[framework](emulator)
    (tool,) = seen.spans("execute_tool generate_image")
    expected = None if framework == "no model" else call_id
    assert (tool.attributes or {}).get("gen_ai.tool.call.id") == expected


@pytest.mark.parametrize("framework", TOOLS)
def test_a_tool_has_a_span_with_the_submission_and_the_wait_inside(
    framework: str, seen: Seen, emulator: Emulator
) -> None:
    TOOLS[framework](emulator)
    (tool,) = seen.spans("execute_tool generate_image")
    assert tool.context is not None
    inside = [each for each in seen.spans() if each is not tool]
    assert {each.name for each in inside} == {"generate_content piccc-image", "piccc.wait"}
    assert {each.parent and each.parent.span_id for each in inside} == {tool.context.span_id}


def test_a_webhooks_span_is_linked_to_the_submission(seen: Seen, emulator: Emulator) -> None:
    own, ended = client(emulator), threading.Event()
    receiver = own.webhooks(secret="sixteen random characters", on_task=lambda task: ended.set())
    with receiver.serve():
        own.images.submit(PROMPT, model="piccc-image", webhook=receiver)
        assert ended.wait(30)
    (submission,) = seen.spans("generate_content")
    linked = [link.context.span_id for span in seen.spans("piccc.webhook") for link in span.links]
    assert submission.context is not None
    assert submission.context.span_id in linked


def test_a_webhooks_span_belongs_to_the_request_that_brought_it(seen: Seen, emulator: Emulator) -> None:
    count = 2 * MAX_WORKERS  # a worker goes on with what other requests brought

    async def deliver(own: AsyncClient) -> None:
        receiver = own.webhooks(
            secret="sixteen random characters", public_url="https://h.example", on_task=str
        )
        emulator.fault("webhook:never")
        tasks = [
            await own.images.submit(PROMPT, model="piccc-image", key=str(number), webhook=receiver)
            for number in range(count)
        ]
        await own.tasks.wait_all(tasks)

        async def request(number: int) -> None:
            with seen.tracer.start_as_current_span(f"request {tasks[number].id}"):
                body = json.dumps({"task_id": tasks[number].id}).encode()
                path = receiver.url_for(str(number)).removeprefix("https://h.example")
                scope = {"type": "http", "method": "POST", "path": path, "headers": []}
                sent: list[Any] = []
                given = partial(asyncio.sleep, 0, {"type": "http.request", "body": body, "more_body": False})
                await receiver.asgi(scope, given, lambda event: asyncio.sleep(0, sent.append(event)))
                assert sent[0]["status"] == 204

        await asyncio.gather(*map(request, range(count)))

    in_loop(deliver)(emulator)
    named = {span.context.span_id: span.name for span in seen.spans() if span.context}
    spans = seen.spans("piccc.webhook")
    assert [named[span.parent.span_id] for span in spans if span.parent] == [
        f"request {(span.attributes or {})['piccc.task.id']}" for span in spans
    ]
    assert len(spans) == count


def test_calls_in_threads_and_tasks_have_the_programs_span_as_parent(seen: Seen, emulator: Emulator) -> None:
    async def tasks() -> None:
        async with AsyncClient(**settings(emulator)) as own:
            await asyncio.gather(*[own.chat.create(PROMPT) for _ in range(2)])

    with seen.tracer.start_as_current_span("the program's") as own:
        asyncio.run(tasks())
        call = contextvars.copy_context().run
        thread = threading.Thread(target=call, args=(client(emulator).chat.create, PROMPT))
        thread.start()
        thread.join()
        ChatPiccc(**settings(emulator)).batch([PROMPT, PROMPT])
    parents = [each.parent.span_id for each in seen.spans("chat") if each.parent]
    assert parents == [own.get_span_context().span_id] * 5


COVERS: dict[str, Callable[[trace.Tracer], Any]] = {
    "OpenLLMetry, which asks the clients below it for silence": lambda tracer: context.attach(
        context.set_value("suppress_language_model_instrumentation", True)
    ),
    "suppress_instrumentation": lambda tracer: context.attach(
        context.set_value("suppress_instrumentation", True)
    ),
    "a GenAI chat span": lambda tracer: context.attach(
        trace.set_span_in_context(tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}))
    ),
    "OpenInference's": lambda tracer: context.attach(
        trace.set_span_in_context(tracer.start_span("llm", attributes={"openinference.span.kind": "LLM"}))
    ),
}


@pytest.mark.parametrize("what", COVERS)
@pytest.mark.parametrize("way", ["raw", "raw, stream"])
def test_no_second_span_beneath_one_for_the_same_call(
    what: str, way: str, seen: Seen, emulator: Emulator
) -> None:
    token = COVERS[what](seen.tracer)
    try:
        CALLS[way](emulator)
    finally:
        context.detach(token)
    assert seen.spans("chat piccc-pro") == []


LATER: dict[str, Callable[[Piccc], Callable[[], Any]]] = {
    "stream_chat": lambda llm: partial(list, llm.stream_chat([ChatMessage(PROMPT)])),
    "stream_complete": lambda llm: partial(list, llm.stream_complete(PROMPT)),
    "astream_chat": lambda llm: read_later(llm.astream_chat([ChatMessage(PROMPT)])),
    "astream_complete": lambda llm: read_later(llm.astream_complete(PROMPT)),
}


def read_later(call: Any) -> Callable[[], None]:
    stream = asyncio.run(call)

    async def all_of_it() -> None:
        async for _ in stream:
            pass

    return lambda: asyncio.run(all_of_it())


@pytest.mark.parametrize("way", LATER)
@pytest.mark.parametrize("is_covered", [True, False])
def test_a_stream_belongs_to_the_span_of_its_call_though_it_is_read_later(
    is_covered: bool, way: str, seen: Seen, emulator: Emulator
) -> None:
    above = seen.tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"} if is_covered else {})
    with trace.use_span(above):
        read_on = LATER[way](Piccc(**settings(emulator)))
    read_on()
    assert len(seen.spans("chat piccc-pro")) == (0 if is_covered else 1)


@pytest.mark.parametrize("way", [way for way in CALLS if way.startswith("LangChain")])
@pytest.mark.parametrize("is_on", [True, False])
def test_no_second_span_beside_openinference_whose_spans_of_langchain_are_never_current(
    is_on: bool, way: str, seen: Seen, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SimpleNamespace(is_instrumented_by_opentelemetry=is_on)
    module = SimpleNamespace(LangChainInstrumentor=lambda: made)
    monkeypatch.setitem(sys.modules, "openinference.instrumentation.langchain", module)
    CALLS[way](emulator)
    assert len(seen.spans()) == (0 if is_on else 1)
    CALLS["raw"](emulator)
    assert len(seen.spans()) == (1 if is_on else 2)


@pytest.mark.parametrize("value", [None, "NO_CONTENT", "EVENT_ONLY", "true", "SPAN_ONLY", "SPAN_AND_EVENT"])
def test_content_is_captured_only_where_the_standard_variable_asks_for_it(
    value: str | None, seen: Seen, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    seen.instrument()
    for way in CALLS.values():
        way(emulator)
    client(emulator).images.generate(PROMPT, model="piccc-image")
    emulator.fault("400")
    with pytest.raises(PicccError):
        client(emulator).chat.create(PROMPT)
    is_asked = value in ("true", "SPAN_ONLY", "SPAN_AND_EVENT")
    for span in seen.spans("chat") + seen.spans("generate_content"):
        assert (PROMPT in span.to_json()) is is_asked
        if is_asked:
            said = json.loads(str((span.attributes or {})["gen_ai.input.messages"]))
            assert said[-1] == {"role": "user", "parts": [{"type": "text", "content": PROMPT}]}


def test_no_secret_is_in_any_span(seen: Seen, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")
    seen.instrument()
    for way in [*CALLS.values(), *TOOLS.values()]:
        way(emulator)
    own = client(emulator)
    own.chat.create(f"Basic understanding of\n{SECRET} at https://me:{SECRET}@h.example/x, please")
    own.images.submit(f"a poster that says {SECRET}", model="piccc-image")
    assert "Basic understanding" in str((seen.spans("chat")[-1].attributes or {})["gen_ai.input.messages"])
    emulator.fault("401")
    with pytest.raises(PicccError):
        client(emulator).chat.create(PROMPT, extra_headers={"authorization": f"Bearer {SECRET}"})
    assert not [span.name for span in seen.spans() if SECRET in span.to_json()]


@pytest.mark.parametrize("is_asked", [False, True])
def test_traceparent_goes_to_the_server_only_if_asked(
    is_asked: bool, seen: Seen, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_asked:
        monkeypatch.setenv("PICCC_TRACEPARENT", "1")
        seen.instrument()
    CALLS["raw"](emulator)
    (span,) = seen.spans()
    assert span.context is not None
    sent = emulator.requests[-1].headers.get("traceparent")
    expected = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"
    assert sent == (expected if is_asked else None)


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
    raise RuntimeError("the program's")


class Foreign(NonRecordingSpan):
    """A span of another SDK."""

    def attributes(self) -> dict[str, str]:
        return {}


class Failing(NonRecordingSpan):
    """One that cannot be read."""

    attributes = property(fail)


FAILING: dict[str, Callable[[], dict[str, Any]]] = {
    "a processor at the start": lambda: {"processor": {"on_start": fail}},
    "a processor at the end": lambda: {"processor": {"on_end": fail}},
    "a sampler": lambda: {"sampler": SimpleNamespace(should_sample=fail)},
    "a meter": lambda: {"meter": SimpleNamespace(record=fail)},
    "a current span that cannot be read": lambda: {"span": Failing(trace.INVALID_SPAN_CONTEXT)},
    "a current span whose attributes are a method": lambda: {"span": Foreign(trace.INVALID_SPAN_CONTEXT)},
}


@pytest.mark.parametrize("what", FAILING)
def test_what_a_program_adds_to_opentelemetry_cannot_break_a_call_or_lose_a_task(
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
        with client(emulator) as own:
            task = own.images.submit(PROMPT, model="piccc-image", key="one")
            assert own.tasks.resume("one").id == task.id  # the ledger has it
            assert len(own.images.map(["a", "b"], model="piccc-image")) == 2
    finally:
        context.detach(token)
        telemetry.uninstrument()
        provider.shutdown()
    assert ("OpenTelemetry failed; the call continues." in caplog.messages) is ("span" not in added)


@pytest.mark.parametrize("given", [{"tracer_provider": "otlp"}, {"meter_provider": 4317}])
def test_what_is_no_provider_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="is of type"):
        telemetry.instrument(**given)


def test_half_of_a_surrogate_pair_does_not_keep_spans_from_being_exported(
    seen: Seen, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", " TRUE ")
    seen.instrument()
    own, half = client(emulator), "half \ud83d of it"
    own.chat.create(half, stop=[half])
    own.images.submit(half, model="piccc-image")
    with pytest.raises(PicccError):
        own.chat.create(PROMPT, model=half)
    for span in seen.spans():
        said = [span.name, span.status.description, dict(span.attributes or {})]
        assert json.dumps(said, ensure_ascii=False).encode(), "as an exporter writes it"
    assert len(seen.spans()) == 3


def test_nothing_is_imported_before_there_is_a_provider() -> None:
    def run(**variables: str) -> str:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", OFF], env=variables, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() + done.stderr.strip().rpartition("\n")[2]

    assert run() == "piccc.telemetry"
    assert "'NoneType'" in run(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="requests, piccc")
