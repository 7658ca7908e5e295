"""The media tools: what a model, a program and a stream get of them, blocking and asynchronous."""

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


def test_the_model_reads_id_and_address_and_the_program_gets_the_task(emulator: Emulator, way: Way) -> None:
    output = way.call(tools(emulator)["generate_image"], "call", prompt="A kite", aspect_ratio="16:9")
    [task] = media_from(output)
    assert output.content == f"The image is finished (task {task.id}): {task.outputs[0].url}"
    assert (task.status, task.raw["aspect_ratio"], output.is_error) == ("completed", "16:9", False)
    assert json.loads(json.dumps(output.raw_output)) == output.raw_output


def test_the_functions_of_the_spec_can_be_called_by_themselves(emulator: Emulator, way: Way) -> None:
    own = spec(emulator)
    image = way.call(own, "generate_image", "A kite", resolution="2K")
    video = way.call(own, "generate_video", "A kite rises", resolution="480p", duration_seconds=1)
    [seen] = media_from(way.call(own, "get_media_task", image.raw_output["task_id"]).raw_output)
    listed = media_from(way.call(own, "list_media_tasks", type="video").raw_output)
    assert seen.raw["resolution"] == "2K"
    assert [task.id for task in listed] == [video.raw_output["task_id"]]


def test_the_schema_names_every_choice_and_explains_it(emulator: Emulator) -> None:
    for tool in tools(emulator).values():
        schema = tool.metadata.to_openai_tool()["function"]["parameters"]
        assert all(field["description"] for field in schema["properties"].values())
        assert "ctx" not in schema["properties"]
    assert "21:9" in json.dumps(tools(emulator)["generate_image"].metadata.get_parameters_dict())


def test_a_tool_may_have_a_name_and_a_description_of_ones_own(emulator: Emulator) -> None:
    metadata = tools(emulator)["generate_image"].metadata
    mine = ToolMetadata("Draw.", name="draw", fn_schema=metadata.fn_schema)
    [tool] = spec(emulator).to_tool_list([("generate_image", "agenerate_image")], {"generate_image": mine})
    assert tool(prompt="A kite").tool_name == "draw"


@pytest.mark.parametrize(
    "wrong", [{"aspect_ratio": "5:1"}, {"prompt": ""}, {"resolution": "9K"}, {"size": 1}]
)
def test_a_wrong_argument_is_an_error_that_says_which(
    emulator: Emulator, way: Way, wrong: dict[str, Any]
) -> None:
    output = way.call(tools(emulator)["generate_image"], "call", **{"prompt": "A kite", **wrong})
    assert output.is_error
    assert next(iter(wrong)) in output.content
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
def test_every_failure_is_an_error_that_says_whether_to_call_again(
    emulator: Emulator, way: Way, fault: str, kind: str, may_retry: bool
) -> None:
    emulator.fault(fault, route="POST /v1/images/tasks")
    own = tools(emulator, client=client(emulator, max_retries=0))
    output = way.call(own["generate_image"], "call", prompt="A kite")
    assert output.is_error
    assert output.raw_output["tool_error"]["kind"] == kind
    assert output.raw_output["tool_error"]["may_retry"] is may_retry
    assert count_text(output.content) <= MODEL_READS_TOKENS


def test_an_allowance_that_is_used_up_is_an_error_and_costs_nothing(emulator: Emulator, way: Way) -> None:
    own = tools(emulator, client=client(emulator, spend_limit=SpendLimit(max_tasks=1)))
    assert not way.call(own["generate_image"], "call", prompt="A kite").is_error
    assert way.call(own["generate_image"], "call", prompt="A tree").is_error
    assert made(emulator) == ["image"]


def test_a_wait_that_runs_out_is_a_result_and_the_task_is_asked_for_later(still: Emulator, way: Way) -> None:
    own = tools(still, wait_s=0.02)
    output = way.call(own["generate_image"], "call", prompt="A kite")
    [running] = media_from(output)
    assert not output.is_error
    assert "Do not submit it again. Check it later with get_media_task." in output.content
    assert count_text(output.content) <= MODEL_READS_TOKENS
    still.advance(60)
    later = way.call(own["get_media_task"], "call", task_id=running.id)
    assert [(task.id, task.status) for task in media_from(later)] == [(running.id, "completed")]
    assert made(still) == ["image"]


@pytest.mark.parametrize(("show", "side"), [("thumbnail", 512), ("image", 1024)])
def test_a_model_that_sees_gets_the_image(emulator: Emulator, way: Way, show: str, side: int) -> None:
    output = way.call(tools(emulator, show=show)["generate_image"], "call", prompt="A kite")
    _, image = output.blocks
    assert isinstance(image, ImageBlock)
    with Image.open(BytesIO(base64.b64decode(image.image))) as shown:
        assert shown.size == (side, side)


def test_a_tool_that_is_run_twice_outside_of_a_workflow_is_two_orders(emulator: Emulator, way: Way) -> None:
    for _ in range(2):
        way.call(tools(emulator)["generate_image"], "call", prompt="A kite")
    assert made(emulator) == ["image", "image"]


def test_progress_reaches_the_hook(emulator: Emulator, way: Way) -> None:
    seen: list[Task] = []
    way.call(tools(emulator, on_update=seen.append)["generate_image"], "call", prompt="A kite")
    assert seen[-1].status == "completed"


def test_an_asynchronous_client_serves_blocking_calls_too(emulator: Emulator, way: Way) -> None:
    given = AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
    own = PicccMediaToolSpec(async_client=given, image_model="piccc-image")
    assert not way.call(own, "generate_image", "A kite").is_error


def test_events_outside_of_a_workflow_are_refused_before_anything_is_paid(
    emulator: Emulator, way: Way
) -> None:
    assert way.call(tools(emulator, mode="event")["generate_image"], "call", prompt="A kite").is_error
    assert made(emulator) == []


def test_tools_can_be_pickled_without_their_key(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    pickled = pickle.dumps(tools(emulator)["generate_image"])
    assert emulator.api_key not in pickled.decode("latin-1")
    assert not pickle.loads(pickled)(prompt="A kite").is_error  # noqa: S301  our own


@pytest.mark.parametrize("wrong", [{"show": "small"}, {"mode": "whatever"}], ids=["show", "mode"])
def test_an_unknown_word_is_refused_before_it_costs_anything(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="Use one of"):
        PicccMediaToolSpec(**wrong)


@pytest.mark.parametrize("wrong", [(["generate_vidoe"],), (None, {"make_image": None})])
def test_a_tool_that_does_not_exist_is_refused_with_those_that_do(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"Use generate_image, generate_video"):
        PicccMediaToolSpec().to_tool_list(*wrong)
