"""LangChain agents, graphs and middleware with ChatPiccc, including failures during a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ContextEditingMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.middleware.context_editing import ClearToolUsesEdit
from langchain.chat_models import init_chat_model
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

import langchain_piccc
from langchain_piccc import ChatPiccc
from piccc.emulator import Emulator, Scripted
from piccc.errors import PicccError, StreamError
from tests.langchain.replay import Replay, completion, json_response

Chat = Callable[..., ChatPiccc]


@tool
def get_weather(city: str) -> str:
    """Say what the weather is like in a city."""
    return f"It rains in {city}."


@tool
def get_time(city: str) -> str:
    """Say what time it is in a city."""
    return f"It is noon in {city}."


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


TOOLS = [get_weather, get_time, add]


class Report(BaseModel):
    """What was found out."""

    weather: str
    time: str
    total: int


ANSWER = Report(weather="rain", time="noon", total=5)
CONVERSATION = [
    Scripted("Let me see.", calls=[("get_weather", {"city": "Oslo"}), ("get_time", {"city": "Oslo"})]),
    Scripted(calls=[("add", {"a": 2, "b": 3})]),
    ANSWER.model_dump_json(),
]


@pytest.fixture
def own_chat(own_emulator: Emulator, dialect: str) -> Chat:
    """Return a factory for models on this test's own emulator."""

    def make(**settings: Any) -> ChatPiccc:
        return ChatPiccc(
            base_url=own_emulator.base_url, api_key=own_emulator.api_key, dialect=dialect, **settings
        )

    return make


def assert_conversation_completed(state: dict[str, Any], emulator: Emulator) -> None:
    """Assert that the agent completed the whole conversation."""
    kinds = [type(message).__name__ for message in state["messages"]]
    assert kinds == [
        "HumanMessage", "AIMessage", "ToolMessage", "ToolMessage", "AIMessage", "ToolMessage", "AIMessage",
    ]  # fmt: skip
    assert state["messages"][5].content == "5"
    assert state["structured_response"] == ANSWER
    assert len(emulator.charges) == 3


