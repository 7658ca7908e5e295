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
def nowhere(tmp_path: Path) -> Shell:
    """Make a shell that leads to no server."""
    return Shell(tmp_path)


def _exports(process: subprocess.Popen[str]) -> dict[str, str]:
    """Read what the emulator says of itself, up to the last of the variables that it names."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        if line.strip().startswith("export "):
            name, _, value = line.strip().removeprefix("export ").partition("=")
            found[name] = value
        if "PICCC_VIDEO_MODEL" in found:
            break
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_and_speaks_json(
    nowhere: Shell, command: tuple[str, ...]
) -> None:
    said = nowhere(*command, "--help").stdout
    assert "Example" in said
    assert f"piccc {' '.join(command)}" in said.split("Example")[1]
    assert "--json" in said or command == ("mcp",)  # whose protocol is JSON anyway
    assert "\x1b" not in said


def test_help_breaks_no_paragraph_where_the_source_does(nowhere: Shell) -> None:
    said = nowhere("doctor", "--help", COLUMNS="200").stdout
    assert "an empty request, which servers refuse, so nothing is billed." in said


@pytest.mark.parametrize(
    ("words", "said"),
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
        ("emulator --url-lifetime -3", "'--url-lifetime'"),
    ],
)
def test_a_slip_is_a_wrong_use_that_names_what_is_meant(nowhere: Shell, words: str, said: str) -> None:
    done = nowhere(*words.split())
    assert done.returncode == 2
    assert said in done.stderr


def test_help_tells_every_exit_code(nowhere: Shell) -> None:
    said = nowhere("--help").stdout.split("Exit codes")[1]
    assert [line.split()[0] for line in said.splitlines()[1:] if line.strip()] == [*"012345", "130"]


def test_help_imports_nothing_heavy() -> None:
    looked_at = f"import sys, piccc.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(  # noqa: S603  our own command
        [sys.executable, "-c", looked_at], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_the_shell_completes_commands(nowhere: Shell) -> None:
    asked = {"_PICCC_COMPLETE": "complete_bash", "COMP_WORDS": "piccc ta", "COMP_CWORD": "1"}
    assert nowhere(**asked).stdout.split() == ["tasks"]


@pytest.mark.parametrize(
    ("python", "shell"),
    [
        ("Go on: client.tasks.wait('task_1')", "Go on: piccc tasks wait task_1"),
        ("Go on: client.tasks.wait_all(['a', 'b'])", "Go on: piccc tasks wait a b"),
        ("Try client.tasks.resume('k', resubmit=True) now.", "Try piccc tasks resume k --resubmit now."),
        ("Pass api_key=, or set PICCC_API_KEY.", "Set PICCC_API_KEY."),
        ("Check the key: pass api_key= or set PICCC_API_KEY.", "Check the key: set PICCC_API_KEY."),
        ("Set PICCC_BASE_URL (or pass base_url=) to it.", "Set PICCC_BASE_URL to it."),
        ('pip install "piccc[all]"', 'pip install "piccc[all]"'),
    ],
)
def test_hints_speak_of_commands_and_variables_instead_of_python(python: str, shell: str) -> None:
    assert in_shell_words(python) == shell


def test_the_emulator_serves_until_it_is_told_to_stop(nowhere: Shell) -> None:
    with nowhere.start("emulator", "--port", "0", "--speed", "inf") as process:
        assert process.stdout is not None
        exports = _exports(process)
        with Client(base_url=exports["PICCC_BASE_URL"], api_key=exports["PICCC_API_KEY"]) as client:
            assert client.chat.create("Hello").text
        shown = next(line for line in process.stdout if line.strip())
        assert "POST /v1/chat/completions" in shown
        assert " 200 " in shown
        process.send_signal(signal.SIGINT)
        assert "Stopped." in process.communicate()[1]
    assert process.returncode == 0


def test_the_emulator_does_what_its_faults_file_says_and_shows_it_as_json(nowhere: Shell) -> None:
    rules = {"rules": [{"fault": "429;retry-after=0", "route": "POST /v1/chat/*", "times": 1}]}
    (nowhere.folder / "faults.json").write_text(json.dumps(rules))
    words = ("emulator", "--port", "0", "--speed", "inf", "--faults", "faults.json", "--json")
    with nowhere.start(*words) as process:
        assert process.stdout is not None
        known = json.loads(process.stdout.readline())
        with Client(base_url=known["PICCC_BASE_URL"], api_key=known["PICCC_API_KEY"]) as client:
            assert client.chat.create("Hello").record.attempts[0].outcome == "429"
        shown = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [(each["status"], each["fault"]) for each in shown] == [
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
def test_the_emulator_prints_its_variables_for_any_shell(
    nowhere: Shell, kind: str, key: str, line: str
) -> None:
    words = ("emulator", "--port", "0", "--api-key", key, "--shell", kind)
    with nowhere.start(*words) as process:
        assert process.stdout is not None
        assert line in (said.rstrip() for said in process.stdout)
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_the_emulators_options_are_those_of_its_class(nowhere: Shell) -> None:
    words = ("--models", "my-model,other", "--quirk", "id", "--rate-limit", "2", "--no-strict", "--json")
    with nowhere.start("emulator", "--port", "0", *words) as process:
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


def test_the_emulator_lets_another_server_answer(nowhere: Shell, emulator: Emulator) -> None:
    words = ("--upstream", emulator.base_url, "--upstream-model", "piccc-flash", "--json")
    variables = {"PICCC_UPSTREAM_KEY": emulator.api_key}
    with nowhere.start("emulator", "--port", "0", *words, **variables) as process:
        assert process.stdout is not None
        known = json.loads(process.stdout.readline())
        emulator.script(["From upstream."])
        with Client(base_url=known["PICCC_BASE_URL"], api_key=known["PICCC_API_KEY"]) as client:
            assert client.chat.create("Hello").text == "From upstream."
        assert emulator.requests[-1].model == "piccc-flash"
        process.send_signal(signal.SIGTERM)
        process.communicate()


def test_the_emulators_tasks_outlive_it_in_a_folder(nowhere: Shell) -> None:
    ids = []
    for _ in range(2):
        words = ("emulator", "--port", "0", "--speed", "inf", "--state", "kept", "--json")
        with nowhere.start(*words) as process:
            assert process.stdout is not None
            known = json.loads(process.stdout.readline())
            with Client(base_url=known["PICCC_BASE_URL"], api_key=known["PICCC_API_KEY"]) as client:
                client.images.submit("A mug", model="piccc-image")
                ids.append({task.id for task in client.tasks.list()})
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0
    assert ids[0] < ids[1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--host", "0.0.0.0"), "--allow-remote"),  # noqa: S104  it is refused
        (("--faults", "missing.json"), "missing.json"),
        (("--upstream", "localhost:11434"), "http"),
        (("--recording", "missing.jsonl"), "does not exist yet"),
    ],
)
def test_an_emulator_that_cannot_be_run_says_why(nowhere: Shell, wrong: tuple[str, str], said: str) -> None:
    done = nowhere("emulator", "--port", "0", *wrong)
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_a_taken_port_is_an_error_with_its_address(shell: Shell, emulator: Emulator) -> None:
    port = emulator.base_url.rpartition(":")[2]
    done = shell("emulator", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert port in done.stderr


def test_live_without_a_key_says_what_to_set(nowhere: Shell) -> None:
    done = nowhere("demo", "--live")
    assert done.returncode == 1
    assert "PICCC_API_KEY" in done.stderr
    assert "PICCC_BASE_URL" in done.stderr


READY = {"PICCC_API_KEY": "k", "PICCC_BASE_URL": "http://127.0.0.1:9", "PICCC_IMAGE_MODEL": "a"}
START: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "nothing": (
        {},
        ("Set PICCC_API_KEY.", "Set PICCC_BASE_URL", "Set PICCC_IMAGE_MODEL", "Set PICCC_VIDEO_MODEL"),
    ),
    "all but a model": (READY, ("No video model is configured: calls of generate_video fail.",)),
    "a key in quotation marks": (
        {**READY, "PICCC_API_KEY": "'k'", "PICCC_MCP_VIDEO_MODELS": "b"},
        ('only the key, without "Bearer"', "Every call fails"),
    ),
    "all": ({**READY, "PICCC_VIDEO_MODEL": "b"}, ()),
}


@pytest.mark.parametrize("given", START)
def test_mcp_says_at_its_start_what_its_calls_will_lack_and_starts(given: str, nowhere: Shell) -> None:
    variables, said = START[given]
    done = nowhere("mcp", **variables)
    assert done.returncode == 0
    assert [each for each in said if each not in done.stderr] == []
    assert bool(done.stderr) is bool(said)
    assert done.stdout == ""
