"""Test `piccc mcp` with MCP's conformance suite and inspector: `python tests/peers/mcp_conformance.py`.

Both are npm packages. If npm or a package is not available, this prints so and tests nothing.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from piccc import AsyncClient
from piccc.emulator import Emulator
from piccc.mcp_server import MediaServer

# The suite needs a newer node than Debian's, so npm installs it too.
PACKAGES = ("node@22", "@modelcontextprotocol/conformance@0.1", "@modelcontextprotocol/inspector")
TOKEN = "a token of this test"
SCENARIOS = {
    "server-initialize",
    "ping",
    "tools-list",
    "resources-list",
    "prompts-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
}
"""The scenarios for every server; the others need the tools, prompts and resources of the suite's example."""


def install(folder: str) -> dict[str, str] | None:
    """Install the packages; return an environment with them on PATH, or None if they are not available."""
    if (npm := shutil.which("npm")) is None:
        print("NOT TRIED: the conformance suite and inspector need npm, which is not installed")
        return None
    command = [npm, "install", "--no-audit", "--no-fund", "--silent", "--prefix", folder, *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    if done.returncode:
        print(
            f"NOT TRIED: npm cannot install the conformance suite and inspector: {done.stderr.strip()[-300:]}"
        )
        return None
    return {**os.environ, "PATH": f"{folder}/node_modules/.bin{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def served() -> Iterator[str]:
    """Serve streamable HTTP and yield its URL. Adds the token, because the suite sends none."""
    with Emulator(speed=math.inf) as emulator:
        client = AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key)
        guarded = MediaServer(client, image_models=["piccc-image"]).http_app(token=TOKEN)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                header = (b"authorization", f"Bearer {TOKEN}".encode())
                scope = {**scope, "headers": [*scope["headers"], header]}
            await guarded(scope, receive, send)

        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error")
        server = uvicorn.Server(config)
        with config.bind_socket() as bound:
            thread = threading.Thread(target=server.run, args=([bound],))
            thread.start()
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}/mcp"
            server.should_exit = True
            thread.join()


def conformance(environment: dict[str, str]) -> None:
    """Run the suite against streamable HTTP."""
    with served() as url:
        command = ["conformance", "server", "--url", url]
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    passed = set(re.findall(r"^✓ ([\w-]+):", done.stdout, re.MULTILINE))
    assert passed >= SCENARIOS, f"failed: {SCENARIOS - passed}\n{done.stdout}{done.stderr}"
    print(f"MCP's conformance suite: {len(passed)} scenarios passed")


def inspector(environment: dict[str, str]) -> None:
    """Call the server over stdio with the inspector, which validates responses by the protocol's schema."""

    def call(method: str, *more: str) -> dict[str, Any]:
        command = ["mcp-inspector", "--cli", sys.executable, "-m", "piccc", "mcp", "--emulator"]
        done = subprocess.run(  # noqa: S603
            [*command, "--method", method, *more],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
            check=True,
        )
        return dict(json.loads(done.stdout))

    assert call("tools/list")["tools"][0]["name"] == "generate_image"
    made = call("tools/call", "--tool-name", "generate_image", "--tool-arg", "prompt=A mug")
    assert [block["type"] for block in made["content"]] == ["text", "image", "resource_link"], made
    assert made["structuredContent"]["status"] == "completed", made
    print("MCP's inspector: ok")


def main() -> None:
    """Install both in a temporary folder and run them."""
    with tempfile.TemporaryDirectory() as folder:
        if (environment := install(folder)) is not None:
            conformance(environment)
            inspector(environment)


main()
