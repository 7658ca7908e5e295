"""LangChain's metadata, traces and lifecycle hooks work with our model as with the peers'; so do calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.tracers.base import BaseTracer
from langchain_openai import ChatOpenAI

from langchain_piccc import ChatPiccc, PicccImageTool
from langchain_piccc._replies import without_ending
from piccc import __version__
from piccc.emulator import Emulator, Scripted
from piccc.errors import StreamError
from tests.langchain.replay import Replay, chunks, stream
from tests.langchain.test_invalid_calls import INVALID
from tests.langchain.test_invalid_calls import Runs as Disk


def models(emulator: Emulator) -> dict[str, tuple[BaseChatModel, str]]:
    """Return ours over each dialect beside the peer of it, and what the peer's package is called."""
    url, key = emulator.base_url, emulator.api_key
    return {
        "openai": (ChatPiccc(base_url=url, api_key=key, temperature=0.5), "piccc"),
        "anthropic": (ChatPiccc(base_url=url, api_key=key, temperature=0.5, dialect="anthropic"), "piccc"),
        "ChatOpenAI": (
            ChatOpenAI(model="piccc-pro", base_url=f"{url}/v1", api_key=key, temperature=0.5),
            "langchain-openai",
        ),
        "ChatAnthropic": (
            ChatAnthropic(model="piccc-pro", base_url=url, api_key=key, temperature=0.5, max_tokens=99),
            "langchain-anthropic",
        ),
    }


OURS = ["openai", "anthropic"]
PEERS = {"openai": "ChatOpenAI", "anthropic": "ChatAnthropic"}


@pytest.mark.parametrize("dialect", OURS)
def test_metadata_names_the_versions_as_a_peers_does(emulator: Emulator, dialect: str) -> None:
    (ours, package), (peer, peers_package) = (models(emulator)[each] for each in (dialect, PEERS[dialect]))
    assert ours.metadata
    assert peer.metadata
    versions, peers = ours.metadata["lc_versions"], peer.metadata["lc_versions"]
    assert versions.pop(package) == __version__
    peers.pop(peers_package)
    assert versions == peers


class Runs(BaseTracer):
    """Keep the runs that a tracer would send away."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run)


class Hooks(BaseCallbackHandler):
    """Keep the names of the callbacks in their order, tokens as one, and what was in the tokens."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.tokens: list[str] = []
        self.partial: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("start")

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        assert kwargs["chunk"].text == token
        self.tokens += [token] if token else []  # a peer also reports chunks that hold no text
        if self.called[-1] != "token":
            self.called.append("token")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("end")

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("error")
        self.partial = [each.text for each in kwargs["response"].generations[0]] if kwargs["response"] else []


async def _streamed(model: BaseChatModel, config: Any) -> None:
    async for _ in model.astream("Hello", config):
        pass


WAYS: dict[str, Callable[[BaseChatModel, Any], Any]] = {
    "invoke": lambda model, config: model.invoke("Hello", config),
    "batch": lambda model, config: model.batch(["Hello"], config),
    "stream": lambda model, config: list(model.stream("Hello", config)),
    "streaming": lambda model, config: model.model_copy(update={"streaming": True}).invoke("Hello", config),
    # Not beside peers, which keep one asynchronous client for all loops.
    "astream": lambda model, config: asyncio.run(_streamed(model, config)),
}
BESIDE_PEERS = ["invoke", "batch", "stream", "streaming"]


def watched(model: BaseChatModel, way: str, **config: Any) -> tuple[Any, Hooks]:
    tracer, hooks = Runs(), Hooks()
    ask = WAYS[way]
    ask(model, {"callbacks": [tracer, hooks], "metadata": {"own": 1}, "tags": ["t"], **config})
    return tracer.runs[0], hooks


@pytest.mark.parametrize("way", BESIDE_PEERS)
@pytest.mark.parametrize("dialect", OURS)
def test_a_trace_has_what_a_peers_has(emulator: Emulator, dialect: str, way: str) -> None:
    ours, peer = models(emulator)[dialect][0], models(emulator)[PEERS[dialect]][0]
    ours = ours.model_copy(update={"coalesce": False})
    (run, hooks), (peers_run, peers_hooks) = watched(ours, way), watched(peer, way)
    assert hooks.called == peers_hooks.called
    assert hooks.tokens == peers_hooks.tokens
    assert (run.name, peers_run.name) == ("ChatPiccc", type(peer).__name__)
    assert (run.run_type, run.error, run.parent_run_id) == ("llm", None, None)
    assert watched(ours, way, run_name="mine")[0].name == "mine"
    metadata, peers = run.extra["metadata"], peers_run.extra["metadata"]
    assert peers.keys() - metadata.keys() <= {"ls_max_tokens"}  # which the Anthropic peer alone must be given
    assert (metadata["ls_provider"], metadata["ls_model_type"]) == ("piccc", "chat")
    assert (metadata["ls_temperature"], metadata["own"]) == (0.5, 1)
    assert metadata["ls_model_name"] == peers["ls_model_name"]
    assert run.tags == peers_run.tags
    assert run.events[0]["name"] == "start"
    message = run.outputs["generations"][0][0]["message"]["kwargs"]
    assert {"input_tokens", "output_tokens", "total_tokens"} <= message["usage_metadata"].keys()
    assert {"model_name", "model_provider"} <= message["response_metadata"].keys()


