"""Fault injection: which requests are affected, and how their responses are broken."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from pydantic_core import from_json

from piccc.emulator.clock import Clock
from piccc.emulator.request_log import RequestRecord
from piccc.emulator.responses import Message, Receive, Scope, Send
from piccc.emulator.tasks import OUTCOMES
from piccc.emulator.wire import APIError, encoded

_SUBMISSIONS = ("POST /v1/images/tasks", "POST /v1/videos/tasks")
_STREAMING = ("POST /v1/chat/completions", "POST /v1/messages")
ROUTES = (
    *_STREAMING,
    "POST /v1/messages/count_tokens",
    "GET /v1/models",
    "GET /v1/models/*",
    *_SUBMISSIONS,
    "GET /v1/tasks",
    "GET /v1/tasks/*",
    "GET /files/*",
)
_INSTEAD_OF_WORK = frozenset({"disconnect", "html", "empty", "slow"})
_ON_RESPONSES = frozenset({"lost-answer", "cut", "stall", "garbled", "error-event", "drip"})
_ON_CONNECTIONS = frozenset({"close", "hang-up", "idle", "stale"})
_ON_TASKS = OUTCOMES | {"status", "hidden", "webhook"}
_ON_LISTS = frozenset({"drift", "repeat-cursor", "no-cursor"})
_ON_FILES = frozenset({"expired-url"})
_KINDS = _INSTEAD_OF_WORK | _ON_RESPONSES | _ON_CONNECTIONS | _ON_TASKS | _ON_LISTS | _ON_FILES
_COUNTED = frozenset({"cut", "stall", "garbled", "error-event", "drip", "slow", "hidden", "idle"})
_WITH_VALUE = _COUNTED | {"status", "webhook"}
_OPTIONS = {"html": {"status"}, "empty": {"status"}, "stall": {"seconds"}, "webhook": {"seconds", "times"}}
_COUNTED_OPTIONS = frozenset({"seconds", "times", "status", "retry-after-date"})
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
WEBHOOK_FAULTS = frozenset({"late", "twice", "never", "forged", "unsigned", "early", "held", "failing"})


FaultSource = str | Path | Mapping[str, Any] | Iterable[Any] | None


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault to inject, written `kind[:value][;option=value...]`.

    - A status (`429`, `503;retry-after=2`, `429;retry-after-ms=1500`, `429;retry-after-date=5`): refuse
      the request before doing any work.
    - `disconnect`: close the connection without doing the work; `html`, `empty`: respond 200 with a page or
      an empty body instead (`html;status=502` changes the status).
    - `lost-answer`: do the work and charge for it, then close the connection instead of responding.
    - `cut:3`, `stall:3` (`stall:3;seconds=30`), `garbled:3`, `error-event:3`: after three stream events,
      close the connection, stop sending, send a malformed event, or send an error. For a response that
      is not streamed, `cut` and `garbled` send half of it (`cut:N`: N bytes); `stall` delays the body.
    - `slow:2.5`: start 2.5 seconds later; `drip:7`: send seven bytes at a time.
    - On the connection: `close` sends `Connection: close`; `hang-up` closes it right after the response
      without notice; `idle:4` closes it 4 seconds after the response unless it is reused; `stale` closes it
      when the next request arrives, before sending any response.
    - On a submission, the task's outcome: `failed`, `moderated`, `expired`, `cancelled`, `stuck`,
      `no-output`; `status:WORD`: its status while running; `hidden:2`: its first two reads return 404.
    - On a list: `drift` (pages shift as if a task had been added), `repeat-cursor`, `no-cursor`. On a file:
      `expired-url`.
    - On a submission, the task's webhook: `webhook:late;seconds=60`, `webhook:twice`, `:never`, `:forged`,
      `:unsigned`, `:early`, `:held` (until another is sent), `:failing;times=2`.

    Attributes:
        kind: the fault's name or status.
        value: the part after the colon, or None.
        options: the `option=value` parts.
    """

    kind: str
    value: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Parse a fault.

        Args:
            text: its kind, value and options, such as `429;retry-after=1`.

        Returns:
            The fault.

        Raises:
            ValueError: the kind or an option is unknown, or a numeric value is not a number.
        """
        head, *rest = (part.strip() for part in text.split(";"))
        kind, _, value = head.partition(":")
        options = dict(_option(part) for part in rest if part)
        fault = cls(kind, value or None, options)
        if fault.status is None and kind not in _KINDS:
            raise ValueError(f"unknown fault {kind!r}; use a status or one of {', '.join(sorted(_KINDS))}")
        if value and kind not in _WITH_VALUE:
            raise ValueError(f"{text!r}: {kind} takes no value")
        if unknown := [name for name in options if not fault._takes(name)]:
            raise ValueError(f"{text!r}: {kind} has no option {', '.join(unknown)}")
        if not fault._has_valid_numbers():
            raise ValueError(f"{text!r}: expected a number")
        if kind == "webhook" and value not in WEBHOOK_FAULTS:
            raise ValueError(f"webhook: needs one of {', '.join(sorted(WEBHOOK_FAULTS))}, not {value!r}")
        return fault

    def _takes(self, option: str) -> bool:
        if self.status is not None:
            return option in ("message", "code") or option.startswith(("retry-after", "x-"))
        return option in _OPTIONS.get(self.kind, ())

    @property
    def routes(self) -> tuple[str, ...]:
        """Patterns of the routes that the fault can affect."""
        if self.kind in _ON_TASKS:
            return _SUBMISSIONS
        if self.kind in _ON_LISTS:
            return ("GET /v1/tasks",)
        if self.kind in _ON_FILES:
            return ("GET /files/*",)
        return _STREAMING if self.kind == "error-event" else ("*",)

    def __str__(self) -> str:
        head = self.kind if self.value is None else f"{self.kind}:{self.value}"
        return ";".join([head, *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def status(self) -> int | None:
        """The status of the error response, or None."""
        return int(self.kind) if self.kind.isdecimal() and 400 <= int(self.kind) <= 599 else None

    @property
    def breaks_response(self) -> bool:
        """Whether the request is processed normally and only its response is broken."""
        return self.kind in _ON_RESPONSES

    def refusal(self, now: float) -> APIError:
        """Return the error to send.

        Args:
            now: a Unix time in seconds, to which `retry-after-date` is relative.
        """
        headers = {
            name: value for name, value in self.options.items() if name.startswith(("retry-after", "x-"))
        }
        if ahead := headers.pop("retry-after-date", None):
            headers["retry-after"] = formatdate(now + float(ahead), usegmt=True)
        message = self.options.get("message", f"Injected fault: {self}.")
        return APIError(
            self.status or 500, message, code=self.options.get("code", "provoked"), headers=headers
        )

    def _has_valid_numbers(self) -> bool:
        numbers = [value for name, value in self.options.items() if name in _COUNTED_OPTIONS]
        if self.kind in _COUNTED and self.value is not None:
            numbers.append(self.value)
        return all(_NUMBER.fullmatch(number) for number in numbers)

    def number(self, default: float) -> float:
        """Return the value as a number.

        Args:
            default: the number if the fault has no value.
        """
        return default if self.value is None else float(self.value)


@dataclass(slots=True)
class FaultRule:
    """A fault and the requests to inject it into.

    Attributes:
        fault: the fault to inject.
        route: a pattern such as `POST /v1/*`.
        times: the maximum number of hits, or None.
        after: how many matching requests to skip first.
        rate: the probability of a hit for each remaining match, 0 to 1.
        when: a predicate on the request's record, or None.
        is_paused: whether the rule is paused; it keeps its counts.
        seen: how many requests matched.
        hit: how many were hit.
    """

    fault: Fault
    route: str = "*"
    times: int | None = None
    after: int = 0
    rate: float = 1.0
    when: Callable[[RequestRecord], bool] | None = None
    is_paused: bool = False
    seen: int = 0
    hit: int = 0

    def __post_init__(self) -> None:
        routes = [route for route in ROUTES if any(_overlap(route, pattern) for pattern in self.fault.routes)]
        if not any(_overlap(self.route, route) for route in routes):
            raise ValueError(
                f"{self.fault} has no effect on the route {self.route!r}; it affects {', '.join(routes)}"
            )

    def matches(self, record: RequestRecord, draw: Callable[[int], float]) -> bool:
        """Count the request if it matches, and return whether it is hit.

        Args:
            record: the request.
            draw: returns a random number from 0 to 1 for the nth matching request.
        """
        request = f"{record.method} {record.path}"
        if self.is_paused or not (
            fnmatchcase(request, self.route)
            and any(fnmatchcase(request, route) for route in self.fault.routes)
            and (self.when is None or self.when(record))
        ):
            return False
        self.seen += 1
        skipped = self.seen <= self.after or (self.times is not None and self.hit >= self.times)
        if skipped or draw(self.seen) >= self.rate:
            return False
        self.hit += 1
        return True


class Faults:
    """The active fault rules. The same seed and requests produce the same hits."""

    def __init__(self, rules: Iterable[FaultRule] = (), *, seed: int = 0) -> None:
        self.seed = seed
        self.rules = list(rules)

    @classmethod
    def load(cls, source: FaultSource, *, seed: int) -> Faults:
        """Load rules, `{"seed", "rules": [{"fault", "route", "times", "after", "rate"}]}`, or a JSON file."""
        if isinstance(source, str | Path):
            return cls.load(json.loads(Path(source).read_text(encoding="utf-8")), seed=seed)
        if isinstance(source, Mapping):
            return cls.load(source.get("rules", ()), seed=source.get("seed", seed))
        return cls([_rule(item) for item in source or ()], seed=seed)

    def choose(self, record: RequestRecord, header: str | None) -> list[Fault]:
        """Return the faults in the request's header, else that of the first rule that hits."""
        if header:
            return [Fault.parse(part) for part in header.split(",")]
        for number, rule in enumerate(self.rules):
            if rule.matches(record, partial(self._draw, number)):
                return [rule.fault]
        return []

    def _draw(self, rule: int, count: int) -> float:
        digest = blake2b(f"{self.seed}/{rule}/{count}".encode(), digest_size=8).digest()
        return int.from_bytes(digest) / 2**64


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value.strip()


