"""Every kind of content has a defined outcome on both dialects, and what a tool saw reaches the model."""

from __future__ import annotations

import base64
import io
import json
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
from tests.llama_index.wire import recorded

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


def sent(emulator: Emulator) -> Any:
    """Return the messages of the last request."""
    return emulator.requests[-1].body["messages"]


def test_the_table_holds_every_block_that_core_knows() -> None:
    union = get_args(get_args(ContentBlock)[0])
    assert {each.model_fields["block_type"].default for each in union} == BLOCKS.keys()


# The emulator's Anthropic route has no search results; what is sent for them has a test of its own below.
@pytest.mark.parametrize(
    ("dialect", "kind"),
    [
        (each, kind)
        for each in ("openai", "anthropic")
        for kind in BLOCKS
        if (each, kind) != ("anthropic", "citable")
    ],
)
def test_every_block_is_sent_or_refused_before_anything_is(llm: Piccc, emulator: Emulator, kind: str) -> None:
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
def test_what_cannot_be_sent_may_be_named_or_dropped(
    make: Callable[..., Piccc], emulator: Emulator, dialect: str, kind: str, outcome: Any
) -> None:
    llm = make(dialect=dialect, on_unsupported=outcome)
    llm.chat([ChatMessage(role="user", blocks=[TextBlock(text="Look:"), BLOCKS[kind]])])
    carried = json.dumps(sent(emulator))
    if (dialect, kind) in UNSUPPORTED:
        assert (f"[{kind}: " in carried) is (outcome == "text")
        assert base64.b64encode(WAV).decode() not in carried
    else:
        assert "input_audio" in carried


def test_a_video_by_its_address_is_named_by_it(make: Callable[..., Piccc], emulator: Emulator) -> None:
    llm = make(on_unsupported="text")
    llm.chat([ChatMessage(role="user", blocks=[VideoBlock(url="https://videos.test/kiln.mp4")])])
    assert sent(emulator)[0]["content"] == "[video: https://videos.test/kiln.mp4]"


@pytest.mark.parametrize("block", [ImageBlock(), AudioBlock(), DocumentBlock()])
def test_an_empty_block_is_refused(llm: Piccc, emulator: Emulator, block: Any) -> None:
    with pytest.raises(UnsupportedContentError, match="is empty"):
        llm.chat([ChatMessage(role="user", blocks=[block])])
    assert emulator.requests == []


def test_sound_by_its_address_is_refused(make: Callable[..., Piccc]) -> None:
    with pytest.raises(UnsupportedContentError, match="by URL"):
        make().chat([ChatMessage(role="user", blocks=[AudioBlock(url="https://sounds.test/kiln.wav")])])


@pytest.mark.parametrize("outcome", ["text", "drop"])
@pytest.mark.parametrize("kind", ["text", "image", "document", "thinking", "tool_call"])
def test_what_can_be_sent_is_sent_whatever_the_outcome_for_the_rest(
    make: Callable[..., Piccc], emulator: Emulator, dialect: str, kind: str, outcome: Any
) -> None:
    role = "assistant" if kind in ("thinking", "tool_call") else "user"
    conversation = [ChatMessage(role="user", content="Go"), ChatMessage(role=role, blocks=[BLOCKS[kind]])]
    conversation.append(
        tool_message("c1", TextBlock(text="done")) if kind == "tool_call" else conversation[0]
    )
    for chosen in ("error", outcome):
        make(dialect=dialect, on_unsupported=chosen).chat(conversation)
    one, other = emulator.requests[-2:]
    assert one.body == other.body


def test_a_video_inside_its_address_is_not_told_as_text(
    make: Callable[..., Piccc], emulator: Emulator
) -> None:
    block = VideoBlock(url="data:video/mp4;base64,ZmlsbQ==", video_mimetype="video/mp4")
    make(on_unsupported="text").chat([ChatMessage(role="user", blocks=[block])])
    assert sent(emulator)[0]["content"] == "[video: video/mp4]"


def test_images_keep_bytes_type_and_detail(make: Callable[..., Piccc], emulator: Emulator) -> None:
    message = [ChatMessage(role="user", blocks=[BLOCKS["image"]])]
    data = base64.b64encode(PNG).decode()
    make().chat(message)
    (part,) = sent(emulator)[0]["content"]
    assert part["image_url"] == {"url": f"data:image/png;base64,{data}", "detail": "low"}
    make(dialect="anthropic").chat(message)
    (part,) = sent(emulator)[0]["content"]
    assert part["source"] == {"type": "base64", "media_type": "image/png", "data": data}


@pytest.mark.parametrize("source", ["path", "buffer"])
def test_content_is_read_from_files_and_buffers(
    make: Callable[..., Piccc], emulator: Emulator, tmp_path: Path, source: str
) -> None:
    (tmp_path / "kiln.png").write_bytes(PNG)
    given: Any = {"path": tmp_path / "kiln.png"} if source == "path" else {"image": io.BytesIO(PNG)}
    make().chat([ChatMessage(role="user", blocks=[ImageBlock(image_mimetype="image/png", **given)])])
    url = sent(emulator)[0]["content"][0]["image_url"]["url"]
    assert url == f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def test_an_image_by_its_address_is_sent_as_the_address(llm: Piccc, emulator: Emulator) -> None:
    llm.chat([ChatMessage(role="user", blocks=[ImageBlock(url="https://images.test/kiln.png")])])
    assert "https://images.test/kiln.png" in json.dumps(sent(emulator))


