"""Media tools in graphs: only humans answer a human's questions, and each requested image is made once."""

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


def tool_call_message(*prompts: str, id: str = "call_{}", name: str = "generate_image") -> AIMessage:
    """Return a message that calls a tool once per prompt; ids count from 0, as on some servers."""
    calls = [
        {"name": name, "args": {"prompt": prompt}, "id": id.format(index)}
        for index, prompt in enumerate(prompts)
    ]
    return AIMessage("", tool_calls=calls)


def image_tool(emulator: Emulator, **options: Any) -> PicccImageTool:
    return PicccImageTool(model="piccc-image", **{"mode": "interrupt", **clients(emulator), **options})


def wait_and_resume(emulator: Emulator, graph: Any, way: Way, config: Any = THREAD, **options: Any) -> Any:
    """Wait for the tasks of an interrupted run and resume it."""
    options = {"timeout": 30, **options}
    if way.is_async:
        client = AsyncClient(**settings(emulator))
        return asyncio.run(aresume_when_done(graph, config, client, **options))
    return resume_when_done(graph, config, Client(**settings(emulator)), **options)


class Human:
    """A human who is asked through interrupts, and the tool with which a model asks."""

    def __init__(self, emulator: Emulator) -> None:
        self.answers: list[Any] = []
        self._emulator = emulator

    def ask(self, question: str) -> Any:
        """Ask once the image is submitted: an interrupt cancels parallel work."""
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


def in_custom_node(emulator: Emulator, human: Human) -> Any:
    """Return a graph whose node makes an image and then asks a human whether to publish it."""
    image = image_tool(emulator)

    def node(state: State, config: RunnableConfig) -> dict[str, Any]:
        [call] = tool_call_message("A kite").tool_calls
        made = image.invoke(call, config)
        return {"messages": [made, HumanMessage(f"published: {human.ask('Publish?')}")]}

    async def anode(state: State, config: RunnableConfig) -> dict[str, Any]:
        [call] = tool_call_message("A kite").tool_calls
        made = await image.ainvoke(call, config)
        return {"messages": [made, HumanMessage(f"published: {human.ask('Publish?')}")]}

    graph = StateGraph(State).add_node("node", RunnableLambda(node, anode))
    return graph.add_edge(START, "node").compile(checkpointer=InMemorySaver())


def in_tool_node(emulator: Emulator, human: Human, *, human_first: bool = False) -> Any:
    """Return a graph with one task that runs an image tool and a human's tool in parallel."""
    image, ask = (
        tool_call_message("A kite", id="image"),
        tool_call_message("Delete all files?", id="human", name="ask_human"),
    )
    calls = [*ask.tool_calls, *image.tool_calls] if human_first else [*image.tool_calls, *ask.tool_calls]
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [AIMessage("", tool_calls=calls)]})
    graph.add_node("tools", ToolNode([image_tool(emulator), human.tool()]))
    graph.add_edge(START, "model").add_edge("model", "tools")
    return graph.compile(checkpointer=InMemorySaver())


def in_tool_node_after_the_human(emulator: Emulator, human: Human) -> Any:
    """Return the same graph with the calls in the other order."""
    return in_tool_node(emulator, human, human_first=True)


def in_agent_with_review(emulator: Emulator, human: Human) -> Any:
    """Return an agent whose middleware asks a human about each result, in the graph task of the call."""

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
    "build", [in_custom_node, in_tool_node, in_tool_node_after_the_human, in_agent_with_review]
)
def test_a_question_to_a_human_is_answered_only_by_the_human(
    paused: Emulator, way: Way, build: Any, *, early: bool
) -> None:
    human = Human(paused)
    graph = build(paused, human)
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    while graph.get_state(THREAD).next:
        interrupts = graph.get_state(THREAD).interrupts
        if waiting := interrupted_tasks(interrupts):
            if not early:
                paused.advance(60)
            early = False
            resume: Any = dict.fromkeys(waiting.values(), True)
        else:
            resume = {interrupts[0].id: "the human"}
        way.run(graph, "invoke", Command(resume=resume), THREAD)
    assert set(human.answers) == {"the human"}
    assert graph.get_state(THREAD).interrupts == ()
    values = graph.get_state(THREAD).values
    assert [task.status for task in media_from(values)] == ["completed"], values["messages"]
    assert made(paused) == ["image"]


