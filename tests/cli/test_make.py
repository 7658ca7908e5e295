"""`piccc image` and `piccc video`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import av
import pytest
from PIL import Image

from piccc.emulator import Emulator
from tests.cli.shell import Shell

NOW = ("--poll", "0.01")
"""The emulator is ours to ask more often than the provider advises."""


def _line_with(process: subprocess.Popen[str], words: str) -> str:
    assert process.stderr is not None
    return next(line for line in process.stderr if words in line)


def test_a_picture_is_saved_where_it_was_told_to_and_its_path_is_all_of_stdout(shell: Shell) -> None:
    done = shell("image", "A mug", "--aspect-ratio", "16:9", "--to", "mug.png", *NOW)
    assert (done.returncode, done.stdout) == (0, "mug.png\n")
    with Image.open(shell.folder / "mug.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width > picture.height


def test_a_film_goes_into_a_folder_under_its_tasks_name(shell: Shell, emulator: Emulator) -> None:
    done = shell("video", "Rain", "--duration", "1", "--resolution", "480p", "--to", "films", *NOW)
    task_id = emulator.charges[0].task_id
    assert done.stdout == f"films/{task_id}.mp4\n"
    with av.open(shell.folder / "films" / f"{task_id}.mp4") as film:
        assert film.streams.video[0].height == 480


def test_json_is_the_task_and_its_files(shell: Shell, emulator: Emulator) -> None:
    done = shell("image", "A mug", "--json", *NOW)
    task = json.loads(done.stdout)
    assert (task["task_id"], task["status"]) == (emulator.charges[0].task_id, "completed")
    assert [Path(file).suffix for file in task["files"]] == [".png"]
    assert (shell.folder / task["files"][0]).exists()


def test_options_reach_the_server(shell: Shell, emulator: Emulator) -> None:
    options = [
        "--resolution",
        "2K",
        "--set",
        "seed=7",
        "--set",
        "style=plain",
        "--model",
        "other",
        "--no-wait",
    ]
    done = shell("image", "--webhook", "https://hooks.example.com/x", *options, piped="A mug")
    assert done.stdout == f"{emulator.charges[0].task_id}\n"
    assert emulator.requests[0].body == {
        "model": "other",
        "prompt": "A mug",
        "resolution": "2K",
        "seed": 7,
        "style": "plain",
        "webhook": {"url": "https://hooks.example.com/x"},
    }
    assert len(emulator.requests) == 1


def test_open_shows_what_was_saved(shell: Shell) -> None:
    viewer = shell.folder / "xdg-open"
    viewer.write_text('#!/bin/sh\necho "$1" > shown\n')
    viewer.chmod(0o755)
    path = f"{shell.folder}{os.pathsep}{shell.variables['PATH']}"
    done = shell("image", "A mug", "--to", "mug.png", "--open", *NOW, PATH=path)
    assert done.returncode == 0
    assert (shell.folder / "shown").read_text() == "mug.png\n"


def test_without_a_model_it_is_wrong_usage_and_nothing_is_sent(shell: Shell, emulator: Emulator) -> None:
    del shell.variables["PICCC_IMAGE_MODEL"]
    done = shell("image", "A mug")
    assert done.returncode == 2
    assert "PICCC_IMAGE_MODEL" in done.stderr
    assert emulator.requests == []


@pytest.mark.parametrize(
    "wrong", [("--aspect-ratio", "wide"), ("--resolution", "huge"), ("--set", "seed"), ("--set", "prompt=x")]
)
def test_an_argument_that_makes_no_sense_is_wrong_usage_and_is_not_sent(
    shell: Shell, emulator: Emulator, wrong: tuple[str, str]
) -> None:
    done = shell("image", "A mug", *wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert emulator.requests == []


@pytest.mark.parametrize("fault", ["failed", "moderated", "expired", "cancelled"])
def test_a_task_that_ends_without_output_is_code_3_and_json_shows_it(
    shell: Shell, emulator: Emulator, fault: str
) -> None:
    emulator.fault(fault, route="POST /v1/images/tasks")
    done = shell("image", "A mug", "--json", *NOW)
    assert done.returncode == 3
    task = json.loads(done.stdout)
    assert task["status"] in ("failed", "expired", "cancelled")
    assert task["files"] == []
    assert task["task_id"] in done.stderr


def test_a_task_that_is_still_running_is_code_4_and_is_left_with_the_way_on(
    still_shell: Shell, still: Emulator
) -> None:
    done = still_shell("image", "A mug", "--timeout", "0.05", "--to", "my mug.png", *NOW)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"piccc tasks resume {still.charges[0].task_id} --to 'my mug.png'" in done.stderr


def test_ctrl_c_leaves_the_task_id_and_the_way_on(still_shell: Shell, still: Emulator) -> None:
    with still_shell.start("image", "A mug", *NOW) as process:
        announced = _line_with(process, "Ctrl-C leaves it running")
        process.send_signal(signal.SIGINT)
        out, said = process.communicate()
    task_id = still.charges[0].task_id
    assert str(task_id) in announced
    assert process.returncode == 130
    assert f"piccc tasks resume {task_id}" in said
    assert "Traceback" not in said
    assert out == ""


def test_a_lost_answer_is_code_5_and_resume_finds_the_task_without_paying_again(
    shell: Shell, emulator: Emulator
) -> None:
    emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
    lost = shell("image", "A mug", *NOW)
    assert lost.returncode == 5
    assert "may have been billed" in lost.stderr
    named = re.search(r"piccc tasks resume ([\w-]+)", lost.stderr)
    assert named is not None
    found = shell("tasks", "resume", named[1], "--to", "mug.png", *NOW)
    assert (found.returncode, found.stdout) == (0, "mug.png\n")
    assert len(emulator.charges) == 1


def test_a_submission_that_never_arrived_is_sent_once_more_only_when_told_to(
    shell: Shell, emulator: Emulator
) -> None:
    emulator.fault("disconnect", route="POST /v1/images/tasks", times=1)
    assert shell("image", "A mug", "--key", "mug-1", *NOW).returncode == 5
    missing = shell("tasks", "resume", "mug-1", *NOW)
    assert missing.returncode == 5
    assert "piccc tasks resume mug-1 --resubmit" in missing.stderr
    assert emulator.charges == []
    assert shell("tasks", "resume", "mug-1", "--resubmit", *NOW).returncode == 0
    assert len(emulator.charges) == 1


def test_one_key_never_submits_twice(shell: Shell, emulator: Emulator) -> None:
    for _ in range(2):
        assert shell("image", "A mug", "--key", "mug-1", "--to", "mug.png", *NOW).stdout == "mug.png\n"
    assert len(emulator.charges) == 1


def test_what_cannot_be_saved_is_left_with_the_command_that_saves_it(
    shell: Shell, emulator: Emulator
) -> None:
    (shell.folder / "file").touch()
    done = shell("image", "A mug", "--to", "file/mug.png", *NOW)
    task_id = emulator.charges[0].task_id
    assert done.returncode == 1
    assert f"piccc tasks save {task_id}" in done.stderr
    assert shell("tasks", "save", str(task_id), "--to", "mug.png").stdout == "mug.png\n"


@pytest.mark.parametrize("place", ["file/ledger.db", "file"])
def test_a_ledger_that_cannot_be_used_stops_a_submission_before_anything_is_sent(
    shell: Shell, emulator: Emulator, place: str
) -> None:
    (shell.folder / "file").write_text("This is no database, and never was one. " * 40)
    done = shell("image", "A mug", PICCC_LEDGER=place)
    assert done.returncode == 1
    assert "PICCC_LEDGER" in done.stderr
    assert emulator.requests == []
    assert shell("tasks", "list", PICCC_LEDGER=place).returncode == 0


def test_a_bar_is_shown_on_a_terminal_only(shell: Shell) -> None:
    screen = shell.on_a_terminal("image", "A mug", *NOW)
    assert "━" in screen
    assert "completed" in screen
    piped = shell("image", "A mug", *NOW)
    assert "━" not in piped.stdout + piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr
