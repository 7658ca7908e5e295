"""The README has the same structure in both languages, and its figures are the published ones.

`tests/docs` runs its code.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "README.zh.md")}
COMMANDS = (
    "python -m pip install -q uv && uv run --no-dev --all-extras piccc demo",
    "python -m pip install -q uv && uv run --all-extras pytest",
)


@pytest.mark.parametrize("page", PAGES)
def test_both_commands_appear_near_the_top(page: str) -> None:
    top = PAGES[page].splitlines()[:50]
    for command in COMMANDS:
        assert command in top


def test_both_languages_have_the_same_structure() -> None:
    english, chinese = (re.findall(r"^(#+|```\w+|\|)", page, re.MULTILINE) for page in PAGES.values())
    assert english == chinese


@pytest.mark.parametrize("page", PAGES)
def test_the_table_of_faults_matches_the_published_page(page: str) -> None:
    published = (ROOT / "docs" / "faults.md").read_text()
    handled = re.findall(r"(\d+) of (\d+)", published.split("| **handled**")[1].splitlines()[0])
    most = re.findall(r"\d+", published.split("| most POSTs for one call")[1].splitlines()[0])
    columns = [(*counts, posts) for counts, posts in zip(handled, most, strict=True)]
    shown = re.findall(r"\| (\d+) (?:of|/) (\d+) \| (\d+) \|", PAGES[page])
    assert columns[:4] == [columns[0]] * 4  # our clients share one row in the README
    assert shown == columns[3:]
