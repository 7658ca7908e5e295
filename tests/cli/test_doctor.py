"""`piccc doctor`."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from piccc.emulator import Emulator
from tests.cli.shell import Shell


class _AnHourBehind(BaseHTTPRequestHandler):
    """Answer with an empty list, and with the time of an hour ago."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": []}')

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() - 3600)

    def log_message(self, format: str, *args: object) -> None:
        return


def _found(shell: Shell, code: int, **variables: str) -> dict[str, dict[str, Any]]:
    done = shell("doctor", "--json", **variables)
    assert done.returncode == code, done.stdout
    document = json.loads(done.stdout)
    assert document["is_fine"] is (code == 0)
    return {finding["name"]: finding for finding in document["findings"]}


def test_where_all_is_well_it_says_so(shell: Shell, emulator: Emulator) -> None:
    found = _found(shell, 0)
    extras = ("cli", "emulator", "langchain", "llama-index")
    probed = ("server", "chat", "chat (anthropic)", "model list", "tasks", "clock", "ledger")
    well = ("piccc", *extras, "models", "key", "proxy", *probed)
    assert {found[name]["state"] for name in well} == {"ok"}
    assert emulator.base_url in found["server"]["says"]
    assert emulator.charges == []


def test_it_says_the_same_in_words(shell: Shell) -> None:
    done = shell("doctor")
    assert done.returncode == 0
    assert "✓ server" in done.stdout
    assert "\x1b" not in done.stdout
    assert "✓ server" in shell.on_a_terminal("doctor", NO_COLOR="1")


def test_no_key_is_to_be_fixed_and_the_server_is_tried_all_the_same(shell: Shell) -> None:
    found = _found(shell, 1, PICCC_API_KEY="")
    assert found["key"]["state"] == "fix"
    assert "PICCC_API_KEY" in found["key"]["to_do"]
    assert found["server"]["state"] == "ok"


def test_a_key_that_the_server_does_not_take_is_to_be_fixed_and_never_shown(shell: Shell) -> None:
    done = shell("doctor", PICCC_API_KEY="pcc_live_canary123456")
    assert done.returncode == 1
    assert "HTTP 401" in done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_no_address_is_to_be_fixed(shell: Shell) -> None:
    found = _found(shell, 1, PICCC_BASE_URL="")
    assert found["server"]["state"] == "fix"
    assert "piccc emulator" in found["server"]["to_do"]


def test_an_http_library_that_is_none_is_to_be_fixed(shell: Shell) -> None:
    assert _found(shell, 1, PICCC_HTTP_BACKEND="curl")["http"]["state"] == "fix"
    assert _found(shell, 0, PICCC_HTTP_BACKEND="httpx")["http"]["says"].startswith("httpx ")


def test_an_address_that_is_none_is_to_be_fixed(shell: Shell) -> None:
    assert _found(shell, 1, PICCC_BASE_URL="nowhere")["server"]["state"] == "fix"


def test_without_a_network_it_says_that_nobody_answers(shell: Shell, emulator: Emulator) -> None:
    address = emulator.base_url
    emulator.stop()
    found = _found(shell, 1, PICCC_BASE_URL=address)
    assert found["server"]["state"] == "fix"
    assert "No response" in found["server"]["says"]
    assert "clock" not in found


