"""LangChain's metadata, traces and lifecycle hooks work with our model as with the peers'."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.tracers.base import BaseTracer
from langchain_openai import ChatOpenAI

from langchain_piccc import ChatPiccc, PicccImageTool
from piccc import __version__
from piccc.emulator import Emulator


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
    """Keep the names of the callbacks in their order, tokens as one."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("start")

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        if self.called[-1] != "token":
            self.called.append("token")

    def on_llm_end(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("end")

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.called.append("error")


def watched(model: BaseChatModel, way: str) -> tuple[Any, list[str]]:
    tracer, hooks = Runs(), Hooks()
    config: Any = {"callbacks": [tracer, hooks], "metadata": {"own": 1}, "tags": ["t"]}
    if way == "invoke":
        model.invoke("Hello", config)
    else:
        list(model.stream("Hello", config))
    return tracer.runs[0], hooks.called


@pytest.mark.parametrize("way", ["invoke", "stream"])
@pytest.mark.parametrize("dialect", OURS)
def test_a_trace_has_what_a_peers_has(emulator: Emulator, dialect: str, way: str) -> None:
    (ours, _), (peer, _) = (models(emulator)[each] for each in (dialect, PEERS[dialect]))
    (run, called), (peers_run, peers_called) = watched(ours, way), watched(peer, way)
    assert called == peers_called
    metadata, peers = run.extra["metadata"], peers_run.extra["metadata"]
    assert peers.keys() - metadata.keys() <= {"ls_max_tokens"}  # which the Anthropic peer alone must be given
    assert (metadata["ls_provider"], metadata["ls_model_type"]) == ("piccc", "chat")
    assert (metadata["ls_temperature"], metadata["own"]) == (0.5, 1)
    assert run.tags == peers_run.tags
    assert run.events[0]["name"] == "start"
    message = run.outputs["generations"][0][0]["message"]["kwargs"]
    assert {"input_tokens", "output_tokens", "total_tokens"} <= message["usage_metadata"].keys()
    assert {"model_name", "model_provider"} <= message["response_metadata"].keys()


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
