"""Docstring examples run against an emulator, and public docstrings document arguments and errors."""

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
    example
    for name in WITH_EXAMPLES
    for example in doctest.DocTestFinder().find(import_module(name))
    if example.examples
]
COMMAND = re.compile(r"^ +(piccc [^|<>\n]+)", re.MULTILINE)
COMMANDS = [
    line for path in SOURCES if path.parent.name == "cli" for line in COMMAND.findall(path.read_text())
]
FAULTS = {
    "piccc.errors.PicccError": "429;retry-after=2",
    "piccc.errors.StreamError": "cut:2",
    "piccc.errors.SubmissionUnknown": "lost-answer",
    "piccc.errors.TaskWaitTimeout": "stuck",
}
"""The fault injected into the first request of each example that shows how to handle an error."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=float("inf")) as emulator:
        yield emulator


@pytest.fixture
def example_environment(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Emulator]:
    """Provide what an example needs: a key, a server, and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PICCC_BASE_URL", emulator.base_url)
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    # The default polling intervals follow the provider's advice; the emulator needs no such pauses.
    monkeypatch.setattr(Polling.__init__, "__kwdefaults__", {**POLLING, "min": 0.01, "max": 0.02})
    yield emulator
    emulator.clear()


# LlamaIndex's workflows read attributes that pydantic deprecated.
@pytest.mark.filterwarnings("ignore:The `.*` attribute:pydantic.PydanticDeprecatedSince20")
@pytest.mark.filterwarnings("ignore:Accessing the 'model_:pydantic.PydanticDeprecatedSince211")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_docstring_examples_produce_the_output_they_show(
    example: doctest.DocTest, example_environment: Emulator
) -> None:
    if fault := FAULTS.get(example.name):
        example_environment.fault(fault, times=1)
    example.globs = {"__name__": "__main__"}
    output: list[str] = []
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=output.append)
    assert results.failed == 0, "".join(output)


def test_every_example_is_found() -> None:
    # doctest skips docstrings below assignments and docstrings of objects from other modules.
    written = sum(len(PROMPT.findall(path.read_text())) for path in SOURCES)
    assert written == sum(len(example.examples) for example in EXAMPLES)


def test_docstrings_contain_code_only_as_runnable_examples() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                assert not re.search(r"```|::$|^ *(?:import \w|from \S+ import )", text, re.MULTILINE), (
                    path,
                    text,
                )


def test_every_error_example_has_a_fault() -> None:
    shown = {example.name for example in EXAMPLES if example.name.startswith("piccc.errors.")}
    assert shown == FAULTS.keys()


@pytest.mark.parametrize("line", COMMANDS)
def test_example_commands_are_valid(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Yield our public functions and methods with their paths, except overrides of a framework's methods."""
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


def test_public_functions_document_arguments_results_and_errors() -> None:
    # A method may refer to its twin instead, and its summary may describe the result.
    wrong = {}
    for path, function in _public_functions():
        text, signature = inspect.getdoc(function) or "", inspect.signature(function)
        summary = text.partition("\n")[0]
        if REFERS_TO_TWIN.search(summary):
            continue
        arguments = {*LISTED.findall(text.partition("Args:\n")[2])}
        missing = {*signature.parameters} - {"self", "cls", "args", "kwargs"} - arguments
        has_result = re.search(r"\breturn|^yield|^iterate", summary, re.IGNORECASE) or RESULT.search(text)
        if signature.return_annotation not in ("None", signature.empty) and not has_result:
            missing.add("Returns")
        if re.search(r"\braises? [A-Z]\w+", summary, re.IGNORECASE):
            missing.add("Raises")
        if missing:
            wrong[path] = missing
    assert wrong == {}
