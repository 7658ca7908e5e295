"""An agent whose process is killed for good, twice, goes on where it was and pays for each thing once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media.kills import killed
from tests.media.restarting import LANGCHAIN, killed_twice

SAID = "image completed\nvideo completed\nBoth are done.\n"


def test_an_agent_that_is_killed_twice_pays_for_each_once(tmp_path: Path) -> None:
    assert killed_twice(LANGCHAIN, tmp_path, "interrupt") == SAID


def test_an_agent_that_is_killed_twice_goes_on_from_postgres_alone(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICCC_LEDGER", postgres_url)
    assert killed_twice(LANGCHAIN, tmp_path, "wait") == SAID
    assert not list(tmp_path.glob("*.db*"))


def test_an_agent_that_is_killed_at_some_request_pays_for_each_once(tmp_path: Path) -> None:
    assert killed(tmp_path, "background", "sync", seed=1, kills=1) == {"image": 1, "video": 1}


def test_a_lower_durability_costs_at_most_what_was_under_way(tmp_path: Path) -> None:
    paid = killed(tmp_path, "wait", "exit", seed=3, kills=1)
    assert all(1 <= count <= 2 for count in paid.values())
