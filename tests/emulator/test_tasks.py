"""Tasks over time, the list of them, and submissions that are sent twice."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from piccc.emulator import Emulator
from piccc.emulator.tasks import ASPECT_RATIOS, IMAGE_SIDES, VIDEO_SIDES, pixels
from tests.emulator.wire import connect, image, video


def read(client: httpx.Client, task_id: str) -> dict[str, Any]:
    """Read a task."""
    reply = client.get(f"/v1/tasks/{task_id}")
    assert reply.status_code == 200
    return dict(reply.json())


def test_a_task_is_queued_then_processed_then_completed(still: Emulator, still_client: httpx.Client) -> None:
    submitted = still_client.post("/v1/images/tasks", json=image())
    assert submitted.status_code == 202
    task = submitted.json()
    assert (task["status"], task["progress"], task["result"], task["error"]) == ("queued", 0, None, None)
    assert task["polling_url"] == f"{still.base_url}/v1/tasks/{task['task_id']}"
    seen = []
    for _ in range(4):
        still.advance(1)
        seen.append(read(still_client, task["task_id"]))
    assert [one["status"] for one in seen] == ["processing", "processing", "completed", "completed"]
    assert 0 < seen[0]["progress"] < seen[1]["progress"] < seen[2]["progress"] == 100
    assert seen[2] == seen[3]
    assert seen[2]["completed_at"] == seen[2]["updated_at"] == task["created_at"] + 3


def test_a_video_takes_twice_as_long_as_a_picture_and_speed_divides_both(clock: Any) -> None:
    with Emulator(clock=clock, speed=10) as emulator, connect(emulator) as client:
        tasks = [
            client.post("/v1/images/tasks", json=image()).json(),
            client.post("/v1/videos/tasks", json=video()).json(),
        ]
        emulator.advance(0.3)
        assert [read(client, task["task_id"])["status"] for task in tasks] == ["completed", "processing"]
        emulator.advance(0.3)
        assert [read(client, task["task_id"])["status"] for task in tasks] == ["completed", "completed"]


def test_even_without_any_wait_a_task_is_not_finished_at_its_submission(client: httpx.Client) -> None:
    task = client.post("/v1/images/tasks", json=image()).json()
    assert task["status"] == "queued"
    assert read(client, task["task_id"])["status"] == "completed"


def test_an_unknown_task_is_a_404(client: httpx.Client) -> None:
    reply = client.get("/v1/tasks/task_none")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "task_not_found")


@pytest.mark.parametrize("ratio", ASPECT_RATIOS)
def test_sizes_keep_the_ratio_with_even_sides(ratio: str) -> None:
    wide, high = (int(part) for part in ratio.split(":"))
    sizes = [(side, max, pixels("image", name, ratio)) for name, side in IMAGE_SIDES.items()]
    sizes += [(side, min, pixels("video", name, ratio)) for name, side in VIDEO_SIDES.items()]
    for side, pick, size in sizes:
        assert pick(size) == side
        assert size[0] % 2 == size[1] % 2 == 0
        assert abs(size[0] * high - size[1] * wide) <= max(wide, high)


def listed(client: httpx.Client, **query: Any) -> list[str]:
    """Follow the list to its end; return the ids."""
    found: list[str] = []
    while True:
        page = client.get("/v1/tasks", params=query).json()
        found += [task["task_id"] for task in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            return found
        query["cursor"] = page["next_cursor"]


def test_the_list_gives_every_task_once_newest_first(client: httpx.Client) -> None:
    made = [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(7)]
    for limit in (1, 2, 3, 7, 100):
        assert listed(client, limit=limit) == made[::-1]


def test_what_is_submitted_between_two_pages_shifts_nothing(client: httpx.Client) -> None:
    made = [client.post("/v1/images/tasks", json=image()).json()["task_id"] for _ in range(4)]
    first = client.get("/v1/tasks", params={"limit": 2}).json()
    client.post("/v1/images/tasks", json=image())
    second = client.get("/v1/tasks", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [task["task_id"] for task in first["data"] + second["data"]] == made[::-1]


def test_the_list_is_filtered_by_type_and_by_the_status_now(
    still: Emulator, still_client: httpx.Client
) -> None:
    old = still_client.post("/v1/images/tasks", json=image()).json()["task_id"]
    still.advance(3)
    new = still_client.post("/v1/images/tasks", json=image()).json()["task_id"]
    clip = still_client.post("/v1/videos/tasks", json=video()).json()["task_id"]
    assert listed(still_client, type="image") == [new, old]
    assert listed(still_client, status="completed") == [old]
    assert listed(still_client, type="video", status="queued") == [clip]
    assert listed(still_client, type="video", status="failed") == []
    still.advance(3)
    newest = still_client.post("/v1/images/tasks", json=image()).json()["task_id"]
    assert listed(still_client, status="completed") == [new, old]
    assert listed(still_client, status="processing") == [clip]  # the oldest that runs; a newer one has ended
    still.advance(4)
    assert listed(still_client, status="processing") == []
    assert listed(still_client, status="completed") == [newest, clip, new, old]


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
def test_a_wrong_filter_is_a_400_that_names_it(
    client: httpx.Client, query: dict[str, str], field: str
) -> None:
    reply = client.get("/v1/tasks", params=query)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)


def test_a_submission_sent_twice_with_one_key_makes_and_charges_one_task(
    emulator: Emulator, client: httpx.Client
) -> None:
    headers = {"idempotency-key": "order-1"}
    first = client.post("/v1/images/tasks", json=image(), headers=headers)
    again = client.post("/v1/images/tasks", json=image(), headers=headers)
    assert first.json()["task_id"] == again.json()["task_id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert [charge.task_id for charge in emulator.charges] == [first.json()["task_id"]]


@pytest.mark.parametrize(("path", "body"), [("images", image("another")), ("videos", video())])
def test_a_key_used_for_another_request_is_a_409(client: httpx.Client, path: str, body: object) -> None:
    headers = {"idempotency-key": "order-1"}
    client.post("/v1/images/tasks", json=image(), headers=headers)
    reply = client.post(f"/v1/{path}/tasks", json=body, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "idempotency_key_reused")


def test_without_a_key_every_submission_is_charged(emulator: Emulator, client: httpx.Client) -> None:
    for _ in range(2):
        client.post("/v1/images/tasks", json=image())
    client.post("/v1/videos/tasks", json=video())
    client.post("/v1/videos/tasks", json={})
    assert [charge.kind for charge in emulator.charges] == ["image", "image", "video"]