QUESTION = {"messages": [HumanMessage("How is Oslo, and what is 2 + 3?")]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


@pytest.mark.parametrize("method", ["invoke", "ainvoke", "stream", "astream"])
async def test_an_agent_recovers_from_a_429_and_a_500(
    own_chat: Chat, own_emulator: Emulator, method: str
) -> None:
    own_emulator.script(CONVERSATION)
    own_emulator.fault("429;retry-after-ms=1", times=1)
    own_emulator.fault("500;retry-after-ms=1", times=1, after=1)
    agent = create_agent(own_chat(), TOOLS, response_format=Report, checkpointer=InMemorySaver())
    words: list[str] = []
    match method:
        case "invoke":
            agent.invoke(QUESTION, THREAD)
        case "ainvoke":
            await agent.ainvoke(QUESTION, THREAD)
        case "stream":
            words = [part.text for part, _ in agent.stream(QUESTION, THREAD, stream_mode="messages")]
        case _:
            words = [part.text async for part, _ in agent.astream(QUESTION, THREAD, stream_mode="messages")]
    assert_conversation_completed(agent.get_state(THREAD).values, own_emulator)
    assert not words or "Let me see." in "".join(words)


async def test_a_run_can_be_resumed_after_a_truncated_stream(own_chat: Chat, own_emulator: Emulator) -> None:
    own_emulator.script([*CONVERSATION[:2], CONVERSATION[2], CONVERSATION[2]])
    own_emulator.fault("cut:3", times=1, after=2)
    retry = ModelRetryMiddleware(max_retries=3, initial_delay=0, jitter=False, on_failure="error")
    model = own_chat(streaming=True)
    agent = create_agent(
        model, TOOLS, response_format=Report, checkpointer=InMemorySaver(), middleware=[retry]
    )
    with pytest.raises(StreamError) as caught:
        await agent.ainvoke(QUESTION, THREAD)
    assert caught.value.may_have_been_billed
    assert len(own_emulator.requests) == 3
    await agent.ainvoke(None, THREAD)
    assert agent.get_state(THREAD).values["structured_response"] == ANSWER


def test_an_agent_uses_the_servers_native_json_schema(own_chat: Chat, own_emulator: Emulator) -> None:
    own_emulator.script([ANSWER.model_dump_json()])
    agent = create_agent(own_chat(), [], response_format=Report)
    assert agent.invoke(QUESTION)["structured_response"] == ANSWER
    (request,) = own_emulator.requests
    assert "json_schema" in str(request.body)


async def test_agent_events_carry_tokens_and_complete_messages(
    own_chat: Chat, own_emulator: Emulator
) -> None:
    own_emulator.script(CONVERSATION)
    agent = create_agent(own_chat(), TOOLS)
    tokens, ends = "", []
    async for event in agent.astream_events(QUESTION, version="v2"):
        if event["event"] == "on_chat_model_stream":
            tokens += event["data"]["chunk"].text
        if event["event"] == "on_chat_model_end":
            ends.append(event["data"]["output"])
    assert tokens.startswith("Let me see.")
    assert [len(message.tool_calls) for message in ends] == [2, 1, 0]


def test_retry_middleware_retries_only_safe_errors() -> None:
    busy = json_response({"error": {"message": "busy"}}, status=503)
    unauthorized = json_response({"error": {"message": "no"}}, status=401)
    retry = ModelRetryMiddleware(max_retries=3, initial_delay=0, jitter=False, on_failure="error")
    busy_once = Replay(busy, json_response(completion({"content": "Hi"})))
    agent = create_agent(busy_once.model(max_retries=0), [], middleware=[retry])
    assert agent.invoke(QUESTION)["messages"][-1].content == "Hi"
    rejecting = Replay(unauthorized)
    with pytest.raises(PicccError):
        create_agent(rejecting.model(max_retries=0), [], middleware=[retry]).invoke(QUESTION)
    assert len(rejecting.requests) == 1


def test_fallback_middleware_switches_to_the_next_model() -> None:
    down = Replay(json_response({"error": {"message": "busy"}}, status=503)).model(max_retries=0)
    up = Replay(json_response(completion({"content": "Hi"}))).model(model="piccc-flash")
    agent = create_agent(down, [], middleware=[ModelFallbackMiddleware(up)])
    assert agent.invoke(QUESTION)["messages"][-1].content == "Hi"


@pytest.mark.parametrize(
    ("trigger", "tokens"),
    [(("fraction", 0.9), 200_000), (("tokens", 100_000), 100_001)],
    ids=["fraction", "tokens"],
)
def test_summarization_triggers_on_fraction_and_on_reported_tokens(trigger: Any, tokens: int) -> None:
    server = Replay(json_response(completion({"content": "In short."})))
    model = server.model()
    middleware = SummarizationMiddleware(model=model, trigger=trigger, keep=("messages", 1))
    usage = {"input_tokens": tokens - 1, "output_tokens": 1, "total_tokens": tokens}
    answer = AIMessage("Long.", usage_metadata=usage, response_metadata={"model_provider": "piccc"})
    agent = create_agent(model, [], middleware=[middleware])
    agent.invoke({"messages": [HumanMessage("Tell."), answer, HumanMessage("And now?")]})
    assert len(server.requests) == 2
    assert "In short." in str(server.bodies[1]["messages"])


def test_context_editing_clears_tool_results_by_local_token_count() -> None:
    server = Replay(json_response(completion({"content": "Hi"})))
    edit = ClearToolUsesEdit(trigger=100, keep=0)
    middleware = ContextEditingMiddleware(edits=[edit], token_count_method="model")
    agent = create_agent(server.model(), TOOLS, middleware=[middleware])
    call = {"id": "c1", "name": "get_weather", "args": {"city": "Oslo"}}
    history = [
        HumanMessage("?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("rain " * 500, tool_call_id="c1"),
    ]
    agent.invoke({"messages": history})
    assert "rain rain" not in str(server.bodies[0]["messages"])


def test_register_makes_model_strings_resolve(
    own_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICCC_API_KEY", own_emulator.api_key)
    monkeypatch.setenv("PICCC_BASE_URL", own_emulator.base_url)
    langchain_piccc.register()
    langchain_piccc.register()
    model = init_chat_model("piccc:piccc-flash", temperature=0.5)
    assert isinstance(model, ChatPiccc)
    assert (model.model, model.temperature) == ("piccc-flash", 0.5)
    own_emulator.script(["Hi"])
    assert create_agent("piccc:piccc-pro", []).invoke(QUESTION)["messages"][-1].text == "Hi"


def test_register_raises_an_error_with_advice_if_the_registry_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("langchain.chat_models.base._BUILTIN_PROVIDERS", {"openai": "new shape"})
    with pytest.raises(PicccError, match="ChatPiccc"):
        langchain_piccc.register()


async def test_a_graph_with_a_checkpointer_keeps_the_conversation(
    own_chat: Chat, own_emulator: Emulator
) -> None:
    own_emulator.script(["Hi Ann.", "You are Ann."])
    model = own_chat()

    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = (
        StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").add_edge("answer", END)
    )
    app = graph.compile(checkpointer=InMemorySaver())
    app.invoke({"messages": [HumanMessage("I am Ann.")]}, THREAD)
    parts = [
        part async for part, _ in app.astream({"messages": ["Who am I?"]}, THREAD, stream_mode="messages")
    ]
    assert "".join(part.text for part in parts if isinstance(part, AIMessageChunk)) == "You are Ann."
    assert len(app.get_state(THREAD).values["messages"]) == 4


def test_a_cache_answers_a_repeated_call() -> None:
    server = Replay(json_response(completion({"content": "Hi"})))
    model = server.model(cache=InMemoryCache())
    assert model.invoke("?").content == model.invoke("?").content == "Hi"
    assert len(server.requests) == 1
    model.invoke("?", temperature=0.9)
    assert len(server.requests) == 2


def test_a_rate_limiter_is_acquired_once_per_call() -> None:
    class CountingRateLimiter(BaseRateLimiter):
        acquired = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            self.acquired += 1
            return True

        async def aacquire(self, *, blocking: bool = True) -> bool:
            return self.acquire(blocking=blocking)

    limiter = CountingRateLimiter()
    model = Replay(json_response(completion({"content": "Hi"}))).model(rate_limiter=limiter)
    model.batch(["a", "b"])
    assert limiter.acquired == 2


def test_usage_is_summed_over_a_batch() -> None:
    model = Replay(json_response(completion({"content": "Hi"}))).model()
    with get_usage_metadata_callback() as counter:
        model.batch(["a", "b"])
    assert counter.usage_metadata["piccc-pro"]["total_tokens"] == 24
    output = model.generate([[HumanMessage("a")], [HumanMessage("b")]]).llm_output
    assert output == {
        "token_usage": {"input_tokens": 14, "output_tokens": 10, "total_tokens": 24},
        "model_name": "piccc-pro",
    }


def test_callbacks_receive_each_token_once(own_chat: Chat, own_emulator: Emulator) -> None:
    class TokenRecorder(BaseCallbackHandler):
        def __init__(self) -> None:
            self.tokens: list[str] = []

        def on_llm_new_token(self, token: Any, **_: Any) -> None:
            self.tokens.append(token)

    recorder = TokenRecorder()
    own_emulator.script(["One two three."])
    parts = list(own_chat().stream("?", config={"callbacks": [recorder]}))
    assert "".join(recorder.tokens) == "".join(part.text for part in parts) == "One two three."
