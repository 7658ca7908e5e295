"""The options that several commands have, each written once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

SECRET_VARIABLE = "PICCC_WEBHOOK_SECRET"  # noqa: S105  a name


def option(name: str, metavar: str, help: str, *, envvar: str | None = None, min: float | None = None) -> Any:
    """Declare an option that takes a value and has no default of its own."""
    return typer.Option(name, metavar=metavar, help=help, envvar=envvar, min=min, show_default=False)


AsJSON = Annotated[
    bool, typer.Option("--json", help="Print JSON for scripts on stdout, one document a line, nothing else.")
]
Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT", help="What to ask for. What is piped in follows it.", show_default=False
    ),
]
To = Annotated[
    Path,
    typer.Option("--to", help="Where to save: a folder, or a file's name such as cat.png.", metavar="PATH"),
]
Open = Annotated[bool, typer.Option("--open", help="Open what was saved, in the system's own viewer.")]
Seconds = Annotated[float | None, option("--timeout", "SECONDS", "Wait no longer; the task goes on.", min=0)]
Poll = Annotated[
    float | None,
    option(
        "--poll",
        "SECONDS",
        "Look at a task so often; by default every 2 to 5 seconds, as the provider advises.",
        min=0,
    ),
]
Ledger = Annotated[
    Path | None,
    option(
        "--ledger",
        "FILE",
        "Where submissions are remembered before they are sent; by default a file for each server in your "
        "settings folder.",
        envvar="PICCC_LEDGER",
    ),
]


_OPTIONS = frozenset({"aspect_ratio", "duration_seconds", "key", "model", "prompt", "resolution", "webhook"})


def prompt_of(text: str | None) -> str:
    """Join a prompt from the command line with what is piped in."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    prompt = "\n\n".join(part for part in (text, piped) if part)
    if not prompt:
        raise typer.BadParameter("Give one, or pipe one in.", param_hint="PROMPT")
    return prompt


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """Read NAME=VALUE pairs; a value that is JSON is what it says, any other is text."""
    settings: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE.", param_hint="--set")
        if name in _OPTIONS:
            raise typer.BadParameter(f"{name} is an option or argument of its own.", param_hint="--set")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings
