"""Our own connections: reuse, failed reuse, limits, decompression, and connecting."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from piccc import AsyncClient, Client
from piccc._http import backends as streams
from piccc._http import connections
from piccc._http.backend import HTTPRequest
from piccc._http.backends import SyncBackend, run_sync
from piccc._http.connections import Origin, idle_seconds
from piccc._http.session import STALE
from piccc.config import resolve
from piccc.conversation import ChatReply
from piccc.errors import APIConnectionError, APITimeoutError, PicccError, ResponseError, StreamError
from tests.faults.calls import KINDS, OWN_MODES, Mode, calls
from tests.faults.matrix import healthy
from tests.faults.replies import EVENTS, TEXT, WHOLE, whole
from tests.faults.server import (
    CLOSE,
    HANG,
    RESET,
    Answer,
    FaultServer,
    Step,
    chunk,
    head,
    reply,
    stream,
    stream_head,
)
from tests.faults.virtual import VirtualIO

MODE = pytest.mark.parametrize("mode", OWN_MODES, ids=str)
KEY = "pcc_live_for_connections"
PAID = [kind for kind in KINDS if kind not in ("poll", "list")]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """Run a raw server for one test, so that its connections can be counted."""
    with FaultServer() as running:
        yield running


def in_turn(mode: Mode, server: FaultServer, kinds: list[str], *answers: Answer, **options: Any) -> list[Any]:
    """Make calls in sequence on one event loop; return each one's result or error."""
    case = server.case(*answers)
    config = resolve(api_key=KEY, base_url=case.base_url, **{"max_retries": 0, "timeout": 20.0, **options})
    return calls(mode, kinds, config, VirtualIO(mode.port()))


def healthy_result(kind: str, result: Any) -> bool:
    if isinstance(result, Exception):
        raise result
    return result.text == TEXT if isinstance(result, ChatReply) else bool(result == WHOLE[kind])


def joined(answer: Answer) -> bytes:
    return b"".join(step for step in answer if isinstance(step, bytes))


EXTRA = {
    "a response": reply(200, b'{"stolen": true}'),
    "a stream": joined(stream(b"data: {}\n\n")),
    "half a response": b"HTTP/1.1 200 OK\r\ncontent-le",
    "a line end": b"\r\n",
    "a byte": b"x",
}


@MODE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("extra", EXTRA.values(), ids=EXTRA)
def test_extra_bytes_after_a_response_never_reach_the_next_call(
    server: FaultServer, mode: Mode, kind: str, extra: bytes
) -> None:
    follow = "chat-stream" if kind == "chat" else "chat"
    results = in_turn(mode, server, [kind, follow], [joined(healthy(kind)) + extra], healthy(follow))
    assert healthy_result(kind, results[0])
    assert healthy_result(follow, results[1])
    assert server.connections == 2


@MODE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [CLOSE, RESET], ids=lambda end: end.name)
def test_a_request_on_a_stale_connection_is_resent(
    server: FaultServer, mode: Mode, kind: str, end: Step
) -> None:
    # The server closes the connection when it reads the second request, as if it had been idle too long.
    results = in_turn(mode, server, ["chat", kind], healthy("chat"), [end], healthy(kind))
    assert healthy_result("chat", results[0])
    if kind == "submit":  # never reuses a connection, so the server closed a fresh one
        assert isinstance(results[1], PicccError)
        assert results[1].may_have_been_billed
        return
    assert healthy_result(kind, results[1])
    if isinstance(results[1], ChatReply):
        assert [each.outcome for each in results[1].record.attempts] == [STALE, "200"]


@MODE
@pytest.mark.parametrize("kind", PAID)
def test_a_paid_request_on_a_fresh_connection_is_not_resent(
    server: FaultServer, mode: Mode, kind: str
) -> None:
    (error,) = in_turn(mode, server, [kind], [CLOSE])
    assert isinstance(error, PicccError)
    assert error.may_have_been_billed
    assert error.attempts == 1


@MODE
@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 200 OK\r\n"])
def test_a_request_is_not_resent_after_the_response_has_started(
    server: FaultServer, mode: Mode, start: bytes
) -> None:
    results = in_turn(mode, server, ["chat", "chat"], healthy("chat"), [start, CLOSE])
    assert isinstance(results[1], APIConnectionError)
    assert results[1].may_have_been_billed
    assert results[1].attempts == 1


