"""Resume LangGraph runs that tools with `mode="interrupt"` stopped until their tasks end.

If your own webhook or scheduler knows that a task has ended, resume by the interrupt's id:
`Command(resume={interrupted_tasks(graph.get_state(config).interrupts)[task.id]: True})`. The value is
ignored, and a run that is resumed early stops again. Never resume with a bare value, `Command(resume=True)`:
it answers whatever asks next, which may be a question to a human.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import RunnableConfig

from langchain_piccc.media_tools import EVENT
from piccc.errors import NotFoundError, PicccError
from piccc.media.agent_tools import run_sync_tool

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client

MOST_REPEATS = 3
"""How often a run may stop again for tasks that have all ended, as it does when they cannot be read."""


def interrupted_tasks(interrupts: Iterable[Any]) -> dict[str, str]:
    """Return the ids of the interrupts that wait for tasks, by task id.

    Args:
        interrupts: a stopped run's interrupts, such as `graph.get_state(config).interrupts`.
    """
    return {
        interrupt.value[EVENT]["task_id"]: interrupt.id
        for interrupt in interrupts
        if isinstance(interrupt.value, dict) and EVENT in interrupt.value
    }


def resume_when_done(
    graph: Any, config: RunnableConfig, client: Client, *, timeout: float | None = None, **options: Any
) -> Any:
    """Resume an interrupted run as its tasks end, until it waits for none; return its state.

    Args:
        graph: the compiled graph.
        config: the run's config; one with a `checkpoint_id` resumes there and follows the new branch.
        client: waits for the tasks.
        timeout: seconds for all waits together; by default the client's `Polling` limits each wait.
        options: options for `graph.invoke`, such as `context` and `durability`.

    A task that no longer exists counts as ended; its tool reports that.

    Raises:
        TaskWaitTimeout: tasks are still running; call again to keep waiting.
        PicccError: the run keeps stopping for tasks that have ended.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccImageTool, resume_when_done
        >>> from langgraph.checkpoint.memory import InMemorySaver
        >>> from piccc import Client
        >>> tool = PicccImageTool(model="piccc-image", mode="interrupt")
        >>> agent = create_agent(ChatPiccc(), [tool], checkpointer=InMemorySaver())
        >>> config = {"configurable": {"thread_id": "mugs"}}
        >>> stopped = agent.invoke({"messages": [("user", 'Make an image "a red mug".')]}, config)
        >>> print(resume_when_done(agent, config, Client())["messages"][-2].content)
        The image is finished (task task_...): http...
    """
    return run_sync_tool(_resume(graph.get_state, graph.invoke, config, client, timeout, options))


async def aresume_when_done(
    graph: Any, config: RunnableConfig, client: AsyncClient, *, timeout: float | None = None, **options: Any
) -> Any:
    """Resume an interrupted run as its tasks end; arguments and errors as for `resume_when_done`."""
    return await _resume(graph.aget_state, graph.ainvoke, config, client, timeout, options)


async def _resume(
    get_state: Callable[..., Any],
    invoke: Callable[..., Any],
    config: RunnableConfig,
    client: Client | AsyncClient,
    timeout: float | None,
    options: dict[str, Any],
) -> Any:
    from langgraph.types import Command

    deadline = None if timeout is None else time.monotonic() + timeout
    state = await _awaited(get_state(config))
    values, before, repeats = state.values, None, 0
    while waiting := interrupted_tasks(state.interrupts):
        repeats = repeats + 1 if waiting.keys() == before else 0
        if repeats > MOST_REPEATS:
            raise PicccError(
                f"The run stopped {repeats} times for tasks that have ended: {', '.join(waiting)}.",
                hint="Call again when the server can be reached.",
            )
        before = waiting.keys()
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            await _awaited(client.tasks.wait_all(waiting, timeout=left))
        except NotFoundError:
            pass
        values = await _awaited(
            invoke(Command(resume=dict.fromkeys(waiting.values(), True)), config, **options)
        )
        # A checkpoint_id names the state before this resume: continue on the new branch.
        pinned = ("checkpoint_id", "checkpoint_map")
        configurable = {name: value for name, value in config["configurable"].items() if name not in pinned}
        config = cast("RunnableConfig", {**config, "configurable": configurable})
        state = await _awaited(get_state(config))
    return values


async def _awaited(result: Any) -> Any:
    return await result if isawaitable(result) else result
