"""The media tools of both frameworks: arguments, one run of a tool, and the text for the model."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from inspect import isawaitable
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from piccc import errors
from piccc._dialects.tasks import read_task
from piccc._http.backends import run_sync
from piccc._http.session import telemetry
from piccc.errors import PicccError, SubmissionUnknown, TaskWaitTimeout
from piccc.tasks import Task, TaskType

if TYPE_CHECKING:
    from piccc.config import Config
    from piccc.media.account import Lost
    from piccc.media.handles import AsyncTaskHandle, TaskHandle
    from piccc.media.ledgers import Ledger, Submission
    from piccc.media.polling import OnPoll
    from piccc.media.resources import AsyncMedia, AsyncTasks, Media, Tasks

_log = logging.getLogger(__name__)

LATEST = 100
"""How many of the account's latest tasks one look at several tasks goes through: a page."""

GENERATE_IMAGE = "generate_image"
GENERATE_VIDEO = "generate_video"
GET_TASK = "get_media_task"
LIST_TASKS = "list_media_tasks"

DESCRIPTIONS = {
    GENERATE_IMAGE: "Make an image from a description. Each call is paid for. "
    "Returns the finished image's address, or a task id to ask for later.",
    GENERATE_VIDEO: "Make a video from a description. Each call is paid for and may take minutes. "
    "Returns the finished video's address, or a task id to ask for later.",
    GET_TASK: "Look at an image or video task, and wait for it for a while if it is still running. "
    "Costs nothing.",
    LIST_TASKS: "List the latest image and video tasks, newest first, to find a task again. Costs nothing.",
}

AspectRatio = Literal["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9"]
Status = Literal["queued", "processing", "completed", "failed", "cancelled", "expired"]


