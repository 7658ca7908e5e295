"""The pytest fixture, as users' own tests see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from piccc.emulator import Emulator

USER_TEST = """
import json, os, sys, urllib.request

def test_nothing_heavy_is_imported_before_first_use():
    assert not {"piccc.emulator", "httptools", "pydantic", "httpx"} & set(sys.modules)
    assert "PICCC_BASE_URL" not in os.environ

def test_it_sets_the_environment(piccc_emulator):
    assert {name: os.environ[name] for name in piccc_emulator.environment} == piccc_emulator.environment
    assert {"PICCC_BASE_URL", "PICCC_API_KEY", "PICCC_IMAGE_MODEL", "PICCC_VIDEO_MODEL"} <= set(os.environ)
    headers = {"Authorization": "Bearer " + os.environ["PICCC_API_KEY"]}
    request = urllib.request.Request(os.environ["PICCC_BASE_URL"] + "/v1/models", headers=headers)
    with urllib.request.urlopen(request) as reply:
        assert json.load(reply)["data"]
    assert [record.path for record in piccc_emulator.requests] == ["/v1/models"]

def test_each_test_gets_a_fresh_emulator(piccc_emulator):
    assert piccc_emulator.requests == []

def test_the_environment_is_restored():
    assert not {"PICCC_BASE_URL", "PICCC_IMAGE_MODEL", "NO_PROXY", "no_proxy"} & set(os.environ)
"""


RECORDED_TEST = """
import json, os, pytest, urllib.request

@pytest.mark.piccc_recording("recordings/agent.jsonl")
def test_it_answers_from_the_recording(piccc_emulator):
    headers = {"Authorization": "Bearer " + os.environ["PICCC_API_KEY"], "Content-Type": "application/json"}
    body = {"model": "piccc-pro", "messages": [{"role": "user", "content": "Hello"}]}
    url = os.environ["PICCC_BASE_URL"] + "/v1/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        assert json.load(reply)["choices"][0]["message"]["content"] == "From the live server."

@pytest.mark.parametrize("city", ["Tromsø", "a/b"])
@pytest.mark.piccc_recording()
def test_a_file_is_named_after_its_test(piccc_emulator, city):
    test_it_answers_from_the_recording(piccc_emulator)
"""


def run_pytest(folder: Path, **environment: str) -> str:
    """Run pytest in a folder with only our plugin, as other plugins may import anything."""
    options = ["-q", "-W", "error", "-p", "piccc", "-p", "no:cacheprovider", "--strict-markers"]
    run = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "pytest", *options, "."],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": "", **environment},
    )
    return run.stdout + run.stderr


def test_the_fixture_is_loaded_through_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(USER_TEST)
    assert "4 passed" in run_pytest(tmp_path, HTTP_PROXY="http://127.0.0.1:1")


def test_a_marked_test_is_recorded_once_and_then_replayed(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(RECORDED_TEST)
    assert "does not exist yet" in run_pytest(tmp_path)
    with Emulator() as live:
        live.script(["From the live server."] * 3)
        assert "3 passed" in run_pytest(tmp_path, **live.environment)
        assert len(live.requests) == 3
    assert "3 passed" in run_pytest(tmp_path)
    assert sorted(path.name for path in (tmp_path / "recordings").iterdir()) == [
        "agent.jsonl",
        "test_a_file_is_named_after_its_test-Troms-xf8.jsonl",
        "test_a_file_is_named_after_its_test-a-b.jsonl",
    ]
