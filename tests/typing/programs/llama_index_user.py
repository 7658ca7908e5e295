"""A program that uses LlamaIndex."""

from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse
from pydantic import BaseModel

from llama_index_piccc import Piccc, PicccMediaToolSpec
from piccc import Client


class Answer(BaseModel):
    text: str


models = [
    Piccc(),
    Piccc("piccc-flash"),
    Piccc(model="piccc-pro", api_key="pcc_live_key", default_headers={"x-team": "search"}, timeout=30),
]
llm = models[0]
completion: CompletionResponse = llm.complete("hi")
reply: ChatResponse = llm.chat([ChatMessage("hi")])
for grown in llm.stream_complete("hi"):
    delta: str | None = grown.delta
tools = PicccMediaToolSpec(Client(api_key="pcc_live_key")).to_tool_list()
