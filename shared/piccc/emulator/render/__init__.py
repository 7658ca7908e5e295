"""Render and cache the outputs of finished tasks, and sign their URLs."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from piccc.emulator.tasks import Task

_LONGEST_NUMBER = 16
_SUFFIXES = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "video/mp4": "mp4"}


@dataclass(frozen=True, slots=True)
class OutputURLs:
    """Signed output URLs that expire; reading the task again returns a new one (assumed)."""

    secret: bytes
    lifetime: float

    def result(self, task: Task, now: float, base: str) -> dict[str, Any]:
        """Return the `result` of a completed task."""
        windows = math.floor((now - task.ends_at) / self.lifetime) + 1
        expires = int(task.ends_at + windows * self.lifetime)
        name = f"{task.id}.{_SUFFIXES[task.mime_type]}"
        width, height = task.size
        output = {
            "type": task.kind,
            "url": f"{base}/files/{name}?expires={expires}&signature={self._signature(name, expires)}",
            "mime_type": task.mime_type,
            "width": width,
            "height": height,
        }
        if task.duration_seconds is not None:
            output["duration_seconds"] = task.duration_seconds
        return {"outputs": [output], "expires_at": expires}

    def valid(self, name: str, expires: str, signature: str, now: float) -> bool:
        """Return whether the URL is genuine and has not expired."""
        if not (expires.isdecimal() and len(expires) < _LONGEST_NUMBER):
            return False
        genuine = hmac.compare_digest(self._signature(name, int(expires)).encode(), signature.encode())
        return genuine and now < int(expires)

    def _signature(self, name: str, expires: int) -> str:
        return blake2b(f"{name}?{expires}".encode(), key=self.secret, digest_size=16).hexdigest()


class MediaCache:
    """Renders each output once and caches the latest ones, up to `limit` bytes."""

    def __init__(self, limit: int = 128 * 1024 * 1024) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._making: dict[Hashable, asyncio.Future[bytes]] = {}

    async def get(self, task: Task) -> bytes:
        """Return a task's output file; concurrent requests share one rendering."""
        key = (
            task.kind,
            task.model,
            task.prompt,
            task.seed,
            task.size,
            task.duration_seconds,
            task.mime_type,
        )
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._making:
            self._making[key] = asyncio.ensure_future(self._make(key, task))
        return await asyncio.shield(self._making[key])

    async def _make(self, key: Hashable, task: Task) -> bytes:
        try:
            made = await asyncio.to_thread(_made, task)
        finally:
            del self._making[key]
        self._kept[key] = made
        while sum(map(len, self._kept.values())) > self._limit and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return made


def _made(task: Task) -> bytes:
    from piccc.emulator.render.drawing import render_image, render_video

    return render_video(task) if task.kind == "video" else render_image(task)
