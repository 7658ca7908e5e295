"""The image and video tools, and `media_from`, which reads their tasks from messages and states."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    CallbackManagerForToolRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, BaseToolkit, InjectedToolArg, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic.json_schema import SkipJsonSchema

from langchain_piccc._settings import STRICT, ClientSettings, StrictModel
from langchain_piccc.shown_images import references
from piccc import errors
from piccc.errors import InvalidArgumentError, MissingExtraError
from piccc.media import agent_tools
from piccc.media.agent_tools import (
    ClientPair,
    MediaToolRun,
    Show,
    ToolResult,
    failed,
    progress,
    run_sync_tool,
    submission_key,
    tasks_in,
    warn_once,
)
from piccc.media.ledgers import Ledger, MemoryLedger
from piccc.tasks import Task, TaskType

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client

EVENT = "piccc_task"
"""The name of the custom event that reports a task's progress, and the key in an interrupt's value."""
TASKS = "piccc_tasks"
"""The key in states and in messages' `additional_kwargs` where `PicccTasksMiddleware` keeps tasks."""

OnUpdate = Callable[[Task], object]
RunManager = CallbackManagerForToolRun | AsyncCallbackManagerForToolRun | None


@dataclass(slots=True)
class CallContext:
    """The identity of the tool call being run.

    Attributes:
        tool_call_id: the call's id; servers that number the calls of each reply from 1 repeat ids.
        thread_id: the LangGraph thread, or None.
        place: the LangGraph task that runs the call, the same whenever that task is rerun; None outside a
            graph.
        message_id: the id of the model's reply with the call if a `ToolNode` runs it, else None. It
            distinguishes equal calls in two replies and, unlike `place`, stays the same in a replay or fork.
        durability: when LangGraph saves checkpoints: `sync`, `async` or `exit`.
        failure: the artifact of an error.
    """

    tool_call_id: str | None = None
    thread_id: str | None = None
    place: str | None = None
    message_id: str | None = None
    durability: str = "sync"
    failure: dict[str, Any] | None = None

    def key(self, type: str, arguments: Mapping[str, Any]) -> str | None:
        """Return the submission's key, or None if the call cannot be told apart from others.

        Outside a graph, that is a call without a thread: another user's call may have the same id.
        """
        if self.tool_call_id is None or (self.thread_id is None and self.place is None):
            return None
        # Message ids are unique within a thread: LangGraph's states rely on it too.
        by_message = self.thread_id is not None and self.message_id is not None
        origin = ("message", self.message_id) if by_message else ("place", self.place)
        return submission_key("langchain", self.thread_id, *origin, self.tool_call_id, type, dict(arguments))

    def completed(self, output: Any) -> Any:
        """Return the tool's output, with any failure as its artifact."""
        if isinstance(output, ToolMessage) and output.artifact is None:
            output.artifact = self.failure
        return output


_current: ContextVar[CallContext | None] = ContextVar("piccc_call", default=None)


@contextmanager
def call_context(options: Mapping[str, Any], state: object = None) -> Iterator[CallContext]:
    """Set the context of a call from the options of `BaseTool.run` and the graph's state."""
    configurable = (options.get("config") or {}).get("configurable") or {}
    metadata = (options.get("config") or {}).get("metadata") or {}
    thread_id = configurable.get("thread_id")
    place = configurable.get("checkpoint_ns") or metadata.get("langgraph_checkpoint_ns")
    if not place and "langgraph_node" in metadata:
        warn_once(
            "This version of LangGraph does not tell tools which graph task runs them. If the server numbers "
            "tool calls from 1 in each reply, they may be confused. Report this, and use an earlier version."
        )
    call = CallContext(
        options.get("tool_call_id"),
        None if thread_id is None else str(thread_id),
        place or None,
        _message_id(state, options.get("tool_call_id")),
        # LangGraph's own key; absent if the graph uses the default or there is no graph.
        configurable.get("__pregel_durability", "async"),
    )
    token = _current.set(call)
    try:
        yield call
    finally:
        _current.reset(token)


