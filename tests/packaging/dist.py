"""The wheel and the sdist: build them as for a release, and check their files."""

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
"""Paths in the repository that the sdist may leave out."""
PATIENCE = 600.0
THIN = {"langchain-piccc": "langchain_piccc", "llama-index-llms-piccc": "llama_index.llms.piccc"}
"""The distributions under packaging/, and the module that users of each one import."""


class Failed(Exception):
    """A failed check of the packages."""


def run(*command: str | Path, folder: Path, variables: dict[str, str] | None = None) -> str:
    """Run a command and return its stdout; raise Failed with its output if it fails."""
    line = " ".join(map(str, command))
    try:
        done = subprocess.run(  # noqa: S603  our own command
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{line}\ntimed out after {PATIENCE:.0f} s") from late
    if done.returncode:
        raise Failed(f"{line}\n{done.stdout}{done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Dist:
    """The files that a release uploads."""

    wheel: Path
    sdist: Path

    @classmethod
    def build(cls, folder: Path) -> Dist:
        """Build the sdist, and the wheel from the sdist."""
        run("uv", "build", "-q", "-o", folder, ROOT, folder=folder)
        return cls(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))

    def build_thin(self, name: str, folder: Path) -> Path:
        """Build a distribution from packaging/ into the folder."""
        run("uv", "build", "-q", "--wheel", "-o", folder, ROOT / "packaging" / name, folder=folder)
        return next(folder.glob(f"{name.replace('-', '_')}-*.whl"))

    @cached_property
    def requirements(self) -> list[Requirement]:
        """The wheel's requirements, including all extras."""
        with zipfile.ZipFile(self.wheel) as archive:
            [name] = [each for each in archive.namelist() if each.endswith(".dist-info/METADATA")]
            lines = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
        return [Requirement(line) for line in lines]

    def required(self, extra: str) -> dict[str, Requirement]:
        """Return the requirements of an install with the extra, by name."""
        wanted = [
            each for each in self.requirements if not each.marker or each.marker.evaluate({"extra": extra})
        ]
        return {each.name: each for each in wanted}

    def check(self, folder: Path) -> None:
        """Raise Failed unless both files are complete and pass `twine check`."""
        run("uv", "tool", "run", "-q", "twine", "check", "--strict", self.wheel, self.sdist, folder=folder)
        self._check_wheel_matches_tree(folder)
        self._check_all_files()
        self._check_tests_collect(folder)

    def _check_wheel_matches_tree(self, folder: Path) -> None:
        run("uv", "build", "-q", "--wheel", "-o", folder / "tree", ROOT, folder=folder)
        if (folder / "tree" / self.wheel.name).read_bytes() != self.wheel.read_bytes():
            raise Failed("the wheel built from the sdist differs from the wheel built from the tree")

    def _check_all_files(self) -> None:
        tracked = set(run("git", "ls-files", "--cached", folder=ROOT).splitlines())
        with tarfile.open(self.sdist) as archive:
            present = {member.name.partition("/")[2] for member in archive.getmembers()}
        missing = [each for each in sorted(tracked - present) if not each.startswith(FOR_GITHUB)]
        if missing:
            raise Failed(f"the sdist lacks {', '.join(missing)}")

    def _check_tests_collect(self, folder: Path) -> None:
        with tarfile.open(self.sdist) as archive:
            archive.extractall(folder / "sdist", filter="data")
        [home] = (folder / "sdist").iterdir()
        own = os.pathsep.join(map(str, (home / "shared", home)))
        pytest = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider"]
        run(*pytest, "--collect-only", folder=home, variables={**os.environ, "PYTHONPATH": own})
