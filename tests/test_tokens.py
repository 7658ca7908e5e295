"""Tokens are counted offline, with or without a vocabulary on this machine."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

import pytest

from piccc import tokens
from piccc.conversation import (
    Audio,
    CachePoint,
    File,
    Image,
    InvalidToolCall,
    Message,
    Part,
    Raw,
    Reasoning,
    Source,
    Text,
    Tool,
    ToolCall,
)

PROSE = "The quick brown fox jumps over the lazy dog, and then it does so again. " * 20
CHINESE = "今天天气很好，我们一起去公园散步吧。" * 20
CODE = "def add(a: int, b: int) -> int:\n    return a + b\n\n" * 20


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    tokens.encoding.cache_clear()
    yield
    tokens.encoding.cache_clear()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hide all vocabularies except those that the test puts into this folder."""
    monkeypatch.setattr(tokens, "_folders", lambda: iter([tmp_path]))
    return tmp_path


def test_the_vocabulary_shipped_with_llama_index_is_used() -> None:
    vocabulary = tokens.encoding()
    assert vocabulary is not None
    assert vocabulary.name == "o200k_base"
    assert tokens.count_text("hello world") == 2
    assert vocabulary.decode(tokens.token_ids("hello <|endoftext|>")) == "hello <|endoftext|>"


def test_a_vocabulary_in_the_tiktoken_cache_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    place = next(folder for folder in tokens._folders() if (folder / tokens._VOCABULARIES[0][1]).exists())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(place))
    assert next(tokens._folders()) == place
    assert tokens.encoding() is not None


def test_a_damaged_vocabulary_is_neither_used_nor_replaced(bare: Path) -> None:
    damaged = bare / tokens._VOCABULARIES[0][1]
    damaged.write_bytes(b"not a vocabulary")
    assert tokens.encoding() is None
    assert hashlib.sha256(damaged.read_bytes()).hexdigest() == hashlib.sha256(b"not a vocabulary").hexdigest()


@pytest.mark.parametrize("text", [PROSE, CHINESE, CODE], ids=["prose", "Chinese", "code"])
def test_the_estimate_is_close_to_the_count(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counted = tokens.count_text(text)
    monkeypatch.setattr(tokens, "_folders", lambda: iter([tmp_path]))
    tokens.encoding.cache_clear()
    assert tokens.encoding() is None
    assert tokens.count_text(text) == len(tokens.token_ids(text)) == -(-len(text.encode()) // 4)
    assert 0.6 < tokens.count_text(text) / counted < 1.6


def test_half_a_surrogate_pair_can_be_counted(bare: Path) -> None:
    assert tokens.count_text("\ud83d") > 0


def test_any_content_of_a_request_can_be_counted() -> None:
    odd: list[Part] = [
        Text("\ud83d"),
        InvalidToolCall("c", "", '{"a": "\ud83d', "cut"),
        Raw({"type": "novel", "at": date(2026, 11, 25), "a": "\ud83d"}),
        File(url="https://a.test/b.pdf"),
        Image(data="no base64"),
        CachePoint(),
    ]
    schema = {"type": "object", "properties": {"a": {"default": float("nan"), "title": "\ud83d"}}}
    assert tokens.count_tokens([Message("assistant", odd)], [Tool("look", "\ud83d", schema)]) > 0


def test_every_kind_of_content_costs_tokens() -> None:
    def cost(part: Any) -> int:
        return tokens.count_tokens([Message("user", [part])]) - tokens.count_tokens([Message("user", [])])

    assert tokens.count_tokens([Message("user", [])]) > 0
    for part in (Text("hello"), Reasoning("hello"), Source("hello"), ToolCall("c", "look", '{"a": 1}')):
        assert cost(part) > 0
    assert cost(Image(url="https://a.test/b.png")) > cost(Image(url="https://a.test/b.png", detail="low")) > 0
    assert cost(File(data="aGk=" * 100_000)) > cost(File(data="aGk=")) > 0
    assert cost(Audio("aGk=" * 10_000, "wav")) > cost(Audio("aGk=", "wav")) > 0


def test_tools_with_larger_definitions_cost_more_tokens() -> None:
    small = Tool("look", "Look.")
    large = Tool("look", "Look. " * 50, {"type": "object", "properties": {"at": {"type": "string"}}})
    conversation = [Message("user", [Text("hello")])]
    assert tokens.count_tokens(conversation) < tokens.count_tokens(conversation, [small])
    assert tokens.count_tokens(conversation, [small]) + 50 < tokens.count_tokens(conversation, [large])
