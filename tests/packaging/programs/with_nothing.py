"""Use what every install includes: chat, streams and an image, in both dialects."""

from __future__ import annotations

import asyncio

from piccc import AsyncClient, Client, Polling

QUICK = Polling(min=0.01, max=0.05)


def talk(client: Client) -> None:
    """Ask for a complete reply and for a stream."""
    question = "Name a colour."
    reply = client.chat.create(question, model="piccc-pro")
    with client.chat.stream(question, model="piccc-pro") as stream:
        words = list(stream.texts())
    assert "".join(words) == stream.reply.text
    assert reply.text
    assert stream.reply.usage
    assert (reply.finish_reason, stream.reply.finish_reason) == ("stop", "stop")


async def talk_async(client: AsyncClient) -> None:
    """Stream asynchronously."""
    async with client, await client.chat.stream("Name a colour.", model="piccc-pro") as stream:
        words = [text async for text in stream.texts()]
    assert "".join(words)


def make_an_image(client: Client) -> None:
    """Submit, wait, save and list."""
    handle = client.images.submit("a mug", model="piccc-image", aspect_ratio="1:1", resolution="1K")
    [output] = handle.wait().outputs
    saved = output.save("mug.png", overwrite=True)
    assert saved.read_bytes().startswith(b"\x89PNG")
    assert handle.id in [task.id for task in client.tasks.list(type="image")]


for dialect in ("openai", "anthropic"):
    with Client(dialect=dialect, polling=QUICK, ledger="tasks.db") as client:
        talk(client)
        asyncio.run(talk_async(client.as_async()))
        make_an_image(client)
