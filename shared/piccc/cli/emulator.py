"""`piccc emulator`: serve until Ctrl-C, and show requests as they arrive."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piccc.cli.common import AsJSON, at_least, document, option, printable, results, say
from piccc.errors import InvalidArgumentError

if TYPE_CHECKING:
    from piccc.emulator import Emulator, RequestRecord

LOOK_SECONDS = 0.1


class Shell(StrEnum):
    """The shell or file format for environment variables."""

    SH = "sh"
    FISH = "fish"
    POWERSHELL = "powershell"
    DOTENV = "dotenv"


class UpstreamAPI(StrEnum):
    """The upstream's API."""

    OPENAI = "openai"
    PICCC = "piccc"


class Mode(StrEnum):
    """How to use a recording."""

    REPLAY = "replay"
    RECORD = "record"
    ONCE = "once"


_EXPORTS = {
    Shell.SH: "export {name}={value}",
    Shell.FISH: "set -gx {name} {value}",
    Shell.POWERSHELL: "$env:{name} = {value}",
    Shell.DOTENV: "{name}={value}",
}
_SHOWN = (
    "number",
    "method",
    "path",
    "status",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "task_id",
    "fault",
    "error",
    "param",
    "ignored_fields",
    "started_at",
    "seconds",
)


def emulator(
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="The port; 0 picks a free one.")
    ] = 8765,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow a --host that other machines can reach.")
    ] = False,
    speed: Annotated[
        float,
        typer.Option(metavar="FACTOR", help="How many times faster than real time; inf removes all waits."),
    ] = 1.0,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Random seed for outputs and faults.")] = 0,
    faults: Annotated[Path | None, option("--faults", "FILE", "A JSON file of faults to inject.")] = None,
    state: Annotated[
        Path | None, option("--state", "FOLDER", "Keep tasks and charges in this folder between runs.")
    ] = None,
    api_key: Annotated[
        str | None, option("--api-key", "KEY", "The key to accept; default: pcc_test_emulator.")
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Refuse what the strictest servers refuse, and name the field.")
    ] = True,
    models: Annotated[
        str | None, option("--models", "NAMES", "Comma-separated models to accept instead of Piccc's.")
    ] = None,
    quirk: Annotated[
        list[str] | None, option("--quirk", "NAME", "A variant of the wire format; repeatable.")
    ] = None,
    rate_limit: Annotated[
        int,
        typer.Option(
            "--rate-limit", metavar="COUNT", min=1, help="Requests per minute; further ones get a 429."
        ),
    ] = 1_000_000,
    url_lifetime: Annotated[
        float,
        typer.Option(
            "--url-lifetime",
            metavar="SECONDS",
            help="How long output URLs are valid.",
            **at_least(0),
        ),
    ] = 86_400.0,
    webhook_secret: Annotated[
        str | None,
        option("--webhook-secret", "SECRET", "Secret that signs webhooks: whsec_ followed by base64."),
    ] = None,
    upstream: Annotated[
        str | None, option("--upstream", "URL", "An OpenAI-compatible server that answers chat.")
    ] = None,
    upstream_key: Annotated[
        str | None, option("--upstream-key", "KEY", "The upstream's key.", envvar="PICCC_UPSTREAM_KEY")
    ] = None,
    upstream_model: Annotated[
        str | None, option("--upstream-model", "NAME", "The upstream's model, used instead of the client's.")
    ] = None,
    upstream_api: Annotated[
        UpstreamAPI, typer.Option(help="The upstream's API; piccc also forwards tasks, not only chat.")
    ] = UpstreamAPI.OPENAI,
    recording: Annotated[
        Path | None, option("--recording", "FILE", "The recording to replay or write.")
    ] = None,
    mode: Annotated[
        Mode, typer.Option(help="replay, record, or once: record only if there is no file yet.")
    ] = Mode.REPLAY,
    shell: Annotated[
        Shell | None, typer.Option(help="Syntax of the printed variables; default: the current shell's.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Emulate the whole API on this machine until Ctrl-C, and print each request.

    \b
    Examples:
      piccc emulator --port 8765 --speed 10
      piccc emulator --faults faults.json --state ./emulator-state
      piccc emulator --shell dotenv --models piccc-pro,piccc-image --rate-limit 60
      piccc emulator --upstream http://localhost:11434/v1 --upstream-model llama3.2
    \b
    A faults file:
      {"rules": [{"fault": "429;retry-after=2", "route": "POST /v1/*", "times": 2}]}
    """
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    created = _created(
        port=port,
        host=host,
        loopback_only=not allow_remote,
        speed=speed,
        seed=seed,
        faults=faults,
        state=state,
        strict=strict,
        models=[name.strip() for name in models.split(",") if name.strip()] if models is not None else None,
        quirks=quirk or (),
        requests_per_minute=rate_limit,
        url_lifetime=url_lifetime,
        webhook_secret=webhook_secret,
        upstream=upstream,
        upstream_key=upstream_key,
        upstream_model=upstream_model,
        upstream_api=upstream_api.value,
        recording=recording,
        mode=mode.value,
        **({} if api_key is None else {"api_key": api_key}),
    )
    with created as running:
        if as_json:
            document(running.environment)
        else:
            _welcome(running, shell or _current_shell())
        try:
            _serve(running, stopped, as_json=as_json)
        except KeyboardInterrupt:
            say("\nStopped.")


def _created(**settings: Any) -> Emulator:
    from piccc.emulator import Emulator

    try:
        return Emulator(**settings)
    except (OSError, TypeError, ValueError) as error:
        message = str(error).replace("loopback_only=False", "--allow-remote").replace("math.inf", "inf")
        raise InvalidArgumentError(f"Cannot start the emulator: {message}") from error


def _welcome(emulator: Emulator, shell: Shell) -> None:
    console = results()
    console.print(f"Serving the Piccc API at {emulator.base_url}; press Ctrl-C to stop.", soft_wrap=True)
    console.print(
        "Open it in a browser to watch requests. For programs and piccc in another shell, set:\n",
        soft_wrap=True,
    )
    for name, value in emulator.environment.items():
        line = _EXPORTS[shell].format(name=name, value=_quoted(value, shell))
        console.print(f"  {line}", soft_wrap=True, markup=False)
    console.print()


def _quoted(value: str, shell: Shell) -> str:
    """Quote a value for a shell."""
    if shell is Shell.POWERSHELL:  # which treats typographic quotes as quotes
        return "'" + re.sub("(['‘’‚‛])", r"\1\1", value) + "'"
    plain = shlex.quote(value)
    if shell is Shell.SH or plain == value:
        return plain
    return "'" + re.sub(r"([\\'])", r"\\\1", value) + "'"


def _current_shell() -> Shell:
    if sys.platform == "win32":
        return Shell.POWERSHELL
    return Shell.FISH if os.environ.get("SHELL", "").endswith("fish") else Shell.SH


def _serve(emulator: Emulator, stopped: threading.Event, *, as_json: bool) -> None:
    console = results()
    shown: set[int] = set()
    while not stopped.wait(LOOK_SECONDS):
        for record in _finished(emulator.requests, shown):
            if as_json:
                document({name: getattr(record, name) for name in _SHOWN})
            else:
                console.print(_line(record), style=_style(record), soft_wrap=True)


def _finished(records: list[RequestRecord], shown: set[int]) -> Iterator[RequestRecord]:
    """Yield finished requests not shown yet; forget those that the emulator dropped."""
    shown.intersection_update([record.number for record in records])
    for record in records:
        if record.done and record.number not in shown:
            shown.add(record.number)
            yield record


def _line(record: RequestRecord) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(record.started_at))
    tokens = f"{record.prompt_tokens} → {record.completion_tokens} tokens" if record.completion_tokens else ""
    task = "" if record.task_id and record.task_id in record.path else record.task_id
    fault = record.fault and f"fault {record.fault}"
    ignored = record.ignored_fields and f"ignored {', '.join(record.ignored_fields)}"
    facts = [f"{record.method:<4} {record.path}", record.model, tokens, task, fault, ignored, record.error]
    line = "  ".join(printable(fact) for fact in facts if fact)
    return f"{at}  {record.status or '---'}  {record.seconds or 0.0:6.2f} s  {line}"


def _style(record: RequestRecord) -> str:
    if record.fault or record.status is None:
        return "yellow"
    return "red" if record.status >= 400 else ""
