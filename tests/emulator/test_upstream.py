"""Chat from another server: both dialects in front of it, everything else the emulator's own."""

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
class Two:
    """The emulator in front, and the one that answers for it."""

    front: Emulator
    behind: Emulator

    def client(self, dialect: Literal["openai", "anthropic"]) -> Client:
        return Client(
            base_url=self.front.base_url, api_key=self.front.api_key, dialect=dialect, max_retries=0
        )


@contextmanager
def two(**options: Any) -> Iterator[Two]:
    speed = float("inf")
    with Emulator(speed=speed, api_key=KEY) as behind:
        options = {"upstream": behind.base_url, "upstream_key": KEY, **options}
        with Emulator(speed=speed, **options) as front:
            yield Two(front, behind)


@pytest.fixture(scope="module")
def servers() -> Iterator[Two]:
    with two() as both:
        yield both


@pytest.fixture
def both(servers: Two) -> Two:
    for each in (servers.front, servers.behind):
        each.reset()
    return servers


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
def test_a_reply_is_the_same_as_without_an_emulator_in_front(
    both: Two, dialect: Literal["openai", "anthropic"], streamed: bool, reply: Scripted
) -> None:
    both.behind.script([reply, reply])
    direct = Client(base_url=both.behind.base_url, api_key=KEY, dialect=dialect)
    seen = []
    for client in (direct, both.client(dialect)):
        if streamed:
            with client.chat.stream("Hello", tools=[WEATHER]) as stream:
                for _ in stream:
                    pass
                got = stream.reply
        else:
            got = client.chat.create("Hello", tools=[WEATHER])
        calls = [(call.name, call.arguments) for call in got.tool_calls]
        thought = [part.text for part in got.parts if isinstance(part, Reasoning)]
        assert got.usage is not None
        seen.append((got.text, calls, thought, got.refusal, got.finish_reason, got.usage.output_tokens))
    assert seen[0] == seen[1]
    [charge] = both.front.charges
    assert (charge.prompt_tokens, charge.completion_tokens) == (
        both.behind.charges[1].prompt_tokens,
        both.behind.charges[1].completion_tokens,
    )


CONVERSATION = [
    Message("system", [Text("Be brief.")]),
    Message("user", [Text("Weather in Oslo?")]),
    Message("assistant", [Text("I look."), ToolCall("call_1", "weather", '{"city":"Oslo"}')]),
    Message("tool", [Text("Snow.")], tool_call_id="call_1"),
    Message("user", [Text("And now in two words?")]),
]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_upstream_gets_the_same_request_from_both_dialects(
    both: Two, dialect: Literal["openai", "anthropic"]
) -> None:
    seen: list[Any] = []
    both.behind.rule(lambda request: bool(seen.append(request)), "")
    schema = {"type": "object", "properties": {"weather": {"type": "string"}}, "required": ["weather"]}
    both.client(dialect).chat.create(
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
def test_a_stream_passes_event_by_event(both: Two, path: str) -> None:
    both.behind.script(["one two three four five six"])
    both.behind.fault("stall:4", times=1)
    lines = []
    with (
        connect(both.front) as client,
        client.stream("POST", path, json=BODIES[path](stream=True)) as response,
    ):
        for line in response.iter_lines():
            lines.append(line)
            if "three" in line:  # the fourth event: those behind it never come
                break
    assert response.status_code == 200
    assert "four" not in "".join(lines)
    # The upstream must not go on, and be paid, for a client that has left.
    end = time.monotonic() + 60
    while not (both.behind.requests[0].done and both.front.charges) and time.monotonic() < end:
        time.sleep(0.01)
    assert both.behind.requests[0].done
    assert len(both.front.charges) == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_usage_is_in_a_stream_only_where_it_was_asked_for(both: Two, wanted: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    with connect(both.front) as client:
        text = client.post("/v1/chat/completions", json=chat(stream=True, **options)).text
    assert ('"prompt_tokens"' in text) is wanted
    assert text.endswith("data: [DONE]\n\n")
    assert both.front.charges[0].prompt_tokens == both.behind.charges[0].prompt_tokens


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
def test_its_error_has_the_form_of_the_route_in_front(both: Two, path: str, fault: str) -> None:
    status, text = ERRORS[fault]
    both.behind.fault(fault, times=1)
    with connect(both.front) as client:
        response = client.post(path, json=BODIES[path]())
    body = response.json()
    assert response.status_code == status
    assert text.lower() in body["error"]["message"].lower()
    assert ("request_id" in body) is (path == "/v1/messages")
    assert response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert both.front.charges == []
    assert both.front.requests[0].error == body["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("fault", ["html", "empty"])
def test_what_is_no_stream_is_an_error_and_no_charge(both: Two, path: str, fault: str) -> None:
    both.behind.fault(fault, times=1)
    with connect(both.front) as client:
        response = client.post(path, json={**BODIES[path](), "stream": True})
    assert response.status_code == 502
    assert "instead of an event stream" in response.json()["error"]["message"]
    assert both.front.charges == []


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", ["cut:3", "garbled:3", "error-event:3"])
def test_a_stream_that_breaks_ends_in_an_error(
    both: Two, dialect: Literal["openai", "anthropic"], fault: str
) -> None:
    both.behind.script(["one two three four five six"])
    both.behind.fault(fault, times=1)
    with (
        pytest.raises(PicccError, match="upstream"),
        both.client(dialect).chat.stream("Hello") as stream,
    ):
        for _ in stream:
            pass
    assert len(both.front.charges) == 1


def test_keys_scripts_faults_and_checks_stay_the_emulators_own(both: Two) -> None:
    both.front.script(["Scripted."])
    with connect(both.front) as client:
        assert (
            client.post("/v1/chat/completions", json=chat()).json()["choices"][0]["message"]["content"]
            == "Scripted."
        )
        assert client.post("/v1/chat/completions", json=chat(model="gpt-4o")).status_code == 404
        both.front.fault("503", times=1)
        assert client.post("/v1/chat/completions", json=chat()).status_code == 503
        wrong = client.post("/v1/chat/completions", json=chat(), headers={"authorization": f"Bearer {KEY}"})
        assert wrong.status_code == 401
        assert both.behind.requests == []
        client.post("/v1/chat/completions", json=chat(KEY))
    assert KEY not in str(both.front.requests)
    assert both.behind.requests[0].headers["authorization"] == "[redacted]"
    assert both.front.api_key not in json.dumps(both.behind.requests[0].headers)


def test_another_model_is_asked_for_where_one_is_named() -> None:
    with two(upstream_model="piccc-flash") as both:
        for dialect in DIALECTS:
            assert both.client(dialect).chat.create("Hello", model="piccc-ultra").model == "piccc-ultra"
        assert [request.model for request in both.behind.requests] == ["piccc-flash"] * 2
        assert [charge.model for charge in both.front.charges] == ["piccc-ultra"] * 2


@pytest.mark.parametrize("url", ["127.0.0.1:1", "ftp://host", "", "http://a:b@host/v1", "http://host/?key=b"])
def test_an_upstream_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="upstream must be") as caught:
        Emulator(upstream=url)
    assert "b@" not in str(caught.value)
    assert "key=b" not in str(caught.value)


def test_an_upstream_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    with Emulator(upstream=url) as front, connect(front) as client:
        response = client.post("/v1/chat/completions", json=chat())
    assert response.status_code == 502
    assert url in response.json()["error"]["message"]
    assert isinstance(response, httpx.Response)
