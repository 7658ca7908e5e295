"""The rule model stays small: it exists to test an integration, not to be clever."""

from __future__ import annotations

from pathlib import Path

from piccc.emulator import model


def test_the_rules_have_at_most_1000_lines() -> None:
    # Prompt rules have no natural end. Anything smarter belongs in a script or a real upstream model.
    # `prompts.py` is exempt: it is the table of the frameworks' own prompts and grows with them.
    files = [path for path in Path(model.__file__).parent.glob("*.py") if path.name != "prompts.py"]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 1000
