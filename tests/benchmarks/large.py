"""A large conversation: encode and send 2,000 messages, 50 of them with an image.

Memory is a call's peak resident size over that before the call, which includes the inputs, as a multiple of
the inputs; Linux only.
"""

from __future__ import annotations

import os
import random
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.benchmarks.cpu import cpu, settle
from tests.benchmarks.subjects import make

MESSAGES, IMAGES, IMAGE_BYTES = 2_000, 50, 500_000
PNG = b"\x89PNG\r\n\x1a\n"


def large(subject: str, server: str) -> dict[str, float]:
    """Return a call's CPU milliseconds and memory."""
    model: Any = make(subject, f"{server}/call")
    messages, size = _conversation(model)
    return {
        "2,000 messages with 50 images, ms": cpu(lambda: model.send(messages), 1) / 1e3,
        "2,000 messages with 50 images: memory, times the inputs": _memory(model, messages) / size,
    }


def again(subject: str, server: str) -> float:
    """Return the memory of a call refused twice by the server, as a multiple of the inputs."""
    model: Any = make(subject, f"{server}/refused-{os.getpid()}")
    messages, size = _conversation(model)
    return _memory(model, messages) / size


def _conversation(model: Any) -> tuple[list[Any], int]:
    """Warm up, and return a conversation and its size."""
    chance = random.Random(5)
    texts = ["".join(chance.choices("etaoin shrdlu", k=200)) for _ in range(MESSAGES)]
    images = [b64encode(PNG + chance.randbytes(IMAGE_BYTES)).decode() for _ in range(IMAGES)]
    model.call()
    model.send(model.conversation(texts[:1], images[:1]))
    return model.conversation(texts, images), sum(map(len, (*texts, *images)))


def _memory(model: Any, messages: list[Any]) -> float:
    settle()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak size: proc(5)
    before = _status("VmRSS:")
    model.send(messages)
    return _status("VmHWM:") - before


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(name)[2].split()[0]) * 1024
