"""One figure in one process: `python -m tests.benchmarks.client SUBJECT BENCHMARK SERVER...`; prints JSON.

CPU figures are CPU time of this process, including threads, measured after a warm-up.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import events
from tests.benchmarks.cold import first_call, imports, imports_over
from tests.benchmarks.cpu import cpu, settle
from tests.benchmarks.emulator import served
from tests.benchmarks.large import again, large
from tests.benchmarks.media import downloads, mapped
from tests.benchmarks.paced import paced
from tests.benchmarks.raw import KEY
from tests.benchmarks.server import openai_stream
from tests.benchmarks.subjects import FAMILIES, FLOORS, Subject, make
from tests.benchmarks.waiting import waiting

TOKENS = 500
TURNS = 10
MODEL_TOKENS = 60
BARE = "langchain-bare"
CLIENTS = tuple(
    each for name, family in FAMILIES.items() if name != "Emulator" for each in family if each != BARE
)
Figures = float | dict[str, float]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark with its subjects and servers; `once` runs it in the first round only."""

    measure: Callable[..., Figures]
    subjects: tuple[str, ...] = CLIENTS
    once: bool = False
    servers: tuple[str, ...] = ("memory",)


def construct(subject: str, server: str) -> float:
    """Return the CPU milliseconds of creating ten more models after a first one."""
    make(subject, f"{server}/call")
    return cpu(lambda: [make(subject, f"{server}/call") for _ in range(10)], 1) / 1e3


def memory(subject: str, server: str) -> float:
    """Return the peak resident memory in MB after one call; Linux only.

    The system's `ru_maxrss` would include the parent process's peak.
    """
    make(subject, f"{server}/call").call()
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def call(subject: str, server: str) -> float:
    """Return the CPU microseconds of one blocking call."""
    model = make(subject, f"{server}/call")
    for _ in range(20):
        model.call()
    return cpu(lambda: [model.call() for _ in range(200)], 200)


def calls_400(subject: str, server: str) -> float:
    """Return the CPU microseconds per call for 400 concurrent calls."""
    model = make(subject, f"{server}/call")

    async def many(count: int) -> None:
        await asyncio.gather(*[model.acall() for _ in range(count)])

    async def measured() -> float:
        await many(20)
        settle()
        began = time.process_time()
        await many(400)
        return (time.process_time() - began) / 400 * 1e6

    return asyncio.run(measured())


def stream_sync(scenario: str) -> Callable[[str, str], float]:
    """Return the benchmark for streaming in blocking code."""

    def measure(subject: str, server: str) -> float:
        warm, model, count = _streaming(subject, server, scenario)
        warm.read()
        model.call()
        times = _times(count)
        return cpu(lambda: [model.read() for _ in range(times)], count * times)

    return measure


def stream_async(scenario: str, streams: int = 1) -> Callable[[str, str], float]:
    """Return the benchmark for a number of concurrent streams in asynchronous code."""

    def measure(subject: str, server: str) -> float:
        async def measured() -> float:
            warm, model, count = _streaming(subject, server, scenario)
            await warm.aread()
            await model.acall()
            settle()
            began = time.process_time()
            times = _times(count * streams)
            for _ in range(times):
                await asyncio.gather(*[model.aread() for _ in range(streams)])
            return (time.process_time() - began) / count / streams / times * 1e6

        return asyncio.run(measured())

    return measure


def stream_object(kilobytes: int) -> Callable[[str, str], float]:
    """Return the benchmark for reading a structured answer as it grows."""

    def measure(subject: str, server: str) -> float:
        make(subject, f"{server}/object-1").read_object()
        model = make(subject, f"{server}/object-{kilobytes}")
        return cpu(model.read_object, kilobytes * 256)

    return measure


def stream_model(subject: str, server: str) -> float:
    """Return the CPU microseconds per token of a real model's answers."""
    model = make(subject, server)
    model.read()
    return cpu(lambda: [model.read() for _ in range(5)], 5 * MODEL_TOKENS)


