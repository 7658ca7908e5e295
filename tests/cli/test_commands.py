"""The command line as a user types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from piccc import Client

PICCC = [sys.executable, "-m", "piccc"]


def test_the_emulator_serves_until_it_is_told_to_stop() -> None:
    command = [*PICCC, "emulator", "--port", "0", "--speed", "inf"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  our own command
        assert process.stdout is not None
        exports: dict[str, str] = {}
        for line in process.stdout:
            if line.strip().startswith("export "):
                name, _, value = line.strip().removeprefix("export ").partition("=")
                exports[name] = value
            if len(exports) == 2:
                break
        client = Client(base_url=exports["PICCC_BASE_URL"], api_key=exports["PICCC_API_KEY"])
        assert client.chat.create("Hello").text
        client.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_live_without_a_key_says_what_to_set() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PICCC_")}
    done = subprocess.run(  # noqa: S603  our own command
        [*PICCC, "demo", "--live"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "PICCC_API_KEY" in done.stderr
    assert "PICCC_BASE_URL" in done.stderr
