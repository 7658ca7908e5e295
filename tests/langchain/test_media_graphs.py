"""Media tools inside graphs: no answer that nobody gave, no image that nobody asked for."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, SummarizationMiddleware, ToolRetryMiddleware
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.runtime import Runtime
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
from piccc.emulator import Emulator, ManualClock, Scripted
from piccc.errors import TaskWaitTimeout
from piccc.media.agent_tools import artifact_of, ended, run_sync_tool, tasks_in
from piccc.tasks import Task
from tests.langchain.media import Way, clients, settings
from tests.media.paid import made

THREAD = RunnableConfig(configurable={"thread_id": "t1"})


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    context: str


def calling(*prompts: str, id: str = "call_{}", name: str = "generate_image") -> AIMessage:
    """Return a reply that calls a tool once for each prompt, its ids counted from 0 as some servers do."""
    calls = [
        {"name": name, "args": {"prompt": prompt}, "id": id.format(index)}
        for index, prompt in enumerate(prompts)
    ]
    return AIMessage("", tool_calls=calls)


def image_tool(emulator: Emulator, **options: Any) -> PicccImageTool:
    return PicccImageTool(model="piccc-image", **{"mode": "interrupt", **clients(emulator), **options})


def resumed(emulator: Emulator, graph: Any, way: Way, config: Any = THREAD, **options: Any) -> Any:
    """Wait for the tasks of an interrupted run and resume it."""
    options = {"timeout": 30, **options}
    if way.is_async:
        client = AsyncClient(**settings(emulator))
        return asyncio.run(aresume_when_done(graph, config, client, **options))
    return resume_when_done(graph, config, Client(**settings(emulator)), **options)


class Human:
    """A human who is asked by interrupts, and the tool by which a model asks."""

    def __init__(self, emulator: Emulator) -> None:
        self.answers: list[Any] = []
        self._emulator = emulator

    def ask(self, question: str) -> Any:
        """Ask once the image is ordered: an interrupt cancels what runs beside it."""
        while not self._emulator.charges:
            time.sleep(0.01)
        self.answers.append(interrupt(question))
        return self.answers[-1]

    def tool(self) -> BaseTool:
        """Return the tool."""

        @tool
        def ask_human(prompt: str) -> str:
            """Ask a human."""
            return str(self.ask(prompt))

        return ask_human


def in_own_node(emulator: Emulator, human: Human) -> Any:
    """A node that makes an image and then asks a human to publish it."""
    image = image_tool(emulator)

    def node(state: State, config: RunnableConfig) -> dict[str, Any]:
        [call] = calling("A kite").tool_calls
        made = image.invoke(call, config)
        return {"messages": [made, HumanMessage(f"published: {human.ask('Publish?')}")]}

    async def anode(state: State, config: RunnableConfig) -> dict[str, Any]:
        [call] = calling("A kite").tool_calls
        made = await image.ainvoke(call, config)
        return {"messages": [made, HumanMessage(f"published: {human.ask('Publish?')}")]}

    graph = StateGraph(State).add_node("node", RunnableLambda(node, anode))
    return graph.add_edge(START, "node").compile(checkpointer=InMemorySaver())


def in_tool_node(emulator: Emulator, human: Human, *, human_first: bool = False) -> Any:
    """One graph task that runs an image tool and a human's tool at the same time."""
    image, ask = calling("A kite", id="image"), calling("Delete all files?", id="human", name="ask_human")
    calls = [*ask.tool_calls, *image.tool_calls] if human_first else [*image.tool_calls, *ask.tool_calls]
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [AIMessage("", tool_calls=calls)]})
    graph.add_node("tools", ToolNode([image_tool(emulator), human.tool()]))
    graph.add_edge(START, "model").add_edge("model", "tools")
    return graph.compile(checkpointer=InMemorySaver())


def in_tool_node_after_the_human(emulator: Emulator, human: Human) -> Any:
    """The same with the calls in the other order."""
    return in_tool_node(emulator, human, human_first=True)


