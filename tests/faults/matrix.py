"""The fault matrix: what goes wrong, and how each kind of call handles it.

A row has the fault, the server's answer to each attempt, and the expected outcome for chat, streamed chat,
task submission and reads. An expectation is `Error xN`, where N requests reached the server, then `waits S`
(total seconds slept, with maximum jitter), `billed` (the server may have acted), and `has TEXT` (what a
broken stream delivered). `ok` is the healthy answer.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from itertools import groupby

from piccc.config import Timeout
from tests.faults.calls import KINDS, MODES, OWN_MODES, Mode
from tests.faults.replies import DONE, EVENTS, USAGE, anthropic_event, event, openai_chunk, whole
from tests.faults.server import CLOSE, HANG, RESET, Answer, chunk, head, reply, stream, stream_head

SOON = 0.3
"""Timeouts are multiples of this, so that a healthy server meets them even on a busy machine."""
PATIENT = Timeout()
Answers = Sequence[Answer] | Callable[[str], Sequence[Answer]]


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected outcome of one call."""

    error: str | None
    requests: int
    waits: float
    billed: bool
    partial: str | None

    @classmethod
    def read(cls, text: str) -> Expected:
        """Parse an expectation. Raises ValueError if it is malformed."""
        match = re.fullmatch(r"(\w+) x(\d+)(?: waits ([\d.]+))?( billed)?(?: has (.*))?", text)
        if match is None:
            raise ValueError(text)
        error, requests, waits, billed, partial = match.groups()
        return cls(None if error == "ok" else error, int(requests), float(waits or 0), bool(billed), partial)


@dataclass(frozen=True, slots=True)
class Fault:
    """One row. `retry_unknown` is the caller's setting; `jitter` is the backend's random value."""

    name: str
    answers: Answers
    chat: str
    stream: str
    submit: str
    read: str
    timeout: Timeout = PATIENT
    retry_unknown: bool = False
    jitter: float = 1.0

    def expected(self, kind: str) -> Expected:
        """Return the expected outcome for a kind of call."""
        if "stream" in kind:
            return Expected.read(self.stream)
        columns = {"submit": self.submit, "poll": self.read, "list": self.read}
        return Expected.read(columns.get(kind, self.chat))

    def script(self, kind: str) -> Sequence[Answer]:
        """Return the server's answers to a kind of call."""
        return self.answers(kind) if callable(self.answers) else self.answers


def healthy(kind: str, *headers: str) -> Answer:
    """Return a correct answer."""
    if "stream" not in kind:
        return [reply(200, whole(kind), *headers)]
    return stream(*EVENTS[kind.removesuffix("-stream")].values())


def body(data: bytes, *headers: str) -> list[Answer]:
    """Answer 200 with the given bytes as JSON."""
    return [[reply(200, data, *headers)]]


def after(*first: Answer) -> Callable[[str], list[Answer]]:
    """Give these answers first, then a correct one."""
    return lambda kind: [*first, healthy(kind)]


def same(name: str, answers: Answers, expected: str, **options: object) -> Fault:
    """Return a row with the same outcome for every kind of call."""
    return Fault(name, answers, expected, expected, expected, expected, **options)  # type: ignore[arg-type]  # Fault's fields


def status(name: str, answer: bytes, error: str) -> Fault:
    """Return a row for a status that is never retried."""
    return same(name, [[answer]], f"{error} x1")


def lost(name: str, answers: Answers, **options: object) -> Fault:
    """Return a row for a request that was sent but got no response."""
    chat = "ResponseLostError x1 billed"
    read = "APIConnectionError x3 waits 1.5"
    return Fault(name, answers, chat, chat, "SubmissionUnknown x1 billed", read, **options)  # type: ignore[arg-type]  # Fault's fields


def unreadable(name: str, answers: Answers, *, stream: str = "ResponseError x1 billed") -> Fault:
    """Return a row for a 200 with unusable content."""
    return Fault(
        name, answers, "ResponseError x1 billed", stream, "SubmissionUnknown x1 billed", "ResponseError x1"
    )


def _redirect(status: int, target: str) -> Fault:
    # The test fills in {target}: this server's URL, or another server's.
    answer = [reply(status, b"", f"location: {target}/v1/elsewhere")]
    read = "ok x2" if target == "{here}" else "ResponseError x1"
    chat = "ResponseError x1 billed" if status == 303 else "ResponseError x1"
    submit = "SubmissionUnknown x1 billed" if status == 303 else "ResponseError x1"
    return Fault(f"{status} to {target}", lambda kind: [answer, healthy(kind)], chat, chat, submit, read)


