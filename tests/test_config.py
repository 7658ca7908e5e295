"""Configuration is resolved once, validated immediately, and never shows a secret."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from piccc._http.backends import run_sync
from piccc.config import (
    PLACEHOLDER_URL,
    Config,
    Key,
    Timeout,
    as_timeout,
    check_headers,
    origin_of,
    resolve,
    ways_out,
)
from piccc.errors import ConfigurationError

KEY = "pcc_live_configured"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset piccc's environment variables."""
    for name in ("PICCC_API_KEY", "PICCC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def auth_headers(config: Config) -> dict[str, str]:
    return dict(run_sync(config.authorize()))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://api.test", "https://api.test"),
        ("https://api.test/", "https://api.test"),
        ("https://api.test/v1", "https://api.test"),
        ("https://api.test/v1/", "https://api.test"),
        ("https://api.test:8443/piccc/v1", "https://api.test:8443/piccc"),
        (" http://127.0.0.1:8000 ", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("https://me:secret@api.test/v1", "https://api.test"),
    ],
)
def test_a_base_url_may_end_with_the_version(given: str, expected: str) -> None:
    assert resolve(base_url=given).base_url == expected


@pytest.mark.parametrize(
    "given",
    ["api.test", "ftp://api.test", "https://", "http://[::1", "http://h:port", "//h"],
)
def test_a_malformed_base_url_is_rejected_and_not_shown(given: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(base_url=given)
    assert given not in caught.value.message


@pytest.mark.parametrize("given", ["https://h?a=1", "https://h/#a"])
def test_a_query_or_fragment_of_the_base_url_is_rejected(given: str) -> None:
    with pytest.raises(ConfigurationError, match=r"has a query or a fragment.\nRemove it."):
        resolve(base_url=given)


def test_arguments_override_the_environment_which_overrides_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve().is_placeholder
    assert resolve().base_url == PLACEHOLDER_URL
    monkeypatch.setenv("PICCC_BASE_URL", "https://env.test")
    monkeypatch.setenv("PICCC_API_KEY", "pcc_live_env")
    assert resolve().base_url == "https://env.test"
    assert auth_headers(resolve()) == {"authorization": "Bearer pcc_live_env"}
    config = resolve(base_url="https://argument.test", api_key=KEY)
    assert config.base_url == "https://argument.test"
    assert auth_headers(config) == {"authorization": f"Bearer {KEY}"}


async def _suspending_key() -> str:
    await asyncio.sleep(0)
    return KEY


async def _immediate_key() -> SecretStr:
    return SecretStr(KEY)


@pytest.mark.parametrize(
    "source",
    [KEY, f" {KEY}\n", SecretStr(KEY), lambda: KEY, lambda: SecretStr(KEY), _immediate_key, _suspending_key],
)
async def test_a_key_may_be_a_string_a_secret_or_a_function(source: Any) -> None:
    assert dict(await resolve(api_key=source).authorize()) == {"authorization": f"Bearer {KEY}"}


def test_an_async_key_function_that_suspends_fails_in_a_blocking_call() -> None:
    with pytest.raises(ConfigurationError, match="asynchronous"):
        auth_headers(resolve(api_key=_suspending_key))
    assert auth_headers(resolve(api_key=_immediate_key)) == {"authorization": f"Bearer {KEY}"}


def test_the_exception_of_a_key_function_is_the_cause() -> None:
    def vault() -> str:
        raise LookupError("sealed")

    with pytest.raises(ConfigurationError, match="raised LookupError") as caught:
        auth_headers(resolve(api_key=vault))
    assert isinstance(caught.value.__cause__, LookupError)
    assert caught.value.hint == "See the cause."


@pytest.mark.parametrize("source", [None, "", "  ", SecretStr(""), lambda: "", lambda: None, lambda: 7])
def test_a_missing_key_is_an_error_at_the_first_call(source: Any) -> None:
    config = resolve(api_key=source)
    with pytest.raises(ConfigurationError, match="No API key"):
        auth_headers(config)


@pytest.mark.parametrize(
    ("is_unpickled", "hint"),
    [(False, "To try without a key, start the emulator: piccc emulator"), (True, "Keys are not pickled")],
)
def test_the_hint_for_a_missing_key_mentions_pickling_only_after_it(is_unpickled: bool, hint: str) -> None:
    config = resolve()
    with pytest.raises(ConfigurationError, match="No API key") as caught:
        auth_headers(pickle.loads(pickle.dumps(config)) if is_unpickled else config)  # noqa: S301  our own
    assert hint in caught.value.hint
    assert ("pickled" in caught.value.hint) is is_unpickled


@pytest.mark.parametrize(("missing", "installs"), [("", False), ("av", True)])
def test_installing_the_emulator_is_suggested_only_if_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: str, installs: bool
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else object())
    assert ways_out().endswith("piccc emulator")
    assert ("pip install" in ways_out()) is installs


