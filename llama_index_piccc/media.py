"""Media tools and their events for LlamaIndex agents and workflows."""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast, get_args
from weakref import finalize

from llama_index.core.base.llms.types import ContentBlock, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool, ToolMetadata, ToolOutput
from llama_index.core.tools.tool_spec.base import SPEC_FUNCTION_TYPE, BaseToolSpec
from llama_index.core.workflow import Context
from workflows.events import Event, HumanResponseEvent, InputRequiredEvent

from piccc.errors import InvalidArgumentError
from piccc.media import agent_tools
from piccc.media.account import Lost
from piccc.media.agent_tools import (
    ClientPair,
    MediaToolRun,
    OnUpdate,
    Show,
    ToolResult,
    run_sync_tool,
    submission_key,
    tasks_in,
    warn_once,
)
from piccc.tasks import Task, TaskType

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client


AnyContext = Context[Any] | None


class PicccTaskProgress(Event):
    """Event written when a task's status or progress changes.

    Attributes:
        task_id: the task's id.
        type: `image` or `video`.
        status: the status, as in `piccc.Task`.
        progress: 0 to 100, or None.
    """

    task_id: str
    type: str
    status: str
    progress: float | None = None

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the event for a task's current state.

        Args:
            task: the task.
        """
        return cls(task_id=task.id, type=task.type, status=task.status, progress=task.progress)


class PicccTaskSubmitted(InputRequiredEvent):
    """Event from a tool that waits for a task: answer with `PicccTaskFinished` when the task has ended.

    Attributes:
        task_id: the task's id.
        type: `image` or `video`.
    """

    task_id: str
    type: str


class PicccTaskFinished(HumanResponseEvent):
    """Event that wakes the tool waiting for the task `task_id`.

    The tool then reads the task, so sending the event early is harmless. It may be sent twice, as webhooks
    are: the tool returns its result once.
    """

    task_id: str


class _Never(Event):
    """Event that never arrives; a repeated run of a step waits for it."""


class Wait(NamedTuple):
    """A step's wait for an event.

    Attributes:
        id: its id in the workflow's context.
        work_item_id: the id of the step's run that started it.
        is_over: whether its event has arrived or it has timed out.
    """

    id: str
    work_item_id: str | None
    is_over: bool


@dataclass(frozen=True, slots=True)
class Step:
    """A run of a step in a LlamaIndex workflow.

    Attributes:
        context: the step's worker state, different for each run.
        name: the step's name.
        tool_id: in an agent, the id of the model's call that the step runs.
        work_item_id: the step's place in the workflow run, the same when it is rerun.
        invocation_id: an id that is different each time the step is rerun.
        is_retry: whether the step failed before.
        waits: the waits that the step has started.
        collected: the number of events collected, by name.
    """

    context: object
    name: str
    tool_id: str
    work_item_id: str | None
    invocation_id: str | None
    is_retry: bool
    waits: tuple[Wait, ...]
    collected: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call in a step.

    Attributes:
        key: the submission's key, the same when the step is rerun.
        waits: the id of its waits in the workflow's context, also valid if a saved context continues in a
            new run.
        step: the step.
        run_id: the workflow run's id, or empty if unknown.
    """

    key: str
    waits: str
    step: Step
    run_id: str

    def waiter_id(self, task_id: str, turn: int) -> str:
        """Return the id of the n-th wait for the task."""
        return f"piccc/{self.waits}/{turn}/{task_id}"

    def begun_waits(self) -> list[str]:
        """Return the ids of the tasks that the call has waited for, in order.

        A saved context keeps them, so a waiting call finds its task even without a ledger.
        """
        prefix = f"piccc/{self.waits}/"
        ids = [wait.id.split("/", 3) for wait in self.step.waits if wait.id.startswith(prefix)]
        return [task_id for _, _, _, task_id in sorted(ids, key=lambda parts: int(parts[2]))]

    def is_repeated(self) -> bool:
        """Return whether this run of the step has nothing to do, because its event was already handled.

        LlamaIndex reruns a step for every event it waits for, even if the event is sent twice, because a
        wait lasts until the step ends. Other reruns handle another event, another collection of events, or
        a retry.
        """
        step = self.step
        if not self.run_id or step.work_item_id is None or step.is_retry:
            return False
        events = frozenset(
            wait.id for wait in step.waits if wait.work_item_id == step.work_item_id and wait.is_over
        )
        runs = _runs.setdefault((self.run_id, step.name, step.work_item_id), {})
        while len(_runs) > _MAX_STEPS:
            _runs.popitem(last=False)
        # A run without events, after a run that had some, starts after that run has ended.
        repeated = any(
            invocation != step.invocation_id
            and (earlier == events or not events)
            and step.collected == collected
            for (earlier, collected), invocation in runs.items()
        )
        if events and not repeated:
            runs[events, step.collected] = step.invocation_id
        return repeated