def _rule(item: Any) -> FaultRule:
    if isinstance(item, FaultRule):
        return item
    if isinstance(item, str | Fault):
        item = {"fault": item}
    unknown = item.keys() - {"fault", "route", "times", "after", "rate", "when"}
    if unknown or "fault" not in item:
        flaw = f"unknown keys {', '.join(sorted(unknown))}" if unknown else "no fault"
        raise ValueError(f"fault rule with {flaw} (keys: fault, route, times, after, rate, when): {item}")
    fault = item["fault"]
    return FaultRule(**{**item, "fault": Fault.parse(fault) if isinstance(fault, str) else fault})


@lru_cache(maxsize=1024)
def _overlap(one: str, other: str) -> bool:
    """Return whether some text matches both patterns; sets such as [abc] count as any character."""
    if not one and not other:
        return True
    for left, right in ((one, other), (other, one)):
        if left.startswith("*"):
            return _overlap(left[1:], right) or (bool(right) and _overlap(left, _rest(right)))
    if not one or not other:
        return False
    wild = one[0] in "?[" or other[0] in "?["
    return (wild or one[0] == other[0]) and _overlap(_rest(one), _rest(other))


def _rest(pattern: str) -> str:
    """Return a pattern without its first element."""
    end = pattern.find("]", 2) if pattern.startswith("[") else -1
    return pattern[end + 1 :] if end > 0 else pattern[1:]


