"""A fake server: canned responses behind a real HTTP client, without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import httpx

from langchain_piccc import ChatPiccc

KEY = "pcc_live_canary0123456789"


class ChunkedBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response body that arrives in the given pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = list(pieces)
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece

    def close(self) -> None:
        self.is_closed = True

    async def aclose(self) -> None:
        self.is_closed = True


class Replay:
    """A server that returns the given replies in order, repeats the last one, and records the requests."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        extensions = {key: value for key, value in reply.extensions.items() if key != "network_stream"}
        return httpx.Response(
            reply.status_code, headers=reply.headers, stream=reply.stream, extensions=extensions
        )

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The bodies of the requests."""
        return [json.loads(request.content) for request in self.requests]

    def model(self, **settings: Any) -> ChatPiccc:
        """Return a model that uses this server."""
        transport = httpx.MockTransport(self)
        return ChatPiccc(
            **{
                "api_key": KEY,
                "base_url": "https://piccc.test",
                "http_client": httpx.Client(transport=transport),
                "http_async_client": httpx.AsyncClient(transport=transport),
                **settings,
            }
        )


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> httpx.Response:
    """Return a response without streaming."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    all_headers = {"content-type": "application/json", "x-request-id": "req_1", **(headers or {})}
    return httpx.Response(status, headers=all_headers, stream=ChunkedBody([content]))


def stream(events: Iterable[Any], *, together: bool = False) -> httpx.Response:
    """Return an event stream: one piece per event, or all events in one piece."""
    pieces = [_event(event) for event in events]
    headers = {"content-type": "text/event-stream", "x-request-id": "req_1"}
    return httpx.Response(
        200, headers=headers, stream=ChunkedBody([b"".join(pieces)] if together else pieces)
    )


def _event(event: Any) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    head = f"event: {event['type']}\n" if "type" in event else ""
    return f"{head}data: {json.dumps(event)}\n\n".encode()


def completion(message: dict[str, Any], *, usage: dict[str, Any] | None = None, reason: str = "stop") -> Any:
    """Return the body of a reply in the OpenAI dialect."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "piccc-pro",
        "choices": [choice],
        "usage": usage or {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }


def chunks(
    deltas: Sequence[dict[str, Any]], *, usage: dict[str, Any] | None = None, reason: str = "stop"
) -> list[Any]:
    """Return the events of a streamed reply in the OpenAI dialect."""
    head = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1790000000,
        "model": "piccc-pro",
    }
    events: list[Any] = [
        {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        for delta in ({"role": "assistant", "content": ""}, *deltas)
    ]
    events.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    reported_usage = usage or {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
    return [*events, {**head, "choices": [], "usage": reported_usage}, "[DONE]"]


def fragment(arguments: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a delta with one fragment of a tool call; `name` goes into its function."""
    function = {"name": fields.pop("name", None), "arguments": arguments}
    call = {**fields, "function": {key: value for key, value in function.items() if value is not None}}
    return {"tool_calls": [call]}
