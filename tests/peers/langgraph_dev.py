"""Agents under `langgraph dev`, whose server rejects calls that block its event loop.

Needs langgraph-cli with its extra `inmem` in a separate environment; `.ci/run` has the command.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from langchain.agents import create_agent
from langgraph.graph import START, MessagesState, StateGraph
from langgraph_sdk import get_sync_client

from langchain_piccc import ChatPiccc, PicccMediaToolkit, PicccTasksMiddleware, media_from
from piccc import Client

PATIENCE = 60.0
MODES: tuple[Any, ...] = ("wait", "submit", "background", "interrupt")
PROMPT = {"messages": [{"role": "user", "content": 'Make an image "a red mug".'}]}


def agent(mode: Any) -> Any:
    """Return an agent with all media tools that shows the results to the model."""
    client = Client(ledger=f"{mode}.db")
    models = {"image_model": "piccc-image", "video_model": "piccc-video"}
    tools = PicccMediaToolkit(client=client, mode=mode, show="thumbnail", **models).get_tools()
    return create_agent(ChatPiccc(), tools, middleware=[PicccTasksMiddleware(client, wait_s=30)])


async def block(state: MessagesState) -> MessagesState:
    """Block the event loop, which the server must reject."""
    time.sleep(0.01)  # noqa: ASYNC251
    return {"messages": []}


def main() -> None:
    """Start an emulator and the server, and run each agent."""
    from piccc.emulator import Emulator

    with Emulator(speed=20) as emulator, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = {graph: f"{Path(__file__).resolve()}:{graph}" for graph in (*MODES, "blocked")}
        (folder / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "PICCC_API_KEY": emulator.api_key,
            "PICCC_BASE_URL": emulator.base_url,
            "LANGSMITH_TRACING": "false",
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
        log = folder / "log"
        with log.open("w") as output:
            command += ["--port", str(port)]
            options = {"cwd": folder, "env": environment, "stdout": output, "stderr": output}
            server = subprocess.Popen(command, start_new_session=True, **options)  # noqa: S603  our own command
            try:
                url = f"http://127.0.0.1:{port}"
                wait_for(url, server)
                with Client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
                    for mode in MODES:
                        run(url, mode, client)
                images = sum(charge.kind == "image" for charge in emulator.charges)
                assert images == len(MODES), f"{images} images were charged"
                api = get_sync_client(url=url)
                refused: Any = api.runs.wait(None, "blocked", input={"messages": []}, raise_error=False)
                assert refused["__error__"]["error"] == "BlockingError", refused
                print("langgraph dev: ok")
            except BaseException:
                print(log.read_text()[-10_000:], file=sys.stderr)
                raise
            finally:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server responds."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{url}/ok", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError("The server did not start.")


def run(url: str, mode: str, client: Client) -> None:
    """Run an agent; if it is interrupted, resume it when its task has ended."""
    api = get_sync_client(url=url)
    thread = api.threads.create()["thread_id"]
    state: Any = api.runs.wait(thread, mode, input=PROMPT, durability="sync")
    if mode == "interrupt":
        interrupts = api.threads.get_state(thread)["interrupts"]
        waiting = {found["value"]["piccc_task"]["task_id"]: found["id"] for found in interrupts}
        client.tasks.wait_all(waiting)
        state = api.runs.wait(
            thread, mode, command={"resume": dict.fromkeys(waiting.values(), True)}, durability="sync"
        )
    assert "__error__" not in state, state
    [made] = media_from(state)
    assert client.tasks.wait(made).status == "completed"
    chat: Any = api.runs.wait(thread, mode, input={"messages": [{"role": "user", "content": "Thanks."}]})
    assert [message["type"] for message in chat["messages"][-2:]] == ["human", "ai"], chat


if __name__ == "__main__":
    main()
else:
    wait, submit, background, interrupt = map(agent, MODES)
    blocked = StateGraph(MessagesState).add_node("block", block).add_edge(START, "block").compile()
