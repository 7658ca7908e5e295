"""The `piccc` command; also `python -m piccc`."""

from __future__ import annotations

import io
import os
import sys


def main() -> None:
    """Run the command line; without its extra, print how to install it.

    `PICCC_DEBUG=1` shows the traceback of an unexpected error.
    """
    try:
        from piccc.cli import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("rich", "typer"):
            raise
        sys.exit('The command line is not installed. Install it with: pip install "piccc[cli]"')
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for characters that the terminal's encoding lacks
    try:
        app(prog_name="piccc")
    except Exception as error:
        if os.environ.get("PICCC_DEBUG"):
            raise
        report = "This is a bug in piccc. PICCC_DEBUG=1 shows where; please report it."
        sys.exit(f"{type(error).__name__}: {error}\n{report}")


if __name__ == "__main__":
    main()
