"""Run one async entry point in a cold process under blockbuster: `python entry_points.py NAME`.

The server's URL and API key come from the environment. Blockbuster raises if a call blocks the event loop.
Without a name, run all entry points in turn, unguarded, and print the coroutines that ran.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import FrameType
from typing import Any

from blockbuster import BlockBuster

EntryPoint = Callable[[], Awaitable[None]]
FOLDER = Path(tempfile.mkdtemp())
REFERENCE = FOLDER / "reference.png"
REFERENCE.write_bytes(b"\x89PNG\r\n\x1a\n")
QUICK = {"min": 0.01, "max": 0.05}


def client_chat() -> EntryPoint:
    from piccc import AsyncClient, Message, Text
    from piccc.conversation import ChatRequest

    async def use() -> None:
        async with AsyncClient() as client:
            await client.chat.create("Hello")
            await client.warm_up()
            async with await client.chat.stream("Hello") as stream:
                assert [text async for text in stream.texts()]
            request = ChatRequest(model="piccc-flash", messages=[Message("user", [Text("Hello")])])
            assert (await client.chat.send(request)).text
            opened = await client.chat.open(request)
            assert [item async for item in opened.batches()]
            await opened.close()

    return use


def client_media() -> EntryPoint:
    from piccc import AsyncClient, Polling

    async def use() -> None:
        async with AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK)) as client:
            task = await client.images.generate("A mug", model="piccc-image", key="mug-1")
            assert await task.outputs[0].bytes()
            assert (await task.outputs[0].save(FOLDER)).name
            assert [item async for item in client.tasks.list()]
            assert (await client.tasks.resume("mug-1")).id == task.id
            assert await task.outputs[0].base64_block(max_px=64)
            assert await task.outputs[0].pil()
            assert await task.save(FOLDER / "all")
            assert await task.refresh()

    return use


def client_tasks() -> EntryPoint:
    from piccc import AsyncClient, Polling

    async def use() -> None:
        async with AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK)) as client:
            tasks = client.tasks
            task = await client.images.submit("A mug", model="piccc-image")
            await task.wait()
            assert [item async for item in task.events()]
            ids = [(await client.images.submit("A cup", model="piccc-image", key="cup")).id, task.id]
            assert await tasks.submission("cup")
            assert await tasks.find("cup")
            assert (await tasks.get(ids[0])).id == ids[0]
            assert await tasks.wait(ids[0])
            assert await tasks.wait_all(ids)
            assert [item async for item in tasks.as_completed(ids)]
            assert [item async for item in tasks.events(*ids)]

    return use


def client_batch() -> EntryPoint:
    from piccc import AsyncClient, Polling

    async def use() -> None:
        async with AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK)) as client:
            rows = [{"prompt": "A red mug", "image": REFERENCE}, {"prompt": "A blue mug"}]
            batch = await client.images.map(rows, model="piccc-image", run="mugs")
            assert len(batch) == 2

    return use


def rate_limit() -> EntryPoint:
    from piccc import RateLimit

    async def use() -> None:
        limit = RateLimit("1000/second", ledger=str(FOLDER / "rate.db"))
        assert await limit.aacquire()
        await limit.async_acquire()

    return use


def webhook_receiver() -> EntryPoint:
    from piccc import AsyncClient, Client, Polling

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
        async with AsyncClient() as other, aclosing(receiver.apoll()) as ended:
            made = await other.images.submit("A mug", model="piccc-image")
            while (await anext(ended)).id != made.id:
                pass  # tasks of others that ended recently

    return use


def langchain_chat() -> EntryPoint:
    from langchain_piccc import ChatPiccc

    model = ChatPiccc(model="piccc-pro")

    async def use() -> None:
        await model.ainvoke("Hello")
        assert [chunk async for chunk in model.astream("Hello")]
        assert await model.abatch(["Hello", "Good day"])
        await model.aclose()

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
    from langgraph.checkpoint.memory import InMemorySaver

    from langchain_piccc import (
        ChatPiccc,
        PicccInvalidCallsMiddleware,
        PicccMediaToolkit,
        PicccTasksMiddleware,
        aresume_when_done,
    )
    from piccc import AsyncClient, Polling

    client = AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK))

    async def use() -> None:
        models = {"image_model": "piccc-image", "video_model": "piccc-video"}
        toolkit = PicccMediaToolkit(async_client=client, show="thumbnail", **models)
        ask = {"messages": [("user", 'Make an image "a red mug".')]}
        middleware = [PicccTasksMiddleware(async_client=client), PicccInvalidCallsMiddleware()]
        agent = create_agent(ChatPiccc(), toolkit.get_tools(), middleware=middleware)
        assert (await agent.ainvoke(ask))["messages"][-1].text
        later = PicccMediaToolkit(async_client=client, image_model="piccc-image", mode="interrupt")
        thread: Any = {"configurable": {"thread_id": "1"}}
        graph = create_agent(ChatPiccc(), later.get_tools(), checkpointer=InMemorySaver())
        await graph.ainvoke(ask, thread)
        assert (await aresume_when_done(graph, thread, client))["messages"][-1].text
        for tool in toolkit.get_tools():
            if tool.name.startswith(("list", "get")):
                names = {"task_id": "task_none"} if tool.name.startswith("get") else {}
                await tool.arun(names)

    return use


def llama_index_chat() -> EntryPoint:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.tools import FunctionTool

    from llama_index_piccc import Piccc

    llm = Piccc()

    async def use() -> None:
        await llm.acomplete("Hello")
        assert [item async for item in await llm.astream_complete("Hello")]
        assert [item async for item in await llm.astream_chat([ChatMessage("Hello")])]
        tools = [FunctionTool.from_defaults(len, description="Measure a text.")]
        assert await llm.achat_with_tools(tools, "Hello")
        assert [item async for item in await llm.astream_chat_with_tools(tools, "Hello")]

    return use


def llama_index_structured() -> EntryPoint:
    from llama_index.core.llms import ChatMessage
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.schema import QueryBundle
    from llama_index.core.tools import ToolMetadata
    from pydantic import BaseModel

    from llama_index_piccc import Piccc, PicccQuestionGenerator

    class Person(BaseModel):
        """A person."""

        name: str

    llm, ask = Piccc(), "Anna is a person."

    async def use() -> None:
        assert await llm.astructured_predict(Person, PromptTemplate(ask))
        structured = llm.as_structured_llm(Person)
        assert await structured.achat([ChatMessage(ask)])
        assert await structured.acomplete(ask)
        assert [item async for item in await structured.astream_chat([ChatMessage(ask)])]
        assert [item async for item in await structured.astream_complete(ask)]
        questions = PicccQuestionGenerator.from_defaults(llm=llm)
        assert await questions.agenerate([ToolMetadata("Mugs.", "mugs")], QueryBundle("What of mugs?"))

    return use


def llama_index_task_reader() -> EntryPoint:
    from llama_index_piccc import PicccTaskReader
    from piccc import AsyncClient, Polling

    client = AsyncClient(polling=Polling(**QUICK))

    async def use() -> None:
        await client.images.generate("A mug", model="piccc-image")
        reader = PicccTaskReader(async_client=client, fetch=True)
        assert await reader.aload_data(limit=1)
        assert [item async for item in reader.alazy_load_data(limit=1)]

    return use


def llama_index_media_tool() -> EntryPoint:
    from llama_index_piccc import PicccMediaToolSpec
    from piccc import AsyncClient, Polling

    client = AsyncClient(ledger=FOLDER / "tasks.db", polling=Polling(**QUICK))

    async def use() -> None:
        spec = PicccMediaToolSpec(
            async_client=client, image_model="piccc-image", video_model="piccc-video", show="thumbnail"
        )
        assert await spec.agenerate_image("A mug")
        assert await spec.agenerate_video("A mug turns")
        assert await spec.alist_media_tasks()
        assert await spec.aget_media_task("task_none")
        assert await spec.arun("generate_image", {"prompt": "A mug"})

    return use


ENTRY_POINTS: dict[str, Callable[[], EntryPoint]] = {
    make.__name__: make
    for make in (
        client_chat,
        client_media,
        client_tasks,
        client_batch,
        rate_limit,
        webhook_receiver,
        langchain_chat,
        langchain_structured,
        langchain_media_tool,
        langchain_agent,
        llama_index_chat,
        llama_index_structured,
        llama_index_task_reader,
        llama_index_media_tool,
    )
}


async def main(use: EntryPoint) -> None:
    """Run an entry point twice, cold and warm, with blocking calls forbidden in the three packages."""
    guard = BlockBuster(["piccc", "langchain_piccc", "llama_index_piccc"])
    guard.activate()
    try:
        await use()
        await use()
    finally:
        guard.deactivate()


async def watch() -> None:
    """Run all entry points and print the async functions that ran on the event loop's thread."""
    ran: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
            ran.add(f"{frame.f_globals['__name__']}:{code.co_qualname}")

    for make in ENTRY_POINTS.values():
        use = make()
        sys.setprofile(note)
        try:
            await use()
        finally:
            sys.setprofile(None)
    print(*sorted(ran), sep="\n")


if __name__ == "__main__":
    # As in an agent server, import modules and create models before the event loop starts.
    asyncio.run(main(ENTRY_POINTS[sys.argv[1]]()) if sys.argv[1:] else watch())
