"""Images that tools show to a model: messages refer to them, and a request has their bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from langchain_piccc._requests import SHOWN_IMAGE, shown_image
from piccc.media.agent_tools import Show, image_block, tasks_in

if TYPE_CHECKING:
    from piccc.client import AsyncClient, Client


def references(artifact: Mapping[str, Any], show: Show) -> list[dict[str, Any]]:
    """Return a content block for each image of a tool's artifact that a model is to see.

    A checkpointer stores whole messages, many times over, so they have no bytes. `ChatPiccc` fetches the
    image when it is asked; another model gets a standard block with the image's address.
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
    """Return messages with the bytes of the images that they refer to.

    An image that cannot be fetched becomes a text that says so: no conversation ends by one.
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
    # Only the task's id counts: who may write messages must not choose an address that is fetched here.
    task_id, place, show = shown.get("task_id"), shown.get("place"), shown.get("show")
    return await image_block(
        client, str(task_id), place or 0, "thumbnail" if show == "thumbnail" else "image"
    )
