"""The eight endpoints, sync and async: equal responses in both dialects, exact counts, retries."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.types import (
    ChatResponse,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.span_handlers import NullSpanHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.rate_limiter import BaseRateLimiter

from llama_index_piccc import Piccc
from llama_index_piccc.convert import GrowingReply
from piccc import Timeout
from piccc.conversation import TextDelta
from piccc.emulator import Emulator, Scripted
from piccc.errors import (
    APIConnectionError,
    ConfigurationError,
    InvalidArgumentError,
    InvalidRequestError,
    RateLimitError,
    StreamError,
)
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.wire import llm_answering

QUESTION = [ChatMessage(role="user", content="What is a kiln?")]
ENDPOINTS = [("chat", QUESTION), ("complete", "What is a kiln?")]
Way = Sync | Async


def ask(way: Way, llm: Piccc, endpoint: str, question: Any, **kwargs: Any) -> Any:
    """Return the response, or the last one of a stream."""
    if endpoint.startswith("stream"):
        return way.stream(llm, endpoint, question, **kwargs)[-1]
    return way.call(llm, endpoint, question, **kwargs)


EIGHT = [
    pytest.param(f"{stream}{endpoint}", question, id=f"{stream}{endpoint}")
    for endpoint, question in ENDPOINTS
    for stream in ("", "stream_")
]


@pytest.mark.parametrize(("endpoint", "question"), EIGHT)
def test_every_endpoint_returns_the_same_text_usage_and_finish_reason(
    way: Way, make: Callable[..., Piccc], emulator: Emulator, endpoint: str, question: Any
) -> None:
    emulator.rule(lambda _: True, "A kiln is an oven for clay.")
    all_facts = []
    for dialect in ("openai", "anthropic"):
        response = ask(way, make(dialect=dialect), endpoint, question)
        record = emulator.requests[-1]
        facts = dict(response.additional_kwargs)
        assert str(response).removeprefix("assistant: ") == "A kiln is an oven for clay."
        assert facts.pop("request_id") == record.request_id
        assert (facts["prompt_tokens"], facts["completion_tokens"]) == (
            record.prompt_tokens,
            record.completion_tokens,
        )
        assert response.raw["usage"]["prompt_tokens"] == record.prompt_tokens
        assert json.loads(json.dumps(response.raw)) == response.raw
        all_facts.append(facts)
    assert all_facts[0] == all_facts[1]
    assert all_facts[0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("endpoint", "question"), EIGHT)
def test_tokens_are_counted_exactly_once(
    way: Way, llm: Piccc, emulator: Emulator, endpoint: str, question: Any
) -> None:
    counter = TokenCountingHandler()
    llm.callback_manager = CallbackManager([counter])
    ask(way, llm, endpoint, question)
    (record,) = emulator.requests
    (counted,) = counter.llm_token_counts
    assert (counted.prompt_token_count, counted.completion_token_count) == (
        record.prompt_tokens,
        record.completion_tokens,
    )


class EventRecorder(BaseEventHandler):
    """An event handler that keeps all events."""

    events: list[Any] = []  # noqa: RUF012  pydantic copies it

    def handle(self, event: Any, **kwargs: Any) -> None:
        """Keep one event."""
        self.events.append(event)


@pytest.fixture
def recorder() -> Any:
    handler, dispatcher = EventRecorder(), get_dispatcher()
    before = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers = before


class Spans(NullSpanHandler):
    """A span handler that keeps the arguments of each call."""

    arguments: list[Any] = []  # noqa: RUF012  pydantic copies it

    def span_enter(self, id_: str, bound_args: Any, **kwargs: Any) -> None:
        """Keep one call's arguments."""
        self.arguments.append(bound_args.arguments)


@pytest.mark.parametrize(("endpoint", "question"), EIGHT)
def test_each_call_emits_one_start_and_one_end_event(
    way: Way, llm: Piccc, recorder: EventRecorder, endpoint: str, question: Any
) -> None:
    ask(way, llm, endpoint, question)
    names = [type(event).__name__ for event in recorder.events]
    kind = "Chat" if endpoint.endswith("chat") else "Completion"
    assert names.count(f"LLM{kind}StartEvent") == names.count(f"LLM{kind}EndEvent") == 1
    assert sum(name.endswith("StartEvent") for name in names) == 1


