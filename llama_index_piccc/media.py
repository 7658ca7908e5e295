"""The media tools for LlamaIndex agents and workflows, and their events."""

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
from piccc.media import agent_tools as asked
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
    """Tells of a task at each change of its status or progress.

    Attributes:
        task_id: the task.
        type: `image` or `video`.
        status: as of `piccc.Task`.
        progress: 0 to 100, or None.
    """

    task_id: str
    type: str
    status: str
    progress: float | None = None

    @classmethod
    def of(cls, task: Task) -> Self:
        """Return the event of a task as it is now.

        Args:
            task: the task.
        """
        return cls(task_id=task.id, type=task.type, status=task.status, progress=task.progress)


class PicccTaskSubmitted(InputRequiredEvent):
    """Says that a tool waits for a task: answer with `PicccTaskFinished` when it has ended.

    Attributes:
        task_id: the task.
        type: `image` or `video`.
    """

    task_id: str
    type: str


class PicccTaskFinished(HumanResponseEvent):
    """Wakes the tool that waits for the task `task_id`; it asks for the task, so an early one is harmless.

    It may be sent twice, as webhooks are: the tool gives its result once.
    """

    task_id: str


class _Never(Event):
    """What a run of a step waits for that has nothing to do."""


class Wait(NamedTuple):
    """One wait of a step for an event.

    Attributes:
        id: names it in the workflow's context.
        work_item_id: the step's run that began it.
        is_over: whether its event has come, or its time has passed.
    """

    id: str
    work_item_id: str | None
    is_over: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One run of a step, as LlamaIndex's workflows know it.

    Attributes:
        context: what they keep of it; another one for each run.
        name: the step's.
        tool_id: the id of the model's call that it runs, in an agent.
        work_item_id: its place in the workflow's run, the same when it is run again.
        invocation_id: another one each time that it is run again.
        is_retry: whether it failed before.
        waits: for which events it has begun to wait.
        collected: how many events of which name it has collected.
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
    """A call of a tool in a step.

    Attributes:
        key: names its submission, the same when the step is run again.
        waits: names its waits in the workflow's context, also in one that was saved and goes on in a new run.
        step: the step.
        run_id: the run of the workflow, or empty where it is not known.
    """

    key: str
    waits: str
    step: Step
    run_id: str

    def waiter_id(self, task_id: str, turn: int) -> str:
        """Return the id under which it waits for its task, for the n-th time."""
        return f"piccc/{self.waits}/{turn}/{task_id}"

    def begun_waits(self) -> list[str]:
        """Return the tasks for which it has begun to wait, in their order.

        A saved context keeps them, so a call that waits finds its task even where no ledger does.
        """
        prefix = f"piccc/{self.waits}/"
        ours = [each.id.split("/", 3) for each in self.step.waits if each.id.startswith(prefix)]
        return [task_id for _, _, _, task_id in sorted(ours, key=lambda parts: int(parts[2]))]

    def is_repeated(self) -> bool:
        """Return whether this run of the step has nothing to do: its event was acted on already.

        LlamaIndex runs a step for each event that it waits for, also for one that is sent twice: its wait
        goes on until the step has ended. A later run has to do with another event of the same step, or
        with another collection of events, or it is a retry.
        """
        step = self.step
        if not self.run_id or step.work_item_id is None or step.is_retry:
            return False
        events = frozenset(
            each.id for each in step.waits if each.work_item_id == step.work_item_id and each.is_over
        )
        runs = _runs.setdefault((self.run_id, step.name, step.work_item_id), {})
        while len(_runs) > _MOST_ITEMS:
            _runs.popitem(last=False)
        # A run without any event left, after one that had some, begins after that one's end.
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
    """Return the call that is being run; None outside of a step.

    A step is known by its place in the run, one of an agent also by the id of the model's call, and the run
    by `session`, else by an id of its own that a restart does not keep. A call's id that is long enough to be
    the only one of its kind makes up for that; some servers number the calls of each reply from 1. Equal
    calls in one step are counted.
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
"""Characters of a call's id that is taken for the only one of its kind, as OpenAI's, Anthropic's, UUIDs."""
_MOST_ITEMS = 10_000
_runs: OrderedDict[tuple[str, str, str], dict[tuple[frozenset[str], Any], str | None]] = OrderedDict()
"""By which events the latest steps were run on, and which run of the step acted on them."""
_counts: dict[int, Counter[str]] = {}


def _count(step: Step, call: str) -> int:
    """Return how many equal calls this run of a step has made before."""
    name = id(step.context)
    if name not in _counts:
        _counts[name] = Counter()
        finalize(step.context, _counts.pop, name, None)
    _counts[name][call] += 1
    return _counts[name][call] - 1


def signals() -> tuple[type[Exception], ...]:
    """Return the exception by which a workflow suspends a step until an event comes."""
    try:
        from workflows.runtime.types.results import WaitingForEvent
    except ImportError:  # `_current_step` warns of it
        return ()
    return (WaitingForEvent,)


_LOST = "This version of LlamaIndex's workflows does not say which"


