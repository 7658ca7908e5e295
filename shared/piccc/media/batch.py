"""Many prompts, so many at a time, in a run that goes on where it was broken off."""

from __future__ import annotations

import inspect
import sys
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from piccc._http.backend import run_sync
from piccc.errors import (
    APIConnectionError,
    AuthenticationError,
    BatchStopped,
    ConfigurationError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    PicccError,
    RateLimitError,
    SpendLimitExceeded,
    TaskWaitTimeout,
)
from piccc.media.account import Account
from piccc.media.display import gallery
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.media.limits import SpendLimit
from piccc.media.polling import Subscription
from piccc.media.requests import TaskRequest, build_task_request
from piccc.tasks import Task, TaskType

LONGEST_BATCH = 86_400.0
REFUSALS = 20
"""How often a row may be refused for the server's load before it fails."""
REFUSED_PAUSE = 5.0
_FOR_ALL = (
    APIConnectionError,
    AuthenticationError,
    SpendLimitExceeded,
    ConfigurationError,
    PaymentRequiredError,
    PermissionDeniedError,
)

H = TypeVar("H", TaskHandle, AsyncTaskHandle)
Rows = Iterable[str | Mapping[str, Any]]
OnResult = Callable[[TaskHandle], object]
AsyncOnResult = Callable[[AsyncTaskHandle], object | Awaitable[object]]


class Batch(Generic[H]):
    """What became of many prompts: iterate over it for the tasks that have ended, in the prompts' order.

    Attributes:
        tasks: the task of each row, None where there is none.
        errors: by row, why it has no task or why its task cannot be read.
    """

    def __init__(self, rows: int) -> None:
        self.tasks: list[H | None] = [None] * rows
        self.errors: dict[int, PicccError] = {}

    def __iter__(self) -> Iterator[H]:
        return (task for task in self.tasks if task is not None)

    def __len__(self) -> int:
        return sum(task is not None for task in self.tasks)

    def __repr__(self) -> str:
        completed = sum(task.status == "completed" for task in self)
        return f"<Batch: {completed} completed of {len(self.tasks)}, {len(self.errors)} errors>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": gallery(self), "text/plain": repr(self)}


class _Run(Generic[H]):
    _handle: type[H]

    def __init__(
        self,
        account: Account,
        type: TaskType,
        prompts: Rows,
        options: Mapping[str, Any],
        run: str | None,
        spend_limit: SpendLimit,
        timeout: float | None,
    ) -> None:
        self._account = account
        self._orders = list(_orders(type, prompts, options, run or str(uuid.uuid4())))
        self._allowance = spend_limit
        self._timeout = LONGEST_BATCH if timeout is None else timeout
        self._waiting = deque(range(len(self._orders)))
        self._rows: dict[str, list[int]] = {}
        self._ended: deque[tuple[int, Task]] = deque()
        self._refusals: Counter[int] = Counter()
        self._held_until = 0.0
        self._stopped: PicccError | None = None
        self.batch: Batch[H] = Batch(len(self._orders))

    def _watch(self) -> Subscription:
        return self._account.watch(timeout=self._timeout)

    async def _next(self, watching: Subscription, concurrency: int) -> tuple[H, bool] | None:
        """Return the next task that has ended, and whether it is to be handed over; None when all have."""
        while not self._ended:
            await self._submit_some(watching, concurrency)
            if not self._rows and not self._waiting:
                return None
            await self._wait(watching, concurrency)
        row, task = self._ended.popleft()
        handle = self.batch.tasks[row] = self._handle(task, self._account)
        entry = self._account.ledger.get(self._orders[row].key)
        return handle, entry is None or not entry.is_handled

    async def _submit_some(self, watching: Subscription, concurrency: int) -> None:
        while self._waiting and len(self._rows) < concurrency and watching.now() >= self._held_until:
            row = self._waiting.popleft()
            try:
                task = await self._account.submit(self._orders[row], self._allowance)
            except PicccError as error:
                self._note(row, error, watching.now())
            else:
                self._rows.setdefault(task.id, []).append(row)
                watching.add(task)

    def _note(self, row: int, error: PicccError, now: float) -> None:
        is_refusal = isinstance(error, RateLimitError | OverloadedError)
        if is_refusal and self._refusals[row] < REFUSALS:
            self._refusals[row] += 1
            self._waiting.appendleft(row)
            self._held_until = now + (REFUSED_PAUSE if error.retry_after is None else error.retry_after)
        elif isinstance(error, _FOR_ALL):
            self._stopped = error
            self._waiting.clear()
        else:
            self.batch.errors[row] = error

    async def _wait(self, watching: Subscription, concurrency: int) -> None:
        has_room = self._waiting and len(self._rows) < concurrency
        if has_room and not self._rows:
            await self._account.session.io.sleep(max(0.0, self._held_until - watching.now()))
            return
        try:
            task = await watching.next(self._held_until if has_room else None)
        except TaskWaitTimeout:
            raise
        except PicccError as error:
            for row in self._rows.pop(error.task_id or "", ()):
                self.batch.errors[row] = error
            return
        if task is not None:
            self._ended.extend((row, task) for row in self._rows.pop(task.id, ()))

    def _handled(self, handle: H) -> None:
        if key := self._account.ledger.key_of(handle.id):
            self._account.ledger.handled(key)

    def _result(self) -> Batch[H]:
        if self._stopped is not None:
            raise self._halted(self._stopped) from self._stopped
        return self.batch

    def _halted(self, error: PicccError) -> BatchStopped:
        done = f"{len(self.batch)} of {len(self.batch.tasks)} tasks ended"
        return BatchStopped(
            f"The batch stopped with {done}: {error.message}",
            hint=f"{error.hint} What was made is in this error's `batch`; "
            "map the same prompts with the same run= to go on.",
            batch=self.batch,
        )


