"""A program that uses LangChain."""

from collections.abc import Awaitable
from typing import Any, assert_type

import httpx
from langchain_core.messages import AIMessage, AIMessageChunk
from pydantic import BaseModel, SecretStr

from langchain_piccc import ChatPiccc, PicccMediaToolkit
from piccc import Client


class Answer(BaseModel):
    text: str


def key() -> str:
    return "pcc_live_key"


async def fetched_key() -> str:
    return "pcc_live_key"


models = [
    ChatPiccc(),
    ChatPiccc(model="piccc-pro", api_key="pcc_live_key", temperature=0.2, stop="END"),
    ChatPiccc(api_key=SecretStr("pcc_live_key"), default_headers={"x-team": "search"}, timeout=30),
    ChatPiccc(api_key=key, http_client=httpx.Client(), dialect="anthropic"),
    ChatPiccc(api_key=fetched_key, http_async_client=httpx.AsyncClient()),
]
model = models[1]
answer: AIMessage = model.invoke("hi")
text: str = answer.text
pending: Awaitable[AIMessage] = model.ainvoke("hi")
assert_type(model.with_structured_output(Answer).invoke("hi"), Answer)
assert_type(model.with_structured_output(Answer, include_raw=True).invoke("hi"), Any)
bound = model.bind_tools([Answer], tool_choice="any")
for chunk in model.stream("hi"):
    piece: AIMessageChunk = chunk
tools = PicccMediaToolkit(client=Client(api_key="pcc_live_key")).get_tools()