class Arguments(BaseModel):
    """Arguments of a tool; an unknown one is refused, so that a model learns that it means nothing."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: object) -> object:
        # For pydantic `true` is 1: a video of one second would be made and paid for.
        if isinstance(value, bool):
            raise PydanticCustomError("boolean", "Input should not be a boolean")
        return value


class ImageArguments(Arguments):
    """What a model may ask of the image tool."""

    prompt: str = Field(min_length=1, description="What the image shows, in full sentences.")
    aspect_ratio: AspectRatio | None = Field(default=None, description="Width to height.")
    resolution: Literal["1K", "2K", "4K"] | None = Field(
        default=None, description="Pixels on the longer side: 1K is 1024, 2K is 2048, 4K is 4096."
    )


class VideoArguments(Arguments):
    """What a model may ask of the video tool."""

    prompt: str = Field(min_length=1, description="What the video shows and how it moves, in full sentences.")
    aspect_ratio: AspectRatio | None = Field(default=None, description="Width to height.")
    resolution: Literal["480p", "720p", "1080p"] | None = Field(
        default=None, description="Pixels on the shorter side."
    )
    duration_seconds: int | None = Field(
        default=None, gt=0, lt=3600, description="The video's length in seconds."
    )


class TaskArguments(Arguments):
    """Arguments of the tool that reads a task."""

    task_id: str = Field(min_length=1, description="The task's id, as another tool gave it.")
    wait_seconds: float | None = Field(
        default=None,
        ge=0,
        le=600,
        description="How long to wait at most if it is still running; 0 only looks.",
    )


class TaskListArguments(Arguments):
    """What a model may ask of the tool that lists tasks."""

    type: Literal["image", "video"] | None = Field(default=None, description="Only tasks of this type.")
    status: Status | None = Field(default=None, description="Only tasks of this status.")
    limit: int = Field(default=10, ge=1, le=50, description="How many tasks at most.")


ARGUMENTS: dict[str, type[Arguments]] = {
    GENERATE_IMAGE: ImageArguments,
    GENERATE_VIDEO: VideoArguments,
    GET_TASK: TaskArguments,
    LIST_TASKS: TaskListArguments,
}


def faults(error: ValidationError) -> str:
    """Return which arguments are wrong, and how."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def sentence(text: str) -> str:
    """Return a text with a full stop, which a server's and pydantic's may lack, so that more may follow."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


LONGEST_URL = 200
"""Characters of an address that a model reads; it would garble a longer one, which the program has anyway."""
LONGEST_REASON = 200
LONGEST_PROMPT = 60
MAKER = "piccc"

_TELL_THE_USER = "Do not retry: tell the user."
_CORRECT = "Nothing was made. Correct the arguments and call again."
_ADVICE: dict[type[Exception], tuple[bool, str]] = {
    ValidationError: (True, _CORRECT),
    errors.TaskRejected: (
        True,
        "Change the prompt before you call again: the same one will be refused again.",
    ),
    errors.TaskFailed: (True, "You may call again once."),
    errors.TaskCancelled: (False, _TELL_THE_USER),
    errors.TaskExpired: (True, "You may call again once."),
    errors.SpendLimitExceeded: (False, f"Nothing was sent. {_TELL_THE_USER}"),
    errors.LedgerError: (False, f"Nothing was made. {_TELL_THE_USER}"),
    errors.NotFoundError: (False, f"Look for the right id with {LIST_TASKS}, or tell the user."),
    errors.RateLimitError: (True, "Nothing was made. Call again later."),
    errors.OverloadedError: (True, "Nothing was made. Call again later."),
    errors.InvalidRequestError: (True, _CORRECT),
    # A model's arguments have been checked before: what the client refuses is the program's mistake.
    errors.InvalidArgumentError: (False, f"Nothing was made. {_TELL_THE_USER}"),
    errors.APIConnectionError: (True, "Nothing was made. You may call again once."),
    errors.PicccError: (False, _TELL_THE_USER),
}


_SETUP = (errors.ConfigurationError, errors.InvalidArgumentError, errors.AuthenticationError)
"""What the program's settings lack: its hint begins with what to set."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What an agent gets back.

    Attributes:
        text: what the model reads.
        artifact: what the program gets: a task or `{"tasks": […]}`, and `tool_error` where something failed.
        images: content blocks `{type, base64, mime_type}` for models that see.
        error: why it failed, or None.
    """

    text: str
    artifact: dict[str, Any]
    images: Sequence[Mapping[str, str]] = field(default=(), repr=False)
    error: Exception | None = None


def describe_for_model(task: Task, then: str = "") -> str:
    """Return what the model reads of a task that is finished or still running."""
    kind = task.type or "task"
    if not task.is_terminal:
        progress = "" if task.progress is None else f", {task.progress:.0f} %"
        go_on = then or f"Ask for it later with {GET_TASK}."
        now = f"The {kind} is still being made ({task.status}{progress}): task {task.id}."
        return f"{now} Do not submit it again. {go_on}"
    short = [output.url for output in task.outputs if len(output.url) <= LONGEST_URL]
    where = f": {' '.join(short)}" if short else ""
    return f"The {kind} is finished (task {task.id}){where}"


def progress(task: Task) -> dict[str, Any]:
    """Return what an event says of a task on its way."""
    return {"task_id": task.id, "type": task.type, "status": task.status, "progress": task.progress}


def artifact_of(task: Task) -> dict[str, Any]:
    """Return a task as JSON data, which a checkpoint keeps as it is."""
    artifact = {**task.to_dict(), "made_by": MAKER}
    if not task.is_terminal and artifact.get("created_at") is None:
        # Without an age there is no telling when a server that does not know the task has lost it.
        artifact["created_at"] = int(task.created_at or time.time())
    return artifact


def tasks_in(artifact: object) -> list[Task]:
    """Return the tasks of an artifact, none where it is not one of ours."""
    if not isinstance(artifact, Mapping) or artifact.get("made_by") != MAKER:
        return []
    return [read_task(dict(body)) for body in artifact.get("tasks", [artifact]) if body.get("task_id")]


def listed(tasks: Sequence[Task]) -> ToolResult:
    """Report on several tasks."""
    lines = [
        f"{task.type or 'task'} {task.id} {task.status}: {_short(task.prompt, LONGEST_PROMPT)}"
        for task in tasks
    ]
    text = "\n".join(lines) or "There are no such tasks."
    return ToolResult(text, {"tasks": [task.to_dict() for task in tasks], "made_by": MAKER})


def failed(
    error: Exception, task: Task | None = None, *, may_exist: bool = False, is_gone: bool = False
) -> ToolResult:
    """Report on a failure, and say whether the model may call again.

    Args:
        error: what went wrong.
        task: the task that it happened to, if one is known.
        may_exist: a task may have been created whose id is not known.
        is_gone: the task was created, and the server no longer has it.
    """
    if task is not None and is_gone:
        may_retry, advice = (
            False,
            f"Task {task.id} was created, and the server has it no more. {_TELL_THE_USER}",
        )
    else:
        may_retry, advice = _advice(error, task, may_exist=may_exist)
    message = _message(error)
    named = {
        "kind": type(error).__name__,
        "message": message,
        "may_retry": may_retry,
        "hint": getattr(error, "hint", None),
        "code": getattr(error, "code", None),
        "submission_key": getattr(error, "submission_key", None),
    }
    known = {name: value for name, value in named.items() if value not in (None, "")}
    artifact = {**(artifact_of(task) if task else {"made_by": MAKER}), "tool_error": known}
    said = sentence(_short(message, LONGEST_REASON))
    if isinstance(error, _SETUP) and error.hint:
        # All that the user may ever read of it is what the model passes on.
        said += f" {sentence(error.hint.partition('. ')[0])}"
    return ToolResult(f"{said} {advice}", artifact, error=error)


def _message(error: Exception) -> str:
    if isinstance(error, PicccError):
        return error.message
    if isinstance(error, ValidationError):
        return faults(error)
    return f"{type(error).__name__}: {error}"


def _advice(error: Exception, task: Task | None, *, may_exist: bool) -> tuple[bool, str]:
    if may_exist or (task is None and getattr(error, "may_have_been_billed", False)):
        return (
            False,
            f"It may be in the making and paid for: do not submit it again. Look for it with {LIST_TASKS}.",
        )
    if task is not None and not task.is_terminal:
        return False, f"Task {task.id} goes on: do not submit it again. Ask for it later with {GET_TASK}."
    return next((_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE), (False, _TELL_THE_USER))


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


T = TypeVar("T")
Show = Literal["none", "thumbnail", "image"]
OnUpdate = Callable[[Task], object]
THUMBNAIL_PX = 512


def submission_key(*parts: object) -> str:
    """Return a key that names a call of a tool, the same each time that call is run.

    It is a digest, because it goes to the provider and what a thread is called is nobody else's business.
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return f"agent-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


