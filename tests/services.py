"""Real servers for tests: Redis and Postgres from Debian packages, on free ports, started once per session.

If a server is not installed, fixtures skip; with PICCC_REQUIRE_SERVICES, as in `.ci/run`, they fail.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PASSWORD = "s3cret-of-the-ledger"
"""The password of both servers; tests check that it does not leak."""
START_SECONDS = 60.0


class Missing(Exception):
    """A server is not installed; the message has the command that installs it."""


def free_port() -> int:
    """Return a free local port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """Run a Redis server and yield its URL; raise Missing if it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("Redis is not installed: apt-get install --yes --no-install-recommends redis-server")
    port = port or free_port()
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", PASSWORD]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        command = [program, "--port", str(port), "--dir", folder, *options]
        _run(stack, command, port, lambda: _responds(port))
        yield f"redis://:{PASSWORD}@127.0.0.1:{port}/0"


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a Postgres server and yield its database URL; raise Missing if it is not installed."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        raise Missing("Postgres is not installed: apt-get install --yes --no-install-recommends postgresql")
    initdb, port = programs[-1], free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data, password = folder / "data", folder / "password"
        password.write_text(PASSWORD)
        user: list[str] = []
        if os.geteuid() == 0:  # Postgres refuses to run as root
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
            for path in (folder, password):
                os.chown(path, pwd.getpwnam("postgres").pw_uid, -1)
        login = ["--auth=scram-sha-256", "--username=piccc", f"--pwfile={password}"]
        initialize = [*user, str(initdb), "--no-sync", *login, "-D", str(data)]
        subprocess.run(initialize, check=True, capture_output=True)  # noqa: S603  system programs
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": "300",
        }
        options = [word for item in settings.items() for word in ("-c", "=".join(item))]
        program = [*user, str(initdb.with_name("postgres")), "-D", str(data), "-p", str(port), *options]
        # It listens before it accepts logins.
        is_ready = [str(initdb.with_name("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(port)]
        _run(stack, program, port, lambda: subprocess.run(is_ready).returncode == 0)  # noqa: S603  as above
        yield f"postgresql://piccc:{PASSWORD}@127.0.0.1:{port}/postgres"


@contextmanager
def hanging(url: str) -> Iterator[None]:
    """Suspend a server: it still accepts connections, but does not respond."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    pid = _pids[urlsplit(url).port]
    family = [pid, *(child for child, parent in parents.items() if parent == pid)]
    for process in family:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(family):
            os.kill(process, signal.SIGCONT)


_pids: dict[int | None, int] = {}
"""Process ids of the running servers, by port."""


def _responds(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return bool(connection.recv(1))
    except OSError:
        return False


def _run(stack: ExitStack, command: list[str], port: int, is_ready: Callable[[], bool]) -> None:
    log = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  the stack closes it
    process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603  system programs
    _pids[port] = process.pid
    stack.callback(process.wait)
    stack.callback(process.terminate if "redis" in command[0] else lambda: process.send_signal(2))
    give_up = time.monotonic() + START_SECONDS
    while not is_ready():
        if process.poll() is not None or time.monotonic() > give_up:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace"))
        time.sleep(0.05)


@contextmanager
def _started(server: AbstractContextManager[str]) -> Iterator[str]:
    try:
        url = server.__enter__()
    except Missing as missing:
        (pytest.fail if os.environ.get("PICCC_REQUIRE_SERVICES") else pytest.skip)(str(missing))
    try:
        yield url
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with _started(redis_server()) as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    with _started(postgres_server()) as url:
        yield url
