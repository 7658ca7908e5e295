"""Which call of a tool is being run: of which conversation, under which id."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    CallbackManagerForToolRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import Field, ValidationError, model_validator

from langchain_piccc._settings import STRICT, ClientSettings, StrictModel
from piccc.errors import InvalidArgumentError, MissingExtraError
from piccc.media import agent_tools as asked
from piccc.media.agent_tools import (
    MediaToolRun,
    Show,
    ToolResult,
    failed,
    progress,
    run_sync_tool,
    submission_key,
    tasks_in,
)
from piccc.tasks import Task, TaskType

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client


@dataclass(slots=True)
class Call:
    """A call of a tool; `failure` is what its program gets of an error."""

    tool_call_id: str | None = None
    thread_id: str | None = None
    failure: dict[str, Any] | None = None

    def key(self, type: str, arguments: Mapping[str, Any]) -> str | None:
        """Return the key of the submission, the same when the tool is run again; None without an id.

        The arguments count too, for some servers number the calls of each reply anew.
        """
        if self.tool_call_id is None:
            return None
        return submission_key("langchain", self.thread_id, self.tool_call_id, type, dict(arguments))

    def completed(self, output: Any) -> Any:
        """Return what the tool gives out, with the failure as its artifact."""
        if isinstance(output, ToolMessage) and output.artifact is None:
            output.artifact = self.failure
        return output


_current: ContextVar[Call | None] = ContextVar("piccc_call", default=None)


@contextmanager
def calling(options: Mapping[str, Any]) -> Iterator[Call]:
    """Remember the call that `BaseTool.run` was given these options for, for as long as it runs."""
    config = options.get("config") or {}
    thread_id = (config.get("configurable") or {}).get("thread_id")
    call = Call(options.get("tool_call_id"), None if thread_id is None else str(thread_id))
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def current() -> Call:
    """Return the call that is being run."""
    return _current.get() or Call()


EVENT = "piccc_task"
"""The name of the custom event that reports a task's progress."""

OnUpdate = Callable[[Task], object]
RunManager = CallbackManagerForToolRun | AsyncCallbackManagerForToolRun | None


class Progress:
    """Tell of a task's progress, from blocking code."""

    def __init__(self, on_update: OnUpdate | None, run_manager: RunManager) -> None:
        self._on_update = on_update
        self._config = RunnableConfig(callbacks=run_manager.get_child()) if run_manager else None
        self._write = _stream_writer()

    def tell(self, task: Task) -> None:
        """Tell of a task as it is now."""
        if self._on_update is not None:
            self._on_update(task)
        if self._write is not None:
            self._write({EVENT: progress(task)})
        if self._config is not None:
            self._dispatch(progress(task), self._config)

    def _dispatch(self, data: dict[str, Any], config: RunnableConfig) -> None:
        dispatch_custom_event(EVENT, data, config=config)


class AsyncProgress(Progress):
    """Tell of a task's progress, from a coroutine; `told` awaits what is still on its way."""

    def __init__(self, on_update: OnUpdate | None, run_manager: RunManager) -> None:
        super().__init__(on_update, run_manager)
        self._events: list[asyncio.Task[None]] = []

    async def told(self) -> None:
        """Wait until all events are out."""
        await asyncio.gather(*self._events, return_exceptions=True)

    def _dispatch(self, data: dict[str, Any], config: RunnableConfig) -> None:
        self._events.append(asyncio.ensure_future(adispatch_custom_event(EVENT, data, config=config)))


def _stream_writer() -> Callable[[Any], None] | None:
    if "langgraph" not in sys.modules:
        return None
    from langgraph.config import get_stream_writer

    try:
        return get_stream_writer()
    except (KeyError, RuntimeError):  # the tool is not run by a graph
        return None


NEWS = "piccc_tasks"
"""Where a message that tells of finished tasks keeps them, among its additional keywords."""


def media_from(messages: BaseMessage | Iterable[BaseMessage]) -> list[Task]:
    """Return the tasks that messages of the media tools tell of, each once, as it was last told.

    It reads messages fresh from an agent and from a checkpoint alike; `client.tasks.get(task)` then gives the
    task with outputs that can be saved.
    """
    found: dict[str, Task] = {}
    for message in [messages] if isinstance(messages, BaseMessage) else messages:
        for artifact in _artifacts(message):
            found.update({task.id: task for task in tasks_in(artifact)})
    return list(found.values())


def _artifacts(message: BaseMessage) -> list[object]:
    if isinstance(message, ToolMessage):
        return [message.artifact]
    if isinstance(message, HumanMessage):
        return list(message.additional_kwargs.get(NEWS, []))
    return []


Content = str | list[str | dict[str, Any]]
Mode = Literal["wait", "submit", "interrupt", "background"]


