"""Media tools in every kind of graph: `python -m tests.langchain.media_table` runs every row of the table.

A row combines a mode, a checkpointer, sync or async, a kind of graph, and how its tasks end. The suite runs
enough rows to cover each pair of values. The clock stops until a row advances it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from itertools import product
from operator import add
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import uuid4

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt

from langchain_piccc import (
    ChatPiccc,
    PicccImageTool,
    PicccTasksMiddleware,
    aresume_when_done,
    interrupted_tasks,
    media_from,
    resume_when_done,
)
from piccc import AsyncClient, Client
from piccc._http.backends import run_sync
from piccc.emulator import Emulator, Scripted
from piccc.errors import TaskWaitTimeout
from tests.langchain.media import clients, settings
from tests.media.tables import emulator_for, run_all

DIMENSIONS = (
    ("wait", "submit", "background", "interrupt"),
    ("memory", "sqlite", "postgres"),
    ("sync", "async"),
    ("agent", "tool node", "custom node", "subgraph", "50 sends", "functional"),
    ("early", "late", "refused", "vanished", "429"),
)
SENDS = 50


class Row(NamedTuple):
    """One row of the table."""

    mode: str
    saver: str
    way: str
    graph: str
    ending: str


def rows() -> list[Row]:
    """Return all rows."""
    return [Row(*values) for values in product(*DIMENSIONS)]


class State(TypedDict):
    """The state of a graph: messages and the human's answers."""

    messages: Annotated[list[AnyMessage], add_messages]
    answers: Annotated[list[str], add]


@asynccontextmanager
async def saver_of(row: Row, postgres: str) -> AsyncIterator[Any]:
    """Open the row's checkpointer; `postgres` is a database URL."""
    async with AsyncExitStack() as stack:
        if row.saver == "memory":
            yield InMemorySaver()
        elif row.saver == "sqlite" and row.way == "sync":
            yield stack.enter_context(SqliteSaver.from_conn_string(":memory:"))
        elif row.saver == "sqlite":
            yield await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(":memory:"))
        elif row.way == "sync":
            saver = stack.enter_context(PostgresSaver.from_conn_string(postgres))
            saver.setup()
            yield saver
        else:
            asaver = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(postgres))
            await asaver.setup()
            yield asaver


def ask_human_tool() -> Any:
    """Return a tool that asks a human."""

    @tool
    def ask_human(prompt: str) -> str:
        """Ask a human."""
        return str(interrupt(prompt))

    return ask_human


def calls_of(prompts: Sequence[str]) -> list[Any]:
    """Return calls of the image tool with ids that count from 0, as on some servers."""
    return [
        {"type": "tool_call", "name": "generate_image", "args": {"prompt": prompt}, "id": f"call_{number}"}
        for number, prompt in enumerate(prompts)
    ]


