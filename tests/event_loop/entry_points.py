"""Use one asynchronous entry point in a cold process under blockbuster: `python entry_points.py NAME`.

The server's address and key come from the environment. Blockbuster raises where a call blocks the loop.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from blockbuster import BlockBuster

EntryPoint = Callable[[], Awaitable[None]]
FOLDER = Path(tempfile.mkdtemp())
QUICK = {"min": 0.01, "max": 0.05}


def client_chat() -> EntryPoint:
    from piccc import AsyncClient

    async def use() -> None:
        async with AsyncClient() as client:
            await client.chat.create("Hello")
            async with await client.chat.stream("Hello") as stream:
                assert [text async for text in stream.texts()]

    return use


def client_media() -> EntryPoint:
    from piccc import AsyncClient, Polling

    async def use() -> None:
        async with AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK)) as client:
            task = await client.images.generate("A mug", model="piccc-image", key="mug-1")
            assert await task.outputs[0].bytes()
            assert (await task.outputs[0].save(FOLDER)).name
            assert [each async for each in client.tasks.list()]
            assert (await client.tasks.resume("mug-1")).id == task.id

    return use


def client_batch() -> EntryPoint:
    from piccc import AsyncClient, Polling

    async def use() -> None:
        async with AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK)) as client:
            batch = await client.images.map(["A red mug", "A blue mug"], model="piccc-image", run="mugs")
            assert len(batch) == 2

    return use


def webhook_receiver() -> EntryPoint:
    from piccc import Client, Polling

    client = Client(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK))
    receiver = client.webhooks(secret="sixteen characters", public_url="https://hooks.example.com")

    async def use() -> None:
        sent: list[object] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b'{"data": {"task_id": "task_x"}}', "more_body": False}

        async def send(message: object) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/none", "headers": [], "query_string": b""}
        await receiver.asgi(scope, receive, send)
        assert sent

    return use


def langchain_chat() -> EntryPoint:
    from langchain_piccc import ChatPiccc

    model = ChatPiccc(model="piccc-pro")

    async def use() -> None:
        await model.ainvoke("Hello")
        assert [chunk async for chunk in model.astream("Hello")]
        assert await model.abatch(["Hello", "Good day"])

    return use


def langchain_structured() -> EntryPoint:
    from pydantic import BaseModel

    from langchain_piccc import ChatPiccc

    class Person(BaseModel):
        """A person."""

        name: str

    async def use() -> None:
        assert await ChatPiccc().with_structured_output(Person).ainvoke("Anna is a person.")

    return use


def langchain_media_tool() -> EntryPoint:
    from langchain_piccc import PicccImageTool
    from piccc import AsyncClient, Polling

    client = AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK))

    async def use() -> None:
        tool = PicccImageTool(async_client=client, model="piccc-image")
        call = {"name": tool.name, "args": {"prompt": "A mug"}, "id": "call_1", "type": "tool_call"}
        assert (await tool.ainvoke(call)).artifact["task_id"]

    return use


def langchain_agent() -> EntryPoint:
    from langchain.agents import create_agent

    from langchain_piccc import ChatPiccc, PicccMediaToolkit
    from piccc import AsyncClient, Polling

    client = AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK))

    async def use() -> None:
        models = {"image_model": "piccc-image", "video_model": "piccc-video"}
        toolkit = PicccMediaToolkit(async_client=client, show="thumbnail", **models)
        agent = create_agent(ChatPiccc(), toolkit.get_tools())
        result = await agent.ainvoke({"messages": [("user", 'Make an image "a red mug".')]})
        assert result["messages"][-1].text

    return use


def llama_index_chat() -> EntryPoint:
    from llama_index.core.llms import ChatMessage

    from llama_index_piccc import Piccc

    llm = Piccc()

    async def use() -> None:
        await llm.acomplete("Hello")
        assert [each async for each in await llm.astream_chat([ChatMessage("Hello")])]

    return use


def llama_index_media_tool() -> EntryPoint:
    from llama_index_piccc import PicccMediaToolSpec
    from piccc import AsyncClient, Polling

    client = AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK))

    async def use() -> None:
        spec = PicccMediaToolSpec(async_client=client, image_model="piccc-image")
        assert "task" in str(await spec.agenerate_image("A mug"))

    return use


ENTRY_POINTS: dict[str, Callable[[], EntryPoint]] = {
    each.__name__: each
    for each in (
        client_chat,
        client_media,
        client_batch,
        webhook_receiver,
        langchain_chat,
        langchain_structured,
        langchain_media_tool,
        langchain_agent,
        llama_index_chat,
        llama_index_media_tool,
    )
}


async def main(use: EntryPoint) -> None:
    """Run an entry point twice, cold and warm, with blocking calls forbidden in our packages."""
    guard = BlockBuster(["piccc", "langchain_piccc", "llama_index_piccc"])
    guard.activate()
    try:
        await use()
        await use()
    finally:
        guard.deactivate()


if __name__ == "__main__":
    # As in an agent server: modules are imported and models made before the event loop starts.
    asyncio.run(main(ENTRY_POINTS[sys.argv[1]]()))
