"""Run many prompts as one batch: limited concurrency, pauses on overload, resumable runs."""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from piccc._http.backends import run_sync
from piccc.errors import (
    APIConnectionError,
    AuthenticationError,
    BatchStopped,
    ConfigurationError,
    InvalidArgumentError,
    LedgerError,
    NotFoundError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    PicccError,
    RateLimitError,
    SpendLimitExceeded,
    SubmissionUnknown,
    TaskWaitTimeout,
)
from piccc.media.account import RESEND_SECONDS, Account, Lost
from piccc.media.display import gallery
from piccc.media.downloads import FilePath, check_target, save
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.media.ledgers import MemoryLedger, Submission
from piccc.media.polling import still_running
from piccc.media.requests import SpendLimit, TaskRequest, build_task_request, engine_run, key_of_row
from piccc.tasks import Task, TaskType, is_moderation

LONGEST_BATCH = 86_400.0
SUBMISSIONS = 20
SAVES = 8
"""Number of tasks whose outputs are saved concurrently."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LAST_RESPONSES_SECONDS = 5.0
"""How long an interrupted batch waits for responses to submissions in flight."""
LINE_SECONDS = 10.0
_NAMED = ("prompt", "model", "aspect_ratio", "resolution", "duration_seconds", "extra_body", "key", "webhook")
_FATAL = (
    AuthenticationError,
    ConfigurationError,
    LedgerError,
    PaymentRequiredError,
    PermissionDeniedError,
    SpendLimitExceeded,
)
_OUT_OF_CREDIT = ("insufficient", "billing", "balance", "arrear", "overdue", "credit")
"""Substrings of a 429's error code that mean that waiting does not help."""

H = TypeVar("H", TaskHandle, AsyncTaskHandle)
_Result = tuple[H, str, bool]
"""A finished task, its submission's key, and whether to deliver it to the caller."""
Row = str | Mapping[str, Any]
Rows = Iterable[Row]
OnResult = Callable[[TaskHandle], object]
AsyncOnResult = Callable[[AsyncTaskHandle], object | Awaitable[object]]


