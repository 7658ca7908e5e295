"""Where a tool's progress goes: to the caller's function, a custom event, and LangGraph's stream."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForToolRun,
    CallbackManagerForToolRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig

from piccc.media.report import progress
from piccc.tasks import Task

EVENT = "piccc_task"
"""The name of the custom event that reports a task's progress."""

OnUpdate = Callable[[Task], object]
RunManager = CallbackManagerForToolRun | AsyncCallbackManagerForToolRun | None


class Progress:
    """Tell of a task's progress, from blocking code."""

    def __init__(self, on_update: OnUpdate | None, run_manager: RunManager) -> None:
        self._on_update = on_update
        self._config = RunnableConfig(callbacks=run_manager.get_child()) if run_manager else None
        self._write = _stream_writer()

    def tell(self, task: Task) -> None:
        """Tell of a task as it is now."""
        if self._on_update is not None:
            self._on_update(task)
        if self._write is not None:
            self._write({EVENT: progress(task)})
        if self._config is not None:
            self._dispatch(progress(task), self._config)

    def _dispatch(self, data: dict[str, Any], config: RunnableConfig) -> None:
        dispatch_custom_event(EVENT, data, config=config)


class AsyncProgress(Progress):
    """Tell of a task's progress, from a coroutine; `told` awaits what is still on its way."""

    def __init__(self, on_update: OnUpdate | None, run_manager: RunManager) -> None:
        super().__init__(on_update, run_manager)
        self._events: list[asyncio.Task[None]] = []

    async def told(self) -> None:
        """Wait until all events are out."""
        await asyncio.gather(*self._events, return_exceptions=True)

    def _dispatch(self, data: dict[str, Any], config: RunnableConfig) -> None:
        self._events.append(asyncio.ensure_future(adispatch_custom_event(EVENT, data, config=config)))


def _stream_writer() -> Callable[[Any], None] | None:
    if "langgraph" not in sys.modules:
        return None
    from langgraph.config import get_stream_writer

    try:
        return get_stream_writer()
    except (KeyError, RuntimeError):  # the tool is not run by a graph
        return None
