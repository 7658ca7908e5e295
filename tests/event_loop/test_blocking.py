"""No async entry point blocks the event loop, in a cold process or a warm one."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType

import pytest

from piccc.emulator import Emulator
from tests.event_loop.entry_points import ENTRY_POINTS

PACKAGES = ("piccc", "langchain_piccc", "llama_index_piccc")
PROGRAM = Path(__file__).with_name("entry_points.py")


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=math.inf) as running:
        yield running


def run(emulator: Emulator, *arguments: str) -> str:
    variables = {"PICCC_BASE_URL": emulator.base_url, "PICCC_API_KEY": emulator.api_key}
    completed = subprocess.run(  # noqa: S603  our own program
        [sys.executable, str(PROGRAM), *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_an_entry_point_does_not_block_the_event_loop(name: str, emulator: Emulator) -> None:
    run(emulator, name)


def test_every_public_async_function_is_called_by_an_entry_point(emulator: Emulator) -> None:
    ran = set(run(emulator).splitlines())
    expected = {
        f"{function.__globals__['__name__']}:{function.__code__.co_qualname}": name
        for name, function in async_functions()
    }
    assert sorted(name for where, name in expected.items() if where not in ran) == []


def async_functions() -> Iterator[tuple[str, FunctionType]]:
    """Yield the name and function of every public async function in the three packages."""
    for package in PACKAGES:
        for name in (module := importlib.import_module(package)).__all__:
            public = getattr(module, name)
            members = [(name, public)]
            if isinstance(public, type):
                members += [
                    (f"{name}.{attribute}", inspect.getattr_static(public, attribute))
                    for attribute in dir(public)
                    if not attribute.startswith("_")
                ]
            for path, member in members:
                function = inspect.unwrap(getattr(member, "__func__", member))
                is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
                if is_async and function.__module__.partition(".")[0] in PACKAGES:
                    yield f"{package}.{path}", function
