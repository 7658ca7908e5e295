"""The documented and assumed statements about the API, one per row, and the exchanges that check them."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import httpx

from piccc.contract import (
    ANTHROPIC_ERROR,
    OPENAI_ERROR,
    Check,
    Exchange,
    NotTried,
    Origin,
    Row,
    Sample,
    Server,
    check_call,
    check_call_deltas,
    check_chunks,
    check_done,
    check_event_names,
    check_event_order,
    check_input_deltas,
    check_last_usage,
    check_message_usage,
    check_no_usage,
    check_part,
    check_total,
    fits,
    header,
    json_text,
    media,
    misfit,
    not_in_text,
    refused,
    streamed,
)

JSON = dict[str, Any]

_ASK = "Name one city. Answer with its name only."
_SHORT = 32
"""max_tokens of most requests: enough for a tool call."""
_PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100"
        "c9fe92ef0000000049454e44ae426082"
    )
).decode()
_PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_CLOSED = {**_PARAMETERS, "additionalProperties": False}
_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells a city's weather.", "parameters": _CLOSED},
}
_USE = {"name": "weather", "description": "Tells a city's weather.", "input_schema": _CLOSED}
_USER = {"role": "user", "content": _ASK}
_WEATHER = {"role": "user", "content": "What is the weather in Oslo?"}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
_CALLS = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "Snow, -3 °C"}
_TOOL_USE = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}}
_TOOL_RESULT = {"type": "tool_result", "tool_use_id": "call_1", "content": "Snow, -3 °C"}
_MISSING = "/v1/tasks/task_000000000000000000000000"


def _chat(server: Server, fields: JSON, auth: Any = "bearer", path: str = "/v1/chat/completions") -> Exchange:
    body = {"model": server.model("chat"), "messages": [_USER], "max_tokens": _SHORT, **fields}
    body = {name: value for name, value in body.items() if value is not None}
    return server.ask("POST", path, body, auth=auth)


def _message(server: Server, fields: JSON, auth: Any = "bearer", path: str = "/v1/messages") -> Exchange:
    return _chat(server, fields, auth, path)


def _chats(fields: JSON, times: float = 1.0) -> Sample:
    return Sample(lambda server: _chat(server, fields), "chat", times)


def _messages(fields: JSON, times: float = 1.0) -> Sample:
    return Sample(lambda server: _message(server, fields), "chat", times)


def _free(method: str, path: str, body: JSON | bytes | None = None, **options: Any) -> Sample:
    return Sample(lambda server: server.ask(method, path, body, **options))


def _conversation(*messages: JSON) -> JSON:
    return {"messages": list(messages)}


def _submission(server: Server, kind: str) -> Exchange:
    body: JSON = {"model": server.model(kind), "prompt": "A red ceramic mug on a table"}
    body |= {"aspect_ratio": "1:1", "resolution": "1K"}
    if kind == "video":
        body |= {"duration_seconds": server.video_seconds, "resolution": "720p", "aspect_ratio": "16:9"}
    return server.ask("POST", f"/v1/{kind}s/tasks", body, {"idempotency-key": f"{server.run_id}-{kind}"})


def _again(server: Server) -> Exchange:
    _task_of(server, "image")
    return replace(_submission(server, "image"), before=server.sample("image"))


def _listed(server: Server) -> Exchange:
    _task_of(server, "image")
    return replace(server.ask("GET", "/v1/tasks?limit=1&type=image"), before=server.sample("image"))


def _task_of(server: Server, kind: str) -> JSON:
    """Return the submitted task. Raises NotTried if there is none."""
    task = server.sample(kind).json
    if not isinstance(task, dict) or not _id_of(task):
        raise NotTried(f"no {kind} task was accepted")
    return task


def _id_of(task: JSON) -> str:
    return str(task.get("task_id") or task.get("id") or "")


def _read(server: Server, kind: str) -> Exchange:
    return server.ask("GET", f"/v1/tasks/{_id_of(_task_of(server, kind))}")


def _end(server: Server, kind: str) -> Exchange:
    end = time.monotonic() + server.patience
    while True:
        exchange = _read(server, kind)
        status = exchange.json.get("status") if isinstance(exchange.json, dict) else None
        if exchange.status != 200 or str(status).lower() not in ("queued", "processing"):
            return exchange
        if time.monotonic() > end:
            raise NotTried(f"the {kind} task had not ended after {server.patience:g} s")
        time.sleep(server.poll)


def _file(server: Server, kind: str, headers: Mapping[str, str] | None = None) -> Exchange:
    ended = server.sample(f"{kind}.end").json
    try:
        url = ended["result"]["outputs"][0]["url"]
    except (KeyError, IndexError, TypeError):
        raise NotTried(f"the {kind} task has no output in the assumed place") from None
    return server.ask("GET", str(httpx.URL(server.base_url).join(url)), headers=headers, auth="none")


def _polled(server: Server) -> Exchange:
    url = _task_of(server, "image").get("polling_url") or ""
    if httpx.URL(server.base_url).join(url).host != httpx.URL(server.base_url).host:
        raise NotTried("the polling_url is on another host, which must not get the key")
    return server.ask("GET", str(httpx.URL(server.base_url).join(url)))


def _webhook(server: Server) -> Exchange:
    raise NotTried("needs a URL that the provider can reach: see piccc webhooks listen")


def _refusals(**bodies: JSON) -> dict[str, Sample]:
    """Return samples that a strict server rejects for free; a lenient one bills a short reply."""
    sample = {"chat": _chats, "messages": _messages}
    return {
        name.replace("__", ".").replace("_", "-"): sample[name.partition("__")[0]](
            {"max_tokens": 1, **fields}
        )
        for name, fields in bodies.items()
    }


SAMPLES: dict[str, Sample] = {
    "models": _free("GET", "/v1/models"),
    "models.x-api-key": _free("GET", "/v1/models", auth="x-api-key"),
    "no-key": Sample(lambda server: _chat(server, {}, "none")),
    "wrong-key": _free("GET", "/v1/tasks", headers={"authorization": "Bearer pcc_live_wrong"}, auth="none"),
    "no-key.messages": Sample(lambda server: _message(server, {}, "none")),
    "no-task": _free("GET", _MISSING),
    "list": _free("GET", "/v1/tasks?limit=2"),
    "list.filter": _free("GET", "/v1/tasks?type=image&status=completed&limit=5"),
    "count": Sample(lambda server: _message(server, {"max_tokens": None}, path="/v1/messages/count_tokens")),
    "chat.not-json": _free("POST", "/v1/chat/completions", b'{"model": '),
    "messages.not-json": _free("POST", "/v1/messages", b'{"model": '),
    "tasks.no-prompt": Sample(
        lambda server: server.ask("POST", "/v1/images/tasks", {"model": server.model("image")})
    ),
    **_refusals(
        chat__no_messages={"messages": []},
        chat__unknown_model={"model": "no-such-model"},
        chat__unknown_content=_conversation({"role": "user", "content": [{"type": "hologram"}]}),
        chat__both_limits={"max_completion_tokens": 1},
        chat__parallel_without_tools={"parallel_tool_calls": False},
        chat__unanswered_call=_conversation(_WEATHER, _CALLS, _USER),
        chat__result_without_call=_conversation(_USER, _RESULT),
        chat__bad_arguments=_conversation(
            _WEATHER,
            {**_CALLS, "tool_calls": [{**_CALL, "function": {"name": "weather", "arguments": "{"}}]},
            _RESULT,
        ),
        chat__tool_name={
            "tools": [{"type": "function", "function": {"name": "the weather", "parameters": _CLOSED}}]
        },
        chat__unknown_choice={
            "tools": [_TOOL],
            "tool_choice": {"type": "function", "function": {"name": "other"}},
        },
        chat__bad_schema={
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": {"type": "thing"}}}]
        },
        chat__open_schema={
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": _PARAMETERS},
            }
        },
        chat__half_a_pair=_conversation({"role": "user", "content": "\ud83d"}),
        chat__mistyped_image=_conversation(
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_PIXEL}"}}],
            }
        ),
        chat__duplicate_call=_conversation(
            _WEATHER, {**_CALLS, "tool_calls": [_CALL, _CALL]}, _RESULT, _RESULT
        ),
        chat__nameless_call=_conversation(
            _WEATHER,
            {**_CALLS, "tool_calls": [{**_CALL, "function": {"name": "", "arguments": "{}"}}]},
            _RESULT,
        ),
        chat__speaker=_conversation(
            _USER, {"role": "assistant", "name": "research agent", "content": "Oslo"}, _USER
        ),
        chat__false_pdf=_conversation(
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,SGVsbG8="},
                    }
                ],
            }
        ),
        messages__tool_id=_conversation(
            _WEATHER,
            {"role": "assistant", "content": [{**_TOOL_USE, "id": "call|1"}]},
            {"role": "user", "content": [{**_TOOL_RESULT, "tool_use_id": "call|1"}]},
        ),
        messages__system_image={
            "system": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": _PIXEL}}
            ]
        },
        messages__thinking_forced={
            **_conversation(_WEATHER),
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "max_tokens": 1025,
            "tools": [_USE],
            "tool_choice": {"type": "any"},
        },
        messages__foreign_thinking=_conversation(
            _USER,
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "A city.", "signature": "bm90IHlvdXJz"},
                    {"type": "text", "text": "Oslo"},
                ],
            },
            _USER,
        ),
        messages__no_max_tokens={"max_tokens": None},
        messages__blank_text=_conversation({"role": "user", "content": " "}),
        messages__trailing_space=_conversation(_USER, {"role": "assistant", "content": "Oslo "}),
        messages__result_without_call=_conversation({"role": "user", "content": [_TOOL_RESULT]}),
        messages__unanswered_call=_conversation(
            _WEATHER, {"role": "assistant", "content": [_TOOL_USE]}, _USER
        ),
        messages__budget={"thinking": {"type": "enabled", "budget_tokens": 2048}},
        messages__thinking_temperature={
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "max_tokens": 1025,
            "temperature": 0.5,
        },
        messages__cache_marks=_conversation(
            {
                "role": "user",
                "content": [{"type": "text", "text": "Go.", "cache_control": {"type": "ephemeral"}}] * 5,
            }
        ),
    ),
    "chat": _chats({}),
    "chat.cut": _chats(
        {"max_tokens": 1, **_conversation({"role": "user", "content": "Count from one to twenty."})}
    ),
    "chat.stop": _chats({"stop": ["o"]}),
    "chat.developer": _chats(_conversation({"role": "developer", "content": "Be brief."}, _USER)),
    "chat.parts": _chats(_conversation({"role": "user", "content": [{"type": "text", "text": _ASK}]})),
    "chat.image": _chats(
        _conversation(
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Which colour is this?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_PIXEL}"}},
                ],
            }
        )
    ),
    "chat.stream": _chats({"stream": True}),
    "chat.stream.usage": _chats({"stream": True, "stream_options": {"include_usage": True}}),
    "chat.tool": _chats({**_conversation(_WEATHER), "tools": [_TOOL], "tool_choice": "required"}),
    "chat.tool.named": _chats(
        {
            **_conversation(_WEATHER),
            "tools": [_TOOL],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        }
    ),
    "chat.tool.stream": _chats(
        {**_conversation(_WEATHER), "tools": [_TOOL], "tool_choice": "required", "stream": True}
    ),
    "chat.result": _chats({**_conversation(_WEATHER, _CALLS, _RESULT), "tools": [_TOOL]}),
    "chat.schema": _chats(
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": _CLOSED},
            }
        }
    ),
    "chat.json": _chats(
        {
            **_conversation({"role": "user", "content": 'Name a city. Answer in JSON: {"city": "..."}'}),
            "response_format": {"type": "json_object"},
        }
    ),
    "chat.logprobs": _chats({"logprobs": True, "top_logprobs": 1, "seed": 1, "temperature": 0, "top_p": 1}),
    "chat.reasoning": _chats(
        {"reasoning_effort": "low", "max_tokens": None, "max_completion_tokens": 512}, 5
    ),
    "messages": _messages({}),
    "messages.x-api-key": Sample(lambda server: _message(server, {}, "x-api-key"), "chat"),
    "messages.cut": _messages(
        {"max_tokens": 1, **_conversation({"role": "user", "content": "Count from one to twenty."})}
    ),
    "messages.stop": _messages({"stop_sequences": ["o"]}),
    "messages.system": _messages({"system": [{"type": "text", "text": "Be brief."}]}),
    "messages.two-user-turns": _messages(_conversation({"role": "user", "content": "Hello."}, _USER)),
    "messages.image": _messages(
        _conversation(
            {
                "role": "user",
                "content": [
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": _PIXEL},
                    },
                    {"type": "text", "text": "Which colour is this?"},
                ],
            }
        )
    ),
    "messages.stream": _messages({"stream": True}),
    "messages.tool": _messages({**_conversation(_WEATHER), "tools": [_USE], "tool_choice": {"type": "any"}}),
    "messages.tool.stream": _messages(
        {
            **_conversation(_WEATHER),
            "tools": [_USE],
            "tool_choice": {"type": "tool", "name": "weather"},
            "stream": True,
        }
    ),
    "messages.result": _messages(
        {
            **_conversation(
                _WEATHER,
                {"role": "assistant", "content": [_TOOL_USE]},
                {"role": "user", "content": [_TOOL_RESULT]},
            ),
            "tools": [_USE],
        }
    ),
    "messages.thinking": _messages(
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 1056}, 10
    ),
    "chat.overflow": _chats(_conversation({"role": "user", "content": "word " * 140_000}), 20),
    "messages.overflow": _messages(_conversation({"role": "user", "content": "word " * 140_000}), 20),
    "webhook": Sample(_webhook),
}
for _kind in ("image", "video"):
    SAMPLES |= {
        _kind: Sample(partial(_submission, kind=_kind), _kind),
        f"{_kind}.read": Sample(partial(_read, kind=_kind)),
        f"{_kind}.end": Sample(partial(_end, kind=_kind)),
        f"{_kind}.file": Sample(partial(_file, kind=_kind)),
        f"{_kind}.range": Sample(partial(_file, kind=_kind, headers={"range": "bytes=4-7"})),
    }
SAMPLES |= {
    "image.polling-url": Sample(_polled),
    "image.list": Sample(_listed),
    "image.again": Sample(_again, "image"),
}


def _same_task(exchange: Exchange) -> str:
    first = _id_of(exchange.before.json) if exchange.before else None
    task_id = _id_of(exchange.json) or exchange.json["data"][0]["task_id"]
    return "" if task_id == first else f"task_id is {task_id!r}, not {first!r}"


_RFC_URL = re.compile("^https?://")
_STATUS = re.compile("^(queued|processing|completed|failed|cancelled|expired)$")
_TASK = {
    "task_id": str,
    "object": "task",
    "type": re.compile("^(image|video)$"),
    "status": _STATUS,
    "progress": int,
    "model": str,
    "polling_url": _RFC_URL,
    "created_at": int,
    "updated_at": int,
    "prompt": str,
    "aspect_ratio": str,
    "resolution": str,
    "error": ...,
    "result": ...,
}
_REPLY = {
    "id": str,
    "object": "chat.completion",
    "created": int,
    "model": str,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": str},
            "finish_reason": re.compile("^(stop|length)$"),
        }
    ],
    "usage": {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int},
}
_MESSAGE = {
    "id": str,
    "type": "message",
    "role": "assistant",
    "model": str,
    "content": [{"type": "text", "text": str}],
    "stop_reason": str,
    "stop_sequence": (str, type(None)),
    "usage": {"input_tokens": int, "output_tokens": int},
}
_OVERFLOW = "context|too long|maximum"
_ACCEPTED = fits({"choices": [{"message": {"role": "assistant"}}]})
_ANSWERED = fits({"type": "message", "role": "assistant"})


def _output(kind: str) -> JSON:
    shape = {"type": kind, "url": _RFC_URL, "mime_type": re.compile(f"^{kind}/"), "width": int, "height": int}
    return {
        "status": "completed",
        "progress": 100,
        "completed_at": int,
        "result": {"outputs": [shape]},
        "error": None,
    }


def _block(kind: str, **shape: Any) -> Check:
    """Check that a message has a block."""

    def check(exchange: Exchange) -> str:
        blocks = [block for block in exchange.json.get("content") or () if block.get("type") == kind]
        return (
            misfit(blocks, [shape], kind)
            if blocks
            else fits({"type": "message"})(exchange) or f"there is no {kind}"
        )

    return check


def _finish(reason: str) -> Check:
    return fits({"choices": [{"finish_reason": reason}]})


def _rows(origin: Origin, *rows: tuple[str, str, str, Check]) -> list[Row]:
    return [Row(name, origin, says, sample, check) for name, says, sample, check in rows]


def _refusal_rows(*rows: tuple[str, str]) -> list[Row]:
    """Return rows for requests that a strict server rejects; each has the name of its sample."""
    return [Row(name, "assumed", says, name, refused(400, 404, 413, 422)) for name, says in rows]


ROWS: tuple[Row, ...] = (
    *_rows(
        "documented",
        ("auth.bearer", "`Authorization: Bearer KEY` is accepted.", "models", fits(dict)),
        ("auth.x-api-key", "`X-API-Key: KEY` is accepted.", "models.x-api-key", fits(dict)),
        ("chat", "`POST /v1/chat/completions` accepts model and messages.", "chat", _ACCEPTED),
        (
            "chat.stream",
            "`stream: true` returns a stream.",
            "chat.stream",
            streamed(lambda events: "" if events else "no event"),
        ),
        (
            "messages",
            "`POST /v1/messages` accepts model, max_tokens and messages, with a Bearer token.",
            "messages",
            _ANSWERED,
        ),
        ("list", "`GET /v1/tasks` lists tasks.", "list", fits(dict)),
        ("list.filter", "The list accepts `type` and `status`.", "list.filter", fits(dict)),
        (
            "image",
            "Submitting an image task returns task_id, status and polling_url.",
            "image",
            fits({"task_id": str, "status": str, "polling_url": str}, status=202),
        ),
        (
            "video",
            "Submitting a video task returns task_id, status and polling_url.",
            "video",
            fits({"task_id": str, "status": str, "polling_url": str}, status=202),
        ),
        (
            "image.read",
            "`GET /v1/tasks/{task_id}` returns an image task.",
            "image.read",
            fits({"task_id": str, "status": str}),
        ),
        (
            "video.read",
            "`GET /v1/tasks/{task_id}` returns a video task.",
            "video.read",
            fits({"task_id": str, "status": str}),
        ),
    ),
    *_rows(
        "assumed",
        (
            "auth.none",
            "A request without a key gets 401 in OpenAI's error format.",
            "no-key",
            refused(401, form=OPENAI_ERROR),
        ),
        (
            "auth.wrong",
            "A wrong key gets 401 on the task routes, in OpenAI's error format.",
            "wrong-key",
            refused(401, form=OPENAI_ERROR),
        ),
        (
            "auth.messages",
            "On `/v1/messages`, a missing key gets 401 in Anthropic's error format.",
            "no-key.messages",
            refused(401, form=ANTHROPIC_ERROR),
        ),
        (
            "auth.messages.x-api-key",
            "`/v1/messages` also accepts `X-API-Key`.",
            "messages.x-api-key",
            _ANSWERED,
        ),
        ("request-id", "Every response has `x-request-id`.", "models", header("x-request-id")),
        ("request-id.error", "Every error has `x-request-id`.", "no-key", header("x-request-id")),
        ("request-id.messages", "`/v1/messages` has `request-id` too.", "messages", header("request-id")),
        (
            "rate-limit",
            "Responses have `x-ratelimit-limit-requests`.",
            "models",
            header("x-ratelimit-limit-requests", "^[0-9]+$"),
        ),
        (
            "models",
            "`GET /v1/models` returns OpenAI's list format.",
            "models",
            fits(
                {"object": "list", "data": [{"id": str, "object": "model", "created": int, "owned_by": str}]}
            ),
        ),
        (
            "count",
            "`POST /v1/messages/count_tokens` returns the number of input tokens.",
            "count",
            fits({"input_tokens": int}),
        ),
        (
            "no-task",
            "An unknown task gets 404 in OpenAI's error format.",
            "no-task",
            refused(404, form=OPENAI_ERROR),
        ),
        (
            "list.form",
            "The list has the form {object: list, data, has_more, next_cursor}.",
            "list",
            fits({"object": "list", "data": list, "has_more": bool, "next_cursor": (str, type(None))}),
        ),
        ("tasks.no-prompt", "A task without a prompt is rejected.", "tasks.no-prompt", refused(400, 422)),
        ("chat.form", "A complete reply has the fields of OpenAI's chat completion.", "chat", fits(_REPLY)),
        ("chat.total", "`total_tokens` is the sum of input and output tokens.", "chat", check_total),
        (
            "chat.cut",
            "`max_tokens` cuts off a reply with finish_reason `length`.",
            "chat.cut",
            _finish("length"),
        ),
        (
            "chat.stop",
            "`stop` ends a reply before the stop sequence.",
            "chat.stop",
            not_in_text("o"),
        ),
        ("chat.developer", "The role `developer` is accepted.", "chat.developer", _ACCEPTED),
        ("chat.parts", "Content may be a list of parts.", "chat.parts", _ACCEPTED),
        ("chat.image", "An image part with a data URL is accepted.", "chat.image", _ACCEPTED),
        (
            "chat.stream.form",
            "Events are OpenAI's chunks, with one finish_reason.",
            "chat.stream",
            streamed(check_chunks),
        ),
        ("chat.stream.done", "A stream ends with `[DONE]`.", "chat.stream", streamed(check_done)),
        ("chat.stream.no-usage", "Usage is not sent unasked.", "chat.stream", streamed(check_no_usage)),
        (
            "chat.stream.usage",
            "`include_usage` adds a last chunk with usage and no choices.",
            "chat.stream.usage",
            streamed(check_last_usage),
        ),
        (
            "chat.tool",
            "`tool_choice: required` forces a tool call, with JSON arguments.",
            "chat.tool",
            check_call,
        ),
        (
            "chat.tool.named",
            "A named `tool_choice` forces that tool.",
            "chat.tool.named",
            fits({"choices": [{"message": {"tool_calls": [{"function": {"name": "weather"}}]}}]}),
        ),
        (
            "chat.tool.stream",
            "A streamed call starts with index, id and name; every delta has an index.",
            "chat.tool.stream",
            streamed(check_call_deltas),
        ),
        ("chat.result", "A tool result is accepted.", "chat.result", _ACCEPTED),
        ("chat.schema", "A strict `json_schema` is followed.", "chat.schema", json_text({"city": str})),
        ("chat.json", "`json_object` returns a JSON object.", "chat.json", json_text({})),
        (
            "chat.logprobs",
            "`logprobs` returns the log probability of each token.",
            "chat.logprobs",
            fits({"choices": [{"logprobs": {"content": [{"token": str, "logprob": (int, float)}]}}]}),
        ),
        (
            "chat.reasoning",
            "`reasoning_effort` and `max_completion_tokens` are accepted.",
            "chat.reasoning",
            _ACCEPTED,
        ),
        (
            "messages.form",
            "A complete reply has the fields of Anthropic's message.",
            "messages",
            fits(_MESSAGE),
        ),
        (
            "messages.cut",
            "`max_tokens` cuts off a reply with stop_reason `max_tokens`.",
            "messages.cut",
            fits({"stop_reason": "max_tokens"}),
        ),
        (
            "messages.stop",
            "`stop_sequences` end a reply before the stop sequence.",
            "messages.stop",
            not_in_text("o"),
        ),
        ("messages.system", "`system` may be a list of text blocks.", "messages.system", _ANSWERED),
        (
            "messages.two-user-turns",
            "Two user turns in a row are accepted.",
            "messages.two-user-turns",
            _ANSWERED,
        ),
        ("messages.image", "An image block with base64 is accepted.", "messages.image", _ANSWERED),
        (
            "messages.stream",
            "Events are in Anthropic's order.",
            "messages.stream",
            streamed(check_event_order),
        ),
        (
            "messages.stream.names",
            "Events are named after their types.",
            "messages.stream",
            check_event_names,
        ),
        (
            "messages.stream.usage",
            "Usage is reported in the first event and in message_delta.",
            "messages.stream",
            streamed(check_message_usage),
        ),
        (
            "messages.tool",
            "`tool_choice: any` forces a tool call.",
            "messages.tool",
            _block("tool_use", id=re.compile("."), name="weather", input={"city": str}),
        ),
        (
            "messages.tool.stream",
            "A streamed call's input arrives as JSON deltas.",
            "messages.tool.stream",
            streamed(check_input_deltas),
        ),
        ("messages.result", "A tool result is accepted.", "messages.result", _ANSWERED),
        (
            "messages.thinking",
            "Thinking is returned as a block with a signature.",
            "messages.thinking",
            _block("thinking", thinking=str, signature=re.compile(".")),
        ),
        (
            "chat.overflow",
            "A prompt longer than the context window gets 400 or 413, with a message that says so.",
            "chat.overflow",
            refused(400, 413, says=_OVERFLOW),
        ),
        (
            "messages.overflow",
            "The same applies to `/v1/messages`.",
            "messages.overflow",
            refused(400, 413, says=_OVERFLOW),
        ),
        ("image.form", "A task has the fields that the client reads.", "image.read", fits(_TASK)),
        (
            "image.polling-url",
            "`polling_url` returns the task.",
            "image.polling-url",
            fits({"task_id": str}),
        ),
        ("image.list", "The list has the newest task first.", "image.list", _same_task),
        ("image.end", "An image task ends with an output.", "image.end", fits(_output("image"))),
        (
            "image.size",
            "1K is 1024 pixels on the longer side.",
            "image.end",
            fits({"result": {"outputs": [{"width": 1024, "height": 1024}]}}),
        ),
        (
            "image.expires",
            "The result says when its URLs expire.",
            "image.end",
            fits({"result": {"expires_at": int}}),
        ),
        (
            "image.file",
            "The output's URL returns an image without a key.",
            "image.file",
            media("image"),
        ),
        ("image.range", "Downloads can be resumed: Range gets 206.", "image.range", check_part),
        ("image.again", "A repeated `Idempotency-Key` returns the same task.", "image.again", _same_task),
        ("video.end", "A video task ends with an output.", "video.end", fits(_output("video"))),
        (
            "video.size",
            "720p is 720 pixels on the shorter side.",
            "video.end",
            fits({"result": {"outputs": [{"width": 1280, "height": 720}]}}),
        ),
        ("video.file", "The output's URL returns an MP4 file.", "video.file", media("video")),
        ("video.range", "Downloads can be resumed: Range gets 206.", "video.range", check_part),
        ("webhook", "A finished task is posted to the webhook, signed.", "webhook", fits(dict)),
    ),
    *_rows(
        "assumed",
        (
            "error.form",
            "A rejected chat request gets OpenAI's error format.",
            "chat.not-json",
            refused(400, form=OPENAI_ERROR),
        ),
        (
            "error.form.messages",
            "On `/v1/messages`, it gets Anthropic's error format.",
            "messages.not-json",
            refused(400, form=ANTHROPIC_ERROR),
        ),
    ),
    *_refusal_rows(
        ("chat.not-json", "A body that is not JSON is rejected."),
        ("messages.not-json", "The same applies to `/v1/messages`."),
        ("chat.no-messages", "An empty list of messages is rejected."),
        ("chat.unknown-model", "An unknown model is rejected."),
        ("chat.unknown-content", "An unknown content type is rejected."),
        ("chat.both-limits", "max_tokens and max_completion_tokens together are rejected."),
        ("chat.parallel-without-tools", "parallel_tool_calls without tools is rejected."),
        ("chat.unanswered-call", "A call without a result is rejected."),
        ("chat.result-without-call", "A result without its call is rejected."),
        ("chat.bad-arguments", "A call whose arguments are not a JSON object is rejected."),
        ("chat.tool-name", "A tool name with a space is rejected."),
        ("chat.unknown-choice", "A tool_choice for an unknown tool is rejected."),
        ("chat.bad-schema", "Parameters that are not a JSON Schema are rejected."),
        ("chat.open-schema", "A strict schema without additionalProperties: false is rejected."),
        ("chat.half-a-pair", "A lone surrogate is rejected."),
        ("chat.mistyped-image", "An image that is not of its declared type is rejected."),
        ("chat.duplicate-call", "Two calls with the same id are rejected."),
        ("chat.nameless-call", "A call without a name is rejected."),
        ("chat.speaker", "A speaker name with a space is rejected."),
        ("chat.false-pdf", "Text declared as a PDF is rejected."),
        ("messages.tool-id", "A call id with characters other than A-Z a-z 0-9 _ - is rejected."),
        ("messages.system-image", "A system block other than text is rejected."),
        ("messages.thinking-forced", "Thinking with a forced tool is rejected."),
        ("messages.foreign-thinking", "Thinking with another provider's signature is rejected."),
        ("messages.no-max-tokens", "A message without max_tokens is rejected."),
        ("messages.blank-text", "Blank text is rejected."),
        ("messages.trailing-space", "A final assistant text with trailing white space is rejected."),
        ("messages.result-without-call", "A result without its call is rejected."),
        ("messages.unanswered-call", "A call without a result is rejected."),
        ("messages.budget", "A thinking budget above max_tokens is rejected."),
        ("messages.thinking-temperature", "Thinking with a temperature other than 1 is rejected."),
        ("messages.cache-marks", "More than four cache marks are rejected."),
    ),
)


def rows_named(patterns: Iterable[str]) -> list[Row]:
    """Return the rows whose names match any of the patterns, or all rows if there are no patterns."""
    patterns = list(patterns)
    return [row for row in ROWS if not patterns or any(fnmatchcase(row.name, each) for each in patterns)]
