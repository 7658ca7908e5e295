"""nltk's data is readable however it was installed, and is left alone if it already is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_index_piccc import ensure_nltk_data, offline

LIST = Path("corpora", "stopwords", "english")


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a small data folder in place of core's."""
    folder = tmp_path / "core" / "_static" / "nltk_cache"
    (folder / LIST).parent.mkdir(parents=True)
    (folder / LIST).write_text("the\n")
    monkeypatch.setattr(offline, "_bundled", lambda: folder)
    monkeypatch.delenv("NLTK_DATA", raising=False)
    return folder


def test_data_without_hard_links_is_left_alone(bundled: Path, tmp_path: Path) -> None:
    assert ensure_nltk_data(tmp_path / "cache") is None
    assert "NLTK_DATA" not in os.environ
    assert not (tmp_path / "cache").exists()


def test_hard_linked_data_is_copied_once_and_found(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(bundled / LIST, tmp_path / "second name")
    copy = ensure_nltk_data(tmp_path / "cache")
    assert copy is not None
    assert (copy / LIST).read_text() == "the\n"
    assert (copy / LIST).stat().st_nlink == 1
    assert os.environ["NLTK_DATA"] == str(copy)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    before = (copy / LIST).stat().st_mtime_ns, (copy / LIST).stat().st_ino
    monkeypatch.delenv("NLTK_DATA")
    assert ensure_nltk_data(tmp_path / "cache") == copy
    assert ((copy / LIST).stat().st_mtime_ns, (copy / LIST).stat().st_ino) == before
    monkeypatch.delenv("NLTK_DATA")


def test_the_users_own_data_folder_takes_precedence(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.link(bundled / LIST, tmp_path / "second name")
    monkeypatch.setenv("NLTK_DATA", "/elsewhere")
    assert ensure_nltk_data(tmp_path / "cache") is None
    assert os.environ["NLTK_DATA"] == "/elsewhere"


def test_cores_data_is_in_the_expected_folder() -> None:
    folder = offline._bundled()
    assert folder is not None
    assert (folder / LIST).is_file()
