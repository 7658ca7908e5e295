"""Make core's bundled nltk word lists readable when they were installed as hard links."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import platformdirs


def ensure_nltk_data(directory: str | os.PathLike[str] | None = None) -> Path | None:
    """Make the word lists of core's sentence splitter and keyword index readable; call it before first use.

    core bundles the lists, but nltk rejects files with more than one hard link, and uv installs hard links
    unless `link-mode = "copy"` is set. In that case, and if `NLTK_DATA` is not set, this copies the lists
    once (16 MB) and sets `NLTK_DATA` for this process.

    Args:
        directory: where to copy them; by default the user's cache.

    Returns:
        The folder that `NLTK_DATA` was set to, or None if there was nothing to do.
    """
    bundled = _bundled()
    if "NLTK_DATA" in os.environ or bundled is None or not _is_linked(bundled):
        return None
    home = Path(directory) if directory else Path(platformdirs.user_cache_dir("piccc"))
    copy = home / f"nltk-{version('llama-index-core')}"
    if not copy.is_dir():
        _copy(bundled, copy)
    os.environ["NLTK_DATA"] = str(copy)
    if nltk := sys.modules.get("nltk.data"):
        nltk.path.insert(0, str(copy))
    return copy


def _bundled() -> Path | None:
    spec = find_spec("llama_index.core")
    for place in (spec and spec.submodule_search_locations) or ():
        if (cache := Path(place, "_static", "nltk_cache")).is_dir():
            return cache
    return None


def _is_linked(folder: Path) -> bool:
    return any(path.stat().st_nlink > 1 for path in folder.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> None:
    """Copy a folder atomically, even if several processes do it at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as staging:
        complete = Path(staging, "complete")
        shutil.copytree(source, complete)
        try:
            complete.rename(target)
        except OSError:
            if not target.is_dir():  # another process was faster
                raise
