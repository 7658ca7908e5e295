"""`Client` and `AsyncClient`, for notebooks and programs."""

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
from piccc.config import ApiKey, Config, Rate, Timeout, resolve
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
from piccc.options import describe_unknown

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
    """What a chat call may ask for; what is left out is left to the server.

    Documented are `model`, the messages, and Anthropic's `max_tokens`; the rest is as either dialect's own
    API has it (assumed).

    Attributes:
        model: the model's name; `piccc-pro` by default.
        system: instructions that go before the messages.
        tools: the tools on offer.
        tool_choice: `auto`, `none`, `required`, or a `NamedTool`.
        parallel_tool_calls: whether one reply may call several tools.
        response_format: a `JSONSchema`, a pydantic class or another schema that the answer must satisfy, or
            `json` for any JSON.
        temperature: how freely to choose words.
        top_p: how much of the likely words to choose from, 0 to 1.
        max_tokens: how many tokens the answer may have.
        stop: a text, or texts, at which the answer ends.
        seed: a number that makes answers repeatable, where the server can.
        reasoning_effort: how much to think first, such as `low` or `high`.
        replay_reasoning: send earlier reasoning back; None only what is signed, to the dialect that signs.
        extra_body: fields that are merged over the body last.
        extra_headers: headers of this call alone.
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
    """How a client is set up; `Client` says what each option means."""

    config: Config | None
    dialect: DialectName
    polling: Polling | None
    ledger: str | os.PathLike[str] | Ledger | None
    spend_limit: SpendLimit | None
    rate: str | RateLimit | None
    private_outputs: bool


def chat_request(messages: Messages, options: ChatOptions) -> ChatRequest:
    """Make a request from a prompt, a message, or a list of messages or of role/content mappings.

    Raise InvalidArgumentError for what is none of these, and for an unknown option.
    """
    if unknown := options.keys() - ChatOptions.__annotations__.keys():
        raise InvalidArgumentError(
            f"Unknown options: {describe_unknown(unknown, ChatOptions.__annotations__)}.",
            hint="What the API knows beyond the named options goes into extra_body=.",
        )
    rest: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in rest.keys() & _SHAPES.keys():
        kind, content, said = _SHAPES[name]
        is_right = isinstance(rest[name], kind)
        if not is_right or (content and not all(isinstance(each, content) for each in rest[name])):
            raise InvalidArgumentError(f"{name} is not {said}.", hint="Nothing was sent: correct it.")
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


_SHAPES: dict[str, tuple[Any, Any, str]] = {
    "model": (str, None, "a name"),
    "system": (str, None, "a text"),
    "stop": (Sequence, str, "a text or a list of texts"),
    "tools": (Sequence, Tool, "a list of piccc.Tool"),
    "tool_choice": (str | NamedTool, None, "'auto', 'none', 'required' or a NamedTool"),
    "extra_body": (Mapping, str, "a mapping of names to values"),
    "extra_headers": (Mapping, str, "a mapping of names to values"),
}
"""The type of an option and of what it holds, for those that are taken apart here."""


def as_messages(value: Any) -> list[Message]:
    """Read a prompt, messages, or role/content mappings; raise InvalidArgumentError for anything else."""
    if isinstance(value, str):
        return [Message("user", [Text(value)])]
    if isinstance(value, Message | Mapping) or not isinstance(value, Iterable):
        value = [value]
    messages = [_message(each) for each in value]
    if not messages:
        raise InvalidArgumentError("There is no message.", hint="Give a string or at least one message.")
    return messages


_MESSAGE_HINT = 'Give {"role": "user", "content": "text"}, or piccc.Message with parts for more than text.'
_PARTS_HINT = 'Parts are a list: Message("user", [Text("hi")]).'
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
        if value.role not in get_args(Role):
            raise InvalidArgumentError(
                f"A message has role {value.role!r}.", hint=f"A role is one of {', '.join(get_args(Role))}."
            )
        if not isinstance(value.parts, list | tuple):
            raise InvalidArgumentError(
                f"A message's parts is a {_kind(value.parts)}, not a list.", hint=_PARTS_HINT
            )
        if wrong := [each for each in value.parts if not isinstance(each, get_args(Part))]:
            raise InvalidArgumentError(f"A message has a part that is a {_kind(wrong[0])}.", hint=_PARTS_HINT)
        return value
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"A message is a {_kind(value)}.", hint=_MESSAGE_HINT)
    if unknown := value.keys() - _FIELDS:
        raise InvalidArgumentError(
            f"A message has {', '.join(sorted(map(str, unknown)))}.", hint=_MESSAGE_HINT
        )
    role, content = _ROLES.get(str(value.get("role"))), value.get("content")
    if role is None:
        raise InvalidArgumentError(f"A message has role {value.get('role')!r}.", hint=_MESSAGE_HINT)
    if not isinstance(content, str):
        raise InvalidArgumentError(f"A message has content that is a {_kind(content)}.", hint=_MESSAGE_HINT)
    return Message(role, [Text(content)], name=value.get("name"), tool_call_id=value.get("tool_call_id"))


def _kind(value: object) -> str:
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
    """Return whether a dialect can carry content of this kind."""
    request = ChatRequest(model="", messages=[Message("user", [part])])
    try:
        dialect_named(dialect).encode(request, stream=False)
    except UnsupportedContentError:
        return False
    return True


C = TypeVar("C", bound="_Client")


class _Resource:
    def __init__(self, session: Session) -> None:
        self._session = session


class Chat(_Resource):
    """Chat completions, whole and streamed: `client.chat`."""

    def __init__(self, session: Session, dialect: DialectName) -> None:
        super().__init__(session)
        self._dialect = dialect_named(dialect)

    def create(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the whole reply.

        Args:
            messages: a prompt, a `Message`, or a list of messages or of role/content mappings.
            timeout: seconds for the whole call, or a `Timeout`; by default the client's.
            options: what to ask for, as `ChatOptions` says.

        Raises:
            InvalidArgumentError: an unknown option, or messages that are none; nothing was sent.
            UnsupportedContentError: content that the dialect cannot carry; nothing was sent.
            PicccError: any other of `piccc.errors`.

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
        """Return the reply as it is written.

        Use it as a context manager; iterate over its `texts()`, or over it for reasoning and tool calls too.

        Args:
            messages: a prompt, a `Message`, or a list of messages or of role/content mappings.
            timeout: seconds for the whole call with its retries and the stream, or a `Timeout`.
            options: `create`'s options.

        Raises:
            StreamError: the stream ended wrongly; `partial` has what had arrived.
            PicccError: as of `create`.

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
        """Return the whole reply to a ready request.

        Args:
            request: the request.
            timeout: seconds for the whole call, or a `Timeout`; by default the client's.
            is_traced: instrumentation above has a span of this call, so that ours is left out.

        Raises:
            PicccError: as of `create`.
        """
        return run_sync(self._session.chat(self._dialect, request, timeout, is_traced=is_traced))

    def open(
        self, request: ChatRequest, timeout: float | Timeout | None = None, *, is_traced: bool = False
    ) -> ChatStream:
        """Return the stream for a ready request.

        Args:
            request: the request.
            timeout: seconds for the whole call with its retries and the stream, or a `Timeout`.
            is_traced: as of `send`.

        Raises:
            PicccError: as of `stream`.
        """
        opening = self._session.stream(self._dialect, request, timeout, is_traced=is_traced)
        return ChatStream(*run_sync(opening))


