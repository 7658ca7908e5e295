"""The media tools: what models and callers receive, sync and async."""

from __future__ import annotations

import base64
import json
import pickle
from io import BytesIO
from typing import Any

import pytest
from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.tools import ToolMetadata
from PIL import Image

from llama_index_piccc import PicccMediaToolSpec, media_from
from piccc import AsyncClient, Task
from piccc.emulator import Emulator
from piccc.errors import InvalidArgumentError
from piccc.media.requests import SpendLimit
from piccc.tokens import count_text
from tests.llama_index.conftest import Async, Sync
from tests.llama_index.media import client, spec, tools
from tests.media.paid import QUICK, made

Way = Sync | Async
MODEL_READS_TOKENS = 60


def test_the_model_gets_id_and_url_and_the_caller_gets_the_task(emulator: Emulator, way: Way) -> None:
    output = way.call(tools(emulator)["generate_image"], "call", prompt="A kite", aspect_ratio="16:9")
    [task] = media_from(output)
    assert output.content == f"The image is finished (task {task.id}): {task.outputs[0].url}"
    assert (task.status, task.raw["aspect_ratio"], output.is_error) == ("completed", "16:9", False)
    assert json.loads(json.dumps(output.raw_output)) == output.raw_output


def test_tool_spec_methods_can_be_called_directly(emulator: Emulator, way: Way) -> None:
    media_tools = spec(emulator)
    image = way.call(media_tools, "generate_image", "A kite", resolution="2K")
    video = way.call(media_tools, "generate_video", "A kite rises", resolution="480p", duration_seconds=1)
    [checked] = media_from(way.call(media_tools, "get_media_task", image.raw_output["task_id"]).raw_output)
    listed = media_from(way.call(media_tools, "list_media_tasks", type="video").raw_output)
    assert checked.raw["resolution"] == "2K"
    assert [task.id for task in listed] == [video.raw_output["task_id"]]


def test_the_schema_lists_choices_and_describes_every_field(emulator: Emulator) -> None:
    for tool in tools(emulator).values():
        schema = tool.metadata.to_openai_tool()["function"]["parameters"]
        assert all(field["description"] for field in schema["properties"].values())
        assert "ctx" not in schema["properties"]
    assert "21:9" in json.dumps(tools(emulator)["generate_image"].metadata.get_parameters_dict())


def test_a_tool_can_have_a_custom_name(emulator: Emulator) -> None:
    metadata = tools(emulator)["generate_image"].metadata
    custom = ToolMetadata("Draw.", name="draw", fn_schema=metadata.fn_schema)
    [tool] = spec(emulator).to_tool_list([("generate_image", "agenerate_image")], {"generate_image": custom})
    assert tool(prompt="A kite").tool_name == "draw"


@pytest.mark.parametrize(
    "invalid", [{"aspect_ratio": "5:1"}, {"prompt": ""}, {"resolution": "9K"}, {"size": 1}]
)
def test_an_invalid_argument_returns_an_error_that_names_it(
    emulator: Emulator, way: Way, invalid: dict[str, Any]
) -> None:
    output = way.call(tools(emulator)["generate_image"], "call", **{"prompt": "A kite", **invalid})
    assert output.is_error
    assert next(iter(invalid)) in output.content
    assert "Correct the arguments" in output.content
    assert made(emulator) == []


@pytest.mark.parametrize(
    ("fault", "kind", "may_retry"),
    [
        ("moderated", "TaskRejected", True),
        ("401", "AuthenticationError", False),
        ("500", "SubmissionUnknown", False),
    ],
)
def test_every_failure_tells_the_model_whether_to_retry(
    emulator: Emulator, way: Way, fault: str, kind: str, may_retry: bool
) -> None:
    emulator.fault(fault, route="POST /v1/images/tasks")
    media_tools = tools(emulator, client=client(emulator, max_retries=0))
    output = way.call(media_tools["generate_image"], "call", prompt="A kite")
    assert output.is_error
    assert output.raw_output["tool_error"]["kind"] == kind
    assert output.raw_output["tool_error"]["may_retry"] is may_retry
    assert count_text(output.content) <= MODEL_READS_TOKENS


def test_an_exhausted_spend_limit_returns_an_error_and_costs_nothing(emulator: Emulator, way: Way) -> None:
    media_tools = tools(emulator, client=client(emulator, spend_limit=SpendLimit(max_tasks=1)))
    assert not way.call(media_tools["generate_image"], "call", prompt="A kite").is_error
    assert way.call(media_tools["generate_image"], "call", prompt="A tree").is_error
    assert made(emulator) == ["image"]


def test_a_task_can_be_checked_later_after_a_wait_timeout(paused: Emulator, way: Way) -> None:
    media_tools = tools(paused, wait_s=0.02)
    output = way.call(media_tools["generate_image"], "call", prompt="A kite")
    [running] = media_from(output)
    assert not output.is_error
    assert "Do not submit it again. Check it later with get_media_task." in output.content
    assert count_text(output.content) <= MODEL_READS_TOKENS
    paused.advance(60)
    later = way.call(media_tools["get_media_task"], "call", task_id=running.id)
    assert [(task.id, task.status) for task in media_from(later)] == [(running.id, "completed")]
    assert made(paused) == ["image"]


@pytest.mark.parametrize(("show", "side"), [("thumbnail", 512), ("image", 1024)])
def test_show_adds_the_image_to_the_output(emulator: Emulator, way: Way, show: str, side: int) -> None:
    output = way.call(tools(emulator, show=show)["generate_image"], "call", prompt="A kite")
    _, image = output.blocks
    assert isinstance(image, ImageBlock)
    with Image.open(BytesIO(base64.b64decode(image.image))) as decoded:
        assert decoded.size == (side, side)


def test_repeated_calls_outside_a_workflow_are_separate_submissions(emulator: Emulator, way: Way) -> None:
    for _ in range(2):
        way.call(tools(emulator)["generate_image"], "call", prompt="A kite")
    assert made(emulator) == ["image", "image"]


def test_progress_reaches_the_update_hook(emulator: Emulator, way: Way) -> None:
    updates: list[Task] = []
    way.call(tools(emulator, on_update=updates.append)["generate_image"], "call", prompt="A kite")
    assert updates[-1].status == "completed"


def test_an_async_client_also_serves_sync_calls(emulator: Emulator, way: Way) -> None:
    async_client = AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
    media_tools = PicccMediaToolSpec(async_client=async_client, image_model="piccc-image")
    assert not way.call(media_tools, "generate_image", "A kite").is_error


def test_event_mode_outside_a_workflow_is_rejected_before_anything_is_paid(
    emulator: Emulator, way: Way
) -> None:
    assert way.call(tools(emulator, mode="event")["generate_image"], "call", prompt="A kite").is_error
    assert made(emulator) == []


def test_tools_can_be_pickled_without_their_key(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    pickled = pickle.dumps(tools(emulator)["generate_image"])
    assert emulator.api_key not in pickled.decode("latin-1")
    assert not pickle.loads(pickled)(prompt="A kite").is_error  # noqa: S301  our own data


@pytest.mark.parametrize("invalid", [{"show": "small"}, {"mode": "whatever"}], ids=["show", "mode"])
def test_an_unknown_option_value_is_rejected(invalid: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="Use one of"):
        PicccMediaToolSpec(**invalid)


@pytest.mark.parametrize("invalid", [(["generate_vidoe"],), (None, {"make_image": None})])
def test_an_unknown_tool_name_is_rejected_with_the_known_names(invalid: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"Use generate_image, generate_video"):
        PicccMediaToolSpec().to_tool_list(*invalid)
