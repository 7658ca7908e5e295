"""Chat responses from another server: an OpenAI-compatible one, or a live Piccc server."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import quote, urlsplit

import httpx

from piccc.emulator.conversation import Completion, FinishReason, ModelCall, Usage
from piccc.emulator.model import pieces
from piccc.emulator.model.tokens import prompt_tokens
from piccc.emulator.webhooks import on_loopback
from piccc.emulator.wire import APIError, anthropic, compact, encoded, openai

JSONObject = dict[str, Any]
ChatForm = openai.ChatRequest | anthropic.MessageRequest
Answer = JSONObject | AsyncIterator[JSONObject]
"""A complete reply or a stream of events, in the format of the request's route."""
UpstreamAPI = Literal["openai", "piccc"]

_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_LARGEST_REPLY = 64 * 1024 * 1024
_LONGEST_MESSAGE = 500
_MESSAGES = "/v1/messages"


@dataclass(frozen=True, slots=True)
class Given:
    """What the source knows about a submitted task: its id, outcome, and whether it runs on a live server."""

    id: str
    status: str | None = None
    error: JSONObject | None = None
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A live task's outcome, or None, and its JSON from the server, or None to use the emulator's own."""

    outcome: JSONObject | None
    shown: JSONObject | None


class Source(Protocol):
    """Answers in place of the emulator's own model.

    `key` is its secret; `is_piccc` is whether it is, or was when recorded, a live Piccc server.
    """

    key: str | None
    is_piccc: bool

    async def answer(self, path: str, body: JSONObject, form: ChatForm) -> Answer:
        """Answer a chat route's request. Raises APIError."""

    async def submit(self, route: str, body: JSONObject, headers: Mapping[str, str]) -> Given | None:
        """Submit a task, or return None if the emulator runs it. Raises APIError."""

    async def read(self, task_id: str) -> Seen | None:
        """Read a task from a live server, or return None if it is not there. Raises APIError."""

    async def close(self) -> None:
        """Close the connections."""

    def reset(self) -> None:
        """Forget earlier requests."""