def observed(subject: str, server: str) -> Figures:
    """Return the cost that OpenTelemetry's SDK with in-memory exporters adds to a call and a token.

    The floor is the SDK's own cost after an unobserved call: for the same span with all attributes set at
    once, and then also for the same histogram values. The variants alternate every few calls in one process,
    and the result is the median of their differences, so other load on the machine affects all equally.
    """
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from piccc import telemetry
    from piccc._http import session

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider, meters = TracerProvider(), MeterProvider([reader])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    asked = make(subject, f"{server}/call")

    def observe() -> None:
        telemetry.instrument(tracer_provider=provider, meter_provider=meters)

    observe()
    asked.call()
    (made,) = exporter.get_finished_spans()
    attributes = dict(made.attributes or {})
    data = reader.get_metrics_data()
    assert data is not None
    tracer, meter = provider.get_tracer("floor"), meters.get_meter("floor")
    values = [
        (meter.create_histogram(metric.name), point.attributes)
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    ]

    def span() -> None:
        tracer.start_span(made.name, kind=made.kind, attributes=attributes).end()

    def span_and_values() -> None:
        span()
        for histogram, about in values:
            histogram.record(1, about)

    variants = {"off": lambda: None, "span": span, "SDK": span_and_values, "on": lambda: None}
    calls: dict[str, list[float]] = {variant: [] for variant in variants}
    settle()
    for _ in range(TURNS * TURNS):
        for variant, after in variants.items():
            observe() if variant == "on" else telemetry.uninstrument()
            asked.call()
            began = time.process_time()
            for _ in range(TURNS):
                asked.call()
                after()
            calls[variant].append((time.process_time() - began) / TURNS * 1e6)
            exporter.clear()
    token = _observed_token(observe) if subject == "piccc" else {}
    telemetry.uninstrument()
    asks = range(20_000)
    call, bare, whole = statistics.median(calls["off"]), _more(calls, "off", "SDK"), _more(calls, "off", "on")
    return {
        # A tight loop, in which other load can only add time.
        "call, OpenTelemetry loaded without a provider, µs more": min(
            cpu(lambda: [session.telemetry() for _ in asks], len(asks)) for _ in range(TURNS)
        ),
        f"OpenTelemetry's SDK alone, span of {len(attributes)} attributes, µs": _more(calls, "off", "span"),
        f"OpenTelemetry's SDK alone, {len(values)} values of histograms, µs": _more(calls, "span", "SDK"),
        "call and OpenTelemetry's SDK alone, times one without": 1 + bare / call,
        "call, OpenTelemetry set up, µs more": whole,
        "call, OpenTelemetry set up, times one without": 1 + whole / call,
        "call, OpenTelemetry set up: what it adds, times its SDK alone": whole / bare,
        **token,
    }


def _observed_token(observe: Callable[[], None]) -> dict[str, float]:
    """Return the extra cost of a token in a stream with a span, including the span itself.

    The stream comes from memory, one event per read: over sockets, noise is several times the figure. The
    frameworks add no cost of their own to a token.
    """
    import httpx

    from piccc import Client, telemetry

    events = list(openai_stream("one", TOKENS))

    class Stream(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from events

    head = {"content-type": "text/event-stream"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, headers=head, stream=Stream()))
    client = Client(api_key=KEY, base_url="http://127.0.0.1:1", http_client=httpx.Client(transport=transport))
    tokens: dict[str, list[float]] = {"off": [], "on": []}
    settle()
    for _ in range(TURNS * TURNS):
        for variant, taken in tokens.items():
            observe() if variant == "on" else telemetry.uninstrument()
            began = time.process_time()
            with client.chat.stream("hi", model="piccc-pro") as stream:
                for _ in stream:
                    pass
            taken.append((time.process_time() - began) / TOKENS * 1e6)
    telemetry.uninstrument()
    # The fastest turn of each variant, because other load can only add time.
    return {"token, OpenTelemetry set up, µs more": min(tokens["on"]) - min(tokens["off"])}


def _more(taken: dict[str, list[float]], without: str, with_: str) -> float:
    """Return the median difference between two variants."""
    return statistics.median(b - a for a, b in zip(taken[without], taken[with_], strict=True))


def _streaming(subject: str, server: str, scenario: str) -> tuple[Subject, Subject, int]:
    """Return a subject to warm up the code, one to measure, and the number of tokens."""
    count = int(scenario.partition("-")[2] or 2000)
    return make(subject, f"{server}/eight-{TOKENS}"), make(subject, f"{server}/{scenario}"), count


