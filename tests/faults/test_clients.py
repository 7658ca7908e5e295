"""Clients in real programs: streams left early, cancellation, threads, forks, pickling, event loops."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import pickle
import signal
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import httpx
import httpx2
import pytest
import trustme

from piccc import AsyncChatStream, AsyncClient, Client, Image, Message, PicccError, Text
from piccc._http import backends, connections
from piccc._http import chat_stream as streams
from piccc._http.library import BACKEND_VARIABLE
from piccc.errors import APIConnectionError, ConfigurationError, StreamError
from tests.faults.replies import EVENTS, TEXT, whole
from tests.faults.server import CLOSE, HANG, Case, FaultServer, Step, chunk, reply, stream, stream_head

KEY = "pcc_live_for_clients"
LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda library: library.__name__)
BACKENDS = pytest.mark.parametrize("library", [None, httpx, httpx2], ids=["own", "httpx", "httpx2"])
ANSWER: list[Step] = [reply(200, whole("chat"))]
STREAM: list[Step] = [b"".join(step for step in stream(*EVENTS["chat"].values()) if isinstance(step, bytes))]
STARTED: list[Step] = [stream_head(), chunk(EVENTS["chat"]["one"])]


@pytest.fixture(autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Select the HTTP library of the test's `library` parameter."""
    if "library" in request.fixturenames and (library := request.getfixturevalue("library")):
        monkeypatch.setenv(BACKEND_VARIABLE, library.__name__)


@pytest.fixture
def server() -> Any:
    """Run a raw server for one test, so that its connections can be counted."""
    with FaultServer() as running:
        yield running


def blocking(case: Case, **options: Any) -> Client:
    return Client(api_key=KEY, base_url=case.base_url, **options)


def asynchronous(case: Case, **options: Any) -> AsyncClient:
    return AsyncClient(api_key=KEY, base_url=case.base_url, **options)


@BACKENDS
def test_breaking_out_of_a_stream_closes_its_connection(server: FaultServer, library: Any) -> None:
    client = blocking(server.case([*STARTED, HANG]))
    for delta in client.chat.stream("hi"):
        assert delta
        break
    server.wait_until_all_closed()
    for batch in client.chat.stream("hi").batches():
        assert batch
        break
    server.wait_until_all_closed()
    for text in client.chat.stream("hi").texts():
        assert text
        break
    server.wait_until_all_closed()


@BACKENDS
async def test_breaking_out_of_an_async_stream_closes_its_connection(
    server: FaultServer, library: Any
) -> None:
    client = asynchronous(server.case([*STARTED, HANG]))
    async for delta in await client.chat.stream("hi"):
        assert delta
        break
    await asyncio.to_thread(server.wait_until_all_closed)
    stream = await client.chat.stream("hi")
    async for batch in stream.batches():
        assert batch
        break
    await asyncio.to_thread(server.wait_until_all_closed)
    stream = await client.chat.stream("hi")
    async for text in stream.texts():
        assert text
        break
    await asyncio.to_thread(server.wait_until_all_closed)


@BACKENDS
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_each_attempt_sends_the_whole_image(server: FaultServer, library: Any, dialect: Any) -> None:
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + os.urandom(300_000)).decode()
    message = Message("user", [Text("What is it?"), Image(data=data, media_type="image/png"), Text("é")])
    case = server.case([reply(503, b"")], [reply(503, b"")], [reply(200, whole("chat"))])
    create = blocking(case, dialect=dialect).chat.create
    with suppress(PicccError):  # the response is in the OpenAI dialect
        await asyncio.to_thread(create, [message])
    with suppress(PicccError):
        await asynchronous(case, dialect=dialect).chat.create([message])
    assert len(case.requests) == 4
    assert len({request.body for request in case.requests}) == 1
    assert data in json.dumps(json.loads(case.requests[0].body))


@BACKENDS
def test_an_exception_inside_a_stream_closes_its_connection(server: FaultServer, library: Any) -> None:
    client = blocking(server.case([*STARTED, HANG]))

    def read() -> None:
        with client.chat.stream("hi") as stream:
            for delta in stream:
                raise KeyError(delta)

    with pytest.raises(KeyError):
        read()
    server.wait_until_all_closed()


