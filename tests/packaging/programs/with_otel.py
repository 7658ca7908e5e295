"""Use what [otel] adds: without the SDK there is no provider, and calls still work."""

from __future__ import annotations

from opentelemetry import trace

from piccc import Client, telemetry

with trace.get_tracer("a program").start_as_current_span("its span"), Client() as client:
    assert client.chat.create("Say hello.").text
telemetry.instrument()  # the API's own no-op providers
with Client() as client, client.chat.stream("Say hello.") as stream:
    assert "".join(stream.texts())