def _run_id() -> str:
    try:
        from llama_index_instrumentation.dispatcher import active_instrument_tags

        run_id = str(active_instrument_tags.get().get("llamaindex.run_id", ""))
    except (ImportError, AttributeError, LookupError):
        run_id = ""
    if not run_id:
        warn_once(f"{_LOST} run a step belongs to: give PicccMediaToolSpec a session for each conversation.")
    return run_id


def _current_step(ctx: AnyContext) -> Step | None:
    """Return the step that is being run; None outside of one, and with a warning where it is not known.

    No documented interface has a step's identity, so each of these names may be lost in a later version.
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
                Wait(each.waiter_id, each.work_item_id, bool(each.resolved_event or each.timed_out))
                for each in state.collected_waiters
            ),
            tuple(sorted((name, len(each)) for name, each in state.collected_events.items())),
        )
    except (ImportError, AttributeError, LookupError):
        warn_once(
            f'{_LOST} step calls a tool: one that is run again submits again, and mode="event" is refused. '
            "Tell us, and use an earlier version."
        )
        return None


def media_from(output: ToolOutput | Mapping[str, Any]) -> list[Task]:
    """Return the tasks that a media tool reported; none for another tool's output.

    `client.tasks.get(task)` then gives a task with outputs that can be saved.

    Args:
        output: the tool's output, or its `raw_output`.
    """
    return tasks_in(output.raw_output if isinstance(output, ToolOutput) else output)


Mode = Literal["wait", "submit", "event"]
EVENT_SECONDS = 86_400.0
"""How long `mode="event"` waits for the event: a workflow's own default would give up after 2000 s."""


