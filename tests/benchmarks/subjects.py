"""Who is measured: ours, the peers, and the floor that nobody can go below."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

KEY = "pcc_test_benchmark"
PEERS = {
    "langchain-openai": "langchain",
    "langchain-anthropic": "langchain",
    "langchain-mistralai": "langchain",
    "langchain-deepseek": "langchain",
    "llama-index-openai-like": "llama-index",
    "llama-index-anthropic": "llama-index",
}
"""Each peer, and the dependency group that installs it."""

MODULES = {
    "langchain-core": "langchain_core.language_models.chat_models, langchain_core.tools",
    "langchain-piccc": "langchain_piccc",
    "langchain-openai": "langchain_openai",
    "langchain-anthropic": "langchain_anthropic",
    "langchain-mistralai": "langchain_mistralai",
    "langchain-deepseek": "langchain_deepseek",
    "llama-index-core": "llama_index.core.llms",
    "llama-index-piccc": "llama_index_piccc",
    "llama-index-openai-like": "llama_index.llms.openai_like",
    "llama-index-anthropic": "llama_index.llms.anthropic",
}


def make(subject: str, base: str) -> Any:
    """Return a model of this subject that talks to `base`."""
    match subject:
        case "langchain-floor":
            return _langchain_floor(f"{base}/v1/chat/completions")
        case "langchain-piccc":
            from langchain_piccc import ChatPiccc

            return ChatPiccc(model="piccc-pro", api_key=KEY, base_url=base)
        case "langchain-piccc-uncoalesced":
            from langchain_piccc import ChatPiccc

            return ChatPiccc(model="piccc-pro", api_key=KEY, base_url=base, coalesce=False)
        case "langchain-openai":
            from langchain_openai import ChatOpenAI

            return ChatOpenAI(model="piccc-pro", api_key=KEY, base_url=f"{base}/v1", stream_usage=True)
        case "langchain-anthropic":
            from langchain_anthropic import ChatAnthropic

            return ChatAnthropic(model="piccc-pro", api_key=KEY, base_url=base, max_tokens=1024)
        case "langchain-mistralai":
            from langchain_mistralai import ChatMistralAI

            return ChatMistralAI(model="piccc-pro", api_key=KEY, base_url=f"{base}/v1")
        case "langchain-deepseek":
            from langchain_deepseek import ChatDeepSeek

            return ChatDeepSeek(model="piccc-pro", api_key=KEY, base_url=f"{base}/v1")
        case "llama-index-piccc":
            from llama_index_piccc import Piccc

            return Piccc(model="piccc-pro", api_key=KEY, base_url=base)
        case "llama-index-openai-like":
            from llama_index.llms.openai_like import OpenAILike

            return OpenAILike(
                model="piccc-pro",
                api_key=KEY,
                api_base=f"{base}/v1",
                is_chat_model=True,
                is_function_calling_model=True,
            )
        case "llama-index-anthropic":
            from llama_index.llms.anthropic import Anthropic

            return Anthropic(model="claude-3-5-sonnet-20241022", api_key=KEY, base_url=base)
    raise ValueError(subject)


def _langchain_floor(url: str) -> Any:
    import httpx
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
    from pydantic_core import from_json

    client, async_client = httpx.Client(), httpx.AsyncClient()
    body = {"model": "piccc-pro", "messages": [{"role": "user", "content": "hi"}]}

    def read(block: bytes) -> Iterator[ChatGenerationChunk]:
        for event in block.split(b"\n\n"):
            if event.startswith(b"data: {"):
                choices = from_json(event[6:])["choices"]
                text = choices[0]["delta"].get("content") if choices else None
                yield ChatGenerationChunk(message=AIMessageChunk(content=text or ""))

    class Floor(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "floor"

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            payload = from_json(client.post(url, json={**body, "stream": False}).content)
            message = AIMessage(content=payload["choices"][0]["message"]["content"])
            return ChatResult(generations=[ChatGeneration(message=message)])

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            response = await async_client.post(url, json={**body, "stream": False}, timeout=60)
            message = AIMessage(content=from_json(response.content)["choices"][0]["message"]["content"])
            return ChatResult(generations=[ChatGeneration(message=message)])

        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            with client.stream("POST", url, json={**body, "stream": True}) as response:
                for block in response.iter_raw():
                    yield from read(block)

        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            async with async_client.stream("POST", url, json={**body, "stream": True}) as response:
                async for block in response.aiter_raw():
                    for chunk in read(block):
                        yield chunk

    return Floor()
