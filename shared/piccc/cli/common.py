"""What the commands share: options, connection, output and errors."""

from __future__ import annotations

import errno
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from piccc.config import Config, resolve
from piccc.errors import (
    ConfigurationError,
    InvalidArgumentError,
    PicccError,
    SubmissionUnknown,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskWaitTimeout,
)

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.ledgers import Ledger

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Take control characters out: text from elsewhere must not steer the terminal that shows it."""
    return _CONTROLS.sub("", text)


def notes() -> Console:
    """Return the console on stderr."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def results() -> Console:
    """Return the console on stdout."""
    return Console(highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """Tell the person something on stderr."""
    console = notes()
    # A log must not find a command broken in two, a terminal breaks lines between words.
    console.print(Text(printable(text), style=style), soft_wrap=not console.is_terminal)


def write(text: str) -> None:
    """Write a piece of a result to stdout at once."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def document(value: Any) -> None:
    """Write a JSON document to stdout, on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


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
LedgerPath = Annotated[
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


def connect(poll: float | None = None, ledger: Ledger | None = None) -> Client:
    """Make a client of the server that the environment names; `poll` is in seconds."""
    from piccc.client import Client
    from piccc.media.schedule import Polling

    return Client(ledger=ledger, polling=None if poll is None else Polling(min=poll, max=poll))


def open_ledger(path: Path | None) -> Ledger:
    """Open the ledger at a path, or the server's own; raise ConfigurationError where that fails."""
    import sqlite3

    from piccc.media.ledgers.sqlite import SQLiteLedger

    path = path or ledger_of(resolve())
    ledger = SQLiteLedger(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        ledger.unsettled()
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(
            f"The ledger of submissions at {path} cannot be used: {error}",
            hint="Set PICCC_LEDGER to another file.",
        ) from error
    return ledger


def ledger_of(config: Config) -> Path:
    """Return where submissions to a server are remembered; each has its own, as it has its own tasks."""
    _, host, port = config.origin
    return Path(typer.get_app_dir("piccc"), f"{host.replace(':', '_')}_{port}.db")


FAILED, RUNNING, UNKNOWN, INTERRUPTED = 3, 4, 5, 130
_CODES: dict[type[PicccError], int] = {
    InvalidArgumentError: 2,
    TaskFailed: FAILED,
    TaskCancelled: FAILED,
    TaskExpired: FAILED,
    TaskWaitTimeout: RUNNING,
    SubmissionUnknown: UNKNOWN,
}
CODES = """\
\b
Exit codes:
    0  done
    1  an error; stderr says which, and what to do
    2  the command was used wrongly; nothing was sent
    3  a task ended without its output: failed, refused, cancelled or expired
    4  a task is still running: go on with it, do not submit it again
    5  nobody knows whether a task was submitted: look for it, do not submit it again
  130  interrupted; stderr says how to go on
"""
_CALL = re.compile(r"client\.tasks\.(wait|resume)(?:_all)?\(\[?(.*?)\]?(, resubmit=True)?\)")
_ARGUMENT = re.compile(r"\(or pass \w+=\) |\bpass \w+=,? or ", re.IGNORECASE)


class Commands(TyperGroup):
    """A group of commands that tells errors of ours without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PicccError as error:
            raise typer.Exit(tell(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            told = ": ".join(str(part) for part in (error.strerror, error.filename) if part)
            tell(PicccError(told or str(error)))
            raise typer.Exit(1) from error


def tell(error: PicccError) -> int:
    """Say on stderr what happened and what to do; return the exit code that it means."""

    hint, error.hint = error.hint, ""
    say(str(error), "red")
    error.hint = hint
    if hint:
        say(in_shell_words(hint))
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), 1)


def in_shell_words(hint: str) -> str:
    """Say in commands and variables what a hint says in Python."""
    said = _ARGUMENT.sub("", _CALL.sub(_command, hint)).replace("`partial` has", "above stands")
    return said if said.startswith("pip ") else said[:1].upper() + said[1:]


def _command(call: re.Match[str]) -> str:
    names = " ".join(name.strip(" '\"") for name in call[2].split(","))
    return f"piccc tasks {call[1]} {names}{' --resubmit' if call[3] else ''}"
