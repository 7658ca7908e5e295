"""Still pictures: a composition of the exact size, with the prompt written on it."""

from __future__ import annotations

import io

from PIL import Image

from piccc.emulator.lettering import badge, caption
from piccc.emulator.scenes import scene
from piccc.emulator.tasks import Task

FORMATS = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}

_MOMENT = 0.4


def picture(task: Task) -> bytes:
    """Paint a task's picture; the same bytes for the same order, as PNG, JPEG or WebP."""
    ground = scene(task.prompt, task.seed, task.size).at(_MOMENT)
    frame = ground.resize(task.size, Image.Resampling.BICUBIC)
    caption(frame, task.prompt)
    badge(frame, label(task))
    file = io.BytesIO()
    frame.save(file, FORMATS[task.mime_type], quality=90, compress_level=3)
    return file.getvalue()


def label(task: Task) -> str:
    """Name what was ordered, for the badge."""
    width, height = task.size
    return f"{task.model}  ·  seed {task.seed}  ·  {task.aspect_ratio}  ·  {width}×{height}"