PAUSE = "RateLimitError x3 waits {}"
THEN = formatdate(1_900_000_000, usegmt=True)
LATER = formatdate(1_900_000_007, usegmt=True)

SILENCE = [
    lost("reset before the status", [[RESET]]),
    lost("closed before the status", [[CLOSE]]),
    lost("half a status line", [[b"HTTP/1.1 20", CLOSE]]),
    lost("half the headers", [[b"HTTP/1.1 200 OK\r\ncontent-type: appl", CLOSE]]),
    lost("reset in the headers", [[b"HTTP/1.1 200 OK\r\ncontent-type: appl", RESET]]),
    lost("closed after 100 Continue", [[b"HTTP/1.1 100 Continue\r\n\r\n", CLOSE]]),
    lost("not HTTP", [[b"220 smtp.example ESMTP\r\n\r\n", CLOSE]]),
    lost(
        "closed in the body",
        [[head(200, "content-type: application/json", "content-length: 999"), b'{"id":', CLOSE]],
    ),
    Fault(
        "silence after sending",
        [[HANG]],
        "APITimeoutError x1 billed",
        "APITimeoutError x1 billed",
        "SubmissionUnknown x1 billed",
        "APITimeoutError x3",
        timeout=Timeout(total=6 * SOON),
        jitter=0.0,
    ),
    Fault(
        "headers byte by byte",
        [[b"HTTP/1.1 200 OK\r\nx-drip: ", *[step for _ in range(40) for step in (b"x", SOON / 5)], HANG]],
        "APITimeoutError x1 billed",
        "APITimeoutError x1 billed",
        "SubmissionUnknown x1 billed",
        "APITimeoutError x3",
        timeout=Timeout(total=6 * SOON),
        jitter=0.0,
    ),
    Fault(
        "body byte by byte",
        [
            [
                head(200, "content-type: application/json", "content-length: 999"),
                *[step for _ in range(40) for step in (b" ", SOON / 5)],
                HANG,
            ]
        ],
        "APITimeoutError x1 billed",
        "ResponseError x1 billed",
        "SubmissionUnknown x1 billed",
        "APITimeoutError x1",
        timeout=Timeout(total=6 * SOON),
        jitter=0.0,
    ),
    Fault(
        "reset, with retry_unknown",
        [[RESET]],
        "ResponseLostError x3 waits 1.5 billed",
        "ResponseLostError x3 waits 1.5 billed",
        "SubmissionUnknown x3 waits 1.5 billed",
        "APIConnectionError x3 waits 1.5",
        retry_unknown=True,
    ),
    Fault(
        "reset once, with retry_unknown",
        after([RESET]),
        "ok x2 waits 0.5",
        "ok x2 waits 0.5",
        "ok x2 waits 0.5",
        "ok x2 waits 0.5",
        retry_unknown=True,
    ),
]

