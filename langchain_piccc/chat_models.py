"""The chat model and its profile."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, cast, overload

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.utils import LC_ID_PREFIX
from pydantic import BaseModel, Field, PrivateAttr, model_validator

from langchain_piccc._replies import PROVIDER, to_message
from langchain_piccc._requests import (
    SETTINGS,
    as_list,
    bound_choice,
    bound_format,
    bound_tools,
    hidden,
    shows_images,
    to_dialect,
    to_messages,
    to_request,
    to_tools,
)
from langchain_piccc._settings import STRICT, ClientSettings, Dialect
from langchain_piccc._streaming import ChunkWriter, EventWriter, coalesce
from langchain_piccc.errors import as_model_errors
from piccc._version import __version__
from piccc.conversation import DEFAULT_MODEL, MAX_ANSWERS, model_info
from piccc.errors import InvalidArgumentError
from piccc.options import with_our_names

if TYPE_CHECKING:
    from langchain_protocol.protocol import MessagesData

    from langchain_piccc._requests import ToolLike
    from langchain_piccc.structured import Method, StructuredOutput
    from piccc.client import AsyncChat, Chat
    from piccc.conversation import ChatReply, ChatRequest, Delta
    from piccc.structured import StrategyMemory

if "piccc.media.rate" in sys.modules:  # a `RateLimit` may have been created before LangChain was loaded
    sys.modules["piccc.media.rate"].register_with_langchain()

REASONING_EFFORTS = ["minimal", "low", "medium", "high"]


def profile_of(model: str, dialect: Dialect = "openai") -> ModelProfile:
    """Return a model's profile; all its limits and capabilities are assumed, not documented."""
    info = model_info(model)
    profile: dict[str, Any] = {
        "name": info.name,
        "max_input_tokens": info.context_window,
        "max_output_tokens": info.max_output_tokens,
        "text_inputs": True,
        "text_outputs": True,
        "image_inputs": info.image_input,
        "image_url_inputs": info.image_input,
        "image_tool_message": info.image_input,
        "pdf_inputs": True,
        "pdf_tool_message": True,
        "audio_inputs": True,  # sent over the OpenAI route, whatever the dialect
        "video_inputs": False,
        "image_outputs": False,
        "audio_outputs": False,
        "video_outputs": False,
        "attachment": True,
        "temperature": True,
        "reasoning_output": True,
        "reasoning_effort_levels": list(REASONING_EFFORTS),
        "tool_calling": info.tools,
        "tool_choice": info.tools,
        "tool_call_streaming": info.tools,
        "structured_output": info.json_schema,
        # Anthropic's API has one system prompt, before all turns.
        "mid_conversation_system_messages": dialect == "openai",
    }
    known = ModelProfile.__annotations__  # older versions of LangChain have fewer
    return cast("ModelProfile", {name: value for name, value in profile.items() if name in known})


M = TypeVar("M", bound=BaseModel)
T = TypeVar("T", covariant=True)


class Writer(Protocol[T]):
    """Converter of one streamed reply to LangChain's chunks or events."""

    def start(self, model: str) -> Iterable[T]:
        """Return the items that open the reply."""
        ...

    def write(self, deltas: Sequence[Delta]) -> Iterable[T]:
        """Return the items for deltas that arrived together."""
        ...

    def finish(self, reply: ChatReply) -> Iterable[T]:
        """Return the items that close the reply."""
        ...