def test_a_run_pinned_to_a_checkpoint_resumes_to_its_end(paused: Emulator, way: Way) -> None:
    paused.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), *["Done."] * 9])
    model = ChatPiccc(base_url=paused.base_url, api_key=paused.api_key)
    graph = create_agent(model, [image_tool(paused)], checkpointer=InMemorySaver())
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    pinned = graph.get_state(THREAD).config
    assert "checkpoint_id" in pinned["configurable"]
    paused.advance(60)
    state = wait_and_resume(paused, graph, way, pinned)
    assert state["messages"][-1].text == "Done."
    assert made(paused) == ["image"]
    assert sum(charge.kind == "chat" for charge in paused.charges) == 2


def test_a_resumed_run_receives_context_and_options(paused: Emulator, way: Way) -> None:
    class ContextRecorder(AgentMiddleware):
        seen: list[Any] = []  # noqa: RUF012  used by this test only

        def before_model(self, state: Any, runtime: Any) -> None:
            self.seen.append(runtime.context)

    paused.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    model = ChatPiccc(base_url=paused.base_url, api_key=paused.api_key)
    recorder = ContextRecorder()
    graph = create_agent(
        model, [image_tool(paused)], middleware=[recorder], context_schema=dict, checkpointer=InMemorySaver()
    )
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD, context={"user": "anna"})
    paused.advance(60)
    wait_and_resume(paused, graph, way, context={"user": "anna"}, durability="sync")
    assert recorder.seen[-2:] == [{"user": "anna"}] * 2


def test_a_run_can_be_resumed_after_a_wait_timeout(paused: Emulator, way: Way) -> None:
    paused.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    model = ChatPiccc(base_url=paused.base_url, api_key=paused.api_key)
    graph = create_agent(model, [image_tool(paused)], checkpointer=InMemorySaver())
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    with pytest.raises(TaskWaitTimeout):
        wait_and_resume(paused, graph, way, timeout=0.05)
    paused.advance(60)
    assert wait_and_resume(paused, graph, way)["messages"][-1].text == "Done."
    assert made(paused) == ["image"]


@pytest.mark.parametrize("fault", ["429", "503", "404"])
def test_a_task_that_is_unreadable_on_resume_keeps_its_id(paused: Emulator, way: Way, fault: str) -> None:
    paused.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "Done."])
    model = ChatPiccc(base_url=paused.base_url, api_key=paused.api_key)
    graph = create_agent(
        model, [image_tool(paused, **clients(paused, max_retries=0))], checkpointer=InMemorySaver()
    )
    stopped = way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    [(task_id, interrupt_id)] = interrupted_tasks(stopped["__interrupt__"]).items()
    paused.advance(60)
    paused.fault(fault, route="GET /v1/tasks*", times=1)
    state = way.run(graph, "invoke", Command(resume={interrupt_id: True}), THREAD)
    if fault == "404":  # a missing task is a result that names it
        result = state["messages"][-2]
        assert task_id in result.text
        assert "tell the user" in result.text
        assert result.status == "error"
    else:  # the run continues once the server recovers
        assert interrupted_tasks(state["__interrupt__"]).keys() == {task_id}
        state = wait_and_resume(paused, graph, way)
    assert [task.id for task in media_from(state)] == [task_id]
    assert made(paused) == ["image"]


def test_a_resumed_run_ends_if_its_task_is_missing(paused: Emulator, way: Way) -> None:
    paused.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "It is gone."])
    model = ChatPiccc(base_url=paused.base_url, api_key=paused.api_key)
    graph = create_agent(model, [image_tool(paused)], checkpointer=InMemorySaver())
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    paused.fault("404", route="GET /v1/tasks*")
    assert wait_and_resume(paused, graph, way)["messages"][-1].text == "It is gone."


def in_two_turns(emulator: Emulator, mode: str) -> Any:
    """Run a graph that makes the same call, with the same id, in two turns."""
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [tool_call_message("A kite")]})
    graph.add_node("tools", ToolNode([image_tool(emulator, mode=mode)]))
    graph.add_edge(START, "model").add_edge("model", "tools")
    compiled = graph.compile(checkpointer=InMemorySaver())
    for text in ("A kite.", "Another one."):
        compiled.invoke({"messages": [HumanMessage(text)]}, THREAD)
    return compiled


def in_two_sends(emulator: Emulator, mode: str) -> Any:
    """Run a graph that sends the same call to two graph tasks."""
    node = ToolNode([image_tool(emulator, mode=mode)])
    graph = StateGraph(State)
    graph.add_node("worker", node)
    sends = [Send("worker", {"messages": [tool_call_message("A kite")]})] * 2
    graph.add_conditional_edges(START, lambda state: sends, ["worker"])
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke({"messages": []}, THREAD)
    return compiled