@MODE
def test_a_second_closed_connection_in_a_row_may_have_been_billed(server: FaultServer, mode: Mode) -> None:
    results = in_turn(mode, server, ["chat", "chat"], healthy("chat"), [CLOSE])
    assert isinstance(results[1], APIConnectionError)
    assert results[1].may_have_been_billed
    assert results[1].record.attempts[0].outcome == STALE
    assert len(results[1].record.attempts) == 2


@MODE
def test_a_call_is_resent_for_a_stale_connection_at_most_once(server: FaultServer, mode: Mode) -> None:
    (error,) = in_turn(mode, server, ["chat"], [reply(429)], [CLOSE], [reply(429)], [CLOSE], max_retries=2)
    assert isinstance(error, APIConnectionError)
    assert error.may_have_been_billed
    assert [each.outcome for each in error.record.attempts].count(STALE) == 1
    assert server.connections == 3  # no later attempt reuses an idle connection


@MODE
def test_a_server_that_acts_before_closing_an_idle_connection_acts_twice(
    server: FaultServer, mode: Mode
) -> None:
    # Servers normally close idle connections without acting on requests. One that acts first acts twice.
    charges: list[str] = []
    act: Step = lambda: charges.append("chat")  # noqa: E731  a step of an answer
    results = in_turn(mode, server, ["chat", "chat"], healthy("chat"), [act, CLOSE], [act, *healthy("chat")])
    assert healthy_result("chat", results[1])
    assert len(charges) == 2


@MODE
@pytest.mark.parametrize("headers", [(), ("keep-alive: timeout=5, max=100",), ("connection: close",)])
@pytest.mark.parametrize("kinds", [["chat-stream"] * 4, ["chat-stream", "chat", "submit", "poll"] * 2])
def test_no_call_is_lost_when_the_server_closes_after_each_stream(
    server: FaultServer, mode: Mode, headers: tuple[str, ...], kinds: list[str]
) -> None:
    # Like llama.cpp's server, it closes the connection right after the last chunk.
    answers: list[Answer] = []
    for kind in kinds:
        response = joined(healthy(kind))
        if kind == "chat-stream":
            response = stream_head(*headers) + response.partition(b"\r\n\r\n")[2]
        answers.append([response, CLOSE] if kind == "chat-stream" else [response])
    results = in_turn(mode, server, kinds, *answers)
    assert all(healthy_result(*each) for each in zip(kinds, results, strict=True))


@MODE
def test_stream_connections_are_not_reused_after_the_server_closed_one(
    server: FaultServer, mode: Mode
) -> None:
    end = [joined(healthy("chat-stream"))]
    results = in_turn(
        mode,
        server,
        ["chat-stream", "chat", "chat-stream", "chat"],
        end,
        [CLOSE],
        healthy("chat"),
        end,
        healthy("chat"),
    )
    assert [len(each.record.attempts) for each in results] == [1, 2, 1, 1]
    assert server.connections == 3  # the last call did not reuse the connection of the stream before it


@MODE
def test_a_submission_opens_a_connection_that_other_calls_may_reuse(server: FaultServer, mode: Mode) -> None:
    kinds = ["chat", "submit", "submit", "poll"]
    results = in_turn(mode, server, kinds, *[healthy(kind) for kind in kinds])
    assert all(healthy_result(*each) for each in zip(kinds, results, strict=True))
    assert server.connections == 3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 4.0),
        ("timeout=5", 4.0),
        ("timeout=5, max=100", 4.0),
        ("timeout=2", 1.0),
        ("timeout=1", 0.0),
        ("timeout=600", 60.0),
        ("timeout=x", 4.0),
    ],
)
def test_idle_seconds_stay_below_the_servers_keep_alive_timeout(header: str, seconds: float) -> None:
    assert idle_seconds(header) == seconds


