"""`piccc contract`: every row holds on the emulator, and a server's deviations are reported."""

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
MANUAL = {"webhook"}
"""Rows that cannot be tried automatically."""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=FAST) as running:
        yield running


def try_rows(emulator: Emulator, *names: str, spend: float = 100.0, **options: Any) -> dict[str, Finding]:
    """Try rows; return the findings by row name."""
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
    findings = try_rows(emulator)
    assert {name: finding.saw for name, finding in findings.items() if finding.verdict == "differs"} == {}
    assert {name for name, finding in findings.items() if finding.verdict == "not tried"} == MANUAL
    assert len(findings) == len(ROWS) > 90
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
def test_a_deviating_server_is_detected(quirk: str, rows: set[str]) -> None:
    with Emulator(speed=FAST, quirks=quirk) as emulator:
        findings = try_rows(emulator, *rows)
    assert {name for name, finding in findings.items() if finding.verdict == "differs"} == rows
    assert all(finding.saw and finding.exchange for finding in findings.values())


def test_a_lenient_server_is_detected_at_the_cost_of_one_reply_per_row() -> None:
    names = ("chat.unknown-model", "chat.both-limits", "messages.blank-text", "messages.budget")
    with Emulator(speed=FAST, strict=False) as emulator:
        findings = try_rows(emulator, *names)
        assert {finding.verdict for finding in findings.values()} == {"differs"}
        assert "status 200" in findings["messages.blank-text"].saw
        assert len(emulator.charges) == len(names)


@pytest.mark.parametrize(("spend", "charged"), [(0.0, []), (0.03, ["chat"] * 3), (0.2, ["image"])])
def test_spending_stays_within_the_limit(spend: float, charged: list[str]) -> None:
    names = (
        ["chat", "messages", "chat.parts", "chat.developer"]
        if "image" not in charged
        else ["image", "image.end"]
    )
    with Emulator(speed=FAST) as emulator:
        findings = try_rows(emulator, "list", *names, "video", spend=spend, prices=Prices(0.01, 0.2, 2.0))
        assert [charge.kind for charge in emulator.charges] == charged
    assert findings["list"].verdict == "holds"
    assert findings["video"].verdict == "not tried"
    assert "may cost 2" in findings["video"].saw


@pytest.mark.parametrize(
    ("fault", "verdict", "expected"),
    [
        ("503", "not tried", "the server answered 503"),
        ("disconnect", "not tried", "no response"),
        ("html", "differs", "the body is null"),
        ("404", "differs", "status 404, not 200"),
    ],
)
def test_outages_are_not_reported_as_differences(fault: str, verdict: str, expected: str) -> None:
    with Emulator(speed=FAST, faults=[fault]) as emulator:
        findings = try_rows(emulator, "list.form")
    assert findings["list.form"].verdict == verdict
    assert expected in findings["list.form"].saw


def test_media_rows_are_not_tried_without_a_model(emulator: Emulator) -> None:
    findings = try_rows(emulator, "image*", models={"chat": "piccc-flash"})
    assert {finding.verdict for finding in findings.values()} == {"not tried"}
    assert findings["image"].saw == "no image model is configured: set PICCC_IMAGE_MODEL"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"city": "Oslo"}', "holds"),
        ('{"town": "Oslo"}', "differs"),
        ("Oslo", "differs"),
        ("{ " * 99, "not tried"),
    ],
)
def test_a_truncated_answer_gives_no_verdict_on_its_schema(
    emulator: Emulator, text: str, verdict: str
) -> None:
    emulator.script([text])
    assert try_rows(emulator, "chat.schema")["chat.schema"].verdict == verdict


def test_the_report_quotes_differing_exchanges_and_redacts_the_key(emulator: Emulator) -> None:
    emulator.script([Scripted(text=f"My key is {emulator.api_key} | and\nmore", finish_reason="tool_calls")])
    findings = try_rows(emulator, "chat.form", "list").values()
    report = markdown(findings, emulator.base_url, 0.01)
    assert "1 holds, 1 differs, 0 not tried; spent at most 0.01." in report
    assert "finish_reason" in next(line for line in report.splitlines() if line.startswith("| chat.form"))
    assert "POST /v1/chat/completions" in report
    assert '"object":"chat.completion"' in report
    assert "GET /v1/tasks?limit=2" not in report
    shown = json.dumps([finding.to_json() for finding in findings])
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
