"""Middleware that tells an agent of the tasks that were finished meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage

from langchain_piccc.media_tools import NEWS, media_from
from piccc.errors import MissingExtraError
from piccc.media.agent_tools import Show, ToolResult, ended, run_sync_tool

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, hook_config
except ImportError as error:
    raise MissingExtraError(
        "PicccTasksMiddleware needs LangChain's agents.", hint='pip install "piccc[all]"'
    ) from error

if TYPE_CHECKING:
    from langgraph.runtime import Runtime

    from piccc.client import AsyncClient, Client

Update = dict[str, Any] | None
State = AgentState[Any]


class PicccTasksMiddleware(AgentMiddleware[State, Any, Any]):
    """Tell the model of each task that has ended since a tool called it running, before it is asked again.

    With `wait_s`, an agent that is about to end while tasks are running waits so many seconds for them, and
    goes on where one ends. What is running is read from the conversation, so a checkpoint is all it needs.

    Args:
        client: the `piccc.Client` of the tools; by default one from the environment.
        async_client: the `piccc.AsyncClient` for asynchronous runs; by default made from `client`.
        wait_s: seconds to wait at the end of a run; 0 does not wait.
        show: whether a finished image goes to the model too: `none`, `image`, or a `thumbnail` of 512 pixels.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_piccc import ChatPiccc, PicccImageTool, PicccTasksMiddleware
        >>> tool = PicccImageTool(model="piccc-image", mode="background")
        >>> agent = create_agent(ChatPiccc(), [tool], middleware=[PicccTasksMiddleware(wait_s=300)])
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        async_client: AsyncClient | None = None,
        wait_s: float = 0.0,
        show: Show = "none",
    ) -> None:
        super().__init__()
        self._client = client
        self._async_client = async_client
        self._wait_s = wait_s
        self._show = show

    def before_model(self, state: State, runtime: Runtime[Any]) -> Update:
        """Add what has ended to the conversation."""
        return run_sync_tool(self._news(self._blocking_client(), state["messages"], 0))

    async def abefore_model(self, state: State, runtime: Runtime[Any]) -> Update:
        """Add what has ended to the conversation."""
        return await self._news(self._running_client(), state["messages"], 0)

    @hook_config(can_jump_to=["model"])
    def after_model(self, state: State, runtime: Runtime[Any]) -> Update:
        """Wait for running tasks where the model has said its last word, and ask it again if one ends."""
        if not self._is_at_end(state["messages"]):
            return None
        return _asking_again(
            run_sync_tool(self._news(self._blocking_client(), state["messages"], self._wait_s))
        )

    @hook_config(can_jump_to=["model"])
    async def aafter_model(self, state: State, runtime: Runtime[Any]) -> Update:
        """Wait for running tasks where the model has said its last word, and ask it again if one ends."""
        if not self._is_at_end(state["messages"]):
            return None
        return _asking_again(await self._news(self._running_client(), state["messages"], self._wait_s))

    def _is_at_end(self, messages: Sequence[AnyMessage]) -> bool:
        last = messages[-1] if messages else None
        return self._wait_s > 0 and isinstance(last, AIMessage) and not last.tool_calls

    async def _news(
        self, client: Client | AsyncClient, messages: Sequence[AnyMessage], seconds: float
    ) -> Update:
        running = [task for task in media_from(messages) if not task.is_terminal]
        reports = await ended(client, running, seconds=seconds, show=self._show)
        return {"messages": [_told(reports)]} if reports else None

    def _blocking_client(self) -> Client:
        if self._client is None:
            from piccc.client import Client

            self._client = self._async_client.as_sync() if self._async_client else Client()
        return self._client

    def _running_client(self) -> AsyncClient:
        if self._async_client is None:
            self._async_client = self._blocking_client().as_async()
        return self._async_client


def _asking_again(update: Update) -> Update:
    return {**update, "jump_to": "model"} if update else None


def _told(reports: Sequence[ToolResult]) -> HumanMessage:
    text = "\n".join(["News of the media tasks:", *(report.text for report in reports)])
    pictures = [dict(picture) for report in reports for picture in report.pictures]
    return HumanMessage(
        [{"type": "text", "text": text}, *pictures] if pictures else text,
        additional_kwargs={NEWS: [report.artifact for report in reports]},
    )
