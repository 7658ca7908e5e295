"""Whether a tool call is valid depends only on its content, never on how the reply was read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from piccc import InvalidToolCall, Message, Text, ToolCall
from piccc._dialects import DialectName, dialect_named
from piccc.arguments import is_strict_object, read_arguments
from piccc.conversation import ChatRequest
from tests.dialects.replies import DIALECTS, WAYS, Call, reply_of


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


DEEP = ['{"a":' + "[" * 1500, "[" * 1500, "]" * 3000 + "}"]
NESTED = f'{{"a":{_nested(500)}}}'
PATH = '{"path": "/home/ann"}'
Outcomes = list[tuple[str, Any]]

# The calls (name, pieces of the arguments), the finish reason, and the expected outcome of each call.
CASES: dict[str, tuple[list[tuple[str, list[str]]], str | None, Outcomes]] = {
    "complete": ([("rm", [PATH[:9], PATH[9:]])], "tool_calls", [("valid", {"path": "/home/ann"})]),
    "complete, finish reason stop": ([("rm", [PATH])], "stop", [("valid", {"path": "/home/ann"})]),
    "truncated within a string": ([("rm", [PATH[:14]])], "length", [("cut", None)]),
    "truncated before the arguments": ([("rm", [])], "length", [("cut", None)]),
    "truncated after an empty object": ([("rm", ["{}"])], "length", [("cut", None)]),
    "truncated, the object is closed": ([("rm", [PATH])], "length", [("cut", None)]),
    "stopped by a content filter": ([("rm", ["{}"])], "content_filter", [("cut", None)]),
    "the second truncated": (
        [("rm", [PATH]), ("rm", [PATH[:14]])],
        "length",
        [("valid", {"path": "/home/ann"}), ("cut", None)],
    ),
    "truncated after several were announced": (
        [("rm", []), ("rm", ["null"]), ("rm", ["{}"]), ("rm", [])],
        "length",
        [("cut", None)] * 4,
    ),
    "filtered, no arguments in the first": (
        [("rm", []), ("rm", [PATH])],
        "content_filter",
        [("cut", None), ("cut", None)],
    ),
    "no finish reason, no arguments in the first": (
        [("rm", ["{}"]), ("rm", [PATH])],
        None,
        [("cut", None), ("valid", {"path": "/home/ann"})],
    ),
    "no finish reason, no arguments": ([("rm", [])], None, [("cut", None)]),
    "no finish reason, complete": ([("rm", [PATH])], None, [("valid", {"path": "/home/ann"})]),
    "no arguments": ([("look", [])], "tool_calls", [("valid", {})]),
    "an empty object": ([("look", ["{}"])], "tool_calls", [("valid", {})]),
    "null": ([("look", ["null"])], "tool_calls", [("valid", {})]),
    "white space": ([("look", [" \n"])], "tool_calls", [("valid", {})]),
    "a line break in a string": ([("rm", ['{"a":"1\n2"}'])], "tool_calls", [("valid", {"a": "1\n2"})]),
    "half a surrogate pair": ([("rm", ['{"a":"\\ud83d"}'])], "tool_calls", [("valid", {"a": "\ufffd"})]),
    "surrogate pairs split across deltas": (
        [("rm", ['{"a":"\\', "ud8", "3d", "\\ud83d\\", "ude00\\\\ud800\\ude0", '0"}'])],
        "tool_calls",
        [("valid", {"a": "\ufffd\U0001f600\\ud800\ufffd"})],
    ),
    "half a surrogate pair as a name": (
        [("rm", ['{"\\uDC00":1}'])],
        "tool_calls",
        [("valid", {"\ufffd": 1})],
    ),
    "not JSON": ([("rm", ['path = """/"""'])], "tool_calls", [("malformed", None)]),
    "truncated JSON, finish reason tool_calls": ([("rm", [PATH[:14]])], "tool_calls", [("malformed", None)]),
    "two objects": ([("rm", ["{}", PATH])], "tool_calls", [("malformed", None)]),
    "a list": ([("rm", ["[1]"])], "tool_calls", [("malformed", None)]),
    "a number": ([("rm", ["1"])], "tool_calls", [("malformed", None)]),
    "an object in a string": ([("rm", ['"{}"'])], "tool_calls", [("malformed", None)]),
    "nested too deeply": ([("rm", DEEP)], "tool_calls", [("malformed", None)]),
    "nested too deeply for some parsers": ([("rm", [NESTED])], "tool_calls", [("malformed", None)]),
    "nested as deeply as allowed": (
        [("rm", ['{"a":', _nested(99), "}"])],
        "tool_calls",
        [("valid", {"a": json.loads(_nested(99))})],
    ),
    "truncated, nested too deeply": ([("rm", [NESTED[:400], '"a'])], "length", [("cut", None)]),
    "NaN": ([("rm", ['{"a": NaN}'])], "tool_calls", [("malformed", None)]),
    "a number that is too large": ([("rm", ['{"a": 1e999}'])], "tool_calls", [("malformed", None)]),
    "no name": ([("", [PATH])], "tool_calls", [("unnamed", None)]),
    "one of two without a name": (
        [("", ["{}"]), ("look", ["{}"])],
        "tool_calls",
        [("unnamed", None), ("valid", {})],
    ),
}
# An Anthropic server parses the arguments of a whole reply itself, so it cannot send these.
UNSAYABLE_WHOLE = {
    "an object in a string",
    "NaN",
    "a number that is too large",
    "half a surrogate pair",
    "surrogate pairs split across deltas",
    "half a surrogate pair as a name",
    "nested too deeply",
    "nested too deeply for some parsers",
    "truncated, nested too deeply",
}


def outcome(call: ToolCall | InvalidToolCall) -> tuple[str, Any]:
    return ("valid", call.parse()) if isinstance(call, ToolCall) else (call.reason, None)


FORMS = [
    (dialect, way, case)
    for dialect in DIALECTS
    for way in WAYS
    for case in CASES
    if (dialect, way) != ("anthropic", "whole") or case not in UNSAYABLE_WHOLE
]


@pytest.mark.parametrize(("dialect", "way", "case"), FORMS)
def test_a_call_is_validated_the_same_however_it_is_read(dialect: DialectName, way: str, case: str) -> None:
    announced, finish_reason, expected = CASES[case]
    calls: list[Call] = [(f"call_{index}", *call) for index, call in enumerate(announced)]
    reply = reply_of(dialect, way, calls, finish_reason)
    read_calls = [part for part in reply.parts if isinstance(part, ToolCall | InvalidToolCall)]
    assert [outcome(call) for call in read_calls] == expected
    assert [call.id for call in read_calls] == [id for id, _, _ in calls]
    assert reply.tool_calls == [call for call in read_calls if isinstance(call, ToolCall)]
    assert reply.invalid_calls == [call for call in read_calls if isinstance(call, InvalidToolCall)]
    assert all(read_arguments(call.arguments) is not None for call in reply.tool_calls)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_truncated_text_has_no_invalid_calls(dialect: DialectName, way: str) -> None:
    reply = reply_of(dialect, way, [], "length", text="Then I")
    assert reply.text == "Then I"
    assert reply.invalid_calls == []


def test_the_arguments_of_an_invalid_call_are_kept() -> None:
    for way in ("whole", "event by event"):
        [call] = reply_of("openai", way, [("c", "rm", [PATH[:14]])], "length").invalid_calls
        assert call == InvalidToolCall("c", "rm", PATH[:14], "cut")
        assert "not run" in call.error


def test_arguments_are_serialized_from_any_python_values() -> None:
    from datetime import date
    from decimal import Decimal

    call = ToolCall.of("c", "pay", {"on": date(2026, 11, 25), "sum": Decimal("1.50"), "to": "a\ud83d"})
    assert call.parse() == {"on": "2026-11-25", "sum": "1.50", "to": "a\ufffd"}
    circular: dict[str, Any] = {}
    circular["self"] = circular
    for value in (float("nan"), float("inf"), object(), b"\xff", {1, 2}, {"a\ud83d": 1}, circular):
        text = ToolCall.of("c", "pay", {"sum": value}).arguments
        assert is_strict_object(text)
        text.encode()


def test_arguments_that_are_not_an_object_cannot_be_parsed() -> None:
    with pytest.raises(ValueError, match="rm"):
        ToolCall("c", "rm", PATH[:14]).parse()


@pytest.mark.parametrize(
    "part", [InvalidToolCall("c", "rm", PATH[:14], "cut"), ToolCall("c", "rm", PATH[:14])]
)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_invalid_arguments_are_replayed_wrapped_in_an_object(dialect: DialectName, part: Any) -> None:
    messages = [
        Message("user", [Text("?")]),
        Message("assistant", [part]),
        Message("tool", [], tool_call_id="c"),
    ]
    body = dialect_named(dialect).encode(ChatRequest(model="m", messages=messages), stream=False).body
    sent = body["messages"][1]
    if dialect == "openai":
        arguments = read_arguments(sent["tool_calls"][0]["function"]["arguments"])
    else:
        arguments = sent["content"][0]["input"]
    assert arguments == {"invalid_arguments": PATH[:14]}
