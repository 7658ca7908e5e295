"""ChatPiccc as a package: import cost, the missing extra, profiles, serialization and settings."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import SecretStr

from langchain_piccc import ChatPiccc
from piccc.conversation import MODELS
from piccc.emulator import Emulator
from piccc.errors import ConfigurationError
from tests.langchain.replay import Replay, completion, json_response


def modules_after(code: str) -> set[str]:
    """Return the names of all modules that a fresh interpreter has loaded after some code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603  our own interpreter and code
    return set(json.loads(process.stdout))


CORE = "import langchain_core.language_models.chat_models, langchain_core.tools"


def test_import_and_construction_load_no_heavy_modules() -> None:
    core = modules_after(CORE)
    loaded = modules_after(
        "import langchain_piccc\nfor _ in range(10): langchain_piccc.ChatPiccc(api_key='k')"
    )
    heavy_modules = {
        "anyio",
        "h11",
        "httpcore",
        "httpx",
        "httpx2",
        "langchain",
        "llama_index",
        "openai",
        "tiktoken",
    }
    assert heavy_modules & (loaded - core) == set()
    assert "piccc._http.backends" not in loaded


def test_without_langchain_core_the_error_says_what_to_install() -> None:
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "langchain_core":
            raise ModuleNotFoundError(name)
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "langchain_core" else real(name, *rest)
sys.meta_path.insert(0, Absent())
from piccc.errors import MissingExtraError
try:
    import langchain_piccc
except MissingExtraError as error:
    assert 'pip install "piccc[langchain]"' in str(error), error
    assert isinstance(error, ImportError)
else:
    raise SystemExit("it was imported")
"""
    modules_after(code)


# Fields that the profiles of langchain-openai and langchain-anthropic share, except names and dates.
PEER_PROFILE_FIELDS = {
    "attachment",
    "audio_inputs",
    "audio_outputs",
    "image_inputs",
    "image_outputs",
    "image_tool_message",
}
PEER_PROFILE_FIELDS |= {
    "image_url_inputs",
    "max_input_tokens",
    "max_output_tokens",
    "pdf_inputs",
    "pdf_tool_message",
}
PEER_PROFILE_FIELDS |= {"reasoning_output", "structured_output", "temperature", "text_inputs", "text_outputs"}
PEER_PROFILE_FIELDS |= {"tool_call_streaming", "tool_calling", "video_inputs", "video_outputs"}


def test_every_model_has_a_profile() -> None:
    for name in (*MODELS, "piccc-of-tomorrow"):
        profile = ChatPiccc(model=name, api_key="k").profile
        assert profile is not None
        assert profile["max_input_tokens"] == 128_000
        assert profile["structured_output"] is True
        assert profile["tool_calling"] is True
        assert set(PEER_PROFILE_FIELDS) <= profile.keys()
    assert ChatPiccc(api_key="k").profile["mid_conversation_system_messages"] is True
    anthropic = ChatPiccc(api_key="k", dialect="anthropic").profile
    assert anthropic["mid_conversation_system_messages"] is False
    assert ChatPiccc(api_key="k", profile={"max_input_tokens": 5}).profile == {"max_input_tokens": 5}


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_a_dumped_model_loads_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICCC_API_KEY", "pcc_test_loaded")
    model = ChatPiccc(
        model="piccc-ultra",
        dialect="anthropic",
        temperature=0.3,
        stop=["x"],
        timeout=5,
        base_url="https://a.test",
    )
    options: Any = {"valid_namespaces": ["langchain_piccc"], "secrets_from_env": True}
    loaded = load(dumpd(model), allowed_objects=[ChatPiccc], **options)
    assert loaded.asdict() == model.asdict()
    assert loaded.base_url == "https://a.test"
    assert loaded.api_key.get_secret_value() == "pcc_test_loaded"


def test_import_does_not_change_langchains_serialization_table() -> None:
    code = """
