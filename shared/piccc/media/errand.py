"""What a tool does for an agent: submit, wait, look, list, and report. Written once for both frameworks.

An errand runs over a blocking client or an asynchronous one: `blocking` runs it over the first, `await` over
the second.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from inspect import isawaitable
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from piccc.errors import PicccError, SubmissionUnknown, TaskWaitTimeout
from piccc.media.report import Report, artifact_of, failed, listed, told
from piccc.tasks import Task, TaskType
from piccc.transport.port import finish

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client
    from piccc.media.handle import AsyncTaskHandle, TaskHandle

T = TypeVar("T")
Show = Literal["none", "thumbnail", "image"]
OnUpdate = Callable[[Task], object]
THUMBNAIL_PX = 512


def submission_key(*parts: object) -> str:
    """Return a key that names a call of a tool, the same each time that call is run.

    It is a digest, because it goes to the provider and what a thread is called is nobody else's business.
    """
    text = json.dumps(parts, sort_keys=True, default=str)
    return f"agent-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


class Errand:
    """One call of a tool: it knows its task as soon as there is one, so that no failure can lose it."""

    def __init__(
        self, client: Client | AsyncClient, *, show: Show = "none", on_update: OnUpdate | None = None
    ) -> None:
        self._client = client
        self._show = show
        self._on_update = on_update
        self._key: str | None = None
        self._task: TaskHandle | AsyncTaskHandle | None = None

    async def place(self, type: TaskType, arguments: Mapping[str, Any], *, key: str | None) -> Task:
        """Submit a task, or find the one that this key became; look for one whose answer was lost."""
        self._key = key
        made = self._client.images if type == "image" else self._client.videos
        try:
            self._task = await _settled(made.submit(key=key, **arguments))
        except SubmissionUnknown as lost:
            try:
                self._task = await _settled(self._client.tasks.resume(str(lost.submission_key)))
            except PicccError:
                raise lost from lost.__cause__
        return self._known()

    async def read(self, task_id: str) -> Task:
        """Read a task."""
        self._task = await _settled(self._client.tasks.get(task_id))
        return self._known()

    async def attend(self, seconds: float | None) -> None:
        """Wait so many seconds for the task; raise why it has no output, but not that it is still running.

        Seconds: None waits as long as the client's polling says, 0 does not wait.
        """
        task = self._known()
        try:
            if seconds != 0 and not task.is_terminal:
                await _settled(task.wait(timeout=seconds, on_update=self._on_update))
        except TaskWaitTimeout:
            return
        if error := task.failure():
            raise error

    async def report(self, then: str = "") -> Report:
        """Report on the task; `then` is what the model is to do while it is still running."""
        task = self._known()
        text = told(task, then)
        try:
            pictures = await self._pictures()
        except PicccError as error:
            pictures, text = (), f"{text} (It cannot be shown here: {type(error).__name__}.)"
        return Report(text, artifact_of(task), pictures)

    async def list(self, type: TaskType | None, status: str | None, limit: int) -> Report:
        """Report on the latest tasks."""
        return listed(await _first(self._client.tasks.list(type=type, status=status), limit))

    async def reported(self, work: Awaitable[Report], passing: tuple[type[Exception], ...] = ()) -> Report:
        """Return what some work of this errand reports, its failure too; let signals of a framework pass."""
        try:
            return await work
        except passing:
            raise
        except Exception as error:
            # A submission that was refused leaves the ledger: one that is still in it may have been accepted.
            may_exist = (
                self._task is None and self._key is not None and bool(self._client.ledger.get(self._key))
            )
            return failed(error, self._task, may_exist=may_exist)

    def _known(self) -> TaskHandle | AsyncTaskHandle:
        if self._task is None:
            raise RuntimeError("This errand has no task yet: place one or read one first.")
        return self._task

    async def _pictures(self) -> Sequence[Mapping[str, str]]:
        task = self._known()
        if self._show == "none" or task.type != "image" or not task.is_terminal:
            return ()
        max_px = THUMBNAIL_PX if self._show == "thumbnail" else None
        return [await _settled(output.base64_block(max_px=max_px)) for output in task.outputs]


async def ended(
    client: Client | AsyncClient, tasks: Sequence[Task], *, seconds: float = 0.0, show: Show = "none"
) -> Sequence[Report]:
    """Report on those of the tasks that have ended, after waiting so many seconds for all of them.

    One that cannot be read counts as running: it can be asked again.
    """
    if seconds and tasks:
        with suppress(PicccError):
            await _settled(client.tasks.wait_all([task.id for task in tasks], timeout=seconds))
    seen = [await _end(Errand(client, show=show), task) for task in tasks]
    return [report for report in seen if report is not None]


def blocking(errand: Coroutine[Any, Any, T]) -> T:
    """Run an errand over a blocking client; raise ConfigurationError where it is asynchronous."""
    return finish(errand)


async def _end(errand: Errand, task: Task) -> Report | None:
    async def outcome() -> Report:
        await errand.attend(0)
        return await errand.report()

    try:
        now = await errand.read(task.id)
    except PicccError:
        return None
    return await errand.reported(outcome()) if now.is_terminal else None


async def _settled(value: Any) -> Any:
    # The blocking client gives the value itself, the asynchronous one something to await.
    return await value if isawaitable(value) else value


async def _first(tasks: AsyncIterable[Task] | Iterable[Task], count: int) -> Sequence[Task]:
    if not isinstance(tasks, AsyncIterable):
        return list(islice(tasks, count))
    found: list[Task] = []
    async for task in tasks:
        found.append(task)
        if len(found) == count:
            break
    return found
