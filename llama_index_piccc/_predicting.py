"""The structured half of the LLM: what core's programs do, with our ladder and on every path alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, Field, PrivateAttr

from llama_index_piccc._structured import Model, Prediction
from llama_index_piccc.structured_llm import PicccStructuredLLM
from piccc.models import DEFAULT_MODEL

dispatcher = get_dispatcher(__name__)

_OF_CORE = (PydanticProgramMode.OPENAI, PydanticProgramMode.LM_FORMAT_ENFORCER)


class PredictingLLM(FunctionCallingLLM):
    """Predict objects of a class; `pydantic_program_mode` limits the ways to ask for one.

    Raises:
        StructuredOutputError: no answer was an object of the class, not even after a repair; it has the
            answer's text and finish reason.
    """

    model: str = Field(default=DEFAULT_MODEL, description="The model's name; any name works.")

    _refused: dict[str, set[str]] = PrivateAttr(default_factory=dict)

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return an object of the class as the answer to a prompt."""
        if self.pydantic_program_mode in _OF_CORE:
            made: Model = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return made
        dispatcher.event(_start(output_cls, prompt, prompt_args))
        prediction = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        value = prediction.run().value
        dispatcher.event(LLMStructuredPredictEndEvent(output=value))
        return value

    @dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return an object of the class as the answer to a prompt."""
        if self.pydantic_program_mode in _OF_CORE:
            made: Model = await super().astructured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return made
        dispatcher.event(_start(output_cls, prompt, prompt_args))
        prediction = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        value = (await prediction.arun()).value
        dispatcher.event(LLMStructuredPredictEndEvent(output=value))
        return value

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if self.pydantic_program_mode in _OF_CORE:
            return super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        prediction = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        return (value for value, _ in prediction.stream())

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if self.pydantic_program_mode in _OF_CORE:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        prediction = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        return (value async for value, _ in prediction.astream())

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> PicccStructuredLLM:
        """Return a model whose every answer is an object of the class.

        Example:
            >>> from llama_index_piccc import Piccc
            >>> from pydantic import BaseModel
            >>> class Person(BaseModel):
            ...     name: str
            ...     age: int
            >>> Piccc().as_structured_llm(Person).complete("Anna is 31 years old.").raw
            Person(name='Anna', age=31)
        """
        kwargs.setdefault("callback_manager", self.callback_manager)
        return PicccStructuredLLM(llm=self, output_cls=output_cls, **kwargs)

    def _prediction(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> Prediction[Model]:
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        return Prediction(self, output_cls, messages, llm_kwargs)


def _start(output_cls: Any, prompt: PromptTemplate, prompt_args: Any) -> LLMStructuredPredictStartEvent:
    return LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
