"""The pytest fixture `piccc_emulator`, which runs an emulator for a test, and its marker."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from piccc.emulator import Emulator


_MARKER = "piccc_recording"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker.

    Args:
        config: pytest's configuration.
    """
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(path=None, mode='once', **options): make piccc_emulator replay a recording.",
    )


@pytest.fixture
def piccc_emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an emulator for one test, with the PICCC_* environment variables set to use it.

    PICCC_BASE_URL, PICCC_API_KEY, PICCC_IMAGE_MODEL and PICCC_VIDEO_MODEL are set, and NO_PROXY lets requests
    bypass any proxy. The emulator has no delays: tokens are sent at once, and a task is finished by the first
    read after its submission. For another speed or a manual clock, use `piccc.emulator.Emulator` directly.
    Needs `piccc[emulator]`.

    With `@pytest.mark.piccc_recording("recordings/agent.jsonl")` it replays that file, relative to the test
    file; without a path, the file named after the test in `recordings/`. If the file does not exist yet, the
    test is recorded from the server that the environment originally names (PICCC_BASE_URL, PICCC_API_KEY), or
    from the marker's `upstream=`. `mode=` is `once`, `record` or `replay`; other options are those of
    `Emulator`.

    Yields:
        The running emulator.
    """
    from piccc.emulator import Emulator

    with Emulator(speed=float("inf"), **_recording(request)) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("NO_PROXY", "no_proxy"):
            hosts = [os.environ.get(name, ""), "127.0.0.1", "localhost"]
            monkeypatch.setenv(name, ",".join(filter(None, hosts)))
        yield emulator


def _recording(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the emulator options set by the test's marker."""
    marker = request.node.get_closest_marker(_MARKER)
    if marker is None:
        return {}
    if len(marker.args) > 1:
        raise pytest.UsageError(f"{_MARKER} takes one path, not {marker.args}")
    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    path = marker.args[0] if marker.args else f"recordings/{name}.jsonl"
    live: dict[str, Any] = {}
    if os.environ.get("PICCC_BASE_URL"):
        live = {
            "upstream": os.environ["PICCC_BASE_URL"],
            "upstream_key": os.environ.get("PICCC_API_KEY"),
            "upstream_api": "piccc",
        }
    options = {**(live if "upstream" not in marker.kwargs else {}), "mode": "once", **marker.kwargs}
    return {**options, "recording": request.path.parent / path}
