"""The tasks and outputs that a client returns: wait for them, fetch them, show them."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack, cast, overload

from piccc._dialects.tasks import read_task
from piccc._http.backends import run_sync
from piccc.errors import MissingExtraError, OutputError, TaskError
from piccc.media.display import Card, OnUpdate, Preview, mimebundle, output_bundle
from piccc.media.downloads import (
    DownloadOptions,
    FetchOptions,
    FilePath,
    SaveOptions,
    load,
    save,
)
from piccc.tasks import Output, Task, mime_type_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from piccc.media.account import Account
    from piccc.media.polling import OnPoll

MAX_MEMORY_BYTES = 256 * 1024**2


class _BoundOutput(Output):
    __slots__ = ("_account", "_path", "_preview", "_task")

    def __init__(self, output: Output, task: Task, account: Account) -> None:
        super().__init__(**{each.name: getattr(output, each.name) for each in fields(output)})
        self._task = task
        self._account = account
        self._preview: Preview | None = None
        self._path: Path | None = None

    @property
    def preview(self) -> Preview:
        """What a notebook can show of it without its address."""
        if self._preview is None:
            self._preview = Preview(self._account, self._task, self)
            if self._path is not None:
                self._preview.saved(self._path)
        return self._preview

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return output_bundle(self, self._task.prompt)

    async def _save(self, path: FilePath, options: SaveOptions) -> Path | str:
        saved = await save(self._account, self._task, self, path, **options)
        if isinstance(saved, Path):
            self._path = saved
            if self._preview is not None:
                self._preview.saved(saved)
        return saved

    async def _load(self, **options: Unpack[FetchOptions]) -> bytes:
        options.setdefault("max_bytes", MAX_MEMORY_BYTES)
        return await load(self._account, self._task, self, DownloadOptions(**options))


class OutputHandle(_BoundOutput):
    """One finished image, video or audio file, which can be fetched.

    Fetching raises OutputExpired, OutputTooLarge, OutputWrongType, or OutputError. An expired address is
    renewed, a fetch that breaks off is resumed, and afterwards `sha256` says what came.
    """

    __slots__ = ()

    @overload
    def save(self, path: os.PathLike[str], **options: Unpack[SaveOptions]) -> Path: ...

    @overload
    def save(self, path: str, **options: Unpack[SaveOptions]) -> Path | str: ...

    def save(self, path: FilePath, **options: Unpack[SaveOptions]) -> Path | str:
        """Write it to a file or an object, or into a folder under a name of its own; return where it is.

        Args:
            path: a file or a directory (one that exists, or a path that ends with a separator), or the URL of
                an object or a folder: s3://, gs:// and az:// with `piccc[stores]`, file://.
            options: `max_bytes`, how large it may be (2 GiB by default); `timeout`, seconds for all of it (an
                hour by default); `any_type=True` takes content that is neither image, video nor audio too;
                `overwrite=True` replaces other content, which else is an OutputError; `provenance=True`
                writes a JSON note beside it.

        It appears when it is whole.
        """
        return run_sync(self._save(path, options))

    def bytes(self, **options: Unpack[FetchOptions]) -> bytes:
        """Return its content.

        Args:
            options: `save`'s `max_bytes` (here 256 MiB by default), `timeout` and `any_type`.

        Raises:
            OutputTooLarge: it has more than `max_bytes`.
            OutputError: it cannot be fetched; the kinds of it say why.
        """
        return run_sync(self._load(**options))

    def pil(self, *, max_bytes: int = MAX_MEMORY_BYTES) -> Image:
        """Return it as a Pillow image.

        Args:
            max_bytes: how large the file may be.

        Raises:
            OutputError: it is a video, or cannot be fetched.
            MissingExtraError: Pillow is not installed.
        """
        return as_image(self.bytes(max_bytes=max_bytes), self.task_id)

    def base64_block(self, *, max_px: int | None = None) -> dict[str, str]:
        """Return it as a content block `{type, base64, mime_type}`.

        Args:
            max_px: scale an image down to at most this many pixels wide and high.

        Raises:
            OutputError: it cannot be fetched; the kinds of it say why.
        """
        return block(self.bytes(), self.task_id, max_px)


class AsyncOutputHandle(_BoundOutput):
    """One finished image, video or audio file, which can be fetched.

    Fetching raises OutputExpired, OutputTooLarge, OutputWrongType, or OutputError. An expired address is
    renewed, a fetch that breaks off is resumed, and afterwards `sha256` says what came.
    """

    __slots__ = ()

    @overload
    async def save(self, path: os.PathLike[str], **options: Unpack[SaveOptions]) -> Path: ...

    @overload
    async def save(self, path: str, **options: Unpack[SaveOptions]) -> Path | str: ...

    async def save(self, path: FilePath, **options: Unpack[SaveOptions]) -> Path | str:
        """Write it to a file or an object; arguments and errors as of `OutputHandle.save`."""
        return await self._save(path, options)

    async def bytes(self, **options: Unpack[FetchOptions]) -> bytes:
        """Return its content; arguments and errors as of `OutputHandle.bytes`."""
        return await self._load(**options)

    async def pil(self, *, max_bytes: int = MAX_MEMORY_BYTES) -> Image:
        """Return it as a Pillow image; arguments and errors as of `OutputHandle.pil`."""
        content = await self.bytes(max_bytes=max_bytes)
        return await self._account.session.io.run(as_image, content, self.task_id)

    async def base64_block(self, *, max_px: int | None = None) -> dict[str, str]:
        """Return it as a content block; arguments and errors as of `OutputHandle.base64_block`."""
        content = await self.bytes()
        return await self._account.session.io.run(block, content, self.task_id, max_px)


_FIELDS = tuple(each.name for each in fields(Task))


class _BoundTask(Task):
    __slots__ = ("_account", "_display_id")
    _bound_output: type[_BoundOutput]
    outputs: list[_BoundOutput]  # type: ignore[assignment]  # of Task's, those that know their client

    def __init__(self, task: Task, account: Account) -> None:
        self._account = account
        self._display_id: str | None = None
        self.outputs = []
        self.take(task)

    def take(self, task: Task) -> Self:
        """Become what a task is now; a card of it that a notebook shows changes too."""
        shown = {output.place: output for output in self.outputs}
        for name in _FIELDS:
            setattr(self, name, getattr(task, name))
        self.outputs = [self._bound_output(output, self, self._account) for output in task.outputs]
        for output in self.outputs:
            before = shown.get(output.place, output)
            output._preview, output._path = before._preview, before._path
        if self._display_id is not None:
            Card(self).update(self._display_id)
        return self

    def failure(self) -> TaskError | None:
        """Return the error of a task that ended without output, or None."""
        return None if self.status == "completed" and self.outputs else TaskError.of(self)

    def to_json(self) -> str:
        """Return it as JSON, from which `client.tasks.load` makes a handle again."""
        return json.dumps(self.to_dict())

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Task) and other.to_dict() == self.to_dict()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.to_dict(), self._account))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return mimebundle(self)

    def _ipython_display_(self) -> None:
        self._display_id = Card(self).show()


class TaskHandle(_BoundTask):
    """A task that can be asked for more: it always shows what was last read of it. It can be pickled.

    Attributes:
        outputs: what it made, each of which can be saved; empty until it is completed.
    """

    __slots__ = ()
    _bound_output = OutputHandle
    outputs: list[OutputHandle]  # type: ignore[assignment]  # of Task's, those that can be fetched

    def refresh(self) -> Self:
        """Read it again, and return it."""
        return self.take(run_sync(self._account.get(self)))

    def wait(
        self,
        *,
        timeout: float | None = None,
        on_update: OnUpdate | None = None,
        on_poll: OnPoll | None = None,
    ) -> Self:
        """Wait until it has its outputs, and return it.

        Args:
            timeout: seconds to wait; by default as many as the client's `Polling` says.
            on_update: is called with the task at each change of its status or progress.
            on_poll: is called whenever the task was read, in the poller's thread: heartbeats of workflow
                engines belong there.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; the kinds of it say why.
        """
        is_observed = on_update is not None or on_poll is not None
        for task in self._events(timeout, on_poll, is_observed=is_observed):
            if on_update is not None:
                on_update(task)
        if error := self.failure():
            raise error
        return self

    def events(self, *, timeout: float | None = None, on_poll: OnPoll | None = None) -> Iterator[Task]:
        """Yield the task as it was at each change of its status or progress, until it has ended.

        Args:
            timeout: seconds to wait; by default as many as the client's `Polling` says.
            on_poll: is called whenever the task was read, in the poller's thread.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
        """
        return self._events(timeout, on_poll, is_observed=True)

    def _events(self, timeout: float | None, on_poll: OnPoll | None, *, is_observed: bool) -> Iterator[Task]:
        options: Any = {"timeout": timeout, "every_change": True, "is_observed": is_observed}
        with self._account.watch([self], on_poll=on_poll, **options) as watching:
            while (task := run_sync(watching.next())) is not None:
                self.take(task)
                yield task

    @overload
    def save(self, folder: os.PathLike[str], **options: Unpack[SaveOptions]) -> list[Path]: ...

    @overload
    def save(self, folder: str, **options: Unpack[SaveOptions]) -> list[Path] | list[str]: ...

    def save(self, folder: FilePath, **options: Unpack[SaveOptions]) -> list[Path] | list[str]:
        """Write all outputs into a directory, made if need be, or below a URL; return where they are.

        Args:
            folder: the directory, or a URL as for an output's `save`.
            options: those of an output's `save`.

        Raises:
            OutputError: an output cannot be fetched or written; the kinds of it say why.
        """
        saved = [output.save(_folder(folder), **options) for output in self.outputs]
        return cast("list[Path] | list[str]", saved)  # for all go to one folder


class AsyncTaskHandle(_BoundTask):
    """A task that can be asked for more: it always shows what was last read of it. It can be pickled.

    Attributes:
        outputs: what it made, each of which can be saved; empty until it is completed.
    """

    __slots__ = ()
    _bound_output = AsyncOutputHandle
    outputs: list[AsyncOutputHandle]  # type: ignore[assignment]  # of Task's, those that can be fetched

    async def refresh(self) -> Self:
        """Read it again, and return it."""
        return self.take(await self._account.get(self))

    async def wait(
        self,
        *,
        timeout: float | None = None,
        on_update: OnUpdate | None = None,
        on_poll: OnPoll | None = None,
    ) -> Self:
        """Wait until it has its outputs, and return it.

        Args:
            timeout: seconds to wait; by default as many as the client's `Polling` says.
            on_update: is called with the task at each change of its status or progress.
            on_poll: is called whenever the task was read, in the poller's thread: heartbeats of workflow
                engines belong there.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; the kinds of it say why.
        """
        is_observed = on_update is not None or on_poll is not None
        async for task in self._events(timeout, on_poll, is_observed=is_observed):
            if on_update is not None:
                on_update(task)
        if error := self.failure():
            raise error
        return self

    def events(self, *, timeout: float | None = None, on_poll: OnPoll | None = None) -> AsyncIterator[Task]:
        """Yield the task as it was at each change of it; arguments and errors as of `TaskHandle.events`."""
        return self._events(timeout, on_poll, is_observed=True)

    async def _events(
        self, timeout: float | None, on_poll: OnPoll | None, *, is_observed: bool
    ) -> AsyncIterator[Task]:
        options: Any = {"timeout": timeout, "every_change": True, "is_observed": is_observed}
        with self._account.watch([self], on_poll=on_poll, **options) as watching:
            while (task := await watching.next()) is not None:
                self.take(task)
                yield task

    @overload
    async def save(self, folder: os.PathLike[str], **options: Unpack[SaveOptions]) -> list[Path]: ...

    @overload
    async def save(self, folder: str, **options: Unpack[SaveOptions]) -> list[Path] | list[str]: ...

    async def save(self, folder: FilePath, **options: Unpack[SaveOptions]) -> list[Path] | list[str]:
        """Write all outputs into a directory or below a URL; arguments and errors as of `TaskHandle.save`."""
        saved = [await output.save(_folder(folder), **options) for output in self.outputs]
        return cast("list[Path] | list[str]", saved)  # for all go to one folder


def _folder(path: FilePath) -> str:
    return f"{os.fspath(path)}/"


def as_image(content: bytes, task_id: str) -> Image:
    """Read an image with Pillow; raise OutputError for what it cannot read, and for decompression bombs."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("Pillow is not installed.", hint="pip install pillow") from error
    try:
        found = Image.open(io.BytesIO(content))
        found.load()
    except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OutputError(
            f"The output of task {task_id} cannot be read as an image: {error}", task_id=task_id
        ) from error
    return found


def block(content: bytes, task_id: str, max_px: int | None) -> dict[str, str]:
    """Return content as a block for a conversation; an image is made smaller where it exceeds `max_px`."""
    mime_type = mime_type_of(content) or "application/octet-stream"
    if max_px is not None:
        found = as_image(content, task_id)
        if max(found.size) > max_px:
            found.thumbnail((max_px, max_px))
            buffer = io.BytesIO()
            found.save(buffer, "PNG")
            content, mime_type = buffer.getvalue(), "image/png"
    kind = mime_type.partition("/")[0]
    return {"type": kind, "base64": base64.b64encode(content).decode(), "mime_type": mime_type}


def _rebuild(kind: type[_BoundTask], body: dict[str, Any], account: Account) -> _BoundTask:
    return kind(read_task(body), account)
