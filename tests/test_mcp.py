"""`piccc mcp` with the official client: tools, results, resources, keys, disconnects, HTTP security."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    CallToolResult,
    ImageContent,
    ResourceLink,
    TextContent,
)
from pydantic_core import from_json

from langchain_piccc import PicccMediaToolkit
from llama_index_piccc import PicccMediaToolSpec
from piccc import AsyncClient, Polling, SpendLimit
from piccc import Client as PicccClient
from piccc.cli.mcp import _serve_http
from piccc.emulator import Emulator, ManualClock
from piccc.errors import ConfigurationError
from piccc.mcp_server import CALL_ID, MediaServer, StandardInput
from piccc.media.agent_tools import ARGUMENTS, DESCRIPTIONS

QUICK = Polling(min=0.01, max=0.02)
TOKEN = "a token of the test's"
URL = "https://files.example.com/a.png"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    with Emulator(speed=math.inf) as running:
        yield running


def piccc_client(emulator: Emulator, **settings: Any) -> AsyncClient:
    return AsyncClient(base_url=emulator.base_url, api_key=emulator.api_key, **{"polling": QUICK, **settings})


def server(emulator: Emulator, *, client: AsyncClient | None = None, **settings: Any) -> MediaServer:
    models = {"image_models": ["piccc-image"], "video_models": ["piccc-video"]}
    return MediaServer(client or piccc_client(emulator), **{**models, **settings})


def text_of(result: CallToolResult) -> str:
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


async def wait_for_submission(emulator: Emulator) -> None:
    """Wait until a task has been submitted."""
    async with asyncio.timeout(60):
        while not any(request.method == "POST" and request.done for request in emulator.requests):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the emulator runs in another thread


async def make(client: Client, prompt: str = "A mug", **more: Any) -> CallToolResult:
    return await client.call_tool("generate_image", {"prompt": prompt}, **more)


async def test_tools_match_those_of_the_framework_integrations(emulator: Emulator) -> None:
    async with Client(server(emulator).server) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name: tool.description for tool in tools} == DESCRIPTIONS
    assert {tool.name: tool.input_schema for tool in tools} == {
        name: arguments.model_json_schema() for name, arguments in ARGUMENTS.items()
    }
    assert [bool(tool.annotations and tool.annotations.read_only_hint) for tool in tools] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_media_task", {"task_id": "nobody's"}),
        ("generate_image", {"prompt": "A kite", "resolution": "9K"}),
        ("generate_image", {"prompt": "A kite", "colour": "red"}),
        ("list_media_tasks", {"limit": 2}),
    ],
)
async def test_tool_results_match_those_of_the_framework_integrations(
    name: str, arguments: dict[str, Any], emulator: Emulator
) -> None:
    client = PicccClient(base_url=emulator.base_url, api_key=emulator.api_key, polling=QUICK)
    await asyncio.to_thread(client.images.generate, "A mug", model="piccc-image")
    async with Client(server(emulator).server) as host:
        mcp_result = await host.call_tool(name, arguments)
    tools = {tool.name: tool for tool in PicccMediaToolkit(client=client).get_tools()}
    call = {"type": "tool_call", "id": "1", "name": name, "args": arguments}
    langchain_result = await asyncio.to_thread(tools[name].invoke, call)
    llama_index_result = await asyncio.to_thread(PicccMediaToolSpec(client).run, name, arguments)
    assert (
        text_of(mcp_result).replace("req_", "") == llama_index_result.content.replace("req_", "")
        or mcp_result.is_error
    )
    if "nobody" not in str(arguments):  # its request id differs
        assert (text_of(mcp_result), mcp_result.structured_content) == (
            langchain_result.content,
            langchain_result.artifact,
        )
    assert mcp_result.is_error is (langchain_result.status == "error")


async def test_a_finished_image_is_returned_as_content_a_link_and_data(emulator: Emulator) -> None:
    progress: list[tuple[float, float | None, str | None]] = []

    async def note(done: float, total: float | None, message: str | None) -> None:
        progress.append((done, total, message))

    async with Client(server(emulator, show="thumbnail").server) as client:
        result = await make(client, progress_callback=note)
        _, image, link = result.content
        assert isinstance(image, ImageContent)
        assert isinstance(link, ResourceLink)
        assert base64.b64decode(image.data)[:4] == b"\x89PNG"
        task_id = result.structured_content["task_id"]
        read = await client.read_resource(f"piccc://tasks/{task_id}/outputs/0")
    assert isinstance(read.contents[0], BlobResourceContents)
    assert base64.b64decode(read.contents[0].blob)[:4] == b"\x89PNG"
    assert link.uri == result.structured_content["result"]["outputs"][0]["url"]
    assert result.structured_content["status"] == "completed"
    assert text_of(result).startswith("The image is finished")
    assert progress
    assert [done for done, _, _ in progress] == sorted({done for done, _, _ in progress})


@pytest.mark.parametrize(
    "fields",
    [{"result": URL}, {"result": [URL]}, {"type": None, "url": URL}, {"type": 3, "tool_error": None}],
)
async def test_a_result_is_accepted_whatever_fields_the_server_sends(fields: dict[str, Any]) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        task = {"task_id": "t", "status": "completed", "images": [URL], **fields}
        return httpx2.Response(200, json={"data": [task]} if request.url.path == "/v1/tasks" else task)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as http_client:
        piccc = AsyncClient(base_url="http://api.test", api_key="k", polling=QUICK, http_client=http_client)
        served = MediaServer(piccc, image_models=["m"])
        async with Client(served.server) as client:
            for tool, arguments in (
                ("generate_image", {"prompt": "A mug"}),
                ("get_media_task", {"task_id": "t"}),
                ("list_media_tasks", {}),
            ):
                result = await client.call_tool(tool, arguments)  # the client validates it
                assert not result.is_error


async def test_recent_tasks_are_resources_and_a_prompt_requests_a_generation(emulator: Emulator) -> None:
    async with Client(server(emulator).server) as client:
        made = (await make(client)).structured_content
        (resource,) = (await client.list_resources()).resources
        for uri in (resource.uri, resource.uri.replace("task_", "%74ask_")):
            read = await client.read_resource(uri)
            assert json.loads(read.contents[0].text)["task_id"] == made["task_id"]  # type: ignore[union-attr]
        assert len((await client.list_resource_templates()).resource_templates) == 2
        (prompt,) = (await client.list_prompts()).prompts
        rendered = await client.get_prompt(prompt.name, {"subject": "a kiln", "kind": "video"})
    assert "generate_video" in rendered.messages[0].content.text  # type: ignore[union-attr]


async def test_recent_tasks_are_listed_page_by_page(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("piccc.mcp_server.RECENT", 2)
    async with Client(server(emulator).server) as client:
        made = [(await make(client, f"Mug {number}")).structured_content["task_id"] for number in range(3)]
        first = await client.list_resources()
        await make(client, "Another")  # does not shift the pages
        second = await client.list_resources(cursor=first.next_cursor)
        with pytest.raises(MCPError, match="list again without one"):
            await client.list_resources(cursor="nobody's")
    listed = [resource.name for page in (first, second) for resource in page.resources]
    assert (listed, second.next_cursor) == (made[::-1], None)


INVALID_REQUESTS: dict[str, Any] = {
    "an unknown tool": lambda client: client.call_tool("make_coffee", {}),
    "an unknown resource": lambda client: client.read_resource("piccc://tasks/nobody"),
    "a foreign URI": lambda client: client.read_resource("piccc://else/1"),
    "a task id that is not a valid path segment": lambda client: client.read_resource("piccc://tasks/.."),
    "a prompt without its argument": lambda client: client.get_prompt("illustrate", {}),
}


@pytest.mark.parametrize("what", INVALID_REQUESTS)
async def test_an_invalid_request_is_an_error_with_an_explanation(what: str, emulator: Emulator) -> None:
    async with Client(server(emulator).server) as client:
        with pytest.raises(MCPError) as failure:
            await INVALID_REQUESTS[what](client)
    assert len(failure.value.error.message) > 20
    assert failure.value.error.code == INVALID_PARAMS


UNREADABLE_OUTPUTS = {
    "of a failed task": ({"POST /v1/images/tasks": "failed"}, 0, "failed: The generation failed."),
    "of a moderated task": ({"POST /v1/images/tasks": "moderated"}, 0, "refused by the content policy."),
    "that does not exist": ({}, 1, "is completed and has no output 1 (counted from 0)."),
    "with an expired URL": ({"GET /files/*": "expired-url"}, 0, "no new URL"),
    "that is too large": ({}, 0, "Download it from its URL in the task."),
    "that is a web page": ({"GET /files/*": "html"}, 0, "Download it from its URL in the task."),
}


@pytest.mark.parametrize("what", UNREADABLE_OUTPUTS)
async def test_an_unreadable_output_is_explained_without_python_terms(
    what: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, index, explanation = UNREADABLE_OUTPUTS[what]
    for route, fault in faults.items():
        emulator.fault(fault, route=route)
    if what == "that is too large":
        monkeypatch.setattr("piccc.mcp_server.MAX_RESOURCE_BYTES", 1000)
    async with Client(server(emulator, show="none").server) as client:
        task_id = (await make(client)).structured_content["task_id"]
        with pytest.raises(MCPError) as failure:
            await client.read_resource(f"piccc://tasks/{task_id}/outputs/{index}")
    assert explanation in failure.value.error.message
    assert "=" not in failure.value.error.message, "it names a Python argument"


INVALID_ARGUMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "no prompt": ("generate_image", {}),
    "a blank prompt": ("generate_image", {"prompt": " \n"}),
    "a prompt that is a number": ("generate_image", {"prompt": 5}),
    "a misspelt name": ("generate_image", {"prompt": "A mug", "aspectRatio": "1:1"}),
    "a choice in the wrong case": ("generate_image", {"prompt": "A mug", "resolution": "4k"}),
    "a model that is not allowed": ("generate_image", {"prompt": "A mug", "model": "dear"}),
    "a boolean for a number": ("generate_video", {"prompt": "A mug", "duration_seconds": True}),
    "a fraction": ("generate_video", {"prompt": "A mug", "duration_seconds": 1.5}),
    "no task": ("get_media_task", {"task_id": " "}),
    "too many": ("list_media_tasks", {"limit": 51}),
}


@pytest.mark.parametrize("what", INVALID_ARGUMENTS)
async def test_invalid_arguments_are_a_tool_error_and_nothing_is_sent(what: str) -> None:
    unreachable = AsyncClient(base_url="http://127.0.0.1:9", api_key="none", max_retries=0)
    name, arguments = INVALID_ARGUMENTS[what]
    made = MediaServer(
        unreachable, image_models=["piccc-image", "piccc-image-2"], video_models=["piccc-video"]
    )
    async with Client(made.server) as host:
        result = await host.call_tool(name, arguments)
    assert result.is_error
    assert text_of(result).endswith(". Nothing was created. Correct the arguments and call again.")
    assert result.structured_content["tool_error"]["may_retry"]


async def test_a_reached_spend_limit_is_a_tool_error_and_nothing_is_billed(emulator: Emulator) -> None:
    client = piccc_client(emulator, spend_limit=SpendLimit(max_tasks=0))
    async with Client(server(emulator, client=client).server) as host:
        result = await make(host)
    assert result.is_error
    assert "spend limit is used up" in text_of(result)
    assert not emulator.charges


async def test_several_models_become_an_argument_that_rejects_others(emulator: Emulator) -> None:
    made = server(emulator, image_models=["piccc-image", "piccc-image-2"])
    async with Client(made.server) as host:
        tool = (await host.list_tools()).tools[0]
        assert tool.input_schema["properties"]["model"]["enum"] == ["piccc-image", "piccc-image-2"]
        allowed = await host.call_tool("generate_image", {"prompt": "A mug", "model": "piccc-image"})
        refused = await host.call_tool("generate_image", {"prompt": "A mug", "model": "dear"})
    assert (allowed.is_error, refused.is_error) == (False, True)
    assert "model: Input should be 'piccc-image' or 'piccc-image-2'" in text_of(refused)
    assert len(emulator.charges) == 1


async def test_a_call_is_billed_once_however_often_the_host_restarts(
    emulator: Emulator, tmp_path: Path
) -> None:
    def fresh() -> MediaServer:
        return server(emulator, client=piccc_client(emulator, ledger=tmp_path / "tasks.db"))

    ids = []
    for _ in range(3):
        async with Client(fresh().server) as host:
            ids.append((await make(host)).structured_content["task_id"])
    assert len(set(ids)) == len(emulator.charges) == 1
    async with Client(fresh().server) as host:
        first, second = await make(host), await make(host)
    assert "Generated by an earlier identical call" in text_of(first)
    assert first.structured_content["task_id"] == ids[0]
    assert second.structured_content["task_id"] != ids[0], (
        "a call repeated after its result creates a new task"
    )


async def test_a_call_id_from_the_client_identifies_repeated_calls(emulator: Emulator) -> None:
    async with Client(server(emulator).server) as host:
        same = [await make(host, meta={CALL_ID: "1"}) for _ in range(2)]
        other = await make(host, meta={CALL_ID: "2"})
    ids = [result.structured_content["task_id"] for result in [*same, other]]
    assert ids[0] == ids[1] != ids[2]


LINES: dict[str, tuple[bytes, str]] = {
    "half a surrogate pair, as JavaScript writes it": (
        rb'{"prompt": "half \ud83d of it"}',
        "half \ufffd of it",
    ),
    "half a surrogate pair in capitals": (
        rb'{"prompt": "\UD83D \uD83D"}'.replace(rb"\U", rb"\u"),
        "\ufffd \ufffd",
    ),
    "a complete surrogate pair": (rb'{"prompt": "\ud83d\ude00"}', "\U0001f600"),
    "invalid UTF-8": (b'{"prompt": "\xff"}', "\ufffd"),
    "plain": ('{"prompt": "é"}'.encode(), "é"),
}


@pytest.mark.parametrize("what", LINES)
def test_an_input_line_with_invalid_text_is_repaired_and_not_dropped(what: str) -> None:
    line, text = LINES[what]
    lines = StandardInput(BytesIO(line + b"\nnot JSON \\ud83d\n"), encoding="utf-8", errors="replace")
    assert from_json(lines.readline()) == {"prompt": text}
    assert lines.readline() == "not JSON \\ud83d\n", "the SDK rejects it"
    assert lines.readline() == ""


async def test_two_identical_concurrent_calls_create_two_tasks(emulator: Emulator) -> None:
    async with Client(server(emulator).server) as host:
        both = await asyncio.gather(make(host), make(host))
    assert len({result.structured_content["task_id"] for result in both}) == 2


async def test_a_cancelled_call_continues_and_a_repeated_call_finds_it() -> None:
    with Emulator(speed=math.inf, clock=ManualClock(time.time())) as emulator:
        async with Client(server(emulator, wait_s=60).server) as host:
            pending = asyncio.ensure_future(make(host))
            await wait_for_submission(emulator)
            pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending
            emulator.advance(60)
            again = await make(host)
    assert "Generated by an earlier identical call" in text_of(again)
    assert len(emulator.charges) == 1


async def test_a_stopping_server_waits_for_responses_to_its_submissions() -> None:
    with Emulator(clock=ManualClock(time.time())) as emulator:
        emulator.fault("slow:5", route="POST *")
        client = piccc_client(emulator)

        async def run_session() -> None:
            async with Client(server(emulator, client=client).server) as host:
                pending = asyncio.ensure_future(make(host))
                async with asyncio.timeout(60):
                    while not emulator.requests:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                pending.cancel()

        session = asyncio.ensure_future(run_session())
        await asyncio.wait([session], timeout=0.3)
        assert not session.done()
        await emulator.aadvance(5)
        await session
        assert len(emulator.charges) == len([task async for task in client.tasks.list()]) == 1


async def test_a_long_task_is_returned_unfinished_and_checked_later() -> None:
    with Emulator(clock=ManualClock(time.time())) as emulator:
        async with Client(server(emulator, wait_s=0).server) as host:
            first = await make(host)
            again = await make(host)
            assert again.structured_content["task_id"] == first.structured_content["task_id"]
            assert "Check it later with get_media_task" in text_of(first)
            emulator.advance(120)
            task_id = first.structured_content["task_id"]
            later = await host.call_tool("get_media_task", {"task_id": task_id, "wait_seconds": 5})
    assert later.structured_content["status"] == "completed"


COMMAND = ["-m", "piccc", "mcp"]


def environment(emulator: Emulator, folder: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PICCC_BASE_URL": emulator.base_url,
        "PICCC_API_KEY": emulator.api_key,
        "PICCC_IMAGE_MODEL": "piccc-image",
        "PICCC_LEDGER": str(folder / "tasks.db"),
    }


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
async def test_the_same_call_finds_the_task_of_a_killed_server_process(
    how: signal.Signals, tmp_path: Path
) -> None:
    with Emulator(clock=ManualClock(time.time())) as emulator:
        variables = environment(emulator, tmp_path)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *COMMAND,
            env=variables,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        handshake = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "mcp", "version": "0.1.0"},
        }
        for message in (
            {"id": 1, "method": "initialize", "params": handshake},
            {"method": "notifications/initialized"},
            {
                "id": 2,
                "method": "tools/call",
                "params": {"name": "generate_image", "arguments": {"prompt": "A mug"}},
            },
        ):
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        await wait_for_submission(emulator)
        process.send_signal(how)
        assert await process.wait() == -how, "it exits although its stdin is open"
        emulator.advance(120)
        parameters = StdioServerParameters(command=sys.executable, args=COMMAND, env=variables)
        async with Client(stdio_client(parameters)) as host:
            found = await make(host)
        assert len(emulator.charges) == 1
        assert found.structured_content["status"] == "completed"


@asynccontextmanager
async def served(made: MediaServer) -> AsyncIterator[str]:
    """Serve over HTTP in this event loop; yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        running = uvicorn.Server(uvicorn.Config(made.http_app(token=TOKEN), log_level="error", ws="none"))
        serving = asyncio.ensure_future(running.serve([bound]))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/mcp"
        running.should_exit = True
        await serving