@BACKENDS
async def test_cancelling_a_call_closes_its_connection_and_sends_nothing_more(
    server: FaultServer, library: Any
) -> None:
    loop = asyncio.get_running_loop()
    calls: list[asyncio.Task[Any]] = []
    cancel: Step = lambda: loop.call_soon_threadsafe(calls[-1].cancel)  # noqa: E731  a step of an answer
    case = server.case([cancel, HANG], [*STARTED, cancel, HANG])
    client = asynchronous(case)

    async def read() -> None:
        async for _ in await client.chat.stream("hi"):
            pass

    for make in (lambda: client.chat.create("hi"), read):
        calls.append(asyncio.create_task(make()))
        with pytest.raises(asyncio.CancelledError):
            await calls[-1]
        await asyncio.to_thread(server.wait_until_all_closed)
    assert len(case.requests) == 2


def test_an_interrupt_closes_the_connection_and_sends_nothing_more(server: FaultServer) -> None:
    main = threading.main_thread().ident
    assert main is not None
    interrupt: Step = lambda: signal.pthread_kill(main, signal.SIGINT)  # noqa: E731  a step of an answer
    case = server.case([interrupt, HANG], [*STARTED, interrupt, HANG])
    client = blocking(case)
    with pytest.raises(KeyboardInterrupt):
        client.chat.create("hi")
    server.wait_until_all_closed()
    with pytest.raises(KeyboardInterrupt):
        list(client.chat.stream("hi"))
    server.wait_until_all_closed()
    assert len(case.requests) == 2


