"""Handles can be saved as JSON, pickled and copied, and notebooks render them."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import sys
import types
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from piccc import AsyncClient, Client
from piccc.emulator import Emulator
from piccc.errors import InvalidArgumentError
from piccc.media.display import card, gallery, line
from piccc.media.handles import AsyncTaskHandle, TaskHandle
from piccc.tasks import Output, Task
from tests.media.driven import QUICK, Connect

IMAGE = {"model": "piccc-image"}


def test_another_client_can_wait_for_a_handle_loaded_from_json(connect: Connect, emulator: Emulator) -> None:
    settings = {"base_url": emulator.base_url, "api_key": emulator.api_key}
    text = connect(**settings).images.submit("a fox", **IMAGE).to_json()
    assert emulator.api_key not in text
    task = connect(**settings).tasks.load(text)
    assert (task.prompt, task.model, task.type) == ("a fox", "piccc-image", "image")
    assert task.wait().outputs[0].bytes()


def test_a_pickled_handle_works_and_omits_the_api_key(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    client = Client(base_url=emulator.base_url, polling=QUICK, ledger=tmp_path / "tasks.db")
    task = client.images.submit("a fox", **IMAGE, key="fox")
    pickled = pickle.dumps(task)
    assert emulator.api_key.encode() not in pickled
    loaded: TaskHandle = pickle.loads(pickled)  # noqa: S301  our own bytes
    assert loaded == task
    assert loaded.wait().outputs[0].save(tmp_path).exists()
    assert loaded._account.ledger.get("fox") == client.ledger.get("fox")
    assert {loaded: 1}[task.refresh()] == 1


def test_an_async_handle_can_be_pickled_and_copied(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)

    async def submit() -> AsyncTaskHandle:
        client = AsyncClient(base_url=emulator.base_url, polling=QUICK)
        return await client.images.submit("a fox", **IMAGE)

    async def finish(task: AsyncTaskHandle) -> bytes:
        return await (await task.wait()).outputs[0].bytes()

    loaded = pickle.loads(pickle.dumps(asyncio.run(submit())))  # noqa: S301  our own bytes
    assert asyncio.run(finish(loaded))
    assert asyncio.run(finish(copy.deepcopy(loaded)))


def test_a_pickled_client_keeps_its_settings(emulator: Emulator, tmp_path: Path) -> None:
    key = "pcc_live_of_a_pickled_client"
    client = Client(
        base_url=emulator.base_url, api_key=key, ledger=tmp_path / "tasks.db", private_outputs=True
    )
    pickled = pickle.dumps(client)
    loaded = pickle.loads(pickled)  # noqa: S301  our own bytes
    assert loaded.ledger.path == tmp_path / "tasks.db"
    assert loaded._account.private_outputs
    assert key.encode() not in pickled
    assert key not in repr(client)


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def make_task(**changes: Any) -> Task:
    return Task(**{"id": "task_1", "status": "processing", "type": "image", "progress": 40.0, **changes})


def test_a_card_shows_progress_then_the_image() -> None:
    assert ("progress", "40") in [
        (tag, attributes.get("value")) for tag, attributes in _Tags(card(make_task())).tags
    ]
    done = make_task(status="completed", outputs=[Output("https://files.example.com/a.png?x=1&y=2", "image")])
    assert [attributes["src"] for tag, attributes in _Tags(card(done)).tags if tag == "img"] == [
        "https://files.example.com/a.png?x=1&y=2"
    ]
    assert "progress" not in card(done)


def test_a_video_card_has_a_player() -> None:
    done = make_task(status="completed", outputs=[Output("https://files.example.com/a.mp4", "video")])
    assert [attributes["src"] for tag, attributes in _Tags(card(done)).tags if tag == "video"]


def test_a_card_escapes_text_from_prompts_and_servers() -> None:
    evil = "<script>alert(1)</script>\"'"
    shown = make_task(
        prompt=evil,
        status=evil,
        error_message=evil,
        outputs=[Output("javascript:alert(1)"), Output(f"https://x/{evil}")],
    )
    tags = _Tags(card(shown)).tags
    assert {tag for tag, _ in tags} <= {"div", "b", "code", "img", "progress"}
    assert all(not (attributes.get("src") or "").startswith("javascript") for _, attributes in tags)


def test_a_batch_renders_as_a_gallery_and_as_plain_text(emulator: Emulator) -> None:
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
    shown = client.images.map(["fox", "hare"], **IMAGE)._repr_mimebundle_()
    assert shown["text/html"].count("<img ") == 2
    assert shown["text/plain"] == "<Batch: 2 completed of 2, 0 errors>"
    assert gallery([]).startswith("<div")


def test_a_task_renders_as_one_line_in_a_terminal() -> None:
    assert line(make_task()) == "image task_1: processing 40%"
    assert line(make_task(status="completed")) == "image task_1: completed"


def test_a_notebook_card_updates_while_its_task_is_waited_for(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, dict[str, Any]]] = []

    def display(item: Any, **options: Any) -> None:
        shown.append((item._repr_mimebundle_()["text/plain"], options))

    notebook = types.ModuleType("IPython.display")
    notebook.display = display  # type: ignore[attr-defined]  # the only function that is used
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
    task = client.images.submit("a fox", **IMAGE)
    task._ipython_display_()
    task.wait()
    assert "queued" in shown[0][0]
    assert shown[-1][0].endswith("completed")
    assert len({options["display_id"] for _, options in shown}) == 1
    assert [options.get("update", False) for _, options in shown] == [False] + [True] * (len(shown) - 1)
    assert task._repr_mimebundle_()["text/plain"] == json.loads(json.dumps(shown[-1][0]))


INVALID_IDS = ("\ud800", "a\udfffb", 3, None, "", ".", "..", b"task_1", [], object())
METHODS: dict[str, Callable[[Client, Any], object]] = {
    "get": lambda client, task: client.tasks.get(task),
    "wait": lambda client, task: client.tasks.wait(task, timeout=1),
    "wait_all": lambda client, task: client.tasks.wait_all([task], timeout=1),
    "as_completed": lambda client, task: list(client.tasks.as_completed([task], timeout=1)),
    "events": lambda client, task: list(client.tasks.events(task, timeout=1)),
    "load": lambda client, task: client.tasks.load(task),
}


@pytest.mark.parametrize("call", METHODS.values(), ids=METHODS)
def test_an_invalid_task_id_is_rejected_by_every_method(
    emulator: Emulator, call: Callable[[Client, Any], object]
) -> None:
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
    for invalid in INVALID_IDS:
        with pytest.raises(InvalidArgumentError, match="is not a task"):
            call(client, invalid)
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        next(client.tasks.list(status="\ud800"))
    assert emulator.requests == []
