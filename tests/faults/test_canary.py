"""Searches for a planted key in everything that a program shows, logs, stores or reports."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import httpx
import httpx2
import pytest
from pydantic import SecretStr

from piccc import AsyncClient, ChatReply, Client, PicccError, Timeout
from tests.faults.replies import EVENTS, event, whole
from tests.faults.server import CLOSE, RESET, Answer, FaultServer, chunk, head, reply, stream_head
from tests.pairwise import pairwise

KEY = "canary-0f5a9c3e7b1d"
PASSWORD = "canary-password-77"
TOKEN = "canary-token-31415"
BASIC = "bWU6Y2FuYXJ5LXBhc3N3b3JkLTc3"
SECRETS = (KEY, PASSWORD, TOKEN, BASIC)
ECHO = json.dumps({"error": {"message": f"Bad key {KEY}: {TOKEN}, Basic {BASIC}", "code": KEY}}).encode()
STARTED = (stream_head(), chunk(EVENTS["chat"]["one"]))

FAULTS: dict[str, Answer] = {
    "a healthy response": [reply(200, whole("chat"))],
    "an echo with 401": [reply(401, ECHO)],
    "an echo with 400": [reply(400, f"your key {KEY} and {TOKEN}".encode(), type="text/plain")],
    "an echo with 500": [reply(500, f"<html>{KEY} {BASIC}</html>".encode(), type="text/html")],
    "an echo with 200": [reply(200, ECHO)],
    "a web page with 200": [reply(200, f"<html>{KEY}</html>".encode(), type="text/html")],
    "half an echo": [reply(200, ECHO[:60])],
    "a truncated echo": [head(200, "content-length: 999"), ECHO, CLOSE],
    "an echo in a stream": [*STARTED, chunk(event(json.loads(ECHO))), chunk(b"")],
    "invalid JSON in a stream": [*STARTED, chunk(f"data: {{{KEY}\n\n".encode()), chunk(b"")],
    "a redirect": [reply(307, b"", "location: http://elsewhere.test/")],
    "a reset": [RESET],
    "a broken stream": [*STARTED, RESET],
}


ECHOES: dict[str, Answer] = {
    "in the request id": [reply(200, b'{"odd": 1}', f"x-request-id: req-{KEY}")],
    "in the request id of a reply": [reply(200, whole("chat"), f"x-request-id: req-{KEY}")],
    "in the request id of an error": [reply(401, b"{}", f"request-id: {KEY}")],
    "in the rate limit": [reply(429, b"{}", f"x-ratelimit-remaining: {TOKEN}")],
    "in a header": [reply(400, b"{}", f"x-echo: {KEY} {BASIC}")],
    "in an invalid header": [f"HTTP/1.1 200 OK\r\nx echo {KEY}\r\n\r\n".encode(), CLOSE],
    "in the status line": [f"{KEY} {TOKEN}\r\n\r\n".encode(), CLOSE],
    "in a chunk's size": [*STARTED, f"{KEY}\r\n".encode(), CLOSE],
    "in a malformed task": [reply(200, json.dumps({"status": KEY}).encode())],
}


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Collect every logger's DEBUG messages with their arguments."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{record.getMessage()} {record.args!r} {record.__dict__!r}")

    handler = Collector(logging.DEBUG)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def blocking(server: FaultServer, answer: Answer, library: Any, **options: Any) -> list[Any]:
    base_url = server.case(answer).base_url.replace("//", f"//me:{PASSWORD}@")
    with library.Client() as http_client:
        client = Client(base_url=base_url, http_client=http_client, **options)
        return [client, attempt(client.chat.create), attempt(lambda text: list(client.chat.stream(text)))]


def asynchronous(server: FaultServer, answer: Answer, library: Any, **options: Any) -> list[Any]:
    base_url = server.case(answer).base_url.replace("//", f"//me:{PASSWORD}@")

    async def run() -> list[Any]:
        async with library.AsyncClient() as http_client:
            client = AsyncClient(base_url=base_url, http_client=http_client, **options)

            async def read(text: str) -> list[Any]:
                return [delta async for delta in await client.chat.stream(text)]

            return [client, await attempt_async(client.chat.create), await attempt_async(read)]

    return asyncio.run(run())


def attempt(make: Callable[[str], Any]) -> Any:
    try:
        return make("hi")
    except PicccError as error:
        return error


async def attempt_async(make: Callable[[str], Any]) -> Any:
    try:
        return await make("hi")
    except PicccError as error:
        return error


def rendered(thing: Any) -> str:
    """Return everything that a program may show, store or report about an object."""
    texts = [
        repr(thing),
        str(thing),
        repr(copy.copy(thing)),
        repr(copy.deepcopy(thing)),
    ]
    texts.append(pickle.dumps(thing).decode("latin-1"))
    if isinstance(thing, PicccError):
        assert thing.record is not None
        texts.append("".join(traceback.format_exception(thing)))
        texts += [json.dumps(thing.record.to_dict()), repr(getattr(thing, "headers", "")), *reports(thing)]
        texts.append(
            "".join(traceback.TracebackException.from_exception(thing, capture_locals=True).format())
        )
    return "\n".join(texts)


def reports(error: BaseException | None) -> Iterator[str]:
    """Yield an error, its causes and its frames' locals, as an error tracker reports them."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        pending += [current.__cause__, current.__context__]
        yield repr(current) + repr(current.args) + repr(vars(current))
        for frame, _ in traceback.walk_tb(current.__traceback__):
            if "piccc" in frame.f_globals.get("__name__", ""):
                yield repr(list(frame.f_locals.items()))


