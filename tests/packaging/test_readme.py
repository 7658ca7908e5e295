"""The README does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from piccc.emulator import Emulator

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = (
    "python -m pip install -q uv && uv run --all-extras piccc demo",
    "python -m pip install -q uv && uv run --all-extras pytest",
)


def test_both_commands_stand_near_the_top() -> None:
    top = README.splitlines()[:30]
    for command in COMMANDS:
        assert command in top


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0] for block in BLOCKS])
def test_a_quick_start_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(speed=10) as emulator:
        monkeypatch.setenv("PICCC_BASE_URL", emulator.base_url)
        monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
        done = subprocess.run(  # noqa: S603  our own page
            [sys.executable, "-W", "error::ResourceWarning", "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
