"""A fault raises the same error in the client, in LangChain and in LlamaIndex."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from langchain_piccc import ChatPiccc
from llama_index_piccc import Piccc
from piccc import Client, PicccError

Outcome = httpx.Response | Exception
OUTCOMES: dict[str, tuple[Callable[[], Outcome], str, bool, bool]] = {
    # outcome: the error's class, may_have_been_billed, is_retryable
    **{
        str(status): (lambda status=status: httpx.Response(status, json={}), kind, billed, retryable)
        for status, kind, billed, retryable in (
            (400, "InvalidRequestError", False, False),
            (401, "AuthenticationError", False, False),
            (402, "PaymentRequiredError", False, False),
            (403, "PermissionDeniedError", False, False),
            (404, "NotFoundError", False, False),
            (409, "ConflictError", False, False),
            (429, "RateLimitError", False, True),
            (500, "ServerError", False, True),
            (502, "ServerError", False, True),
            (503, "OverloadedError", False, True),
            (504, "GatewayTimeoutError", True, False),
            (524, "GatewayTimeoutError", True, False),
            (529, "OverloadedError", False, True),
        )
    },
    "429 that forbids a retry": (
        lambda: httpx.Response(429, json={}, headers={"x-should-retry": "false"}),
        "RateLimitError",
        False,
        False,
    ),
    "no connection": (lambda: httpx.ConnectError("refused"), "APIConnectionError", False, True),
    "connect timeout": (lambda: httpx.ConnectTimeout("late"), "APITimeoutError", False, True),
    "connection reset": (lambda: httpx.ReadError("reset"), "ResponseLostError", True, False),
    "read timeout": (lambda: httpx.ReadTimeout("late"), "APITimeoutError", True, False),
    "a web page": (lambda: httpx.Response(200, html="<html>"), "ResponseError", True, False),
}  # fmt: skip
SURFACES: dict[str, Callable[..., Any]] = {
    "client": lambda **settings: Client(**settings).chat.create("hi"),
    "LangChain": lambda **settings: ChatPiccc(**settings).invoke("hi"),
    "LlamaIndex": lambda **settings: Piccc(**settings).complete("hi"),
}


@pytest.mark.parametrize("ask", SURFACES.values(), ids=SURFACES)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(("outcome", "kind", "billed", "retryable"), OUTCOMES.values(), ids=OUTCOMES)
def test_a_fault_raises_the_same_error_on_every_surface(
    outcome: Callable[[], Outcome],
    kind: str,
    billed: bool,
    retryable: bool,
    dialect: str,
    ask: Callable[..., Any],
) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        result = outcome()
        if isinstance(result, Exception):
            raise result
        return result

    with (
        httpx.Client(transport=httpx.MockTransport(handle)) as http_client,
        pytest.raises(PicccError) as caught,
    ):
        ask(
            api_key="pcc_live_alike",
            base_url="http://piccc.test",
            dialect=dialect,
            max_retries=0,
            http_client=http_client,
        )
    error = caught.value
    assert (type(error).__name__, error.may_have_been_billed, error.is_retryable) == (kind, billed, retryable)
