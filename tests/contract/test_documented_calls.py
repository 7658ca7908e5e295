"""The documented calls: the emulator accepts each, and our client sends exactly those fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from piccc import Client
from piccc.emulator import Emulator

MODELS = ["piccc-flash", "piccc-pro", "piccc-ultra", "some-image-model", "some-video-model"]
CHAT = {"model": "piccc-pro", "messages": [{"role": "user", "content": "Name a colour."}]}
IMAGE = {
    "model": "some-image-model",
    "prompt": "a mug",
    "aspect_ratio": "1:1",
    "resolution": "1K",
    "webhook": {"url": "https://hooks.example/piccc"},
}
VIDEO = {
    **IMAGE,
    "model": "some-video-model",
    "resolution": "720p",
    "aspect_ratio": "16:9",
    "duration_seconds": 6,
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=float("inf"), models=MODELS) as emulator:
        yield emulator


@pytest.fixture
def http(emulator: Emulator) -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {emulator.api_key}"}
    with httpx.Client(base_url=emulator.base_url, headers=headers) as client:
        yield client


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_either_header_can_carry_the_key(emulator: Emulator, header: str, path: str) -> None:
    value = f"Bearer {emulator.api_key}" if header == "Authorization" else emulator.api_key
    body = {**CHAT, "max_tokens": 32}
    response = httpx.post(emulator.base_url + path, json=body, headers={header: value})
    assert response.status_code == 200
    assert httpx.post(emulator.base_url + path, json=body).status_code == 401


@pytest.mark.parametrize("model", ["piccc-flash", "piccc-pro", "piccc-ultra"])
@pytest.mark.parametrize("stream", [True, False])
def test_each_chat_model_answers_on_the_openai_route(http: httpx.Client, model: str, stream: bool) -> None:
    response = http.post("/v1/chat/completions", json={**CHAT, "model": model, "stream": stream})
    kind = "text/event-stream" if stream else "application/json"
    assert response.headers["content-type"].startswith(kind)
    assert model in response.text


def test_the_anthropic_route_accepts_its_version_header(http: httpx.Client) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    response = http.post("/v1/messages", json={**CHAT, "max_tokens": 512}, headers=headers)
    assert response.json()["content"][0]["text"]


@pytest.mark.parametrize(("path", "body"), [("/v1/images/tasks", IMAGE), ("/v1/videos/tasks", VIDEO)])
def test_a_submission_returns_a_task_to_poll(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    created = http.post(path, json=body).json()
    assert {"task_id", "status", "polling_url"} <= created.keys()
    task_id = created["task_id"]
    assert http.get(f"/v1/tasks/{task_id}").json()["task_id"] == task_id
    assert http.get(created["polling_url"]).json()["task_id"] == task_id


def test_tasks_are_listed_by_type_and_status(http: httpx.Client) -> None:
    http.post("/v1/images/tasks", json=IMAGE)
    listed = http.get("/v1/tasks", params={"type": "image", "status": "completed"}).json()["data"]
    assert {(task["type"], task["status"]) for task in listed} == {("image", "completed")}


def test_our_client_sends_only_the_documented_fields(emulator: Emulator) -> None:
    with Client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
        client.chat.create("Name a colour.", model="piccc-pro")
        options = {name: value for name, value in VIDEO.items() if name not in ("prompt", "webhook")}
        client.videos.submit("a mug", webhook=VIDEO["webhook"]["url"], **options)
    chat, video = (request.body for request in emulator.requests[-2:])
    assert chat == {**CHAT, "stream": False}
    assert video == VIDEO
