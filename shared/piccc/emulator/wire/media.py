"""`/v1/images/tasks` and `/v1/videos/tasks`: what can be ordered.

Documented: the paths, model, prompt, aspect_ratio, resolution, duration_seconds and webhook.url. Assumed:
which values are allowed, that all but model and prompt may be left out, `seed` and `output_format`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from piccc.emulator.tasks import Kind
from piccc.emulator.wire.fields import INTEGRAL, Form

AspectRatio = Literal["1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9"]


_FAR = r"https://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"
_NEAR = r"http://(127\.0\.0\.1|localhost|\[::1\])"
_PORT = r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_REST = rf"(:{_PORT})?([/?][!-~]*)?"


class Webhook(Form):
    """Where to report the end of a task: https anywhere, http on loopback only."""

    url: Annotated[str, Field(pattern=f"^({_FAR}|{_NEAR}){_REST}$")]


class TaskRequest(Form):
    """What both kinds of task have in common."""

    model: Annotated[str, Field(min_length=1)]
    prompt: Annotated[str, Field(min_length=1, max_length=32_000)]
    seed: Annotated[int, Field(ge=0, lt=2**63), INTEGRAL] | None = None
    webhook: Webhook | None = None


class ImageTaskRequest(TaskRequest):
    """An order for a picture."""

    aspect_ratio: AspectRatio = "1:1"
    resolution: Literal["1K", "2K", "4K"] = "1K"
    output_format: Literal["png", "jpeg", "webp"] = "png"


class VideoTaskRequest(TaskRequest):
    """An order for a film; its length in whole seconds."""

    aspect_ratio: AspectRatio = "16:9"
    resolution: Literal["480p", "720p", "1080p"] = "720p"
    duration_seconds: Annotated[int, Field(ge=1, le=30), INTEGRAL] = 6


FORMS: dict[Kind, type[ImageTaskRequest] | type[VideoTaskRequest]] = {
    "image": ImageTaskRequest,
    "video": VideoTaskRequest,
}