@pytest.mark.parametrize("way", BESIDE_PEERS)
@pytest.mark.parametrize("dialect", OURS)
def test_an_error_is_reported_as_a_peers_is(own_emulator: Emulator, dialect: str, way: str) -> None:
    own_emulator.fault("401")
    ours, peer = models(own_emulator)[dialect][0], models(own_emulator)[PEERS[dialect]][0]
    seen = []
    for model in (ours, peer):
        tracer, hooks = Runs(), Hooks()
        with pytest.raises(Exception, match="Injected fault"):
            WAYS[way](model, {"callbacks": [tracer, hooks]})
        seen.append((hooks.called, hooks.partial, bool(tracer.runs[0].error)))
    assert seen[0][0] == seen[1][0] == ["start", "error"]
    assert seen[0][2]


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_the_error_of_a_cut_stream_comes_with_what_had_arrived(way: str) -> None:
    hooks = Hooks()
    model = Replay(stream(chunks([{"content": "Hel"}, {"content": "lo"}])[:3])).model()
    with pytest.raises(StreamError):
        WAYS[way](model, {"callbacks": [hooks]})
    assert hooks.called == ["start", "token", "error"]
    assert hooks.partial == ["Hello"]


def test_a_models_and_a_tools_own_hooks_run(emulator: Emulator) -> None:
    seen: list[str] = []

    class Model(ChatPiccc):
        def model_post_init(self, context: Any, /) -> None:
            super().model_post_init(context)
            seen.append("model")

    class Tool(PicccImageTool):
        def model_post_init(self, context: Any, /) -> None:
            super().model_post_init(context)
            seen.append("tool")

    assert (Model(api_key="k").metadata or {})["lc_versions"]["piccc"] == __version__
    Tool(api_key="k")
    assert seen == ["model", "tool"]


# What a peer reads rightly, by the dialect whose API it speaks and how it is asked: there we read the same.
ALL = {(dialect, way) for dialect in ("openai", "anthropic") for way in ("invoke", "stream")}
PEERS_READ: dict[str, tuple[Scripted, set[tuple[str, str]]]] = {
    "whole": (Scripted(calls=[("rm", {"path": "a"})]), ALL),
    "no arguments": (Scripted(calls=[("rm", "")]), ALL),
    "null": (Scripted(calls=[("rm", "null")]), {("openai", "invoke")}),
    "a line break in a string": (
        Scripted(calls=[("rm", '{"path": "a\nb"}')]),
        ALL - {("anthropic", "invoke")},
    ),
    "cut": (INVALID["cut"], {("openai", "invoke")}),
    "malformed": (INVALID["malformed"], ALL - {("anthropic", "invoke")}),
    "two objects": (INVALID["two objects"], {("openai", "invoke")}),
    "a list": (Scripted(calls=[("rm", '["/"]')]), {("openai", "stream"), ("anthropic", "stream")}),
}


@pytest.mark.parametrize("version", [None, "v1"])
def test_calls_are_read_as_peers_read_them(own_emulator: Emulator, dialect: Any, version: Any) -> None:
    ours, peer = (
        each[0].model_copy(update={"output_version": version})
        for each in (models(own_emulator)[dialect], models(own_emulator)[PEERS[dialect]])
    )
    forms = [
        (case, way) for case, (_, ways) in PEERS_READ.items() for spoken, way in ways if spoken == dialect
    ]
    for case, way in forms:
        own_emulator.script([PEERS_READ[case][0]] * 2)
        read = []
        for model in (ours, peer):
            bound = model.bind_tools([Disk().tool])
            if way == "invoke":
                message = bound.invoke("?")
            else:
                first, *rest = bound.stream("?")
                message = first + rest
            texts = [without_ending(each["args"] or "") for each in message.invalid_tool_calls]
            # Peers show no block of an invalid call but in summed chunks of v1, where LangChain keeps the
            # type with which it began, theirs and ours.
            blocks = message.content_blocks if not texts or (version and way == "stream") else []
            arguments = [each["args"] for each in message.tool_calls]
            read.append((arguments, texts, [each["type"] for each in blocks]))
        assert read[0] == read[1], (case, way)
