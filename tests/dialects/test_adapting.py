"""Requests are adapted to what a server accepts, and the record lists the adaptations."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from piccc import Client, Tool
from piccc._dialects import dialect_named
from piccc.conversation import ChatRequest, Image, Message, Text
from piccc.errors import InvalidRequestError, PicccError

ANTHROPIC = (
    "max_tokens: 4096 > 2000, which is the maximum allowed number of output tokens for piccc-pro",
    2000,
)
REJECTIONS: dict[str, tuple[str, int]] = {
    "Anthropic's": ANTHROPIC,
    "OpenAI's": ("max_tokens is too large: 4096. This model supports at most 2000 completion tokens.", 2000),
    "DeepSeek's": ("Invalid max_tokens value, the valid range of max_tokens is [1, 2000]", 2000),
    "Bedrock's": (
        "The maximum tokens you requested exceeds the model limit of 2000. Try again with a lower value.",
        2000,
    ),
    "vLLM's": (
        "'max_tokens' is too large: 4096. This model's maximum context length is 2048 tokens and your "
        "request has 48 input tokens (4096 > 2048 - 48).",
        2000,
    ),
    "an older vLLM's": (
        "This model's maximum context length is 2048 tokens. However, you requested 4144 tokens (48 in the "
        "messages, 4096 in the completion). Please reduce the length of the messages or completion.",
        2000,
    ),
}


class Server:
    """Reject limits that are too large, with a given message; record the bodies."""

    def __init__(self, message: str, limit: int) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._message, self._limit = message, limit

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append(body)
        if body["max_tokens"] > self._limit:
            return httpx.Response(400, json={"error": {"message": self._message}})
        if not body["stream"]:
            return httpx.Response(
                200, json={"content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"}
            )
        events = [
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
            {"type": "message_stop"},
        ]
        text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})

    @property
    def limits(self) -> list[int]:
        return [body["max_tokens"] for body in self.bodies]

    def client(self) -> Client:
        return Client(
            base_url="https://piccc.test",
            api_key="pcc_test_x",
            dialect="anthropic",
            http_client=httpx.Client(transport=httpx.MockTransport(self)),
        )


def ask(client: Client, way: str, **options: Any) -> Any:
    if way == "whole":
        return client.chat.create("hi", **options)
    with client.chat.stream("hi", **options) as stream:
        list(stream)
    return stream.reply


@pytest.mark.parametrize("words", REJECTIONS)
@pytest.mark.parametrize("way", ["whole", "stream"])
def test_a_request_is_repeated_once_with_the_limit_that_the_server_names(words: str, way: str) -> None:
    message, limit = REJECTIONS[words]
    server = Server(message, limit)
    reply = ask(server.client(), way)
    assert reply.text == "hello"
    assert server.limits == [4096, limit]
    assert any(str(limit) in note for note in reply.record.adapted)
    assert reply.record.to_dict()["adapted"] == reply.record.adapted


def test_the_limit_of_a_model_is_remembered() -> None:
    server = Server(*ANTHROPIC)
    with server.client() as client:
        for way in ("whole", "stream", "whole"):
            assert ask(client, way).text == "hello"
        assert ask(client, "whole", max_tokens=100).text == "hello"
    assert server.limits == [4096, 2000, 2000, 2000, 100]


def test_a_limit_set_by_the_caller_is_not_changed() -> None:
    server = Server(*ANTHROPIC)
    for options in ({"max_tokens": 5000}, {"extra_body": {"max_tokens": 5000}}):
        with pytest.raises(InvalidRequestError):
            ask(server.client(), "whole", **options)
    assert server.limits == [5000, 5000]


def test_a_server_that_rejects_its_own_limit_gets_no_third_request() -> None:
    server = Server(ANTHROPIC[0], 10)
    with pytest.raises(InvalidRequestError):
        ask(server.client(), "whole")
    assert server.limits == [4096, 2000]


def test_the_reasoning_budget_fits_the_limit_that_the_server_names() -> None:
    server = Server(ANTHROPIC[0].replace("4096", "16384"), 2000)
    reply = ask(server.client(), "whole", reasoning_effort="high")
    assert [body.get("thinking") for body in server.bodies] == [
        {"type": "enabled", "budget_tokens": 12288},
        {"type": "enabled", "budget_tokens": 1024},
    ]
    assert reply.text == "hello"


@pytest.mark.parametrize("way", ["whole", "stream"])
def test_the_record_lists_the_adaptations(way: str) -> None:
    forced: Any = {"tools": [Tool("look.up")], "tool_choice": "required", "reasoning_effort": "low"}
    adapted = ask(Server(*ANTHROPIC).client(), way, max_tokens=9, **forced).record.adapted
    assert len(adapted) == 2
    assert "look_up" in adapted[0]
    assert "forced" in adapted[1]


def test_the_record_of_an_error_lists_the_adaptations() -> None:
    with pytest.raises(PicccError) as caught:
        ask(Server("no", 0).client(), "whole", max_tokens=9, tools=[Tool("look.up")])
    assert caught.value.record is not None
    assert caught.value.record.adapted == ["the tool 'look.up' is sent as 'look_up'"]


def test_the_record_lists_what_a_route_has_no_field_for() -> None:
    image = Image(url="https://example.com/cat.png", detail="low")
    messages = [Message("user", [Text("Look."), image], name="ann"), Message("user", [Text("And?")])]
    request = ChatRequest(model="piccc-pro", messages=messages)
    adapted = dialect_named("anthropic").encode(request, stream=False).adapted
    assert [note.partition(" are left")[0].partition(" is left")[0] for note in adapted] == [
        "speaker names",
        "image detail",
    ]
    assert not dialect_named("openai").encode(request, stream=False).adapted
