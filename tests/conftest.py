"""What tests of every folder share."""

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

ALONE = ("--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update")
"""Flags with which Chromium runs as root and asks nobody on the internet."""

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
"""Files that take ten seconds and more."""


def pytest_configure(config: pytest.Config) -> None:
    """Let commands be interrupted; cache bytecode, where the environment forbids it, outside of the tree.

    Containers often set PYTHONDONTWRITEBYTECODE. Then each process that a test starts compiles the frameworks
    anew, and each xdist worker compiles and rewrites all test modules: a third of the suite's CPU time.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script's background job, as are its children
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cache = getattr(config, "cache", None)  # none under `-p no:cacheprovider`
    if sys.dont_write_bytecode and cache is not None:
        sys.dont_write_bytecode = False
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(cache.mkdir("bytecode"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers() -> int:
    """Return two more than there are processors, for a worker waits half of the time.

    On two cores, beside other work, the suite took 6:41 in place of 8:45.
    """
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector from what is imported and collected, which stays until the end.

    It went through those two million objects again and again: a fifth of a worker's start, and a tenth of
    what tests with many small objects cost.
    """
    gc.disable()
    yield
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: a file that one worker begins last keeps the others waiting for it."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """Run Chromium; skip where it is not installed, unless PICCC_REQUIRE_BROWSER is set."""
    program = shutil.which("chromium")
    if program is None:
        reason = "Chromium is not installed: apt-get install --yes --no-install-recommends chromium"
        (pytest.fail if os.environ.get("PICCC_REQUIRE_BROWSER") else pytest.skip)(reason)
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        opened = await playwright.chromium.launch(executable_path=program, args=list(ALONE))
        yield opened
        await opened.close()


@pytest_asyncio.fixture(loop_scope="session")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    """Lend Chromium to one test, which runs in the session's loop, and close the pages it has opened."""
    yield chromium
    for context in chromium.contexts:
        await context.close()
