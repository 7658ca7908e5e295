"""Measure the emulator: `python -m tests.benchmarks.emulator [--aimock PROGRAM] [--memory REQUESTS]`.

Prints the time to start, the CPU of its process for a whole and a streamed answer, beside aimock's where its
`llmock` program is given, and its memory while many requests go by. CPU is read from Linux's `/proc`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROMPT = "Hello"
ANSWER = "You said: Hello (This is the emulator; it knows nothing by itself.)"
WARM, BATCH, BATCHES = 2_000, 500, 9
SERVE = """
import math, threading
from piccc.emulator import Emulator
with Emulator(speed=math.inf) as emulator:
    print(emulator.base_url, flush=True)
    threading.Event().wait()
"""


def request(*, stream: bool) -> bytes:
    """Return the bytes of a chat request, with the headers of a usual client."""
    body = {"model": "piccc-pro", "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\nuser-agent: benchmark\r\n"
        "accept-encoding: gzip, deflate\r\nauthorization: Bearer pcc_test_emulator\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def ask(port: int, sent: bytes, count: int) -> None:
    """Send a request over and over on one connection, and read each answer to its end."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            connection.sendall(sent)
            answer = b""
            while not _whole(answer):
                answer += connection.recv(65536)
            if b" 200 " not in answer[:15]:
                raise SystemExit(answer.decode(errors="replace"))


def _whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n") if found else ():
        if line.startswith(b"content-length:"):
            return len(body) >= int(line[15:])
    return bool(found) and body.endswith(b"0\r\n\r\n")


def cpu(pid: int) -> float:
    """Return the CPU seconds of all threads of a process."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def memory(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def emulator() -> Iterator[tuple[int, int]]:
    """Run an emulator in a process of its own; print how long that takes, yield its id and port."""
    began = time.perf_counter()
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own code
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        print(f"start: {time.perf_counter() - began:.2f} s, {cpu(process.pid):.2f} s of CPU")
        try:
            yield process.pid, port
        finally:
            process.terminate()


@contextmanager
def aimock(program: str) -> Iterator[tuple[int, int]]:
    """Run aimock with one fixture; yield its process and port."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        fixture = {"match": {"userMessage": PROMPT}, "response": {"content": ANSWER}}
        path = Path(folder, "fixtures.json")
        path.write_text(json.dumps({"fixtures": [fixture]}))
        command = ["node", program, "-p", str(port), "-f", str(path), "--log-level", "silent"]
        with subprocess.Popen(command) as process:  # noqa: S603 - the user's own program
            try:
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    except OSError:
                        time.sleep(0.1)
                yield process.pid, port
            finally:
                process.terminate()


def compare(servers: dict[str, tuple[int, int]]) -> None:
    """Print the CPU of each server, in batches taken in turn, so that a slow minute falls on all."""
    for kind, stream in (("whole", False), ("streamed", True)):
        sent, taken = request(stream=stream), dict[str, list[float]]()
        for _, port in servers.values():
            ask(port, sent, WARM)
        for _ in range(BATCHES):
            for name, (pid, port) in servers.items():
                began = cpu(pid)
                ask(port, sent, BATCH)
                taken.setdefault(name, []).append((cpu(pid) - began) / BATCH * 1e6)
        for name, figures in taken.items():
            print(f"{kind}, {name}: {statistics.median(figures):.0f} µs of CPU, least {min(figures):.0f}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.emulator", description=__doc__)
    parser.add_argument("--aimock", metavar="PROGRAM", help="node_modules/.bin/llmock of @copilotkit/aimock")
    parser.add_argument("--memory", type=int, default=0, metavar="REQUESTS", help="such as 100000")
    options = parser.parse_args()
    with ExitStack() as stack:
        servers = {"piccc": stack.enter_context(emulator())}
        if options.aimock:
            servers["aimock"] = stack.enter_context(aimock(options.aimock))
        compare(servers)
        pid, port = servers["piccc"]
        for done in range(10):
            for stream in (False, True) if options.memory else ():
                ask(port, request(stream=stream), options.memory // 20)
            if options.memory:
                print(f"{(done + 1) * options.memory // 10} requests more: {memory(pid):.0f} MB")


if __name__ == "__main__":
    main()
