"""`piccc emulator`: serve until Ctrl-C, and show the requests as they come."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piccc.cli.common import AsJSON, document, option, printable, results, say
from piccc.config import KEY_VARIABLE, URL_VARIABLE
from piccc.errors import InvalidArgumentError, MissingExtraError

if TYPE_CHECKING:
    from piccc.emulator import Emulator, RequestRecord

LOOK_SECONDS = 0.1
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
    "started_at",
    "seconds",
)


def emulator(
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8765,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Allow a --host that other machines can reach.")
    ] = False,
    speed: Annotated[float, typer.Option(help="Divides every duration; inf removes all waits.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Decides how outputs look and which faults hit.")] = 0,
    faults: Annotated[Path | None, option("--faults", "FILE", "A JSON file of faults to inject.")] = None,
    state: Annotated[
        Path | None, option("--state", "FOLDER", "Keep tasks and charges there between runs.")
    ] = None,
    strict: Annotated[
        bool, typer.Option(help="Refuse what the strictest chat servers refuse, naming the field.")
    ] = True,
    as_json: AsJSON = False,
) -> None:
    """Run the whole API on this machine until Ctrl-C, and show the requests as they come.

    \b
    Examples:
      piccc emulator --port 8765 --speed 10
      piccc emulator --faults faults.json --state ./emulator-state
    \b
    A faults file:
      {"rules": [{"fault": "429;retry-after=2", "route": "POST /v1/*", "times": 2}]}
    """
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    made = _made(
        port=port,
        host=host,
        loopback_only=not allow_remote,
        speed=speed,
        seed=seed,
        faults=faults,
        state=state,
        strict=strict,
    )
    with made as running:
        _welcome(running, as_json=as_json)
        try:
            _serve(running, stopped, as_json=as_json)
        except KeyboardInterrupt:
            say("\nStopped.")


def _made(**settings: Any) -> Emulator:
    try:
        from piccc.emulator import Emulator
    except ImportError as error:
        raise MissingExtraError(str(error)) from error
    try:
        return Emulator(**settings)
    except (KeyError, TypeError, ValueError) as error:
        said = str(error).replace("loopback_only=False", "--allow-remote")
        raise InvalidArgumentError(f"The emulator cannot be run like this: {said}") from error


def _welcome(emulator: Emulator, *, as_json: bool) -> None:
    known = {
        URL_VARIABLE: emulator.base_url,
        KEY_VARIABLE: emulator.api_key,
        "PICCC_IMAGE_MODEL": "piccc-image",
        "PICCC_VIDEO_MODEL": "piccc-video",
    }
    if as_json:
        document(known)
        return
    console = results()
    console.print(f"The Piccc API is served at {emulator.base_url}; Ctrl-C stops it.", soft_wrap=True)
    console.print(
        "Open that address in a browser to watch it. For programs and for piccc in another shell:\n",
        soft_wrap=True,
    )
    for name, value in known.items():
        console.print(f"  export {name}={value}", soft_wrap=True)
    console.print()


def _serve(emulator: Emulator, stopped: threading.Event, *, as_json: bool) -> None:
    console = results()
    shown: set[int] = set()
    while not stopped.wait(LOOK_SECONDS):
        for record in _news(emulator.requests, shown):
            if as_json:
                document({name: getattr(record, name) for name in _SHOWN})
            else:
                console.print(_line(record), style=_style(record), soft_wrap=True)


def _news(records: list[RequestRecord], shown: set[int]) -> Iterator[RequestRecord]:
    """Yield finished requests that were not shown yet; forget those that the emulator dropped."""
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
    facts = [f"{record.method:<4} {record.path}", record.model, tokens, task, fault]
    line = "  ".join(printable(fact) for fact in facts if fact)
    return f"{at}  {record.status or '---'}  {record.seconds or 0.0:6.2f} s  {line}"


def _style(record: RequestRecord) -> str:
    if record.fault or record.status is None:
        return "yellow"
    return "red" if record.status >= 400 else ""
