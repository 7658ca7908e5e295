"""Our own connections: when they are reused, what happens if that fails, and how many there are."""

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


BEHIND = {
    "a reply": reply(200, b'{"stolen": true}'),
    "a stream": joined(stream(b"data: {}\n\n")),
    "half a reply": b"HTTP/1.1 200 OK\r\ncontent-le",
    "a line end": b"\r\n",
    "a byte": b"x",
}


@MODE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
def test_bytes_behind_a_reply_never_reach_the_next_call(
    server: FaultServer, mode: Mode, kind: str, behind: bytes
) -> None:
    follow = "chat-stream" if kind == "chat" else "chat"
    results = in_turn(mode, server, [kind, follow], [joined(healthy(kind)) + behind], healthy(follow))
    assert healthy_result(kind, results[0])
    assert healthy_result(follow, results[1])
    assert server.connections == 2


@MODE
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [CLOSE, RESET], ids=lambda end: end.name)
def test_a_connection_that_ends_as_it_is_used_again_costs_nothing(
    server: FaultServer, mode: Mode, kind: str, end: Step
) -> None:
    # The server reads a connection's second request and closes it, as if it had been idle too long.
    results = in_turn(mode, server, ["chat", kind], healthy("chat"), [end], healthy(kind))
    assert healthy_result("chat", results[0])
    if kind == "submit":  # which never goes on a used connection, and so met the end on a fresh one
        assert isinstance(results[1], PicccError)
        assert results[1].may_have_been_billed
        return
    assert healthy_result(kind, results[1])
    if isinstance(results[1], ChatReply):
        assert [each.outcome for each in results[1].record.attempts] == [STALE, "200"]


@MODE
@pytest.mark.parametrize("kind", PAID)
def test_on_a_fresh_connection_nothing_is_sent_twice(server: FaultServer, mode: Mode, kind: str) -> None:
    (error,) = in_turn(mode, server, [kind], [CLOSE])
    assert isinstance(error, PicccError)
    assert error.may_have_been_billed
    assert error.attempts == 1


@MODE
@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 200 OK\r\n"])
def test_a_reply_that_has_begun_is_not_asked_for_again(server: FaultServer, mode: Mode, begun: bytes) -> None:
    results = in_turn(mode, server, ["chat", "chat"], healthy("chat"), [begun, CLOSE])
    assert isinstance(results[1], APIConnectionError)
    assert results[1].may_have_been_billed
    assert results[1].attempts == 1


@MODE
def test_a_second_end_in_a_row_is_an_error_and_says_what_may_have_been_billed(
    server: FaultServer, mode: Mode
) -> None:
    results = in_turn(mode, server, ["chat", "chat"], healthy("chat"), [CLOSE])
    assert isinstance(results[1], APIConnectionError)
    assert results[1].may_have_been_billed
    assert results[1].record.attempts[0].outcome == STALE
    assert len(results[1].record.attempts) == 2


@MODE
def test_a_call_with_pauses_is_sent_again_for_an_ended_connection_once_at_most(
    server: FaultServer, mode: Mode
) -> None:
    (error,) = in_turn(mode, server, ["chat"], [reply(429)], [CLOSE], [reply(429)], [CLOSE], max_retries=2)
    assert isinstance(error, APIConnectionError)
    assert error.may_have_been_billed
    assert [each.outcome for each in error.record.attempts].count(STALE) == 1
    assert server.connections == 3  # no attempt after that one goes on a connection that was idle


@MODE
def test_what_a_server_does_before_it_closes_an_idle_connection_is_charged_twice(
    server: FaultServer, mode: Mode
) -> None:
    # Servers that close idle connections do not act on requests they have not read. One that does acts twice.
    charges: list[str] = []
    act: Step = lambda: charges.append("chat")  # noqa: E731  a step of an answer
    results = in_turn(mode, server, ["chat", "chat"], healthy("chat"), [act, CLOSE], [act, *healthy("chat")])
    assert healthy_result("chat", results[1])
    assert len(charges) == 2


