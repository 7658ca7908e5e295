"""Use what [cli] adds: the command `piccc`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PICCC = str(Path(sys.executable).with_name("piccc"))


def piccc(*words: str, piped: str = "") -> str:
    """Run the installed command and return its output."""
    done = subprocess.run([PICCC, *words], input=piped, capture_output=True, text=True)  # noqa: S603  our own
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


assert all(name in piccc("--help") for name in ("demo", "emulator", "chat", "image", "doctor", "tasks"))
report = json.loads(piccc("doctor", "--json"))
assert report["is_fine"]
assert ("cli", "ok") in [(finding["name"], finding["state"]) for finding in report["findings"]]
assert piccc("chat", "Name a colour.").strip()
assert json.loads(piccc("chat", "--json", "--dialect", "anthropic", piped="Name a colour."))["text"]
piccc("image", "a mug", "--model", "piccc-image", "--to", "mug.png")
assert Path("mug.png").read_bytes().startswith(b"\x89PNG")
assert "completed" in piccc("tasks", "list")
