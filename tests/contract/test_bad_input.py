"""A newcomer's typical mistakes raise errors that say what to do, on every surface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langchain_piccc import ChatPiccc, PicccImageTool
from llama_index_piccc import Piccc
from piccc import Client, PicccError
from piccc.emulator import Emulator
from piccc.errors import AuthenticationError, ConfigurationError, InvalidRequestError

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
