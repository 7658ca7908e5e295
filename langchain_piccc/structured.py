"""Structured output for ChatPiccc."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from langchain_core import exceptions as core
from langchain_core.callbacks import AsyncCallbackManagerForChainRun, CallbackManagerForChainRun
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.json import parse_json_markdown, parse_partial_json
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from langchain_piccc._requests import bound_format
from piccc.errors import ContextOverflowError, InvalidArgumentError, InvalidRequestError, PicccError

if TYPE_CHECKING:
    from langchain_piccc.chat_models import ChatPiccc

Method = Literal["json_schema", "function_calling", "json_mode"]
_METHODS: tuple[Method, ...] = ("json_schema", "function_calling", "json_mode")
_IN_WORDS = "Answer with one JSON object that satisfies this JSON Schema, and with nothing else:\n"


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """What the answer must be: a pydantic class of either version, a TypedDict, or a JSON Schema."""

    schema: Any

    @property
    def is_class(self) -> bool:
        """Whether answers become objects of a pydantic class."""
        return isinstance(self.schema, type) and is_basemodel_subclass(self.schema)

    def fit(self, value: Any) -> Any:
        """Return the answer in its shape; raise ValueError that says what is wrong with it."""
        if not isinstance(value, dict):
            raise ValueError(f"It is not a JSON object but {type(value).__name__}.")
        if self.is_class:
            new = issubclass(self.schema, BaseModel)
            return self.schema.model_validate(value) if new else self.schema.parse_obj(value)
        required = convert_to_json_schema(self.schema).get("required", ())
        if missing := [name for name in required if name not in value]:
            raise ValueError(f"These fields are missing: {', '.join(missing)}.")
        return value


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to ask: the model with its options bound, and the words by which a server refuses this way."""

    model: Runnable[LanguageModelInput, AIMessage]
    is_tool: bool = False
    refused_by: tuple[str, ...] = ()
    instruction: str = ""

    def ask(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """Return the messages to send."""
        return [*messages, HumanMessage(self.instruction)] if self.instruction else messages

    def is_refused_by(self, error: InvalidRequestError) -> bool:
        """Tell whether the server does not know this way of asking."""
        said = f"{error} {error.body}"
        return not isinstance(error, ContextOverflowError) and any(word in said for word in self.refused_by)

    def text(self, message: AIMessage) -> str:
        """Return what should hold the answer."""
        if self.is_tool and message.tool_calls:
            return json.dumps(message.tool_calls[0]["args"], ensure_ascii=False)
        if self.is_tool and message.invalid_tool_calls:
            return message.invalid_tool_calls[0]["args"] or ""
        return message.text

    def answer(self, message: AIMessage) -> Any:
        """Return the answer; raise ValueError where it is no JSON."""
        return parse_json_markdown(self.text(message), parser=json.loads)

    def partial(self, message: AIMessage) -> Any:
        """Return the answer as far as it has come, or None."""
        try:
            return parse_partial_json(self.text(message))
        except ValueError:
            return None


def strategies(model: ChatPiccc, schema: Any, method: Method | None, strict: bool | None) -> list[Strategy]:
    """Return the ways to ask for a shape, the best first; only one where a method was named."""
    match method:
        case "json_schema":
            return [_by_schema(model, schema, strict)]
        case "function_calling":
            return [_by_tool(model, schema, strict)]
        case "json_mode" if strict is None:
            return [_by_json_mode(model, schema)]
        case None:
            return _all(model, schema, strict)
    hint = f"It is one of {', '.join(_METHODS)}; json_mode knows no strict."
    raise InvalidArgumentError(f"method is {method!r} and strict is {strict!r}.", hint=hint)


def _all(model: ChatPiccc, schema: Any, strict: bool | None) -> list[Strategy]:
    profile = model.profile or {}
    rungs = [_by_schema(model, schema, strict)] if profile.get("structured_output", True) else []
    rungs += [_by_tool(model, schema, strict)] if profile.get("tool_calling", True) else []
    return [*rungs, _by_text(model, schema)]


def _by_schema(model: ChatPiccc, schema: Any, strict: bool | None) -> Strategy:
    wanted = bound_format(schema, strict=strict)
    bound = model.bind(response_format=wanted, **_traced("json_schema", schema))
    return Strategy(bound, refused_by=("response_format", "json_schema", "output_config"))


def _by_tool(model: ChatPiccc, schema: Any, strict: bool | None) -> Strategy:
    traced = _traced("function_calling", schema)
    bound = model.bind_tools([schema], tool_choice="any", strict=strict, **traced)
    return Strategy(bound, is_tool=True, refused_by=("tool_choice", "tools", "tool use", "function"))


def _by_json_mode(model: ChatPiccc, schema: Any) -> Strategy:
    # Anthropic's route knows no JSON mode, so there the schema itself is asked for.
    wanted = {"type": "json_object"} if model.dialect == "openai" else bound_format(schema)
    return Strategy(model.bind(response_format=wanted, **_traced("json_mode", schema)))


def _by_text(model: ChatPiccc, schema: Any) -> Strategy:
    text = _IN_WORDS + json.dumps(convert_to_json_schema(schema), ensure_ascii=False)
    return Strategy(model.bind(**_traced("text", schema)), instruction=text)


def _traced(method: str, schema: Any) -> dict[str, Any]:
    return {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": schema}}


Messages = list[BaseMessage]
_HOPELESS = ("length", "content_filter")


class StructuredOutputError(PicccError, OutputParserException):
    """The answer does not have the shape that was asked for.

    Attributes:
        raw: the model's last message.
        llm_output: its text, or the arguments of its call.
        finish_reason: why it ended, such as `stop` or `length`.
        observation, send_to_llm: what OutputParserException has besides; not used here.
    """

    raw: AIMessage
    llm_output: str | None
    finish_reason: str | None
    observation: str | None = None
    send_to_llm: bool = False


class StructuredOutput(Runnable[LanguageModelInput, Any]):
    """Ask for an answer in a shape; an answer that does not fit goes back once, with what is wrong."""

    def __init__(
        self,
        rungs: Sequence[Strategy],
        shape: OutputSchema,
        to_messages: Callable[[LanguageModelInput], Messages],
        *,
        include_raw: bool,
    ) -> None:
        self.name = "StructuredOutput"
        self._rungs = list(rungs)
        self._shape = shape
        self._to_messages = to_messages
        self._include_raw = include_raw

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the answer in its shape, or with `include_raw` a dict of raw, parsed and parsing_error."""
        return self._call_with_config(self._invoke, input, config, **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return the answer in its shape, or with `include_raw` a dict of raw, parsed and parsing_error."""
        return await self._acall_with_config(self._ainvoke, input, config, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Yield the answer as it grows (dicts), or once it is whole (pydantic objects, `include_raw`)."""
        yield from self._transform_stream_with_config(iter([input]), self._stream, config, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Yield the answer as it grows (dicts), or once it is whole (pydantic objects, `include_raw`)."""

        async def inputs() -> AsyncIterator[LanguageModelInput]:
            yield input

        async for answer in self._atransform_stream_with_config(inputs(), self._astream, config, **kwargs):
            yield answer

    def _invoke(
        self,
        input: LanguageModelInput,
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        messages = self._to_messages(input)
        while True:
            rung = self._rungs[0]
            try:
                raw = rung.model.invoke(rung.ask(messages), config, **kwargs)
            except InvalidRequestError as error:
                self._descend(rung, error)
                continue
            if again := self._repair(rung, messages, raw):
                raw = rung.model.invoke(again, config, **kwargs)
            return self._result(rung, raw)

    async def _ainvoke(
        self,
        input: LanguageModelInput,
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        messages = self._to_messages(input)
        while True:
            rung = self._rungs[0]
            try:
                raw = await rung.model.ainvoke(rung.ask(messages), config, **kwargs)
            except InvalidRequestError as error:
                self._descend(rung, error)
                continue
            if again := self._repair(rung, messages, raw):
                raw = await rung.model.ainvoke(again, config, **kwargs)
            return self._result(rung, raw)

    def _stream(
        self,
        inputs: Iterator[LanguageModelInput],
        run_manager: CallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        messages = self._to_messages(next(inputs))
        while True:
            rung, growth = self._rungs[0], self._growth()
            try:
                for chunk in rung.model.stream(rung.ask(messages), config, **kwargs):
                    yield from growth.add(rung, chunk)
            except InvalidRequestError as error:
                self._descend(rung, error)
                continue
            raw = growth.message()
            if again := self._repair(rung, messages, raw):
                raw = rung.model.invoke(again, config, **kwargs)
            yield from growth.last(self._result(rung, raw))
            return

    async def _astream(
        self,
        inputs: AsyncIterator[LanguageModelInput],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        messages = self._to_messages(await anext(inputs))
        while True:
            rung, growth = self._rungs[0], self._growth()
            try:
                async for chunk in rung.model.astream(rung.ask(messages), config, **kwargs):
                    for answer in growth.add(rung, chunk):
                        yield answer
            except InvalidRequestError as error:
                self._descend(rung, error)
                continue
            raw = growth.message()
            if again := self._repair(rung, messages, raw):
                raw = await rung.model.ainvoke(again, config, **kwargs)
            for answer in growth.last(self._result(rung, raw)):
                yield answer
            return

    def _growth(self) -> PartialOutput:
        return PartialOutput(is_shown=not (self._shape.is_class or self._include_raw))

    def _descend(self, rung: Strategy, error: InvalidRequestError) -> None:
        """Leave a rung that the server refuses, for this call and for later ones; else raise the error."""
        if rung is self._rungs[-1] or not rung.is_refused_by(error):
            raise error
        self._rungs = [each for each in self._rungs if each is not rung]

    def _repair(self, rung: Strategy, messages: Messages, raw: AIMessage) -> Messages | None:
        """Return what to send once more, or None where the answer fits or another one would not either."""
        try:
            self._shape.fit(rung.answer(raw))
        except ValueError as error:
            if _refusal(raw) or raw.response_metadata.get("finish_reason") in _HOPELESS:
                return None
            return [*rung.ask(messages), raw, *_complaint(raw, error)]
        return None

    def _result(self, rung: Strategy, raw: AIMessage) -> Any:
        parsed, error = None, None
        try:
            parsed = self._shape.fit(rung.answer(raw))
        except ValueError as cause:
            error = _misfit(rung, raw, cause)
            if not self._include_raw:
                raise error from cause
        return {"raw": raw, "parsed": parsed, "parsing_error": error} if self._include_raw else parsed


class PartialOutput:
    """An answer while it streams: what to show of it, and the message in the end."""

    def __init__(self, *, is_shown: bool) -> None:
        self._is_shown = is_shown
        self._chunks: list[AIMessageChunk] = []
        self._shown: Any = None

    def add(self, rung: Strategy, chunk: AIMessage) -> Iterator[dict[str, Any]]:
        """Take one more chunk; yield the answer if more of it has come."""
        self._chunks.append(cast("AIMessageChunk", chunk))
        if not self._is_shown:
            return
        self._chunks = [cast("AIMessageChunk", self.message())]
        answer = rung.partial(self._chunks[0])
        if isinstance(answer, dict) and answer and answer != self._shown:
            self._shown = answer
            yield answer

    def message(self) -> AIMessage:
        """Return what has come so far as one message."""
        first, *rest = self._chunks
        return first + rest if rest else first

    def last(self, answer: Any) -> Iterator[Any]:
        """Yield the whole answer unless it was shown already."""
        if answer != self._shown:
            yield answer


def _complaint(raw: AIMessage, error: ValueError) -> Messages:
    text = f"This answer does not fit: {error}\nAnswer again: the whole answer, corrected, and nothing else."
    calls = [*raw.tool_calls, *raw.invalid_tool_calls]
    if not calls:
        return [HumanMessage(text)]
    return [ToolMessage(text, tool_call_id=call["id"] or "", status="error") for call in calls]


def _refusal(raw: AIMessage) -> str:
    return str(raw.additional_kwargs.get("refusal") or "")


def _misfit(rung: Strategy, raw: AIMessage, cause: ValueError) -> Exception:
    refusal = _refusal(raw)
    if refusal and hasattr(core, "ModelRefusalError"):
        return cast("Exception", core.ModelRefusalError(refusal, raw_message=raw))
    reason = raw.response_metadata.get("finish_reason")
    return StructuredOutputError(
        f"The model refused: {refusal}" if refusal else f"The answer does not fit: {cause}",
        hint="Raise max_tokens: the answer was cut." if reason == "length" else "",
        raw=raw,
        llm_output=rung.text(raw),
        finish_reason=reason,
        request_id=raw.response_metadata.get("request_id"),
    )
