"""`client.images`, `client.videos` and `client.tasks`, sync and async."""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from piccc._dialects.tasks import read_task
from piccc._http.backends import run_sync
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
        # Off the event loop: the files of references are read.
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
        """Submit a task and return at once. Other keywords go into the request as they are.

        Args:
            prompt: what to make.
            model: the model's id; by default `PICCC_IMAGE_MODEL` or `PICCC_VIDEO_MODEL`.
            aspect_ratio: such as "16:9".
            resolution: such as "1K" for an image, "720p" for a video.
            duration_seconds: a video's length.
            webhook: an https address, or a receiver that has one for each submission.
            key: names the submission: the same key never submits twice, but gives the same task again. By
                default random, or in a task of Celery, Dask, DBOS, LangGraph, Ray or Temporal made from that
                task and the request: run again it pays nothing, and equal requests in it are one.
            lost: what to do about an earlier submission of this key that got no answer and is not among the
                account's tasks: `ask` raises SubmissionUnknown; `resend` reads the list a minute after it
                and submits again. Where its process is alive and that slow, it is then paid for twice.
            extra_body: fields that are merged over the request last, unchecked.
            extra: whatever else the server takes. A `Path`, bytes, a Pillow image, a finished task or an
                output, alone or in a list, is sent as an address or a `data:` URL (assumed).

        Raises:
            InvalidArgumentError: an argument makes no sense, or its name is nearly one of these; nothing was
                sent.
            SpendLimitExceeded: the client's spend limit is used up; nothing was sent.
            LedgerError: the ledger cannot be used; nothing was sent, or `task_id` says what was.
            SubmissionUnknown: no answer came; it says how to find the task.

        Examples:
            >>> from piccc import Client
            >>> client = Client()
            >>> task = client.images.submit("A ceramic mug", model="piccc-image", key="mug-1")
            >>> again = client.images.submit("A ceramic mug", model="piccc-image", key="mug-1")
            >>> again.id == task.id
            True
        """
        submitting = self._submit(
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
        return TaskHandle(run_sync(submitting), self._account)

    def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        on_update: OnUpdate | None = None,
        progress: bool | None = None,
        **options: Any,
    ) -> TaskHandle:
        """Submit a task as `submit` does, wait for `timeout` seconds at most, return it with its outputs.

        Args:
            prompt: what to make.
            timeout: seconds to wait; by default as many as the client's `Polling` says.
            on_update: is called with the task at each change of its status or progress.
            progress: whether to show the progress in a notebook, or on stderr where it is a terminal; by
                default unless `on_update` is given.
            options: `submit`'s arguments.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; the kinds of it say why.

        Examples:
            >>> from piccc import Client
            >>> task = Client().images.generate("A ceramic mug", model="piccc-image", aspect_ratio="1:1")
            >>> task.outputs[0].save("mug.png").name
            'mug.png'
        """
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
        """Make something of each prompt and return the batch when all have ended.

        A server that is busy (429, 503) or, once a submission has succeeded, out of reach pauses the batch
        and costs no row. Lost submissions are looked for at the end.

        Args:
            prompts: prompts, or mappings of `submit`'s arguments that go before `options`. A sequence is
                judged whole before anything is sent; any other iterable is drawn from as the batch goes on.
            run: names the batch, in any language: under a ledger that lasts, the same run goes on where it
                was broken off. By default random, or the task of an engine, as for `submit`.
            concurrency: how many tasks may run at a time.
            submissions: how many submissions may be under way at a time.
            on_result: is called with each task that has ended, in the order of their ending; once per run.
            progress: show a line of progress on stderr.
            max_tasks: how many tasks this batch may submit.
            max_video_seconds: how many seconds of video it may submit.
            timeout: seconds for the whole batch; a day by default.
            lost: as for `submit`.
            save_to: a folder, or a URL as for an output's `save`, to which the outputs of each task are saved
                before it is handed over; `batch.files` says where they are.
            options: `submit`'s arguments for all.

        Raises:
            InvalidArgumentError: an argument or a row makes no sense; nothing was sent.
            BatchStopped: the account, the time or the disk is used up, or `on_result` raised; `batch` has
                what was made and what is running.

        Examples:
            >>> from piccc import Client
            >>> batch = Client().images.map(["A red mug", "A blue mug"], model="piccc-image", max_tasks=10)
            >>> [(task.prompt, task.status) for task in batch]
            [('A red mug', 'completed'), ('A blue mug', 'completed')]
        """
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
        """Submit a task and return at once; arguments and errors as of `Media.submit`."""
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
        """Submit a task as `submit` does and wait for it; arguments and errors as of `Media.generate`."""
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
        """Make something of each prompt and return the batch; arguments and errors as of `Media.map`.

        What `on_result` returns is awaited if it can be. `prompts` are drawn on the event loop.
        """
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


