"""Install every extra alone, on every Python, with the lowest and the newest dependencies, and use it.

`python -m tests.packaging` builds the sdist and the wheel as a release does and judges both, then makes one
environment a cell and prints a Markdown table. The thin distributions are installed once, and an
SBOM (CycloneDX) is written of all that piccc[all] brings. It ends with 1 where a promise does not hold.
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
ROWS = [f"piccc[{each.extra}]" if each.extra else "piccc" for each in SURFACES] + [SDIST]


class Matrix:
    """The cells: a row for each install, a column for each Python and resolution."""

    def __init__(self, dist: Dist, folder: Path, pythons: Mapping[str, Path]) -> None:
        self._dist = dist
        self._folder = folder
        self._pythons = pythons
        self._columns = list(itertools.product(pythons, RESOLUTIONS))
        self.said: dict[tuple[str, str, str], str] = {}
        self.failures = 0

    def fill(self, rows: list[str], jobs: int) -> None:
        """Check every cell, at most so many at a time."""
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
                found = environment.check(variables)
                self.said[cell] = f"ok, {time.monotonic() - began:.0f} s"
            except Failed as failure:
                found = str(failure)
                self.said[cell] = "**fails**"
                self.failures += 1
        print(f"{row}, Python {python}, {resolution}: {self.said[cell]}: {found}", flush=True)

    def table(self, rows: list[str]) -> str:
        """Return all that was said as a Markdown table."""
        head = " | ".join(f"{python} {resolution}" for python, resolution in self._columns)
        lines = [f"| | {head} |", "|---" * (len(self._columns) + 1) + "|"]
        for row in rows:
            cells = [self.said[row, python, resolution] for python, resolution in self._columns]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        return "\n".join(lines)


def found(wanted: list[str]) -> dict[str, Path]:
    """Return the interpreters of this machine; say which were not found, and end where none was."""
    pythons = {version: interpreter(version) for version in wanted}
    for version, python in pythons.items():
        print(f"Python {version}: {python or 'not found on this machine, so not tried'}", flush=True)
    there = {version: python for version, python in pythons.items() if python}
    if not there:
        sys.exit("No Python to try was found.")
    return there


def main() -> None:
    """Read the options, build, judge, fill the matrix, and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.packaging", description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, help="such as 3.13")
    parser.add_argument(
        "--rows", nargs="+", default=ROWS, choices=ROWS, metavar="ROW", help="such as piccc[cli]"
    )
    parser.add_argument("--jobs", type=int, default=2, help="how many environments at a time")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where to put what was built, and the SBOM"
    )
    options = parser.parse_args()
    pythons = found(options.pythons)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dist = Dist.build(folder)
        dist.judge(folder)
        print(f"{dist.sdist.name} and {dist.wheel.name} are complete and sound.", flush=True)
        python = next(iter(pythons.values()))
        for name in THIN:
            thin = dist.build_thin(name, folder)
            print(f"{thin.name} brings {check_thin(dist, thin, python, folder)}.", flush=True)
        inventory = write_sbom(dist, python, folder)
        print(f"{inventory.name} lists all that piccc[all] brings.", flush=True)
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for each in (*folder.glob("*.whl"), dist.sdist, inventory):
                shutil.copy(each, options.keep)
        matrix = Matrix(dist, folder, pythons)
        matrix.fill(options.rows, options.jobs)
    print(f"\n{matrix.table(options.rows)}")
    if matrix.failures:
        sys.exit(f"{matrix.failures} of these do not hold.")


if __name__ == "__main__":
    main()
