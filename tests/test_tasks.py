"""Tasks are parsed from whatever a server sends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piccc._dialects.tasks import read_task, read_task_list
from piccc.errors import ResponseError, TaskCancelled, TaskError, TaskExpired, TaskFailed, TaskRejected
from piccc.media.schedule import Pages
from piccc.tasks import Page, Task

URL = "https://files.example.com/a.png"


@pytest.mark.parametrize(
    ("word", "status"),
    [
        *(
            (word, "queued")
            for word in ("pending", "submitted", "Waiting", "QUEUING", "queueing", "preparing", "created")
        ),
        *((word, "processing") for word in ("running", "in_progress", "generating", "Processing")),
        *((word, "completed") for word in ("success", "succeed", "succeeded", "done", " COMPLETED ")),
        *((word, "completed") for word in ("complete", "Finished", "ready", "ok", "TASK_STATUS_SUCCEED")),
        *((word, "failed") for word in ("fail", "error", "Failure", "timeout", "timed out", "rejected")),
        *((word, "failed") for word in ("moderated", "Blocked", "banned", "TASK_STATUS_FAILED")),
        *((word, "cancelled") for word in ("canceled", "aborted")),
        ("expired", "expired"),
        ("NOT_START", "NOT_START"),
    ],
)
def test_known_statuses_are_normalized_and_others_kept(word: str, status: str) -> None:
    task = read_task({"task_id": "t", "status": word})
    assert task.status == status
    assert task.is_known_status == (status != "NOT_START")
    assert task.is_terminal == (status in ("completed", "failed", "cancelled", "expired"))


@pytest.mark.parametrize(
    "body",
    [
        {"result": {"outputs": [{"url": URL, "mime_type": "image/png"}]}},
        {"result": {"outputs": [URL]}},
        {"results": [URL]},
        {"images": [{"url": URL}]},
        {"videos": [URL, ""]},
        {"url": URL},
        {"unsigned_urls": [URL]},
        {"task_result": {"images": [{"url": URL}]}},
        {"content": {"video_url": URL}},
        {"results": [{"video_url": URL}]},
        {"resultJson": json.dumps({"resultUrls": [URL]})},
        {"output": URL},
        {"output": [URL], "input": {"image": "https://example.com/given.png"}},
        {"video": {"url": URL}, "image": "https://example.com/given.png"},
        {"assets": {"video": URL, "thumbnail": "https://example.com/small.png"}},
        {"result": {"sample": URL}},
        {"result": URL},
        {"response": {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": URL}}]}}},
        {"data": [{"url": URL}]},
        {"artifacts": [{"uri": URL}]},
        {"file": {"download_url": URL, "file_id": 3}},
        {"output": {"task_id": "t", "task_status": "SUCCEEDED", "results": [{"url": URL}]}, "task_id": None},
        {
            "data": {"taskId": "t", "state": "success", "resultJson": f'{{"resultUrls": ["{URL}"]}}'},
            "task_id": None,
        },
        {"data": {"task_id": "t", "result": {"outputs": [URL]}}, "code": 200, "task_id": None},
        {"creations": [{"url": URL}], "images": ["https://example.com/given.png"]},
        {"videos": [URL], "images": ["https://example.com/given.png"]},
        {"output": {"video_url": URL}, "image_url": "https://example.com/given.png"},
    ],
)
def test_outputs_are_found_wherever_they_are(body: dict[str, Any]) -> None:
    if "task_id" not in body:
        body = {"task_id": "t", "status": "completed", "type": "image", **body}
    assert [(output.url, output.task_id) for output in read_task(body).outputs] == [(URL, "t")]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (1790000000, 1790000000.0),
        (1790000000123, 1790000000.123),
        (1790000000123000, 1790000000.123),
        ("1790000000123000000", 1790000000.123),
        (-1e300, None),
        ("2026-09-21T14:13:20+00:00", 1790000000.0),
        ("soon", None),
        (None, None),
    ],
)
def test_timestamps_are_parsed_from_every_format(value: object, seconds: float | None) -> None:
    assert read_task({"task_id": "t", "created_at": value}).created_at == seconds


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (
            {"status": "failed", "error": {"message": "No.", "code": "content_policy_violation"}},
            TaskRejected,
            "No.",
        ),
        ({"status": "failed", "error": "It broke."}, TaskFailed, "It broke."),
        ({"status": "failed", "failMsg": "Broken", "failCode": "7"}, TaskFailed, "Broken"),
        ({"status": "failed"}, TaskFailed, "no reason"),
        ({"status": "failed", "message": "success"}, TaskFailed, "no reason"),
        ({"status": "failed", "reason": "Flagged by content filter"}, TaskRejected, "Flagged"),
        ({"status": "failed", "msg": "It broke."}, TaskFailed, "It broke."),
        ({"status": "failed", "error": [{"code": "nsfw", "message": "No."}]}, TaskRejected, "No."),
        ({"status": "failed", "error": {"message": {"detail": "It broke."}}}, TaskFailed, "It broke."),
        ({"status": "cancelled"}, TaskCancelled, "cancelled"),
        ({"status": "expired"}, TaskExpired, "expired"),
        ({"status": "completed"}, TaskFailed, "no output"),
    ],
)
def test_a_finished_task_without_an_output_has_an_error(
    body: dict[str, Any], error: type, message: str
) -> None:
    failure = TaskError.of(read_task({"task_id": "t", **body}))
    assert type(failure) is error
    assert message in str(failure)
    assert failure.task_id == "t"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": "polishing", "outputs": [URL]}, "completed"),
        ({"status": "polishing", "progress": 100, "url": URL}, "completed"),
        ({"status": "running", "progress": 100, "outputs": [URL]}, "completed"),
        ({"status": "polishing", "error": {"message": "It broke."}}, "failed"),
        ({"status": "running", "error": "It broke."}, "failed"),
        ({"done": True, "result": {"outputs": [URL]}}, "completed"),
        ({"done": True, "error": {"message": "It broke."}}, "failed"),
        ({"status": "polishing"}, "polishing"),
        ({"status": "polishing", "image_url": URL}, "polishing"),
        ({"status": "running", "progress": 40, "outputs": [URL]}, "processing"),
        ({"status": "running", "error": {"code": 0, "message": ""}}, "processing"),
        ({"status": "running", "error": {"code": "success", "message": "ok"}}, "processing"),
        ({"status": "running", "task_status_msg": "in the queue"}, "processing"),
        ({"done": False}, "queued"),
        ({"status": "running", "error": {"code": 0, "message": "Success"}}, "processing"),
        ({"status": "running", "error": {"code": None, "message": "OK."}}, "processing"),
        ({"status": "running", "error": {"code": 0, "message": "in the queue"}}, "processing"),
        ({"status": "polishing", "progress": 25, "outputs": [URL]}, "polishing"),
        ({"status": "polishing", "images": [URL]}, "polishing"),
        ({"status": "partial", "outputs": [URL]}, "processing"),
    ],
)
def test_the_status_is_derived_from_outputs_and_errors_too(body: dict[str, Any], status: str) -> None:
    assert read_task({"task_id": "t", **body}).status == status


@pytest.mark.parametrize(
    "error",
    [
        *(
            {"code": code}
            for code in (
                "CONTENT_POLICY_VIOLATION",
                "moderation_blocked",
                "content_filter",
                "NSFW",
                "SAFETY_BLOCKED",
                "InputTextSensitiveContentDetected",
                "OutputVideoSensitiveContentDetected.PolicyViolation",
                "DataInspectionFailed",
                "new_sensitive",
                "content_violation",
                "copyright_violation",
                "IP_INFRINGEMENT",
                "UNSAFE",
                "RAI_FILTERED",
                1026,
            )
        ),
        {"message": "Advanced moderation failed"},
        {"message": "Rejected by our safety system."},
    ],
)
def test_moderation_is_recognized_by_code_or_message(error: dict[str, Any]) -> None:
    failure = TaskError.of(read_task({"task_id": "t", "status": "failed", "error": error}))
    assert isinstance(failure, TaskRejected)


@pytest.mark.parametrize("code", ["internal_error", "timeout", "1000", "invalid_parameter"])
def test_other_failures_are_not_moderation(code: str) -> None:
    failure = TaskError.of(read_task({"task_id": "t", "status": "failed", "error": {"code": code}}))
    assert type(failure) is TaskFailed


def test_one_invalid_field_or_row_does_not_affect_others() -> None:
    task = read_task(
        {
            "task_id": "t",
            "status": "done",
            "progress": float("nan"),
            "outputs": ["http://[::1/x.png", {"url": URL, "width": float("inf"), "type": "IMAGE_URL"}],
        }
    )
    assert [(output.url, output.width, output.type) for output in task.outputs] == [(URL, None, "")]
    page = read_task_list({"data": [{"task_id": "a"}, {"status": "done"}, None, {"id": "b"}]})
    assert [task.id for task in page.tasks] == ["a", "b"]
    assert page.unreadable == 2


@pytest.mark.parametrize(
    ("output", "url"),
    [
        ({"uri": URL}, URL),
        ({"download_url": URL}, URL),
        ({"image_url": {"url": URL}}, URL),
        ({"b64_json": "aGk=", "mime_type": "image/png"}, "data:image/png;base64,aGk="),
        ({"base64": "aGk="}, "data:;base64,aGk="),
        ({"b64_json": "data:image/png;base64,aGk="}, "data:image/png;base64,aGk="),
        ("data:image/png;base64,aGk=", "data:image/png;base64,aGk="),
    ],
)
def test_outputs_are_parsed_from_every_format(output: object, url: str) -> None:
    assert [item.url for item in read_task({"task_id": "t", "images": [output]}).outputs] == [url]


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"thumbnail_url": URL}, URL),
        ({"cover_image_url": URL, "poster": 3}, URL),
        ({"cover": {"url": URL}}, URL),
        ({"poster": "file:///etc/passwd"}, None),
        ({"thumbnail": {"url": "http://[::1/x.png"}}, None),
        ({}, None),
    ],
)
def test_a_video_thumbnail_is_found_under_each_field_name(fields: dict[str, Any], url: str | None) -> None:
    task = read_task({"task_id": "t", "videos": [{"url": "https://example.com/a.mp4", **fields}]})
    assert [output.thumbnail_url for output in task.outputs] == [url]


def test_a_running_or_completed_task_has_no_error() -> None:
    assert TaskError.of(read_task({"task_id": "t", "status": "running"})) is None
    assert TaskError.of(read_task({"task_id": "t", "status": "done", "url": URL})) is None


@pytest.mark.parametrize("body", [None, [], "x", {}, {"task_id": ""}, {"data": {"x": 1}}, {"error": "x"}])
def test_a_body_that_is_not_a_task_is_a_typed_error(body: object) -> None:
    with pytest.raises(ResponseError):
        read_task(body)


def test_a_result_that_is_nested_too_deeply_is_ignored() -> None:
    assert read_task({"task_id": "t", "resultJson": "[" * 100_000}).outputs == []


@pytest.mark.parametrize(
    "body",
    [
        {"id": "request", "code": 0, "data": {"task_id": "t", "status": "queued"}},
        {"id": "request", "output": {"task_id": "t", "task_status": "PENDING"}},
        {"task_id": "t", "status": "queued", "data": {"id": "image", "status": "running"}},
        {"id": "t", "status": "queued", "result": {"id": "image", "status": "running"}},
        {"id": "t", "result": {"id": "image", "url": URL}},
        {"code": 200, "data": [{"task_id": "t", "status": "submitted"}]},
        [{"task_id": "t", "status": "queued"}],
    ],
)
def test_a_task_is_found_in_each_wrapper_and_a_request_id_is_not_its_id(body: object) -> None:
    task = read_task(body)
    assert (task.id, task.status) == ("t", "queued")


@pytest.mark.parametrize(
    ("asked", "body", "is_own"),
    [
        ("t1", {"task_id": "t1"}, True),
        ("t1", {"task_id": "t2"}, False),
        ("t1", {"taskId": "t2"}, False),
        ("1", {"task_id": 11}, False),
        ("t1", {"id": "r", "data": {"task_id": "t2", "status": "done"}}, False),
        ("t1", {"id": "t2"}, True),  # it may be the request's
        ("t1", {"id": "t1", "data": {"task_id": "t2", "status": "done"}}, True),
        ("t1", {"task_id": "t2", "request_id": "t1"}, True),
        ("t1", {"task_id": "t2", "polling_url": "/v1/tasks/t1"}, True),
        ("t1", {"task_id": "t2", "parent": {"jobId": "t1"}}, True),
        ("t1", {"task_id": "t2", "prompt": "t1"}, False),
        ("t1", {"task_id": "task_t1"}, True),
        ("task-t1", {"task_id": "t1"}, True),
        ("ab-12", {"task_id": "AB12"}, True),
    ],
)
def test_a_response_about_another_task_is_not_taken_for_the_one_asked(
    asked: str, body: dict[str, Any], is_own: bool
) -> None:
    body = body if "data" in body else {"status": "done", **body}
    if is_own:
        assert read_task(body, asked).status == "completed"
        return
    with pytest.raises(ResponseError, match=f"a read of task {asked} with task "):
        read_task(body, asked)


def test_unknown_fields_are_kept_and_to_dict_round_trips() -> None:
    task = read_task({"id": 7, "status": "Running", "cost": {"credits": 3}, "polling_url": "/v1/tasks/7"})
    assert (task.id, task.raw["cost"], task.polling_url) == ("7", {"credits": 3}, "/v1/tasks/7")
    again = read_task(json.loads(json.dumps(task.to_dict())))
    assert (again.id, again.status, again.polling_url) == (task.id, task.status, task.polling_url)
    assert read_task(Task("t", "queued", "image", "m", "fox").to_dict()).prompt == "fox"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "task_id",
                        "id",
                        "status",
                        "result",
                        "outputs",
                        "url",
                        "error",
                        "data",
                        "progress",
                        "content",
                        "resultJson",
                        "created_at",
                    ]
                ),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_arbitrary_json_is_parsed_or_rejected_and_never_crashes(body: object) -> None:
    for read in (read_task, read_task_list):
        try:
            read(body)
        except ResponseError:
            continue


@pytest.mark.parametrize("rows", ["data", "items", "tasks"])
def test_a_page_is_found_under_each_field_name_and_in_a_wrapper(rows: str) -> None:
    page = {rows: [{"task_id": "t"}], "has_more": True, "next_cursor": "c"}
    for body in (page, {"code": 0, "data": page}):
        tasks, following, _ = read_task_list(body)
        assert ([task.id for task in tasks], following) == (["t"], {"cursor": "c"})


@pytest.mark.parametrize(
    ("body", "following"),
    [
        ({"data": [{"id": "t"}], "has_more": False, "next_cursor": "c"}, None),
        ({"data": [{"id": "t"}], "has_more": True, "next_cursor": None}, None),
        ({"data": [{"id": "t"}], "page": 1, "page_size": 1, "total": 2}, {"page": "2", "page_size": "1"}),
        ({"data": [{"id": "t"}], "page": 2, "page_size": 1, "total": 2}, None),
        ({"data": [], "page": 3, "page_size": 1}, None),
        ([{"id": "t"}], None),
    ],
)
def test_the_end_of_a_task_list_is_recognized(body: object, following: object) -> None:
    assert read_task_list(body).following == following


def test_pages_yield_each_task_once_and_end_when_they_repeat() -> None:
    pages = Pages(type="image", status="queued")
    assert pages.path == "/v1/tasks?type=image&status=queued&limit=100"
    assert [task.id for task in pages.take(Page([Task("a"), Task("b")], {"cursor": "1"}))] == ["a", "b"]
    assert pages.path.endswith("&cursor=1")
    assert [task.id for task in pages.take(Page([Task("b"), Task("c")], {"cursor": "2"}))] == ["c"]
    assert not pages.is_done
    pages.take(Page([Task("d")], {"cursor": "1"}))
    assert pages.is_done


def test_numbered_pages_end_when_one_has_nothing_new() -> None:
    pages = Pages()
    pages.take(Page([Task("a")], {"page": "2"}))
    assert not pages.is_done
    pages.take(Page([Task("a")], {"page": "3"}))
    assert pages.is_done
