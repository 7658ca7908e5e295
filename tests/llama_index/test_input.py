"""Every kind of content is sent or rejected in both dialects, and tool results reach the model."""

from __future__ import annotations

import base64
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CacheControl,
    CachePoint,
    CitableBlock,
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
from PIL import Image

from llama_index_piccc import Piccc
from piccc.emulator import Emulator
from piccc.emulator.wire.anthropic import signature
from piccc.errors import UnsupportedContentError
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.wire import llm_and_requests

PDF = b"%PDF-1.4 a guide"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt sound"


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), "teal").save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()
BLOCKS: dict[str, Any] = {
    "text": TextBlock(text="clay"),
    "image": ImageBlock(image=PNG, detail="low"),
    "audio": AudioBlock(audio=WAV, format="wav"),
    "video": VideoBlock(video=b"video", video_mimetype="video/mp4"),
    "document": DocumentBlock(data=PDF, title="guide", document_mimetype="application/pdf"),
    "cache": CachePoint(cache_control=CacheControl(type="ephemeral")),
    "citable": CitableBlock(title="Kilns", source="https://kiln.test", content="Kilns are hot."),
    "citation": CitationBlock(
        cited_content="hot", source="s", title="t", additional_location_info={"start": 1}
    ),
    "thinking": ThinkingBlock(content="hm", additional_information={"signature": signature("hm")}),
    "tool_call": ToolCallBlock(tool_call_id="c1", tool_name="fire", tool_kwargs={"at": 9}),
}
UNSUPPORTED = {("openai", "video"), ("anthropic", "video"), ("anthropic", "audio")}


def last_messages(emulator: Emulator) -> Any:
    """Return the messages of the last request."""
    return emulator.requests[-1].body["messages"]


def test_the_table_covers_every_block_type_of_core() -> None:
    union = get_args(get_args(ContentBlock)[0])
    assert {block_type.model_fields["block_type"].default for block_type in union} == BLOCKS.keys()


# The emulator's Anthropic endpoint has no search results; a separate test below covers them.
@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        (dialect, kind)
        for dialect in ("openai", "anthropic")
        for kind in BLOCKS
        if (dialect, kind) != ("anthropic", "citable")
    ],
)
def test_every_block_is_sent_or_rejected_before_sending(llm: Piccc, emulator: Emulator, kind: str) -> None:
    message = ChatMessage(role="user", blocks=[TextBlock(text="Look:"), BLOCKS[kind]])
    if kind in ("thinking", "tool_call"):
        result = ChatMessage(role="tool", content="done", additional_kwargs={"tool_call_id": "c1"})
        message = ChatMessage(role="assistant", blocks=[BLOCKS[kind]])
        conversation = [ChatMessage(role="user", content="Go"), message]
        conversation += [result] if kind == "tool_call" else [ChatMessage(role="user", content="On")]
    else:
        conversation = [message]
    if (llm.dialect, kind) in UNSUPPORTED:
        with pytest.raises(UnsupportedContentError, match=r"dialect|cannot be sent"):
            llm.chat(conversation)
        assert emulator.requests == []
    else:
        assert llm.chat(conversation).message.content


@pytest.mark.parametrize("kind", ["audio", "video"])
@pytest.mark.parametrize("outcome", ["text", "drop"])
def test_unsupported_content_can_be_described_or_dropped(
    make: Callable[..., Piccc], emulator: Emulator, dialect: str, kind: str, outcome: Any
) -> None:
    llm = make(dialect=dialect, on_unsupported=outcome)
    llm.chat([ChatMessage(role="user", blocks=[TextBlock(text="Look:"), BLOCKS[kind]])])
    body = json.dumps(last_messages(emulator))
    if (dialect, kind) in UNSUPPORTED:
        assert (f"[{kind}: " in body) is (outcome == "text")
        assert base64.b64encode(WAV).decode() not in body
    else:
        assert "input_audio" in body


def test_a_video_url_is_described_by_the_url(make: Callable[..., Piccc], emulator: Emulator) -> None:
    llm = make(on_unsupported="text")
    llm.chat([ChatMessage(role="user", blocks=[VideoBlock(url="https://videos.test/kiln.mp4")])])
    assert last_messages(emulator)[0]["content"] == "[video: https://videos.test/kiln.mp4]"


