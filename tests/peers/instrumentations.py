"""Each chat call makes one span under other instrumentations: `python tests/peers/instrumentations.py`.

Tries OpenInference's and OpenLLMetry's instrumentations of LangChain and LlamaIndex.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from llama_index.core.llms import ChatMessage
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_piccc import ChatPiccc
from llama_index_piccc import Piccc
from piccc.emulator import Emulator

MESSAGES = [ChatMessage("Hello")]


async def _read(stream: Any) -> None:
    async for _ in stream:
        pass


async def _awaited(stream: Any) -> None:
    await _read(await stream)


LANGCHAIN: dict[str, Callable[[ChatPiccc], object]] = {
    "invoke": lambda model: model.invoke("Hello"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("Hello")),
    "stream": lambda model: list(model.stream("Hello")),
    "astream": lambda model: asyncio.run(_read(model.astream("Hello"))),
}
LLAMA_INDEX: dict[str, Callable[[Piccc], object]] = {
    "chat": lambda model: model.chat(MESSAGES),
    "achat": lambda model: asyncio.run(model.achat(MESSAGES)),
    "complete": lambda model: model.complete("Hello"),
    "stream_chat": lambda model: list(model.stream_chat(MESSAGES)),
    "astream_chat": lambda model: asyncio.run(_awaited(model.astream_chat(MESSAGES))),
    "stream_complete": lambda model: list(model.stream_complete("Hello")),
}
INSTRUMENTATIONS: tuple[tuple[str, str, Any, dict[str, Any]], ...] = (
    ("openinference.instrumentation.langchain", "LangChainInstrumentor", ChatPiccc, LANGCHAIN),
    ("openinference.instrumentation.llama_index", "LlamaIndexInstrumentor", Piccc, LLAMA_INDEX),
    ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor", ChatPiccc, LANGCHAIN),
    ("opentelemetry.instrumentation.llamaindex", "LlamaIndexInstrumentor", Piccc, LLAMA_INDEX),
)


def main() -> None:
    """Make each kind of call under each instrumentation, and check that it makes one span."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with Emulator(speed=math.inf) as emulator:
        for module, name, model, ways in INSTRUMENTATIONS:
            instrumentor = getattr(import_module(module), name)()
            instrumentor.instrument(tracer_provider=provider)
            for way, call in ways.items():
                exporter.clear()
                call(model(base_url=emulator.base_url, api_key=emulator.api_key))
                names = [(span.instrumentation_scope or span).name for span in exporter.get_finished_spans()]
                assert len(names) == 1, f"{module}, {way}: {names}"
                assert names != ["piccc"], f"{module}, {way}: only piccc made a span"
            instrumentor.uninstrument()
            print(f"{module}: ok")


main()