class Batch(Generic[H]):
    """The results of `map`; iterating yields the finished tasks in the order of their prompts.

    Attributes:
        tasks: each row's task, finished or running, or None.
        errors: by row, why there is no task, or why it could not be read or its outputs fetched.
        files: by row, what `save_to` wrote: paths, or URLs as strings.
    """

    def __init__(self) -> None:
        self.tasks: list[H | None] = []
        self.errors: dict[int, PicccError] = {}
        self.files: dict[int, list[Path | str]] = {}

    @property
    def running(self) -> list[H]:
        """The unfinished tasks of a stopped batch. They keep running and are billed."""
        return [task for task in self.tasks if task is not None and not task.is_terminal]

    def __iter__(self) -> Iterator[H]:
        return (task for task in self.tasks if task is not None and task.is_terminal)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        completed = sum(task.status == "completed" for task in self)
        return f"<Batch: {completed} completed of {len(self.tasks)}, {len(self.errors)} errors>"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return {"text/html": gallery(self), "text/plain": repr(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """The options of a batch; see `Media.map`."""

    run: str | None
    lost: Lost
    concurrency: int
    submissions: int
    spend_limit: SpendLimit
    timeout: float | None
    progress: bool
    save_to: FilePath | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "submissions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidArgumentError(f"{name} is {value!r}.", hint="Pass a positive integer.")
        if self.timeout is not None and self.timeout <= 0:
            raise InvalidArgumentError(
                f"timeout is {self.timeout!r}.", hint="Pass a positive number of seconds, or None."
            )
        if self.run is not None and (not isinstance(self.run, str) or not self.run.strip()):
            raise InvalidArgumentError(f"run is {self.run!r:.80}.", hint="Pass a name, or omit it.")


@dataclass(slots=True)
class _Item:
    """One row in progress: its request, and its ledger entry if an earlier run submitted it."""

    number: int
    row: Row
    request: TaskRequest | None = None
    earlier: Submission | None = None
    is_absent: bool = False

    @property
    def name(self) -> str:
        """The task's id, or the submission's key if it has no task yet."""
        if self.earlier is not None and self.earlier.task_id:
            return self.earlier.task_id
        return self.request.key if self.request else ""


@dataclass(slots=True)
class _Found:
    """The tasks found by a scan of the list, by task id for earlier rows or by key for lost ones."""

    tasks: Mapping[str, Task] = field(default_factory=dict)
    is_complete: bool = False


class _Run(Generic[H]):
    """One batch. Background submissions and scans of the list append to `_completed`.

    Everything else runs in `next`, so only the deques are shared.
    """

    _handle: type[H]

    def __init__(
        self,
        account: Account,
        type: TaskType,
        prompts: Rows,
        row_options: Mapping[str, Any],
        options: BatchOptions,
    ) -> None:
        if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
            raise InvalidArgumentError(
                f"map takes several prompts, not one: {prompts!r:.60}.", hint="Use generate, or pass a list."
            )
        self._account = account
        self._io = account.session.io
        self._type: TaskType = type
        self._row_options = row_options
        self._options = options
        self._prompts = prompts
        self._rows = enumerate(prompts)
        self._run = options.run or engine_run(account.ledger) or str(uuid.uuid4())
        self._numbers: dict[str, Iterator[int]] = {}
        self._subscription = account.watch(
            timeout=LONGEST_BATCH if options.timeout is None else options.timeout
        )
        self._completed: deque[tuple[_Item, Task | BaseException] | tuple[str, _Found]] = deque()
        self._retries: deque[_Item] = deque()
        self._is_exhausted = False
        self._in_flight = 0
        self._running: dict[str, list[_Item]] = {}
        self._earlier: list[_Item] = []
        self._lost: list[_Item] = []
        self._lost_at = 0.0
        self._scans: set[str] = set()
        self._scanned_for: list[_Item] = []
        self._ended: deque[tuple[_Item, Task]] = deque()
        self._saving = 0
        self._saved: deque[tuple[_Item, _Result[H], list[Path | str] | BaseException]] = deque()
        self._rejections = 0
        self._paused_until = 0.0
        self._has_succeeded = False
        self._stopped: PicccError | None = None
        self._progress = _Progress(prompts) if options.progress else None
        self.batch: Batch[H] = Batch()

    async def validate(self) -> None:
        """Check `save_to`, and the rows if they can be iterated twice, before anything is sent."""
        if self._options.save_to is not None:
            await self._io.run(partial(check_target, is_folder=True), self._options.save_to)
        if isinstance(self._prompts, Sequence):
            await self._io.run(self._validate, self._prompts)

    def _validate(self, rows: Sequence[Row]) -> None:
        for number, row in enumerate(rows):
            self._build(number, row)
        self._numbers.clear()

    async def next(self) -> _Result[H] | None:
        """Return the next finished task, its key, and whether to deliver it; None at the end."""
        while True:
            self._collect()
            if self._saved:
                return self._take_saved(*self._saved.popleft())
            if self._ended and self._saving < SAVES:
                item, task = self._ended.popleft()
                result = await self._end(item, task)
                if self._options.save_to is None or not (result[2] and result[0].outputs):
                    return result
                self._saving += 1
                self._io.start(partial(self._save, item, result))
                continue
            await self._fill()
            self._scan()
            if self._is_done():
                return None
            await self._sleep()

    def _is_done(self) -> bool:
        idle = not (self._in_flight or self._scans or self._running or self._earlier or self._completed)
        idle = idle and not (self._saving or self._saved or self._ended)
        if self._stopped is not None:
            return idle
        return idle and self._is_exhausted and not self._retries and not self._lost

    async def _fill(self) -> None:
        while self._has_room() and (item := self._next_item()) is not None:
            self._in_flight += 1
            if item.request is None:
                # Build rows in order, so that equal rows get the same keys when the run is repeated.
                try:
                    item.request = await self._io.run(self._build, item.number, item.row)
                except PicccError as error:
                    self._completed.append((item, error))
                    self._subscription.signal.set()
                    continue
            self._io.start(partial(self._submit, item, item.request))

    def _has_room(self) -> bool:
        # After a rejection, a single submission probes whether the account accepts more; the others wait.
        at_once = 1 if self._rejections else self._options.submissions
        # Unsaved tasks count as running: if the disk is full, little more is submitted and billed.
        running = len(self._running) + self._saving + len(self._ended)
        return (
            self._stopped is None
            and self._subscription.now() >= self._paused_until
            and self._in_flight < at_once
            and self._in_flight + running < self._options.concurrency
        )

    def _next_item(self) -> _Item | None:
        if self._retries:
            return self._retries.popleft()
        try:
            number, row = next(self._rows)
        except StopIteration:
            self._is_exhausted = True
            return None
        self.batch.tasks.append(None)
        return _Item(number, row)

    async def _submit(self, item: _Item, request: TaskRequest) -> None:
        outcome: Task | BaseException | None = None
        try:
            outcome, item.earlier = await self._account.place(
                request,
                self._options.spend_limit,
                lost="resend" if item.is_absent else None,
                is_absent=item.is_absent,
                seconds=max(0.001, self._subscription.deadline - self._subscription.now()),
                retries=0,
            )
        except BaseException as error:
            outcome = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._completed.append((item, outcome or RuntimeError("A submission ended without a result.")))
            self._subscription.signal.set()

    def _build(self, number: int, row: Row) -> TaskRequest:
        """Build a row's request, with a key derived from the run and the row's content."""
        try:
            return self._request(row)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"Row {number}: {error.message}", hint=error.hint) from error

    def _request(self, row: Row) -> TaskRequest:
        if not isinstance(row, str | Mapping):
            raise InvalidArgumentError(f"{row!r:.60} is not a prompt.", hint="Pass a string or a mapping.")
        settings = {**self._row_options, **({"prompt": row} if isinstance(row, str) else row)}
        named = {name: settings.pop(name) for name in _NAMED if name in settings}
        prompt, key = named.pop("prompt", ""), named.pop("key", None)
        key = self._key_of if key is None else key
        return build_task_request(self._type, prompt, key=key, **named, extra=settings)

    def _key_of(self, digest: str) -> str:
        numbers = self._numbers.setdefault(digest, itertools.count())
        return key_of_row(self._run, digest, next(numbers))

    def _collect(self) -> None:
        while self._completed:
            completed = self._completed.popleft()
            if isinstance(completed[0], str):
                self._take_scan(completed[0], completed[1])
            else:
                self._in_flight -= 1
                self._take(*completed)
        while True:
            try:
                task = self._subscription.take()
            except PicccError as error:
                for item in self._running.pop(error.task_id or "", ()):
                    self._read_failed(item, error)
                continue
            if task is None:
                return
            self._ended.extend((item, task) for item in self._running.pop(task.id, ()))

    def _take(self, item: _Item, outcome: Task | BaseException) -> None:
        if isinstance(outcome, Task):
            if item.earlier is None:
                self._has_succeeded, self._rejections = True, 0
                self._wait_for(item, outcome)
            else:
                self._earlier.append(item)  # from the ledger, so it says nothing about the server
        elif not isinstance(outcome, PicccError):
            raise outcome
        else:
            self._take_error(item, outcome)

    def _take_error(self, item: _Item, error: PicccError) -> None:
        is_load = isinstance(error, RateLimitError | OverloadedError)
        is_out_of_credit = is_load and any(word in (error.code or "").lower() for word in _OUT_OF_CREDIT)
        if isinstance(error, SubmissionUnknown):
            self.batch.errors[item.number] = error
            self._lost.append(item)
            self._lost_at = self._subscription.now()
            # It was sent just now: do not send all rows to a server in trouble.
            if error.__cause__ is not None:
                self._pause(error)
        elif isinstance(error, LedgerError) and error.tasks:
            # It was accepted but could not be recorded; the caller still gets the task.
            self._wait_for(item, error.tasks[0])
            self._stopped = self._stopped or error
        elif is_moderation(error.code):
            self.batch.errors[item.number] = error
        elif is_out_of_credit or isinstance(error, _FATAL):
            self._stop(item, error)
        elif is_load or (isinstance(error, APIConnectionError) and self._has_succeeded):
            self._pause(error)
            self._retries.appendleft(item)
        elif isinstance(error, APIConnectionError):
            self._stop(item, error)  # the server has never responded: the URL may be wrong
        elif isinstance(error, InvalidArgumentError) and item.request is None:
            self._stop(item, error)
        else:
            self.batch.errors[item.number] = error

    def _stop(self, item: _Item, error: PicccError) -> None:
        self._stopped = self._stopped or error
        self._retries.appendleft(item)

    def _pause(self, error: PicccError) -> None:
        now = self._subscription.now()
        if now >= self._paused_until:  # concurrent submissions are rejected together and count once
            self._rejections += 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._rejections - 1, 10))
        wait = max(longest * (1 + self._io.random()) / 2, error.retry_after or 0.0)
        self._paused_until = max(self._paused_until, now + wait)

    def _wait_for(self, item: _Item, task: Task) -> None:
        self.batch.errors.pop(item.number, None)
        self.batch.tasks[item.number] = self._handle(task, self._account)
        self._running.setdefault(task.id, []).append(item)
        self._subscription.add(task)

    def _read_failed(self, item: _Item, error: PicccError) -> None:
        if isinstance(error, NotFoundError) and item.earlier is not None and item.earlier.is_handled:
            self._ended.append((item, self._purged(item, error.task_id or "")))
        else:
            self.batch.errors[item.number] = error

    def _purged(self, item: _Item, task_id: str) -> Task:
        """Return what is known about a task that was delivered earlier and deleted by the server."""
        body = item.request.body if item.request else {}
        return Task(
            task_id,
            "expired",
            self._type,
            str(body.get("model") or ""),
            str(body.get("prompt") or ""),
            error_message="an earlier run returned it, and the server has deleted it since",
        )

    def _scan(self) -> None:
        """Scan the list once for all rows of an earlier run, and at the end once for all lost rows."""
        is_idle = self._is_exhausted or self._stopped or len(self._running) >= self._options.concurrency
        if self._scans or self._in_flight or not is_idle:
            return
        if self._earlier:
            self._scanned_for, self._earlier = self._earlier, []
            self._start("earlier", self._look_up(self._scanned_for))
        elif self._lost and not self._running and not self._retries and self._stopped is None:
            self._scanned_for, self._lost = self._lost, []
            self._start("lost", self._find_lost(self._scanned_for))

    def _start(self, name: str, scan: Awaitable[_Found]) -> None:
        self._scans.add(name)

        async def work() -> None:
            found = _Found()
            try:
                with suppress(PicccError):  # each task is then read individually, and lost rows stay lost
                    found = await scan
            finally:
                self._completed.append((name, found))
                self._subscription.signal.set()

        self._io.start(work)

    async def _look_up(self, items: Sequence[_Item]) -> _Found:
        return _Found(*await self._account.look_up([item.earlier for item in items if item.earlier]))

    async def _find_lost(self, items: Sequence[_Item]) -> _Found:
        account = self._account
        if self._options.lost == "resend":
            await self._io.sleep(max(0.0, self._lost_at + RESEND_SECONDS - self._subscription.now()))
        entries = [await account.use_ledger(account.ledger.get, item.name) for item in items]
        found = {entry.key: Task(entry.task_id) for entry in entries if entry and entry.task_id}
        lost = [entry for entry in entries if entry and not entry.task_id]
        candidates, is_complete = (
            await account.find_all(lost, is_proof=self._options.lost == "resend") if lost else ({}, True)
        )
        for key, tasks in candidates.items():
            for task in tasks:
                if await account.use_ledger(account.ledger.settle, key, task.id):
                    found[key] = task
                    break
        return _Found(found, is_complete)

    def _take_scan(self, name: str, found: _Found) -> None:
        self._scans.discard(name)
        items, self._scanned_for = self._scanned_for, []
        for item in items:
            task = found.tasks.get(item.name)
            if name == "lost":
                self._take_lost(item, task, is_complete=found.is_complete)
            elif task is not None:
                self._wait_for(item, task)
            elif found.is_complete and item.earlier is not None and item.earlier.is_handled:
                self._ended.append((item, self._purged(item, item.name)))
            else:
                self._wait_for(item, Task(item.name))

    def _take_lost(self, item: _Item, task: Task | None, *, is_complete: bool) -> None:
        if task is not None:
            self._wait_for(item, task)
        elif is_complete and self._options.lost == "resend" and not item.is_absent:
            item.is_absent = True
            del self.batch.errors[item.number]
            self._retries.append(item)

    async def _sleep(self) -> None:
        now, deadline = self._subscription.now(), self._subscription.deadline
        if now >= deadline and not self._in_flight:
            raise self._timeout()
        waiting = self._retries or not self._is_exhausted
        until = min(deadline, self._paused_until) if waiting and self._paused_until > now else deadline
        if self._running:
            self._subscription.keep_going()
        await self._subscription.signal.wait(min(max(until - now, 0.01), 3600.0))

    def _timeout(self) -> TaskWaitTimeout:
        running = self.batch.running
        seconds = self._subscription.now() - self._subscription.started
        return TaskWaitTimeout(
            still_running(running, seconds) if running else f"Not every row was sent after {seconds:.0f} s.",
            task_id=running[0].id if running else "",
            task=running[0] if running else None,
        )

    async def _end(self, item: _Item, task: Task) -> tuple[H, str, bool]:
        known = self.batch.tasks[item.number]
        handle = self._handle(task, self._account) if known is None else known.take(task)
        self.batch.tasks[item.number] = handle
        if self._progress is not None:
            self._progress.show(self.batch)
        key = item.request.key if item.request else ""
        if item.earlier is None:
            return handle, key, True
        # Another process running the same rows may have delivered it in the meantime.
        entry = await self._account.use_ledger(self._account.ledger.get, key)
        return handle, key, entry is None or not entry.is_handled

    async def _save(self, item: _Item, result: _Result[H]) -> None:
        """Save a task's outputs in the background."""
        files: list[Path | str] | BaseException = []
        try:
            folder = f"{os.fspath(self._options.save_to or '')}/"
            files = [await save(self._account, result[0], output, folder) for output in result[0].outputs]
        except BaseException as error:
            files = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._saved.append((item, result, files))
            self._subscription.signal.set()

    def _take_saved(
        self, item: _Item, result: _Result[H], files: list[Path | str] | BaseException
    ) -> _Result[H]:
        self._saving -= 1
        if isinstance(files, PicccError) and not isinstance(files.__cause__, OSError):
            self.batch.errors[item.number] = files  # this output's fault
            handle, key, _ = result
            return handle, key, False
        if isinstance(files, BaseException):
            raise files  # the disk or the object store failed, which affects every row
        self.batch.files[item.number] = files
        return result

    async def mark_delivered(self, key: str) -> None:
        """Record that a result was delivered to the caller."""
        await self._account.use_ledger(self._account.ledger.handled, key)

    async def interrupted(self, error: BaseException) -> BaseException:
        """Collect responses to submissions in flight; return the exception to raise, with the batch on it."""
        self._stopped = self._stopped or PicccError("The batch was interrupted.")
        until = self._subscription.now() + LAST_RESPONSES_SECONDS
        while (self._in_flight or self._saving > len(self._saved)) and (
            now := self._subscription.now()
        ) < until:
            await self._subscription.signal.wait(until - now)
            try:
                self._collect()
            except BaseException as later:  # the first one is raised
                error.add_note(f"{type(later).__name__}: {later}")
        is_an_argument = isinstance(error, InvalidArgumentError) and not any(self.batch.tasks)
        if is_an_argument or (isinstance(error, PicccError) and not self.batch.tasks):
            return error
        if isinstance(error, Exception):
            stopped = self._stopped_error(error)
            stopped.__cause__ = error
            return stopped
        error.batch = self.batch  # type: ignore[attr-defined]  # e.g. KeyboardInterrupt, which keeps its type
        error.add_note(self._hint())
        return error

    def result(self) -> Batch[H]:
        """Return the batch, or raise the error that stopped it."""
        if self._progress is not None:
            self._progress.show(self.batch, is_last=True)
        if self._stopped is not None:
            raise self._stopped
        return self.batch

    def close(self) -> None:
        """Stop waiting."""
        self._subscription.close()

    def _stopped_error(self, error: Exception) -> BatchStopped:
        rows = len(self._prompts) if isinstance(self._prompts, Sized) else len(self.batch.tasks)
        reason = error.message if isinstance(error, PicccError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, PicccError) else ""
        return BatchStopped(
            f"The batch stopped with {len(self.batch)} of {rows} tasks finished: {reason}",
            hint=f"{hint} {self._hint()}".strip(),
            batch=self.batch,
        )

    def _hint(self) -> str:
        parts = ["The error's `batch` holds every task created so far."]
        if running := len(self.batch.running):
            parts.append(
                f"{running} of them are running and billed: wait with "
                "client.tasks.wait_all(error.batch.running)."
            )
        if self._options.run is not None and not isinstance(self._account.ledger, MemoryLedger):
            parts.append(f"To continue, map the same prompts with run={self._options.run!r}.")
        elif self._options.run is not None:
            parts.append(f"To continue in this process, map the same prompts with run={self._options.run!r}.")
        else:
            parts.append("With run= and a ledger in a file, a batch can continue in another process.")
        return " ".join(parts)


