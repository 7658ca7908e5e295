"""Both frameworks' media tools tell a model the same words and a program the same JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_piccc import PicccMediaToolkit
from llama_index_piccc import PicccMediaToolSpec
from piccc import Client
from piccc.emulator import Emulator
from tests.media.paid import QUICK


@pytest.fixture
def client() -> Iterator[Client]:
    """Return a client of an emulator that has an image, a video, and a task that was refused."""
    with Emulator(speed=math.inf) as emulator:
        own = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
        own.images.generate("A kite", model="piccc-image")
        own.videos.generate("A kite rises", model="piccc-video", duration_seconds=1, resolution="480p")
        emulator.fault("moderated", route="POST *", times=1)
        own.images.submit("What must not be", model="piccc-image")
        yield own


def both(client: Client, name: str, arguments: dict[str, Any]) -> list[tuple[Any, Any, bool]]:
    """Return what the tool of each framework gives the model and the program, and whether it failed."""
    langchain = {tool.name: tool for tool in PicccMediaToolkit(client=client).get_tools()}
    message = langchain[name].invoke({"type": "tool_call", "id": "1", "name": name, "args": arguments})
    llama_index = {tool.metadata.name: tool for tool in PicccMediaToolSpec(client).to_tool_list()}
    output = llama_index[name](**arguments)
    return [
        (message.content, message.artifact, message.status == "error"),
        (output.content, output.raw_output, output.is_error),
    ]


def test_a_task_is_told_alike_however_it_ended(client: Client) -> None:
    tasks = list(client.tasks.list())
    for task in tasks:
        langchain, llama_index = both(client, "get_media_task", {"task_id": task.id})
        assert langchain == llama_index
        assert langchain[2] is (task.prompt == "What must not be")
    assert len(tasks) == 3


def test_a_list_is_told_alike(client: Client) -> None:
    langchain, llama_index = both(client, "list_media_tasks", {"limit": 2})
    assert langchain == llama_index
    assert langchain[0].count("\n") == 1


def test_an_error_is_told_alike(client: Client) -> None:
    langchain, llama_index = both(client, "get_media_task", {"task_id": "nobody's"})
    assert (langchain[0], langchain[2]) == (llama_index[0], llama_index[2])
    assert langchain[2]


def test_wrong_arguments_are_told_alike(client: Client) -> None:
    langchain, llama_index = both(client, "generate_image", {"prompt": "A kite", "resolution": "9K"})
    assert langchain == llama_index
    assert langchain[2]


def test_the_tools_are_offered_alike(client: Client) -> None:
    langchain = PicccMediaToolkit(client=client).get_tools()
    llama_index = PicccMediaToolSpec(client).to_tool_list()
    assert [(tool.name, tool.description) for tool in langchain] == [
        (tool.metadata.name, tool.metadata.description) for tool in llama_index
    ]
    assert [tool.args_schema for tool in langchain] == [tool.metadata.fn_schema for tool in llama_index]