STATUSES = [
    Fault(
        "204",
        [[head(204)]],
        "ResponseError x1 billed",
        "ResponseError x1 billed",
        "SubmissionUnknown x1 billed",
        "ResponseError x1",
    ),
    *(_redirect(code, target) for code in (301, 302, 303, 307, 308) for target in ("{here}", "{elsewhere}")),
    status("304", reply(304), "ResponseError"),
    status("400", reply(400, b'{"error":{"message":"no"}}'), "InvalidRequestError"),
    status(
        "400, context overflow",
        reply(400, b'{"error":{"code":"context_length_exceeded"}}'),
        "ContextOverflowError",
    ),
    status("401", reply(401, b'{"error":"who?"}'), "AuthenticationError"),
    status("402", reply(402, b'{"code":402,"msg":"top up"}'), "PaymentRequiredError"),
    status("403", reply(403, b'{"detail":"no"}'), "PermissionDeniedError"),
    status("404", reply(404, b"not here", type="text/plain"), "NotFoundError"),
    status("405", reply(405, b"<html>no</html>", type="text/html"), "InvalidRequestError"),
    status("409", reply(409), "ConflictError"),
    status("413", reply(413), "InvalidRequestError"),
    status("415", reply(415), "InvalidRequestError"),
    status("422", reply(422, b'{"detail":[{"msg":"no"}]}'), "InvalidRequestError"),
    *(
        Fault(
            str(code),
            [[reply(code)]],
            "InvalidRequestError x1",
            "InvalidRequestError x1",
            "InvalidRequestError x1",
            "InvalidRequestError x3 waits 1.5",
        )
        for code in (408, 425)
    ),
    *(
        Fault(
            f"{code}",
            [[reply(code, b"<html>" + b"x" * 5000, type="text/html")]],
            "ServerError x3 waits 1.5",
            "ServerError x3 waits 1.5",
            "SubmissionUnknown x1 billed",
            "ServerError x3 waits 1.5",
        )
        for code in (500, 502, 520, 599)
    ),
    *(
        Fault(
            f"{code}",
            [[reply(code, b"<html>" + b"x" * 5000, type="text/html")]],
            "GatewayTimeoutError x1 billed",
            "GatewayTimeoutError x1 billed",
            "SubmissionUnknown x1 billed",
            "GatewayTimeoutError x3 waits 1.5",
        )
        for code in (504, 524)
    ),
    *(same(f"{code}", [[reply(code)]], "OverloadedError x3 waits 1.5") for code in (503, 529)),
    same("503 once", after([reply(503)]), "ok x2 waits 0.5"),
    Fault(
        "503, then a reset",
        [[reply(503, b"", "connection: close"), CLOSE], [RESET]],
        "ResponseLostError x2 waits 0.5 billed",
        "ResponseLostError x2 waits 0.5 billed",
        "SubmissionUnknown x2 waits 0.5 billed",
        "APIConnectionError x3 waits 1.5",
    ),
    Fault(
        "500 once",
        after([reply(500)]),
        "ok x2 waits 0.5",
        "ok x2 waits 0.5",
        "SubmissionUnknown x1 billed",
        "ok x2 waits 0.5",
    ),
    Fault(
        "500, then a 400",
        [[reply(500)], [reply(400)]],
        "InvalidRequestError x2 waits 0.5",
        "InvalidRequestError x2 waits 0.5",
        "SubmissionUnknown x1 billed",
        "InvalidRequestError x2 waits 0.5",
    ),
    Fault(
        "504 once, with retry_unknown",
        after([reply(504)]),
        "ok x2 waits 0.5",
        "ok x2 waits 0.5",
        "ok x2 waits 0.5",
        "ok x2 waits 0.5",
        retry_unknown=True,
    ),
    same("429", [[reply(429)]], PAUSE.format(1.5)),
    same("429, retry-after 2", [[reply(429, b"", "retry-after: 2")]], PAUSE.format(4)),
    same("429, retry-after 1.5", [[reply(429, b"", "retry-after: 1.5")]], PAUSE.format(3)),
    same("429, retry-after 0", [[reply(429, b"", "retry-after: 0")]], PAUSE.format(1.5)),
    same("429, retry-after-ms 2500", [[reply(429, b"", "retry-after-ms: 2500")]], PAUSE.format(5)),
    same(
        "429, retry-after a date",
        [[reply(429, b"", f"date: {THEN}", f"retry-after: {LATER}")]],
        PAUSE.format(14),
    ),
    same(
        "429, retry-after a past date",
        [[reply(429, b"", f"date: {LATER}", f"retry-after: {THEN}")]],
        PAUSE.format(1.5),
    ),
    same("429, retry-after -5", [[reply(429, b"", "retry-after: -5")]], PAUSE.format(1.5)),
    same("429, retry-after nan", [[reply(429, b"", "retry-after: nan")]], PAUSE.format(1.5)),
    same("429, retry-after inf", [[reply(429, b"", "retry-after: inf")]], PAUSE.format(1.5)),
    same("429, retry-after nonsense", [[reply(429, b"", "retry-after: soon")]], PAUSE.format(1.5)),
    same("429, retry-after a day", [[reply(429, b"", "retry-after: 86400")]], "RateLimitError x1"),
    same("429, retry-after 1e999", [[reply(429, b"", "retry-after: " + "9" * 400)]], PAUSE.format(1.5)),
    same("429, do not retry", [[reply(429, b"", "x-should-retry: false")]], "RateLimitError x1"),
    same("400, do retry", [[reply(400, b"", "x-should-retry: true")]], "InvalidRequestError x1"),
]

