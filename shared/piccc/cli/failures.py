"""What a command's end means to the shell: its exit code, and errors as a sentence and what to do next."""

from __future__ import annotations

import errno
import re
from typing import Any

import typer
from typer.core import TyperGroup

from piccc.errors import (
    InvalidArgumentError,
    PicccError,
    SubmissionUnknown,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskWaitTimeout,
)

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
    from piccc.cli.screen import say

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
