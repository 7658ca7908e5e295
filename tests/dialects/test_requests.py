"""Any conversation becomes a request that the official SDKs' types and a strict server accept."""

from __future__ import annotations

import copy
import json
import math
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from piccc._dialects import DialectName, EncodedRequest, dialect_named
from piccc._dialects.common import serialize
from piccc.conversation import (
    Audio,
    CachePoint,
    ChatReply,
    ChatRequest,
    File,
    Image,
    InvalidToolCall,
    Message,
    NamedTool,
    Part,
    Raw,
    Reasoning,
    Refusal,
    Source,
    Text,
    Tool,
    ToolCall,
)
from piccc.emulator import Emulator
from tests.dialects import test_invalid_calls as invalid_calls
from tests.dialects import test_reading as reading
from tests.dialects.replies import DIALECTS, WAYS, read, reply_of

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PDF = b64encode(b"%PDF-1.7\n\xff").decode()
WORDS = b64encode("grüße".encode()).decode()
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
NAMES = ["look", "files.read", "files_read", "é", "x" * 70]

NO_DEADLINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXTS = st.sampled_from(["hi", "", " ", "\n\n", "It is ", "half \ud83d", "\ud83d\ude00", "a\x00b"])
IDS = st.sampled_from(["a", "b", "call_1", "fc_1|2", "c:1", "", "y" * 60])
ARGUMENTS = st.sampled_from(
    [
        "{}",
        "",
        "null",
        '{"at": "it"}',
        '{"at": "i',
        "[1]",
        '{"at": "1\n2"}',
        '{"at": "\\ud83d"}',
        "{}{}",
        "NaN",
        '{"at": "\ud83d"}',
    ]
)
PROVIDERS = st.sampled_from(["piccc", "openai", "anthropic"])
TEXT = st.builds(Text, TEXTS)
PASSAGE = st.builds(Source, TEXTS, TEXTS, st.sampled_from(["", "https://a.test"]))
IMAGE = st.sampled_from(
    [Image(data=PNG), Image(data=PNG, media_type="image/jpeg"), Image(url=f"data:image/gif;base64,{PNG}")]
)
FILE = st.sampled_from(
    [
        File(data=PDF, name="a.pdf"),
        File(data=WORDS),
        File(data=WORDS, media_type="application/pdf"),
        File(data=PNG),
    ]
)
SOUND = st.just(Audio(b64encode(b"RIFF\x24\0\0\0WAVE").decode(), "wav"))
THOUGHT = st.builds(
    Reasoning, TEXTS, st.sampled_from([None, "sig"]), st.sampled_from([None, "xyz"]), st.just("anthropic")
) | st.builds(Reasoning, TEXTS)
REFUSAL = st.builds(Refusal, TEXTS)
FOREIGN = st.builds(Raw, st.sampled_from([{"type": "web_search_call"}, {"type": "hologram"}, {}]), PROVIDERS)
TOOL_NAMES = st.sampled_from([*NAMES, "gone"])
CALL = st.builds(ToolCall, IDS, TOOL_NAMES, ARGUMENTS) | st.builds(
    InvalidToolCall,
    IDS,
    st.sampled_from(["look", "files.read", ""]),
    ARGUMENTS,
    st.sampled_from(["cut", "unnamed"]),
)


def parts(*kinds: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Part]]:
    return st.lists(st.one_of(*kinds), max_size=most)


USER = st.builds(
    Message,
    st.just("user"),
    parts(TEXT, PASSAGE, IMAGE, FILE, REFUSAL, THOUGHT),
    st.sampled_from([None, "Ann Lee", "a|b"]),
)
SYSTEM = st.builds(Message, st.just("system"), parts(TEXT, PASSAGE, IMAGE, FILE, REFUSAL))
ANSWER = parts(TEXT, PASSAGE, IMAGE, FILE, REFUSAL, THOUGHT, FOREIGN, CALL, most=5)
RESULT = parts(TEXT, PASSAGE, IMAGE, FILE, SOUND, REFUSAL, FOREIGN)


@st.composite
def exchanges(draw: st.DrawFn) -> list[Message]:
    """Draw an answer and results of some of its calls, in any order, perhaps after another turn."""
    answer = Message("assistant", draw(ANSWER), draw(st.sampled_from([None, "research agent"])))
    ids = [part.id for part in answer.parts if isinstance(part, ToolCall | InvalidToolCall) and part.id]
    answered = draw(st.lists(st.sampled_from(ids), max_size=3)) if ids else []
    results = [
        Message("tool", draw(RESULT), tool_call_id=id, is_error=draw(st.booleans())) for id in answered
    ]
    between = draw(st.lists(USER | SYSTEM, max_size=1))
    return [answer, *between, *results]


