"""A newcomer's typical mistakes raise errors that say what to do, on every surface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from llama_index.core.llms import ChatMessage

from langchain_piccc import ChatPiccc, PicccImageTool
from llama_index_piccc import Piccc
from piccc import Client, PicccError
from piccc.emulator import Emulator
from piccc.errors import AuthenticationError, ConfigurationError, InvalidArgumentError, InvalidRequestError

SURFACES: dict[str, Callable[..., Any]] = {
    "Client": lambda **options: Client(**options).chat.create("Hello"),
    "ChatPiccc": lambda **options: ChatPiccc(**options).invoke("Hello"),
    "Piccc": lambda **options: Piccc(**options).complete("Hello"),
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=float("inf")) as emulator:
        yield emulator


@pytest.fixture(params=SURFACES)
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for name in ("PICCC_API_KEY", "PICCC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    return SURFACES[request.param]


def test_a_missing_key_error_names_the_argument_variable_and_emulator(
    ask: Callable[..., Any], emulator: Emulator
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ask(base_url=emulator.base_url)
    for way in ("api_key=", "PICCC_API_KEY", "piccc emulator"):
        assert way in str(caught.value)


def test_a_wrong_key_error_says_to_check_it_and_hides_it(ask: Callable[..., Any], emulator: Emulator) -> None:
    with pytest.raises(AuthenticationError) as caught:
        ask(base_url=emulator.base_url, api_key="pcc_live_mistyped0001")
    assert "Check the key" in str(caught.value)
    assert "mistyped" not in str(caught.value)
    assert caught.value.attempts == 1


def test_an_unreachable_server_error_says_that_nothing_was_sent(ask: Callable[..., Any]) -> None:
    with pytest.raises(PicccError) as caught:
        ask(base_url="http://127.0.0.1:1", api_key="pcc_test_x", max_retries=0)
    assert "Nothing was sent" in str(caught.value)
    assert not caught.value.may_have_been_billed


def test_a_missing_base_url_error_names_the_ways_to_set_it(ask: Callable[..., Any]) -> None:
    with pytest.raises(PicccError) as caught:
        ask(api_key="pcc_test_x", max_retries=0)
    for way in ("PICCC_BASE_URL", "base_url=", "piccc emulator"):
        assert way in str(caught.value)


RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "21:9")


def test_the_servers_message_about_a_bad_aspect_ratio_reaches_the_caller(
    emulator: Emulator,
) -> None:
    before = len(emulator.charges)
    with Client(base_url=emulator.base_url, api_key=emulator.api_key) as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.images.submit("a mug", model="piccc-image", aspect_ratio="wide")
        result = PicccImageTool(client=client, model="piccc-image").invoke(
            {"prompt": "a mug", "aspect_ratio": "wide"}
        )
    for text in (str(caught.value), str(result)):
        assert all(ratio in text for ratio in RATIOS)
    assert len(emulator.charges) == before


def test_an_unknown_aspect_ratio_error_lists_the_servers_ratios(emulator: Emulator) -> None:
    client = Client(base_url=emulator.base_url, api_key=emulator.api_key)
    with client, pytest.raises(InvalidRequestError) as caught:
        client.images.submit("a mug", model="piccc-image", aspect_ratio="5:1")
    assert all(ratio in str(caught.value) for ratio in RATIOS)
    assert not caught.value.may_have_been_billed


def calls(**settings: Any) -> dict[str, Callable[..., Any]]:
    chat, llm = ChatPiccc(**settings), Piccc(**settings)
    return {
        "ChatPiccc.invoke": chat.invoke,
        "ChatPiccc.stream": lambda prompt, **options: list(chat.stream(prompt, **options)),
        "Piccc.complete": llm.complete,
        "Piccc.stream_complete": lambda prompt, **options: list(llm.stream_complete(prompt, **options)),
    }


CALLS = ("ChatPiccc.invoke", "ChatPiccc.stream", "Piccc.complete", "Piccc.stream_complete")
WRONG_OPTIONS: dict[str, Any] = {"stop": 5, "tools": 5, "extra_body": 5, "extra_headers": [("a", "b")]}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
@pytest.mark.parametrize("call", CALLS)
def test_an_option_of_the_wrong_type_is_named_before_anything_is_sent(
    emulator: Emulator, call: str, name: str
) -> None:
    before = len(emulator.requests)
    ask = calls(base_url=emulator.base_url, api_key=emulator.api_key)[call]
    with pytest.raises(InvalidArgumentError, match=f"{name} is not a"):
        ask("Hello", **{name: WRONG_OPTIONS[name]})
    assert len(emulator.requests) == before


@pytest.mark.parametrize("call", CALLS)
def test_a_model_of_none_is_the_models_own_and_stream_is_up_to_the_method(
    emulator: Emulator, call: str
) -> None:
    ask = calls(base_url=emulator.base_url, api_key=emulator.api_key, model="piccc-flash")[call]
    assert ask("Hello", model=None, stream=True)
    assert emulator.requests[-1].body["model"] == "piccc-flash"


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_a_whole_reply_is_not_paid_for_as_a_stream(
    emulator: Emulator, dialect: Literal["openai", "anthropic"]
) -> None:
    with Client(base_url=emulator.base_url, api_key=emulator.api_key, dialect=dialect) as client:
        before = len(emulator.charges)
        with pytest.raises(InvalidArgumentError, match="asks for a stream"):
            client.chat.create("Hello", extra_body={"stream": True})
        assert len(emulator.charges) == before


WRONG_MESSAGES: dict[str, Any] = {
    "a text": "Hello",
    "a list of texts": ["Hello"],
    "a mapping": [{"role": "user", "content": "Hello"}],
    "a single message": ChatMessage("Hello"),
    "none": None,
    "a list with none": [None],
    "a number": 5,
}


@pytest.mark.parametrize("messages", WRONG_MESSAGES.values(), ids=WRONG_MESSAGES)
def test_llama_indexs_chat_takes_only_chat_messages(emulator: Emulator, messages: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="Not a ChatMessage"):
        Piccc(base_url=emulator.base_url, api_key=emulator.api_key).chat(messages)


@pytest.mark.parametrize("prompt", [None, 5, b"Hello", ["Hello"]])
def test_llama_indexs_complete_takes_only_texts(emulator: Emulator, prompt: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="prompt is of type"):
        Piccc(base_url=emulator.base_url, api_key=emulator.api_key).complete(prompt)