C = TypeVar("C")
A = TypeVar("A")


class ClientPair(Generic[C, A]):
    """A sync and an async client of the same account, each created when it is first needed.

    Both share one ledger, for the one that is missing is made from the other.

    Args:
        client: the `Client`, or None.
        async_client: the `AsyncClient`, or None.
        create: makes the `Client` where neither is given.

    Raises:
        ConfigurationError: one is not a client of its kind.
    """

    def __init__(self, client: C | None, async_client: A | None, create: Callable[[], C]) -> None:
        for name, given, kind, method in (
            ("client", client, "Client", "as_async"),
            ("async_client", async_client, "AsyncClient", "as_sync"),
        ):
            if given is not None and not hasattr(given, method):
                raise errors.ConfigurationError(
                    f"{name} is of type {type(given).__name__}.", hint=f"Give a piccc.{kind}."
                )
        self._client: Any = client
        self._async_client: Any = async_client
        self._create = create

    def sync(self, http_client: Any = None) -> C:
        """Return the sync client; `http_client` is what it sends with where it is made here."""
        if self._client is None:
            made = self._async_client
            self._client = self._create() if made is None else made.as_sync(http_client=http_client)
        client: C = self._client
        return client

    def asynchronous(self, http_client: Any = None) -> A:
        """Return the async client; `http_client` is what it sends with where it is made here."""
        if self._async_client is None:
            self._async_client = self.sync().as_async(http_client=http_client)  # type: ignore[attr-defined]
        client: A = self._async_client
        return client


class MediaClient(Protocol):
    """What the tools need of a `Client` or an `AsyncClient`."""

    config: Config
    ledger: Ledger

    @property
    def images(self) -> Media | AsyncMedia:
        """Image tasks."""
        ...

    @property
    def videos(self) -> Media | AsyncMedia:
        """Video tasks."""
        ...

    @property
    def tasks(self) -> Tasks | AsyncTasks:
        """The account's tasks."""
        ...


