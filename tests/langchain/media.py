"""Helpers of the media tool tests: fast-polling clients, and sync and async runs of tools and agents."""

from __future__ import annotations

import asyncio
from typing import Any

from piccc import AsyncClient, Client
from piccc.emulator import Emulator
from tests.media.paid import QUICK


def settings(emulator: Emulator, **options: Any) -> dict[str, Any]:
    """Return the settings of a client that polls tasks almost without pauses."""
    return {"base_url": emulator.base_url, "api_key": emulator.api_key, "polling": QUICK, **options}


def clients(emulator: Emulator, **options: Any) -> dict[str, Any]:
    """Return a sync and an async client."""
    return {
        "client": Client(**settings(emulator, **options)),
        "async_client": AsyncClient(**settings(emulator, **options)),
    }


def tool_call(name: str = "generate_image", id: str = "c1", **arguments: Any) -> dict[str, Any]:
    """Return a tool call in LangChain's format."""
    return {"type": "tool_call", "id": id, "name": name, "args": arguments}


class Way:
    """Sync or async calls: runs a method, or its async version in a new event loop."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.is_async = bool(prefix)

    def run(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return the method's result."""
        if not self._prefix:
            return getattr(owner, method)(*args, **kwargs)

        async def awaited() -> Any:
            return await getattr(owner, f"{self._prefix}{method}")(*args, **kwargs)

        return asyncio.run(awaited())
