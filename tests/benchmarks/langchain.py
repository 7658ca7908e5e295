"""LangChain's chat models: ours, the peers, and the floors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from tests.benchmarks.raw import HTTPX, KEY, Bare, Delta, fragment

ROLES = {"human": "user", "ai": "assistant"}


class LangChain:
    """One chat model, used as users do."""

    def __init__(self, subject: str, base: str) -> None:
        self.model = model(subject, base)

    def call(self) -> object:
        """Return a complete answer."""
        return self.model.invoke("hi")

    async def acall(self) -> object:
        """Return a complete answer."""
        return await self.model.ainvoke("hi")

    def read(self) -> None:
        """Read a streamed answer to its end."""
        for _ in self.model.stream("hi"):
            pass

    def read_object(self) -> None:
        """Read a structured answer as it grows."""
        schema = {"title": "Text", "type": "object", "properties": {"text": {"type": "string"}}}
        for _ in self.model.with_structured_output(schema).stream("hi"):
            pass

    async def aread(self) -> None:
        """Read a streamed answer to its end."""
        async for _ in self.model.astream("hi"):
            pass

    def conversation(self, texts: list[str], images: list[str]) -> list[Any]:
        """Return the texts as a conversation, with the base64 images attached to the first messages."""
        from langchain_core.messages import AIMessage, HumanMessage

        shown = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{each}"}} for each in images
        ]
        kinds = HumanMessage, AIMessage
        messages = [kinds[number % 2](text) for number, text in enumerate(texts)]
        for message, image in zip(messages[::2], shown, strict=False):
            message.content = [{"type": "text", "text": message.content}, image]
        return messages

    def send(self, messages: list[Any]) -> object:
        """Return the answer to a conversation."""
        return self.model.invoke(messages)


def model(subject: str, base: str) -> Any:
    """Return the named chat model, connected to `base`."""
    match subject:
        case "langchain-floor":
            return _floor(base)
        case "langchain-bare":
            return _bare(base)
        case "langchain-piccc" | "langchain-piccc-uncoalesced":
            from langchain_piccc import ChatPiccc

            coalesce = subject == "langchain-piccc"
            return ChatPiccc(model="piccc-pro", api_key=KEY, base_url=base, coalesce=coalesce)
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
    raise ValueError(subject)


def _floor(base: str) -> Any:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk
    from langchain_core.messages.tool import tool_call_chunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

    wire = HTTPX(base)

    def result(text: str) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])

    def chunk(delta: Delta) -> ChatGenerationChunk:
        if "tool_calls" in delta:
            called = tool_call_chunk(args=fragment(delta), index=0)
            return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[called]))
        return ChatGenerationChunk(message=AIMessageChunk(content=delta.get("content") or ""))

    class Floor(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "floor"

        def _generate(self, messages: list[Any], *args: Any, **kwargs: Any) -> ChatResult:
            return result(
                wire.call([{"role": ROLES[each.type], "content": each.content} for each in messages])
            )

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            return result(await wire.acall())

        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            return map(chunk, wire.deltas())

        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            async for delta in wire.adeltas():
                yield chunk(delta)

    return Floor()


def _bare(base: str) -> Any:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

    wire = Bare(base)

    def chunk(text: str) -> ChatGenerationChunk:
        return ChatGenerationChunk(message=AIMessageChunk(content=text))

    def result(texts: list[str]) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content="".join(texts)))])

    class Least(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "bare"

        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            return result(list(wire.texts()))

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            return result([text async for text in wire.atexts()])

        def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
            return map(chunk, wire.texts())

        async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            async for text in wire.atexts():
                yield chunk(text)

    return Least()
