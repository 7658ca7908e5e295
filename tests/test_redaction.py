"""Secrets are redacted by value, by shape, and by header name."""

from __future__ import annotations

from collections.abc import Callable
from traceback import TracebackException, walk_tb
from typing import Any

import pytest

from langchain_piccc import ChatPiccc
from llama_index_piccc import Piccc
from piccc import AsyncClient, Client, RateLimit, SpendLimit
from piccc.config import HIDDEN, is_secret_header, redact, redact_headers, secrets_in
from piccc.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key pcc_live_0123456789 is bad", f"the key {HIDDEN} is bad"),
        ("pcc_test_abcd-ef_gh.", f"{HIDDEN}."),
        ("Authorization: Bearer abc.def-123456", f"Authorization: Bearer {HIDDEN}"),
        ("basic YWJjOmRlZmdoaQ==", f"basic {HIDDEN}"),
        ("https://me:secret@api.test/v1", f"https://{HIDDEN}@api.test/v1"),
        ("http://proxy:3128 and a@b.test", "http://proxy:3128 and a@b.test"),
        ("sk-ant-api03-0123456789abcdef is bad", f"{HIDDEN} is bad"),
        ("ghp_0123456789abcdefgh", HIDDEN),
        ("a eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl b", f"a {HIDDEN} b"),
        ("task-based risk-averse sk-ip", "task-based risk-averse sk-ip"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_text_shaped_like_a_secret_is_redacted(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_known_secrets_are_redacted_by_value() -> None:
    assert redact("a sesame-open b sesame", ["sesame-open", "sesame"]) == f"a {HIDDEN} b {HIDDEN}"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("Authorization", True),
        ("X-API-Key", True),
        ("x-gateway-token", True),
        ("Set-Cookie", True),
        ("proxy-authorization", True),
        ("content-type", False),
        ("x-request-id", False),
        ("x-ratelimit-remaining-tokens", False),
        ("idempotency-key", False),
        ("x-portkey-provider", False),
        ("x-portkey-api-key", True),
        ("x-monkey", False),
        ("x-tokenizer", False),
        ("x-author", False),
        ("Ocp-Apim-Subscription-Key", True),
        ("x-amz-security-token", True),
        ("apikey", True),
        ("x-credentials", True),
    ],
)
def test_secret_headers_are_recognized_by_name(name: str, secret: bool) -> None:
    assert is_secret_header(name) is secret


def test_secrets_are_found_in_headers_with_and_without_their_scheme() -> None:
    headers = [("authorization", "Bearer 0123456789"), ("x-token", "abc"), ("accept", "application/json")]
    assert secrets_in(headers) == ["Bearer 0123456789", "0123456789"]


def test_an_ordinary_word_in_a_secret_header_is_not_a_secret() -> None:
    assert secrets_in([("x-auth-mode", "anthropic"), ("x-portkey-provider", "openai")]) == []
    assert secrets_in([("x-api-key", "sesame")]) == ["sesame"]


def test_headers_are_copied_with_secrets_redacted() -> None:
    assert redact_headers({"X-Token": "abc", "X-Via": "http://a:b@c.test", "X-Trace": "7"}) == {
        "X-Token": HIDDEN,
        "X-Via": f"http://{HIDDEN}@c.test",
        "X-Trace": "7",
    }


LOGIN = "https://me:sesame@api.test"
SECRET = "a secret of enough letters"


@pytest.mark.parametrize(
    ("create", "wrong"),
    [
        *(
            (create, wrong)
            for create in (Client, AsyncClient, ChatPiccc, Piccc)
            for wrong in (
                {"timeout": -1},
                {"dialect": "none"},
                {"no_such_option": 1},
                {"base_url": "https://me:sesame@api.test:99999"},
                {"base_url": f"{LOGIN}/?key=sesame"},
                {"default_headers": {"x-gateway": "sesame\n"}},
            )
        ),
        (Client, {"ledger": "redis://me:sesame@host:port"}),
        (Client, {"ledger": "postgresql://me:sesame@host:port"}),
        (Client, {"ledger": 3}),
        (Client, {"ledger": "ftp://host/tasks"}),
        (Client, {"rate": "often"}),
        (Client, {"http_client": "none"}),
    ],
)
def test_the_traceback_of_a_failed_constructor_shows_no_secret(
    create: Callable[..., Any], wrong: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"model": "piccc-pro"} if create in (ChatPiccc, Piccc) else {}
    with pytest.raises(ConfigurationError) as caught:
        create(**{"api_key": "pcc_live_sesame", **settings, **wrong})
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)  # type: ignore[union-attr]  # not this test's own locals
    shown = "".join(TracebackException.from_exception(error, capture_locals=True).format())
    assert "sesame" not in shown


@pytest.mark.parametrize(
    "create",
    [
        lambda: RateLimit("often"),
        lambda: SpendLimit(max_tasks=-1),
        lambda: Client(timeout=-1),
        lambda: Client(ledger="redis://host:port"),
        lambda: Client(ledger="postgresql://host:port"),
        lambda: Client(ledger="ftp://host/tasks"),
        lambda: Piccc(base_url="ftp://host"),
    ],
)
def test_objects_of_a_failed_constructor_have_a_repr(create: Callable[[], Any]) -> None:
    # Python 3.11 loses the whole traceback if one local has none.
    with pytest.raises(ConfigurationError) as caught:
        create()
    for frame, _ in walk_tb(caught.tb):
        repr({name: value for name, value in frame.f_locals.items() if name == "self"})


@pytest.mark.parametrize("name", ["public_url", "forward_to"])
def test_an_invalid_webhook_url_is_reported_without_its_login(name: str) -> None:
    client = Client(base_url="https://api.test", api_key="pcc_live_sesame")
    with pytest.raises(ConfigurationError, match=name) as caught:
        client.webhooks(secret=SECRET, **{name: f"{LOGIN}:0"})
    assert "sesame" not in str(caught.value)
