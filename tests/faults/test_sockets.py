"""Streams over TLS and through proxies, and how their bytes are read."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from piccc._http import backends as streams
from piccc.config import resolve
from piccc.errors import StreamError
from tests.faults.calls import MODES, OWN_MODES, Mode, call
from tests.faults.replies import EVENTS, TEXT, openai_chunk, whole
from tests.faults.server import CLOSE, FaultServer, chunk, reply, stream, stream_head
from tests.faults.tunnels import Tunnel
from tests.faults.virtual import VirtualIO

MODE = pytest.mark.parametrize("mode", MODES, ids=str)
OWN_MODE = pytest.mark.parametrize("mode", OWN_MODES, ids=str)
EVENT_LIST = list(EVENTS["chat"].values())


def ask(mode: Mode, base_url: str, kind: str = "chat-stream", io: VirtualIO | None = None) -> Any:
    config = resolve(api_key="pcc_live_for_sockets", base_url=base_url, timeout=5.0, max_retries=0)
    return call(mode, kind, config, io or VirtualIO(mode.port()))


@pytest.fixture
def secure(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, tmp_path: Path
) -> Iterator[tuple[FaultServer, ssl.SSLContext]]:
    """Run a server with a certificate that the test trusts."""
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("behind.test", "127.0.0.1").configure_cert(context)
    with FaultServer(tls=context) as server:
        yield server, context


@MODE
@pytest.mark.parametrize("route", ["direct", "tunnel", "tls tunnel"])
def test_a_stream_works_over_tls_and_through_proxies(
    secure: tuple[FaultServer, ssl.SSLContext], mode: Mode, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, context = secure
    case = server.case(stream(*EVENT_LIST), stream(b"".join(EVENT_LIST)))
    with ExitStack() as stack:
        if route != "direct":
            tunnel = stack.enter_context(Tunnel(tls=context if route == "tls tunnel" else None))
            monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
            monkeypatch.setenv("NO_PROXY", "")
        for _ in range(2):
            host = "127.0.0.1" if route == "direct" else "behind.test"
            assert ask(mode, case.base_url.replace("127.0.0.1", host)).text == TEXT
        assert route == "direct" or tunnel.destinations == {f"behind.test:{server.port}"}


@pytest.mark.parametrize("ending", [chunk(b""), b"0\r\nx-checksum: 1\r\n\r\n"], ids=["plain", "trailer"])
def test_a_connection_is_reused_after_a_stream(ending: bytes) -> None:
    with FaultServer() as server:
        answer = [stream_head(), chunk(b"".join(EVENT_LIST)) + ending]
        case = server.case(answer, answer, [reply(200, whole("chat"))])
        mode, io = MODES[0], VirtualIO(MODES[0].port())
        for kind in ("chat-stream", "chat-stream", "chat"):
            assert ask(mode, case.base_url, kind, io).text == TEXT
        assert server.connections == 1


@MODE
@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_header_lines_may_end_with_lf_or_crlf(server: FaultServer, mode: Mode, newline: str) -> None:
    lines = ["HTTP/1.1 200 OK", "content-type: text/event-stream", "transfer-encoding: chunked", "", ""]
    case = server.case(
        [newline.join(lines).encode() + b"".join(chunk(event) for event in (*EVENT_LIST, b""))]
    )
    assert ask(mode, case.base_url).text == TEXT


@MODE
def test_a_body_without_framing_ends_when_the_connection_closes(server: FaultServer, mode: Mode) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    case = server.case([head + b"".join(EVENT_LIST), CLOSE])
    assert ask(mode, case.base_url).text == TEXT


@OWN_MODE
@pytest.mark.parametrize("damage", [b"xyz\r\n", b"1\r\nab\r\n"])
def test_malformed_chunks_are_a_stream_error(server: FaultServer, mode: Mode, damage: bytes) -> None:
    case = server.case([stream_head(), chunk(EVENT_LIST[0]) + chunk(EVENT_LIST[1]) + damage, CLOSE])
    with pytest.raises(StreamError, match="damaged") as caught:
        ask(mode, case.base_url)
    assert caught.value.partial.text == "Hello, "


class PausableTransport(asyncio.Transport):
    """A transport that only records whether reading is paused."""

    is_paused = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False


async def test_reading_pauses_while_the_reader_is_slow_and_resumes_once_all_is_read() -> None:
    reader, transport = streams.AsyncStream(), PausableTransport()
    reader.connection_made(transport)
    received = 0
    while not transport.is_paused:
        reader.get_buffer(-1)[:1000] = b"x" * 1000
        reader.buffer_updated(1000)
        received += 1000
        assert received <= streams.MAX_HELD_BYTES + 1000
    assert len(await reader.read(None)) == received
    assert transport.is_paused, "resuming before the next read would hold the next bytes for a slow reader"
    reading = asyncio.ensure_future(reader.read(None))
    await asyncio.sleep(0)
    assert not transport.is_paused
    reader.eof_received()
    assert await reading == b""


def test_a_stream_is_complete_after_reading_was_paused(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[streams.AsyncStream] = []
    received = streams.AsyncStream.buffer_updated

    def buffer_updated(reader: streams.AsyncStream, nbytes: int) -> None:
        received(reader, nbytes)
        if reader._is_paused:
            pauses.append(reader)

    monkeypatch.setattr(streams, "MAX_HELD_BYTES", 1000)
    monkeypatch.setattr(streams.AsyncStream, "buffer_updated", buffer_updated)
    word = "word " * 1000
    case = server.case(
        stream(EVENT_LIST[0], *[openai_chunk({"content": word})] * 50, *EVENT_LIST[3:]),
    )
    assert ask(MODES[1], case.base_url).text == word * 50
    assert pauses


def test_streams_share_a_buffer_only_within_one_event_loop() -> None:
    async def buffers() -> list[memoryview]:
        return [streams.AsyncStream().get_buffer(-1) for _ in range(2)]

    (first, second), (other, _) = asyncio.run(buffers()), asyncio.run(buffers())
    assert first is second
    assert first is not other, "loops in two threads would read into it at once"
