"""A slip in a setting or a message is one of our errors: it names the right word and shows no secret."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest

from langchain_piccc import ChatPiccc, PicccImageTool, PicccMediaToolkit, PicccVideoTool
from langchain_piccc.media_tools import PicccTaskListTool, PicccTaskTool
from llama_index_piccc import Piccc
from piccc import AsyncClient, Client, Message, PicccError, Text
from piccc.errors import ConfigurationError, InvalidArgumentError
from piccc.options import describe_unknown

KEY = "canary-0f5a9c3e7b1d"
MODELS = (ChatPiccc, Piccc)
KEEPERS = (Client, AsyncClient, *MODELS, PicccImageTool, PicccVideoTool, PicccTaskTool, PicccTaskListTool)
OWNERS = (*KEEPERS, PicccMediaToolkit)

SLIPS: dict[str, dict[str, Any]] = {
    "a misspelt key": {"apikey": KEY},
    "another provider's key": {"openai_api_key": KEY},
    "a key in a list": {"api_key": [KEY]},
    "a key in a mapping": {"api_key": {"key": KEY}},
    "headers in a list": {"default_headers": [("authorization", KEY)]},
    "a header that is a list": {"default_headers": {"authorization": [KEY]}},
    "a header's name and value exchanged": {"default_headers": {KEY: None}},
    "a key as the timeout": {"timeout": KEY},
    "a key as the number of retries": {"max_retries": KEY},
    "a key as the way to authorize": {"auth": KEY},
    "a key as the address": {"base_url": KEY},
    "a key in an address of another scheme": {"base_url": f"ftp://user:{KEY}@host"},
    "a key as the dialect": {"dialect": KEY},
}


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS)
@pytest.mark.parametrize("owner", OWNERS, ids=lambda owner: owner.__name__)
def test_no_construction_error_shows_what_was_given(owner: Callable[..., Any], slip: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        owner(**slip)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(vars(caught.value))
    assert KEY not in shown.replace(repr(slip), "")
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


IN_THE_BODY = ("logprobs", "verbosity", "top_k", "service_tier")


TAKEN = {"model_name", "request_timeout", "max_completion_tokens", "stop_sequences"}
"""What other models call it, which both of ours take as it is."""


@pytest.mark.parametrize(
    ("owner", "theirs", "ours"),
    [(owner, *words) for owner in MODELS for words in RENAMED.items() if words[0] not in TAKEN],
)
def test_a_model_names_the_setting_that_is_meant(owner: Any, theirs: str, ours: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        owner(**{theirs: "x"})
    assert f"{theirs} (called {ours} here)" in str(caught.value)


@pytest.mark.parametrize("owner", MODELS)
@pytest.mark.parametrize("name", IN_THE_BODY)
def test_a_model_says_where_a_parameter_goes_that_only_the_server_knows(owner: Any, name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        owner(**{name: 1})
    assert f"{name} (pass extra_body={{'{name}': ...}})" in str(caught.value)


def test_both_models_take_the_words_of_others() -> None:
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
def test_a_client_says_what_is_a_setting_and_what_an_option_of_each_call(kind: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(api_base="x", model_name="m", temprature=1, max_retry=2, n=2)
    for said in (
        "api_base (called base_url here)",
        "model_name (pass model to each call)",
        "temprature (pass temperature to each call)",
        "max_retry (called max_retries here)",
        "n (each call returns one answer",
    ):
        assert said in caught.value.message


def test_the_words_are_the_same_for_settings_and_for_options_of_a_call() -> None:
    said = describe_unknown(["max_completion_tokens"], ["max_tokens"])
    client = Client(api_key=KEY, base_url="http://127.0.0.1:9")
    with pytest.raises(InvalidArgumentError) as of_the_client:
        client.chat.create("hi", max_completion_tokens=3)  # type: ignore[call-arg]  # the slip
    with pytest.raises(PicccError) as of_langchain:
        ChatPiccc(api_key=KEY, base_url="http://127.0.0.1:9").invoke("hi", max_completion_tokens=3)
    assert said in of_the_client.value.message
    assert said in of_langchain.value.message


@pytest.mark.parametrize("timeout", [-1, 0, float("nan")])
@pytest.mark.parametrize("owner", KEEPERS, ids=lambda owner: owner.__name__)
def test_a_timeout_that_is_none_is_refused_at_once(owner: Any, timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        owner(timeout=timeout)


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
@pytest.mark.parametrize("owner", KEEPERS, ids=lambda owner: owner.__name__)
def test_an_address_with_a_route_is_refused_at_once(owner: Any, path: str) -> None:
    with pytest.raises(ConfigurationError, match="one of the API's routes"):
        owner(base_url=f"https://api.test{path}")


@pytest.mark.parametrize("key", [f"Bearer {KEY}", f"'{KEY}'", f'"{KEY}"', f"{KEY} {KEY}"])
def test_a_key_that_is_more_than_a_key_is_refused_without_being_sent_or_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match="quotation mark") as caught:
        Client(api_key=key, base_url="http://127.0.0.1:9").chat.create("hi")
    assert "Bearer" in caught.value.hint
    assert KEY not in f"{caught.value!r} {caught.value}"


BAD_MESSAGES: dict[str, tuple[Any, str]] = {
    "a string for the parts": (Message("user", "hi"), "parts are of type str"),  # type: ignore[arg-type]  # the slip
    "a string as a part": (Message("user", ["hi"]), "part of type str"),  # type: ignore[list-item]  # the slip
    "an unknown role": (Message("human", [Text("hi")]), "role 'human'"),  # type: ignore[arg-type]  # the slip
    "a list of strings": (["hi"], "message is of type str"),
    "a number": (7, "message is of type int"),
    "content that is a list": ([{"role": "user", "content": ["hi"]}], "content of type list"),
    "an unknown field": ([{"role": "user", "content": "hi", "text": "hi"}], "unknown fields: text"),
    "no role": ([{"content": "hi"}], "role None"),
    "nothing": ([], "no message"),
}


@pytest.mark.parametrize(("messages", "said"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_a_slip_in_a_message_is_said_before_anything_is_sent(messages: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Client(api_key=KEY, base_url="http://127.0.0.1:9").chat.create(messages)
    assert said in caught.value.message
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
@pytest.mark.parametrize("way", ["create", "stream"])
def test_an_option_of_the_wrong_type_is_said_before_anything_is_sent(
    way: str, option: str, value: Any
) -> None:
    chat = Client(api_key=KEY, base_url="http://127.0.0.1:9").chat
    with pytest.raises(InvalidArgumentError):
        getattr(chat, way)("hi", **{option: value})


@pytest.mark.parametrize("options", [{"config": 3}, {"ledger": 3}, {"polling": 3}, {"http_client": 3}])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_object_of_the_wrong_type_is_refused_at_once(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**options)
    assert "int" in caught.value.message
    assert caught.value.hint


def test_a_client_that_was_closed_makes_no_call() -> None:
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


async def test_an_asynchronous_client_that_was_closed_makes_no_call() -> None:
    async with AsyncClient(api_key=KEY, base_url="http://127.0.0.1:9") as client:
        pass
    with pytest.raises(ConfigurationError, match="closed"):
        await client.chat.create("hi")
    with pytest.raises(ConfigurationError, match="closed"):
        await client.chat.stream("hi")


def test_without_an_event_loop_an_asynchronous_client_says_what_to_do() -> None:
    call = AsyncClient(api_key=KEY, base_url="http://127.0.0.1:9").chat.create("hi")
    with pytest.raises(ConfigurationError, match="asyncio") as caught:
        call.send(None)
    assert "trio" in caught.value.hint