def in_two_subgraphs(emulator: Emulator, mode: str) -> Any:
    """Run a graph with two parallel subgraphs that make the same call."""

    def sub() -> Any:
        graph = StateGraph(State)
        graph.add_node("model", lambda state: {"messages": [tool_call_message("A kite")]})
        graph.add_node("tools", ToolNode([image_tool(emulator, mode=mode)]))
        return graph.add_edge(START, "model").add_edge("model", "tools").compile()

    graph = StateGraph(State).add_node("left", sub()).add_node("right", sub())
    graph.add_edge(START, "left").add_edge(START, "right").add_edge("left", END).add_edge("right", END)
    compiled = graph.compile(checkpointer=InMemorySaver())
    compiled.invoke({"messages": []}, THREAD)
    return compiled


def in_two_functional_tasks(emulator: Emulator, mode: str) -> Any:
    """Run an entrypoint whose tasks make the same call."""
    image = image_tool(emulator, mode=mode)

    @task
    def draw() -> Any:
        [call] = tool_call_message("A kite").tool_calls
        return image.invoke(call)

    @entrypoint(checkpointer=InMemorySaver())
    def program(_: str) -> list[Any]:
        return (
            [draw().result(), draw().result()]
            if mode == "wait"
            else [future.result() for future in (draw(), draw())]
        )

    program.invoke("go", THREAD)
    return program


@pytest.mark.parametrize("mode", ["submit", "wait", "interrupt"])
@pytest.mark.parametrize("run", [in_two_turns, in_two_sends, in_two_subgraphs, in_two_functional_tasks])
def test_identical_calls_in_two_places_create_two_images(own_emulator: Emulator, run: Any, mode: str) -> None:
    graph = run(own_emulator, mode)
    if mode == "interrupt":
        wait_and_resume(own_emulator, graph, Way(""))
    assert made(own_emulator) == ["image"] * 2


def agent_in_turns(emulator: Emulator) -> Any:
    """Return an agent that makes the same call in each turn."""
    call = Scripted(calls=[("generate_image", {"prompt": "A kite"})])
    emulator.script([lambda ask: "Done." if ask.turns[-1].role == "tool" else call] * 5)
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key)
    return create_agent(model, [image_tool(emulator)], checkpointer=InMemorySaver())


def node_in_turns(emulator: Emulator, *, is_sent: bool = False, saver: Any = None) -> Any:
    """Return a graph that makes the same call, with the same id, in each turn."""
    graph = StateGraph(State).add_node("model", lambda state: {"messages": [tool_call_message("A kite")]})
    graph.add_node("tools", ToolNode([image_tool(emulator)])).add_edge(START, "model")
    if is_sent:
        graph.add_conditional_edges("model", lambda state: [Send("tools", {"messages": state["messages"]})])
    else:
        graph.add_edge("model", "tools")
    return graph.compile(checkpointer=saver or InMemorySaver())


def sends_in_turns(emulator: Emulator) -> Any:
    """Return the same graph with its calls sent to graph tasks."""
    return node_in_turns(emulator, is_sent=True)


def subgraph_in_turns(emulator: Emulator) -> Any:
    """Return the same graph as a subgraph. It needs its own checkpoints to be replayed from the middle."""
    graph = StateGraph(State).add_node("inner", node_in_turns(emulator, saver=True))
    return graph.add_edge(START, "inner").compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("graph_of", [agent_in_turns, node_in_turns, sends_in_turns, subgraph_in_turns])
def test_a_replay_reuses_its_image_and_a_new_message_creates_one(
    own_emulator: Emulator, graph_of: Any, way: Way
) -> None:
    graph = graph_of(own_emulator)
    way.run(graph, "invoke", {"messages": [HumanMessage("A kite.")]}, THREAD)
    state = graph.get_state(THREAD, subgraphs=True)
    before_tool = (state.tasks[0].state or state).config
    first = media_from(wait_and_resume(own_emulator, graph, way))

    repeated = way.run(graph, "invoke", None, before_tool)
    assert [task.id for task in media_from(repeated)] == [task.id for task in first]
    assert made(own_emulator) == ["image"]

    way.run(graph, "invoke", {"messages": [HumanMessage("Another one.")]}, THREAD)
    assert len(media_from(wait_and_resume(own_emulator, graph, way))) == 2
    assert made(own_emulator) == ["image"] * 2


