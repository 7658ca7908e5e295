"""The API reference is whole: every public name is in it, something is said of each, all else is absent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from reference.__main__ import PUBLIC

ROOT = Path(__file__).parents[2]
SILENT = '''
from dataclasses import dataclass

@dataclass
class Told:
    """It has `named`.

    Attributes:
        listed: is listed.
    """

    named: int
    listed: int
    silent: int

    def method(self): ...

    @property
    def property(self): ...

def function(): ...
'''
ADDRESS = re.compile(r"0x[0-9a-f]{6,}")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command that makes the reference."""
    command = [sys.executable, "-W", "error", "-m", "reference", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603  our own command


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make the reference, and return its pages by the names of their modules."""
    folder = tmp_path_factory.mktemp("reference")
    done = make(str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        ".".join(page.relative_to(folder).with_suffix("").parts): page.read_text()
        for page in folder.rglob("*.html")
    }


def names_of(module: ModuleType) -> list[str]:
    """Return the names that a module gives its users."""
    home = module.__name__
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == home]
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def test_there_is_a_page_for_each_public_module_and_for_no_other(pages: dict[str, str]) -> None:
    assert pages.keys() == {"index", *PUBLIC}


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_stands_under_its_public_module(module: str, pages: dict[str, str]) -> None:
    names = names_of(import_module(module))
    assert names
    assert [name for name in names if f'<section id="{name}">' not in pages[module]] == []


@pytest.mark.parametrize("module", PUBLIC)
def test_a_page_shows_no_address_of_an_object(module: str, pages: dict[str, str]) -> None:
    assert ADDRESS.findall(pages[module]) == []


def test_the_command_fails_where_nothing_is_said_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "silent.py").write_text(SILENT)
    code = (
        "from reference.mending import Mender, undescribed; print(*undescribed(Mender(['silent']).modules))"
    )
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [
        "silent.Told.silent",
        "silent.Told.method",
        "silent.Told.property",
        "silent.function",
    ], done.stderr