class PicccMediaToolSpec(BaseToolSpec):
    """Image and video tools for agents and workflows, each blocking and asynchronous.

    A tool gives the model a short text and, where it may see, the image; `raw_output` is JSON for the
    program. A failure is an output with `is_error` that says whether to call again. In an agent, progress is
    written to the stream as `PicccTaskProgress`. A step that runs again does not submit again; with a ledger
    in a file not even in another process.

    Args:
        client: the `piccc.Client`; by default made from `async_client` or from the environment.
        async_client: the `piccc.AsyncClient`; by default made from `client`.
        image_model, video_model: which models; by default `PICCC_IMAGE_MODEL` and `PICCC_VIDEO_MODEL`.
        mode: once a task is submitted, `wait` for it, `submit` only, or in a workflow suspend the step until
            the `event` PicccTaskFinished.
        wait_s: how many seconds a call waits at most; then the model reads that the task is still running.
            A workflow's own timeout must be longer.
        show: whether a finished image goes to the model too: as it is, or at most 512 pixels wide and high.
            Its bytes lie in the messages, and in each context that is saved.
        session: names the conversation or the run, for an agent whose model's server does not give each call
            an id of its own, and for steps of your own that are to be run again in another process.
        on_update: called with a task at each change of its status or progress.
        lost: what to do where an earlier run of a call got no answer: `ask` tells the model, `resend` submits
            again a minute later where the account's list does not have the task.

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
        (asked.GENERATE_IMAGE, f"a{asked.GENERATE_IMAGE}"),
        (asked.GENERATE_VIDEO, f"a{asked.GENERATE_VIDEO}"),
        (asked.GET_TASK, f"a{asked.GET_TASK}"),
        (asked.LIST_TASKS, f"a{asked.LIST_TASKS}"),
    ]
    """The tools' functions, blocking and asynchronous."""

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
        words = (
            ("mode", mode, get_args(Mode)),
            ("show", show, get_args(Show)),
            ("lost", lost, get_args(Lost)),
        )
        for name, given, known in words:
            if given not in known:
                raise InvalidArgumentError(f"{name} is {given!r}.", hint=f"It is one of {', '.join(known)}.")
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
        return self.run(asked.GENERATE_IMAGE, _given(prompt, aspect_ratio, resolution))

    async def agenerate_image(
        self,
        prompt: str,
        *,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """Make an image; arguments as of `generate_image`, and `ctx` is the step's context in a workflow."""
        return await self.arun(asked.GENERATE_IMAGE, _given(prompt, aspect_ratio, resolution), ctx)

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
            duration_seconds: its length.
            ctx: not used by a blocking tool.

        Returns:
            A text for the model, and the task in `raw_output`; a failure has `is_error`.
        """
        return self.run(asked.GENERATE_VIDEO, _given(prompt, aspect_ratio, resolution, duration_seconds))

    async def agenerate_video(
        self,
        prompt: str,
        *,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        duration_seconds: int | None = None,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """Make a video; arguments as of `generate_video`, and `ctx` is the step's context in a workflow."""
        arguments = _given(prompt, aspect_ratio, resolution, duration_seconds)
        return await self.arun(asked.GENERATE_VIDEO, arguments, ctx)

    def get_media_task(
        self, task_id: str, *, wait_seconds: float | None = None, ctx: AnyContext = None
    ) -> ToolOutput:
        """Read a task, and wait for it.

        Args:
            task_id: the task's id.
            wait_seconds: how long to wait at most; by default `wait_s`.
            ctx: not used by a blocking tool.

        Returns:
            A text for the model, and the task in `raw_output`; a failure has `is_error`.
        """
        return self.run(asked.GET_TASK, {"task_id": task_id, "wait_seconds": wait_seconds})

    async def aget_media_task(
        self, task_id: str, *, wait_seconds: float | None = None, ctx: AnyContext = None
    ) -> ToolOutput:
        """Read a task and wait for it; arguments as of `get_media_task`, and `ctx` is the step's context."""
        return await self.arun(asked.GET_TASK, {"task_id": task_id, "wait_seconds": wait_seconds}, ctx)

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
            status: only this status, such as `completed`.
            limit: how many at most.
            ctx: not used by a blocking tool.

        Returns:
            A text for the model, and the tasks in `raw_output`; a failure has `is_error`.
        """
        return self.run(asked.LIST_TASKS, {"type": type, "status": status, "limit": limit})

    async def alist_media_tasks(
        self,
        *,
        type: TaskType | None = None,
        status: str | None = None,
        limit: int = 10,
        ctx: AnyContext = None,
    ) -> ToolOutput:
        """List the latest tasks; arguments as of `list_media_tasks`, and `ctx` is the step's context."""
        return await self.arun(asked.LIST_TASKS, {"type": type, "status": status, "limit": limit}, ctx)

    def to_tool_list(
        self,
        spec_functions: list[SPEC_FUNCTION_TYPE] | None = None,
        func_to_metadata_mapping: dict[str, ToolMetadata] | None = None,
    ) -> list[FunctionTool]:
        """Return the tools; `func_to_metadata_mapping` gives some a name or a description of your own."""

        def names_of(functions: list[SPEC_FUNCTION_TYPE]) -> list[str]:
            return [each if isinstance(each, str) else each[0] for each in functions]

        known = names_of(self.spec_functions)
        names = names_of(spec_functions) if spec_functions else known
        given = func_to_metadata_mapping or {}
        if unknown := {*names, *given} - {*known}:
            raise InvalidArgumentError(
                f"There is no tool {', '.join(sorted(unknown))}.", hint=f"There are {', '.join(known)}."
            )
        return [PicccMediaTool(self, name, given.get(name) or _metadata(name)) for name in names]

    def run(self, name: str, arguments: Mapping[str, Any]) -> ToolOutput:
        """Run a tool.

        Args:
            name: the tool's name.
            arguments: its arguments as a model gives them.

        Returns:
            A text for the model, and the task in `raw_output`; a failure has `is_error`.
        """
        run = self._run(self._clients.sync(), name, None, self._on_update)
        return _output(name, arguments, run_sync_tool(run.reported(self._work(name, run, arguments, None))))

    async def arun(self, name: str, arguments: Mapping[str, Any], ctx: AnyContext = None) -> ToolOutput:
        """Run a tool; arguments as of `run`, and `ctx` is its step's context in a workflow."""

        def tell(task: Task) -> None:
            if self._on_update is not None:
                self._on_update(task)
            if ctx is not None:
                ctx.write_event_to_stream(PicccTaskProgress.of(task))

        run = self._run(self._clients.asynchronous(), name, ctx, tell)
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
        match asked.ARGUMENTS[name](**arguments):
            case asked.ImageArguments() as wanted:
                return await self._make("image", run, wanted.model_dump(exclude_none=True), ctx)
            case asked.VideoArguments() as wanted:
                return await self._make("video", run, wanted.model_dump(exclude_none=True), ctx)
            case asked.TaskArguments(task_id=task_id, wait_seconds=seconds):
                await run.read(task_id)
                await run.attend(self._wait_s if seconds is None else seconds)
                return await run.report()
            case asked.TaskListArguments(type=type, status=status, limit=limit):
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
                    'Only in a step of a workflow, with its context, can mode="event" wait.',
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
        # Each wait that was begun is gone through again, before anything else: the step then waits where it
        # did, and none is left behind to run it once more.
        begun = call.begun_waits()
        for turn, task_id in enumerate(begun):
            await _wait_for_event(ctx, call, task_id, type, turn)
        # The event is a hint: what the task has become is asked.
        task = (
            await run.read(begun[-1], created=type)
            if begun
            else await run.place(type, order, key=call.key, lost=self._lost)
        )
        if not task.is_terminal:
            await _wait_for_event(ctx, call, task.id, type, len(begun))


class PicccMediaTool(FunctionTool):
    """A tool of the spec: agents give it their context, and everybody else can call it without one."""

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
        # Some callers in LlamaIndex give a tool's only argument by its place.
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
    named = {
        "prompt": prompt,
        "aspect_ratio": aspect_ratio,
        "resolution": resolution,
        "duration_seconds": duration_seconds,
    }
    return {name: value for name, value in named.items() if value is not None}


def _metadata(name: str) -> ToolMetadata:
    return ToolMetadata(asked.DESCRIPTIONS[name], name=name, fn_schema=asked.ARGUMENTS[name])


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