class MediaToolRun:
    """One call of a tool: it knows its task as soon as there is one, so that no failure can lose it."""

    def __init__(
        self,
        client: MediaClient,
        *,
        tool: str = "",
        call_id: str | None = None,
        show: Show = "none",
        on_update: OnUpdate | None = None,
        on_poll: OnPoll | None = None,
    ) -> None:
        self.client = client
        self._tool = tool
        self._call_id = call_id
        self._show = show
        self._on_poll = on_poll
        self._on_update = None if on_update is None else partial(_notify, on_update)
        self._key: str | None = None
        self._task: TaskHandle | AsyncTaskHandle | None = None
        self._created: Task | None = None

    async def place(
        self, type: TaskType, arguments: Mapping[str, Any], *, key: str | None, lost: Lost = "ask"
    ) -> Task:
        """Submit a task, or find the one that this key became; look for one whose answer was lost.

        `lost` says what to do where an earlier run of this call got no answer, as for `Media.submit`.
        """
        self._key = key or f"agent-{uuid.uuid4().hex}"
        made = self.client.images if type == "image" else self.client.videos
        try:
            self._task = await _settled(made.submit(key=self._key, lost=lost, **arguments))
        except SubmissionUnknown as unknown:
            try:
                self._task = await _settled(self.client.tasks.resume(str(unknown.submission_key)))
            except PicccError:
                raise unknown from unknown.__cause__
        return self._known()

    async def read(self, task_id: str, *, created: TaskType | None = None) -> Task:
        """Read a task; `created` is its type where an earlier run of this call created it."""
        self._created = Task(task_id, type=created) if created else None
        self._task = await _settled(self.client.tasks.get(task_id))
        return self._known()

    async def catch_up(self, task: Task, seconds: float | None) -> Task:
        """Wait this many seconds for a task that cannot be read at the moment."""
        self._created = task
        self._task = await _settled(self.client.tasks.wait(task, timeout=seconds, on_update=self._on_update))
        return self._known()

    def take(self, task: TaskHandle | AsyncTaskHandle) -> Task:
        """Go on with a task that was read already."""
        self._task = task
        return task

    async def attend(self, seconds: float | None) -> None:
        """Wait this many seconds for the task; raise why it has no output, but not that it is still running.

        Seconds: None waits as long as the client's polling says, 0 does not wait.
        """
        task = self._known()
        try:
            if seconds != 0 and not task.is_terminal:
                await _settled(task.wait(timeout=seconds, on_update=self._on_update, on_poll=self._on_poll))
        except TaskWaitTimeout:
            return
        if error := task.failure():
            raise error

    def report_progress(self) -> None:
        """Report the task as it is now to the program's hook."""
        if self._on_update is not None:
            self._on_update(self._known())

    async def report(self, then: str = "") -> ToolResult:
        """Report on the task; `then` is what the model is to do while it is still running."""
        task = self._known()
        text = describe_for_model(task, then)
        try:
            images = await self._images()
        except PicccError as error:
            images, text = (), f"{text} (It cannot be shown here: {type(error).__name__}.)"
        return ToolResult(text, artifact_of(task), images)

    async def list(self, type: TaskType | None, status: str | None, limit: int) -> ToolResult:
        """Report on the latest tasks."""
        return listed(await _first(self.client.tasks.list(type=type, status=status), limit))

    async def reported(
        self, work: Awaitable[ToolResult], passing: tuple[type[Exception], ...] = ()
    ) -> ToolResult:
        """Return the result of `work`, or its failure as one; let signals of a framework pass."""
        observer = telemetry()
        span = observer and observer.tool(self._tool, self._call_id)
        if not span:
            return await self._reported(work, passing)
        with span:
            result = await self._reported(work, passing)
        span.end(error=result.error, attributes={"piccc.task.id": self._task.id} if self._task else None)
        return result

    async def _reported(
        self, work: Awaitable[ToolResult], passing: tuple[type[Exception], ...]
    ) -> ToolResult:
        try:
            return await work
        except passing:
            raise
        except Exception as error:
            # A submission that was refused leaves the ledger: one that is still in it may have been accepted.
            entry = await self._entry() if self._task is None else None
            created = self._created or _task_of(entry)
            return failed(
                error,
                self._task or created,
                may_exist=entry is not None and created is None,
                is_gone=isinstance(error, errors.NotFoundError) and created is not None,
            )

    async def submitted(self) -> Task | None:
        """Return the task that the ledger knows this call became, also where it cannot be read now."""
        return self._task or _task_of(await self._entry())

    async def _entry(self) -> Submission | None:
        if self._key is None:
            return None
        with suppress(errors.LedgerError):  # the failure that is reported says more
            entry: Submission | None = await _settled(self.client.tasks.submission(self._key))
            return entry
        return None

    def _known(self) -> TaskHandle | AsyncTaskHandle:
        if self._task is None:
            raise RuntimeError("This run has no task yet: place one or read one first.")
        return self._task

    async def _images(self) -> Sequence[Mapping[str, str]]:
        task = self._known()
        if self._show == "none" or task.type != "image" or not task.is_terminal:
            return ()
        return [await _settled(output.base64_block(max_px=_max_px(self._show))) for output in task.outputs]


GONE_SECONDS = 600.0
"""How old a task that the server does not know must be to have vanished: it may show new ones late."""
_MOST_BYTES = 64 * 2**20
_blocks: OrderedDict[Hashable, Mapping[str, str]] = OrderedDict()
"""The latest image blocks, because a conversation is sent whole with each request."""
_blocks_lock = threading.Lock()