class Trial:
    """A running row."""

    def __init__(self, row: Row, emulator: Emulator, saver: Any) -> None:
        self.row = row
        self.emulator = emulator
        self.saver = saver
        self.config = RunnableConfig(configurable={"thread_id": uuid4().hex})
        self.both = clients(emulator, max_retries=0)
        wait_s = 0.05 if row.ending in ("late", "vanished") else 30
        self.image = PicccImageTool(model="piccc-image", mode=row.mode, wait_s=wait_s, **self.both)  # type: ignore[arg-type]
        count = SENDS if row.graph == "50 sends" else 2
        self.prompts = [f"Kite {number}" for number in range(count)]
        self.graph: Any = getattr(self, f"_{row.graph.replace(' ', '_')}")()

    @property
    def _ask(self) -> dict[str, Any]:
        return {
            "name": "ask_human",
            "args": {"prompt": "Delete all files?"},
            "id": "ask",
            "type": "tool_call",
        }

    def _agent(self, *, checkpointer: Any = None) -> Any:
        calls = [("generate_image", {"prompt": prompt}) for prompt in self.prompts]
        reply = Scripted(calls=[*calls, ("ask_human", {"prompt": "Delete all files?"})])
        self.emulator.script([reply, *["Done."] * 5])
        model = ChatPiccc(base_url=self.emulator.base_url, api_key=self.emulator.api_key)
        middleware = PicccTasksMiddleware(self.both["client"], async_client=self.both["async_client"])
        return create_agent(
            model,
            [self.image, ask_human_tool()],
            middleware=[middleware],
            checkpointer=checkpointer or self.saver,
        )

    def _tool_node(self, *, is_compiled: bool = True) -> Any:
        message = AIMessage("", tool_calls=[*calls_of(self.prompts), self._ask])
        graph = StateGraph(State).add_node("model", lambda state: {"messages": [message]})
        graph.add_node("tools", ToolNode([self.image, ask_human_tool()]))
        graph.add_edge(START, "model").add_edge("model", "tools")
        return graph.compile(checkpointer=self.saver if is_compiled else None)

    def _custom_node(self) -> Any:
        calls = calls_of(self.prompts)

        def node(state: State, config: RunnableConfig) -> dict[str, Any]:
            results = [self.image.invoke(call, config) for call in calls]
            return {"messages": results, "answers": [interrupt("Publish?")]}

        async def anode(state: State, config: RunnableConfig) -> dict[str, Any]:
            results = [await self.image.ainvoke(call, config) for call in calls]
            return {"messages": results, "answers": [interrupt("Publish?")]}

        graph = StateGraph(State).add_node("node", RunnableLambda(node, anode))
        return graph.add_edge(START, "node").compile(checkpointer=self.saver)

    def _subgraph(self) -> Any:
        graph = StateGraph(State).add_node("inner", self._tool_node(is_compiled=False))
        return graph.add_edge(START, "inner").compile(checkpointer=self.saver)

    def _50_sends(self) -> Any:
        graph = StateGraph(State).add_node("worker", ToolNode([self.image]))
        graph.add_node("review", lambda state: {"answers": [interrupt("Publish?")]})
        sends = [
            Send("worker", {"messages": [AIMessage("", tool_calls=calls_of([prompt]))]})
            for prompt in self.prompts
        ]
        graph.add_conditional_edges(START, lambda state: sends, ["worker"]).add_edge("worker", "review")
        return graph.compile(checkpointer=self.saver)

    def _functional(self) -> Any:
        if self.row.way == "sync":

            @task
            def draw(call: Any) -> Any:
                return self.image.invoke(call)

            @entrypoint(checkpointer=self.saver)
            def program(_: Any) -> Any:
                futures = [draw(call) for call in calls_of(self.prompts)]
                results = [future.result() for future in futures]
                return {"messages": results, "answers": [interrupt("Publish?")]}

            return program

        @task
        async def adraw(call: Any) -> Any:
            return await self.image.ainvoke(call)

        @entrypoint(checkpointer=self.saver)
        async def aprogram(_: Any) -> Any:
            futures = [adraw(call) for call in calls_of(self.prompts)]
            results = [await future for future in futures]
            return {"messages": results, "answers": [interrupt("Publish?")]}

        return aprogram

    async def call(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method or its async version."""
        name = method if self.row.way == "sync" else f"a{method}"
        result = getattr(owner, name)(*args, **kwargs)
        return await result if isawaitable(result) else result

    async def resume(self) -> Any:
        """Resume the run when its tasks have ended; return None if new tasks need the clock advanced."""
        try:
            if self.row.way == "sync":
                return resume_when_done(self.graph, self.config, Client(**settings(self.emulator)), timeout=1)
            client = AsyncClient(**settings(self.emulator))
            return await aresume_when_done(self.graph, self.config, client, timeout=1)
        except TaskWaitTimeout:
            return None

    async def finish(self) -> Any:
        """Run the graph to its end, answering the human's questions; return its final value."""
        if self.row.ending == "vanished":
            self.emulator.fault("404", route="GET /v1/tasks*")
        if self.row.ending == "429" and self.row.mode != "interrupt":
            self.emulator.fault("429;retry-after=0", route="GET /v1/tasks*", times=2)
        begin = {"messages": [HumanMessage("Go.")]}
        value = await self.call(self.graph, "invoke", begin, self.config)
        is_resume_too_early, is_rate_limit_due = self.row.ending == "late", self.row.ending == "429"
        for _ in range(4 + SENDS):
            interrupts = (await self.call(self.graph, "get_state", self.config)).interrupts
            if not interrupts:
                return value
            if waiting := interrupted_tasks(interrupts):
                resume = Command(resume=dict.fromkeys(waiting.values(), True))
                if is_resume_too_early:
                    is_resume_too_early = False
                    value = await self.call(self.graph, "invoke", resume, self.config)
                    continue
                if self.row.ending not in ("early", "refused"):
                    self.emulator.advance(60)
                if is_rate_limit_due:
                    is_rate_limit_due = False
                    self.emulator.fault("429;retry-after=0", route="GET /v1/tasks*", times=1)
                    value = await self.call(self.graph, "invoke", resume, self.config)
                    continue
                value = await self.resume()
            else:
                answers = Command(resume={pending.id: "the human" for pending in interrupts})
                value = await self.call(self.graph, "invoke", answers, self.config)
        raise AssertionError("The run never ended.")


async def run(row: Row, postgres: str) -> None:
    """Run a row and check what must hold in every row."""
    with emulator_for(row) as (emulator, is_clock_paused):
        async with saver_of(row, postgres) as saver:
            trial = Trial(row, emulator, saver)
            value = await trial.finish()
            _check(trial, value)
            if row.mode == "background" and row.graph == "agent":
                if is_clock_paused:
                    emulator.advance(60)
                more = {"messages": [HumanMessage("And?")]}
                value = await trial.call(trial.graph, "invoke", more, trial.config)
                expected = {"refused": "failed", "vanished": "queued"}.get(row.ending, "completed")
                assert {task.status for task in media_from(value)} == {expected}, value


def _check(trial: Trial, value: Any) -> None:
    row, emulator = trial.row, trial.emulator
    orders = {
        request.task_id: request.body["prompt"]
        for request in emulator.requests
        if request.path == "/v1/images/tasks"
    }
    assert sorted(orders.values()) == sorted(trial.prompts), "one submission per request"
    assert sum(charge.kind == "image" for charge in emulator.charges) == len(trial.prompts)

    results = [
        message
        for message in value["messages"]
        if isinstance(message, ToolMessage) and message.name == "generate_image"
    ]
    answered_prompts = [orders[task.id] for result in results for task in media_from(result)]
    assert sorted(answered_prompts) == sorted(trial.prompts), "each call answered once, by its own task"
    if row.graph != "50 sends":
        expected_prompts = {
            call["id"]: call["args"]["prompt"]
            for message in value["messages"]
            if isinstance(message, AIMessage)
            for call in message.tool_calls
        } or {call["id"]: call["args"]["prompt"] for call in calls_of(trial.prompts)}
        for result in results:
            assert orders[media_from(result)[0].id] == expected_prompts[result.tool_call_id]

    tool_answers = [
        message.text for message in value["messages"] if getattr(message, "name", "") == "ask_human"
    ]
    assert [*value.get("answers", ()), *tool_answers] == ["the human"], "only the human answers the question"

    statuses = {task.status for result in results for task in media_from(result)}
    if row.mode == "interrupt" or (row.mode == "wait" and row.ending not in ("late", "vanished")):
        expected = {"refused": {"failed"}, "vanished": {"queued"}}.get(row.ending, {"completed"})
        assert statuses == expected
    if row.mode == "interrupt" and row.ending == "vanished":
        assert all("no longer has it" in result.text for result in results)


def run_row(row: Row, postgres: str) -> None:
    """Run a row, sync or async."""
    if row.way == "sync":
        run_sync(run(row, postgres))
    else:
        asyncio.run(run(row, postgres))


def main() -> None:
    """Run the table with a temporary Postgres server."""
    from tests.services import postgres_server

    with postgres_server() as postgres:
        run_all(rows(), lambda row: run_row(row, postgres))


if __name__ == "__main__":
    main()