@pytest.mark.parametrize("source", ["pcc_live_ключ_of_ours", "pcc_live_a\r\nx-evil: 1", "pcc_live_\x00ab"])
def test_a_key_that_is_invalid_in_a_header_is_rejected_and_not_shown(source: str) -> None:
    with pytest.raises(ConfigurationError, match="characters") as caught:
        auth_headers(resolve(api_key=source))
    frame = caught.tb
    while frame is not None:
        if "piccc" in frame.tb_frame.f_code.co_filename and "tests" not in frame.tb_frame.f_code.co_filename:
            assert source not in repr(frame.tb_frame.f_locals)
        frame = frame.tb_next


def test_the_key_can_be_sent_in_the_x_api_key_header() -> None:
    assert auth_headers(resolve(api_key=KEY, auth="x-api-key")) == {"x-api-key": KEY}


def test_url_credentials_become_basic_auth_beside_the_key() -> None:
    headers = auth_headers(resolve(api_key=KEY, base_url="https://me:secret@api.test"))
    assert headers == {"authorization": "Basic bWU6c2VjcmV0", "x-api-key": KEY}


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1},
        {"max_retries": True},
        {"max_retries": 1.5},
        {"auth": "basic"},
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": float("nan")},
        {"timeout": "5"},
        {"timeout": True},
        {"default_headers": {"x-a": "b\nc"}},
        {"default_headers": {"x a": "b"}},
        {"default_headers": {"": "b"}},
        {"default_headers": {"x-a": 1}},
        {"default_headers": {"x-a": "é"}},
    ],
)
def test_an_invalid_setting_is_rejected_immediately(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        resolve(**options)


@pytest.mark.parametrize("field", ["total", "connect", "first_event", "idle"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "1", True])
def test_every_field_of_a_timeout_is_validated(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=field):
        Timeout(**{field: value})


@pytest.mark.parametrize("value", [float("inf"), 1e12])
def test_a_timeout_of_more_than_a_year_is_no_timeout(value: float) -> None:
    assert Timeout(total=value, idle=value) == Timeout(total=None, idle=None)


def test_a_number_is_the_total_timeout() -> None:
    assert as_timeout(5) == Timeout(total=5)
    assert as_timeout(None, Timeout(total=7)) == Timeout(total=7)
    assert as_timeout(None) == Timeout()


SECRETS = {
    "api_key": KEY,
    "base_url": "https://me:sesame-open@api.test",
    "default_headers": {"x-token": "hush-hush"},
}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_keeps_the_secrets(duplicate: Callable[[Config], Config]) -> None:
    config = resolve(**SECRETS)
    assert auth_headers(duplicate(config)) == auth_headers(config)
    assert duplicate(config) == config
    assert run_sync(duplicate(config.key).ask()) == KEY


def test_a_pickle_has_no_secrets_and_missing_ones_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(resolve(**SECRETS))
    for secret in (KEY, "sesame", "hush", "bWU6c2VzYW1lLW9wZW4="):
        assert secret.encode() not in pickled
    monkeypatch.setenv("PICCC_API_KEY", "pcc_live_of_the_worker")
    with pytest.raises(ConfigurationError, match="default header"):
        auth_headers(pickle.loads(pickled))  # noqa: S301  our own bytes


def test_an_unpickled_config_takes_url_credentials_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pickled = pickle.dumps(resolve(api_key=KEY, base_url=SECRETS["base_url"]))
    monkeypatch.setenv("PICCC_API_KEY", "pcc_live_of_the_worker")
    assert auth_headers(pickle.loads(pickled)) == {"authorization": "Bearer pcc_live_of_the_worker"}  # noqa: S301
    monkeypatch.setenv("PICCC_BASE_URL", "https://me:sesame-open@api.test/v1")
    headers = auth_headers(pickle.loads(pickled))  # noqa: S301  our own bytes
    assert headers == {"authorization": "Basic bWU6c2VzYW1lLW9wZW4=", "x-api-key": "pcc_live_of_the_worker"}


def test_the_repr_of_a_config_shows_no_secret() -> None:
    shown = repr(resolve(**SECRETS)) + repr(Key(KEY)) + str(Key(SecretStr(KEY)))
    for secret in (KEY, "sesame", "hush"):
        assert secret not in shown


def test_keys_are_compared_by_value() -> None:
    assert Key(KEY) == Key(KEY) != Key()
    assert hash(Key(KEY)) == hash(Key("another"))


@pytest.mark.parametrize(
    ("url", "other", "is_same"),
    [
        ("https://a.test/x", "https://A.test:443/y", True),
        ("http://a.test", "http://a.test:80", True),
        ("http://a.test", "https://a.test", False),
        ("https://a.test", "https://a.test:8443", False),
        ("https://a.test", "https://b.test", False),
        ("https://a.test", "https://me:pw@a.test", False),
        ("https://a.test", "https://a.test:nonsense", False),
        ("https://a.test", "https://[a.test", False),
        ("https://a.test", "https://a.test.evil.test", False),
        ("https://a.test", "https://a.test@evil.test", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, other: str, is_same: bool) -> None:
    assert (origin_of(url) == origin_of(other)) is is_same


def test_an_invalid_header_is_reported_by_name_without_its_value() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_headers({"x-token": "hush\nhush"})
    assert "x-token" in str(caught.value)
    assert "hush" not in str(caught.value)
