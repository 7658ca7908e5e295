"""The released official SDKs work with the emulator."""

from __future__ import annotations

import base64
import inspect
import io
from collections.abc import AsyncIterator
from typing import Any, Literal

import anthropic
import openai
import pytest
from PIL import Image
from pydantic import BaseModel

from piccc.emulator import Emulator, Scripted

Mode = Literal["sync", "async"]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALLS = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "北京"})]
STATUSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
}


class Mug(BaseModel):
    """A mug that is wanted."""

    colour: Literal["red", "green", "blue"]
    volume: int


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Run a test with sync and async clients."""
    return "sync" if request.param == "sync" else "async"


@pytest.fixture
async def chat(emulator: Emulator, mode: Mode) -> AsyncIterator[Any]:
    """Open an openai client, sync or async."""
    options: dict[str, Any] = {
        "base_url": emulator.base_url + "/v1",
        "api_key": emulator.api_key,
        "max_retries": 0,
    }
    if mode == "sync":
        with openai.OpenAI(**options) as client:
            yield client
    else:
        async with openai.AsyncOpenAI(**options) as client:
            yield client


@pytest.fixture
async def claude(emulator: Emulator, mode: Mode) -> AsyncIterator[Any]:
    """Open an anthropic client, sync or async."""
    options: dict[str, Any] = {"base_url": emulator.base_url, "api_key": emulator.api_key, "max_retries": 0}
    if mode == "sync":
        with anthropic.Anthropic(**options) as client:
            yield client
    else:
        async with anthropic.AsyncAnthropic(**options) as client:
            yield client


async def resolve(value: Any) -> Any:
    """Return a value, awaited if it is awaitable."""
    return await value if inspect.isawaitable(value) else value


async def collect(stream: Any) -> list[Any]:
    """Read a sync or async stream to its end."""
    if hasattr(stream, "__aiter__"):
        return [item async for item in stream]
    return list(stream)


def arguments(text: Any, **fields: Any) -> dict[str, Any]:
    """Return the arguments for a chat call."""
    return {"model": "piccc-pro", "messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture
def image() -> str:
    """Return a small PNG as base64."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class TestOpenAI:
    """Chat completions."""

    tools = (
        {"type": "function", "function": {"name": "get_weather", "description": "x", "parameters": CITY}},
    )

    async def test_a_complete_reply_is_parsed(self, chat: Any, emulator: Emulator) -> None:
        emulator.script(["Made by hand."])
        reply = await resolve(chat.chat.completions.create(**arguments("Write a caption.")))
        assert reply.choices[0].message.content == "Made by hand."
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0
        assert reply._request_id == emulator.requests[-1].request_id

    async def test_a_streamed_reply_is_parsed_with_its_usage(self, chat: Any, emulator: Emulator) -> None:
        emulator.script(["Made by hand 🎉 在清晨。"])
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = await collect(
            await resolve(chat.chat.completions.create(**arguments("Write a caption.", **options)))
        )
        texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(texts) == "Made by hand 🎉 在清晨。"
        assert len(texts) > 5
        assert chunks[-1].usage.completion_tokens > 0

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_parallel_tool_calls_are_parsed_with_their_arguments(
        self, chat: Any, emulator: Emulator, streamed: bool
    ) -> None:
        emulator.script([Scripted(calls=CALLS)])
        body = arguments("Weather?", tools=list(self.tools))
        if streamed:
            async with _AnyContext(chat.chat.completions.stream(**body)) as stream:
                await collect(stream)
                reply = await resolve(stream.get_final_completion())
        else:
            reply = await resolve(chat.chat.completions.create(**body))
        calls = reply.choices[0].message.tool_calls
        assert [(call.function.name, call.function.arguments) for call in calls] == [
            ("get_weather", '{"city":"Paris"}'),
            ("get_weather", '{"city":"北京"}'),
        ]
        assert len({call.id for call in calls}) == 2
        assert reply.choices[0].finish_reason == "tool_calls"

    async def test_the_model_calls_a_tool_and_reports_its_result(self, chat: Any) -> None:
        body = arguments("What is the weather in Paris?", tools=list(self.tools))
        reply = await resolve(chat.chat.completions.create(**body))
        [call] = reply.choices[0].message.tool_calls
        assert call.function.arguments == '{"city":"Paris"}'
        turns = [
            *body["messages"],
            reply.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "17 °C"},
        ]
        reply = await resolve(chat.chat.completions.create(**{**body, "messages": turns}))
        assert reply.choices[0].message.tool_calls is None
        assert "17" in reply.choices[0].message.content

    async def test_structured_output_is_parsed(self, chat: Any) -> None:
        body = arguments("I want a green mug with a volume of 350 ml.", response_format=Mug)
        reply = await resolve(chat.chat.completions.parse(**body))
        assert reply.choices[0].message.parsed == Mug(colour="green", volume=350)

    async def test_an_image_is_accepted(self, chat: Any, image: str) -> None:
        url = {"url": f"data:image/png;base64,{image}"}
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": url}]
        reply = await resolve(chat.chat.completions.create(**arguments(parts)))
        assert "image/png" in reply.choices[0].message.content

    async def test_stop_and_max_tokens_are_honoured(self, chat: Any, emulator: Emulator) -> None:
        emulator.script(["one two three four", "one two three four"])
        reply = await resolve(chat.chat.completions.create(**arguments("Count.", stop=["three"])))
        assert reply.choices[0].message.content.strip() == "one two"
        reply = await resolve(chat.chat.completions.create(**arguments("Count.", max_completion_tokens=2)))
        assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", 2)

    async def test_the_models_are_listed(self, chat: Any) -> None:
        models = await collect(await resolve(chat.models.list()))
        assert "piccc-flash" in [model.id for model in models]

    @pytest.mark.parametrize("status", [*STATUSES, 402, 503, 529])
    async def test_every_error_status_raises_the_sdks_own_error(self, chat: Any, status: int) -> None:
        kind = getattr(openai, STATUSES.get(status, "APIStatusError"))
        headers = {"x-piccc-fault": f"{status};retry-after=1"}
        with pytest.raises(kind) as caught:
            await resolve(chat.chat.completions.create(**arguments("Hello"), extra_headers=headers))
        assert caught.value.status_code == status
        assert f"{status}" in caught.value.body["message"]

    async def test_a_wrong_key_and_an_invalid_field_raise_the_sdks_own_errors(self, chat: Any) -> None:
        with pytest.raises(openai.AuthenticationError):
            await resolve(
                chat.with_options(api_key="pcc_test_wrong").chat.completions.create(**arguments("Hello"))
            )
        with pytest.raises(openai.BadRequestError) as caught:
            await resolve(chat.chat.completions.create(**arguments("Hello", temperature=9)))
        assert caught.value.param == "temperature"


