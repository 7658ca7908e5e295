"""Canned responses for what the emulator cannot send."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx

from llama_index_piccc import Piccc


def llm_answering(*bodies: Any, **settings: Any) -> Piccc:
    """Return a model whose server sends these bodies in order: objects as JSON, lists as chunk streams."""
    return llm_and_requests(*bodies, **settings)[0]


def llm_and_requests(*bodies: Any, **settings: Any) -> tuple[Piccc, list[Any]]:
    """Return a model as `llm_answering` does, and the list of its request bodies."""
    remaining, requests = list(bodies), []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(json.loads(request.content))
        return _response(remaining.pop(0))

    client = httpx.Client(transport=httpx.MockTransport(answer))
    llm = Piccc(base_url="http://server.test", api_key="pcc_test_wire", http_client=client, **settings)
    return llm, requests


def _response(body: Any) -> httpx.Response:
    if isinstance(body, list):
        events = [*(f"data: {json.dumps(event)}\n\n".encode() for event in body), b"data: [DONE]\n\n"]
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=iter(events))
    status = body.pop("status", 200)
    return httpx.Response(status, json=body)


def chunks(*deltas: dict[str, Any], finish_reason: str = "stop", usage: Any = None) -> list[dict[str, Any]]:
    """Return the chunks of a stream in the OpenAI dialect."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "piccc-pro"}
    ends: Iterable[dict[str, Any]] = ({**head, "choices": [_choice({}, finish_reason)], "usage": usage},)
    return [*({**head, "choices": [_choice(delta, None)]} for delta in deltas), *ends]


def calls(*fragments: dict[str, Any]) -> dict[str, Any]:
    """Return a delta with fragments of tool calls."""
    return {"tool_calls": list(fragments)}


def fragment(index: int, arguments: str, id: str | None = None, name: str | None = None) -> dict[str, Any]:
    """Return a fragment of a tool call."""
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": index, "function": function, **({"id": id, "type": "function"} if id else {})}


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}
