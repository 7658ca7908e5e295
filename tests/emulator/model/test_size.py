"""The model stays small: it is there to test an integration, not to be clever."""

from __future__ import annotations

from pathlib import Path

from piccc.emulator import model


def test_the_rules_have_at_most_1000_lines() -> None:
    # Rules for prompts have no natural end; wit beyond these belongs in a script or behind a real model.
    # `prompts.py` does not count: it is the table of the frameworks' own prompts, and grows with them.
    files = [one for one in Path(model.__file__).parent.glob("*.py") if one.name != "prompts.py"]
    assert sum(len(one.read_text(encoding="utf-8").splitlines()) for one in files) <= 1000
