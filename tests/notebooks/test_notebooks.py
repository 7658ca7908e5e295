"""The notebooks run from top to bottom offline, and show nothing about the machine they ran on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
INPUTS = ("README.md", "CONTRIBUTING.md", "tests/llama_index/documents")
MAX_BYTES = 400 * 1024
PRIVATE = re.compile(r"/(?:home|root|Users|tmp)/|\\Users\\|pcc_live_\w|whsec_\w")

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy what the notebooks read to a place where they may write; return the folder to run them in."""
    for name in INPUTS:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook."""
    notebook: nbformat.NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # it has no annotations
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Return the outputs of all cells of a notebook."""
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def test_there_are_five_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "01_first_words",
        "02_langchain_agent",
        "03_images_and_videos",
        "04_llama_index_rag",
        "05_testing_your_agent",
    ]


@each_notebook
def test_a_notebook_runs_offline_from_top_to_bottom(
    notebook: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Requests beyond loopback go to a proxy that does not exist.
    for scheme in ("http", "https", "all"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    for name in ("PICCC_API_KEY", "PICCC_BASE_URL", "PICCC_IMAGE_MODEL", "PICCC_VIDEO_MODEL"):
        monkeypatch.delenv(name, raising=False)
    ran = NotebookClient(read(notebook), timeout=100, resources={"metadata": {"path": str(copy)}}).execute()
    assert not [output for output in outputs(ran) if output.output_type == "error"]
    assert not [output.text for output in outputs(ran) if output.get("name") == "stderr"]


@each_notebook
def test_a_notebook_is_committed_as_it_ran(notebook: Path) -> None:
    code = [cell for cell in read(notebook).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs(read(notebook))} <= {
        "stream",
        "display_data",
        "execute_result",
    }


@each_notebook
def test_a_notebook_starts_the_emulator_first_and_says_how_to_go_live(notebook: Path) -> None:
    first = next(cell.source for cell in read(notebook).cells if cell.cell_type == "code")
    assert "Emulator(" in first
    assert "live API" in first


@each_notebook
def test_a_notebook_is_small_and_shows_nothing_private(notebook: Path) -> None:
    text = notebook.read_text("utf-8")
    assert len(text) < MAX_BYTES
    assert not PRIVATE.search(text)
    assert str(ROOT) not in text
