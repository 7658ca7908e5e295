"""The pytest fixture, as a user's own tests find it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

USER_TEST = """
import json, os, sys, urllib.request

def test_nothing_heavy_is_loaded_before_it_is_used():
    assert not {"piccc.emulator", "starlette", "uvicorn", "pydantic", "httpx"} & set(sys.modules)
    assert "PICCC_BASE_URL" not in os.environ

def test_it_sets_the_environment(piccc_emulator):
    assert {name: os.environ[name] for name in piccc_emulator.environment} == piccc_emulator.environment
    assert {"PICCC_BASE_URL", "PICCC_API_KEY", "PICCC_IMAGE_MODEL", "PICCC_VIDEO_MODEL"} <= set(os.environ)
    headers = {"Authorization": "Bearer " + os.environ["PICCC_API_KEY"]}
    request = urllib.request.Request(os.environ["PICCC_BASE_URL"] + "/v1/models", headers=headers)
    with urllib.request.urlopen(request) as reply:
        assert json.load(reply)["data"]
    assert [record.path for record in piccc_emulator.requests] == ["/v1/models"]

def test_each_test_has_its_own(piccc_emulator):
    assert piccc_emulator.requests == []

def test_the_environment_is_left_as_it_was():
    assert not {"PICCC_BASE_URL", "PICCC_IMAGE_MODEL", "NO_PROXY", "no_proxy"} & set(os.environ)
"""


def test_the_fixture_is_found_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(USER_TEST)
    # Other plugins that happen to be installed load what they like; here it is about this one alone.
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "piccc",
        "-p",
        "no:cacheprovider",
        ".",
    ]
    run = subprocess.run(  # noqa: S603 - our own interpreter
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "", "HTTP_PROXY": "http://127.0.0.1:1"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout
