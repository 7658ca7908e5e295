"""Write docs/cli.md, the page of the `piccc` command, from its help: `python -m tests.docs.cli_page`."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
_BLOCK = re.compile(r"^(Examples|Exit codes):\n((?: +\S.*\n)+)", re.MULTILINE)
_CUT = re.compile(r"^\* `(\w+)`: .*\.\.\.$", re.MULTILINE)
_WORDS = {
    "# `piccc`\n": "# The `piccc` command\n\nPrinted by `piccc --help` too, and `-h`; "
    '`pip install "piccc[cli]"` installs it.\n',
    " <list[str]>": "",
    "* `--help`: Show this message and exit.\n": "* `-h, --help`: Show this message and exit.\n",
}


def page() -> str:
    """Return the page, made by Typer's own command."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "piccc.cli", "utils", "docs", "--name", "piccc"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    text = re.sub(r"[ \b]+$", "", html.unescape(done.stdout), flags=re.MULTILINE)
    for typers, ours in _WORDS.items():
        text = text.replace(typers, ours)
    text = _BLOCK.sub(_fenced, text)
    text = _CUT.sub(lambda cut: f"* `{cut[1]}`: {_summary(text, cut[1])}", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _summary(text: str, command: str) -> str:
    """Return the first sentence below a command's heading; Typer cuts it in lists of commands."""
    heading = re.search(rf"^##+ `piccc (?:\w+ )?{command}`\n\n(.+)", text, re.MULTILINE)
    assert heading is not None, command
    return heading[1]


def _fenced(block: re.Match[str]) -> str:
    lines = [line.removeprefix("  ") for line in block[2].splitlines()]
    return "\n".join(
        [f"{block[1]}:", "", "```console" if block[1] == "Examples" else "```text", *lines, "```", "", ""]
    )


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
