"""A submission is rejected, accepted or lost, and a key is never billed twice."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest

from piccc import AsyncClient, Client
from piccc._http.backend import HTTPRequest
from piccc._http.backends import SyncBackend
from piccc.emulator import Emulator
from piccc.errors import (
    APIConnectionError,
    InvalidArgumentError,
    InvalidRequestError,
    LedgerError,
    PicccError,
    RateLimitError,
    ResponseError,
    SpendLimitExceeded,
    SubmissionUnknown,
)
from piccc.media.ledgers import MemoryLedger, Submission
from piccc.media.ledgers.sqlite import SQLiteLedger
from piccc.media.requests import SpendLimit, build_task_request
from piccc.tasks import Output, Task
from tests.media.driven import QUICK, Connect

IMAGE = {"model": "piccc-image"}
SUBMISSIONS = "POST /v1/images/tasks"
SPAWN = multiprocessing.get_context("spawn")
CRASHES = 200


def posts(emulator: Emulator) -> list[Any]:
    return [request for request in emulator.requests if request.method == "POST"]


def test_other_keywords_are_sent_unchanged(client: Any, emulator: Emulator) -> None:
    task = client.images.submit("a fox", **IMAGE, aspect_ratio="16:9", resolution="2K", seed=7, style=None)
    assert posts(emulator)[0].body == {
        "model": "piccc-image",
        "prompt": "a fox",
        "aspect_ratio": "16:9",
        "resolution": "2K",
        "seed": 7,
    }
    assert task.raw["aspect_ratio"] == "16:9"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": " "}, "prompt"),
        ({"model": None}, "PICCC_IMAGE_MODEL"),
        ({"prompt": 7}, "prompt"),
        ({"model": 7}, "model"),
        ({"aspect_ratio": (16, 9)}, "'16:9'"),
        ({"aspect_ratio": ""}, "'16:9'"),
        ({"resolution": 1024}, "'1K'"),
        ({"duration_seconds": "3"}, "client.videos"),
        ({"webhook": {"url": "https://example.com"}}, "https"),
        ({"webhook": "https://[::1/x"}, "https"),
        ({"lost": "retry"}, "resend"),
        ({"aspect": "1:1"}, "aspect_ratio"),
        ({"aspect_ration": "1:1"}, "aspect_ratio"),
        ({"size": "1K"}, "resolution"),
        ({"duration": 3}, "duration_seconds"),
        ({"webhooks": "https://example.com"}, "webhook"),
        ({"modle": "m"}, "model"),
        ({"n": 4}, "map"),
        ({"image": Path("nowhere.png")}, "cannot be read"),
        ({"image": "photos/me.png"}, "pathlib.Path"),
        ({"first_frame": "/home/me/a"}, "pathlib.Path"),
        ({"image": b"abc"}, "known type"),
        ({"images": [b"abc"]}, "known type"),
        ({"image": {"url": b"abc"}}, "known type"),
        ({"image": {"url": "photos/me.png"}}, "pathlib.Path"),
        ({"image": "file:///home/me/a.png"}, "pathlib.Path"),
        ({"image": io.BytesIO(b"abc")}, "cannot be sent"),
        ({"images": {b"abc"}}, "cannot be sent"),
        ({"tags": (tag for tag in "ab")}, "cannot be sent"),
        ({"image": PIL.Image.new("F", (8, 8))}, 'convert("RGB")'),
        ({"Prompt": "a hare"}, "prompt"),
        ({"durations": 3}, "duration_seconds"),
        ({"timeout": 3}, "generate or map"),
        ({"max_tasks": 3}, "generate or map"),
        ({"image": Task("t", "processing")}, "Wait for the task"),
        ({"duration_seconds": 3}, "client.videos"),
        ({"webhook": "http://example.com/hook"}, "https"),
        ({"webhook": "ftp://example.com/hook"}, "https"),
        ({"key": ""}, "key"),
        ({"key": "狐"}, "ASCII"),
        ({"key": " fox"}, "spaces around"),
        ({"seed": object()}, "JSON"),
    ],
)
def test_an_invalid_argument_is_rejected_before_anything_is_sent(
    client: Any, emulator: Emulator, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PICCC_IMAGE_MODEL", raising=False)
    with pytest.raises(InvalidArgumentError) as raised:
        client.images.submit(**{"prompt": "a fox", **IMAGE, **options})
    assert message in str(raised.value)
    assert not emulator.requests


@pytest.mark.parametrize(
    "options",
    [
        {"aspect_ratio": "auto"},
        {"aspect_ratio": "2.39:1"},
        {"resolution": "2k"},
        {"resolution": "1024x1024"},
        {"mode": "pro"},
        {"style": "ink"},
        {"extra_body": {"aspect": "1:1", "n": 2}},
        {"image": "https://example.com/a.png"},
        {"image": "file-abc123"},
    ],
)
def test_values_that_only_the_server_can_validate_are_sent_unchanged(options: dict[str, Any]) -> None:
    named = {name: options[name] for name in ("aspect_ratio", "resolution", "extra_body") if name in options}
    extra = {name: value for name, value in options.items() if name not in named}
    body = build_task_request("image", "a fox", model="m", extra=extra, **named).body
    sent = {**options, **options.get("extra_body", {})}
    sent.pop("extra_body", None)
    assert {name: body[name] for name in sent} == sent


PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 8


def test_reference_images_are_sent_as_urls_or_data_urls(tmp_path: Path) -> None:
    file = tmp_path / "ref.png"
    file.write_bytes(PNG)
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    output = Output("https://files.example.com/a.png")
    done = Task("t", "completed", outputs=[output])
    given: dict[str, Any] = {
        "image": file,
        "images": [PNG, done, output, "https://example.com/b.png"],
        "first_frame": PIL.Image.new("RGB", (2, 2)),
    }
    body = build_task_request("image", "a fox", model="m", extra=given).body
    assert body["image"] == url
    assert body["images"] == [url, output.url, output.url, "https://example.com/b.png"]
    assert body["first_frame"].startswith("data:image/png;base64,")


def test_a_lone_surrogate_is_replaced() -> None:
    request = build_task_request("image", "a fox \ud83e and \ud83e\udd8a", model="m", extra={"x": ["\udd8a"]})
    assert request.body["prompt"] == "a fox \ufffd and 🦊"
    assert request.body["x"] == ["\ufffd"]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *(
            (method, {"timeout": seconds})
            for method in ("generate", "map", "wait", "save")
            for seconds in ("5", b"5", True, Decimal(5), [], float("nan"), 10**400)
        ),
        *((method, {"extra_body": "seed=1"}) for method in ("generate", "map")),
        ("generate", {"on_update": "print"}),
        ("wait", {"on_update": "print"}),
        ("map", {"on_result": "print"}),
        *(("map", {"save_to": path}) for path in (5, b"folder", "a\0b", "\ud800")),
        *(("save", {"path": path}) for path in (5, b"folder", "a\0b", "\ud800")),
        ("save", {"max_bytes": "5"}),
    ],
)
def test_invalid_options_of_a_wait_are_rejected_before_paying(
    method: str, options: dict[str, Any], emulator: Emulator
) -> None:
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
    task = client.tasks.load(json.dumps({"task_id": "t", "status": "completed", "url": "https://host/a.png"}))
    calls: dict[str, Callable[..., object]] = {
        "generate": partial(client.images.generate, "a fox", **IMAGE),
        "map": partial(client.images.map, ["a fox"], **IMAGE),
        "wait": task.wait,
        "save": lambda path="a.png", **rest: task.outputs[0].save(path, **rest),
    }
    with pytest.raises(InvalidArgumentError) as raised:
        calls[method](**options)
    assert raised.value.hint
    assert not emulator.requests


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), True, "3", 10**400])
def test_an_invalid_video_duration_is_rejected(client: Any, seconds: float) -> None:
    with pytest.raises(InvalidArgumentError, match="duration_seconds"):
        client.videos.submit("a fox", model="piccc-video", duration_seconds=seconds)


def test_the_server_validates_aspect_ratios(client: Any) -> None:
    with pytest.raises(InvalidRequestError):
        client.images.submit("a fox", **IMAGE, aspect_ratio="5:4")


def test_the_same_key_never_submits_twice(client: Any, emulator: Emulator) -> None:
    first = client.images.submit("a fox", **IMAGE, key="fox")
    second = client.images.submit("a fox", **IMAGE, key="fox")
    assert first.id == second.id
    assert len(posts(emulator)) == len(emulator.charges) == 1
    assert posts(emulator)[0].headers["idempotency-key"] == "fox"


def test_a_key_cannot_be_reused_for_a_different_request(client: Any, emulator: Emulator) -> None:
    client.images.submit("a fox", **IMAGE, key="fox")
    with pytest.raises(InvalidArgumentError, match="different request"):
        client.images.submit("a hare", **IMAGE, key="fox")
    assert len(posts(emulator)) == 1


async def test_concurrent_calls_with_one_key_submit_once(emulator: Emulator) -> None:
    emulator.fault("slow:0.3", route=SUBMISSIONS, times=1)
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key) as client:
        tasks = await asyncio.gather(*(client.images.submit("a fox", **IMAGE, key="fox") for _ in range(5)))
    assert len({task.id for task in tasks}) == 1
    assert len(posts(emulator)) == len(emulator.charges) == 1


def test_threads_that_share_a_key_pay_once(emulator: Emulator, tmp_path: Path) -> None:
    ids: list[str] = []

    def submit() -> None:
        with Client(base_url=emulator.base_url, api_key=emulator.api_key, ledger=tmp_path / "l.db") as client:
            ids.append(client.images.submit("a fox", **IMAGE, key="fox").id)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ids) == 8
    assert len(set(ids)) == len(emulator.charges) == 1


@pytest.mark.parametrize("fault", ["lost-answer", "html", "empty", "500", "disconnect"])
def test_a_submission_without_a_usable_response_is_not_resent(
    client: Any, emulator: Emulator, fault: str
) -> None:
    emulator.fault(fault, route=SUBMISSIONS)
    with pytest.raises(SubmissionUnknown) as raised:
        client.images.submit("a fox", **IMAGE, key="fox")
    error = raised.value
    assert (error.submission_key, error.may_have_been_billed) == ("fox", True)
    assert error.request == {"model": "piccc-image", "prompt": "a fox"}
    assert "client.tasks.resume('fox')" in str(error)
    assert len(posts(emulator)) == 1
    assert [submission.key for submission in client.ledger.unsettled()] == ["fox"]


def test_resume_finds_a_lost_submission(client: Any, emulator: Emulator) -> None:
    client.images.submit("a fox", **IMAGE, key="other")
    emulator.fault("lost-answer", route=SUBMISSIONS, times=1)
    with pytest.raises(SubmissionUnknown):
        client.images.submit("a fox", **IMAGE, key="fox")
    assert len(client.tasks.find("fox")) == 1
    task = client.tasks.resume("fox")
    assert task.id == emulator.charges[1].task_id
    assert client.images.submit("a fox", **IMAGE, key="fox").id == task.id
    assert len(emulator.charges) == 2


def test_identical_lost_submissions_resume_as_separate_tasks(client: Any, emulator: Emulator) -> None:
    emulator.fault("lost-answer", route=SUBMISSIONS)
    for key in ("one", "two"):
        with pytest.raises(SubmissionUnknown):
            client.images.submit("a fox", **IMAGE, key=key)
    found = {client.tasks.resume(key).id for key in ("one", "two")}
    assert found == {charge.task_id for charge in emulator.charges}
    assert client.ledger.unsettled() == []


def test_a_submission_that_never_arrived_is_resent_only_on_request(client: Any, emulator: Emulator) -> None:
    emulator.fault("disconnect", route=SUBMISSIONS, times=1)
    with pytest.raises(SubmissionUnknown):
        client.images.submit("a fox", **IMAGE, key="fox")
    with pytest.raises(SubmissionUnknown, match="No task was found for the submission 'fox'") as raised:
        client.tasks.resume("fox")
    assert raised.value.hint.endswith("client.tasks.resume('fox', resubmit=True)")
    assert "To look for it" not in raised.value.hint
    assert not emulator.charges
    task = client.tasks.resume("fox", resubmit=True)
    assert [charge.task_id for charge in emulator.charges] == [task.id]
    assert client.tasks.resume("fox", resubmit=True).id == task.id
    assert len(posts(emulator)) == 2


@pytest.mark.parametrize("refusal", ["400", "403", "429;retry-after=0"])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_rejected_resubmission_leaves_the_lost_attempt_in_the_ledger(
    connect: Connect, emulator: Emulator, tmp_path: Path, kind: str, refusal: str
) -> None:
    ledger = MemoryLedger() if kind == "memory" else SQLiteLedger(tmp_path / "tasks.db")
    spend_limit = SpendLimit(max_tasks=5)
    settings = {"ledger": ledger, "spend_limit": spend_limit, "max_retries": 1}
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key, **settings)
    emulator.fault("disconnect", route=SUBMISSIONS, times=1)
    with pytest.raises(SubmissionUnknown):
        client.images.submit("a fox", **IMAGE, key="fox")
    lost = ledger.get("fox")
    emulator.fault(refusal, route=SUBMISSIONS)
    with pytest.raises(PicccError) as raised:
        client.tasks.resume("fox", resubmit=True)
    assert raised.value.may_have_been_billed
    assert "An earlier attempt was lost." in raised.value.hint
    assert ledger.unsettled() == [lost]
    assert spend_limit.tasks == 1
    if kind == "file":
        assert ledger.spent(spend_limit.name) == {"tasks": 1}


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_task_that_answers_two_submissions_is_reported_with_the_second(tmp_path: Path, kind: str) -> None:
    ledger = MemoryLedger() if kind == "memory" else SQLiteLedger(tmp_path / "tasks.db")
    always = httpx.MockTransport(
        lambda request: httpx.Response(200, json={"task_id": "t", "status": "queued"})
    )
    with Client(
        base_url="https://one.test", api_key="k", ledger=ledger, http_client=httpx.Client(transport=always)
    ) as client:
        assert client.images.submit("a fox", **IMAGE, key="fox").id == "t"
        with pytest.raises(ResponseError, match=r"submission 'hare' with task t, which.*'fox'") as raised:
            client.images.submit("a hare", **IMAGE, key="hare")
        assert (raised.value.task_id, raised.value.may_have_been_billed) == ("t", True)
        assert [task.prompt for task in raised.value.tasks] == ["a hare"]
        assert [entry.key for entry in ledger.unsettled()] == ["hare"]
        assert client.images.submit("a fox", **IMAGE, key="fox").id == "t"


def test_an_unknown_key_cannot_be_resumed(client: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="ledger"):
        client.tasks.resume("fox")


def test_a_rejected_submission_can_be_repeated(connect: Connect, emulator: Emulator) -> None:
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key, max_retries=0)
    emulator.fault("429", route=SUBMISSIONS, times=1)
    with pytest.raises(RateLimitError):
        client.images.submit("a fox", **IMAGE, key="fox")
    assert client.ledger.unsettled() == []
    assert client.images.submit("a fox", **IMAGE, key="fox").id == emulator.charges[0].task_id


def test_a_ledger_failure_after_the_response_still_reports_the_task(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key)

    def fail(key: str, task_id: str) -> bool:
        raise OSError("disk full")

    monkeypatch.setattr(client.ledger, "settle", fail)
    with pytest.raises(LedgerError, match="disk full") as raised:
        client.images.submit("a fox", **IMAGE, key="fox")
    assert emulator.charges[0].task_id == raised.value.task_id
    assert raised.value.may_have_been_billed
    assert "do not submit it again" in str(raised.value)
    assert [submission.key for submission in client.ledger.unsettled()] == ["fox"]


async def test_a_cancelled_submission_explains_how_to_resume_it(emulator: Emulator) -> None:
    emulator.fault("slow:600", route=SUBMISSIONS)
    async with AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key) as client:
        submitting = asyncio.create_task(client.images.submit("a fox", **IMAGE, key="fox"))
        while not posts(emulator):  # noqa: ASYNC110  the emulator runs in another thread
            await asyncio.sleep(0)
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await submitting
        assert "client.tasks.resume('fox')" in raised.value.__notes__[0]
        assert [submission.key for submission in client.ledger.unsettled()] == ["fox"]


def test_a_spend_limit_bounds_tasks_and_video_and_refunds_rejections(
    connect: Connect, emulator: Emulator
) -> None:
    spend_limit = SpendLimit(max_tasks=3, max_video_seconds=10)
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key, spend_limit=spend_limit)
    client.videos.submit("a fox", model="piccc-video", duration_seconds=6)
    with pytest.raises(SpendLimitExceeded, match="max_video_seconds"):
        client.videos.submit("a fox", model="piccc-video", duration_seconds=6)
    with pytest.raises(SpendLimitExceeded, match="duration_seconds"):
        client.videos.submit("a fox", model="piccc-video")
    with pytest.raises(InvalidRequestError):
        client.images.submit("a fox", **IMAGE, aspect_ratio="5:4")
    for _ in range(2):
        client.images.submit("a fox", **IMAGE)
    with pytest.raises(SpendLimitExceeded, match="max_tasks"):
        client.images.submit("a fox", **IMAGE)
    assert len(emulator.charges) == 3


def test_200_kills_around_submissions_lose_and_duplicate_no_task(tmp_path: Path) -> None:
    ledger = tmp_path / "tasks.db"
    with Emulator(speed=60) as emulator:
        with SPAWN.Pool(1) as pool:
            signals = pool.apply(_crash_repeatedly, (emulator.base_url, emulator.api_key, ledger))
        assert signals == [signal.SIGKILL] * CRASHES
        client = Client(base_url=emulator.base_url, api_key=emulator.api_key, ledger=ledger, polling=QUICK)
        tasks = [_resume(client, number) for number in range(CRASHES)]
        assert {task.status for task in client.tasks.wait_all(tasks)} == {"completed"}
        assert len({task.id for task in tasks}) == CRASHES
        assert {charge.task_id for charge in emulator.charges} == {task.id for task in tasks}
        assert len(emulator.charges) == CRASHES
        keys = [request.headers["idempotency-key"] for request in posts(emulator)]
        assert sorted(keys) == sorted(f"run/{number}" for number in range(CRASHES))
        assert client.ledger.unsettled() == []


def _resume(client: Client, number: int) -> Any:
    """Resume like a restarted program: what was never sent is submitted now."""
    try:
        return client.tasks.resume(f"run/{number}")
    except InvalidArgumentError:
        return client.images.submit(f"fox {number}", **IMAGE, key=f"run/{number}")
    except SubmissionUnknown:
        return client.tasks.resume(f"run/{number}", resubmit=True)


class _RecordingLedger(MemoryLedger):
    """A ledger that records whether the server had a pending connection at each write."""

    def __init__(self, server: socket.socket) -> None:
        super().__init__()
        self._server = server
        self.writes: list[tuple[str, bool]] = []

    def claim(self, entry: Submission) -> Submission | None:
        self.writes.append(("claim", self._is_connected()))
        return super().claim(entry)

    def reclaim(self, entry: Submission, since: float) -> bool:
        self.writes.append(("reclaim", self._is_connected()))
        return super().reclaim(entry, since)

    def _is_connected(self) -> bool:
        return bool(select.select([self._server], [], [], 0)[0])


def test_a_submission_is_recorded_only_once_connected(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url, ledger = f"http://127.0.0.1:{server.getsockname()[1]}", _RecordingLedger(server)
        client = connect(base_url=url, api_key="unused", timeout=2, max_retries=0, ledger=ledger)
        with pytest.raises(SubmissionUnknown):
            client.images.submit("a fox", **IMAGE, key="fox")
        assert ledger.writes == [("claim", True)]
    with pytest.raises(APIConnectionError):
        client.images.submit("a hare", **IMAGE, key="hare")
    assert [entry.key for entry in ledger.unsettled()] == ["fox"]


def test_a_submission_reclaimed_by_another_process_is_not_retried(
    connect: Connect, emulator: Emulator
) -> None:
    class Reclaimed(MemoryLedger):
        """A ledger in which another process reclaims and resends a submission right after its claim."""

        def claim(self, entry: Submission) -> Submission | None:
            holder = super().claim(entry)
            if holder is None and entry.key == "fox":
                self.reclaim(replace(entry, at=entry.at + 1), entry.at)
                self.settle("fox", other.id)
            return holder

    client = connect(base_url=emulator.base_url, api_key=emulator.api_key, ledger=Reclaimed())
    other = client.images.submit("a fox", **IMAGE, key="other")
    client = connect(base_url=emulator.base_url, api_key=emulator.api_key, ledger=Reclaimed())
    emulator.fault("429", route=SUBMISSIONS, times=1)
    assert client.images.submit("a fox", **IMAGE, key="fox").id == other.id
    assert len(emulator.charges) == 1


class _KillingBackend(SyncBackend):
    """A backend that kills its process at one of five moments around a submission."""

    moment = 0

    def in_thread(self) -> SyncBackend:
        return self

    async def send(self, request: HTTPRequest) -> Any:
        if request.method == "POST" and self.moment == 1:
            _die()
        response = await super().send(request)
        if request.method == "POST" and self.moment == 2:
            _die()
        if request.method == "GET" and self.moment == 4:
            _die()
        return response


def _crash_repeatedly(base_url: str, api_key: str, ledger: Path) -> list[int]:
    """Fork one program after another; return the signals that killed them."""
    with Client(base_url=base_url, api_key=api_key) as client:
        list(client.tasks.list())
    signals = []
    for number in range(CRASHES):
        child = os.fork()
        if not child:
            try:
                _submit_and_die(base_url, api_key, ledger, number)
            finally:
                os._exit(1)
        signals.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) * -1)
    return signals


def _submit_and_die(base_url: str, api_key: str, ledger: Path, number: int) -> None:
    client = Client(base_url=base_url, api_key=api_key, ledger=ledger, polling=QUICK)
    io = client._account.session.io = _KillingBackend()
    io.moment = number % 5
    if io.moment == 0:
        _die()
    task = client.images.submit(f"fox {number}", **IMAGE, key=f"run/{number}")
    if io.moment == 3:
        _die()
    task.wait()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_of_two_repeatedly_killed_processes_bills_each_row_once(
    tmp_path: Path,
) -> None:
    rows, kills = 60, 8
    with Emulator(speed=60) as emulator:
        command = [sys.executable, "-m", "tests.media.run_in_pieces", emulator.base_url, emulator.api_key]
        command += [str(tmp_path / "run.db"), str(rows)]

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own command

        running = [start(), start()]
        for number in range(kills):
            # Kill a process in the middle of its work: wait for five more submissions than at the last kill.
            before = len(posts(emulator))
            deadline = time.monotonic() + 30
            while len(posts(emulator)) < min(before + 5, rows) and time.monotonic() < deadline:
                time.sleep(0.01)
            victim = running[number % 2]
            victim.kill()
            victim.communicate()
            running[number % 2] = start()
        outputs = [process.communicate(timeout=120)[0].split() for process in running]
        assert outputs == [[str(rows), "0"]] * 2
        assert len({charge.task_id for charge in emulator.charges}) == len(emulator.charges) == rows
        assert SQLiteLedger(tmp_path / "run.db").unsettled() == []