def in_agent_with_review(emulator: Emulator, human: Human) -> Any:
    """An agent whose middleware asks a human about each result, in the graph task of the call."""

    class Review(AgentMiddleware):
        def wrap_tool_call(self, request: Any, handler: Any) -> Any:
            result = handler(request)
            human.ask("Good?")
            return result

        async def awrap_tool_call(self, request: Any, handler: Any) -> Any:
            result = await handler(request)
            human.ask("Good?")
            return result

    emulator.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key)
    return create_agent(model, [image_tool(emulator)], middleware=[Review()], checkpointer=InMemorySaver())


@pytest.mark.parametrize("early", [False, True], ids=["ended", "early"])
@pytest.mark.parametrize(
    "build", [in_own_node, in_tool_node, in_tool_node_after_the_human, in_agent_with_review]
)
def test_a_humans_question_is_answered_by_the_human_alone(
    still: Emulator, way: Way, build: Any, *, early: bool
) -> None:
    human = Human(still)
    graph = build(still, human)
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    while graph.get_state(THREAD).next:
        interrupts = graph.get_state(THREAD).interrupts
        if waiting := interrupted_tasks(interrupts):
            if not early:
                still.advance(60)
            early = False
            resume: Any = dict.fromkeys(waiting.values(), True)
        else:
            resume = {interrupts[0].id: "the human"}
        way.run(graph, "invoke", Command(resume=resume), THREAD)
    assert set(human.answers) == {"the human"}
    assert graph.get_state(THREAD).interrupts == ()
    values = graph.get_state(THREAD).values
    assert [each.status for each in media_from(values)] == ["completed"], values["messages"]
    assert made(still) == ["image"]


def test_a_run_that_was_pinned_to_a_checkpoint_is_resumed_to_its_end(still: Emulator, way: Way) -> None:
    still.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), *["Done."] * 9])
    model = ChatPiccc(base_url=still.base_url, api_key=still.api_key)
    graph = create_agent(model, [image_tool(still)], checkpointer=InMemorySaver())
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    pinned = graph.get_state(THREAD).config
    assert "checkpoint_id" in pinned["configurable"]
    still.advance(60)
    state = resumed(still, graph, way, pinned)
    assert state["messages"][-1].text == "Done."
    assert made(still) == ["image"]
    assert sum(charge.kind == "chat" for charge in still.charges) == 2


def test_a_resumed_run_has_its_context_and_options(still: Emulator, way: Way) -> None:
    class Reads(AgentMiddleware):
        seen: list[Any] = []  # noqa: RUF012  the test's own

        def before_model(self, state: Any, runtime: Any) -> None:
            self.seen.append(runtime.context)

    still.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    model = ChatPiccc(base_url=still.base_url, api_key=still.api_key)
    reads = Reads()
    graph = create_agent(
        model, [image_tool(still)], middleware=[reads], context_schema=dict, checkpointer=InMemorySaver()
    )
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD, context={"user": "anna"})
    still.advance(60)
    resumed(still, graph, way, context={"user": "anna"}, durability="sync")
    assert reads.seen[-2:] == [{"user": "anna"}] * 2


def test_a_wait_that_runs_out_leaves_the_run_to_be_resumed(still: Emulator, way: Way) -> None:
    still.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    model = ChatPiccc(base_url=still.base_url, api_key=still.api_key)
    graph = create_agent(model, [image_tool(still)], checkpointer=InMemorySaver())
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    with pytest.raises(TaskWaitTimeout):
        resumed(still, graph, way, timeout=0.05)
    still.advance(60)
    assert resumed(still, graph, way)["messages"][-1].text == "Done."
    assert made(still) == ["image"]