@LIBRARIES
def test_the_library_sends_nothing_after_an_interrupt(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connecting, caller_left = threading.Event(), threading.Event()
    outcomes: SimpleQueue[type[BaseException] | None] = SimpleQueue()

    class Slow(library.BaseTransport):  # type: ignore[misc]  its base is a parameter
        """A transport that connects until the caller has left, then tries to send."""

        def handle_request(self, request: Any) -> Any:
            connecting.set()
            caller_left.wait(30)
            request.extensions["trace"]("http11.send_request_headers.started", {})
            return library.Response(500)

    def interrupted(by: float | None, function: Callable[[], Any], *, discard: Callable[[Any], None]) -> Any:
        def call() -> None:
            try:
                function()
            except TimeoutError as error:
                outcomes.put(type(error))
            else:
                outcomes.put(None)

        threading.Thread(target=call, daemon=True).start()
        assert connecting.wait(30)
        raise KeyboardInterrupt  # not by a signal: one that arrives just before a wait does not interrupt it

    monkeypatch.setattr(backends, "call_within", interrupted)
    with library.Client(transport=Slow()) as http_client:
        client = Client(api_key=KEY, base_url="http://slow.test", http_client=http_client, max_retries=0)
        with pytest.raises(KeyboardInterrupt):
            client.chat.create("hi")
        caller_left.set()
        assert outcomes.get(timeout=30) is TimeoutError


@BACKENDS
def test_another_thread_can_close_a_stream(server: FaultServer, library: Any) -> None:
    client = blocking(server.case([*STARTED, HANG]))
    stream = client.chat.stream("hi")
    batches = iter(stream.batches())
    next(batches)
    closer = threading.Thread(target=stream.close)
    closer.start()
    with pytest.raises(StreamError) as caught:
        next(batches)
    closer.join()
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Hello, "
    server.wait_until_all_closed()


@BACKENDS
def test_reading_a_stream_that_was_closed_early_is_an_error(server: FaultServer, library: Any) -> None:
    client = blocking(server.case([*STARTED, HANG]))
    with client.chat.stream("hi") as stream:
        pass
    with pytest.raises(StreamError, match="closed before its end"):
        list(stream)


@pytest.mark.parametrize("iterate", [aiter, AsyncChatStream.texts], ids=["deltas", "texts"])
async def test_an_iteration_that_was_cancelled_does_not_end_like_a_whole_answer(
    server: FaultServer, iterate: Callable[[AsyncChatStream], AsyncGenerator[Any]]
) -> None:
    # What sends a comment to a browser now and then: `asyncio.wait_for(anext(texts), 15)`.
    async with asynchronous(server.case([*STARTED, HANG])).chat.stream("hi") as stream:
        iteration = iterate(stream)
        await anext(iteration)
        waiting = asyncio.ensure_future(iteration.__anext__())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for _ in range(2):
            with pytest.raises(StreamError, match="closed before its end"):
                await anext(iteration)


@BACKENDS
async def test_two_tasks_cannot_read_one_stream(server: FaultServer, library: Any) -> None:
    stream = await asynchronous(server.case([*STARTED, HANG])).chat.stream("hi")

    async def read() -> None:
        async for _ in stream:
            pass

    outcomes = await asyncio.gather(read(), read(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StreamError, StreamError]
    assert "read twice at once" in str(outcomes)


@BACKENDS
@pytest.mark.parametrize("ending", [HANG, CLOSE], ids=lambda ending: ending.name)
def test_a_stream_with_a_finish_reason_is_complete_without_done(
    server: FaultServer, library: Any, ending: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LINGER_SECONDS", 0.05)
    chunks = [chunk(EVENTS["chat"][name]) for name in ("one", "two", "finish")]
    stream = blocking(server.case([stream_head(), *chunks, 0.01, ending])).chat.stream("hi")
    assert "".join(delta.text for delta in stream) == TEXT
    assert stream.reply.finish_reason == "stop"
    server.wait_until_all_closed()


@BACKENDS
def test_iterating_a_finished_stream_again_yields_nothing(server: FaultServer, library: Any) -> None:
    stream = blocking(server.case(STREAM)).chat.stream("hi")
    assert len(list(stream)) == 2
    assert list(stream) == []
    assert stream.reply.text == TEXT


@BACKENDS
def test_an_abandoned_stream_warns_and_closes(server: FaultServer, library: Any) -> None:
    abandoned = [blocking(server.case([*STARTED, HANG])).chat.stream("hi")]
    with pytest.warns(ResourceWarning, match="neither read nor closed"):
        abandoned.clear()
    server.wait_until_all_closed()


@BACKENDS
async def test_an_abandoned_async_stream_warns_and_closes(server: FaultServer, library: Any) -> None:
    abandoned = [await asynchronous(server.case([*STARTED, HANG])).chat.stream("hi")]
    with pytest.warns(ResourceWarning, match="neither read nor closed"):
        abandoned.clear()
    await asyncio.to_thread(server.wait_until_all_closed)


@pytest.mark.parametrize("method", ["texts", "batches", "__aiter__"])
def test_an_iterator_that_outlives_its_event_loop_is_closed_silently(
    server: FaultServer, method: str
) -> None:
    case = server.case([*STARTED, HANG])
    iterators, errors = [], []

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        stream = await asynchronous(case).chat.stream("hi")
        iterators.append(getattr(stream, method)())
        await anext(iterators[0])

    asyncio.run(begin())
    assert errors == []


def test_calls_and_complete_streams_reuse_one_connection(server: FaultServer) -> None:
    client = blocking(server.case(ANSWER, STREAM, STREAM, ANSWER))
    assert client.chat.create("hi").text == TEXT
    assert len(list(client.chat.stream("hi"))) == len(list(client.chat.stream("hi"))) == 2
    assert client.chat.create("hi").text == TEXT
    assert server.connections == 1
    client.close()
    connections.blocking_pool.close()  # clients of other tests may still hold it
    server.wait_until_all_closed()


@BACKENDS
def test_an_async_client_works_on_successive_event_loops(server: FaultServer, library: Any) -> None:
    case = server.case(ANSWER)
    client = asynchronous(case, max_retries=0)

    async def ask() -> str:
        return (await client.chat.create("hi")).text

    assert [asyncio.run(ask()) for _ in range(3)] == [TEXT] * 3
    assert len(case.requests) == 3
    server.wait_until_all_closed()


@BACKENDS
def test_streams_work_on_successive_event_loops(server: FaultServer, library: Any) -> None:
    case = server.case(STREAM)
    client = asynchronous(case, max_retries=0)

    async def ask() -> str:
        async with await client.chat.stream("hi") as stream:
            return "".join([delta.text async for delta in stream])

    assert [asyncio.run(ask()) for _ in range(3)] == [TEXT] * 3
    assert len(case.requests) == 3
    server.wait_until_all_closed()


@BACKENDS
def test_an_async_client_works_on_event_loops_in_eight_threads(server: FaultServer, library: Any) -> None:
    case = server.case(ANSWER)
    client = asynchronous(case, max_retries=0)

    async def ask() -> list[str]:
        return [reply.text for reply in await asyncio.gather(*[client.chat.create("hi") for _ in range(5)])]

    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda _: asyncio.run(ask()), range(8)))
    assert texts == [[TEXT] * 5] * 8
    assert len(case.requests) == 40
    server.wait_until_all_closed()


def test_eight_threads_share_a_blocking_client(server: FaultServer) -> None:
    case = server.case(ANSWER)
    with blocking(case, max_retries=0) as client, ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda _: client.chat.create("hi").text, range(40)))
    assert texts == [TEXT] * 40
    assert len(case.requests) == 40
    assert server.connections <= 8


