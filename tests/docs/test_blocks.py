"""The Python code in the README and docs runs, and Chinese pages have the code of the English ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from piccc.emulator import Emulator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ENGLISH = [page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "zh"]
CHINESE = [page for page in sorted((DOCS / "zh").glob("*.md")) if page.name != "index.md"]


def _blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def _whole(page: Path) -> str:
    """Return the code of a page whose blocks continue each other, like those for the frameworks' docs."""
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text("utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return "\n".join(cell for cell in code if not cell.startswith("%"))
    return "\n".join(re.findall(r"```python [^\n]*\n(.*?)```", page.read_text("utf-8"), re.DOTALL))


PAGES = {
    **{name: _blocks(ROOT / name) for name in ("README.md", "README.zh.md")},
    **{str(page.relative_to(DOCS)): _blocks(page) for page in ENGLISH if _blocks(page)},
    **{page.name: [_whole(page)] for page in sorted((DOCS / "integrations").iterdir())},
}
RUN = """
import pathlib, runpy, sys
for path in sorted(pathlib.Path().glob("block_*.py")):
    print(f"--- {path}", flush=True)
    runpy.run_path(str(path), run_name="__main__")
"""


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One process per page: a block spends most of its time importing the frameworks.
    tests = [block for block in PAGES[page] if "def test_" in block]
    others = [block for block in PAGES[page] if "def test_" not in block]
    for number, block in enumerate(others, 1):
        (tmp_path / f"block_{number}.py").write_text(block, "utf-8")
    for number, block in enumerate(tests, 1):
        (tmp_path / f"test_{number}.py").write_text(block, "utf-8")
    with Emulator(speed=float("inf")) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        if tests:
            monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # `test_fixture.py` tests autoloading
            _run(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "piccc.pytest_plugin")
        if others:
            output = _run(tmp_path, "-c", RUN)
            silent = re.findall(r"--- (block_\d+\.py)\n(?=---|\Z)", output)
            assert not silent, f"{silent} of {page} print nothing"


def _run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603  our own page
        [sys.executable, "-W", "error::ResourceWarning", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("page", "example", "name"),
    [
        ("scale.md", "media/test_ledger.py", "OwnLedger"),
        ("scale.md", "engines/ray_data.py", "Images"),
        ("scale.md", "engines/ray_data.py", "Replies"),
    ],
)
def test_an_example_on_a_page_is_the_tested_code(page: str, example: str, name: str) -> None:
    source = (DOCS.parent / "tests" / example).read_text("utf-8")
    (tested,) = re.findall(rf"^class {name}:.*?(?=\n\n\n|\Z)", source, re.DOTALL | re.MULTILINE)
    assert tested.strip() in (DOCS / page).read_text("utf-8")


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_has_the_code_of_the_english_page(page: Path) -> None:
    code = re.compile(r"^```\w+\n.*?^```$", re.MULTILINE | re.DOTALL)
    assert code.findall(page.read_text("utf-8")) == code.findall(
        (DOCS / "guides" / page.name).read_text("utf-8")
    )
