"""A clean environment with one extra, and what must hold in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.packaging.dist import THIN, Dist, Failed, run
from tests.packaging.surfaces import BESIDE, NEEDS_MORE, closed, opened

PROGRAMS = Path(__file__).parent / "programs"
Resolution = Literal["lowest", "newest"]
_RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}


def interpreter(version: str) -> Path | None:
    """Return a Python of this version that is on this machine, or None."""
    command = ("uv", "python", "find", "--system", "--no-python-downloads", version)
    try:
        return Path(run(*command, folder=PROGRAMS).strip())
    except Failed:  # pyenv's commands fail unless their version is the chosen one
        return _of_pyenv(version)


def _of_pyenv(version: str) -> Path | None:
    if shutil.which("pyenv") is None:
        return None
    known = run("pyenv", "versions", "--bare", folder=PROGRAMS).splitlines()
    for name in known:
        if name.startswith(f"{version}."):
            return Path(run("pyenv", "prefix", name, folder=PROGRAMS).strip(), "bin", "python")
    return None


@dataclass(frozen=True)
class Environment:
    """One Python with one extra of the wheel or the sdist, and nothing else."""

    dist: Dist
    archive: Path
    extra: str
    python: Path
    resolution: Resolution
    folder: Path

    @property
    def _python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    def check(self, variables: Mapping[str, str]) -> str:
        """Install and try everything; return the versions that were tried, or raise Failed.

        `variables` lead to a running emulator.
        """
        self._install()
        installed = self._installed()
        self._is_alone(installed)
        if self.resolution == "lowest":
            self._stands_on_its_floors(installed)
        own = self._variables(variables)
        for surface in opened(self.extra):
            self._run(own, PROGRAMS / "import_all.py", *surface.modules)
            self._run(own, PROGRAMS / surface.program)
        for entry, extra in self._refusals().items():
            self._refuses(own, entry, extra)
        return ", ".join(f"{name} {installed[name]}" for name in self._own_requirements())

    def _install(self) -> None:
        run("uv", "venv", "-q", "--no-project", "--python", self.python, "venv", folder=self.folder)
        name = f"piccc[{self.extra}]" if self.extra else "piccc"
        # Only what is named itself is resolved to its lowest version, so all that we require is named.
        named = [_without_marker(each) for each in self.dist.required(self.extra).values()]
        wanted = [f"{name} @ {self.archive.as_uri()}", *named, *BESIDE.get(self.extra, ())]
        # A version that has to be compiled first is none to count on; only our own sdist is built.
        builds = ["--no-binary", "piccc"] if self.archive == self.dist.sdist else []
        options = ["--resolution", _RESOLUTIONS[self.resolution], "--only-binary", ":all:", *builds]
        self._uv("install", "-q", *options, *wanted)
        self._uv("check", "-q")

    def _uv(self, command: str, *words: str) -> str:
        return run("uv", "pip", command, "--python", self._python, *words, folder=self.folder)

    def _installed(self) -> dict[str, str]:
        listed = json.loads(self._uv("list", "-q", "--format", "json"))
        return {canonicalize_name(each["name"]): each["version"] for each in listed}

    def _is_alone(self, installed: Mapping[str, str]) -> None:
        for surface in opened(self.extra):
            if missing := surface.brings - installed.keys():
                raise Failed(f"{', '.join(sorted(missing))} did not come")
        for surface in closed(self.extra):
            if present := surface.brings & installed.keys():
                raise Failed(f"{', '.join(sorted(present))} came, which only [{surface.extra}] may bring")

    def _own_requirements(self) -> dict[str, Requirement]:
        """Return by name what this extra requires and no lesser one does."""
        every = ["cli", "emulator", "langchain", "llama-index", "mcp", "otel", "stores"]
        lesser = {"": [], "all": every, "mcp": ["", "cli"]}.get(self.extra, [""])
        known = {name for extra in lesser for name in self.dist.required(extra)}
        return {name: each for name, each in self.dist.required(self.extra).items() if name not in known}

    def _stands_on_its_floors(self, installed: Mapping[str, str]) -> None:
        for name, requirement in self._own_requirements().items():
            [floor] = [each.version for each in requirement.specifier if each.operator == ">="]
            if Version(installed[name]) != Version(floor):
                raise Failed(f"{requirement} cannot be had: the lowest that installs is {installed[name]}")

    def _variables(self, variables: Mapping[str, str]) -> dict[str, str]:
        def is_ours(name: str) -> bool:
            return name.startswith(("PICCC_", "PYTHON")) or name.upper().endswith("_PROXY")

        home = self.folder / "home"
        home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not is_ours(name)}
        return {**kept, "HOME": str(home), **variables}

    def _run(self, variables: dict[str, str], *words: str | Path) -> None:
        command = [self._python, "-I", *words]
        run(*command, folder=self.folder, variables=variables)

    def _refusals(self) -> dict[tuple[str, ...], str]:
        missing = {each.entry: each.extra for each in closed(self.extra) if each.entry}
        return {**missing, **NEEDS_MORE.get(self.extra, {})}

    def _refuses(self, variables: dict[str, str], entry: tuple[str, ...], extra: str) -> None:
        try:
            self._run(variables, *entry)
        except Failed as refusal:
            if f'pip install "piccc[{extra}]"' not in str(refusal):
                raise
        else:
            raise Failed(f"python {' '.join(entry)} runs without [{extra}]")


def _without_marker(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def check_thin(dist: Dist, thin: Path, python: Path, folder: Path) -> str:
    """Install a thin distribution beside our wheel alone, import what it is for, and return its module."""
    module = next(module for name, module in THIN.items() if thin.name.startswith(name.replace("-", "_")))
    place = folder / f"venv-{thin.stem}"
    run("uv", "venv", "-q", "--no-project", "--python", python, place, folder=folder)
    interpreter = place / "bin" / "python"
    run("uv", "pip", "install", "-q", "--python", interpreter, thin, dist.wheel, folder=folder)
    run(interpreter, "-I", "-c", f"import {module}", folder=folder)
    shutil.rmtree(place)
    return module


def write_sbom(dist: Dist, python: Path, folder: Path) -> Path:
    """Write what piccc[all] brings as CycloneDX, the newest versions on this machine's platform."""
    place = folder / "venv-sbom"
    run("uv", "venv", "-q", "--no-project", "--python", python, place, folder=folder)
    wanted = f"piccc[all] @ {dist.wheel.as_uri()}"
    run("uv", "pip", "install", "-q", "--python", place / "bin" / "python", wanted, folder=folder)
    written = folder / f"{dist.sdist.name.removesuffix('.tar.gz')}.cdx.json"
    tool = ("uv", "tool", "run", "-q", "--from", "cyclonedx-bom>=7,<8", "cyclonedx-py", "environment")
    run(*tool, "--output-reproducible", "-o", written, place / "bin" / "python", folder=folder)
    listed = {each["name"] for each in json.loads(written.read_text())["components"]}
    if missing := dist.required("all").keys() - listed - {"piccc"}:
        raise Failed(f"the SBOM lacks {', '.join(sorted(missing))}")
    shutil.rmtree(place)
    return written
