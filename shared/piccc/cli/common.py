"""Options, connection, output and error handling shared by the commands."""

from __future__ import annotations

import errno
import json
import math
import re
import sys
from collections.abc import Callable
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
    LedgerError,
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
    """Return text without control characters, so foreign text cannot control the terminal."""
    return _CONTROLS.sub("", text)


def notes() -> Console:
    """Return the console on stderr."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def results() -> Console:
    """Return the console on stdout."""
    return Console(highlight=False, markup=False, emoji=False)


def say(text: str, style: str = "") -> None:
    """Print a message for the user on stderr."""
    console = notes()
    # In a log, commands must stay on one line; on a terminal, Rich wraps between words.
    console.print(Text(printable(text), style=style), soft_wrap=not console.is_terminal)


def write(text: str) -> None:
    """Write part of a result to stdout and flush it."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def document(value: Any) -> None:
    """Write a JSON document to stdout on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    sys.stdout.flush()


SECRET_VARIABLE = "PICCC_WEBHOOK_SECRET"  # noqa: S105  a name


def finite(least: float, *, is_above: bool = False) -> Callable[[float | None], float | None]:
    """Return an option's callback that refuses numbers below `least`, or at it if `is_above`, nan and inf.

    An option's `min` alone lets inf pass.
    """

    def check(value: float | None) -> float | None:
        if value is not None and not (least <= value < math.inf and (value > least or not is_above)):
            raise typer.BadParameter(
                f"{value} is not a finite number {'above' if is_above else 'of at least'} {least:g}"
            )
        return value

    return check


def at_least(least: float) -> dict[str, Any]:
    """Return the arguments of `typer.Option` for a finite number of at least `least`."""
    return {"min": least, "callback": finite(least)}


def option(
    name: str,
    metavar: str,
    help: str,
    *,
    envvar: str | None = None,
    min: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare an option that takes a value and has no default."""
    limits: dict[str, Any] = {} if min is None else at_least(min)
    if above is not None:
        limits = {"callback": finite(above, is_above=True)}
    return typer.Option(name, metavar=metavar, help=help, envvar=envvar, show_default=False, **limits)


def needs(ctx: typer.Context, flag: str, *names: str) -> None:
    """Refuse command line options that require a flag. Environment variables are allowed without it."""
    for name in names:
        if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE":
            raise typer.BadParameter(f"This option requires {flag}.", param_hint=f"--{name}")


AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, one document per line.")]
Prompt = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROMPT",
        help="The prompt. `-` is replaced by standard input, which is also read if PROMPT is missing.",
        show_default=False,
    ),
]


def _place(text: str | Path) -> Path | str:
    """Return a path, which is stdout for `-`, or text if a path would drop a slash: of a URL or a folder."""
    if str(text) == "-":
        return Path("/dev/stdout")
    return text if "://" in str(text) or str(text).endswith("/") else Path(text)


