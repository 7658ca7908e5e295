"""What agents are told: short, and never to submit again what may be in the making."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from piccc import AsyncClient, Client, errors
from piccc._dialects.tasks import read_task
from piccc.errors import AuthenticationError, ConfigurationError, InvalidArgumentError, PicccError
from piccc.media.agent_tools import (
    ClientPair,
    artifact_of,
    describe_for_model,
    failed,
    listed,
    submission_key,
    tasks_in,
)
from piccc.tasks import Task
from piccc.tokens import count_text

RUNNING = read_task(
    {"task_id": "task_d00b8facc2a81e58512f3166", "type": "video", "status": "processing", "progress": 40}
)
ERRORS = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, PicccError)]


def finished(url: str) -> Task:
    return read_task({"task_id": "t1", "type": "image", "status": "completed", "url": url})


def test_a_short_address_is_told_and_a_long_one_left_to_the_program() -> None:
    long = f"https://files.test/{'x' * 300}"
    assert (
        describe_for_model(finished("https://files.test/a.png"))
        == "The image is finished (task t1): https://files.test/a.png"
    )
    assert describe_for_model(finished(long)) == "The image is finished (task t1)"
    assert tasks_in(artifact_of(finished(long)))[0].outputs[0].url == long


def test_a_running_task_is_told_with_its_progress_and_the_way_on() -> None:
    text = describe_for_model(RUNNING)
    assert "processing, 40 %" in text
    assert "Do not submit it again. Check it later with get_media_task." in text


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_is_told_shortly_and_as_json(kind: type[PicccError]) -> None:
    report = failed(kind("word " * 200))
    assert count_text(report.text) <= 100
    assert json.loads(json.dumps(report.artifact))["tool_error"]["kind"] == kind.__name__


@pytest.mark.parametrize("kind", ERRORS)
def test_what_may_have_been_billed_is_never_to_be_submitted_again(kind: type[PicccError]) -> None:
    report = failed(kind("No answer came.", may_have_been_billed=True))
    assert report.artifact["tool_error"]["may_retry"] is False
    assert "do not submit it again" in report.text


@pytest.mark.parametrize("kind", ERRORS)
def test_a_task_that_runs_is_never_to_be_submitted_again(kind: type[PicccError]) -> None:
    report = failed(kind("It could not be read."), RUNNING)
    assert report.artifact["tool_error"]["may_retry"] is False
    assert RUNNING.id in report.text
    assert [task.id for task in tasks_in(report.artifact)] == [RUNNING.id]


def test_an_error_that_is_not_ours_is_told_too() -> None:
    assert (
        failed(ZeroDivisionError("by zero")).text
        == "ZeroDivisionError: by zero. Do not retry: tell the user."
    )


SETUP: dict[str, PicccError] = {
    "no key": ConfigurationError("No API key.", hint="Set PICCC_API_KEY. More follows."),
    "a wrong key": AuthenticationError("invalid key", hint="Check the key"),
    "no model": InvalidArgumentError("No model.", hint="Set PICCC_IMAGE_MODEL."),
}


@pytest.mark.parametrize("what", SETUP)
def test_what_the_settings_lack_is_told_with_what_to_set(what: str) -> None:
    error = SETUP[what]
    report = failed(error)
    assert report.text.startswith(f"{error.message.rstrip('.')}. {error.hint.split('.')[0]}. ")
    assert report.text.endswith(" Do not retry: tell the user.")


def test_a_list_is_a_line_for_each_task_and_an_empty_one_says_so() -> None:
    assert listed([RUNNING]).text == f"video {RUNNING.id} processing: "
    assert listed([]).text == "There are no such tasks."
    assert [task.id for task in tasks_in(listed([RUNNING, RUNNING]).artifact)] == [RUNNING.id] * 2


@pytest.mark.parametrize("artifact", [None, "done", {"task_id": "job-1"}, {"tasks": [{"task_id": "job-1"}]}])
def test_what_another_tool_left_is_no_task(artifact: object) -> None:
    assert tasks_in(artifact) == []


def test_a_key_is_the_same_for_the_same_call_and_for_no_other() -> None:
    assert submission_key("a", "b", {"x": 1, "y": 2}) == submission_key("a", "b", {"y": 2, "x": 1})
    assert len({submission_key(*parts) for parts in [("a", "b"), ("ab",), ("a", "b", None), ("b", "a")]}) == 4


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"client": AsyncClient(api_key="k", base_url="https://api.test")}, "client is of type AsyncClient"),
        (
            {"async_client": Client(api_key="k", base_url="https://api.test")},
            "async_client is of type Client",
        ),
        ({"client": "https://api.test"}, "client is of type str"),
    ],
)
def test_a_client_of_the_wrong_kind_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ClientPair(**{"client": None, "async_client": None, "create": Client, **given})