@st.composite
def requests(draw: st.DrawFn) -> ChatRequest:
    """Draw a request whose conversation has at least one nonempty message."""
    turns = draw(
        st.lists(USER.map(lambda turn: [turn]) | SYSTEM.map(lambda turn: [turn]) | exchanges(), max_size=5)
    )
    messages = [message for turn in turns for message in turn]
    messages.insert(draw(st.integers(0, 1)) * len(messages), Message("user", [Text("hi"), CachePoint()]))
    offered = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    choices: list[Any] = [None, "auto", "none", *(["required", NamedTool(offered[0])] if offered else [])]
    return ChatRequest(
        model="piccc-pro",
        messages=messages,
        tools=[Tool(name, "Look.", SCHEMA) for name in offered],
        tool_choice=draw(st.sampled_from(choices)),
        parallel_tool_calls=draw(st.sampled_from([None, True, False])),
        temperature=draw(st.sampled_from([None, 0.1, 1.0])),
        top_p=draw(st.sampled_from([None, 0.5, 1.0])),
        max_tokens=draw(st.sampled_from([None, 5, 1024, 1025, 5000])),
        reasoning_effort=draw(st.sampled_from([None, None, "none", "low", "high"])),
        replay_reasoning=draw(st.sampled_from([None, True, False])),
    )


@cache
def official(dialect: DialectName) -> TypeAdapter[Any]:
    if dialect == "openai":
        from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

        return TypeAdapter(CompletionCreateParamsNonStreaming)
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

    return TypeAdapter(MessageCreateParamsNonStreaming)


def validated(value: Any) -> Any:
    """Consume a validator's result: it validates what the SDKs type as iterables only when iterated."""
    if isinstance(value, dict):
        return {name: validated(inner) for name, inner in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    return [validated(inner) for inner in value]


def encoded(dialect: DialectName, request: ChatRequest) -> EncodedRequest:
    return dialect_named(dialect).encode(request, stream=False)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_conversation_matches_the_official_types(dialect: DialectName) -> None:
    @NO_DEADLINE
    @given(requests())
    def check(request: ChatRequest) -> None:
        body = json.loads(serialize(encoded(dialect, request).body))
        for name in ("temperature", "top_p"):  # newer Anthropic SDKs do not declare them
            body.pop(name, None)
        for message in body["messages"]:  # an extension by DeepSeek and others
            message.pop("reasoning_content", None)
        assert validated(official(dialect).validate_python(body)) == body

    check()


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with Emulator(speed=math.inf) as emulator:
        headers = {"authorization": f"Bearer {emulator.api_key}"}
        with httpx.Client(base_url=emulator.base_url, headers=headers) as client:
            yield client


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_conversation_is_accepted_by_a_strict_server(dialect: DialectName, http: httpx.Client) -> None:
    @settings(NO_DEADLINE, max_examples=60)
    @given(requests())
    def check(request: ChatRequest) -> None:
        path = dialect_named(dialect).path
        response = http.post(path, content=serialize(encoded(dialect, request).body))
        assert response.status_code == 200, response.text

    check()


def replies() -> Iterator[tuple[str, DialectName, ChatReply]]:
    """Yield the unusual replies of the other tables, read from each dialect, whole and streamed."""
    for dialect in DIALECTS:
        for case, (calls, finish_reason, _) in invalid_calls.CASES.items():
            numbered = [(f"call_{index}", *call) for index, call in enumerate(calls)]
            for way in WAYS[:2]:
                yield case, dialect, reply_of(dialect, way, numbered, finish_reason)
    for case, (dialect, whole, stream, parts) in reading.CASES.items():
        if not any(isinstance(part, Reasoning) and part.signature for part in parts):  # servers verify it
            yield case, dialect, dialect_named(dialect).decode(copy.deepcopy(whole))
            yield case, dialect, read(dialect, stream)[1]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_reply_can_be_replayed_over_either_dialect(dialect: DialectName, http: httpx.Client) -> None:
    hi, last = Message("user", [Text("hi")]), Message("user", [Text("so?")])
    rejected = {}
    for case, origin, reply in replies():
        request = ChatRequest(model="piccc-pro", messages=[hi, reply.message, last])
        body = encoded(dialect, request).body
        validated(official(dialect).validate_python(body))
        response = http.post(dialect_named(dialect).path, content=serialize(body))
        if response.status_code != 200:
            rejected[origin, case] = response.text
    assert not rejected


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_growing_conversation_keeps_its_encoded_beginning(dialect: DialectName) -> None:
    """A server's prompt cache is hit only if the beginning has not changed."""

    @NO_DEADLINE
    @given(requests(), exchanges())
    def check(request: ChatRequest, more: list[Message]) -> None:
        plain = replace(request, reasoning_effort=None)
        end = Message("user", [Text("so?")])
        before = encoded(dialect, replace(plain, messages=[*plain.messages, end])).body["messages"]
        after = encoded(dialect, replace(plain, messages=[*plain.messages, end, *more])).body["messages"]
        assert after[: len(before) - 1] == before[:-1]

    check()
