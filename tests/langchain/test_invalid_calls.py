"""Every call method reports an unusable tool call as invalid, and agents do not run it."""

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
from tests.langchain.replay import Replay, json_response, stream

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta


def bodies(dialect: str, case: str) -> tuple[Any, list[Any]]:
    """Return a reply in the dialect: its body and its stream events."""
    calls_sent, reason, _ = CASES[case]
    calls = [(f"call_{index}", *call) for index, call in enumerate(calls_sent)]
    if dialect == "openai":
        return replies._completion(calls, reason, ""), replies._chunks(calls, reason, "")
    stop = replies._STOP_REASONS.get(reason or "")
    return replies._message(calls, stop, ""), replies._events(calls, stop, "")


def every_method(dialect: str, case: str) -> Iterator[tuple[str, AIMessage]]:
    """Yield the message from every call method, output version and streaming option."""
    body, events = bodies(dialect, case)
    if CASES[case][1] is None and dialect == "openai":
        events = [*events[:-1], "[DONE]"]

    def model(reply: Any, **options: Any) -> ChatPiccc:
        return Replay(reply).model(dialect=dialect, **options)

    for version in (None, "v1"):
        if (dialect, case) not in {("anthropic", unsayable) for unsayable in UNSAYABLE_WHOLE}:
            yield f"invoke {version}", model(json_response(body), output_version=version).invoke("?")
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
def test_every_method_classifies_tool_calls_the_same(dialect: str, case: str) -> None:
    calls_sent, _, expected = CASES[case]
    valid = [arguments for kind, arguments in expected if kind == "valid"]
    for method, message in every_method(dialect, case):
        assert [call["args"] for call in message.tool_calls] == valid, method
        invalid = message.invalid_tool_calls
        assert len(invalid) == len(expected) - len(valid), method
        texts = [
            "".join(pieces)
            for (_, pieces), (kind, _) in zip(calls_sent, expected, strict=True)
            if kind != "valid"
        ]
        if dialect == "openai":
            assert [without_ending(call["args"] or "") for call in invalid] == texts, method
        reasons = [kind for kind, _ in expected if kind != "valid"]
        kept = message.response_metadata.get("invalid_tool_calls", [])
        assert [call["reason"] for call in kept] == reasons, method
        blocks = [block for block in message.content_blocks if "tool_call" in block["type"]]
        assert [block["args"] for block in blocks if block["type"] == "tool_call"] == valid, method
        invalid_blocks = [block for block in blocks if block["type"] != "tool_call"]
        assert len(invalid_blocks) == len(invalid), method
        for block in invalid_blocks:
            # In summed v1 chunks LangChain keeps the type of the first chunk, also for the peers. The error
            # is set in any case.
            assert block["type"] in ("invalid_tool_call", "tool_call_chunk"), method
            assert "not run" in block["error"] or "nothing was run" in block["error"], method
            assert "<invalid>" not in block["args"], method


class RecordingTool:
    """A tool that records its runs; an invalid call must not cause any."""

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


async def _messages_mode(agent: Any, user_input: Any, config: Any) -> None:
    async for _ in agent.astream(user_input, config, stream_mode="messages"):
        pass


async def _events(agent: Any, user_input: Any, config: Any, version: str) -> None:
    if version == "v2":
        async for _ in agent.astream_events(user_input, config, version="v2"):
            pass
        return
    await (await agent.astream_events(user_input, config, version="v3")).output()


AGENT_METHODS: dict[str, Any] = {
    "invoke": lambda agent, user_input, config: agent.invoke(user_input, config),
    "ainvoke": lambda agent, user_input, config: asyncio.run(agent.ainvoke(user_input, config)),
    "messages": lambda agent, user_input, config: list(
        agent.stream(user_input, config, stream_mode="messages")
    ),
    "amessages": lambda agent, user_input, config: asyncio.run(_messages_mode(agent, user_input, config)),
    "events v2": lambda agent, user_input, config: asyncio.run(_events(agent, user_input, config, "v2")),
    "events v3": lambda agent, user_input, config: asyncio.run(_events(agent, user_input, config, "v3")),
}
THREAD = {"configurable": {"thread_id": "t"}}


