"""Send the same faulty responses to piccc and to other clients: `python -m tests.faults.scoreboard`.

Prints a Markdown table; `--publish` writes it into docs/faults.md. A fault is handled when the client
returns the right answer in spite of it, or raises an error of its own tree, and sends at most three POSTs
for the one call: all have
`max_retries` of 2.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from tests.benchmarks.__main__ import ROOT, environment
from tests.faults.replies import EVENTS, MESSAGE, TEXT, anthropic_event, event, openai_chunk, whole
from tests.faults.server import CLOSE, HANG, RESET, Answer, FaultServer, chunk, reply, stream, stream_head

GROUPS = {
    "piccc": None,
    "piccc, Anthropic dialect": None,
    "langchain-piccc": None,
    "llama-index-llms-piccc": None,
    "langchain-openai": "langchain",
    "langchain-anthropic": "langchain",
    "llama-index-llms-openai-like": "llama-index",
}
ANTHROPIC = ("piccc, Anthropic dialect", "langchain-anthropic")
MOST_POSTS = 3
ABOUT = """# Faults

`python -m tests.faults.scoreboard --publish` made this page: it sends the same faulty responses to each
client over a socket. *Handled* means the right answer, or an error of the client's own kind, with at most
three POSTs. Where a right answer can be had (the server closes after a stream, sends bytes behind a reply, or
a proxy is set for a server on loopback), an error does not count; the first two make several calls of one
client. The number is how many POSTs one call sent: piccc sends a chat request once more where a reused
connection is reset before any byte of a reply. The test suite sends many more faults to every kind of call:
blocking and asynchronous, over httpx and httpx2, on asyncio's event loop and on uvloop.

