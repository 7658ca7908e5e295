"""Install and use each extra alone, on each Python, with the lowest and the newest dependencies.

`python -m tests.packaging` builds and checks the sdist and the wheel as for a release. It then creates one
environment per cell of a Markdown table, and prints the table. It also installs the thin distributions, and
writes a CycloneDX SBOM of piccc[all]. If a check fails, the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from piccc.emulator import Emulator
from tests.packaging.dist import THIN, Dist, Failed
from tests.packaging.environment import Environment, Resolution, check_thin, interpreter, write_sbom
from tests.packaging.surfaces import SURFACES

PYTHONS = ("3.11", "3.12", "3.13")
RESOLUTIONS: tuple[Resolution, ...] = ("lowest", "newest")
SDIST = "piccc, from the sdist"
ROWS = [f"piccc[{surface.extra}]" if surface.extra else "piccc" for surface in SURFACES] + [SDIST]


class Matrix:
    """The results: a row per install, a column per Python and resolution."""

    def __init__(self, dist: Dist, folder: Path, pythons: Mapping[str, Path]) -> None:
        self._dist = dist
        self._folder = folder
        self._pythons = pythons
        self._columns = list(itertools.product(pythons, RESOLUTIONS))
        self.results: dict[tuple[str, str, str], str] = {}
        self.failures = 0

    def fill(self, rows: list[str], jobs: int) -> None:
        """Check every cell, `jobs` at a time."""
        cells = [(row, *column) for column in self._columns for row in rows]
        with Emulator(speed=math.inf) as emulator, ThreadPoolExecutor(jobs) as threads:
            variables = {
                "PICCC_BASE_URL": emulator.base_url,
                "PICCC_API_KEY": emulator.api_key,
                "PICCC_IMAGE_MODEL": "piccc-image",
                "PICCC_VIDEO_MODEL": "piccc-video",
            }
            list(threads.map(lambda cell: self._check(cell, variables), cells))

    def _check(self, cell: tuple[str, str, Resolution], variables: Mapping[str, str]) -> None:
        row, python, resolution = cell
        archive = self._dist.sdist if row == SDIST else self._dist.wheel
        extra = row.partition("[")[2].rstrip("]")
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            environment = Environment(
                self._dist, archive, extra, self._pythons[python], resolution, Path(folder)
            )
            try:
                details = environment.check(variables)
                self.results[cell] = f"ok, {time.monotonic() - began:.0f} s"
            except Failed as failure:
                details = str(failure)
                self.results[cell] = "**fails**"
                self.failures += 1
        print(f"{row}, Python {python}, {resolution}: {self.results[cell]}: {details}", flush=True)

    def table(self, rows: list[str]) -> str:
        """Return the results as a Markdown table."""
        head = " | ".join(f"{python} {resolution}" for python, resolution in self._columns)
        lines = [f"| | {head} |", "|---" * (len(self._columns) + 1) + "|"]
        for row in rows:
            cells = [self.results[row, python, resolution] for python, resolution in self._columns]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return "\n".join(lines)


def interpreters(wanted: list[str]) -> dict[str, Path]:
    """Return the installed interpreters. Print those that are missing, and exit if all are."""
    pythons = {version: interpreter(version) for version in wanted}
    for version, python in pythons.items():
        print(f"Python {version}: {python or 'not installed, so not tested'}", flush=True)
    installed = {version: python for version, python in pythons.items() if python}
    if not installed:
        sys.exit("None of these Pythons is installed.")
    return installed


def main() -> None:
    """Parse the options, build, check, and print the matrix."""
    parser = argparse.ArgumentParser(prog="python -m tests.packaging", description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, help="for example 3.13")
    parser.add_argument(
        "--rows", nargs="+", default=ROWS, choices=ROWS, metavar="ROW", help="for example piccc[cli]"
    )
    parser.add_argument("--jobs", type=int, default=2, help="number of concurrent environments")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for the built files and the SBOM")
    options = parser.parse_args()
    pythons = interpreters(options.pythons)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist = Dist.build(folder)
        dist.check(folder)
        print(f"{dist.sdist.name} and {dist.wheel.name} are complete and valid.", flush=True)
        python = next(iter(pythons.values()))
        for name in THIN:
            thin = dist.build_thin(name, folder)
            print(f"{thin.name} installs {check_thin(dist, thin, python, folder)}.", flush=True)
        sbom = write_sbom(dist, python, folder)
        print(f"{sbom.name} lists everything that piccc[all] installs.", flush=True)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for file in (*folder.glob("*.whl"), dist.sdist, sbom):
                shutil.copy(file, options.keep)
        matrix = Matrix(dist, folder, pythons)
        matrix.fill(options.rows, options.jobs)
    print(f"\n{matrix.table(options.rows)}")
    if matrix.failures:
        sys.exit(f"{matrix.failures} of these failed.")


if __name__ == "__main__":
    main()
