"""The emulator and aimock: startup, and the server's CPU time for a complete and a streamed response.

CPU time comes from Linux's `/proc`. `python -m tests.benchmarks.emulator REQUESTS` prints the emulator's
memory during that many requests.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
AIMOCK = ROOT / "build" / "aimock"
PROMPT = "Hello"
ANSWER = "You said: Hello (This is the emulator; it only echoes your words.)"
WARM, BATCH, BATCHES = 2_000, 500, 5
SERVE = """
import math, threading
from piccc.emulator import Emulator
with Emulator(speed=math.inf) as emulator:
    print(emulator.base_url, flush=True)
    threading.Event().wait()
"""


def request(*, stream: bool) -> bytes:
    """Return the bytes of a chat request with a typical client's headers."""
    body = {"model": "piccc-pro", "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: */*\r\nuser-agent: benchmark\r\n"
        "accept-encoding: gzip, deflate\r\nauthorization: Bearer pcc_test_emulator\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def ask(port: int, sent: bytes, count: int) -> None:
    """Send a request repeatedly on one connection, and read each response to its end."""
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
    """Return the CPU seconds of a process, including its threads."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def memory(pid: int) -> float:
    """Return a process's resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def emulator() -> Iterator[tuple[int, int]]:
    """Run an emulator in a separate process; yield its process id and port."""
    command = [sys.executable, "-c", SERVE]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  our own
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.terminate()


@contextmanager
def aimock() -> Iterator[tuple[int, int]]:
    """Run aimock, installed by `install_aimock`, with one fixture; yield its process id and port."""
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        fixture = {"match": {"userMessage": PROMPT}, "response": {"content": ANSWER}}
        path = Path(folder, "fixtures.json")
        path.write_text(json.dumps({"fixtures": [fixture]}))
        program = str(AIMOCK / "node_modules" / ".bin" / "llmock")
        command = ["node", program, "-p", str(port), "-f", str(path), "--log-level", "silent"]
        with subprocess.Popen(command) as process:  # noqa: S603 - the user's own program
            try:
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    except OSError:
                        time.sleep(0.02)
                yield process.pid, port
            finally:
                process.terminate()


SERVERS: dict[str, Callable[[], AbstractContextManager[tuple[int, int]]]] = {
    "emulator": emulator,
    "aimock": aimock,
}


def served(subject: str) -> dict[str, float]:
    """Return the seconds to the first response, and the CPU microseconds of each kind of request."""
    began = time.perf_counter()
    with SERVERS[subject]() as (pid, port):
        ask(port, request(stream=False), 1)
        figures = {
            "emulator: start, s": time.perf_counter() - began,
            "emulator: CPU of the start, s": cpu(pid),
        }
        for kind, sent in {"whole": request(stream=False), "streamed": request(stream=True)}.items():
            ask(port, sent, WARM)
            taken = []
            for _ in range(BATCHES):
                before = cpu(pid)
                ask(port, sent, BATCH)
                taken.append((cpu(pid) - before) / BATCH * 1e6)
            figures[f"emulator: CPU of a {kind} request, µs"] = statistics.median(taken)
        return figures


if __name__ == "__main__":
    with emulator() as (process, at):
        for done in range(1, 11):
            for streamed in (False, True):
                ask(at, request(stream=streamed), int(sys.argv[1]) // 20)
            print(f"{done * int(sys.argv[1]) // 10} requests: {memory(process):.0f} MB")
