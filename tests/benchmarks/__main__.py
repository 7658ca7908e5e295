"""Compare piccc's performance with other clients: `python -m tests.benchmarks`.

Prints tables, and writes them with JSON and a chart. Each figure is the median over several rounds, with one
client process per round. A round measures all subjects in turn, so that a slow period affects all of them.
Long or real-time benchmarks run only in the first round. The tables show multiples of piccc's figure, with
their range over the rounds in brackets; compare figures only within a row. `--publish` also writes them to
the documentation. `--against` also measures the first goals with an older revision of the library, in the
same run and with the current benchmarks. Whatever cannot be installed is skipped with a SKIPPED line. A
client that fails loses its row, and the exit code is 1."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

from tests.benchmarks.chart import chart
from tests.benchmarks.client import BENCHMARKS, MODEL_TOKENS
from tests.benchmarks.goals import ABOUT_WHY, FIRST, GOALS, Goal, reasons, verdicts
from tests.benchmarks.raw import KEY
from tests.benchmarks.subjects import EVERYONE, FAMILIES, OURS, PEERS
from tests.benchmarks.table import Figures, Samples, table, written

ROOT = Path(__file__).parents[2]
LONGEST = 180.0
"""Seconds after which a client counts as failed."""
ABOUT = """# Benchmarks

CPU time of the client process: piccc's figures, and other clients as multiples of them, with the
smallest and largest multiple of any round in brackets. A floor is httpx with the cheapest correct parser
and the framework's own work for one chunk per event. The server sends from memory and pauses between
writes like a model, so CPU caches are cold and figures are two to three times those of a tight loop.
Modules are precompiled, as with pip. Compare figures only within a row. Multiples are taken within each
round, and their median decides whether a goal is met.

{made}

![Client CPU time as multiples of piccc's, on a logarithmic scale](benchmarks.svg)
"""


def environment(group: str | None, *extras: str, tree: Path = ROOT) -> Path:
    """Return the interpreter of an environment with the group's peers and our extras; create it if needed."""
    folder = tree / (f".venv-peers-{group}" if group else ".venv-peers-ours")
    command = ["uv", "sync", "-q", "--no-default-groups", "--extra", "langchain", "--extra", "llama-index"]
    command += [each for extra in extras for each in ("--extra", extra)]
    if group or tree == ROOT:  # older trees have no group `observed`
        command += ["--group", f"peers-{group}" if group else "observed"]
    # Users run precompiled modules; compiling takes more than half of the startup time.
    settings = {"UV_PROJECT_ENVIRONMENT": str(folder), "UV_COMPILE_BYTECODE": "1"}
    subprocess.run(command, cwd=tree, check=True, env={**os.environ, **settings})  # noqa: S603
    python = folder / "bin" / "python"
    ours = ("shared", "langchain_piccc", "llama_index_piccc", "tests/benchmarks")
    subprocess.run([python, "-m", "compileall", "-q", *ours], cwd=tree, check=True)  # noqa: S603
    return python


@contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """Check out an older revision with the current benchmarks; yield its folder."""
    folder = ROOT / "build" / f"against-{revision.replace('/', '-')}"
    git = ["git", "worktree"]
    subprocess.run([*git, "add", "--force", "--detach", str(folder), revision], cwd=ROOT, check=True)  # noqa: S603
    try:
        shutil.copytree(ROOT / "tests" / "benchmarks", folder / "tests" / "benchmarks", dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], cwd=ROOT, check=False)  # noqa: S603


