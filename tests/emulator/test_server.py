"""The emulator's HTTP server: where it listens, how it starts and stops, and HTTP edge cases."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from piccc.emulator import Emulator, ManualClock
from piccc.emulator.http_server import bound_socket
from tests.emulator.wire import chat, connect, image


def test_it_listens_on_a_free_loopback_port_and_stops_on_exit() -> None:
    before = set(threading.enumerate())
    with Emulator() as emulator:
        assert emulator.base_url.startswith("http://127.0.0.1:")
        with connect(emulator) as client:
            assert client.get("/v1/models").status_code == 200
        url = emulator.base_url
    assert set(threading.enumerate()) <= before
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + "/v1/models", trust_env=False)
    with pytest.raises(RuntimeError, match="is not running"):
        _ = emulator.base_url


async def test_it_can_be_started_from_an_event_loop() -> None:
    async with Emulator(speed=math.inf) as emulator:
        async with httpx.AsyncClient(trust_env=False, headers={"x-api-key": emulator.api_key}) as client:
            response = await client.post(emulator.base_url + "/v1/chat/completions", json=chat())
        assert response.status_code == 200


def test_it_can_be_restarted_and_two_can_run_side_by_side() -> None:
    first, second = Emulator(), Emulator()
    for _ in range(2):
        with first, second:
            assert first.base_url != second.base_url
            with pytest.raises(RuntimeError, match="already"):
                first.start()


def test_an_occupied_port_is_an_error_at_start() -> None:
    with Emulator() as emulator:
        port = int(emulator.base_url.rpartition(":")[2])
        other = Emulator(port=port)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            other.start()
        other.stop()


@pytest.mark.parametrize(
    "options", [{"mode": "record"}, {"mode": "once"}, {"upstream_model": "m"}, {"upstream_api": "piccc"}]
)
def test_an_option_without_the_one_it_belongs_to_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs? (?:recording|upstream)"):
        Emulator(**options)


def test_only_loopback_is_served_by_default() -> None:
    with pytest.raises(ValueError, match="loopback_only"):
        Emulator(host="0.0.0.0")  # noqa: S104 - must be rejected
    with Emulator(host="0.0.0.0", loopback_only=False) as emulator:  # noqa: S104 - on purpose
        assert emulator.base_url.startswith("http://127.0.0.1:")
        assert httpx.get(emulator.base_url + "/health", trust_env=False, timeout=60).status_code == 200
    with Emulator(host="localhost") as emulator:
        assert emulator.base_url.startswith("http://127.0.0.1:")


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_loopback_is_served() -> None:
    try:
        with Emulator(host="::1") as emulator, connect(emulator) as client:
            assert client.get(emulator.base_url + "/v1/models").status_code == 200
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")


def test_a_failed_start_is_reported_and_can_be_retried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(provider: object) -> None:
        raise ZeroDivisionError

    emulator = Emulator()
    with monkeypatch.context() as patched:
        patched.setattr("piccc.emulator.api.EmulatedAPI.resume", fail)
        with pytest.raises(RuntimeError, match="could not start"):
            emulator.start()
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()
    with emulator, connect(emulator) as client:
        assert client.get("/v1/models").status_code == 200


def test_the_listening_socket_is_declared_as_tcp() -> None:
    with closing(bound_socket("127.0.0.1", 0)) as bound:
        assert bound.proto == socket.IPPROTO_TCP, "otherwise every response waits for a delayed ACK"


def test_stopping_ends_pending_requests(clock: ManualClock) -> None:
    errors: list[object] = []

    def ask(emulator: Emulator) -> None:
        with connect(emulator) as client:
            try:
                client.post("/v1/chat/completions", json=chat())
            except httpx.HTTPError as error:
                errors.append(type(error))

    with Emulator(clock=clock) as emulator:
        asker = threading.Thread(target=ask, args=[emulator])
        asker.start()
        clock.until_sleeping()
    asker.join(10)
    assert errors in ([httpx.ReadError], [httpx.RemoteProtocolError])


def test_a_client_that_disconnects_midway_does_not_affect_others(emulator: Emulator) -> None:
    with connect(emulator) as client:
        for _ in range(20):
            with client.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as response:
                next(response.iter_raw())
        port = int(emulator.base_url.rpartition(":")[2])
        for sent in (
            b"",
            b"GET / HT",
            b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc",
        ):
            with socket.create_connection(("127.0.0.1", port)) as half:
                half.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                half.sendall(sent)
        assert client.get("/v1/models").status_code == 200


KEY = "host: 127.0.0.1\r\nauthorization: Bearer pcc_test_emulator\r\n"
LAST = f"GET /v1/models HTTP/1.1\r\n{KEY}connection: close\r\n\r\n"
GET = LAST.replace("connection: close\r\n", "")
CHUNKED = f"POST /v1/chat/completions HTTP/1.1\r\n{KEY}transfer-encoding: chunked\r\n\r\n"


def posted(version: str = "1.1", headers: str = KEY, **fields: Any) -> str:
    """Return the text of a chat request."""
    body = json.dumps(chat(**fields))
    return f"POST /v1/chat/completions HTTP/{version}\r\n{headers}content-length: {len(body)}\r\n\r\n{body}"


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        pytest.param(GET + posted(stream=True) + posted() + LAST, [200] * 4, id="pipelined"),
        pytest.param(GET.replace("GET", "HEAD") + LAST, [200, 200], id="HEAD has no body"),
        pytest.param(posted("1.0"), [200], id="HTTP/1.0"),
        pytest.param(posted("1.0", stream=True), [200], id="HTTP/1.0, streamed"),
        pytest.param(
            f"{CHUNKED}{len(json.dumps(chat())):x}\r\n{json.dumps(chat())}\r\n0\r\nx-sum: 1\r\n\r\n{LAST}",
            [200, 200],
            id="chunked with a trailer",
        ),
        pytest.param(
            posted(headers=f"{KEY}Expect: 100-Continue\r\n") + LAST,
            [100, 200, 200],
            id="Expect: 100-continue",
        ),
        pytest.param(
            posted(headers="host: 127.0.0.1\r\n", text="x" * 300_000) + LAST, [401, 200], id="rejected unread"
        ),
        pytest.param(
            posted(headers=f"{KEY}connection: upgrade\r\nupgrade: h2c\r\n") + LAST,
            [200, 200],
            id="upgrade ignored",
        ),
        pytest.param(
            GET.replace(KEY, f"{KEY}connection: upgrade\r\nupgrade: h2c\r\n") * 1_100 + LAST,
            [200] * 1_101,
            id="upgrade ignored 1,100 times",
        ),
        pytest.param("CONNECT example.org:443 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", [400], id="CONNECT"),
        pytest.param("HELO example.org\r\n\r\n", [400], id="not HTTP"),
        pytest.param(f"{CHUNKED}zz\r\n", [400], id="invalid chunk"),
        pytest.param(
            posted(headers=f"{KEY}transfer-encoding: chunked\r\n"),
            [400],
            id="content-length and transfer-encoding",
        ),
        pytest.param(GET.replace("/v1/models", "/v1/é"), [400], id="invalid path"),
        pytest.param(LAST + GET, [200], id="data after connection: close"),
        pytest.param(GET + posted() + "HELO example.org\r\n\r\n", [200, 200], id="not HTTP after requests"),
        pytest.param(GET + f"{CHUNKED}zz\r\n", [200], id="invalid chunk after a request"),
        pytest.param(GET.replace("host: 127.0.0.1\r\n", ""), [400], id="no host"),
        pytest.param(GET.replace(KEY, f"host: other.example\r\n{KEY}"), [400], id="two hosts"),
        pytest.param(LAST.replace("/v1", "http://other.example/v1"), [403], id="another host in the target"),
        pytest.param(GET.replace("HTTP/1.1", "HTTP/2.0"), [400], id="HTTP/2.0"),
        pytest.param("GET /v1/models\r\n\r\n", [400], id="HTTP/0.9"),
        pytest.param(
            posted("1.0", headers=f"{KEY}expect: 100-continue\r\n"),
            [200],
            id="HTTP/1.0, Expect: 100-continue",
        ),
        pytest.param("GET /" + "a" * 1_000_000, [431], id="endless URL"),
        pytest.param("GET / HTTP/1.1\r\n" + "a: b\r\n" * 200_000, [431], id="endless headers"),
    ],
)
def test_each_request_on_a_connection_gets_its_response(
    emulator: Emulator, sent: str, statuses: list[int]
) -> None:
    with socket.create_connection(("127.0.0.1", int(emulator.base_url.rpartition(":")[2]))) as connection:
        connection.settimeout(60)
        received = bytearray()
        with suppress(ConnectionError):  # the emulator stops reading an endless head
            connection.sendall(sent.encode())
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
    statuses_seen = re.findall(rb"HTTP/1\.1 (\d+) [\w ]+\r\n", received)
    assert [int(status) for status in statuses_seen] == statuses
    assert ("HTTP/1.0" not in sent) or b"transfer-encoding" not in received


def test_an_idle_connection_is_closed(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc.emulator.http_server._IDLE", 0.01)
    with socket.create_connection(("127.0.0.1", int(emulator.base_url.rpartition(":")[2]))) as connection:
        connection.settimeout(60)
        connection.sendall(GET.encode())
        assert b" 200 OK" in b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_header_with_a_line_break_is_never_sent(
    emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    emulator.fault("429;x-note=a\r\nset-cookie: b")
    with connect(emulator) as client, pytest.raises(httpx.RemoteProtocolError):
        client.post("/v1/chat/completions", json=chat())
    assert "contains a line break" in caplog.text
    caplog.clear()


def test_a_body_that_is_too_large_is_a_413(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("piccc.emulator.middleware._LARGEST_BODY", 1_000)
    with connect(emulator) as client:
        response = client.post("/v1/chat/completions", json=chat("x" * 1_000))
        assert (response.status_code, response.json()["error"]["type"]) == (413, "request_too_large")
        assert client.post("/v1/chat/completions", json=chat("x" * 800)).status_code == 200


async def test_hundreds_of_concurrent_streams_are_complete() -> None:
    async with Emulator(speed=20) as emulator:
        limits = httpx.Limits(max_connections=500)
        headers = {"x-api-key": emulator.api_key}

        async def read_stream(client: httpx.AsyncClient) -> list[str]:
            async with client.stream(
                "POST", emulator.base_url + "/v1/chat/completions", json=chat("Hello", stream=True)
            ) as response:
                return [line for line in [line async for line in response.aiter_lines()] if line]

        async with httpx.AsyncClient(limits=limits, timeout=60, trust_env=False, headers=headers) as client:
            streams = await asyncio.gather(*(read_stream(client) for _ in range(500)))
        assert all(lines[-1] == "data: [DONE]" for lines in streams)
        assert len({len(lines) for lines in streams}) == 1
        assert len(emulator.charges) == 500


async def test_the_app_runs_on_any_asgi_server() -> None:
    emulator = Emulator(speed=math.inf, loopback_only=False)
    transport = httpx.ASGITransport(app=emulator.app)
    headers = {"x-api-key": emulator.api_key}
    async with httpx.AsyncClient(transport=transport, base_url="http://app.test", headers=headers) as client:
        task = (await client.post("/v1/images/tasks", json=image())).json()
        assert task["polling_url"].startswith("http://app.test/v1/tasks/task_")
        with pytest.raises(ConnectionAbortedError):
            await client.get("/v1/models", headers={"x-piccc-fault": "disconnect"})


def test_tasks_and_charges_survive_a_restart_with_a_state_folder(tmp_path: Path) -> None:
    with Emulator(state=tmp_path, speed=math.inf) as emulator, connect(emulator) as client:
        client.post("/v1/chat/completions", json=chat())
        task = client.post("/v1/images/tasks", json=image(), headers={"idempotency-key": "order-1"}).json()
        url = client.get(f"/v1/tasks/{task['task_id']}").json()["result"]["outputs"][0]["url"]
        content = client.get(url).content
        charges = emulator.charges
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write('\n{"torn')
    with Emulator(state=tmp_path, speed=math.inf) as emulator, connect(emulator) as client:
        assert emulator.charges == charges
        again = client.post("/v1/images/tasks", json=image(), headers={"idempotency-key": "order-1"}).json()
        assert again["task_id"] == task["task_id"]
        other = client.post("/v1/images/tasks", json=image("another")).json()
        assert other["task_id"] != task["task_id"]
        path = url.partition("/files/")[2]
        assert client.get(f"/files/{path}").content == content
        assert again["polling_url"].startswith(emulator.base_url)
    with Emulator(state=tmp_path) as emulator:
        assert len(emulator.charges) == 3


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with warnings as errors."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own code


@pytest.mark.parametrize("missing", ["av", "PIL", "httptools"])
def test_importing_without_the_extra_says_what_to_install(missing: str) -> None:
    code = f"""
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Gone())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {missing!r} else found(name, package)
try:
    import piccc.emulator
