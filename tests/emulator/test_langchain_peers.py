"""LangChain's standard tests for its OpenAI and Anthropic adapters, run on the emulator."""

from __future__ import annotations

import gc
import io
import math
import warnings
import wave
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from anthropic import BadRequestError
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests import chat_models as suite
from PIL import Image

from piccc.emulator import Emulator

# The adapters never close their clients, share them between event loops, and warn. None of it matters here.
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def served() -> Iterator[Emulator]:
    """Run one emulator for the whole suite."""
    with Emulator(speed=math.inf) as emulator:
        yield emulator
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


@pytest.fixture(autouse=True)
def environment(served: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point both adapters at the emulator, and replace the suite's downloads with local files."""
    monkeypatch.setenv("OPENAI_API_KEY", served.api_key)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.base_url}/v1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", served.api_key)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", served.base_url)
    monkeypatch.setattr(suite.httpx, "get", lambda url, **options: SimpleNamespace(content=local_file(url)))


def local_file(url: str) -> bytes:
    """Return a small file of the type in the URL."""
    file = io.BytesIO()
    if url.endswith(".pdf"):
        file.write(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n")
    elif url.endswith(".wav"):
        with wave.open(file, "wb") as audio:
            audio.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
            audio.writeframes(bytes(1600))
    else:
        Image.new("RGB", (16, 16), "teal").save(file, "PNG")
    return file.getvalue()


class TestChatOpenAI(ChatModelIntegrationTests):
    """Through `/v1/chat/completions`."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "piccc-pro", "stream_usage": True, "use_responses_api": False}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_audio_inputs(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "piccc-flash"


class TestChatAnthropic(ChatModelIntegrationTests):
    """Through `/v1/messages`."""

    @pytest.mark.xfail(
        reason="its history has a thinking block signed by Anthropic, which a strict server rejects",
        raises=BadRequestError,
        strict=True,
    )
    def test_anthropic_inputs(self, model: BaseChatModel) -> None:
        """Assert that a lenient server accepts the request and a strict one rejects it."""
        with Emulator(speed=math.inf, strict=False) as lenient:
            options: Any = {
                **self.chat_model_params,
                "base_url": lenient.base_url,
                "api_key": lenient.api_key,
            }
            super().test_anthropic_inputs(ChatAnthropic(**options))
        super().test_anthropic_inputs(model)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "piccc-pro", "max_tokens": 2000}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "piccc-flash"


@pytest.mark.parametrize("model", ["openai", "anthropic"])
def test_an_agent_completes_a_task_with_two_dependent_calls(model: str) -> None:
    calls: list[tuple[str, Any]] = []

    @tool
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        calls.append(("get_weather", city))
        return "rain, 11 degrees"

    @tool
    def send_email(to: str, body: str) -> str:
        """Send an e-mail to an address."""
        calls.append(("send_email", to))
        return "sent"

    chat = (
        ChatOpenAI(model="piccc-pro", use_responses_api=False)
        if model == "openai"
        else ChatAnthropic(model_name="piccc-pro", max_tokens_to_sample=2000, timeout=None, stop=None)
    )
    agent = create_agent(chat, [get_weather, send_email])
    prompt = "Get the weather of Oslo, then send an e-mail with the result to ada@example.com."
    messages = agent.invoke({"messages": [("user", prompt)]})["messages"]
    assert calls == [("get_weather", "Oslo"), ("send_email", "ada@example.com")]
    assert messages[-1].type == "ai"
    assert not messages[-1].tool_calls
    assert messages[-1].text
