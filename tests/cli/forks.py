"""Run `piccc` commands by forking a process that has already imported it: imports take most of a run."""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess, Popen
from tempfile import TemporaryFile
from typing import Any

import piccc.__main__

LOADED = ("httpx2", "piccc.client", "piccc.contract", "piccc.emulator", "piccc.media", "rich.progress")


class Forks:
    """Runs commands in forked processes, one at a time.

    Args:
        python: interpreter and its options.
        timeout: maximum seconds per run.
    """

    def __init__(self, python: Sequence[str], timeout: float) -> None:
        self._connection, child_end = socket.socketpair()
        self._connection.settimeout(timeout)
        with child_end:
            command = [*python, "-m", __name__]
            self._server = Popen(command, stdin=child_end, stdout=DEVNULL)  # noqa: S603  our own command

    def run(
        self, words: Sequence[str], *, piped: str, folder: Path, variables: Mapping[str, str]
    ) -> CompletedProcess[str]:
        """Run a command to completion, with files as standard input, output and error."""
        request = {"words": words, "folder": str(folder), "variables": dict(variables)}
        with (
            TemporaryFile() as request_file,
            TemporaryFile() as stdin,
            TemporaryFile() as out,
            TemporaryFile() as err,
        ):
            for file, text in ((request_file, json.dumps(request)), (stdin, piped)):
                file.write(text.encode())
                file.seek(0)
            files = [file.fileno() for file in (stdin, out, err, request_file)]
            socket.send_fds(self._connection, [b"+"], files)
            code = int(self._connection.recv(16))
            for file in (out, err):
                file.seek(0)
            return CompletedProcess(list(words), code, out.read().decode(), err.read().decode())

    def close(self) -> None:
        """Stop the server process."""
        self._connection.close()
        self._server.wait()


def serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork a process for each request; return the request and its files in the child only."""
    while True:
        _, files, _, _ = socket.recv_fds(connection, 1, 4)
        if not files:
            return None
        with os.fdopen(files.pop()) as request_file:
            request = json.load(request_file)
        process = os.fork()
        if not process:
            return request, files
        for file in files:
            os.close(file)
        connection.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def main() -> None:
    """Serve; each child then runs as `python -m piccc` would, including the interpreter's shutdown."""
    for name in LOADED:
        importlib.import_module(name)
    run, sys.argv = piccc.__main__.main, ["piccc", "doctor", "--help"]
    with suppress(SystemExit):
        run()  # imports what Typer loads lazily
    gc.collect()
    gc.freeze()  # keeps the children's collectors from copying these pages
    with socket.socket(fileno=os.dup(0)) as connection:
        forked = serve(connection)
    if forked is None:
        return
    request, files = forked
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.argv = ["piccc", *request["words"]]
    run()


if __name__ == "__main__":
    main()
