"""Waits that another thread or coroutine can end early."""

from __future__ import annotations

import asyncio
import threading


class BlockingSignal:
    """Wake a thread that waits."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Wake who waits, or who waits next; from any thread."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Return when it was set or when `seconds` have passed, and forget that it was set."""
        self._event.wait(seconds)
        self._event.clear()


class AsyncSignal:
    """Wake a coroutine that waits on the event loop which made this."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake who waits, or who waits next; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> None:
        """Return when it was set or when `seconds` have passed, and forget that it was set."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return
        finally:
            self._event.clear()
