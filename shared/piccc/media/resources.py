"""`client.images`, `client.videos` and `client.tasks`, sync and async."""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from piccc._dialects.tasks import read_task
from piccc._http.backends import run_sync
from piccc.config import check_wait
from piccc.errors import InvalidArgumentError, PicccError, ResponseError
from piccc.media.account import Account, Lost, checked_lost
from piccc.media.batch import (
    SUBMISSIONS,
    AsyncBatchRun,
    AsyncOnResult,
    Batch,
    BatchOptions,
    BatchRun,
    OnResult,
    Rows,
)
from piccc.media.display import OnUpdate
from piccc.media.display import progress as shown_progress
from piccc.media.downloads import FilePath
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.media.ledgers import Submission
from piccc.media.polling import OnPoll
from piccc.media.requests import Receiver, SpendLimit, as_task, build_task_request, engine_run
from piccc.media.schedule import Pages
from piccc.tasks import Task, TaskType


class _Resource:
    def __init__(self, account: Account) -> None:
        self._account = account


class _Media(_Resource):
    def __init__(self, account: Account, type: TaskType) -> None:
        super().__init__(account)
        self._type: TaskType = type

    async def _submit(self, prompt: str, *, lost: Lost, **options: Any) -> Task:
        run = engine_run(self._account.ledger) if options.get("key") is None else None
        build = partial(build_task_request, self._type, prompt, run=run, **options)
        # Off the event loop, because reference files are read.
        return await self._account.submit(await self._account.session.io.run(build), lost=checked_lost(lost))


