"""The Dockerfile and the workflow in the documentation are well formed, and their commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

PAGE = (Path(__file__).parents[2] / "docs" / "containers.md").read_text("utf-8")
INSTRUCTIONS = {"FROM", "COPY", "RUN", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT"}


def block(language: str) -> str:
    return "".join(re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL))


def test_the_workflow_is_yaml_with_steps_that_run_or_use_something() -> None:
    workflow = yaml.safe_load(block("yaml"))
    [job] = workflow["jobs"].values()
    assert all(len(step.keys() & {"run", "uses"}) == 1 for step in job["steps"])


def test_the_dockerfile_begins_with_an_image_and_runs_as_nobody_special() -> None:
    lines = [line.split(" ", 1) for line in block("dockerfile").splitlines()]
    words = [word for word, _ in lines]
    assert words[0] == "FROM"
    assert {*words} <= INSTRUCTIONS
    assert dict(lines)["USER"] != "root"


def test_the_options_of_the_samples_exist() -> None:
    command = [sys.executable, "-m", "piccc", "emulator", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "300"})  # noqa: S603
    commands = [line for line in PAGE.splitlines() if re.search(r"piccc\W+emulator\W|docker run", line)]
    options = {one for line in commands for one in re.findall(r"(?<!\w)--[a-z-]+", line)}
    assert {"--host", "--allow-remote", "--port", "--shell", "--api-key"} <= options
    assert {one for one in options if one not in told.stdout} == set()