def _loaded(text: str) -> Task:
    try:
        return read_task(json.loads(text))
    except (TypeError, ValueError, RecursionError, ResponseError) as error:
        raise InvalidArgumentError(
            f"{text!r:.80} is no task.", hint="Give the text that `to_json` wrote."
        ) from error


class Tasks(_Resource):
    """Tasks of the account, read, listed, waited for, found again: `client.tasks`."""

    def get(self, task: Task | str) -> TaskHandle:
        """Return a task as it is now.

        Args:
            task: a task, or its id.

        Raises:
            NotFoundError: the server does not know it.
        """
        return self._handle(run_sync(self._account.get(task)))

    def list(self, *, type: TaskType | None = None, status: str | None = None) -> Iterator[TaskHandle]:
        """Iterate over the account's tasks, newest first, page by page.

        Args:
            type: only images or only videos (documented).
            status: only this status (documented; the words for it are assumed, see `Task`).
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
            timeout: seconds to wait; by default as many as the client's `Polling` says.
            on_update: is called with the task at each change of its status or progress.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; the kinds of it say why.

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
        """Wait until all tasks have ended and return them in their order, failed ones too.

        Ask each one's `failure()` why it has no output.

        Args:
            tasks: tasks, or their ids.
            timeout: seconds to wait; by default as many as the client's `Polling` says.

        Raises:
            TaskWaitTimeout: some are still running; `tasks` are all of them, as far as they were read.
            PicccError: a task cannot be read, raised when the others have ended; `tasks` as above.
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
        """Yield each task when it has ended, failed ones too; arguments and errors as of `wait_all`."""
        handles = {handle.id: handle for handle in map(self._handle, tasks)}
        with self._account.watch(handles.values(), timeout=timeout) as waiting:
            while (task := run_sync(waiting.next())) is not None:
                yield handles[task.id].take(task)

    def events(
        self, *tasks: Task | str, timeout: float | None = None, on_poll: OnPoll | None = None
    ) -> Iterator[Task]:
        """Yield tasks as they were at each change of status or progress, until all have ended.

        Args:
            tasks: tasks, or their ids.
            timeout: seconds to wait; by default as many as the client's `Polling` says.
            on_poll: is called whenever one of them was read, in the poller's thread.

        Raises:
            TaskWaitTimeout: one is still running; wait again, do not submit again.
        """
        with self._account.watch(tasks, timeout=timeout, every_change=True, on_poll=on_poll) as waiting:
            while (task := run_sync(waiting.next())) is not None:
                yield task

    def find(self, key: str) -> builtins.list[TaskHandle]:
        """Return the tasks that a submission may have become, the likeliest first.

        Args:
            key: the submission's key.
        """
        return [self._handle(task) for task in run_sync(self._account.find(key))]

    def resume(self, key: str, *, resubmit: bool = False) -> TaskHandle:
        """Return the task of a submission: from the ledger, else found among the account's tasks.

        Args:
            key: the submission's key.
            resubmit: send it again under the same key where there is no such task; it may be billed twice.

        Raises:
            SubmissionUnknown: there is no such task, and `resubmit` is off.
            InvalidArgumentError: the ledger has no submission of that key.

        Examples:
            >>> from piccc import Client
            >>> made = Client(ledger="tasks.db").images.submit("A mug", model="piccc-image", key="mug-2")
            >>> Client(ledger="tasks.db").tasks.resume("mug-2").id == made.id
            True
        """
        return self._handle(run_sync(self._account.resume(key, resubmit=resubmit)))

    def submission(self, key: str) -> Submission | None:
        """Return what the ledger knows of a submission, or None.

        Args:
            key: the submission's key.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        return run_sync(self._account.use_ledger(self._account.ledger.get, key))

    def load(self, text: str) -> TaskHandle:
        """Return the handle that `to_json` wrote.

        Args:
            text: what it wrote.

        Raises:
            InvalidArgumentError: it is another text.
        """
        return self._handle(_loaded(text))

    def _handle(self, task: Task | str) -> TaskHandle:
        if isinstance(task, TaskHandle):
            return task
        return TaskHandle(as_task(task), self._account)


class AsyncTasks(_Resource):
    """Tasks of the account, read, listed, waited for, found again: `client.tasks` of an `AsyncClient`."""

    async def get(self, task: Task | str) -> AsyncTaskHandle:
        """Return a task as it is now; arguments and errors as of `Tasks.get`."""
        return self._handle(await self._account.get(task))

    async def list(
        self, *, type: TaskType | None = None, status: str | None = None
    ) -> AsyncIterator[AsyncTaskHandle]:
        """Iterate over the account's tasks; arguments and errors as of `Tasks.list`."""
        pages = Pages(type=type, status=status)
        while not pages.is_done:
            for task in await self._account.next_page(pages):
                yield self._handle(task)

    async def wait(
        self, task: Task | str, *, timeout: float | None = None, on_update: OnUpdate | None = None
    ) -> AsyncTaskHandle:
        """Wait for a task and return it with its outputs; arguments and errors as of `Tasks.wait`."""
        return await self._handle(task).wait(timeout=timeout, on_update=on_update)

    async def wait_all(
        self, tasks: Iterable[Task | str], *, timeout: float | None = None
    ) -> builtins.list[AsyncTaskHandle]:
        """Wait until all tasks have ended and return them; arguments and errors as of `Tasks.wait_all`."""
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
        """Yield each task when it has ended; arguments and errors as of `Tasks.wait_all`."""
        handles = {handle.id: handle for handle in map(self._handle, tasks)}
        with self._account.watch(handles.values(), timeout=timeout) as waiting:
            while (task := await waiting.next()) is not None:
                yield handles[task.id].take(task)

    async def events(
        self, *tasks: Task | str, timeout: float | None = None, on_poll: OnPoll | None = None
    ) -> AsyncIterator[Task]:
        """Yield tasks as they were at each change of status or progress, until all have ended.

        Args:
            tasks: tasks, or their ids.
            timeout: seconds to wait; by default as many as the client's `Polling` says.
            on_poll: is called whenever one of them was read, in the poller's thread.

        Raises:
            TaskWaitTimeout: one is still running; wait again, do not submit again.
        """
        with self._account.watch(tasks, timeout=timeout, every_change=True, on_poll=on_poll) as waiting:
            while (task := await waiting.next()) is not None:
                yield task

    async def find(self, key: str) -> builtins.list[AsyncTaskHandle]:
        """Return the tasks that a submission may have become; arguments and errors as of `Tasks.find`."""
        return [self._handle(task) for task in await self._account.find(key)]

    async def resume(self, key: str, *, resubmit: bool = False) -> AsyncTaskHandle:
        """Return the task of a submission; arguments and errors as of `Tasks.resume`."""
        return self._handle(await self._account.resume(key, resubmit=resubmit))

    async def submission(self, key: str) -> Submission | None:
        """Return what the ledger knows of a submission; arguments and errors as of `Tasks.submission`."""
        return await self._account.use_ledger(self._account.ledger.get, key)

    def load(self, text: str) -> AsyncTaskHandle:
        """Return the handle that `to_json` wrote; arguments and errors as of `Tasks.load`."""
        return self._handle(_loaded(text))

    def _handle(self, task: Task | str) -> AsyncTaskHandle:
        if isinstance(task, AsyncTaskHandle):
            return task
        return AsyncTaskHandle(as_task(task), self._account)
