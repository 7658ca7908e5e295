"""Blocking work of the backends: where it runs, and what becomes of its result."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from piccc._http.backends import AsyncBackend, SyncBackend, run_sync

PLACE: ContextVar[str] = ContextVar("place", default="elsewhere")


def where(*args: int) -> tuple[int, int, str]:
    return threading.get_ident(), sum(args), PLACE.get()


def fail() -> None:
    raise KeyError("from the function")


def test_blocking_work_of_the_sync_backend_runs_where_it_is_called() -> None:
    thread, total, _ = run_sync(SyncBackend().run(where, 1, 2))
    assert (thread, total) == (threading.get_ident(), 3)
    with pytest.raises(KeyError, match="from the function"):
        run_sync(SyncBackend().run(fail))


async def test_blocking_work_of_the_async_backend_leaves_the_event_loop_free() -> None:
    PLACE.set("here")
    done = threading.Event()
    waiting = asyncio.create_task(AsyncBackend().run(done.wait, 60))
    thread, total, place = await AsyncBackend().run(where, 1, 2)  # the loop turns while the other one waits
    assert (total, place) == (3, "here")
    assert thread != threading.get_ident()
    done.set()
    assert await waiting
    with pytest.raises(KeyError, match="from the function"):
        await AsyncBackend().run(fail)


async def test_cancelled_blocking_work_ends_by_itself_and_disturbs_nobody() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(60)
        ended.set()

    task = asyncio.create_task(AsyncBackend().run(work))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await AsyncBackend().run(ended.wait, 60)
