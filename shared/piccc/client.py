"""The clients for notebooks and programs: `Client`, and `AsyncClient` with the same words, awaited."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, TypeVar, Unpack

from piccc.chat import ChatReply, ChatRequest, JSONSchema, Message, Part, Text, Tool, ToolChoice, as_messages
from piccc.config import ApiKey, Config, Timeout, resolve
from piccc.dialects import dialect as dialect_named
from piccc.dialects.names import DialectName
from piccc.errors import InvalidArgumentError, UnsupportedContentError
from piccc.media.account import Account
from piccc.media.allowance import Allowance
from piccc.media.ledger import Ledger, MemoryLedger
from piccc.media.polling import Polling
from piccc.media.resources import AsyncMedia, AsyncTasks, Media, Tasks
from piccc.models import DEFAULT_MODEL
from piccc.session import Session
from piccc.transport.http import AsyncIO, BlockingIO
from piccc.transport.port import finish
from piccc.transport.stream import AsyncChatStream, ChatStream

if TYPE_CHECKING:
    from piccc.media.webhooks import OnTask, Webhooks

Messages = str | Message | Iterable[Message | Mapping[str, Any]]


class ChatOptions(TypedDict, total=False):
    """What a chat call may ask for; what is left out is left to the server."""

    model: str
    system: str | None
    tools: Sequence[Tool]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: JSONSchema | Literal["json"] | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: str | Sequence[str]
    seed: int | None
    reasoning_effort: str | None
    replay_reasoning: bool | None
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]


class ClientOptions(TypedDict, total=False):
    """How a client is set up; `piccc.config.Config` says what each means."""

    api_key: ApiKey | None
    base_url: str | None
    timeout: float | Timeout | None
    max_retries: int
    default_headers: Mapping[str, str] | None
    auth: Literal["bearer", "x-api-key"]
    retry_unknown: bool


def chat_request(messages: Messages, options: ChatOptions) -> ChatRequest:
    """Make a request from a prompt, a message, or a list of messages or of role/content mappings.

    Raise InvalidArgumentError for what is none of these, and for an unknown option.
    """
    if unknown := options.keys() - ChatOptions.__annotations__.keys():
        raise InvalidArgumentError(
            f"Unknown options: {', '.join(sorted(unknown))}.",
            hint="What the API knows beyond the named options goes into extra_body=.",
        )
    rest: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    system, stop = rest.pop("system", None), rest.pop("stop", ())
    conversation = as_messages(messages)
    if system:
        conversation = [Message("system", [Text(system)]), *conversation]
    return ChatRequest(
        messages=conversation,
        model=rest.pop("model", DEFAULT_MODEL),
        stop=[stop] if isinstance(stop, str) else list(stop),
        **rest,
    )


def carries(dialect: DialectName, part: Part) -> bool:
    """Tell whether a dialect can carry content of this kind."""
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
    """Chat completions, whole and streamed."""

    def __init__(self, session: Session, dialect: DialectName) -> None:
        super().__init__(session)
        self._dialect = dialect_named(dialect)

    def create(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the whole reply. `timeout` bounds the call in seconds."""
        return self.send(chat_request(messages, options), timeout)

    def stream(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatStream:
        """Return the reply as it is written; use it as a context manager or iterate over it."""
        return self.open(chat_request(messages, options), timeout)

    def send(self, request: ChatRequest, timeout: float | Timeout | None = None) -> ChatReply:
        """Return the whole reply to a ready request."""
        return finish(self._session.chat(self._dialect, request, timeout))

    def open(self, request: ChatRequest, timeout: float | Timeout | None = None) -> ChatStream:
        """Return the stream for a ready request."""
        return ChatStream(*finish(self._session.stream(self._dialect, request, timeout)))


class AsyncChat(_Resource):
    """Chat completions, whole and streamed."""

    def __init__(self, session: Session, dialect: DialectName) -> None:
        super().__init__(session)
        self._dialect = dialect_named(dialect)

    async def create(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> ChatReply:
        """Return the whole reply. `timeout` bounds the call in seconds."""
        return await self.send(chat_request(messages, options), timeout)

    async def stream(
        self, messages: Messages, *, timeout: float | Timeout | None = None, **options: Unpack[ChatOptions]
    ) -> AsyncChatStream:
        """Return the reply as it is written; use it as a context manager or iterate over it."""
        return await self.open(chat_request(messages, options), timeout)

    async def send(self, request: ChatRequest, timeout: float | Timeout | None = None) -> ChatReply:
        """Return the whole reply to a ready request."""
        return await self._session.chat(self._dialect, request, timeout)

    async def open(self, request: ChatRequest, timeout: float | Timeout | None = None) -> AsyncChatStream:
        """Return the stream for a ready request."""
        return AsyncChatStream(*await self._session.stream(self._dialect, request, timeout))


class _Client:
    _account: Account
    _http_client: Any

    def __init__(
        self,
        *,
        config: Config | None = None,
        dialect: DialectName = "openai",
        polling: Polling | None = None,
        ledger: str | os.PathLike[str] | Ledger | None = None,
        allowance: Allowance | None = None,
        private_outputs: bool = False,
        **options: Unpack[ClientOptions],
    ) -> None:
        self.config = config or resolve(**options)
        self.ledger = _ledger_at(ledger)
        self._dialect: DialectName = dialect
        self._media: dict[str, Any] = {
            "ledger": self.ledger,
            "polling": polling,
            "allowance": allowance,
            "private_outputs": private_outputs,
        }

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
            on_task: is called once for each task that has ended.
            forward_to: an address of your own that gets a delivery for each task that has ended.
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
        return (_rebuild, (type(self), self.config, self._dialect, self._media))


def _ledger_at(place: str | os.PathLike[str] | Ledger | None) -> Ledger:
    if place is None:
        return MemoryLedger()
    if not isinstance(place, str | os.PathLike):
        return place
    from piccc.media.sqlite_ledger import SQLiteLedger

    return SQLiteLedger(place)


def _rebuild(kind: type[C], config: Config, dialect: DialectName, options: Mapping[str, Any]) -> C:
    return kind(config=config, dialect=dialect, **options)


class Client(_Client):
    """Chat, images, videos and tasks of one Piccc server, for blocking code.

    Making one does no I/O. Connections are made when needed and shared by all clients of the process; it is
    safe to share between threads, to fork, to copy and to pickle (without its key).
    """

    def __init__(self, *, http_client: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self._http_client = http_client
        session = Session(self.config, BlockingIO(http_client))
        self._session = session
        self.chat = Chat(session, self._dialect)
        account = self._account = Account(session, **self._media)
        self.images = Media(account, "image")
        self.videos = Media(account, "video")
        self.tasks = Tasks(account)

    def as_async(self, *, http_client: Any = None) -> AsyncClient:
        """Return the asynchronous client with the same settings, ledger and allowance."""
        return _rebuild(AsyncClient, self.config, self._dialect, {**self._media, "http_client": http_client})

    def close(self) -> None:
        """Close the connections."""
        finish(self._session.close())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncClient(_Client):
    """Chat, images, videos and tasks of one Piccc server, for asynchronous code.

    Making one does no I/O. Connections belong to the event loop that uses them, so one client serves any
    number of loops, one after the other or in several threads.
    """

    def __init__(self, *, http_client: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self._http_client = http_client
        session = Session(self.config, AsyncIO(http_client))
        self._session = session
        self.chat = AsyncChat(session, self._dialect)
        account = self._account = Account(session, **self._media)
        self.images = AsyncMedia(account, "image")
        self.videos = AsyncMedia(account, "video")
        self.tasks = AsyncTasks(account)

    def as_blocking(self, *, http_client: Any = None) -> Client:
        """Return the blocking client with the same settings, ledger and allowance."""
        return _rebuild(Client, self.config, self._dialect, {**self._media, "http_client": http_client})

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
