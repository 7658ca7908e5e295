"""`piccc image` and `piccc video`."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import threading
from pathlib import Path

import av
import pytest
from PIL import Image

from piccc.cli.media import _rows
from piccc.emulator import Emulator
from tests.cli.shell import PICCC, Shell

NOW = ("--poll", "0.01")
"""Faster polling than the provider recommends, which is fine with the emulator."""


def _line_with(process: subprocess.Popen[str], words: str) -> str:
    assert process.stderr is not None
    return next(line for line in process.stderr if words in line)


def test_an_image_is_saved_and_stdout_contains_only_its_path(shell: Shell) -> None:
    done = shell("image", "A mug", "--aspect-ratio", "16:9", "--to", "mug.png", *NOW)
    assert (done.returncode, done.stdout) == (0, "mug.png\n")
    with Image.open(shell.folder / "mug.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > image.height


def test_a_video_saved_to_a_folder_is_named_after_its_task_id(shell: Shell, emulator: Emulator) -> None:
    done = shell("video", "Rain", "--duration", "1", "--resolution", "480p", "--to", "videos", *NOW)
    task_id = emulator.charges[0].task_id
    assert done.stdout == f"videos/{task_id}.mp4\n"
    with av.open(shell.folder / "videos" / f"{task_id}.mp4") as video:
        assert video.streams.video[0].height == 480


def test_json_prints_the_task_and_its_files(shell: Shell, emulator: Emulator) -> None:
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


def test_open_passes_the_saved_file_to_the_viewer(shell: Shell) -> None:
    viewer = shell.folder / "xdg-open"
    viewer.write_text('#!/bin/sh\necho "$1" > shown\n')
    viewer.chmod(0o755)
    path = f"{shell.folder}{os.pathsep}{shell.variables['PATH']}"
    done = shell("image", "A mug", "--to", "mug.png", "--open", *NOW, PATH=path)
    assert done.returncode == 0
    assert (shell.folder / "shown").read_text() == "mug.png\n"


def test_a_missing_model_is_a_usage_error_and_nothing_is_sent(shell: Shell, emulator: Emulator) -> None:
    del shell.variables["PICCC_IMAGE_MODEL"]
    done = shell("image", "A mug")
    assert done.returncode == 2
    assert "PICCC_IMAGE_MODEL" in done.stderr
    assert emulator.requests == []


@pytest.mark.parametrize(
    "arguments", [("--aspect-ratio", ""), ("--set", "aspect=1:1"), ("--set", "seed"), ("--set", "prompt=x")]
)
def test_an_invalid_argument_is_a_usage_error_and_nothing_is_sent(
    shell: Shell, emulator: Emulator, arguments: tuple[str, str]
) -> None:
    done = shell("image", "A mug", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert emulator.requests == []


@pytest.mark.parametrize("fault", ["failed", "moderated", "expired", "cancelled"])
def test_a_task_without_output_exits_3_and_json_shows_its_status(
    shell: Shell, emulator: Emulator, fault: str
) -> None:
    emulator.fault(fault, route="POST /v1/images/tasks")
    done = shell("image", "A mug", "--json", *NOW)
    assert done.returncode == 3
    task = json.loads(done.stdout)
    assert task["status"] in ("failed", "expired", "cancelled")
    assert task["files"] == []
    assert task["task_id"] in done.stderr


def test_a_task_that_is_still_running_exits_4_and_prints_how_to_continue(
    manual_shell: Shell, manual: Emulator
) -> None:
    done = manual_shell("image", "A mug", "--timeout", "0.05", "--to", "my mug.png", *NOW)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"piccc tasks resume {manual.charges[0].task_id} --to 'my mug.png'" in done.stderr


def test_ctrl_c_prints_the_task_id_and_how_to_continue(manual_shell: Shell, manual: Emulator) -> None:
    with manual_shell.start("image", "A mug", *NOW) as process:
        announced = _line_with(process, "Ctrl-C leaves it running")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    task_id = manual.charges[0].task_id
    assert str(task_id) in announced
    assert process.returncode == 130
    assert f"piccc tasks resume {task_id}" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""


def test_a_lost_response_exits_5_and_resume_does_not_pay_again(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
    lost = shell("image", "A mug", *NOW)
    assert lost.returncode == 5
    assert "may have been billed" in lost.stderr
    named = re.search(r"piccc tasks resume ([\w-]+)", lost.stderr)
    assert named is not None
    resumed = shell("tasks", "resume", named[1], "--to", "mug.png", *NOW)
    assert (resumed.returncode, resumed.stdout) == (0, "mug.png\n")
    assert len(emulator.charges) == 1


def test_resume_resubmits_a_missing_task_only_with_resubmit(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("disconnect", route="POST /v1/images/tasks", times=1)
    assert shell("image", "A mug", "--key", "mug-1", *NOW).returncode == 5
    missing = shell("tasks", "resume", "mug-1", *NOW)
    assert missing.returncode == 5
    assert "piccc tasks resume mug-1 --resubmit" in missing.stderr
    assert emulator.charges == []
    assert shell("tasks", "resume", "mug-1", "--resubmit", *NOW).returncode == 0
    assert len(emulator.charges) == 1


def test_the_same_key_submits_only_once(shell: Shell, emulator: Emulator) -> None:
    for _ in range(2):
        assert shell("image", "A mug", "--key", "mug-1", "--to", "mug.png", *NOW).stdout == "mug.png\n"
    assert len(emulator.charges) == 1


@pytest.mark.parametrize("place", ["file/mug.png", "file/folder/", "file/"])
def test_a_place_in_a_file_is_rejected_before_submission(
    shell: Shell, emulator: Emulator, place: str
) -> None:
    (shell.folder / "file").touch()
    done = shell("image", "A mug", "--to", place, *NOW)
    assert (done.returncode, emulator.requests) == (2, [])
    assert f"Nothing can be saved as {place}: file is not a folder." in done.stderr


def test_a_device_a_pipe_and_a_name_without_a_suffix_are_written_in_place(
    shell: Shell, emulator: Emulator
) -> None:
    (shell.folder / "mug").touch()
    os.mkfifo(shell.folder / "pipe")
    piped: list[bytes] = []
    reader = threading.Thread(target=lambda: piped.append((shell.folder / "pipe").read_bytes()), daemon=True)
    reader.start()
    for place in ("mug", "/dev/null", "pipe"):
        assert shell("image", "A mug", "--to", place, *NOW).stdout == f"{place}\n"
    reader.join(60)
    image = (shell.folder / "mug").read_bytes()
    assert piped == [image]
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert stat.S_ISFIFO((shell.folder / "pipe").stat().st_mode)
    with (shell.folder / "out").open("wb") as out:
        out.write(b"before")
        out.flush()
        command = [*PICCC, "image", "A mug", "--to", "-", *NOW]
        subprocess.run(command, cwd=shell.folder, env=shell.variables, stdout=out, check=True)  # noqa: S603
    assert (shell.folder / "out").read_bytes() == b"before" + image
    assert shell("image", "A mug", "--to", "-", "--json").returncode == 2
    assert len(emulator.charges) == 4


def test_a_failed_save_prints_the_command_that_retries_it(shell: Shell, emulator: Emulator) -> None:
    done = shell("image", "A mug", "--to", "/dev/full", *NOW)
    task_id = emulator.charges[0].task_id
    assert done.returncode == 1
    assert f"piccc tasks save {task_id}" in done.stderr
    assert shell("tasks", "save", str(task_id), "--to", "mug.png").stdout == "mug.png\n"


@pytest.mark.parametrize("ledger", ["file/ledger.db", "file"])
def test_an_unusable_ledger_prevents_submission(shell: Shell, emulator: Emulator, ledger: str) -> None:
    (shell.folder / "file").write_text("This is not a database, and never was one. " * 40)
    done = shell("image", "A mug", PICCC_LEDGER=ledger)
    assert done.returncode == 1
    assert "Pass another --ledger, or set PICCC_LEDGER." in done.stderr
    assert "SQLiteLedger(" not in done.stderr
    assert emulator.requests == []
    assert shell("tasks", "list", PICCC_LEDGER=ledger).returncode == 0


def test_a_progress_bar_is_shown_only_on_a_terminal(shell: Shell) -> None:
    screen = shell.on_a_terminal("image", "A mug", *NOW)
    assert "━" in screen
    assert "completed" in screen
    piped = shell("image", "A mug", *NOW)
    assert "━" not in piped.stdout + piped.stderr
    assert "\x1b" not in piped.stdout + piped.stderr


def test_stdin_is_not_read_when_a_prompt_is_given(shell: Shell, emulator: Emulator) -> None:
    """In a `while read` loop, standard input holds the remaining lines."""
    loop = 'while read -r line; do piccc image "$line" --no-wait; done'
    done = shell.script(loop, piped="red mug\nblue mug\ngreen mug\n")
    assert done.returncode == 0, done.stderr
    assert [request.body["prompt"] for request in emulator.requests] == ["red mug", "blue mug", "green mug"]


def test_a_dash_reads_the_prompt_from_stdin(shell: Shell, emulator: Emulator) -> None:
    assert shell("image", "In the style of Hokusai:", "-", "--no-wait", piped="a mug\n").returncode == 0
    assert emulator.requests[0].body["prompt"] == "In the style of Hokusai:\n\na mug"


FILES = {
    "prompts.txt": "A red mug\n\n  A blue mug\n",
    "prompts.csv": 'prompt,resolution,seed\n"A red mug",1K,7\nA blue mug,,\n',
    "prompts.jsonl": '{"prompt": "A red mug", "resolution": "1K", "seed": 7}\n"A blue mug"\n',
}


@pytest.mark.parametrize("name", FILES)
def test_a_prompt_file_generates_one_image_per_row(name: str, shell: Shell, emulator: Emulator) -> None:
    (shell.folder / name).write_text(FILES[name])
    done = shell("image", "--from", name, "--to", "images", *NOW)
    assert done.returncode == 0, done.stderr
    ids = {str(charge.task_id) for charge in emulator.charges}
    assert sorted(done.stdout.split()) == sorted(f"images/{id}.png" for id in ids)
    posts = [request.body for request in emulator.requests if request.method == "POST"]
    sent = sorted(posts, key=lambda body: str(body["prompt"]), reverse=True)  # sent concurrently
    assert [body["prompt"] for body in sent] == ["A red mug", "A blue mug"]
    if name != "prompts.txt":
        assert [(body.get("resolution"), body.get("seed")) for body in sent] == [("1K", 7), (None, None)]


SEPARATORS = "A mug\u2028on a table, \x85steam\x0b\x1crising"
"""Characters at which `str.splitlines` splits, too."""


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("lines.txt", f"{SEPARATORS}\r\nA blue mug\r", [SEPARATORS, "A blue mug"]),
        ("rows.csv", f'prompt\r\n"{SEPARATORS}"\r\n"A blue\nmug"', [SEPARATORS, "A blue\nmug"]),
        ("rows.jsonl", f'{{"prompt": "{SEPARATORS.translate({11: None, 28: None})}"}}\n', None),
        ("rows.ndjson", '{"prompt": "A blue mug"}\r\n', ["A blue mug"]),
    ],
)
def test_a_row_of_a_prompt_file_is_one_prompt_and_is_sent_unchanged(
    name: str, text: str, prompts: list[str] | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, newline="")
    rows = [row if isinstance(row, str) else row["prompt"] for row in _rows(tmp_path / name)]
    assert rows == (prompts or [json.loads(text)["prompt"]])


def test_rerunning_a_batch_with_its_key_submits_nothing_twice(shell: Shell, emulator: Emulator) -> None:
    (shell.folder / "prompts.txt").write_text("A red mug\nA blue mug\n")
    runs = [
        shell("image", "--from", "prompts.txt", "--key", "mugs", "--to", "images", *NOW) for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0]
    assert ["earlier run" in run.stderr for run in runs] == [False, True]
    assert len(emulator.charges) == 2


@pytest.mark.parametrize("words", [("A mug",), ("--from", "prompts.txt")])
def test_an_empty_key_is_not_a_new_one(words: tuple[str, ...], shell: Shell, emulator: Emulator) -> None:
    (shell.folder / "prompts.txt").write_text("A red mug\n")
    done = shell("image", *words, "--key", "")
    assert (done.returncode, emulator.requests) == (2, [])


@pytest.mark.parametrize(("redirection", "code"), [("> /dev/full", 1), (">&-", 0)])
def test_a_paid_task_is_named_even_if_stdout_cannot_be_written(
    redirection: str, code: int, shell: Shell, emulator: Emulator
) -> None:
    done = shell.script(f"piccc image 'A mug' --no-wait {redirection}", piped="")
    assert done.returncode == code
    assert [str(charge.task_id) in done.stderr for charge in emulator.charges] == [redirection != ">&-"]
    assert "bug" not in done.stderr


def test_a_failed_row_exits_3_and_the_others_are_saved(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("moderated", route="POST /v1/images/tasks", times=1)
    (shell.folder / "prompts.txt").write_text("A red mug\nA blue mug\n")
    done = shell("image", "--from", "prompts.txt", "--to", "images", *NOW)
    assert done.returncode == 3
    assert len(done.stdout.split()) == 1


@pytest.mark.parametrize(
    "name", ["missing.txt", "no_prompt.csv", "too_long.csv", "broken.jsonl", "rows.json"]
)
def test_an_unusable_prompt_file_is_a_usage_error_and_nothing_is_sent(
    name: str, shell: Shell, emulator: Emulator
) -> None:
    (shell.folder / "no_prompt.csv").write_text("text\nA mug\n")
    (shell.folder / "broken.jsonl").write_text("{broken\n")
    (shell.folder / "too_long.csv").write_text(f"prompt\n{'x' * 200_000}\n")
    (shell.folder / "rows.json").write_text('["A mug"]\n')
    done = shell("image", "--from", name)
    assert (done.returncode, emulator.requests) == (2, [])
    assert name in done.stderr


def test_an_extension_that_contradicts_the_content_is_a_warning(shell: Shell) -> None:
    done = shell("image", "A mug", "--to", "mug.jpg", *NOW)
    assert done.stdout == "mug.jpg\n"
    assert "contains image/png" in done.stderr


@pytest.mark.parametrize("destination", ["ftp://host/a.png", "s3:/bucket/a.png"])
def test_an_unsupported_destination_is_rejected_before_submission(
    shell: Shell, emulator: Emulator, destination: str
) -> None:
    done = shell("image", "A mug", "--to", destination, *NOW)
    assert done.returncode == 1
    assert "URL" in done.stderr
    assert not emulator.requests
    assert not any(path.name.endswith(":") for path in shell.folder.iterdir())


def test_a_file_url_is_a_valid_destination(shell: Shell, emulator: Emulator) -> None:
    url = f"file://{shell.folder}/mug.png"
    assert shell("image", "A mug", "--to", url, *NOW).stdout == f"{shell.folder}/mug.png\n"