class Upstream:
    """A server that answers chat.

    - `url` may include `/v1`. `key` is sent to this server only; a client's key never is.
    - `model` replaces the model that a client names.
    - `api` is `openai` for a server with `/v1/chat/completions`; requests to `/v1/messages` are translated.
      With `piccc`, both routes and tasks are forwarded unchanged.

    Raises:
        ValueError: the URL is not an http or https URL, or has more than a host and a path.
    """

    def __init__(self, url: str, *, key: str | None, model: str | None, api: UpstreamAPI) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"upstream must be an http or https URL, not {url!r}")
        if parts.username is not None or parts.query or parts.fragment:  # errors show the URL to every client
            raise ValueError(
                "upstream must be a URL without user, query or fragment; set upstream_key instead"
            )
        if api not in ("openai", "piccc"):
            raise ValueError(f"upstream_api must be openai or piccc, not {api!r}")
        self._url = url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"
        self.key = key
        self._model = model
        self.is_piccc = api == "piccc"
        self._client: httpx.AsyncClient | None = None
        self._live: dict[str, str] = {}

    async def answer(self, path: str, body: JSONObject, form: ChatForm) -> Answer:
        """Answer a chat request. Raises APIError in the route's format."""
        native = self.is_piccc or path != _MESSAGES
        asked = {**body, "model": self._model or form.model} if native else _translated(body, self._model)
        if form.stream and not (native and path == _MESSAGES):  # charges need the token counts
            asked["stream_options"] = {**(asked.get("stream_options") or {}), "include_usage": True}
        route = path if native else "/v1/chat/completions"
        response = await self._sent("POST", route, asked, {"anthropic-version": "2023-06-01"})
        if not form.stream:
            reply = await _parsed(response)
            return {**reply, "model": form.model} if native else _message(form, reply)
        mime_type = response.headers.get("content-type", "").partition(";")[0]
        if mime_type in ("text/html", "application/json"):  # while we can still send an error status
            await response.aclose()
            message = f"The upstream sent {mime_type} instead of an event stream."
            raise APIError(502, message, code="upstream")
        return _renamed(form, _events(response)) if native else _message_events(form, _events(response))

    async def submit(
        self, route: str, body: JSONObject, headers: Mapping[str, str], task_id: str = ""
    ) -> Given | None:
        """Submit a task to a live Piccc server, under an id of the emulator."""
        if not self.is_piccc:
            return None
        method, _, path = route.partition(" ")
        # The live server cannot reach this machine; the emulator delivers webhooks itself.
        sent = {name: value for name, value in body.items() if name != "webhook"}
        sent_headers = {name: headers[name] for name in ("idempotency-key",) if name in headers}
        shown = _unwrapped(await _parsed(await self._sent(method, path, sent, sent_headers)))
        live_id = shown.get("task_id") or shown.get("id")
        if not live_id:
            raise APIError(502, "The upstream's response has no task id.", code="upstream")
        task_id = task_id or f"task_{secrets.token_hex(12)}"
        self._live[task_id] = str(live_id)
        return Given(task_id, is_live=True)

    async def read(self, task_id: str) -> Seen | None:
        """Read a task from the live server by the emulator's id."""
        live_id = self._live.get(task_id)
        if live_id is None:
            return None
        path = f"/v1/tasks/{quote(live_id, safe='')}"
        shown: JSONObject = _renamed_task(
            _unwrapped(await _parsed(await self._sent("GET", path, None, {}))), live_id, task_id
        )
        return Seen(ended(shown), shown)

    def reset(self) -> None:
        """Forget the tasks."""
        self._live.clear()

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _sent(
        self, method: str, path: str, body: JSONObject | None, headers: Mapping[str, str]
    ) -> httpx.Response:
        """Send a request, and return its response once the headers of a success arrive."""
        if self._client is None:
            # Do not use the environment's proxy for local servers.
            self._client = httpx.AsyncClient(timeout=_TIMEOUT, trust_env=not on_loopback(self._url))
        url = f"{self._url}{path.removeprefix('/v1')}"
        authorization = {"authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            request = self._client.build_request(method, url, json=body, headers={**headers, **authorization})
            response = await self._client.send(request, stream=True)
            if response.is_success:
                return response
            text = (await _read(response)).decode(errors="replace")
        except httpx.TimeoutException as error:
            raise APIError(504, f"The upstream {url} did not respond in time.", code="upstream") from error
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            message = f"Cannot reach the upstream {url}: {error or type(error).__name__}"
            raise APIError(502, message, code="upstream") from error
        raise _refusal(response, text)


def _refusal(response: httpx.Response, text: str) -> APIError:
    status, error = response.status_code, _error_in(text)
    message = f"{error.get('message') or text or response.reason_phrase}"[:_LONGEST_MESSAGE]
    if status in (401, 403):  # not the client's fault: its own key was valid
        message = f"The upstream rejected the emulator's key ({status}): {message} Set upstream_key."
        return APIError(502, message, code="upstream")
    if status < 400:
        return APIError(502, f"The upstream redirected ({status}). Set its final URL.", code="upstream")
    wait = {
        name: response.headers[name] for name in ("retry-after", "retry-after-ms") if name in response.headers
    }
    code, param = (error.get(name) for name in ("code", "param"))
    return APIError(status, message, code=str(code or "upstream"), param=param and str(param), headers=wait)


def _error_in(text: str) -> JSONObject:
    """Return the error in a body, in any of the common formats."""
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(body, dict):
        return {}
    error = body.get("error", body)
    if isinstance(error, dict):
        return {**error, "message": error.get("message") or error.get("detail") or error.get("msg")}
    return {"message": str(error)}


async def _read(response: httpx.Response) -> bytes:
    try:
        read = bytearray()
        async for piece in response.aiter_bytes():
            read += piece
            if len(read) > _LARGEST_REPLY:
                raise APIError(502, "The upstream's response is too large.", code="upstream")
        return bytes(read)
    finally:
        await response.aclose()


async def _parsed(response: httpx.Response) -> JSONObject:
    try:
        body = json.loads(await _read(response))
    except httpx.HTTPError as error:
        message = f"The upstream's response was cut off: {error or type(error).__name__}"
        raise APIError(502, message, code="upstream") from error
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise APIError(502, "The upstream's response is not a JSON object.", code="upstream")
    return body


async def _events(response: httpx.Response) -> AsyncIterator[JSONObject]:
    """Yield each server-sent event's JSON as it arrives. Raises APIError if the stream fails."""
    ended = False
    try:
        async for line in _lines(response):
            data = line.removeprefix(b"data:").strip()
            if not line.startswith(b"data:") or not data:
                continue
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if event.get("error"):
                message = f"The upstream failed: {_error_in(data.decode()).get('message')}"
                raise APIError(502, message[:_LONGEST_MESSAGE], code="upstream")
            choices = event.get("choices") or ()
            ended = ended or event.get("type") == "message_stop"
            ended = ended or any(choice.get("finish_reason") for choice in choices)
            yield event
    except (httpx.HTTPError, ValueError, AttributeError) as error:
        message = f"The upstream's stream broke: {error or type(error).__name__}"
        raise APIError(502, message, code="upstream") from error
    finally:
        await response.aclose()
    if not ended:
        raise APIError(502, "The upstream's stream was cut off.", code="upstream")


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield lines; httpx's `aiter_lines` also splits at U+2028, which JSON may contain unescaped."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _LARGEST_REPLY:
            raise ValueError("event too large")
    if rest:
        yield rest


async def _renamed(form: ChatForm, events: AsyncIterator[JSONObject]) -> AsyncIterator[JSONObject]:
    """Forward events under the requested model name, without usage unless it was requested."""
    options = getattr(form, "stream_options", None)
    wanted = isinstance(form, anthropic.MessageRequest) or bool(options and options.include_usage)
    async for event in events:
        for named in (event, event.get("message")):
            if isinstance(named, dict) and "model" in named:
                named["model"] = form.model
        if wanted:
            yield event
            continue
        used = event.pop("usage", None)
        if used:
            yield {"choices": [], _UNSENT_USAGE: used}
        if event.get("choices"):
            yield event


_UNSENT_USAGE = "unsent_usage"
"""The key of usage needed only for charges, because the client did not request it."""


class Meter:
    """Counts one reply's tokens: as the upstream reports them, else by the emulator's own count."""

    def __init__(self, form: ChatForm, charge: Callable[[int, int], None]) -> None:
        self._form = form
        self._charge = charge
        self._used: JSONObject = {}
        self._pieces = 0
        self._charged = False

    def count(self, event: JSONObject) -> None:
        """Count a complete reply or a stream event."""
        for name, tokens in usage_in(event).items():  # some servers end with 0 after reporting a count
            self._used[name] = max(tokens, self._used.get(name, 0))
        deltas = [choice.get("delta") or choice.get("message") for choice in event.get("choices") or ()]
        text = "".join(_texts(event.get("delta") or event.get("content") or deltas))
        self._pieces += len(pieces(text))

    def charge(self) -> None:
        """Charge once for the counted tokens."""
        if not self._charged:
            self._charged = True
            prompt = self._used.get("prompt_tokens") or prompt_tokens(self._form.model_request())
            self._charge(prompt, self._used.get("completion_tokens", self._pieces))


def usage_in(event: JSONObject) -> JSONObject:
    """Return the token counts in a reply or event, under OpenAI's names."""
    used = event.get("usage") or event.get(_UNSENT_USAGE) or (event.get("message") or {}).get("usage") or {}
    names = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
    return {names.get(name, name): count for name, count in used.items() if isinstance(count, int)}


async def frames(
    events: AsyncIterator[JSONObject], meter: Meter, envelope: Callable[[APIError], JSONObject]
) -> AsyncGenerator[bytes]:
    """Encode server-sent events; charge before the last one; end with an error event if they fail."""
    is_named = False
    try:
        async for event in events:
            meter.count(event)
            if _UNSENT_USAGE in event:
                continue
            is_named = "type" in event
            if event.get("type") == "message_stop":
                meter.charge()
            yield _frame(event, is_named)
        if not is_named:
            meter.charge()
            yield b"data: [DONE]\n\n"
    except APIError as error:
        meter.charge()
        body = envelope(error)
        yield _frame(body, "type" in body)
    finally:
        meter.charge()


def _frame(event: JSONObject, is_named: bool) -> bytes:
    return (
        (b"event: %b\n" % event["type"].encode() if is_named else b"") + b"data: " + encoded(event) + b"\n\n"
    )


_TEXT_FIELDS = (
    "reasoning_content",
    "thinking",
    "content",
    "text",
    "refusal",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "partial_json",
)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, dict):
        for name in _TEXT_FIELDS:
            yield from _texts(value.get(name))


