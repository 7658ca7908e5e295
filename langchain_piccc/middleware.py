"""Agent middleware that reports finished media tasks and retries invalid tool calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    RemoveMessage,
    ToolCall,
    ToolMessage,
)

from langchain_piccc._replies import invalid_reasons
from langchain_piccc.media_tools import EVENT, TASKS, media_from
from langchain_piccc.shown_images import references
from piccc.conversation import InvalidToolCall
from piccc.errors import MissingExtraError, PicccError
from piccc.media.agent_tools import (
    GENERATE_IMAGE,
    GENERATE_VIDEO,
    LIST_TASKS,
    ClientPair,
    Show,
    ToolResult,
    artifact_of,
    describe_for_model,
    ended,
    latest_tasks,
    progress,
    run_sync_tool,
    tasks_in,
)
from piccc.tasks import Task

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, hook_config
    from langchain.agents.middleware.types import ToolCallRequest
    from langgraph.graph.message import REMOVE_ALL_MESSAGES
    from langgraph.types import Command
except ImportError as error:
    raise MissingExtraError("The middleware needs langchain.", hint="pip install langchain") from error

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from piccc.client import AsyncClient, Client

Update = dict[str, Any] | None
Tasks = dict[str, dict[str, Any]]
_TYPES = {GENERATE_IMAGE: "image", GENERATE_VIDEO: "video"}


def _merge(left: Tasks | None, right: Tasks | None) -> Tasks:
    return {**(left or {}), **(right or {})}


class MediaState(AgentState[Any]):
    """Agent state with the latest report of each media task, by id; `media_from` reads it."""

    piccc_tasks: NotRequired[Annotated[Tasks, _merge]]


class PicccTasksMiddleware(AgentMiddleware[MediaState, Any, Any]):
    """Middleware that tells the model when a running media task has ended.

    It does so before each model call. With `wait_s`, an agent that is about to finish while tasks are running
    waits up to `wait_s` seconds and continues as soon as one ends. Tasks are kept in the state under
    `piccc_tasks`, so they survive summarizing, trimming and checkpoints. If the user writes while a run is
    interrupted, media tool calls are left unanswered; the middleware answers them, with the task if it is
    among the account's latest.

    Args:
        client: the tools' `piccc.Client`; by default one created from the environment.
        async_client: the `piccc.AsyncClient` for async runs; by default created from `client`.
        wait_s: seconds to wait at the end of a run; 0 does not wait.
        show: whether to show finished images to the model: `none`, `image`, or a 512-pixel `thumbnail`.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccImageTool, PicccTasksMiddleware
        >>> tool = PicccImageTool(model="piccc-image", mode="background")
        >>> agent = create_agent(ChatPiccc(), [tool], middleware=[PicccTasksMiddleware(wait_s=300)])
    """

    state_schema = MediaState

    def __init__(
        self,
        client: Client | None = None,
        *,
        async_client: AsyncClient | None = None,
        wait_s: float = 0.0,
        show: Show = "none",
    ) -> None:
        super().__init__()
        from piccc.client import Client

        self._clients: ClientPair[Client, AsyncClient] = ClientPair(client, async_client, Client)
        self._wait_s = wait_s
        self._show = show

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Keep the tasks in a tool's result in the state."""
        return _keeping_tasks(handler(request))

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]],
    ) -> ToolMessage | Command[Any]:
        """Keep the tasks in a tool's result in the state."""
        return _keeping_tasks(await handler(request))

    def before_model(self, state: MediaState, runtime: Runtime[Any]) -> Update:
        """Add reports of ended tasks, and answers to abandoned calls."""
        return run_sync_tool(self._before(self._clients.sync(), state))

    async def abefore_model(self, state: MediaState, runtime: Runtime[Any]) -> Update:
        """Add reports of ended tasks, and answers to abandoned calls."""
        return await self._before(self._clients.asynchronous(), state)

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: MediaState, runtime: Runtime[Any]) -> Update:
        """If the model would end the run, wait for running tasks; call it again if one ends."""
        if not self._is_at_end(state["messages"]):
            return None
        return run_sync_tool(self._at_end(self._clients.sync(), state, runtime))

    @hook_config(can_jump_to=["model"])
    async def aafter_model(self, state: MediaState, runtime: Runtime[Any]) -> Update:
        """If the model would end the run, wait for running tasks; call it again if one ends."""
        if not self._is_at_end(state["messages"]):
            return None
        return await self._at_end(self._clients.asynchronous(), state, runtime)

    def _is_at_end(self, messages: Sequence[AnyMessage]) -> bool:
        last = messages[-1] if messages else None
        return self._wait_s > 0 and isinstance(last, AIMessage) and not last.tool_calls

    async def _before(self, client: Client | AsyncClient, state: MediaState) -> Update:
        calls = _abandoned(state["messages"])
        if not calls:
            return await self._update(client, state, 0)
        found = await _find(client, calls, media_from(state))
        repaired = _with_answers(state["messages"], calls, found)
        update = await self._update(client, {**state, "messages": repaired}, 0) or {"messages": [], TASKS: {}}
        tasks = {task.id: artifact_of(task) for task in found.values()}
        return {
            "messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *repaired, *update["messages"]],
            TASKS: {**tasks, **update[TASKS]},
        }

    async def _at_end(self, client: Client | AsyncClient, state: MediaState, runtime: Runtime[Any]) -> Update:
        def report(task: Task) -> None:
            runtime.stream_writer({EVENT: progress(task)})

        heartbeat = getattr(runtime, "heartbeat", None)  # missing in the oldest version we support
        update = await self._update(client, state, self._wait_s, report, heartbeat)
        return {**update, "jump_to": "model"} if update else None

    async def _update(
        self,
        client: Client | AsyncClient,
        state: Mapping[str, Any],
        seconds: float,
        on_update: Callable[[Task], object] | None = None,
        on_poll: Callable[[], object] | None = None,
    ) -> Update:
        running = [task for task in media_from(state) if not task.is_terminal]
        if not running:
            return None
        reports = await ended(client, running, seconds=seconds, on_update=on_update, on_poll=on_poll)
        if not reports:
            return None
        return {
            "messages": [_update_message(reports, self._show)],
            TASKS: _by_id([report.artifact for report in reports]),
        }