@pytest.mark.parametrize(("endpoint", "question"), EIGHT)
def test_no_events_are_created_without_a_handler(
    way: Way, llm: Piccc, monkeypatch: pytest.MonkeyPatch, endpoint: str, question: Any
) -> None:
    made: list[str] = []

    def count(self: Any, *args: Any) -> None:
        made.append(type(self).__name__)

    monkeypatch.setattr(BaseEvent, "__init__", count)
    ask(way, llm, endpoint, question)
    assert made == []


def test_spans_carry_the_call_arguments(llm: Piccc, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Spans()
    monkeypatch.setattr(get_dispatcher(), "span_handlers", [spans])
    llm.chat(QUESTION, top_p=0.5)
    assert spans.arguments[0] == {"messages": QUESTION, "kwargs": {"top_p": 0.5}}


def test_events_carry_model_temperature_and_dialect(llm: Piccc, recorder: EventRecorder) -> None:
    llm.temperature = 0.25
    llm.chat(QUESTION)
    model_dict = recorder.events[0].model_dict
    assert (model_dict["model"], model_dict["temperature"], model_dict["dialect"]) == (
        "piccc-pro",
        0.25,
        llm.dialect,
    )


class CountingRateLimiter(BaseRateLimiter):
    """A rate limiter that counts calls."""

    acquired = 0

    def acquire(self, num_tokens: int = 0) -> None:
        """Count one call."""
        self.acquired += 1

    async def async_acquire(self, num_tokens: int = 0) -> None:
        """Count one call."""
        self.acquired += 1


@pytest.mark.parametrize(("endpoint", "question"), EIGHT)
def test_the_rate_limiter_is_acquired_once_per_call(
    way: Way, llm: Piccc, endpoint: str, question: Any
) -> None:
    llm.rate_limiter = limiter = CountingRateLimiter()
    ask(way, llm, endpoint, question)
    assert limiter.acquired == 1


def test_every_chunk_holds_the_text_so_far(way: Way, llm: Piccc, emulator: Emulator) -> None:
    emulator.script(
        [Scripted("Clay, then fire.", reasoning="Think of ovens.", calls=[("fire", {"at": 1200})])]
    )
    tool = {"name": "fire", "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}}}
    responses = way.stream(llm, "stream_chat", QUESTION, tools=[tool], reasoning_effort="low")
    so_far = thinking = ""
    for response in responses:
        so_far += response.delta
        thinking += response.additional_kwargs.get("thinking_delta", "")
        assert response.message.content == so_far
    assert so_far == "Clay, then fire."
    assert thinking == "Think of ovens."
    last = responses[-1].message
    assert [type(block).__name__ for block in last.blocks] == ["ThinkingBlock", "TextBlock", "ToolCallBlock"]
    assert [block.content for block in last.blocks if isinstance(block, ThinkingBlock)] == ["Think of ovens."]
    assert [block.tool_kwargs for block in last.blocks if isinstance(block, ToolCallBlock)] == [{"at": 1200}]
    (listed,) = last.additional_kwargs["tool_calls"]
    assert (listed["function"]["name"], json.loads(listed["function"]["arguments"])) == ("fire", {"at": 1200})
    assert responses[-1].additional_kwargs["finish_reason"] == "tool_calls"
    assert len({id(response.message) for response in responses}) == len(responses)


def test_the_last_chunk_of_a_stream_equals_the_complete_response(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    emulator.rule(lambda _: True, Scripted("Fire.", reasoning="Hot.", calls=[("fire", {"at": 9})]))
    tool = {"name": "fire", "parameters": {"type": "object"}}
    complete_response = way.call(llm, "chat", QUESTION, tools=[tool], reasoning_effort="low")
    streamed = way.stream(llm, "stream_chat", QUESTION, tools=[tool], reasoning_effort="low")[-1]
    facts = [{**response.additional_kwargs, "request_id": None} for response in (complete_response, streamed)]
    assert facts[0] == facts[1]
    without_ids = {"tool_call_id": None, "id": None}
    for one, other in zip(complete_response.message.blocks, streamed.message.blocks, strict=True):
        assert one.model_copy(update=without_ids) == other.model_copy(update=without_ids)


def test_signed_thinking_is_sent_back_unchanged(
    way: Way, make: Callable[..., Piccc], emulator: Emulator
) -> None:
    llm = make(dialect="anthropic", reasoning_effort="low")
    emulator.script([Scripted("Fire.", reasoning="Hot."), "And more."])
    answer = ask(way, llm, "stream_chat", QUESTION).message
    signature = answer.blocks[0].additional_information["signature"]
    way.call(llm, "chat", [*QUESTION, answer, ChatMessage(role="user", content="More?")])
    block = emulator.requests[-1].body["messages"][1]["content"][0]
    assert block == {"type": "thinking", "thinking": "Hot.", "signature": signature}


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_refusal_becomes_the_text_and_is_marked(
    way: Way, make: Callable[..., Piccc], emulator: Emulator, dialect: str
) -> None:
    emulator.rule(lambda _: True, Scripted(refusal="I will not."))
    llm = make(dialect=dialect)
    for response in (way.call(llm, "chat", QUESTION), way.stream(llm, "stream_chat", QUESTION)[-1]):
        assert response.message.content == "I will not."
        assert response.message.additional_kwargs["refusal"] == "I will not."


def test_a_429_is_retried_max_retries_times(
    way: Way, make: Callable[..., Piccc], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)  # the shortest pause
    with Emulator(faults=["429;retry-after-ms=1"], speed=float("inf")) as emulator:
        llm = make(base_url=emulator.base_url, max_retries=3)
        with pytest.raises(RateLimitError):
            way.call(llm, "chat", QUESTION)
        assert len(emulator.requests) == 4
        with pytest.raises(RateLimitError):
            way.stream(llm, "stream_chat", QUESTION)
        assert len(emulator.requests) == 8


def test_a_truncated_stream_raises_an_error_with_the_partial_reply(
    way: Way, llm: Piccc, emulator: Emulator
) -> None:
    emulator.fault("cut:4")
    with pytest.raises(StreamError) as caught:
        way.stream(llm, "stream_chat", QUESTION)
    assert caught.value.partial is not None


def test_a_model_works_after_a_stream_is_closed_early(llm: Piccc) -> None:
    stream = llm.stream_chat(QUESTION)
    next(stream)
    stream.close()
    assert llm.chat(QUESTION).message.content


def test_one_model_serves_three_event_loops_without_retries(llm: Piccc, emulator: Emulator) -> None:
    llm.max_retries = 0
    for _ in range(3):
        assert Async().call(llm, "chat", QUESTION).message.content
        assert Async().stream(llm, "stream_chat", QUESTION)[-1].message.content
    assert len(emulator.requests) == 6


async def test_concurrent_calls_share_one_model(llm: Piccc) -> None:
    answers = await asyncio.gather(*(llm.acomplete(f"Say {number}") for number in range(8)))
    assert [str(number) in answer.text for number, answer in enumerate(answers)] == [True] * 8


def test_settings_are_sent_and_call_options_override_them(way: Way, llm: Piccc, emulator: Emulator) -> None:
    llm = llm.model_copy(update={"temperature": 0.5, "max_tokens": 64, "stop": "END"})
    way.call(llm, "chat", QUESTION, temperature=0.75, extra_body={"mark": 1}, other=True)
    body = emulator.requests[-1].body
    assert (body["temperature"], body["max_tokens"], body["mark"], body["other"]) == (0.75, 64, 1, True)
    assert body["stop" if llm.dialect == "openai" else "stop_sequences"] == ["END"]


@pytest.mark.parametrize("option", ["temprature", "maxtokens", "extra_header", "parallel_tool_call"])
def test_a_misspelled_option_is_rejected_before_sending(
    make: Callable[..., Piccc], emulator: Emulator, option: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=rf"{option} is not an option\. Did you mean"):
        make().chat(QUESTION, **{option: 1})
    assert emulator.requests == []
    make().chat(QUESTION, top_k=3)
    assert emulator.requests[-1].body["top_k"] == 3


def test_unset_options_are_not_sent(make: Callable[..., Piccc], emulator: Emulator) -> None:
    make().chat(QUESTION)
    assert emulator.requests[-1].body.keys() == {"model", "messages", "stream"}


def test_a_changed_setting_applies_to_later_calls(llm: Piccc, emulator: Emulator) -> None:
    llm.chat(QUESTION)
    llm.default_headers = {"x-team": "clay"}
    llm.chat(QUESTION)
    assert [request.headers.get("x-team") for request in emulator.requests] == [None, "clay"]


def test_a_prompt_is_formatted_unless_it_is_already(
    way: Way, make: Callable[..., Piccc], emulator: Emulator
) -> None:
    llm = make(completion_to_prompt=lambda prompt: f"<{prompt}>")
    way.call(llm, "complete", "kiln")
    way.call(llm, "complete", "kiln", formatted=True)
    assert [request.body["messages"][0]["content"] for request in emulator.requests] == ["<kiln>", "kiln"]


def test_metadata_supports_any_model_name_without_a_server() -> None:
    known = Piccc(model="piccc-of-tomorrow", max_tokens=99).metadata
    assert (known.model_name, known.num_output) == ("piccc-of-tomorrow", 99)
    assert known.is_chat_model
    assert known.is_function_calling_model
    assert Piccc(context_window=5000).metadata.context_window == 5000


def test_a_server_error_is_raised_as_a_piccc_error(way: Way, llm: Piccc) -> None:
    with pytest.raises(InvalidRequestError):
        way.call(llm, "chat", QUESTION, temperature="hot")


def test_invalid_settings_are_rejected_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        Piccc(base_url="kiln")
    with pytest.raises(ConfigurationError, match="max_retries"):
        Piccc(max_retries=-1)
    with pytest.raises(ValueError, match="temprature"):
        Piccc(temprature=1)  # type: ignore[call-arg]  # the mistake under test


def test_a_missing_key_error_names_the_environment_variable(
    way: Way, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PICCC_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="PICCC_API_KEY"):
        way.call(Piccc(base_url=emulator.base_url), "chat", QUESTION)


def test_an_unreachable_server_raises_a_connection_error(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PICCC_BASE_URL", raising=False)
    llm = Piccc(api_key="pcc_test_x", base_url="http://127.0.0.1:9", max_retries=0, timeout=5)
    with pytest.raises(APIConnectionError):
        way.call(llm, "chat", QUESTION)


def test_key_and_base_url_are_read_from_the_environment(
    way: Way, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    monkeypatch.setenv("PICCC_BASE_URL", emulator.base_url)
    assert way.call(Piccc(), "complete", "Hello").text


def test_the_key_can_be_a_function(way: Way, emulator: Emulator) -> None:
    llm = Piccc(base_url=emulator.base_url, api_key=lambda: emulator.api_key)
    assert way.call(llm, "complete", "Hello").text


def test_the_model_can_be_set_in_cores_settings(emulator: Emulator, llm: Piccc) -> None:
    Settings.llm = llm
    assert Settings.llm.complete("Hello").text


def test_predict_sends_the_system_prompt(way: Way, llm: Piccc, emulator: Emulator) -> None:
    from llama_index.core.prompts import PromptTemplate

    llm.system_prompt = "You are a potter."
    way.call(llm, "predict", PromptTemplate("What is {it}?"), it="a kiln")
    assert "You are a potter." in json.dumps(emulator.requests[-1].body)


def test_tokens_can_be_counted_without_a_request(llm: Piccc, emulator: Emulator) -> None:
    short = llm.count_tokens(QUESTION)
    assert 0 < short < llm.count_tokens(QUESTION * 2)
    assert short < llm.count_tokens(QUESTION, [{"name": "fire", "description": "Fire a kiln."}])
    assert emulator.requests == []


def test_our_tokenizer_works_in_cores_settings() -> None:
    from llama_index.core.node_parser import TokenTextSplitter

    from piccc.tokens import count_text, token_ids

    Settings.tokenizer = token_ids
    text = "Clay is fired in a kiln. " * 30
    pieces = TokenTextSplitter(chunk_size=40, chunk_overlap=0).split_text(text)
    assert abs(len(pieces) - count_text(text) / 40) <= 1


def test_a_timeout_object_survives_serialization() -> None:
    llm = Piccc(timeout=Timeout(total=5, idle=1))
    restored = Piccc.from_dict(llm.to_dict())
    assert restored.timeout == Timeout(total=5, idle=1)


ANTHROPIC_USAGE = {
    "input_tokens": 5,
    "output_tokens": 2,
    "cache_read_input_tokens": 7,
    "cache_creation_input_tokens": 30,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    "service_tier": "priority",
}


@pytest.mark.parametrize("method", ["chat", "stream_chat"])
def test_cache_tokens_and_service_tier_are_reported(
    way: Sync | Async, make: Callable[..., Piccc], emulator: Emulator, method: str
) -> None:
    emulator.script([Scripted("Hot.", usage=ANTHROPIC_USAGE)])
    llm, question = make(dialect="anthropic"), [ChatMessage(role="user", content="Hot?")]
    ask = {"chat": way.call, "stream_chat": lambda *args: way.stream(*args)[-1]}[method]
    response = ask(llm, method, question)
    facts = response.additional_kwargs
    assert (facts["prompt_tokens"], facts["completion_tokens"], facts["total_tokens"]) == (42, 2, 44)
    assert (facts["cached_tokens"], facts["cache_creation_tokens"]) == (7, 30)
    assert (facts["cache_creation_5m_tokens"], facts["cache_creation_1h_tokens"]) == (10, 20)
    assert facts["service_tier"] == "priority"
    usage = response.raw["usage"]
    assert usage["cache_creation_input_tokens"] == 30
    assert usage["input_tokens"] == 5  # as the server reported it
    assert usage["prompt_tokens"] == 42


LOGPROBS = [
    {"token": "Hot", "logprob": -0.5, "bytes": [72], "top_logprobs": [{"token": "Hot", "logprob": -0.5}]},
    {"token": ".", "logprob": -0.1, "bytes": None, "top_logprobs": []},
]


def test_responses_include_log_probabilities() -> None:
    choice = {"message": {"content": "Hot."}, "finish_reason": "stop", "logprobs": {"content": LOGPROBS}}
    body = {"id": "1", "model": "m", "choices": [choice]}
    chunk = {"delta": {"content": "Hot."}, "finish_reason": "stop", "logprobs": {"content": LOGPROBS}}
    stream = [{"id": "1", "model": "m", "choices": [chunk]}]
    llm = llm_answering(dict(body), dict(body), stream, stream)
    question = [ChatMessage(role="user", content="Hot?")]
    for response in (
        llm.chat(question, logprobs=True),
        llm.complete("Hot?"),
        list(llm.stream_chat(question))[-1],
        list(llm.stream_complete("Hot?"))[-1],
    ):
        assert response.logprobs is not None
        assert [
            [(candidate.token, candidate.logprob) for candidate in token] for token in response.logprobs
        ] == [
            [("Hot", -0.5)],
            [(".", -0.1)],
        ]
    assert llm_answering(dict(body, choices=[{**choice, "logprobs": None}])).chat(question).logprobs is None


def test_a_streamed_response_equals_a_constructed_one_and_shares_no_state() -> None:
    growing = GrowingReply()
    first = growing.add([TextDelta("Hello")])
    first.message.additional_kwargs["seen"] = first.additional_kwargs["seen"] = first.raw["seen"] = True
    first.message.blocks.append(TextBlock(text="!"))
    second = growing.add([TextDelta(", "), TextDelta("world")])
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=[TextBlock(text="Hello, world")])
    assert second == ChatResponse(message=message, delta=", world", raw={}, additional_kwargs={})
    assert second.model_dump() == ChatResponse(message=message, delta=", world", raw={}).model_dump()


@pytest.mark.parametrize("wanted", [3, "xml", {"type": "xml"}])
def test_an_invalid_response_format_is_rejected_before_sending(
    wanted: object, llm: Piccc, emulator: Emulator
) -> None:
    with pytest.raises(InvalidArgumentError, match="response_format is not valid"):
        llm.complete("Hello", response_format=wanted)
    assert not emulator.requests
