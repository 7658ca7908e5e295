"""The client that commands use, and the file in which submissions are remembered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from piccc.config import Config, resolve
from piccc.errors import ConfigurationError

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.ledger import Ledger


def connect(poll: float | None = None, ledger: Ledger | None = None) -> Client:
    """Make a client of the server that the environment names; `poll` is in seconds."""
    from piccc.client import Client
    from piccc.media.polling import Polling

    return Client(ledger=ledger, polling=None if poll is None else Polling(min=poll, max=poll))


def open_ledger(path: Path | None) -> Ledger:
    """Open the ledger at a path, or the server's own; raise ConfigurationError where that fails."""
    import sqlite3

    from piccc.media.sqlite_ledger import SQLiteLedger

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
