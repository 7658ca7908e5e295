"""Users' programs pass strict type checkers without plugins, and their mistakes are reported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
RIGHT = sorted(path.name for path in PROGRAMS.glob("*_user.py"))
WRONG = "wrong.py"
CACHE = Path(__file__).parents[2] / ".mypy_cache" / "programs"  # the frameworks are analysed once


def mypy(folder: Path) -> dict[str, set[int]]:
    """Return the lines of each program in which mypy reports errors."""
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", f"--cache-dir={CACHE}"]
    done = subprocess.run([*command, *PROGRAMS.glob("*.py")], capture_output=True, text=True)  # noqa: S603  ours
    assert done.returncode in (0, 1), done.stderr
    return grouped(re.findall(r"(?m)^.*?(\w+\.py):(\d+): error: ", done.stdout))


def pyright(folder: Path) -> dict[str, set[int]]:
    """Return the lines of each program in which pyright's strict rules report errors."""
    settings = {"typeCheckingMode": "strict", "include": [str(PROGRAMS)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "-p", folder, "--pythonpath", sys.executable]
    done = subprocess.run([*command, "--outputjson"], capture_output=True, text=True)  # noqa: S603  ours
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return grouped((diagnostic["file"], diagnostic["range"]["start"]["line"] + 1) for diagnostic in found)


def grouped(found: object) -> dict[str, set[int]]:
    lines: dict[str, set[int]] = {}
    for file, line in found:  # type: ignore[attr-defined]
        lines.setdefault(Path(file).name, set()).add(int(line))
    return lines


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_valid_programs_pass_and_mistakes_are_reported(checker: object, tmp_path: Path) -> None:
    program = (PROGRAMS / WRONG).read_text().splitlines()
    mistakes = {number for number, line in enumerate(program, 1) if line.endswith("# wrong")}
    assert len(RIGHT) == 3
    assert mistakes
    assert checker(tmp_path) == {WRONG: mistakes}  # type: ignore[operator]
