"""The subjects: piccc, its peers, and the floors.

A floor is httpx with the cheapest correct parser and the framework's own work for one chunk per event. Only a
client that yields fewer chunks or sends requests differently can beat it. The bare floor is less than a
client: `recv` on a socket, one slice, and the framework's own `stream()`.
"""

from __future__ import annotations

from typing import Protocol

FAMILIES = {
    "LangChain": (
        "langchain-piccc",
        "langchain-openai",
        "langchain-anthropic",
        "langchain-mistralai",
        "langchain-deepseek",
        "langchain-floor",
        "langchain-bare",
    ),
    "LlamaIndex": (
        "llama-index-piccc",
        "llama-index-openai-like",
        "llama-index-anthropic",
        "llama-index-floor",
    ),
    "Raw client": ("piccc", "openai", "anthropic", "httpx"),
    "Emulator": ("emulator", "aimock"),
}
"""Each family's subjects, ours first."""
EVERYONE = tuple(subject for family in FAMILIES.values() for subject in family)
OURS = tuple(family[0] for family in FAMILIES.values())
FLOORS = ("langchain-floor", "langchain-bare", "llama-index-floor", "httpx")
PEERS = {
    "langchain-openai": "langchain",
    "langchain-anthropic": "langchain",
    "langchain-mistralai": "langchain",
    "langchain-deepseek": "langchain",
    "llama-index-openai-like": "llama-index",
    "llama-index-anthropic": "llama-index",
    "openai": "langchain",
    "anthropic": "langchain",
}
"""Each peer's dependency group."""
IMPORTS = {
    "langchain-floor": "from langchain_core.language_models import BaseChatModel",
    "langchain-bare": "from langchain_core.language_models import BaseChatModel",
    "langchain-piccc": "from langchain_piccc import ChatPiccc",
    "langchain-openai": "from langchain_openai import ChatOpenAI",
    "langchain-anthropic": "from langchain_anthropic import ChatAnthropic",
    "langchain-mistralai": "from langchain_mistralai import ChatMistralAI",
    "langchain-deepseek": "from langchain_deepseek import ChatDeepSeek",
    "llama-index-floor": "from llama_index.core.llms import LLM",
    "llama-index-piccc": "from llama_index_piccc import Piccc",
    "llama-index-openai-like": "from llama_index.llms.openai_like import OpenAILike",
    "llama-index-anthropic": "from llama_index.llms.anthropic import Anthropic",
    "httpx": "from httpx import Client",
    "piccc": "from piccc import Client",
    "openai": "from openai import OpenAI",
    "anthropic": "from anthropic import Anthropic",
}
"""The import that a user writes; for a framework's floor, the base class of all models."""


class Subject(Protocol):
    """One model or client; all get the same short request."""

    def call(self) -> object:
        """Return a complete answer."""
        ...

    async def acall(self) -> object:
        """Return a complete answer."""
        ...

    def read(self) -> None:
        """Read a streamed answer to its end."""
        ...

    async def aread(self) -> None:
        """Read a streamed answer to its end."""
        ...


def make(subject: str, base: str) -> Subject:
    """Return a subject connected to `base`; import only its own family."""
    if subject.startswith("langchain-"):
        from tests.benchmarks.langchain import LangChain

        return LangChain(subject, base)
    if subject.startswith("llama-index-"):
        from tests.benchmarks.llama_index import LlamaIndex

        return LlamaIndex(subject, base)
    from tests.benchmarks.raw import CLIENTS

    return CLIENTS[subject](base)
