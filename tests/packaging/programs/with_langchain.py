"""Use what [langchain] adds: text, tool calls, structured output and an image, in both dialects."""

from __future__ import annotations

import asyncio

from langchain_core.messages import AIMessageChunk
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_piccc import ChatPiccc, PicccImageTool, PicccMediaToolkit, media_from
from piccc import Client, Polling


class Kiln(BaseModel):
    """A kiln."""

    name: str = Field(description="its name")
    degrees: int


@tool
def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"It is sunny in {city}."


def talk(model: ChatPiccc) -> None:
    """Invoke, stream, call a tool and get structured output."""
    assert model.invoke("Name a colour.").text
    whole = AIMessageChunk(content="")
    for chunk in model.stream("Name a colour."):
        whole += chunk
    assert whole.text
    assert whole.usage_metadata
    [call] = model.bind_tools([weather]).invoke("What is the weather in Paris?").tool_calls
    assert (call["name"], call["args"]) == ("weather", {"city": "Paris"})
    shaped = model.with_structured_output(Kiln).invoke("The kiln 'Blue Oven' reaches 1200 degrees.")
    assert shaped == Kiln(name="Blue Oven", degrees=1200)
    assert asyncio.run(model.ainvoke("Name a colour.")).text


def make_an_image(client: Client) -> None:
    """Call the image tool as a model does, and save the image."""
    call = {"type": "tool_call", "id": "c1", "name": "generate_image", "args": {"prompt": "a kite"}}
    [task] = media_from(PicccImageTool(client=client, model="piccc-image").invoke(call))
    assert client.tasks.get(task.id).outputs[0].save("kite.png", overwrite=True).stat().st_size
    assert len(PicccMediaToolkit(client=client).get_tools()) == 4


for dialect in ("openai", "anthropic"):
    talk(ChatPiccc(model="piccc-pro", dialect=dialect))
make_an_image(Client(polling=Polling(min=0.01, max=0.05)))
