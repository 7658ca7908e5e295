"""`piccc contract`: on the emulator every row holds, and where a server differs, its row says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from piccc.contract import Finding, Prices, Server, markdown
from piccc.contract_rows import ROWS, SAMPLES, rows_named
from piccc.emulator import Emulator, Scripted
from tests.cli.shell import Shell

FAST = float("inf")
MODELS = {"chat": "piccc-flash", "image": "piccc-image", "video": "piccc-video"}
OPEN = {"webhook"}
"""Rows that no program can try by itself."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=FAST) as running:
        yield running


def tried(emulator: Emulator, *names: str, spend: float = 100.0, **options: Any) -> dict[str, Finding]:
    """Try rows; return what was found, by name."""
    options = {
        "base_url": emulator.base_url,
        "key": emulator.api_key,
        "models": MODELS,
        "samples": SAMPLES,
        "poll": 0.001,
        "video_seconds": 1,
        **options,
    }
    server = Server(spend=spend, **options)
    return {finding.row.name: finding for finding in server.find(rows_named(names))}


def test_every_row_holds_on_the_emulator(emulator: Emulator) -> None:
    found = tried(emulator)
    assert {name: one.saw for name, one in found.items() if one.verdict == "differs"} == {}
    assert {name for name, one in found.items() if one.verdict == "not tried"} == OPEN
    assert len(found) == len(ROWS) > 90
    assert {row.sample for row in ROWS} == {*SAMPLES}


QUIRKS = {
    "id": {"image", "image.form", "image.list"},
    "poll-url": {"image", "image.form"},
    "relative-urls": {"image.form"},
    "words-success": {"image.end"},
    "results": {"image.end"},
    "iso-times": {"image.form", "image.end"},
    "wrapped": {"image", "list.form"},
    "items": {"list.form"},
    "no-done": {"chat.stream.done"},
    "no-index": {"chat.tool.stream"},
    "text-index": {"chat.tool.stream"},
    "no-call-ids": {"chat.tool.stream"},
}


@pytest.mark.parametrize(("quirk", "rows"), QUIRKS.items(), ids=QUIRKS)
def test_a_server_that_differs_is_found_out(quirk: str, rows: set[str]) -> None:
    with Emulator(speed=FAST, quirks=quirk) as emulator:
        found = tried(emulator, *rows)
    assert {name for name, one in found.items() if one.verdict == "differs"} == rows
    assert all(one.saw and one.exchange for one in found.values())


def test_a_lenient_server_is_found_out_at_the_price_of_a_reply() -> None:
    names = ("chat.unknown-model", "chat.both-limits", "messages.blank-text", "messages.budget")
    with Emulator(speed=FAST, strict=False) as emulator:
        found = tried(emulator, *names)
        assert {one.verdict for one in found.values()} == {"differs"}
        assert "status 200" in found["messages.blank-text"].saw
        assert len(emulator.charges) == len(names)


@pytest.mark.parametrize(("spend", "charged"), [(0.0, []), (0.03, ["chat"] * 3), (0.2, ["image"])])
def test_it_never_spends_more_than_it_may(spend: float, charged: list[str]) -> None:
    names = (
        ["chat", "messages", "chat.parts", "chat.developer"]
        if "image" not in charged
        else ["image", "image.end"]
    )
    with Emulator(speed=FAST) as emulator:
        found = tried(emulator, "list", *names, "video", spend=spend, prices=Prices(0.01, 0.2, 2.0))
        assert [charge.kind for charge in emulator.charges] == charged
    assert found["list"].verdict == "holds"
    assert found["video"].verdict == "not tried"
    assert "may cost 2" in found["video"].saw


@pytest.mark.parametrize(
    ("fault", "verdict", "saw"),
    [
        ("503", "not tried", "the server answered 503"),
        ("disconnect", "not tried", "no response"),
        ("html", "differs", "the body is null"),
        ("404", "differs", "status 404, not 200"),
    ],
)
def test_trouble_is_not_taken_for_a_difference(fault: str, verdict: str, saw: str) -> None:
    with Emulator(speed=FAST, faults=[fault]) as emulator:
        found = tried(emulator, "list.form")
    assert found["list.form"].verdict == verdict
    assert saw in found["list.form"].saw


def test_rows_of_a_task_need_its_model(emulator: Emulator) -> None:
    found = tried(emulator, "image*", models={"chat": "piccc-flash"})
    assert {one.verdict for one in found.values()} == {"not tried"}
    assert found["image"].saw == "no image model is configured: set PICCC_IMAGE_MODEL"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"city": "Oslo"}', "holds"),
        ('{"town": "Oslo"}', "differs"),
        ("Oslo", "differs"),
        ("{ " * 99, "not tried"),
    ],
)
def test_an_answer_that_was_cut_shows_nothing_of_its_schema(
    emulator: Emulator, text: str, verdict: str
) -> None:
    emulator.script([text])
    assert tried(emulator, "chat.schema")["chat.schema"].verdict == verdict


def test_the_report_has_the_bytes_of_what_differs_and_no_key(emulator: Emulator) -> None:
    emulator.script([Scripted(text=f"My key is {emulator.api_key} | and\nmore", finish_reason="tool_calls")])
    found = tried(emulator, "chat.form", "list").values()
    report = markdown(found, emulator.base_url, 0.01)
    assert "1 holds, 1 differs, 0 not tried; spent at most 0.01." in report
    assert "finish_reason" in next(line for line in report.splitlines() if line.startswith("| chat.form"))
    assert "POST /v1/chat/completions" in report
    assert '"object":"chat.completion"' in report
    assert "GET /v1/tasks?limit=2" not in report
    shown = json.dumps([one.to_json() for one in found])
    assert emulator.api_key not in report + shown
    assert "[redacted]" in report


def test_the_command_prints_markdown_and_json(shell: Shell, emulator: Emulator) -> None:
    done = shell("contract", "--only", "auth.*", "--only", "list", "--json")
    rows = json.loads(done.stdout)["rows"]
    assert (done.returncode, {row["verdict"] for row in rows}) == (0, {"holds", "not tried"})
    assert "list: holds" in done.stderr
    table = shell("contract", "--only", "list").stdout
    assert "| list | documented | `GET /v1/tasks` lists tasks. | holds |  |" in table
    assert shell("contract", "--only", "nothing").returncode == 2


@pytest.fixture
def shell(tmp_path: Any, emulator: Emulator) -> Shell:
    return Shell(tmp_path, emulator)
