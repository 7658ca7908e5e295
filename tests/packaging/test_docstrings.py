"""What the docstrings show is what happens: every example runs, against an emulator, in an empty folder."""

from __future__ import annotations

import ast
import doctest
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest
import typer

from piccc import Polling
from piccc.cli import app
from piccc.emulator import Emulator

ROOT = Path(__file__).parents[2]
SOURCES = {
    path: ".".join(path.relative_to(ROOT / root).with_suffix("").parts).removesuffix(".__init__")
    for root, package in ((".", "langchain_piccc"), (".", "llama_index_piccc"), ("shared", "piccc"))
    for path in sorted((ROOT / root / package).rglob("*.py"))
}
POLLING = {each.name: each.default for each in fields(Polling)}
PROMPT = re.compile(r"^\s*>>> ", re.MULTILINE)
WITH_EXAMPLES = [name for path, name in SOURCES.items() if PROMPT.search(path.read_text())]
EXAMPLES = [
    found
    for name in WITH_EXAMPLES
    for found in doctest.DocTestFinder().find(import_module(name))
    if found.examples
]
COMMAND = re.compile(r"^ +(piccc [^|<>\n]+)", re.MULTILINE)
COMMANDS = [
    line for path in SOURCES if path.parent.name == "cli" for line in COMMAND.findall(path.read_text())
]
WHAT_GOES_WRONG = {
    "piccc.errors.PicccError": "429;retry-after=2",
    "piccc.errors.StreamError": "cut:2",
    "piccc.errors.SubmissionUnknown": "lost-answer",
    "piccc.errors.TaskWaitTimeout": "stuck",
}
"""The fault that befalls the first request of an example that shows how to go on after an error."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=float("inf")) as emulator:
        yield emulator


@pytest.fixture
def surroundings(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Give what a reader of an example has: a key, a server, and a folder to write into."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PICCC_BASE_URL", emulator.base_url)
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    # The provider advises to wait seconds between two looks; this server is not the provider's.
    monkeypatch.setattr(Polling.__init__, "__kwdefaults__", {**POLLING, "min": 0.01, "max": 0.02})
    yield emulator
    emulator.clear()


# Workflows of LlamaIndex read attributes that pydantic has deprecated.
@pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_shows_what_happens(example: doctest.DocTest, surroundings: Emulator) -> None:
    if fault := WHAT_GOES_WRONG.get(example.name):
        surroundings.fault(fault, times=1)
    example.globs = {"__name__": "__main__"}
    said: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert results.failed == 0, "".join(said)


def test_every_example_is_found() -> None:
    # A docstring under an assignment, or of an object that another module owns, would never run.
    written = sum(len(PROMPT.findall(path.read_text())) for path in SOURCES)
    assert written == sum(len(example.examples) for example in EXAMPLES)


def test_code_stands_in_docstrings_as_examples_that_run_and_nowhere_else() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                assert not re.search(r"```|::$|^ *(?:import \w|from \S+ import )", text, re.MULTILINE), (
                    path,
                    text,
                )


def test_every_error_example_is_put_to_its_error() -> None:
    shown = {example.name for example in EXAMPLES if example.name.startswith("piccc.errors.")}
    assert shown == WHAT_GOES_WRONG.keys()


@pytest.mark.parametrize("line", COMMANDS)
def test_an_example_of_a_command_is_one_that_the_command_line_takes(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("image", "video"):
        monkeypatch.setenv(f"PICCC_{kind.upper()}_MODEL", f"piccc-{kind}")
    _, *words = shlex.split(line)
    command = typer.main.get_command(app)
    while isinstance(command, typer.core.TyperGroup):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words).close()
