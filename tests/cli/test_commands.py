"""The command line as a whole: help, completion, exit codes, and the emulator."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from piccc import Client
from piccc.cli.common import in_shell_words
from piccc.emulator import Emulator
from tests.cli.shell import Shell

COMMANDS = [
    ("demo",),
    ("chat",),
    ("image",),
    ("video",),
    ("doctor",),
    ("contract",),
    ("emulator",),
    ("mcp",),
    ("tasks", "list"),
    ("tasks", "show"),
    ("tasks", "wait"),
    ("tasks", "resume"),
    ("tasks", "save"),
    ("webhooks", "listen"),
    ("webhooks", "trigger"),
]
HEAVY = (
    "httpx",
    "httpx2",
    "langchain_core",
    "llama_index",
    "pydantic",
    "piccc.emulator",
    "uvicorn",
    "tiktoken",
)


@pytest.fixture
def unconfigured(tmp_path: Path) -> Shell:
    """Return a shell that is configured for no server."""
    return Shell(tmp_path)


def _exports(process: subprocess.Popen[str]) -> dict[str, str]:
    """Read the variables that the emulator prints when it starts."""
    assert process.stdout is not None
    exports: dict[str, str] = {}
    for line in process.stdout:
        if line.strip().startswith("export "):
            name, _, value = line.strip().removeprefix("export ").partition("=")
            exports[name] = value
        if "PICCC_VIDEO_MODEL" in exports:
            break
    return exports


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_in_its_help_and_a_json_option(
    unconfigured: Shell, command: tuple[str, ...]
) -> None:
    text = unconfigured(*command, "--help").stdout
    assert "Example" in text
    assert f"piccc {' '.join(command)}" in text.split("Example")[1]
    assert "--json" in text or command == ("mcp",)  # its protocol is JSON
    assert "\x1b" not in text


def test_help_reflows_paragraphs(unconfigured: Shell) -> None:
    text = unconfigured("doctor", "--help", COLUMNS="200").stdout
    assert "an empty request, which servers refuse, so nothing is billed." in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("chta", "Did you mean 'chat'?"),
        ("tasks lst", "Did you mean 'list'?"),
        ("chat --modle x", "--model"),
        ("emulator --port 70000", "65535"),
        ("mcp --http --port -1", "'--port'"),
        ("mcp --host 127.0.0.1", "requires --http"),
        ("mcp --token x", "requires --http"),
        ("webhooks listen --port 8766", "requires --receive"),
        ("webhooks listen --receive --port 70000", "65535"),
        ("webhooks listen --forward-to localhost:8000", "Pass a URL such as http://"),
        ("webhooks trigger http://[::1/x", "Pass a URL such as http://"),
        ("webhooks trigger http://127.0.0.1:99999/x", "Pass a URL such as http://"),
        *(
            (f"{words} {option} {value}", f"'{option}'")
            for words, option in (
                ("chat hi", "--timeout"),
                ("chat hi", "--temperature"),
                ("image mug --model m", "--timeout"),
                ("image mug --model m", "--poll"),
                ("video mug --model m", "--duration"),
                ("contract", "--spend"),
                ("contract", "--image-price"),
                ("contract", "--poll"),
                ("mcp", "--wait"),
                ("mcp", "--max-video-seconds"),
                ("emulator", "--url-lifetime"),
            )
            for value in ("-1", "nan", "inf")
        ),
        ("chat hi --timeout 0", "above 0"),
        ("video mug --model m --duration 0", "above 0"),
    ],
)
def test_a_usage_error_names_the_faulty_option_or_the_likely_command(
    unconfigured: Shell, words: str, expected: str
) -> None:
    done = unconfigured(*words.split())
    assert done.returncode == 2
    assert expected in done.stderr


def test_help_lists_every_exit_code(unconfigured: Shell) -> None:
    text = unconfigured("--help").stdout.split("Exit codes")[1]
    assert [line.split()[0] for line in text.splitlines()[1:] if line.strip()] == [*"012345", "130"]


def test_importing_the_cli_imports_nothing_heavy() -> None:
    code = f"import sys, piccc.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_shell_completion_suggests_commands(unconfigured: Shell) -> None:
    variables = {"_PICCC_COMPLETE": "complete_bash", "COMP_WORDS": "piccc ta", "COMP_CWORD": "1"}
    assert unconfigured(**variables).stdout.split() == ["tasks"]


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("Go on: client.tasks.wait('task_1')", "Go on: piccc tasks wait task_1"),
        ("Go on: client.tasks.wait_all(['a', 'b'])", "Go on: piccc tasks wait a b"),
        ("Try client.tasks.resume('k', resubmit=True) now.", "Try piccc tasks resume k --resubmit now."),
        ("To look, call client.tasks.wait('a'). Or not.", "To look, run: piccc tasks wait a\nOr not."),
        ("To look, call client.tasks.wait('a').", "To look, run: piccc tasks wait a"),
        ("Pass api_key=, or set PICCC_API_KEY.", "Set PICCC_API_KEY."),
        ("Check the key: pass api_key= or set PICCC_API_KEY.", "Check the key: set PICCC_API_KEY."),
        ("Set PICCC_BASE_URL (or pass base_url=) to it.", "Set PICCC_BASE_URL to it."),
        ("Check base_url.", "Check PICCC_BASE_URL."),
        ("It was not sent again. retry_unknown=True sends it again anyway.", "It was not sent again."),
        ('pip install "piccc[all]"', 'pip install "piccc[all]"'),
    ],
)
def test_hints_show_commands_and_variables_instead_of_python(python: str, shell: str) -> None:
    assert in_shell_words(python) == shell


def test_the_emulator_serves_until_it_is_interrupted(unconfigured: Shell) -> None:
    with unconfigured.start("emulator", "--port", "0", "--speed", "inf") as process:
        assert process.stdout is not None
        exports = _exports(process)
        with Client(base_url=exports["PICCC_BASE_URL"], api_key=exports["PICCC_API_KEY"]) as client:
            assert client.chat.create("Hello").text
        logged = next(line for line in process.stdout if line.strip())
        assert "POST /v1/chat/completions" in logged
        assert " 200 " in logged
        process.send_signal(signal.SIGINT)
        assert "Stopped." in process.communicate()[1]
    assert process.returncode == 0


def test_the_emulator_applies_a_faults_file_and_logs_json(unconfigured: Shell) -> None:
    rules = {"rules": [{"fault": "429;retry-after=0", "route": "POST /v1/chat/*", "times": 1}]}
    (unconfigured.folder / "faults.json").write_text(json.dumps(rules))
    words = ("emulator", "--port", "0", "--speed", "inf", "--faults", "faults.json", "--json")
    with unconfigured.start(*words) as process:
        assert process.stdout is not None
        known = json.loads(process.stdout.readline())
        with Client(base_url=known["PICCC_BASE_URL"], api_key=known["PICCC_API_KEY"]) as client:
            assert client.chat.create("Hello").record.attempts[0].outcome == "429"
        logged = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [(entry["status"], entry["fault"]) for entry in logged] == [
            (429, "429;retry-after=0"),
            (200, None),
        ]
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("kind", "key", "line"),
    [
        ("sh", "my-key", "  export PICCC_API_KEY=my-key"),
        ("fish", "my-key", "  set -gx PICCC_API_KEY my-key"),
        ("powershell", "my-key", "  $env:PICCC_API_KEY = 'my-key'"),
        ("dotenv", "my-key", "  PICCC_API_KEY=my-key"),
        ("sh", "it's $x;#[b]\\", """  export PICCC_API_KEY='it'"'"'s $x;#[b]\\'"""),
        ("fish", "it's $x;#[b]\\", r"  set -gx PICCC_API_KEY 'it\'s $x;#[b]\\'"),
        ("powershell", "it’s 'so' $x", "  $env:PICCC_API_KEY = 'it’’s ''so'' $x'"),
        ("dotenv", "it's $x;#[b]\\", r"  PICCC_API_KEY='it\'s $x;#[b]\\'"),
    ],
)
def test_the_emulator_prints_its_variables_in_each_shells_syntax(
    unconfigured: Shell, kind: str, key: str, line: str
) -> None:
    words = ("emulator", "--port", "0", "--api-key", key, "--shell", kind)
    with unconfigured.start(*words) as process:
        assert process.stdout is not None
        assert line in (printed.rstrip() for printed in process.stdout)
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_emulator_options_reach_the_emulator(unconfigured: Shell) -> None:
    words = ("--models", "my-model,other", "--quirk", "id", "--rate-limit", "2", "--no-strict", "--json")
    with unconfigured.start("emulator", "--port", "0", *words) as process:
        assert process.stdout is not None
        known = json.loads(process.stdout.readline())
        assert known["PICCC_IMAGE_MODEL"] == "other"
        with httpx.Client(base_url=known["PICCC_BASE_URL"], trust_env=False, timeout=60) as client:
            client.headers["x-api-key"] = known["PICCC_API_KEY"]
            models = [model["id"] for model in client.get("/v1/models").json()["data"]]
            task = client.post("/v1/images/tasks", json={"model": "any", "prompt": "A mug"}).json()
            assert (models, "id" in task) == (["my-model", "other"], True)
            assert client.get("/v1/models").status_code == 429
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_the_emulator_forwards_to_an_upstream_server(unconfigured: Shell, emulator: Emulator) -> None:
    words = ("--upstream", emulator.base_url, "--upstream-model", "piccc-flash", "--json")
    variables = {"PICCC_UPSTREAM_KEY": emulator.api_key}
    with unconfigured.start("emulator", "--port", "0", *words, **variables) as process:
        assert process.stdout is not None
        known = json.loads(process.stdout.readline())
        emulator.script(["From upstream."])
        with Client(base_url=known["PICCC_BASE_URL"], api_key=known["PICCC_API_KEY"]) as client:
            assert client.chat.create("Hello").text == "From upstream."
        assert emulator.requests[-1].model == "piccc-flash"
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_emulator_tasks_survive_a_restart_in_the_state_folder(unconfigured: Shell) -> None:
    ids = []
    for _ in range(2):
        words = ("emulator", "--port", "0", "--speed", "inf", "--state", "kept", "--json")
        with unconfigured.start(*words) as process:
            assert process.stdout is not None
            known = json.loads(process.stdout.readline())
            with Client(base_url=known["PICCC_BASE_URL"], api_key=known["PICCC_API_KEY"]) as client:
                client.images.submit("A mug", model="piccc-image")
                ids.append({task.id for task in client.tasks.list()})
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
    assert ids[0] < ids[1]


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (("--host", "0.0.0.0"), "--allow-remote"),  # noqa: S104  it is refused
        (("--faults", "missing.json"), "missing.json"),
        (("--upstream", "localhost:11434"), "http"),
        (("--recording", "missing.jsonl"), "does not exist yet"),
    ],
)
def test_an_emulator_that_cannot_start_explains_why(
    unconfigured: Shell, wrong: tuple[str, str], expected: str
) -> None:
    done = unconfigured("emulator", "--port", "0", *wrong)
    assert done.returncode in (1, 2)
    assert expected in done.stderr


def test_an_occupied_port_is_an_error_that_names_the_port(shell: Shell, emulator: Emulator) -> None:
    port = emulator.base_url.rpartition(":")[2]
    done = shell("emulator", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert port in done.stderr


def test_live_without_a_key_names_the_variables_to_set(unconfigured: Shell) -> None:
    done = unconfigured("demo", "--live")
    assert done.returncode == 1
    assert "PICCC_API_KEY" in done.stderr
    assert "PICCC_BASE_URL" in done.stderr


COMPLETE = {"PICCC_API_KEY": "k", "PICCC_BASE_URL": "http://127.0.0.1:9", "PICCC_IMAGE_MODEL": "a"}
MCP_WARNINGS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "nothing": (
        {},
        (
            "Set PICCC_API_KEY.",
            "No server is configured. Set PICCC_BASE_URL",
            "Set PICCC_IMAGE_MODEL",
            "Set PICCC_VIDEO_MODEL",
        ),
    ),
    "all but a model": (COMPLETE, ("No video model is configured: calls of generate_video fail.",)),
    "a key in quotation marks": (
        {**COMPLETE, "PICCC_API_KEY": "'k'", "PICCC_MCP_VIDEO_MODELS": "b"},
        ('only the key, without "Bearer"', "every call fails"),
    ),
    "all": ({**COMPLETE, "PICCC_VIDEO_MODEL": "b"}, ()),
}


@pytest.mark.parametrize("case", MCP_WARNINGS)
def test_mcp_warns_about_missing_settings_and_starts(case: str, unconfigured: Shell) -> None:
    variables, warnings = MCP_WARNINGS[case]
    done = unconfigured("mcp", **variables)
    assert done.returncode == 0
    assert [warning for warning in warnings if warning not in done.stderr] == []
    assert bool(done.stderr) is bool(warnings)
    assert done.stdout == ""
