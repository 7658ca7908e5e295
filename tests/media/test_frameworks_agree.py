"""The media tools of both frameworks return the same text to a model and the same JSON to a program."""

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
    """Return a client of an emulator that has an image, a video and a rejected task."""
    with Emulator(speed=math.inf) as emulator:
        created = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
        created.images.generate("A kite", model="piccc-image")
        created.videos.generate("A kite rises", model="piccc-video", duration_seconds=1, resolution="480p")
        emulator.fault("moderated", route="POST *", times=1)
        created.images.submit("What must not be", model="piccc-image")
        yield created


def call_both(client: Client, name: str, arguments: dict[str, Any]) -> list[tuple[Any, Any, bool]]:
    """Return, for each framework's tool, the text, the JSON and whether the call failed."""
    langchain = {tool.name: tool for tool in PicccMediaToolkit(client=client).get_tools()}
    message = langchain[name].invoke({"type": "tool_call", "id": "1", "name": name, "args": arguments})
    llama_index = {tool.metadata.name: tool for tool in PicccMediaToolSpec(client).to_tool_list()}
    output = llama_index[name](**arguments)
    return [
        (message.content, message.artifact, message.status == "error"),
        (output.content, output.raw_output, output.is_error),
    ]


def test_both_frameworks_report_a_task_identically(client: Client) -> None:
    tasks = list(client.tasks.list())
    for task in tasks:
        langchain, llama_index = call_both(client, "get_media_task", {"task_id": task.id})
        assert langchain == llama_index
        assert langchain[2] is (task.prompt == "What must not be")
    assert len(tasks) == 3


def test_both_frameworks_list_tasks_identically(client: Client) -> None:
    langchain, llama_index = call_both(client, "list_media_tasks", {"limit": 2})
    assert langchain == llama_index
    assert langchain[0].count("\n") == 1


def test_both_frameworks_report_an_error_identically(client: Client) -> None:
    langchain, llama_index = call_both(client, "get_media_task", {"task_id": "nobody's"})
    assert (langchain[0], langchain[2]) == (llama_index[0], llama_index[2])
    assert langchain[2]


def test_both_frameworks_report_invalid_arguments_identically(client: Client) -> None:
    langchain, llama_index = call_both(client, "generate_image", {"prompt": "A kite", "resolution": "9K"})
    assert langchain == llama_index
    assert langchain[2]


def test_both_frameworks_describe_the_tools_identically(client: Client) -> None:
    langchain = PicccMediaToolkit(client=client).get_tools()
    llama_index = PicccMediaToolSpec(client).to_tool_list()
    assert [(tool.name, tool.description) for tool in langchain] == [
        (tool.metadata.name, tool.metadata.description) for tool in llama_index
    ]
    assert [tool.args_schema for tool in langchain] == [tool.metadata.fn_schema for tool in llama_index]