def _message_id(state: object, tool_call_id: str | None) -> str | None:
    """Return the id of the latest message with this tool call id."""
    messages = state.get("messages") if isinstance(state, Mapping) else getattr(state, "messages", state)
    for message in reversed(messages if isinstance(messages, Sequence) else ()):
        if isinstance(message, AIMessage) and tool_call_id in (call["id"] for call in message.tool_calls):
            return message.id
    return None


def _runtime_class() -> Any:
    """Return the annotation that makes a `ToolNode` pass the state to a tool; None without LangGraph."""
    return getattr(sys.modules.get("langgraph.prebuilt"), "ToolRuntime", None)


@lru_cache
def _with_runtime(schema: type[BaseModel], runtime_class: Any) -> type[BaseModel]:
    """Return a tool's argument schema with the injected runtime added."""
    hint = Annotated[runtime_class, InjectedToolArg, SkipJsonSchema()]
    settings = ConfigDict(arbitrary_types_allowed=True)
    base = type(schema.__name__, (schema,), {"model_config": settings, "__module__": __name__})
    return create_model(schema.__name__, __base__=base, runtime=(hint, None))


def _split_runtime(tool_input: str | dict[str, Any]) -> tuple[str | dict[str, Any], Any]:
    """Return a tool's input without LangGraph's runtime, and the runtime's state."""
    if isinstance(tool_input, str) or (runtime_class := _runtime_class()) is None:
        return tool_input, None
    runtime = tool_input.get("runtime")
    if not isinstance(runtime, runtime_class):  # made up by the model: rejected like any unknown argument
        return tool_input, None
    return {name: value for name, value in tool_input.items() if name != "runtime"}, runtime.state


def current_call() -> CallContext:
    """Return the context of the current call."""
    return _current.get() or CallContext()


class Progress:
    """Progress reporter for blocking code: calls a hook, LangGraph's `custom` stream and callbacks."""

    def __init__(self, on_update: OnUpdate | None, run_manager: RunManager) -> None:
        self._on_update = on_update
        self._config = RunnableConfig(callbacks=run_manager.get_child()) if run_manager else None
        self._write = _stream_writer()
        self.heartbeat = _heartbeat()

    def report(self, task: Task) -> None:
        """Report a task's current state."""
        if self._write is not None:
            self._write({EVENT: progress(task)})
        if self._config is not None:
            self._dispatch(progress(task), self._config)
        if self._on_update is not None:
            self._on_update(task)

    def _dispatch(self, data: dict[str, Any], config: RunnableConfig) -> None:
        dispatch_custom_event(EVENT, data, config=config)


class AsyncProgress(Progress):
    """Progress reporter for coroutines; `flush` awaits the events in flight."""

    def __init__(self, on_update: OnUpdate | None, run_manager: RunManager) -> None:
        super().__init__(on_update, run_manager)
        self._events: list[asyncio.Task[None]] = []

    async def flush(self) -> None:
        """Wait until all events are dispatched."""
        await asyncio.gather(*self._events, return_exceptions=True)

    def _dispatch(self, data: dict[str, Any], config: RunnableConfig) -> None:
        self._events.append(asyncio.ensure_future(adispatch_custom_event(EVENT, data, config=config)))


def _heartbeat() -> Callable[[], None] | None:
    """Return a function that keeps LangGraph's `idle_timeout` from ending a node while it polls."""
    if "langgraph" not in sys.modules:
        return None
    from langgraph.runtime import get_runtime

    try:
        return getattr(get_runtime(), "heartbeat", None)  # missing in the oldest version we support
    except (KeyError, RuntimeError):  # no graph runs the tool
        return None


def _stream_writer() -> Callable[[Any], None] | None:
    if "langgraph" not in sys.modules:
        return None
    from langgraph.config import get_stream_writer

    try:
        return get_stream_writer()
    except (KeyError, RuntimeError):  # no graph runs the tool
        return None


