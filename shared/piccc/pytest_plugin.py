"""The pytest fixture `piccc_emulator`, an emulator that the environment points to, and its marker."""

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
        config: pytest's.
    """
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(path=None, mode='once', **options): let piccc_emulator answer from a recording.",
    )


@pytest.fixture
def piccc_emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Run an emulator for one test, with the environment variables PICCC_* set to reach it.

    PICCC_BASE_URL, PICCC_API_KEY, PICCC_IMAGE_MODEL and PICCC_VIDEO_MODEL are set, and NO_PROXY keeps proxies
    of the environment away from it. It waits for nothing: tokens come at once, and a task is finished by the
    first read after its submission. For another speed or a manual clock, enter `piccc.emulator.Emulator`
    yourself. Needs `piccc[emulator]`.

    With `@pytest.mark.piccc_recording("recordings/agent.jsonl")` it answers from that file, whose path is
    relative to the test's; without a path, from `recordings/` and the test's name. Where there is no file
    yet, the test is recorded from the server to which the environment points before it (PICCC_BASE_URL,
    PICCC_API_KEY), or from the marker's `upstream=`. `mode=` is `once`, `record` or `replay`; other options
    are those of `Emulator`.

    Yields:
        The running emulator.
    """
    from piccc.emulator import Emulator

    with Emulator(speed=float("inf"), **_recording(request)) as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("NO_PROXY", "no_proxy"):
            spared = [os.environ.get(name, ""), "127.0.0.1", "localhost"]
            monkeypatch.setenv(name, ",".join(filter(None, spared)))
        yield emulator


def _recording(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the options of an emulator that the test's marker asks for."""
    marker = request.node.get_closest_marker(_MARKER)
    if marker is None:
        return {}
    if len(marker.args) > 1:
        raise pytest.UsageError(f"{_MARKER} takes one path, not {marker.args}")
    named = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
    path = marker.args[0] if marker.args else f"recordings/{named}.jsonl"
    live: dict[str, Any] = {}
    if os.environ.get("PICCC_BASE_URL"):
        live = {
            "upstream": os.environ["PICCC_BASE_URL"],
            "upstream_key": os.environ.get("PICCC_API_KEY"),
            "upstream_api": "piccc",
        }
    options = {**(live if "upstream" not in marker.kwargs else {}), "mode": "once", **marker.kwargs}
    return {**options, "recording": request.path.parent / path}