def test_the_model_cannot_see_or_set_langgraphs_runtime(own_emulator: Emulator) -> None:
    image = image_tool(own_emulator, mode="submit")
    assert "runtime" not in json.dumps([convert_to_openai_tool(image), image.get_input_jsonschema()])
    [call] = tool_call_message("A kite").tool_calls
    refused = image.invoke({**call, "args": {**call["args"], "runtime": "mine"}})
    assert "runtime: Extra inputs are not permitted" in refused.text
    assert made(own_emulator) == []


def test_a_fork_pays_only_for_edited_arguments(own_emulator: Emulator, way: Way) -> None:
    graph = agent_in_turns(own_emulator)
    way.run(graph, "invoke", {"messages": [HumanMessage("A kite.")]}, THREAD)
    before_the_tool = graph.get_state(THREAD)
    wait_and_resume(own_emulator, graph, way)
    message = before_the_tool.values["messages"][-1]
    for prompt, count in (("A kite", 1), ("A red kite", 2), ("A red kite", 2)):
        calls = [{**call, "args": {"prompt": prompt}} for call in message.tool_calls]
        edited = {"messages": [message.model_copy(update={"tool_calls": calls})]}
        fork = graph.update_state(before_the_tool.config, edited)
        way.run(graph, "invoke", None, fork)
        wait_and_resume(own_emulator, graph, way)
        assert made(own_emulator) == ["image"] * count


@pytest.mark.parametrize("fault", ["429;retry-after=0", "503"])
def test_a_repeated_call_waits_while_its_task_is_unreadable(
    own_emulator: Emulator, way: Way, fault: str
) -> None:
    image = image_tool(own_emulator, mode="wait", **clients(own_emulator, max_retries=0))
    call = {**tool_call_message("A kite").tool_calls[0], "type": "tool_call"}
    first = way.run(image, "invoke", call, THREAD)
    own_emulator.fault(fault, route="GET /v1/tasks*", times=1)
    repeated = way.run(image, "invoke", call, THREAD)
    assert media_from(repeated) == media_from(first)
    assert (repeated.status, made(own_emulator)) == ("success", ["image"])


@pytest.mark.parametrize("mode", ["submit", "wait"])
def test_calls_without_a_thread_never_share_images(own_emulator: Emulator, mode: str) -> None:
    image = image_tool(own_emulator, mode=mode)
    graph = StateGraph(State)
    graph.add_node("tools", ToolNode([image]))
    compiled = graph.add_edge(START, "tools").compile()
    states = [compiled.invoke({"messages": [tool_call_message("A kite")]}) for _ in range(2)]
    states += [{"messages": [image.invoke(tool_call_message("A kite").tool_calls[0])]} for _ in range(2)]
    assert len({task.id for state in states for task in media_from(state)}) == 4
    assert made(own_emulator) == ["image"] * 4


def test_a_new_call_does_not_reuse_a_failed_task(own_emulator: Emulator) -> None:
    own_emulator.fault("failed", route="POST /v1/images/tasks", times=1)
    graph = StateGraph(State)
    graph.add_node("model", lambda state: {"messages": [tool_call_message("A kite")]})
    graph.add_node("tools", ToolNode([image_tool(own_emulator, mode="wait")]))
    compiled = graph.add_edge(START, "model").add_edge("model", "tools").compile(checkpointer=InMemorySaver())
    states = [compiled.invoke({"messages": [HumanMessage("Go.")]}, THREAD) for _ in range(2)]
    assert [state["messages"][-1].status for state in states] == ["error", "success"]


def background_agent(emulator: Emulator, *more: Any) -> Any:
    """Return an agent that makes images in the background."""
    both = clients(emulator)
    middleware = [PicccTasksMiddleware(both["client"], async_client=both["async_client"]), *more]
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key)
    tools = [image_tool(emulator, mode="background", **both)]
    return create_agent(model, tools, middleware=middleware, checkpointer=InMemorySaver())


