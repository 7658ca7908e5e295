"""`piccc webhooks`: report tasks as they end, and test webhook handlers."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

import typer

from piccc.cli.common import (
    SECRET_VARIABLE,
    AsJSON,
    Commands,
    LedgerPlace,
    Poll,
    connect,
    document,
    needs,
    open_ledger,
    option,
    say,
    write,
)
from piccc.errors import APIConnectionError, ConfigurationError

if TYPE_CHECKING:
    from piccc._http.backend import Backend
    from piccc.media.webhooks import Webhooks
    from piccc.tasks import Task

SIGNING_VARIABLE = "PICCC_WEBHOOK_SIGNING_SECRET"

webhooks = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Print or forward task completions, and test webhook handlers."
)


def _check_address(url: str, name: str) -> None:
    with suppress(ValueError):  # http://[::1/ has no end
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    raise typer.BadParameter("Pass a URL such as http://127.0.0.1:8000/webhooks.", param_hint=name)


@webhooks.command()
def listen(
    ctx: typer.Context,
    forward_to: Annotated[
        str | None, option("--forward-to", "URL", "Send a webhook for each task to this URL.")
    ] = None,
    receive: Annotated[bool, typer.Option("--receive", help="Receive webhooks instead of polling.")] = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="With --receive: the address to bind.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="With --receive: the port; 0 picks a free one."),
    ] = 8766,
    poll: Poll = None,
    ledger: LedgerPlace = None,
    as_json: AsJSON = False,
) -> None:
    """Print each of the account's tasks when it ends, until Ctrl-C or SIGTERM.

    Without --receive it polls the server, so you can test a webhook handler on
    your own machine without a tunnel.

    With --receive it accepts webhooks for tasks submitted with the same ledger
    and PICCC_WEBHOOK_SECRET, and verifies each with the server.

    PICCC_WEBHOOK_SIGNING_SECRET (whsec_...) signs forwarded webhooks and
    verifies received ones.

    \b
    Examples:
      piccc webhooks listen
      piccc webhooks listen --forward-to http://127.0.0.1:8000/webhooks
      PICCC_WEBHOOK_SECRET=... piccc webhooks listen --receive --port 8766
    """
    if not receive:
        needs(ctx, "--receive", "host", "port")
    if forward_to is not None:
        _check_address(forward_to, "--forward-to")
    secret = os.environ.get(SECRET_VARIABLE, "")
    if receive and not secret:
        raise ConfigurationError(
            f"--receive needs {SECRET_VARIABLE}.",
            hint="Set it to a random string of at least 16 characters, here and where you submit tasks.",
        )
    from piccc._http.backends import run_sync

    with connect(poll, open_ledger(ledger) if receive else None) as client:
        run_sync(client.config.key.ask())  # without a key, every attempt would fail
        receiver = client.webhooks(
            secret=secret or secrets.token_urlsafe(),  # unused without --receive
            signing_secret=os.environ.get(SIGNING_VARIABLE),
            on_task=lambda task: _print(task, as_json=as_json),
            forward_to=forward_to,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # treat a supervisor's SIGTERM like Ctrl-C
        try:
            _receive(receiver, host, port) if receive else _poll(receiver)
        except KeyboardInterrupt:
            say("\nStopped.")


@webhooks.command()
def trigger(
    url: Annotated[str, typer.Argument(metavar="URL", help="The handler's URL.", show_default=False)],
    task: Annotated[
        str | None, option("--task", "ID", "Send this task of the account instead of a sample.")
    ] = None,
    status: Annotated[
        Literal["completed", "failed", "cancelled", "expired"], typer.Option(help="How the task ended.")
    ] = "completed",
    type: Annotated[Literal["image", "video"], typer.Option(help="What the task generated.")] = "image",
    as_json: AsJSON = False,
) -> None:
    """Send one webhook to a handler and print the response status; exit with 1 unless it is 2xx.

    Without --task it sends a sample task, calls no server, and nothing is billed.
    A receiver created with client.webhooks(...) asks the server for the task, so
    pass --task and the webhook URL that the task was submitted with.

    PICCC_WEBHOOK_SIGNING_SECRET (whsec_...) signs the webhook.

    \b
    Examples:
      piccc webhooks trigger http://127.0.0.1:8000/webhooks
      piccc webhooks trigger http://127.0.0.1:8000/webhooks --status failed --json
    """
    from piccc._http.backend import Failure
    from piccc._http.backends import SyncBackend, run_sync
    from piccc.media.deliveries import event_of

    _check_address(url, "URL")
    if task is None:
        ended = _made_up(status, type)
    else:
        with connect() as client:
            ended = client.tasks.get(task)
    headers, body = event_of(ended, os.environ.get(SIGNING_VARIABLE))
    io = SyncBackend()
    try:
        answered = run_sync(_post(io, url, headers, body))
    except Failure as failure:
        raise APIConnectionError(
            f"No response from {url}: {failure.reason}.", hint="Check that the handler is listening there."
        ) from failure
    if as_json:
        document({"status": answered, "event": json.loads(body)})
    else:
        write(f"{answered}\n")
    if not 200 <= answered < 300:
        raise typer.Exit(1)


def _made_up(status: str, type: str) -> Task:
    from piccc._dialects.tasks import read_task

    suffix, mime = ("mp4", "video/mp4") if type == "video" else ("png", "image/png")
    output = {"url": f"https://files.example.com/sample.{suffix}", "type": type, "mime_type": mime}
    how = {"result": {"outputs": [output]}} if status == "completed" else {"error": {"message": "A sample."}}
    body = {"task_id": f"task_{secrets.token_hex(8)}", "type": type, "status": status}
    return read_task({**body, "model": f"piccc-{type}", "prompt": "A ceramic mug", **how})


async def _post(io: Backend, url: str, headers: list[tuple[str, str]], body: bytes) -> int:
    from piccc._http.backend import HTTPRequest
    from piccc.media.deliveries import FORWARD_SECONDS

    by = io.now() + FORWARD_SECONDS
    response = await io.send(HTTPRequest("POST", url, headers, body, FORWARD_SECONDS, None, by))
    await response.close()
    return response.status


def _poll(receiver: Webhooks) -> None:
    say("Waiting for tasks to end; press Ctrl-C to stop.", "dim")
    for _ in receiver.poll():
        pass


def _receive(receiver: Webhooks, host: str, port: int) -> None:
    with receiver.serve(host, port) as server:
        say(f"Receiving webhooks at {server.url}; press Ctrl-C to stop. Submit with: --webhook {server.url}")
        threading.Event().wait()


def _print(task: Task, *, as_json: bool) -> None:
    if as_json:
        document(task.to_dict())
    else:
        at = datetime.now().astimezone().isoformat(timespec="seconds")
        write(f"{at}\t{task.id}\t{task.type}\t{task.status}\n")
