"""The clients, `Client` and `AsyncClient`, and their chat resources."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, Unpack, cast, get_args

from piccc._dialects import DialectName, dialect_named
from piccc._http.backends import AsyncBackend, SyncBackend, run_sync
from piccc._http.chat_stream import AsyncChatStream, ChatStream
from piccc._http.session import Session, telemetry
from piccc.config import ApiKey, Config, Rate, Timeout, check_flags, resolve
from piccc.conversation import (
    DEFAULT_MODEL,
    ChatReply,
    ChatRequest,
    JSONSchema,
    Message,
    NamedTool,
    Part,
    Role,
    Text,
    Tool,
    ToolChoice,
)
from piccc.errors import ConfigurationError, InvalidArgumentError, UnsupportedContentError
from piccc.options import OPTION_TYPES, OptionTypes, check_options, describe_unknown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from piccc.media.account import Account
    from piccc.media.deliveries import OnTask
    from piccc.media.ledgers import Ledger
    from piccc.media.rate import RateLimit
    from piccc.media.requests import SpendLimit
    from piccc.media.resources import AsyncMedia, AsyncTasks, Media, Tasks
    from piccc.media.schedule import Polling
    from piccc.media.webhooks import Webhooks

Messages = str | Message | Iterable[Message | Mapping[str, Any]]


class ChatOptions(TypedDict, total=False):
    """The options of a chat call. The server decides those that are left out.

    Only `model`, the messages and Anthropic's `max_tokens` are documented; the rest is assumed to work as in
    the OpenAI and Anthropic APIs.

    Attributes:
        model: the model's name; `piccc-pro` by default.
        system: instructions that precede the messages.
        tools: the tools that the model may call.
        tool_choice: `auto`, `none`, `required`, or a `NamedTool`.
        parallel_tool_calls: whether one reply may call several tools.
        response_format: a `JSONSchema`, a pydantic class or another schema that the answer must satisfy, or
            `json` for any JSON.
        temperature: the sampling temperature.
        top_p: the cumulative probability for nucleus sampling, 0 to 1.
        max_tokens: the maximum number of tokens in the answer.
        stop: one or more strings at which generation stops.
        seed: makes answers reproducible if the server supports it.
        reasoning_effort: how much to reason first, such as `low` or `high`.
        replay_reasoning: whether to send earlier reasoning back; None sends only signed reasoning, and only
            in the Anthropic dialect.
        extra_body: fields merged into the body last; they override all others.
        extra_headers: headers for this call only.
    """

    model: str
    system: str | None
    tools: Sequence[Tool]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: JSONSchema | type[BaseModel] | Mapping[str, Any] | Literal["json"] | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: str | Sequence[str]
    seed: int | None
    reasoning_effort: str | None
    replay_reasoning: bool | None
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]


class _Settings(TypedDict, total=False):
    api_key: ApiKey | None
    base_url: str | None
    timeout: float | Timeout | None
    max_retries: int
    default_headers: Mapping[str, str] | None
    auth: Literal["bearer", "x-api-key"]
    retry_unknown: bool
    max_connections: int


class ClientOptions(_Settings, total=False):
    """The options of a client, as documented at `Client`."""

    config: Config | None
    dialect: DialectName
    polling: Polling | None
    ledger: str | os.PathLike[str] | Ledger | None
    spend_limit: SpendLimit | None
    rate: str | RateLimit | None
    private_outputs: bool


def chat_request(messages: Messages, options: ChatOptions) -> ChatRequest:
    """Build a request from a prompt, a message, or a list of messages or role/content mappings.

    Raise InvalidArgumentError for anything else and for unknown options.
    """
    if unknown := options.keys() - ChatOptions.__annotations__.keys():
        raise InvalidArgumentError(
            f"Unknown options: {describe_unknown(unknown, ChatOptions.__annotations__)}.",
            hint="Pass other API parameters in extra_body=.",
        )
    rest: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    check_options(rest, _OPTION_TYPES)
    system, stop = rest.pop("system", None), rest.pop("stop", ())
    conversation = as_messages(messages)
    if "response_format" in rest:
        rest["response_format"] = _response_format(rest["response_format"])
    if system:
        conversation = [Message("system", [Text(system)]), *conversation]
    return ChatRequest(
        messages=conversation,
        model=rest.pop("model", DEFAULT_MODEL),
        stop=[stop] if isinstance(stop, str) else list(stop),
        **rest,
    )


_OPTION_TYPES: OptionTypes = {
    **OPTION_TYPES,
    "system": (str, None, "a string"),
    "tools": (Sequence, Tool, "a list of piccc.Tool"),
    "tool_choice": (str | NamedTool, None, "'auto', 'none', 'required' or a NamedTool"),
}


def as_messages(value: Any) -> list[Message]:
    """Convert a prompt, messages or role/content mappings; raise InvalidArgumentError for anything else."""
    if isinstance(value, str):
        return [Message("user", [Text(value)])]
    if isinstance(value, Message | Mapping) or not isinstance(value, Iterable):
        value = [value]
    messages = [_message(each) for each in value]
    if not messages:
        raise InvalidArgumentError("There are no messages.", hint="Pass a string or at least one message.")
    return messages


_MESSAGE_HINT = 'Pass {"role": "user", "content": "text"}, or a piccc.Message for more than text.'
_PARTS_HINT = 'Pass the parts as a list: Message("user", [Text("hi")]).'
_ROLES: dict[str, Role] = {
    "developer": "system",
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_FIELDS = {"role", "content", "name", "tool_call_id"}


def _message(value: Any) -> Message:
    if isinstance(value, Message):
        if not isinstance(value.parts, list | tuple):
            raise InvalidArgumentError(
                f"A message's parts are of type {_type_name(value.parts)}, not a list.", hint=_PARTS_HINT
            )
        if wrong := [part for part in value.parts if not isinstance(part, get_args(Part))]:
            raise InvalidArgumentError(
                f"A message has a part of type {_type_name(wrong[0])}.", hint=_PARTS_HINT
            )
        return value
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"A message is of type {_type_name(value)}.", hint=_MESSAGE_HINT)
    if unknown := value.keys() - _FIELDS:
        raise InvalidArgumentError(
            f"A message has unknown fields: {', '.join(sorted(map(str, unknown)))}.", hint=_MESSAGE_HINT
        )
    role, content = _ROLES.get(str(value.get("role"))), value.get("content")
    if role is None:
        raise InvalidArgumentError(
            f"A message has the unknown role {value.get('role')!r}.", hint=_MESSAGE_HINT
        )
    if not isinstance(content, str):
        raise InvalidArgumentError(
            f"A message has content of type {_type_name(content)}.", hint=_MESSAGE_HINT
        )
    return Message(role, [Text(content)], name=value.get("name"), tool_call_id=value.get("tool_call_id"))


def _type_name(value: object) -> str:
    return type(value).__name__


def _response_format(given: Any) -> JSONSchema | Literal["json"]:
    from piccc.structured import OutputSchema  # pydantic is slow to import, and few calls need it

    if given == "json":
        return "json"
    if not isinstance(given, JSONSchema):
        return OutputSchema.of(given).response_format
    if isinstance(given.schema, Mapping):
        return given
    return replace(given, schema=OutputSchema.of(given.schema).schema)


def carries(dialect: DialectName, part: Part) -> bool:
    """Return whether a dialect supports this kind of content."""
    request = ChatRequest(model="", messages=[Message("user", [part])])
    try:
        dialect_named(dialect).encode(request, stream=False)
    except UnsupportedContentError:
        return False
    return True


C = TypeVar("C", bound="_Client")


class _Chat:
    def __init__(self, session: Session, dialect: DialectName) -> None:
        self._session = session
        self._dialect = dialect_named(dialect)


class Chat(_Chat):
    """Chat completions, complete or streamed: `client.chat`."""

    def create(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the complete reply.

        Args:
            messages: a prompt, a `Message`, or a list of messages or role/content mappings.
            timeout: seconds for the whole call, or a `Timeout`; by default the client's.
            options: those of `ChatOptions`.

        Raises:
            InvalidArgumentError: an option is unknown or the messages are invalid; nothing was sent.
            UnsupportedContentError: the dialect does not support some of the content; nothing was sent.
            PicccError: any other error of `piccc.errors`.

        Examples:
            >>> from piccc import Client
            >>> reply = Client().chat.create("Write a launch caption for a ceramic mug.", max_tokens=5)
            >>> reply.text, reply.finish_reason
            ('Meet the ceramic mug:', 'length')
        """
        return self.send(chat_request(messages, options), timeout)

    def stream(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatStream:
        """Return a stream of the reply.

        Use the stream as a context manager. Iterate over its `texts()`, or over the stream itself to get
        reasoning and tool calls too.

        Args:
            messages: a prompt, a `Message`, or a list of messages or role/content mappings.
            timeout: seconds for the whole call including retries and the stream, or a `Timeout`.
            options: those of `ChatOptions`.

        Raises:
            StreamError: the stream failed; `partial` has what was received.
            PicccError: as for `create`.

        Examples:
            >>> from piccc import Client
            >>> with Client().chat.stream("Say hello.") as stream:
            ...     print("".join(stream.texts()), stream.reply.finish_reason)
            hello. stop
        """
        return self.open(chat_request(messages, options), timeout)

    def send(
        self, request: ChatRequest, timeout: float | Timeout | None = None, *, is_traced: bool = False
    ) -> ChatReply:
        """Send a prepared request and return the complete reply.

        Args:
            request: the request.
            timeout: seconds for the whole call, or a `Timeout`; by default the client's.
            is_traced: whether a framework's instrumentation already has a span for this call; if so, no
                other is made.

        Raises:
            PicccError: as for `create`.
        """
        return run_sync(self._session.chat(self._dialect, request, timeout, is_traced=is_traced))

    def open(
        self, request: ChatRequest, timeout: float | Timeout | None = None, *, is_traced: bool = False
    ) -> ChatStream:
        """Send a prepared request and return a stream of the reply.

        Args:
            request: the request.
            timeout: seconds for the whole call including retries and the stream, or a `Timeout`.
            is_traced: as for `send`.

        Raises:
            PicccError: as for `stream`.
        """
        opening = self._session.stream(self._dialect, request, timeout, is_traced=is_traced)
        return ChatStream(*run_sync(opening))


def is_traced() -> bool:
    """Return whether a framework's instrumentation has a span for a chat call open in this context.

    If the framework reads a stream later, check when the call is made: its span is not current afterwards.
    """
    observer = telemetry()
    return observer is not None and observer.is_traced("chat", "LLM")


class StreamOpening:
    """A stream that is opened by `async with`, which also closes it, or by `await`."""

    def __init__(self, opening: Coroutine[Any, Any, AsyncChatStream]) -> None:
        self._opening = opening
        self._stream: AsyncChatStream | None = None

    def __await__(self) -> Generator[Any, None, AsyncChatStream]:
        return self._opening.__await__()

    async def __aenter__(self) -> AsyncChatStream:
        self._stream = await self._opening
        return self._stream

    async def __aexit__(self, *exception: object) -> None:
        if self._stream is not None:
            await self._stream.close()


class AsyncChat(_Chat):
    """Chat completions, complete or streamed: `client.chat` of an `AsyncClient`."""

    async def create(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the complete reply; arguments and errors as for `Chat.create`."""
        return await self.send(chat_request(messages, options), timeout)

    def stream(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> StreamOpening:
        """Return a stream of the reply; arguments and errors as for `Chat.stream`.

        Use it with `async with`, or await it and close the stream yourself. Iterate over the stream or its
        `texts()`.

        Examples:
            >>> import asyncio
            >>> from piccc import AsyncClient
            >>> async def main():
            ...     async with AsyncClient() as client, client.chat.stream("Say hello.") as stream:
            ...         return "".join([text async for text in stream.texts()])
            >>> asyncio.run(main())
            'hello.'
        """
        return StreamOpening(self.open(chat_request(messages, options), timeout))

    async def send(
        self, request: ChatRequest, timeout: float | Timeout | None = None, *, is_traced: bool = False
    ) -> ChatReply:
        """Send a prepared request and return the complete reply; arguments and errors as for `Chat.send`."""
        return await self._session.chat(self._dialect, request, timeout, is_traced=is_traced)

    async def open(
        self, request: ChatRequest, timeout: float | Timeout | None = None, *, is_traced: bool = False
    ) -> AsyncChatStream:
        """Send a prepared request and stream the reply; arguments and errors as for `Chat.open`."""
        opening = self._session.stream(self._dialect, request, timeout, is_traced=is_traced)
        return AsyncChatStream(*await opening)


class _Client:
    _session: Session
    _http_client: Any

    def __init__(
        self, io: type[SyncBackend] | type[AsyncBackend], http_client: Any, options: ClientOptions
    ) -> None:
        try:
            self._configure(**options)
            self._http_client = http_client
            self._session = Session(self.config, io(http_client))
        except ConfigurationError as error:
            # Error trackers show the locals of all frames, and the caller's frame has the same dict.
            cast("dict[str, Any]", options).clear()
            raise error.with_traceback(None) from None

    def _configure(
        self,
        *,
        config: Config | None = None,
        dialect: DialectName = "openai",
        polling: Polling | None = None,
        ledger: str | os.PathLike[str] | Ledger | None = None,
        spend_limit: SpendLimit | None = None,
        rate: str | RateLimit | None = None,
        private_outputs: bool = False,
        **options: Unpack[_Settings],
    ) -> None:
        if unknown := options.keys() - _Settings.__annotations__.keys():
            known = ClientOptions.__annotations__.keys() | {"http_client"}
            name = type(self).__name__
            raise ConfigurationError(
                f"Unknown {name} options: {describe_unknown(unknown, known, ChatOptions.__annotations__)}.",
                hint=f"Its options are {', '.join(sorted(known))}.",
            )
        if not isinstance(config, Config | None):
            raise ConfigurationError(
                f"config is of type {_type_name(config)}.", hint="Pass a Config, or its settings."
            )
        if polling is not None and not hasattr(polling, "timeout"):
            raise ConfigurationError(
                f"polling is of type {_type_name(polling)}.", hint="Pass a piccc.Polling."
            )
        if spend_limit is not None and not hasattr(spend_limit, "spend"):
            raise ConfigurationError(
                f"spend_limit is of type {_type_name(spend_limit)}.", hint="Pass a piccc.SpendLimit."
            )
        check_flags(ConfigurationError, private_outputs=private_outputs)
        self.config = config or resolve(**options)
        self.ledger = _ledger_at(ledger)
        if rate is not None:
            self.config = replace(self.config, rate=_rate_of(rate, self.config, self.ledger))
        dialect_named(dialect)  # raises if there is none
        self._dialect: DialectName = dialect
        self._media: dict[str, Any] = {
            "ledger": self.ledger,
            "polling": polling,
            "spend_limit": spend_limit,
            "private_outputs": private_outputs,
        }

    @cached_property
    def _account(self) -> Account:
        # Imported on first use: chat does not need it.
        from piccc.media.account import Account

        created = Account(self._session, **self._media)
        account: Account = self.__dict__.setdefault("_account", created)  # another thread may be first
        return account

    def webhooks(
        self,
        *,
        secret: str,
        public_url: str = "",
        signing_secret: str | None = None,
        on_task: OnTask | None = None,
        forward_to: str | None = None,
    ) -> Webhooks:
        """Return a webhook receiver, to pass as `webhook=` when submitting.

        Args:
            secret: derives each submission's webhook URL; must be the same in all receiving processes.
            public_url: the receiver's public https URL.
            signing_secret: `whsec_…`, if deliveries are signed as in Standard Webhooks (assumed).
            on_task: a callback for each task that has ended; if it raises, it is called again.
            forward_to: a URL of yours that gets a delivery for each task that has ended.

        Raises:
            ConfigurationError: a secret is too short or malformed, or a URL is malformed.

        Examples:
            >>> from piccc import Client
            >>> client = Client()
            >>> receiver = client.webhooks(secret="sixteen random characters or more")
            >>> with receiver.serve():
            ...     task = client.images.generate("A mug", model="piccc-image", webhook=receiver)
            >>> task.status
            'completed'
        """
        from piccc.media.webhooks import Webhooks

        return Webhooks(
            self._account,
            secret=secret,
            public_url=public_url,
            signing_secret=signing_secret,
            on_task=on_task,
            forward_to=forward_to,
        )

    def __repr__(self) -> str:
        # Error trackers show the locals of a constructor that failed, when not all attributes are set.
        config, dialect = getattr(self, "config", None), getattr(self, "_dialect", None)
        return f"{type(self).__name__}({config!r}, dialect={dialect!r})"

    def __copy__(self) -> Self:
        return _rebuild(
            type(self), self.config, self._dialect, {**self._media, "http_client": self._http_client}
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._media["spend_limit"] is not None:
            from piccc.media.requests import check_copy

            check_copy(self._media["spend_limit"], self.ledger)
        return (_rebuild, (type(self), self.config, self._dialect, self._media))


def _ledger_at(place: str | os.PathLike[str] | Ledger | None) -> Ledger:
    if place is None or isinstance(place, str | os.PathLike):
        from piccc.media.ledgers import ledger_at

        return ledger_at(place)
    if not hasattr(place, "claim"):
        raise ConfigurationError(
            f"ledger is of type {_type_name(place)}.", hint="Pass a file path, a URL, or a Ledger."
        )
    return place


def _rate_of(rate: str | RateLimit, config: Config, ledger: Ledger) -> Rate:
    if not isinstance(rate, str):
        if not hasattr(rate, "take"):
            raise ConfigurationError(
                f"rate is of type {_type_name(rate)}.",
                hint='Pass a rate such as "600/minute", or a RateLimit.',
            )
        return rate
    from piccc.media.rate import RateLimit

    key = ""
    if config.key.is_fixed:
        with suppress(ConfigurationError):  # the first call raises it if the key is missing
            key = run_sync(config.key.ask())
    account = hashlib.sha256(f"{config.base_url} {key}".encode()).hexdigest()[:32]
    return RateLimit(rate, ledger=ledger, name=account)


def _rebuild(kind: Callable[..., C], config: Config, dialect: DialectName, options: Mapping[str, Any]) -> C:
    return kind(config=config, dialect=dialect, **options)


class Client(_Client):
    """A blocking client for chat, images, videos and tasks on one Piccc server.

    Creating one does no I/O. Connections are opened as needed and shared by all clients in the process. It is
    thread-safe and fork-safe, and can be copied and pickled (without its key).

    Args:
        api_key: the key, or a function that returns it, called at each attempt; by default `PICCC_API_KEY`.
        base_url: the server's URL, with or without `/v1`; by default `PICCC_BASE_URL`.
        timeout: seconds for a whole call including retries and streaming, or a `Timeout`; 600 by default.
        max_retries: how many times a request may be retried; 2 by default.
        default_headers: headers sent with every request to the server.
        auth: which documented header carries the key: `bearer` (recommended) or `x-api-key`.
        retry_unknown: also retry requests that the server may have acted on; they may be billed twice.
        max_connections: how many connections to the server may be in use at once; 1000 by default. Further
            calls wait for one within their timeout; calls to other servers are not affected.
        dialect: which of the two documented chat routes to use: `openai` or `anthropic`.
        polling: how often to poll tasks, a `Polling`.
        ledger: where submissions are recorded: a file path, `redis://…`, `postgresql://…`, or a `Ledger`;
            by default `PICCC_LEDGER`, else in memory.
        spend_limit: how much may be spent on submissions, a `SpendLimit`.
        rate: the maximum request rate, such as `"600/minute"`, or a `RateLimit`; with a ledger in Redis or
            Postgres, all processes share it.
        private_outputs: whether outputs may be fetched from private network addresses.
        http_client: your own `httpx.Client` (or httpx2's). It manages its own connections: `max_connections`
            and the handling of idle connections do not apply to it, but timeouts do.

    Attributes:
        chat: chat completions, a `Chat`.
        images, videos: image and video tasks, each a `Media`.
        tasks: the account's tasks, a `Tasks`.
        config: the settings, with the key hidden.
        ledger: where submissions are recorded, a `Ledger`.

    Raises:
        ConfigurationError: a setting is malformed. A missing key raises at the first call, not here.

    Examples:
        >>> from piccc import Client
        >>> with Client() as client:
        ...     print(client.chat.create("Write a launch caption for a ceramic mug.").text)
        Meet the ceramic mug: made with care, ready for every day.
    """

    def __init__(self, *, http_client: Any = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__(SyncBackend, http_client, options)
        self.chat = Chat(self._session, self._dialect)

    @cached_property
    def images(self) -> Media:
        """Image tasks."""
        from piccc.media.resources import Media

        return Media(self._account, "image")

    @cached_property
    def videos(self) -> Media:
        """Video tasks."""
        from piccc.media.resources import Media

        return Media(self._account, "video")

    @cached_property
    def tasks(self) -> Tasks:
        """The account's tasks."""
        from piccc.media.resources import Tasks

        return Tasks(self._account)

    def as_async(self, *, http_client: Any = None) -> AsyncClient:
        """Return the asynchronous client with the same settings, ledger and spend limit.

        Args:
            http_client: an `httpx.AsyncClient` or `httpx2.AsyncClient` to send through.
        """
        return _rebuild(AsyncClient, self.config, self._dialect, {**self._media, "http_client": http_client})

    def warm_up(self) -> None:
        """Load what the first call needs, such as TLS certificates; nothing is sent."""
        run_sync(self._session.io.warm_up(self.config.base_url))

    def close(self) -> None:
        """Close the connections."""
        run_sync(self._session.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncClient(_Client):
    """An asynchronous client for chat, images, videos and tasks on one Piccc server.

    Creating one does no I/O. Connections belong to the event loop that uses them, so one client can serve
    several event loops, one after another or in several threads. Arguments and errors are those of `Client`,
    but `api_key` may be a coroutine function and `http_client` is an `httpx.AsyncClient` (or httpx2's).

    Attributes:
        chat: chat completions, an `AsyncChat`.
        images, videos: image and video tasks, each an `AsyncMedia`.
        tasks: the account's tasks, an `AsyncTasks`.
        config: the settings, with the key hidden.
        ledger: where submissions are recorded, a `Ledger`.

    Examples:
        >>> import asyncio
        >>> from piccc import AsyncClient
        >>> async def main():
        ...     async with AsyncClient() as client:
        ...         return await client.chat.create("Say hello.")
        >>> asyncio.run(main()).text
        'hello.'
    """

    def __init__(self, *, http_client: Any = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__(AsyncBackend, http_client, options)
        self.chat = AsyncChat(self._session, self._dialect)

    @cached_property
    def images(self) -> AsyncMedia:
        """Image tasks."""
        from piccc.media.resources import AsyncMedia

        return AsyncMedia(self._account, "image")

    @cached_property
    def videos(self) -> AsyncMedia:
        """Video tasks."""
        from piccc.media.resources import AsyncMedia

        return AsyncMedia(self._account, "video")

    @cached_property
    def tasks(self) -> AsyncTasks:
        """The account's tasks."""
        from piccc.media.resources import AsyncTasks

        return AsyncTasks(self._account)

    def as_sync(self, *, http_client: Any = None) -> Client:
        """Return the blocking client with the same settings, ledger and spend limit.

        Args:
            http_client: an `httpx.Client` or `httpx2.Client` to send through.
        """
        return _rebuild(Client, self.config, self._dialect, {**self._media, "http_client": http_client})

    async def warm_up(self) -> None:
        """Load what the first call needs, such as TLS certificates, in a thread; nothing is sent."""
        await self._session.io.warm_up(self.config.base_url)

    async def aclose(self) -> None:
        """Close the running event loop's connections."""
        await self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


AnyClient = TypeVar("AnyClient", Client, AsyncClient)


class ClientCache:
    """A framework adapter's clients, one for each class and dialect.

    If the adapter's settings change between calls, the next call creates a new client. A pickled or copied
    cache is empty.
    """

    def __init__(self) -> None:
        self._clients: dict[tuple[type[Any], DialectName], tuple[Any, Any]] = {}

    def get(
        self,
        kind: type[AnyClient],
        dialect: DialectName,
        http_client: Any,
        settings: Any,
        config: Callable[[], Config],
    ) -> AnyClient:
        """Return the client for a class and dialect, creating it if needed.

        Args:
            kind: `Client` or `AsyncClient`.
            dialect: the chat route to use.
            http_client: the caller's own HTTP client, or None.
            settings: what `config` is made from; the cached client is used as long as they are equal.
            config: resolves the settings when a client is created.
        """
        settings = (settings, http_client)
        cached, client = self._clients.get((kind, dialect), (None, None))
        if cached != settings:
            client = kind(config=config(), dialect=dialect, http_client=http_client)
            self._clients[kind, dialect] = (settings, client)
        return cast(AnyClient, client)

    def close(self) -> None:
        """Close the blocking clients' connections; they reopen when needed."""
        for name, (_, client) in list(self._clients.items()):
            if isinstance(client, Client):
                self._clients.pop(name, None)
                client.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections; they reopen when needed."""
        for name, (_, client) in list(self._clients.items()):
            if isinstance(client, AsyncClient):
                self._clients.pop(name, None)
                await client.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return (ClientCache, ())
