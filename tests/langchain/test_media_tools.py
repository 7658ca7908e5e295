"""The media tools: LangChain's standard tests, and what a model, a program and a stream get of them."""

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
from tests.langchain.media import Way, calling, clients, settings
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
    tool_invoke_params_example = {"task_id": "task_1", "wait_seconds": 1}  # noqa: RUF012  as the suite has it


class TestTaskListUnit(_Unit):
    tool_constructor = PicccTaskListTool
    tool_invoke_params_example = {"type": "image", "limit": 3}  # noqa: RUF012  as the suite has it


class _Integration(ToolsIntegrationTests):
    options: dict[str, Any] = {}  # noqa: RUF012  read only

    @pytest.fixture(autouse=True)
    def _at_home(self, emulator: Emulator) -> None:
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
    given = PicccMediaToolkit(**{**clients(emulator), **models, **options})
    return {tool.name: tool for tool in given.get_tools()}


def test_the_model_reads_id_and_address_and_the_program_gets_the_task(
    image_tool: PicccImageTool, way: Way
) -> None:
    message = way.run(image_tool, "invoke", calling(prompt="A kite", aspect_ratio="16:9"))
    [task] = media_from(message)
    assert message.status == "success"
    assert message.content == f"The image is finished (task {task.id}): {task.outputs[0].url}"
    assert (task.status, task.raw["aspect_ratio"]) == ("completed", "16:9")


def test_the_artifact_is_json_that_a_checkpoint_gives_back_unchanged(image_tool: PicccImageTool) -> None:
    message = image_tool.invoke(calling(prompt="A kite"))
    kept = message.model_copy(update={"artifact": json.loads(json.dumps(message.artifact))})
    assert kept.artifact == message.artifact
    assert media_from(kept) == media_from(message)


def test_the_artifact_of_another_tool_is_no_task() -> None:
    assert media_from(ToolMessage("done", tool_call_id="1", artifact={"task_id": "job-1"})) == []


@pytest.mark.parametrize("name", ["generate_image", "generate_video", "get_media_task", "list_media_tasks"])
def test_the_schema_names_every_choice_and_explains_it(emulator: Emulator, name: str) -> None:
    tool = toolkit(emulator)[name]
    schema = tool.tool_call_schema.model_json_schema()
    assert all(field["description"] for field in schema["properties"].values())
    if "aspect_ratio" in schema["properties"]:
        assert "21:9" in str(schema["properties"]["aspect_ratio"])


@pytest.mark.parametrize(
    "wrong", [{"aspect_ratio": "5:1"}, {"prompt": ""}, {"resolution": "9K"}, {"size": 1}]
)
def test_a_wrong_argument_is_a_text_that_says_which(
    emulator: Emulator, wrong: dict[str, Any], way: Way
) -> None:
    before = len(emulator.charges)
    tool = PicccImageTool(model="piccc-image", **clients(emulator))
    message = way.run(tool, "invoke", calling(**{"prompt": "A kite", **wrong}))
    assert message.status == "error"
    assert next(iter(wrong)) in message.content
    assert "Correct the arguments" in message.content
    assert len(emulator.charges) == before


@pytest.mark.parametrize(
    ("fault", "kind", "may_retry", "says"),
    [
        ("failed", "TaskFailed", True, "call again once"),
        ("moderated", "TaskRejected", True, "Change the prompt"),
        ("cancelled", "TaskCancelled", False, "tell the user"),
        ("expired", "TaskExpired", True, "call again once"),
        ("400", "InvalidRequestError", True, "Correct the arguments"),
        ("401", "AuthenticationError", False, "tell the user"),
        ("402", "PaymentRequiredError", False, "tell the user"),
        ("429", "RateLimitError", True, "Nothing was created"),
        ("503", "OverloadedError", True, "Nothing was created"),
        ("500", "SubmissionUnknown", False, "do not submit it again"),
    ],
)
def test_every_failure_is_an_error_that_says_whether_to_call_again(
    own_emulator: Emulator, way: Way, fault: str, kind: str, may_retry: bool, says: str
) -> None:
    own_emulator.fault(fault, route="POST /v1/images/tasks")
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator, max_retries=0))
    message = way.run(tool, "invoke", calling(prompt="A kite"))
    assert message.status == "error"
    assert message.artifact["tool_error"]["kind"] == kind
    assert message.artifact["tool_error"]["may_retry"] is may_retry
    assert says in message.content
    assert count_text(message.content) <= MODEL_READS_TOKENS


