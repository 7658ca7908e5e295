"""Structured prediction and the structured LLM, built on `piccc.structured`."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from llama_index_piccc.convert import INVALID_CALLS, to_completion
from piccc.conversation import DEFAULT_MODEL, JSON, MAX_ANSWERS
from piccc.errors import InvalidArgumentError, InvalidRequestError

# `piccc.structured` is loaded at the first prediction because it would add 3 ms to every start.
if TYPE_CHECKING:
    from piccc.structured import Attempt, OutputSchema, Strategy, StrategyMemory

Model = TypeVar("Model", bound=BaseModel)

_COUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_creation_tokens",
    "cache_creation_5m_tokens",
    "cache_creation_1h_tokens",
    "reasoning_tokens",
)
_STRATEGIES: dict[PydanticProgramMode, tuple[Strategy, ...]] = {
    PydanticProgramMode.FUNCTION: ("tool",),
    PydanticProgramMode.LLM: ("text",),
}
_RESERVED = ("tools", "tool_choice", "tool_required", "allow_parallel_tool_calls", "response_format")


class Prediction(Generic[Model]):
    """One prediction, with its LLM calls and their responses."""

    def __init__(
        self,
        llm: PredictingLLM,
        output_cls: type[Model],
        messages: Sequence[ChatMessage],
        kwargs: JSON | None,
    ) -> None:
        from piccc.structured import STRATEGIES, OutputSchema, StrategyMemory, StructuredCall

        if llm._strategy_memory is None:
            llm._strategy_memory = StrategyMemory()
        self._llm = llm
        self._messages = list(messages)
        self._kwargs = {name: value for name, value in (kwargs or {}).items() if name not in _RESERVED}
        self._call = StructuredCall(
            OutputSchema.of(output_cls),
            _STRATEGIES.get(llm.pydantic_program_mode, STRATEGIES),
            llm._strategy_memory,
            (llm.server, self._kwargs.get("model", llm.model)),
            llm.structured_max_answers,
        )
        self._responses: list[ChatResponse] = []

    def run(self) -> tuple[Model, ChatResponse]:
        """Return the object and its response; raise StructuredOutputError if no answer fits."""
        while attempt := self._call.attempt:
            try:
                self._take(self._llm.chat(self._history(attempt), **self._options(attempt)))
            except InvalidRequestError as error:
                self._call.refuse(error)
        return self._result()

    async def arun(self) -> tuple[Model, ChatResponse]:
        """Return the object and its response; raise StructuredOutputError if no answer fits."""
        while attempt := self._call.attempt:
            try:
                self._take(await self._llm.achat(self._history(attempt), **self._options(attempt)))
            except InvalidRequestError as error:
                self._call.refuse(error)
        return self._result()

    def stream(self) -> Generator[tuple[BaseModel, ChatResponse]]:
        """Yield the object so far with each response; the last object is complete and valid."""
        partial = _PartialModel(self._call.schema)
        while attempt := self._call.attempt:
            history, options = self._history(attempt), self._options(attempt)
            try:
                if self._call.answers:  # a streamed second answer would start over from nothing
                    self._take(self._llm.chat(history, **options))
                    continue
                for response in self._llm.stream_chat(history, **options):
                    if (value := partial.add(response)) is not None:
                        yield value, partial.take(response)
                self._take(response)
            except InvalidRequestError as error:
                self._call.refuse(error)
        value, last = self._result()
        yield value, partial.take(last)

    async def astream(self) -> AsyncGenerator[tuple[BaseModel, ChatResponse]]:
        """Yield the object so far with each response; the last object is complete and valid."""
        partial = _PartialModel(self._call.schema)
        while attempt := self._call.attempt:
            history, options = self._history(attempt), self._options(attempt)
            try:
                if self._call.answers:
                    self._take(await self._llm.achat(history, **options))
                    continue
                async for response in await self._llm.astream_chat(history, **options):
                    if (value := partial.add(response)) is not None:
                        yield value, partial.take(response)
                self._take(response)
            except InvalidRequestError as error:
                self._call.refuse(error)
        value, last = self._result()
        yield value, partial.take(last)

    def _history(self, attempt: Attempt) -> list[ChatMessage]:
        return [*self._messages, *(ChatMessage(role=role, content=text) for role, text in attempt.turns)]

    def _options(self, attempt: Attempt) -> JSON:
        return {**self._kwargs, **attempt.options}

    def _take(self, response: ChatResponse) -> None:
        from piccc.structured import Answer

        self._responses.append(response)
        extra, facts = response.message.additional_kwargs, response.additional_kwargs
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        text = response.message.content or ""
        # Arguments that are not an object may still be the answer: a list without its wrapper.
        invalid = [call for call in extra.get(INVALID_CALLS) or () if call["reason"] != "malformed"]
        if calls:
            kwargs = calls[0].tool_kwargs
            text = kwargs if isinstance(kwargs, str) else json.dumps(kwargs, ensure_ascii=False)
        self._call.take(
            Answer(
                text=text,
                finish_reason=facts.get("finish_reason"),
                refusal=extra.get("refusal") or "",
                invalid=next((call["error"] for call in invalid if call["id"] == calls[0].tool_call_id), "")
                if calls
                else "",
                request_id=facts.get("request_id"),
            )
        )

    def _result(self) -> tuple[Model, ChatResponse]:
        value: Model = self._call.result()
        facts = [response.additional_kwargs for response in self._responses]
        totals = {name: sum(entry.get(name) or 0 for entry in facts) for name in _COUNTS}
        response = self._responses[-1]
        return value, response.model_copy(update={"additional_kwargs": {**facts[-1], **totals}})


class _PartialModel:
    """The object received so far in a stream, and the text not yet passed on."""

    def __init__(self, schema: OutputSchema) -> None:
        from piccc.structured import PartialObject

        self._schema = schema
        # A wrapped type is not an object, so it cannot have missing fields.
        self._flexible = None if schema.is_wrapped else create_flexible_model(schema.type)
        self._object = PartialObject()
        self._passed_on = 0

    def add(self, response: ChatResponse) -> BaseModel | None:
        """Return the object so far, or None if the response adds nothing to it."""
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        text = calls[0].tool_kwargs if calls else response.message.content
        if not isinstance(text, str) or not self._object.add(text[len(self._object.text) :]):
            return None
        value = self._schema.unwrap(self._object.value)
        output_cls: type[BaseModel] = self._schema.type
        try:
            return output_cls.model_validate(value)
        except ValidationError:
            return self._flexible.model_validate(value) if self._flexible else None

    def take(self, response: ChatResponse) -> ChatResponse:
        """Return the response with the text received since the last one."""
        text = self._object.text[self._passed_on :]
        self._passed_on += len(text)
        return response.model_copy(update={"delta": text})


class PicccStructuredLLM(StructuredLLM):
    """LLM that answers with objects of `output_cls`: `raw` is the object, the message's content its JSON.

    `additional_kwargs` has the token counts of all calls made for an answer. The wrapped LLM traces and
    counts each call; this one adds nothing to that.
    """

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this class in serialized components."""
        return "piccc_structured_llm"

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation as an object."""
        return _response(*self._prediction(messages, kwargs).run())

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation as an object."""
        return _response(*await self._prediction(messages, kwargs).arun())

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream the object as it grows; `delta` is the new part of the model's text."""
        stream = self._prediction(messages, kwargs).stream()
        return (_response(*item) for item in stream)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Stream the object as it grows; `delta` is the new part of the model's text."""
        stream = self._prediction(messages, kwargs).astream()
        return (_response(*item) async for item in stream)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt as an object."""
        return to_completion(self.chat(self._prompt(prompt, formatted), **kwargs))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt as an object."""
        return to_completion(await self.achat(self._prompt(prompt, formatted), **kwargs))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Stream the object as it grows."""
        stream = self.stream_chat(self._prompt(prompt, formatted), **kwargs)
        return (to_completion(response) for response in stream)

    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Stream the object as it grows."""
        stream = await self.astream_chat(self._prompt(prompt, formatted), **kwargs)
        return (to_completion(response) async for response in stream)

    def chat_with_tools(self, *args: Any, **kwargs: Any) -> ChatResponse:
        """Never return: a structured LLM cannot call tools. The three variants do the same.

        Raises:
            InvalidArgumentError: always; nothing was sent.
        """
        raise InvalidArgumentError(
            "A structured LLM cannot call tools.",
            hint="Pass the plain llm to the agent, with output_cls=… for its answer.",
        )

    achat_with_tools: ClassVar[Any] = chat_with_tools
    stream_chat_with_tools: ClassVar[Any] = chat_with_tools
    astream_chat_with_tools: ClassVar[Any] = chat_with_tools

    def _prediction(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Prediction[BaseModel]:
        inner = cast(PredictingLLM, self.llm).model_copy(update={"callback_manager": self.callback_manager})
        return Prediction(inner, self.output_cls, _with_system_prompt(inner, messages), kwargs)

    def _prompt(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        return cast(PredictingLLM, self.llm)._prompt(prompt, formatted)


def _with_system_prompt(llm: LLM, messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    system = [ChatMessage(role=MessageRole.SYSTEM, content=llm.system_prompt)] if llm.system_prompt else []
    return [*system, *messages]


def _response(value: BaseModel, response: ChatResponse) -> ChatResponse:
    message = ChatMessage(role=MessageRole.ASSISTANT, content=value.model_dump_json())
    return response.model_copy(update={"message": message, "raw": value})


dispatcher = get_dispatcher(__name__)

_CORE_MODES = (PydanticProgramMode.OPENAI, PydanticProgramMode.LM_FORMAT_ENFORCER)


class PredictingLLM(FunctionCallingLLM):
    """Base LLM that predicts objects of a class; `pydantic_program_mode` limits the strategies.

    Raises:
        StructuredOutputError: no answer was an object of the class, even after a repair; it has the answer's
            text and finish reason.
    """

    model_config = ConfigDict(defer_build=True)  # never instantiated

    model: str = Field(
        default=DEFAULT_MODEL, kw_only=False, description="Model name; any name the server knows."
    )
    structured_max_answers: int = Field(
        default=MAX_ANSWERS, gt=0, description="Maximum number of billed replies for one predicted object."
    )

    _strategy_memory: StrategyMemory | None = PrivateAttr(default=None)

    @property
    def server(self) -> tuple[str | None, ...]:
        """The server and dialect, as a key for what we learn about them."""
        raise NotImplementedError

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """Return an object of the class as the answer to a prompt."""
        if self.pydantic_program_mode in _CORE_MODES:
            predicted: Model = super().structured_predict(output_cls, prompt, llm_kwargs, **prompt_args)
            return predicted
        dispatcher.event(_start(output_cls, prompt, prompt_args))
        prediction = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        value, _ = prediction.run()
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
        if self.pydantic_program_mode in _CORE_MODES:
            predicted: Model = await super().astructured_predict(
                output_cls, prompt, llm_kwargs, **prompt_args
            )
            return predicted
        dispatcher.event(_start(output_cls, prompt, prompt_args))
        prediction = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        value, _ = await prediction.arun()
        dispatcher.event(LLMStructuredPredictEndEvent(output=value))
        return value

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if self.pydantic_program_mode in _CORE_MODES:
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
        if self.pydantic_program_mode in _CORE_MODES:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        prediction = self._prediction(output_cls, prompt, llm_kwargs, prompt_args)
        return (value async for value, _ in prediction.astream())

    def as_structured_llm(self, output_cls: type[BaseModel], **kwargs: Any) -> PicccStructuredLLM:
        """Return an LLM that always answers with objects of the class.

        Examples:
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

    def _prompt(self, prompt: str, formatted: bool) -> list[ChatMessage]:
        if not isinstance(prompt, str):  # core would make it an empty message
            raise InvalidArgumentError(
                f"The prompt is of type {type(prompt).__name__}.",
                hint="Pass a string, or messages to chat().",
            )
        if not formatted and self.completion_to_prompt is not None:
            prompt = self.completion_to_prompt(prompt)
        return [ChatMessage(role="user", content=prompt)]

    def _prediction(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None,
        prompt_args: dict[str, Any],
    ) -> Prediction[Model]:
        messages = _with_system_prompt(self, prompt.format_messages(llm=self, **prompt_args))
        return Prediction(self, output_cls, messages, llm_kwargs)


def _start(output_cls: Any, prompt: PromptTemplate, prompt_args: Any) -> LLMStructuredPredictStartEvent:
    return LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args)
