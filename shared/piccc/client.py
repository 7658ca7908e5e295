"""The clients for notebooks and programs: `Client`, and `AsyncClient` with the same words, awaited."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from piccc.chat import ChatReply, ChatRequest, JSONSchema, Message, Tool, ToolChoice, as_messages
from piccc.config import ApiKey, Config, Timeout, resolve
from piccc.dialects import dialect as dialect_named
from piccc.dialects.names import DialectName
from piccc.media.download import MAX_OUTPUT_BYTES
from piccc.media.paging import Pages
from piccc.media.polling import Polling
from piccc.models import DEFAULT_MODEL
from piccc.session import Session
from piccc.tasks import Output, Task, TaskType
from piccc.transport.http import AsyncIO, BlockingIO
from piccc.transport.port import finish
from piccc.transport.stream import AsyncChatStream, ChatStream

Messages = str | Message | Iterable[Message | Mapping[str, Any]]
OnUpdate = Callable[[Task], object]
FilePath = str | os.PathLike[str]


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


class SubmitOptions(TypedDict, total=False):
    """What an image or video task may be told. Other keywords go into the request as they are.

    `aspect_ratio` is such as "16:9"; `resolution` is 1K, 2K or 4K for images and 480p, 720p or 1080p for
    videos; `webhook` is an HTTPS address; `key` names the submission, so that it can be found again.
    """

    model: str | None
    aspect_ratio: str | None
    resolution: str | None
    duration_seconds: float | None
    webhook: str | None
    key: str | None
    extra: Mapping[str, Any] | None


def chat_request(messages: Messages, options: ChatOptions) -> ChatRequest:
    """Make a request from a prompt, a message, or a list of messages or of role/content mappings."""
    rest: dict[str, Any] = {"model": DEFAULT_MODEL, **options}
    system, stop = rest.pop("system", None), rest.pop("stop", ())
    conversation = as_messages(messages)
    if system:
        conversation = [*as_messages([{"role": "system", "content": system}]), *conversation]
    return ChatRequest(
        messages=conversation, stop=[stop] if isinstance(stop, str) else list(stop or ()), **rest
    )


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


class _Media(_Resource):
    def __init__(self, session: Session, type: TaskType) -> None:
        super().__init__(session)
        self._type = type


class Media(_Media):
    """Image or video tasks."""

    def submit(self, prompt: str, **options: Unpack[SubmitOptions]) -> Task:
        """Submit a task and return at once.

        Raise InvalidArgumentError before anything is sent, SubmissionUnknown where no answer came.
        """
        return finish(self._session.submit(self._type, prompt, **options))

    def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        on_update: OnUpdate | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """Submit a task, wait for at most `timeout` seconds, and return it with its outputs."""
        task = self.submit(prompt, **options)
        return finish(self._session.wait(task, timeout=timeout, on_update=on_update))


class AsyncMedia(_Media):
    """Image or video tasks."""

    async def submit(self, prompt: str, **options: Unpack[SubmitOptions]) -> Task:
        """Submit a task and return at once.

        Raise InvalidArgumentError before anything is sent, SubmissionUnknown where no answer came.
        """
        return await self._session.submit(self._type, prompt, **options)

    async def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        on_update: OnUpdate | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Task:
        """Submit a task, wait for at most `timeout` seconds, and return it with its outputs."""
        task = await self.submit(prompt, **options)
        return await self._session.wait(task, timeout=timeout, on_update=on_update)


class Tasks(_Resource):
    """Tasks by id: read, wait, list, and save what they made."""

    def get(self, task: Task | str) -> Task:
        """Read a task."""
        return finish(self._session.get_task(task))

    def wait(
        self, task: Task | str, *, timeout: float | None = None, on_update: OnUpdate | None = None
    ) -> Task:
        """Wait for at most `timeout` seconds; return the task with its outputs or raise why it has none."""
        return finish(self._session.wait(task, timeout=timeout, on_update=on_update))

    def list(self, *, type: TaskType | None = None, status: str | None = None) -> Iterator[Task]:
        """Iterate over the account's tasks, newest first, page by page."""
        pages = Pages(type=type, status=status)
        while not pages.is_done:
            yield from finish(self._session.next_page(pages))

    def save(self, output: Output, path: FilePath, *, max_bytes: int = MAX_OUTPUT_BYTES) -> Path:
        """Write an output to a file that appears when it is whole; return its path."""
        return finish(self._session.save(output, path, max_bytes=max_bytes))


class AsyncTasks(_Resource):
    """Tasks by id: read, wait, list, and save what they made."""

    async def get(self, task: Task | str) -> Task:
        """Read a task."""
        return await self._session.get_task(task)

    async def wait(
        self, task: Task | str, *, timeout: float | None = None, on_update: OnUpdate | None = None
    ) -> Task:
        """Wait for at most `timeout` seconds; return the task with its outputs or raise why it has none."""
        return await self._session.wait(task, timeout=timeout, on_update=on_update)

    async def list(self, *, type: TaskType | None = None, status: str | None = None) -> AsyncIterator[Task]:
        """Iterate over the account's tasks, newest first, page by page."""
        pages = Pages(type=type, status=status)
        while not pages.is_done:
            for task in await self._session.next_page(pages):
                yield task

    async def save(self, output: Output, path: FilePath, *, max_bytes: int = MAX_OUTPUT_BYTES) -> Path:
        """Write an output to a file that appears when it is whole; return its path."""
        return await self._session.save(output, path, max_bytes=max_bytes)


class _Client:
    def __init__(
        self,
        *,
        config: Config | None = None,
        dialect: DialectName = "openai",
        polling: Polling | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        self.config = config or resolve(**options)
        self._dialect: DialectName = dialect
        self._polling = polling

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r}, dialect={self._dialect!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.config, self._dialect, self._polling))


def _rebuild(kind: type[_Client], config: Config, dialect: DialectName, polling: Polling | None) -> _Client:
    return kind(config=config, dialect=dialect, polling=polling)


class Client(_Client):
    """Chat, images, videos and tasks of one Piccc server, for blocking code.

    Making one does no I/O. Connections are made when needed and shared by all clients of the process; it is
    safe to share between threads, to fork, to copy and to pickle (without its key).
    """

    def __init__(self, *, http_client: Any = None, **options: Any) -> None:
        super().__init__(**options)
        session = Session(self.config, BlockingIO(http_client), self._polling)
        self._session = session
        self.chat = Chat(session, self._dialect)
        self.images = Media(session, "image")
        self.videos = Media(session, "video")
        self.tasks = Tasks(session)

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
        session = Session(self.config, AsyncIO(http_client), self._polling)
        self._session = session
        self.chat = AsyncChat(session, self._dialect)
        self.images = AsyncMedia(session, "image")
        self.videos = AsyncMedia(session, "video")
        self.tasks = AsyncTasks(session)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._session.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()