def test_a_task_survives_the_summarization_of_its_messages(paused: Emulator, way: Way) -> None:
    model = ChatPiccc(base_url=paused.base_url, api_key=paused.api_key)
    summary = SummarizationMiddleware(model, trigger=("messages", 4), keep=("messages", 1))
    graph = background_agent(paused, summary)
    image_call = Scripted(calls=[("generate_image", {"prompt": "A kite"})])
    paused.script([image_call, "Soon.", "A summary.", "Not yet.", "A summary.", "Here it is."])
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    state = way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    assert not [message for message in state["messages"] if isinstance(message, ToolMessage)]
    paused.advance(60)
    state = way.run(graph, "invoke", {"messages": [HumanMessage("And now?")]}, THREAD)
    assert [task.status for task in media_from(state)] == ["completed"]
    assert "Media task updates" in str(paused.requests[-1].body)


def test_an_interrupted_call_is_answered_when_the_user_continues(paused: Emulator, way: Way) -> None:
    both = clients(paused)
    middleware = [PicccTasksMiddleware(both["client"], async_client=both["async_client"])]
    model = ChatPiccc(base_url=paused.base_url, api_key=paused.api_key)
    paused.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), "I know.", "Here."])
    graph = create_agent(
        model, [image_tool(paused, **both)], middleware=middleware, checkpointer=InMemorySaver()
    )
    stopped = way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    [task_id] = interrupted_tasks(stopped["__interrupt__"])
    state = way.run(graph, "invoke", {"messages": [HumanMessage("Never mind.")]}, THREAD)
    kinds = [message.type for message in state["messages"]]
    assert kinds == ["human", "ai", "tool", "human", "ai"]
    assert [task.id for task in media_from(state)] == [task_id]
    paused.advance(60)
    state = way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    assert [task.status for task in media_from(state)] == ["completed"]


def test_a_missing_task_is_reported_once(way: Way) -> None:
    with Emulator(clock=ManualClock(start=time.time() - 3600), speed=float("inf")) as emulator:
        graph = background_agent(emulator)
        emulator.script([Scripted(calls=[("generate_image", {"prompt": "A kite"})]), *["I see."] * 3])
        way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
        emulator.fault("404", route="GET /v1/tasks*")
        for _ in range(2):
            state = way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    assert sum("the server no longer has it" in message.text for message in state["messages"]) == 1
    assert [task.status for task in media_from(state)] == ["expired"]


def test_a_missing_task_without_a_timestamp_is_reported(
    paused: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(**settings(paused))
    running = tasks_in(artifact_of(Task("task_gone", type="image")))
    assert not run_sync_tool(ended(client, running)), "a new task may appear late"
    monkeypatch.setattr("piccc.media.agent_tools.GONE_SECONDS", 0)
    [report] = run_sync_tool(ended(client, running))
    assert "no longer has it" in report.text


def test_a_wait_returns_when_the_first_task_ends(paused: Emulator) -> None:
    client = Client(**settings(paused))
    paused.fault("stuck", route="POST /v1/images/tasks", times=1)
    stuck, ends = (client.images.submit(prompt, model="piccc-image") for prompt in ("A kite", "A tree"))
    paused.advance(60)
    [report] = run_sync_tool(ended(client, [stuck, ends], seconds=3600))
    assert report.artifact["task_id"] == ends.id


def test_several_running_tasks_are_polled_with_one_request(paused: Emulator, way: Way) -> None:
    graph = background_agent(paused)
    paused.script(
        [Scripted(calls=[("generate_image", {"prompt": f"Kite {n}"}) for n in range(5)]), "Soon.", "Later."]
    )
    way.run(graph, "invoke", {"messages": [HumanMessage("Go.")]}, THREAD)
    before = len(paused.requests)
    way.run(graph, "invoke", {"messages": [HumanMessage("And?")]}, THREAD)
    reads = [request.path for request in list(paused.requests)[before:] if request.method == "GET"]
    assert reads == ["/v1/tasks"]


def memory_size(saver: InMemorySaver) -> int:
    """Return the size in bytes of the saver's values."""
    return sum(len(blob) for _, blob in saver.blobs.values())


def sqlite_size(saver: SqliteSaver) -> int:
    """Return the size in bytes of the saver's checkpoints and writes."""
    sums = ("SELECT sum(length(checkpoint)) FROM checkpoints", "SELECT sum(length(value)) FROM writes")
    return sum(saver.conn.execute(query).fetchone()[0] for query in sums)


@pytest.mark.parametrize("kind", [InMemorySaver, SqliteSaver])
def test_checkpoints_do_not_store_images_shown_to_the_model(own_emulator: Emulator, kind: Any) -> None:
    turns, sizes = 3, {}
    for show in ("none", "image"):
        image_call = Scripted(calls=[("generate_image", {"prompt": "A kite"})])
        own_emulator.script(
            [image_call, lambda ask: f"I see {sum(len(turn.media) for turn in ask.turns)}."] * turns
        )
        with SqliteSaver.from_conn_string(":memory:") as sqlite:
            saver: Any = sqlite if kind is SqliteSaver else InMemorySaver()
            model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key)
            tools = [image_tool(own_emulator, mode="wait", show=show)]
            graph = create_agent(model, tools, checkpointer=saver)
            for _ in range(turns):
                state = graph.invoke({"messages": [HumanMessage("Go.")]}, THREAD)
            sizes[show] = (sqlite_size if kind is SqliteSaver else memory_size)(saver)
    assert state["messages"][-1].text == f"I see {turns}."
    assert sizes["image"] < 2 * sizes["none"] < 300_000


