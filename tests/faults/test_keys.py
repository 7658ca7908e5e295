"""The key: requested for each attempt, refreshed once, and sent only to the origin of base_url."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from piccc import AsyncClient
from piccc._http.backends import SyncBackend, run_sync
from piccc._http.session import Session
from piccc.config import Key, resolve
from piccc.errors import (
    APITimeoutError,
    AuthenticationError,
    ConfigurationError,
    InvalidArgumentError,
    PicccError,
    RateLimitError,
)
from tests.faults.calls import KINDS, MODES, Mode, call, json_of
from tests.faults.matrix import healthy
from tests.faults.server import Case, FaultServer, reply
from tests.faults.virtual import VirtualIO

ALL_MODES = pytest.mark.parametrize("mode", MODES, ids=str)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[FaultServer]:
    """Run a server on another origin."""
    with FaultServer() as running:
        yield running


def sent_keys(case: Case) -> list[str]:
    return [request.headers["authorization"].removeprefix("Bearer ") for request in case.requests]


@ALL_MODES
@pytest.mark.parametrize("kind", KINDS)
def test_a_401_requests_a_new_key_and_retries(server: FaultServer, kind: str, mode: Mode) -> None:
    keys = iter(["pcc_live_old_key", "pcc_live_new_key"])
    case = server.case([reply(401)], healthy(kind))
    io = VirtualIO(mode.port())
    call(mode, kind, resolve(api_key=lambda: next(keys), base_url=case.base_url), io)
    assert sent_keys(case) == ["pcc_live_old_key", "pcc_live_new_key"]
    assert io.sleeps == [0.4]


@pytest.mark.parametrize("kind", KINDS)
@ALL_MODES
def test_a_key_that_arrives_after_the_deadline_is_not_sent(
    server: FaultServer, mode: Mode, kind: str
) -> None:
    def slow() -> str:
        time.sleep(0.2)
        return "pcc_live_too_late"

    async def hanging() -> str:
        await asyncio.sleep(60)
        return "pcc_live_never"

    case = server.case(healthy(kind))
    for source in (slow, hanging) if mode.is_async else (slow,):
        config = resolve(api_key=source, base_url=case.base_url, timeout=0.1)
        with pytest.raises(APITimeoutError, match="api_key function") as caught:
            call(mode, kind, config, VirtualIO(mode.port()))
        assert not caught.value.may_have_been_billed
        assert "Nothing was sent" in caught.value.hint
    assert case.requests == []


@ALL_MODES
def test_nothing_is_sent_if_the_key_function_fails(server: FaultServer, mode: Mode) -> None:
    def failing() -> str:
        raise LookupError("sealed")

    async def failing_async() -> str:
        raise LookupError("sealed")

    case = server.case(healthy("submit"))
    for source in (failing, failing_async):
        config = resolve(api_key=source, base_url=case.base_url)
        with pytest.raises(ConfigurationError, match="The api_key function raised LookupError") as caught:
            call(mode, "submit", config, VirtualIO(mode.port()))
        is_misplaced = source is failing_async and not mode.is_async
        assert ("Only the asynchronous client" in caught.value.hint) is is_misplaced
        assert isinstance(caught.value.__cause__, LookupError)
        assert not caught.value.may_have_been_billed
    assert case.requests == []


def test_an_async_key_function_in_a_blocking_call_raises_where_it_suspends() -> None:
    async def vault() -> str:
        while True:
            with contextlib.suppress(Exception):  # a retry that never ends
                await asyncio.sleep(0)

    async def poll() -> list[str]:
        messages = []
        for _ in range(2):  # a poller goes on after a failed read
            try:
                await Key(vault).ask()
            except ConfigurationError as error:
                messages.append(error.message)
        return messages

    assert run_sync(poll()) == 2 * ["A blocking call ran asynchronous code."]
    with pytest.raises(ConfigurationError, match="ran asynchronous code"):
        run_sync(vault())


async def test_a_sync_key_function_does_not_block_the_event_loop(server: FaultServer) -> None:
    threads: list[int] = []

    def vault() -> str:
        threads.append(threading.get_ident())
        return "pcc_live_from_a_thread"

    case = server.case(healthy("chat"))
    async with AsyncClient(api_key=vault, base_url=case.base_url) as client:
        await client.chat.create("hi")
    assert threads
    assert threading.get_ident() not in threads


@ALL_MODES
def test_a_401_is_retried_with_a_new_key_only_once(server: FaultServer, mode: Mode) -> None:
    case = server.case([reply(401)])
    config = resolve(api_key=lambda: f"pcc_live_key{len(case.requests)}", base_url=case.base_url)
    with pytest.raises(AuthenticationError):
        call(mode, "chat", config, VirtualIO(mode.port()))
    assert sent_keys(case) == ["pcc_live_key0", "pcc_live_key1"]


@ALL_MODES
def test_a_401_is_raised_immediately_when_retries_are_off(server: FaultServer, mode: Mode) -> None:
    case = server.case([reply(401)])
    config = resolve(api_key=lambda: "pcc_live_rotating", base_url=case.base_url, max_retries=0)
    with pytest.raises(AuthenticationError):
        call(mode, "chat", config, VirtualIO(mode.port()))
    assert len(case.requests) == 1


@ALL_MODES
def test_each_attempt_requests_the_key(server: FaultServer, mode: Mode) -> None:
    case = server.case([reply(429)])
    config = resolve(api_key=lambda: f"pcc_live_key{len(case.requests)}", base_url=case.base_url)
    with pytest.raises(RateLimitError):
        call(mode, "chat", config, VirtualIO(mode.port()))
    assert sent_keys(case) == ["pcc_live_key0", "pcc_live_key1", "pcc_live_key2"]


@ALL_MODES
@pytest.mark.parametrize("auth", ["bearer", "x-api-key"])
@pytest.mark.parametrize(
    "target", ["{elsewhere}/v1/tasks/1", "//{elsewhere_host}/x", "{with_password}/x", "http://[/"]
)
def test_no_key_follows_a_redirect_to_another_origin(
    server: FaultServer, elsewhere: FaultServer, mode: Mode, auth: Any, target: str
) -> None:
    other, case = elsewhere.case([reply(200, b"{}")]), server.case()
    location = target.format(
        elsewhere=other.base_url,
        elsewhere_host=other.base_url.removeprefix("http://"),
        with_password=case.base_url.replace("//", "//me:pw@"),
    )
    case.answers = [[reply(302, b"", f"location: {location}")]]
    config = resolve(api_key="pcc_live_pinned", base_url=case.base_url, auth=auth)
    with pytest.raises(PicccError, match="redirects"):
        call(mode, "poll", config, VirtualIO(mode.port()))
    assert other.requests == []
    assert len(case.requests) == 1


@pytest.mark.parametrize("path", ["{elsewhere}/v1/tasks/1", "@{host}/x", ".evil.test/x", "{with_password}/x"])
def test_no_key_is_sent_to_a_url_on_another_origin(
    server: FaultServer, elsewhere: FaultServer, path: str
) -> None:
    other, case = elsewhere.case([reply(200, b"{}")]), server.case([reply(200, b"{}")])
    url = path.format(
        elsewhere=other.base_url,
        host=other.base_url.removeprefix("http://"),
        with_password=case.base_url.replace("//", "//me:pw@"),
    )
    session = Session(resolve(api_key="pcc_live_pinned", base_url=case.base_url), SyncBackend())
    with pytest.raises(InvalidArgumentError, match="is not on"):
        run_sync(session.read(url, json_of))
    assert other.requests == case.requests == []


@ALL_MODES
def test_redirects_on_the_same_origin_are_limited(server: FaultServer, mode: Mode) -> None:
    case = server.case()
    case.answers = [[reply(302, b"", f"location: {case.base_url}/v1/again")]]
    config = resolve(api_key="pcc_live_pinned", base_url=case.base_url)
    with pytest.raises(PicccError, match="redirects"):
        call(mode, "poll", config, VirtualIO(mode.port()))
    assert len(case.requests) == 4


@ALL_MODES
def test_the_callers_headers_override_ours(server: FaultServer, mode: Mode) -> None:
    case = server.case(healthy("chat"))
    config = resolve(
        api_key="pcc_live_beside",
        base_url=case.base_url,
        default_headers={"User-Agent": "mine/1", "X-Trace": "7", "Accept": "application/json;q=1"},
    )
    call(mode, "chat", config, VirtualIO(mode.port()))
    headers = case.requests[0].headers
    assert headers["user-agent"] == "mine/1"
    assert headers["x-trace"] == "7"
    assert headers["accept"] == "application/json;q=1"
    assert headers["authorization"] == "Bearer pcc_live_beside"


@ALL_MODES
def test_all_attempts_of_a_submission_share_one_idempotency_key(server: FaultServer, mode: Mode) -> None:
    case = server.case([reply(503)], [reply(429)], healthy("submit"))
    call(mode, "submit", resolve(api_key="pcc_live_paid", base_url=case.base_url), VirtualIO(mode.port()))
    assert [request.headers["idempotency-key"] for request in case.requests] == ["the-submission-key"] * 3


@ALL_MODES
def test_an_async_key_function_works_only_in_async_calls(server: FaultServer, mode: Mode) -> None:
    async def vault() -> str:
        await asyncio.sleep(0)
        return "pcc_live_from_the_vault"

    case = server.case(healthy("chat"))
    config = resolve(api_key=vault, base_url=case.base_url)
    if mode.is_async:
        call(mode, "chat", config, VirtualIO(mode.port()))
        assert sent_keys(case) == ["pcc_live_from_the_vault"]
    else:
        with pytest.raises(ConfigurationError, match="asynchronous"):
            call(mode, "chat", config, VirtualIO(mode.port()))
        assert case.requests == []


@ALL_MODES
def test_stream_options_is_dropped_if_an_older_server_rejects_it(server: FaultServer, mode: Mode) -> None:
    rejection = reply(400, b'{"error":{"message":"Unknown parameter: stream_options"}}')
    case = server.case([rejection], [reply(503)], healthy("chat-stream"))
    io = VirtualIO(mode.port())
    answer = call(mode, "chat-stream", resolve(api_key="pcc_live_old", base_url=case.base_url), io)
    assert answer.text == "Hello, world"
    assert [b"stream_options" in request.body for request in case.requests] == [True, False, False]


@ALL_MODES
def test_resending_without_stream_options_counts_as_an_attempt(server: FaultServer, mode: Mode) -> None:
    case = server.case([reply(400, b'{"error":"stream_options?"}')], [reply(503)])
    with pytest.raises(PicccError) as caught:
        call(
            mode,
            "chat-stream",
            resolve(api_key="pcc_live_old", base_url=case.base_url),
            VirtualIO(mode.port()),
        )
    assert len(case.requests) == caught.value.attempts == 3
