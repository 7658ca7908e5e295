"""Many prompts as one batch: bounded requests, pauses for the account, and a run that continues."""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
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
from piccc.media.downloads import FilePath, save, target_of
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.media.ledgers import MemoryLedger, Submission
from piccc.media.requests import SpendLimit, TaskRequest, build_task_request, engine_run, key_of_row
from piccc.tasks import Task, TaskType, is_moderation

LONGEST_BATCH = 86_400.0
SUBMISSIONS = 20
SAVES = 8
"""How many tasks' outputs are saved at a time."""
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LAST_ANSWERS_SECONDS = 5.0
"""How long a batch that is broken off waits for the answers to submissions that are under way."""
LINE_SECONDS = 10.0
_NAMED = ("prompt", "model", "aspect_ratio", "resolution", "duration_seconds", "extra_body", "key", "webhook")
_FOR_ALL = (
    AuthenticationError,
    ConfigurationError,
    LedgerError,
    PaymentRequiredError,
    PermissionDeniedError,
    SpendLimitExceeded,
)
_SPENT = ("insufficient", "billing", "balance", "arrear", "overdue", "credit")
"""What the code of a 429 has in it where no pause will help."""

H = TypeVar("H", TaskHandle, AsyncTaskHandle)
_Result = tuple[H, str, bool]
"""A task that has ended, the key of its submission, and whether it is to be handed over."""
Row = str | Mapping[str, Any]
Rows = Iterable[Row]
OnResult = Callable[[TaskHandle], object]
AsyncOnResult = Callable[[AsyncTaskHandle], object | Awaitable[object]]


class Batch(Generic[H]):
    """What became of many prompts: iterate over it for the tasks that have ended, in the prompts' order.

    Attributes:
        tasks: the task of each row, ended or running; None where there is none.
        errors: by row, why it has no task, or why its task cannot be read or its outputs not be fetched.
        files: by row, what `save_to` wrote: paths, or URLs as texts.
    """

    def __init__(self) -> None:
        self.tasks: list[H | None] = []
        self.errors: dict[int, PicccError] = {}
        self.files: dict[int, list[Path | str]] = {}

    @property
    def running(self) -> list[H]:
        """The tasks that have not ended, of a batch that stopped: they go on and are paid for."""
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
    """How a batch is run; `Media.map` says what each option means."""

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
                raise InvalidArgumentError(f"{name} is {value!r}.", hint="Give a whole number above 0.")
        timeout = self.timeout
        if timeout is not None and (isinstance(timeout, bool) or not timeout > 0):
            raise InvalidArgumentError(f"timeout is {timeout!r}.", hint="Give seconds above 0, or None.")
        if self.run is not None and (not isinstance(self.run, str) or not self.run.strip()):
            raise InvalidArgumentError(f"run is {self.run!r:.80}.", hint="Give a name, or leave it out.")


@dataclass(slots=True)
class _Place:
    """One row on its way: what it asks for, and the ledger's entry where an earlier run submitted it."""

    number: int
    row: Row
    request: TaskRequest | None = None
    earlier: Submission | None = None
    is_absent: bool = False

    @property
    def name(self) -> str:
        """The id of its task, or the key of its submission where that has become none."""
        if self.earlier is not None and self.earlier.task_id:
            return self.earlier.task_id
        return self.request.key if self.request else ""


@dataclass(slots=True)
class _Found:
    """What a walk of the list found for rows of an earlier run, or for lost ones, by task id or key."""

    tasks: Mapping[str, Task] = field(default_factory=dict)
    is_complete: bool = False