# In an Anthropic reply without streaming the arguments are a JSON object, so they cannot be malformed.
RUNS = [
    (dialect, method, case)
    for dialect in ("openai", "anthropic")
    for method in AGENT_METHODS
    for case in INVALID
    if (dialect, method) not in {("anthropic", "invoke"), ("anthropic", "ainvoke")}
    or case not in {"malformed", "two objects"}
]


def agent(
    emulator: Emulator, dialect: Any, recording_tool: RecordingTool, *middleware: Any, **options: Any
) -> Any:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, **options)
    return create_agent(model, [recording_tool.tool], middleware=middleware, checkpointer=InMemorySaver())


@pytest.mark.parametrize(("dialect", "method", "case"), RUNS)
def test_an_agent_does_not_run_an_invalid_call(
    own_emulator: Emulator, dialect: Any, method: str, case: str
) -> None:
    own_emulator.script([INVALID[case], "Hello."])
    recording_tool = RecordingTool()
    graph = agent(own_emulator, dialect, recording_tool)
    AGENT_METHODS[method](graph, {"messages": [HumanMessage("Tidy up.")]}, THREAD)
    last = graph.get_state(THREAD).values["messages"][-1]
    assert recording_tool.paths == []
    assert len(last.invalid_tool_calls) == 1
    # The conversation can continue: the server accepts its history.
    graph.invoke({"messages": [HumanMessage("Hello?")]}, THREAD)
    assert graph.get_state(THREAD).values["messages"][-1].text == "Hello."


@pytest.mark.parametrize("case", INVALID)
def test_an_agent_with_a_streaming_model_does_not_run_an_invalid_call(
    own_emulator: Emulator, dialect: Any, case: str
) -> None:
    own_emulator.script([INVALID[case]])
    recording_tool = RecordingTool()
    state = agent(own_emulator, dialect, recording_tool, streaming=True).invoke(
        {"messages": "Tidy up."}, THREAD
    )
    assert recording_tool.paths == []
    assert len(state["messages"][-1].invalid_tool_calls) == 1


@pytest.mark.parametrize(("dialect", "method", "case"), RUNS)
def test_the_middleware_asks_the_model_again(
    own_emulator: Emulator, dialect: Any, method: str, case: str
) -> None:
    valid_reply = Scripted(calls=[("rm", {"path": "/tmp/a"})])  # noqa: S108  not a real path
    own_emulator.script([INVALID[case], valid_reply, "Removed."])
    recording_tool = RecordingTool()
    graph = agent(own_emulator, dialect, recording_tool, PicccInvalidCallsMiddleware())
    AGENT_METHODS[method](graph, {"messages": [HumanMessage("Tidy up.")]}, THREAD)
    messages = graph.get_state(THREAD).values["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert messages[2].status == "error"
    assert "Call" in messages[2].text
    assert recording_tool.paths == ["/tmp/a"]  # noqa: S108  not a real path


def test_the_middleware_gives_up_after_max_retries(own_emulator: Emulator) -> None:
    own_emulator.script([INVALID["cut"]] * 5)
    graph = agent(own_emulator, "openai", RecordingTool(), PicccInvalidCallsMiddleware(max_retries=2))
    messages = graph.invoke({"messages": [HumanMessage("Tidy up.")]}, THREAD)["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "ai", "tool", "ai"]
    assert messages[-1].invalid_tool_calls
    assert sum(charge.kind == "chat" for charge in own_emulator.charges) == 3


def test_a_valid_call_next_to_an_invalid_one_runs(own_emulator: Emulator, dialect: Any) -> None:
    own_emulator.script([Scripted(calls=[("rm", {"path": "a"}), ("", {"path": "b"})]), "Done."])
    recording_tool = RecordingTool()
    graph = agent(own_emulator, dialect, recording_tool, PicccInvalidCallsMiddleware())
    messages = graph.invoke({"messages": [HumanMessage("Tidy up.")]}, THREAD)["messages"]
    assert recording_tool.paths == ["a"]
    assert sorted(message.status for message in messages if message.type == "tool") == ["error", "success"]
    assert messages[-1].text == "Done."