def test_connection_pools_of_closed_event_loops_are_dropped(server: FaultServer) -> None:
    client = asynchronous(server.case(ANSWER))

    async def ask() -> None:
        await client.chat.create("hi")

    for _ in range(3):
        asyncio.run(ask())
    assert not connections._pools


@BACKENDS
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copy_of_a_used_client_works(
    server: FaultServer, library: Any, copied: Callable[[Client], Client]
) -> None:
    case = server.case(ANSWER)
    client = blocking(case)
    client.chat.create("hi")
    assert copied(client).chat.create("hi").text == TEXT
    assert case.requests[0].headers["authorization"] == case.requests[1].headers["authorization"]


def test_a_copy_keeps_the_http_client(server: FaultServer) -> None:
    case = server.case(ANSWER)
    with httpx.Client(headers={"x-custom": "yes"}) as http_client:
        client = copy.deepcopy(blocking(case, http_client=http_client))
        assert client.chat.create("hi").text == TEXT
    assert case.requests[0].headers["x-custom"] == "yes"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_used_client_is_pickled_without_its_key(
    server: FaultServer, kind: type[Client | AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = server.case(ANSWER)
    client = kind(api_key=KEY, base_url=case.base_url)

    def ask(client: Client | AsyncClient) -> str:
        if isinstance(client, Client):
            return client.chat.create("hi").text
        return asyncio.run(client.chat.create("hi")).text  # type: ignore[arg-type]  # a coroutine

    ask(client)
    loaded = pickle.loads(pickle.dumps(client))  # noqa: S301  our own bytes
    with pytest.raises(ConfigurationError, match="No API key"):
        ask(loaded)
    monkeypatch.setenv("PICCC_API_KEY", "pcc_live_of_the_other_process")
    assert ask(loaded) == TEXT
    assert case.requests[-1].headers["authorization"] == "Bearer pcc_live_of_the_other_process"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_opens_its_own_connections(server: FaultServer) -> None:
    case = server.case(ANSWER)
    client = blocking(case)
    client.chat.create("hi")
    with warnings.catch_warnings():
        # Newer Pythons warn about any fork with threads; the server is one, and this test needs the fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            texts = [client.chat.create("hi").text, asyncio.run(_ask_once(case))]
            os._exit(0 if texts == [TEXT, TEXT] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.chat.create("hi").text == TEXT
    assert len(case.requests) == 4
    assert server.connections == 3


async def _ask_once(case: Case) -> str:
    return (await asynchronous(case).chat.create("hi")).text


@LIBRARIES
def test_a_custom_http_client_is_used_and_left_open(server: FaultServer, library: Any) -> None:
    case = server.case(ANSWER)
    with library.Client(headers={"x-custom": "yes"}, follow_redirects=True) as http_client:
        with blocking(case, http_client=http_client) as client:
            reply = client.chat.create("hi")
        assert not http_client.is_closed
    assert reply.record.backend.split()[0] == library.__name__
    assert case.requests[0].headers["x-custom"] == "yes"
    assert case.requests[0].headers["user-agent"].startswith("piccc/")


@LIBRARIES
async def test_a_custom_async_http_client_is_used_and_left_open(server: FaultServer, library: Any) -> None:
    case = server.case(ANSWER)
    async with library.AsyncClient(headers={"x-custom": "yes"}) as http_client:
        async with asynchronous(case, http_client=http_client) as client:
            reply = await client.chat.create("hi")
        assert not http_client.is_closed
    assert reply.record.backend.split()[0] == library.__name__
    assert case.requests[0].headers["x-custom"] == "yes"


@LIBRARIES
def test_a_custom_http_client_follows_no_redirect_to_another_origin(
    server: FaultServer, library: Any
) -> None:
    with FaultServer() as elsewhere:
        trap = elsewhere.case(ANSWER)
        case = server.case([reply(307, b"", f"location: {trap.base_url}")])
        with (
            library.Client(follow_redirects=True) as http_client,
            pytest.raises(PicccError, match="redirects"),
        ):
            blocking(case, http_client=http_client, auth="x-api-key").chat.create("hi")
    assert trap.requests == []


@LIBRARIES
def test_the_deadline_also_bounds_a_custom_http_client(server: FaultServer, library: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    for start in (b"HTTP/1.1 200 OK\r\nx: ", head + b"\r\n5;", head + b"\r\n5\r\n: hi\n\r\n1;"):
        dripping = [start, *[step for _ in range(3000) for step in (b"x", 0.01)]]
        case = server.case(dripping)
        with library.Client(transport=Wrapping(library.HTTPTransport())) as http_client:
            client = blocking(case, http_client=http_client, timeout=1.0, max_retries=0)
            with pytest.raises(PicccError) as caught:
                client.chat.stream("hi").texts().__next__()
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.may_have_been_billed
        assert caught.value.elapsed < 10  # the server takes 30 seconds


class Wrapping(httpx.BaseTransport):
    """A transport that wraps another, like those for retries, caching and tracing."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def handle_request(self, request: Any) -> Any:
        return self.wrapped.handle_request(request)


@pytest.mark.parametrize(
    ("kind", "given"),
    [(Client, httpx.AsyncClient), (AsyncClient, httpx2.Client), (Client, dict), (AsyncClient, object)],
)
def test_the_error_for_an_invalid_http_client_names_the_valid_classes(kind: Any, given: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(api_key=KEY, http_client=given())
    assert given.__name__ in str(caught.value)
    assert "httpx." in caught.value.hint
    assert "httpx2." in caught.value.hint


@LIBRARIES
def test_a_request_that_waits_for_a_full_pool_counts_as_not_sent(
    server: FaultServer, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library's own timeout must come first, even on a busy machine.
    monkeypatch.setattr(backends, "GRACE", 30.0)
    case = server.case([*STARTED, HANG])
    with library.Client(limits=library.Limits(max_connections=1)) as http_client:
        client = blocking(case, http_client=http_client)
        with client.chat.stream("hi"), pytest.raises(APIConnectionError) as caught:
            client.chat.create("hi", timeout=0.05)
    assert not caught.value.may_have_been_billed
    assert len(case.requests) == 1


@LIBRARIES
def test_a_stream_left_early_frees_its_slot_in_the_pool(server: FaultServer, library: Any) -> None:
    case = server.case([*STARTED, HANG], ANSWER)
    with library.Client(limits=library.Limits(max_connections=1)) as http_client:
        client = blocking(case, http_client=http_client, timeout=5.0)
        for _ in client.chat.stream("hi"):
            break
        assert client.chat.create("hi").text == TEXT


@BACKENDS
def test_the_proxy_from_the_environment_is_used(
    server: FaultServer, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = server.case(ANSWER)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("NO_PROXY", "")
    client = Client(api_key=KEY, base_url=f"http://behind.test/{case.name}")
    assert client.chat.create("hi").text == TEXT
    assert case.requests[0].path.startswith("http://behind.test/")


@BACKENDS
def test_a_connection_that_the_server_closed_is_not_reused(server: FaultServer, library: Any) -> None:
    case = server.case([*ANSWER, CLOSE])
    client = blocking(case, max_retries=0)
    for _ in range(3):
        assert client.chat.create("hi").text == TEXT
        server.wait_until_all_closed()
    assert len(case.requests) == 3


@BACKENDS
def test_all_clients_share_one_certificate_store(
    server: FaultServer, library: Any, monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, tmp_path: Path
) -> None:
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    connections.tls_context.cache_clear()
    with FaultServer(tls=context) as secure:
        case = secure.case(ANSWER)
        for _ in range(2):
            blocking(case).chat.create("hi")
            asyncio.run(_ask_once(case))
    assert connections.tls_context.cache_info().misses == 1


def test_creating_a_client_imports_no_http_library() -> None:
    code = "import sys, piccc; piccc.Client(api_key='x'); piccc.AsyncClient(api_key='x'); print(*sys.modules)"
    done = subprocess.run(  # noqa: S603  our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"httpx", "httpx2", "httpcore"} & set(done.stdout.split())


def test_an_unknown_backend_is_rejected(monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> None:
    monkeypatch.setenv(BACKEND_VARIABLE, "urllib9")
    with pytest.raises(ConfigurationError, match="PICCC_HTTP_BACKEND"):
        blocking(server.case(ANSWER)).chat.create("hi")
