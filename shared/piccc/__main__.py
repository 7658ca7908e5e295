"""The `piccc` command; also `python -m piccc`."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line; without its extra, say how to install it."""
    try:
        from piccc.cli import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("rich", "typer"):
            raise
        sys.exit('The command line is not installed. Install it with: pip install "piccc[cli]"')
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a text may have what the terminal's encoding has not
    app(prog_name="piccc")


if __name__ == "__main__":
    main()
