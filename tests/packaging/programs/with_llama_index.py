"""Use what [llama-index] adds: text, structured output, an agent, an index and an image, in both dialects."""

from __future__ import annotations

import asyncio

from llama_index.core import Document, SimpleKeywordTableIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.piccc import Piccc as Alias
from pydantic import BaseModel, Field

from llama_index_piccc import Piccc, PicccMediaToolSpec, ensure_nltk_data, media_from
from piccc import Client, Polling


class Kiln(BaseModel):
    """A kiln."""

    name: str = Field(description="its name")
    degrees: int


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"It is sunny in {city}."


async def ask_an_agent(llm: Piccc) -> str:
    """Have an agent call a tool and answer from its result."""
    return str(await FunctionAgent(tools=[weather], llm=llm).run("What is the weather in Paris?"))


def talk(llm: Piccc) -> None:
    """Chat, stream, get structured output and run an agent."""
    question = [ChatMessage("Name a colour.")]
    assert llm.chat(question).message.content
    *_, last = llm.stream_chat(question)
    assert last.message.content
    prompt = PromptTemplate("The kiln 'Blue Oven' reaches {degrees} degrees.")
    assert llm.structured_predict(Kiln, prompt, degrees=1200) == Kiln(name="Blue Oven", degrees=1200)
    assert "sunny in Paris" in asyncio.run(ask_an_agent(llm))


def ask_an_index(llm: Piccc) -> None:
    """Answer from a document, using the word lists that were installed with LlamaIndex."""
    document = Document(text="The blue mug holds 300 ml. The red mug holds 250 ml.")
    index = SimpleKeywordTableIndex.from_documents([document], llm=llm)
    engine = index.as_query_engine(llm=llm, retriever_mode="simple")
    assert "250 ml" in str(engine.query("How much does the red mug hold?"))


def make_an_image(client: Client) -> None:
    """Call the image tool as an agent does, and save the image."""
    tools = PicccMediaToolSpec(client, image_model="piccc-image").to_tool_list()
    [draw] = [tool for tool in tools if tool.metadata.name == "generate_image"]
    [task] = media_from(draw(prompt="a kite"))
    assert client.tasks.get(task.id).outputs[0].save("kite.png", overwrite=True).stat().st_size


assert Alias is Piccc
ensure_nltk_data()
for dialect in ("openai", "anthropic"):
    llm = Piccc(model="piccc-pro", dialect=dialect)
    talk(llm)
    ask_an_index(llm)
make_an_image(Client(polling=Polling(min=0.01, max=0.05)))
