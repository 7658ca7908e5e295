"""Mistakes in settings and messages raise a piccc error that names the fix and shows no secret."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.tools import FunctionTool

from langchain_piccc import ChatPiccc, PicccImageTool, PicccMediaToolkit, PicccVideoTool
from langchain_piccc.media_tools import PicccTaskListTool, PicccTaskTool
from llama_index_piccc import Piccc
from piccc import AsyncClient, Client, Message, PicccError, Polling, SpendLimit, Text
from piccc.emulator import Emulator
from piccc.errors import ConfigurationError, InvalidArgumentError, InvalidRequestError
from piccc.options import describe_unknown

KEY = "canary-0f5a9c3e7b1d"
MODELS = (ChatPiccc, Piccc)
WITH_SETTINGS = (
    Client,
    AsyncClient,
    *MODELS,
    PicccImageTool,
    PicccVideoTool,
    PicccTaskTool,
    PicccTaskListTool,
)
CLASSES = (*WITH_SETTINGS, PicccMediaToolkit)

MISTAKES: dict[str, dict[str, Any]] = {
    "a misspelt key": {"apikey": KEY},
    "another provider's key": {"openai_api_key": KEY},
    "a key in a list": {"api_key": [KEY]},
    "a key in a mapping": {"api_key": {"key": KEY}},
    "headers in a list": {"default_headers": [("authorization", KEY)]},
    "a header that is a list": {"default_headers": {"authorization": [KEY]}},
    "a header's name and value swapped": {"default_headers": {KEY: None}},
    "a key as the timeout": {"timeout": KEY},
    "a key as the number of retries": {"max_retries": KEY},
    "a key as the auth scheme": {"auth": KEY},
    "a key as the base URL": {"base_url": KEY},
    "a key in a URL of another scheme": {"base_url": f"ftp://user:{KEY}@host"},
    "a key as the dialect": {"dialect": KEY},
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_no_constructor_error_shows_the_given_values(
    cls: Callable[..., Any], mistake: dict[str, Any]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cls(**mistake)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert KEY not in shown.replace(repr(mistake), "")
    assert caught.value.hint


RENAMED = {
    "model_name": "model",
    "openai_api_key": "api_key",
    "apikey": "api_key",
    "api_base": "base_url",
    "request_timeout": "timeout",
    "num_retries": "max_retries",
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
    "model_kwargs": "extra_body",
    "headers": "default_headers",
}


SERVER_PARAMETERS = ("logprobs", "verbosity", "top_k", "service_tier")


ALIASES = {"model_name", "request_timeout", "max_completion_tokens", "stop_sequences"}
"""Names from other libraries that both models accept as aliases."""


@pytest.mark.parametrize(
    ("cls", "foreign", "name"),
    [(cls, *words) for cls in MODELS for words in RENAMED.items() if words[0] not in ALIASES],
)
def test_a_model_suggests_the_intended_setting(cls: Any, foreign: str, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cls(**{foreign: "x"})
    assert f"{foreign} (called {name} here)" in str(caught.value)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("name", SERVER_PARAMETERS)
def test_a_model_suggests_extra_body_for_server_parameters(cls: Any, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        cls(**{name: 1})
    assert f"{name} (pass extra_body={{'{name}': ...}})" in str(caught.value)


def test_both_models_accept_aliases_from_other_libraries() -> None:
    given = {
        "piccc_api_key": KEY,
        "request_timeout": 3,
        "max_completion_tokens": 5,
        "stop_sequences": ["END"],
    }
    for model in (ChatPiccc(model_name="m", **given), Piccc(model_name="m", **given), Piccc("m", **given)):
        assert model.api_key.get_secret_value() == KEY
        assert (model.model, model.timeout, model.max_tokens, model.stop) == ("m", 3, 5, ["END"])
    with pytest.raises(ConfigurationError, match="model_name"):
        Piccc("m", model_name="other")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_distinguishes_settings_from_call_options(kind: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(api_base="x", model_name="m", temprature=1, max_retry=2, n=2)
    for advice in (
        "api_base (called base_url here)",
        "model_name (pass model to each call)",
        "temprature (pass temperature to each call)",
        "max_retry (called max_retries here)",
        "n (each call returns one answer",
    ):
        assert advice in caught.value.message


def test_settings_and_call_options_are_explained_in_the_same_words() -> None:
    explanation = describe_unknown(["max_completion_tokens"], ["max_tokens"])
    client = Client(api_key=KEY, base_url="http://127.0.0.1:9")
    with pytest.raises(InvalidArgumentError) as client_error:
        client.chat.create("hi", max_completion_tokens=3)  # type: ignore[call-arg]  # the mistake
    with pytest.raises(PicccError) as langchain_error:
        ChatPiccc(api_key=KEY, base_url="http://127.0.0.1:9").invoke("hi", max_completion_tokens=3)
    assert explanation in client_error.value.message
    assert explanation in langchain_error.value.message


@pytest.mark.parametrize("timeout", [-1, 0, float("nan")])
@pytest.mark.parametrize("cls", WITH_SETTINGS, ids=lambda cls: cls.__name__)
def test_an_invalid_timeout_is_rejected_immediately(cls: Any, timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        cls(timeout=timeout)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/images/tasks",
        "/v1/tasks",
        "/prefix/chat/completions",
        "/v1/models/",
    ],
)
@pytest.mark.parametrize("cls", WITH_SETTINGS, ids=lambda cls: cls.__name__)
def test_a_base_url_with_a_route_is_rejected_immediately(cls: Any, path: str) -> None:
    with pytest.raises(ConfigurationError, match="one of the API's routes"):
        cls(base_url=f"https://api.test{path}")


@pytest.mark.parametrize("key", [f"Bearer {KEY}", f"'{KEY}'", f'"{KEY}"', f"{KEY} {KEY}"])
def test_a_key_with_a_prefix_or_quotes_is_neither_sent_nor_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="quotation mark") as caught:
        Client(api_key=key, base_url="http://127.0.0.1:9").chat.create("hi")
    assert "Bearer" in caught.value.hint
    assert KEY not in f"{caught.value!r} {caught.value}"


BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "a string for the parts": (Message("user", "hi"), "parts are of type str"),  # type: ignore[arg-type]  # the mistake
    "a string as a part": (Message("user", ["hi"]), "part of type str"),  # type: ignore[list-item]  # the mistake
    "an unknown role": (Message("human", [Text("hi")]), "role 'human'"),  # type: ignore[arg-type]  # the mistake
    "a list of strings": (["hi"], "message is of type str"),
    "a number": (7, "message is of type int"),
    "content that is a list": ([{"role": "user", "content": ["hi"]}], "content of type list"),
    "an unknown field": ([{"role": "user", "content": "hi", "text": "hi"}], "unknown fields: text"),
    "no role": ([{"content": "hi"}], "role None"),
    "nothing": ([], "no message"),
}


@pytest.mark.parametrize(("messages", "explanation"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_mistake_in_a_message_is_explained_before_sending(messages: Any, explanation: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Client(api_key=KEY, base_url="http://127.0.0.1:9").chat.create(messages)
    assert explanation in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model", 3),
        ("system", ["be brief"]),
        ("stop", 3),
        ("stop", [3]),
        ("tools", "look"),
        ("tools", [{"name": "look"}]),
        ("tools", 3),
        ("tool_choice", {"name": "look"}),
        ("extra_body", [("a", 1)]),
        ("extra_headers", ["a"]),
        ("response_format", 3),
    ],
)
@pytest.mark.parametrize("method", ["create", "stream"])
def test_an_option_of_the_wrong_type_is_rejected_before_sending(method: str, option: str, value: Any) -> None:
    chat = Client(api_key=KEY, base_url="http://127.0.0.1:9").chat
    with pytest.raises(InvalidArgumentError):
        getattr(chat, method)("hi", **{option: value})


@pytest.mark.parametrize("options", [{"config": 3}, {"ledger": 3}, {"polling": 3}, {"http_client": 3}])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_object_of_the_wrong_type_is_rejected_immediately(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**options)
    assert "of type int" in caught.value.message
    assert caught.value.hint


def test_a_closed_client_makes_no_calls() -> None:
    client = Client(api_key=KEY, base_url="http://127.0.0.1:9")
    client.close()
    for call in (
        lambda: client.chat.create("hi"),
        lambda: client.chat.stream("hi"),
        lambda: client.images.submit("a mug", model="m"),
        lambda: client.tasks.get("task_1"),
    ):
        with pytest.raises(ConfigurationError, match="closed"):
            call()


async def test_a_closed_async_client_makes_no_calls() -> None:
    async with AsyncClient(api_key=KEY, base_url="http://127.0.0.1:9") as client:
        pass
    with pytest.raises(ConfigurationError, match="closed"):
        await client.chat.create("hi")
    with pytest.raises(ConfigurationError, match="closed"):
        await client.chat.stream("hi")


def test_an_async_client_without_an_event_loop_says_what_to_do() -> None:
    call = AsyncClient(api_key=KEY, base_url="http://127.0.0.1:9").chat.create("hi")
    with pytest.raises(ConfigurationError, match="asyncio") as caught:
        call.send(None)
    assert all(way in caught.value.hint for way in ("asyncio.run", "piccc.Client", "trio.to_thread"))


def test_an_object_of_the_wrong_type_is_rejected_by_the_constructor() -> None:
    from langchain_piccc import PicccImageTool, PicccMediaToolkit
    from llama_index_piccc import PicccMediaToolSpec

    constructors: dict[str, Callable[[], object]] = {
        "spend_limit": lambda: Client(spend_limit=3),  # type: ignore[arg-type]  # the mistake
        "polling": lambda: Client(polling=3),  # type: ignore[arg-type]  # the mistake
        "ledger": lambda: Client(ledger=3),  # type: ignore[arg-type]  # the mistake
        "rate": lambda: Client(rate=3),  # type: ignore[arg-type]  # the mistake
        "retry_unknown": lambda: Client(retry_unknown=1),  # type: ignore[arg-type]  # the mistake
        "private_outputs": lambda: Client(private_outputs=1),  # type: ignore[arg-type]  # the mistake
        "prices": lambda: SpendLimit(prices=1),  # type: ignore[arg-type]  # the mistake
        "client": lambda: PicccImageTool(client=3),
        "async_client": lambda: PicccMediaToolkit(async_client=3),
        "client of LlamaIndex": lambda: PicccMediaToolSpec(client=3),  # type: ignore[arg-type]  # the mistake
    }
    for name, construct in constructors.items():
        with pytest.raises(ConfigurationError, match=rf"{name.partition(' ')[0]} is of type int\.") as caught:
            construct()
        assert caught.value.hint.startswith("Pass ")


def test_a_flag_of_a_call_that_is_not_a_boolean_is_rejected_before_anything_is_sent(tmp_path: Path) -> None:
    # Any text counts as true: "no" would overwrite a file, accept any content, or pay twice.
    body = {"task_id": "t1", "status": "completed", "result": {"outputs": [{"url": "https://127.0.0.1:9/a"}]}}
    with Emulator() as emulator:
        client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
        output = client.tasks.load(json.dumps(body)).outputs[0]
        other = client.as_async().tasks.load(json.dumps(body)).outputs[0]
        wrong: Any = {"overwrite": "no", "any_type": "no", "provenance": 0, "resubmit": "no"}
        calls: list[tuple[str, Callable[[], object]]] = [
            ("overwrite", lambda: output.save(tmp_path, overwrite=wrong["overwrite"])),
            ("provenance", lambda: output.save(tmp_path, provenance=wrong["provenance"])),
            ("any_type", lambda: output.save(tmp_path, any_type=wrong["any_type"])),
            ("any_type", lambda: output.bytes(any_type=wrong["any_type"])),
            ("overwrite", lambda: asyncio.run(other.save(tmp_path, overwrite=wrong["overwrite"]))),
            ("any_type", lambda: asyncio.run(other.bytes(any_type=wrong["any_type"]))),
            ("resubmit", lambda: client.tasks.resume("key", resubmit=wrong["resubmit"])),
        ]
        for name, call in calls:
            with pytest.raises(InvalidArgumentError) as caught:
                call()
            message = f"{name} is of type {type(wrong[name]).__name__}."
            assert (caught.value.message, caught.value.hint) == (message, "Pass True or False.")
        for name in ("parallel_tool_calls", "replay_reasoning"):
            with pytest.raises(InvalidArgumentError, match=f"{name} is not True or False"):
                client.chat.create("hi", **{name: "no"})  # type: ignore[misc]  # the mistake
        assert (emulator.requests, list(tmp_path.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "construct",
    [
        lambda: SpendLimit(max_tasks="3"),
        lambda: SpendLimit(max_cost=True),
        lambda: SpendLimit(prices={"piccc-image": "1"}),
        lambda: Polling(min="2"),
        lambda: Polling(timeout=None),
    ],
)
def test_a_limit_that_is_not_a_number_is_rejected(construct: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        construct()
    assert caught.value.hint.startswith("Pass ")


LOOK = FunctionTool.from_defaults(lambda place: place, name="look", description="Look.")
NOTHING_SENT = (ConfigurationError, InvalidArgumentError)
EMPTY: dict[str, Callable[[Emulator], object]] = {
    "a key": lambda emulator: Client(base_url=emulator.base_url, api_key="").chat.create("hi"),
    "a LangChain key": lambda emulator: ChatPiccc(base_url=emulator.base_url, api_key="").invoke("hi"),
    "a LlamaIndex key": lambda emulator: Piccc(base_url=emulator.base_url, api_key="").complete("hi"),
    "a base URL": lambda emulator: Client(base_url="").chat.create("hi"),
    "a LangChain base URL": lambda emulator: ChatPiccc(base_url="").invoke("hi"),
    "a LlamaIndex base URL": lambda emulator: Piccc(base_url="").complete("hi"),
    "a ledger": lambda emulator: Client(ledger=""),
    "a spend limit's name": lambda emulator: SpendLimit(max_tasks=1, name=""),
    "an image model": lambda emulator: Client().images.submit("A mug", model=""),
    "a webhook": lambda emulator: Client().images.submit("A mug", model="piccc-image", webhook=""),
    "a folder": lambda emulator: Client().images.map(["A mug"], model="piccc-image", save_to=""),
    "a tool's name": lambda emulator: Piccc(
        base_url=emulator.base_url, api_key=emulator.api_key
    ).chat_with_tools([LOOK], "hi", tool_choice=""),
}


@pytest.mark.parametrize("what", EMPTY)
def test_an_empty_value_is_rejected_rather_than_replaced(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Emulator() as emulator:
        monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
        monkeypatch.setenv("PICCC_BASE_URL", emulator.base_url)
        monkeypatch.setenv("PICCC_LEDGER", str(tmp_path / "tasks.db"))
        monkeypatch.setenv("PICCC_IMAGE_MODEL", "piccc-image")
        with pytest.raises(NOTHING_SENT):
            EMPTY[what](emulator)
        assert emulator.requests == []


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_limit_of_zero_and_an_empty_model_are_sent_as_given(dialect: Any) -> None:
    with Emulator() as emulator:
        options: dict[str, Any] = {"api_key": emulator.api_key, "dialect": dialect, "max_retries": 0}
        for call in (
            lambda: Client(base_url=emulator.base_url, **options).chat.create("hi", model="", max_tokens=0),
            lambda: ChatPiccc(base_url=emulator.base_url, **options).invoke("hi", model="", max_tokens=0),
            lambda: Piccc(base_url=emulator.base_url, **options).complete("hi", model="", max_tokens=0),
        ):
            with pytest.raises(InvalidRequestError):
                call()
            sent = json.loads(emulator.requests[-1].raw)
            assert (sent["model"], sent.get("max_tokens", sent.get("max_completion_tokens"))) == ("", 0)