def media_from(
    source: BaseMessage | Iterable[BaseMessage | Mapping[str, Any]] | Mapping[str, Any],
) -> list[Task]:
    """Return the tasks that the media tools reported, each once with its latest report.

    Args:
        source: a message, messages, or a graph's state; from an agent, a checkpoint, or as JSON from a
            remote graph.

    To save a task's outputs, get it with `client.tasks.get(task)`.
    """
    if isinstance(source, Mapping) and ("messages" in source or TASKS in source):
        kept = source.get(TASKS) or {}
        artifacts = [*_artifacts_of(source.get("messages") or ()), *kept.values()]
    else:
        artifacts = list(_artifacts_of([source] if isinstance(source, BaseMessage | Mapping) else source))
    tasks: dict[str, Task] = {}
    for artifact in artifacts:
        for task in tasks_in(artifact):
            # A state may hold an older report than the messages: an ended task stays ended.
            if task.is_terminal or not (task.id in tasks and tasks[task.id].is_terminal):
                tasks[task.id] = task
    return list(tasks.values())


def _artifacts_of(messages: Iterable[BaseMessage | Mapping[str, Any]]) -> Iterator[object]:
    for message in messages:
        fields = message if isinstance(message, Mapping) else message.__dict__
        if (artifact := fields.get("artifact")) is not None:
            yield artifact
        yield from (fields.get("additional_kwargs") or {}).get(TASKS, ())


Content = str | list[str | dict[str, Any]]
Mode = Literal["wait", "submit", "interrupt", "background"]