def test_an_idle_connection_is_closed_after_its_idle_time(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [1000.0]
    monkeypatch.setattr(SyncBackend, "now", lambda backend: moment[0])
    # Streams compare deadlines with the module's clock.
    monkeypatch.setattr(streams.time, "monotonic", lambda: moment[0])
    client = Client(api_key=KEY, base_url=server.case(healthy("chat")).base_url)
    for after, expected in ((0.0, 1), (3.9, 1), (3.9, 1), (4.1, 2)):
        moment[0] += after
        assert client.chat.create("hi").text == TEXT
        assert server.connections == expected
    client.close()


def test_a_call_also_closes_expired_connections_to_other_servers(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [time.monotonic()]
    monkeypatch.setattr(SyncBackend, "now", lambda backend: moment[0])
    monkeypatch.setattr(streams.time, "monotonic", lambda: moment[0])
    with FaultServer() as other:
        for target, after in ((other, 0.0), (server, 5.0)):
            moment[0] += after
            client = Client(api_key=KEY, base_url=target.case(healthy("chat")).base_url)
            assert client.chat.create("hi").text == TEXT
        other.wait_until_all_closed()


class Idle:
    """A stream that is never read."""

    def is_readable(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_acquiring_a_connection_takes_constant_time() -> None:
    def lines_executed(idle: int) -> int:
        origin, backend = Origin(), SyncBackend()
        request = HTTPRequest("GET", "http://a.test", [])
        for _ in range(idle):
            run_sync(origin.acquire(backend, request, 100_000))
            origin.release(connections.Connection(Idle()), backend.now() + 60)  # type: ignore[arg-type]
        events = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal events
            events += 1
            return trace

        import sys

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            acquired = [run_sync(origin.acquire(backend, request, 100_000))]
            origin.release(acquired.pop(), backend.now() + 60)
        finally:
            sys.settrace(before)
        return events

    assert lines_executed(10) == lines_executed(2000)


@pytest.mark.parametrize("count", [300])
async def test_hundreds_of_streams_run_concurrently(server: FaultServer, count: int) -> None:
    gate = asyncio.Event()
    started = 0
    base_url = server.case([stream_head(), chunk(EVENTS["chat"]["one"]), HANG]).base_url

    async def read(client: AsyncClient) -> None:
        nonlocal started
        async with await client.chat.stream("hi") as opened:
            async for _ in opened:
                started += 1
                if started == count:
                    gate.set()
                await gate.wait()
                return

    async with AsyncClient(api_key=KEY, base_url=base_url) as client, asyncio.timeout(60):
        await asyncio.gather(*[read(client) for _ in range(count)])
    assert server.connections == count


def test_a_wait_for_a_connection_times_out_and_is_recorded(server: FaultServer) -> None:
    case = server.case([stream_head(), chunk(EVENTS["chat"]["one"]), HANG], healthy("chat"))
    client = Client(api_key=KEY, base_url=case.base_url, max_connections=1, max_retries=0)
    opened = client.chat.stream("hi")
    with pytest.raises(APITimeoutError, match=r"all 1 connections .* in use") as caught:
        client.chat.create("hi", timeout=1.0)
    assert "max_connections" in caught.value.hint
    assert not caught.value.may_have_been_billed
    assert caught.value.record is not None
    assert caught.value.record.attempts[0].queued > 0
    with FaultServer() as other:  # calls to another server do not wait
        assert (
            Client(api_key=KEY, base_url=other.case(healthy("chat")).base_url).chat.create("hi").text == TEXT
        )
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.chat.create, "hi", timeout=30)
        while not any(origin._waiting for origin in connections.blocking_pool._origins.values()):
            time.sleep(0.001)
        opened.close()
        assert waiting.result().text == TEXT
    assert len(case.requests) == 2


async def test_a_cancelled_wait_for_a_connection_does_not_block_the_others(server: FaultServer) -> None:
    loop, requested = asyncio.get_running_loop(), asyncio.Event()
    case = server.case([lambda: loop.call_soon_threadsafe(requested.set), HANG], healthy("chat"))
    client = AsyncClient(api_key=KEY, base_url=case.base_url, max_connections=1)
    first = asyncio.create_task(client.chat.create("hi"))
    await requested.wait()
    others = [asyncio.create_task(client.chat.create("hi")) for _ in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    others[0].cancel()
    others[2].cancel()
    first.cancel()
    results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(each).__name__ for each in results] == ["CancelledError", "ChatReply"] * 2 + ["ChatReply"]
    await client.aclose()


def test_an_abandoned_stream_frees_its_connection(server: FaultServer) -> None:
    case = server.case([stream_head(), chunk(EVENTS["chat"]["one"]), HANG], healthy("chat"))
    client = Client(api_key=KEY, base_url=case.base_url, max_connections=1, timeout=20.0)
    abandoned = [client.chat.stream("hi")]
    with pytest.warns(ResourceWarning, match="neither read nor closed"):
        abandoned.clear()
    assert client.chat.create("hi").text == TEXT


BAD_BODIES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda packed: packed[:-4],
    "truncated early": lambda packed: packed[:20],
    "truncated second member": lambda packed: packed + gzip.compress(b" " * 99)[:-4],
}


@MODE
@pytest.mark.parametrize("kind", ["chat", "chat-stream", "poll"])
@pytest.mark.parametrize("damage", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_truncated_compressed_body_never_yields_a_partial_reply(
    server: FaultServer, mode: Mode, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    events = b"".join(EVENTS["chat"].values())
    packed = damage(gzip.compress(events if kind == "chat-stream" else whole(kind)))
    type_ = "text/event-stream" if kind == "chat-stream" else "application/json"
    (error,) = in_turn(mode, server, [kind], [reply(200, packed, "content-encoding: gzip", type=type_)])
    if isinstance(error, ChatReply):  # all events had arrived before the truncated part
        assert kind == "chat-stream"
        assert error.text == TEXT
    else:
        assert isinstance(error, APIConnectionError | ResponseError | StreamError)


EVENT_BYTES = b"".join(EVENTS["chat"].values())
NOT_DECLARED = {
    "events as plain text": [reply(200, EVENT_BYTES, type="text/plain; charset=utf-8")],
    "events after a byte order mark": [reply(200, b"\xef\xbb\xbf" + EVENT_BYTES, type="text/html")],
    "events after a comment, of no type": [
        head(200, "transfer-encoding: chunked"),
        *(chunk(each) for each in (b": hi\n\n", *EVENTS["chat"].values())),
        chunk(b""),
    ],
    "a whole reply": [reply(200, whole("chat"))],
    "a whole reply in pieces": [
        head(200, "content-type: text/plain", "transfer-encoding: chunked"),
        *(chunk(each) for each in (b"\r\n {", json.dumps(WHOLE["chat"], indent=1).encode()[1:])),
        chunk(b""),
    ],
}


@MODE
@pytest.mark.parametrize("answer", NOT_DECLARED.values(), ids=NOT_DECLARED)
def test_a_paid_answer_is_read_though_it_is_not_declared_as_a_stream(
    server: FaultServer, mode: Mode, answer: Answer
) -> None:
    results = in_turn(mode, server, ["chat-stream", "chat"], answer, healthy("chat"))
    assert [healthy_result("chat", result) for result in results] == [True, True]
    assert results[0].usage == results[1].usage
    assert server.connections == 1


@MODE
def test_the_expanded_size_of_a_compressed_stream_is_limited(server: FaultServer, mode: Mode) -> None:
    bomb = gzip.compress((b": " + b"comment " * 100 + b"\n\n") * 96_000, 1)  # 77 MB; the limit is 64 MiB
    answer = [reply(200, bomb, "content-encoding: gzip", type="text/event-stream")]
    (error,) = in_turn(mode, server, ["chat-stream"], answer)
    assert isinstance(error, StreamError)
    assert "expands" in str(error)


async def test_decompression_does_not_block_the_event_loop(server: FaultServer) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    bomb = gzip.compress(b": comment\n\n" * 3_000_000, 1)
    case = server.case([reply(200, bomb, "content-encoding: gzip", type="text/event-stream")])
    async with AsyncClient(api_key=KEY, base_url=case.base_url) as client:
        stream_ = await client.chat.stream("hi")
        turning = asyncio.create_task(turn())
        await asyncio.sleep(0)
        turns = 0
        with pytest.raises(StreamError):
            async for _ in stream_:
                pass
        turning.cancel()
    assert turns >= 3_000_000 * 11 // 2**21  # one per step, except the first step of each received piece


@MODE
def test_204_has_no_body_whatever_its_headers_say(server: FaultServer, mode: Mode) -> None:
    odd = head(204, "content-type: text/event-stream", "transfer-encoding: chunked")
    results = in_turn(mode, server, ["chat-stream", "chat"], [odd], healthy("chat"))
    assert isinstance(results[0], PicccError)
    assert healthy_result("chat", results[1])


@MODE
def test_an_invalid_utf8_byte_in_a_response_is_replaced(server: FaultServer, mode: Mode) -> None:
    damaged = whole("chat").replace(TEXT.encode(), b"Hell\xff")
    (result,) = in_turn(mode, server, ["chat"], [reply(200, damaged)])
    assert result.text == "Hell\N{REPLACEMENT CHARACTER}"


@MODE
@pytest.mark.parametrize("padding", ["x" * 2**21, "\ud83d" + "x" * 2**21], ids=["plain", "lone surrogate"])
def test_a_large_response_is_parsed_like_a_small_one(server: FaultServer, mode: Mode, padding: str) -> None:
    padded = json.dumps({**json.loads(whole("chat")), "padding": padding}).encode()
    (result,) = in_turn(mode, server, ["chat"], [reply(200, padded)])
    assert result.text == TEXT


def resolve_many_test(monkeypatch: pytest.MonkeyPatch, addresses: list[tuple[int, Any]]) -> None:
    """Make `many.test` resolve to these addresses."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "many.test":
            return real(host, *arguments, **options)
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def unaccepting() -> Iterator[tuple[str, int]]:
    """Listen with a full accept queue, so that further connection attempts hang."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for filler in fillers:
            filler.close()


@MODE
def test_the_next_address_is_tried_while_one_does_not_respond(
    server: FaultServer, mode: Mode, monkeypatch: pytest.MonkeyPatch, unaccepting: tuple[str, int]
) -> None:
    monkeypatch.setattr(streams, "ATTEMPT_DELAY", 0.01)
    live = (socket.AF_INET, ("127.0.0.1", server.port))
    dead = [(socket.AF_INET, unaccepting), (socket.AF_INET, ("127.0.0.1", closed_port()))]
    resolve_many_test(monkeypatch, [*dead, live])
    case = server.case(healthy("chat"))
    config = resolve(api_key=KEY, base_url=case.base_url.replace("127.0.0.1", "many.test"), timeout=30.0)
    (result,) = calls(mode, ["chat"], config, VirtualIO(mode.port()))
    assert healthy_result("chat", result)


async def test_a_cancelled_connect_leaks_no_socket(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, unaccepting: tuple[str, int]
) -> None:
    opened: list[socket.socket] = []
    real = socket.socket

    class Recorded(real):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(streams.socket, "socket", Recorded)
    monkeypatch.setattr(streams, "ATTEMPT_DELAY", 0.001)
    resolve_many_test(monkeypatch, [(socket.AF_INET, unaccepting)] * 3)
    async with AsyncClient(api_key=KEY, base_url="http://many.test") as client:
        for turns in range(30):
            task = asyncio.create_task(client.chat.create("hi"))
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    for _ in range(5):
        await asyncio.sleep(0)
    assert opened
    assert all(each.fileno() < 0 for each in opened)


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks need Python 3.12")
async def test_connecting_works_with_the_eager_task_factory(server: FaultServer) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    base_url = server.case(healthy("chat")).base_url.replace("127.0.0.1", "localhost")
    async with AsyncClient(api_key=KEY, base_url=base_url) as client:
        assert (await client.chat.create("hi")).text == TEXT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # about forking with threads, which this test needs
async def test_closing_a_stream_disconnects_despite_a_forked_child(
    server: FaultServer,
) -> None:
    client = AsyncClient(
        api_key=KEY, base_url=server.case([stream_head(), chunk(EVENTS["chat"]["one"]), HANG]).base_url
    )
    opened = await client.chat.stream("hi")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes its end
        os._exit(0)
    try:
        await opened.close()
        await asyncio.to_thread(server.wait_until_all_closed)
    finally:
        os.close(writer)
        await asyncio.to_thread(os.waitpid, child, 0)
        os.close(reader)
    await client.aclose()


@MODE
def test_a_large_request_that_is_rejected_early_gets_its_response(server: FaultServer, mode: Mode) -> None:
    # The server responds and closes without reading: the write fails, but the response is still there.
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reject() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(
                reply(413, json.dumps({"error": {"message": "too large"}}).encode(), "connection: close")
            )
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**20):
                pass
            connection.close()

        thread = threading.Thread(target=reject)
        thread.start()
        config = resolve(api_key=KEY, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20.0)
        (error,) = calls(mode, ["chat"], config, VirtualIO(mode.port()), padding=5_000_000)
        thread.join()
    assert getattr(error, "status", None) == 413