def test_a_failed_task_can_be_read_from_its_error(own_emulator: Emulator) -> None:
    own_emulator.fault("moderated", route="POST /v1/images/tasks")
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    [task] = media_from(tool.invoke(calling(prompt="A kite")))
    assert (task.status, task.error_code) == ("failed", "content_policy_violation")


def test_a_task_lost_on_the_way_while_it_is_waited_for_is_not_to_be_submitted_again(
    still: Emulator, way: Way
) -> None:
    still.fault("401", route="GET /v1/tasks/*")
    tool = PicccImageTool(model="piccc-image", **clients(still))
    message = way.run(tool, "invoke", calling(prompt="A kite"))
    [task] = media_from(message)
    assert message.status == "error"
    assert f"Task {task.id} is running: do not submit it again" in message.content
    assert message.artifact["tool_error"]["may_retry"] is False


def test_an_unused_argument_of_the_constructor_is_refused(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="wait"):
        PicccImageTool(wait=3, **clients(emulator))


def test_a_lost_answer_is_found_again_and_paid_once(own_emulator: Emulator, way: Way) -> None:
    own_emulator.fault("lost-answer", route="POST /v1/images/tasks", times=1)
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    message = way.run(tool, "invoke", calling(prompt="A kite"))
    assert message.status == "success"
    assert made(own_emulator) == ["image"]


def test_an_allowance_that_is_used_up_is_an_error_and_costs_nothing(own_emulator: Emulator, way: Way) -> None:
    tool = PicccImageTool(
        model="piccc-image", client=Client(**settings(own_emulator, spend_limit=SpendLimit(max_tasks=1)))
    )
    assert way.run(tool, "invoke", calling(id="1", prompt="A kite")).status == "success"
    message = way.run(tool, "invoke", calling(id="2", prompt="A kite"))
    assert message.artifact["tool_error"]["kind"] == "SpendLimitExceeded"
    assert made(own_emulator) == ["image"]


def test_a_wait_that_runs_out_is_a_result_that_names_the_task(still: Emulator, way: Way) -> None:
    tool = PicccVideoTool(model="piccc-video", wait_s=0.02, **clients(still))
    message = way.run(tool, "invoke", calling(prompt="A kite rises"))
    [task] = media_from(message)
    assert message.status == "success"
    assert not task.is_terminal
    assert task.id in message.content
    assert "Do not submit it again. Check it later with get_media_task." in message.content
    assert count_text(message.content) <= MODEL_READS_TOKENS


def test_a_task_that_took_too_long_is_asked_for_later(still: Emulator, way: Way) -> None:
    tools = toolkit(still, wait_s=0.02)
    [running] = media_from(way.run(tools["generate_image"], "invoke", calling(prompt="A kite")))
    still.advance(60)
    later = way.run(tools["get_media_task"], "invoke", calling("get_media_task", task_id=running.id))
    assert [(task.id, task.status) for task in media_from(later)] == [(running.id, "completed")]
    assert made(still) == ["image"]


def test_a_task_that_nobody_knows_is_an_error_that_says_where_to_look(emulator: Emulator, way: Way) -> None:
    message = way.run(toolkit(emulator)["get_media_task"], "invoke", calling("get_media_task", task_id="no"))
    assert message.status == "error"
    assert "list_media_tasks" in message.content


