"""`piccc webhooks`."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue

import pytest

from piccc import Client
from piccc.emulator import Emulator
from piccc.media.deliveries import verify
from tests.cli.shell import Shell

SIGNING = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
SECRET = {"PICCC_WEBHOOK_SECRET": "0123456789abcdef", "PICCC_LEDGER": "ledger.db"}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0


@pytest.fixture
def client(emulator: Emulator) -> Iterator[Client]:
    """Open a client for the emulator."""
    with Client(base_url=emulator.base_url, api_key=emulator.api_key) as opened:
        yield opened


def test_listen_prints_a_task_when_it_ends(shell: Shell, client: Client) -> None:
    task = client.images.submit("A mug", model="piccc-image")
    with shell.start("webhooks", "listen", "--json", "--poll", "0.05") as process:
        event = json.loads(_line(process))
        assert (event["task_id"], event["status"]) == (task.id, "completed")
        _stop(process)


@pytest.mark.parametrize("options", [[], ["--receive", "--port", "0"]])
def test_listen_ends_at_once_without_a_key(shell: Shell, options: list[str]) -> None:
    done = shell("webhooks", "listen", *options, PICCC_API_KEY="", **SECRET)
    assert done.returncode == 1
    assert done.stderr.startswith("No API key.")


def test_webhooks_are_received_verified_and_printed(shell: Shell, emulator: Emulator) -> None:
    with shell.start("webhooks", "listen", "--receive", "--port", "0", **SECRET) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split("webhooks at ")[1].split(";")[0]
        submitted = shell("image", "A mug", "--webhook", address, "--no-wait", **SECRET)
        assert _line(process).split("\t")[1:] == [submitted.stdout.strip(), "image", "completed\n"]
        _stop(process)
    assert emulator.requests[0].body["webhook"]["url"].startswith(f"{address}/")
    assert emulator.deliveries[0].delivered


class Handler(HTTPServer):
    """A local webhook handler that answers one request with `status` and records it."""

    timeout = 60.0  # seconds to wait for the request; closing waits for it too

    def __init__(self, status: int = 204) -> None:
        self.received: Queue[tuple[dict[str, str], bytes]] = Queue()

        class OneRequest(BaseHTTPRequestHandler):
            def do_POST(request) -> None:  # noqa: N805  `self` is the server
                body = request.rfile.read(int(request.headers["content-length"]))
                headers = {name.lower(): value for name, value in request.headers.items()}
                self.received.put((headers, body))
                request.send_response(status)
                request.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        super().__init__(("127.0.0.1", 0), OneRequest)
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        self._serving = threading.Thread(target=self.handle_request)
        self._serving.start()

    def server_close(self) -> None:
        self._serving.join()
        super().server_close()


def test_finished_tasks_are_forwarded_signed_to_a_local_handler(shell: Shell, client: Client) -> None:
    task = client.images.submit("A mug", model="piccc-image")
    with Handler() as handler:
        words = ("webhooks", "listen", "--forward-to", handler.url)
        with shell.start(*words, PICCC_WEBHOOK_SIGNING_SECRET=SIGNING) as process:
            headers, body = handler.received.get(timeout=30)
            _stop(process)
    event = json.loads(body)
    assert (event["type"], event["data"]["task_id"]) == ("task.completed", task.id)
    assert verify(SIGNING, headers, body, time.time())


@pytest.mark.parametrize(("status", "code"), [(204, 0), (500, 1)])
def test_trigger_sends_a_signed_sample_task_and_prints_the_status(
    tmp_path: Path, status: int, code: int
) -> None:
    with Handler(status) as handler:
        words = ("webhooks", "trigger", handler.url, "--status", "failed", "--type", "video")
        done = Shell(tmp_path)(*words, PICCC_WEBHOOK_SIGNING_SECRET=SIGNING)
        headers, body = handler.received.get(timeout=30)
    assert (done.returncode, done.stdout) == (code, f"{status}\n")
    event = json.loads(body)
    assert (event["type"], event["data"]["type"]) == ("task.failed", "video")
    assert verify(SIGNING, headers, body, time.time())


def test_trigger_sends_an_existing_task(shell: Shell, client: Client) -> None:
    task = client.images.generate("A mug", model="piccc-image")
    with Handler() as handler:
        done = shell("webhooks", "trigger", handler.url, "--task", task.id, "--json")
        _, body = handler.received.get(timeout=30)
    assert json.loads(done.stdout) == {"status": 204, "event": json.loads(body)}
    assert json.loads(body)["data"]["task_id"] == task.id


def test_trigger_fails_without_a_listening_handler(tmp_path: Path) -> None:
    done = Shell(tmp_path)("webhooks", "trigger", "http://127.0.0.1:9/hook")
    assert done.returncode == 1
    assert "No response from http://127.0.0.1:9/hook" in done.stderr


def test_receiving_without_a_secret_names_the_variable_to_set(shell: Shell) -> None:
    done = shell("webhooks", "listen", "--receive")
    assert done.returncode == 1
    assert "PICCC_WEBHOOK_SECRET" in done.stderr
