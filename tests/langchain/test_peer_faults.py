"""One test for each mistake of other LangChain integrations."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
from typing import Any

import cloudpickle
import httpx
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tracers import BaseTracer

from langchain_piccc import ChatPiccc
from piccc.emulator import Emulator
from piccc.errors import PicccError
from tests.langchain.replay import KEY, Replay, chunks, completion, fragment, json_response, stream

PARIS = {"name": "get_weather", "args": {"city": "Paris"}}
ROME = {"name": "get_weather", "args": {"city": "Rome"}}


def calls_of(message: AIMessage) -> list[dict[str, Any]]:
    return [{"name": call["name"], "args": call["args"]} for call in message.tool_calls]


def streamed(model: ChatPiccc) -> AIMessage:
    first, *rest = model.stream("?")
    return first + rest


ONE_CALL = [
    fragment('{"ci', id="call_a", name="get_weather"),
    fragment('ty": "Pa'),
    fragment('ris"}'),
]
TWO_CALLS = {
    "without an index": [
        fragment('{"city": "Paris"}', id="call_a", name="get_weather"),
        fragment('{"city": ', id="call_b", name="get_weather"),
        fragment('"Rome"}'),
    ],
    "with a string index": [
        fragment('{"city": ', index="0", id="call_a", name="get_weather"),
        fragment('{"city": ', index="1", id="call_b", name="get_weather"),
        fragment('"Rome"}', index="1"),
        fragment('"Paris"}', index="0"),
    ],
    "with index 0 for both": [
        fragment('{"city": "Paris"}', index=0, id="call_a", name="get_weather"),
        fragment('{"city": ', index=0, id="call_b", name="get_weather"),
        fragment('"Rome"}', index=0, id="call_b"),
    ],
    "both in one chunk": [
        {
            "tool_calls": [
                fragment('{"city": "Paris"}', index=0, id="call_a", name="get_weather")["tool_calls"][0],
                fragment('{"city": "Rome"}', index=1, id="call_b", name="get_weather")["tool_calls"][0],
            ]
        }
    ],
}


@pytest.mark.parametrize("version", [None, "v1"])
def test_fragments_without_an_index_form_one_call(version: str | None) -> None:
    message = streamed(Replay(stream(chunks(ONE_CALL))).model(output_version=version))
    assert calls_of(message) == [PARIS]
    assert [block["type"] for block in message.content_blocks] == ["tool_call"]


@pytest.mark.parametrize("version", [None, "v1"])
@pytest.mark.parametrize("deltas", TWO_CALLS.values(), ids=TWO_CALLS)
def test_two_streamed_calls_stay_separate(deltas: list[Any], version: str | None) -> None:
    message = streamed(Replay(stream(chunks(deltas))).model(output_version=version))
    assert calls_of(message) == [PARIS, ROME]
    assert [block["type"] for block in message.content_blocks] == ["tool_call", "tool_call"]


def test_a_call_without_an_id_gets_one() -> None:
    message = streamed(Replay(stream(chunks([fragment("{}", index=0, name="ping")]))).model())
    assert message.tool_calls[0]["id"]


@pytest.mark.parametrize("arguments", ["", "{}", None])
def test_a_call_without_arguments_gets_an_empty_object(arguments: str | None) -> None:
    message = streamed(Replay(stream(chunks([fragment(arguments, index=0, id="c", name="ping")]))).model())
    assert calls_of(message) == [{"name": "ping", "args": {}}]


def test_a_call_after_text_is_kept_in_v1() -> None:
    deltas = [{"reasoning_content": "Hm"}, {"content": "Let me "}, {"content": "see"}, *ONE_CALL]
    message = streamed(Replay(stream(chunks(deltas))).model(output_version="v1"))
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text", "tool_call"]
    assert message.text == "Let me see"
    assert calls_of(message) == [PARIS]


def test_reasoning_is_kept_with_and_without_streaming() -> None:
    reply = (
        Replay(json_response(completion({"content": "4", "reasoning_content": "2+2"}))).model().invoke("?")
    )
    streamed_reply = streamed(
        Replay(stream(chunks([{"reasoning_content": "2+2"}, {"content": "4"}]))).model()
    )
    expected = [{"type": "reasoning", "reasoning": "2+2"}, {"type": "text", "text": "4"}]
    assert reply.content_blocks == expected
    assert [
        {k: v for k, v in block.items() if k != "index"} for block in streamed_reply.content_blocks
    ] == expected


@pytest.mark.parametrize(("replay", "sent"), [(True, "2+2"), (False, None), (None, None)])
def test_reasoning_is_sent_back_only_if_enabled(replay: bool | None, sent: str | None) -> None:
    server = Replay(json_response(completion({"content": "4", "reasoning_content": "2+2"})))
    model = server.model(replay_reasoning=replay)
    model.invoke([HumanMessage("2+2?"), model.invoke("2+2?"), HumanMessage("Sure?")])
    assert server.bodies[1]["messages"][1].get("reasoning_content") == sent


def test_signed_reasoning_is_sent_back_unchanged() -> None:
    content = [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Yes"},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "it"}},
    ]
    body = {"id": "m", "model": "piccc-pro", "content": content, "stop_reason": "tool_use", "usage": {}}
    server = Replay(json_response(body))
    model = server.model(dialect="anthropic")
    message = model.invoke("?")
    model.invoke([HumanMessage("?"), message, ToolMessage("seen", tool_call_id="toolu_1")])
    assert server.bodies[1]["messages"][1]["content"] == content


def test_replies_without_optional_fields_are_accepted() -> None:
    body = {"choices": [{"message": {"role": "assistant", "content": "Hi"}}]}
    assert Replay(json_response(body)).model().invoke("?").content == "Hi"
    events = [{"choices": [{"delta": {"content": "Hi"}}]}, "[DONE]"]
    assert streamed(Replay(stream(events)).model()).content == "Hi"


def test_metadata_is_in_exactly_one_chunk() -> None:
    parts = list(Replay(stream(chunks([{"content": "a"}, {"content": "b"}]))).model().stream("?"))
    for name in ("model_name", "finish_reason", "request_id", "record"):
        assert [name in part.response_metadata for part in parts].count(True) == 1
    total = parts[0] + parts[1:]
    assert total.response_metadata["model_name"] == "piccc-pro"
    assert total.response_metadata["finish_reason"] == "stop"
    assert total.response_metadata["model_provider"] == "piccc"
    assert total.usage_metadata == {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}


def test_one_model_serves_three_event_loops_without_retries(emulator: Emulator, dialect: str) -> None:
    model = ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, max_retries=0)
    for _ in range(3):
        assert asyncio.run(model.ainvoke("Hello")).text


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_a_model_pickles_without_its_secrets(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, pickler: Any, *, used: bool
) -> None:
    model = ChatPiccc(
        base_url=emulator.base_url,
        api_key=emulator.api_key,
        default_headers={"x-secret": "hush", "x-team": "a"},
        temperature=0.5,
    )
    if used:
        model.invoke("Hello")
        asyncio.run(model.ainvoke("Hello"))
    data = pickler.dumps(model)
    assert emulator.api_key.encode() not in data
    assert b"hush" not in data
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    loaded = pickle.loads(data)  # noqa: S301  our own data
    assert loaded.temperature == 0.5
    assert loaded.invoke("Hello").text


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_deep_copy_keeps_its_key(*, used: bool) -> None:
    server = Replay(json_response(completion({"content": "Hi"})))
    model = server.model()
    if used:
        model.invoke("?")
    copied_model = copy.deepcopy(model)
    assert copied_model.invoke("?").content == "Hi"
    assert server.requests[-1].headers["authorization"] == f"Bearer {KEY}"


class CallbackRecorder(BaseCallbackHandler):
    """A callback handler that records all that it receives."""

    def __init__(self) -> None:
        self.recorded: list[str] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.recorded.append(repr((args, kwargs)))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.recorded.append(repr((error, vars(error), kwargs)))


class RunTracer(BaseTracer):
    """A tracer that keeps its runs in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run.model_dump_json() if hasattr(run, "model_dump_json") else repr(run))


