"""What tests of every folder share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Return a function that opens a URL in headless Chromium and returns the page's DOM once it has settled.

    Skips where Chromium is not installed, unless PICCC_REQUIRE_BROWSER is set.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        reason = "Chromium is not installed: apt-get install chromium"
        if os.environ.get("PICCC_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)

    def dump(url: str, *arguments: str, budget: int = 10_000) -> str:
        command = [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--virtual-time-budget={budget}",
            *arguments,
            "--dump-dom",
            url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)  # noqa: S603
        return done.stdout

    return dump
