"""A call that must not be acted on is an invalid call in every way in which a reply can be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_piccc import ChatPiccc, PicccInvalidCallsMiddleware
from langchain_piccc._replies import without_ending
from piccc.emulator import Emulator, Scripted
from tests.dialects import replies
from tests.dialects.test_invalid_calls import CASES, UNSAYABLE_WHOLE
from tests.langchain.replay import Replay, stream, whole

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta


def bodies(dialect: str, case: str) -> tuple[Any, list[Any]]:
    """Return a reply as a server of the dialect writes it: whole, and as a stream."""
    said, reason, _ = CASES[case]
    calls = [(f"call_{index}", *each) for index, each in enumerate(said)]
    if dialect == "openai":
        return replies._completion(calls, reason, ""), replies._chunks(calls, reason, "")
    stop = replies._STOP_REASONS.get(reason or "")
    return replies._message(calls, stop, ""), replies._events(calls, stop, "")


def ways(dialect: str, case: str) -> Iterator[tuple[str, AIMessage]]:
    """Yield the reply in every way in which it can be asked for."""
    body, events = bodies(dialect, case)
    if CASES[case][1] is None and dialect == "openai":
        events = [*events[:-1], "[DONE]"]

    def model(reply: Any, **options: Any) -> ChatPiccc:
        return Replay(reply).model(dialect=dialect, **options)

    for version in (None, "v1"):
        if (dialect, case) not in {("anthropic", each) for each in UNSAYABLE_WHOLE}:
            yield f"invoke {version}", model(whole(body), output_version=version).invoke("?")
        for coalesce in (True, False):
            for together in (True, False):
                options = {"output_version": version, "coalesce": coalesce}
                streaming = model(stream(events, together=together), **options)
                first, *rest = streaming.stream("?")
                yield f"stream {options} {together}", first + rest
        yield (
            f"invoke streaming {version}",
            model(stream(events), output_version=version, streaming=True).invoke("?"),
        )
        first, *rest = asyncio.run(_collected(model(stream(events), output_version=version)))
        yield f"astream {version}", first + rest
    yield "events", model(stream(events)).stream_events("?", version="v3").output


async def _collected(model: ChatPiccc) -> list[Any]:
    return [chunk async for chunk in model.astream("?")]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_call_is_judged_alike_in_every_way(dialect: str, case: str) -> None:
    said, _, expected = CASES[case]
    valid = [arguments for kind, arguments in expected if kind == "valid"]
    for way, message in ways(dialect, case):
        assert [call["args"] for call in message.tool_calls] == valid, way
        invalid = message.invalid_tool_calls
        assert len(invalid) == len(expected) - len(valid), way
        texts = [
            "".join(pieces) for (_, pieces), (kind, _) in zip(said, expected, strict=True) if kind != "valid"
        ]
        if dialect == "openai":
            assert [without_ending(call["args"] or "") for call in invalid] == texts, way
        reasons = [kind for kind, _ in expected if kind != "valid"]
        kept = message.response_metadata.get("invalid_tool_calls", [])
        assert [each["reason"] for each in kept] == reasons, way
        blocks = [each for each in message.content_blocks if "tool_call" in each["type"]]
        assert [each["args"] for each in blocks if each["type"] == "tool_call"] == valid, way
        others = [each for each in blocks if each["type"] != "tool_call"]
        assert len(others) == len(invalid), way
        for block in others:
            # Where chunks of v1 are summed, LangChain keeps the type of the first, with peers too; the error
            # is there.
            assert block["type"] in ("invalid_tool_call", "tool_call_chunk"), way
            assert "not run" in block["error"] or "nothing was run" in block["error"], way
            assert "<invalid>" not in block["args"], way


class Runs:
    """A tool that remembers each of its runs; of an invalid call there must be none."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    @property
    def tool(self) -> Any:
        """The tool."""

        @tool
        def rm(path: str = "/", force: bool = True) -> str:
            """Remove a path."""
            self.paths.append(path)
            return "removed"

        return rm


INVALID = {
    "cut": Scripted(calls=[("rm", '{"path": "/home/ann/o')], finish_reason="length"),
    "cut before the arguments": Scripted(calls=[("rm", "")], finish_reason="length"),
    "malformed": Scripted(calls=[("rm", '{"path": /home}')]),
    "two objects": Scripted(calls=[("rm", '{}{"path": "/home"}')]),
    "unnamed": Scripted(calls=[("", {"path": "/"})]),
}


async def _messages_mode(agent: Any, asked: Any, config: Any) -> None:
    async for _ in agent.astream(asked, config, stream_mode="messages"):
        pass


async def _events(agent: Any, asked: Any, config: Any, version: str) -> None:
    if version == "v2":
        async for _ in agent.astream_events(asked, config, version="v2"):
            pass
        return
    await (await agent.astream_events(asked, config, version="v3")).output()


