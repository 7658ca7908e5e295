"""`piccc chat`."""

from __future__ import annotations

import json
import signal
import threading
from subprocess import Popen
from typing import Any

import pytest

from piccc.emulator import Emulator, ModelRequest, Scripted
from tests.cli.shell import Shell

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def _last_body(emulator: Emulator) -> dict[str, Any]:
    body = emulator.requests[-1].body
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize(
    ("dialect", "path"), [("openai", "/v1/chat/completions"), ("anthropic", "/v1/messages")]
)
def test_stdout_contains_only_the_answer(shell: Shell, emulator: Emulator, dialect: str, path: str) -> None:
    emulator.script(["One, two, three."])
    done = shell("chat", "Count.", "--dialect", dialect)
    assert (done.returncode, done.stdout, done.stderr) == (0, "One, two, three.\n", "")
    assert emulator.requests[-1].path == path
    assert _last_body(emulator)["stream"] is True


def test_stdin_is_read_for_a_dash_or_without_a_prompt(shell: Shell, emulator: Emulator) -> None:
    shell("chat", "Summarize:", "-", piped="A long text.\n")
    assert _last_body(emulator)["messages"][-1]["content"] == "Summarize:\n\nA long text."
    shell("chat", "Summarize.", piped="A long text.\n")
    assert _last_body(emulator)["messages"][-1]["content"] == "Summarize."
    shell("chat", piped="A question.")
    assert _last_body(emulator)["messages"][-1]["content"] == "A question."


def test_options_reach_the_server(shell: Shell, emulator: Emulator) -> None:
    options = "--model piccc-ultra --system Brief. --max-tokens 50 --temperature 0.5 --reasoning-effort low"
    assert shell("chat", "Hello", *options.split()).returncode == 0
    body = _last_body(emulator)
    assert body["messages"][0] == {"role": "system", "content": "Brief."}
    assert (body["model"], body["temperature"], body["reasoning_effort"]) == ("piccc-ultra", 0.5, "low")
    assert 50 in (body.get("max_tokens"), body.get("max_completion_tokens"))


@pytest.mark.parametrize("is_file", [True, False])
def test_json_schema_is_given_as_a_file_or_inline(shell: Shell, is_file: bool) -> None:
    (shell.folder / "person.json").write_text(json.dumps(SCHEMA))
    schema = "person.json" if is_file else json.dumps(SCHEMA)
    done = shell("chat", "Anna is 31 years old.", "--json-schema", schema)
    assert json.loads(done.stdout) == {"name": "Anna", "age": 31}


def test_a_truncated_json_answer_is_an_error_that_names_max_tokens(shell: Shell, emulator: Emulator) -> None:
    emulator.script([Scripted('{"name": "An', finish_reason="length")])
    done = shell("chat", "Anna is 31.", "--json-schema", json.dumps(SCHEMA))
    assert done.returncode == 1
    assert "--max-tokens" in done.stderr
    assert "not JSON" in done.stderr


@pytest.mark.parametrize("schema", ["missing.json", "{broken", "{}]"])
def test_an_invalid_schema_is_a_usage_error_and_sends_nothing(
    shell: Shell, emulator: Emulator, schema: str
) -> None:
    done = shell("chat", "Hello", "--json-schema", schema)
    assert done.returncode == 2
    assert "--json-schema" in done.stderr
    assert emulator.requests == []


def test_a_missing_prompt_is_a_usage_error(shell: Shell, emulator: Emulator) -> None:
    done = shell("chat")
    assert done.returncode == 2
    assert emulator.requests == []


def test_json_is_one_document_with_text_and_usage(shell: Shell, emulator: Emulator) -> None:
    emulator.script([Scripted("Blue.", reasoning="Hm.")])
    done = shell("chat", "Which colour?", "--json")
    reply = json.loads(done.stdout)
    assert (reply["text"], reply["reasoning"], reply["finish_reason"]) == ("Blue.", "Hm.", "stop")
    assert reply["usage"]["output_tokens"] > 0
    assert reply["request_id"] == emulator.requests[-1].request_id


def test_verbose_prints_token_counts_to_stderr(shell: Shell, emulator: Emulator) -> None:
    emulator.script(["Blue."])
    done = shell("chat", "Which colour?", "-v")
    assert done.stdout == "Blue.\n"
    assert "tokens in" in done.stderr
    assert emulator.requests[-1].request_id in done.stderr


def test_an_interrupted_stream_keeps_the_partial_output_and_fails(shell: Shell, emulator: Emulator) -> None:
    emulator.script(["One two three four five six seven."])
    emulator.fault("cut:3")
    done = shell("chat", "Count.")
    assert done.returncode == 1
    assert done.stdout.startswith("One")
    assert done.stdout.endswith("\n")
    assert "the output above is what arrived" in done.stderr


