"""Resume LangGraph runs that `mode="interrupt"` stopped until their tasks are finished.

Where a webhook or a scheduler of your own knows that a task is finished, resume with
`Command(resume={interrupted_tasks(graph.get_state(config).interrupts)[task.id]: True})`: the value is a hint,
and an early one only makes the run stop again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig

from langchain_piccc.media_tools import EVENT

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client


def interrupted_tasks(interrupts: Iterable[Any]) -> dict[str, str]:
    """Return the interrupts that wait for tasks: interrupt ids by task id."""
    return {
        each.value[EVENT]["task_id"]: each.id
        for each in interrupts
        if isinstance(each.value, dict) and EVENT in each.value
    }


def resume_when_done(
    graph: Any, config: RunnableConfig, client: Client, *, timeout: float | None = None
) -> Any:
    """Wait for the tasks that a run stopped for and resume it, until it stops for no more; return its state.

    `timeout` bounds each wait in seconds; raise TaskWaitTimeout where it runs out, and call again to go on.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccImageTool, resume_when_done
        >>> from langgraph.checkpoint.memory import InMemorySaver
        >>> from piccc import Client
        >>> tool = PicccImageTool(model="piccc-image", mode="interrupt")
        >>> agent = create_agent(ChatPiccc(), [tool], checkpointer=InMemorySaver())
        >>> config = {"configurable": {"thread_id": "mugs"}}
        >>> stopped = agent.invoke({"messages": [("user", 'Make a picture "a red mug".')]}, config)
        >>> print(resume_when_done(agent, config, Client())["messages"][-2].content)
        The image is finished (task task_...): http...
    """
    from langgraph.types import Command

    state = graph.get_state(config)
    values = state.values
    while waiting := interrupted_tasks(state.interrupts):
        client.tasks.wait_all(waiting, timeout=timeout)
        values = graph.invoke(Command(resume=dict.fromkeys(waiting.values(), True)), config)
        state = graph.get_state(config)
    return values


async def aresume_when_done(
    graph: Any, config: RunnableConfig, client: AsyncClient, *, timeout: float | None = None
) -> Any:
    """Wait for the tasks that a run stopped for and resume it, until it stops for no more; return its state.

    `timeout` bounds each wait in seconds; raise TaskWaitTimeout where it runs out, and call again to go on.
    """
    from langgraph.types import Command

    state = await graph.aget_state(config)
    values = state.values
    while waiting := interrupted_tasks(state.interrupts):
        await client.tasks.wait_all(waiting, timeout=timeout)
        values = await graph.ainvoke(Command(resume=dict.fromkeys(waiting.values(), True)), config)
        state = await graph.aget_state(config)
    return values