async def test_a_tool_call_works_over_streamable_http(emulator: Emulator) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        served(server(emulator)) as url,
        httpx2.AsyncClient(headers=headers) as http,
        Client(streamable_http_client(url, http_client=http)) as host,
    ):
        result = await make(host)
    assert result.structured_content["status"] == "completed"


VALID = ("authorization", f"Bearer {TOKEN}")
HEADERS: dict[str, tuple[list[tuple[str, str]], int]] = {
    "the token": ([VALID], 200),
    "the token, its scheme in lower case": ([("authorization", f"bearer  {TOKEN}")], 200),
    "no token": ([], 401),
    "another token": ([("authorization", "Bearer x")], 401),
    "the token with another scheme": ([("authorization", f"Basic {TOKEN}")], 401),
    "two tokens": ([VALID, ("authorization", "Bearer x")], 401),
    "this machine by name": ([VALID, ("host", "LocalHost.")], 200),
    "this machine by another address": ([VALID, ("host", "127.0.0.2:80")], 200),
    "this machine by IPv6": ([VALID, ("host", "[0:0:0:0:0:0:0:1]:80")], 200),
    "another host": ([VALID, ("host", "evil.example")], 421),
    "another host that starts with ours": ([VALID, ("host", "127.0.0.1.evil.example")], 421),
    "another host after a user that looks like ours": ([VALID, ("host", "localhost:80@evil.example")], 421),
    "another host instead of a port": ([VALID, ("host", "localhost:evil.example")], 421),
    "no host": ([VALID, ("host", "")], 421),
    "the wildcard address": ([VALID, ("host", "0.0.0.0")], 421),  # noqa: S104
    "a page from this machine": ([VALID, ("origin", "https://localhost:3000")], 200),
    "a page from another origin": ([VALID, ("origin", "https://evil.example")], 403),
    "a page from an origin that starts like ours": (
        [VALID, ("origin", "http://localhost:80.evil.example")],
        403,
    ),
    "a page without an origin": ([VALID, ("origin", "null")], 403),
    "a page with two origins": (
        [VALID, ("origin", "http://localhost"), ("origin", "http://evil.example")],
        403,
    ),
}