def _times(tokens: int) -> int:
    """Return how many times to read a stream of this length to rise above the noise."""
    return max(1, 2000 // tokens)


def _clients_except(*excluded: str) -> tuple[str, ...]:
    return tuple(subject for subject in CLIENTS if subject not in excluded)


# The server sends tool arguments, objects and refusals only in OpenAI's dialect.
OPENAI_DIALECT = _clients_except("langchain-anthropic", "llama-index-anthropic", "anthropic")
PACED = ("langchain-piccc", "langchain-openai", "langchain-mistralai", "langchain-floor", BARE)
OBJECTS = ("langchain-piccc", "llama-index-piccc")
FRAMEWORKS = tuple(each for name in ("LangChain", "LlamaIndex") for each in FAMILIES[name] if each != BARE)
COMPARED = ("langchain-piccc", "langchain-openai", "langchain-mistralai", "llama-index-piccc")
COMPARED += ("llama-index-openai-like", "piccc", "openai")  # the floors fail if the server drops a connection
PACED_FIGURES = (
    "CPU of a token, µs",
    "99th percentile of a token's delay, ms",
    "memory of a stream, KB",
    "open at once",
)

BENCHMARKS = {
    "import, s": Benchmark(imports),
    "import over the framework's, ms": Benchmark(
        imports_over, tuple(each for each in FRAMEWORKS if each not in FLOORS), once=True
    ),
    "10 models, ms": Benchmark(construct, _clients_except(*FLOORS)),
    "first call over a later one, ms": Benchmark(first_call, (*CLIENTS, BARE)),
    "memory, MB": Benchmark(memory),
    "call, µs": Benchmark(call),
    "call of 400 at once, µs": Benchmark(calls_400),
    "token, one per read, sync, µs": Benchmark(stream_sync(f"one-{TOKENS}"), (*CLIENTS, BARE)),
    "token, one per read, async, µs": Benchmark(stream_async(f"one-{TOKENS}"), (*CLIENTS, BARE)),
    "token, eight per write, sync, µs": Benchmark(stream_sync(f"eight-{TOKENS}")),
    "token, eight per write, async, µs": Benchmark(stream_async(f"eight-{TOKENS}")),
    "token, 100 streams at once, µs": Benchmark(stream_async("slow-100", streams=100), (*CLIENTS, BARE)),
    "token of 20,000, µs": Benchmark(stream_sync("eight-20000")),
    "100 streams of 3 s": Benchmark(paced(100, 30, *PACED_FIGURES), PACED, once=True),
    "500 streams of 3 s": Benchmark(paced(500, 30, *PACED_FIGURES), PACED, once=True),
    "1,000 streams of 3 s": Benchmark(paced(1_000, 30, *PACED_FIGURES), PACED, once=True),
    "300 streams of 5 s": Benchmark(paced(300, 50, "wall, s"), PACED, once=True),
    "fragment of 8 KB tool arguments, µs": Benchmark(stream_sync("args"), OPENAI_DIALECT),
    # With linear cost, a token costs the same in both objects. Peers read only the smaller one, because
    # they parse everything again with each token.
    "token of a 16 KB object, µs": Benchmark(
        stream_object(16), (*OBJECTS, "langchain-openai", "llama-index-openai-like")
    ),
    "token of a 64 KB object, µs": Benchmark(stream_object(64), OBJECTS),
    "2,000 messages with 50 images": Benchmark(large, FRAMEWORKS),
    "2,000 messages with 50 images, refused twice: memory, times the inputs": Benchmark(
        again, ("langchain-piccc", "langchain-openai", "llama-index-piccc", "llama-index-openai-like")
    ),
    "v3 event, µs": Benchmark(events.alone, FAMILIES["LangChain"][:5]),  # a floor would do nothing
    "v3 event in stream_events, µs": Benchmark(events.within, FAMILIES["LangChain"][:6]),
    "OpenTelemetry": Benchmark(observed, ("langchain-piccc", "llama-index-piccc", "piccc")),
    "token of a real model's 60, µs": Benchmark(stream_model, COMPARED, servers=("model",)),
    "waiting for 1,000 tasks": Benchmark(waiting, ("piccc", "openai", "httpx"), once=True),
    "map of 10,000 tasks, memory ledger": Benchmark(mapped("memory"), ("piccc",), once=True),
    "map of 10,000 tasks, SQLite ledger": Benchmark(mapped("SQLite"), ("piccc",), once=True),
    "map of 10,000 tasks, Redis ledger": Benchmark(
        mapped("Redis"), ("piccc",), once=True, servers=("memory", "redis")
    ),
    "200 downloads of 5 MB": Benchmark(downloads, ("piccc", "httpx"), once=True),
    "emulator": Benchmark(served, ("emulator", "aimock"), servers=()),
}


def main(subject: str, benchmark: str, *servers: str) -> None:
    """Measure and print one figure, or several by name."""
    print(json.dumps(BENCHMARKS[benchmark].measure(subject, *servers)))


if __name__ == "__main__":
    main(*sys.argv[1:])