class _Run(Generic[H]):
    """One batch. Submissions and walks of the list run in the background and append to `_answers`.

    Everything else happens where `next` is awaited, so only that deque is shared.
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
                f"map takes many prompts, not one: {prompts!r:.60}.", hint="Use generate, or give a list."
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
        self._watch = account.watch(timeout=LONGEST_BATCH if options.timeout is None else options.timeout)
        self._answers: deque[tuple[_Place, Task | BaseException] | tuple[str, _Found]] = deque()
        self._again: deque[_Place] = deque()
        self._is_exhausted = False
        self._under_way = 0
        self._running: dict[str, list[_Place]] = {}
        self._earlier: list[_Place] = []
        self._lost: list[_Place] = []
        self._lost_at = 0.0
        self._walks: set[str] = set()
        self._walked_for: list[_Place] = []
        self._ended: deque[tuple[_Place, Task]] = deque()
        self._saving = 0
        self._saved: deque[tuple[_Place, _Result[H], list[Path | str] | BaseException]] = deque()
        self._refusals = 0
        self._paused_until = 0.0
        self._has_succeeded = False
        self._stopped: PicccError | None = None
        self._report = _Progress(prompts) if options.progress else None
        self.batch: Batch[H] = Batch()

    async def judge(self) -> None:
        """Refuse a bad place for outputs, and bad rows where they can be looked at twice; nothing is sent."""
        if self._options.save_to is not None:
            await self._io.run(target_of, self._options.save_to)
        if isinstance(self._prompts, Sequence):
            await self._io.run(self._judge, self._prompts)

    def _judge(self, rows: Sequence[Row]) -> None:
        for number, row in enumerate(rows):
            self._build(number, row)
        self._numbers.clear()

    async def next(self) -> _Result[H] | None:
        """Return the next task that has ended, its key, whether it is to be handed over; None at the end."""
        while True:
            self._collect()
            if self._saved:
                return self._take_saved(*self._saved.popleft())
            if self._ended and self._saving < SAVES:
                place, task = self._ended.popleft()
                result = await self._end(place, task)
                if self._options.save_to is None or not (result[2] and result[0].outputs):
                    return result
                self._saving += 1
                self._io.start(partial(self._save, place, result))
                continue
            await self._fill()
            self._walk()
            if self._is_done():
                return None
            await self._sleep()

    def _is_done(self) -> bool:
        idle = not (self._under_way or self._walks or self._running or self._earlier or self._answers)
        idle = idle and not (self._saving or self._saved or self._ended)
        if self._stopped is not None:
            return idle
        return idle and self._is_exhausted and not self._again and not self._lost

    async def _fill(self) -> None:
        while self._has_room() and (place := self._draw()) is not None:
            self._under_way += 1
            if place.request is None:
                # One row after another: the first of equal rows keeps its key when the run is repeated.
                try:
                    place.request = await self._io.run(self._build, place.number, place.row)
                except PicccError as error:
                    self._answers.append((place, error))
                    self._watch.signal.set()
                    continue
            self._io.start(partial(self._submit, place, place.request))

    def _has_room(self) -> bool:
        # After a refusal one submission tries whether the account takes more; the others wait for it.
        at_once = 1 if self._refusals else self._options.submissions
        # What is not saved yet counts as running: where the place for it is full, little more is paid for.
        running = len(self._running) + self._saving + len(self._ended)
        return (
            self._stopped is None
            and self._watch.now() >= self._paused_until
            and self._under_way < at_once
            and self._under_way + running < self._options.concurrency
        )

    def _draw(self) -> _Place | None:
        if self._again:
            return self._again.popleft()
        try:
            number, row = next(self._rows)
        except StopIteration:
            self._is_exhausted = True
            return None
        self.batch.tasks.append(None)
        return _Place(number, row)

    async def _submit(self, place: _Place, request: TaskRequest) -> None:
        answer: Task | BaseException | None = None
        try:
            answer, place.earlier = await self._account.place(
                request,
                self._options.spend_limit,
                lost="resend" if place.is_absent else None,
                is_absent=place.is_absent,
                seconds=max(0.001, self._watch.deadline - self._watch.now()),
                retries=0,
            )
        except PicccError as error:
            answer = error
        except BaseException as error:
            answer = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._answers.append((place, answer or RuntimeError("A submission ended without an answer.")))
            self._watch.signal.set()

    def _build(self, number: int, row: Row) -> TaskRequest:
        """Make a row's request, under a key that the run and the row's content give again and again."""
        try:
            request = self._request(row)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"Row {number}: {error.message}", hint=error.hint) from error
        return request

    def _request(self, row: Row) -> TaskRequest:
        if not isinstance(row, str | Mapping):
            raise InvalidArgumentError(f"{row!r:.60} is no prompt.", hint="Give a text, or a mapping.")
        settings = {**self._row_options, **({"prompt": row} if isinstance(row, str) else row)}
        named = {name: settings.pop(name) for name in _NAMED if name in settings}
        prompt, key = named.pop("prompt", ""), named.pop("key", None)
        key = self._key_of if key is None else key
        return build_task_request(self._type, prompt, key=key, **named, extra=settings)

    def _key_of(self, digest: str) -> str:
        numbers = self._numbers.setdefault(digest, itertools.count())
        return key_of_row(self._run, digest, next(numbers))

    def _collect(self) -> None:
        while self._answers:
            answer = self._answers.popleft()
            if isinstance(answer[0], str):
                self._take_walk(answer[0], answer[1])
            else:
                self._under_way -= 1
                self._take(*answer)
        while True:
            try:
                task = self._watch.take()
            except PicccError as error:
                for place in self._running.pop(error.task_id or "", ()):
                    self._unread(place, error)
                continue
            if task is None:
                return
            self._ended.extend((place, task) for place in self._running.pop(task.id, ()))

    def _take(self, place: _Place, answer: Task | BaseException) -> None:
        if isinstance(answer, Task):
            if place.earlier is None:
                self._has_succeeded, self._refusals = True, 0
                self._wait_for(place, answer)
            else:
                self._earlier.append(place)  # which the ledger knew: it says nothing of the server
        elif not isinstance(answer, PicccError):
            raise answer
        else:
            self._take_error(place, answer)

    def _take_error(self, place: _Place, error: PicccError) -> None:
        is_load = isinstance(error, RateLimitError | OverloadedError)
        is_spent = is_load and any(word in (error.code or "").lower() for word in _SPENT)
        if isinstance(error, SubmissionUnknown):
            self.batch.errors[place.number] = error
            self._lost.append(place)
            self._lost_at = self._watch.now()
            if (
                error.__cause__ is not None
            ):  # it was sent now: a server that is down must not be given all rows
                self._pause(error)
        elif isinstance(error, LedgerError) and error.tasks:
            # It was accepted and could not be written down: the caller gets the task all the same.
            self._wait_for(place, error.tasks[0])
            self._stopped = self._stopped or error
        elif is_moderation(error.code):
            self.batch.errors[place.number] = error
        elif is_spent or isinstance(error, _FOR_ALL):
            self._stop(place, error)
        elif is_load or (isinstance(error, APIConnectionError) and self._has_succeeded):
            self._pause(error)
            self._again.appendleft(place)
        elif isinstance(error, APIConnectionError):
            self._stop(place, error)  # nothing has ever come from there: the address may be wrong
        elif isinstance(error, InvalidArgumentError) and place.request is None:
            self._stop(place, error)
        else:
            self.batch.errors[place.number] = error

    def _stop(self, place: _Place, error: PicccError) -> None:
        self._stopped = self._stopped or error
        self._again.appendleft(place)

    def _pause(self, error: PicccError) -> None:
        now = self._watch.now()
        if (
            now >= self._paused_until
        ):  # those that were under way together are refused together, and count once
            self._refusals += 1
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._refusals - 1, 10))
        wait = max(longest * (1 + self._io.random()) / 2, error.retry_after or 0.0)
        self._paused_until = max(self._paused_until, now + wait)

    def _wait_for(self, place: _Place, task: Task) -> None:
        self.batch.errors.pop(place.number, None)
        self.batch.tasks[place.number] = self._handle(task, self._account)
        self._running.setdefault(task.id, []).append(place)
        self._watch.add(task)

    def _unread(self, place: _Place, error: PicccError) -> None:
        if isinstance(error, NotFoundError) and place.earlier is not None and place.earlier.is_handled:
            self._ended.append((place, self._purged(place, error.task_id or "")))
        else:
            self.batch.errors[place.number] = error

    def _purged(self, place: _Place, task_id: str) -> Task:
        """Return what is known of a task that was handed over earlier and is gone at the server."""
        body = place.request.body if place.request else {}
        return Task(
            task_id,
            "expired",
            self._type,
            str(body.get("model") or ""),
            str(body.get("prompt") or ""),
            error_message="it was handed over by an earlier run, and the server has deleted it since",
        )

    def _walk(self) -> None:
        """Read the list once for all rows of an earlier run, and at the end once for all lost ones."""
        rests = self._is_exhausted or self._stopped or len(self._running) >= self._options.concurrency
        if self._walks or self._under_way or not rests:
            return
        if self._earlier:
            self._walked_for, self._earlier = self._earlier, []
            self._start("earlier", self._look_up(self._walked_for))
        elif self._lost and not self._running and not self._again and self._stopped is None:
            self._walked_for, self._lost = self._lost, []
            self._start("lost", self._find_lost(self._walked_for))

    def _start(self, name: str, walk: Awaitable[_Found]) -> None:
        self._walks.add(name)

        async def work() -> None:
            found = _Found()
            try:
                found = await walk
            except PicccError:
                found = _Found()  # then each task is asked for by itself, and a lost row stays lost
            finally:
                self._answers.append((name, found))
                self._watch.signal.set()

        self._io.start(work)

    async def _look_up(self, places: Sequence[_Place]) -> _Found:
        return _Found(*await self._account.look_up([place.earlier for place in places if place.earlier]))

    async def _find_lost(self, places: Sequence[_Place]) -> _Found:
        account = self._account
        if self._options.lost == "resend":
            await self._io.sleep(max(0.0, self._lost_at + RESEND_SECONDS - self._watch.now()))
        entries = [await account.use_ledger(account.ledger.get, place.name) for place in places]
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

    def _take_walk(self, name: str, found: _Found) -> None:
        self._walks.discard(name)
        places, self._walked_for = self._walked_for, []
        for place in places:
            task = found.tasks.get(place.name)
            if name == "lost":
                self._take_lost(place, task, is_complete=found.is_complete)
            elif task is not None:
                self._wait_for(place, task)
            elif found.is_complete and place.earlier is not None and place.earlier.is_handled:
                self._ended.append((place, self._purged(place, place.name)))
            else:
                self._wait_for(place, Task(place.name))

    def _take_lost(self, place: _Place, task: Task | None, *, is_complete: bool) -> None:
        if task is not None:
            self._wait_for(place, task)
        elif is_complete and self._options.lost == "resend" and not place.is_absent:
            place.is_absent = True
            del self.batch.errors[place.number]
            self._again.append(place)

    async def _sleep(self) -> None:
        now, deadline = self._watch.now(), self._watch.deadline
        if now >= deadline and not self._under_way:
            raise self._timeout()
        waiting = self._again or not self._is_exhausted
        until = min(deadline, self._paused_until) if waiting and self._paused_until > now else deadline
        if self._running:
            self._watch.keep_going()
        await self._watch.signal.wait(min(max(until - now, 0.01), 3600.0))

    def _timeout(self) -> TaskWaitTimeout:
        running = self.batch.running
        first = f"Task {running[0].id} is still {running[0].status}" if running else "Not every row was sent"
        return TaskWaitTimeout(
            f"{first} after {self._watch.now() - self._watch.started:.0f} s.",
            task_id=running[0].id if running else None,
            task=running[0] if running else None,
        )

    async def _end(self, place: _Place, task: Task) -> tuple[H, str, bool]:
        known = self.batch.tasks[place.number]
        handle = self._handle(task, self._account) if known is None else known.take(task)
        self.batch.tasks[place.number] = handle
        if self._report is not None:
            self._report.show(self.batch)
        key = place.request.key if place.request else ""
        if place.earlier is None:
            return handle, key, True
        # Another process may run the same rows and have handed it over meanwhile.
        entry = await self._account.use_ledger(self._account.ledger.get, key)
        return handle, key, entry is None or not entry.is_handled

    async def _save(self, place: _Place, result: _Result[H]) -> None:
        """Save the outputs of a task, in the background."""
        files: list[Path | str] | BaseException = []
        try:
            folder = f"{os.fspath(self._options.save_to or '')}/"
            files = [await save(self._account, result[0], each, folder) for each in result[0].outputs]
        except BaseException as error:
            files = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._saved.append((place, result, files))
            self._watch.signal.set()

    def _take_saved(
        self, place: _Place, result: _Result[H], files: list[Path | str] | BaseException
    ) -> _Result[H]:
        self._saving -= 1
        if isinstance(files, PicccError) and not isinstance(files.__cause__, OSError):
            self.batch.errors[place.number] = files  # the output's own fault
            handle, key, _ = result
            return handle, key, False
        if isinstance(files, BaseException):
            raise files  # the disk's or the store's, which is no fault of a row
        self.batch.files[place.number] = files
        return result

    async def handed_over(self, key: str) -> None:
        """Note that a result has been handed over."""
        await self._account.use_ledger(self._account.ledger.handled, key)

    async def broken_off(self, error: BaseException) -> BaseException:
        """Take in the answers to what is under way; return what to raise, with the batch on it."""
        self._stopped = self._stopped or PicccError("The batch was broken off.")
        until = self._watch.now() + LAST_ANSWERS_SECONDS
        while (self._under_way or self._saving > len(self._saved)) and (now := self._watch.now()) < until:
            await self._watch.signal.wait(until - now)
            try:
                self._collect()
            except BaseException as another:  # the first is what is raised
                error.add_note(f"{type(another).__name__}: {another}")
        is_an_argument = isinstance(error, InvalidArgumentError) and not any(self.batch.tasks)
        if is_an_argument or (isinstance(error, PicccError) and not self.batch.tasks):
            return error
        if isinstance(error, Exception):
            stopped = self._halted(error)
            stopped.__cause__ = error
            return stopped
        error.batch = self.batch  # type: ignore[attr-defined]  # Ctrl-C stays what it is
        error.add_note(self._hint())
        return error

    def result(self) -> Batch[H]:
        """Return the batch; raise why it stopped."""
        if self._report is not None:
            self._report.show(self.batch, is_last=True)
        if self._stopped is not None:
            raise self._stopped
        return self.batch

    def close(self) -> None:
        """Stop waiting."""
        self._watch.close()

    def _halted(self, error: Exception) -> BatchStopped:
        rows = len(self._prompts) if isinstance(self._prompts, Sized) else len(self.batch.tasks)
        said = error.message if isinstance(error, PicccError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, PicccError) else ""
        return BatchStopped(
            f"The batch stopped with {len(self.batch)} of {rows} tasks ended: {said}",
            hint=f"{hint} {self._hint()}".strip(),
            batch=self.batch,
        )

    def _hint(self) -> str:
        parts = ["This error's `batch` has every task that exists."]
        if running := len(self.batch.running):
            parts.append(
                f"{running} of them are running and paid for: client.tasks.wait_all(error.batch.running) "
                "waits for them."
            )
        if self._options.run is not None and not isinstance(self._account.ledger, MemoryLedger):
            parts.append(f"Map the same prompts with run={self._options.run!r} to go on.")
        elif self._options.run is not None:
            parts.append(f"In this process, map the same prompts with run={self._options.run!r} to go on.")
        else:
            parts.append("With run= and a ledger in a file, such a batch can go on in another process.")
        return " ".join(parts)


class BatchRun(_Run[TaskHandle]):
    """A batch for blocking code."""

    _handle = TaskHandle

    def finish(self, on_result: OnResult | None) -> Batch[TaskHandle]:
        """Run it to its end."""
        try:
            run_sync(self.judge())
            while (ended := run_sync(self.next())) is not None:
                handle, key, is_new = ended
                if on_result is not None and is_new:
                    on_result(handle)
                if is_new:
                    run_sync(self.handed_over(key))
            return self.result()
        except BaseException as error:
            broken_off = run_sync(self.broken_off(error))
        finally:
            self.close()
        raise broken_off


class AsyncBatchRun(_Run[AsyncTaskHandle]):
    """A batch for asynchronous code."""

    _handle = AsyncTaskHandle

    async def finish(self, on_result: AsyncOnResult | None) -> Batch[AsyncTaskHandle]:
        """Run it to its end."""
        try:
            await self.judge()
            while (ended := await self.next()) is not None:
                handle, key, is_new = ended
                if on_result is not None and is_new and inspect.isawaitable(done := on_result(handle)):
                    await done
                if is_new:
                    await self.handed_over(key)
            return self.result()
        except BaseException as error:
            broken_off = await self.broken_off(error)
        finally:
            self.close()
        raise broken_off


class _Progress:
    """How far a batch is: one line that changes on a terminal, a line now and then in a log."""

    def __init__(self, prompts: object) -> None:
        self._total = len(prompts) if isinstance(prompts, Sized) else None
        self._shown_at = time.monotonic()

    def show(self, batch: Batch[Any], *, is_last: bool = False) -> None:
        """Rewrite the line; into a log at most every ten seconds, and at the end."""
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
