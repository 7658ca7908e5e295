"""Clients without a framework: piccc, the official SDKs, httpx with the cheapest parser, a bare socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.subjects import Subject

KEY = "pcc_test_benchmark"
Delta = dict[str, Any]
ASK: dict[str, Any] = {"model": "piccc-pro", "messages": [{"role": "user", "content": "hi"}]}


class Piccc:
    """Piccc's client."""

    def __init__(self, base: str) -> None:
        from piccc import Client

        self._client = Client(api_key=KEY, base_url=base)

    @cached_property
    def _running(self) -> Any:
        return self._client.as_async()

    def call(self) -> object:
        """Return a complete answer."""
        return self._client.chat.create("hi")

    async def acall(self) -> object:
        """Return a complete answer."""
        return await self._running.chat.create("hi")

    def read(self) -> None:
        """Read a streamed answer to its end."""
        for _ in self._client.chat.stream("hi"):
            pass

    async def aread(self) -> None:
        """Read a streamed answer to its end."""
        async for _ in await self._running.chat.stream("hi"):
            pass


class OpenAI:
    """OpenAI's official SDK."""

    def __init__(self, base: str) -> None:
        import openai

        self._options: dict[str, Any] = {"api_key": KEY, "base_url": f"{base}/v1"}
        self._client: Any = openai.OpenAI(**self._options)
        self._stream: dict[str, Any] = {**ASK, "stream": True, "stream_options": {"include_usage": True}}

    @cached_property
    def _running(self) -> Any:
        import openai

        return openai.AsyncOpenAI(**self._options)

    def call(self) -> object:
        """Return a complete answer."""
        return self._client.chat.completions.create(**ASK)

    async def acall(self) -> object:
        """Return a complete answer."""
        return await self._running.chat.completions.create(**ASK)

    def read(self) -> None:
        """Read a streamed answer to its end."""
        for _ in self._client.chat.completions.create(**self._stream):
            pass

    async def aread(self) -> None:
        """Read a streamed answer to its end."""
        async for _ in await self._running.chat.completions.create(**self._stream):
            pass


class Anthropic:
    """Anthropic's official SDK, with its plain stream, the cheapest because it does not accumulate."""

    def __init__(self, base: str) -> None:
        import anthropic

        self._options: dict[str, Any] = {"api_key": KEY, "base_url": base}
        self._client: Any = anthropic.Anthropic(**self._options)
        self._ask: dict[str, Any] = {**ASK, "max_tokens": 1024}

    @cached_property
    def _running(self) -> Any:
        import anthropic

        return anthropic.AsyncAnthropic(**self._options)

    def call(self) -> object:
        """Return a complete answer."""
        return self._client.messages.create(**self._ask)

    async def acall(self) -> object:
        """Return a complete answer."""
        return await self._running.messages.create(**self._ask)

    def read(self) -> None:
        """Read a streamed answer to its end."""
        for _ in self._client.messages.create(**self._ask, stream=True):
            pass

    async def aread(self) -> None:
        """Read a streamed answer to its end."""
        async for _ in await self._running.messages.create(**self._ask, stream=True):
            pass


class HTTPX:
    """The floor: one request, and only the delta of each event."""

    def __init__(self, base: str) -> None:
        import httpx

        self._url = f"{base}/v1/chat/completions"
        self._options: dict[str, Any] = {"headers": {"authorization": f"Bearer {KEY}"}, "timeout": 60}
        self._client = httpx.Client(**self._options)

    @cached_property
    def _running(self) -> Any:
        import httpx

        return httpx.AsyncClient(**self._options)

    def call(self, messages: list[dict[str, Any]] = ASK["messages"]) -> str:
        """Return the answer's text."""
        return _text(self._client.post(self._url, json={**ASK, "messages": messages}).content)

    async def acall(self) -> str:
        """Return the answer's text."""
        return _text((await self._running.post(self._url, json=ASK)).content)

    def deltas(self) -> Iterator[Delta]:
        """Yield the delta of each event."""
        events = _Events()
        with self._client.stream("POST", self._url, json={**ASK, "stream": True}) as response:
            for block in response.iter_raw():
                yield from events.feed(block)

    async def adeltas(self) -> AsyncIterator[Delta]:
        """Yield the delta of each event."""
        events = _Events()
        async with self._running.stream("POST", self._url, json={**ASK, "stream": True}) as response:
            async for block in response.aiter_raw():
                for delta in events.feed(block):
                    yield delta

    def read(self) -> None:
        """Read a streamed answer to its end."""
        for _ in self.deltas():
            pass

    async def aread(self) -> None:
        """Read a streamed answer to its end."""
        async for _ in self.adeltas():
            pass


class _Events:
    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[Delta]:
        from pydantic_core import from_json

        *events, self._rest = (self._rest + block).split(b"\n\n")
        bodies = [from_json(event[6:])["choices"] for event in events if event.startswith(b"data: {")]
        return [choices[0]["delta"] for choices in bodies if choices]


class Bare:
    """The minimum cost of a stream: a bare socket's reads, and one slice of each."""

    def __init__(self, base: str) -> None:
        url = urlsplit(base)
        self._server = url.hostname or "", url.port or 80
        body = json.dumps({**ASK, "stream": True}).encode()
        head = f"POST {url.path}/v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._idle: list[socket.socket] = []
        self._idle_streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    def texts(self) -> Iterator[str]:
        """Yield the text of each read."""
        connection = self._idle.pop() if self._idle else socket.create_connection(self._server)
        connection.sendall(self._request)
        while not (block := connection.recv(65536)).endswith(b"0\r\n\r\n"):
            yield _slice(block)
        self._idle.append(connection)

    async def atexts(self) -> AsyncIterator[str]:
        """Yield the text of each read."""
        idle = self._idle_streams
        reader, writer = idle.pop() if idle else await asyncio.open_connection(*self._server)
        writer.write(self._request)
        while not (block := await reader.read(65536)).endswith(b"0\r\n\r\n"):
            yield _slice(block)
        idle.append((reader, writer))


def _slice(block: bytes) -> str:
    start = block.find(b'"content": "') + 12
    return block[start : block.find(b'"', start)].decode() if start > 11 else ""


def fragment(delta: Delta) -> str:
    """Return a delta's fragment of the tool call arguments."""
    return str(delta["tool_calls"][0]["function"]["arguments"])


def _text(body: bytes) -> str:
    from pydantic_core import from_json

    return str(from_json(body)["choices"][0]["message"]["content"])


CLIENTS: dict[str, Callable[[str], Subject]] = {
    "piccc": Piccc,
    "openai": OpenAI,
    "anthropic": Anthropic,
    "httpx": HTTPX,
}