@pytest.mark.parametrize("fault", ["429", "503", "404"])
def test_a_task_that_cannot_be_read_at_resume_keeps_its_id(still: Emulator, way: Way, fault: str) -> None:
    still.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    model = ChatPiccc(base_url=still.base_url, api_key=still.api_key)
    graph = create_agent(
        model, [image_tool(still, **clients(still, max_retries=0))], checkpointer=InMemorySaver()
    )
    stopped = way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    [(task_id, interrupt_id)] = interrupted_tasks(stopped["__interrupt__"]).items()
    still.advance(60)
    still.fault(fault, route="GET /v1/tasks*", times=1)
    state = way.run(graph, "invoke", Command(resume={interrupt_id: True}), THREAD)
    if fault == "404":  # the task has vanished: that is a result, and names it
        result = state["messages"][-2]
        assert task_id in result.text
        assert "tell the user" in result.text
        assert result.status == "error"
    else:  # it goes on when the server does
        assert interrupted_tasks(state["__interrupt__"]).keys() == {task_id}
        state = resumed(still, graph, way)
    assert [each.id for each in media_from(state)] == [task_id]
    assert made(still) == ["image"]


def test_a_vanished_task_ends_a_run_that_is_resumed(still: Emulator, way: Way) -> None:
    still.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "It is gone."])
    model = ChatPiccc(base_url=still.base_url, api_key=still.api_key)
    graph = create_agent(model, [image_tool(still)], checkpointer=InMemorySaver())
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    still.fault("404", route="GET /v1/tasks*")
    assert resumed(still, graph, way)["messages"][-1].text == "It is gone."


def asked_twice(emulator: Emulator, mode: str) -> Any:
    """An agent that is asked for the same image in two turns; its server counts calls from 0 each time."""
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [calling("A kite")]})
    graph.add_node("tools", ToolNode([image_tool(emulator, mode=mode)]))
    graph.add_edge(START, "model").add_edge("model", "tools")
    compiled = graph.compile(checkpointer=InMemorySaver())
    for text in ("A kite.", "Another one."):
        compiled.invoke({"messages": [HumanMessage(text)]}, THREAD)
    return compiled


def sent_out(emulator: Emulator, mode: str) -> Any:
    """A graph that sends the same call out to two graph tasks."""
    node = ToolNode([image_tool(emulator, mode=mode)])
    graph = StateGraph(State)
    graph.add_node("worker", node)
    sends = [Send("worker", {"messages": [calling("A kite")]})] * 2
    graph.add_conditional_edges(START, lambda state: sends, ["worker"])
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke({"messages": []}, THREAD)
    return compiled


def two_subgraphs(emulator: Emulator, mode: str) -> Any:
    """A graph with two agents side by side, each with the same call."""

    def sub() -> Any:
        graph = StateGraph(State)
        graph.add_node("model", lambda state: {"messages": [calling("A kite")]})
        graph.add_node("tools", ToolNode([image_tool(emulator, mode=mode)]))
        return graph.add_edge(START, "model").add_edge("model", "tools").compile()

    graph = StateGraph(State).add_node("left", sub()).add_node("right", sub())
    graph.add_edge(START, "left").add_edge(START, "right").add_edge("left", END).add_edge("right", END)
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke({"messages": []}, THREAD)
    return compiled


def functional(emulator: Emulator, mode: str) -> Any:
    """An entrypoint whose tasks make the same call."""
    image = image_tool(emulator, mode=mode)

    @task
    def draw() -> Any:
        [call] = calling("A kite").tool_calls
        return image.invoke(call)

    @entrypoint(checkpointer=InMemorySaver())
    def program(_: str) -> list[Any]:
        return (
            [draw().result(), draw().result()]
            if mode == "wait"
            else [each.result() for each in (draw(), draw())]
        )

    program.invoke("go", THREAD)
    return program


@pytest.mark.parametrize("mode", ["submit", "wait", "interrupt"])
@pytest.mark.parametrize("run", [asked_twice, sent_out, two_subgraphs, functional])
def test_equal_calls_in_two_places_are_two_images(own_emulator: Emulator, run: Any, mode: str) -> None:
    graph = run(own_emulator, mode)
    if mode == "interrupt":
        resumed(own_emulator, graph, Way(""))
    assert made(own_emulator) == ["image"] * 2


