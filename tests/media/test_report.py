"""Reports for agents are short and never suggest resubmitting a task that may exist."""

from __future__ import annotations

import inspect
import json
from typing import Any

import httpx
import pytest

from piccc import AsyncClient, Client, errors
from piccc._dialects.tasks import read_task
from piccc.errors import (
    APIConnectionError,
    AuthenticationError,
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    PicccError,
)
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
ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, PicccError)]


def finished(url: str) -> Task:
    return read_task({"task_id": "t1", "type": "image", "status": "completed", "url": url})


def test_short_urls_are_in_the_text_and_long_ones_only_in_the_artifact() -> None:
    long = f"https://files.test/{'x' * 300}"
    assert (
        describe_for_model(finished("https://files.test/a.png"))
        == "The image is finished (task t1): https://files.test/a.png"
    )
    assert describe_for_model(finished(long)) == "The image is finished (task t1)"
    assert tasks_in(artifact_of(finished(long)))[0].outputs[0].url == long


def test_a_running_task_is_described_with_progress_and_next_step() -> None:
    text = describe_for_model(RUNNING)
    assert "processing, 40 %" in text
    assert "Do not submit it again. Check it later with get_media_task." in text


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_report_is_short_and_json_serializable(kind: type[PicccError]) -> None:
    report = failed(kind("word " * 200))
    assert count_text(report.text) <= 100
    assert json.loads(json.dumps(report.artifact))["tool_error"]["kind"] == kind.__name__


@pytest.mark.parametrize("kind", ERRORS)
def test_a_possibly_billed_error_forbids_resubmission(kind: type[PicccError]) -> None:
    report = failed(kind("No answer came.", may_have_been_billed=True))
    assert report.artifact["tool_error"]["may_retry"] is False
    assert "do not submit it again" in report.text


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_about_a_running_task_names_it_and_forbids_a_retry(kind: type[PicccError]) -> None:
    report = failed(kind("It could not be read."), RUNNING)
    assert report.artifact["tool_error"]["may_retry"] is False
    assert RUNNING.id in report.text
    assert [task.id for task in tasks_in(report.artifact)] == [RUNNING.id]


@pytest.mark.parametrize(("base_url", "may_retry"), [(None, False), ("http://piccc.test", True)])
def test_a_failed_connection_may_be_tried_again_only_if_a_server_is_configured(
    monkeypatch: pytest.MonkeyPatch, base_url: str | None, may_retry: bool
) -> None:
    monkeypatch.delenv("PICCC_BASE_URL", raising=False)
    attempts: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        attempts.append(request)
        raise httpx.ConnectError("Name or service not known")

    http_client = httpx.Client(transport=httpx.MockTransport(refuse))
    client = Client(api_key="unused", base_url=base_url, http_client=http_client, max_retries=1)
    with pytest.raises(APIConnectionError) as caught:
        client.images.submit("a fox", model="piccc-image")
    report = failed(caught.value, is_submission=True)
    assert report.artifact["tool_error"]["may_retry"] is may_retry
    assert ("You may call again once." in report.text) is may_retry
    assert ("Do not retry: tell the user." in report.text) is not may_retry
    assert ("No server is configured" in caught.value.hint) is not may_retry
    assert len(attempts) == (2 if may_retry else 1)


def test_an_exception_of_another_library_is_reported() -> None:
    assert (
        failed(ZeroDivisionError("by zero")).text
        == "ZeroDivisionError: by zero. Do not retry: tell the user."
    )


SETUP: dict[str, PicccError] = {
    "no key": ConfigurationError("No API key.", hint="Set PICCC_API_KEY. More follows."),
    "a wrong key": AuthenticationError("invalid key", hint="Check the key"),
    "no model": InvalidArgumentError("No model.", hint="Set PICCC_IMAGE_MODEL."),
}


def test_an_error_report_says_once_that_nothing_was_created() -> None:
    report = failed(InvalidArgumentError("No loop.", hint="Nothing was sent. Use another mode."))
    assert report.text == "No loop. Use another mode. Nothing was created. Do not retry: tell the user."
    report = failed(NotFoundError("No such model."), is_submission=True)
    assert report.text == "No such model. Nothing was created. Do not retry: tell the user."


@pytest.mark.parametrize("case", SETUP)
def test_a_configuration_error_report_says_what_to_set(case: str) -> None:
    error = SETUP[case]
    report = failed(error)
    assert report.text.startswith(f"{error.message.rstrip('.')}. {error.hint.split('.')[0]}. ")
    assert report.text.endswith(" Do not retry: tell the user.")


def test_a_list_has_one_line_per_task_and_an_empty_list_says_so() -> None:
    assert listed([RUNNING]).text == f"video {RUNNING.id} processing: "
    assert listed([]).text == "There are no such tasks."
    assert [task.id for task in tasks_in(listed([RUNNING, RUNNING]).artifact)] == [RUNNING.id] * 2


@pytest.mark.parametrize("artifact", [None, "done", {"task_id": "job-1"}, {"tasks": [{"task_id": "job-1"}]}])
def test_artifacts_of_other_tools_contain_no_tasks(artifact: object) -> None:
    assert tasks_in(artifact) == []


def test_submission_keys_are_equal_only_for_equal_calls() -> None:
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
def test_a_client_of_the_wrong_type_is_rejected(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        ClientPair(**{"client": None, "async_client": None, "create": Client, **given})
