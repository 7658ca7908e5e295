"""What the tests of the media tools share: quick clients, and both ways to run a tool or an agent."""

from __future__ import annotations

import asyncio
from typing import Any

from piccc import AsyncClient, Client
from piccc.emulator import Emulator
from tests.media.paid import QUICK


def settings(emulator: Emulator, **options: Any) -> dict[str, Any]:
    """Return the settings of a client that asks about tasks without a pause worth the name."""
    return {"base_url": emulator.base_url, "api_key": emulator.api_key, "polling": QUICK, **options}


def clients(emulator: Emulator, **options: Any) -> dict[str, Any]:
    """Return a client of each kind."""
    return {
        "client": Client(**settings(emulator, **options)),
        "async_client": AsyncClient(**settings(emulator, **options)),
    }


def calling(name: str = "generate_image", id: str = "c1", **arguments: Any) -> dict[str, Any]:
    """Return a call as a model makes it."""
    return {"type": "tool_call", "id": id, "name": name, "args": arguments}


class Way:
    """Run a method, or its asynchronous twin in an event loop of its own."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.is_async = bool(prefix)

    def run(self, owner: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Return what the method returns."""
        if not self._prefix:
            return getattr(owner, method)(*args, **kwargs)

        async def awaited() -> Any:
            return await getattr(owner, f"{self._prefix}{method}")(*args, **kwargs)

        return asyncio.run(awaited())