def agent_in_turns(emulator: Emulator) -> Any:
    """An agent that makes the same call in each turn."""
    call = Scripted(calls=[("generate_image", {"prompt": "A kite"})])
    emulator.script([lambda ask: "Done." if ask.turns[-1].role == "tool" else call] * 5)
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key)
    return create_agent(model, [image_tool(emulator)], checkpointer=InMemorySaver())


def node_in_turns(emulator: Emulator, *, is_sent: bool = False, saver: Any = None) -> Any:
    """A graph that does so too, its ids counted from 0."""
    graph = StateGraph(State).add_node("model", lambda state: {"messages": [calling("A kite")]})
    graph.add_node("tools", ToolNode([image_tool(emulator)])).add_edge(START, "model")
    if is_sent:
        graph.add_conditional_edges("model", lambda state: [Send("tools", {"messages": state["messages"]})])
    else:
        graph.add_edge("model", "tools")
    return graph.compile(checkpointer=saver or InMemorySaver())


def sends_in_turns(emulator: Emulator) -> Any:
    """A graph that sends its calls out."""
    return node_in_turns(emulator, is_sent=True)


def subgraph_in_turns(emulator: Emulator) -> Any:
    """A graph within a graph, with checkpoints of its own: else LangGraph replays it from its start."""
    graph = StateGraph(State).add_node("inner", node_in_turns(emulator, saver=True))
    return graph.add_edge(START, "inner").compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("graph_of", [agent_in_turns, node_in_turns, sends_in_turns, subgraph_in_turns])
def test_a_replay_finds_its_image_and_a_new_message_makes_one(
    own_emulator: Emulator, graph_of: Any, way: Way
) -> None:
    graph = graph_of(own_emulator)
    way.run(graph, "invoke", {"messages": [HumanMessage("A kite.")]}, THREAD)
    state = graph.get_state(THREAD, subgraphs=True)
    before_the_tool = (state.tasks[0].state or state).config
    first = media_from(resumed(own_emulator, graph, way))

    again = way.run(graph, "invoke", None, before_the_tool)
    assert [each.id for each in media_from(again)] == [each.id for each in first]
    assert made(own_emulator) == ["image"]

    way.run(graph, "invoke", {"messages": [HumanMessage("Another one.")]}, THREAD)
    assert len(media_from(resumed(own_emulator, graph, way))) == 2
    assert made(own_emulator) == ["image"] * 2


def test_a_model_neither_sees_nor_sets_the_runtime_that_langgraph_gives(own_emulator: Emulator) -> None:
    image = image_tool(own_emulator, mode="submit")
    assert "runtime" not in json.dumps([convert_to_openai_tool(image), image.get_input_jsonschema()])
    [call] = calling("A kite").tool_calls
    refused = image.invoke({**call, "args": {**call["args"], "runtime": "mine"}})
    assert "runtime: Extra inputs are not permitted" in refused.text
    assert made(own_emulator) == []


def test_a_fork_pays_for_edited_arguments_alone(own_emulator: Emulator, way: Way) -> None:
    graph = agent_in_turns(own_emulator)
    way.run(graph, "invoke", {"messages": [HumanMessage("A kite.")]}, THREAD)
    before_the_tool = graph.get_state(THREAD)
    resumed(own_emulator, graph, way)
    message = before_the_tool.values["messages"][-1]
    for prompt, count in (("A kite", 1), ("A red kite", 2), ("A red kite", 2)):
        calls = [{**call, "args": {"prompt": prompt}} for call in message.tool_calls]
        edited = {"messages": [message.model_copy(update={"tool_calls": calls})]}
        fork = graph.update_state(before_the_tool.config, edited)
        way.run(graph, "invoke", None, fork)
        resumed(own_emulator, graph, way)
        assert made(own_emulator) == ["image"] * count