EMPTY = [
    ImageBlock(),
    AudioBlock(),
    DocumentBlock(),
    ImageBlock(image=b""),
    AudioBlock(audio=b"", format="wav"),
    DocumentBlock(data=b""),
]


@pytest.mark.parametrize("block", EMPTY)
def test_an_empty_block_is_rejected(llm: Piccc, emulator: Emulator, block: Any) -> None:
    with pytest.raises(UnsupportedContentError, match="is empty"):
        llm.chat([ChatMessage(role="user", blocks=[block])])
    assert emulator.requests == []


def test_an_audio_url_is_rejected(make: Callable[..., Piccc]) -> None:
    with pytest.raises(UnsupportedContentError, match="by URL"):
        make().chat([ChatMessage(role="user", blocks=[AudioBlock(url="https://sounds.test/kiln.wav")])])


@pytest.mark.parametrize("outcome", ["text", "drop"])
@pytest.mark.parametrize("kind", ["text", "image", "document", "thinking", "tool_call"])
def test_on_unsupported_does_not_change_supported_content(
    make: Callable[..., Piccc], emulator: Emulator, dialect: str, kind: str, outcome: Any
) -> None:
    role = "assistant" if kind in ("thinking", "tool_call") else "user"
    conversation = [ChatMessage(role="user", content="Go"), ChatMessage(role=role, blocks=[BLOCKS[kind]])]
    conversation.append(
        tool_message("c1", TextBlock(text="done")) if kind == "tool_call" else conversation[0]
    )
    for chosen in ("error", outcome):
        make(dialect=dialect, on_unsupported=chosen).chat(conversation)
    expected, actual = emulator.requests[-2:]
    assert expected.body == actual.body


def test_a_video_data_url_is_not_copied_into_the_text(make: Callable[..., Piccc], emulator: Emulator) -> None:
    block = VideoBlock(url="data:video/mp4;base64,ZmlsbQ==", video_mimetype="video/mp4")
    make(on_unsupported="text").chat([ChatMessage(role="user", blocks=[block])])
    assert last_messages(emulator)[0]["content"] == "[video: video/mp4]"


def test_images_keep_bytes_type_and_detail(make: Callable[..., Piccc], emulator: Emulator) -> None:
    message = [ChatMessage(role="user", blocks=[BLOCKS["image"]])]
    data = base64.b64encode(PNG).decode()
    make().chat(message)
    (part,) = last_messages(emulator)[0]["content"]
    assert part["image_url"] == {"url": f"data:image/png;base64,{data}", "detail": "low"}
    make(dialect="anthropic").chat(message)
    (part,) = last_messages(emulator)[0]["content"]
    assert part["source"] == {"type": "base64", "media_type": "image/png", "data": data}


@pytest.mark.parametrize("source", ["path", "buffer"])
def test_content_is_read_from_files_and_buffers(
    make: Callable[..., Piccc], emulator: Emulator, tmp_path: Path, source: str
) -> None:
    (tmp_path / "kiln.png").write_bytes(PNG)
    source_fields: Any = {"path": tmp_path / "kiln.png"} if source == "path" else {"image": io.BytesIO(PNG)}
    make().chat([ChatMessage(role="user", blocks=[ImageBlock(image_mimetype="image/png", **source_fields)])])
    url = last_messages(emulator)[0]["content"][0]["image_url"]["url"]
    assert url == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def test_an_image_url_is_sent_as_a_url(llm: Piccc, emulator: Emulator) -> None:
    llm.chat([ChatMessage(role="user", blocks=[ImageBlock(url="https://images.test/kiln.png")])])
    assert "https://images.test/kiln.png" in json.dumps(last_messages(emulator))


def test_a_text_document_keeps_its_type(make: Callable[..., Piccc], emulator: Emulator) -> None:
    block = DocumentBlock(data=b"Kilns are hot.", title="notes", document_mimetype="text/plain")
    make(dialect="anthropic").chat([ChatMessage(role="user", blocks=[block])])
    (part,) = last_messages(emulator)[0]["content"]
    assert (part["type"], part["source"]["media_type"], part["title"]) == ("document", "text/plain", "notes")


