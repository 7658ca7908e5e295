"""Use what only [all] adds: LangChain's agents and the demo."""

from __future__ import annotations

import json
import subprocess
import sys

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.messages import HumanMessage

from langchain_piccc import ChatPiccc, PicccImageTool, PicccTasksMiddleware, media_from, register
from piccc import Client, Polling

client = Client(polling=Polling(min=0.01, max=0.05))
agent = create_agent(
    ChatPiccc(model="piccc-pro"),
    [PicccImageTool(client=client, model="piccc-image")],
    middleware=[PicccTasksMiddleware(client)],
)
order = HumanMessage('Make a square image "a red ceramic mug".')
state = agent.invoke({"messages": [order]})
assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
[task] = media_from(state["messages"][2])
assert task.outputs[0].url

register()
assert init_chat_model("piccc:piccc-pro").invoke("Name a colour.").text

command = [sys.executable, "-I", "-m", "piccc", "demo", "--json"]
done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  our own command
assert done.returncode == 0, done.stderr
assert [task["type"] for task in json.loads(done.stdout)["tasks"]] == ["image", "video"]
