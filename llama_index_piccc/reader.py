"""A reader that turns finished tasks into documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from llama_index.core.readers.base import BaseReader
from llama_index.core.schema import Document, ImageDocument, MediaResource

from piccc.media.agent_tools import ClientPair
from piccc.tasks import Output, Task, TaskType

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client
    from piccc.media.handles import AsyncTaskHandle, TaskHandle

_FIELDS = ("aspect_ratio", "resolution", "seed", "usage", "cost")


class PicccTaskReader(BaseReader):
    """Reader that turns each image of finished tasks into an ImageDocument and each video into a Document.

    The prompt is the text. The metadata has the task's id, type, model, parameters, size and times, and the
    output's URL. The URL expires, so it is hidden from the model and the embedding. An output's document
    always has the same id.

    Args:
        client: the `piccc.Client`; by default created from `async_client` or from the environment.
        async_client: the `piccc.AsyncClient`; by default created from `client`.
        fetch: whether to download each image into its document; otherwise the document has its URL.

    Examples:
        >>> from llama_index_piccc import PicccTaskReader
        >>> from piccc import Client
        >>> task = Client().images.generate("A ceramic mug", model="piccc-image", aspect_ratio="1:1")
        >>> [document] = PicccTaskReader().load_data(type="image", limit=1)
        >>> document.text, document.metadata["aspect_ratio"]
        ('A ceramic mug', '1:1')
    """

    def __init__(
        self,
        client: Client | None = None,
        *,
        async_client: AsyncClient | None = None,
        fetch: bool = False,
    ) -> None:
        from piccc.client import Client

        self._clients: ClientPair[Client, AsyncClient] = ClientPair(client, async_client, Client)
        self._fetch = fetch

    def lazy_load_data(
        self,
        *,
        type: TaskType | None = None,
        task_ids: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Iterator[Document]:
        """Yield documents, newest first, page by page.

        Args:
            type: only images or only videos.
            task_ids: only these tasks, in this order, each fetched separately.
            limit: maximum number of tasks.
        """
        tasks = self._clients.sync().tasks
        listed = tasks.list(type=type, status="completed") if task_ids is None else map(tasks.get, task_ids)
        for task in islice((task for task in listed if _matches(task, type)), limit):
            for place, output in enumerate(task.outputs):
                content = output.bytes() if self._fetch and _is_image(task, output) else None
                yield _document(task, output, place, content)

    async def alazy_load_data(  # type: ignore[override]  # not awaited: an iterator for `async for`
        self,
        *,
        type: TaskType | None = None,
        task_ids: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Document]:
        """Yield documents, newest first, page by page; arguments as for `lazy_load_data`."""
        count = 0
        async for task in self._tasks(type, task_ids):
            if count == limit:
                return
            count += 1
            for place, output in enumerate(task.outputs):
                content = await output.bytes() if self._fetch and _is_image(task, output) else None
                yield _document(task, output, place, content)

    async def aload_data(self, *args: Any, **load_kwargs: Any) -> list[Document]:
        """Return documents, newest first; arguments as for `lazy_load_data`."""
        return [document async for document in self.alazy_load_data(*args, **load_kwargs)]

    async def _tasks(
        self, type: TaskType | None, task_ids: Iterable[str] | None
    ) -> AsyncIterator[AsyncTaskHandle]:
        tasks = self._clients.asynchronous().tasks
        if task_ids is None:
            async for task in tasks.list(type=type, status="completed"):
                if _matches(task, type):
                    yield task
            return
        for task_id in task_ids:
            task = await tasks.get(task_id)
            if _matches(task, type):
                yield task


def _matches(task: TaskHandle | AsyncTaskHandle, type: TaskType | None) -> bool:
    # The list's filters are assumed, so the server may not support them.
    return task.status == "completed" and (type is None or task.type in ("", type))


def _is_image(task: Task, output: Output) -> bool:
    return (output.type or task.type) == "image"


def _document(task: Task, output: Output, place: int, content: bytes | None) -> Document:
    metadata: dict[str, Any] = {
        "task_id": task.id,
        "type": output.type or task.type,
        "model": task.model,
        **{name: task.raw.get(name) for name in _FIELDS},
        "width": output.width,
        "height": output.height,
        "duration_seconds": output.duration_seconds,
        "mime_type": output.mime_type,
        "created_at": task.created_at,
        "completed_at": task.completed_at,
        "expires_at": task.expires_at,
        "url": output.url,
    }
    hidden = ["task_id", "url", "created_at", "completed_at", "expires_at"]
    document: dict[str, Any] = {
        "id_": f"{task.id}/{place}",
        "text": task.prompt,
        "metadata": {name: value for name, value in metadata.items() if value not in (None, "")},
        "excluded_embed_metadata_keys": hidden,
        "excluded_llm_metadata_keys": hidden,
    }
    if not _is_image(task, output):
        return Document(**document)
    if content is None:
        image = MediaResource(url=output.url, mimetype=output.mime_type)
    else:
        image = MediaResource(data=content, mimetype=output.mime_type)
    return ImageDocument(**document, image_resource=image)
