"""Objects of a class as answers: by JSON Schema, else by a forced tool, else by asking in words.

What the server refuses is stepped over; what it answers wrongly is sent back once with what is wrong in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.output_parsers.utils import extract_json_str
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.types import PydanticProgramMode
from pydantic import BaseModel, ValidationError

from llama_index_piccc._partial import PartialObject
from llama_index_piccc._tools import offered
from llama_index_piccc.errors import StructuredOutputError, shown
from piccc.chat import JSON
from piccc.errors import ContextOverflowError, InvalidRequestError

if TYPE_CHECKING:
    from llama_index_piccc._predicting import PredictingLLM

Model = TypeVar("Model", bound=BaseModel)
Ask = Callable[..., Awaitable[ChatResponse]]

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "reasoning_tokens")


class _NotJSON(ValueError):
    """The answer holds no JSON at all."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to ask for an object; `marks` are the words by which a server's refusal of it is known."""

    name: str
    keywords: JSON = field(default_factory=dict)
    instruction: str = ""
    marks: tuple[str, ...] = ()


def ladder(mode: PydanticProgramMode, output_cls: type[BaseModel]) -> list[Rung]:
    """Return the ways to ask that a mode allows, best first."""
    if mode == PydanticProgramMode.FUNCTION:
        return [_tool_rung(output_cls)]
    if mode == PydanticProgramMode.LLM:
        return [_text_rung(output_cls)]
    return [_schema_rung(output_cls), _tool_rung(output_cls), _text_rung(output_cls)]


def _schema_rung(output_cls: type[BaseModel]) -> Rung:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", output_cls.__name__)[:64]
    schema = {"name": name, "schema": output_cls.model_json_schema()}
    wanted = {"type": "json_schema", "json_schema": schema}
    marks = ("response_format", "json_schema", "output_config", "structured output")
    return Rung("schema", {"response_format": wanted}, marks=marks)


def _tool_rung(output_cls: type[BaseModel]) -> Rung:
    tool = offered(get_function_tool(output_cls))
    choice = {"type": "function", "function": {"name": tool["function"]["name"]}}
    keywords = {"tools": [tool], "tool_choice": choice, "parallel_tool_calls": False}
    return Rung("tool", keywords, marks=("tool", "function"))


def _text_rung(output_cls: type[BaseModel]) -> Rung:
    schema = json.dumps(output_cls.model_json_schema(), ensure_ascii=False)
    return Rung("text", instruction=f"Answer with JSON alone. It must satisfy this JSON Schema:\n{schema}")


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
        rungs = ladder(llm.pydantic_program_mode, output_cls)
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