class TestAnthropic:
    """Messages."""

    tools = ({"name": "get_weather", "description": "x", "input_schema": CITY},)

    async def test_a_complete_reply_is_parsed(self, claude: Any, emulator: Emulator) -> None:
        emulator.script(["Made by hand."])
        reply = await resolve(claude.messages.create(**arguments("Write a caption.", max_tokens=100)))
        assert reply.content[0].text == "Made by hand."
        assert reply.stop_reason == "end_turn"
        assert reply.usage.output_tokens > 0
        assert reply._request_id == emulator.requests[-1].request_id

    @pytest.mark.parametrize("streamed", [False, True])
    async def test_thinking_text_and_parallel_calls_are_parsed_as_blocks(
        self, claude: Any, emulator: Emulator, streamed: bool
    ) -> None:
        emulator.script([Scripted("Let me see.", calls=CALLS, reasoning="Two cities.")])
        body = arguments("Weather?", tools=list(self.tools), max_tokens=2000)
        if streamed:
            async with _AnyContext(claude.messages.stream(**body)) as stream:
                await collect(stream)
                reply = await resolve(stream.get_final_message())
        else:
            reply = await resolve(claude.messages.create(**body))
        assert [block.type for block in reply.content] == ["thinking", "text", "tool_use", "tool_use"]
        assert reply.content[0].thinking == "Two cities."
        assert reply.content[1].text == "Let me see."
        assert [(block.name, block.input) for block in reply.content[2:]] == CALLS
        assert reply.stop_reason == "tool_use"

    async def test_the_model_calls_a_tool_and_reports_its_result(self, claude: Any) -> None:
        body = arguments("What is the weather in Paris?", tools=list(self.tools), max_tokens=2000)
        reply = await resolve(claude.messages.create(**body))
        [call] = [block for block in reply.content if block.type == "tool_use"]
        assert call.input == {"city": "Paris"}
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "17 °C"}
        turns = [
            *body["messages"],
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": [result]},
        ]
        reply = await resolve(claude.messages.create(**{**body, "messages": turns}))
        assert (reply.stop_reason, reply.content[0].type) == ("end_turn", "text")
        assert "17" in reply.content[0].text

    async def test_structured_output_is_parsed(self, claude: Any) -> None:
        body = arguments("I want a green mug with a volume of 350 ml.", max_tokens=500, output_format=Mug)
        reply = await resolve(claude.messages.parse(**body))
        assert reply.parsed_output == Mug(colour="green", volume=350)

    async def test_an_image_is_accepted(self, claude: Any, image: str) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": image}
        parts = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
        reply = await resolve(claude.messages.create(**arguments(parts, max_tokens=500)))
        assert "image/png" in reply.content[0].text

    async def test_stop_sequences_and_max_tokens_are_honoured(self, claude: Any, emulator: Emulator) -> None:
        emulator.script(["one two three four", "one two three four"])
        reply = await resolve(
            claude.messages.create(**arguments("Count.", max_tokens=100, stop_sequences=["three"]))
        )
        assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", "three")
        reply = await resolve(claude.messages.create(**arguments("Count.", max_tokens=2)))
        assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 2)

    async def test_counted_tokens_equal_the_charged_input_tokens(self, claude: Any) -> None:
        body = arguments("What is the weather in Paris?", tools=list(self.tools))
        counted = await resolve(claude.messages.count_tokens(**body))
        reply = await resolve(claude.messages.create(**body, max_tokens=10))
        assert counted.input_tokens == reply.usage.input_tokens

    async def test_the_key_can_be_sent_as_a_bearer_token(self, emulator: Emulator) -> None:
        with anthropic.Anthropic(base_url=emulator.base_url, auth_token=emulator.api_key) as client:
            assert client.messages.create(**arguments("Hello", max_tokens=10)).type == "message"

    @pytest.mark.parametrize("status", [*STATUSES, 402, 413, 503, 529])
    async def test_every_error_status_raises_the_sdks_own_error(self, claude: Any, status: int) -> None:
        kind = getattr(anthropic, STATUSES.get(status, "APIStatusError"))
        headers = {"x-piccc-fault": f"{status};retry-after=1"}
        with pytest.raises(kind) as caught:
            await resolve(claude.messages.create(**arguments("Hello", max_tokens=10), extra_headers=headers))
        assert caught.value.status_code == status
        assert caught.value.body["type"] == "error"

    async def test_an_error_in_a_stream_raises_the_sdks_own_error(self, claude: Any) -> None:
        headers = {"x-piccc-fault": "error-event:3"}
        body = arguments("Hello", max_tokens=10, stream=True)
        stream = await resolve(claude.messages.create(**body, extra_headers=headers))
        with pytest.raises(anthropic.APIStatusError):
            await collect(stream)


class _AnyContext:
    """An async context manager around a sync or async one."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> Any:
        if hasattr(self._context, "__aenter__"):
            return await self._context.__aenter__()
        return self._context.__enter__()

    async def __aexit__(self, *error: Any) -> None:
        if hasattr(self._context, "__aexit__"):
            await self._context.__aexit__(*error)
        else:
            self._context.__exit__(*error)
