"""What tests of every folder share."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.services import postgres_url, redis_url  # noqa: F401  fixtures

if TYPE_CHECKING:
    from playwright.async_api import Browser

ALONE = ("--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update")
"""Flags with which Chromium runs as root and asks nobody on the internet."""


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
