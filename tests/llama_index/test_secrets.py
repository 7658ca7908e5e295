"""Secrets stay in the process: no copy, trace, error or log has them, and copies work all the same."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback
from typing import Any

import httpx
import pytest
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from pydantic import BaseModel

from llama_index_piccc import Piccc
from piccc.emulator import Emulator
from piccc.errors import AuthenticationError, ConfigurationError
from tests.llama_index.conftest import Async, Sync

KEY = "pcc_live_canary1234567890"
PASSWORD = "hunter2-canary"
HEADER = "token-canary"
SECRETS = (KEY, PASSWORD, HEADER)


@pytest.fixture
def laden() -> Piccc:
    """Make a model with a secret in every place that can hold one."""
    return Piccc(
        api_key=KEY,
        base_url=f"https://user:{PASSWORD}@api.test/prefix",
        default_headers={"x-gateway-token": HEADER, "x-team": "clay"},
        additional_kwargs={"extra_headers": {"authorization": HEADER, "x-run": "7"}},
        temperature=0.5,
    )


def assert_clean(text: str) -> None:
    """Hold that no secret stands in a text."""
    assert [each for each in SECRETS if each in text] == []


def test_nothing_that_is_shown_or_saved_has_a_secret(laden: Piccc) -> None:
    shown = [repr(laden), str(laden), laden.to_json(), str(laden.to_dict()), str(laden.to_payload())]
    for each in [*shown, laden.model_dump_json(), str(pickle.dumps(laden)), str(laden.metadata)]:
        assert_clean(each)
    structured = laden.as_structured_llm(BaseModel)
    for each in (repr(structured), structured.to_json(), str(pickle.dumps(structured))):
        assert_clean(each)
    assert "x-team" in laden.to_json()
    assert "0.5" in repr(laden)


def test_events_and_callbacks_have_no_secret(way: Sync | Async, emulator: Emulator) -> None:
    class Heard(BaseEventHandler):
        seen: list[str] = []  # noqa: RUF012  pydantic copies it

        def handle(self, event: Any, **kwargs: Any) -> None:
            self.seen.append(f"{event!r} {event.model_dump()}")

    debug, heard, dispatcher = LlamaDebugHandler(print_trace_on_end=False), Heard(), get_dispatcher()
    before = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(heard)
    llm = Piccc(
        api_key=emulator.api_key,
        base_url=emulator.base_url,
        default_headers={"x-gateway-token": HEADER},
        callback_manager=CallbackManager([debug]),
    )
    way.call(llm, "complete", "Hello")
    dispatcher.event_handlers = before
    told = "".join([*heard.seen, *(str(each.payload) for each in debug.get_events())])
    assert "piccc-pro" in told
    assert emulator.api_key not in told
    assert HEADER not in told


def test_errors_and_logs_have_no_secret(
    way: Sync | Async, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    llm = Piccc(api_key=KEY, base_url=emulator.base_url, default_headers={"x-gateway-token": HEADER})
    with pytest.raises(AuthenticationError) as caught:
        way.call(llm, "complete", "Hello")
    assert_clean("".join(traceback.format_exception(caught.value)))
    assert_clean(str(pickle.dumps(caught.value)))
    assert_clean(caplog.text)


def test_a_pickle_reads_its_key_where_it_is_loaded(
    way: Sync | Async, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = Piccc(api_key=emulator.api_key, base_url=emulator.base_url, model="piccc-flash", timeout=7)
    way.call(llm, "complete", "Hello")
    again = pickle.loads(pickle.dumps(llm))  # noqa: S301  our own
    assert (again.model, again.timeout) == ("piccc-flash", 7)
    monkeypatch.delenv("PICCC_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="PICCC_API_KEY"):
        way.call(again, "complete", "Hello")
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    assert way.call(again, "complete", "Hello").text


def test_a_saved_model_is_made_again(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    llm = Piccc(base_url=emulator.base_url, dialect="anthropic", max_tokens=50, stop=["END"])
    again = Piccc.from_json(llm.to_json())
    assert again.to_dict() == llm.to_dict()
    assert again.complete("Hello").text
    assert json.loads(llm.to_json())["class_name"] == "piccc_llm"


def test_a_header_that_was_not_saved_is_missed_aloud(laden: Piccc) -> None:
    again = Piccc.from_dict({**laden.to_dict(), "api_key": KEY})
    with pytest.raises(ConfigurationError, match="default header"):
        again.complete("Hello")


def test_a_deep_copy_works_with_clients_of_ones_own(emulator: Emulator) -> None:
    with httpx.Client() as client:
        llm = Piccc(api_key=emulator.api_key, base_url=emulator.base_url, http_client=client)
        llm.complete("Hello")
        copied = copy.deepcopy(llm)
        assert copied.http_client is client
        assert copied.complete("Hello").text
        copied.additional_kwargs["seed"] = 1
        assert llm.additional_kwargs == {}
