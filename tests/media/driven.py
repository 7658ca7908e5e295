"""An asynchronous object that is used as if it were blocking: each call runs the loop until it is done."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from piccc import Polling

QUICK = Polling(min=0.01, max=0.03, requests_per_second=1000)
Connect = Callable[..., Any]


class Driven:
    """Whatever is got from it or returned by it is driven too, where it is a client, a task or an output."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self.inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if callable(found) and not isinstance(found, type):
            return self._call(found)
        return self._wrap(found)

    def __repr__(self) -> str:
        return repr(self.inner)

    def _call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done = function(*map(_bare, arguments), **options)
            if inspect.isasyncgen(done):
                return self._iterate(done)
            return self._wrap(self._runner.run(_awaited(done)) if inspect.isawaitable(done) else done)

        return call

    def _iterate(self, generator: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._wrap(self._runner.run(_awaited(anext(generator))))
            except StopAsyncIteration:
                return

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wrap(each) for each in value]
        is_ours = type(value).__module__.startswith("piccc.") and type(value).__name__.startswith("Async")
        return Driven(value, self._runner) if is_ours else value


def _bare(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bare(each) for each in value]
    return value.inner if isinstance(value, Driven) else value


async def _awaited(value: Any) -> Any:
    return await value
