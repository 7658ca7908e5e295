"""Waits that another thread or coroutine can end early, and a finalizer wherever it runs."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue


class BlockingSignal:
    """Wake a thread that waits."""

    def __init__(self) -> None:
        # Of all the standard library's means to wake a thread, this one alone may be used in a finalizer.
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wake who waits, or who waits next; from any thread."""
        if self._queue.empty():
            self._queue.put(None)

    async def wait(self, seconds: float) -> None:
        """Return when it was set or when `seconds` have passed, and forget that it was set."""
        with suppress(Empty):
            self._queue.get(timeout=min(seconds, threading.TIMEOUT_MAX))


class AsyncSignal:
    """Wake a coroutine that waits on the event loop which made this."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake who waits, or who waits next; from any thread."""
        with suppress(RuntimeError):  # for the loop may be closed, and then nobody waits on it
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
