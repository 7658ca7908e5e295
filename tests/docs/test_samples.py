"""The Dockerfile and workflow in the docs are well formed, and the options they use exist."""

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


def test_each_step_of_the_workflow_runs_or_uses_something() -> None:
    workflow = yaml.safe_load(block("yaml"))
    [job] = workflow["jobs"].values()
    assert all(len(step.keys() & {"run", "uses"}) == 1 for step in job["steps"])


def test_the_dockerfile_starts_from_an_image_and_does_not_run_as_root() -> None:
    lines = [line.split(" ", 1) for line in block("dockerfile").splitlines()]
    words = [word for word, _ in lines]
    assert words[0] == "FROM"
    assert {*words} <= INSTRUCTIONS
    assert dict(lines)["USER"] != "root"


def test_the_options_in_the_samples_exist() -> None:
    command = [sys.executable, "-m", "piccc", "emulator", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"COLUMNS": "300"})  # noqa: S603
    commands = [line for line in PAGE.splitlines() if re.search(r"piccc\W+emulator\W|docker run", line)]
    options = {option for line in commands for option in re.findall(r"(?<!\w)--[a-z-]+", line)}
    assert {"--host", "--allow-remote", "--port", "--shell", "--api-key"} <= options
    assert {option for option in options if option not in done.stdout} == set()
