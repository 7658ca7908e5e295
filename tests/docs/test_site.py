"""The documentation site builds without warnings, and its reference has every public name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import griffe
import pytest

from tests.docs.cli_page import PAGE, page
from tests.packaging.public_api import load, names_of

ROOT = Path(__file__).parents[2]
PAGES = {
    "piccc": "piccc",
    "piccc.errors": "errors",
    "piccc.tokens": "tokens",
    "piccc.emulator": "emulator",
    "langchain_piccc": "langchain",
    "llama_index_piccc": "llama_index",
}
"""Public modules and their reference pages."""
KINDS = (griffe.Kind.CLASS, griffe.Kind.FUNCTION)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site from a copy of its sources; return the folder of pages."""
    copy = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "docs", copy / "docs", ignore=shutil.ignore_patterns("site", ".cache"))
    for package in ("langchain_piccc", "llama_index_piccc", "shared"):
        (copy / package).symlink_to(ROOT / package)
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(copy / "docs" / "zensical.toml")],
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "griffe: " not in output, output
    return copy / "docs" / "site"


@pytest.fixture(scope="module")
def packages() -> griffe.ModulesCollection:
    """Load the three packages as the site does: from source, without importing them."""
    return load()


@pytest.mark.parametrize("module", PAGES)
def test_every_public_name_is_in_the_reference(
    module: str, site: Path, packages: griffe.ModulesCollection
) -> None:
    page = (site / "reference" / PAGES[module] / "index.html").read_text()
    names = names_of(packages[module])
    assert names
    assert [name for name in names if f'id="{module}.{name}"' not in page] == []


@pytest.mark.parametrize("module", PAGES)
def test_every_public_class_function_and_method_has_a_docstring(
    module: str, packages: griffe.ModulesCollection
) -> None:
    missing = []
    for name in names_of(packages[module]):
        public = packages[module].members[name]
        members = public.members.values() if public.kind is griffe.Kind.CLASS else ()
        for member in (public, *members):
            if member.kind in KINDS and not member.name.startswith("_") and not member.docstring:
                missing.append(member.path)
    assert missing == []


def test_the_command_line_page_matches_the_help() -> None:
    """`python -m tests.docs.cli_page` generates the page."""
    assert PAGE.read_text("utf-8") == page()


def test_no_page_loads_from_another_server(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]+src=[\"']?https?://|<link[^>]+rel=[\"']?stylesheet[^>]+https?://"
    )
    assert [
        str(page.relative_to(site)) for page in site.rglob("*.html") if loads.search(page.read_text())
    ] == []
