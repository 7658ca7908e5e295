"""Chat forwarded to an upstream server, in both dialects; the emulator handles everything else."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import pytest

from piccc import Client, JSONSchema, Message, PicccError, Reasoning, Text, Tool, ToolCall
from piccc.emulator import Emulator, Scripted
from tests.emulator.wire import chat, connect, message

DIALECTS: tuple[Literal["openai"], Literal["anthropic"]] = ("openai", "anthropic")
KEY = "sk-upstream-0123456789"
WEATHER = Tool(
    "weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


@dataclass
class Pair:
    """An emulator that forwards chat, and the one that it forwards to."""

    front: Emulator
    upstream: Emulator

    def client(self, dialect: Literal["openai", "anthropic"]) -> Client:
        return Client(
            base_url=self.front.base_url, api_key=self.front.api_key, dialect=dialect, max_retries=0
        )


@contextmanager
def start_pair(**options: Any) -> Iterator[Pair]:
    speed = float("inf")
    with Emulator(speed=speed, api_key=KEY) as upstream:
        options = {"upstream": upstream.base_url, "upstream_key": KEY, **options}
        with Emulator(speed=speed, **options) as front:
            yield Pair(front, upstream)


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    with start_pair() as pair:
        yield pair


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    for emulator in (shared_pair.front, shared_pair.upstream):
        emulator.reset()
    return shared_pair


REPLIES = {
    "text": Scripted(text="Good morning. Ça va? 你好 \u2028 👋🏽"),
    "no text": Scripted(text=""),
    "reasoning": Scripted(reasoning="It is early.", text="Good morning."),
    "a call": Scripted(calls=[("weather", {"city": "Tromsø"})]),
    "text and two calls": Scripted(text="I look.", calls=[("weather", {"city": "Oslo"}), ("weather", {})]),
    "a refusal": Scripted(refusal="I cannot help with that."),
    "cut": Scripted(text="It is", finish_reason="length"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_a_forwarded_reply_equals_a_direct_one(
    pair: Pair, dialect: Literal["openai", "anthropic"], streamed: bool, reply: Scripted
) -> None:
    pair.upstream.script([reply, reply])
    direct = Client(base_url=pair.upstream.base_url, api_key=KEY, dialect=dialect)
    seen = []
    for client in (direct, pair.client(dialect)):
        if streamed:
            with client.chat.stream("Hello", tools=[WEATHER]) as stream:
                for _ in stream:
                    pass
                result = stream.reply
        else:
            result = client.chat.create("Hello", tools=[WEATHER])
        calls = [(call.name, call.arguments) for call in result.tool_calls]
        thinking = [part.text for part in result.parts if isinstance(part, Reasoning)]
        assert result.usage is not None
        seen.append(
            (result.text, calls, thinking, result.refusal, result.finish_reason, result.usage.output_tokens)
        )
    assert seen[0] == seen[1]
    [charge] = pair.front.charges
    assert (charge.prompt_tokens, charge.completion_tokens) == (
        pair.upstream.charges[1].prompt_tokens,
        pair.upstream.charges[1].completion_tokens,
    )


CONVERSATION = [
    Message("system", [Text("Be brief.")]),
    Message("user", [Text("Weather in Oslo?")]),
    Message("assistant", [Text("I look."), ToolCall("call_1", "weather", '{"city":"Oslo"}')]),
    Message("tool", [Text("Snow.")], tool_call_id="call_1"),
    Message("user", [Text("And now in two words?")]),
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_both_dialects_send_the_same_request_upstream(
    pair: Pair, dialect: Literal["openai", "anthropic"]
) -> None:
    seen: list[Any] = []
    pair.upstream.rule(lambda request: bool(seen.append(request)), "")
    schema = {"type": "object", "properties": {"weather": {"type": "string"}}, "required": ["weather"]}
    pair.client(dialect).chat.create(
        CONVERSATION,
        tools=[WEATHER],
        tool_choice="none",
        max_tokens=50,
        stop=["zzz"],
        response_format=JSONSchema({"title": "Weather", "additionalProperties": False, **schema}),
    )
    [request] = seen
    assert [(turn.role, turn.text, turn.call_id) for turn in request.turns] == [
        ("system", "Be brief.", None),
        ("user", "Weather in Oslo?", None),
        ("assistant", "I look.", None),
        ("tool", "Snow.", "call_1"),
        ("user", "And now in two words?", None),
    ]
    assert request.turns[2].calls[0].arguments == {"city": "Oslo"}
    assert [tool.name for tool in request.tools] == ["weather"]
    assert (request.tool_choice, request.max_tokens, request.stop) == ("none", 50, ("zzz",))
    assert request.schema["required"] == ["weather"]


BODIES: dict[str, Callable[..., dict[str, Any]]] = {"/v1/chat/completions": chat, "/v1/messages": message}


@pytest.mark.parametrize("path", BODIES)
def test_a_stream_is_forwarded_event_by_event(pair: Pair, path: str) -> None:
    pair.upstream.script(["one two three four five six"])
    pair.upstream.fault("stall:4", times=1)
    lines = []
    with (
        connect(pair.front) as client,
        client.stream("POST", path, json=BODIES[path](stream=True)) as response,
    ):
        for line in response.iter_lines():
            lines.append(line)
            if "three" in line:  # the fourth event: the upstream stalls after it
                break
    assert response.status_code == 200
    assert "four" not in "".join(lines)
    # The upstream must stop, and stop billing, once the client has disconnected.
    end = time.monotonic() + 60
    while not (pair.upstream.requests[0].done and pair.front.charges) and time.monotonic() < end:
        time.sleep(0.01)
    assert pair.upstream.requests[0].done
    assert len(pair.front.charges) == 1


@pytest.mark.parametrize("requested", [True, False])
def test_a_stream_contains_usage_only_on_request(pair: Pair, requested: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if requested else {}
    with connect(pair.front) as client:
        text = client.post("/v1/chat/completions", json=chat(stream=True, **options)).text
    assert ('"prompt_tokens"' in text) is requested
    assert text.endswith("data: [DONE]\n\n")
    assert pair.front.charges[0].prompt_tokens == pair.upstream.charges[0].prompt_tokens


ERRORS = {
    "429;retry-after=7": (429, "injected fault"),
    "400;message=It is too long;code=context_length_exceeded": (400, "It is too long"),
    "401": (502, "rejected the emulator's key"),
    "503": (503, "injected fault"),
    "disconnect": (502, "cannot reach the upstream"),
    "html": (502, "not a JSON object"),
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("fault", ERRORS)
def test_upstream_errors_are_translated_for_the_route(pair: Pair, path: str, fault: str) -> None:
    status, text = ERRORS[fault]
    pair.upstream.fault(fault, times=1)
    with connect(pair.front) as client:
        response = client.post(path, json=BODIES[path]())
    body = response.json()
    assert response.status_code == status
    assert text.lower() in body["error"]["message"].lower()
    assert ("request_id" in body) is (path == "/v1/messages")
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert pair.front.charges == []
    assert pair.front.requests[0].error == body["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("fault", ["html", "empty"])
def test_a_non_stream_response_is_an_error_and_not_charged(pair: Pair, path: str, fault: str) -> None:
    pair.upstream.fault(fault, times=1)
    with connect(pair.front) as client:
        response = client.post(path, json={**BODIES[path](), "stream": True})
    assert response.status_code == 502
    assert "instead of an event stream" in response.json()["error"]["message"]
    assert pair.front.charges == []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", ["cut:3", "garbled:3", "error-event:3"])
def test_an_interrupted_stream_ends_with_an_error(
    pair: Pair, dialect: Literal["openai", "anthropic"], fault: str
) -> None:
    pair.upstream.script(["one two three four five six"])
    pair.upstream.fault(fault, times=1)
    with (
        pytest.raises(PicccError, match="upstream"),
        pair.client(dialect).chat.stream("Hello") as stream,
    ):
        for _ in stream:
            pass
    assert len(pair.front.charges) == 1


def test_keys_scripts_faults_and_validation_stay_local(pair: Pair) -> None:
    pair.front.script(["Scripted."])
    with connect(pair.front) as client:
        assert (
            client.post("/v1/chat/completions", json=chat()).json()["choices"][0]["message"]["content"]
            == "Scripted."
        )
        assert client.post("/v1/chat/completions", json=chat(model="gpt-4o")).status_code == 404
        pair.front.fault("503", times=1)
        assert client.post("/v1/chat/completions", json=chat()).status_code == 503
        wrong = client.post("/v1/chat/completions", json=chat(), headers={"authorization": f"Bearer {KEY}"})
        assert wrong.status_code == 401
        assert pair.upstream.requests == []
        client.post("/v1/chat/completions", json=chat(KEY))
    assert KEY not in str(pair.front.requests)
    assert pair.upstream.requests[0].headers["authorization"] == "[redacted]"
    assert pair.front.api_key not in json.dumps(pair.upstream.requests[0].headers)


def test_upstream_model_replaces_the_requested_model() -> None:
    with start_pair(upstream_model="piccc-flash") as pair:
        for dialect in DIALECTS:
            assert pair.client(dialect).chat.create("Hello", model="piccc-ultra").model == "piccc-ultra"
        assert [request.model for request in pair.upstream.requests] == ["piccc-flash"] * 2
        assert [charge.model for charge in pair.front.charges] == ["piccc-ultra"] * 2


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://host", "", "http://a:b@host/v1", "http://host/?key=b"])
def test_an_invalid_upstream_url_is_rejected(url: str) -> None:
    with pytest.raises(ValueError, match="upstream must be") as caught:
        Emulator(upstream=url)
    assert "b@" not in str(caught.value)
    assert "key=b" not in str(caught.value)


def test_an_unreachable_upstream_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with Emulator(upstream=url) as front, connect(front) as client:
        response = client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 502
    assert url in response.json()["error"]["message"]
    assert isinstance(response, httpx.Response)