def test_no_secret_appears_in_any_output(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = [KEY, "headerhush", "callhush", "urlhush", "boundhush"]
    unauthorized = json_response({"error": {"message": f"Wrong key {KEY}"}}, status=401)
    server = Replay(json_response(completion({"content": "Hi"})), unauthorized)
    model = server.model(
        base_url="https://user:urlhush@piccc.test/v1", default_headers={"x-gateway-token": "headerhush"}
    )
    recorder, tracer = CallbackRecorder(), RunTracer()
    config = {"callbacks": [recorder, tracer]}
    bound = model.bind(extra_headers={"x-bound": "boundhush"})
    reply = bound.invoke("?", config=config)
    sent = server.requests[0].headers
    assert sent["x-gateway-token"] == "headerhush"
    assert sent["x-bound"] == "boundhush"
    with pytest.raises(PicccError) as caught:
        model.invoke("?", config=config, extra_headers={"x-call": "callhush"})
    assert server.requests[1].headers["x-call"] == "callhush"
    outputs = [
        repr(model), str(model), dumps(model), dumps(bound), json.dumps(model.model_dump(), default=str),
        repr(model.asdict()), repr(bound), repr(reply), dumps(reply), str(caught.value),
        repr(vars(caught.value)), repr(caught.value.response.json()),
        model._get_llm_string(extra_headers={"x-call": "callhush"}),
        pickle.dumps(model).decode("latin-1"), *recorder.recorded, *tracer.runs, caplog.text,
    ]  # fmt: skip
    assert len(recorder.recorded) == 3
    assert tracer.runs
    for secret in secrets:
        assert [text for text in outputs if secret in text] == [], secret


def test_a_misspelled_key_argument_does_not_reveal_the_key() -> None:
    with pytest.raises(ValueError, match="apikey") as caught:
        ChatPiccc(apikey=KEY)  # type: ignore[call-arg]  # the mistake under test
    assert KEY not in str(caught.value)


def test_closing_a_stream_closes_its_response() -> None:
    reply = stream(chunks([{"content": "a"}, {"content": "b"}]))
    message_chunks = Replay(reply).model().stream("?")
    next(message_chunks)
    message_chunks.close()
    assert reply.stream.is_closed  # type: ignore[attr-defined]  # ChunkedBody


async def test_closing_an_async_stream_closes_its_response() -> None:
    reply = stream(chunks([{"content": "a"}, {"content": "b"}]))
    message_chunks = Replay(reply).model().astream("?")
    await anext(message_chunks)
    await message_chunks.aclose()  # type: ignore[attr-defined]  # an async generator
    assert reply.stream.is_closed  # type: ignore[attr-defined]  # ChunkedBody


def test_max_retries_is_the_number_of_extra_requests() -> None:
    busy = json_response({"error": {"message": "busy"}}, status=429, headers={"retry-after-ms": "1"})
    server = Replay(busy)
    with pytest.raises(PicccError):
        server.model(max_retries=2).invoke("?")
    assert len(server.requests) == 3


def test_an_authentication_error_is_not_retried() -> None:
    server = Replay(json_response({"error": {"message": "no"}}, status=401))
    with pytest.raises(PicccError):
        server.model(max_retries=5).invoke("?")
    assert len(server.requests) == 1


def test_a_custom_http_client_is_used() -> None:
    urls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(str(request.url))
        return json_response(completion({"content": "Hi"}))

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        ChatPiccc(api_key=KEY, base_url="https://own.test", http_client=client).invoke("?")
    assert urls == ["https://own.test/v1/chat/completions"]


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")  # v3 is in beta
def test_a_truncated_call_is_invalid_and_is_sent_back_as_an_object() -> None:
    truncated_call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "i'}}
    server = Replay(
        json_response(completion({"content": None, "tool_calls": [truncated_call]}, reason="length"))
    )
    model = server.model()
    reply = model.invoke("?")
    streamed_reply = Replay(stream(chunks([fragment('{"at": "i', index=0, id="c1", name="look")]))).model()
    for message in (reply, streamed_reply.stream_events("?", version="v3").output):
        assert message.tool_calls == []
        assert message.invalid_tool_calls[0]["args"] == '{"at": "i'
        assert [block["type"] for block in message.content_blocks] == ["invalid_tool_call"]
    model.invoke([HumanMessage("?"), reply, ToolMessage("cut", tool_call_id="c1", status="error")])
    [sent] = server.bodies[1]["messages"][1]["tool_calls"]
    assert json.loads(sent["function"]["arguments"]) == {"invalid_arguments": '{"at": "i'}
