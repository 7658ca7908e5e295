"""What other providers' integrations leave in a history is converted or left out."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import suppress
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
from llama_index_piccc.convert import to_messages
from piccc._dialects import dialect_named
from piccc._dialects.common import serialize
from piccc.conversation import ChatRequest, Image, InvalidToolCall, Reasoning, Text, ToolCall
from piccc.emulator import Emulator, Scripted
from piccc.errors import PicccError, UnsupportedContentError
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.test_input import PNG, WAV

USER = ChatMessage(role="user", content="Fire it.")
CALL = ToolCall("c1", "fire", '{"at": 9}')


def assistant(*blocks: ContentBlock, **extra: Any) -> ChatMessage:
    return ChatMessage(role="assistant", blocks=list(blocks), additional_kwargs=extra)


def responses_call() -> Any:
    """Return a tool call of OpenAI's Responses API: an object with two ids."""
    return SimpleNamespace(call_id="c1", id="fc_1", name="fire", arguments='{"at": 9}')


# Assistant messages as each integration leaves them, and what they are converted to.
MESSAGES: dict[str, tuple[ChatMessage, list[Any]]] = {
    "OpenAI, Chat": (
        assistant(tool_calls=[{"id": "c1", "function": {"name": "fire", "arguments": '{"at": 9}'}}]),
        [CALL],
    ),
    "OpenAI, Responses": (assistant(tool_calls=[responses_call()]), [CALL]),
    "another integration's list of invalid calls": (
        assistant(TextBlock(text="Done."), invalid_tool_calls=["c1", {"name": "fire"}]),
        [Text("Done.")],
    ),
    "OpenAI, reasoning item": (
        assistant(
            ThinkingBlock(content="hm", additional_information={"id": "rs_1", "encrypted_content": "x"}),
            TextBlock(text="Done."),
            built_in_tool_calls=[{"type": "web_search_call", "id": "ws_1"}],
            annotations=[{"type": "url_citation"}],
        ),
        [Reasoning("hm", provider=""), Text("Done.")],
    ),
    "Anthropic": (
        assistant(
            ThinkingBlock(content="hm", additional_information={"signature": "s"}),
            tool_calls=[{"type": "tool_use", "id": "c1", "name": "fire", "input": {"at": 9}}],
        ),
        [Reasoning("hm", "s", provider=""), CALL],
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
        [Text("Here:"), Image(None, base64.b64encode(PNG).decode(), "image/png"), CALL],
    ),
    "Ollama, calls without ids": (
        assistant(ToolCallBlock(tool_name="fire", tool_kwargs={"at": 9})),
        [ToolCall("fire", "fire", '{"at": 9}')],
    ),
    "Gemini, older": (
        assistant(tool_calls=[{"name": "fire", "args": {"at": 9}}]),
        [ToolCall("fire", "fire", '{"at": 9}')],
    ),
    "Bedrock": (
        assistant(tool_calls=[{"toolUseId": "c1", "name": "fire", "input": {"at": 9}}]),
        [CALL],
    ),
    "video": (
        assistant(VideoBlock(url="https://v.test/a.mp4"), TextBlock(text="So.")),
        [Text("[video: https://v.test/a.mp4]"), Text("So.")],
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
def test_another_integrations_message_is_converted(name: str) -> None:
    message, parts = MESSAGES[name]
    (read,) = to_messages([message], "openai", "error")
    if name == "values that are not JSON":
        assert isinstance(read.parts[0], ToolCall)  # piccc.conversation chooses how to write NaN
        assert read.parts[0].parse().keys() == {"at"}
    else:
        assert read.parts == parts


@pytest.mark.parametrize("name", MESSAGES)
def test_a_strict_server_accepts_the_converted_history(
    way: Sync | Async, llm: Piccc, emulator: Emulator, name: str
) -> None:
    message, parts = MESSAGES[name]
    results = [
        ChatMessage(role="tool", content="fired", additional_kwargs={"tool_call_id": part.id})
        for part in parts
        if isinstance(part, ToolCall)
    ]
    answer = way.call(llm, "chat", [USER, message, *results, ChatMessage(role="user", content="And?")])
    assert answer.message.content
    sent = json.dumps(emulator.requests[-1].body["messages"])
    assert '"signature"' not in sent
    assert "web_search_call" not in sent


def test_our_own_signature_is_sent_back(make: Any, emulator: Emulator) -> None:
    llm = make(dialect="anthropic", reasoning_effort="low")
    emulator.script([Scripted("Hot.", reasoning="Think.")])
    thought = llm.chat([USER]).message
    restored = ChatMessage.model_validate_json(thought.model_dump_json())
    llm.chat([USER, restored, USER])
    (block, _) = emulator.requests[-1].body["messages"][1]["content"]
    assert (block["type"], bool(block["signature"])) == ("thinking", True)


@pytest.mark.parametrize(
    "block", [AudioBlock(audio=WAV, format="wav"), VideoBlock(url="https://v.test/a.mp4")]
)
def test_unsupported_tool_results_are_described_in_text(
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


def sent_media(emulator: Emulator) -> tuple[str, str | None]:
    """Return the media type and the file name declared for the last part of the last message."""
    part = emulator.requests[-1].body["messages"][-1]["content"][-1]
    if "source" in part:
        return part["source"]["media_type"], part.get("title")
    url = part["file"]["file_data"] if "file" in part else part["image_url"]["url"]
    return url.removeprefix("data:").partition(";")[0], part.get("file", {}).get("filename")


def send_block(llm: Piccc, block: ContentBlock) -> None:
    """Send a block."""
    llm.chat([ChatMessage(role="user", blocks=[TextBlock(text="See:"), block])])


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
def test_a_document_is_sent_with_its_name_and_detected_type(
    llm: Piccc, emulator: Emulator, tmp_path: Path, name: str, content: bytes, expected: str, source: str
) -> None:
    (tmp_path / name).write_bytes(content)
    source_fields: Any = {"path": tmp_path / name} if source == "path" else {"data": content, "title": name}
    send_block(llm, DocumentBlock(**source_fields))
    assert sent_media(emulator) == (expected, name)


@pytest.mark.parametrize("suffix", ["", ".png"])
@pytest.mark.parametrize("source", ["path", "buffer", "bytes"])
def test_an_image_is_sent_with_its_detected_type(
    llm: Piccc, emulator: Emulator, tmp_path: Path, source: str, suffix: str
) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    path = tmp_path / f"kiln{suffix}"
    path.write_bytes(buffer.getvalue())
    source_fields: Any = {
        "path": {"path": path},
        "buffer": {"image": buffer},
        "bytes": {"image": buffer.getvalue()},
    }
    send_block(llm, ImageBlock(**source_fields[source]))
    assert sent_media(emulator)[0] == "image/jpeg"


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_content_of_an_unknown_type_is_rejected(llm: Piccc, emulator: Emulator, kind: str) -> None:
    unknown = io.BytesIO(b"\x00\x01")
    block = ImageBlock(image=unknown) if kind == "image" else AudioBlock(audio=unknown)
    with pytest.raises(PicccError, match=r"type of an|audio format"):
        send_block(llm, block)
    assert emulator.requests == []


def unreadable(kind: str, path: Path) -> ContentBlock:
    """Return a block whose file is deleted, closed or in text mode."""
    path.write_bytes(PNG)
    file: Any = io.StringIO("kiln") if kind == "text mode" else io.BytesIO(PNG)
    blocks: dict[str, ContentBlock] = {
        "deleted image": ImageBlock(path=path),
        "deleted document": DocumentBlock(path=path),
        "deleted audio": AudioBlock(path=path),
        "closed": ImageBlock(image=file, image_mimetype="image/png"),
        "text mode": ImageBlock(image=file, image_mimetype="image/png"),
    }
    path.unlink()
    if kind == "closed":
        file.close()
    return blocks[kind]


@pytest.mark.parametrize(
    "kind", ["deleted image", "deleted document", "deleted audio", "closed", "text mode"]
)
def test_an_unreadable_file_is_an_error_or_described_if_a_tool_returned_it(
    llm: Piccc, emulator: Emulator, tmp_path: Path, kind: str
) -> None:
    block = unreadable(kind, tmp_path / "kiln.png")
    with pytest.raises(UnsupportedContentError, match="cannot be read"):
        send_block(llm, block)
    assert emulator.requests == []
    call = assistant(ToolCallBlock(tool_call_id="c1", tool_name="fire", tool_kwargs={}))
    llm.chat([USER, call, ChatMessage(role="tool", blocks=[block], additional_kwargs={"tool_call_id": "c1"})])
    assert f"[{block.block_type}" in json.dumps(emulator.requests[-1].body["messages"])


def test_an_image_in_a_system_message_reaches_the_model(llm: Piccc, emulator: Emulator) -> None:
    system = ChatMessage(role="system", blocks=[TextBlock(text="Rules."), ImageBlock(image=PNG)])
    llm.chat([system, USER])
    assert base64.b64encode(PNG).decode() in json.dumps(emulator.requests[-1].body)


WRONG_VALUES: list[Any] = [None, 5, [5], {"a": 1}, b"x", object()]


def malformed_messages() -> Iterator[ChatMessage]:
    """Yield messages with values of wrong types in the fields that integrations use beside blocks."""
    call = ToolCallBlock(tool_call_id="a", tool_name="fire", tool_kwargs={})
    for wrong in WRONG_VALUES:
        for name in ("name", "tool_calls", "invalid_tool_calls", "refusal", "tool_call_id"):
            yield assistant(TextBlock(text="t"), **{name: wrong})
            yield assistant(call, **{name: wrong})
        for name in ("id", "name", "function", "arguments", "reason"):
            yield assistant(tool_calls=[{"id": "a", "name": "fire", name: wrong}])
            yield assistant(call, invalid_tool_calls=[{"id": "a", "reason": "cut", name: wrong}])
        for name in ("signature", "redacted", "provider"):
            yield assistant(ThinkingBlock(content="x", additional_information={name: wrong}))


def test_wrong_types_are_omitted_or_raise_a_piccc_error(dialect: Any) -> None:
    sent = 0
    for message in malformed_messages():
        with suppress(PicccError):
            messages = to_messages([USER, message, USER], dialect, "error")
            serialize(
                dialect_named(dialect).encode(ChatRequest(model="m", messages=messages), stream=False).body
            )
            sent += 1
    assert sent > 100
