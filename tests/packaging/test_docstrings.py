"""Docstrings: every example runs against an emulator, in an empty folder; arguments and errors are listed."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest
import typer

from piccc import Polling
from piccc.cli import app
from piccc.emulator import Emulator
from tests.packaging.public_api import MODULES, load, names_of

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


PACKAGES = ("piccc", "langchain_piccc", "llama_index_piccc")
REFERS_TO_TWIN = re.compile(r"\b(?:as for|as of|see) `[\w.]+`")
RESULT = re.compile(r"^(?:Returns|Yields):$", re.MULTILINE)
LISTED = re.compile(r"^ {4}(\w+): \S", re.MULTILINE)


def _public_functions() -> Iterator[tuple[str, FunctionType]]:
    """Yield our public functions and methods with their paths, without those that a framework prescribes."""
    packages = load()
    for module in MODULES:
        for name in names_of(packages[module]):
            each = getattr(import_module(module), name)
            if isinstance(each, FunctionType):
                yield f"{module}.{name}", each
            for attribute, member in vars(each).items() if isinstance(each, type) else ():
                function = getattr(member, "__func__", member)
                owners = [base.__module__ for base in each.__mro__[1:] if attribute in vars(base)]
                if (
                    isinstance(function, FunctionType)
                    and not attribute.startswith("_")
                    and all(owner.partition(".")[0] in PACKAGES for owner in owners)
                ):
                    yield f"{module}.{name}.{attribute}", function


def test_public_functions_list_their_arguments_and_errors_and_say_what_they_return() -> None:
    # A method whose twin lists them refers to that; a summary may say what is returned.
    wrong = {}
    for path, function in _public_functions():
        text, signature = inspect.getdoc(function) or "", inspect.signature(function)
        summary = text.partition("\n")[0]
        if REFERS_TO_TWIN.search(summary):
            continue
        arguments = {*LISTED.findall(text.partition("Args:\n")[2])}
        missing = {*signature.parameters} - {"self", "cls", "args", "kwargs"} - arguments
        says_result = re.search(r"\breturn|^yield|^iterate", summary, re.IGNORECASE) or RESULT.search(text)
        if signature.return_annotation not in ("None", signature.empty) and not says_result:
            missing.add("Returns")
        if re.search(r"\braises? [A-Z]\w+", summary, re.IGNORECASE):
            missing.add("Raises")
        if missing:
            wrong[path] = missing
    assert wrong == {}
