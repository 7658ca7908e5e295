"""The task and output handles that a client returns: wait for them, fetch them, show them."""

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
from piccc.config import check_wait
from piccc.errors import MissingExtraError, OutputError, TaskError
from piccc.media.display import Card, OnUpdate, Preview, mimebundle, output_bundle
from piccc.media.downloads import (
    KINDS,
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
        super().__init__(**{field.name: getattr(output, field.name) for field in fields(output)})
        self._task = task
        self._account = account
        self._preview: Preview | None = None
        self._path: Path | None = None

    @property
    def preview(self) -> Preview:
        """A preview for notebooks that works without the output's URL."""
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
    """One finished image, video or audio file, ready to fetch.

    Fetching raises OutputExpired, OutputTooLarge, OutputWrongType, or OutputError. Expired URLs are renewed
    and interrupted downloads resumed. `sha256` is set after the first fetch.
    """

    __slots__ = ()

    @overload
    def save(self, path: os.PathLike[str], **options: Unpack[SaveOptions]) -> Path: ...

    @overload
    def save(self, path: str, **options: Unpack[SaveOptions]) -> Path | str: ...

    def save(self, path: FilePath, **options: Unpack[SaveOptions]) -> Path | str:
        """Save it to a file or object, or into a folder with a generated name; return its location.

        Args:
            path: a file or a directory (an existing one, or a path that ends with a separator), or the URL of
                an object or folder: s3://, gs:// and az:// with `piccc[stores]`, or file://.
            options: `max_bytes`, the maximum size (2 GiB by default); `timeout`, seconds for the whole
                download (an hour by default); `any_type=True` to accept content other than images, videos
                and audio; `overwrite=True` to replace different content instead of raising OutputError;
                `provenance=True` to write a JSON file beside it that records how it was made.

        The file appears only when it is complete; so does what a device or a pipe gets.
        """
        return run_sync(self._save(path, options))

    def bytes(self, **options: Unpack[FetchOptions]) -> bytes:
        """Return its content.

        Args:
            options: `max_bytes` (256 MiB by default), `timeout` and `any_type`, as for `save`.

        Raises:
            OutputTooLarge: it is larger than `max_bytes`.
            OutputError: it cannot be fetched; subclasses give the reason.
        """
        return run_sync(self._load(**options))

    def pil(self, *, max_bytes: int = MAX_MEMORY_BYTES) -> Image:
        """Return it as a Pillow image.

        Args:
            max_bytes: the file's maximum size.

        Raises:
            OutputError: it is a video, or cannot be fetched.
            MissingExtraError: Pillow is not installed.
        """
        return as_image(self.bytes(max_bytes=max_bytes), self.task_id)

    def base64_block(self, *, max_px: int | None = None) -> dict[str, str]:
        """Return it as a content block `{type, base64, mime_type}`.

        Args:
            max_px: scale an image down to at most this width and height in pixels.

        Raises:
            OutputError: it cannot be fetched; subclasses give the reason.
        """
        return block(self.bytes(), self.task_id, max_px)


class AsyncOutputHandle(_BoundOutput):
    """One finished image, video or audio file, ready to fetch.

    Fetching raises OutputExpired, OutputTooLarge, OutputWrongType, or OutputError. Expired URLs are renewed
    and interrupted downloads resumed. `sha256` is set after the first fetch.
    """

    __slots__ = ()

    @overload
    async def save(self, path: os.PathLike[str], **options: Unpack[SaveOptions]) -> Path: ...

    @overload
    async def save(self, path: str, **options: Unpack[SaveOptions]) -> Path | str: ...

    async def save(self, path: FilePath, **options: Unpack[SaveOptions]) -> Path | str:
        """Save it to a file or object; see `OutputHandle.save` for arguments and errors."""
        return await self._save(path, options)

    async def bytes(self, **options: Unpack[FetchOptions]) -> bytes:
        """Return its content; see `OutputHandle.bytes` for arguments and errors."""
        return await self._load(**options)

    async def pil(self, *, max_bytes: int = MAX_MEMORY_BYTES) -> Image:
        """Return it as a Pillow image; see `OutputHandle.pil` for arguments and errors."""
        content = await self.bytes(max_bytes=max_bytes)
        return await self._account.session.io.run(as_image, content, self.task_id)

    async def base64_block(self, *, max_px: int | None = None) -> dict[str, str]:
        """Return it as a content block; see `OutputHandle.base64_block` for arguments and errors."""
        content = await self.bytes()
        return await self._account.session.io.run(block, content, self.task_id, max_px)


_FIELDS = tuple(field.name for field in fields(Task))


class _BoundTask(Task):
    __slots__ = ("_account", "_display_id")
    _bound_output: type[_BoundOutput]
    outputs: list[_BoundOutput]  # type: ignore[assignment]  # narrows Task's: bound to a client

    def __init__(self, task: Task, account: Account) -> None:
        self._account = account
        self._display_id: str | None = None
        self.outputs = []
        self.take(task)

    def take(self, task: Task) -> Self:
        """Update this handle, and its card if a notebook shows one, to a task's current state."""
        previous = {output.place: output for output in self.outputs}
        for name in _FIELDS:
            setattr(self, name, getattr(task, name))
        self.outputs = [self._bound_output(output, self, self._account) for output in task.outputs]
        for output in self.outputs:
            before = previous.get(output.place, output)
            output._preview, output._path = before._preview, before._path
        if self._display_id is not None:
            Card(self).update(self._display_id)
        return self

    def failure(self) -> TaskError | None:
        """Return the error of a task that ended without outputs, or None."""
        return None if self.status == "completed" and self.outputs else TaskError.of(self)

    def to_json(self) -> str:
        """Return it as JSON that `client.tasks.load` turns back into a handle."""
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
    """A task bound to its client. Its fields show the last state read. It can be pickled.

    Attributes:
        outputs: its results, ready to save; empty until it is completed.
    """

    __slots__ = ()
    _bound_output = OutputHandle
    outputs: list[OutputHandle]  # type: ignore[assignment]  # narrows Task's: ready to fetch

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
            timeout: seconds to wait; the default comes from the client's `Polling`.
            on_update: called with the task when its status or progress changes.
            on_poll: called in the poller's thread after each read of the task; use it for workflow engines'
                heartbeats.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; subclasses give the reason.
        """
        check_wait(timeout, on_update)
        is_observed = on_update is not None or on_poll is not None
        for task in self._events(timeout, on_poll, is_observed=is_observed):
            if on_update is not None:
                on_update(task)
        if error := self.failure():
            raise error
        return self

    def events(self, *, timeout: float | None = None, on_poll: OnPoll | None = None) -> Iterator[Task]:
        """Yield the task whenever its status or progress changes, until it ends.

        Args:
            timeout: seconds to wait; the default comes from the client's `Polling`.
            on_poll: called in the poller's thread after each read of the task.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
        """
        return self._events(timeout, on_poll, is_observed=True)

    def _events(self, timeout: float | None, on_poll: OnPoll | None, *, is_observed: bool) -> Iterator[Task]:
        options: Any = {"timeout": timeout, "every_change": True, "is_observed": is_observed}
        with self._account.watch([self], on_poll=on_poll, **options) as subscription:
            while (task := run_sync(subscription.next())) is not None:
                self.take(task)
                yield task

    @overload
    def save(self, folder: os.PathLike[str], **options: Unpack[SaveOptions]) -> list[Path]: ...

    @overload
    def save(self, folder: str, **options: Unpack[SaveOptions]) -> list[Path] | list[str]: ...

    def save(self, folder: FilePath, **options: Unpack[SaveOptions]) -> list[Path] | list[str]:
        """Save all outputs to a directory, created if needed, or to a URL; return their locations.

        Args:
            folder: the directory, or a URL as for `OutputHandle.save`.
            options: as for `OutputHandle.save`.

        Raises:
            OutputError: an output cannot be fetched or written; subclasses give the reason.
        """
        saved = [output.save(_folder(folder), **options) for output in self.outputs]
        return cast("list[Path] | list[str]", saved)  # all go to one folder


class AsyncTaskHandle(_BoundTask):
    """A task bound to its client. Its fields show the last state read. It can be pickled.

    Attributes:
        outputs: its results, ready to save; empty until it is completed.
    """

    __slots__ = ()
    _bound_output = AsyncOutputHandle
    outputs: list[AsyncOutputHandle]  # type: ignore[assignment]  # narrows Task's: ready to fetch

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
            timeout: seconds to wait; the default comes from the client's `Polling`.
            on_update: called with the task when its status or progress changes.
            on_poll: called in the poller's thread after each read of the task; use it for workflow engines'
                heartbeats.

        Raises:
            TaskWaitTimeout: it is still running; wait again, do not submit again.
            TaskError: it ended without an output; subclasses give the reason.
        """
        check_wait(timeout, on_update)
        is_observed = on_update is not None or on_poll is not None
        async for task in self._events(timeout, on_poll, is_observed=is_observed):
            if on_update is not None:
                on_update(task)
        if error := self.failure():
            raise error
        return self

    def events(self, *, timeout: float | None = None, on_poll: OnPoll | None = None) -> AsyncIterator[Task]:
        """Yield the task whenever it changes; see `TaskHandle.events` for arguments and errors."""
        return self._events(timeout, on_poll, is_observed=True)

    async def _events(
        self, timeout: float | None, on_poll: OnPoll | None, *, is_observed: bool
    ) -> AsyncIterator[Task]:
        options: Any = {"timeout": timeout, "every_change": True, "is_observed": is_observed}
        with self._account.watch([self], on_poll=on_poll, **options) as subscription:
            while (task := await subscription.next()) is not None:
                self.take(task)
                yield task

    @overload
    async def save(self, folder: os.PathLike[str], **options: Unpack[SaveOptions]) -> list[Path]: ...

    @overload
    async def save(self, folder: str, **options: Unpack[SaveOptions]) -> list[Path] | list[str]: ...

    async def save(self, folder: FilePath, **options: Unpack[SaveOptions]) -> list[Path] | list[str]:
        """Save all outputs to a directory or URL; see `TaskHandle.save` for arguments and errors."""
        saved = [await output.save(_folder(folder), **options) for output in self.outputs]
        return cast("list[Path] | list[str]", saved)  # all go to one folder


def _folder(path: FilePath) -> str:
    return f"{os.fspath(path)}/"


def as_image(content: bytes, task_id: str) -> Image:
    """Read an image with Pillow; raise OutputError if it is unreadable or a decompression bomb."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtraError("Reading an image needs Pillow.", hint="pip install pillow") from error
    kind = (mime_type_of(content) or "image").partition("/")[0]
    if kind != "image":
        raise OutputError(f"The output of task {task_id} is {KINDS[kind]}, not an image.", task_id=task_id)
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (OSError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's message for an unknown format names the address of our buffer.
        why = "its format is unknown." if isinstance(error, UnidentifiedImageError) else error
        raise OutputError(
            f"The output of task {task_id} cannot be read as an image: {why}", task_id=task_id
        ) from error
    return image


def block(content: bytes, task_id: str, max_px: int | None) -> dict[str, str]:
    """Return content as a conversation block; shrink an image that exceeds `max_px`."""
    mime_type = mime_type_of(content) or "application/octet-stream"
    if max_px is not None:
        image = as_image(content, task_id)
        if max(image.size) > max_px:
            image.thumbnail((max_px, max_px))
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            content, mime_type = buffer.getvalue(), "image/png"
    kind = mime_type.partition("/")[0]
    return {"type": kind, "base64": base64.b64encode(content).decode(), "mime_type": mime_type}


def _rebuild(kind: type[_BoundTask], body: dict[str, Any], account: Account) -> _BoundTask:
    return kind(read_task(body), account)