from langchain_core.load.load import ALL_SERIALIZABLE_MAPPINGS as table
before = dict(table)
import langchain_piccc
langchain_piccc.ChatPiccc
assert table == before
"""
    modules_after(code)


def test_traced_parameters_name_the_requested_model() -> None:
    model = ChatPiccc(api_key="k", temperature=0.5, max_tokens=7, stop="x")
    params = model._get_ls_params(model="piccc-flash")
    assert params["ls_provider"] == "piccc"
    assert params["ls_model_name"] == "piccc-flash"
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.5, 7, ["x"])


@tool
def look(at: str) -> str:
    """Look at something."""
    return at


def test_tokens_of_messages_and_tools_are_counted() -> None:
    model = ChatPiccc(api_key="k")
    image = {"type": "image", "url": "https://a.test/b.png"}
    plain = model.get_num_tokens_from_messages([HumanMessage("hello")])
    assert model.get_num_tokens("hello") == len(model.get_token_ids("hello")) < plain
    assert plain < model.get_num_tokens_from_messages([HumanMessage("hello")], tools=[look])
    assert plain < model.get_num_tokens_from_messages([HumanMessage(["hello", image])])
    counting = ChatPiccc(api_key="k", custom_get_token_ids=lambda text: [0] * len(text))
    assert counting.get_num_tokens("hello") == 5


async def test_a_closed_model_can_be_used_again(emulator: Emulator) -> None:
    with ChatPiccc(base_url=emulator.base_url, api_key=emulator.api_key) as model:
        assert model.invoke("Hello").text
    assert model.invoke("Hello").text
    async with model:
        assert (await model.ainvoke("Hello")).text
    assert (await model.ainvoke("Hello")).text


def test_settings_changed_after_the_first_call_take_effect() -> None:
    first, second = (Replay(json_response(completion({"content": "Hi"}))) for _ in range(2))
    model = first.model()
    model.invoke("?")
    model.http_client = second.model().http_client
    model.invoke("?")
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_response_metadata_has_model_finish_reason_and_request_record() -> None:
    body = completion({"content": "Hi"}, reason="length") | {"system_fingerprint": "fp_1"}
    metadata = Replay(json_response(body)).model().invoke("?").response_metadata
    assert metadata["model_name"] == "piccc-pro"
    assert metadata["model_provider"] == "piccc"
    assert metadata["finish_reason"] == "length"
    assert metadata["request_id"] == "req_1"
    assert metadata["system_fingerprint"] == "fp_1"
    assert metadata["record"]["attempts"][0]["outcome"] == "200"
    json.dumps(metadata)


@pytest.mark.parametrize("streaming", [False, True])
def test_streaming_can_be_turned_on_and_off(emulator: Emulator, dialect: str, *, streaming: bool) -> None:
    model = ChatPiccc(
        base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect, streaming=streaming
    )
    before = len(emulator.requests)
    assert isinstance(model.invoke("Hello"), AIMessage)
    assert len(list(model.stream("Hello"))) > 1 if streaming else len(list(model.stream("Hello"))) == 1
    assert [request.body["stream"] for request in emulator.requests[before:]] == [streaming, streaming]


@pytest.mark.parametrize(
    ("alias", "value", "option"),
    [
        ("model_name", "piccc-flash", "model"),
        ("request_timeout", 5.0, "timeout"),
        ("stop_sequences", ["x"], "stop"),
        ("max_completion_tokens", 7, "max_tokens"),
        ("piccc_api_key", SecretStr("k"), "api_key"),
    ],
)
def test_parameter_names_of_other_integrations_are_accepted(alias: str, value: Any, option: str) -> None:
    model = ChatPiccc(**{"api_key": "k", alias: value} if option != "api_key" else {alias: value})
    assert getattr(model, option) == value
    assert ChatPiccc(api_key="k", stream_usage=True)  # type: ignore[call-arg]  # always on
    with pytest.raises(ConfigurationError):
        ChatPiccc(api_key="k", stream_usage=False)  # type: ignore[call-arg]  # cannot be turned off