@MODE
@pytest.mark.parametrize("announced", [(), ("keep-alive: timeout=5, max=100",), ("connection: close",)])
@pytest.mark.parametrize("kinds", [["chat-stream"] * 4, ["chat-stream", "chat", "submit", "poll"] * 2])
def test_a_server_that_closes_after_its_streams_loses_no_call(
    server: FaultServer, mode: Mode, announced: tuple[str, ...], kinds: list[str]
) -> None:
    # As llama.cpp's does: the end of the connection comes right behind the last chunk.
    answers: list[Answer] = []
    for kind in kinds:
        whole_ = joined(healthy(kind))
        if kind == "chat-stream":
            whole_ = stream_head(*announced) + whole_.partition(b"\r\n\r\n")[2]
        answers.append([whole_, CLOSE] if kind == "chat-stream" else [whole_])
    results = in_turn(mode, server, kinds, *answers)
    assert all(healthy_result(*each) for each in zip(kinds, results, strict=True))


@MODE
def test_a_server_that_closed_after_a_stream_is_remembered(server: FaultServer, mode: Mode) -> None:
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
    assert server.connections == 3  # the last call did not go on the connection of the stream before it


@MODE
def test_a_submission_goes_on_a_fresh_connection_and_leaves_it_to_others(
    server: FaultServer, mode: Mode
) -> None:
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
def test_an_idle_connection_is_dropped_before_the_server_drops_it(header: str, seconds: float) -> None:
    assert idle_seconds(header) == seconds


