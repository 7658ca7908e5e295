"""The public API matches its committed list, and renamed names still work with a warning."""

from __future__ import annotations

from importlib import import_module

import pytest

from tests.packaging.public_api import LIST, listing

RENAMED = {
    "piccc": {"Allowance": "SpendLimit", "Entry": "Submission"},
    "piccc.errors": {"BudgetExceeded": "SpendLimitExceeded"},
    "piccc.emulator": {"Ask": "ModelRequest"},
}


def test_the_public_api_matches_the_committed_list() -> None:
    """`python -m tests.packaging.public_api` updates the list; add its changes to the changelog."""
    assert list(listing()) == LIST.read_text().splitlines()


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [(module, *names) for module, table in RENAMED.items() for names in table.items()],
)
def test_a_renamed_public_name_still_works_and_warns(module: str, old: str, new: str) -> None:
    home = import_module(module)
    with pytest.warns(DeprecationWarning, match=rf"{old} was renamed to {new}"):
        renamed = getattr(home, old)
    assert renamed is getattr(home, new)
    assert old not in dir(home)
