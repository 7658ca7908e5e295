"""The Python in the documentation runs: all `python` blocks. What needs more, such as a bucket, is `py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from piccc.emulator import Emulator

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(DOCS)}-{number}")
    for page in sorted(DOCS.rglob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_code_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_block.py").write_text(block)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider"] if "def test_" in block else []
    with Emulator(speed=float("inf")) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run(  # noqa: S603  our own page
            [sys.executable, "-W", "error::ResourceWarning", *command, "test_block.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