@pytest.mark.parametrize("mode", ["wait", "submit", "background", "interrupt"])
def test_progress_is_streamed_in_every_mode(paused: Emulator, mode: str) -> None:
    graph = StateGraph(State).add_node("tools", ToolNode([image_tool(paused, mode=mode, wait_s=0.01)]))
    compiled = graph.add_edge(START, "tools").compile(checkpointer=InMemorySaver())
    updates = list(compiled.stream({"messages": [tool_call_message("A kite")]}, THREAD, stream_mode="custom"))
    assert updates[0]["piccc_task"]["status"] == "queued"


@pytest.mark.parametrize("place", ["tool", "middleware"])
def test_polling_sends_heartbeats(
    paused: Emulator, way: Way, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        paused.advance(60)  # end the wait

    both = clients(paused)
    if place == "tool":
        monkeypatch.setattr("langgraph.runtime.get_runtime", lambda: Runtime(heartbeat=beat))
        graph = StateGraph(State).add_node("tools", ToolNode([image_tool(paused, mode="wait", wait_s=30)]))
        way.run(
            graph.add_edge(START, "tools").compile(), "invoke", {"messages": [tool_call_message("A kite")]}
        )
    else:
        task = both["client"].images.submit("A kite", model="piccc-image")
        middleware = PicccTasksMiddleware(both["client"], async_client=both["async_client"], wait_s=30)
        state = {"messages": [AIMessage("Soon.")], "piccc_tasks": {task.id: artifact_of(task)}}
        way.run(middleware, "after_model", state, Runtime(heartbeat=beat))
    reads = sum(
        request.method == "GET" and request.path.startswith("/v1/tasks") for request in paused.requests
    )
    assert 0 < beats <= reads


@pytest.mark.parametrize(
    ("fault", "sent", "status"),
    [("failed", 1, "error"), ("503", 2, "success"), ("lost-answer", 1, "success")],
)
def test_a_retry_resubmits_only_if_no_task_was_created(
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
    posts = [request for request in own_emulator.requests if request.path == "/v1/images/tasks"]
    assert len(posts) == sent
    assert sum(charge.kind == "image" for charge in own_emulator.charges) == 1


@pytest.mark.parametrize(
    ("durability", "place", "thread", "warns"),
    [
        ("async", "n:1", "t", "durability"),
        ("sync", "n:1", "t", ""),
        ("sync", "", "t", "graph task"),
        # Without a thread there is no checkpointer, and LangGraph warns that `durability` has no effect.
        ("async", "n:1", None, ""),
    ],
)
def test_settings_that_could_cause_double_payment_are_warned_about_once(
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
        image.invoke(tool_call_message("A kite", id=id).tool_calls[0], config)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == bool(warns)
    assert all(warns in warning for warning in warnings)


def test_media_from_reads_messages_states_and_json(own_emulator: Emulator) -> None:
    message = image_tool(own_emulator, mode="wait").invoke(tool_call_message("A kite").tool_calls[0])
    [expected] = media_from(message)
    for source in (
        [message],
        {"messages": [message]},
        {"messages": [message.model_dump()]},
        [message.model_dump()],
        {"messages": [], "piccc_tasks": {expected.id: message.artifact}},
    ):
        assert media_from(source) == [expected]


def test_a_failing_update_hook_does_not_affect_the_result(own_emulator: Emulator, way: Way) -> None:
    def fails(_: Any) -> None:
        raise RuntimeError("The hook failed.")

    image = image_tool(own_emulator, mode="wait", on_update=fails)
    message = way.run(image, "invoke", tool_call_message("A kite").tool_calls[0])
    assert message.status == "success"
