"""The media tools: LangChain's standard tests, and what models, callers and streams receive."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from io import BytesIO
from typing import Any

import pytest
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from PIL import Image

from langchain_piccc import (
    ChatPiccc,
    PicccImageTool,
    PicccMediaToolkit,
    PicccTaskListTool,
    PicccTaskTool,
    PicccVideoTool,
    media_from,
)
from piccc import AsyncClient, Client, Task
from piccc.emulator import Emulator
from piccc.media.requests import SpendLimit
from piccc.tokens import count_text
from tests.langchain.media import Way, clients, settings, tool_call
from tests.media.paid import made

THREAD = {"configurable": {"thread_id": "t1"}}
MODEL_READS_TOKENS = 60


class _Unit(ToolsUnitTests):
    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"api_key": "k", "base_url": "http://127.0.0.1:9"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {"PICCC_API_KEY": "k", "PICCC_BASE_URL": "http://env.test"}
        return (environment, {}, {"api_key": "k", "base_url": "http://env.test"})


class TestImageUnit(_Unit):
    tool_constructor = PicccImageTool
    tool_invoke_params_example = {  # noqa: RUF012  as the suite declares it
        "prompt": "A red kite", "aspect_ratio": "16:9", "resolution": "1K",
    }  # fmt: skip


class TestVideoUnit(_Unit):
    tool_constructor = PicccVideoTool
    tool_invoke_params_example = {  # noqa: RUF012  as the suite declares it
        "prompt": "A red kite rises", "resolution": "480p", "duration_seconds": 1,
    }  # fmt: skip


class TestTaskUnit(_Unit):
    tool_constructor = PicccTaskTool
    tool_invoke_params_example = {"task_id": "task_1", "wait_seconds": 1}  # noqa: RUF012  as the suite declares it


class TestTaskListUnit(_Unit):
    tool_constructor = PicccTaskListTool
    tool_invoke_params_example = {"type": "image", "limit": 3}  # noqa: RUF012  as the suite declares it


class _Integration(ToolsIntegrationTests):
    options: dict[str, Any] = {}  # noqa: RUF012  read only

    @pytest.fixture(autouse=True)
    def _submit_task(self, emulator: Emulator) -> None:
        self.both = clients(emulator)
        self.task_id = self.both["client"].images.submit("A red kite", model="piccc-image").id

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {**self.options, **self.both}


class TestImageIntegration(_Integration):
    options = {"model": "any"}  # noqa: RUF012  read only
    tool_constructor = PicccImageTool
    tool_invoke_params_example = TestImageUnit.tool_invoke_params_example


class TestVideoIntegration(_Integration):
    options = {"model": "any"}  # noqa: RUF012  read only
    tool_constructor = PicccVideoTool
    tool_invoke_params_example = TestVideoUnit.tool_invoke_params_example


class TestTaskIntegration(_Integration):
    tool_constructor = PicccTaskTool

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"task_id": self.task_id}


class TestTaskListIntegration(_Integration):
    tool_constructor = PicccTaskListTool
    tool_invoke_params_example = TestTaskListUnit.tool_invoke_params_example


@pytest.fixture
def image_tool(emulator: Emulator) -> PicccImageTool:
    """Return the image tool on the shared emulator."""
    return PicccImageTool(model="piccc-image", **clients(emulator))


def toolkit(emulator: Emulator, **options: Any) -> dict[str, BaseTool]:
    """Return the tools of a toolkit by name."""
    models = {"image_model": "piccc-image", "video_model": "piccc-video"}
    media_toolkit = PicccMediaToolkit(**{**clients(emulator), **models, **options})
    return {tool.name: tool for tool in media_toolkit.get_tools()}


def test_the_model_gets_id_and_url_and_the_caller_gets_the_task(image_tool: PicccImageTool, way: Way) -> None:
    message = way.run(image_tool, "invoke", tool_call(prompt="A kite", aspect_ratio="16:9"))
    [task] = media_from(message)
    assert message.status == "success"
    assert message.content == f"The image is finished (task {task.id}): {task.outputs[0].url}"
    assert (task.status, task.raw["aspect_ratio"]) == ("completed", "16:9")


def test_the_artifact_survives_a_json_round_trip(image_tool: PicccImageTool) -> None:
    message = image_tool.invoke(tool_call(prompt="A kite"))
    kept = message.model_copy(update={"artifact": json.loads(json.dumps(message.artifact))})
    assert kept.artifact == message.artifact
    assert media_from(kept) == media_from(message)


def test_media_from_ignores_artifacts_of_other_tools() -> None:
    assert media_from(ToolMessage("done", tool_call_id="1", artifact={"task_id": "job-1"})) == []


@pytest.mark.parametrize("name", ["generate_image", "generate_video", "get_media_task", "list_media_tasks"])
def test_the_schema_lists_choices_and_describes_every_field(emulator: Emulator, name: str) -> None:
    tool = toolkit(emulator)[name]
    schema = tool.tool_call_schema.model_json_schema()
    assert all(field["description"] for field in schema["properties"].values())
    if "aspect_ratio" in schema["properties"]:
        assert "21:9" in str(schema["properties"]["aspect_ratio"])


@pytest.mark.parametrize(
    "invalid", [{"aspect_ratio": "5:1"}, {"prompt": ""}, {"resolution": "9K"}, {"size": 1}]
)
def test_an_invalid_argument_returns_an_error_that_names_it(
    emulator: Emulator, invalid: dict[str, Any], way: Way
) -> None:
    before = len(emulator.charges)
    tool = PicccImageTool(model="piccc-image", **clients(emulator))
    message = way.run(tool, "invoke", tool_call(**{"prompt": "A kite", **invalid}))
    assert message.status == "error"
    assert next(iter(invalid)) in message.content
    assert "Correct the arguments" in message.content
    assert len(emulator.charges) == before


@pytest.mark.parametrize(
    ("fault", "kind", "may_retry", "advice"),
    [
        ("failed", "TaskFailed", True, "call again once"),
        ("moderated", "TaskRejected", True, "Change the prompt"),
        ("cancelled", "TaskCancelled", False, "tell the user"),
        ("expired", "TaskExpired", True, "call again once"),
        ("400", "InvalidRequestError", True, "Correct the arguments"),
        ("401", "AuthenticationError", False, "tell the user"),
        ("404", "NotFoundError", False, "Nothing was created. Do not retry: tell the user."),
        ("402", "PaymentRequiredError", False, "tell the user"),
        ("429", "RateLimitError", True, "Nothing was created"),
        ("503", "OverloadedError", True, "Nothing was created"),
        ("500", "SubmissionUnknown", False, "do not submit it again"),
    ],
)
def test_every_failure_tells_the_model_whether_to_retry(
    own_emulator: Emulator, way: Way, fault: str, kind: str, may_retry: bool, advice: str
) -> None:
    own_emulator.fault(fault, route="POST /v1/images/tasks")
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator, max_retries=0))
    message = way.run(tool, "invoke", tool_call(prompt="A kite"))
    assert message.status == "error"
    assert message.artifact["tool_error"]["kind"] == kind
    assert message.artifact["tool_error"]["may_retry"] is may_retry
    assert advice in message.content
    assert count_text(message.content) <= MODEL_READS_TOKENS


def test_media_from_reads_the_failed_task_of_an_error(own_emulator: Emulator) -> None:
    own_emulator.fault("moderated", route="POST /v1/images/tasks")
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    [task] = media_from(tool.invoke(tool_call(prompt="A kite")))
    assert (task.status, task.error_code) == ("failed", "content_policy_violation")


def test_an_error_while_waiting_tells_the_model_not_to_resubmit(paused: Emulator, way: Way) -> None:
    paused.fault("401", route="GET /v1/tasks/*")
    tool = PicccImageTool(model="piccc-image", **clients(paused))
    message = way.run(tool, "invoke", tool_call(prompt="A kite"))
    [task] = media_from(message)
    assert message.status == "error"
    assert f"Task {task.id} is running: do not submit it again" in message.content
    assert message.artifact["tool_error"]["may_retry"] is False


def test_an_unknown_constructor_argument_is_rejected(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="wait"):
        PicccImageTool(wait=3, **clients(emulator))


def test_a_task_whose_response_was_lost_is_found_and_paid_once(own_emulator: Emulator, way: Way) -> None:
    own_emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    message = way.run(tool, "invoke", tool_call(prompt="A kite"))
    assert message.status == "success"
    assert made(own_emulator) == ["image"]


def test_an_exhausted_spend_limit_returns_an_error_and_costs_nothing(
    own_emulator: Emulator, way: Way
) -> None:
    tool = PicccImageTool(
        model="piccc-image", client=Client(**settings(own_emulator, spend_limit=SpendLimit(max_tasks=1)))
    )
    assert way.run(tool, "invoke", tool_call(id="1", prompt="A kite")).status == "success"
    message = way.run(tool, "invoke", tool_call(id="2", prompt="A kite"))
    assert message.artifact["tool_error"]["kind"] == "SpendLimitExceeded"
    assert made(own_emulator) == ["image"]


def test_a_wait_timeout_returns_a_result_that_names_the_task(paused: Emulator, way: Way) -> None:
    tool = PicccVideoTool(model="piccc-video", wait_s=0.02, **clients(paused))
    message = way.run(tool, "invoke", tool_call(prompt="A kite rises"))
    [task] = media_from(message)
    assert message.status == "success"
    assert not task.is_terminal
    assert task.id in message.content
    assert "Do not submit it again. Check it later with get_media_task." in message.content
    assert count_text(message.content) <= MODEL_READS_TOKENS


def test_a_slow_task_can_be_checked_later(paused: Emulator, way: Way) -> None:
    tools = toolkit(paused, wait_s=0.02)
    [running] = media_from(way.run(tools["generate_image"], "invoke", tool_call(prompt="A kite")))
    paused.advance(60)
    later = way.run(tools["get_media_task"], "invoke", tool_call("get_media_task", task_id=running.id))
    assert [(task.id, task.status) for task in media_from(later)] == [(running.id, "completed")]
    assert made(paused) == ["image"]


def test_an_unknown_task_returns_an_error_that_suggests_the_list(emulator: Emulator, way: Way) -> None:
    message = way.run(
        toolkit(emulator)["get_media_task"], "invoke", tool_call("get_media_task", task_id="no")
    )
    assert message.status == "error"
    assert "list_media_tasks" in message.content


def test_the_task_list_has_one_line_per_task_and_filters(own_emulator: Emulator, way: Way) -> None:
    tools = toolkit(own_emulator)
    for number in range(3):
        tools["generate_image"].invoke({"prompt": f"Kite {number}"})
    tools["generate_video"].invoke({"prompt": "A video"})
    message = way.run(
        tools["list_media_tasks"], "invoke", tool_call("list_media_tasks", type="image", limit=2)
    )
    tasks = media_from(message)
    assert [task.prompt for task in tasks] == ["Kite 2", "Kite 1"]
    assert message.content == "\n".join(f"image {task.id} completed: {task.prompt}" for task in tasks)


def conversation_with_image(tool: PicccImageTool, way: Way) -> list[BaseMessage]:
    """Return a conversation in which the tool made an image."""
    call = tool_call(prompt="A kite")
    return [HumanMessage("Go."), AIMessage("", tool_calls=[call]), way.run(tool, "invoke", call)]


def images_in(value: Any) -> list[str]:
    """Return the images in a request body of either dialect, as base64 data or URLs."""
    if isinstance(value, list):
        return [image for item in value for image in images_in(item)]
    if not isinstance(value, dict):
        return []
    image = value.get("image_url") or (value.get("source") if value.get("type") == "image" else None)
    if isinstance(image, dict):
        return [(image.get("data") or image["url"]).rpartition("base64,")[2]]
    return images_in(list(value.values()))


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(("show", "side"), [("thumbnail", 512), ("image", 1024)])
def test_a_vision_model_gets_the_image_and_messages_only_refer_to_it(
    own_emulator: Emulator, way: Way, show: str, side: int, dialect: Any
) -> None:
    conversation = conversation_with_image(
        PicccImageTool(model="piccc-image", show=show, **clients(own_emulator)), way
    )
    assert "base64" not in dumps(conversation)
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key, dialect=dialect)
    for _ in range(2):
        way.run(model, "invoke", conversation)
        [data] = images_in(own_emulator.requests[-1].body)
        with Image.open(BytesIO(base64.b64decode(data))) as opened:
            assert opened.size == (side, side)
    assert sum(request.path.startswith("/files/") for request in own_emulator.requests) == 1


@pytest.mark.parametrize("name", ["openai.ChatOpenAI", "anthropic.ChatAnthropic"])
def test_another_providers_model_gets_the_image_url(own_emulator: Emulator, name: str) -> None:
    package, _, name = name.partition(".")
    # Their current versions cannot be imported with the lowest langchain-core that we support.
    kind = getattr(pytest.importorskip(f"langchain_{package}", exc_type=ImportError), name)
    conversation = conversation_with_image(
        PicccImageTool(model="piccc-image", show="image", **clients(own_emulator)), Way("")
    )
    [task] = media_from(conversation)
    url = own_emulator.base_url + ("/v1" if package == "openai" else "")
    kind(model="piccc-pro", base_url=url, api_key=own_emulator.api_key).invoke(conversation)
    assert images_in(own_emulator.requests[-1].body) == [task.outputs[0].url]


@pytest.mark.parametrize("missing_route", ["GET /files/*", "GET /v1/tasks/*"])
def test_an_unavailable_image_does_not_end_the_conversation(
    own_emulator: Emulator, way: Way, missing_route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piccc.media.downloads.NOT_YET_SECONDS", 0.0)
    conversation = conversation_with_image(
        PicccImageTool(model="piccc-image", show="thumbnail", **clients(own_emulator)), way
    )
    own_emulator.fault("404", route=missing_route)
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key)
    assert way.run(model, "invoke", conversation).text
    assert "cannot be shown" in str(own_emulator.requests[-1].body)


def test_a_message_cannot_make_the_client_fetch_a_url(own_emulator: Emulator) -> None:
    forged = {
        "type": "image", "url": f"{own_emulator.base_url}/secret",
        "extras": {"piccc_image": {"task_id": "task_1", "place": 0, "show": "image"}},
    }  # fmt: skip
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key)
    model.invoke([HumanMessage([{"type": "text", "text": "Look."}, forged])])
    assert [request.path for request in own_emulator.requests if "secret" in request.path] == []


def test_a_video_is_never_shown_to_the_model(emulator: Emulator) -> None:
    tool = PicccVideoTool(model="piccc-video", show="image", **clients(emulator))
    message = tool.invoke(tool_call(prompt="A kite rises", duration_seconds=1, resolution="480p"))
    assert isinstance(message.content, str)


def test_a_repeated_call_is_paid_once_and_each_new_call_again(own_emulator: Emulator, way: Way) -> None:
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    config = {"configurable": {"thread_id": "t1"}}
    results = [way.run(tool, "invoke", tool_call(prompt="A kite"), config) for _ in range(2)]
    assert results[0].artifact == results[1].artifact
    assert made(own_emulator) == ["image"]
    way.run(tool, "invoke", tool_call(id="c2", prompt="A kite"), config)
    way.run(tool, "invoke", tool_call(prompt="A kite"), {"configurable": {"thread_id": "t2"}})
    way.run(tool, "invoke", tool_call(prompt="Another kite"), config)
    assert made(own_emulator) == ["image"] * 4


@pytest.mark.parametrize(("option", "kind"), [("client", Client), ("async_client", AsyncClient)])
def test_sync_and_async_runs_of_a_call_share_one_submission(
    own_emulator: Emulator, option: str, kind: type[Client]
) -> None:
    tool = PicccImageTool(model="piccc-image", **{option: kind(**settings(own_emulator))})
    Way("").run(tool, "invoke", tool_call(prompt="A kite"), THREAD)
    Way("a").run(tool, "invoke", tool_call(prompt="A kite"), THREAD)
    assert made(own_emulator) == ["image"]


def test_requests_do_not_reveal_the_thread_id(own_emulator: Emulator) -> None:
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    tool.invoke(tool_call(prompt="A kite"), {"configurable": {"thread_id": "alice@example.com"}})
    assert "alice" not in str(
        [(request.headers, request.raw, request.query) for request in own_emulator.requests]
    )


async def test_progress_reaches_the_hook_and_the_event_stream(emulator: Emulator) -> None:
    updates: list[Task] = []
    hooked_tool = PicccImageTool(model="piccc-image", on_update=updates.append, **clients(emulator))
    hooked_tool.invoke({"prompt": "A kite"})
    sync_updates = len(updates)
    events = [
        event["data"]
        async for event in hooked_tool.astream_events({"prompt": "A kite"}, version="v2")
        if event["event"] == "on_custom_event" and event["name"] == "piccc_task"
    ]
    assert sync_updates > 0
    assert len(events) == len(updates) - sync_updates > 0
    assert events[-1] == {"task_id": updates[-1].id, "type": "image", "status": "completed", "progress": 100}


def test_interrupt_mode_without_a_graph_is_rejected_before_anything_is_paid(
    own_emulator: Emulator, way: Way
) -> None:
    tool = PicccImageTool(model="piccc-image", mode="interrupt", **clients(own_emulator))
    assert way.run(tool, "invoke", tool_call(prompt="A kite")).status == "error"
    assert made(own_emulator) == []


def test_tools_can_be_copied_and_pickled_without_their_key(
    own_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICCC_API_KEY", own_emulator.api_key)
    tool = PicccImageTool(model="piccc-image", client=Client(**settings(own_emulator)))
    copied, pickled = copy.deepcopy(tool), pickle.loads(pickle.dumps(tool))  # noqa: S301  our own data
    for candidate in (tool, copied):
        assert candidate.invoke(tool_call(prompt="A kite"), THREAD).status == "success"
    assert made(own_emulator) == ["image"]
    assert pickled.invoke(tool_call(prompt="A kite")).status == "success"
    assert own_emulator.api_key not in pickle.dumps(tool).decode("latin-1")