"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: how the server answers in a dialect, and the right answers (none where an error is due).

    `calls` calls of one client are made in turn, each of which gets `later` after the first; each must be
    right. Where it `needs_answer`, an error does not count as handled. `way` and `environment` are the
    subject's.
    """

    name: str
    answer: Callable[[dict[str, bytes]], Answer]
    right: tuple[str, ...] = ()
    way: str = "stream"
    calls: int = 1
    needs_answer: bool = False
    later: Callable[[dict[str, bytes]], Answer] | None = None
    environment: dict[str, str] = field(default_factory=dict)


def begun(events: dict[str, bytes], *more: bytes, then: Sequence[Any] = (chunk(b""),)) -> Answer:
    """Stream the first event, then these bytes, then end in this way."""
    pieces = [events["start"], events["one"], *more]
    return [stream_head(), *(chunk(piece) for piece in pieces), *then]


def framed(events: dict[str, bytes], *before: bytes) -> Answer:
    """Stream these bytes and then the whole answer."""
    return stream(*before, *events.values())


def nonsense(events: dict[str, bytes]) -> bytes:
    """Write an event as the dialect frames it, whose data is no JSON."""
    name = b"event: content_block_delta\n" if events is EVENTS["messages"] else b""
    return name + b"data: {nonsense}\n\n"


def complaint(events: dict[str, bytes]) -> bytes:
    """Write an error as the dialect says it."""
    error = {"error": {"type": "overloaded_error", "message": "no"}}
    return event({"type": "error", **error}, "error") if events is EVENTS["messages"] else event(error)


def garbled(events: dict[str, bytes]) -> Answer:
    """Stream the whole answer with one byte in it that is no UTF-8."""
    return stream(*(each.replace(b"world", b"w\xffrld") for each in events.values()))


def healthy(events: dict[str, bytes], text: str = TEXT) -> bytes:
    """Write a whole reply with this text."""
    return whole(kind_of(events)).replace(TEXT.encode(), text.encode())


def kind_of(events: dict[str, bytes]) -> str:
    """Return the kind of chat call whose events these are."""
    return "messages" if events is EVENTS["messages"] else "chat"


def behind(events: dict[str, bytes]) -> Answer:
    """Write two replies at once where one was asked for."""
    return [reply(200, healthy(events)) + reply(200, healthy(events, "Another reply"))]


def packed(events: dict[str, bytes]) -> Answer:
    """Write a compressed reply whose last bytes are missing, with the length that it has."""
    return [reply(200, gzip.compress(healthy(events))[:-20], "content-encoding: gzip")]


def cut_call(events: dict[str, bytes]) -> Answer:
    """Stream a tool call that the limit of tokens cut amid its arguments."""
    arguments = '{"city": "Os'
    if events is EVENTS["messages"]:
        block = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
        return stream(
            anthropic_event("message_start", message=MESSAGE),
            anthropic_event("content_block_start", index=0, content_block=block),
            anthropic_event(
                "content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": arguments}
            ),
            anthropic_event("content_block_stop", index=0),
            anthropic_event("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 4}),
            events["done"],
        )
    function = {"name": "weather", "arguments": arguments}
    call = {"index": 0, "id": "call_1", "type": "function", "function": function}
    return stream(
        events["start"], openai_chunk({"tool_calls": [call]}), openai_chunk({}, "length"), events["done"]
    )


NO_PROXY_THERE = "http://127.0.0.1:9"
PAGE = [reply(200, b"<!doctype html><h1>Moved</h1>", type="text/html")]
FAULTS = [
    Fault("stream without a proof of its end", lambda events: begun(events)),
    Fault("stream cut inside an event", lambda events: begun(events, b'data: {"cho')),
    Fault("connection closed in the stream", lambda events: begun(events, then=[CLOSE])),
    Fault("connection reset in the stream", lambda events: begun(events, then=[RESET])),
    Fault("silence in the stream", lambda events: begun(events, then=[HANG])),
    Fault("web page where a stream is due", lambda events: PAGE),
    Fault("JSON error where a stream is due", lambda events: [reply(200, b'{"error":{"message":"no"}}')]),
    Fault("nothing where a stream is due", lambda events: stream()),
    Fault("event that is not JSON", lambda events: begun(events, nonsense(events), events["done"])),
    Fault("error object in the stream", lambda events: begun(events, complaint(events))),
    Fault("error event without its key", lambda events: begun(events, event({"message": "no"}, "error"))),
    Fault("invalid UTF-8 in the stream", garbled, right=("Hello, w\ufffdrld",)),
    Fault("byte order mark", lambda events: framed(events, b"\xef\xbb\xbf"), right=(TEXT,)),
    Fault("keep-alive after an id", lambda events: framed(events, b"id: 1\n\n: ping\n\n"), right=(TEXT,)),
    Fault("block of retry alone", lambda events: framed(events, b"retry: 3000\n\n"), right=(TEXT,)),
    Fault("web page with 200", lambda events: PAGE, way="whole"),
    Fault("other JSON with 200", lambda events: [reply(200, b'{"message":"hello"}')], way="whole"),
    Fault("empty body with 200", lambda events: [reply(200, b"")], way="whole"),
    Fault("half the JSON with 200", lambda events: [reply(200, b'{"id":"1","cho')], way="whole"),
    Fault("reset after the request", lambda events: [RESET], way="whole"),
    Fault(
        "server closes after a stream",
        lambda events: [*framed(events), CLOSE],
        right=(TEXT,),
        calls=3,
        needs_answer=True,
    ),
    Fault(
        "bytes behind a reply",
        behind,
        right=(TEXT,),
        way="whole",
        calls=2,
        needs_answer=True,
        later=lambda events: [reply(200, healthy(events))],
    ),
    Fault("truncated gzip", packed, way="whole"),
    Fault(
        "proxy on loopback",
        lambda events: [reply(200, healthy(events))],
        right=(TEXT,),
        way="whole",
        needs_answer=True,
        environment=dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), NO_PROXY_THERE)
        | {"no_proxy": "", "NO_PROXY": ""},
    ),
    Fault("cut tool call", cut_call, right=("[]",), way="tools"),
]


@contextmanager
def running(name: str) -> Iterator[Callable[[dict[str, Any]], list[dict[str, Any]]]]:
    """Run a subject in the environment that has it; yield a way to put a fault to it."""
    python = environment(GROUPS[name])
    command = [str(python), "-m", "tests.faults.subject", name]
    with subprocess.Popen(  # noqa: S603  an interpreter of ours
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        yield lambda task: _put(process.stdin, process.stdout, task)
        assert process.stdin is not None
        process.stdin.close()


def _put(into: IO[str] | None, out: IO[str] | None, task: dict[str, Any]) -> list[dict[str, Any]]:
    assert into is not None
    assert out is not None
    into.write(json.dumps(task) + "\n")
    into.flush()
    line: list[dict[str, Any]] = json.loads(out.readline())
    return line


def is_handled(fault: Fault, came: list[dict[str, Any]], posts: int) -> bool:
    """Return whether the right thing came of a fault."""
    right = all(
        each["text"] in fault.right if "text" in each else each["is_typed"] and not fault.needs_answer
        for each in came
    )
    return right and posts <= MOST_POSTS


def play(name: str) -> Iterator[tuple[Fault, bool, int, list[dict[str, Any]]]]:
    """Put every fault to a subject; yield whether it was handled, POSTs for each call, and what came."""
    events = EVENTS["messages" if name in ANTHROPIC else "chat"]
    with FaultServer() as server, running(name) as put:
        for fault in FAULTS:
            answers = [fault.answer, *([fault.later] if fault.later else [])]
            case = server.case(*(answer(events) for answer in answers))
            task = {"base_url": case.base_url, "way": fault.way, "calls": fault.calls}
            came = put({**task, "environment": fault.environment})
            posts = math.ceil(case.methods["POST"] / fault.calls)
            yield fault, is_handled(fault, came, posts), posts, came


def table(names: Sequence[str], *, explain: bool = False) -> Iterator[str]:
    """Yield the lines of the table; `explain` adds what came of each fault that was not handled."""
    scores = {name: list(play(name)) for name in names}
    yield "| fault | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    for number, fault in enumerate(FAULTS):
        cells = [scores[name][number] for name in names]
        marks = [f"{'yes' if handled else '**no**'}, {posts}" for _, handled, posts, _ in cells]
        yield f"| {fault.name} | " + " | ".join(marks) + " |"
    handled = [sum(row[1] for row in scores[name]) for name in names]
    yield "| **handled** | " + " | ".join(f"**{count} of {len(FAULTS)}**" for count in handled) + " |"
    most = [max(row[2] for row in scores[name]) for name in names]
    yield "| most POSTs for one call | " + " | ".join(map(str, most)) + " |"
    if explain:
        for name in names:
            yield from (f"{name}: {row[0].name}: {row[3]}" for row in scores[name] if not row[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(GROUPS), help="the subjects; all if none is named")
    parser.add_argument("--explain", action="store_true", help="say what came of each fault not handled")
    parser.add_argument("--publish", action="store_true", help="write docs/faults.md as well")
    arguments = parser.parse_args()
    lines = []
    for line in table(arguments.names, explain=arguments.explain):
        print(line, flush=True)
        lines.append(line)
    if arguments.publish:
        (ROOT / "docs" / "faults.md").write_text(
            ABOUT + "\n".join(line for line in lines if line.startswith("|")) + "\n"
        )


if __name__ == "__main__":
    main()