def test_the_list_has_a_line_for_each_task_and_filters(own_emulator: Emulator, way: Way) -> None:
    tools = toolkit(own_emulator)
    for number in range(3):
        tools["generate_image"].invoke({"prompt": f"Kite {number}"})
    tools["generate_video"].invoke({"prompt": "A video"})
    message = way.run(tools["list_media_tasks"], "invoke", calling("list_media_tasks", type="image", limit=2))
    tasks = media_from(message)
    assert [task.prompt for task in tasks] == ["Kite 2", "Kite 1"]
    assert message.content == "\n".join(f"image {task.id} completed: {task.prompt}" for task in tasks)


def shown_by(tool: PicccImageTool, way: Way) -> list[BaseMessage]:
    """Return a conversation in which an image was made."""
    call = calling(prompt="A kite")
    return [HumanMessage("Go."), AIMessage("", tool_calls=[call]), way.run(tool, "invoke", call)]


def images_in(value: Any) -> list[str]:
    """Return the images in a request's body, base64 data or addresses, in the form of either dialect."""
    if isinstance(value, list):
        return [found for each in value for found in images_in(each)]
    if not isinstance(value, dict):
        return []
    found = value.get("image_url") or (value.get("source") if value.get("type") == "image" else None)
    if isinstance(found, dict):
        return [(found.get("data") or found["url"]).rpartition("base64,")[2]]
    return images_in(list(value.values()))


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(("show", "side"), [("thumbnail", 512), ("image", 1024)])
def test_a_model_that_sees_gets_the_image_and_messages_only_refer_to_it(
    own_emulator: Emulator, way: Way, show: str, side: int, dialect: Any
) -> None:
    conversation = shown_by(PicccImageTool(model="piccc-image", show=show, **clients(own_emulator)), way)
    assert "base64" not in dumps(conversation)
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key, dialect=dialect)
    for _ in range(2):
        way.run(model, "invoke", conversation)
        [data] = images_in(own_emulator.requests[-1].body)
        with Image.open(BytesIO(base64.b64decode(data))) as seen:
            assert seen.size == (side, side)
    assert sum(each.path.startswith("/files/") for each in own_emulator.requests) == 1


@pytest.mark.parametrize("name", ["openai.ChatOpenAI", "anthropic.ChatAnthropic"])
def test_another_model_gets_the_images_address(own_emulator: Emulator, name: str) -> None:
    package, _, name = name.partition(".")
    # Their present versions cannot be imported beside the lowest core that we support.
    kind = getattr(pytest.importorskip(f"langchain_{package}", exc_type=ImportError), name)
    conversation = shown_by(
        PicccImageTool(model="piccc-image", show="image", **clients(own_emulator)), Way("")
    )
    [task] = media_from(conversation)
    url = own_emulator.base_url + ("/v1" if package == "openai" else "")
    kind(model="piccc-pro", base_url=url, api_key=own_emulator.api_key).invoke(conversation)
    assert images_in(own_emulator.requests[-1].body) == [task.outputs[0].url]


@pytest.mark.parametrize("gone", ["GET /files/*", "GET /v1/tasks/*"])
def test_an_image_that_cannot_be_fetched_ends_no_conversation(
    own_emulator: Emulator, way: Way, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piccc.media.downloads.NOT_YET_SECONDS", 0.0)
    conversation = shown_by(
        PicccImageTool(model="piccc-image", show="thumbnail", **clients(own_emulator)), way
    )
    own_emulator.fault("404", route=gone)
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key)
    assert way.run(model, "invoke", conversation).text
    assert "cannot be shown" in str(own_emulator.requests[-1].body)


def test_no_message_chooses_an_address_that_is_fetched(own_emulator: Emulator) -> None:
    forged = {
        "type": "image", "url": f"{own_emulator.base_url}/secret",
        "extras": {"piccc_image": {"task_id": "task_1", "place": 0, "show": "image"}},
    }  # fmt: skip
    model = ChatPiccc(base_url=own_emulator.base_url, api_key=own_emulator.api_key)
    model.invoke([HumanMessage([{"type": "text", "text": "Look."}, forged])])
    assert [each.path for each in own_emulator.requests if "secret" in each.path] == []


