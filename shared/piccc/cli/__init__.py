"""The commands; each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from piccc._version import __version__
from piccc.errors import PicccError

app = typer.Typer(
    name="piccc",
    help="Piccc AI on the command line: try it, and run its API on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


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
    """Take the options that stand before a command."""


@app.command()
def demo(
    live: Annotated[
        bool, typer.Option("--live", help="Use the real API: PICCC_API_KEY and PICCC_BASE_URL.")
    ] = False,
    folder: Annotated[Path, typer.Option("--to", help="Where the picture and the film are saved.")] = Path(
        "piccc-demo"
    ),
) -> None:
    """Show it all: streaming, an agent that makes a picture and a film, a question to documents.

    Without --live it needs no key and no network: the emulator stands in.
    """
    from piccc.cli.demo import run

    try:
        run(live=live, folder=folder)
    except PicccError as error:
        _fail(str(error))


@app.command()
def emulator(
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8765,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    speed: Annotated[float, typer.Option(help="Divides every duration; inf waits for nothing.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides what pictures look like.")] = 0,
) -> None:
    """Run the whole API on this machine until Ctrl-C.

    Example: piccc emulator --port 8765 --speed 10
    """
    from piccc.cli.emulator import run

    try:
        run(port=port, host=host, speed=speed, seed=seed)
    except (ImportError, OSError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    typer.secho(message, fg=typer.colors.RED, err=True)
    raise typer.Exit(1)
