"""Recordings: another server's chat responses and tasks, saved and replayed for equivalent requests.

A file consists of JSON lines. The first is a header. Each exchange then has a normalized request, without
the parts it shares with an earlier one (`after`), and its response (`answers`). A stream event that differs
from the previous one only in its text is stored as that text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from piccc.emulator.clock import Clock, Latency
from piccc.emulator.request_log import RequestLog
from piccc.emulator.upstream import Answer, ChatForm, Given, JSONObject, Seen, Upstream, usage_in
from piccc.emulator.wire import APIError

Mode = Literal["replay", "record", "once"]

_VERSION = 1
_AROUND = 40
_SHOWN_DIFFERENCES = 3
_BASE64 = re.compile(r"(?:data:[^,]{0,100},)?[A-Za-z0-9+/=_\r\n-]{200,}")
_ID = re.compile(
    r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"  # RFC 9562, section 4
    r"|\b(?:call|chatcmpl|evt|file|msg|req|resp|run|task|toolu)[_-]{1,2}(?=[\w-]*\d)[\w-]{6,}"
)
_TIME = re.compile(
    r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?: ?Z|[+-]\d\d:?\d\d)?)?"  # ISO 8601
    r"|\b\d\d:\d\d:\d\d\b"
    r"|\b1[5-9]\d{8}(?:\d{3})?\b"  # seconds or milliseconds since 1970
)
_ORIGIN = re.compile(r"https?://(?:127\.0\.0\.1|localhost|\[::1\]):\d+")
_SIGNED = re.compile(r"(?i)([?&][\w-]*(?:credential|expires|key|sig|signature|token)=)[^&\s\"'\\]+")
_CALL_IDS = frozenset({"id", "tool_call_id", "tool_use_id"})
_HEAD = ("id", "object", "created", "model")
_TEXTS: tuple[tuple[str | int, ...], ...] = (
    ("choices", 0, "delta", "content"),
    ("choices", 0, "delta", "reasoning_content"),
    ("choices", 0, "delta", "tool_calls", 0, "function", "arguments"),
    ("delta", "text"),
    ("delta", "thinking"),
    ("delta", "partial_json"),
)
"""Where the text is in an event."""


@dataclass(slots=True)
class _Exchange:
    """A normalized request and its answer: a `reply`, `events` or a `task`."""

    number: int
    route: str
    body: JSONObject
    answer: JSONObject = field(default_factory=dict)
    uses: int = 0


class Recording:
    """Answers from a file, or from an upstream while recording.

    - `mode` is `replay`, `record` (overwrite) or `once`, which records only if there is no file yet.
    - `hidden` are secrets to redact. Anything that looks like a key is redacted too.

    Raises:
        ValueError: there is nothing to replay or record, or the file is not a recording.
        OSError: the file cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        mode: Mode,
        upstream: Upstream | None,
        *,
        hidden: Iterable[str],
        clock: Clock,
        latency: Latency,
    ) -> None:
        if mode not in ("replay", "record", "once"):
            raise ValueError(f"mode must be replay, record or once, not {mode!r}")
        self.key = upstream.key if upstream else None
        self._redacted = RequestLog([*hidden, self.key or ""]).redacted
        self._path = Path(path)
        self._clock = clock
        self._latency = latency
        self.is_piccc = upstream is not None and upstream.is_piccc
        self._has_head = False
        self._exchanges: list[_Exchange] = []
        self._by_request: dict[tuple[str, str], list[_Exchange]] = defaultdict(list)
        self._submissions: dict[str, int] = defaultdict(int)
        self._running: dict[str, _Exchange] = {}
        replays = mode == "replay" or (mode == "once" and self._path.exists())
        self._upstream = None if replays else upstream
        if self._upstream is None:
            if not self._path.exists():
                raise ValueError(f"{path} does not exist yet; set upstream to the server to record")
            self._load()

    async def answer(self, path: str, body: JSONObject, form: ChatForm) -> Answer:
        """Replay the answer to an equivalent request, or get it from the upstream and record it."""
        route, meant = f"POST {path}", self._meaning(body)
        if self._upstream is None:
            return await self._replayed(self._match(route, meant).answer, form)
        answer = await self._upstream.answer(path, body, form)
        if isinstance(answer, dict):
            self._keep(route, meant, {"reply": _without_head(answer)})
            return answer
        return self._recorded(route, meant, answer)

    async def submit(
        self, route: str, body: JSONObject, headers: Mapping[str, str], task_id: str = ""
    ) -> Given | None:
        """Replay a task's outcome, or submit it to the upstream; a replay uses the same id."""
        meant = self._meaning(body)
        mark = f"{route} {_canonical(meant)}"
        self._submissions[mark] += 1
        task_id = f"task_{sha256(f'{mark} {self._submissions[mark]}'.encode()).hexdigest()[:24]}"
        if not self.is_piccc:
            return Given(task_id)
        if self._upstream is None:
            outcome = self._match(route, meant).answer.get("task") or {"status": "stuck"}
            return Given(task_id, outcome["status"], outcome.get("error"))
        given = await self._upstream.submit(route, body, headers, task_id)
        self._running[task_id] = self._keep(route, meant, None)
        return given

    async def read(self, task_id: str) -> Seen | None:
        """Read a task from the upstream, and record how it ended.

        It is shown in the emulator's form and with the emulator's output, so that programs see the same URLs
        and images as in a replay.
        """
        seen = await self._upstream.read(task_id) if self._upstream else None
        if seen is None:
            return None
        if seen.outcome and task_id in self._running:
            self._write({"answers": self._running.pop(task_id).number, "task": seen.outcome})
        return Seen(seen.outcome, None)

    async def close(self) -> None:
        """Close the connections."""
        if self._upstream is not None:
            await self._upstream.close()

    def reset(self) -> None:
        """Restart sequences of identical exchanges from the first."""
        self._submissions.clear()
        for exchange in self._exchanges:
            exchange.uses = 0

    def _meaning(self, body: JSONObject) -> JSONObject:
        """Normalize a request for matching, without ids, secrets or binary data."""
        meant: JSONObject = _meant(body, self._redacted, {})
        meant.pop("webhook", None)  # its address differs every time
        return meant

    def _match(self, route: str, meant: JSONObject) -> _Exchange:
        """Return the next matching exchange, or repeat the last one."""
        # Compare timestamps first; ignore them only if no exchange matches exactly.
        for key in (_canonical(meant), _TIME.sub("<time>", _canonical(meant))):
            if matches := self._by_request.get((route, key)):
                exchange = next((match for match in matches if not match.uses), matches[-1])
                exchange.uses += 1
                return exchange
        raise APIError(400, self._miss(route, meant), code="not_recorded")

    def _miss(self, route: str, meant: JSONObject) -> str:
        same = [exchange for exchange in self._exchanges if exchange.route == route]
        if not same:
            routes = ", ".join(sorted({exchange.route for exchange in self._exchanges})) or "nothing"
            return f"{self._path.name} has no {route}, only {routes}. Record it again."
        compared = [(*_differences(exchange.body, meant), exchange.number) for exchange in same]
        _, differences, number = min(compared, key=lambda row: (-row[0], len(row[1])))
        shown = "; ".join(differences[:_SHOWN_DIFFERENCES])
        more = len(differences) - _SHOWN_DIFFERENCES
        return (
            f"{self._path.name} does not contain this request. The closest is number {number}, which differs "
            f"in {shown}{f'; and {more} more places' if more > 0 else ''}. If intended, record it again."
        )

    async def _replayed(self, answer: JSONObject, form: ChatForm) -> Answer:
        head: JSONObject = {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": "chat.completion"}
        head |= {"created": int(self._clock.now()), "model": form.model}
        if "events" in answer:
            return self._replayed_events(answer["events"], {**head, "object": "chat.completion.chunk"})
        reply: JSONObject = answer["reply"]
        tokens = usage_in(reply).get("completion_tokens", 0)
        await self._clock.sleep(self._latency.first_token + tokens * self._latency.token)
        return _with_head(reply, head)

    async def _replayed_events(self, events: list[Any], head: JSONObject) -> AsyncIterator[JSONObject]:
        wait = self._latency.first_token
        for event in _unpacked(events):
            await self._clock.sleep(wait)
            wait = self._latency.token
            yield _with_head(event, head)

    async def _recorded(
        self, route: str, meant: JSONObject, events: AsyncIterator[JSONObject]
    ) -> AsyncIterator[JSONObject]:
        """Forward events, and record them once the stream is complete."""
        passed: list[JSONObject] = []
        async for event in events:
            passed.append(deepcopy(event))
            if event.get("type") == "message_stop":  # a client may disconnect after this event
                self._keep(route, meant, {"events": _packed(passed, self._redacted)})
            yield event
        if passed and passed[-1].get("type") != "message_stop":
            self._keep(route, meant, {"events": _packed(passed, self._redacted)})

    def _keep(self, route: str, meant: JSONObject, answer: JSONObject | None) -> _Exchange:
        exchange = _Exchange(len(self._exchanges) + 1, route, meant)
        request = {"number": exchange.number, "request": route, **_shared(exchange, self._exchanges)}
        self._write(request, *([{"answers": exchange.number, **answer}] if answer else ()))
        self._exchanges.append(exchange)
        return exchange

    def _write(self, *lines: JSONObject) -> None:
        if not self._exchanges:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            head = {"recording": "piccc", "version": _VERSION, "tasks": self.is_piccc}
            self._path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        # UTF-8 cannot encode a lone surrogate; JSON can escape it.
        texts = [
            json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace").decode() for line in lines
        ]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(f"{self._redacted(_unsigned(text))}\n" for text in texts)

    def _load(self) -> None:
        for number, line in enumerate(self._path.read_text(encoding="utf-8").split("\n"), 1):
            try:
                if line:
                    self._read(json.loads(line))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                needed = "it needs recording, version and tasks, or request and body, or answers"
                reason = error if isinstance(error, ValueError) else needed
                message = f"{self._path}, line {number}: not a valid recording line: {reason}"
                raise ValueError(message) from None
        if not self._has_head:
            flaw = "it has no line with recording, version and tasks; delete it to record again"
            raise ValueError(f"{self._path} is not a recording: {flaw}")
        for exchange in self._exchanges:
            exact = _canonical(exchange.body)
            for key in {exact, _TIME.sub("<time>", exact)}:
                self._by_request[exchange.route, key].append(exchange)

    def _read(self, line: JSONObject) -> None:
        if "recording" in line:
            if line["version"] != _VERSION:
                raise ValueError(f"unsupported version {line['version']}, expected {_VERSION}")
            self.is_piccc, self._has_head = bool(line["tasks"]), True
        elif "answers" in line:
            self._exchanges[line["answers"] - 1].answer = line
        else:
            body = line["body"]
            if "after" in line:
                earlier = self._exchanges[line["after"] - 1].body
                body = {**earlier, **body, "messages": earlier["messages"] + body["messages"]}
            body = {name: value for name, value in body.items() if value is not None}
            self._exchanges.append(_Exchange(len(self._exchanges) + 1, line["request"], body))


def _canonical(meant: JSONObject) -> str:
    return json.dumps(meant, sort_keys=True)


def _unsigned(text: str) -> str:
    """Redact credentials in signed URLs."""
    return _SIGNED.sub(r"\1[redacted]", text)


def _meant(value: Any, redacted: Callable[[str], str], ids: dict[str, str], name: str = "") -> Any:
    """Normalize a value for matching; `ids` maps ids seen so far to placeholders."""
    if isinstance(value, str):
        if name in _CALL_IDS:
            return ids.setdefault(value, f"<id {len(ids) + 1}>")
        if name == "arguments":
            try:
                return _meant(json.loads(value or "{}"), redacted, ids)
            except ValueError:
                pass
        if _BASE64.fullmatch(value):
            return f"<{len(value)} characters, sha256 {sha256(value.encode()).hexdigest()[:16]}>"
        text = _ORIGIN.sub("<origin>", redacted(_unsigned(value)))
        return _ID.sub(lambda found: ids.setdefault(found[0], f"<id {len(ids) + 1}>"), text)
    if isinstance(value, list):
        if name == "content" and len(value) == 1 and value[0].keys() == {"type", "text"}:
            return _meant(value[0]["text"], redacted, ids)
        return [_meant(each, redacted, ids) for each in value]
    if isinstance(value, dict):
        return {
            key: _meant(each, redacted, ids, key)
            for key, each in sorted(value.items())
            if each is not None and (key, each) != ("stream", False)
        }
    return value


def _shared(exchange: _Exchange, earlier: list[_Exchange]) -> JSONObject:
    """Return a request as stored: without the parts it shares with the request that it continues."""
    body = exchange.body
    messages = body.get("messages", [])
    for other in reversed(earlier):
        before = other.body.get("messages")
        if before and other.route == exchange.route and messages[: len(before)] == before:
            rest = {name: value for name, value in body.items() if other.body.get(name) != value}
            gone = dict.fromkeys(other.body.keys() - body.keys())
            return {"after": other.number, "body": {**gone, **rest, "messages": messages[len(before) :]}}
    return {"body": body}


def _differences(recorded: JSONObject, sent: JSONObject) -> tuple[int, list[str]]:
    """Return the number of equal values in two requests, and a description of each difference."""
    before, now = dict(_leaves(recorded)), dict(_leaves(sent))
    paths = {**before, **now}
    differences = [
        f"{path}: recorded {_shown(before, path, now)}, sent {_shown(now, path, before)}"
        for path in paths
        if path not in before or path not in now or before[path] != now[path]
    ]
    return len(paths) - len(differences), differences


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not inner:
        yield path, value
    for name, each in inner:
        yield from _leaves(each, f"{path}.{name}" if path else str(name))


def _shown(values: Mapping[str, Any], path: str, others: Mapping[str, Any]) -> str:
    """Format a value; of a long text, the part around the first difference."""
    if path not in values:
        return "nothing"
    value, other = values[path], others.get(path)
    if not isinstance(value, str) or len(value) <= 2 * _AROUND:
        return json.dumps(value, ensure_ascii=False)
    other = other if isinstance(other, str) else ""
    at = next(
        (at for at, pair in enumerate(zip(value, other, strict=False)) if pair[0] != pair[1]), len(other)
    )
    start = max(0, at - _AROUND)
    part = json.dumps(value[start : at + _AROUND], ensure_ascii=False)
    return f"{'…' if start else ''}{part}{'…' if at + _AROUND < len(value) else ''}"


# Answers as stored in the file.


def _without_head(event: JSONObject) -> JSONObject:
    """Remove the fields that change with every reply."""
    if isinstance(event.get("message"), dict):
        return {**event, "message": _without_head(event["message"])}
    return {name: value for name, value in event.items() if name not in _HEAD}


def _with_head(event: JSONObject, head: JSONObject) -> JSONObject:
    if "choices" in event:
        return {**head, **event}
    new = {"id": head["id"].replace("chatcmpl-", "msg_"), "model": head["model"]}
    if isinstance(event.get("message"), dict):
        return {**event, "message": {**new, **event["message"]}}
    return {**new, **event} if event.get("type") == "message" else event


def _packed(events: list[JSONObject], redacted: Callable[[str], str]) -> list[Any]:
    """Store an event that differs from the previous one only in its text as that text.

    A secret split across events shows only when they are joined. In that case, store them as one event.
    """
    packed: list[Any] = []
    before: JSONObject | None = None
    for event in map(_without_head, events):
        text, blank = _blanked(event)
        packed.append(text if text is not None and blank == before else event)
        before = blank
    starts = [at for at, each in enumerate(packed) if not isinstance(each, str)]
    for start, end in reversed([*zip(starts, [*starts[1:], len(packed)], strict=True)]):
        text = (_blanked(packed[start])[0] or "") + "".join(packed[start + 1 : end])
        if (shown := redacted(_unsigned(text))) != text:
            packed[start:end] = [_blanked(packed[start], shown)[1]]
    return packed


def _unpacked(packed: list[Any]) -> Iterator[JSONObject]:
    event: JSONObject = {}
    for each in packed:
        event = _blanked(event, each)[1] if isinstance(each, str) else deepcopy(each)
        yield event


def _blanked(event: JSONObject, text: str = "") -> tuple[str | None, JSONObject]:
    """Return an event's text, or None, and the event with that text replaced."""
    other = deepcopy(event)
    for *path, last in _TEXTS:
        place: Any = other
        try:
            for name in path:
                place = place[name]
            found = place[last]
        except (LookupError, TypeError):
            continue
        if isinstance(found, str):
            place[last] = text
            return found, other
    return None, other