@pytest.mark.parametrize("fault", ["429;retry-after=0", "503"])
def test_a_call_that_is_run_again_waits_where_its_task_cannot_be_read(
    own_emulator: Emulator, way: Way, fault: str
) -> None:
    image = image_tool(own_emulator, mode="wait", **clients(own_emulator, max_retries=0))
    call = {**calling("A kite").tool_calls[0], "type": "tool_call"}
    first = way.run(image, "invoke", call, THREAD)
    own_emulator.fault(fault, route="GET /v1/tasks*", times=1)
    again = way.run(image, "invoke", call, THREAD)
    assert media_from(again) == media_from(first)
    assert (again.status, made(own_emulator)) == ("success", ["image"])


@pytest.mark.parametrize("mode", ["submit", "wait"])
def test_without_a_thread_nobody_is_given_anothers_image(own_emulator: Emulator, mode: str) -> None:
    image = image_tool(own_emulator, mode=mode)
    graph = StateGraph(State)
    graph.add_node("tools", ToolNode([image]))
    compiled = graph.add_edge(START, "tools").compile()
    found = [compiled.invoke({"messages": [calling("A kite")]}) for _ in range(2)]
    found += [{"messages": [image.invoke(calling("A kite").tool_calls[0])]} for _ in range(2)]
    assert len({each.id for state in found for each in media_from(state)}) == 4
    assert made(own_emulator) == ["image"] * 4


def test_a_task_that_failed_is_not_handed_out_for_a_new_call(own_emulator: Emulator) -> None:
    own_emulator.fault("failed", route="POST /v1/images/tasks", times=1)
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [calling("A kite")]})
    graph.add_node("tools", ToolNode([image_tool(own_emulator, mode="wait")]))
    compiled = graph.add_edge(START, "model").add_edge("model", "tools").compile(checkpointer=InMemorySaver())
    states = [compiled.invoke({"messages": [HumanMessage("Go.")]}, THREAD) for _ in range(2)]
    assert [state["messages"][-1].status for state in states] == ["error", "success"]


def background(emulator: Emulator, *more: Any) -> Any:
    """An agent that makes images in the background."""
    both = clients(emulator)
    middleware = [PicccTasksMiddleware(both["client"], async_client=both["async_client"]), *more]
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key)
    tools = [image_tool(emulator, mode="background", **both)]
    return create_agent(model, tools, middleware=middleware, checkpointer=InMemorySaver())


def test_a_task_outlives_the_messages_that_named_it(still: Emulator, way: Way) -> None:
    model = ChatPiccc(base_url=still.base_url, api_key=still.api_key)
    summary = SummarizationMiddleware(model, trigger=("messages", 4), keep=("messages", 1))
    graph = background(still, summary)
    one = Scripted(calls=[("generate_image", {"prompt": "A kite"})])
    still.script([one, "Soon.", "A summary.", "Not yet.", "A summary.", "Here it is."])
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    state = way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    assert not [each for each in state["messages"] if isinstance(each, ToolMessage)]
    still.advance(60)
    state = way.run(graph, "invoke", {"messages": [HumanMessage("And now?")]}, THREAD)
    assert [each.status for each in media_from(state)] == ["completed"]
    assert "Media task updates" in str(still.requests[-1].body)


def test_what_was_interrupted_is_answered_when_the_user_goes_on(still: Emulator, way: Way) -> None:
    both = clients(still)
    middleware = [PicccTasksMiddleware(both["client"], async_client=both["async_client"])]
    model = ChatPiccc(base_url=still.base_url, api_key=still.api_key)
    still.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "I know.", "Here."])
    graph = create_agent(
        model, [image_tool(still, **both)], middleware=middleware, checkpointer=InMemorySaver()
    )
    stopped = way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    [task_id] = interrupted_tasks(stopped["__interrupt__"])
    state = way.run(graph, "invoke", {"messages": [HumanMessage("Never mind.")]}, THREAD)
    kinds = [message.type for message in state["messages"]]
    assert kinds == ["human", "ai", "tool", "human", "ai"]
    assert [each.id for each in media_from(state)] == [task_id]
    still.advance(60)
    state = way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    assert [each.status for each in media_from(state)] == ["completed"]


