"""What other providers' integrations leave in a history is sent as what it means, or left out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CitationBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
    VideoBlock,
)
from llama_index.core.llms import ChatMessage

from llama_index_piccc import Piccc
from llama_index_piccc.convert import conversation
from piccc.conversation import File, Image, InvalidToolCall, Reasoning, Text, ToolCall
from piccc.emulator import Emulator, Scripted
from piccc.errors import UnsupportedContentError
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.test_input import PNG, WAV

USER = ChatMessage(role="user", content="Fire it.")
CALL = ToolCall("c1", "fire", '{"at": 9}')


def assistant(*blocks: ContentBlock, **extra: Any) -> ChatMessage:
    return ChatMessage(role="assistant", blocks=list(blocks), additional_kwargs=extra)


def responses_call() -> Any:
    """Return a call as OpenAI's Responses API has it: an object, with two ids."""
    return SimpleNamespace(call_id="c1", id="fc_1", name="fire", arguments='{"at": 9}')


# What each integration leaves behind in an assistant's message, and what is meant.
MESSAGES: dict[str, tuple[ChatMessage, list[Any]]] = {
    "OpenAI, Chat": (
        assistant(tool_calls=[{"id": "c1", "function": {"name": "fire", "arguments": '{"at": 9}'}}]),
        [CALL],
    ),
    "OpenAI, Responses": (assistant(tool_calls=[responses_call()]), [CALL]),
    "OpenAI, reasoning item": (
        assistant(
            ThinkingBlock(content="hm", additional_information={"id": "rs_1", "encrypted_content": "x"}),
            TextBlock(text="Done."),
            built_in_tool_calls=[{"type": "web_search_call", "id": "ws_1"}],
            annotations=[{"type": "url_citation"}],
        ),
        [Reasoning("hm", provider="unknown"), Text("Done.")],
    ),
    "Anthropic": (
        assistant(
            ThinkingBlock(content="hm", additional_information={"signature": "s"}),
            tool_calls=[{"type": "tool_use", "id": "c1", "name": "fire", "input": {"at": 9}}],
        ),
        [Reasoning("hm", provider="unknown"), CALL],
    ),
    "Anthropic, citations": (
        assistant(
            TextBlock(text="Hot."),
            CitationBlock(cited_content="hot", source="s", title="t", additional_location_info={"start": 1}),
        ),
        [Text("Hot.")],
    ),
    "Gemini": (
        assistant(
            TextBlock(text="Here:"),
            ImageBlock(image=PNG),
            ToolCallBlock(tool_call_id="c1", tool_name="fire", tool_kwargs={"at": 9}),
            thought_signatures=[b"x"],
        ),
        [Text("Here:"), CALL],
    ),
    "audio and video": (
        assistant(
            AudioBlock(audio=WAV, format="wav"), VideoBlock(url="https://v.test/a.mp4"), TextBlock(text="So.")
        ),
        [Text("So.")],
    ),
    "broken arguments": (
        assistant(ToolCallBlock(tool_call_id="c1", tool_name="fire", tool_kwargs='{"at": ')),
        [InvalidToolCall("c1", "fire", '{"at": ', "malformed")],
    ),
    "values that are not JSON": (
        assistant(ToolCallBlock(tool_call_id="c1", tool_name="fire", tool_kwargs={"at": float("nan")})),
        [ToolCall("c1", "fire", '{"at": "nan"}')],
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_another_integration_is_read_as_it_is_meant(name: str) -> None:
    message, parts = MESSAGES[name]
    (read, *answers) = conversation([message], "openai", "error")
    if name == "values that are not JSON":
        assert isinstance(read.parts[0], ToolCall)  # how NaN is written is the conversation's choice
        assert read.parts[0].parse().keys() == {"at"}
    else:
        assert read.parts == parts
    assert len(answers) == (name == "broken arguments")


@pytest.mark.parametrize("name", MESSAGES)
def test_a_strict_server_takes_the_conversation_on(
    way: Sync | Async, llm: Piccc, emulator: Emulator, name: str
) -> None:
    message, parts = MESSAGES[name]
    results = [
        ChatMessage(role="tool", content="fired", additional_kwargs={"tool_call_id": "c1"})
        for part in parts
        if isinstance(part, ToolCall)
    ]
    answer = way.call(llm, "chat", [USER, message, *results, ChatMessage(role="user", content="And?")])
    assert answer.message.content
    sent = json.dumps(emulator.requests[-1].body["messages"])
    assert '"signature"' not in sent
    assert "web_search_call" not in sent


def test_our_own_signature_goes_back(make: Any, emulator: Emulator) -> None:
    llm = make(dialect="anthropic", reasoning_effort="low")
    emulator.script([Scripted("Hot.", reasoning="Think.")])
    thought = llm.chat([USER]).message
    kept = ChatMessage.model_validate_json(thought.model_dump_json())
    llm.chat([USER, kept, USER])
    (block, _) = emulator.requests[-1].body["messages"][1]["content"]
    assert (block["type"], bool(block["signature"])) == ("thinking", True)


@pytest.mark.parametrize(
    "block", [AudioBlock(audio=WAV, format="wav"), VideoBlock(url="https://v.test/a.mp4")]
)
def test_what_a_tool_returned_and_no_server_takes_is_named(
    llm: Piccc, emulator: Emulator, block: ContentBlock
) -> None:
    result = ChatMessage(
        role="tool", blocks=[TextBlock(text="made"), block], additional_kwargs={"tool_call_id": "c1"}
    )
    call = assistant(ToolCallBlock(tool_call_id="c1", tool_name="fire", tool_kwargs={}))
    assert llm.chat([USER, call, result]).message.content
    sent = json.dumps(emulator.requests[-1].body["messages"])
    assert "made" in sent
    if isinstance(block, VideoBlock) or llm.dialect == "anthropic":
        assert f"[{block.block_type}: " in sent


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"Hello", "text/plain"),
        ("a.md", b"# Hi", "text/plain"),
        ("noext", b"%PDF-1.7 x", "application/pdf"),
        ("a.pdf", b"not a PDF", "text/plain"),
    ],
)
@pytest.mark.parametrize("source", ["path", "bytes"])
def test_a_document_has_the_type_of_its_bytes_and_its_own_name(
    tmp_path: Path, name: str, content: bytes, expected: str, source: str
) -> None:
    (tmp_path / name).write_bytes(content)
    given: Any = {"path": tmp_path / name} if source == "path" else {"data": content, "title": name}
    (message,) = conversation([ChatMessage(role="user", blocks=[DocumentBlock(**given)])], "openai", "error")
    (file,) = message.parts
    assert isinstance(file, File)
    assert (file.media_type, file.name) == (expected, name)