def _by_id(artifacts: Iterable[object]) -> Tasks:
    return {task.id: artifact_of(task) for artifact in artifacts for task in tasks_in(artifact)}


def _keeping_tasks(result: ToolMessage | Command[Any]) -> ToolMessage | Command[Any]:
    """Return a tool's result as an update that also keeps its tasks in the state."""
    update = result.update if isinstance(result, Command) else {"messages": [result]}
    if not isinstance(update, dict):
        return result
    messages = update.get("messages", ())
    tasks = _by_id(message.artifact for message in messages if isinstance(message, ToolMessage))
    if not tasks:
        return result
    kept = {**update, TASKS: _merge(update.get(TASKS), tasks)}
    if isinstance(result, Command):
        return Command(graph=result.graph, update=kept, resume=result.resume, goto=result.goto)
    return Command(update=kept)


def _abandoned(messages: Sequence[AnyMessage]) -> list[ToolCall]:
    """Return the media tool calls left unanswered when the conversation went on."""
    answered = {message.tool_call_id for message in messages if isinstance(message, ToolMessage)}
    earlier = [message for message in messages[:-1] if isinstance(message, AIMessage)]
    calls = [call for message in earlier for call in message.tool_calls if call["name"] in _TYPES]
    return [call for call in calls if call["id"] not in answered]


