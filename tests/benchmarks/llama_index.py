"""LlamaIndex's LLMs: ours, the peers, and a floor."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from tests.benchmarks.raw import HTTPX, KEY, Delta, fragment


class LlamaIndex:
    """One LLM, used as users do."""

    def __init__(self, subject: str, base: str) -> None:
        from llama_index.core.llms import ChatMessage

        self.model = model(subject, base)
        self._prompt = [ChatMessage(role="user", content="hi")]

    def call(self) -> object:
        """Return a complete answer."""
        return self.model.chat(self._prompt)

    async def acall(self) -> object:
        """Return a complete answer."""
        return await self.model.achat(self._prompt)

    def read(self) -> None:
        """Read a streamed answer to its end."""
        for _ in self.model.stream_chat(self._prompt):
            pass

    def read_object(self) -> None:
        """Read a structured answer as it grows."""
        from llama_index.core.prompts import PromptTemplate
        from pydantic import create_model

        text = create_model("Text", text=(str, ...))
        for _ in self.model.stream_structured_predict(text, PromptTemplate("hi")):
            pass

    async def aread(self) -> None:
        """Read a streamed answer to its end."""
        async for _ in await self.model.astream_chat(self._prompt):
            pass

    def conversation(self, texts: list[str], images: list[str]) -> list[Any]:
        """Return the texts as a conversation, with the base64 images attached to the first messages."""
        from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock

        shown = [ImageBlock(image=image.encode(), image_mimetype="image/png") for image in images]
        roles = "user", "assistant"
        messages = [ChatMessage(role=roles[number % 2], content=text) for number, text in enumerate(texts)]
        for message, image in zip(messages[::2], shown, strict=False):
            message.blocks = [TextBlock(text=message.content or ""), image]
        return messages

    def send(self, messages: list[Any]) -> object:
        """Return the answer to a conversation."""
        return self.model.chat(messages)


def model(subject: str, base: str) -> Any:
    """Return the named LLM, connected to `base`."""
    match subject:
        case "llama-index-floor":
            return _floor(base)
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

            # It looks up the context window by model name, and knows only Anthropic's models.
            return Anthropic(model="claude-sonnet-4-5", api_key=KEY, base_url=base)
    raise ValueError(subject)


def _floor(base: str) -> Any:
    from llama_index.core.base.llms.types import ToolCallBlock
    from llama_index.core.llms import LLM, ChatMessage, ChatResponse, LLMMetadata, MessageRole, TextBlock
    from llama_index.core.llms.callbacks import llm_chat_callback

    wire = HTTPX(base)

    def response(text: str, delta: str | None = None) -> ChatResponse:
        message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text=text)])
        return ChatResponse(message=message, delta=delta)

    def called(arguments: str) -> ChatResponse:
        block = ToolCallBlock(tool_name="note", tool_kwargs=arguments)
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[block]), delta="")

    def parts(message: ChatMessage) -> list[dict[str, Any]]:
        return [
            {"type": "text", "text": block.text}
            if isinstance(block, TextBlock)
            else {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{block.image.decode()}"}}
            for block in message.blocks
        ]

    class Growing:
        def __init__(self) -> None:
            self.text = self.arguments = ""

        def add(self, delta: Delta) -> ChatResponse:
            if "tool_calls" in delta:
                self.arguments += fragment(delta)
                return called(self.arguments)
            text = delta.get("content") or ""
            self.text += text
            return response(self.text, text)

    def not_asked(self: object, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    class Floor(LLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(is_chat_model=True)

        @llm_chat_callback()
        def chat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            return response(wire.call([{"role": each.role, "content": parts(each)} for each in messages]))

        @llm_chat_callback()
        async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
            return response(await wire.acall())

        @llm_chat_callback()
        def stream_chat(self, messages: Any, **kwargs: Any) -> Generator[ChatResponse]:
            growing = Growing()
            return (growing.add(delta) for delta in wire.deltas())

        @llm_chat_callback()
        async def astream_chat(self, messages: Any, **kwargs: Any) -> AsyncGenerator[ChatResponse]:
            growing = Growing()
            return (growing.add(delta) async for delta in wire.adeltas())

        complete = acomplete = stream_complete = astream_complete = not_asked

    return Floor()
