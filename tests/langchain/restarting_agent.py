"""An agent process that can be killed at any moment: run again, it continues where it stopped.

Arguments: a folder for the ledger and the checkpoints, the tools' mode, LangGraph's durability. If
PICCC_LEDGER names a Postgres database, it stores both.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver

from langchain_piccc import ChatPiccc, PicccMediaToolkit, PicccTasksMiddleware, media_from, resume_when_done
from piccc import Client, Polling

THREAD = RunnableConfig(configurable={"thread_id": "t1"})


def main(folder: Path, mode: Any, durability: Any = "sync") -> None:
    """Start or continue the run; print the outcome of its tasks and its last message."""
    database = os.environ.get("PICCC_LEDGER")
    client = Client(ledger=database or folder / "tasks.db", polling=Polling(min=0.001, max=0.002))
    toolkit = PicccMediaToolkit(
        client=client, image_model="piccc-image", video_model="piccc-video", mode=mode, wait_s=None
    )
    # Only background tasks are reported after their tool call has returned.
    middleware = [PicccTasksMiddleware(client, wait_s=600)] if mode == "background" else []
    saver: Any = SqliteSaver.from_conn_string(str(folder / "checkpoints.db"))
    with PostgresSaver.from_conn_string(database) if database else saver as saver:
        saver.setup()
        graph: Any = create_agent(ChatPiccc(), toolkit.get_tools(), middleware=middleware, checkpointer=saver)
        if not graph.get_state(THREAD).interrupts:
            is_started = graph.get_state(THREAD).values
            graph.invoke(
                None if is_started else {"messages": [("user", "An image, then a video of it.")]},
                THREAD,
                durability=durability,
            )
        messages = resume_when_done(graph, THREAD, client, durability=durability)["messages"]
    print(*(f"{task.type} {task.status}" for task in media_from(messages)), messages[-1].text, sep="\n")