class BatchRun(_Run[TaskHandle]):
    """A batch for synchronous code."""

    _handle = TaskHandle

    def finish(self, on_result: OnResult | None) -> Batch[TaskHandle]:
        """Run the batch to completion."""
        try:
            run_sync(self.validate())
            while (ended := run_sync(self.next())) is not None:
                handle, key, is_new = ended
                if on_result is not None and is_new:
                    on_result(handle)
                if is_new:
                    run_sync(self.mark_delivered(key))
            return self.result()
        except BaseException as error:
            interruption = run_sync(self.interrupted(error))
        finally:
            self.close()
        raise interruption


class AsyncBatchRun(_Run[AsyncTaskHandle]):
    """A batch for asynchronous code."""

    _handle = AsyncTaskHandle

    async def finish(self, on_result: AsyncOnResult | None) -> Batch[AsyncTaskHandle]:
        """Run the batch to completion."""
        try:
            await self.validate()
            while (ended := await self.next()) is not None:
                handle, key, is_new = ended
                if on_result is not None and is_new and inspect.isawaitable(done := on_result(handle)):
                    await done
                if is_new:
                    await self.mark_delivered(key)
            return self.result()
        except BaseException as error:
            interruption = await self.interrupted(error)
        finally:
            self.close()
        raise interruption


class _Progress:
    """A batch's progress: one line, rewritten on a terminal or repeated occasionally in a log."""

    def __init__(self, prompts: object) -> None:
        self._total = len(prompts) if isinstance(prompts, Sized) else None
        self._shown_at = time.monotonic()

    def show(self, batch: Batch[Any], *, is_last: bool = False) -> None:
        """Write the line; in a log at most every ten seconds, and at the end."""
        is_terminal = sys.stderr.isatty()
        now = time.monotonic()
        if not is_terminal and not is_last and now < self._shown_at + LINE_SECONDS:
            return
        self._shown_at = now
        ended = len(batch) + len(batch.errors)
        total = len(batch.tasks) if self._total is None or is_last else self._total
        failed = len(batch.errors) + sum(task.status != "completed" for task in batch)
        text = f"{ended}/{total}" + (f", {failed} failed" if failed else "")
        if is_terminal:
            filled = "█" * (ended * 20 // max(total, 1))
            text = f"\r{filled:░<20} {text}"
        sys.stderr.write(text + ("\n" if is_last or not is_terminal else ""))
        sys.stderr.flush()