class PicccMediaTool(ClientSettings, BaseTool):
    """What the media tools share.

    The model reads a short text; the artifact is JSON for the program, which `media_from` reads. Every
    failure is an error message that says whether to call again, so that no agent ends by one. Progress goes
    to `on_update`, out as the event `piccc_task`, and into LangGraph's `custom` stream.

    Give `client` a ledger in a file, and no restart of the process makes anybody pay twice; give it an
    spend_limit, and no agent spends more.
    """

    model_config = STRICT

    client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.Client` to use instead of one made from the settings."""
    async_client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.AsyncClient` to use instead of one made from the settings, or from `client`."""
    on_update: OnUpdate | None = Field(default=None, exclude=True, repr=False)
    """Called with the task at each change of its status or progress."""
    wait_s: float | None = Field(default=600.0, ge=0)
    """How many seconds to wait for one task; then the model is told that it is still running."""
    show: Show = "none"
    """Whether a finished image goes to the model too: `none`, `image`, or a `thumbnail` of 512 pixels."""
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    handle_validation_error: Any = Field(default_factory=lambda: _unfit, exclude=True, repr=False)

    @model_validator(mode="after")
    def _can_show(self) -> Self:
        if self.show == "thumbnail" and find_spec("PIL") is None:
            raise MissingExtraError('show="thumbnail" needs Pillow.', hint="pip install pillow")
        return self

    def run(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Run the tool; a call that is run again is not submitted again."""
        with calling(kwargs) as call:
            return call.completed(super().run(tool_input, *args, **kwargs))

    async def arun(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Run the tool; a call that is run again is not submitted again."""
        with calling(kwargs) as call:
            return call.completed(await super().arun(tool_input, *args, **kwargs))

    def _run(self, run_manager: CallbackManagerForToolRun | None = None, **arguments: Any) -> Any:
        told = Progress(self.on_update, run_manager)
        errand = MediaToolRun(self._blocking_client(), show=self.show, on_update=told.tell)
        return _given(run_sync_tool(errand.reported(self._work(errand, arguments), _signals())))

    async def _arun(self, run_manager: AsyncCallbackManagerForToolRun | None = None, **arguments: Any) -> Any:
        told = AsyncProgress(self.on_update, run_manager)
        errand = MediaToolRun(self._running_client(), show=self.show, on_update=told.tell)
        try:
            return _given(await errand.reported(self._work(errand, arguments), _signals()))
        finally:
            await told.told()

    async def _work(self, errand: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        raise NotImplementedError

    def _blocking_client(self) -> Client:
        if self.client is None and self.async_client is not None:
            given: Client = self.async_client.as_sync(http_client=self.http_client)
            return given
        return self.client or self._blocking()

    def _running_client(self) -> AsyncClient:
        # Made from the blocking one, so that both remember the same submissions.
        if self.async_client is None:
            return self._blocking_client().as_async(http_client=self.http_async_client)
        given: AsyncClient = self.async_client
        return given


class _MakingTool(PicccMediaTool):
    model: str | None = None
    """The model's name. Default: `PICCC_IMAGE_MODEL` or `PICCC_VIDEO_MODEL`."""
    mode: Mode = "wait"
    """What to do once the task is submitted.

    - `wait`: wait for `wait_s` seconds; a task that takes longer is a normal result, to be asked for later.
    - `submit`: return at once.
    - `interrupt`: stop the LangGraph run until it is resumed, for which `langchain_piccc.interrupts` has the
      means. It needs a checkpointer, and to outlive the process a client with its ledger in a file.
    - `background`: return at once; `PicccTasksMiddleware` tells the model when the task is finished.
    """
    _type: ClassVar[TaskType]

    async def _work(self, errand: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        call = current()
        if self.mode == "interrupt" and (call.tool_call_id is None or call.thread_id is None):
            raise InvalidArgumentError(
                "Only the agent of a LangGraph run with a checkpointer and a thread_id can be interrupted.",
                hint='Nothing was sent. Use mode="wait" elsewhere.',
            )
        key = call.key(self._type, arguments)
        task = await errand.place(self._type, {"model": self.model, **arguments}, key=key)
        if self.mode == "interrupt":
            await _pause_until_done(errand, task)
        await errand.attend(self.wait_s if self.mode == "wait" else 0)
        return await errand.report(
            "You will be told when it is finished." if self.mode == "background" else ""
        )


class PicccImageTool(_MakingTool):
    """Make images.

    The model reads a short text; the artifact is JSON for the program, which `media_from` reads. Every
    failure is an error message that says whether to call again. With a `client` that has its ledger in a
    file, no restart of the process makes anybody pay twice.

    Examples:
        >>> from langchain_piccc import PicccImageTool
        >>> tool = PicccImageTool(model="piccc-image")
        >>> print(tool.invoke({"prompt": "A ceramic mug.", "aspect_ratio": "1:1"}))
        The image is finished (task task_...): http...
    """

    name: str = asked.GENERATE_IMAGE
    description: str = asked.DESCRIPTIONS[asked.GENERATE_IMAGE]
    args_schema: ArgsSchema | None = asked.ImageArguments
    _type: ClassVar[TaskType] = "image"


class PicccVideoTool(_MakingTool):
    """Make videos; all else is as with `PicccImageTool`.

    Examples:
        >>> from langchain_piccc import PicccVideoTool
        >>> tool = PicccVideoTool(model="piccc-video", mode="submit")
        >>> print(tool.invoke({"prompt": "A mug that turns.", "duration_seconds": 2}))
        The video is ... task task_... later with get_media_task.
    """

    name: str = asked.GENERATE_VIDEO
    description: str = asked.DESCRIPTIONS[asked.GENERATE_VIDEO]
    args_schema: ArgsSchema | None = asked.VideoArguments
    _type: ClassVar[TaskType] = "video"


class PicccTaskTool(PicccMediaTool):
    """Look at a task, and wait for it: as long as the model says, else for `wait_s` seconds.

    Examples:
        >>> from langchain_piccc import PicccTaskTool
        >>> from piccc import Client
        >>> task = Client().images.submit("A ceramic mug", model="piccc-image")
        >>> print(PicccTaskTool().invoke({"task_id": task.id}))
        The image is finished (task task_...): http...
    """

    name: str = asked.GET_TASK
    description: str = asked.DESCRIPTIONS[asked.GET_TASK]
    args_schema: ArgsSchema | None = asked.TaskArguments
    wait_s: float | None = Field(default=60.0, ge=0)

    async def _work(self, errand: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        await errand.read(arguments["task_id"])
        seconds = arguments.get("wait_seconds")
        await errand.attend(self.wait_s if seconds is None else seconds)
        return await errand.report()


class PicccTaskListTool(PicccMediaTool):
    """List the latest tasks of the account.

    Examples:
        >>> from langchain_piccc import PicccTaskListTool
        >>> from piccc import Client
        >>> task = Client().images.submit("A ceramic mug", model="piccc-image")
        >>> print(PicccTaskListTool().invoke({"type": "image", "limit": 1}))
        image task_... completed: A ceramic mug
    """

    name: str = asked.LIST_TASKS
    description: str = asked.DESCRIPTIONS[asked.LIST_TASKS]
    args_schema: ArgsSchema | None = asked.TaskListArguments

    async def _work(self, errand: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        wanted = asked.TaskListArguments(**arguments)
        return await errand.list(wanted.type, wanted.status, wanted.limit)


def _unfit(error: ValidationError) -> str:
    report = failed(error)
    current().failure = report.artifact
    return report.text


def _given(report: ToolResult) -> tuple[Content, dict[str, Any]]:
    if report.error is not None:
        current().failure = report.artifact
        raise ToolException(report.text) from report.error
    if not report.pictures:
        return report.text, report.artifact
    return [{"type": "text", "text": report.text}, *map(dict, report.pictures)], report.artifact


async def _pause_until_done(errand: MediaToolRun, task: Task) -> None:
    from langgraph.types import interrupt

    while not task.is_terminal:
        # Whatever the run is resumed with is a hint: what the task has become is asked again.
        interrupt({EVENT: progress(task)})
        task = await errand.read(task.id)


def _signals() -> tuple[type[Exception], ...]:
    """Return the exceptions by which a graph stops a tool."""
    if "langgraph" not in sys.modules:
        return ()
    from langgraph.errors import GraphBubbleUp

    return (GraphBubbleUp,)


class PicccMediaToolkit(StrictModel, BaseToolkit):
    """Make the four media tools: image, video, look at a task, list tasks.

    What takes longer than `wait_s` the model asks for later, because here it has the tool to ask with. To
    have a human agree before anything is paid for, add LangChain's HumanInTheLoopMiddleware to the agent.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccMediaToolkit, media_from
        >>> toolkit = PicccMediaToolkit(image_model="piccc-image", video_model="piccc-video")
        >>> agent = create_agent(ChatPiccc(), toolkit.get_tools())
        >>> result = agent.invoke({"messages": [("user", 'Make a square picture "a red ceramic mug".')]})
        >>> [(task.status, task.prompt) for task in media_from(result["messages"])]
        [('completed', 'a red ceramic mug')]
    """

    client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.Client` for all tools; without one each makes its own from the environment."""
    async_client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.AsyncClient` for all tools. Default: made from `client`."""
    on_update: OnUpdate | None = Field(default=None, exclude=True, repr=False)
    """Called with a task at each change of its status or progress."""
    image_model: str | None = None
    """The model that makes images. Default: `PICCC_IMAGE_MODEL`."""
    video_model: str | None = None
    """The model that makes videos. Default: `PICCC_VIDEO_MODEL`."""
    mode: Mode = "wait"
    """What the image and the video tool do once a task is submitted: see `PicccImageTool.mode`."""
    wait_s: float | None = Field(default=60.0, ge=0)
    """How many seconds a call waits at most; then the model is told that the task is still running."""
    show: Show = "none"
    """Whether a finished image goes to the model too: `none`, `image`, or a `thumbnail` of 512 pixels."""

    def get_tools(self) -> list[BaseTool]:
        """Return the tools."""
        shared: dict[str, Any] = {
            "client": self.client,
            "async_client": self.async_client,
            "on_update": self.on_update,
            "wait_s": self.wait_s,
            "show": self.show,
        }
        return [
            PicccImageTool(model=self.image_model, mode=self.mode, **shared),
            PicccVideoTool(model=self.video_model, mode=self.mode, **shared),
            PicccTaskTool(**shared),
            PicccTaskListTool(**shared),
        ]
