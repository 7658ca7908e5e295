"""What is ordered: checked before it is sent, named by a key, and found again among the account's tasks."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from piccc._dialects.json_text import serialize
from piccc.errors import InvalidArgumentError
from piccc.media.ledgers import Submission
from piccc.tasks import ASPECT_RATIOS, IMAGE_RESOLUTIONS, VIDEO_RESOLUTIONS, Task, TaskType

CLOCK_SKEW = 300.0
"""Seconds by which the server's clock and ours may differ when a lost submission is looked for (assumed)."""
LONGEST_FILM = 3600.0
_RATIO = re.compile(r"[1-9]\d*:[1-9]\d*")
_RESOLUTION = {"image": re.compile(r"[1-9]\d*K"), "video": re.compile(r"[1-9]\d*[pK]")}
_COMPARED = ("aspect_ratio", "resolution", "duration_seconds")


@runtime_checkable
class Receiver(Protocol):
    """Something that has a webhook address for each submission."""

    def url_for(self, key: str) -> str:
        """Return the address for the submission of this key."""
        ...


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """One order of a picture or a film: the body that is sent, under a key that names it."""

    type: TaskType
    key: str
    body: Mapping[str, Any] = field(repr=False)

    @property
    def digest(self) -> str:
        """A hash of what is ordered; where its end is reported to does not count."""
        ordered = {name: value for name, value in self.body.items() if name != "webhook"}
        text = json.dumps([self.type, ordered], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def video_seconds(self) -> float:
        """How much film is ordered; 0 for a picture, and where the length is left to the server."""
        return float(self.body.get("duration_seconds", 0)) if self.type == "video" else 0.0

    def entry(self) -> Submission:
        """Return what the ledger writes down."""
        return Submission(self.key, self.type, self.digest, self.body)


def build_task_request(
    type: TaskType,
    prompt: str,
    *,
    model: str | None = None,
    aspect_ratio: str | None = None,
    resolution: str | None = None,
    duration_seconds: float | None = None,
    webhook: str | Receiver | None = None,
    key: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> TaskRequest:
    """Check and make an order; raise InvalidArgumentError for what no server can mean.

    Which ratios, resolutions and lengths exist is for the server to say: only their form is checked.
    """
    model = model or os.environ.get(f"PICCC_{type.upper()}_MODEL")
    _check(type, prompt, model, aspect_ratio, resolution, duration_seconds)
    key = str(uuid.uuid4()) if key is None else _checked_key(key)
    if isinstance(webhook, Receiver):
        webhook = webhook.url_for(key)
    body = {
        "model": model,
        "prompt": prompt,
        "aspect_ratio": aspect_ratio,
        "resolution": resolution,
        "duration_seconds": duration_seconds,
        "webhook": {"url": _checked_webhook(webhook)} if webhook else None,
        **(extra or {}),
    }
    body = {name: value for name, value in body.items() if value is not None}
    serialize(body)  # so that what JSON cannot say is refused before it is written down
    return TaskRequest(type, key, body)


def _check(
    type: TaskType,
    prompt: str,
    model: str | None,
    aspect_ratio: str | None,
    resolution: str | None,
    seconds: float | None,
) -> None:
    if not isinstance(prompt, str) or not prompt.strip():
        raise InvalidArgumentError("The prompt is empty.", hint="Say what to make.")
    if not model:
        raise InvalidArgumentError(
            f"No {type} model was named.",
            hint=f"Pass model=, or set PICCC_{type.upper()}_MODEL. The provider documents no default; "
            f"the emulator offers piccc-{type}.",
        )
    if aspect_ratio is not None and not _RATIO.fullmatch(aspect_ratio):
        raise _malformed("aspect_ratio", aspect_ratio, ASPECT_RATIOS)
    if resolution is not None and not _RESOLUTION[type].fullmatch(resolution):
        known = IMAGE_RESOLUTIONS if type == "image" else VIDEO_RESOLUTIONS
        raise _malformed("resolution", resolution, known)
    if seconds is None:
        return
    if type == "image":
        raise InvalidArgumentError("A picture has no duration_seconds.", hint="Use client.videos for a film.")
    if isinstance(seconds, bool) or not math.isfinite(seconds) or not 0 < seconds < LONGEST_FILM:
        raise InvalidArgumentError(
            f"duration_seconds is {seconds!r}.", hint="Give the film's length in seconds, above 0."
        )


def _malformed(name: str, value: str, known: tuple[str, ...]) -> InvalidArgumentError:
    return InvalidArgumentError(f"{name} is {value!r}.", hint=f"Write it like one of {', '.join(known)}.")


def _checked_key(key: str) -> str:
    # It goes into a header and into a webhook's path.
    if not isinstance(key, str) or not 0 < len(key) <= 200 or not key.isascii() or not key.isprintable():
        raise InvalidArgumentError(
            f"key is {key!r}.", hint="Give up to 200 printable ASCII characters, or leave it out."
        )
    return key


def _checked_webhook(url: str) -> str:
    parts = urlsplit(url)
    if parts.hostname and (
        parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))
    ):
        return url
    raise InvalidArgumentError("webhook is not an https address.", hint="Give it as https://host/path.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def can_be(task: Task, entry: Submission) -> bool:
    """Tell whether a task may be what became of a submission: as far as the server tells, all is equal."""
    request = entry.request
    pairs: list[tuple[Any, Any]] = [
        (task.type, entry.type),
        (task.model, request.get("model")),
        (task.prompt, request.get("prompt")),
    ]
    pairs += [(task.raw.get(name), request.get(name)) for name in _COMPARED]
    known = all(not theirs or not ours or theirs == ours for theirs, ours in pairs)
    return known and task.prompt == request.get("prompt") and is_recent(task, entry)


def is_recent(task: Task, entry: Submission) -> bool:
    """Tell whether a task was not made before its submission was written down."""
    return task.created_at is None or task.created_at >= entry.at - CLOCK_SKEW


def nearest(tasks: Iterable[Task], entry: Submission) -> list[Task]:
    """Return the tasks that may be what became of a submission, the nearest in time first."""
    found = [task for task in tasks if can_be(task, entry)]
    return sorted(found, key=lambda task: abs((task.created_at or time.time()) - entry.at))
