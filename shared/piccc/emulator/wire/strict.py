"""Checks for well-formed requests that strict chat servers refuse.

All are assumed, based on public reports about OpenAI's and Anthropic's APIs, vLLM and llama.cpp.
`Emulator(strict=False)` skips them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from piccc.emulator.wire import APIError, anthropic, openai

Flaw = tuple[str, str]
"""The dotted path of the field at fault, and what is wrong with it."""

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOOL_ID = re.compile(r"[A-Za-z0-9_-]+")
_SPEAKER = re.compile(r"[^\s<|\\/>]+")  # the pattern that OpenAI's own error message quotes
_MOST_CACHE_MARKS = 4
_IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)


def check(request: openai.ChatRequest | anthropic.CountRequest, *, signatures: bool = True) -> None:
    """Raise APIError 400 for the first field that strict servers refuse.

    Without `signatures`, accept any thinking signature, because it may come from another server.
    """
    flaws = _chat(request) if isinstance(request, openai.ChatRequest) else _messages(request)
    for param, message in flaws:
        if param.endswith(".signature") and not signatures:
            continue
        raise APIError(400, f"{param}: {message}", code="invalid_value", param=param)


def _chat(request: openai.ChatRequest) -> Iterator[Flaw]:
    yield from _tools([tool.function.name for tool in request.tools or ()], "function.name")
    if request.parallel_tool_calls is not None and not request.tools:
        yield "parallel_tool_calls", "is only allowed with tools."
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        yield "max_tokens", "cannot be combined with max_completion_tokens."
    for at, tool in enumerate(request.tools or ()):
        if tool.function.strict:
            yield from _open_ends(tool.function.parameters or {}, f"tools.{at}.function.parameters")
    wanted = request.response_format
    if isinstance(wanted, openai.SchemaFormat) and wanted.json_schema.strict:
        yield from _open_ends(wanted.json_schema.schema_ or {}, "response_format.json_schema.schema")
    for at, message in enumerate(request.messages):
        where = f"messages.{at}"
        name = getattr(message, "name", None)
        if name is not None and not _SPEAKER.fullmatch(str(name)):
            yield f"{where}.name", "must not contain whitespace or any of < | \\ / >."
        calls = (message.tool_calls or ()) if isinstance(message, openai.Reply) else ()
        for number, call in enumerate(calls):
            inside = f"{where}.tool_calls.{number}.function"
            yield from _names([(f"{inside}.name", call.function.name)])
            if not _is_object(call.function.arguments):
                yield f"{inside}.arguments", "must be a JSON object as text."
        if isinstance(message.content, list):
            for number, part in enumerate(message.content):
                yield from _part(part, f"{where}.content.{number}")
    if any(message.role in ("assistant", "tool") for message in request.messages):
        yield from _unpaired(_chat_steps(request.messages))


def _part(part: openai.Part, where: str) -> Iterator[Flaw]:
    if isinstance(part, openai.Image):
        url = part.image_url.url
        if url.startswith("data:"):
            head, _, data = url.removeprefix("data:").partition(",")
            yield from _mistyped(head.partition(";")[0], data, f"{where}.image_url.url")
    elif isinstance(part, openai.File) and part.file.file_data:
        head, data = "", part.file.file_data
        if data.startswith("data:"):
            head, _, data = data.removeprefix("data:").partition(",")
        elif (part.file.filename or "").lower().endswith(".pdf"):
            head = "application/pdf"
        yield from _mistyped(head.partition(";")[0], data, f"{where}.file.file_data")


def _messages(request: anthropic.CountRequest) -> Iterator[Flaw]:
    yield from _tools([tool.name for tool in request.tools or ()], "name")
    for at, stop in enumerate(getattr(request, "stop_sequences", None) or ()):
        if not stop.strip():
            yield f"stop_sequences.{at}", "must contain non-whitespace text."
    yield from _thinking(request)
    if isinstance(request.system, str):
        if request.system and not request.system.strip():
            yield "system", "must contain non-whitespace text."
    else:
        yield from _blank(request.system or (), "system")
    if request.messages[0].role == "assistant":
        yield "messages.0.role", "the first message must be from the user."
    for at, message in enumerate(request.messages):
        where, last = f"messages.{at}.content", at == len(request.messages) - 1
        optional = last and message.role == "assistant"
        if isinstance(message.content, str):
            if not message.content.strip() and not (optional and not message.content):
                yield where, "must contain non-whitespace text."
        elif not message.content and not optional:
            yield where, "must not be empty."
        else:
            yield from _blocks(message.content, where)
        if optional:
            yield from _trailing(message.content, where)
    marks = list(_cache_marks(request))
    if len(marks) > _MOST_CACHE_MARKS:
        yield marks[_MOST_CACHE_MARKS], f"at most {_MOST_CACHE_MARKS} blocks may have cache_control."
    yield from _unpaired(_message_steps(request.messages))


def _thinking(request: anthropic.CountRequest) -> Iterator[Flaw]:
    thinking = request.thinking
    if thinking is None or thinking.type == "disabled":
        return
    if request.tool_choice and request.tool_choice.type in ("any", "tool"):
        yield "tool_choice", "thinking cannot be combined with a forced tool."
    yield from _unthought(request.messages)
    if not isinstance(request, anthropic.MessageRequest):
        return
    if request.temperature not in (None, 1):
        yield "temperature", "must be 1 when thinking is enabled."
    if isinstance(thinking, anthropic.ThinkingOn) and thinking.budget_tokens >= request.max_tokens:
        yield "thinking.budget_tokens", "must be less than max_tokens."


def _unthought(messages: list[anthropic.Message]) -> Iterator[Flaw]:
    """Check that a thinking block precedes the calls answered in the last turn."""
    at = next((at for at, each in reversed([*enumerate(messages)]) if each.role == "assistant"), -1)
    while at > 0 and messages[at - 1].role == "assistant":
        at -= 1
    ends = [block for each in messages[at + 1 :] if isinstance(each.content, list) for block in each.content]
    first = messages[at].content[0] if messages[at].content else None
    thought = isinstance(first, anthropic.Thinking | anthropic.RedactedThinking)
    if at >= 0 and not thought and any(isinstance(each, anthropic.ToolResult) for each in ends):
        yield (
            f"messages.{at}.content.0.type",
            "when thinking is enabled, a turn with tool calls must start with a thinking block.",
        )


def _blocks(blocks: Iterable[Any], where: str) -> Iterator[Flaw]:
    blocks = list(blocks)
    yield from _blank(blocks, where)
    for number, block in enumerate(blocks):
        path = f"{where}.{number}"
        if isinstance(block, anthropic.ToolUse):
            yield from _names([(f"{path}.name", block.name)])
            yield from _ids(block.id, f"{path}.id")
        elif isinstance(block, anthropic.ToolResult):
            yield from _ids(block.tool_use_id, f"{path}.tool_use_id")
            if isinstance(block.content, list):
                yield from _blocks(block.content, f"{path}.content")
        elif isinstance(block, anthropic.Thinking):
            if block.signature != anthropic.signature(block.thinking):
                yield f"{path}.signature", "does not match this server's signature of the thinking."
        elif isinstance(block, anthropic.Image | anthropic.Document):
            source = block.source
            if isinstance(source, anthropic.Base64Source):
                yield from _mistyped(source.media_type, source.data, f"{path}.source.media_type")


def _blank(blocks: Iterable[Any], where: str) -> Iterator[Flaw]:
    for number, block in enumerate(blocks):
        if isinstance(block, anthropic.Text) and not block.text.strip():
            yield f"{where}.{number}.text", "must contain non-whitespace text."


def _trailing(content: str | list[Any], where: str) -> Iterator[Flaw]:
    text = content
    if isinstance(content, list):
        last = content[-1] if content else None
        text, where = (
            (last.text, f"{where}.{len(content) - 1}.text")
            if isinstance(last, anthropic.Text)
            else ("", where)
        )
    if isinstance(text, str) and text != text.rstrip():
        yield where, "must not end with whitespace when it is the final message."


def _cache_marks(request: anthropic.CountRequest) -> Iterator[str]:
    def marked(blocks: Iterable[Any], where: str) -> Iterator[str]:
        for number, block in enumerate(blocks):
            if isinstance(block, anthropic.ToolResult) and isinstance(block.content, list):
                yield from marked(block.content, f"{where}.{number}.content")
            if getattr(block, "cache_control", None) is not None:
                yield f"{where}.{number}.cache_control"

    yield from marked(request.tools or (), "tools")
    if isinstance(request.system, list):
        yield from marked(request.system, "system")
    for at, message in enumerate(request.messages):
        if isinstance(message.content, list):
            yield from marked(message.content, f"messages.{at}.content")


def _names(named: Iterable[tuple[str, str]]) -> Iterator[Flaw]:
    for param, name in named:
        if not _TOOL_NAME.fullmatch(name):
            yield param, f"must match {_TOOL_NAME.pattern}, which {name!r} does not."


def _tools(names: list[str], field: str) -> Iterator[Flaw]:
    yield from _names((f"tools.{at}.{field}", name) for at, name in enumerate(names))
    for at, name in enumerate(names):
        if name in names[:at]:
            yield f"tools.{at}.{field}", f"duplicate tool name {name!r}."


def _ids(call_id: str, param: str) -> Iterator[Flaw]:
    if not _TOOL_ID.fullmatch(call_id):
        yield param, f"must match {_TOOL_ID.pattern}, which {call_id!r} does not."


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _mistyped(declared: str, data: str, param: str) -> Iterator[Flaw]:
    """Compare a declared media type with the first bytes of the content."""
    if not declared.startswith("image/") and declared != "application/pdf":
        return
    try:
        start = base64.b64decode("".join(data[:64].split())[:32])
    except (binascii.Error, ValueError):
        return  # the form itself refuses invalid base64
    actual = next((kind for magic, kind in _SIGNATURES if start.startswith(magic)), None)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        actual = "image/webp"
    if declared.startswith("image/") and declared not in _IMAGE_TYPES:
        yield param, f"must be one of {', '.join(sorted(_IMAGE_TYPES))}, not {declared}."
    elif actual != declared:
        yield param, f"declares {declared}, but the content is {actual or 'something else'}."


def _open_ends(schema: Any, param: str, place: str = "") -> Iterator[Flaw]:
    """Yield where a schema violates the rules of OpenAI's `strict`.

    https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
    """
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties", {})
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            yield param, f"strict needs additionalProperties: false at {place or 'the root'}."
        if missing := sorted(properties.keys() - set(schema.get("required", ()))):
            yield (
                param,
                f"strict needs every property in required at {place or 'the root'}: {', '.join(missing)}.",
            )
    for key in ("properties", "$defs", "definitions"):
        for name, inner in schema.get(key, {}).items():
            yield from _open_ends(inner, param, f"{place}/{key}/{name}")
    for key in ("anyOf", "allOf", "oneOf", "prefixItems"):
        for number, inner in enumerate(schema.get(key, ())):
            yield from _open_ends(inner, param, f"{place}/{key}/{number}")
    yield from _open_ends(schema.get("items"), param, f"{place}/items")


class _Step(NamedTuple):
    """A call, a result or other content, for pairing calls with results; `param` is its path."""

    kind: Literal["call", "result", "other"]
    param: str
    call_id: str = ""
    turn: int = 0


def _chat_steps(messages: Iterable[openai.Message]) -> Iterator[_Step]:
    for at, message in enumerate(messages):
        where = f"messages.{at}"
        if isinstance(message, openai.Result):
            yield _Step("result", f"{where}.tool_call_id", message.tool_call_id, at)
            continue
        yield _Step("other", where, turn=at)
        if isinstance(message, openai.Reply):
            for number, call in enumerate(message.tool_calls or ()):
                yield _Step("call", f"{where}.tool_calls.{number}.id", call.id, at)


def _message_steps(messages: Iterable[anthropic.Message]) -> Iterator[_Step]:
    """Yield the steps, merging consecutive turns of the same role as Anthropic's API does."""
    turn, role = -1, ""
    for at, message in enumerate(messages):
        where = f"messages.{at}.content"
        if message.role != role:
            turn, role = turn + 1, message.role
        if isinstance(message.content, str):
            yield _Step("other", where, turn=turn)
            continue
        for number, block in enumerate(message.content):
            if isinstance(block, anthropic.ToolUse):
                yield _Step("call", f"{where}.{number}.id", block.id, turn)
            elif isinstance(block, anthropic.ToolResult):
                yield _Step("result", f"{where}.{number}.tool_use_id", block.tool_use_id, turn)
            else:
                yield _Step("other", f"{where}.{number}", turn=turn)


def _unpaired(steps: Iterable[_Step]) -> Iterator[Flaw]:
    """Check that each call has a unique id and exactly one result, in the next turn."""
    seen: set[str] = set()
    pending: dict[str, _Step] = {}
    for step in steps:
        if step.kind == "result":
            if step.call_id not in pending:
                yield step.param, f"the previous turn has no open call {step.call_id!r}."
            pending.pop(step.call_id, None)
            continue
        if first := next((call for call in pending.values() if call.turn != step.turn), None):
            yield first.param, f"the call {first.call_id!r} needs its result before {step.param}."
        if step.kind == "call":
            if step.call_id in seen:
                yield step.param, f"the id {step.call_id!r} is used twice."
            seen.add(step.call_id)
            pending[step.call_id] = step
    for step in pending.values():
        yield step.param, f"the call {step.call_id!r} has no result."