async def _find(
    client: Client | AsyncClient, calls: Sequence[ToolCall], known: Sequence[Task]
) -> dict[str | None, Task]:
    """Return the abandoned calls' tasks that are among the account's latest, by call id."""
    try:
        latest = await latest_tasks(client)
    except PicccError:
        return {}
    taken = {task.id for task in known}
    found: dict[str | None, Task] = {}
    for call in calls:
        for task in latest:
            wanted = (_TYPES[call["name"]], call["args"].get("prompt"))
            if task.id not in taken and (task.type, task.prompt) == wanted:
                taken.add(task.id)
                found[call["id"]] = task
                break
    return found


def _with_answers(
    messages: Sequence[AnyMessage], calls: Sequence[ToolCall], found: Mapping[str | None, Task]
) -> list[AnyMessage]:
    """Return the messages with an answer right after each abandoned call, where servers expect it."""
    abandoned = {call["id"] for call in calls}
    repaired: list[AnyMessage] = []
    for message in messages:
        repaired.append(message)
        if isinstance(message, AIMessage):
            ids = [call["id"] for call in message.tool_calls if call["id"] in abandoned]
            repaired += [_answer(str(id), found.get(id)) for id in ids]
    return repaired


def _answer(id: str, task: Task | None) -> ToolMessage:
    if task is not None:
        return ToolMessage(describe_for_model(task), tool_call_id=id, artifact=artifact_of(task))
    text = (
        "This call was interrupted before its result arrived. If its task was created, it keeps running and "
        f"is billed: do not submit it again. Look for it with {LIST_TASKS}."
    )
    return ToolMessage(text, tool_call_id=id, status="error")


def _update_message(reports: Sequence[ToolResult], show: Show) -> HumanMessage:
    text = "\n".join(["Media task updates:", *(report.text for report in reports)])
    images = [image for report in reports for image in references(report.artifact, show)]
    return HumanMessage(
        [{"type": "text", "text": text}, *images] if images else text,
        additional_kwargs={TASKS: [report.artifact for report in reports]},
    )


class PicccInvalidCallsMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Middleware that tells the model which of its tool calls were invalid, and asks it again.

    Invalid calls (truncated or malformed) never run a tool, with or without this middleware. Without it, the
    agent ends and the last message has them in `invalid_tool_calls`. With it, each gets a tool message that
    says what is wrong. If a reply has only invalid calls, the model is asked again, up to `max_retries` times
    in a row; after that the run ends with the invalid reply as its last message.

    Args:
        max_retries: how many more replies to pay for when a reply has only invalid calls.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccInvalidCallsMiddleware
        >>> agent = create_agent(ChatPiccc(), [], middleware=[PicccInvalidCallsMiddleware()])
    """

    def __init__(self, *, max_retries: int = 1) -> None:
        super().__init__()
        self._max_retries = max_retries

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> Update:
        """Answer invalid calls, and ask the model again if there are no valid ones."""
        messages = state["messages"]
        last = messages[-1] if messages else None
        if not isinstance(last, AIMessage) or not last.invalid_tool_calls:
            return None
        if not last.tool_calls and _failed_in_a_row(messages) > self._max_retries:
            return None
        reasons = invalid_reasons(last)
        answers = [
            ToolMessage(
                InvalidToolCall(id, "", "", reasons.get(id, "malformed")).error,
                tool_call_id=id,
                name=call["name"] or None,
                status="error",
            )
            for call in last.invalid_tool_calls
            for id in [call["id"] or ""]
        ]
        return {"messages": answers, **({} if last.tool_calls else {"jump_to": "model"})}

    @hook_config(can_jump_to=["model"])
    async def aafter_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> Update:
        """Answer invalid calls, and ask the model again if there are no valid ones."""
        return self.after_model(state, runtime)


def _failed_in_a_row(messages: Sequence[AnyMessage]) -> int:
    """Return the number of replies with only invalid calls at the end of a conversation."""
    count = 0
    for message in reversed(messages):
        if isinstance(message, AIMessage):
            if message.tool_calls or not message.invalid_tool_calls:
                break
            count += 1
        elif not isinstance(message, ToolMessage):
            break
    return count