class BatchRun(_Run[TaskHandle]):
    """A batch for blocking code."""

    _handle = TaskHandle

    def finish(self, concurrency: int, on_result: OnResult | None, *, progress: bool) -> Batch[TaskHandle]:
        """Run it to its end."""
        report = _Progress(self.batch) if progress else None
        try:
            with self._watch() as watching:
                while (ended := run_sync(self._next(watching, concurrency))) is not None:
                    handle, is_new = ended
                    if on_result is not None and is_new:
                        on_result(handle)
                    self._handled(handle)
                    if report:
                        report.show()
        except TaskWaitTimeout as error:
            raise self._halted(error) from error
        return self._result()


class AsyncBatchRun(_Run[AsyncTaskHandle]):
    """A batch for asynchronous code."""

    _handle = AsyncTaskHandle

    async def finish(
        self, concurrency: int, on_result: AsyncOnResult | None, *, progress: bool
    ) -> Batch[AsyncTaskHandle]:
        """Run it to its end."""
        report = _Progress(self.batch) if progress else None
        try:
            with self._watch() as watching:
                while (ended := await self._next(watching, concurrency)) is not None:
                    handle, is_new = ended
                    if on_result is not None and is_new and inspect.isawaitable(done := on_result(handle)):
                        await done
                    self._handled(handle)
                    if report:
                        report.show()
        except TaskWaitTimeout as error:
            raise self._halted(error) from error
        return self._result()


class _Progress:
    """A line on the terminal that says how far a batch is."""

    def __init__(self, batch: Batch[Any]) -> None:
        self._batch = batch

    def show(self) -> None:
        """Write the line anew."""
        batch = self._batch
        ended, total = len(batch) + len(batch.errors), len(batch.tasks)
        filled = "█" * (ended * 20 // total)
        failed = len(batch.errors) + sum(task.status != "completed" for task in batch)
        text = f"\r{filled:░<20} {ended}/{total}" + (f", {failed} failed" if failed else "")
        sys.stderr.write(text + ("\n" if ended == total else ""))
        sys.stderr.flush()


def _orders(type: TaskType, prompts: Rows, options: Mapping[str, Any], run: str) -> Iterator[TaskRequest]:
    """Make an order of each row, under a key that the run and the row's content give again and again."""
    seen: Counter[str] = Counter()
    for row in prompts:
        mine = {"prompt": row} if isinstance(row, str) else dict(row)
        settings = {**options, **mine}
        key, webhook = settings.pop("key", None), settings.pop("webhook", None)
        known = {name: settings.pop(name) for name in _NAMED if name in settings}
        ordered = build_task_request(type, known.pop("prompt", ""), key=key, **known, extra=settings)
        if key is None:
            digest = ordered.digest[:24]
            key = f"{run}/{digest}/{seen[digest]}"
            seen[digest] += 1
        if webhook is None:
            yield replace(ordered, key=key)
        else:
            yield build_task_request(
                type, str(ordered.body["prompt"]), key=key, webhook=webhook, **known, extra=settings
            )


_NAMED = ("prompt", "model", "aspect_ratio", "resolution", "duration_seconds")
