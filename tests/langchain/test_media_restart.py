"""An agent whose process is killed twice continues where it stopped and pays for each task once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media.kills import killed
from tests.media.restarting import LANGCHAIN, killed_twice

OUTPUT = "image completed\nvideo completed\nBoth are done.\n"


def test_an_agent_killed_twice_pays_for_each_task_once(tmp_path: Path) -> None:
    assert killed_twice(LANGCHAIN, tmp_path, "interrupt") == OUTPUT


def test_an_agent_killed_twice_resumes_from_postgres_alone(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICCC_LEDGER", postgres_url)
    assert killed_twice(LANGCHAIN, tmp_path, "wait") == OUTPUT
    assert not list(tmp_path.glob("*.db*"))


def test_an_agent_killed_at_a_random_request_pays_for_each_task_once(tmp_path: Path) -> None:
    assert killed(tmp_path, "background", "sync", seed=1, kills=1) == {"image": 1, "video": 1}


def test_exit_durability_pays_for_each_task_at_most_twice(tmp_path: Path) -> None:
    payments = killed(tmp_path, "wait", "exit", seed=3, kills=1)
    assert all(1 <= count <= 2 for count in payments.values())