def test_a_cache_point_marks_the_block_before_it(make: Callable[..., Piccc], emulator: Emulator) -> None:
    blocks = [TextBlock(text="a long guide"), BLOCKS["cache"], TextBlock(text="a question")]
    make(dialect="anthropic").chat([ChatMessage(role="user", blocks=blocks)])
    first, second = last_messages(emulator)[0]["content"]
    assert first["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
    assert "cache_control" not in second


def test_citable_content_keeps_source_and_title(make: Callable[..., Piccc], emulator: Emulator) -> None:
    message = [ChatMessage(role="user", blocks=[BLOCKS["citable"]])]
    make().chat(message)
    assert last_messages(emulator)[0]["content"][0]["text"] == "Kilns\nhttps://kiln.test\nKilns are hot."
    reply = {"type": "message", "content": [{"type": "text", "text": "Hot."}], "stop_reason": "end_turn"}
    llm, requests = llm_and_requests(reply, dialect="anthropic")
    llm.chat(message)
    (part,) = requests[0]["messages"][0]["content"]
    assert (part["type"], part["source"], part["title"]) == ("search_result", "https://kiln.test", "Kilns")


def tool_message(id: str, *blocks: Any) -> ChatMessage:
    """Return a tool result in the format of core's agents."""
    return ChatMessage(role="tool", blocks=list(blocks), additional_kwargs={"tool_call_id": id})


def test_images_in_tool_results_reach_the_model(make: Callable[..., Piccc], emulator: Emulator) -> None:
    calls = [ToolCallBlock(tool_call_id=id, tool_name="draw", tool_kwargs={}) for id in ("c1", "c2")]
    conversation = [
        ChatMessage(role="user", content="Draw two kilns."),
        ChatMessage(role="assistant", blocks=calls),
        tool_message("c1", TextBlock(text="one"), BLOCKS["image"]),
        tool_message("c2", TextBlock(text="two"), BLOCKS["image"]),
    ]
    make().chat(conversation)
    messages = last_messages(emulator)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert [part["type"] for part in messages[-1]["content"]].count("image_url") == 2
    make(dialect="anthropic").chat(conversation)
    results = last_messages(emulator)[-1]["content"]
    assert [[part["type"] for part in result["content"]] for result in results] == [["text", "image"]] * 2


def test_a_late_system_message_is_sent_in_both_dialects(llm: Piccc, emulator: Emulator) -> None:
    llm.chat(
        [
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="user", content="Go on."),
            ChatMessage(role="system", content="Stop calling tools."),
        ]
    )
    assert "Stop calling tools." in json.dumps(emulator.requests[-1].body)


@pytest.mark.parametrize(
    ("role", "becomes"),
    [("developer", "system"), ("chatbot", "assistant"), ("model", "assistant"), ("user", "user")],
)
def test_roles_of_other_providers_are_mapped(
    make: Callable[..., Piccc], emulator: Emulator, role: str, becomes: str
) -> None:
    make().chat([ChatMessage(role=role, content="clay"), ChatMessage(role="user", content="on")])
    assert last_messages(emulator)[0]["role"] == becomes


def test_tool_calls_in_additional_kwargs_are_sent(llm: Piccc, emulator: Emulator) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "fire", "arguments": '{"at": 9}'}}
    llm.chat(
        [
            ChatMessage(role="user", content="Fire it."),
            ChatMessage(role="assistant", additional_kwargs={"tool_calls": [call]}),
            tool_message("c1", TextBlock(text="fired")),
        ]
    )
    assert "fire" in json.dumps(last_messages(emulator)[1])


def test_a_reply_is_sent_back_unchanged(way: Sync | Async, llm: Piccc, emulator: Emulator) -> None:
    question = ChatMessage(role="user", content="What is a kiln?")
    answer = way.call(llm, "chat", [question]).message
    way.call(llm, "chat", [question, answer, ChatMessage(role="user", content="And clay?")])
    assert last_messages(emulator)[1] == {"role": "assistant", "content": answer.content}


def test_the_callers_messages_are_not_modified(llm: Piccc) -> None:
    conversation = [ChatMessage(role="user", blocks=[TextBlock(text="Look:"), BLOCKS["image"]])]
    before = [message.model_dump_json() for message in conversation]
    llm.chat(conversation)
    assert [message.model_dump_json() for message in conversation] == before


def test_counting_tokens_downloads_nothing(
    make: Callable[..., Piccc], monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: hosts.append(host) or [])
    message = ChatMessage(role="user", blocks=[ImageBlock(url="https://images.test/kiln.png")])
    assert make().count_tokens([message]) > 0
    assert hosts == []
