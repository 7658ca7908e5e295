"""Clients and request bodies for the emulator's tests."""

from __future__ import annotations

from typing import Any

import httpx

from piccc.emulator import Emulator


def connect(emulator: Emulator, **options: Any) -> httpx.Client:
    """Open a client with the emulator's key and a timeout that suits a busy machine."""
    headers = {"authorization": f"Bearer {emulator.api_key}"}
    options = {"timeout": 60, **options}
    return httpx.Client(base_url=emulator.base_url, headers=headers, trust_env=False, **options)


def chat(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """Return a request body for `/v1/chat/completions`."""
    return {"model": "piccc-pro", "messages": [{"role": "user", "content": text}], **fields}


def message(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """Return a request body for `/v1/messages`."""
    return {"max_tokens": 500, **chat(text, **fields)}


def image(prompt: str = "a ceramic mug", **fields: Any) -> dict[str, Any]:
    """Return a request body for an image task."""
    return {"model": "piccc-image", "prompt": prompt, **fields}


def video(prompt: str = "a ceramic mug turns", **fields: Any) -> dict[str, Any]:
    """Return a request body for a video task."""
    return {"model": "piccc-video", "prompt": prompt, **fields}
