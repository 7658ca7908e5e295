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
"""Polling faster than the provider advises is fine: the server is the emulator."""


def _line_with(process: subprocess.Popen[str], words: str) -> str:
    assert process.stderr is not None
    return next(line for line in process.stderr if words in line)


def test_an_image_is_saved_to_the_given_path_which_is_all_of_stdout(shell: Shell) -> None:
    done = shell("image", "A mug", "--aspect-ratio", "16:9", "--to", "mug.png", *NOW)
    assert (done.returncode, done.stdout) == (0, "mug.png\n")
    with Image.open(shell.folder / "mug.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > image.height


def test_a_video_is_saved_in_a_folder_under_its_task_id(shell: Shell, emulator: Emulator) -> None:
    done = shell("video", "Rain", "--duration", "1", "--resolution", "480p", "--to", "videos", *NOW)
    task_id = emulator.charges[0].task_id
    assert done.stdout == f"videos/{task_id}.mp4\n"
    with av.open(shell.folder / "videos" / f"{task_id}.mp4") as video:
        assert video.streams.video[0].height == 480


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


def test_open_shows_the_saved_file(shell: Shell) -> None:
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
    "wrong", [("--aspect-ratio", ""), ("--set", "aspect=1:1"), ("--set", "seed"), ("--set", "prompt=x")]
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


def test_a_task_that_is_still_running_is_code_4_and_prints_how_to_continue(
    still_shell: Shell, still: Emulator
) -> None:
    done = still_shell("image", "A mug", "--timeout", "0.05", "--to", "my mug.png", *NOW)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"piccc tasks resume {still.charges[0].task_id} --to 'my mug.png'" in done.stderr


def test_ctrl_c_prints_the_task_id_and_how_to_continue(still_shell: Shell, still: Emulator) -> None:
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


def test_with_a_prompt_standard_input_is_left_alone(shell: Shell, emulator: Emulator) -> None:
    """In a `while read` loop standard input holds the loop's next lines."""
    loop = 'while read -r line; do piccc image "$line" --no-wait; done'
    done = shell.script(loop, piped="red mug\nblue mug\ngreen mug\n")
    assert done.returncode == 0, done.stderr
    assert [request.body["prompt"] for request in emulator.requests] == ["red mug", "blue mug", "green mug"]


def test_a_dash_stands_for_standard_input(shell: Shell, emulator: Emulator) -> None:
    assert shell("image", "In the style of Hokusai:", "-", "--no-wait", piped="a mug\n").returncode == 0
    assert emulator.requests[0].body["prompt"] == "In the style of Hokusai:\n\na mug"


FILES = {
    "prompts.txt": "A red mug\n\n  A blue mug\n",
    "prompts.csv": 'prompt,resolution,seed\n"A red mug",1K,7\nA blue mug,,\n',
    "prompts.jsonl": '{"prompt": "A red mug", "resolution": "1K", "seed": 7}\n"A blue mug"\n',
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_prompts_makes_an_image_of_each_row(name: str, shell: Shell, emulator: Emulator) -> None:
    (shell.folder / name).write_text(FILES[name])
    done = shell("image", "--from", name, "--to", "images", *NOW)
    assert done.returncode == 0, done.stderr
    ids = {str(charge.task_id) for charge in emulator.charges}
    assert sorted(done.stdout.split()) == sorted(f"images/{id}.png" for id in ids)
    posts = [request.body for request in emulator.requests if request.method == "POST"]
    sent = sorted(posts, key=lambda body: str(body["prompt"]), reverse=True)  # they are sent at once
    assert [body["prompt"] for body in sent] == ["A red mug", "A blue mug"]
    if name != "prompts.txt":
        assert [(body.get("resolution"), body.get("seed")) for body in sent] == [("1K", 7), (None, None)]


def test_a_batch_with_a_key_continues_and_pays_for_nothing_twice(shell: Shell, emulator: Emulator) -> None:
    (shell.folder / "prompts.txt").write_text("A red mug\nA blue mug\n")
    for _ in range(2):
        assert (
            shell("image", "--from", "prompts.txt", "--key", "mugs", "--to", "images", *NOW).returncode == 0
        )
    assert len(emulator.charges) == 2


def test_a_row_that_fails_is_named_and_the_others_are_saved(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("moderated", route="POST /v1/images/tasks", times=1)
    (shell.folder / "prompts.txt").write_text("A red mug\nA blue mug\n")
    done = shell("image", "--from", "prompts.txt", "--to", "images", *NOW)
    assert done.returncode == 3
    assert len(done.stdout.split()) == 1


@pytest.mark.parametrize("name", ["missing.txt", "no_prompt.csv", "broken.jsonl"])
def test_a_file_that_holds_no_prompts_is_wrong_usage_and_nothing_is_sent(
    name: str, shell: Shell, emulator: Emulator
) -> None:
    (shell.folder / "no_prompt.csv").write_text("text\nA mug\n")
    (shell.folder / "broken.jsonl").write_text("{broken\n")
    done = shell("image", "--from", name)
    assert (done.returncode, emulator.requests) == (2, [])
    assert name in done.stderr


def test_a_file_name_that_belies_its_content_is_pointed_out(shell: Shell) -> None:
    done = shell("image", "A mug", "--to", "mug.jpg", *NOW)
    assert done.stdout == "mug.jpg\n"
    assert "contains image/png" in done.stderr


@pytest.mark.parametrize("place", ["ftp://host/a.png", "s3:/bucket/a.png"])
def test_a_place_where_nothing_can_be_saved_costs_nothing(
    shell: Shell, emulator: Emulator, place: str
) -> None:
    done = shell("image", "A mug", "--to", place, *NOW)
    assert done.returncode == 1
    assert "URL" in done.stderr
    assert not emulator.requests
    assert not any(each.name.endswith(":") for each in shell.folder.iterdir())


def test_a_file_url_is_a_place_to_save_to(shell: Shell, emulator: Emulator) -> None:
    url = f"file://{shell.folder}/mug.png"
    assert shell("image", "A mug", "--to", url, *NOW).stdout == f"{shell.folder}/mug.png\n"