@dataclass(slots=True)
class RequestContext:
    """Per-request state: log record, headers (names in lower case), origin, path and query, body, faults.

    `parts` are the path parameters of the route.
    """

    record: RequestRecord
    headers: Mapping[str, str]
    base: str
    path: str
    query_string: str
    parts: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    faults: list[Fault] = field(default_factory=list)

    def fault(self, *kinds: str) -> Fault | None:
        """Return the first fault of one of the given kinds."""
        return next((fault for fault in self.faults if fault.kind in kinds), None)

    @property
    def query(self) -> dict[str, str]:
        """The query parameters."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def json(self) -> Any:
        """Parse the body. Raises APIError 400 if it is not JSON or contains a lone surrogate."""
        # The fast parser also rejects valid but unusual JSON, such as UTF-16; the slow one decides then.
        with suppress(ValueError):
            return from_json(self.body, allow_inf_nan=False)
        try:
            value = json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise APIError(400, "The body is not valid JSON.", code="invalid_json") from None
        # A lone surrogate can only be escaped: UTF-8 cannot encode it (RFC 3629, section 3).
        if b"\\u" in self.body and (path := _lone_surrogate(value)) is not None:
            message = f"{path}: contains a lone surrogate, which is not valid Unicode text."
            raise APIError(400, message, code="invalid_json", param=path)
        return value


def _lone_surrogate(value: Any) -> str | None:
    """Return the path of the first string, or of the object with the first key, that UTF-8 cannot encode."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            if not _encodable(value):
                return path
        elif isinstance(value, dict):
            if not all(map(_encodable, value)):
                return path
            waiting += [(f"{path}.{name}".lstrip("."), inner) for name, inner in reversed(value.items())]
        elif isinstance(value, list):
            inner = [(f"{path}.{at}".lstrip("."), inner) for at, inner in enumerate(value)]
            waiting += reversed(inner)
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_HALF_A_FRAME = b'data: {"choices":[{"delta":{"con\n\n'


