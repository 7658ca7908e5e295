"""Images that tools show to a model: messages hold references, requests hold the bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from langchain_piccc._requests import SHOWN_IMAGE, shown_image
from piccc.media.agent_tools import Show, image_block, tasks_in

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client


def references(artifact: Mapping[str, Any], show: Show) -> list[dict[str, Any]]:
    """Return a content block for each image in a tool's artifact that the model should see.

    Checkpointers store every message many times, so messages hold no image bytes. `ChatPiccc` fetches the
    image for each request; other models get a standard block with the image's URL.
    """
    if show == "none" or "task_id" not in artifact:
        return []
    blocks = []
    for task in tasks_in(artifact):
        for output in task.outputs if task.type == "image" and task.status == "completed" else ():
            head, _, data = output.url.partition(",")
            is_inline = head.startswith("data:")
            carrier = {"base64": data} if is_inline else {"url": output.url}
            mime_type = head[5:].partition(";")[0] if is_inline else output.mime_type
            named = {"mime_type": mime_type} if mime_type else {}
            shown = {"task_id": task.id, "place": output.place, "show": show}
            blocks.append({"type": "image", **carrier, **named, "extras": {SHOWN_IMAGE: shown}})
    return blocks


async def with_images(client: Client | AsyncClient, messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return messages with image references replaced by the images' bytes.

    An image that cannot be fetched becomes a text that says so, so that the conversation can go on.
    """
    return [await _with_images(client, message) for message in messages]


async def _with_images(client: Client | AsyncClient, message: BaseMessage) -> BaseMessage:
    if isinstance(message.content, str) or not any(map(shown_image, message.content)):
        return message
    content = [await _with_bytes(client, block) for block in message.content]
    return message.model_copy(update={"content": content})


async def _with_bytes(client: Client | AsyncClient, block: Any) -> Any:
    shown = shown_image(block)
    if shown is None:
        return block
    # Use only the task's id: whoever can write messages must not be able to choose a URL to fetch.
    task_id, place, show = shown.get("task_id"), shown.get("place"), shown.get("show")
    return await image_block(
        client, str(task_id), place or 0, "thumbnail" if show == "thumbnail" else "image"
    )
