"""Media tools for both frameworks: arguments, one tool call, and the text for the model."""

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
"""How many of the account's latest tasks to read when checking several tasks: one page."""

GENERATE_IMAGE = "generate_image"
GENERATE_VIDEO = "generate_video"
GET_TASK = "get_media_task"
LIST_TASKS = "list_media_tasks"

DESCRIPTIONS = {
    GENERATE_IMAGE: "Generate an image from a description. Each call costs money. "
    "Returns the finished image's URL, or a task id to check later.",
    GENERATE_VIDEO: "Generate a video from a description. Each call costs money and may take minutes. "
    "Returns the finished video's URL, or a task id to check later.",
    GET_TASK: "Check an image or video task, and wait briefly if it is still running. Costs nothing.",
    LIST_TASKS: "List the latest image and video tasks, newest first, to find a task again. Costs nothing.",
}

AspectRatio = Literal["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9"]
Status = Literal["queued", "processing", "completed", "failed", "cancelled", "expired"]


class Arguments(BaseModel):
    """A tool's arguments; unknown ones are rejected, so that the model can correct itself."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: object) -> object:
        # pydantic converts `true` to 1, which would generate and bill a one-second video.
        if isinstance(value, bool):
            raise PydanticCustomError("boolean", "Input should not be a boolean")
        return value


class ImageArguments(Arguments):
    """Arguments of the image tool."""

    prompt: str = Field(min_length=1, description="What the image shows, in full sentences.")
    aspect_ratio: AspectRatio | None = Field(default=None, description="Width to height.")
    resolution: Literal["1K", "2K", "4K"] | None = Field(
        default=None, description="Pixels on the longer side: 1K is 1024, 2K is 2048, 4K is 4096."
    )


class VideoArguments(Arguments):
    """Arguments of the video tool."""

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

    task_id: str = Field(min_length=1, description="The task's id, as returned by another tool.")
    wait_seconds: float | None = Field(
        default=None,
        ge=0,
        le=600,
        description="Maximum wait if it is still running; 0 only checks.",
    )


class TaskListArguments(Arguments):
    """Arguments of the tool that lists tasks."""

    type: Literal["image", "video"] | None = Field(default=None, description="Only tasks of this type.")
    status: Status | None = Field(default=None, description="Only tasks with this status.")
    limit: int = Field(default=10, ge=1, le=50, description="Maximum number of tasks.")


ARGUMENTS: dict[str, type[Arguments]] = {
    GENERATE_IMAGE: ImageArguments,
    GENERATE_VIDEO: VideoArguments,
    GET_TASK: TaskArguments,
    LIST_TASKS: TaskListArguments,
}


def faults(error: ValidationError) -> str:
    """Return a description of the invalid arguments."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def sentence(text: str) -> str:
    """Return a text that ends with punctuation, which messages of servers and pydantic may lack."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


LONGEST_URL = 200
"""Maximum length of a URL for the model, which garbles longer ones; the program has them anyway."""
LONGEST_REASON = 200
LONGEST_PROMPT = 60
MAKER = "piccc"

_TELL_THE_USER = "Do not retry: tell the user."
_CORRECT = "Nothing was created. Correct the arguments and call again."
_ADVICE: dict[type[Exception], tuple[bool, str]] = {
    ValidationError: (True, _CORRECT),
    errors.TaskRejected: (
        True,
        "Change the prompt before you call again: the same one will be rejected again.",
    ),
    errors.TaskFailed: (True, "You may call again once."),
    errors.TaskCancelled: (False, _TELL_THE_USER),
    errors.TaskExpired: (True, "You may call again once."),
    errors.SpendLimitExceeded: (False, f"Nothing was sent. {_TELL_THE_USER}"),
    errors.LedgerError: (False, f"Nothing was created. {_TELL_THE_USER}"),
    errors.NotFoundError: (False, f"Look for the right id with {LIST_TASKS}, or tell the user."),
    errors.RateLimitError: (True, "Nothing was created. Call again later."),
    errors.OverloadedError: (True, "Nothing was created. Call again later."),
    errors.InvalidRequestError: (True, _CORRECT),
    # The model's arguments were validated before, so an error of the client is the program's mistake.
    errors.InvalidArgumentError: (False, f"Nothing was created. {_TELL_THE_USER}"),
    errors.APIConnectionError: (True, "Nothing was created. You may call again once."),
    errors.PicccError: (False, _TELL_THE_USER),
}


_SETUP = (errors.ConfigurationError, errors.InvalidArgumentError, errors.AuthenticationError)
"""What the program's settings lack: its hint begins with what to set."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool's result.

    Attributes:
        text: the text for the model.
        artifact: the data for the program: a task or `{"tasks": […]}`, and `tool_error` after a failure.
        images: content blocks `{type, base64, mime_type}` for models with vision.
        error: the failure, or None.
    """

    text: str
    artifact: dict[str, Any]
    images: Sequence[Mapping[str, str]] = field(default=(), repr=False)
    error: Exception | None = None


def describe_for_model(task: Task, then: str = "") -> str:
    """Return the text for the model about a finished or running task."""
    kind = task.type or "task"
    if not task.is_terminal:
        progress = "" if task.progress is None else f", {task.progress:.0f} %"
        then = then or f"Check it later with {GET_TASK}."
        state = f"The {kind} is still being generated ({task.status}{progress}): task {task.id}."
        return f"{state} Do not submit it again. {then}"
    short = [output.url for output in task.outputs if len(output.url) <= LONGEST_URL]
    where = f": {' '.join(short)}" if short else ""
    return f"The {kind} is finished (task {task.id}){where}"


def progress(task: Task) -> dict[str, Any]:
    """Return a progress event's data for a task."""
    return {"task_id": task.id, "type": task.type, "status": task.status, "progress": task.progress}


