"""HTTP mocking libraries see and answer our clients' requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import respx
import vcr
from pytest_httpx import HTTPXMock
from pytest_httpx2 import HTTPXMock as HTTPX2Mock

from piccc import AsyncClient, Client
from piccc._http.library import BACKEND_VARIABLE
from piccc.errors import APITimeoutError, PicccError
from tests.faults.replies import EVENTS, TEXT, whole
from tests.faults.server import FaultServer, reply

URL = "http://api.test"
CHAT = f"{URL}/v1/chat/completions"
STREAM = b"".join(EVENTS["chat"].values())
EVENT_STREAM = {"content-type": "text/event-stream"}


def blocking(base_url: str) -> list[str]:
    client = Client(api_key="pcc_live_mocked", base_url=base_url, max_retries=0)
    return [client.chat.create("hi").text, "".join(client.chat.stream("hi").texts())]


def asynchronous(base_url: str) -> list[str]:
    async def run() -> list[str]:
        client = AsyncClient(api_key="pcc_live_mocked", base_url=base_url, max_retries=0)
        reply = await client.chat.create("hi")
        return [reply.text, "".join([text async for text in (await client.chat.stream("hi")).texts()])]

    return asyncio.run(run())


MODES = pytest.mark.parametrize("ask", [blocking, asynchronous])
Ask = Callable[[str], list[str]]


@MODES
@pytest.mark.parametrize("using", ["httpcore", "httpx"])
def test_respx(ask: Ask, using: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if using == "httpx":  # patches a private method that only the httpx backend calls
        monkeypatch.setenv(BACKEND_VARIABLE, "httpx")
    with respx.mock(using=using) as router:
        route = router.post(CHAT)
        route.side_effect = [
            httpx.Response(200, content=whole("chat")),
            httpx.Response(200, content=STREAM, headers=EVENT_STREAM),
        ]
        assert ask(URL) == [TEXT, TEXT]
    assert route.calls[0].request.headers["authorization"] == "Bearer pcc_live_mocked"


@MODES
def test_pytest_httpx(ask: Ask, httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_response(url=CHAT, content=whole("chat"))
    httpx_mock.add_response(url=CHAT, content=STREAM, headers=EVENT_STREAM)
    assert ask(URL) == [TEXT, TEXT]
    assert len(httpx_mock.get_requests()) == 2


def test_an_exception_from_a_mock_is_mapped_like_the_librarys_own(httpx_mock: HTTPXMock) -> None:
    httpx_mock.add_exception(httpx.ReadTimeout("late"))
    with pytest.raises(APITimeoutError) as caught:
        blocking(URL)
    assert caught.value.may_have_been_billed


@MODES
def test_pytest_httpx2(ask: Ask, httpx2_mock: HTTPX2Mock) -> None:
    httpx2_mock.add_response(url=CHAT, content=whole("chat"))
    httpx2_mock.add_response(url=CHAT, content=STREAM, headers=EVENT_STREAM)
    assert ask(URL) == [TEXT, TEXT]


@MODES
@pytest.mark.parametrize("library", [None, httpx, httpx2], ids=["own", "httpx", "httpx2"])
def test_vcr_records_and_replays(
    ask: Ask, library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library:
        monkeypatch.setenv(BACKEND_VARIABLE, library.__name__)
    cassette = str(tmp_path / "cassette.yaml")
    with FaultServer() as server:
        case = server.case(
            [reply(200, whole("chat"))], [reply(200, STREAM, type=EVENT_STREAM["content-type"])]
        )
        with vcr.use_cassette(cassette):
            assert ask(case.base_url) == [TEXT, TEXT]
        assert len(case.requests) == 2
    with vcr.use_cassette(cassette, record_mode="none"):
        assert ask(case.base_url) == [TEXT, TEXT]


def test_a_tracer_that_patches_the_transport_sees_our_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = httpx.HTTPTransport.handle_request

    def traced(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return real(transport, request)

    with FaultServer() as server:
        base_url = server.case([reply(200, whole("chat"))]).base_url
        client = Client(api_key="pcc_live_traced", base_url=base_url)
        assert client.chat.create("hi").record.backend.startswith("h11 ")
        monkeypatch.setattr(httpx.HTTPTransport, "handle_request", traced)
        assert client.chat.create("hi").record.backend == f"httpx {httpx.__version__}"
        monkeypatch.undo()
        assert client.chat.create("hi").record.backend.startswith("h11 ")
    assert seen == [f"{base_url}/v1/chat/completions"]


def failing(message: Any) -> None:
    raise KeyError("a bug in a hook")


async def failing_async(message: Any) -> None:
    raise KeyError("a bug in a hook")


class Auth(httpx.Auth):
    def auth_flow(self, request: httpx.Request) -> Any:
        raise KeyError("a bug in an auth")
        yield request


HOOKS: dict[str, tuple[Callable[[Any], dict[str, Any]], bool]] = {
    "request hook": (lambda hook: {"event_hooks": {"request": [hook]}}, False),
    "request hook beside a response hook": (
        lambda hook: {"event_hooks": {"request": [hook], "response": [len]}},
        False,
    ),
    "response hook": (lambda hook: {"event_hooks": {"response": [hook]}}, True),
    "auth": (lambda hook: {"auth": Auth()}, False),
}


@pytest.mark.parametrize("kind", ["chat", "image"])
@pytest.mark.parametrize(("options", "was_sent"), HOOKS.values(), ids=HOOKS)
def test_an_error_in_a_hook_tells_whether_the_request_was_sent(
    options: Callable[[Any], dict[str, Any]], was_sent: bool, kind: str
) -> None:
    with FaultServer() as server, httpx.Client(**options(failing)) as http_client:
        case = server.case([reply(200, whole("chat"))])
        client = Client(api_key="pcc_live_hooked", base_url=case.base_url, http_client=http_client)
        with pytest.raises(PicccError) as caught:
            client.chat.create("hi") if kind == "chat" else client.images.submit("a fox", model="m")
        assert caught.value.may_have_been_billed is was_sent
        assert len(case.requests) == was_sent


@pytest.mark.parametrize(("event", "was_sent"), [("request", False), ("response", True)])
async def test_an_error_in_an_async_hook_tells_whether_the_request_was_sent(
    event: str, was_sent: bool
) -> None:
    with FaultServer() as server:
        case = server.case([reply(200, whole("chat"))])
        async with httpx.AsyncClient(event_hooks={event: [failing_async]}) as http_client:
            client = AsyncClient(api_key="pcc_live_hooked", base_url=case.base_url, http_client=http_client)
            with pytest.raises(PicccError) as caught:
                await client.chat.create("hi")
        assert caught.value.may_have_been_billed is was_sent
        assert len(case.requests) == was_sent
