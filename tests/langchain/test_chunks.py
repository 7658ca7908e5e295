"""Copied chunks equal constructed ones and share no mutable state."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from langchain_piccc._streaming import ChunkWriter
from piccc.conversation import TextDelta, ToolCallDelta


def text_chunk(text: str) -> ChatGenerationChunk:
    (chunk,) = ChunkWriter("lc_run--1").write([TextDelta(text)])
    return chunk


def test_a_copied_chunk_equals_a_constructed_one() -> None:
    message = AIMessageChunk(content="word", id="lc_run--1", response_metadata={"model_provider": "piccc"})
    constructed = ChatGenerationChunk(message=message)
    copied = text_chunk("word")
    assert copied == constructed
    assert copied.model_dump() == constructed.model_dump()
    assert copied.message.model_fields_set >= message.model_fields_set
    assert (copied + text_chunk(" more")).message.text == "word more"


FRAGMENTS = [
    " ",
    "\n",
    '"b": 1',
    "}",
    "]",
    ",",
    "12",
    "-",
    "null",
    "NaN",
    '"',
    "\\",
    "{",
    ' {"c"',
    '{"c": 1}',
    "\ufeff{",
]


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_a_tool_call_chunk_equals_a_constructed_one(fragment: str) -> None:
    writer = ChunkWriter("lc_run--1")
    (first,) = writer.write([ToolCallDelta(0, '{"a": ', "call_1", "look")])
    (copied,) = writer.write([ToolCallDelta(0, fragment)])
    message = AIMessageChunk(
        content="",
        id="lc_run--1",
        response_metadata={"model_provider": "piccc"},
        tool_call_chunks=[tool_call_chunk(args=fragment, index=0)],
    )
    assert copied.message == message
    assert copied.model_dump() == ChatGenerationChunk(message=message).model_dump()
    assert (first + copied).message.model_dump() == (first.message + message).model_dump()


def test_chunks_share_no_mutable_fields() -> None:
    fields = (
        "additional_kwargs",
        "response_metadata",
        "tool_calls",
        "invalid_tool_calls",
        "tool_call_chunks",
    )
    first, second = text_chunk("a").message, text_chunk("b").message
    for name in fields:
        assert getattr(first, name) is not getattr(second, name)
    assert set(fields) == {
        name for name, value in AIMessageChunk(content="").__dict__.items() if isinstance(value, dict | list)
    }