class Media(_Media):
    """Image or video tasks: `client.images`, `client.videos`."""

    def submit(
        self,
        prompt: str,
        *,
        model: str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        duration_seconds: float | None = None,
        webhook: str | Receiver | None = None,
        key: str | None = None,
        lost: Lost = "ask",
        extra_body: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> TaskHandle:
        """Submit a task and return immediately. Other keywords are added to the request.

        Args:
            prompt: what to generate.
            model: the model's id; defaults to `PICCC_IMAGE_MODEL` or `PICCC_VIDEO_MODEL`.
            aspect_ratio: for example "16:9".
            resolution: for example "1K" for an image, "720p" for a video.
            duration_seconds: a video's length.
            webhook: an https URL, or a receiver that provides one per submission.
            key: identifies the submission: reusing a key returns the same task instead of submitting again.
                By default random. In a task of Celery, Dask, DBOS, LangGraph, Ray or Temporal it is derived
                from that task and the request, so a rerun costs nothing and equal requests share a task.
            lost: what to do if an earlier submission of this key got no response and is not among the
                account's tasks: `ask` raises SubmissionUnknown; `resend` checks the list a minute after it
                and submits again. If the first process is still alive and that slow, both are billed.
            extra_body: fields merged into the request last, without validation.
            extra: other parameters of the server. A `Path`, bytes, a Pillow image, a finished task or an
                output, alone or in a list, is sent as a URL or a `data:` URL (assumed).

        Raises:
            InvalidArgumentError: an argument is invalid, or looks like a misspelling; nothing was sent.
            SpendLimitExceeded: the client's spend limit is used up; nothing was sent.
            LedgerError: the ledger is unavailable; nothing was sent, unless `task_id` is set.
            SubmissionUnknown: there was no response; the hint explains how to find the task.

        Examples:
            >>> from piccc import Client
            >>> client = Client()
            >>> task = client.images.submit("A ceramic mug", model="piccc-image", key="mug-1")
            >>> again = client.images.submit("A ceramic mug", model="piccc-image", key="mug-1")
            >>> again.id == task.id
            True
        """
        submission = self._submit(
            prompt,
            model=model,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            duration_seconds=duration_seconds,
            webhook=webhook,
            key=key,
            extra_body=extra_body,
            extra=extra,
            lost=lost,
        )
        return TaskHandle(run_sync(submission), self._account)

    def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        on_update: OnUpdate | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> TaskHandle:
        """Submit a task, wait for it, and return it with its outputs.

        Args:
            prompt: what to generate.
            timeout: seconds to wait; the default comes from the client's `Polling`.
            on_update: called with the task when its status or progress changes.
            progress: whether to show progress in a notebook, or on stderr if it is a terminal; by default
                only without `on_update`.
            options: the arguments of `submit`.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; subclasses give the reason.

        Examples:
            >>> from piccc import Client
            >>> task = Client().images.generate("A ceramic mug", model="piccc-image", aspect_ratio="1:1")
            >>> task.outputs[0].save("mug.png").name
            'mug.png'
        """
        check_wait(timeout, on_update)  # before paying
        task = self.submit(prompt, **options)
        with shown_progress(progress, on_update) as on_change:
            return task.wait(timeout=timeout, on_update=on_change)

    def map(
        self,
        prompts: Rows,
        *,
        run: str | None = None,
        concurrency: int = 50,
        submissions: int = SUBMISSIONS,
        on_result: OnResult | None = None,
        progress: bool = False,
        max_tasks: int | None = None,
        max_video_seconds: float | None = None,
        timeout: float | None = None,
        lost: Lost = "ask",
        save_to: FilePath | None = None,
        **options: Any,
    ) -> Batch[TaskHandle]:
        """Submit a task for each prompt, wait for all of them, and return the batch.

        If the server is busy (429, 503) or, after a first success, unreachable, the batch pauses and loses
        no row. Lost submissions are looked for at the end.

        Args:
            prompts: prompts, or mappings of `submit` arguments that override `options`. A sequence is
                validated before anything is sent; any other iterable is consumed as the batch proceeds.
            run: names the batch, in any language: with a persistent ledger, the same run resumes where it
                was interrupted. By default random, or derived from an engine's task, as for `submit`.
            concurrency: maximum number of running tasks.
            submissions: maximum number of concurrent submissions.
            on_result: called with each finished task, in the order they finish; once per run.
            progress: show a progress line on stderr.
            max_tasks: maximum number of tasks to submit.
            max_video_seconds: maximum seconds of video to submit.
            timeout: seconds for the whole batch; a day by default.
            lost: as for `submit`.
            save_to: a folder, or a URL as for `OutputHandle.save`. Each task's outputs are saved there before
                `on_result` is called; `batch.files` lists them.
            options: `submit` arguments for all rows.

        Raises:
            InvalidArgumentError: an argument or a row is invalid; nothing was sent.
            BatchStopped: the account's credit, the time or the disk space ran out, or `on_result` raised;
                `batch` holds the finished and the running tasks.

        Examples:
            >>> from piccc import Client
            >>> batch = Client().images.map(["A red mug", "A blue mug"], model="piccc-image", max_tasks=10)
            >>> [(task.prompt, task.status) for task in batch]
            [('A red mug', 'completed'), ('A blue mug', 'completed')]
        """
        check_wait(timeout, on_result)
        settings = BatchOptions(
            run=run,
            lost=checked_lost(lost),
            concurrency=concurrency,
            submissions=submissions,
            spend_limit=SpendLimit(max_tasks=max_tasks, max_video_seconds=max_video_seconds),
            timeout=timeout,
            progress=progress,
            save_to=save_to,
        )
        return BatchRun(self._account, self._type, prompts, options, settings).finish(on_result)


class AsyncMedia(_Media):
    """Image or video tasks: `client.images`, `client.videos` of an `AsyncClient`."""

    async def submit(
        self,
        prompt: str,
        *,
        model: str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        duration_seconds: float | None = None,
        webhook: str | Receiver | None = None,
        key: str | None = None,
        lost: Lost = "ask",
        extra_body: Mapping[str, Any] | None = None,
        **extra: Any,
    ) -> AsyncTaskHandle:
        """Submit a task and return immediately; see `Media.submit` for arguments and errors."""
        task = await self._submit(
            prompt,
            model=model,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            duration_seconds=duration_seconds,
            webhook=webhook,
            key=key,
            extra_body=extra_body,
            extra=extra,
            lost=lost,
        )
        return AsyncTaskHandle(task, self._account)

    async def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        on_update: OnUpdate | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> AsyncTaskHandle:
        """Submit a task and wait for it; see `Media.generate` for arguments and errors."""
        check_wait(timeout, on_update)  # before paying
        task = await self.submit(prompt, **options)
        with shown_progress(progress, on_update) as on_change:
            return await task.wait(timeout=timeout, on_update=on_change)

    async def map(
        self,
        prompts: Rows,
        *,
        run: str | None = None,
        concurrency: int = 50,
        submissions: int = SUBMISSIONS,
        on_result: AsyncOnResult | None = None,
        progress: bool = False,
        max_tasks: int | None = None,
        max_video_seconds: float | None = None,
        timeout: float | None = None,
        lost: Lost = "ask",
        save_to: FilePath | None = None,
        **options: Any,
    ) -> Batch[AsyncTaskHandle]:
        """Submit a task for each prompt and wait for all; see `Media.map` for arguments and errors.

        If `on_result` returns an awaitable, it is awaited. `prompts` is iterated on the event loop.
        """
        check_wait(timeout, on_result)
        settings = BatchOptions(
            run=run,
            lost=checked_lost(lost),
            concurrency=concurrency,
            submissions=submissions,
            spend_limit=SpendLimit(max_tasks=max_tasks, max_video_seconds=max_video_seconds),
            timeout=timeout,
            progress=progress,
            save_to=save_to,
        )
        return await AsyncBatchRun(self._account, self._type, prompts, options, settings).finish(on_result)


def _parse(text: str) -> Task:
    try:
        return read_task(json.loads(text))
    except (TypeError, ValueError, RecursionError, ResponseError) as error:
        raise InvalidArgumentError(
            f"{text!r:.80} is not a task.", hint="Pass the output of `to_json`."
        ) from error


class Tasks(_Resource):
    """The account's tasks, to read, list, wait for and recover: `client.tasks`."""

    def get(self, task: Task | str) -> TaskHandle:
        """Return a task's current state.

        Args:
            task: a task, or its id.

        Raises:
            NotFoundError: the server has no such task.
        """
        return self._handle(run_sync(self._account.get(task)))

    def list(self, *, type: TaskType | None = None, status: str | None = None) -> Iterator[TaskHandle]:
        """Iterate over the account's tasks, newest first, page by page.

        Args:
            type: only images or only videos (documented).
            status: only this status (documented; its values are assumed, see `Task`).
        """
        pages = Pages(type=type, status=status)
        while not pages.is_done:
            yield from map(self._handle, run_sync(self._account.next_page(pages)))

    def wait(
        self, task: Task | str, *, timeout: float | None = None, on_update: OnUpdate | None = None
    ) -> TaskHandle:
        """Wait for a task and return it with its outputs.

        Args:
            task: a task, or its id.
            timeout: seconds to wait; the default comes from the client's `Polling`.
            on_update: called with the task when its status or progress changes.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; subclasses give the reason.

        Examples:
            >>> from piccc import Client
            >>> client = Client()
            >>> video = client.videos.submit("A mug that turns", model="piccc-video", duration_seconds=2)
            >>> client.tasks.wait(video.id, timeout=60).outputs[0].mime_type
            'video/mp4'
        """
        return self._handle(task).wait(timeout=timeout, on_update=on_update)

    def wait_all(
        self, tasks: Iterable[Task | str], *, timeout: float | None = None
    ) -> builtins.list[TaskHandle]:
        """Wait until all tasks have ended and return them in the given order, including failed ones.

        Call `failure()` on a task to learn why it has no output.

        Args:
            tasks: tasks, or their ids.
            timeout: seconds to wait; the default comes from the client's `Polling`.

        Raises:
            TaskWaitTimeout: some are still running; its `tasks` holds all tasks as last read.
            PicccError: a task could not be read; raised after the others have ended, with `tasks` as above.
        """
        handles = [self._handle(task) for task in tasks]
        known = {handle.id: handle for handle in handles}
        try:
            for _ in self.as_completed(known.values(), timeout=timeout):
                pass
        except PicccError as error:
            error.tasks = handles
            raise
        return [known[handle.id] for handle in handles]

    def as_completed(
        self, tasks: Iterable[Task | str], *, timeout: float | None = None
    ) -> Iterator[TaskHandle]:
        """Yield each task when it ends, including failed ones; see `wait_all` for arguments and errors."""
        handles = {handle.id: handle for handle in map(self._handle, tasks)}
        with self._account.watch(handles.values(), timeout=timeout) as subscription:
            while (task := run_sync(subscription.next())) is not None:
                yield handles[task.id].take(task)

    def events(
        self, *tasks: Task | str, timeout: float | None = None, on_poll: OnPoll | None = None
    ) -> Iterator[Task]:
        """Yield a task whenever its status or progress changes, until all have ended.

        Args:
            tasks: tasks, or their ids.
            timeout: seconds to wait; the default comes from the client's `Polling`.
            on_poll: called in the poller's thread after each read of one of them.

        Raises:
            TaskWaitTimeout: one is still running; wait again, do not submit again.
        """
        with self._account.watch(tasks, timeout=timeout, every_change=True, on_poll=on_poll) as subscription:
            while (task := run_sync(subscription.next())) is not None:
                yield task

    def find(self, key: str) -> builtins.list[TaskHandle]:
        """Return the tasks that a submission may have created, the best match first.

        Args:
            key: the submission's key.
        """
        return [self._handle(task) for task in run_sync(self._account.find(key))]

    def resume(self, key: str, *, resubmit: bool = False) -> TaskHandle:
        """Return a submission's task, from the ledger or else from the account's list of tasks.

        Args:
            key: the submission's key.
            resubmit: if there is no such task, send it again with the same key; it may be billed twice.

        Raises:
            SubmissionUnknown: there is no such task, and `resubmit` is off.
            InvalidArgumentError: the ledger has no submission with that key.

        Examples:
            >>> from piccc import Client
            >>> made = Client(ledger="tasks.db").images.submit("A mug", model="piccc-image", key="mug-2")
            >>> Client(ledger="tasks.db").tasks.resume("mug-2").id == made.id
            True
        """
        return self._handle(run_sync(self._account.resume(key, resubmit=resubmit)))

    def submission(self, key: str) -> Submission | None:
        """Return the ledger's entry for a submission, or None.

        Args:
            key: the submission's key.

        Raises:
            LedgerError: the ledger is unavailable.
        """
        return run_sync(self._account.use_ledger(self._account.ledger.get, key))

    def load(self, text: str) -> TaskHandle:
        """Return a handle from the output of `to_json`.

        Args:
            text: the JSON.

        Raises:
            InvalidArgumentError: it is not such JSON.
        """
        return self._handle(_parse(text))

    def _handle(self, task: Task | str) -> TaskHandle:
        if isinstance(task, TaskHandle):
            return task
        return TaskHandle(as_task(task), self._account)


class AsyncTasks(_Resource):
    """The account's tasks, to read, list, wait for and recover: `client.tasks` of an `AsyncClient`."""

    async def get(self, task: Task | str) -> AsyncTaskHandle:
        """Return a task's current state; see `Tasks.get` for arguments and errors."""
        return self._handle(await self._account.get(task))

    async def list(
        self, *, type: TaskType | None = None, status: str | None = None
    ) -> AsyncIterator[AsyncTaskHandle]:
        """Iterate over the account's tasks; see `Tasks.list` for arguments and errors."""
        pages = Pages(type=type, status=status)
        while not pages.is_done:
            for task in await self._account.next_page(pages):
                yield self._handle(task)

    async def wait(
        self, task: Task | str, *, timeout: float | None = None, on_update: OnUpdate | None = None
    ) -> AsyncTaskHandle:
        """Wait for a task and return it with its outputs; see `Tasks.wait` for arguments and errors."""
        return await self._handle(task).wait(timeout=timeout, on_update=on_update)

    async def wait_all(
        self, tasks: Iterable[Task | str], *, timeout: float | None = None
    ) -> builtins.list[AsyncTaskHandle]:
        """Wait until all tasks have ended and return them; see `Tasks.wait_all` for arguments and errors."""
        handles = [self._handle(task) for task in tasks]
        known = {handle.id: handle for handle in handles}
        try:
            async for _ in self.as_completed(known.values(), timeout=timeout):
                pass
        except PicccError as error:
            error.tasks = handles
            raise
        return [known[handle.id] for handle in handles]

    async def as_completed(
        self, tasks: Iterable[Task | str], *, timeout: float | None = None
    ) -> AsyncIterator[AsyncTaskHandle]:
        """Yield each task when it ends; see `Tasks.wait_all` for arguments and errors."""
        handles = {handle.id: handle for handle in map(self._handle, tasks)}
        with self._account.watch(handles.values(), timeout=timeout) as subscription:
            while (task := await subscription.next()) is not None:
                yield handles[task.id].take(task)

    async def events(
        self, *tasks: Task | str, timeout: float | None = None, on_poll: OnPoll | None = None
    ) -> AsyncIterator[Task]:
        """Yield a task whenever its status or progress changes, until all have ended.

        Args:
            tasks: tasks, or their ids.
            timeout: seconds to wait; the default comes from the client's `Polling`.
            on_poll: called in the poller's thread after each read of one of them.

        Raises:
            TaskWaitTimeout: one is still running; wait again, do not submit again.
        """
        with self._account.watch(tasks, timeout=timeout, every_change=True, on_poll=on_poll) as subscription:
            while (task := await subscription.next()) is not None:
                yield task

    async def find(self, key: str) -> builtins.list[AsyncTaskHandle]:
        """Return the tasks that a submission may have created; see `Tasks.find` for arguments."""
        return [self._handle(task) for task in await self._account.find(key)]

    async def resume(self, key: str, *, resubmit: bool = False) -> AsyncTaskHandle:
        """Return a submission's task; see `Tasks.resume` for arguments and errors."""
        return self._handle(await self._account.resume(key, resubmit=resubmit))

    async def submission(self, key: str) -> Submission | None:
        """Return the ledger's entry for a submission; see `Tasks.submission` for arguments and errors."""
        return await self._account.use_ledger(self._account.ledger.get, key)

    def load(self, text: str) -> AsyncTaskHandle:
        """Return a handle from the output of `to_json`; see `Tasks.load` for arguments and errors."""
        return self._handle(_parse(text))

    def _handle(self, task: Task | str) -> AsyncTaskHandle:
        if isinstance(task, AsyncTaskHandle):
            return task
        return AsyncTaskHandle(as_task(task), self._account)