BODIES = [
    unreadable("a web page", [[reply(200, b"<!doctype html><h1>Hi</h1>", type="text/html")]]),
    unreadable("an empty body", body(b"")),
    unreadable("half the JSON", body(b'{"id": "chatcmpl-1", "cho')),
    unreadable("too many JSON values", body(b"[" + b"[]," * 600_000 + b"[]]")),
    unreadable("nested too deeply", body(b"[" * 100_000 + b"]" * 100_000)),
    lost("a damaged gzip", body(b"\x1f\x8b no gzip", "content-encoding: gzip")),
    lost(
        "too many content encodings",
        body(b"{}", "content-encoding: gzip, gzip, gzip, gzip, gzip, gzip, gzip"),
    ),
    unreadable("a gzip bomb", body(gzip.compress(b" " * 64 * 2**20, 9), "content-encoding: gzip")),
    unreadable("larger than the limit", body(b" " * 33 * 2**20)),
    unreadable("content-length too short", [[reply(200, b"{") + b'"id": 1}', CLOSE]]),
]

SHAPES = [
    same("unexpected JSON", body(b'{"message": "hello"}'), "ResponseError x1 billed"),
    same("a list", body(b"[1, 2]"), "ResponseError x1 billed"),
    same("a string", body(b'"hello"'), "ResponseError x1 billed"),
    same("null", body(b"null"), "ResponseError x1 billed"),
    same("no choices", body(b'{"choices": [], "content": 3}'), "ResponseError x1 billed"),
]

NOT_FOR_STREAMS = [
    same("a byte order mark", lambda kind: body(b"\xef\xbb\xbf" + whole(kind)), "ok x1"),
    same("text/plain", lambda kind: [[reply(200, whole(kind), type="text/plain")]], "ok x1"),
    same("valid gzip", lambda kind: body(gzip.compress(whole(kind)), "content-encoding: gzip"), "ok x1"),
    same("one byte at a time", lambda kind: [_piecewise(reply(200, whole(kind)))], "ok x1"),
]


def _piecewise(data: bytes) -> list[bytes | float]:
    return [step for number in range(len(data)) for step in (data[number : number + 1], 0.0)]


def _events(kind: str, *names: str) -> list[bytes]:
    return [EVENTS[kind.removesuffix("-stream")][name] for name in names]


def _partial(*names: str, then: Answer = (CLOSE,), more: bytes = b"") -> Callable[[str], list[Answer]]:
    """Stream the given events and bytes, then end as given."""

    def answers(kind: str) -> list[Answer]:
        pieces = [*_events(kind, *names), *([more] if more else [])]
        return [[stream_head(), *(chunk(piece) for piece in pieces), *then]]

    return answers


def _complete(make: Callable[[str], Sequence[bytes]]) -> Callable[[str], list[Answer]]:
    """Stream the dialect's bytes and end the stream properly."""
    return lambda kind: [stream(*make(kind.removesuffix("-stream")))]


def _all(kind: str) -> list[bytes]:
    return list(EVENTS[kind].values())


ENDED = (chunk(b""),)
HELLO = "StreamError x1 billed has Hello, "
LATE = "StreamTimeoutError x1 billed has Hello, "
TOOL = {"index": 0, "id": "call_1", "function": {"name": "look", "arguments": '{"a": '}}


def _truncated_arguments(kind: str) -> list[bytes]:
    events = EVENTS[kind]
    if kind == "chat":
        return [events["one"], openai_chunk({"tool_calls": [TOOL]}), openai_chunk({}, "length"), DONE]
    call = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    return [
        events["start"],
        events["one"],
        anthropic_event("content_block_start", index=1, content_block=call),
        anthropic_event(
            "content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": '{"a": '}
        ),
        anthropic_event("message_delta", delta={"stop_reason": "max_tokens"}),
        events["done"],
    ]


