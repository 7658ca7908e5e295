"""`Piccc`, the LlamaIndex LLM."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from llama_index.core.bridge.pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    field_serializer,
    field_validator,
)
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import FieldSerializationInfo, ValidationError

from llama_index_piccc.convert import (
    INVALID_CALLS,
    DialectName,
    GrowingReply,
    NoToolCallError,
    OnUnsupported,
    as_tool,
    chat_request,
    only_first_call,
    selections,
    to_completion,
    to_last_response,
    to_messages,
    to_response,
    tool_json,
    with_user_message,
)
from llama_index_piccc.skip_callbacks import chat_callback, completion_callback
from llama_index_piccc.structured import PredictingLLM
from piccc.client import AnyClient, AsyncClient, Client, ClientCache, is_traced
from piccc.config import (
    KEY_VARIABLE,
    URL_VARIABLE,
    Config,
    Timeout,
    is_secret_header,
    redact,
    redact_headers,
    resolve,
    split_url,
)
from piccc.conversation import ChatRequest, Delta, Message, model_info
from piccc.errors import ConfigurationError
from piccc.options import check_options, with_our_names, wrong_settings


def public(name: str, value: Any) -> Any:
    """Return a setting without secrets in URLs or headers."""
    if not value:
        return value
    match name:
        case "base_url":
            with suppress(ConfigurationError):
                return split_url(value)[0]
            return redact(value)
        case "default_headers":
            return redact_headers(value)
        case "additional_kwargs" if value.get("extra_headers"):
            headers = {
                name: header for name, header in value["extra_headers"].items() if not is_secret_header(name)
            }
            return {**value, "extra_headers": headers}
    return value


ApiKey = str | SecretStr | Callable[[], str] | Callable[[], Awaitable[str]]

_CALL_FIELDS = ("model", "temperature", "top_p", "max_tokens", "stop", "seed", "reasoning_effort")
_CONNECTION = (
    "api_key",
    "base_url",
    "timeout",
    "max_retries",
    "auth",
    "retry_unknown",
    "max_connections",
)
_SHARED = ("api_key", "callback_manager", "http_async_client", "http_client", "rate_limiter")


class Piccc(PredictingLLM):
    """LlamaIndex LLM for Piccc AI, over either chat dialect.

    Setup:
        `pip install "piccc[llama-index]"`. Set the key with `api_key=` or `PICCC_API_KEY`, and the server
        with `base_url=` or `PICCC_BASE_URL`.

    Settings left out are up to the server. Every call also accepts `timeout` and the request's settings as
    keywords. Unknown keywords go into the request body unchanged, unless they look like a misspelt setting.
    The constructor also accepts the names used by other LLMs: `model_name`, `piccc_api_key`,
    `request_timeout`, `stop_sequences` and `max_completion_tokens`.

    Raises:
        ConfigurationError: a malformed URL, timeout or number of retries. A missing key raises at the first
            call, not here.

    Examples:
        >>> from llama_index_piccc import Piccc
        >>> llm = Piccc("piccc-pro", temperature=0.2, max_tokens=500, timeout=60)
        >>> llm.complete("Write a launch caption for a ceramic mug.").text
        'Meet the ceramic mug: made with care, ready for every day.'

        Chat:

        >>> from llama_index.core.llms import ChatMessage
        >>> llm.chat([ChatMessage("Write a launch caption for a ceramic mug.")]).message.content
        'Meet the ceramic mug: made with care, ready for every day.'

        Stream:

        >>> for piece in llm.stream_complete("Write a launch caption for a ceramic mug."):
        ...     print(piece.delta, end="")
        Meet the ceramic mug: made with care, ready for every day.

        Async:

        >>> import asyncio
        >>> asyncio.run(llm.acomplete("Write a launch caption for a ceramic mug.")).text
        'Meet the ceramic mug: made with care, ready for every day.'

        Tool calling:

        >>> from llama_index.core.tools import FunctionTool
        >>> def weather(city: str) -> str:
        ...     "Return the weather of a city."
        >>> tools = [FunctionTool.from_defaults(weather)]
        >>> response = llm.chat_with_tools(tools, "What is the weather in Oslo?")
        >>> llm.get_tool_calls_from_response(response)[0].tool_kwargs
        {'city': 'Oslo'}

        Structured output:

        >>> from pydantic import BaseModel
        >>> class Person(BaseModel):
        ...     name: str
        ...     age: int
        >>> llm.as_structured_llm(Person).complete("Anna is 31 years old.").raw
        Person(name='Anna', age=31)
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, defer_build=False, extra="forbid", hide_input_in_errors=True
    )

    api_key: ApiKey | None = Field(
        default=None,
        exclude=True,
        repr=False,
        description="The API key, or a function that returns it; never serialized, pickled or shown.",
    )
    base_url: str | None = Field(default=None, description="The server's base URL, with or without /v1.")
    dialect: DialectName = Field(
        default="openai", description="Which of the two chat routes to use: `openai` or `anthropic`."
    )
    temperature: float | None = Field(default=None, description="Sampling temperature.")
    top_p: float | None = Field(
        default=None, description="Nucleus sampling: the probability mass to sample from, 0 to 1."
    )
    max_tokens: int | None = Field(default=None, gt=0, description="Maximum number of tokens in a reply.")
    stop: str | list[str] | None = Field(default=None, description="Stop sequences.")
    seed: int | None = Field(
        default=None, description="Seed for repeatable sampling, if the server supports it."
    )
    timeout: float | Timeout | None = Field(
        default=None, description="Seconds for a whole call, including retries and streaming; or a Timeout."
    )
    max_retries: int = Field(default=2, description="Maximum number of retries of a request.")
    reasoning_effort: str | None = Field(
        default=None, description="Reasoning effort, such as `low` or `high`."
    )
    replay_reasoning: bool | None = Field(
        default=None,
        description="Whether to send earlier reasoning back; None sends signed reasoning only.",
    )
    on_unsupported: OnUnsupported = Field(
        default="error",
        description="What to do with content that the dialect does not support: raise an error (`error`), "
        "send its name (`text`), or drop it (`drop`). In tool results, `error` also sends its name.",
    )
    retry_invalid_calls: bool = Field(
        default=False,
        description="Whether to ask the model again, once, if all its tool calls are truncated or not JSON.",
    )
    context_window: int | None = Field(
        default=None, gt=0, description="Maximum tokens in prompt and reply; None uses an assumed value."
    )
    additional_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments for every call."
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="Fields merged into every request body."
    )
    default_headers: dict[str, str] = Field(default_factory=dict, description="Headers for every request.")
    coalesce: bool = Field(
        default=True,
        description="Whether events that arrive in one read become one response; False yields one per event.",
    )
    skip_callbacks: bool = Field(
        default=True, description="Whether to skip core's callbacks when no handler is listening."
    )
    auth: Literal["bearer", "x-api-key"] = Field(
        default="bearer", description="The header that carries the key."
    )
    retry_unknown: bool = Field(
        default=False,
        description="Whether to retry requests that the server may have acted on; this may bill twice.",
    )
    max_connections: int = Field(
        default=1000, ge=1, description="Maximum number of connections to the server in use at once."
    )
    http_client: Any = Field(
        default=None, exclude=True, repr=False, description="An httpx.Client for blocking calls."
    )
    http_async_client: Any = Field(
        default=None, exclude=True, repr=False, description="An httpx.AsyncClient for async calls."
    )

    @field_validator("api_key")
    @classmethod
    def _hide(cls, value: ApiKey | None) -> ApiKey | None:
        return SecretStr(value) if isinstance(value, str) else value

    @field_serializer("base_url", "default_headers", "additional_kwargs")
    def _save(self, value: Any, info: FieldSerializationInfo) -> Any:
        return public(info.field_name, value)

    _clients: ClientCache = PrivateAttr(default_factory=ClientCache)

    if not TYPE_CHECKING:  # type checkers read the fields for the signature

        def __init__(self, model=..., **data):
            try:
                super().__init__(**with_our_names(data if model is ... else {"model": model, **data}))
                self._config()
            except ValidationError as error:
                wrong = wrong_settings("Piccc", error, type(self).model_fields.keys())
            except ConfigurationError as error:
                wrong = error.with_traceback(None)
            else:
                return
            del self, data  # error trackers show a frame's locals, and the key may be among these
            raise wrong  # outside the handler: its context would show the given values

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Yield the fields that were set, without secrets."""
        fields = type(self).model_fields
        for name, value in super().__repr_args__():
            if name in self.model_fields_set and not fields[name].exclude:
                yield name, public(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        kept = {name: public(name, value) for name, value in state["__dict__"].items() if name != "api_key"}
        return {**state, "__dict__": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["__dict__"])  # type: ignore[misc]  # read the key from the environment again

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        shared = {id(value): value for name in _SHARED if (value := getattr(self, name)) is not None}
        return super().__deepcopy__({**(memo or {}), **shared})

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this class in serialized components."""
        return "piccc_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """The model's limits and capabilities; assumed, unless `context_window` is set."""
        info = model_info(self.model)
        return LLMMetadata(
            context_window=self.context_window or info.context_window,
            num_output=self.max_tokens or -1,
            is_chat_model=True,
            is_function_calling_model=info.tools,
            model_name=self.model,
        )

    @property
    def server(self) -> tuple[str | None, ...]:
        """The server and dialect, as a key for what we learn about them."""
        return self.base_url, self.dialect

    def to_payload(self) -> dict[str, Any]:
        """Return the settings to show in traces and callbacks, without secrets."""
        shown = {name: getattr(self, name) for name in ("model", "temperature", "max_tokens", "dialect")}
        return {**super().to_payload(), **shown}

    @chat_callback
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the reply to a conversation."""
        return to_response(self._client().chat.send(*self._prepare(messages, kwargs)))

    @chat_callback
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the reply to a conversation."""
        return to_response(await self._async_client().chat.send(*self._prepare(messages, kwargs)))

    @chat_callback
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Stream the reply; every response has everything received so far."""
        return self._stream(*self._prepare(messages, kwargs), is_traced=is_traced())

    @chat_callback
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Stream the reply; every response has everything received so far."""
        return self._astream(*self._prepare(messages, kwargs), is_traced=is_traced())

    @completion_callback
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the completion of a prompt."""
        prepared = self._prepare(self._prompt(prompt, formatted), kwargs)
        return to_completion(to_response(self._client().chat.send(*prepared)))

    @completion_callback
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the completion of a prompt."""
        prepared = self._prepare(self._prompt(prompt, formatted), kwargs)
        return to_completion(to_response(await self._async_client().chat.send(*prepared)))

    @completion_callback
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Stream the completion of a prompt."""
        prepared = self._prepare(self._prompt(prompt, formatted), kwargs)
        stream = self._stream(*prepared, is_traced=is_traced())
        return (to_completion(response) for response in stream)

    @completion_callback
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Stream the completion of a prompt."""
        prepared = self._prepare(self._prompt(prompt, formatted), kwargs)
        stream = self._astream(*prepared, is_traced=is_traced())
        return (to_completion(response) async for response in stream)

    def count_tokens(
        self, messages: Sequence[ChatMessage], tools: Sequence[BaseTool | dict[str, Any]] = ()
    ) -> int:
        """Return an estimate of a conversation's prompt tokens; nothing is sent or downloaded.

        The provider documents no tokenizer; `piccc.tokens` describes the estimate.

        Args:
            messages: the conversation.
            tools: the tools sent with it.
        """
        from piccc.tokens import count_tokens

        return count_tokens(self._messages(messages), [as_tool(tool) for tool in tools])

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """Return the tool calls in a complete or partial response; raise NoToolCallError if there are none.

        Calls that are truncated or not JSON are left out, so that no tool runs on them; they are in the
        message's `additional_kwargs["invalid_tool_calls"]`.
        """
        calls = selections(response)
        if not calls and error_on_no_tool_call:
            raise NoToolCallError.of(response)
        return calls

    def chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponse:
        """Return the reply to a conversation, with tools available."""
        response = super().chat_with_tools(tools, user_msg, chat_history, *args, **kwargs)
        if self._should_ask_again(response):
            history = [*with_user_message(chat_history, user_msg), response.message]
            response = super().chat_with_tools(tools, None, history, *args, **kwargs)
        return response

    async def achat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponse:
        """Return the reply to a conversation, with tools available."""
        response = await super().achat_with_tools(tools, user_msg, chat_history, *args, **kwargs)
        if self._should_ask_again(response):
            history = [*with_user_message(chat_history, user_msg), response.message]
            response = await super().achat_with_tools(tools, None, history, *args, **kwargs)
        return response

    def stream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponseGen:
        """Stream the reply to a conversation, with tools available."""
        call = super().stream_chat_with_tools
        stream = call(tools, user_msg, chat_history, *args, **kwargs)

        def with_second_answer() -> ChatResponseGen:
            response = None
            for response in stream:
                yield response
            if response is not None and self._should_ask_again(response):
                history = [*with_user_message(chat_history, user_msg), response.message]
                yield from call(tools, None, history, *args, **kwargs)

        return with_second_answer()

    async def astream_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ChatResponseAsyncGen:
        """Stream the reply to a conversation, with tools available."""
        call = super().astream_chat_with_tools
        stream = await call(tools, user_msg, chat_history, *args, **kwargs)

        async def with_second_answer() -> ChatResponseAsyncGen:
            response = None
            async for response in stream:
                yield response
            if response is not None and self._should_ask_again(response):
                history = [*with_user_message(chat_history, user_msg), response.message]
                async for response in await call(tools, None, history, *args, **kwargs):
                    yield response

        return with_second_answer()

    def _should_ask_again(self, response: ChatResponse) -> bool:
        """Return whether to ask again: retrying is on and all calls in the response are invalid."""
        invalid = response.message.additional_kwargs.get(INVALID_CALLS)
        return self.retry_invalid_calls and bool(invalid) and not selections(response)

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        choice = kwargs.pop("tool_choice", None)
        if choice is None:
            choice = "required" if tool_required else "auto"
        return {
            "messages": with_user_message(chat_history, user_msg),
            "tools": [tool_json(tool) for tool in tools],
            "tool_choice": choice,
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        return response if allow_parallel_tool_calls else only_first_call(response)

    def _prepare(
        self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]
    ) -> tuple[ChatRequest, float | Timeout | None]:
        own = {name: getattr(self, name) for name in (*_CALL_FIELDS, "replay_reasoning")}
        options = {**own, **self.additional_kwargs, **kwargs}
        if options["model"] is None:
            options["model"] = self.model
        options.pop("stream", None)  # as in LangChain, the method decides
        timeout = options.pop("timeout", None)
        try:
            options["extra_body"] = {**self.extra_body, **(options.get("extra_body") or {})}
            return chat_request(self._messages(messages), options), timeout
        except TypeError:
            check_options(options)  # only now, to keep it off the path of every call
            raise

    def _messages(self, messages: Sequence[ChatMessage]) -> list[Message]:
        return to_messages(messages, self.dialect, self.on_unsupported)

    def _stream(
        self, request: ChatRequest, timeout: float | Timeout | None, *, is_traced: bool
    ) -> Generator[ChatResponse]:
        with self._client().chat.open(request, timeout, is_traced=is_traced) as stream:
            growing = GrowingReply()
            for batch in stream.batches():
                for deltas in self._groups(batch):
                    yield growing.add(deltas)
            yield to_last_response(stream.reply)

    async def _astream(
        self, request: ChatRequest, timeout: float | Timeout | None, *, is_traced: bool
    ) -> AsyncGenerator[ChatResponse]:
        async with await self._async_client().chat.open(request, timeout, is_traced=is_traced) as stream:
            growing = GrowingReply()
            async for batch in stream.batches():
                for deltas in self._groups(batch):
                    yield growing.add(deltas)
            yield to_last_response(stream.reply)

    def _groups(self, batch: list[Delta]) -> Sequence[Sequence[Delta]]:
        return [batch] if self.coalesce else [[delta] for delta in batch]

    def _config(self) -> Config:
        return resolve(**self._connection())

    def _connection(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _CONNECTION} | {
            "default_headers": dict(self.default_headers)
        }

    def _client(self) -> Client:
        return self._cached(Client, self.http_client)

    def _async_client(self) -> AsyncClient:
        return self._cached(AsyncClient, self.http_async_client)

    def _cached(self, kind: type[AnyClient], http_client: Any) -> AnyClient:
        environment = os.environ.get(KEY_VARIABLE), os.environ.get(URL_VARIABLE)
        settings = (self._connection(), environment)
        return self._clients.get(kind, self.dialect, http_client, settings, self._config)
