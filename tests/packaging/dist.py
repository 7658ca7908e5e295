"""The wheel and the sdist: built as for a release, and judged as files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from functools import cached_property
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOR_GITHUB = (".ci/", ".gitattributes", ".github/", ".pre-commit-config.yaml")
"""Folders of the repository that no sdist needs."""
PATIENCE = 600.0
THIN = {"langchain-piccc": "langchain_piccc", "llama-index-llms-piccc": "llama_index.llms.piccc"}
"""The distributions under packaging/, and the module that each of them is looked for by."""


class Failed(Exception):
    """A promise of the packages that does not hold."""


def run(*command: str | Path, folder: Path, variables: dict[str, str] | None = None) -> str:
    """Run a command to its end and return its stdout; raise Failed with all it wrote if it fails."""
    said = " ".join(map(str, command))
    try:
        done = subprocess.run(  # noqa: S603  our own command
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{said}\nhad not ended after {PATIENCE:.0f} s") from late
    if done.returncode:
        raise Failed(f"{said}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Dist:
    """What a release uploads."""

    wheel: Path
    sdist: Path

    @classmethod
    def build(cls, folder: Path) -> Dist:
        """Build the sdist, and the wheel from the sdist."""
        run("uv", "build", "-q", "-o", folder, ROOT, folder=folder)
        return cls(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))

    def build_thin(self, name: str, folder: Path) -> Path:
        """Build one of the distributions under packaging/, into the folder."""
        run("uv", "build", "-q", "--wheel", "-o", folder, ROOT / "packaging" / name, folder=folder)
        return next(folder.glob(f"{name.replace('-', '_')}-*.whl"))

    @cached_property
    def requirements(self) -> list[Requirement]:
        """Return what the wheel requires, of all extras."""
        with zipfile.ZipFile(self.wheel) as archive:
            [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
            lines = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
        return [Requirement(line) for line in lines]

    def required(self, extra: str) -> dict[str, Requirement]:
        """Return by name what an install with the extra requires."""
        wanted = [
            each for each in self.requirements if not each.marker or each.marker.evaluate({"extra": extra})
        ]
        return {each.name: each for each in wanted}

    def judge(self, folder: Path) -> None:
        """Raise Failed unless both are complete, and sound in the eyes of the index's own tool."""
        run("uv", "tool", "run", "-q", "twine", "check", "--strict", self.wheel, self.sdist, folder=folder)
        self._is_what_the_tree_gives(folder)
        self._has_every_file()
        self._can_be_tested(folder)

    def _is_what_the_tree_gives(self, folder: Path) -> None:
        run("uv", "build", "-q", "--wheel", "-o", folder / "tree", ROOT, folder=folder)
        if (folder / "tree" / self.wheel.name).read_bytes() != self.wheel.read_bytes():
            raise Failed("the wheel that the sdist builds is not the wheel that the tree builds")

    def _has_every_file(self) -> None:
        tracked = set(run("git", "ls-files", "--cached", folder=ROOT).splitlines())
        with tarfile.open(self.sdist) as archive:
            held = {each.name.partition("/")[2] for each in archive.getmembers()}
        missing = [each for each in sorted(tracked - held) if not each.startswith(FOR_GITHUB)]
        if missing:
            raise Failed(f"the sdist lacks {', '.join(missing)}")

    def _can_be_tested(self, folder: Path) -> None:
        with tarfile.open(self.sdist) as archive:
            archive.extractall(folder / "sdist", filter="data")
        [home] = (folder / "sdist").iterdir()
        own = os.pathsep.join(map(str, (home / "shared", home)))
        pytest = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
        run(*pytest, "--collect-only", folder=home, variables={**os.environ, "PYTHONPATH": own})