To = Annotated[
    Any,  # a Path, or a str for a URL: Typer does not support unions
    typer.Option(
        "--to",
        parser=_place,
        help="Where to save: a folder, a file name such as cat.png, an s3://, gs:// or az:// URL, or - for "
        "stdout.",
        metavar="PATH",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the saved file in the default viewer.")]
Seconds = Annotated[
    float | None,
    option("--timeout", "SECONDS", "Stop waiting after this time; the task keeps running.", min=0),
]
Poll = Annotated[
    float | None,
    option(
        "--poll",
        "SECONDS",
        "Polling interval; default: 2 to 5 seconds, as the provider advises.",
        min=0,
    ),
]
LedgerPlace = Annotated[
    str | None,
    option(
        "--ledger",
        "PLACE",
        "Where to record submissions before sending them: a file, redis://… or postgresql://…; "
        "default: one file per server in your settings folder.",
        envvar="PICCC_LEDGER",
    ),
]


_OPTIONS = frozenset({"aspect_ratio", "duration_seconds", "key", "model", "prompt", "resolution", "webhook"})


def prompt_of(words: list[str] | None) -> str:
    """Join the prompt's words. Read standard input for `-` or if there are no words.

    Otherwise leave standard input alone: in a `while read` loop it contains the loop's next lines.
    """
    is_piped = sys.stdin is not None and not sys.stdin.isatty()
    if not words:
        words = ["-"] if is_piped else []
    before, dash, after = (" ".join(words), False, "") if "-" not in words else _around_dash(words)
    piped = sys.stdin.read().strip() if dash and sys.stdin is not None else ""
    prompt = "\n\n".join(part for part in (before, piped, after) if part)
    if not prompt:
        raise typer.BadParameter("Pass a prompt, or pipe one in.", param_hint="PROMPT")
    return prompt


def _around_dash(words: list[str]) -> tuple[str, bool, str]:
    at = words.index("-")
    return " ".join(words[:at]), True, " ".join(words[at + 1 :])


def settings_of(pairs: list[str] | None) -> dict[str, Any]:
    """Read NAME=VALUE pairs."""
    settings: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE.", param_hint="--set")
        if name in _OPTIONS:
            raise typer.BadParameter(f"Use the option or argument for {name} instead.", param_hint="--set")
        settings[name] = value_of(value)
    return settings


def value_of(text: str) -> Any:
    """Parse a parameter's value as JSON, or return it as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def connect(poll: float | None = None, ledger: Ledger | None = None) -> Client:
    """Return a client for the server set in the environment; `poll` is in seconds."""
    from piccc.client import Client
    from piccc.media.schedule import Polling

    return Client(ledger=ledger, polling=None if poll is None else Polling(min=poll, max=poll))


_OTHER_LEDGER = "Nothing is submitted without it. Pass another --ledger, or set PICCC_LEDGER."


def open_ledger(place: str | None) -> Ledger:
    """Open the given ledger, or the server's default one. Raises LedgerError or ConfigurationError."""
    from piccc.media.ledgers import ledger_at

    place = str(ledger_of(resolve())) if place is None else place
    ledger = ledger_at(place)
    try:
        if "://" not in place:
            Path(place).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        ledger.unsettled()
    except LedgerError as error:
        error.hint = _OTHER_LEDGER
        raise
    except OSError as error:
        raise ConfigurationError(f"The ledger cannot be opened: {error}.", hint=_OTHER_LEDGER) from error
    return ledger


def ledger_of(config: Config) -> Path:
    """Return the path of a server's default ledger."""
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
    0  success
    1  error; see stderr for the cause and what to do
    2  invalid usage; nothing was sent
    3  a task ended without output: failed, rejected, cancelled or expired
    4  a task is still running: wait for it, do not submit it again
    5  unknown whether a task was submitted: search for it, do not submit it again
  130  interrupted; see stderr for how to continue
"""
_CALL = re.compile(
    r"(\bcall )?client\.tasks\.(wait|resume)(?:_all)?\(\[?(.*?)\]?(, resubmit=True)?\)(\.(?:\s+|$))?"
)
_ARGUMENT = re.compile(
    r"\(or pass \w+=\) |\bpass \w+=,? or | retry_unknown=True sends it again anyway\.", re.IGNORECASE
)


class Commands(TyperGroup):
    """A command group that prints errors without a traceback."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, with its help text unwrapped because Typer keeps the source's line breaks."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and command.help:
            parts = command.help.split("\n\n")
            command.help = "\n\n".join(
                each if each.startswith("\b") else each.replace("\n", " ") for each in parts
            )
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except PicccError as error:
            raise typer.Exit(report_error(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            parts = ": ".join(str(part) for part in (error.strerror, error.filename) if part)
            report_error(PicccError(parts or str(error)))
            raise typer.Exit(1) from error


def report_error(error: PicccError) -> int:
    """Print an error, its hint and its documentation link on stderr; return its exit code."""
    hint, error.hint = error.hint, ""
    say(str(error), "red")
    error.hint = hint
    if hint:
        say(in_shell_words(hint))
    if type(error) is not PicccError:
        say(f"Documentation: {error.docs_url}", "dim")
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), 1)


def in_shell_words(hint: str) -> str:
    """Rewrite a Python hint as shell commands and environment variables."""
    text = _ARGUMENT.sub("", _CALL.sub(_command, hint)).rstrip()
    text = text.replace("`partial` has", "the output above is")
    text = re.sub(r"\bbase_url\b", "PICCC_BASE_URL", text)
    return text if text.startswith("pip ") else text[:1].upper() + text[1:]


def _command(call: re.Match[str]) -> str:
    names = " ".join(name.strip(" '\"") for name in call[3].split(","))
    command = f"piccc tasks {call[2]} {names}{' --resubmit' if call[4] else ''}"
    # A full stop would be copied with the command.
    end = "\n" if call[5] else ""
    return f"{'run: ' if call[1] else ''}{command}{end}"