class ChatPiccc(ClientSettings, BaseChatModel):
    """Chat model for Piccc AI.

    Setup:
        `pip install "piccc[langchain]"`. Set the key with `api_key=` or `PICCC_API_KEY`, and the server with
        `base_url=` or `PICCC_BASE_URL`.

    Key init args (completion params):
        - `model`: the model's name, such as `piccc-flash`, `piccc-pro` or `piccc-ultra`.
        - `temperature`, `top_p`, `seed`: sampling.
        - `max_tokens`, `stop`: when to stop generating.
        - `reasoning_effort`: how much the model reasons first, such as `low` or `high`.

    Key init args (client params):
        - `dialect`: the chat route, `openai` or `anthropic`.
        - `timeout`: seconds for a whole call, or a `piccc.Timeout`.
        - `max_retries`: maximum number of retries of a request.
        - `default_headers`, `http_client`, `http_async_client`: how requests are sent.

    Raises:
        ConfigurationError: a setting is unknown or malformed. A missing key raises at the first call.

    Creating a model does no I/O. Connections are opened when needed and shared, one set per event loop.
    Both dialects produce the same messages. Every error is both a `piccc.errors` class and a LangChain
    `ModelError`.

    Each call also accepts `model`, `temperature`, `top_p`, `max_tokens`, `stop`, `seed`, `reasoning_effort`,
    `replay_reasoning`, `extra_body` and `timeout` as keywords, plus `tools`, `tool_choice`,
    `parallel_tool_calls`, `response_format`, `strict` and `extra_headers`. An unknown keyword raises
    InvalidArgumentError.

    The constructor also accepts the names used by LangChain's other models: `model_name`, `piccc_api_key`,
    `request_timeout`, `stop_sequences`, `max_completion_tokens`, and `stream_usage=True`, which has no
    effect. Type checkers know only our names.

    A tool call that is truncated, has no name, or has arguments that are not a JSON object goes into
    `invalid_tool_calls`, streamed or not; `response_metadata["invalid_tool_calls"]` says why. In a sum of
    chunks its arguments end with `<invalid>` and brackets, which keep LangChain from completing them.

    To load a dumped model, call
    `load(dumped, allowed_objects=[ChatPiccc], valid_namespaces=["langchain_piccc"])`.

    Examples:
        Instantiate:

        >>> from langchain_piccc import ChatPiccc
        >>> model = ChatPiccc(model="piccc-pro", temperature=0.2, max_tokens=500, timeout=60)

        Invoke:

        >>> reply = model.invoke("Write a launch caption for a ceramic mug.")
        >>> print(reply.text)
        Meet the ceramic mug: made with care, ready for every day.

        Stream:

        >>> for chunk in model.stream("Write a launch caption for a ceramic mug."):
        ...     print(chunk.text, end="")
        Meet the ceramic mug: made with care, ready for every day.

        Async:

        >>> import asyncio
        >>> print(asyncio.run(model.ainvoke("Write a launch caption for a ceramic mug.")).text)
        Meet the ceramic mug: made with care, ready for every day.

        Tool calling:

        >>> def weather(city: str) -> str:
        ...     "Return the weather of a city."
        >>> model.bind_tools([weather]).invoke("What is the weather in Oslo?").tool_calls[0]["args"]
        {'city': 'Oslo'}

        Structured output:

        >>> from pydantic import BaseModel
        >>> class Person(BaseModel):
        ...     name: str
        ...     age: int
        >>> model.with_structured_output(Person).invoke("Anna is 31 years old.")
        Person(name='Anna', age=31)

        Multimodal input. Images can also be `base64` with a `mime_type`; so can files and audio:

        >>> image = {"type": "image", "url": "https://files.example.com/mug.png"}
        >>> question = {"type": "text", "text": "What does this image show?"}
        >>> print(model.invoke([{"role": "user", "content": [question, image]}]).text)
        I see: image (image/png).

        Token usage:

        >>> reply.usage_metadata
        {'input_tokens': 13, 'output_tokens': 14, 'total_tokens': 27}

        Response metadata; `record` has the number of attempts and the time they took:

        >>> [reply.response_metadata[name] for name in ("model_name", "finish_reason")]
        ['piccc-pro', 'stop']
    """

    model_config = STRICT

    model: str = DEFAULT_MODEL
    """The model's name: `piccc-flash`, `piccc-pro`, `piccc-ultra`, or any other that the server knows."""
    dialect: Dialect = "openai"
    """Which of the two chat routes to use. Content that one does not support is sent over the other: audio
    over `openai`, files by URL over `anthropic`."""
    temperature: float | None = None
    """Sampling temperature; None leaves it to the server."""
    top_p: float | None = None
    """Nucleus sampling threshold, 0 to 1; None leaves it to the server."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Maximum tokens in an answer; None leaves it to the server."""
    stop: list[str] | str | None = None
    """Stop sequences."""
    seed: int | None = None
    """Seed for repeatable answers; the `anthropic` dialect rejects it."""
    reasoning_effort: str | None = None
    """Reasoning effort, such as `low` or `high`; None leaves it to the server."""
    replay_reasoning: bool | None = None
    """Whether to send earlier reasoning back to the model; None sends only signed reasoning."""
    extra_body: dict[str, Any] | None = None
    """Fields merged into every request body, overriding ours."""
    streaming: bool = False
    """Whether `invoke` streams too."""
    coalesce: bool = True
    """Whether events that arrive in one read become one chunk; False yields one chunk per event."""

    _strategy_memory: StrategyMemory | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _take_names_of_other_models(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = with_our_names(values)
        if given.get("stream_usage") is True:
            del given["stream_usage"]
        return given

    @model_validator(mode="after")
    def _set_piccc_version(self) -> Self:
        known = self.metadata or {}
        self.metadata = {**known, "lc_versions": {**known.get("lc_versions", {}), "piccc": __version__}}
        return self

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: models can be dumped and loaded, without keys and headers."""
        return True

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self.model

    @property
    def _llm_type(self) -> str:
        return "piccc-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        params = {name: getattr(self, name) for name in (*SETTINGS, "stop", "extra_body")}
        return {
            **{name: value for name, value in params.items() if value is not None},
            "dialect": self.dialect,
        }

    def _resolve_model_profile(self) -> ModelProfile:
        return profile_of(self.model, self.dialect)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or as_list(self.stop) or None, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        return super()._get_invocation_params(stop=stop, **hidden(kwargs))

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        return super()._get_llm_string(stop=stop, **hidden(kwargs))

    def _combine_llm_outputs(self, outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        known = [output for output in outputs if output]
        total: dict[str, int] = {}
        for output in known:
            for name, count in output["token_usage"].items():
                total[name] = total.get(name, 0) + count
        return {"token_usage": total, "model_name": known[0]["model_name"]} if known else {}

    def bind(self, **kwargs: Any) -> Any:
        """Bind options to every call, hiding headers in dumps and traces."""
        return super().bind(**hidden(kwargs))

    def bind_tools(
        self,
        tools: Sequence[ToolLike],
        *,
        tool_choice: str | bool | Mapping[str, Any] | None = None,
        strict: bool | None = None,
        parallel_tool_calls: bool | None = None,
        response_format: Any = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools to the model.

        Args:
            tools: functions, LangChain tools, pydantic or TypedDict classes, JSON Schemas, or tools in
                OpenAI's or Anthropic's form.
            tool_choice: `auto`, `none`, `any`, a tool's name, or a choice in either form.
            strict: whether the server must follow the tools' schemas exactly.
            parallel_tool_calls: whether one answer may have several calls.
            response_format: a schema for the final answer, in any of these forms.
            kwargs: options for every call, such as `temperature`.

        Examples:
            >>> from langchain_piccc import ChatPiccc
            >>> def weather(city: str) -> str:
            ...     "Return the weather of a city."
            >>> [call] = ChatPiccc().bind_tools([weather]).invoke("What is the weather in Oslo?").tool_calls
            >>> call["name"], call["args"]
            ('weather', {'city': 'Oslo'})
        """
        bound = bound_tools(tools, strict=strict)
        choice = bound_choice(tool_choice, bound) if bound else None
        options = {
            "tools": bound or None,
            "tool_choice": choice,
            "parallel_tool_calls": parallel_tool_calls,
            "response_format": None
            if response_format is None
            else bound_format(response_format, strict=strict),
        }
        kept = {name: value for name, value in options.items() if value is not None}
        bound_model: Runnable[LanguageModelInput, AIMessage] = self.bind(**kept, **kwargs)
        return bound_model

    @overload
    def with_structured_output(
        self,
        schema: type[M],
        *,
        include_raw: Literal[False] = False,
        method: Method | None = None,
        strict: bool | None = None,
        max_answers: int = MAX_ANSWERS,
        tools: None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, M]: ...

    @overload
    def with_structured_output(
        self,
        schema: Any,
        *,
        include_raw: bool = False,
        method: Method | None = None,
        strict: bool | None = None,
        max_answers: int = MAX_ANSWERS,
        tools: Sequence[ToolLike] | None = None,
        **kwargs: Any,
    ) -> StructuredOutput: ...

    def with_structured_output(
        self,
        schema: Any,
        *,
        include_raw: bool = False,
        method: Method | None = None,
        strict: bool | None = None,
        max_answers: int = MAX_ANSWERS,
        tools: Sequence[ToolLike] | None = None,
        **kwargs: Any,
    ) -> StructuredOutput:
        """Return a runnable whose answers match a schema.

        Args:
            schema: a pydantic class (v1 or v2), any type that pydantic supports (such as `list[str]`), a
                TypedDict, a JSON Schema, or `{"name", "schema"}`. TypedDicts and schemas give plain JSON.
            include_raw: return a dict of raw, parsed and parsing_error instead of raising parsing errors.
            method: `json_schema`, `function_calling` or `json_mode`. None tries the server's schema support,
                then a forced tool, then text, moving on if the server rejects one.
            strict: whether the server must follow the schema exactly.
            max_answers: the maximum number of answers that one call may pay for.
            tools: tools that the model may call instead of answering; the result is then None.
            kwargs: options for every call, such as `temperature`.

        Raises:
            InvalidArgumentError: immediately, if the schema is not usable.

        An answer that does not fit is sent back once for correction. A second failure raises
        StructuredOutputError, which is also an OutputParserException. A refusal is also LangChain's
        ModelRefusalError, in versions that have it.

        Examples:
            >>> from langchain_piccc import ChatPiccc
            >>> from pydantic import BaseModel
            >>> class Person(BaseModel):
            ...     name: str
            ...     age: int
            >>> ChatPiccc().with_structured_output(Person).invoke("Anna is 31 years old.")
            Person(name='Anna', age=31)
        """
        # Imported here because it adds 3 ms to every start.
        from langchain_piccc.structured import StructuredOutput, output_schema, strategies, traced_schema
        from piccc.structured import StrategyMemory

        if self._strategy_memory is None:
            self._strategy_memory = StrategyMemory()
        allowed = strategies(self.profile, self.dialect, method, strict)
        if tools:  # forcing the schema's tool would keep the model from calling these
            kwargs["tools"] = bound_tools(tools)
            allowed = tuple(way for way in allowed if way != "tool")
            if not allowed:
                raise InvalidArgumentError(
                    'tools= cannot be combined with method="function_calling".',
                    hint='Use method="json_schema".',
                )
        wanted = output_schema(schema, strict=strict)
        return StructuredOutput(
            self,
            wanted,
            allowed,
            traced=traced_schema(schema, wanted),
            memory=self._strategy_memory,
            server=(self.base_url, self.dialect, self.model),
            include_raw=include_raw,
            max_answers=max_answers,
            options=kwargs,
        )

    def get_num_tokens(self, text: str) -> int:
        """Return an estimate of a text's token count; nothing is sent or downloaded."""
        from piccc.tokens import count_text

        return len(self.custom_get_token_ids(text)) if self.custom_get_token_ids else count_text(text)

    def get_token_ids(self, text: str) -> list[int]:
        """Return a text's token ids; without a local vocabulary only their count is meaningful."""
        from piccc.tokens import token_ids

        return self.custom_get_token_ids(text) if self.custom_get_token_ids else token_ids(text)

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[ToolLike] | None = None
    ) -> int:
        """Return an estimate of a prompt's token count, including its tools and images."""
        from piccc.tokens import count_tokens

        return count_tokens(to_messages(messages), to_tools(tools))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._model_errors():
            request = self._request(messages, stop, kwargs)
            timeout, chat = kwargs.get("timeout"), self._chat(request)
            return _result(chat.send(request, timeout, is_traced=_is_traced()))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._model_errors():
            request = await self._arequest(messages, stop, kwargs)
            timeout, chat = kwargs.get("timeout"), self._achat(request)
            return _result(await chat.send(request, timeout, is_traced=_is_traced()))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        return self._stream_reply(ChunkWriter(_message_id(run_manager)), messages, stop, kwargs)

    def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        return self._astream_reply(ChunkWriter(_message_id(run_manager)), messages, stop, kwargs)

    def _stream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[MessagesData]:
        return self._stream_reply(EventWriter(_message_id(run_manager)), messages, stop, kwargs)

    def _astream_chat_model_events(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[MessagesData]:
        return self._astream_reply(EventWriter(_message_id(run_manager)), messages, stop, kwargs)

    def _stream_reply(
        self, writer: Writer[T], messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> Iterator[T]:
        with self._model_errors():
            request = self._request(messages, stop, options)
            timeout, chat = options.get("timeout"), self._chat(request)
            with chat.open(request, timeout, is_traced=_is_traced()) as stream:
                yield from writer.start(request.model)
                for batch in stream.batches():
                    for deltas in self._groups(batch):
                        yield from writer.write(deltas)
                yield from writer.finish(stream.reply)

    async def _astream_reply(
        self, writer: Writer[T], messages: list[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> AsyncIterator[T]:
        with self._model_errors():
            request = await self._arequest(messages, stop, options)
            timeout, chat = options.get("timeout"), self._achat(request)
            async with await chat.open(request, timeout, is_traced=_is_traced()) as stream:
                for item in writer.start(request.model):
                    yield item
                async for batch in stream.batches():
                    for deltas in self._groups(batch):
                        for item in writer.write(deltas):
                            yield item
                for item in writer.finish(stream.reply):
                    yield item

    def _request(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> ChatRequest:
        if shows_images(messages):
            from langchain_piccc.shown_images import with_images
            from piccc.media.agent_tools import run_sync_tool

            messages = run_sync_tool(with_images(self._sync_client(self.dialect), messages))
        return to_request(self, messages, stop, options)

    async def _arequest(
        self, messages: Sequence[BaseMessage], stop: list[str] | None, options: dict[str, Any]
    ) -> ChatRequest:
        if shows_images(messages):
            from langchain_piccc.shown_images import with_images

            messages = await with_images(self._async_client(self.dialect), messages)
        return to_request(self, messages, stop, options)

    def _chat(self, request: ChatRequest) -> Chat:
        return self._sync_client(to_dialect(self.dialect, request)).chat

    def _achat(self, request: ChatRequest) -> AsyncChat:
        return self._async_client(to_dialect(self.dialect, request)).chat

    def _groups(self, batch: list[Delta]) -> Sequence[Sequence[Delta]]:
        return [coalesce(batch)] if self.coalesce else [[delta] for delta in batch]

    def _model_errors(self) -> AbstractContextManager[None]:
        return as_model_errors()


def _is_traced() -> bool:
    """Return whether OpenInference traces LangChain.

    Its spans are created in callbacks and never become the current span, so the client cannot see them.
    """
    module = sys.modules.get("openinference.instrumentation.langchain")
    return module is not None and bool(module.LangChainInstrumentor().is_instrumented_by_opentelemetry)


def _result(reply: ChatReply) -> ChatResult:
    message = to_message(reply)
    usage = message.usage_metadata
    output = {
        "token_usage": {name: count for name, count in (usage or {}).items() if isinstance(count, int)},
        "model_name": reply.model,
    }
    return ChatResult(generations=[ChatGeneration(message=message)], llm_output=output)


def _message_id(run_manager: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> str:
    return f"{LC_ID_PREFIX}-{run_manager.run_id}" if run_manager else ""