class PicccMediaTool(ClientSettings, BaseTool):
    """Base class of the media tools.

    The model gets a short text; your program gets a JSON artifact, which `media_from` reads. Every failure is
    an error message that says whether to call again, so an agent never stops because of one. Progress goes
    to `on_update`, to the custom event `piccc_task`, and to LangGraph's `custom` stream.

    To never pay twice after a restart, give `client` a ledger in a file and run the graph with
    `durability="sync"`; with LangGraph's other durabilities a killed process may lose the call's id. To limit
    an agent's spending, give the client a `spend_limit`.

    A call is identified by its thread, the model's message, its id and its arguments. Rerun, even in a replay
    or fork, it returns the same task; the same call in another message creates a new task. If no `ToolNode`
    runs it, or its message has no id, the graph task replaces the message, and a replay is a new call.
    Outside a graph, a call is identified by thread and id; without a thread, calls cannot be told apart.
    """

    model_config = STRICT

    client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.Client` to use instead of one created from the settings."""
    async_client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.AsyncClient` to use instead of one created from the settings or from `client`."""
    on_update: OnUpdate | None = Field(default=None, exclude=True, repr=False)
    """Called with the task whenever its status or progress changes."""
    wait_s: float | None = Field(default=600.0, ge=0)
    """Maximum seconds to wait for one task; after that, the model is told that it is still running."""
    show: Show = "none"
    """Whether to show finished images to the model: `none`, `image`, or a 512-pixel `thumbnail`.

    The message holds only a reference, to keep checkpoints small. `ChatPiccc` fetches the image for each
    request and caches the latest ones in memory; other models get its URL as a standard block."""
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    handle_validation_error: Any = Field(default_factory=lambda: _invalid_arguments, exclude=True, repr=False)

    @model_validator(mode="after")
    def _check_clients(self) -> Self:
        self._pair()  # raises for a client of the wrong kind
        return self

    @model_validator(mode="after")
    def _check_pillow(self) -> Self:
        if self.show == "thumbnail" and find_spec("PIL") is None:
            raise MissingExtraError('show="thumbnail" needs Pillow.', hint="pip install pillow")
        return self

    def run(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Run the tool; rerunning the same call does not submit it again."""
        tool_input, state = _split_runtime(tool_input)
        with call_context(kwargs, state) as call:
            return call.completed(super().run(tool_input, *args, **kwargs))

    async def arun(self, tool_input: str | dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Run the tool; rerunning the same call does not submit it again."""
        tool_input, state = _split_runtime(tool_input)
        with call_context(kwargs, state) as call:
            return call.completed(await super().arun(tool_input, *args, **kwargs))

    def _run(self, run_manager: CallbackManagerForToolRun | None = None, **arguments: Any) -> Any:
        client = self._pair().sync(self.http_client)
        reports = Progress(self.on_update, run_manager)
        run = self._tool_run(client, reports)
        return self._output(run_sync_tool(run.reported(self._work(run, arguments), _signals())))

    async def _arun(self, run_manager: AsyncCallbackManagerForToolRun | None = None, **arguments: Any) -> Any:
        client = self._pair().asynchronous(self.http_async_client)
        reports = AsyncProgress(self.on_update, run_manager)
        run = self._tool_run(client, reports)
        try:
            return self._output(await run.reported(self._work(run, arguments), _signals()))
        finally:
            await reports.flush()

    def _tool_run(self, client: Client | AsyncClient, reports: Progress) -> MediaToolRun:
        return MediaToolRun(
            client,
            tool=self.name,
            call_id=current_call().tool_call_id,
            on_update=reports.report,
            on_poll=reports.heartbeat,
        )

    async def _work(self, run: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        raise NotImplementedError

    def _output(self, report: ToolResult) -> tuple[Content, dict[str, Any]]:
        if report.error is not None:
            current_call().failure = report.artifact
            raise ToolException(report.text) from report.error
        if self.show == "none":
            return report.text, report.artifact
        images = references(report.artifact, self.show)
        return [{"type": "text", "text": report.text}, *images] if images else report.text, report.artifact

    def _pair(self) -> ClientPair[Client, AsyncClient]:
        return ClientPair(self.client, self.async_client, self._sync_client)


class _GenerationTool(PicccMediaTool):
    model: str | None = None
    """The model's name. Default: `PICCC_IMAGE_MODEL` or `PICCC_VIDEO_MODEL`."""
    mode: Mode = "wait"
    """What to do after submitting the task.

    - `wait`: wait up to `wait_s` seconds. A task that takes longer is a normal result; the model can ask for
      it later.
    - `submit`: return immediately.
    - `interrupt`: stop the LangGraph run until it is resumed with `resume_when_done` or by the interrupt's
      id. This needs a checkpointer and, to survive a restart, a client with its ledger in a file.
    - `background`: return immediately; `PicccTasksMiddleware` tells the model when the task is finished.
    """
    lost: Literal["ask", "resend"] = "ask"
    """What to do if an earlier run of the call got no response.

    - `ask`: tell the model.
    - `resend`: submit again after a minute if the task is not in the account's list.
    """
    _type: ClassVar[TaskType]

    def get_input_schema(self, config: RunnableConfig | None = None) -> type[Any]:
        """Return the argument schema; in LangGraph it also requests the runtime."""
        schema: Any = super().get_input_schema(config)
        runtime_class = _runtime_class()
        return schema if runtime_class is None else _with_runtime(schema, runtime_class)

    async def _work(self, run: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        call = current_call()
        if self.mode == "interrupt" and None in (call.tool_call_id, call.thread_id, call.place):
            raise InvalidArgumentError(
                'mode="interrupt" needs a LangGraph run with a checkpointer and a thread_id.',
                hint='Nothing was sent. Use mode="wait" elsewhere.',
            )
        key = call.key(self._type, arguments)
        if key is not None and None not in (call.thread_id, call.place):
            _warn_of_durability(run.client.ledger, call)
        try:
            task = await run.place(self._type, {"model": self.model, **arguments}, key=key, lost=self.lost)
        except _TRANSIENT:
            # The task may exist but be unreachable right now: stop or wait until it can be read.
            if self.mode not in ("interrupt", "wait") or (known := await run.submitted()) is None:
                raise
            if self.mode == "interrupt":
                _stop(known)
            task = await run.catch_up(known, self.wait_s)
        run.report_progress()
        if self.mode == "interrupt" and not task.is_terminal:
            _stop(task)
        await run.attend(self.wait_s if self.mode == "wait" else 0)
        return await run.report("You will be told when it is finished." if self.mode == "background" else "")


class PicccImageTool(_GenerationTool):
    """Tool that makes images.

    The model gets a short text; your program gets a JSON artifact, which `media_from` reads. Every failure is
    an error message that says whether to call again. To never pay twice after a restart, pass a `client`
    with its ledger in a file and run the graph with `durability="sync"`.

    Examples:
        >>> from langchain_piccc import PicccImageTool
        >>> tool = PicccImageTool(model="piccc-image")
        >>> print(tool.invoke({"prompt": "A ceramic mug.", "aspect_ratio": "1:1"}))
        The image is finished (task task_...): http...
    """

    name: str = agent_tools.GENERATE_IMAGE
    description: str = agent_tools.DESCRIPTIONS[agent_tools.GENERATE_IMAGE]
    args_schema: ArgsSchema | None = agent_tools.ImageArguments
    _type: ClassVar[TaskType] = "image"


class PicccVideoTool(_GenerationTool):
    """Tool that makes videos; otherwise like `PicccImageTool`.

    Examples:
        >>> from langchain_piccc import PicccVideoTool
        >>> tool = PicccVideoTool(model="piccc-video", mode="submit")
        >>> print(tool.invoke({"prompt": "A mug that turns.", "duration_seconds": 2}))
        The video is ... task task_... later with get_media_task.
    """

    name: str = agent_tools.GENERATE_VIDEO
    description: str = agent_tools.DESCRIPTIONS[agent_tools.GENERATE_VIDEO]
    args_schema: ArgsSchema | None = agent_tools.VideoArguments
    _type: ClassVar[TaskType] = "video"


class PicccTaskTool(PicccMediaTool):
    """Tool that gets a task, waiting for it as long as the model asks, by default `wait_s` seconds.

    Examples:
        >>> from langchain_piccc import PicccTaskTool
        >>> from piccc import Client
        >>> task = Client().images.submit("A ceramic mug", model="piccc-image")
        >>> print(PicccTaskTool().invoke({"task_id": task.id}))
        The image is finished (task task_...): http...
    """

    name: str = agent_tools.GET_TASK
    description: str = agent_tools.DESCRIPTIONS[agent_tools.GET_TASK]
    args_schema: ArgsSchema | None = agent_tools.TaskArguments
    wait_s: float | None = Field(default=60.0, ge=0)

    async def _work(self, run: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        await run.read(arguments["task_id"])
        seconds = arguments.get("wait_seconds")
        await run.attend(self.wait_s if seconds is None else seconds)
        return await run.report()


class PicccTaskListTool(PicccMediaTool):
    """Tool that lists the account's latest tasks.

    Examples:
        >>> from langchain_piccc import PicccTaskListTool
        >>> from piccc import Client
        >>> task = Client().images.submit("A ceramic mug", model="piccc-image")
        >>> print(PicccTaskListTool().invoke({"type": "image", "limit": 1}))
        image task_... completed: A ceramic mug
    """

    name: str = agent_tools.LIST_TASKS
    description: str = agent_tools.DESCRIPTIONS[agent_tools.LIST_TASKS]
    args_schema: ArgsSchema | None = agent_tools.TaskListArguments

    async def _work(self, run: MediaToolRun, arguments: dict[str, Any]) -> ToolResult:
        wanted = agent_tools.TaskListArguments(**arguments)
        return await run.list(wanted.type, wanted.status, wanted.limit)


def _invalid_arguments(error: ValidationError) -> str:
    report = failed(error)
    current_call().failure = report.artifact
    return report.text


_TRANSIENT = (errors.APIConnectionError, errors.RateLimitError, errors.ResponseError, errors.ServerError)


def _stop(task: Task) -> NoReturn:
    """Interrupt the run until the task has ended.

    This does not use `interrupt()`, because LangGraph matches its resume values by order. A rerun stops
    here only if the task is still running, so its value could slip to the next `interrupt()` in the same
    graph task and answer a question meant for a human. This interrupt takes no value: its id belongs to no
    graph task, so LangGraph drops any value sent to it.
    """
    from langgraph.errors import GraphInterrupt
    from langgraph.types import Interrupt

    # LangGraph reads a mapping as interrupt ids if every key has this form.
    id = hashlib.sha256(f"{EVENT}:{task.id}".encode()).hexdigest()[:32]
    raise GraphInterrupt((Interrupt({EVENT: progress(task)}, id),))


def _warn_of_durability(ledger: Ledger, call: CallContext) -> None:
    """Warn once that a file ledger alone does not prevent double payment if the process is killed."""
    if call.durability == "sync" or isinstance(ledger, MemoryLedger):
        return
    warn_once(
        "The ledger prevents double payment after a crash only if checkpoints are saved before the tools "
        'run: pass durability="sync" to invoke or stream. Otherwise, after a crash the model is asked again, '
        "and its new call is a new submission."
    )


def _signals() -> tuple[type[Exception], ...]:
    """Return the exceptions that LangGraph uses to stop a tool."""
    if "langgraph" not in sys.modules:
        return ()
    from langgraph.errors import GraphBubbleUp

    return (GraphBubbleUp,)


class PicccMediaToolkit(StrictModel, BaseToolkit):
    """Toolkit with the four media tools: make an image, make a video, get a task, list tasks.

    If a task takes longer than `wait_s`, the model can get it later with the task tool. To have a human
    approve every payment, add LangChain's HumanInTheLoopMiddleware to the agent.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccMediaToolkit, media_from
        >>> toolkit = PicccMediaToolkit(image_model="piccc-image", video_model="piccc-video")
        >>> agent = create_agent(ChatPiccc(), toolkit.get_tools())
        >>> result = agent.invoke({"messages": [("user", 'Make a square image "a red ceramic mug".')]})
        >>> [(task.status, task.prompt) for task in media_from(result["messages"])]
        [('completed', 'a red ceramic mug')]
    """

    model_config = STRICT

    client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.Client` for all tools; by default each creates its own from the environment."""
    async_client: Any = Field(default=None, exclude=True, repr=False)
    """A `piccc.AsyncClient` for all tools. Default: created from `client`."""
    on_update: OnUpdate | None = Field(default=None, exclude=True, repr=False)
    """Called with a task whenever its status or progress changes."""
    image_model: str | None = None
    """The image model. Default: `PICCC_IMAGE_MODEL`."""
    video_model: str | None = None
    """The video model. Default: `PICCC_VIDEO_MODEL`."""
    mode: Mode = "wait"
    """What the image and video tools do after submitting a task; see `PicccImageTool.mode`."""
    lost: Literal["ask", "resend"] = "ask"
    """What they do if an earlier run of a call got no response; see `PicccImageTool.lost`."""
    wait_s: float | None = Field(default=60.0, ge=0)
    """Maximum seconds that a call waits; after that, the model is told that the task is still running."""
    show: Show = "none"
    """Whether to show finished images to the model: `none`, `image`, or a 512-pixel `thumbnail`."""

    @model_validator(mode="after")
    def _check_clients(self) -> Self:
        PicccTaskTool(client=self.client, async_client=self.async_client)  # raises for a wrong client
        return self

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
            PicccImageTool(model=self.image_model, mode=self.mode, lost=self.lost, **shared),
            PicccVideoTool(model=self.video_model, mode=self.mode, lost=self.lost, **shared),
            PicccTaskTool(**shared),
            PicccTaskListTool(**shared),
        ]
