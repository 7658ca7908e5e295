"""`piccc webhooks listen`: report tasks as they end."""

from __future__ import annotations

import os
import secrets
import signal
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from piccc.cli.common import (
    SECRET_VARIABLE,
    AsJSON,
    Commands,
    LedgerPlace,
    Poll,
    connect,
    document,
    open_ledger,
    option,
    say,
    write,
)
from piccc.errors import ConfigurationError

if TYPE_CHECKING:
    from piccc.media.webhooks import Webhooks
    from piccc.tasks import Task

SIGNING_VARIABLE = "PICCC_WEBHOOK_SIGNING_SECRET"

webhooks = typer.Typer(cls=Commands, no_args_is_help=True, help="Task completions, by polling or webhook.")


@webhooks.callback()
def _group() -> None:
    """Make `listen` a subcommand although it is the only one."""


@webhooks.command()
def listen(
    forward_to: Annotated[
        str | None, option("--forward-to", "URL", "Send a webhook for each task to this address.")
    ] = None,
    receive: Annotated[bool, typer.Option("--receive", help="Receive webhooks instead of polling.")] = False,
    host: Annotated[str, typer.Option(help="With --receive: the address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --receive: the port; 0 picks a free one.")] = 8766,
    poll: Poll = None,
    ledger: LedgerPlace = None,
    as_json: AsJSON = False,
) -> None:
    """Print each of the account's tasks when it ends, until Ctrl-C or SIGTERM.

    Without --receive it polls the server, so no tunnel is needed: this is how
    to try a webhook handler on your own machine.

    With --receive it accepts webhooks for tasks submitted with the same ledger
    and the same PICCC_WEBHOOK_SECRET, and verifies each with the server.

    PICCC_WEBHOOK_SIGNING_SECRET (whsec_...) signs forwarded webhooks and
    verifies received ones.

    \b
    Examples:
      piccc webhooks listen
      piccc webhooks listen --forward-to http://127.0.0.1:8000/webhooks
      PICCC_WEBHOOK_SECRET=... piccc webhooks listen --receive --port 8766
    """
    secret = os.environ.get(SECRET_VARIABLE, "")
    if receive and not secret:
        raise ConfigurationError(
            f"--receive needs {SECRET_VARIABLE}.",
            hint="Set it to a random text of at least 16 characters, here and where you submit tasks.",
        )
    with connect(poll, open_ledger(ledger) if receive else None) as client:
        receiver = client.webhooks(
            secret=secret or secrets.token_urlsafe(),  # unused without --receive
            signing_secret=os.environ.get(SIGNING_VARIABLE),
            on_task=lambda task: _print(task, as_json=as_json),
            forward_to=forward_to,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's stop is a Ctrl-C
        try:
            _receive(receiver, host, port) if receive else _poll(receiver)
        except KeyboardInterrupt:
            say("\nStopped.")


def _poll(receiver: Webhooks) -> None:
    say("Waiting for tasks to end; Ctrl-C stops.", "dim")
    for _ in receiver.poll():
        pass


def _receive(receiver: Webhooks, host: str, port: int) -> None:
    with receiver.serve(host, port) as server:
        say(f"Receiving webhooks at {server.url}; Ctrl-C stops. Submit with: --webhook {server.url}")
        threading.Event().wait()


def _print(task: Task, *, as_json: bool) -> None:
    if as_json:
        document(task.to_dict())
    else:
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        write(f"{at}\t{task.id}\t{task.type}\t{task.status}\n")