def test_a_clock_that_is_an_hour_off_is_to_be_fixed(shell: Shell) -> None:
    with HTTPServer(("127.0.0.1", 0), _AnHourBehind) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        found = _found(shell, 1, PICCC_BASE_URL=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        serving.join()
    assert found["server"]["state"] == "ok"
    assert found["clock"]["state"] == "fix"
    assert "ahead of the server's" in found["clock"]["says"]


def test_a_web_page_instead_of_the_api_is_to_be_fixed(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("html", route="GET /v1/tasks")
    found = _found(shell, 1)
    assert "web page" in found["tasks"]["says"]
    assert found["chat"]["state"] == "ok"


def _proxy(shell: Shell, **variables: str) -> dict[str, Any]:
    done = shell("doctor", "--json", **variables)
    assert "hush123" not in done.stdout + done.stderr
    finding: dict[str, Any] = next(
        each for each in json.loads(done.stdout)["findings"] if each["name"] == "proxy"
    )
    return finding


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_a_proxy_is_not_used_for_this_machine_and_its_password_is_not_shown(
    shell: Shell, variable: str
) -> None:
    proxy = _proxy(shell, **{variable: "http://me:hush123@127.0.0.1:9"})
    assert proxy["state"] == "ok"
    assert "not used for 127.0.0.1" in proxy["says"]


def test_a_proxy_on_the_way_to_another_machine_is_named(shell: Shell) -> None:
    variables = {"PICCC_BASE_URL": "http://nowhere.invalid", "http_proxy": "http://me:hush123@127.0.0.1:9"}
    proxy = _proxy(shell, **variables)
    assert proxy["state"] == "note"
    assert "127.0.0.1:9 is used for nowhere.invalid" in proxy["says"]


def test_a_proxy_that_takes_a_missing_package_is_to_be_fixed(shell: Shell) -> None:
    variables = {"PICCC_BASE_URL": "http://nowhere.invalid", "all_proxy": "socks5://me:hush123@127.0.0.1:9"}
    proxy = _proxy(shell, **variables)
    assert (proxy["state"], proxy["to_do"]) in (("fix", 'pip install "piccc[socks]"'), ("note", ""))


NO_ROUTE, REFUSED = (404, b"File Not Found"), (400, b'{"error": {"message": "no messages"}}')
CHAT, MESSAGES = ("POST", "/v1/chat/completions"), ("POST", "/v1/messages")
LISTED = (200, b'{"object": "list", "data": []}')
SERVERS: dict[str, tuple[dict[tuple[str, str], tuple[int, bytes]], int, dict[str, str]]] = {
    "chat alone": (
        {CHAT: REFUSED},
        0,
        {"server": "ok", "chat": "ok", "chat (anthropic)": "note", "model list": "note", "tasks": "note"},
    ),
    "chat that fails on an empty request": ({CHAT: (500, b"{}")}, 0, {"chat": "ok", "tasks": "note"}),
    "messages alone": ({MESSAGES: (422, b"{}")}, 0, {"chat": "note", "chat (anthropic)": "ok"}),
    "tasks alone": ({("GET", "/v1/tasks"): LISTED}, 0, {"chat": "note", "tasks": "ok"}),
    "no route at all": ({}, 1, {"server": "fix"}),
    "a refused key": ({CHAT: (401, b"{}")}, 1, {"server": "ok", "chat": "fix", "tasks": "note"}),
    "no credit": ({CHAT: (402, b"{}")}, 1, {"chat": "fix"}),
    "broken tasks": ({CHAT: REFUSED, ("GET", "/v1/tasks"): (500, b"{}")}, 1, {"chat": "ok", "tasks": "fix"}),
    "a web page for everything": (
        dict.fromkeys((CHAT, MESSAGES), (200, b"<html>")),
        1,
        {"server": "fix"},
    ),
}


@pytest.mark.parametrize(("routes", "code", "states"), SERVERS.values(), ids=SERVERS)
def test_each_capability_is_probed_by_itself(
    shell: Shell, routes: dict[tuple[str, str], tuple[int, bytes]], code: int, states: dict[str, str]
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = routes.get((self.command, self.path.partition("?")[0]), NO_ROUTE)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815  as the base class names them

        def log_message(self, format: str, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        found = _found(shell, code, PICCC_BASE_URL=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        serving.join()
    assert {name: found[name]["state"] for name in states} == states


def test_certificates_that_cannot_be_read_are_to_be_fixed(shell: Shell) -> None:
    (shell.folder / "not.pem").write_text("nothing")
    found = _found(shell, 1, SSL_CERT_DIR="", SSL_CERT_FILE=str(shell.folder / "not.pem"))
    assert found["certificates"]["state"] == "fix"


def test_a_ledger_that_cannot_be_written_is_to_be_fixed(shell: Shell) -> None:
    found = _found(shell, 1, PICCC_LEDGER="/dev/null/ledger.db")
    assert found["ledger"]["state"] == "fix"
    assert "PICCC_LEDGER" in found["ledger"]["to_do"]


def test_lost_submissions_are_told_of(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
    assert shell("image", "A mug").returncode == 5
    found = _found(shell, 0)
    assert found["ledger"]["state"] == "note"
    assert "piccc tasks resume" in found["ledger"]["to_do"]