# Tasks on a live server.

_OUTCOMES = {
    "completed": ("completed", "done", "succeed", "succeeded", "success"),
    "failed": ("error", "fail", "failed", "failure"),
    "cancelled": ("canceled", "cancelled"),
    "expired": ("expired",),
}


def ended(shown: JSONObject) -> JSONObject | None:
    """Return the status and error of a task that has ended, else None."""
    word = str(shown.get("status", "")).lower()
    status = next((status for status, words in _OUTCOMES.items() if word in words), None)
    if status is None:
        return None
    if status == "completed" and not any(_urls(shown)):
        status = "no-output"
    error = shown.get("error")
    error = {"message": error} if isinstance(error, str) else error
    return {"status": status, **({"error": error} if error else {})}


def _urls(value: Any, name: str = "") -> Iterator[str]:
    """Yield the URLs in a task, except those for polling it."""
    if isinstance(value, str) and "://" in value and name not in ("polling_url", "poll_url", "status_url"):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _urls(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _urls(each)


def _unwrapped(body: JSONObject) -> JSONObject:
    data = body.get("data")
    return data if isinstance(data, dict) and "code" in body else body


def _renamed_task(value: Any, live_id: str, task_id: str) -> Any:
    if isinstance(value, str):
        return task_id if value == live_id else value
    if isinstance(value, list):
        return [_renamed_task(each, live_id, task_id) for each in value]
    if isinstance(value, dict):
        return {name: _renamed_task(each, live_id, task_id) for name, each in value.items()}
    return value


# Translation from /v1/messages to /v1/chat/completions and back.


def _translated(body: JSONObject, model: str | None) -> JSONObject:
    """Translate a message request to a chat completion request."""
    asked: JSONObject = {"model": model or body["model"], "messages": list(_messages(body))}
    same = ("max_tokens", "stream", "temperature", "top_p", "top_k")
    asked |= {name: body[name] for name in same if body.get(name) is not None}
    if body.get("stop_sequences"):
        asked["stop"] = body["stop_sequences"]
    if body.get("tools"):
        asked["tools"] = [_tool(tool) for tool in body["tools"]]
    if choice := body.get("tool_choice"):
        named = {"type": "function", "function": {"name": choice.get("name")}}
        asked["tool_choice"] = {"any": "required", "tool": named}.get(choice["type"], choice["type"])
        if choice.get("disable_parallel_tool_use"):
            asked["parallel_tool_calls"] = False
    if form := (body.get("output_config") or {}).get("format") or body.get("output_format"):
        schema = {"name": "reply", "schema": form["schema"], "strict": True}
        asked["response_format"] = {"type": "json_schema", "json_schema": schema}
    return asked


def _tool(tool: JSONObject) -> JSONObject:
    described = {"description": tool["description"]} if tool.get("description") else {}
    return {
        "type": "function",
        "function": {"name": tool["name"], **described, "parameters": tool["input_schema"]},
    }


def _messages(body: JSONObject) -> Iterator[JSONObject]:
    if system := body.get("system"):
        yield {"role": "system", "content": _content(system)}
    for message in body["messages"]:
        blocks = message["content"]
        if isinstance(blocks, str):
            yield {"role": message["role"], "content": blocks}
        elif message["role"] == "assistant":
            yield _assistant(blocks)
        else:
            yield from _user(blocks)


def _assistant(blocks: list[JSONObject]) -> JSONObject:
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": compact(block["input"])},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    return {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}


def _user(blocks: list[JSONObject]) -> Iterator[JSONObject]:
    """Yield a message for each tool result, which can only have text, and one for the rest."""
    rest: list[JSONObject] = []
    for block in blocks:
        if block["type"] != "tool_result":
            rest.append(block)
            continue
        given = block.get("content") or ""
        inner = given if isinstance(given, list) else [{"type": "text", "text": given}]
        text = "\n".join(each["text"] for each in inner if each["type"] == "text")
        yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": text}
        rest += [each for each in inner if each["type"] != "text"]
    if rest:
        yield {"role": "user", "content": _content(rest)}


def _content(blocks: str | list[JSONObject]) -> str | list[JSONObject]:
    if isinstance(blocks, str):
        return blocks
    parts = [_part(block) for block in blocks]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(block: JSONObject) -> JSONObject:
    source = block.get("source")
    match block:
        case {"type": "text"}:
            return {"type": "text", "text": block["text"]}
        case {"type": "search_result"}:
            return {"type": "text", "text": anthropic.SearchResult.model_validate(block).text}
        case {"source": {"type": "text", "data": text}}:
            return {"type": "text", "text": text}
        case {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "image", "source": {"type": "url", "url": url}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "document", "source": {"type": "base64", "media_type": kind, "data": data}}:
            file = {"filename": block.get("title") or "document", "file_data": f"data:{kind};base64,{data}"}
            return {"type": "file", "file": file}
    kind = f"{block['type']} of source {source['type']}" if isinstance(source, dict) else block["type"]
    raise APIError(
        400, f"The upstream's route does not support {kind}.", code="unsupported_content", param="messages"
    )


_FINISH: dict[str | None, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def _message(form: ChatForm, reply: JSONObject) -> JSONObject:
    """Translate a chat completion to a message."""
    choice = (reply.get("choices") or [{}])[0]
    message, used = choice.get("message") or {}, usage_in(reply)
    completion = Completion(
        text=message.get("content") or "",
        reasoning=message.get("reasoning_content") or "",
        calls=tuple(_call(call, at) for at, call in enumerate(message.get("tool_calls") or ())),
        refusal=message.get("refusal") or None,
        finish_reason=_FINISH.get(choice.get("finish_reason"), "stop"),
        usage=Usage(used.get("prompt_tokens", 0), used.get("completion_tokens", 0)),
    )
    assert isinstance(form, anthropic.MessageRequest)  # noqa: S101  the route's form
    return anthropic.reply(form, completion, reply_id=_reply_id(reply))


def _reply_id(reply: JSONObject) -> str:
    return f"msg_{str(reply.get('id', '')).rpartition('-')[2]}"


def _call(call: JSONObject, at: int) -> ModelCall:
    function = call.get("function") or {}
    text = function.get("arguments") or "{}"
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = None
    is_object = isinstance(arguments, dict)
    name, call_id = function.get("name") or "", call.get("id") or f"call_{at}"
    return ModelCall(call_id, name, arguments if is_object else {}, partial=None if is_object else text)


async def _message_events(form: ChatForm, chunks: AsyncIterator[JSONObject]) -> AsyncIterator[JSONObject]:
    """Translate chunks to a message's events as they arrive.

    A message's blocks are sequential, but deltas of several calls may alternate. So the first call is
    streamed, and further ones follow when the stream ends.
    """
    blocks = _Blocks()
    finish: str | None = None
    used: JSONObject = {}
    refusal = ""
    first = True
    async for chunk in chunks:
        if first:
            first = False
            head = {"id": _reply_id(chunk), "type": "message", "role": "assistant", "model": form.model}
            counts = {"input_tokens": 0, "output_tokens": 0}  # known at the end
            opening: JSONObject = {
                **head,
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": counts,
            }
            yield {"type": "message_start", "message": opening}
        used = usage_in(chunk) or used
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            finish = choice.get("finish_reason") or finish
            refusal += delta.get("refusal") or ""
            for event in blocks.events(delta):
                yield event
    for event in blocks.end():
        yield event
    stop = anthropic.stop(Completion(finish_reason=_FINISH.get(finish, "stop"), refusal=refusal or None))
    counts = {
        "input_tokens": used.get("prompt_tokens", 0),
        "output_tokens": used.get("completion_tokens", 0),
    }
    yield {"type": "message_delta", "delta": stop, "usage": counts}
    yield {"type": "message_stop"}


class _Blocks:
    """The content blocks of a streamed message."""

    def __init__(self) -> None:
        self._index = -1
        self._kind = ""
        self._thought = ""
        self._calls: dict[Any, JSONObject] = {}

    def events(self, delta: JSONObject) -> Iterator[JSONObject]:
        """Yield what a chunk's delta adds."""
        if reasoning := delta.get("reasoning_content"):
            yield from self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            self._thought += reasoning
            yield self._delta({"type": "thinking_delta", "thinking": reasoning})
        if text := delta.get("content"):
            yield from self._open("text", {"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": text})
        for part in delta.get("tool_calls") or ():
            function = part.get("function") or {}
            key = part.get("index", part.get("id") or next(reversed(self._calls), 0))
            is_new = key not in self._calls
            call = self._calls.setdefault(key, {"id": "", "name": "", "held": ""})
            call["id"] = call["id"] or part.get("id") or f"call_{len(self._calls)}"
            call["name"] = call["name"] or function.get("name") or ""
            is_first = next(iter(self._calls)) == key
            if is_new and is_first:
                yield from self._open("tool_use", _tool_use(call))
            arguments = function.get("arguments") or ""
            if is_first and self._kind == "tool_use" and arguments:
                yield self._delta({"type": "input_json_delta", "partial_json": arguments})
            elif arguments and is_first:
                message = "The upstream continued a tool call after sending text."
                raise APIError(502, message, code="upstream")
            else:
                call["held"] += arguments

    def end(self) -> Iterator[JSONObject]:
        """Yield the buffered calls and the end of the last block."""
        for number, call in enumerate([*self._calls.values()][1:]):
            yield from self._open(f"tool_use {number}", _tool_use(call))
            yield self._delta({"type": "input_json_delta", "partial_json": call["held"]})
        if self._index < 0:
            yield from self._open("text", {"type": "text", "text": ""})
        yield from self._close()

    def _open(self, kind: str, block: JSONObject) -> Iterator[JSONObject]:
        if kind == self._kind:
            return
        yield from self._close()
        self._kind = kind
        self._index += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[JSONObject]:
        if self._kind == "thinking":
            signature = anthropic.signature(self._thought)
            self._thought = ""
            yield self._delta({"type": "signature_delta", "signature": signature})
        if self._kind:
            yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: JSONObject) -> JSONObject:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _tool_use(call: JSONObject) -> JSONObject:
    return {"type": "tool_use", "id": call["id"], "name": call["name"], "input": {}}