def current_call(session: str, type: str, arguments: Mapping[str, Any], ctx: AnyContext) -> Call | None:
    """Return the current call; None outside a step.

    A step is identified by its place in the run and, in an agent, by the id of the model's call. The run is
    identified by `session`, or else by a run id, which does not survive a restart. The run id is not needed
    if the call's id is long enough to be unique; some servers number the calls of each reply from 1. Equal
    calls in one step are numbered.
    """
    step = _current_step(ctx)
    if step is None:
        return None
    run_id = _run_id()
    run = "" if session or len(step.tool_id) >= UNIQUE_LENGTH else run_id
    place = (session, step.tool_id, step.work_item_id, type, dict(arguments))
    parts = (*place, _count(step, submission_key(*place)))
    return Call(submission_key("llama-index", run, *parts), submission_key("wait", *parts), step, run_id)


UNIQUE_LENGTH = 16
"""Minimum length of a call id that we treat as unique, such as OpenAI's, Anthropic's and UUIDs."""
_MAX_STEPS = 10_000
_runs: OrderedDict[tuple[str, str, str], dict[tuple[frozenset[str], Any], str | None]] = OrderedDict()
"""For the latest steps: the events that were handled, and the run of the step that handled them."""
_counts: dict[int, Counter[str]] = {}


def _count(step: Step, call: str) -> int:
    """Return the number of equal calls that this run of the step has already made."""
    context_id = id(step.context)
    if context_id not in _counts:
        _counts[context_id] = Counter()
        finalize(step.context, _counts.pop, context_id, None)
    _counts[context_id][call] += 1
    return _counts[context_id][call] - 1


def signals() -> tuple[type[Exception], ...]:
    """Return the exception that suspends a workflow's step until an event arrives."""
    try:
        from workflows.runtime.types.results import WaitingForEvent
    except ImportError:  # `_current_step` warns about it
        return ()
    return (WaitingForEvent,)


_UNSUPPORTED = "This version of LlamaIndex's workflows does not expose"


def _run_id() -> str:
    try:
        from llama_index_instrumentation.dispatcher import active_instrument_tags

        run_id = str(active_instrument_tags.get().get("llamaindex.run_id", ""))
    except (ImportError, AttributeError, LookupError):
        run_id = ""
    if not run_id:
        warn_once(f"{_UNSUPPORTED} run ids: pass PicccMediaToolSpec a different session= per conversation.")
    return run_id


