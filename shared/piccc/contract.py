"""Check statements about the API against a server: requests within a budget, response checks, a report."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from piccc.config import is_loopback, redact

JSON = dict[str, Any]
Origin = Literal["documented", "assumed"]
Verdict = Literal["holds", "differs", "not tried"]
_SHOWN = 4_000
_IN_TABLE = 100
_IN_DETAILS = 700
_LONGEST_FILE = 64 * 1024 * 1024
_BUSY = (429, 502, 503, 504, 529)


@dataclass(frozen=True, slots=True)
class Prices:
    """The maximum cost of a request, in any currency; assumed, since the provider documents no prices."""

    chat: float = 0.01
    image: float = 0.2
    video: float = 2.0


@dataclass(slots=True)
class Exchange:
    """A request and its response, as sent and received, without the key."""

    method: str
    path: str
    request: bytes
    status: int
    headers: Mapping[str, str]
    response: bytes
    before: Exchange | None = None
    """An earlier exchange to compare with."""

    @property
    def json(self) -> Any:
        """The response as JSON, or None."""
        try:
            return json.loads(self.response)
        except ValueError:
            return None

    @property
    def events(self) -> list[Any]:
        """The data of a stream's events: JSON, or `[DONE]`."""
        lines = self.response.decode(errors="replace").split("\n")
        data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        return [each if each == "[DONE]" else json.loads(each) for each in data]


class NotTried(Exception):
    """A statement could not be checked; the message says why."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One exchange that rows check: how to make it, and its price if it succeeds."""

    ask: Callable[[Server], Exchange]
    kind: Literal["free", "chat", "image", "video"] = "free"
    times: float = 1.0


Check = Callable[[Exchange], str]
"""Returns the difference, or "" if the statement holds. Raises NotTried if the exchange shows neither."""


@dataclass(frozen=True, slots=True)
class Row:
    """One statement about the API."""

    name: str
    origin: Origin
    says: str
    sample: str
    check: Check


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a row; `saw` is the difference, or why it was not tried."""

    row: Row
    verdict: Verdict
    saw: str
    exchange: Exchange | None

    def to_json(self) -> JSON:
        """Return the finding as plain JSON data, with the first 4,000 bytes of request and response."""
        row, exchange = self.row, self.exchange
        shown: JSON = {"name": row.name, "origin": row.origin, "says": row.says}
        shown |= {"verdict": self.verdict, "saw": self.saw}
        if exchange:
            shown["request"] = f"{exchange.method} {exchange.path}\n{_text(exchange.request, _SHOWN)}"
            shown["status"] = exchange.status
            shown["headers"] = {name: exchange.headers[name] for name in _HEADERS if name in exchange.headers}
            shown["response"] = _text(exchange.response, _SHOWN)
        return shown


_HEADERS = (
    "content-type",
    "x-request-id",
    "request-id",
    "retry-after",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "idempotency-replayed",
)


@dataclass(slots=True)
class Server:
    """The server under test; each sample is requested once, and only within the budget.

    `models` has a model name for each of chat, image and video, or "" if unknown. `samples` are the exchanges
    that rows check, by name. `poll` and `patience` are in seconds.
    """

    base_url: str
    key: str = field(repr=False)
    models: Mapping[str, str]
    samples: Mapping[str, Sample] = field(repr=False)
    spend: float = 0.0
    prices: Prices = field(default_factory=Prices)
    video_seconds: int = 6
    poll: float = 2.0
    patience: float = 600.0
    spent: float = 0.0
    run_id: str = field(default_factory=lambda: f"contract-{secrets.token_hex(8)}")
    _asked: dict[str, Exchange | NotTried] = field(default_factory=dict)
    _client: httpx.Client | None = None

    def find(self, rows: Iterable[Row]) -> Iterator[Finding]:
        """Check rows, the cheapest first."""
        host = httpx.URL(self.base_url).host
        # Each request has its own connection, since the server may close idle ones.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(timeout=120.0, limits=limits, trust_env=not is_loopback(host)) as client:
            self._client = client
            for row in sorted(rows, key=self._price_of):
                yield self._tried(row)

    def _price_of(self, row: Row) -> float:
        kind = row.sample.partition(".")[0]  # samples that read a task need the task
        return max(self.cost(self.samples[each]) for each in {row.sample, kind} if each in self.samples)

    def cost(self, sample: Sample) -> float:
        """Return the maximum cost of a sample."""
        return 0.0 if sample.kind == "free" else sample.times * float(getattr(self.prices, sample.kind))

    def sample(self, name: str) -> Exchange:
        """Return a sample's exchange, making the request if needed. Raises NotTried."""
        if name not in self._asked:
            sample = self.samples[name]
            cost = self.cost(sample)
            try:
                if self.spent + cost > self.spend + 1e-9:
                    raise NotTried(
                        f"may cost {cost:g}; {self.spend - self.spent:g} of {self.spend:g} are left"
                    )
                self._asked[name] = exchange = sample.ask(self)
                self.spent += cost if exchange.status < 300 else 0.0
            except httpx.HTTPError as error:
                # A request without a response may have been billed.
                self.spent += 0.0 if isinstance(error, httpx.ConnectError) else cost
                self._asked[name] = NotTried(f"no response: {redact(str(error) or type(error).__name__)}")
            except NotTried as error:
                self._asked[name] = error
        result = self._asked[name]
        if isinstance(result, NotTried):
            raise result
        return result

    def ask(
        self,
        method: str,
        path: str,
        body: JSON | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        auth: Literal["bearer", "x-api-key", "none"] = "bearer",
    ) -> Exchange:
        """Send one request. Raises httpx.HTTPError."""
        assert self._client is not None  # noqa: S101  `find` has opened it
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        known = {"bearer": {"authorization": f"Bearer {self.key}"}, "x-api-key": {"x-api-key": self.key}}
        sent = {"content-type": "application/json"} if content is not None else {}
        sent |= {"anthropic-version": "2023-06-01"} if path.startswith("/v1/messages") else {}
        sent |= {**known.get(auth, {}), **(headers or {})}
        url = path if "://" in path else f"{self.base_url}{path}"
        with self._client.stream(method, url, content=content, headers=sent) as response:
            read = b""
            for piece in response.iter_bytes():
                read += piece
                if len(read) > _LONGEST_FILE:
                    break
        return Exchange(method, path, content or b"", response.status_code, response.headers, read)

    def model(self, kind: str) -> str:
        """Return the model name for a kind of request. Raises NotTried."""
        if not self.models.get(kind):
            raise NotTried(f"no {kind} model is configured: set PICCC_{kind.upper()}_MODEL")
        return self.models[kind]

    def _tried(self, row: Row) -> Finding:
        try:
            exchange = self.sample(row.sample)
        except NotTried as error:
            return Finding(row, "not tried", str(error), None)
        if exchange.status in _BUSY:
            return Finding(row, "not tried", f"the server answered {exchange.status}", exchange)
        try:
            saw = row.check(exchange)
        except NotTried as error:
            return Finding(row, "not tried", redact(str(error), [self.key]), _redacted(exchange, self.key))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            saw = f"the response cannot be read: {type(error).__name__}: {error}"
        return Finding(
            row, "differs" if saw else "holds", redact(saw, [self.key]), _redacted(exchange, self.key)
        )


def _redacted(exchange: Exchange, key: str) -> Exchange:
    return Exchange(
        exchange.method,
        redact(exchange.path, [key]),
        redact(exchange.request.decode(errors="replace"), [key]).encode(),
        exchange.status,
        exchange.headers,
        redact(exchange.response.decode(errors="replace"), [key]).encode()
        if _is_text(exchange)
        else exchange.response[:_SHOWN],
    )


def _is_text(exchange: Exchange) -> bool:
    return exchange.headers.get("content-type", "").partition("/")[0] not in ("image", "video")


def _text(raw: bytes, length: int) -> str:
    if b"\0" in raw[:length]:
        return f"{raw[:16].hex(' ')} … ({len(raw)} bytes)"
    text = raw[: length + 4].decode(errors="replace")
    return text if len(raw) <= length else f"{text[:length]}… ({len(raw)} bytes)"


def markdown(findings: Iterable[Finding], base_url: str, spent: float) -> str:
    """Return the report: a table of all rows, then the exchanges of those that differ."""
    findings = list(findings)
    counts = {
        verdict: sum(each.verdict == verdict for each in findings)
        for verdict in ("holds", "differs", "not tried")
    }
    lines = [f"# {redact(base_url)}", ""]
    lines += [
        ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) + f"; spent at most {spent:g}.",
        "",
    ]
    lines += ["| row | origin | statement | verdict | seen |", "|---|---|---|---|---|"]
    for finding in findings:
        row = finding.row
        cells = (row.name, row.origin, row.says, finding.verdict, finding.saw[:_IN_TABLE])
        lines.append(f"| {' | '.join(cell.replace('|', '¦').replace(chr(10), ' ') for cell in cells)} |")
    for finding in findings:
        if finding.verdict == "differs" and finding.exchange:
            exchange = finding.exchange
            sent, got = _text(exchange.request, _IN_DETAILS), _text(exchange.response, _IN_DETAILS)
            kind = exchange.headers.get("content-type", "")
            lines += ["", f"## {finding.row.name}", "", f"{finding.row.says} Seen: {finding.saw}", ""]
            lines += ["````http"]
            lines += [
                f"{exchange.method} {exchange.path}",
                sent,
                "",
                f"{exchange.status} {kind}",
                got,
                "````",
            ]
    return "\n".join(lines) + "\n"


# Checks.


def fits(shape: Any, *, status: int = 200) -> Check:
    """Check the status, and that the response's JSON has a shape.

    A shape is a type, a tuple of types, a value, a compiled pattern, a list with one shape for all items, or
    a dict of required fields; `...` matches anything.
    """

    def check(exchange: Exchange) -> str:
        if exchange.status != status:
            return _wrong_status(exchange, status)
        return misfit(exchange.json, shape, "")

    return check


def _wrong_status(exchange: Exchange, status: int | str) -> str:
    return f"status {exchange.status}, not {status}: {' '.join(_text(exchange.response, 200).split())}"


def misfit(value: Any, shape: Any, path: str) -> str:
    """Return how a value differs from a shape (see `fits`), or "" if it matches."""
    where = path or "the body"
    if shape is ...:
        return ""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is {_named(value)}, not an object"
        fields = ((f"{path}.{name}".lstrip("."), name, inner) for name, inner in shape.items())
        differences = (
            f"{at} is missing" if name not in value else misfit(value[name], inner, at)
            for at, name, inner in fields
        )
        return next(filter(None, differences), "")
    if isinstance(shape, list):
        if not isinstance(value, list) or not value:
            return f"{where} is {_named(value)}, not a list with items"
        return next(
            filter(None, (misfit(each, shape[0], f"{path}.{at}") for at, each in enumerate(value))), ""
        )
    if isinstance(shape, re.Pattern):
        right = isinstance(value, str) and shape.search(value) is not None
        return "" if right else f"{where} is {_named(value)}, which does not match {shape.pattern}"
    if isinstance(shape, type | tuple):
        wrong = not isinstance(value, shape) or (isinstance(value, bool) and shape is int)
        return f"{where} is {_named(value)}" if wrong else ""
    return "" if value == shape else f"{where} is {_named(value)}, not {shape!r}"