async def test_http_rejects_unknown_tokens_hosts_and_origins(emulator: Emulator) -> None:
    handshake = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": handshake}
    accept = ("accept", "application/json, text/event-stream")
    async with served(server(emulator)) as url, httpx2.AsyncClient() as http:
        statuses = {
            what: (await http.post(url, json=message, headers=[accept, *headers])).status_code
            for what, (headers, _) in HEADERS.items()
        }
        preflight = await http.options(
            url, headers={"origin": "http://localhost:3000", "access-control-request-method": "POST"}
        )
    assert statuses == {what: status for what, (_, status) in HEADERS.items()}
    assert not [name for name in preflight.headers if name.startswith("access-control")]


@pytest.mark.parametrize("is_running", [False, True], ids=["ended", "running"])
async def test_a_call_whose_http_connection_broke_is_found_in_its_session(is_running: bool) -> None:
    def call(number: int) -> dict[str, Any]:
        params = {"name": "generate_image", "arguments": {"prompt": "A mug"}}
        return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}

    handshake = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    headers = {"authorization": f"Bearer {TOKEN}", "accept": "application/json, text/event-stream"}
    with Emulator(clock=ManualClock(time.time())) as emulator:
        made = server(emulator, show="none")
        async with served(made) as url, httpx2.AsyncClient(headers=headers, timeout=60) as http:
            message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": handshake}
            opened = await http.post(url, json=message)
            http.headers["mcp-session-id"] = opened.headers["mcp-session-id"]
            await http.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
            pending = asyncio.ensure_future(http.post(url, json=call(2)))
            await wait_for_submission(emulator)
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
            if not is_running:
                await emulator.aadvance(120)
                async with asyncio.timeout(60):
                    while not any(request.method == "GET" for request in emulator.requests):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            async with http.stream("POST", url, json=call(3)) as again:
                await emulator.aadvance(120)
                text = (await again.aread()).decode()
        assert "Generated by an earlier identical call" in text
        assert len(emulator.charges) == 1


@pytest.mark.parametrize(
    ("token", "host"),
    [("", "127.0.0.1"), ("é", "127.0.0.1"), (TOKEN, "0.0.0.0"), (TOKEN, "example.com")],  # noqa: S104
)
def test_http_requires_a_valid_token_and_a_loopback_host(token: str, host: str, emulator: Emulator) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        server(emulator).http_app(token=token, host=host)
    assert refusal.value.hint


async def test_a_port_in_use_is_an_error_with_a_hint(emulator: Emulator) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(ConfigurationError, match="cannot listen") as refusal,
    ):
        await _serve_http(server(emulator), "127.0.0.1", taken.getsockname()[1], TOKEN)
    assert "a free port" in refusal.value.hint


async def test_llama_indexs_mcp_tools_generate_an_image(emulator: Emulator, tmp_path: Path) -> None:
    from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

    client = BasicMCPClient(sys.executable, args=COMMAND, env=environment(emulator, tmp_path))
    tools = {tool.metadata.name: tool for tool in await McpToolSpec(client).to_tool_list_async()}
    output = await tools["generate_image"].acall(prompt="A mug")
    assert "The image is finished" in str(output)
