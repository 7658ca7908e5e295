"""A clean environment with one extra, and the checks that run in it."""

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
from tests.packaging.surfaces import ALSO_INSTALLED, NEEDS_MORE, unusable_surfaces, usable_surfaces

PROGRAMS = Path(__file__).parent / "programs"
Resolution = Literal["lowest", "newest"]
_RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}


def interpreter(version: str) -> Path | None:
    """Return an installed Python of this version, or None."""
    command = ("uv", "python", "find", "--system", "--no-python-downloads", version)
    try:
        return Path(run(*command, folder=PROGRAMS).strip())
    except Failed:  # pyenv's commands fail unless their version is selected
        return _from_pyenv(version)


def _from_pyenv(version: str) -> Path | None:
    if shutil.which("pyenv") is None:
        return None
    known = run("pyenv", "versions", "--bare", folder=PROGRAMS).splitlines()
    for name in known:
        if name.startswith(f"{version}."):
            return Path(run("pyenv", "prefix", name, folder=PROGRAMS).strip(), "bin", "python")
    return None


@dataclass(frozen=True)
class Environment:
    """An environment with one extra of the wheel or the sdist, and nothing else."""

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
        """Install the extra and run all checks; return the tested versions, or raise Failed.

        `variables` point to a running emulator.
        """
        self._install()
        installed = self._installed()
        self._check_extras(installed)
        if self.resolution == "lowest":
            self._check_lower_bounds(installed)
        own = self._variables(variables)
        for surface in usable_surfaces(self.extra):
            self._run(own, PROGRAMS / "import_all.py", *surface.modules)
            self._run(own, PROGRAMS / surface.program)
        for entry, extra in self._missing_extras().items():
            self._check_missing_extra(own, entry, extra)
        return ", ".join(f"{name} {installed[name]}" for name in self._own_requirements())

    def _install(self) -> None:
        run("uv", "venv", "-q", "--no-project", "--python", self.python, "venv", folder=self.folder)
        name = f"piccc[{self.extra}]" if self.extra else "piccc"
        # uv resolves only the named packages to their lowest versions, so name all our requirements.
        named = [_without_marker(each) for each in self.dist.required(self.extra).values()]
        wanted = [f"{name} @ {self.archive.as_uri()}", *named, *ALSO_INSTALLED.get(self.extra, ())]
        # Versions that must be compiled do not count; only our own sdist is built.
        builds = ["--no-binary", "piccc"] if self.archive == self.dist.sdist else []
        options = ["--resolution", _RESOLUTIONS[self.resolution], "--only-binary", ":all:", *builds]
        self._uv("install", "-q", *options, *wanted)
        self._uv("check", "-q")

    def _uv(self, command: str, *words: str) -> str:
        return run("uv", "pip", command, "--python", self._python, *words, folder=self.folder)

    def _installed(self) -> dict[str, str]:
        listed = json.loads(self._uv("list", "-q", "--format", "json"))
        return {canonicalize_name(each["name"]): each["version"] for each in listed}

    def _check_extras(self, installed: Mapping[str, str]) -> None:
        for surface in usable_surfaces(self.extra):
            if missing := surface.installs - installed.keys():
                raise Failed(f"{', '.join(sorted(missing))} was not installed")
        for surface in unusable_surfaces(self.extra):
            if present := surface.installs & installed.keys():
                raise Failed(f"{', '.join(sorted(present))} was installed without [{surface.extra}]")

    def _own_requirements(self) -> dict[str, Requirement]:
        """Return by name what this extra requires and its subsets do not."""
        every = ["cli", "emulator", "langchain", "llama-index", "mcp", "otel", "stores"]
        subsets = {"": [], "all": every, "mcp": ["", "cli"]}.get(self.extra, [""])
        known = {name for extra in subsets for name in self.dist.required(extra)}
        return {name: each for name, each in self.dist.required(self.extra).items() if name not in known}

    def _check_lower_bounds(self, installed: Mapping[str, str]) -> None:
        for name, requirement in self._own_requirements().items():
            [floor] = [each.version for each in requirement.specifier if each.operator == ">="]
            if Version(installed[name]) != Version(floor):
                raise Failed(f"{requirement}: the lowest version that installs is {installed[name]}")

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

    def _missing_extras(self) -> dict[tuple[str, ...], str]:
        missing = {
            surface.entry: f'"piccc[{surface.extra}]"'
            for surface in unusable_surfaces(self.extra)
            if surface.entry
        }
        return {**missing, **NEEDS_MORE.get(self.extra, {})}

    def _check_missing_extra(self, variables: dict[str, str], entry: tuple[str, ...], wanted: str) -> None:
        try:
            self._run(variables, *entry)
        except Failed as failure:
            if f"pip install {wanted}" not in str(failure):
                raise
        else:
            raise Failed(f"python {' '.join(entry)} runs without {wanted}")


def _without_marker(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def check_thin(dist: Dist, thin: Path, python: Path, folder: Path) -> str:
    """Install only a thin distribution and our wheel, import its module, and return the module's name."""
    module = next(module for name, module in THIN.items() if thin.name.startswith(name.replace("-", "_")))
    venv = folder / f"venv-{thin.stem}"
    run("uv", "venv", "-q", "--no-project", "--python", python, venv, folder=folder)
    interpreter = venv / "bin" / "python"
    run("uv", "pip", "install", "-q", "--python", interpreter, thin, dist.wheel, folder=folder)
    run(interpreter, "-I", "-c", f"import {module}", folder=folder)
    shutil.rmtree(venv)
    return module


def write_sbom(dist: Dist, python: Path, folder: Path) -> Path:
    """Write a CycloneDX SBOM of piccc[all], with the newest versions for this platform."""
    venv = folder / "venv-sbom"
    run("uv", "venv", "-q", "--no-project", "--python", python, venv, folder=folder)
    wanted = f"piccc[all] @ {dist.wheel.as_uri()}"
    run("uv", "pip", "install", "-q", "--python", venv / "bin" / "python", wanted, folder=folder)
    written = folder / f"{dist.sdist.name.removesuffix('.tar.gz')}.cdx.json"
    tool = ("uv", "tool", "run", "-q", "--from", "cyclonedx-bom>=7,<8", "cyclonedx-py", "environment")
    run(*tool, "--output-reproducible", "-o", written, venv / "bin" / "python", folder=folder)
    listed = {each["name"] for each in json.loads(written.read_text())["components"]}
    if missing := dist.required("all").keys() - listed - {"piccc"}:
        raise Failed(f"the SBOM lacks {', '.join(sorted(missing))}")
    shutil.rmtree(venv)
    return written
