"""Where the backends run blocking and background work, and what happens to its result."""

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

MARKER: ContextVar[str] = ContextVar("marker", default="elsewhere")


def where(*args: int) -> tuple[int, int, str]:
    return threading.get_ident(), sum(args), MARKER.get()


def fail() -> None:
    raise KeyError("from the function")


def test_the_sync_backend_runs_blocking_work_in_the_calling_thread() -> None:
    thread, total, _ = run_sync(SyncBackend().run(where, 1, 2))
    assert (thread, total) == (threading.get_ident(), 3)
    with pytest.raises(KeyError, match="from the function"):
        run_sync(SyncBackend().run(fail))


async def test_the_async_backend_runs_blocking_work_off_the_event_loop() -> None:
    MARKER.set("here")
    done = threading.Event()
    waiting = asyncio.create_task(AsyncBackend().run(done.wait, 60))
    thread, total, marker = await AsyncBackend().run(where, 1, 2)  # the loop runs while the other call waits
    assert (total, marker) == (3, "here")
    assert thread != threading.get_ident()
    done.set()
    assert await waiting
    with pytest.raises(KeyError, match="from the function"):
        await AsyncBackend().run(fail)


async def test_cancelled_blocking_work_runs_to_its_end() -> None:
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(60)
        ended.set()

    task = asyncio.create_task(AsyncBackend().run(work))
    await asyncio.to_thread(started.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert await AsyncBackend().run(ended.wait, 60)


def in_background(function: Callable[[], None]) -> None:
    async def work() -> None:
        function()

    SyncBackend().start(work)


def with_deadline(function: Callable[[], None]) -> None:
    call_within(time.monotonic() + 60, function, discard=lambda late: None)


@pytest.fixture
def idle_seconds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Set how long threads stay idle; end idle threads after the test."""
    yield partial(monkeypatch.setattr, connections, "THREAD_IDLE_SECONDS")
    monkeypatch.undo()
    while connections._idle_threads:
        connections._idle_threads.pop().put(lambda: None)


RUNNERS = pytest.mark.parametrize("run", [in_background, with_deadline])
Run = Callable[[Callable[[], None]], None]


@RUNNERS
def test_a_thread_has_the_callers_context_and_ends_when_idle(
    run: Run, idle_seconds: Callable[[float], None]
) -> None:
    idle_seconds(0.001)
    MARKER.set("here")
    seen: SimpleQueue[tuple[threading.Thread, str]] = SimpleQueue()
    run(lambda: seen.put((threading.current_thread(), MARKER.get())))
    thread, marker = seen.get(timeout=30)
    assert thread is not threading.current_thread()
    assert thread.daemon  # it never delays the program's exit
    assert marker == "here"
    thread.join(30)
    assert not thread.is_alive()


@RUNNERS
def test_an_idle_thread_keeps_no_reference_to_its_last_work(
    run: Run, idle_seconds: Callable[[float], None]
) -> None:
    class Held:
        def work(self) -> None:
            pass

    idle_seconds(60.0)
    for _ in range(2):  # on a new thread, and on a reused one
        held, gone = Held(), threading.Event()
        weakref.finalize(held, gone.set)
        run(held.work)
        del held
        assert gone.wait(30)


@RUNNERS
def test_work_is_not_lost_when_an_idle_thread_is_about_to_end(
    run: Run, idle_seconds: Callable[[float], None]
) -> None:
    idle_seconds(0.0)
    done = threading.Semaphore(0)
    for _ in range(300):
        run(done.release)
        assert done.acquire(timeout=30)


@RUNNERS
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
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
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about any fork with threads
        child = os.fork()
    if child == 0:
        done = threading.Event()
        threading.Timer(30, os._exit, [2]).start()
        run(done.set)
        os._exit(0 if done.wait(20) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
