"""The tasks of one account: submit, read, list, find again. Coroutines that sync and async both drive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urljoin

from piccc._dialects.tasks import read_task, read_task_list
from piccc._http.backend import Backend
from piccc._http.responses import retry_after
from piccc.config import origin_of
from piccc.errors import InvalidArgumentError, PicccError, SubmissionUnknown, TaskError
from piccc.media.ledgers import Ledger, MemoryLedger, Notifier, Submission
from piccc.media.limits import SpendLimit
from piccc.media.polling import READ_SECONDS, Subscription, wake
from piccc.media.requests import TaskRequest, is_recent, nearest
from piccc.media.schedule import Pages, Polling
from piccc.session import Session
from piccc.tasks import Page, Task

LOOK_AGAIN_SECONDS = 1.0
FLIGHT_SECONDS = 10.0
"""How old a submission of another process must be before nobody can be sending it any more."""


class Account:
    """What can be asked of the task routes of one server with one key."""

    def __init__(
        self,
        session: Session,
        *,
        ledger: Ledger | None = None,
        polling: Polling | None = None,
        spend_limit: SpendLimit | None = None,
        private_outputs: bool = False,
    ) -> None:
        self.session = session
        self.ledger = ledger or MemoryLedger()
        self.polling = polling or Polling()
        self.spend_limit = spend_limit
        self.private_outputs = private_outputs
        self._in_flight: set[str] = set()

    def over(self, io: Backend) -> Account:
        """Return the same account over another port."""
        session = Session(self.session.config, io)
        settings = (self.ledger, self.polling, self.spend_limit, self.private_outputs)
        return _rebuild(session, *settings)

    def __deepcopy__(self, memo: object) -> Account:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        settings = (self.ledger, self.polling, self.spend_limit, self.private_outputs)
        return (_rebuild, (self.session, *settings))

    async def submit(self, order: TaskRequest, *allowances: SpendLimit) -> Task:
        """Submit an order, or return the task that its key has already become.

        It is written into the ledger before it is sent. Raise SubmissionUnknown where no answer came, now or
        when the key was used before.
        """
        earlier = self.ledger.claim(order.entry())
        if earlier is not None:
            return await self._earlier(order, earlier)
        self._in_flight.add(order.key)
        try:
            with _spent(order, self.spend_limit, *allowances):
                return await self._send(order)
        except SubmissionUnknown:
            raise
        except PicccError:
            self.ledger.release(order.key)
            raise
        except BaseException as interruption:
            interruption.add_note(f"The submission may have been sent. {_way_on(order.key)}")
            raise
        finally:
            self._in_flight.discard(order.key)

    async def _send(self, order: TaskRequest) -> Task:
        try:
            task = await self.session.submit(f"/v1/{order.type}s/tasks", order.body, order.key)
        except PicccError as error:
            if error.may_have_been_billed:
                raise _unknown(order.key, order.body, error) from error
            raise
        try:
            self.ledger.settle(order.key, task.id)
        except Exception as error:
            error.add_note(f"The task is {task.id}. It goes on and is paid for: do not submit again.")
            raise
        return _filled(task, order)

    async def _earlier(self, order: TaskRequest, earlier: Submission) -> Task:
        if earlier.digest != order.digest:
            raise InvalidArgumentError(
                f"The key {order.key!r} stands for another order already.",
                hint="Give each order a key of its own, or leave key out.",
            )
        io = self.session.io
        # Another thread or process may be sending it at this moment, so a young entry gets some time.
        until = io.now() + FLIGHT_SECONDS - max(0.0, time.time() - earlier.at)
        while (entry := self.ledger.get(order.key)) is not None:
            if entry.task_id or order.key not in self._in_flight:
                try:
                    return _filled(await self.resume(order.key), order)
                except SubmissionUnknown:
                    if io.now() >= until:
                        raise
            await io.sleep(LOOK_AGAIN_SECONDS)
        return await self.submit(order)

    async def resume(self, key: str, *, resubmit: bool = False) -> Task:
        """Return the task that a submission became: from the ledger, else found among the account's tasks.

        Where there is none, raise SubmissionUnknown, or with `resubmit` send it again under the same key.
        """
        entry = self.ledger.get(key)
        if entry is None:
            raise InvalidArgumentError(
                f"The ledger has no submission {key!r}.",
                hint='Keep the ledger in a file to find submissions again: Client(ledger="tasks.db").',
            )
        if entry.task_id:
            return await self.get(entry.task_id)
        for task in await self.find(key):
            if self.ledger.settle(key, task.id):
                return task
        settled = self.ledger.get(key)
        if settled and settled.task_id:
            return await self.get(settled.task_id)
        if not resubmit:
            raise _unknown(key, entry.request, None)
        order = TaskRequest("video" if entry.type == "video" else "image", key, entry.request)
        return await self._send(order)

    async def find(self, key: str) -> list[Task]:
        """Return the tasks that a lost submission may have become, the likeliest first.

        They have its prompt and parameters, were not made before it, and belong to no other submission.
        """
        entry = self.ledger.get(key)
        if entry is None:
            return []
        if entry.task_id:
            return [await self.get(entry.task_id)]
        pages, found = Pages(type=entry.type), []
        while not pages.is_done:
            page = await self.next_page(pages)
            found += page
            if page and not any(is_recent(task, entry) for task in page):
                break
        return [task for task in nearest(found, entry) if self.ledger.key_of(task.id) is None]

    async def get(self, task: Task | str, *, seconds: float = READ_SECONDS) -> Task:
        """Read a task, within so many seconds but no more than usual."""
        found, _ = await self.session.read(self._path(task), read_task, seconds=min(seconds, READ_SECONDS))
        return found

    async def poll(self, task: Task, seconds: float) -> tuple[Task, float | None]:
        """Read a task once, within so many seconds; return it, and how long the server asks to wait."""
        found, headers = await self.session.read(self._path(task), read_task, seconds=seconds, retries=0)
        return replace(found, id=task.id), retry_after(headers)

    async def poll_page(self, path: str, seconds: float) -> Page:
        """Read a page of a list once, within so many seconds."""
        page, _ = await self.session.read(path, read_task_list, seconds=seconds, retries=0)
        return page

    async def next_page(self, pages: Pages) -> list[Task]:
        """Read the next page of a list; return the tasks that no earlier page had."""
        page, _ = await self.session.read(pages.path, read_task_list)
        return pages.take(page)

    def wake(self, task_id: str) -> None:
        """Have a task asked for next by whatever waits for it, also in processes that share the ledger."""
        wake(task_id)
        if isinstance(self.ledger, Notifier):
            self.ledger.notify(task_id)

    def watch(
        self, tasks: Iterable[Task | str] = (), *, timeout: float | None = None, every_change: bool = False
    ) -> Subscription:
        """Begin to wait for tasks; `every_change` reports progress too."""
        watching = Subscription(self, timeout=timeout, every_change=every_change)
        for task in tasks:
            watching.add(task)
        return watching

    async def wait(
        self,
        task: Task | str,
        *,
        timeout: float | None = None,
        on_update: Callable[[Task], object] | None = None,
    ) -> Task:
        """Wait until a task has its output and return it; raise why it has none.

        Raise TaskWaitTimeout after `timeout` seconds, by default as many as the client's polling says.
        """
        with self.watch([task], timeout=timeout, every_change=on_update is not None) as watching:
            while (seen := await watching.next()) is not None:
                known = seen
                if on_update is not None:
                    on_update(known)
        if error := TaskError.of(known):
            raise error
        return known

    def _path(self, task: Task | str) -> str:
        if isinstance(task, Task) and task.polling_url:
            with suppress(ValueError):  # a malformed address
                url = urljoin(f"{self.session.config.base_url}/", task.polling_url)
                if origin_of(url) == self.session.config.origin:
                    return url
        return f"/v1/tasks/{quote(task.id if isinstance(task, Task) else task, safe='')}"


@contextmanager
def _spent(order: TaskRequest, *allowances: SpendLimit | None) -> Iterator[None]:
    """Count an order against allowances, unless it is refused."""
    counted: list[SpendLimit] = []
    try:
        for spend_limit in allowances:
            if spend_limit is not None:
                spend_limit.spend(order)
                counted.append(spend_limit)
        yield
    except SubmissionUnknown:
        raise
    except PicccError:
        for spend_limit in counted:
            spend_limit.give_back(order)
        raise


def _filled(task: Task, order: TaskRequest) -> Task:
    """Give a task what its order knows and the server left out."""
    return replace(
        task,
        type=task.type or order.type,
        model=task.model or str(order.body.get("model") or ""),
        prompt=task.prompt or str(order.body.get("prompt") or ""),
    )


def _unknown(key: str, request: Any, cause: PicccError | None) -> SubmissionUnknown:
    reason = cause.message if cause else f"Nobody knows what became of the submission {key!r}."
    known = {
        name: getattr(cause, name)
        for name in ("status", "code", "request_id", "attempts", "elapsed", "retry_after", "body", "record")
        if cause is not None
    }
    return SubmissionUnknown(
        reason,
        hint=f"The task may exist and be billed, so it was not sent again. {_way_on(key)}",
        may_have_been_billed=True,
        submission_key=key,
        request=request,
        **known,
    )


def _way_on(key: str) -> str:
    return (
        f"Look for it: client.tasks.resume({key!r}); if it is not there, "
        f"client.tasks.resume({key!r}, resubmit=True) sends it once more."
    )


def _rebuild(
    session: Session, ledger: Ledger, polling: Polling, spend_limit: SpendLimit | None, private_outputs: bool
) -> Account:
    return Account(
        session, ledger=ledger, polling=polling, spend_limit=spend_limit, private_outputs=private_outputs
    )