def artifact_of(task: Task) -> dict[str, Any]:
    """Return a task as JSON data that checkpoints preserve."""
    artifact = {**task.to_dict(), "made_by": MAKER}
    if not task.is_terminal and artifact.get("created_at") is None:
        # A missing task counts as lost only after a while, which requires its age.
        artifact["created_at"] = int(task.created_at or time.time())
    return artifact


def tasks_in(artifact: object) -> list[Task]:
    """Return the tasks of an artifact; none if it is not one of ours."""
    if not isinstance(artifact, Mapping) or artifact.get("made_by") != MAKER:
        return []
    return [read_task(dict(body)) for body in artifact.get("tasks", [artifact]) if body.get("task_id")]


def listed(tasks: Sequence[Task]) -> ToolResult:
    """Return a report on several tasks."""
    lines = [
        f"{task.type or 'task'} {task.id} {task.status}: {_short(task.prompt, LONGEST_PROMPT)}"
        for task in tasks
    ]
    text = "\n".join(lines) or "There are no such tasks."
    return ToolResult(text, {"tasks": [task.to_dict() for task in tasks], "made_by": MAKER})


def failed(
    error: Exception,
    task: Task | None = None,
    *,
    may_exist: bool = False,
    is_gone: bool = False,
    is_submission: bool = False,
) -> ToolResult:
    """Return a report on a failure that tells the model whether it may call again.

    Args:
        error: the failure.
        task: the affected task, if known.
        may_exist: a task with an unknown id may have been created.
        is_gone: the task was created, but the server no longer has it.
        is_submission: the failed call was to create a task.
    """
    if is_submission and task is None and isinstance(error, errors.NotFoundError):
        may_retry, advice = False, f"Nothing was created. {_TELL_THE_USER}"  # the model is unknown
    elif task is not None and is_gone:
        may_retry, advice = (
            False,
            f"Task {task.id} was created, but the server no longer has it. {_TELL_THE_USER}",
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
    text = sentence(_short(message, LONGEST_REASON))
    if isinstance(error, _SETUP) and error.hint:
        # The user may only see what the model passes on.
        hint = error.hint.removeprefix("Nothing was sent. ")  # the advice says so
        text += f" {sentence(hint.partition('. ')[0])}"
    return ToolResult(f"{text} {advice}", artifact, error=error)


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
            f"The task may exist and be billed: do not submit it again. Look for it with {LIST_TASKS}.",
        )
    if task is not None and not task.is_terminal:
        return False, f"Task {task.id} is running: do not submit it again. Check it later with {GET_TASK}."
    if type(error) is errors.APIConnectionError and not error.is_retryable:
        return False, f"Nothing was created. {_TELL_THE_USER}"  # such as a certificate that is not trusted
    return next((_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE), (False, _TELL_THE_USER))


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