def _current_step(ctx: AnyContext) -> Step | None:
    """Return the current step; None outside a step or, with a warning, if it cannot be determined.

    No documented API identifies a step, so any of these names may disappear in a later version.
    """
    try:
        from workflows.runtime.types.results import StepWorkerStateContextVar, WaitingForEvent  # noqa: F401

        context: Any = StepWorkerStateContextVar.get(None)
        if context is None and ctx is None:
            return None
        state = context.state
        return Step(
            context,
            state.step_name,
            str(getattr(context.event, "tool_id", None) or ""),
            state.work_item_id,
            state.invocation_id,
            context.retry.retry_number > 0,
            tuple(
                Wait(waiter.waiter_id, waiter.work_item_id, bool(waiter.resolved_event or waiter.timed_out))
                for waiter in state.collected_waiters
            ),
            tuple(sorted((name, len(events)) for name, events in state.collected_events.items())),
        )
    except (ImportError, AttributeError, LookupError):
        warn_once(
            f'{_UNSUPPORTED} the current step: a step that is rerun submits again, and mode="event" is '
            "rejected. Report this, and use an earlier version."
        )
        return None


def media_from(output: ToolOutput | Mapping[str, Any]) -> list[Task]:
    """Return the tasks that a media tool reported; none for another tool's output.

    To save a task's outputs, get it with `client.tasks.get(task)`.

    Args:
        output: the tool's output, or its `raw_output`.
    """
    return tasks_in(output.raw_output if isinstance(output, ToolOutput) else output)


Mode = Literal["wait", "submit", "event"]
EVENT_SECONDS = 86_400.0
"""How long `mode="event"` waits for the event; the workflow's default is 2000 s."""