except ImportError as error:
    print(error)
"""
    run = python(code)
    assert 'pip install "piccc[emulator]"' in run.stdout
    assert missing in run.stdout


def test_importing_the_package_loads_no_server_or_codec() -> None:
    code = "import sys, json, piccc.emulator; print(json.dumps(sorted(sys.modules)))"
    run = python(code)
    assert not {"httptools", "av", "PIL"} & set(json.loads(run.stdout))


def test_starting_and_serving_loads_no_codec() -> None:
    code = """
import sys, json, urllib.request
from piccc.emulator import Emulator
with Emulator() as emulator:
    url, key = emulator.base_url + "/v1/models", emulator.api_key
    urllib.request.urlopen(urllib.request.Request(url, headers={"X-API-Key": key})).close()
print(json.dumps(sorted(sys.modules)))
"""
    run = python(code)
    assert run.stderr == ""
    assert not {"av", "PIL", "httpx"} & set(json.loads(run.stdout))


def test_unknown_names_raise_attribute_error_and_public_names_exist() -> None:
    import piccc.emulator as package

    with pytest.raises(AttributeError, match="Emulater"):
        _ = package.Emulater
    names: list[Any] = [getattr(package, name) for name in package.__all__]
    assert all(names)


def test_stopping_closes_connections_that_were_just_accepted() -> None:
    gc.collect()
    with warnings.catch_warnings(record=True, action="always") as caught:
        for _ in range(20):
            with Emulator() as emulator:
                address = urlsplit(emulator.base_url)
                clients = [socket.create_connection((address.hostname, address.port)) for _ in range(6)]
            for client in clients:
                client.close()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