T = TypeVar("T")
Show = Literal["none", "thumbnail", "image"]
OnUpdate = Callable[[Task], object]
THUMBNAIL_PX = 512


def submission_key(*parts: object) -> str:
    """Return a key for a tool call that stays the same if the call is rerun.

    It is a digest, because it is sent to the provider and thread names are private.
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return f"agent-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


C = TypeVar("C")
A = TypeVar("A")


class ClientPair(Generic[C, A]):
    """A sync and an async client for the same account, each created on first use.

    They share one ledger, because a missing client is created from the other.

    Args:
        client: the `Client`, or None.
        async_client: the `AsyncClient`, or None.
        create: creates the `Client` if neither is given.

    Raises:
        ConfigurationError: a client has the wrong type.
    """

    def __init__(self, client: C | None, async_client: A | None, create: Callable[[], C]) -> None:
        for name, given, kind, method in (
            ("client", client, "Client", "as_async"),
            ("async_client", async_client, "AsyncClient", "as_sync"),
        ):
            if given is not None and not hasattr(given, method):
                raise errors.ConfigurationError(
                    f"{name} is of type {type(given).__name__}.", hint=f"Pass a piccc.{kind}."
                )
        self._client: Any = client
        self._async_client: Any = async_client
        self._create = create

    def sync(self, http_client: Any = None) -> C:
        """Return the sync client; if it is created from the async one, it uses `http_client`."""
        if self._client is None:
            other = self._async_client
            self._client = self._create() if other is None else other.as_sync(http_client=http_client)
        client: C = self._client
        return client

    def asynchronous(self, http_client: Any = None) -> A:
        """Return the async client; if it is created here, it uses `http_client`."""
        if self._async_client is None:
            self._async_client = self.sync().as_async(http_client=http_client)  # type: ignore[attr-defined]
        client: A = self._async_client
        return client


class MediaClient(Protocol):
    """The part of `Client` and `AsyncClient` that the tools need."""

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
    """One tool call, which records its task as soon as it exists, so that no failure can lose it."""

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
        """Submit a task, or find this key's existing task, including one whose response was lost.

        `lost` applies if an earlier run of this call got no response, as for `Media.submit`.
        """
        self._key = key or f"agent-{uuid.uuid4().hex}"
        media = self.client.images if type == "image" else self.client.videos
        try:
            self._task = await _settled(media.submit(key=self._key, lost=lost, **arguments))
        except SubmissionUnknown as unknown:
            try:
                self._task = await _settled(self.client.tasks.resume(unknown.submission_key))
            except PicccError:
                raise unknown from unknown.__cause__
        return self._known()

    async def read(self, task_id: str, *, created: TaskType | None = None) -> Task:
        """Read a task; `created` is its type if an earlier run of this call created it."""
        self._created = Task(task_id, type=created) if created else None
        self._task = await _settled(self.client.tasks.get(task_id))
        return self._known()

    async def catch_up(self, task: Task, seconds: float | None) -> Task:
        """Wait this many seconds for a task that is currently unreadable."""
        self._created = task
        self._task = await _settled(self.client.tasks.wait(task, timeout=seconds, on_update=self._on_update))
        return self._known()

    def take(self, task: TaskHandle | AsyncTaskHandle) -> Task:
        """Continue with a task that was already read."""
        self._task = task
        return task

    async def attend(self, seconds: float | None) -> None:
        """Wait this many seconds for the task; raise if it ended without an output, not on a timeout.

        None waits as long as the client's `Polling` allows, 0 does not wait.
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
        """Pass the task's current state to the `on_update` callback."""
        if self._on_update is not None:
            self._on_update(self._known())

    async def report(self, then: str = "") -> ToolResult:
        """Return a report on the task; `then` tells the model what to do while it is running."""
        task = self._known()
        text = describe_for_model(task, then)
        try:
            images = await self._images()
        except PicccError as error:
            images, text = (), f"{text} (It cannot be shown here: {type(error).__name__}.)"
        return ToolResult(text, artifact_of(task), images)

    async def list(self, type: TaskType | None, status: str | None, limit: int) -> ToolResult:
        """Return a report on the latest tasks."""
        return listed(await _first(self.client.tasks.list(type=type, status=status), limit))

    async def reported(
        self, work: Awaitable[ToolResult], passing: tuple[type[Exception], ...] = ()
    ) -> ToolResult:
        """Return the result of `work`, or a report on its failure; re-raise exceptions in `passing`."""
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
            # Rejected submissions are removed from the ledger, so one still there may have been accepted.
            entry = await self._entry() if self._task is None else None
            created = self._created or _task_of(entry)
            return failed(
                error,
                self._task or created,
                may_exist=entry is not None and created is None,
                is_gone=isinstance(error, errors.NotFoundError) and created is not None,
                is_submission=self._key is not None,
            )

    async def submitted(self) -> Task | None:
        """Return this call's task from the ledger, even if it cannot be read now."""
        return self._task or _task_of(await self._entry())

    async def _entry(self) -> Submission | None:
        if self._key is None:
            return None
        with suppress(errors.LedgerError):  # the original failure is more informative
            entry: Submission | None = await _settled(self.client.tasks.submission(self._key))
            return entry
        return None

    def _known(self) -> TaskHandle | AsyncTaskHandle:
        if self._task is None:
            raise RuntimeError("This run has no task yet: call place or read first.")
        return self._task

    async def _images(self) -> Sequence[Mapping[str, str]]:
        task = self._known()
        if self._show == "none" or task.type != "image" or not task.is_terminal:
            return ()
        return [await _settled(output.base64_block(max_px=_max_px(self._show))) for output in task.outputs]


