"""Structured prediction and the structured LLM."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

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
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index.core.output_parsers.utils import extract_json_str
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.prompts import PromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from llama_index_piccc._replies import PartialObject, completion
from llama_index_piccc._requests import offered
from llama_index_piccc.errors import StructuredOutputError, shown
from piccc.conversation import JSON
from piccc.errors import ContextOverflowError, InvalidRequestError
from piccc.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from llama_index_piccc.llm import Piccc

Model = TypeVar("Model", bound=BaseModel)
Ask = Callable[..., Awaitable[ChatResponse]]

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


class _NotJSON(ValueError):
    """The answer holds no JSON at all."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to ask for an object; `marks` are the words by which a server's refusal of it is known."""

    name: str
    keywords: JSON = field(default_factory=dict)
    instruction: str = ""
    marks: tuple[str, ...] = ()


def strategies(mode: PydanticProgramMode, output_cls: type[BaseModel]) -> list[Strategy]:
    """Return the ways to ask that a mode allows, best first."""
    if mode == PydanticProgramMode.FUNCTION:
        return [_tool_rung(output_cls)]
    if mode == PydanticProgramMode.LLM:
        return [_text_rung(output_cls)]
    return [_schema_rung(output_cls), _tool_rung(output_cls), _text_rung(output_cls)]


def _schema_rung(output_cls: type[BaseModel]) -> Strategy:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", output_cls.__name__)[:64]
    schema = {"name": name, "schema": output_cls.model_json_schema()}
    wanted = {"type": "json_schema", "json_schema": schema}
    marks = ("response_format", "json_schema", "output_config", "structured output")
    return Strategy("schema", {"response_format": wanted}, marks=marks)