def test_a_refusal_is_printed_to_stderr_and_is_an_error(shell: Shell, emulator: Emulator) -> None:
    emulator.script([Scripted(refusal="I will not.")])
    done = shell("chat", "Do it.")
    assert (done.returncode, done.stdout) == (1, "")
    assert "I will not." in done.stderr


def test_ctrl_c_exits_quietly_with_code_130(manual_shell: Shell, manual: Emulator) -> None:
    arrived = threading.Event()

    def hold(request: ModelRequest) -> str:
        arrived.set()
        return "Never sent: the clock does not move."

    manual.script([hold])
    with manual_shell.start("chat", "Hello") as process:
        assert arrived.wait(30)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == ("", "")
    assert process.returncode == 130


def test_chat_without_a_prompt_on_a_terminal_starts_a_conversation(shell: Shell, emulator: Emulator) -> None:
    emulator.script(["Red.", "Blue.", "Green."])
    (shell.folder / "taken.md").touch()
    screen = shell.on_a_terminal(
        "chat",
        typed="One?\n/system Brief.\n/model piccc-flash\nTwo?\n/save talk.md\n/save talk.json\n"
        "/save taken.md\n/modle x\n/nonsense\n/model\n/save\n/clear\nThree?\n/quit\n",
    )
    sent = [record.body for record in emulator.requests]
    assert [[message["content"] for message in body["messages"]] for body in sent] == [
        ["One?"],
        ["Brief.", "One?", "Red.", "Two?"],
        ["Brief.", "Three?"],
    ]
    assert [body["model"] for body in sent] == ["piccc-pro", "piccc-flash", "piccc-flash"]
    for message in (
        "Unknown command /modle. Did you mean /model?",
        "Unknown command /nonsense. Commands:",
        "Model: piccc-flash.",
        "Name a file: /save talk.md",
    ):
        assert message in screen
    assert "taken.md: File exists" in screen
    assert (shell.folder / "talk.md").read_text().startswith("**user**\n\nOne?\n\n**assistant**\n\nRed.\n\n")
    saved = json.loads((shell.folder / "talk.json").read_text())
    assert [message["content"] for message in saved] == ["One?", "Red.", "Two?", "Blue."]


def test_a_failed_call_is_dropped_and_the_conversation_continues(shell: Shell, emulator: Emulator) -> None:
    emulator.script(["Blue."])
    emulator.fault("400")
    screen = shell.on_a_terminal("chat", typed="One?\nTwo?\n/quit\n")
    assert "400" in screen
    assert [message["content"] for message in _last_body(emulator)["messages"]] == ["Two?"]


def test_ctrl_c_stops_the_answer_but_not_the_conversation(manual_shell: Shell, manual: Emulator) -> None:
    arrived = threading.Event()

    def hold(request: ModelRequest) -> str:
        arrived.set()
        return "Never sent: the clock does not move."

    manual.script([hold])

    def interrupt(process: Popen[str]) -> None:
        assert arrived.wait(60)
        process.send_signal(signal.SIGINT)

    screen = manual_shell.on_a_terminal("chat", typed="Hello\n/help\n/quit\n", meanwhile=interrupt)
    assert "Stopped." in screen
    assert "/save FILE" in screen


def test_characters_that_stdout_cannot_encode_are_replaced(shell: Shell, emulator: Emulator) -> None:
    emulator.script(["A mug 杯"])
    done = shell("chat", "Hello", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "A mug ?\n")


def test_reasoning_is_dimmed_on_a_terminal_and_absent_from_a_pipe(shell: Shell, emulator: Emulator) -> None:
    emulator.script([Scripted("Blue.", reasoning="The sky, then.")] * 2)
    screen = shell.on_a_terminal("chat", "Which colour?")
    assert "\x1b[2mThe" in screen
    assert screen.endswith("\r\n\r\nBlue.\r\n")
    assert shell("chat", "Which colour?").stdout == "Blue.\n"


def test_control_sequences_in_an_answer_do_not_reach_the_terminal(shell: Shell, emulator: Emulator) -> None:
    emulator.script(["\x1b[2J\x1b]0;title\x07hello"] * 2)
    screen = shell.on_a_terminal("chat", "Hello")
    assert "hello" in screen
    assert "\x1b[2J" not in screen
    assert "\x07" not in screen
    assert shell("chat", "Hello").stdout == "\x1b[2J\x1b]0;title\x07hello\n"


def test_a_missing_key_error_names_the_variable_to_set(shell: Shell, emulator: Emulator) -> None:
    done = shell("chat", "Hello", PICCC_API_KEY="")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Set PICCC_API_KEY" in done.stderr
    assert emulator.requests == []