def _named(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < _IN_TABLE else f"{text[:_IN_TABLE]}…"


OPENAI_ERROR = {
    "error": {"message": str, "type": str, "code": (str, int, type(None)), "param": (str, type(None))}
}
ANTHROPIC_ERROR = {"type": "error", "error": {"type": str, "message": str}}


def refused(*statuses: int, says: str = "", form: Any = ...) -> Check:
    """Check that the request was rejected; `says` is a pattern for the text, `form` the body's shape."""

    def check(exchange: Exchange) -> str:
        if exchange.status not in statuses:
            return _wrong_status(exchange, " or ".join(map(str, statuses)))
        text = exchange.response.decode(errors="replace")
        if not re.search(says, text, re.IGNORECASE):
            return f"it says {_named(text)}"
        return misfit(exchange.json, form, "")

    return check


def header(name: str, pattern: str = ".") -> Check:
    """Check that the response has a header."""

    def check(exchange: Exchange) -> str:
        value = exchange.headers.get(name)
        return (
            "" if value and re.search(pattern, value) else f"{name} is {value!r} (status {exchange.status})"
        )

    return check


def streamed(check: Callable[[list[Any]], str]) -> Check:
    """Check that the response is a stream, then check its events."""

    def checked(exchange: Exchange) -> str:
        if exchange.status != 200:
            return _wrong_status(exchange, 200)
        kind = exchange.headers.get("content-type", "")
        return check(exchange.events) if kind.startswith("text/event-stream") else f"content-type is {kind!r}"

    return checked


def check_chunks(events: list[Any]) -> str:
    """Check that the events are OpenAI's chunks, with text and one finish_reason."""
    chunks = [event for event in events if event != "[DONE]"]
    shape = {"id": str, "object": "chat.completion.chunk", "created": int, "model": str, "choices": list}
    if wrong := next(filter(None, (misfit(chunk, shape, "chunk") for chunk in chunks)), ""):
        return wrong
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    if not text:
        return "there is no text"
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    return "" if len(reasons) == 1 else f"finish reasons: {reasons}"


def check_done(events: list[Any]) -> str:
    """Check that `[DONE]` is the last event."""
    return "" if events and events[-1] == "[DONE]" else f"the last event is {_named(events[-1:])}"


def check_last_usage(events: list[Any]) -> str:
    """Check that the last chunk has usage and no choices."""
    chunks = [event for event in events if event != "[DONE]"]
    shape = {"choices": [], "usage": {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int}}
    last = chunks[-1] if chunks else None
    if isinstance(last, dict) and last.get("choices") == []:
        return misfit(last["usage"], shape["usage"], "usage")
    return f"the last chunk is {_named(last)}"


def check_no_usage(events: list[Any]) -> str:
    """Check that no chunk has usage."""
    used = [event for event in events if event != "[DONE]" and event.get("usage")]
    return f"usage was sent unasked: {_named(used[0])}" if used else ""


def check_call_deltas(events: list[Any]) -> str:
    """Check that a call's deltas start with index, id and name, and add up to JSON arguments."""
    deltas = [
        call
        for event in events
        if event != "[DONE]"
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    if not deltas:
        return "there is no call"
    first = {"index": 0, "id": re.compile("."), "function": {"name": "weather"}}
    if wrong := misfit(deltas[0], first, "the first delta"):
        return wrong
    if without := [delta for delta in deltas if not isinstance(delta.get("index"), int)]:
        return f"a delta without an index: {_named(without[0])}"
    return _arguments("".join((delta.get("function") or {}).get("arguments") or "" for delta in deltas))


def _arguments(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return "" if isinstance(value, dict) else f"the arguments are {_named(text)}"


def check_call(exchange: Exchange) -> str:
    """Check that a chat completion calls the tool `weather`."""
    function = {"name": "weather", "arguments": str}
    calls = [{"id": re.compile("."), "type": "function", "function": function}]
    choice = {"message": {"tool_calls": calls}, "finish_reason": re.compile("^tool_calls$")}
    if wrong := fits({"choices": [choice]})(exchange):
        return wrong
    return _arguments(exchange.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


def check_event_order(events: list[Any]) -> str:
    """Check that the events are in Anthropic's order."""
    kinds = [event["type"] for event in events if event["type"] != "ping"]
    block = "content_block_start (content_block_delta )*content_block_stop "
    order = f"message_start ({block})+message_delta message_stop"
    return "" if re.fullmatch(order, " ".join(kinds)) else f"the events are {' '.join(dict.fromkeys(kinds))}"


def check_event_names(exchange: Exchange) -> str:
    """Check that each event is named after its type."""
    text = exchange.response.decode(errors="replace").replace("\r\n", "\n")
    frames = [
        dict(line.split(":", 1) for line in frame.split("\n") if ":" in line) for frame in text.split("\n\n")
    ]
    wrong = [
        frame
        for frame in frames
        if "data" in frame and frame.get("event", "").strip() != _type_of(frame["data"])
    ]
    return f"an event is not named after its type: {_named(wrong[0])}" if wrong else ""


def _type_of(data: str) -> Any:
    return json.loads(data).get("type")


def check_message_usage(events: list[Any]) -> str:
    """Check that the first event has the input tokens and the last one the output tokens."""
    start = misfit(
        events[0], {"message": {"usage": {"input_tokens": int, "output_tokens": int}}}, "the first event"
    )
    deltas = [event for event in events if event["type"] == "message_delta"]
    return start or misfit(
        deltas, [{"delta": {"stop_reason": str}, "usage": {"output_tokens": int}}], "message_delta"
    )


def check_input_deltas(events: list[Any]) -> str:
    """Check that a `tool_use` block's input is streamed as pieces of JSON."""
    text = "".join(
        event["delta"].get("partial_json", "") for event in events if event["type"] == "content_block_delta"
    )
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    uses = [block for block in starts if block["type"] == "tool_use"]
    wrong = misfit(uses, [{"id": re.compile("."), "name": "weather", "input": {}}], "the block")
    return wrong or _arguments(text)


def json_text(shape: Any) -> Check:
    """Check that a chat completion's text is JSON of a shape; raise NotTried if it was cut off."""

    def check(exchange: Exchange) -> str:
        if exchange.status != 200:
            return _wrong_status(exchange, 200)
        choice = exchange.json["choices"][0]
        text = choice["message"]["content"]
        try:
            return misfit(json.loads(text), shape, "the answer")
        except ValueError:
            if choice.get("finish_reason") == "length":
                raise NotTried(f"the answer was cut off at max_tokens: {_named(text)}") from None
            return f"the answer is {_named(text)}"

    return check


def not_in_text(stop: str) -> Check:
    """Check that a reply's text does not contain the stop sequence."""

    def check(exchange: Exchange) -> str:
        if exchange.status != 200:
            return _wrong_status(exchange, 200)
        reply = exchange.json
        text = (
            str(reply["choices"][0]["message"]["content"])
            if "choices" in reply
            else "".join(each.get("text", "") for each in reply["content"])
        )
        return f"the answer contains {stop!r}: {_named(text)}" if stop in text else ""

    return check


def check_total(exchange: Exchange) -> str:
    """Check that `total_tokens` is the sum of input and output."""
    used = exchange.json["usage"]
    total = used["prompt_tokens"] + used["completion_tokens"]
    return "" if used["total_tokens"] == total else f"total_tokens is {used['total_tokens']}, the sum {total}"


def media(kind: str) -> Check:
    """Check that a file is an image or a video, and that its media type says so."""

    def check(exchange: Exchange) -> str:
        if exchange.status != 200:
            return _wrong_status(exchange, 200)
        declared = exchange.headers.get("content-type", "")
        head = exchange.response[:12]
        is_kind = {
            "image": head[:4] in (b"\x89PNG", b"RIFF") or head[:2] == b"\xff\xd8",
            "video": head[4:8] == b"ftyp",
        }
        if declared.startswith(f"{kind}/") and is_kind[kind]:
            return ""
        return f"{declared!r}, starting with {head.hex(' ')}"

    return check


def check_part(exchange: Exchange) -> str:
    """Check that the response is a part with the bytes 4 to 7."""
    if exchange.status != 206:
        return _wrong_status(exchange, 206)
    content_range = exchange.headers.get("content-range", "")
    is_right = content_range.startswith("bytes 4-7/") and len(exchange.response) == 4
    return "" if is_right else f"content-range is {content_range!r}"