def _tool_rung(output_cls: type[BaseModel]) -> Strategy:
    tool = offered(get_function_tool(output_cls))
    choice = {"type": "function", "function": {"name": tool["function"]["name"]}}
    keywords = {"tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
    return Strategy("tool", keywords, marks=("tool", "function"))


def _text_rung(output_cls: type[BaseModel]) -> Strategy:
    schema = json.dumps(output_cls.model_json_schema(), ensure_ascii=False)
    return Strategy(
        "text", instruction=f"Answer with JSON alone. It must satisfy this JSON Schema:\n{schema}"
    )


@dataclass(slots=True)
class Structured(Generic[Model]):
    """An object, and the response it was read from with the tokens of all calls that led to it."""

    value: Model
    response: ChatResponse


class Prediction(Generic[Model]):
    """One object on its way: which rung is tried, and what has been spent."""

    def __init__(
        self,
        llm: PredictingLLM,
        output_cls: type[Model],
        messages: Sequence[ChatMessage],
        kwargs: JSON | None,
    ) -> None:
        self._llm = llm
        self._output_cls = output_cls
        self._messages = list(messages)
        reserved = ("tools", "tool_choice", "tool_required", "allow_parallel_tool_calls", "response_format")
        self._kwargs = {name: value for name, value in (kwargs or {}).items() if name not in reserved}
        model = self._kwargs.get("model", llm.model)
        self._refused = llm._refused.setdefault(model, set())
        rungs = strategies(llm.pydantic_program_mode, output_cls)
        self._rungs = [each for each in rungs[:-1] if each.name not in self._refused] + rungs[-1:]
        self._spent: list[ChatResponse] = []

    def run(self) -> Structured[Model]:
        """Ask until an answer fits; raise StructuredOutputError if none does."""
        return _finish(self._run(self._blocking))

    async def arun(self) -> Structured[Model]:
        """Ask until an answer fits; raise StructuredOutputError if none does."""
        return await self._run(self._awaiting)

    async def _run(self, ask: Ask) -> Structured[Model]:
        while True:
            try:
                response = await ask(self._asked, **self._keywords)
            except InvalidRequestError as error:
                self._step_over(error)
            else:
                return await self._settle(response, ask)

    def stream(self) -> Generator[tuple[BaseModel, ChatResponse]]:
        """Ask and give what can be read so far with each response; the last is whole and fits."""
        while True:
            partial = _PartialModel(self._output_cls)
            try:
                for response in self._llm.stream_chat(self._asked, **self._keywords):
                    if (value := partial.add(response)) is not None:
                        yield value, partial.take(response)
                break
            except InvalidRequestError as error:
                self._step_over(error)
        done = _finish(self._settle(response, self._blocking))
        yield done.value, partial.take(done.response)

    async def astream(self) -> AsyncGenerator[tuple[BaseModel, ChatResponse]]:
        """Ask and give what can be read so far with each response; the last is whole and fits."""
        while True:
            partial = _PartialModel(self._output_cls)
            try:
                async for response in await self._llm.astream_chat(self._asked, **self._keywords):
                    if (value := partial.add(response)) is not None:
                        yield value, partial.take(response)
                break
            except InvalidRequestError as error:
                self._step_over(error)
        done = await self._settle(response, self._awaiting)
        yield done.value, partial.take(done.response)

    async def _blocking(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        response: ChatResponse = self._llm.chat(messages, **kwargs)
        return response

    async def _awaiting(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        response: ChatResponse = await self._llm.achat(messages, **kwargs)
        return response

    @property
    def _asked(self) -> list[ChatMessage]:
        if instruction := self._rungs[0].instruction:
            return [*self._messages, ChatMessage(role="user", content=instruction)]
        return self._messages

    @property
    def _keywords(self) -> JSON:
        return {**self._kwargs, **self._rungs[0].keywords}

    def _step_over(self, error: InvalidRequestError) -> None:
        said = f"{error.message} {error.body}".lower()
        known = any(mark in said for mark in self._rungs[0].marks)
        if len(self._rungs) == 1 or not known or isinstance(error, ContextOverflowError):
            raise error
        self._step_down()

    def _step_down(self) -> None:
        self._refused.add(self._rungs.pop(0).name)

    async def _settle(self, response: ChatResponse, ask: Ask) -> Structured[Model]:
        try:
            return self._read(response)
        except _NotJSON as unfit:
            if len(self._rungs) > 1:
                self._step_down()
                return await self._run(ask)
            wrong: ValueError = unfit
        except ValidationError as unfit:
            wrong = unfit
        repaired = await ask(self._repair(response, wrong), **self._keywords)
        try:
            return self._read(repaired)
        except ValueError as error:
            if isinstance(error, StructuredOutputError):
                raise
            raise StructuredOutputError(
                f"The answer is no {self._output_cls.__name__}, nor is its repair: {_complaint(error)}",
                hint="`text` has the model's words; a larger model or a simpler class may help.",
                response=repaired,
                text=_answer(repaired),
            ) from error

    def _read(self, response: ChatResponse) -> Structured[Model]:
        self._spent.append(response)
        text = _answer(response)
        try:
            return Structured(_parsed(self._output_cls, text), self._with_all_tokens(response))
        except ValueError:
            self._raise_if_ended_early(response)
            raise

    def _raise_if_ended_early(self, response: ChatResponse) -> None:
        reason = response.additional_kwargs.get("finish_reason")
        name = self._output_cls.__name__
        if response.message.additional_kwargs.get("refusal") or reason == "content_filter":
            said = shown(response.message.content or "")
            raise StructuredOutputError(f"The model declined to give a {name}: {said}", response=response)
        if reason == "length":
            raise StructuredOutputError(
                f"The answer was cut at max_tokens before it was a whole {name}.",
                hint="Raise max_tokens.",
                response=response,
            )

    def _repair(self, response: ChatResponse, wrong: ValueError) -> list[ChatMessage]:
        answer = ChatMessage(role="assistant", content=_answer(response))
        wanted = f"That does not satisfy the schema: {_complaint(wrong)}\nGive it again, whole and corrected."
        return [*self._asked, answer, ChatMessage(role="user", content=wanted)]

    def _with_all_tokens(self, response: ChatResponse) -> ChatResponse:
        facts = [each.additional_kwargs for each in self._spent]
        totals = {name: sum(each.get(name, 0) for each in facts) for name in _COUNTS if name in facts[-1]}
        return response.model_copy(update={"additional_kwargs": {**facts[-1], **totals}})


def _finish(coroutine: Coroutine[Any, Any, Structured[Model]]) -> Structured[Model]:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: Structured[Model] = done.value
        return value
    coroutine.close()
    raise RuntimeError("A call that blocks suspended.")


class _PartialModel:
    """The object as far as a stream's responses tell it, and the text that was not yet passed on."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls = output_cls
        self._flexible = create_flexible_model(output_cls)
        self._object = PartialObject()
        self._known: JSON = {}
        self._passed_on = 0

    def add(self, response: ChatResponse) -> BaseModel | None:
        """Return the object so far, or None where the response adds nothing to it."""
        calls = [each for each in response.message.blocks if isinstance(each, ToolCallBlock)]
        text = calls[0].tool_kwargs if calls else response.message.content
        if isinstance(text, str):
            self._object.add(text[len(self._object.text) :])
        if self._object.value == self._known:
            return None
        self._known = self._object.value
        try:
            return self._output_cls.model_validate(self._known)
        except ValidationError:
            return self._flexible.model_validate(self._known)

    def take(self, response: ChatResponse) -> ChatResponse:
        """Return the response with the text that came since the last one."""
        text = self._object.text[self._passed_on :]
        self._passed_on += len(text)
        return response.model_copy(update={"delta": text})


def _answer(response: ChatResponse) -> str:
    """Return the text of the object: a call's arguments, else the answer's words."""
    for block in response.message.blocks:
        if isinstance(block, ToolCallBlock):
            kwargs = block.tool_kwargs
            return kwargs if isinstance(kwargs, str) else json.dumps(kwargs, ensure_ascii=False)
    return response.message.content or ""


def _parsed(output_cls: type[Model], text: str) -> Model:
    try:
        return output_cls.model_validate_json(text)
    except ValidationError as error:
        if error.errors()[0]["type"] != "json_invalid":
            raise
    try:
        found = extract_json_str(text)
    except ValueError as error:
        raise _NotJSON(f"there is no JSON in {shown(text)}") from error
    return output_cls.model_validate_json(found)


def _complaint(wrong: ValueError) -> str:
    if not isinstance(wrong, ValidationError):
        return str(wrong)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in wrong.errors())


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