STREAMS = [
    same("closed after an event", _partial("start", "one"), HELLO),
    same("reset after an event", _partial("start", "one", then=(RESET,)), "StreamError x1 billed"),
    same("ended without an end marker", _partial("start", "one", then=ENDED), HELLO),
    same("truncated inside an event", _partial("start", "one", more=b'data: {"cho', then=ENDED), HELLO),
    same("empty", _partial(then=ENDED), "StreamError x1 billed has "),
    same("only comments", _partial(more=b": ping\n\n" * 3, then=ENDED), "StreamError x1 billed has "),
    same(
        "endless comments",
        [[stream_head(), *[step for _ in range(60) for step in (chunk(b": ping\n\n"), SOON / 5)], HANG]],
        "StreamTimeoutError x1 billed has ",
        timeout=Timeout(first_event=5 * SOON),
    ),
    same(
        "silence before the first event",
        [[stream_head(), HANG]],
        "StreamTimeoutError x1 billed has ",
        timeout=Timeout(first_event=5 * SOON),
    ),
    same(
        "silence after an event",
        _partial("start", "one", then=(HANG,)),
        LATE,
        timeout=Timeout(idle=4 * SOON),
    ),
    same(
        "slow comments past the deadline",
        lambda kind: [
            [
                stream_head(),
                *(chunk(piece) for piece in _events(kind, "start", "one")),
                *[step for _ in range(60) for step in (chunk(b": ping\n\n"), SOON / 5)],
                HANG,
            ]
        ],
        LATE,
        timeout=Timeout(total=5 * SOON),
    ),
    same("an error object", _partial("one", more=event({"error": {"message": "no", "code": "x"}})), HELLO),
    same("an error string", _partial("one", more=event({"error": "no"})), HELLO),
    same("an error event", _partial("one", more=event({"message": "no"}, "error")), HELLO),
    same("an event that is not JSON", _partial("one", more=b"data: {nonsense}\n\n"), HELLO),
    same("an event that is not an object", _partial("one", more=b"data: [1]\n\n"), HELLO),
    same("an endless event", _partial("one", more=b"data: " + b"x" * 9 * 2**20), HELLO),
    same(
        "data after the end marker", _complete(lambda kind: [*_all(kind), b"data: {nonsense}\n\n"]), "ok x1"
    ),
    same("two end markers", _complete(lambda kind: [*_all(kind), EVENTS[kind]["done"]]), "ok x1"),
    same(
        "empty, id-only, event-only and retry-only blocks",
        _complete(lambda kind: [b"data:\n\nid: 1\n\nevent: x\n\nretry: 9\n\n: ping\n\n", *_all(kind)]),
        "ok x1",
    ),
    same(
        "CRLF throughout",
        _complete(lambda kind: [piece.replace(b"\n", b"\r\n") for piece in _all(kind)]),
        "ok x1",
    ),
    same("a byte order mark", _complete(lambda kind: [b"\xef\xbb\xbf", *_all(kind)]), "ok x1"),
    same(
        "one byte at a time",
        _complete(lambda kind: [bytes([byte]) for byte in b"".join(_all(kind))]),
        "ok x1",
    ),
    same("closed after the end marker", _partial("start", "one", "two", "finish", "done"), "ok x1"),
    same(
        "open after the end marker", _partial("start", "one", "two", "finish", "done", then=(HANG,)), "ok x1"
    ),
    same("truncated tool arguments", _complete(_truncated_arguments), "ok x1 has Hello, "),
    same("unknown events and fields", _complete(lambda kind: [_unknown(kind), *_all(kind)]), "ok x1"),
]


def _unknown(kind: str) -> bytes:
    if kind == "messages":
        return anthropic_event("message_thought", thought="?") + anthropic_event("ping")
    return openai_chunk({"mood": "good"}, novelty=1) + USAGE


TIMEOUT_MODES = [*OWN_MODES, *MODES[2:4]]
TIMED = {"chat", "chat-stream", "submit", "poll"}
"""The kinds of call to try with faults that time out: one per kind of wait, because it takes real time."""

ROWS = [
    *((fault, kind) for fault in [*SILENCE, *STATUSES, *BODIES] for kind in KINDS),
    *((fault, kind) for fault in SHAPES for kind in KINDS[:4]),
    *((fault, kind) for fault in NOT_FOR_STREAMS for kind in KINDS if "stream" not in kind),
    *((fault, kind) for fault in STREAMS for kind in KINDS if "stream" in kind),
]
RUN_ALL = os.environ.get("PICCC_WHOLE_MATRIX") == "1"
"""Whether to run each row in each mode."""


def _cases() -> Iterator[tuple[Fault, str, Mode]]:
    """Yield each row with the modes in which it runs.

    Every row runs over our own connections, blocking and asynchronous. The other modes (HTTP libraries,
    uvloop) cover each fault and each kind of call, but not every pair.
    """
    for number, (_, group) in enumerate(groupby(ROWS, lambda row: row[0].name)):
        rows, modes = list(group), MODES
        if rows[0][0].timeout is not PATIENT:  # takes real time
            rows, modes = [row for row in rows if row[1] in TIMED], TIMEOUT_MODES
        others = [mode for mode in modes if mode not in OWN_MODES[:2]]
        first = number % len(others)
        turn = [*others[first:], *others[:first]]
        for index, (fault, kind) in enumerate(rows):
            chosen = others if RUN_ALL else turn[index % len(turn) :: len(rows)]
            yield from ((fault, kind, mode) for mode in (*OWN_MODES[:2], *chosen))


CASES = list(_cases())
