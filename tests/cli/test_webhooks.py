"""`piccc webhooks listen`."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue

import pytest

from piccc import Client
from piccc.emulator import Emulator
from piccc.media.deliveries import verify
from tests.cli.shell import Shell

SECRET = {"PICCC_WEBHOOK_SECRET": "0123456789abcdef", "PICCC_LEDGER": "ledger.db"}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0


@pytest.fixture
def client(emulator: Emulator) -> Iterator[Client]:
    """Open a client of the emulator."""
    with Client(base_url=emulator.base_url, api_key=emulator.api_key) as opened:
        yield opened


def test_a_task_is_printed_when_it_ends(shell: Shell, client: Client) -> None:
    task = client.images.submit("A mug", model="piccc-image")
    with shell.start("webhooks", "listen", "--json", "--poll", "0.05") as process:
        told = json.loads(_line(process))
        assert (told["task_id"], told["status"]) == (task.id, "completed")
        _stop(process)


def test_webhooks_are_received_verified_and_printed(shell: Shell, emulator: Emulator) -> None:
    with shell.start("webhooks", "listen", "--receive", "--port", "0", **SECRET) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split("webhooks at ")[1].split(";")[0]
        submitted = shell("image", "A mug", "--webhook", address, "--no-wait", **SECRET)
        assert _line(process).split("\t")[1:] == [submitted.stdout.strip(), "image", "completed\n"]
        _stop(process)
    assert emulator.requests[0].body["webhook"]["url"].startswith(f"{address}/")
    assert emulator.deliveries[0].delivered


def test_what_has_ended_is_forwarded_signed_to_a_handler_on_this_machine(
    shell: Shell, client: Client
) -> None:
    taken: Queue[tuple[dict[str, str], bytes]] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            taken.put(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    task = client.images.submit("A mug", model="piccc-image")
    signing = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.handle_request)
        serving.start()
        words = ("webhooks", "listen", "--forward-to", f"http://127.0.0.1:{server.server_port}/hook")
        with shell.start(*words, PICCC_WEBHOOK_SIGNING_SECRET=signing) as process:
            headers, body = taken.get(timeout=30)
            _stop(process)
        serving.join()
    event = json.loads(body)
    assert (event["type"], event["data"]["task_id"]) == ("task.completed", task.id)
    assert verify(signing, headers, body, time.time())


def test_receiving_without_a_secret_says_what_to_set(shell: Shell) -> None:
    done = shell("webhooks", "listen", "--receive")
    assert done.returncode == 1
    assert "PICCC_WEBHOOK_SECRET" in done.stderr
