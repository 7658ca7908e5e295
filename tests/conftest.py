"""Fixtures and hooks that all tests share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.services import postgres_url, redis_url  # noqa: F401  fixtures

if TYPE_CHECKING:
    from playwright.async_api import Browser

CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
)
"""Flags that let Chromium run as root and keep it off the internet."""

LONGEST = (
    "emulator/test_openapi.py",
    "media/test_schedule.py",
    "notebooks/test_notebooks.py",
    "docs/test_blocks.py",
    "faults/test_matrix.py",
    "media/test_polling.py",
    "test_mcp.py",
    "emulator/test_page.py",
    "faults/test_connections.py",
    "contract/test_assumptions.py",
    "event_loop/test_blocking.py",
    "cli/test_make.py",
    "cli/test_demo.py",
    "emulator/test_server.py",
    "faults/test_unsent.py",
    "media/test_submitting.py",
    "media/test_batch.py",
    "emulator/model/test_schema.py",
    "cli/test_commands.py",
    "langchain/test_package.py",
    "docs/test_site.py",
)
"""Files that take ten seconds or more."""


def pytest_configure(config: pytest.Config) -> None:
    """Let subprocesses be interrupted; cache bytecode outside the tree if the environment disables it.

    Containers often set PYTHONDONTWRITEBYTECODE. Then each process that a test starts compiles the frameworks
    again, and each xdist worker compiles and rewrites all test modules: a third of the suite's CPU time.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a script's background job; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cache = getattr(config, "cache", None)  # absent under `-p no:cacheprovider`
    if sys.dont_write_bytecode and cache is not None:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(cache.mkdir("bytecode"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers() -> int:
    """Return two more workers than CPUs: a worker spends half of its time waiting.

    On two cores, beside other work, the suite took 6:41 instead of 8:45.
    """
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exclude imported modules and collected tests from garbage collection: they live until the end.

    Scanning those two million objects repeatedly took a fifth of a worker's startup, and a tenth of the time
    of tests that create many small objects.
    """
    gc.disable()
    yield
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first: one that starts last keeps the other workers waiting."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """Run Chromium; if it is not installed, skip, or fail if PICCC_REQUIRE_BROWSER is set."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is not installed: apt-get install --yes --no-install-recommends chromium"
        (pytest.fail if os.environ.get("PICCC_REQUIRE_BROWSER") else pytest.skip)(reason)
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        yield launched
        await launched.close()


@pytest_asyncio.fixture(loop_scope="session")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """Lend Chromium to one test, which runs in the session's event loop; close what it launched."""
    yield chromium
    for context in chromium.contexts:
        await context.close()