class PicccMediaToolSpec(BaseToolSpec):
    """Image and video tools for agents and workflows, each in a blocking and an async version.

    The model gets a short text and, if `show` is set, the image; your program gets JSON in `raw_output`. A
    failure is an output with `is_error` that says whether to call again. In an agent, progress is written to
    the stream as `PicccTaskProgress`. A step that is rerun does not submit again; with a ledger in a file,
    not even in another process.

    Args:
        client: the `piccc.Client`; by default created from `async_client` or from the environment.
        async_client: the `piccc.AsyncClient`; by default created from `client`.
        image_model, video_model: the models; by default `PICCC_IMAGE_MODEL` and `PICCC_VIDEO_MODEL`.
        mode: after submitting a task, `wait` for it, only `submit`, or in a workflow suspend the step until
            the event PicccTaskFinished (`event`).
        wait_s: maximum seconds that a call waits; after that, the model is told that the task is still
            running. The workflow's own timeout must be longer.
        show: whether to show finished images to the model: `none`, `image`, or `thumbnail`, at most 512
            pixels wide and high. Their bytes are kept in the messages and in every saved context.
        session: a name for the conversation or run. Needed if the model's server does not give calls unique
            ids, or if your own steps are rerun in another process.
        on_update: called with a task whenever its status or progress changes.
        lost: what to do if an earlier run of a call got no response: `ask` tells the model, `resend` submits
            again after a minute if the task is not in the account's list.

    Raises:
        InvalidArgumentError: an unknown `mode`, `show` or `lost`.

    Examples:
        >>> import asyncio
        >>> from llama_index.core.agent.workflow import FunctionAgent
        >>> from llama_index_piccc import Piccc, PicccMediaToolSpec
        >>> tools = PicccMediaToolSpec(image_model="piccc-image").to_tool_list()
        >>> async def main():
        ...     return await FunctionAgent(tools=tools, llm=Piccc()).run('Make an image "a red mug".')
        >>> print(asyncio.run(main()))
        generate_image (a red mug): The image is finished (task task_...): http...
    """

    spec_functions: list[SPEC_FUNCTION_TYPE] = [  # noqa: RUF012  as the base class declares it
        (agent_tools.GENERATE_IMAGE, f"a{agent_tools.GENERATE_IMAGE}"),
        (agent_tools.GENERATE_VIDEO, f"a{agent_tools.GENERATE_VIDEO}"),
        (agent_tools.GET_TASK, f"a{agent_tools.GET_TASK}"),
        (agent_tools.LIST_TASKS, f"a{agent_tools.LIST_TASKS}"),
    ]
    """The tools' functions, blocking and async."""

    def __init__(
        self,
        client: Client | None = None,
        *,
        async_client: AsyncClient | None = None,
        image_model: str | None = None,
        video_model: str | None = None,
        mode: Mode = "wait",
        wait_s: float | None = 60.0,
        show: Show = "none",
        session: str = "",
        on_update: OnUpdate | None = None,
        lost: Lost = "ask",
    ) -> None:
        choices = (
            ("mode", mode, get_args(Mode)),
            ("show", show, get_args(Show)),
            ("lost", lost, get_args(Lost)),
        )
        for name, given, known in choices:
            if given not in known:
                raise InvalidArgumentError(f"{name} is {given!r}.", hint=f"Use one of {', '.join(known)}.")
        from piccc.client import Client

        self._clients: ClientPair[Client, AsyncClient] = ClientPair(client, async_client, Client)
        self._models: dict[TaskType, str | None] = {"image": image_model, "video": video_model}
        self._mode = mode
        self._wait_s = wait_s
        self._show = show
        self._session = session
        self._on_update = on_update
        self._lost = lost

    def generate_image(
        self,
        prompt: str,
        *,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """Make an image.

        Args:
            prompt: what to make.
            aspect_ratio: such as "16:9".
            resolution: such as "1K".
            ctx: not used by a blocking tool.

        Returns:
            A text for the model, and the task in `raw_output`; a failure has `is_error`.
        """
        return self.run(agent_tools.GENERATE_IMAGE, _given(prompt, aspect_ratio, resolution))

    async def agenerate_image(
        self,
        prompt: str,
        *,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """Make an image; arguments as for `generate_image`, and in a workflow `ctx` is the step's context."""
        return await self.arun(agent_tools.GENERATE_IMAGE, _given(prompt, aspect_ratio, resolution), ctx)

    def generate_video(
        self,
        prompt: str,
        *,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        duration_seconds: int | None = None,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """Make a video.

        Args:
            prompt: what to make.
            aspect_ratio: such as "16:9".
            resolution: such as "720p".
            duration_seconds: the video's length.
            ctx: not used by a blocking tool.

        Returns:
            A text for the model, and the task in `raw_output`; a failure has `is_error`.
        """
        return self.run(
            agent_tools.GENERATE_VIDEO, _given(prompt, aspect_ratio, resolution, duration_seconds)
        )

    async def agenerate_video(
        self,
        prompt: str,
        *,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        duration_seconds: int | None = None,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """Make a video; arguments as for `generate_video`, and in a workflow `ctx` is the step's context."""
        arguments = _given(prompt, aspect_ratio, resolution, duration_seconds)
        return await self.arun(agent_tools.GENERATE_VIDEO, arguments, ctx)

    def get_media_task(
        self, task_id: str, *, wait_seconds: float | None = None, ctx: AnyContext = None
    ) -> ToolOutput:
        """Wait for a task.

        Args:
            task_id: the task's id.
            wait_seconds: maximum time to wait; by default `wait_s`.
            ctx: not used by a blocking tool.

        Returns:
            A text for the model, and the task in `raw_output`; a failure has `is_error`.
        """
        return self.run(agent_tools.GET_TASK, {"task_id": task_id, "wait_seconds": wait_seconds})

    async def aget_media_task(
        self, task_id: str, *, wait_seconds: float | None = None, ctx: AnyContext = None
    ) -> ToolOutput:
        """Wait for a task; arguments as for `get_media_task`, and `ctx` is the step's context."""
        return await self.arun(agent_tools.GET_TASK, {"task_id": task_id, "wait_seconds": wait_seconds}, ctx)

    def list_media_tasks(
        self,
        *,
        type: TaskType | None = None,
        status: str | None = None,
        limit: int = 10,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """List the latest tasks, newest first.

        Args:
            type: only images or only videos.
            status: only tasks with this status, such as `completed`.
            limit: maximum number of tasks.
            ctx: not used by a blocking tool.

        Returns:
            A text for the model, and the tasks in `raw_output`; a failure has `is_error`.
        """
        return self.run(agent_tools.LIST_TASKS, {"type": type, "status": status, "limit": limit})

    async def alist_media_tasks(
        self,
        *,
        type: TaskType | None = None,
        status: str | None = None,
        limit: int = 10,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """List the latest tasks; arguments as for `list_media_tasks`, and `ctx` is the step's context."""
        return await self.arun(agent_tools.LIST_TASKS, {"type": type, "status": status, "limit": limit}, ctx)

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """Return the tools; `func_to_metadata_mapping` overrides their names and descriptions."""

        def names_of(functions: list[SPEC_FUNCTION_TYPE]) -> list[str]:
            return [function if isinstance(function, str) else function[0] for function in functions]

        known = names_of(self.spec_functions)
        names = names_of(spec_functions) if spec_functions else known
        given = func_to_metadata_mapping or {}
        if unknown := {*names, *given} - {*known}:
            raise InvalidArgumentError(
                f"Unknown tools: {', '.join(sorted(unknown))}.", hint=f"Use {', '.join(known)}."
            )
        return [PicccMediaTool(self, name, given.get(name) or _metadata(name)) for name in names]

    def run(self, name: str, arguments: Mapping[str, Any]) -> ToolOutput:
        """Run a tool.

        Args:
            name: the tool's name.
            arguments: its arguments, as the model passes them.

        Returns:
            A text for the model, and the task in `raw_output`; a failure has `is_error`.
        """
        run = self._run(self._clients.sync(), name, None, self._on_update)
        return _output(name, arguments, run_sync_tool(run.reported(self._work(name, run, arguments, None))))

    async def arun(self, name: str, arguments: Mapping[str, Any], ctx: AnyContext = None) -> ToolOutput:
        """Run a tool; arguments as for `run`, and in a workflow `ctx` is the step's context."""

        def report_progress(task: Task) -> None:
            if self._on_update is not None:
                self._on_update(task)
            if ctx is not None:
                ctx.write_event_to_stream(PicccTaskProgress.of(task))

        run = self._run(self._clients.asynchronous(), name, ctx, report_progress)
        report = await run.reported(self._work(name, run, arguments, ctx), signals())
        return _output(name, arguments, report)

    def _run(
        self, client: Client | AsyncClient, name: str, ctx: AnyContext, on_update: OnUpdate | None
    ) -> MediaToolRun:
        step = _current_step(ctx)
        call_id = step.tool_id if step else None
        return MediaToolRun(client, tool=name, call_id=call_id, show=self._show, on_update=on_update)

    async def _work(
        self, name: str, run: MediaToolRun, arguments: Mapping[str, Any], ctx: AnyContext
    ) -> ToolResult:
        match agent_tools.ARGUMENTS[name](**arguments):
            case agent_tools.ImageArguments() as wanted:
                return await self._make("image", run, wanted.model_dump(exclude_none=True), ctx)
            case agent_tools.VideoArguments() as wanted:
                return await self._make("video", run, wanted.model_dump(exclude_none=True), ctx)
            case agent_tools.TaskArguments(task_id=task_id, wait_seconds=seconds):
                await run.read(task_id)
                await run.attend(self._wait_s if seconds is None else seconds)
                return await run.report()
            case agent_tools.TaskListArguments(type=type, status=status, limit=limit):
                return await run.list(type, status, limit)
        raise NotImplementedError(name)

    async def _make(
        self, type: TaskType, run: MediaToolRun, arguments: Mapping[str, Any], ctx: AnyContext
    ) -> ToolResult:
        call = current_call(self._session, type, arguments, ctx)
        order = {"model": self._models[type], **arguments}
        if self._mode == "event":
            if ctx is None or call is None:
                raise InvalidArgumentError(
                    'mode="event" needs a workflow step and its context.',
                    hint='Nothing was sent. Use mode="wait" elsewhere.',
                )
            await self._suspend(type, run, order, call, ctx)
        else:
            await run.place(type, order, key=call.key if call else None, lost=self._lost)
        await run.attend(self._wait_s if self._mode == "wait" else 0)
        return await run.report()

    async def _suspend(
        self, type: TaskType, run: MediaToolRun, order: Mapping[str, Any], call: Call, ctx: Context[Any]
    ) -> None:
        if call.is_repeated():
            await ctx.wait_for_event(_Never, waiter_id=f"piccc/never/{call.waits}", timeout=None)
        # First repeat every wait that was started: the step then resumes where it was, and no wait is left
        # over to rerun it.
        begun = call.begun_waits()
        for turn, task_id in enumerate(begun):
            await _wait_for_event(ctx, call, task_id, type, turn)
        # The event is only a hint: read the task's actual status.
        task = (
            await run.read(begun[-1], created=type)
            if begun
            else await run.place(type, order, key=call.key, lost=self._lost)
        )
        if not task.is_terminal:
            await _wait_for_event(ctx, call, task.id, type, len(begun))


class PicccMediaTool(FunctionTool):
    """A tool of the spec: agents pass it their context; other callers need none."""

    def __init__(self, spec: PicccMediaToolSpec, name: str, metadata: ToolMetadata) -> None:
        super().__init__(fn=getattr(spec, name), async_fn=getattr(spec, f"a{name}"), metadata=metadata)
        self.requires_context = True
        self.ctx_param_name = "ctx"
        self._spec = spec
        self._function = name

    def call(self, *args: Any, ctx: AnyContext = None, **kwargs: Any) -> ToolOutput:
        """Run the tool."""
        return self._named(self._spec.run(self._function, self._arguments(args, kwargs)))

    async def acall(self, *args: Any, ctx: AnyContext = None, **kwargs: Any) -> ToolOutput:
        """Run the tool."""
        return self._named(await self._spec.arun(self._function, self._arguments(args, kwargs), ctx))

    def _arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        # Some LlamaIndex code passes a tool's only argument by position.
        names = self.metadata.get_parameters_dict()["properties"]
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def _named(self, output: ToolOutput) -> ToolOutput:
        output.tool_name = self.metadata.get_name()
        return output


def _given(
    prompt: str,
    aspect_ratio: str | None,
    resolution: str | None,
    duration_seconds: int | None = None,
) -> dict[str, Any]:
    arguments = {
        "prompt": prompt,
        "aspect_ratio": aspect_ratio,
        "resolution": resolution,
        "duration_seconds": duration_seconds,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _metadata(name: str) -> ToolMetadata:
    return ToolMetadata(agent_tools.DESCRIPTIONS[name], name=name, fn_schema=agent_tools.ARGUMENTS[name])


async def _wait_for_event(ctx: Context[Any], call: Call, task_id: str, task_type: str, turn: int) -> None:
    await ctx.wait_for_event(
        PicccTaskFinished,
        waiter_event=PicccTaskSubmitted(task_id=task_id, type=task_type),
        waiter_id=call.waiter_id(task_id, turn),
        requirements={"task_id": task_id},
        timeout=EVENT_SECONDS,
    )


def _output(name: str, arguments: Mapping[str, Any], report: ToolResult) -> ToolOutput:
    blocks = [TextBlock(text=report.text), *map(_image, report.images)]
    return ToolOutput(
        tool_name=name,
        blocks=cast("list[ContentBlock]", blocks),
        raw_input={"args": [], "kwargs": dict(arguments)},
        raw_output=report.artifact,
        is_error=report.error is not None,
        exception=report.error,
    )


def _image(image: Mapping[str, str]) -> ImageBlock:
    return ImageBlock(image=base64.b64decode(image["base64"]), image_mimetype=image["mime_type"])
