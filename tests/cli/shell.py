"""Run the `piccc` command in a separate process, through pipes or on a terminal."""

from __future__ import annotations

import atexit
import functools
import os
import pty
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from piccc.emulator import Emulator
from tests.cli.forks import Forks

NO_LOOP = "ignore:There is no current event loop:DeprecationWarning"
"""Filter for a warning that llama-index-core causes on Python 3.12 and 3.13."""
PYTHON = [sys.executable, "-W", "error", "-W", NO_LOOP]
PICCC = [*PYTHON, "-m", "piccc"]
TIMEOUT = 300.0


@functools.cache
def _forks() -> Forks:
    forks = Forks(PYTHON, TIMEOUT)
    atexit.register(forks.close)
    return forks


class Shell:
    """A shell in an empty folder with an empty home, configured for an emulator or for no server."""

    def __init__(self, folder: Path, emulator: Emulator | None = None) -> None:
        self.folder = folder
        (folder / "home").mkdir()
        self.variables = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().startswith("PICCC_") and not name.upper().endswith("_PROXY")
        }
        self.variables |= {"HOME": str(folder / "home"), "COLUMNS": "200", "TERM": "xterm-256color"}
        self.variables.pop("XDG_CONFIG_HOME", None)
        if emulator is not None:
            self.variables |= {
                "PICCC_BASE_URL": emulator.base_url,
                "PICCC_API_KEY": emulator.api_key,
                "PICCC_IMAGE_MODEL": "piccc-image",
                "PICCC_VIDEO_MODEL": "piccc-video",
            }

    def __call__(self, *words: str, piped: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command to completion without a terminal; fail if it prints a traceback."""
        if any(name.startswith("PYTHON") for name in variables):  # read at interpreter startup only
            done = subprocess.run(  # noqa: S603  our own command
                [*PICCC, *words],
                input=piped,
                **self._settings(variables),
                capture_output=True,
                timeout=TIMEOUT,
            )
        else:
            done = _forks().run(
                words, piped=piped, folder=self.folder, variables={**self.variables, **variables}
            )
        assert "Traceback" not in done.stderr
        return done

    def script(self, text: str, *, piped: str) -> subprocess.CompletedProcess[str]:
        """Run a shell script that can call `piccc`."""
        command = f'piccc() {{ {shlex.join(PICCC)} "$@"; }}\n{text}'
        return subprocess.run(  # noqa: S603  our own script
            ["/bin/sh", "-c", command],
            input=piped,
            **self._settings({}),
            capture_output=True,
            timeout=TIMEOUT,
        )

    @contextmanager
    def start(self, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command in the background; kill it when the block ends."""
        pipe = subprocess.PIPE
        with subprocess.Popen(  # noqa: S603  our own command
            [*PICCC, *words], **self._settings(variables), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def on_a_terminal(
        self,
        *words: str,
        typed: str = "",
        meanwhile: Callable[[subprocess.Popen[str]], object] = lambda process: None,
        **variables: str,
    ) -> str:
        """Run a command on a terminal with `typed` as its input; return everything it wrote."""
        parent_end, child_end = pty.openpty()
        os.write(parent_end, typed.encode())
        settings = self._settings(variables)
        with subprocess.Popen(  # noqa: S603  our own command
            [*PICCC, *words], **settings, stdin=child_end, stdout=child_end, stderr=child_end
        ) as process:
            os.close(child_end)
            meanwhile(process)
            written = b"".join(_pieces(parent_end))
        os.close(parent_end)
        return written.decode()

    def _settings(self, variables: Mapping[str, str]) -> dict[str, Any]:
        return {"cwd": self.folder, "env": {**self.variables, **variables}, "text": True}


def _pieces(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # Linux: the other end is closed
            return
        if not piece:
            return
        yield piece
