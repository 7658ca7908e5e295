"""The entry point of the `piccc` command and of `python -m piccc`."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line, or say how to install it if its extra is missing.

    `PICCC_DEBUG=1` shows the traceback of an unexpected error.
    """
    try:
        from piccc.cli import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("rich", "typer"):
            raise
        sys.exit('The command line is not installed. Install it with: pip install "piccc[cli]"')
    if sys.stdout is None:  # started with `>&-`
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  until the end
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for characters missing from the terminal's encoding
    try:
        app(prog_name="piccc")
    except Exception as error:
        if os.environ.get("PICCC_DEBUG"):
            raise
        report = "This is a bug in piccc. Please report it, with the traceback that PICCC_DEBUG=1 shows."
        sys.exit(f"{type(error).__name__}: {error}\n{report}")


if __name__ == "__main__":
    main()
