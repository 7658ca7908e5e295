"""Metadata, traces, lifecycle hooks and tool calls match those of ChatOpenAI and ChatAnthropic."""

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
from tests.langchain.test_invalid_calls import INVALID, RecordingTool


def models(emulator: Emulator) -> dict[str, tuple[BaseChatModel, str]]:
    """Return our model in each dialect and its peers, each with the name of its package."""
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
def test_metadata_lists_versions_like_the_peers(emulator: Emulator, dialect: str) -> None:
    (ours, package), (peer, peers_package) = (models(emulator)[name] for name in (dialect, PEERS[dialect]))
    assert ours.metadata
    assert peer.metadata
    versions, peers = ours.metadata["lc_versions"], peer.metadata["lc_versions"]
    assert versions.pop(package) == __version__
    peers.pop(peers_package)
    assert versions == peers


class RunTracer(BaseTracer):
    """A tracer that keeps its runs in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run)


class Hooks(BaseCallbackHandler):
    """A callback handler that records call order (consecutive tokens as one) and token texts."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.tokens: list[str] = []
        self.partial: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("start")

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        assert kwargs["chunk"].text == token
        self.tokens += [token] if token else []  # peers also report chunks without text
        if self.called[-1] != "token":
            self.called.append("token")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("end")

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("error")
        self.partial = (
            [generation.text for generation in kwargs["response"].generations[0]]
            if kwargs["response"]
            else []
        )


async def _streamed(model: BaseChatModel, config: Any) -> None:
    async for _ in model.astream("Hello", config):
        pass


METHODS: dict[str, Callable[[BaseChatModel, Any], Any]] = {
    "invoke": lambda model, config: model.invoke("Hello", config),
    "batch": lambda model, config: model.batch(["Hello"], config),
    "stream": lambda model, config: list(model.stream("Hello", config)),
    "streaming": lambda model, config: model.model_copy(update={"streaming": True}).invoke("Hello", config),
    # Not compared with the peers: they keep one async client for all event loops.
    "astream": lambda model, config: asyncio.run(_streamed(model, config)),
}
COMPARED_METHODS = ["invoke", "batch", "stream", "streaming"]


def traced(model: BaseChatModel, method: str, **config: Any) -> tuple[Any, Hooks]:
    tracer, hooks = RunTracer(), Hooks()
    ask = METHODS[method]
    ask(model, {"callbacks": [tracer, hooks], "metadata": {"own": 1}, "tags": ["t"], **config})
    return tracer.runs[0], hooks


@pytest.mark.parametrize("method", COMPARED_METHODS)
@pytest.mark.parametrize("dialect", OURS)
def test_a_trace_matches_the_peers_trace(emulator: Emulator, dialect: str, method: str) -> None:
    ours, peer = models(emulator)[dialect][0], models(emulator)[PEERS[dialect]][0]
    ours = ours.model_copy(update={"coalesce": False})
    (run, hooks), (peers_run, peers_hooks) = traced(ours, method), traced(peer, method)
    assert hooks.called == peers_hooks.called
    assert hooks.tokens == peers_hooks.tokens
    assert (run.name, peers_run.name) == ("ChatPiccc", type(peer).__name__)
    assert (run.run_type, run.error, run.parent_run_id) == ("llm", None, None)
    assert traced(ours, method, run_name="mine")[0].name == "mine"
    metadata, peers = run.extra["metadata"], peers_run.extra["metadata"]
    assert peers.keys() - metadata.keys() <= {"ls_max_tokens"}  # only the Anthropic peer requires it
    assert (metadata["ls_provider"], metadata["ls_model_type"]) == ("piccc", "chat")
    assert (metadata["ls_temperature"], metadata["own"]) == (0.5, 1)
    assert metadata["ls_model_name"] == peers["ls_model_name"]
    assert run.tags == peers_run.tags
    assert run.events[0]["name"] == "start"
    message = run.outputs["generations"][0][0]["message"]["kwargs"]
    assert {"input_tokens", "output_tokens", "total_tokens"} <= message["usage_metadata"].keys()
    assert {"model_name", "model_provider"} <= message["response_metadata"].keys()


@pytest.mark.parametrize("method", COMPARED_METHODS)
@pytest.mark.parametrize("dialect", OURS)
def test_an_error_is_reported_like_the_peers_error(own_emulator: Emulator, dialect: str, method: str) -> None:
    own_emulator.fault("401")
    ours, peer = models(own_emulator)[dialect][0], models(own_emulator)[PEERS[dialect]][0]
    seen = []
    for model in (ours, peer):
        tracer, hooks = RunTracer(), Hooks()
        with pytest.raises(Exception, match="Injected fault"):
            METHODS[method](model, {"callbacks": [tracer, hooks]})
        seen.append((hooks.called, hooks.partial, bool(tracer.runs[0].error)))
    assert seen[0][0] == seen[1][0] == ["start", "error"]
    assert seen[0][2]


@pytest.mark.parametrize("method", ["stream", "astream"])
def test_the_error_of_a_truncated_stream_carries_the_partial_text(method: str) -> None:
    hooks = Hooks()
    model = Replay(stream(chunks([{"content": "Hel"}, {"content": "lo"}])[:3])).model()
    with pytest.raises(StreamError):
        METHODS[method](model, {"callbacks": [hooks]})
    assert hooks.called == ["start", "token", "error"]
    assert hooks.partial == ["Hello"]


def test_model_post_init_of_subclasses_runs(emulator: Emulator) -> None:
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


# Replies that a peer parses correctly, by dialect and call method: there we must parse the same.
ALL = {(dialect, method) for dialect in ("openai", "anthropic") for method in ("invoke", "stream")}
PEERS_PARSE: dict[str, tuple[Scripted, set[tuple[str, str]]]] = {
    "valid": (Scripted(calls=[("rm", {"path": "a"})]), ALL),
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
def test_tool_calls_are_parsed_like_the_peers_parse_them(
    own_emulator: Emulator, dialect: Any, version: Any
) -> None:
    ours, peer = (
        entry[0].model_copy(update={"output_version": version})
        for entry in (models(own_emulator)[dialect], models(own_emulator)[PEERS[dialect]])
    )
    cases = [
        (case, method)
        for case, (_, methods) in PEERS_PARSE.items()
        for peer_dialect, method in methods
        if peer_dialect == dialect
    ]
    for case, method in cases:
        own_emulator.script([PEERS_PARSE[case][0]] * 2)
        parsed = []
        for model in (ours, peer):
            bound = model.bind_tools([RecordingTool().tool])
            if method == "invoke":
                message = bound.invoke("?")
            else:
                first, *rest = bound.stream("?")
                message = first + rest
            texts = [without_ending(call["args"] or "") for call in message.invalid_tool_calls]
            # Peers have a block for an invalid call only in summed v1 chunks, where LangChain keeps the
            # type of the first chunk.
            blocks = message.content_blocks if not texts or (version and method == "stream") else []
            arguments = [call["args"] for call in message.tool_calls]
            parsed.append((arguments, texts, [block["type"] for block in blocks]))
        assert parsed[0] == parsed[1], (case, method)
