"""An error status is an error of its own class, with the server's words, shortened and without a secret."""

from __future__ import annotations

import logging

import pytest

from piccc import Client, PicccError
from piccc._http.responses import outcome_of, read_error, snippet, status_error
from piccc.emulator import Emulator
from piccc.errors import SNIPPET_BYTES, ContextOverflowError, InvalidRequestError, ServerError


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ('{"error": {"message": "no", "type": "t", "code": "c"}}', "no", "c"),
        ('{"type": "error", "error": {"type": "t", "message": "no"}}', "no", "t"),
        ('{"error": {"message": "no", "code": 7}}', "no", "7"),
        ('{"error": "no"}', "no", None),
        ('{"code": 1001, "msg": "no"}', "no", "1001"),
        ('{"detail": "no"}', "no", None),
        ('{"message": "no"}', "no", None),
        ('{"detail": [{"msg": "no"}]}', '{"detail": [{"msg": "no"}]}', None),
        ("no", "no", None),
        ('["no"]', '["no"]', None),
        (" \n<html>no</html>", "a web page instead of an API reply. Is base_url the API's address?", None),
        ("", "", None),
        ("[" * 10_000, "[" * 199 + "…", None),
        ('{"error": {"message": "' + "x" * 900 + '"}}', "x" * 499 + "…", None),
    ],
)
def test_the_servers_words_are_read_from_every_envelope(body: str, message: str, code: str | None) -> None:
    assert read_error(body) == (message, code)


def test_an_error_has_what_the_reply_said() -> None:
    headers = {
        "x-request-id": "req_1",
        "retry-after": "3",
        "x-trace": "me-and-my-secret",
        "set-cookie": "a=b",
    }
    error = status_error(500, headers, b"my-secret " * 1000, ["my-secret"])
    assert type(error) is ServerError
    assert (error.status, error.request_id, error.retry_after) == (500, "req_1", 3.0)
    assert len((error.body or "").encode()) <= SNIPPET_BYTES
    assert "my-secret" not in f"{error} {error.body} {error.headers}"
    assert "set-cookie" not in error.headers
    assert error.headers["retry-after"] == "3"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_conversation_that_is_too_long_is_an_error_of_its_own(status: int) -> None:
    error = status_error(status, {}, b'{"error": {"message": "prompt is too long: 9 > 8"}}')
    assert type(error) is ContextOverflowError
    assert isinstance(error, InvalidRequestError)


def test_an_unknown_status_has_its_familys_class() -> None:
    assert type(status_error(418, {}, b"")) is InvalidRequestError
    assert type(status_error(599, {}, b"")) is ServerError
    assert outcome_of(418) == outcome_of(400)
    assert outcome_of(599) == outcome_of(500) != outcome_of(504) == outcome_of(524)


def test_a_snippet_ends_with_a_whole_character() -> None:
    assert snippet("é" * 600) == "é" * 512
    assert snippet("€" * 600) == "€" * 341


def test_a_log_line_has_status_and_time_and_nothing_of_the_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="piccc")
    with Emulator(faults=["503;retry-after-ms=1"]) as emulator:
        client = Client(base_url=emulator.base_url, api_key=emulator.api_key, max_retries=1)
        with pytest.raises(PicccError):
            client.chat.create("a private matter")
    lines = [record.getMessage() for record in caplog.records if record.name == "piccc"]
    assert len(lines) == 2
    assert all(line.startswith("POST /v1/chat/completions: 503 in 0.") for line in lines)
    assert all(record.levelno == logging.INFO for record in caplog.records if record.name == "piccc")
    assert "private" not in caplog.text
    assert emulator.api_key not in caplog.text