def is_traced() -> bool:
    """Return whether instrumentation above has a span of a chat call open here and now.

    Of a stream that a framework begins to read later: its span is current at the call, and not then.
    """
    observer = telemetry()
    return observer is not None and observer.is_traced("chat", "LLM")


class StreamOpening:
    """A stream that is to be opened: by `async with`, which closes it too, or by `await`."""

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


class AsyncChat(_Resource):
    """Chat completions, whole and streamed: `client.chat` of an `AsyncClient`."""

    def __init__(self, session: Session, dialect: DialectName) -> None:
        super().__init__(session)
        self._dialect = dialect_named(dialect)

    async def create(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the whole reply; arguments and errors as of `Chat.create`."""
        return await self.send(chat_request(messages, options), timeout)

    def stream(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> StreamOpening:
        """Return the reply as it is written; arguments and errors as of `Chat.stream`.

        Use it in `async with`, or await it and close the stream yourself; iterate over the stream's
        `texts()`, or over the stream.

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
        """Return the whole reply to a ready request; arguments and errors as of `Chat.send`."""
        return await self._session.chat(self._dialect, request, timeout, is_traced=is_traced)

    async def open(
        self, request: ChatRequest, timeout: float | Timeout | None = None, *, is_traced: bool = False
    ) -> AsyncChatStream:
        """Return the stream for a ready request; arguments and errors as of `Chat.open`."""
        opening = self._session.stream(self._dialect, request, timeout, is_traced=is_traced)
        return AsyncChatStream(*await opening)


class _Client:
    _session: Session
    _http_client: Any

    def __init__(
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
                f"{name} does not know {describe_unknown(unknown, known, ChatOptions.__annotations__)}.",
                hint=f"It knows {', '.join(sorted(known))}.",
            )
        if not isinstance(config, Config | None):
            raise ConfigurationError(f"config is a {_kind(config)}.", hint="Give a Config, or its settings.")
        if polling is not None and not hasattr(polling, "timeout"):
            raise ConfigurationError(f"polling is a {_kind(polling)}.", hint="Give a piccc.Polling.")
        self.config = config or resolve(**options)
        self.ledger = _ledger_at(ledger)
        if rate is not None:
            self.config = replace(self.config, rate=_rate_of(rate, self.config, self.ledger))
        self._dialect: DialectName = dialect
        self._media: dict[str, Any] = {
            "ledger": self.ledger,
            "polling": polling,
            "spend_limit": spend_limit,
            "private_outputs": private_outputs,
        }

    @cached_property
    def _account(self) -> Account:
        # Imported at the first image: chat alone need not wait for it.
        from piccc.media.account import Account

        made = Account(self._session, **self._media)
        account: Account = self.__dict__.setdefault("_account", made)  # another thread may have been first
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
        """Make a receiver of webhooks; pass it as `webhook=` to submissions.

        Args:
            secret: from which each submission's address is made; the same in all processes that receive.
            public_url: where the provider reaches the receiver, https.
            signing_secret: `whsec_…`, where deliveries are signed as Standard Webhooks does (assumed).
            on_task: is called with each task that has ended; where it raises, it is called again.
            forward_to: an address of your own that gets a delivery for each task that has ended.

        Raises:
            ConfigurationError: a secret is too short or malformed, or an address is.

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
        return f"{type(self).__name__}({self.config!r}, dialect={self._dialect!r})"

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
            f"ledger is a {_kind(place)}.", hint="Give a file's path, a URL, or a Ledger."
        )
    return place


def _rate_of(rate: str | RateLimit, config: Config, ledger: Ledger) -> Rate:
    if not isinstance(rate, str):
        return rate
    from piccc.media.rate import RateLimit

    key = ""
    if config.key.is_fixed:
        with suppress(ConfigurationError):  # a missing key is an error at the first call
            key = run_sync(config.key.ask())
    account = hashlib.sha256(f"{config.base_url} {key}".encode()).hexdigest()[:32]
    return RateLimit(rate, ledger=ledger, name=account)


def _rebuild(kind: type[C], config: Config, dialect: DialectName, options: Mapping[str, Any]) -> C:
    return kind(config=config, dialect=dialect, **options)


class Client(_Client):
    """Chat, images, videos and tasks of one Piccc server, for blocking code.

    Making one does no I/O. Connections are made when needed and shared by all clients of the process; it is
    safe to share between threads, to fork, to copy and to pickle (without its key).

    Args:
        api_key: the key, or a function that is called for it at each attempt; by default `PICCC_API_KEY`.
        base_url: the server's address, with or without `/v1`; by default `PICCC_BASE_URL`.
        timeout: seconds for a whole call with its retries and its stream, or a `Timeout`; 600 by default.
        max_retries: how many times more than once a request may be sent; 2 by default.
        default_headers: headers of every request to the server.
        auth: which documented header carries the key: `bearer` (recommended) or `x-api-key`.
        retry_unknown: send again even what the server may have acted on; it may be billed twice.
        max_connections: how many connections to the server may be in use at once; 1000 by default. A call
            beyond waits for one, within its timeout, and for no other server's.
        dialect: which of the two documented chat routes to speak: `openai` or `anthropic`.
        polling: how often to ask about tasks, a `Polling`.
        ledger: where submissions are remembered: a file's path, `redis://…`, `postgresql://…`, or a `Ledger`;
            by default `PICCC_LEDGER`, else in memory.
        spend_limit: how much may be ordered, a `SpendLimit`.
        rate: how often the server may be asked, such as `"600/minute"`, or a `RateLimit`; under a ledger in
            Redis or Postgres by all processes together.
        private_outputs: whether outputs may be fetched from addresses within private networks.
        http_client: an `httpx.Client` (or httpx2's) of yours. Its connections are its own: `max_connections`
            and what is said of idle connections do not hold for them, the timeout does.

    Attributes:
        chat: chat completions, a `Chat`.
        images, videos: image and video tasks, a `Media` each.
        tasks: the account's tasks, a `Tasks`.
        config: the settings, with the key hidden.
        ledger: where submissions are remembered, a `Ledger`.

    Raises:
        ConfigurationError: a malformed setting. A missing key is an error at the first call, not here.

    Examples:
        >>> from piccc import Client
        >>> with Client() as client:
        ...     print(client.chat.create("Write a launch caption for a ceramic mug.").text)
        Meet the ceramic mug: made with care, ready for every day.
    """

    def __init__(self, *, http_client: Any = None, **options: Unpack[ClientOptions]) -> None:
        super().__init__(**options)
        self._http_client = http_client
        self._session = Session(self.config, SyncBackend(http_client))
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
        """Load what the first call needs, such as the certificates; nothing is sent."""
        run_sync(self._session.io.warm_up(self.config.base_url))

    def close(self) -> None:
        """Close the connections."""
        run_sync(self._session.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncClient(_Client):
    """Chat, images, videos and tasks of one Piccc server, for asynchronous code.

    Making one does no I/O. Connections belong to the event loop that uses them, so one client serves any
    number of loops, one after the other or in several threads. It takes and raises what `Client` does; an
    `api_key` may be a coroutine function here, and `http_client` is an `httpx.AsyncClient` (or httpx2's).

    Attributes:
        chat: chat completions, an `AsyncChat`.
        images, videos: image and video tasks, an `AsyncMedia` each.
        tasks: the account's tasks, an `AsyncTasks`.
        config: the settings, with the key hidden.
        ledger: where submissions are remembered, a `Ledger`.

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
        super().__init__(**options)
        self._http_client = http_client
        self._session = Session(self.config, AsyncBackend(http_client))
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
        """Load what the first call needs, such as the certificates, in a thread; nothing is sent."""
        await self._session.io.warm_up(self.config.base_url)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()


AnyClient = TypeVar("AnyClient", Client, AsyncClient)


class ClientCache:
    """The clients that an adapter has made, one of each class and dialect, for the present settings.

    An adapter's settings may be changed between calls: the next call then makes a new client. A pickle or a
    copy is empty.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[type[Any], DialectName], tuple[Any, Any]] = {}

    def get(
        self,
        kind: type[AnyClient],
        dialect: DialectName,
        http_client: Any,
        settings: Any,
        config: Callable[[], Config],
    ) -> AnyClient:
        """Return the client of a class and dialect.

        Args:
            kind: `Client` or `AsyncClient`.
            dialect: the chat route to speak.
            http_client: the caller's own HTTP client, or None.
            settings: what `config` is made from; the known client is used while it is equal.
            config: resolves the settings; called where a client is made.
        """
        settings = (settings, http_client)
        known, client = self._made.get((kind, dialect), (None, None))
        if known != settings:
            client = kind(config=config(), dialect=dialect, http_client=http_client)
            self._made[kind, dialect] = (settings, client)
        return cast(AnyClient, client)

    def close(self) -> None:
        """Close the connections for blocking calls; they open again when needed."""
        for name, (_, client) in list(self._made.items()):
            if isinstance(client, Client):
                self._made.pop(name, None)
                client.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections; they open again when needed."""
        for name, (_, client) in list(self._made.items()):
            if isinstance(client, AsyncClient):
                self._made.pop(name, None)
                await client.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        return (ClientCache, ())
