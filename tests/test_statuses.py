"""An error status raises its own class, with the server's message, shortened and without secrets."""

from __future__ import annotations

import json
import logging

import pytest

from piccc import Client, PicccError
from piccc._http.responses import WEB_PAGE, outcome_of, read_error_text, snippet, status_error
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
        ("", "", None),
        ("[" * 10_000, "[" * 199 + "…", None),
        ('{"error": {"message": "' + "x" * 900 + '"}}', "x" * 499 + "…", None),
    ],
)
def test_the_servers_message_is_read_from_every_error_format(
    body: str, message: str, code: str | None
) -> None:
    assert read_error_text(body) == (message, code)


@pytest.mark.parametrize(
    ("status", "body", "message", "hint"),
    [
        (502, " \n<html>no</html>", WEB_PAGE, "Is base_url the API's address?"),
        (
            400,
            "<html>The plain HTTP request was sent to HTTPS port",
            WEB_PAGE,
            "start base_url with https://",
        ),
        (502, "no", "The server said: no", "Try again later"),
        (502, "", "The server gave no reason.", "Try again later"),
        (504, "no", "The server said: no", "check before you retry"),
    ],
)
def test_an_error_says_what_came_and_what_to_do(status: int, body: str, message: str, hint: str) -> None:
    error = status_error(status, {}, body.encode())
    assert error.message == message
    assert hint in error.hint


def test_an_error_has_the_facts_of_the_response_without_secrets() -> None:
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


OVERFLOWS: dict[str, dict[str, object]] = {
    "Gemini, older": {"message": "The input token count is 9 but model only supports up to 8"},
    "Cohere, older": {"message": "too many tokens: size limit exceeded by 9 tokens."},
    "TGI, only the input": {"message": "Input validation error: `inputs` must have less than 8 tokens."},
    "TensorRT": {"message": "The sum of prompt length (9) and max_tokens (8) should not exceed max_seq_len"},
    "OpenAI": {"message": "Too many tokens", "code": "context_length_exceeded"},
    "Anthropic": {"message": "prompt is too long: 9 tokens > 8 maximum"},
    "Anthropic, with max_tokens": {
        "message": "input length and `max_tokens` exceed context limit: 9 + 8 > 8"
    },
    "llama.cpp": {
        "code": 400,
        "message": "request (9024 tokens) exceeds the available context size (3072 tokens)",
        "type": "exceed_context_size_error",
    },
    "LiteLLM": {"message": "litellm.ContextWindowExceededError: litellm.BadRequestError: ...", "code": "400"},
    "vLLM": {"message": "This model's maximum context length is 4096 tokens. However, you requested 9024."},
    "vLLM, newer": {"message": "The decoder prompt (length 9) is longer than the maximum model length of 8."},
    "SGLang": {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)."},
    "SGLang, newer": {"message": "Input length (9 tokens) exceeds the maximum allowed length (8 tokens)."},
    "Ollama": {"message": "the input length exceeds the context length"},
    "Gemini": {"message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."},
    "Bedrock": {"message": "Input is too long for requested model."},
    "Qwen": {"message": "Range of input length should be [1, 30720]", "code": "InvalidParameter"},
    "Kimi": {"message": "Invalid request: Your request exceeded model token limit: 8192"},
    "TGI": {"message": "`inputs` tokens + `max_new_tokens` must be <= 8. Given: 9 `inputs` tokens"},
    "Cohere": {"message": "too many tokens: total number of tokens in the prompt cannot exceed 8"},
    "Groq": {"message": "Please reduce the length of the messages or completion."},
}


@pytest.mark.parametrize("error_body", OVERFLOWS.values(), ids=OVERFLOWS)
def test_the_context_overflow_messages_of_servers_are_recognized(error_body: dict[str, object]) -> None:
    error = status_error(400, {}, json.dumps({"error": error_body}).encode())
    assert type(error) is ContextOverflowError
    assert "Shorten" in error.hint


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens must be at least 1",
        "The contents of message 3 are empty",
        "Unknown parameter: context",
        "input must be a string",
        "messages: at least one message is required",
        "The length of `stop` exceeds 4",
        "Range of max_tokens should be [1, 8192]",
        "`max_new_tokens` must be strictly positive",
    ],
)
def test_other_invalid_requests_are_not_context_overflows(message: str) -> None:
    error = status_error(400, {}, json.dumps({"error": {"message": message}}).encode())
    assert type(error) is InvalidRequestError


def test_a_request_quoted_in_an_error_does_not_determine_its_cause() -> None:
    quoted = {"messages": [{"role": "user", "content": "What is a context window? And moderation?"}]}
    detail = {"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted", "input": quoted}
    error = status_error(422, {}, json.dumps({"detail": [detail]}).encode())
    assert type(error) is InvalidRequestError
    assert "Moderation" not in error.hint


@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("content_policy_violation", "No."),
        (
            "content_filter",
            "The prompt triggered the content management policy.",
        ),
        (None, "Your request was rejected by our safety system."),
        ("moderation_blocked", "No."),
        ("403", "Your input was flagged."),
        ("403", "Blocked: PROHIBITED_CONTENT"),
        (None, "This request violates our usage policies."),
        ("minor_detected", "No."),
        ("prompt_blocklist_match", "No."),
        (None, "输入可能包含敏感内容，请修改后重试。"),
        ("invalid_request", "提示词未通过内容审核。"),
    ],
)
def test_the_hint_for_a_moderated_request_does_not_mention_the_key(
    status: int, code: str | None, message: str
) -> None:
    error = status_error(status, {}, json.dumps({"error": {"message": message, "code": code}}).encode())
    assert "Moderation" in error.hint
    assert "key" not in error.hint


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_context_overflow_has_its_own_error_class(status: int) -> None:
    error = status_error(status, {}, b'{"error": {"message": "prompt is too long: 9 > 8"}}')
    assert type(error) is ContextOverflowError
    assert isinstance(error, InvalidRequestError)


def test_an_unknown_status_has_the_error_class_of_its_range() -> None:
    assert type(status_error(418, {}, b"")) is InvalidRequestError
    assert type(status_error(599, {}, b"")) is ServerError
    assert outcome_of(418) == outcome_of(400)
    assert outcome_of(599) == outcome_of(500) != outcome_of(504) == outcome_of(524)


def test_a_snippet_is_not_cut_within_a_character() -> None:
    assert snippet("é" * 600) == "é" * 512
    assert snippet("€" * 600) == "€" * 341


def test_a_log_line_has_status_and_time_but_no_content(caplog: pytest.LogCaptureFixture) -> None:
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


def test_a_read_that_times_out_at_a_gateway_is_not_said_to_have_acted() -> None:
    with Emulator(faults=["504"]) as emulator:
        client = Client(base_url=emulator.base_url, api_key=emulator.api_key, max_retries=0)
        with pytest.raises(PicccError) as caught:
            client.tasks.get("task_1")
    assert (caught.value.status, caught.value.hint) == (504, "Try again later.")