async def image_block(client: MediaClient, task_id: str, place: int, show: Show) -> Mapping[str, str]:
    """Return one image of a task as a content block `{type, base64, mime_type}`.

    Where it cannot be had, the block is a text that says so.
    """
    from piccc.media.polling import account_name

    name = (account_name(client.config), task_id, place, show)
    with _blocks_lock:
        if (known := _blocks.get(name)) is not None:
            _blocks.move_to_end(name)
            return known
    is_final, block = True, _cannot_be_shown(task_id, errors.NotFoundError)
    try:
        outputs = (await _settled(client.tasks.get(task_id))).outputs
        if place in range(len(outputs)):
            block = await _settled(outputs[place].base64_block(max_px=_max_px(show)))
    except PicccError as error:
        is_final = isinstance(error, errors.NotFoundError | errors.OutputExpired)
        block = _cannot_be_shown(task_id, type(error))
    if is_final:
        with _blocks_lock:
            _blocks[name] = block
            while len(_blocks) > 1 and sum(map(_size, _blocks.values())) > _MOST_BYTES:
                _blocks.popitem(last=False)
    return block


def _cannot_be_shown(task_id: str, reason: type[Exception]) -> Mapping[str, str]:
    return {"type": "text", "text": f"(The image of task {task_id} cannot be shown: {reason.__name__}.)"}


def _size(block: Mapping[str, str]) -> int:
    return sum(map(len, block.values()))


def _max_px(show: Show) -> int | None:
    return THUMBNAIL_PX if show == "thumbnail" else None


async def ended(
    client: MediaClient,
    tasks: Sequence[Task],
    *,
    seconds: float = 0.0,
    on_update: OnUpdate | None = None,
    on_poll: OnPoll | None = None,
) -> Sequence[ToolResult]:
    """Report on those of the tasks that have ended, after waiting up to `seconds` for the first of them.

    Several tasks are read with one request for the list. One that cannot be read counts as running: the next
    call asks again.
    """
    if seconds and tasks:
        with suppress(PicccError):
            ids = [task.id for task in tasks]
            await _first_end(client.tasks.events(*ids, timeout=seconds, on_poll=on_poll), on_update)
    latest: dict[str, Any] = {}
    if len(tasks) > 1:
        with suppress(PicccError):
            latest = {handle.id: handle for handle in await latest_tasks(client)}
    seen = [await _end(MediaToolRun(client), task, latest.get(task.id)) for task in tasks]
    return [report for report in seen if report is not None]


async def _first_end(changes: AsyncIterable[Task] | Iterable[Task], on_update: OnUpdate | None) -> None:
    if isinstance(changes, AsyncIterable):
        async for task in changes:
            _notify(on_update, task)
            if task.is_terminal:
                return
    else:
        for task in changes:
            _notify(on_update, task)
            if task.is_terminal:
                return


async def latest_tasks(client: MediaClient) -> Sequence[Any]:
    """Return the handles of the account's latest tasks, as many as a page of the list has: one request."""
    return await _first(client.tasks.list(), LATEST)


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning the first time that there is reason for it in this process."""
    if message not in _warned:
        _warned.add(message)
        _log.warning(message)


def _notify(on_update: OnUpdate | None, task: Task) -> None:
    """Call a program's hook; its failure is the program's, and not the agent's to read."""
    try:
        if on_update is not None:
            on_update(task)
    except Exception:
        _log.exception("on_update failed for task %s.", task.id)


def run_sync_tool(run: Coroutine[Any, Any, T]) -> T:
    """Run a tool over a sync client; raise ConfigurationError where it is asynchronous."""
    return run_sync(run)


async def _end(run: MediaToolRun, task: Task, handle: Any) -> ToolResult | None:
    async def outcome() -> ToolResult:
        await run.attend(0)
        return await run.report()

    try:
        now = run.take(handle) if handle is not None else await run.read(task.id)
    except errors.NotFoundError as error:
        if time.time() - (task.created_at or 0) < GONE_SECONDS:
            return None
        return failed(error, replace(task, status="expired"), is_gone=True)
    except PicccError:
        return None
    return await run.reported(outcome()) if now.is_terminal else None


def _task_of(entry: Submission | None) -> Task | None:
    return Task(entry.task_id, type=entry.type, created_at=entry.at) if entry and entry.task_id else None


async def _settled(value: Any) -> Any:
    # The blocking client gives the value itself, the asynchronous one something to await.
    return await value if isawaitable(value) else value


async def _first(tasks: AsyncIterable[Task] | Iterable[Task], count: int) -> Sequence[Task]:
    if not isinstance(tasks, AsyncIterable):
        return list(islice(tasks, count))
    found: list[Task] = []
    async for task in tasks:
        found.append(task)
        if len(found) == count:
            break
    return found