def test_an_idle_connection_is_closed_when_its_time_is_over(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [1000.0]
    monkeypatch.setattr(SyncBackend, "now", lambda backend: moment[0])
    # The stream's own clock is the real one: no bound of it is near.
    monkeypatch.setattr(streams.time, "monotonic", lambda: moment[0])
    client = Client(api_key=KEY, base_url=server.case(healthy("chat")).base_url)
    for after, expected in ((0.0, 1), (3.9, 1), (3.9, 1), (4.1, 2)):
        moment[0] += after
        assert client.chat.create("hi").text == TEXT
        assert server.connections == expected
    client.close()


def test_a_call_closes_what_is_idle_on_other_servers_too(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [time.monotonic()]
    monkeypatch.setattr(SyncBackend, "now", lambda backend: moment[0])
    monkeypatch.setattr(streams.time, "monotonic", lambda: moment[0])
    with FaultServer() as other:
        for each, after in ((other, 0.0), (server, 5.0)):
            moment[0] += after
            client = Client(api_key=KEY, base_url=each.case(healthy("chat")).base_url)
            assert client.chat.create("hi").text == TEXT
        other.wait_until_all_closed()


class Idle:
    """A stream that is never read."""

    closed = 0

    def is_readable(self) -> bool:
        return False

    def close(self) -> None:
        Idle.closed += 1


def test_the_cost_of_a_connection_does_not_grow_with_their_number() -> None:
    def lines(open_: int) -> int:
        origin, backend = Origin(), SyncBackend()
        request = HTTPRequest("GET", "http://a.test", [])
        for _ in range(open_):
            run_sync(origin.acquire(backend, request, 100_000))
            origin.release(connections.Connection(Idle()), backend.now() + 60)  # type: ignore[arg-type]
        counted = 0

        def count(frame: Any, event: str, argument: Any) -> Any:
            nonlocal counted
            counted += 1
            return count

        import sys

        before = sys.gettrace()
        sys.settrace(count)
        try:
            held = [run_sync(origin.acquire(backend, request, 100_000))]
            origin.release(held.pop(), backend.now() + 60)
        finally:
            sys.settrace(before)
        return counted

    assert lines(10) == lines(2000)


@pytest.mark.parametrize("count", [300])
async def test_as_many_streams_run_at_once_as_are_asked_for(server: FaultServer, count: int) -> None:
    gate = asyncio.Event()
    begun = 0
    base_url = server.case([stream_head(), chunk(EVENTS["chat"]["one"]), HANG]).base_url

    async def read(client: AsyncClient) -> None:
        nonlocal begun
        async with await client.chat.stream("hi") as opened:
            async for _ in opened:
                begun += 1
                if begun == count:
                    gate.set()
                await gate.wait()
                return

    async with AsyncClient(api_key=KEY, base_url=base_url) as client, asyncio.timeout(60):
        await asyncio.gather(*[read(client) for _ in range(count)])
    assert server.connections == count


def test_a_wait_for_a_connection_is_bounded_recorded_and_named(server: FaultServer) -> None:
    case = server.case([stream_head(), chunk(EVENTS["chat"]["one"]), HANG], healthy("chat"))
    client = Client(api_key=KEY, base_url=case.base_url, max_connections=1, max_retries=0)
    opened = client.chat.stream("hi")
    with pytest.raises(APITimeoutError, match=r"all 1 connections .* in use") as caught:
        client.chat.create("hi", timeout=1.0)
    assert "max_connections" in caught.value.hint
    assert not caught.value.may_have_been_billed
    assert caught.value.record is not None
    assert caught.value.record.attempts[0].queued > 0
    with FaultServer() as other:  # whose calls wait for nobody
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


async def test_who_waits_for_a_connection_is_served_in_turn_and_may_leave(server: FaultServer) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    case = server.case([lambda: loop.call_soon_threadsafe(asked.set), HANG], healthy("chat"))
    client = AsyncClient(api_key=KEY, base_url=case.base_url, max_connections=1)
    first = asyncio.create_task(client.chat.create("hi"))
    await asked.wait()
    others = [asyncio.create_task(client.chat.create("hi")) for _ in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    others[0].cancel()
    others[2].cancel()
    first.cancel()
    results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(each).__name__ for each in results] == ["CancelledError", "ChatReply"] * 2 + ["ChatReply"]
    await client.aclose()


def test_a_forgotten_stream_gives_its_place_back(server: FaultServer) -> None:
    case = server.case([stream_head(), chunk(EVENTS["chat"]["one"]), HANG], healthy("chat"))
    client = Client(api_key=KEY, base_url=case.base_url, max_connections=1, timeout=20.0)
    forgotten = [client.chat.stream("hi")]
    with pytest.warns(ResourceWarning, match="neither read nor closed"):
        forgotten.clear()
    assert client.chat.create("hi").text == TEXT


BAD_BODIES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda packed: packed[:-4],
    "cut early": lambda packed: packed[:20],
    "a second member that is cut": lambda packed: packed + gzip.compress(b" " * 99)[:-4],
}


@MODE
@pytest.mark.parametrize("kind", ["chat", "chat-stream", "poll"])
@pytest.mark.parametrize("damage", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_compressed_body_that_is_cut_is_not_whole(
    server: FaultServer, mode: Mode, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    events = b"".join(EVENTS["chat"].values())
    packed = damage(gzip.compress(events if kind == "chat-stream" else whole(kind)))
    type_ = "text/event-stream" if kind == "chat-stream" else "application/json"
    (error,) = in_turn(mode, server, [kind], [reply(200, packed, "content-encoding: gzip", type=type_)])
    if isinstance(error, ChatReply):  # all events had come, and what was cut was behind them
        assert kind == "chat-stream"
        assert error.text == TEXT
    else:
        assert isinstance(error, APIConnectionError | ResponseError | StreamError)


@MODE
def test_a_compressed_stream_of_comments_is_bounded(server: FaultServer, mode: Mode) -> None:
    bomb = gzip.compress((b": " + b"comment " * 100 + b"\n\n") * 96_000, 1)  # 77 MB; the bound is 64 MiB
    answer = [reply(200, bomb, "content-encoding: gzip", type="text/event-stream")]
    (error,) = in_turn(mode, server, ["chat-stream"], answer)
    assert isinstance(error, StreamError)
    assert "expands" in str(error)


async def test_unpacking_lets_the_event_loop_turn(server: FaultServer) -> None:
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
    assert turns >= 3_000_000 * 11 // 2**21  # once for each step, but for the first of each piece that came


@MODE
def test_204_has_no_body_whatever_its_headers_say(server: FaultServer, mode: Mode) -> None:
    odd = head(204, "content-type: text/event-stream", "transfer-encoding: chunked")
    results = in_turn(mode, server, ["chat-stream", "chat"], [odd], healthy("chat"))
    assert isinstance(results[0], PicccError)
    assert healthy_result("chat", results[1])


@MODE
def test_a_byte_that_is_no_utf8_does_not_lose_a_reply(server: FaultServer, mode: Mode) -> None:
    damaged = whole("chat").replace(TEXT.encode(), b"Hell\xff")
    (result,) = in_turn(mode, server, ["chat"], [reply(200, damaged)])
    assert result.text == "Hell\N{REPLACEMENT CHARACTER}"


@MODE
@pytest.mark.parametrize("more", ["x" * 2**21, "\ud83d" + "x" * 2**21], ids=["plain", "half a pair"])
def test_a_large_reply_is_read_beside_the_event_loop_alike(
    server: FaultServer, mode: Mode, more: str
) -> None:
    padded = json.dumps({**json.loads(whole("chat")), "padding": more}).encode()
    (result,) = in_turn(mode, server, ["chat"], [reply(200, padded)])
    assert result.text == TEXT


def named(monkeypatch: pytest.MonkeyPatch, port: int, addresses: list[tuple[int, Any]]) -> None:
    """Let `many.test` have these addresses."""
    known = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "many.test":
            return known(host, *arguments, **options)
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """Listen where nobody accepts, so that a connection there stays half open."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(2)]
        for each in fillers:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for each in fillers:
            each.close()


@MODE
def test_the_next_address_is_tried_beside_one_that_does_not_answer(
    server: FaultServer, mode: Mode, monkeypatch: pytest.MonkeyPatch, full: tuple[str, int]
) -> None:
    monkeypatch.setattr(streams, "ATTEMPT_DELAY", 0.01)
    live = (socket.AF_INET, ("127.0.0.1", server.port))
    dead = [(socket.AF_INET, full), (socket.AF_INET, ("127.0.0.1", closed_port()))]
    named(monkeypatch, server.port, [*dead, live])
    case = server.case(healthy("chat"))
    config = resolve(api_key=KEY, base_url=case.base_url.replace("127.0.0.1", "many.test"), timeout=30.0)
    (result,) = calls(mode, ["chat"], config, VirtualIO(mode.port()))
    assert healthy_result("chat", result)


async def test_a_cancelled_connect_leaves_no_socket_behind(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, full: tuple[str, int]
) -> None:
    opened: list[socket.socket] = []
    make = socket.socket

    class Counted(make):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(streams.socket, "socket", Counted)
    monkeypatch.setattr(streams, "ATTEMPT_DELAY", 0.001)
    named(monkeypatch, server.port, [(socket.AF_INET, full)] * 3)
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


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 has it first")
async def test_a_loop_with_eager_tasks_can_connect(server: FaultServer) -> None:
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    base_url = server.case(healthy("chat")).base_url.replace("127.0.0.1", "localhost")
    async with AsyncClient(api_key=KEY, base_url=base_url) as client:
        assert (await client.chat.create("hi")).text == TEXT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads, which is the point
async def test_leaving_a_stream_reaches_the_server_while_a_forked_child_holds_a_copy(
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
def test_a_large_request_that_is_refused_early_gets_its_answer(server: FaultServer, mode: Mode) -> None:
    # The server responds and closes without reading: the write fails, but the response is still there.
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.sendall(
                reply(413, json.dumps({"error": {"message": "too large"}}).encode(), "connection: close")
            )
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**20):
                pass
            connection.close()

        thread = threading.Thread(target=refuse)
        thread.start()
        config = resolve(api_key=KEY, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=20.0)
        (error,) = calls(mode, ["chat"], config, VirtualIO(mode.port()), padding=5_000_000)
        thread.join()
    assert getattr(error, "status", None) == 413
