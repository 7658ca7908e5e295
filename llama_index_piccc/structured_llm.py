"""`PicccStructuredLLM`: a model whose every answer is an object of one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
)
from llama_index.core.llms.structured_llm import StructuredLLM
from pydantic import BaseModel

from llama_index_piccc._output import completion
from llama_index_piccc._structured import Prediction

if TYPE_CHECKING:
    from llama_index_piccc.llm import Piccc


class PicccStructuredLLM(StructuredLLM):
    """Answer with objects of `output_cls`: `raw` is the object, the message's content its JSON.

    `additional_kwargs` has the tokens of all calls that an answer took. The model within traces and counts
    each call that it makes, and this one does not again.
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the id under which this class is known in saved components."""
        return "piccc_structured_llm"

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation as an object."""
        done = self._prediction(messages, kwargs).run()
        return _response(done.value, done.response)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation as an object."""
        done = await self._prediction(messages, kwargs).arun()
        return _response(done.value, done.response)

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Return the object as it grows; `delta` is more of its text as the model writes it."""
        stream = self._prediction(messages, kwargs).stream()
        return (_response(*each) for each in stream)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Return the object as it grows; `delta` is more of its text as the model writes it."""
        stream = self._prediction(messages, kwargs).astream()
        return (_response(*each) async for each in stream)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt as an object."""
        return completion(self.chat(self._prompt(prompt, formatted), **kwargs))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt as an object."""
        return completion(await self.achat(self._prompt(prompt, formatted), **kwargs))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Return the object as it grows."""
        return (completion(each) for each in self.stream_chat(self._prompt(prompt, formatted), **kwargs))

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Return the object as it grows."""
        stream = await self.astream_chat(self._prompt(prompt, formatted), **kwargs)
        return (completion(each) async for each in stream)

    def _prediction(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Prediction[BaseModel]:
        inner = cast("Piccc", self.llm).model_copy(update={"callback_manager": self.callback_manager})
        return Prediction(inner, self.output_cls, inner._extend_messages(list(messages)), kwargs)

    def _prompt(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        return cast("Piccc", self.llm)._prompt(prompt, formatted)


def _response(value: BaseModel, response: ChatResponse) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=value.model_dump_json())
    return response.model_copy(update={"message": message, "raw": value})
