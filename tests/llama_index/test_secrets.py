"""Secrets stay in the process: no copy, trace, error or log contains them, and copies still work."""

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
def model_with_secrets() -> Piccc:
    """Return a model with a secret in every setting that can hold one."""
    return Piccc(
        api_key=KEY,
        base_url=f"https://user:{PASSWORD}@api.test/prefix",
        default_headers={"x-gateway-token": HEADER, "x-team": "clay"},
        additional_kwargs={"extra_headers": {"authorization": HEADER, "x-run": "7"}},
        temperature=0.5,
    )


def assert_contains_no_secret(text: str) -> None:
    """Assert that a text contains no secret."""
    assert [secret for secret in SECRETS if secret in text] == []


def test_representations_and_saved_forms_contain_no_secret(model_with_secrets: Piccc) -> None:
    representations = [
        repr(model_with_secrets),
        str(model_with_secrets),
        model_with_secrets.to_json(),
        str(model_with_secrets.to_dict()),
        str(model_with_secrets.to_payload()),
    ]
    for shown_text in [
        *representations,
        model_with_secrets.model_dump_json(),
        str(pickle.dumps(model_with_secrets)),
        str(model_with_secrets.metadata),
    ]:
        assert_contains_no_secret(shown_text)
    structured = model_with_secrets.as_structured_llm(BaseModel)
    for shown_text in (repr(structured), structured.to_json(), str(pickle.dumps(structured))):
        assert_contains_no_secret(shown_text)
    assert "x-team" in model_with_secrets.to_json()
    assert "0.5" in repr(model_with_secrets)


def test_events_and_callbacks_contain_no_secret(way: Sync | Async, emulator: Emulator) -> None:
    class EventRecorder(BaseEventHandler):
        events: list[str] = []  # noqa: RUF012  pydantic copies it

        def handle(self, event: Any, **kwargs: Any) -> None:
            self.events.append(f"{event!r} {event.model_dump()}")

    debug, recorder, dispatcher = (
        LlamaDebugHandler(print_trace_on_end=False),
        EventRecorder(),
        get_dispatcher(),
    )
    before = list(dispatcher.event_handlers)
    dispatcher.add_event_handler(recorder)
    llm = Piccc(
        api_key=emulator.api_key,
        base_url=emulator.base_url,
        default_headers={"x-gateway-token": HEADER},
        callback_manager=CallbackManager([debug]),
    )
    way.call(llm, "complete", "Hello")
    dispatcher.event_handlers = before
    recorded_text = "".join([*recorder.events, *(str(event.payload) for event in debug.get_events())])
    assert "piccc-pro" in recorded_text
    assert emulator.api_key not in recorded_text
    assert HEADER not in recorded_text


def test_errors_and_logs_contain_no_secret(
    way: Sync | Async, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    llm = Piccc(api_key=KEY, base_url=emulator.base_url, default_headers={"x-gateway-token": HEADER})
    with pytest.raises(AuthenticationError) as caught:
        way.call(llm, "complete", "Hello")
    assert_contains_no_secret("".join(traceback.format_exception(caught.value)))
    assert_contains_no_secret(str(pickle.dumps(caught.value)))
    assert_contains_no_secret(caplog.text)


def test_an_unpickled_model_reads_its_key_from_the_environment(
    way: Sync | Async, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = Piccc(api_key=emulator.api_key, base_url=emulator.base_url, model="piccc-flash", timeout=7)
    way.call(llm, "complete", "Hello")
    restored = pickle.loads(pickle.dumps(llm))  # noqa: S301  our own data
    assert (restored.model, restored.timeout) == ("piccc-flash", 7)
    monkeypatch.delenv("PICCC_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="PICCC_API_KEY"):
        way.call(restored, "complete", "Hello")
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    assert way.call(restored, "complete", "Hello").text


def test_a_model_survives_a_json_round_trip(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICCC_API_KEY", emulator.api_key)
    llm = Piccc(base_url=emulator.base_url, dialect="anthropic", max_tokens=50, stop=["END"])
    restored = Piccc.from_json(llm.to_json())
    assert restored.to_dict() == llm.to_dict()
    assert restored.complete("Hello").text
    assert json.loads(llm.to_json())["class_name"] == "piccc_llm"


def test_a_header_lost_in_saving_raises_an_error_on_use(model_with_secrets: Piccc) -> None:
    restored = Piccc.from_dict({**model_with_secrets.to_dict(), "api_key": KEY})
    with pytest.raises(ConfigurationError, match="default header"):
        restored.complete("Hello")


def test_a_deep_copy_keeps_a_custom_http_client(emulator: Emulator) -> None:
    with httpx.Client() as client:
        llm = Piccc(api_key=emulator.api_key, base_url=emulator.base_url, http_client=client)
        llm.complete("Hello")
        copied = copy.deepcopy(llm)
        assert copied.http_client is client
        assert copied.complete("Hello").text
        copied.additional_kwargs["seed"] = 1
        assert llm.additional_kwargs == {}
