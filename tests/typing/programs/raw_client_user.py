"""A program that uses the raw client."""

from pathlib import Path

from pydantic import BaseModel

from piccc import AsyncClient, Client
from piccc.conversation import ChatReply, JSONSchema, Message, Text
from piccc.errors import SubmissionUnknown, TaskWaitTimeout


class Answer(BaseModel):
    text: str


def blocking() -> None:
    with Client(api_key="pcc_live_key", ledger=Path("tasks.db"), default_headers={"x-team": "a"}) as client:
        reply: ChatReply = client.chat.create("hi", model="piccc-flash", response_format=Answer)
        client.chat.create(
            [Message("user", [Text("hi")])], response_format=JSONSchema(Answer), temperature=0.2
        )
        client.chat.create("hi", response_format={"type": "object", "properties": {}})
        with client.chat.stream("hi") as stream:
            for text in stream.texts():
                print(text.upper(), reply.text)
        try:
            handle = client.images.generate("a lighthouse", aspect_ratio="16:9")
        except SubmissionUnknown as error:
            handle = client.tasks.resume(error.submission_key)
        except TaskWaitTimeout as error:
            handle = client.tasks.wait(error.task_id)
        saved: list[Path] = handle.wait().save(Path("out"))
        print(saved)


async def asynchronous() -> None:
    async with AsyncClient() as client:
        async with client.chat.stream("hi") as stream:
            async for text in stream.texts():
                print(text.upper())
        async with await client.chat.stream("hi") as again:
            async for delta in again:
                print(delta)