@contextmanager
def server(python: Path) -> Iterator[str]:
    """Run the in-memory server in a separate process; yield its URL."""
    command = [str(python), "-m", "tests.benchmarks.server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


class Servers:
    """The servers that benchmarks need, by name, each started on first use."""

    def __init__(self, stack: ExitStack, python: Path) -> None:
        self._stack, self._python = stack, python
        self._addresses: dict[str, str | None] = {}

    def __getitem__(self, name: str) -> str | None:
        if name not in self._addresses:
            self._addresses[name] = self._started(name)
        return self._addresses[name]

    def _started(self, name: str) -> str | None:
        """Return a server's address, or None if it is not installed."""
        if name == "memory":
            return self._stack.enter_context(server(self._python))
        if name == "redis":
            from tests.services import Missing, redis_server  # imports pytest

            try:
                return self._stack.enter_context(redis_server())
            except Missing as missing:
                print(f"SKIPPED: {missing}", file=sys.stderr)
                return None
        from tests.real_server.__main__ import install  # imports this module
        from tests.real_server.__main__ import server as model

        python = install()
        return python and self._stack.enter_context(model(python, KEY, MODEL_TOKENS))


class Run:
    """A benchmark run in rounds. The subject `ours@REVISION` is an older revision of piccc."""

    def __init__(self, benchmarks: list[str], subjects: list[str], against: str | None) -> None:
        self._benchmarks, self._subjects, self._against = benchmarks, subjects, against
        self._samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.failed: dict[tuple[str, str], None] = {}

    def samples(self, rounds: int) -> Samples:
        """Measure, and return one figure per round for each row and subject."""
        peers = {group: environment(group) for group in {*map(PEERS.get, self._subjects)} - {None}}
        with ExitStack() as stack:
            ours = environment(None, "emulator", "redis")
            places = {group: (python, ROOT) for group, python in {None: ours, **peers}.items()}
            if self._against:
                tree = stack.enter_context(worktree(self._against))
                places["old"] = (environment(None, tree=tree), tree)
            servers = Servers(stack, ours)
            for round_, benchmark, subject in self._schedule(rounds):
                addresses = [address for name in BENCHMARKS[benchmark].servers if (address := servers[name])]
                if (
                    len(addresses) == len(BENCHMARKS[benchmark].servers)
                    and (benchmark, subject) not in self.failed
                ):
                    name, _, is_old = subject.partition("@")
                    place = places["old" if is_old else PEERS.get(name)]
                    began = time.monotonic()
                    found = self._measured(*place, subject, benchmark, addresses)
                    seconds = time.monotonic() - began
                    for row, figure in found.items():
                        self._samples[row][subject].append(figure)
                        line = f"{round_ + 1}/{rounds} {row}: {subject} {written(figure)}"
                        print(f"{line} ({seconds:.0f} s)", file=sys.stderr, flush=True)
        return {row: dict(found) for row, found in self._samples.items()}

    def _schedule(self, rounds: int) -> Iterator[tuple[int, str, str]]:
        for round_ in range(rounds):
            for benchmark in self._benchmarks:
                if BENCHMARKS[benchmark].once and round_:
                    continue
                for subject in self._subjects:
                    if subject in BENCHMARKS[benchmark].subjects:
                        yield round_, benchmark, subject
                        if self._against and subject in OURS:
                            yield round_, benchmark, f"{subject}@{self._against}"

    def _measured(
        self, python: Path, tree: Path, subject: str, benchmark: str, addresses: list[str]
    ) -> dict[str, float]:
        """Return one client process's figures. If it fails, drop its figures from earlier rounds too."""
        command = [
            str(python),
            "-m",
            "tests.benchmarks.client",
            subject.partition("@")[0],
            benchmark,
            *addresses,
        ]
        try:
            done = subprocess.run(  # noqa: S603  our own program
                command, cwd=tree, check=True, stdout=subprocess.PIPE, text=True, timeout=LONGEST
            )
        except subprocess.SubprocessError as error:
            print(f"FAILED: {benchmark}: {subject}: {error}", file=sys.stderr)
            self.failed[benchmark, subject] = None
            for row, found in self._samples.items():
                if row.startswith(benchmark):
                    found.pop(subject, None)
            return {}
        found = json.loads(done.stdout.splitlines()[-1])
        return found if isinstance(found, dict) else {benchmark: found}


def medians(samples: Samples) -> Figures:
    """Return the median of each subject's figures."""
    return {
        row: {subject: statistics.median(rounds) for subject, rounds in subjects.items()}
        for row, subjects in samples.items()
    }


def by_round(samples: Samples) -> list[Figures]:
    """Return each round's figures; rows that are measured once are in the first only."""
    count = max((len(rounds) for subjects in samples.values() for rounds in subjects.values()), default=0)
    return [
        {
            row: {subject: rounds[index] for subject, rounds in subjects.items() if index < len(rounds)}
            for row, subjects in samples.items()
        }
        for index in range(count)
    ]


def main() -> None:
    """Parse the options, measure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="run only benchmarks with this in their name")
    parser.add_argument("--subjects", nargs="*", choices=EVERYONE, help="measure only these")
    parser.add_argument(
        "--against", metavar="REVISION", help="also check this revision against the first goals"
    )
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--publish", action="store_true", help="also write docs/benchmarks.md and its chart")
    options = parser.parse_args()
    benchmarks = [each for each in BENCHMARKS if options.only in each]
    subjects = options.subjects or list(EVERYONE)
    goals = GOALS
    if options.against:
        goals = FIRST
        benchmarks = [each for each in benchmarks if each in {goal.benchmark for goal in goals}]
        subjects = [each for each in subjects if each in {one for goal in goals for one in goal[1:3]}]
    if "aimock" in subjects and "emulator" in benchmarks:
        from tests.real_server.__main__ import install_aimock  # imports this module

        if not install_aimock():
            subjects.remove("aimock")
    began = time.monotonic()
    run = Run(benchmarks, subjects, options.against)
    samples = run.samples(options.rounds)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes", file=sys.stderr)
    figures = medians(samples)
    about = {"python": platform.python_version(), "piccc": version("piccc"), "rounds": options.rounds}
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "benchmarks.json").write_text(json.dumps({"about": about, "samples": samples}, indent=2))
    report = "\n\n".join(_report(samples, figures, goals, options.against))
    svg = chart(figures, FAMILIES)
    command = f"python -m tests.benchmarks --rounds {options.rounds} --publish"
    machine = f"Python {about['python']}, {os.cpu_count()} cores, {date.today().isoformat()}"
    made = f"Generated by `{command}` with piccc {about['piccc']} on {machine}."
    folders = [options.to, ROOT / "docs"] if options.publish else [options.to]
    for folder in folders:
        (folder / "benchmarks.svg").write_text(svg)
        (folder / "benchmarks.md").write_text(f"{ABOUT.format(made=made)}\n{report}\n")
    print(f"\n{report}")
    if run.failed:
        sys.exit("\n".join(f"FAILED: {benchmark}: {subject}" for benchmark, subject in run.failed))


def _report(samples: Samples, figures: Figures, goals: Sequence[Goal], against: str | None) -> Iterator[str]:
    for family, (ours, *others) in FAMILIES.items():
        if any(ours in row for row in figures.values()):
            yield f"## {family}"
            older = [f"{ours}@{against}"] if against else []
            yield table(samples, figures, (ours, *older, *others))
            for each in (ours, *older):
                if lines := verdicts(by_round(samples), (each, *others), goals):
                    yield "\n".join([*([f"{each}:\n"] if older else []), *(f"- {line}" for line in lines)])
    if why := reasons(by_round(samples), FAMILIES):
        yield f"## Goals that were missed, and why\n\n{ABOUT_WHY}"
        yield "\n".join(f"- {each}" for each in why)


if __name__ == "__main__":
    main()
