"""`piccc mcp`: serve the media tools to agent hosts over stdio or streamable HTTP."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piccc.cli.common import LedgerPlace, at_least, needs, open_ledger, option, say
from piccc.config import KEY_VARIABLE, URL_VARIABLE, Config
from piccc.errors import ConfigurationError

if TYPE_CHECKING:
    from piccc.mcp_server import MediaServer


GRACE_SECONDS = 3
"""How long HTTP calls may continue after Ctrl-C; their tasks keep running regardless."""


class Show(StrEnum):
    """How a result shows a finished image."""

    NONE = "none"
    THUMBNAIL = "thumbnail"
    IMAGE = "image"


def mcp(
    ctx: typer.Context,
    http: Annotated[
        bool, typer.Option("--http", help="Serve streamable HTTP on this machine instead of stdio.")
    ] = False,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="With --http: the loopback address.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="With --http: the port; 0 picks a free one."),
    ] = 8766,
    token: Annotated[
        str | None,
        option(
            "--token",
            "TOKEN",
            "With --http: the token that clients must send; random by default.",
            envvar="PICCC_MCP_TOKEN",
        ),
    ] = None,
    image_models: Annotated[
        str | None,
        option(
            "--image-models",
            "NAMES",
            "Comma-separated models allowed for images; default: PICCC_IMAGE_MODEL.",
            envvar="PICCC_MCP_IMAGE_MODELS",
        ),
    ] = None,
    video_models: Annotated[
        str | None,
        option(
            "--video-models",
            "NAMES",
            "Comma-separated models allowed for videos; default: PICCC_VIDEO_MODEL.",
            envvar="PICCC_MCP_VIDEO_MODELS",
        ),
    ] = None,
    max_tasks: Annotated[
        int | None,
        option(
            "--max-tasks",
            "COUNT",
            "Maximum number of tasks that this process may submit.",
            envvar="PICCC_MCP_MAX_TASKS",
            min=0,
        ),
    ] = None,
    max_video_seconds: Annotated[
        float | None,
        option(
            "--max-video-seconds",
            "SECONDS",
            "Maximum total length of the videos that this process may submit.",
            envvar="PICCC_MCP_MAX_VIDEO_SECONDS",
            min=0,
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            envvar="PICCC_MCP_WAIT",
            help="How long a call waits before it returns a task id to check later.",
            **at_least(0),
        ),
    ] = 50.0,
    show: Annotated[
        Show,
        typer.Option("--show", envvar="PICCC_MCP_SHOW", help="How a result shows a finished image."),
    ] = Show.THUMBNAIL,
    session: Annotated[
        str | None,
        option(
            "--session",
            "NAME",
            "Session name: identical calls in it within a day share one task; default: the client's name.",
            envvar="PICCC_MCP_SESSION",
        ),
    ] = None,
    ledger: LedgerPlace = None,
    emulator: Annotated[
        bool, typer.Option("--emulator", help="Use an emulator of the API: nothing is billed.")
    ] = False,
) -> None:
    """Serve the image and video tools to agent hosts over the Model Context Protocol.

    A call repeated after a restart finds its task in the ledger and is not billed twice.

    \b
    Examples:
      piccc mcp --emulator
      piccc mcp --max-tasks 20 --image-models piccc-image
      PICCC_MCP_TOKEN=… piccc mcp --http --port 8766
    """
    from piccc.client import AsyncClient
    from piccc.mcp_server import MediaServer
    from piccc.media.requests import SpendLimit

    if not http:
        needs(ctx, "--http", "host", "port", "token")

    with ExitStack() as stack:
        settings: dict[str, Any] = {}
        if emulator:
            running = stack.enter_context(_emulator())
            settings |= {"base_url": running.base_url, "api_key": running.api_key}
            image_models, video_models = image_models or "piccc-image", video_models or "piccc-video"
        client = AsyncClient(
            ledger=None if emulator and ledger is None else open_ledger(ledger),
            spend_limit=SpendLimit(max_tasks=max_tasks, max_video_seconds=max_video_seconds),
            **settings,
        )
        for missing in _missing(
            client.config,
            image=image_models or os.environ.get("PICCC_IMAGE_MODEL"),
            video=video_models or os.environ.get("PICCC_VIDEO_MODEL"),
        ):
            say(missing)
        server = MediaServer(
            client,
            image_models=_names(image_models),
            video_models=_names(video_models),
            wait_s=wait,
            show=show.value,
            session=session or "",
        )
        try:
            asyncio.run(_serve_http(server, host, port, token) if http else _serve_stdio(server))
        except KeyboardInterrupt:
            say("Stopped.")


def _missing(config: Config, *, image: str | None, video: str | None) -> Iterator[str]:
    """Yield warnings about missing settings without which all calls, or one tool's calls, fail.

    The server starts anyway: hosts list its tools and keep its stderr in a log, but most report only that a
    server failed if it exits.
    """
    from piccc._http.backends import run_sync

    found = []
    try:
        run_sync(config.key.ask())
    except ConfigurationError as error:
        is_given = os.environ.get(KEY_VARIABLE, "").strip()
        found.append(f"{error.message} {error.hint if is_given else f'Set {KEY_VARIABLE}.'}")
    if config.is_placeholder:
        found.append(f"No server is configured. Set {URL_VARIABLE} to your server's URL.")
    if found:
        yield " ".join(
            (
                *found,
                "Until then every call fails. Set the variables in the host's settings (usually under `env`) "
                "and restart this server. To try it without either: piccc mcp --emulator",
            )
        )
    for tool, kind, models in (("generate_image", "image", image), ("generate_video", "video", video)):
        if not _names(models):
            yield (
                f"No {kind} model is configured: calls of {tool} fail. "
                f"Set PICCC_{kind.upper()}_MODEL, or give --{kind}-models."
            )


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _emulator() -> Any:
    from piccc.emulator import Emulator

    return Emulator(speed=math.inf)


async def _serve_stdio(server: MediaServer) -> None:
    loop, ending = asyncio.get_running_loop(), list[asyncio.Task[None]]()

    async def end(number: int) -> None:
        await server.settle()
        say("Stopped.")
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def stop(number: int) -> None:
        ending.append(loop.create_task(end(number)))

    # The SDK reads stdin in a thread that cannot be interrupted: a cancellation would wait for the next line.
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop, number)
    await server.serve_stdio()


async def _serve_http(server: MediaServer, host: str, port: int, token: str | None) -> None:
    import uvicorn

    made = token or secrets.token_urlsafe(24)
    config = uvicorn.Config(
        server.http_app(token=made, host=host),
        host=host,
        port=port,
        log_level="warning",
        # A client's open notification stream never ends.
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"The MCP server cannot listen on {host}, port {port}: {error}.",
            hint="Choose a loopback address and a free port; port 0 picks one.",
        ) from error
    with listening as bound:  # listening, so clients can connect as soon as the address is printed
        at = f"[{host}]" if ":" in host else host
        say(f"Serving MCP at http://{at}:{bound.getsockname()[1]}/mcp; press Ctrl-C to stop.")
        if not token:
            say(f"Clients must send the header Authorization: Bearer {made}")
        await uvicorn.Server(config).serve([bound])