SOURCES = {"string": KEY, "secret": SecretStr(KEY), "function": lambda: KEY}
MODES = {"blocking": blocking, "asynchronous": asynchronous}
LIBRARIES = {"httpx": httpx, "httpx2": httpx2}
# The key's source and header do not affect how a call fails.
ROWS = list(pairwise(list(product(FAULTS, MODES, LIBRARIES, ["bearer", "x-api-key"], SOURCES))))


@pytest.mark.parametrize(("fault", "mode", "library", "auth", "source"), ROWS)
def test_no_secret_is_shown_stored_logged_or_reported(
    server: FaultServer,
    logs: list[str],
    fault: str,
    mode: str,
    library: str,
    auth: str,
    source: str,
) -> None:
    things = MODES[mode](
        server,
        FAULTS[fault],
        LIBRARIES[library],
        api_key=SOURCES[source],
        auth=auth,
        max_retries=1,
        timeout=Timeout(total=30.0, connect=1.0),
        default_headers={"X-Gateway-Token": TOKEN},
    )
    texts = [*(rendered(thing) for thing in things), *logs]
    assert any("piccc" in line for line in logs)
    for secret in SECRETS:
        assert not [excerpt(text, secret) for text in texts if secret in text]


@pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
@pytest.mark.parametrize("answer", ECHOES.values(), ids=ECHOES)
def test_secrets_echoed_anywhere_in_a_response_are_redacted(
    server: FaultServer, caplog: pytest.LogCaptureFixture, answer: Answer, library: Any
) -> None:
    base_url = server.case(answer).base_url.replace("//", f"//me:{PASSWORD}@")
    with library.Client() as http_client:
        client = Client(
            base_url=base_url,
            api_key=KEY,
            default_headers={"X-Token": TOKEN},
            max_retries=0,
            http_client=http_client,
        )
        things = [
            attempt(client.chat.create),
            attempt(lambda text: list(client.chat.stream(text))),
            attempt(lambda text: client.images.submit(text, model="m")),
            attempt(client.tasks.get),
        ]
    assert isinstance(things[0], PicccError | ChatReply)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("piccc")]
    texts = [*(rendered(thing) for thing in things), *logged]
    for secret in SECRETS:
        assert not [excerpt(text, secret) for text in texts if secret in text]


def excerpt(text: str, secret: str) -> str:
    start = text.index(secret)
    return text[max(0, start - 200) : start + 100]


def test_the_search_finds_a_planted_secret() -> None:
    error = PicccError(f"The key {KEY} is wrong.")
    assert any(KEY in text for text in reports(error))
