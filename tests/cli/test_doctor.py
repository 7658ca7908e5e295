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
    """Answers with an empty list and a `Date` header that is an hour old."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"object": "list", "data": []}')

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() - 3600)

    def log_message(self, format: str, *args: object) -> None:
        return


def _findings(shell: Shell, code: int, **variables: str) -> dict[str, dict[str, Any]]:
    done = shell("doctor", "--json", **variables)
    assert done.returncode == code, done.stdout
    document = json.loads(done.stdout)
    assert document["is_fine"] is (code == 0)
    return {finding["name"]: finding for finding in document["findings"]}


def test_a_working_setup_has_no_findings_to_fix(shell: Shell, emulator: Emulator) -> None:
    findings = _findings(shell, 0)
    extras = ("cli", "emulator", "langchain", "llama-index")
    probed = ("server", "chat", "chat (anthropic)", "model list", "tasks", "clock", "ledger")
    healthy = ("piccc", *extras, "models", "key", "proxy", *probed)
    assert {findings[name]["state"] for name in healthy} == {"ok"}
    assert emulator.base_url in findings["server"]["says"]
    assert emulator.charges == []


def test_findings_are_printed_as_text_by_default(shell: Shell) -> None:
    done = shell("doctor")
    assert done.returncode == 0
    assert "✓ server" in done.stdout
    assert "\x1b" not in done.stdout
    assert "✓ server" in shell.on_a_terminal("doctor", NO_COLOR="1")


def test_a_missing_key_is_reported_and_the_server_is_still_probed(shell: Shell) -> None:
    findings = _findings(shell, 1, PICCC_API_KEY="")
    assert findings["key"]["state"] == "fix"
    assert "PICCC_API_KEY" in findings["key"]["to_do"]
    assert findings["server"]["state"] == "ok"


def test_a_rejected_key_is_reported_but_not_printed(shell: Shell) -> None:
    done = shell("doctor", PICCC_API_KEY="pcc_live_canary123456")
    assert done.returncode == 1
    assert "HTTP 401" in done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_a_missing_base_url_is_reported(shell: Shell) -> None:
    findings = _findings(shell, 1, PICCC_BASE_URL="")
    assert findings["server"]["state"] == "fix"
    assert "piccc emulator" in findings["server"]["to_do"]


def test_an_unknown_http_library_is_reported(shell: Shell) -> None:
    assert _findings(shell, 1, PICCC_HTTP_BACKEND="curl")["http"]["state"] == "fix"
    assert _findings(shell, 0, PICCC_HTTP_BACKEND="httpx")["http"]["says"].startswith("httpx ")


def test_an_invalid_base_url_is_reported(shell: Shell) -> None:
    assert _findings(shell, 1, PICCC_BASE_URL="nowhere")["server"]["state"] == "fix"


def test_an_unreachable_server_is_reported(shell: Shell, emulator: Emulator) -> None:
    address = emulator.base_url
    emulator.stop()
    findings = _findings(shell, 1, PICCC_BASE_URL=address)
    assert findings["server"]["state"] == "fix"
    assert "No response" in findings["server"]["says"]
    assert "clock" not in findings


def test_a_clock_that_is_off_by_an_hour_is_reported(shell: Shell) -> None:
    with HTTPServer(("127.0.0.1", 0), _AnHourBehind) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        findings = _findings(shell, 1, PICCC_BASE_URL=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        serving.join()
    assert findings["server"]["state"] == "ok"
    assert findings["clock"]["state"] == "fix"
    assert "ahead of the server's" in findings["clock"]["says"]


def test_a_web_page_instead_of_the_api_is_reported(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("html", route="GET /v1/tasks")
    findings = _findings(shell, 1)
    assert "web page" in findings["tasks"]["says"]
    assert findings["chat"]["state"] == "ok"


def _proxy(shell: Shell, **variables: str) -> dict[str, Any]:
    done = shell("doctor", "--json", **variables)
    assert "hush123" not in done.stdout + done.stderr
    finding: dict[str, Any] = next(
        item for item in json.loads(done.stdout)["findings"] if item["name"] == "proxy"
    )
    return finding


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy"])
def test_a_proxy_is_not_used_for_localhost_and_its_password_is_hidden(shell: Shell, variable: str) -> None:
    proxy = _proxy(shell, **{variable: "http://me:hush123@127.0.0.1:9"})
    assert proxy["state"] == "ok"
    assert "not used for 127.0.0.1" in proxy["says"]


def test_a_proxy_used_for_a_remote_server_is_named(shell: Shell) -> None:
    variables = {"PICCC_BASE_URL": "http://nowhere.invalid", "http_proxy": "http://me:hush123@127.0.0.1:9"}
    proxy = _proxy(shell, **variables)
    assert proxy["state"] == "note"
    assert "127.0.0.1:9 is used for nowhere.invalid" in proxy["says"]


def test_a_socks_proxy_without_its_package_is_reported(shell: Shell) -> None:
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
def test_each_capability_is_probed_separately(
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

        do_POST = do_GET  # noqa: N815  the base class's naming

        def log_message(self, format: str, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        findings = _findings(shell, code, PICCC_BASE_URL=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        serving.join()
    assert {name: findings[name]["state"] for name in states} == states


def test_unreadable_certificates_are_reported(shell: Shell) -> None:
    (shell.folder / "not.pem").write_text("nothing")
    findings = _findings(shell, 1, SSL_CERT_DIR="", SSL_CERT_FILE=str(shell.folder / "not.pem"))
    assert findings["certificates"]["state"] == "fix"


def test_a_ledger_that_is_not_writable_is_reported(shell: Shell) -> None:
    findings = _findings(shell, 1, PICCC_LEDGER="/dev/null/ledger.db")
    assert findings["ledger"]["state"] == "fix"
    assert "PICCC_LEDGER" in findings["ledger"]["to_do"]


def test_lost_submissions_are_reported(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
    assert shell("image", "A mug").returncode == 5
    findings = _findings(shell, 0)
    assert findings["ledger"]["state"] == "note"
    assert "piccc tasks resume" in findings["ledger"]["to_do"]
