"""Processes of the `piccc` command, each forked from one that has loaded it: loading takes most of a run."""

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
    """Runs the command in processes of its own, one at a time.

    Args:
        python: the interpreter and its options.
        longest: seconds that a run may take.
    """

    def __init__(self, python: Sequence[str], longest: float) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(longest)
        with theirs:
            command = [*python, "-m", __name__]
            self._server = Popen(command, stdin=theirs, stdout=DEVNULL)  # noqa: S603  our own command

    def run(
        self, words: Sequence[str], *, piped: str, folder: Path, variables: Mapping[str, str]
    ) -> CompletedProcess[str]:
        """Run the command to its end, with files as standard input, output and error."""
        request = {"words": words, "folder": str(folder), "variables": dict(variables)}
        with (
            TemporaryFile() as asked,
            TemporaryFile() as stdin,
            TemporaryFile() as out,
            TemporaryFile() as err,
        ):
            for file, text in ((asked, json.dumps(request)), (stdin, piped)):
                file.write(text.encode())
                file.seek(0)
            files = [file.fileno() for file in (stdin, out, err, asked)]
            socket.send_fds(self._connection, [b"+"], files)
            code = int(self._connection.recv(16))
            for file in (out, err):
                file.seek(0)
            return CompletedProcess(list(words), code, out.read().decode(), err.read().decode())

    def close(self) -> None:
        """End the process that forks the others."""
        self._connection.close()
        self._server.wait()


def serve(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork a process for each request; in it, return the request and its files."""
    while True:
        _, files, _, _ = socket.recv_fds(connection, 1, 4)
        if not files:
            return None
        with os.fdopen(files.pop()) as asked:
            request = json.load(asked)
        process = os.fork()
        if not process:
            return request, files
        for file in files:
            os.close(file)
        connection.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def main() -> None:
    """Serve; a forked process goes on as `python -m piccc` would, and ends as an interpreter does."""
    for name in LOADED:
        importlib.import_module(name)
    run, sys.argv = piccc.__main__.main, ["piccc", "doctor", "--help"]
    with suppress(SystemExit):
        run()  # which loads what Typer needs
    gc.collect()
    gc.freeze()  # so that a forked process's collector copies none of it
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
