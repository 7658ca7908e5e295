"""Task progress, the task list, and idempotent submissions."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator
from piccc.emulator.tasks import ASPECT_RATIOS, IMAGE_SIDES, VIDEO_SIDES, pixels
from tests.emulator.wire import connect, image, video


def read(client: httpx.Client, task_id: str) -> dict[str, Any]:
    """Return a task."""
    response = client.get(f"/v1/tasks/{task_id}")
    assert response.status_code == 200
    return dict(response.json())


def test_a_task_is_queued_then_processing_then_completed(
    manual: Emulator, manual_client: httpx.Client
) -> None:
    submitted = manual_client.post("/v1/images/tasks", json=image())
    assert submitted.status_code == 202
    task = submitted.json()
    assert (task["status"], task["progress"], task["result"], task["error"]) == ("queued", 0, None, None)
    assert task["polling_url"] == f"{manual.base_url}/v1/tasks/{task['task_id']}"
    seen = []
    for _ in range(4):
        manual.advance(1)
        seen.append(read(manual_client, task["task_id"]))
    assert [state["status"] for state in seen] == ["processing", "processing", "completed", "completed"]
    assert 0 < seen[0]["progress"] < seen[1]["progress"] < seen[2]["progress"] == 100
    assert seen[2] == seen[3]
    assert seen[2]["completed_at"] == seen[2]["updated_at"] == task["created_at"] + 3


def test_a_video_takes_twice_as_long_as_an_image_and_speed_scales_both(clock: Any) -> None:
    with Emulator(clock=clock, speed=10) as emulator, connect(emulator) as client:
        tasks = [
            client.post("/v1/images/tasks", json=image()).json(),
            client.post("/v1/videos/tasks", json=video()).json(),
        ]
        emulator.advance(0.3)
        assert [read(client, task["task_id"])["status"] for task in tasks] == ["completed", "processing"]
        emulator.advance(0.3)
        assert [read(client, task["task_id"])["status"] for task in tasks] == ["completed", "completed"]


def test_at_full_speed_a_task_is_still_queued_when_submitted(client: httpx.Client) -> None:
    task = client.post("/v1/images/tasks", json=image()).json()
    assert task["status"] == "queued"
    assert read(client, task["task_id"])["status"] == "completed"


def test_an_unknown_task_is_a_404(client: httpx.Client) -> None:
    response = client.get("/v1/tasks/task_none")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "task_not_found")


@pytest.mark.parametrize("ratio", ASPECT_RATIOS)
def test_sizes_keep_the_aspect_ratio_with_even_sides(ratio: str) -> None:
    wide, high = (int(part) for part in ratio.split(":"))
    sizes = [(side, max, pixels("image", name, ratio)) for name, side in IMAGE_SIDES.items()]
    sizes += [(side, min, pixels("video", name, ratio)) for name, side in VIDEO_SIDES.items()]
    for side, pick, size in sizes:
        assert pick(size) == side
        assert size[0] % 2 == size[1] % 2 == 0
        assert abs(size[0] * high - size[1] * wide) <= max(wide, high)


def list_ids(client: httpx.Client, **query: Any) -> list[str]:
    """Read all pages of the list; return the ids."""
    ids: list[str] = []
    while True:
        page = client.get("/v1/tasks", params=query).json()
        ids += [task["task_id"] for task in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return ids
        query["cursor"] = page["next_cursor"]


def test_the_list_contains_every_task_once_newest_first(client: httpx.Client) -> None:
    submitted = [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(7)]
    for limit in (1, 2, 3, 7, 100):
        assert list_ids(client, limit=limit) == submitted[::-1]


def test_a_submission_between_two_pages_does_not_shift_them(client: httpx.Client) -> None:
    submitted = [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(4)]
    first = client.get("/v1/tasks", params={"limit": 2}).json()
    client.post("/v1/images/tasks", json=image())
    second = client.get("/v1/tasks", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [task["task_id"] for task in first["data"] + second["data"]] == submitted[::-1]


def test_the_list_is_filtered_by_type_and_current_status(
    manual: Emulator, manual_client: httpx.Client
) -> None:
    old = manual_client.post("/v1/images/tasks", json=image()).json()["task_id"]
    manual.advance(3)
    new = manual_client.post("/v1/images/tasks", json=image()).json()["task_id"]
    clip = manual_client.post("/v1/videos/tasks", json=video()).json()["task_id"]
    assert list_ids(manual_client, type="image") == [new, old]
    assert list_ids(manual_client, status="completed") == [old]
    assert list_ids(manual_client, type="video", status="queued") == [clip]
    assert list_ids(manual_client, type="video", status="failed") == []
    manual.advance(3)
    newest = manual_client.post("/v1/images/tasks", json=image()).json()["task_id"]
    assert list_ids(manual_client, status="completed") == [new, old]
    assert list_ids(manual_client, status="processing") == [clip]  # older than the image that has completed
    manual.advance(4)
    assert list_ids(manual_client, status="processing") == []
    assert list_ids(manual_client, status="completed") == [newest, clip, new, old]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"type": "song"}, "type"),
        ({"status": "done"}, "status"),
    ],
)
def test_an_invalid_filter_is_a_400_that_names_it(
    client: httpx.Client, query: dict[str, str], field: str
) -> None:
    response = client.get("/v1/tasks", params=query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, field)


def test_repeating_an_idempotency_key_returns_the_same_task(emulator: Emulator, client: httpx.Client) -> None:
    headers = {"idempotency-key": "order-1"}
    first = client.post("/v1/images/tasks", json=image(), headers=headers)
    again = client.post("/v1/images/tasks", json=image(), headers=headers)
    assert first.json()["task_id"] == again.json()["task_id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert [charge.task_id for charge in emulator.charges] == [first.json()["task_id"]]


@pytest.mark.parametrize(("path", "body"), [("images", image("another")), ("videos", video())])
def test_reusing_an_idempotency_key_for_another_request_is_a_409(
    client: httpx.Client, path: str, body: object
) -> None:
    headers = {"idempotency-key": "order-1"}
    client.post("/v1/images/tasks", json=image(), headers=headers)
    response = client.post(f"/v1/{path}/tasks", json=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_without_an_idempotency_key_every_submission_is_charged(
    emulator: Emulator, client: httpx.Client
) -> None:
    for _ in range(2):
        client.post("/v1/images/tasks", json=image())
    client.post("/v1/videos/tasks", json=video())
    client.post("/v1/videos/tasks", json={})
    assert [charge.kind for charge in emulator.charges] == ["image", "image", "video"]
