"""Tools with which an agent makes images and videos, looks at tasks and lists them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.tools import BaseTool, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import Field, ValidationError, model_validator

from langchain_piccc._calls import calling, current
from langchain_piccc._connection import STRICT, Connection
from langchain_piccc._progress import EVENT, AsyncProgress, OnUpdate, Progress
from piccc.errors import InvalidArgumentError, MissingExtraError
from piccc.media import arguments as asked
from piccc.media.errand import Errand, Show, blocking
from piccc.media.report import Report, failed, progress
from piccc.tasks import Task, TaskType

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client

Content = str | list[str | dict[str, Any]]
Mode = Literal["wait", "submit", "interrupt", "background"]


class PicccMediaTool(Connection, BaseTool):
    """What the media tools share.

    The model reads a short text; the artifact is JSON for the program, which `media_from` reads. Every
    failure is an error message that says whether to call again, so that no agent ends by one. Progress goes
    to `on_update`, out as the event `piccc_task`, and into LangGraph's `custom` stream.

    Give `client` a ledger in a file, and no restart of the process makes anybody pay twice; give it an
    allowance, and no agent spends more.
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
        errand = Errand(self._blocking_client(), show=self.show, on_update=told.tell)
        return _given(blocking(errand.reported(self._work(errand, arguments), _signals())))

    async def _arun(self, run_manager: AsyncCallbackManagerForToolRun | None = None, **arguments: Any) -> Any:
        told = AsyncProgress(self.on_update, run_manager)
        errand = Errand(self._running_client(), show=self.show, on_update=told.tell)
        try:
            return _given(await errand.reported(self._work(errand, arguments), _signals()))
        finally:
            await told.told()

    async def _work(self, errand: Errand, arguments: dict[str, Any]) -> Report:
        raise NotImplementedError

    def _blocking_client(self) -> Client:
        if self.client is None and self.async_client is not None:
            given: Client = self.async_client.as_blocking(http_client=self.http_client)
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

    async def _work(self, errand: Errand, arguments: dict[str, Any]) -> Report:
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

    Example:
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

    Example:
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

    Example:
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

    async def _work(self, errand: Errand, arguments: dict[str, Any]) -> Report:
        await errand.read(arguments["task_id"])
        seconds = arguments.get("wait_seconds")
        await errand.attend(self.wait_s if seconds is None else seconds)
        return await errand.report()


class PicccTaskListTool(PicccMediaTool):
    """List the latest tasks of the account.

    Example:
        >>> from langchain_piccc import PicccTaskListTool
        >>> from piccc import Client
        >>> task = Client().images.submit("A ceramic mug", model="piccc-image")
        >>> print(PicccTaskListTool().invoke({"type": "image", "limit": 1}))
        image task_... completed: A ceramic mug
    """

    name: str = asked.LIST_TASKS
    description: str = asked.DESCRIPTIONS[asked.LIST_TASKS]
    args_schema: ArgsSchema | None = asked.TaskListArguments

    async def _work(self, errand: Errand, arguments: dict[str, Any]) -> Report:
        wanted = asked.TaskListArguments(**arguments)
        return await errand.list(wanted.type, wanted.status, wanted.limit)


def _unfit(error: ValidationError) -> str:
    report = failed(error)
    current().failure = report.artifact
    return report.text


def _given(report: Report) -> tuple[Content, dict[str, Any]]:
    if report.error is not None:
        current().failure = report.artifact
        raise ToolException(report.text) from report.error
    if not report.pictures:
        return report.text, report.artifact
    return [{"type": "text", "text": report.text}, *map(dict, report.pictures)], report.artifact


async def _pause_until_done(errand: Errand, task: Task) -> None:
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
