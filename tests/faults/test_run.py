"""Blocking and background work of the backends: where it runs, and what becomes of its result."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue

import pytest

from piccc._http import connections
from piccc._http.backends import AsyncBackend, SyncBackend, run_sync
from piccc._http.library import call_within

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


def in_background(function: Callable[[], None]) -> None:
    async def work() -> None:
        function()

    SyncBackend().start(work)


def with_deadline(function: Callable[[], None]) -> None:
    call_within(time.monotonic() + 60, function, discard=lambda late: None)


@pytest.fixture
def idle_seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Set how long threads stay idle; those that would stay long end soon after the test."""
    yield partial(monkeypatch.setattr, connections, "THREAD_IDLE_SECONDS")
    monkeypatch.undo()
    while connections._idle_threads:
        connections._idle_threads.pop().put(lambda: None)


WAYS = pytest.mark.parametrize("run", [in_background, with_deadline])
Run = Callable[[Callable[[], None]], None]


@WAYS
def test_work_in_a_thread_sees_the_callers_context_and_the_thread_ends_when_idle(
    run: Run, idle_seconds: Callable[[float], None]
) -> None:
    idle_seconds(0.001)
    PLACE.set("here")
    seen: SimpleQueue[tuple[threading.Thread, str]] = SimpleQueue()
    run(lambda: seen.put((threading.current_thread(), PLACE.get())))
    thread, place = seen.get(timeout=30)
    assert thread is not threading.current_thread()
    assert thread.daemon  # it never delays the program's exit
    assert place == "here"
    thread.join(30)
    assert not thread.is_alive()


@WAYS
def test_an_idle_thread_keeps_no_reference_to_its_last_work(
    run: Run, idle_seconds: Callable[[float], None]
) -> None:
    class Held:
        def work(self) -> None:
            pass

    idle_seconds(60.0)
    for _ in range(2):  # on a new thread, and on one that has worked before
        held, gone = Held(), threading.Event()
        weakref.finalize(held, gone.set)
        run(held.work)
        del held
        assert gone.wait(30)


@WAYS
def test_work_is_not_lost_when_the_idle_thread_is_about_to_end(
    run: Run, idle_seconds: Callable[[float], None]
) -> None:
    idle_seconds(0.0)
    done = threading.Semaphore(0)
    for _ in range(300):
        run(done.release)
        assert done.acquire(timeout=30)


@WAYS
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_wait_for_its_parents_idle_threads(
    run: Run, idle_seconds: Callable[[float], None]
) -> None:
    idle_seconds(60.0)
    run(lambda: None)
    deadline = time.monotonic() + 30
    while not connections._idle_threads:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Newer Pythons warn of any fork beside threads
        child = os.fork()
    if child == 0:
        done = threading.Event()
        threading.Timer(30, os._exit, [2]).start()
        run(done.set)
        os._exit(0 if done.wait(20) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