@pytest.mark.parametrize("suffix", ["", ".png"])
@pytest.mark.parametrize("source", ["path", "buffer", "bytes"])
def test_an_image_has_the_type_of_its_bytes(tmp_path: Path, source: str, suffix: str) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    path = tmp_path / f"kiln{suffix}"
    path.write_bytes(buffer.getvalue())
    given: Any = {"path": {"path": path}, "buffer": {"image": buffer}, "bytes": {"image": buffer.getvalue()}}
    block = ImageBlock(**given[source])
    (message,) = conversation([ChatMessage(role="user", blocks=[block])], "openai", "error")
    (image,) = message.parts
    assert isinstance(image, Image)
    assert image.media_type == "image/jpeg"


@pytest.mark.parametrize(
    "block",
    [
        ImageBlock(image=io.BytesIO(b"\x00\x01")),
        DocumentBlock(data=io.BytesIO(b"\x00\x01")),
        AudioBlock(audio=io.BytesIO(b"\x00\x01")),
    ],
    ids=["image", "document", "audio"],
)
def test_content_of_an_unknown_type_is_refused_instead_of_guessed_at(block: ContentBlock) -> None:
    with pytest.raises(UnsupportedContentError, match="unknown"):
        conversation([ChatMessage(role="user", blocks=[block])], "openai", "error")
