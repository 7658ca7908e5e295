"""LangChain's v3 events over prepared streams: the cost of our hook and of langchain-core's bridge.

No peer creates such events itself: core converts a model's chunks. We create them from deltas; the peers'
come from chunks recorded earlier, which in their favour omits their own work on a chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

from tests.benchmarks.cpu import cpu
from tests.benchmarks.langchain import model
from tests.benchmarks.raw import KEY

COUNT = 2_000


def alone(subject: str, server: str) -> float:
    """Return the CPU microseconds per token of creating events, without core's processing."""
    return _per_token(_sources(subject, server)[0])


def within(subject: str, server: str) -> float:
    """Return the CPU microseconds per token of `stream_events`; for the floor, with prepared events."""
    ready = _sources(subject, server)[1]
    return _per_token(lambda: ready.stream_events("hi", version="v3"))


def _per_token(events: Callable[[], Iterable[object]]) -> float:
    def drain() -> None:
        deque(events(), maxlen=0)

    drain()
    return cpu(drain, COUNT)


def _sources(subject: str, server: str) -> tuple[Callable[[], Iterable[object]], Any]:
    """Return a function and a model that yield a subject's events from a stream read earlier."""
    from langchain_core.language_models._compat_bridge import chunks_to_events
    from langchain_core.messages import HumanMessage

    prompt = [HumanMessage("hi")]
    base = f"{server}/eight-{COUNT}"
    if subject == "langchain-piccc":
        ours = _recorded(base)
        return lambda: ours._stream_chat_model_events(prompt), ours
    if subject == "langchain-floor":
        events = list(_recorded(base)._stream_chat_model_events(prompt))
        return lambda: events, _ready_made(_stream_chat_model_events=events)
    chunks = list(model(subject, base)._stream(prompt))
    return lambda: chunks_to_events(iter(chunks)), _ready_made(_stream=chunks)


def _recorded(base: str) -> Any:
    """Return our model over a recorded stream, with one delta per read."""
    from langchain_piccc import ChatPiccc
    from piccc import Client

    with Client(api_key=KEY, base_url=base).chat.stream("hi") as stream:
        batches = [[delta] for batch in stream.batches() for delta in batch]
    recording = Recording(batches, stream.reply)

    class Recorded(ChatPiccc):
        def _chat(self, request: object) -> Any:
            return recording

    return Recorded(api_key=KEY, base_url=base)


class Recording:
    """A recorded stream that replaces the client's chat."""

    def __init__(self, batches: list[Any], reply: object) -> None:
        self._batches = batches
        self.reply = reply

    def open(self, request: object, timeout: object, **options: object) -> nullcontext[Recording]:
        """Return itself as the stream."""
        return nullcontext(self)

    def batches(self) -> Iterator[Any]:
        """Return an iterator over lists of deltas."""
        return iter(self._batches)


def _ready_made(**hooks: list[Any]) -> Any:
    """Return a model whose named hook returns the given list."""
    from langchain_core.language_models import BaseChatModel

    class ReadyMade(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "ready-made"

        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    for name, items in hooks.items():
        setattr(ReadyMade, name, lambda *args, items=items, **kwargs: iter(items))
    return ReadyMade()