@dataclass(slots=True)
class ConnectionState:
    """A TCP connection: how many requests it has carried, and whether the next one closes it."""

    close: Callable[[], None]
    requests: int = 0
    stale: bool = False
    closing: asyncio.Task[None] | None = None


class Connection:
    """A request's connection, for faults that close it."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._state: ConnectionState | None = scope.get("state", {}).get("connection")
        self._receive = receive
        if self._state:
            self._state.requests += 1

    @property
    def state(self) -> ConnectionState:
        """The connection's state. Raises ConnectionAbortedError if another server runs the app."""
        if self._state is None:
            raise ConnectionAbortedError(
                "injected disconnect; this server gives the app no other way to close the connection"
            )
        return self._state

    async def close(self) -> None:
        """Flush pending data, then close the connection."""
        self.state.close()
        await self.until_closed()

    async def until_closed(self) -> None:
        """Wait for the client to disconnect."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def after_response(self, fault: Fault, clock: Clock) -> None:
        """Apply a connection fault once the response is sent."""
        state, requests = self.state, self.state.requests

        async def close_when_idle() -> None:
            await clock.sleep(fault.number(5))
            if state.requests == requests:
                state.close()

        if fault.kind == "hang-up":
            state.close()
        elif fault.kind == "stale":
            state.stale = True
        elif fault.kind == "idle":
            state.closing = asyncio.ensure_future(close_when_idle())


class ResponseFaults:
    """Wraps `send` and breaks the response according to one fault."""

    def __init__(
        self, fault: Fault, context: RequestContext, clock: Clock, connection: Connection, send: Send
    ) -> None:
        self._fault = fault
        self._context = context
        self._clock = clock
        self._connection = connection
        self._send = send
        self._events = 0
        self._streamed = False
        self._broken = False
        self._finished = False
        self._actions: dict[str, Callable[[Message], Awaitable[None]]] = {
            "cut": self._cut,
            "stall": self._stall,
            "garbled": self._garble,
            "error-event": self._err,
        }

    async def send(self, message: Message) -> None:
        """Send an ASGI message, broken if the fault applies to it."""
        if self._finished:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._fault.kind == "drip":
            await self._drip(message)
        elif not self._broken and self._events == self._after:
            self._broken = True
            await self._actions[self._fault.kind](message)
        else:
            self._events += 1
            await self._send(message)

    @property
    def _after(self) -> int:
        return int(self._fault.number(1)) if self._streamed else 0

    async def _start(self, message: Message) -> None:
        if self._fault.kind == "lost-answer":
            await self._end()
            return
        self._streamed = any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in message["headers"]
        )
        self._broken = self._fault.kind == "error-event" and not self._streamed
        await self._send(message)

    async def _end(self) -> None:
        self._finished = True
        await self._connection.close()

    async def _cut(self, message: Message) -> None:
        if not self._streamed:
            body = message["body"]
            kept = int(self._fault.number(len(body) // 2))
            await self._send({**message, "body": body[:kept], "more_body": True})
        await self._end()

    async def _stall(self, message: Message) -> None:
        seconds = self._fault.options.get("seconds")
        if seconds is None:
            self._finished = True
            await self._connection.until_closed()
            return
        await self._clock.sleep(float(seconds))
        await self._send(message)

    async def _garble(self, message: Message) -> None:
        body = message["body"]
        half = _HALF_A_FRAME if self._streamed else body[: len(body) // 2].ljust(len(body))
        await self._send({**message, "body": half})

    async def _err(self, message: Message) -> None:
        record = self._context.record
        error = APIError(529, "The provider is overloaded.", code="overloaded")
        name = b"event: error\n" if record.path.startswith("/v1/messages") else b""
        body = name + b"data: " + encoded(error.envelope(record.path, record.request_id)) + b"\n\n"
        self._finished = True
        await self._send({"type": "http.response.body", "body": body})

    async def _drip(self, message: Message) -> None:
        body, step = message.get("body", b""), max(1, int(self._fault.number(1)))
        for start in range(0, len(body), step):
            await self._send(
                {"type": "http.response.body", "body": body[start : start + step], "more_body": True}
            )
            await asyncio.sleep(0)
        await self._send({**message, "body": b""})
