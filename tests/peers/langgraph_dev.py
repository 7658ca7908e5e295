"""Agents under `langgraph dev`, whose server refuses calls that block its loop; `.ci/run` has the command.

It takes langgraph-cli with its extra `inmem`, in an environment of its own.
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
ASKED = {"messages": [{"role": "user", "content": 'Make an image "a red mug".'}]}


def agent(mode: Any) -> Any:
    """Return an agent with all media tools, which shows the model what it makes."""
    client = Client(ledger=f"{mode}.db")
    models = {"image_model": "piccc-image", "video_model": "piccc-video"}
    tools = PicccMediaToolkit(client=client, mode=mode, show="thumbnail", **models).get_tools()
    return create_agent(ChatPiccc(), tools, middleware=[PicccTasksMiddleware(client, wait_s=30)])


async def block(state: MessagesState) -> MessagesState:
    """Do what the server is to refuse."""
    time.sleep(0.01)  # noqa: ASYNC251
    return {"messages": []}


def main() -> None:
    """Start an emulator and the server, and run each agent to its end."""
    from piccc.emulator import Emulator

    with Emulator(speed=20) as emulator, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        graphs = {name: f"{Path(__file__).resolve()}:{name}" for name in (*MODES, "blocked")}
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
            started = {"cwd": folder, "env": environment, "stdout": output, "stderr": output}
            server = subprocess.Popen(command, start_new_session=True, **started)  # noqa: S603  our own command
            try:
                url = f"http://127.0.0.1:{port}"
                wait_for(url, server)
                with Client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
                    for mode in MODES:
                        run(url, mode, client)
                images = sum(charge.kind == "image" for charge in emulator.charges)
                assert images == len(MODES), f"{images} images were paid for"
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
    """Wait until the server answers."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and server.poll() is None:
        try:
            if httpx.get(f"{url}/ok", timeout=5).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise TimeoutError("The server did not start.")


def run(url: str, mode: str, client: Client) -> None:
    """Run an agent; where it is interrupted, resume it when its task has ended."""
    api = get_sync_client(url=url)
    thread = api.threads.create()["thread_id"]
    state: Any = api.runs.wait(thread, mode, input=ASKED, durability="sync")
    if mode == "interrupt":
        found = api.threads.get_state(thread)["interrupts"]
        waiting = {each["value"]["piccc_task"]["task_id"]: each["id"] for each in found}
        client.tasks.wait_all(waiting)
        state = api.runs.wait(
            thread, mode, command={"resume": dict.fromkeys(waiting.values(), True)}, durability="sync"
        )
    assert "__error__" not in state, state
    [made] = media_from(state)
    assert client.tasks.wait(made).status == "completed"
    chat: Any = api.runs.wait(thread, mode, input={"messages": [{"role": "user", "content": "Thanks."}]})
    assert [each["type"] for each in chat["messages"][-2:]] == ["human", "ai"], chat


if __name__ == "__main__":
    main()
else:
    wait, submit, background, interrupt = map(agent, MODES)
    blocked = StateGraph(MessagesState).add_node("block", block).add_edge(START, "block").compile()
