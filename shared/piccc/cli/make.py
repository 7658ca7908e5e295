"""`piccc image` and `piccc video`: submit a task, wait for it, save what it made."""

from __future__ import annotations

import os
import shlex
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from piccc.cli.connection import connect, open_ledger
from piccc.cli.job import Job, interruptible
from piccc.cli.options import (
    SECRET_VARIABLE,
    AsJSON,
    Ledger,
    Open,
    Poll,
    Prompt,
    Seconds,
    To,
    option,
    prompt_of,
    settings_of,
)

if TYPE_CHECKING:
    from piccc.client import Client
    from piccc.media.webhooks import Webhooks
    from piccc.tasks import TaskType

ImageModel = Annotated[str, option("--model", "NAME", "The model's id.", envvar="PICCC_IMAGE_MODEL")]
VideoModel = Annotated[str, option("--model", "NAME", "The model's id.", envvar="PICCC_VIDEO_MODEL")]
Ratio = Annotated[str | None, option("--aspect-ratio", "W:H", "Width to height, such as 16:9.")]
ImageSize = Annotated[str | None, option("--resolution", "SIZE", "Such as 1K.")]
VideoSize = Annotated[str | None, option("--resolution", "SIZE", "Such as 720p.")]
Length = Annotated[float | None, option("--duration", "SECONDS", "The film's length.")]
Others = Annotated[list[str] | None, option("--set", "NAME=VALUE", "Any other parameter of the API.")]
Webhook = Annotated[
    str | None,
    option(
        "--webhook",
        "URL",
        "An https address to report the task's end to. Where PICCC_WEBHOOK_SECRET is set, it is that of "
        "a receiver: piccc webhooks listen --receive.",
    ),
]
Key = Annotated[
    str | None,
    option(
        "--key", "NAME", "Name the submission: one name never submits twice, it finds the same task again."
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Submit, print the task's id, and end.")]


def image(
    model: ImageModel,
    prompt: Prompt = None,
    to: To = Path(),
    aspect_ratio: Ratio = None,
    resolution: ImageSize = None,
    others: Others = None,
    opens: Open = False,
    no_wait: NoWait = False,
    timeout: Seconds = None,
    poll: Poll = None,
    webhook: Webhook = None,
    key: Key = None,
    ledger: Ledger = None,
    as_json: AsJSON = False,
) -> None:
    """Make a picture and save it; print the file's path.

    Ctrl-C leaves the task running, and says how to go on with it.

    \b
    Examples:
      piccc image "A ceramic mug, studio light" --to mug.png --open
      piccc image "A mug" --aspect-ratio 16:9 --resolution 2K --to pictures/
      id=$(piccc image "A mug" --no-wait) && piccc tasks resume "$id"
    """
    _make(
        "image",
        prompt,
        {
            **settings_of(others),
            "model": model,
            "aspect_ratio": aspect_ratio,
            "resolution": resolution,
            "webhook": webhook,
        },
        key=key,
        no_wait=no_wait,
        poll=poll,
        ledger=ledger,
        to=to,
        timeout=timeout,
        opens=opens,
        as_json=as_json,
    )


def video(
    model: VideoModel,
    prompt: Prompt = None,
    to: To = Path(),
    aspect_ratio: Ratio = None,
    resolution: VideoSize = None,
    duration: Length = None,
    others: Others = None,
    opens: Open = False,
    no_wait: NoWait = False,
    timeout: Seconds = None,
    poll: Poll = None,
    webhook: Webhook = None,
    key: Key = None,
    ledger: Ledger = None,
    as_json: AsJSON = False,
) -> None:
    """Make a film and save it; print the file's path.

    Ctrl-C leaves the task running, and says how to go on with it.

    \b
    Examples:
      piccc video "The mug turns slowly while steam rises" --to mug.mp4 --open
      piccc video "Rain" --duration 6 --resolution 720p --set seed=7 --json
    """
    _make(
        "video",
        prompt,
        {
            **settings_of(others),
            "model": model,
            "aspect_ratio": aspect_ratio,
            "resolution": resolution,
            "duration_seconds": duration,
            "webhook": webhook,
        },
        key=key,
        no_wait=no_wait,
        poll=poll,
        ledger=ledger,
        to=to,
        timeout=timeout,
        opens=opens,
        as_json=as_json,
    )


def _make(
    type: TaskType,
    prompt: str | None,
    ordered: dict[str, Any],
    *,
    key: str | None,
    no_wait: bool,
    poll: float | None,
    ledger: Path | None,
    **kept: Any,
) -> None:
    text, key = prompt_of(prompt), key or str(uuid.uuid4())
    way_on = f"It may have been submitted. Look for it with:\n  piccc tasks resume {shlex.quote(key)}"
    with connect(poll, open_ledger(ledger)) as client, interruptible(way_on):
        media = client.images if type == "image" else client.videos
        webhook = _receiver(client, ordered.pop("webhook"))
        job = Job(client, [media.submit(text, key=key, webhook=webhook, **ordered)], **kept)
        job.hand_out() if no_wait else job.run()


def _receiver(client: Client, url: str | None) -> str | Webhooks | None:
    secret = os.environ.get(SECRET_VARIABLE)
    return client.webhooks(secret=secret, public_url=url) if url and secret else url