AGENT_WAYS: dict[str, Any] = {
    "invoke": lambda agent, asked, config: agent.invoke(asked, config),
    "ainvoke": lambda agent, asked, config: asyncio.run(agent.ainvoke(asked, config)),
    "messages": lambda agent, asked, config: list(agent.stream(asked, config, stream_mode="messages")),
    "amessages": lambda agent, asked, config: asyncio.run(_messages_mode(agent, asked, config)),
    "events v2": lambda agent, asked, config: asyncio.run(_events(agent, asked, config, "v2")),
    "events v3": lambda agent, asked, config: asyncio.run(_events(agent, asked, config, "v3")),
}
THREAD = {"configurable": {"thread_id": "t"}}


# A server of the Anthropic dialect parses a whole reply's arguments itself: they are an object.
RUNS = [
    (dialect, way, case)
    for dialect in ("openai", "anthropic")
    for way in AGENT_WAYS
    for case in INVALID
    if (dialect, way) not in {("anthropic", "invoke"), ("anthropic", "ainvoke")}
    or case not in {"malformed", "two objects"}
]


def agent(emulator: Emulator, dialect: Any, runs: Runs, *middleware: Any, **options: Any) -> Any:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, **options)
    return create_agent(model, [runs.tool], middleware=middleware, checkpointer=InMemorySaver())


@pytest.mark.parametrize(("dialect", "way", "case"), RUNS)
def test_no_agent_runs_a_tool_on_an_invalid_call(
    own_emulator: Emulator, dialect: Any, way: str, case: str
) -> None:
    own_emulator.script([INVALID[case], "Hello."])
    runs = Runs()
    graph = agent(own_emulator, dialect, runs)
    AGENT_WAYS[way](graph, {"messages": [HumanMessage("Tidy up.")]}, THREAD)
    last = graph.get_state(THREAD).values["messages"][-1]
    assert runs.paths == []
    assert len(last.invalid_tool_calls) == 1
    # The thread goes on, and its server takes what it said.
    graph.invoke({"messages": [HumanMessage("Hello?")]}, THREAD)
    assert graph.get_state(THREAD).values["messages"][-1].text == "Hello."


@pytest.mark.parametrize("case", INVALID)
def test_no_agent_of_a_streaming_model_runs_a_tool_on_an_invalid_call(
    own_emulator: Emulator, dialect: Any, case: str
) -> None:
    own_emulator.script([INVALID[case]])
    runs = Runs()
    state = agent(own_emulator, dialect, runs, streaming=True).invoke({"messages": "Tidy up."}, THREAD)
    assert runs.paths == []
    assert len(state["messages"][-1].invalid_tool_calls) == 1


@pytest.mark.parametrize(("dialect", "way", "case"), RUNS)
def test_the_middleware_asks_once_more(own_emulator: Emulator, dialect: Any, way: str, case: str) -> None:
    again = Scripted(calls=[("rm", {"path": "/tmp/a"})])  # noqa: S108  no path of ours
    own_emulator.script([INVALID[case], again, "Removed."])
    runs = Runs()
    graph = agent(own_emulator, dialect, runs, PicccInvalidCallsMiddleware())
    AGENT_WAYS[way](graph, {"messages": [HumanMessage("Tidy up.")]}, THREAD)
    messages = graph.get_state(THREAD).values["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert messages[2].status == "error"
    assert "Call" in messages[2].text
    assert runs.paths == ["/tmp/a"]  # noqa: S108  no path of ours


def test_the_middleware_gives_up_with_the_call_as_the_last_message(own_emulator: Emulator) -> None:
    own_emulator.script([INVALID["cut"]] * 5)
    graph = agent(own_emulator, "openai", Runs(), PicccInvalidCallsMiddleware(max_retries=2))
    messages = graph.invoke({"messages": [HumanMessage("Tidy up.")]}, THREAD)["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert messages[-1].invalid_tool_calls
    assert sum(charge.kind == "chat" for charge in own_emulator.charges) == 3


def test_a_valid_call_beside_an_invalid_one_is_run(own_emulator: Emulator, dialect: Any) -> None:
    own_emulator.script([Scripted(calls=[("rm", {"path": "a"}), ("", {"path": "b"})]), "Done."])
    runs = Runs()
    graph = agent(own_emulator, dialect, runs, PicccInvalidCallsMiddleware())
    messages = graph.invoke({"messages": [HumanMessage("Tidy up.")]}, THREAD)["messages"]
    assert runs.paths == ["a"]
    assert sorted(each.status for each in messages if each.type == "tool") == ["error", "success"]
    assert messages[-1].text == "Done."
