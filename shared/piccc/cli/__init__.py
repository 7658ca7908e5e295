"""The `piccc` command; each command imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from piccc._version import __version__
from piccc.cli.chat import chat
from piccc.cli.common import CODES, Commands
from piccc.cli.contract import contract
from piccc.cli.demo import demo
from piccc.cli.doctor import doctor
from piccc.cli.emulator import emulator
from piccc.cli.mcp import mcp
from piccc.cli.media import image, video
from piccc.cli.tasks import tasks
from piccc.cli.webhooks import webhooks

app = typer.Typer(
    name="piccc",
    cls=Commands,
    help="Piccc AI on the command line: chat, images, videos, and an emulator of the API.",
    epilog=CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
)
for command in (demo, chat, image, video, doctor, contract, emulator, mcp):
    app.command()(command)
app.add_typer(tasks, name="tasks")
app.add_typer(webhooks, name="webhooks")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"piccc {__version__}")
        raise typer.Exit


@app.callback()
def piccc(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Handle the options before a command."""
