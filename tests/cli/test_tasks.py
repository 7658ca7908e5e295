"""`piccc tasks`."""

from __future__ import annotations

import json
import subprocess

import pytest

from piccc import Client
from piccc.emulator import Emulator
from tests.cli.shell import PICCC, Shell

NOW = ("--poll", "0.01")


@pytest.fixture
def ids(emulator: Emulator) -> list[str]:
    """Submit two images and a video; the emulator completes a task when it is first read."""
    with Client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
        tasks = [client.images.submit(prompt, model="piccc-image") for prompt in ("A mug", "A\n[bold]jug")]
        tasks.append(client.videos.submit("Rain", model="piccc-video", duration_seconds=1))
    return [task.id for task in tasks]


def test_a_piped_list_is_tab_separated_and_newest_first(shell: Shell, ids: list[str]) -> None:
    done = shell("tasks", "list")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ids[::-1]
    assert [row[1] for row in rows] == ["video", "image", "image"]
    assert [row[4] for row in rows] == ["Rain", "A [bold]jug", "A mug"]


def test_a_list_is_a_table_on_a_terminal(shell: Shell, ids: list[str]) -> None:
    screen = shell.on_a_terminal("tasks", "list")
    assert "TASK" in screen
    assert all(id in screen for id in ids)
    assert "A [bold]jug" in screen


def test_a_list_can_be_filtered(shell: Shell, ids: list[str]) -> None:
    lines = shell("tasks", "list", "--type", "image", "--limit", "1", "--json").stdout.splitlines()
    assert [json.loads(line)["task_id"] for line in lines] == [ids[1]]
    assert shell("tasks", "list", "--status", "cancelled").stdout == ""


def test_a_closed_pipe_ends_a_list_quietly(shell: Shell, ids: list[str]) -> None:
    with subprocess.Popen(  # noqa: S603  our own command
        [*PICCC, "tasks", "list"],
        cwd=shell.folder,
        env=shell.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_one_task_is_shown_with_its_output(shell: Shell, ids: list[str]) -> None:
    shown = shell("tasks", "show", ids[0]).stdout
    assert "A mug" in shown
    assert "/files/" in shown
    assert json.loads(shell("tasks", "show", ids[0], "--json").stdout)["prompt"] == "A mug"


def test_an_unknown_task_is_an_error(shell: Shell) -> None:
    done = shell("tasks", "show", "task_nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HTTP 404" in done.stderr


def test_waiting_prints_the_final_status_of_each_task(shell: Shell, ids: list[str]) -> None:
    done = shell("tasks", "wait", *ids, *NOW)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{id}\tcompleted" for id in ids]


def test_waiting_for_a_failed_task_exits_3_and_prints_every_status(
    shell: Shell, emulator: Emulator, ids: list[str]
) -> None:
    emulator.fault("failed", route="POST /v1/images/tasks")
    failing = shell("image", "A bowl", "--no-wait").stdout.strip()
    done = shell("tasks", "wait", failing, ids[0], "--json", *NOW)
    assert done.returncode == 3
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(end["task_id"], end["status"]) for end in ends] == [(failing, "failed"), (ids[0], "completed")]


def test_waiting_past_the_timeout_exits_4(manual_shell: Shell) -> None:
    running = manual_shell("video", "Rain", "--no-wait").stdout.strip()
    done = manual_shell("tasks", "wait", running, "--timeout", "0.05", *NOW)
    assert done.returncode == 4
    assert done.stdout.split("\t")[0] == running
    assert f"piccc tasks wait {running}" in done.stderr


def test_several_tasks_are_saved_to_separate_files_in_a_folder(shell: Shell, ids: list[str]) -> None:
    refused = shell("tasks", "save", *ids, "--to", "all.png")
    assert (refused.returncode, refused.stdout) == (2, "")
    done = shell("tasks", "save", *ids, "--to", "all")
    assert done.returncode == 0
    assert [(shell.folder / line).exists() for line in done.stdout.splitlines()] == [True] * 3


def test_resume_without_an_id_finds_every_lost_submission(shell: Shell, emulator: Emulator) -> None:
    emulator.fault("lost-answer", route="POST /v1/images/tasks", times=2)
    for prompt in ("A mug", "A jug"):
        assert shell("image", prompt).returncode == 5
    done = shell("tasks", "resume", "--to", "found", *NOW)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(emulator.charges) == 2
    assert "No lost submissions" in shell("tasks", "resume").stderr
    unnamed = shell("tasks", "resume", "--resubmit")
    assert unnamed.returncode == 2
    assert "No lost submissions" not in unnamed.stderr
