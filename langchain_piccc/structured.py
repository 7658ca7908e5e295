"""Structured output for ChatPiccc, built on `piccc.structured`."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal

from langchain_core import exceptions as core
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator, RunnableLambda
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema
from typing_extensions import is_typeddict

from langchain_piccc._replies import invalid_reasons, without_ending
from piccc import structured
from piccc.conversation import InvalidReason, InvalidToolCall
from piccc.errors import InvalidArgumentError, InvalidRequestError
from piccc.structured import (
    Answer,
    Attempt,
    OutputSchema,
    PartialObject,
    Strategy,
    StrategyMemory,
    StructuredCall,
)

Method = Literal["json_schema", "function_calling", "json_mode"]
_METHODS: dict[Strategy, Method] = {"schema": "json_schema", "tool": "function_calling", "json": "json_mode"}


def output_schema(given: Any, *, strict: bool | None) -> OutputSchema:
    """Read a schema in any of LangChain's forms; raise InvalidArgumentError for anything else."""
    # LangChain converts these to plain dicts, with descriptions from docstrings and annotations.
    if is_typeddict(given) or is_dataclass(given) or inspect.isroutine(given) or isinstance(given, BaseTool):
        try:
            given = convert_to_json_schema(given)
        except (ValueError, TypeError) as error:
            raise InvalidArgumentError(f"Cannot make a JSON Schema of {given!r}: {error}") from error
    return OutputSchema.of(given, strict=strict)


def traced_schema(given: Any, schema: OutputSchema) -> Any:
    """Return the schema to show to tracers: LangChain's own conversion, if it has one."""
    try:
        return convert_to_json_schema(given)
    except Exception:  # may be anything, for forms that only we support
        return {"title": schema.name, **schema.schema}


def strategies(
    profile: ModelProfile | None, dialect: str, method: Method | None, strict: bool | None
) -> tuple[Strategy, ...]:
    """Return the strategies to try, best first; only one if a method was given."""
    if method is None:
        capabilities = {"schema": "structured_output", "tool": "tool_calling"}
        supported: Mapping[str, Any] = profile or {}
        return tuple(
            strategy
            for strategy in structured.STRATEGIES
            if supported.get(capabilities.get(strategy, ""), True)
        )
    for strategy, name in _METHODS.items():
        if name == method and not (method == "json_mode" and strict is not None):
            # The Anthropic route has no JSON mode, so send the schema itself.
            return ("schema",) if strategy == "json" and dialect == "anthropic" else (strategy,)
    hint = f"Use one of {', '.join(_METHODS.values())}; json_mode does not support strict."
    raise InvalidArgumentError(f"method is {method!r} and strict is {strict!r}.", hint=hint)


class StructuredOutputError(structured.StructuredOutputError, OutputParserException):
    """No answer matched the schema.

    Attributes:
        raw: the model's last message.
        llm_output: its text, or the arguments of its call.
        finish_reason: why it ended, such as `stop` or `length`.
        reason: `refused` by the model, `filtered` by the server, `cut` at max_tokens, or `unfit`.
        observation, send_to_llm: inherited from OutputParserException; not used here.
    """

    raw: AIMessage
    llm_output: str | None
    observation: str | None = None
    send_to_llm: bool = False


if hasattr(core, "ModelRefusalError"):  # langchain-core 1.7.5

    class StructuredRefusalError(StructuredOutputError, core.ModelRefusalError):
        """The model refused to give the object, or the server filtered it."""

        raw_message: BaseMessage | None = None

else:
    StructuredRefusalError = StructuredOutputError  # type: ignore[assignment,misc]


class StructuredOutput(Runnable[LanguageModelInput, Any]):
    """Runnable whose answers match a schema; one that does not is sent back once for correction."""

    def __init__(
        self,
        model: BaseChatModel,
        schema: OutputSchema,
        strategies: Sequence[Strategy],
        *,
        traced: Any,
        memory: StrategyMemory,
        server: tuple[str | None, ...],
        include_raw: bool,
        max_answers: int,
        options: Mapping[str, Any],
    ) -> None:
        self.name = "StructuredOutput"
        self._model = model
        self._schema = schema
        self._strategies = strategies
        self._traced = traced
        self._memory = memory
        self._server = server
        self._include_raw = include_raw
        self._max_answers = max_answers
        self._options = dict(options)

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Return the parsed answer, or with `include_raw` a dict of raw, parsed and parsing_error."""
        return self._as_lambda().invoke(input, config, **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        """Return the parsed answer, or with `include_raw` a dict of raw, parsed and parsing_error."""
        return await self._as_lambda().ainvoke(input, config, **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        """Yield the answer as it grows (dicts), or once it is complete (pydantic objects, `include_raw`)."""
        yield from self._as_generator().stream(input, config, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Yield the answer as it grows (dicts), or once it is complete (pydantic objects, `include_raw`)."""
        async for answer in self._as_generator().astream(input, config, **kwargs):
            yield answer

    # LangChain's own runnables open the traced run around the model's calls.

    def _as_lambda(self) -> RunnableLambda[LanguageModelInput, Any]:
        return RunnableLambda(self._invoke, self._ainvoke, name=self.name)

    def _as_generator(self) -> RunnableGenerator[LanguageModelInput, Any]:
        # It passes the config to functions that accept one, but its annotations omit that.
        return RunnableGenerator(self._stream, self._astream, name=self.name)  # type: ignore[arg-type]

    def _invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        run = _Run(self, input, kwargs)
        while attempt := run.call.attempt:
            try:
                run.take(self._model.invoke(run.messages(attempt), config, **run.options(attempt)))
            except InvalidRequestError as error:
                run.call.refuse(error)
        return run.result()

    async def _ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Any:
        run = _Run(self, input, kwargs)
        while attempt := run.call.attempt:
            try:
                run.take(await self._model.ainvoke(run.messages(attempt), config, **run.options(attempt)))
            except InvalidRequestError as error:
                run.call.refuse(error)
        return run.result()

    def _stream(
        self,
        inputs: Iterator[LanguageModelInput],
        config: RunnableConfig,
        **kwargs: Any,
    ) -> Iterator[Any]:
        run = _Run(self, next(inputs), kwargs)
        while attempt := run.call.attempt:
            messages, options = run.messages(attempt), run.options(attempt)
            try:
                if run.call.answers:  # a streamed second answer would start over from nothing
                    run.take(self._model.invoke(messages, config, **options))
                    continue
                for chunk in self._model.stream(messages, config, **options):
                    yield from run.grow(chunk)
                run.take(run.streamed())
            except InvalidRequestError as error:
                run.call.refuse(error)
        yield from run.last()

    async def _astream(
        self,
        inputs: AsyncIterator[LanguageModelInput],
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        run = _Run(self, await anext(inputs), kwargs)
        while attempt := run.call.attempt:
            messages, options = run.messages(attempt), run.options(attempt)
            try:
                if run.call.answers:
                    run.take(await self._model.ainvoke(messages, config, **options))
                    continue
                async for chunk in self._model.astream(messages, config, **options):
                    for answer in run.grow(chunk):
                        yield answer
                run.take(run.streamed())
            except InvalidRequestError as error:
                run.call.refuse(error)
        for answer in run.last():
            yield answer


class _Run:
    """One call of a StructuredOutput."""

    def __init__(self, owner: StructuredOutput, input: LanguageModelInput, kwargs: Mapping[str, Any]) -> None:
        self._input = _messages(input)
        self._kwargs = {**owner._options, **kwargs}
        self._traced = owner._traced
        self._include_raw = owner._include_raw
        server = (*owner._server, self._kwargs.get("model"))
        self.call = StructuredCall(
            owner._schema, owner._strategies, owner._memory, server, owner._max_answers
        )
        # pydantic objects and raw messages are only yielded when complete.
        self._is_shown = owner._schema.type is None and not owner._include_raw
        self._chunks: list[AIMessageChunk] = []
        self._partial = PartialObject()
        self._shown: Any = None
        self._raw: AIMessage | None = None

    def messages(self, attempt: Attempt) -> list[BaseMessage]:
        roles = {"assistant": AIMessage, "user": HumanMessage}
        self._chunks, self._partial = [], PartialObject()
        return [*self._input, *(roles[role](text) for role, text in attempt.turns)]

    def options(self, attempt: Attempt) -> dict[str, Any]:
        traced = {"kwargs": {"method": _METHODS.get(attempt.strategy, "text")}, "schema": self._traced}
        return {**self._kwargs, **attempt.options, "ls_structured_output_format": traced}

    def grow(self, chunk: AIMessageChunk) -> Iterator[Any]:
        self._chunks.append(chunk)
        if not self._is_shown:
            return
        calls = [call["args"] or "" for call in chunk.tool_call_chunks if not call["index"]]
        if self._partial.add("".join(calls) or str(chunk.text)):
            self._shown = self.call.schema.unwrap(self._partial.value)
            yield self._shown

    def streamed(self) -> AIMessage:
        first, *rest = self._chunks
        return first + rest if rest else first

    def take(self, raw: AIMessage) -> None:
        self._raw = raw
        calls = [json.dumps(call["args"], ensure_ascii=False) for call in raw.tool_calls]
        invalid = [without_ending(call["args"] or "") for call in raw.invalid_tool_calls]
        reason: InvalidReason = next(iter(invalid_reasons(raw).values()), "malformed")
        is_tool = self.call.attempt is not None and self.call.attempt.strategy == "tool"
        self.call.take(
            Answer(
                text=([*calls, *invalid] or [str(raw.text)])[0] if is_tool else str(raw.text),
                finish_reason=raw.response_metadata.get("finish_reason"),
                refusal=_refusal(raw),
                # Arguments that are not an object may still be the answer: a list without its wrapper.
                invalid=InvalidToolCall("", "", "", reason).error
                if is_tool and invalid and not calls and reason != "malformed"
                else "",
                calls_others=bool(calls) and not is_tool,
                request_id=raw.response_metadata.get("request_id"),
            )
        )

    def result(self) -> Any:
        parsed, error = None, None
        try:
            parsed = self.call.result()
        except structured.StructuredOutputError as cause:
            kind = (
                StructuredRefusalError if cause.reason in ("refused", "filtered") else StructuredOutputError
            )
            error = kind.__new__(kind, cause.message)
            error.__dict__.update(cause.__dict__, raw=self._raw, raw_message=self._raw, llm_output=cause.text)
            if not self._include_raw:
                raise error from cause.__cause__
        return {"raw": self._raw, "parsed": parsed, "parsing_error": error} if self._include_raw else parsed

    def last(self) -> Iterator[Any]:
        result = self.result()
        if result != self._shown or self._include_raw:
            yield result


def _messages(given: LanguageModelInput) -> list[BaseMessage]:
    if isinstance(given, str):
        return [HumanMessage(given)]
    return given.to_messages() if isinstance(given, PromptValue) else convert_to_messages(given)


def _refusal(message: AIMessage) -> str:
    """Return a refusal's text, from `additional_kwargs` in a plain message, else from a content block."""
    texts = [
        block["refusal"]
        for block in message.content
        if isinstance(block, dict) and block.get("type") == "refusal"
    ]
    return str(message.additional_kwargs.get("refusal") or next(iter(texts), ""))
