"""LangChain's standard tests in both dialects, with every feature enabled."""

from __future__ import annotations

import struct
import zlib
from importlib import import_module
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests import chat_models as suite
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_piccc import ChatPiccc
from piccc.emulator import Emulator
from tests.langchain.replay import Replay, chunks, completion, json_response, stream

DETAILS = ["audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"]
OPENAI_USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 20,
    "total_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 10, "audio_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 6},
}
ANTHROPIC_USAGE = {
    "input_tokens": 5,
    "output_tokens": 20,
    "cache_read_input_tokens": 10,
    "cache_creation_input_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 8},
}


def image() -> bytes:
    """Return a PNG of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixel = zlib.compress(b"\x00\x80")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


class LocalFiles:
    """Local files in place of those that the suite downloads."""

    content: bytes

    def get(self, url: str, **_: Any) -> LocalFiles:
        """Return a file of the type that the URL ends in."""
        files = LocalFiles()
        files.content = b"%PDF-1.4\n%%EOF\n" if url.endswith(".pdf") else image()
        if url.endswith((".wav", ".mp3")):
            files.content = b"RIFF\x24\x00\x00\x00WAVEfmt "
        return files


class _Unit(ChatModelUnitTests):
    dialect = "openai"

    @pytest.fixture(autouse=True)
    def _allow_loading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Register our class for loading: `allowed_objects="all"` allows only LangChain's own list."""
        loader = import_module("langchain_core.load.load")
        path = ("langchain_piccc", "chat_models", "ChatPiccc")
        monkeypatch.setitem(loader.ALL_SERIALIZABLE_MAPPINGS, path, path)
        monkeypatch.setattr(loader, "_default_class_paths_cache", {})

    @property
    def chat_model_class(self) -> type[ChatPiccc]:
        return ChatPiccc

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "piccc-pro", "dialect": self.dialect}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return (
            {"PICCC_API_KEY": "pcc_test_env", "PICCC_BASE_URL": "https://env.test"},
            {},
            {"api_key": "pcc_test_env", "base_url": "https://env.test"},
        )


class TestUnitOpenAI(_Unit):
    pass


class TestUnitAnthropic(_Unit):
    dialect = "anthropic"


class _Integration(ChatModelIntegrationTests):
    dialect = "openai"

    @pytest.fixture(autouse=True)
    def _use_emulator(self, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PICCC_BASE_URL", emulator.base_url)
        monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "piccc tests, which fetch nothing")
        monkeypatch.setattr(suite, "httpx", LocalFiles())

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatPiccc

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "piccc-pro", "dialect": self.dialect}

    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_pdf_inputs = True
    supports_audio_inputs = True
    supports_video_inputs = True
    supports_image_tool_message = True
    supports_pdf_tool_message = True
    supports_anthropic_inputs = True
    supports_model_override = True
    model_override_value = "piccc-flash"
    has_tool_choice = True

    def _reply_with_usage(self, *, stream_it: bool) -> AIMessage:
        raise NotImplementedError

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        return self._reply_with_usage(stream_it=stream)

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        return self._reply_with_usage(stream_it=stream)


def _ask(model: ChatPiccc, *, stream_it: bool) -> AIMessage:
    if not stream_it:
        return model.invoke("Hello")
    first, *rest = model.stream("Hello")
    return first + rest


class TestIntegrationOpenAI(_Integration):
    @property
    def supported_usage_metadata_details(self) -> Any:
        details = DETAILS[:4]
        return {"invoke": details, "stream": details}

    def invoke_with_audio_input(self, *, stream: bool = False) -> AIMessage:
        return self._reply_with_usage(stream_it=stream)

    def invoke_with_audio_output(self, *, stream: bool = False) -> AIMessage:
        return self._reply_with_usage(stream_it=stream)

    def _reply_with_usage(self, *, stream_it: bool) -> AIMessage:
        reply = (
            stream(chunks([{"content": "Hi"}], usage=OPENAI_USAGE))
            if stream_it
            else json_response(completion({"content": "Hi"}, usage=OPENAI_USAGE))
        )
        return _ask(Replay(reply).model(), stream_it=stream_it)


class TestIntegrationAnthropic(_Integration):
    dialect = "anthropic"

    @property
    def supported_usage_metadata_details(self) -> Any:
        details = DETAILS[2:]
        return {"invoke": details, "stream": details}

    def invoke_with_cache_creation_input(self, *, stream: bool = False) -> AIMessage:
        return self._reply_with_usage(stream_it=stream)

    def _reply_with_usage(self, *, stream_it: bool) -> AIMessage:
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "piccc-pro",
            "content": [{"type": "text", "text": "Hi"}],
            "stop_reason": "end_turn",
            "usage": ANTHROPIC_USAGE,
        }
        if not stream_it:
            return _ask(Replay(json_response(message)).model(dialect="anthropic"), stream_it=False)
        events = [
            {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": ANTHROPIC_USAGE},
            {"type": "message_stop"},
        ]
        return _ask(Replay(stream(events)).model(dialect="anthropic"), stream_it=True)