def test_a_document_keeps_its_own_type(make: Callable[..., Piccc], emulator: Emulator) -> None:
    block = DocumentBlock(data=b"Kilns are hot.", title="notes", document_mimetype="text/plain")
    make(dialect="anthropic").chat([ChatMessage(role="user", blocks=[block])])
    (part,) = sent(emulator)[0]["content"]
    assert (part["type"], part["source"]["media_type"], part["title"]) == ("document", "text/plain", "notes")


def test_a_cache_point_marks_the_block_before_it(make: Callable[..., Piccc], emulator: Emulator) -> None:
    blocks = [TextBlock(text="a long guide"), BLOCKS["cache"], TextBlock(text="a question")]
    make(dialect="anthropic").chat([ChatMessage(role="user", blocks=blocks)])
    first, second = sent(emulator)[0]["content"]
    assert first["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
    assert "cache_control" not in second


def test_citable_content_keeps_source_and_title(make: Callable[..., Piccc], emulator: Emulator) -> None:
    message = [ChatMessage(role="user", blocks=[BLOCKS["citable"]])]
    make().chat(message)
    assert sent(emulator)[0]["content"][0]["text"] == "Kilns\nhttps://kiln.test\nKilns are hot."
    reply = {"type": "message", "content": [{"type": "text", "text": "Hot."}], "stop_reason": "end_turn"}
    llm, requests = recorded(reply, dialect="anthropic")
    llm.chat(message)
    (part,) = requests[0]["messages"][0]["content"]
    assert (part["type"], part["source"], part["title"]) == ("search_result", "https://kiln.test", "Kilns")


def tool_message(id: str, *blocks: Any) -> ChatMessage:
    """Return the result of a call as agents write it."""
    return ChatMessage(role="tool", blocks=list(blocks), additional_kwargs={"tool_call_id": id})


def test_images_in_tool_results_reach_the_model(make: Callable[..., Piccc], emulator: Emulator) -> None:
    calls = [ToolCallBlock(tool_call_id=each, tool_name="draw", tool_kwargs={}) for each in ("c1", "c2")]
    conversation = [
        ChatMessage(role="user", content="Draw two kilns."),
        ChatMessage(role="assistant", blocks=calls),
        tool_message("c1", TextBlock(text="one"), BLOCKS["image"]),
        tool_message("c2", TextBlock(text="two"), BLOCKS["image"]),
    ]
    make().chat(conversation)
    told = sent(emulator)
    assert [each["role"] for each in told] == ["user", "assistant", "tool", "tool", "user"]
    assert [each["type"] for each in told[-1]["content"]].count("image_url") == 2
    make(dialect="anthropic").chat(conversation)
    results = sent(emulator)[-1]["content"]
    assert [[part["type"] for part in each["content"]] for each in results] == [["text", "image"]] * 2


def test_a_late_system_message_is_heard_on_both_dialects(llm: Piccc, emulator: Emulator) -> None:
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
def test_roles_of_other_providers_find_their_place(
    make: Callable[..., Piccc], emulator: Emulator, role: str, becomes: str
) -> None:
    make().chat([ChatMessage(role=role, content="clay"), ChatMessage(role="user", content="on")])
    assert sent(emulator)[0]["role"] == becomes


def test_calls_that_older_stores_keep_beside_the_blocks_are_read(llm: Piccc, emulator: Emulator) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "fire", "arguments": '{"at": 9}'}}
    llm.chat(
        [
            ChatMessage(role="user", content="Fire it."),
            ChatMessage(role="assistant", additional_kwargs={"tool_calls": [call]}),
            tool_message("c1", TextBlock(text="fired")),
        ]
    )
    assert "fire" in json.dumps(sent(emulator)[1])


def test_the_reply_goes_back_as_it_came(way: Sync | Async, llm: Piccc, emulator: Emulator) -> None:
    question = ChatMessage(role="user", content="What is a kiln?")
    answer = way.call(llm, "chat", [question]).message
    way.call(llm, "chat", [question, answer, ChatMessage(role="user", content="And clay?")])
    assert sent(emulator)[1] == {"role": "assistant", "content": answer.content}


def test_the_callers_messages_are_left_as_they_were(llm: Piccc) -> None:
    conversation = [ChatMessage(role="user", blocks=[TextBlock(text="Look:"), BLOCKS["image"]])]
    before = [each.model_dump_json() for each in conversation]
    llm.chat(conversation)
    assert [each.model_dump_json() for each in conversation] == before


def test_counting_tokens_downloads_nothing(make: Callable[..., Piccc]) -> None:
    message = ChatMessage(role="user", blocks=[ImageBlock(url="https://images.test/kiln.png")])
    assert make().count_tokens([message]) > 0