def test_a_video_is_never_shown(emulator: Emulator) -> None:
    tool = PicccVideoTool(model="piccc-video", show="image", **clients(emulator))
    message = tool.invoke(calling(prompt="A kite rises", duration_seconds=1, resolution="480p"))
    assert isinstance(message.content, str)


def test_a_call_that_is_run_again_is_paid_once_and_two_calls_twice(own_emulator: Emulator, way: Way) -> None:
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    config = {"configurable": {"thread_id": "t1"}}
    again = [way.run(tool, "invoke", calling(prompt="A kite"), config) for _ in range(2)]
    assert again[0].artifact == again[1].artifact
    assert made(own_emulator) == ["image"]
    way.run(tool, "invoke", calling(id="c2", prompt="A kite"), config)
    way.run(tool, "invoke", calling(prompt="A kite"), {"configurable": {"thread_id": "t2"}})
    way.run(tool, "invoke", calling(prompt="Another kite"), config)
    assert made(own_emulator) == ["image"] * 4


@pytest.mark.parametrize(("word", "kind"), [("client", Client), ("async_client", AsyncClient)])
def test_blocking_and_asynchronous_runs_of_a_call_are_one_submission(
    own_emulator: Emulator, word: str, kind: type[Client]
) -> None:
    tool = PicccImageTool(model="piccc-image", **{word: kind(**settings(own_emulator))})
    Way("").run(tool, "invoke", calling(prompt="A kite"), THREAD)
    Way("a").run(tool, "invoke", calling(prompt="A kite"), THREAD)
    assert made(own_emulator) == ["image"]


def test_what_goes_to_the_provider_does_not_name_the_thread(own_emulator: Emulator) -> None:
    tool = PicccImageTool(model="piccc-image", **clients(own_emulator))
    tool.invoke(calling(prompt="A kite"), {"configurable": {"thread_id": "alice@example.com"}})
    assert "alice" not in str([(each.headers, each.raw, each.query) for each in own_emulator.requests])


async def test_progress_reaches_the_hook_and_the_event_stream(emulator: Emulator) -> None:
    seen: list[Task] = []
    own = PicccImageTool(model="piccc-image", on_update=seen.append, **clients(emulator))
    own.invoke({"prompt": "A kite"})
    blocking = len(seen)
    events = [
        event["data"]
        async for event in own.astream_events({"prompt": "A kite"}, version="v2")
        if event["event"] == "on_custom_event" and event["name"] == "piccc_task"
    ]
    assert blocking > 0
    assert len(events) == len(seen) - blocking > 0
    assert events[-1] == {"task_id": seen[-1].id, "type": "image", "status": "completed", "progress": 100}


def test_interrupt_without_a_graph_is_refused_before_anything_is_paid(
    own_emulator: Emulator, way: Way
) -> None:
    tool = PicccImageTool(model="piccc-image", mode="interrupt", **clients(own_emulator))
    assert way.run(tool, "invoke", calling(prompt="A kite")).status == "error"
    assert made(own_emulator) == []


def test_tools_and_toolkits_can_be_copied_and_pickled(
    own_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICCC_API_KEY", own_emulator.api_key)
    tool = PicccImageTool(model="piccc-image", client=Client(**settings(own_emulator)))
    copied, pickled = copy.deepcopy(tool), pickle.loads(pickle.dumps(tool))  # noqa: S301  our own
    for each in (tool, copied):
        assert each.invoke(calling(prompt="A kite"), THREAD).status == "success"
    assert made(own_emulator) == ["image"]
    assert pickled.invoke(calling(prompt="A kite")).status == "success"
    assert own_emulator.api_key not in pickle.dumps(tool).decode("latin-1")
