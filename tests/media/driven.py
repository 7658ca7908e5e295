"""A blocking wrapper around an async object: each call runs the event loop until it completes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from piccc import Polling

QUICK = Polling(min=0.01, max=0.03, requests_per_second=1000)
Connect = Callable[..., Any]


class Driven:
    """A blocking view of an async client, task or output; its attributes and results are wrapped too."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self.inner = inner
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if callable(attribute) and not isinstance(attribute, type):
            return self._call(attribute)
        return self._wrap(attribute)

    def __repr__(self) -> str:
        return repr(self.inner)

    def _call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*map(_unwrap, arguments), **options)
            if inspect.isasyncgen(result):
                return self._iterate(result)
            return self._wrap(self._runner.run(_await(result)) if inspect.isawaitable(result) else result)

        return call

    def _iterate(self, generator: Any) -> Iterator[Any]:
        while True:
            try:
                yield self._wrap(self._runner.run(_await(anext(generator))))
            except StopAsyncIteration:
                return

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._wrap(each) for each in value]
        is_async = type(value).__module__.startswith("piccc.") and type(value).__name__.startswith("Async")
        return Driven(value, self._runner) if is_async else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_unwrap(each) for each in value]
    return value.inner if isinstance(value, Driven) else value


async def _await(value: Any) -> Any:
    return await value