def test_a_task_that_vanished_is_told_of_once(way: Way) -> None:
    with Emulator(clock=ManualClock(start=time.time() - 3600), speed=float("inf")) as emulator:
        graph = background(emulator)
        emulator.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), *["I see."] * 3])
        way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
        emulator.fault("404", route="GET /v1/tasks*")
        for _ in range(2):
            state = way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    assert sum("the server no longer has it" in each.text for each in state["messages"]) == 1
    assert [each.status for each in media_from(state)] == ["expired"]


def test_a_task_that_its_server_did_not_date_vanishes_too(
    still: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(**settings(still))
    running = tasks_in(artifact_of(Task("task_gone", type="image")))
    assert not run_sync_tool(ended(client, running)), "a new one may show late"
    monkeypatch.setattr("piccc.media.agent_tools.GONE_SECONDS", 0)
    [report] = run_sync_tool(ended(client, running))
    assert "no longer has it" in report.text


def test_a_wait_ends_with_the_first_task_that_does(still: Emulator) -> None:
    client = Client(**settings(still))
    still.fault("stuck", route="POST /v1/images/tasks", times=1)
    stuck, ends = (client.images.submit(prompt, model="piccc-image") for prompt in ("A kite", "A tree"))
    still.advance(60)
    [report] = run_sync_tool(ended(client, [stuck, ends], seconds=3600))
    assert report.artifact["task_id"] == ends.id


def test_several_running_tasks_are_read_with_one_request(still: Emulator, way: Way) -> None:
    graph = background(still)
    still.script(
        [Scripted(calls=[("generate_image", {"prompt": f"Kite {n}"}) for n in range(5)]), "Soon.", "Later."]
    )
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    before = len(still.requests)
    way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    reads = [each.path for each in list(still.requests)[before:] if each.method == "GET"]
    assert reads == ["/v1/tasks"]


def stored_in_memory(saver: InMemorySaver) -> int:
    """Return how many bytes of values a saver holds."""
    return sum(len(blob) for _, blob in saver.blobs.values())


def stored_in_sqlite(saver: SqliteSaver) -> int:
    """Return how many bytes of checkpoints and writes a saver holds."""
    sums = ("SELECT sum(length(checkpoint)) FROM checkpoints", "SELECT sum(length(value)) FROM writes")
    return sum(saver.conn.execute(each).fetchone()[0] for each in sums)


@pytest.mark.parametrize("kind", [InMemorySaver, SqliteSaver])
def test_checkpoints_hold_no_image_that_a_model_is_shown(own_emulator: Emulator, kind: Any) -> None:
    turns, sizes = 3, {}
    for show in ("none", "image"):
        one = Scripted(calls=[("generate_image", {"prompt": "A kite"})])
        own_emulator.script([one, lambda ask: f"I see {sum(len(turn.media) for turn in ask.turns)}."] * turns)
        with SqliteSaver.from_conn_string(":memory:") as sqlite:
            saver: Any = sqlite if kind is SqliteSaver else InMemorySaver()
            model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key)
            tools = [image_tool(own_emulator, mode="wait", show=show)]
            graph = create_agent(model, tools, checkpointer=saver)
            for _ in range(turns):
                state = graph.invoke({"messages": [HumanMessage("Go.")]}, THREAD)
            sizes[show] = (stored_in_sqlite if kind is SqliteSaver else stored_in_memory)(saver)
    assert state["messages"][-1].text == f"I see {turns}."
    assert sizes["image"] < 2 * sizes["none"] < 300_000


@pytest.mark.parametrize("mode", ["wait", "submit", "background", "interrupt"])
def test_progress_is_streamed_in_every_mode(still: Emulator, mode: str) -> None:
    graph = StateGraph(State).add_node("tools", ToolNode([image_tool(still, mode=mode, wait_s=0.01)]))
    compiled = graph.add_edge(START, "tools").compile(checkpointer=InMemorySaver())
    news = list(compiled.stream({"messages": [calling("A kite")]}, THREAD, stream_mode="custom"))
    assert news[0]["piccc_task"]["status"] == "queued"