GONE_SECONDS = 600.0
"""Age at which a task missing on the server counts as lost; new ones may appear late."""
_MAX_BYTES = 64 * 2**20
_blocks: OrderedDict[Hashable, Mapping[str, str]] = OrderedDict()
"""A cache of image blocks, because each request sends the whole conversation."""
_blocks_lock = threading.Lock()


async def image_block(client: MediaClient, task_id: str, place: int, show: Show) -> Mapping[str, str]:
    """Return one image of a task as a content block `{type, base64, mime_type}`.

    If it is unavailable, return a text block that says so.
    """
    from piccc.media.polling import account_name

    name = (account_name(client.config), task_id, place, show)
    with _blocks_lock:
        if (cached := _blocks.get(name)) is not None:
            _blocks.move_to_end(name)
            return cached
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
            while len(_blocks) > 1 and sum(map(_size, _blocks.values())) > _MAX_BYTES:
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
    """Return reports on the tasks that have ended, after waiting up to `seconds` for the first one.

    Several tasks are read with one list request. Unreadable tasks count as running: the next call retries.
    """
    if seconds and tasks:
        with suppress(PicccError):
            ids = [task.id for task in tasks]
            await _first_end(client.tasks.events(*ids, timeout=seconds, on_poll=on_poll), on_update)
    latest: dict[str, Any] = {}
    if len(tasks) > 1:
        with suppress(PicccError):
            latest = {handle.id: handle for handle in await latest_tasks(client)}
    reports = [await _end(MediaToolRun(client), task, latest.get(task.id)) for task in tasks]
    return [report for report in reports if report is not None]


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
    """Return the account's latest tasks, one page of the list, with one request."""
    return await _first(client.tasks.list(), LATEST)


_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Log a warning once per process."""
    if message not in _warned:
        _warned.add(message)
        _log.warning(message)


def _notify(on_update: OnUpdate | None, task: Task) -> None:
    """Call the program's callback; log its failure instead of showing it to the agent."""
    try:
        if on_update is not None:
            on_update(task)
    except Exception:
        _log.exception("on_update failed for task %s.", task.id)


def run_sync_tool(run: Coroutine[Any, Any, T]) -> T:
    """Run a tool on a sync client; raise ConfigurationError if the client is asynchronous."""
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
    # The sync client returns the value itself, the async one an awaitable.
    return await value if isawaitable(value) else value


async def _first(tasks: AsyncIterable[Task] | Iterable[Task], count: int) -> Sequence[Task]:
    if not isinstance(tasks, AsyncIterable):
        return list(islice(tasks, count))
    first: list[Task] = []
    async for task in tasks:
        first.append(task)
        if len(first) == count:
            break
    return first