@pytest.mark.parametrize("place", ["tool", "middleware"])
def test_each_poll_is_a_heartbeat(
    still: Emulator, way: Way, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        still.advance(60)  # so that the wait ends

    both = clients(still)
    if place == "tool":
        monkeypatch.setattr("langgraph.runtime.get_runtime", lambda: Runtime(heartbeat=beat))
        graph = StateGraph(State).add_node("tools", ToolNode([image_tool(still, mode="wait", wait_s=30)]))
        way.run(graph.add_edge(START, "tools").compile(), "invoke", {"messages": [calling("A kite")]})
    else:
        task = both["client"].images.submit("A kite", model="piccc-image")
        middleware = PicccTasksMiddleware(both["client"], async_client=both["async_client"], wait_s=30)
        state = {"messages": [AIMessage("Soon.")], "piccc_tasks": {task.id: artifact_of(task)}}
        way.run(middleware, "after_model", state, Runtime(heartbeat=beat))
    reads = sum(each.method == "GET" and each.path.startswith("/v1/tasks") for each in still.requests)
    assert 0 < beats <= reads


@pytest.mark.parametrize(
    ("fault", "sent", "status"),
    [("failed", 1, "error"), ("503", 2, "success"), ("lost-answer", 1, "success")],
)
def test_a_retry_repeats_what_was_not_made_and_pays_for_nothing_twice(
    own_emulator: Emulator, way: Way, fault: str, sent: int, status: str
) -> None:
    own_emulator.fault(fault, route="POST /v1/images/tasks", times=1)
    own_emulator.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    image = image_tool(
        own_emulator, mode="wait", handle_tool_error=False, **clients(own_emulator, max_retries=0)
    )
    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0.0, jitter=False)
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key)
    graph = create_agent(model, [image], middleware=[retry], checkpointer=InMemorySaver())
    state = way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    assert state["messages"][-2].status == status
    posts = [each for each in own_emulator.requests if each.path == "/v1/images/tasks"]
    assert len(posts) == sent
    assert sum(charge.kind == "image" for charge in own_emulator.charges) == 1


@pytest.mark.parametrize(
    ("durability", "place", "thread", "warns"),
    [
        ("async", "n:1", "t", "durability"),
        ("sync", "n:1", "t", ""),
        ("sync", "", "t", "graph task"),
        # Without a thread there is no checkpointer, and LangGraph says that `durability` has no effect.
        ("async", "n:1", None, ""),
    ],
)
def test_what_the_promise_depends_on_is_warned_of_once(
    own_emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    durability: str,
    place: str,
    thread: str | None,
    warns: str,
) -> None:
    monkeypatch.setattr("piccc.media.agent_tools._warned", set())
    image = image_tool(
        own_emulator, mode="submit", client=Client(**settings(own_emulator), ledger=tmp_path / "l")
    )
    config: Any = {
        "configurable": {"thread_id": thread, "checkpoint_ns": place, "__pregel_durability": durability},
        "metadata": {"langgraph_node": "n"},
    }
    for id in ("1", "2"):
        image.invoke(calling("A kite", id=id).tool_calls[0], config)
    said = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert len(said) == bool(warns)
    assert all(warns in each for each in said)


def test_media_is_read_from_states_and_json(own_emulator: Emulator) -> None:
    message = image_tool(own_emulator, mode="wait").invoke(calling("A kite").tool_calls[0])
    [expected] = media_from(message)
    for source in (
        [message],
        {"messages": [message]},
        {"messages": [message.model_dump()]},
        [message.model_dump()],
        {"messages": [], "piccc_tasks": {expected.id: message.artifact}},
    ):
        assert media_from(source) == [expected]


def test_a_hook_that_fails_does_not_reach_the_model(own_emulator: Emulator, way: Way) -> None:
    def fails(_: Any) -> None:
        raise RuntimeError("the program's own")

    image = image_tool(own_emulator, mode="wait", on_update=fails)
    message = way.run(image, "invoke", calling("A kite").tool_calls[0])
    assert message.status == "success"
