"""An MCP (Model Context Protocol) server with the four media tools, for any agent host.

The tools are those of `piccc.media.agent_tools`, also used with LangChain and LlamaIndex. The server is the
official SDK's; this module has its handlers.

When a host restarts or a connection breaks, the same call may arrive again and must not be paid for twice. So
a submission's key is a digest of the tool, its arguments, the client (`session`, else the client's name) and
how often the call was repeated. A call is new if the same connection repeats it after it received the result.
It is the same if another connection made it within a day, or if this one did not receive the result. A client
can also send its own id for each call (`_meta` with `piccc/callId`) to identify equal calls.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic import Field, create_model

from piccc._version import __version__
from piccc.errors import (
    ConfigurationError,
    InvalidArgumentError,
    MissingExtraError,
    NotFoundError,
    OutputExpired,
    OutputTooLarge,
    OutputWrongType,
    PicccError,
)

try:
    import mcp_types as types
    from anyio import wrap_file
    from mcp import MCPError
    from mcp.server.lowlevel import Server
    from mcp.server.stdio import stdio_server
    from mcp.server.transport_security import TransportSecuritySettings
except ImportError as error:
    raise MissingExtraError("piccc.mcp_server needs the MCP SDK.", hint='pip install "piccc[mcp]"') from error

from piccc._dialects.common import parse
from piccc.config import is_loopback
from piccc.media.agent_tools import (
    ARGUMENTS,
    DESCRIPTIONS,
    GENERATE_IMAGE,
    GENERATE_VIDEO,
    GET_TASK,
    LIST_TASKS,
    Arguments,
    ImageArguments,
    MediaToolRun,
    Show,
    TaskArguments,
    TaskListArguments,
    ToolResult,
    VideoArguments,
    latest_tasks,
    sentence,
    submission_key,
    tasks_in,
)

if TYPE_CHECKING:
    from mcp.server.context import ServerRequestContext
    from starlette.types import ASGIApp, Receive, Scope, Send

    from piccc.client import AsyncClient
    from piccc.media.account import Lost
    from piccc.tasks import Task, TaskType

    Context = ServerRequestContext[Any, Any]

__all__ = ["MediaServer"]

CALL_ID = "piccc/callId"
"""The key in a request's `_meta` for a client's own id of a call."""
SAME_ORDER_SECONDS = 86_400.0
KEPT_SESSIONS = 1000
RECENT = 20
"""The number of tasks on a page of the resource list."""
SETTLE_SECONDS = 10.0
"""How long a stopping server waits for responses to its submissions."""
MAX_RESOURCE_BYTES = 32 * 1024**2
PROMPT = "illustrate"
INSTRUCTIONS = (
    "Generates images and videos. Each generate_ call costs money. If one is still running when its wait "
    f"ends, it returns a task id: pass that to {GET_TASK} instead of generating again. {GET_TASK}, "
    f"{LIST_TASKS} and the resources piccc://tasks/… are free."
)
_TYPES: dict[str, TaskType] = {GENERATE_IMAGE: "image", GENERATE_VIDEO: "video"}
_URI = re.compile(r"piccc://tasks/([^/]+)(?:/outputs/([0-9]{1,4}))?")
_TASK_SCHEMA = {
    "type": "object",
    "properties": {
        "task_id": {"type": "string"},
        "status": {"type": "string"},
        # The server's own fields have any type: a client refuses a whole result that breaks this schema.
        "type": {"description": "image or video"},
        "result": {"description": "The outputs, as the server describes them."},
        "tool_error": {"description": "Why the call failed, and whether to call again."},
    },
}
_LIST_SCHEMA = {"type": "object", "properties": {"tasks": {"type": "array", "items": _TASK_SCHEMA}}}


class MediaServer:
    """The media tools over MCP.

    Args:
        client: submits and reads the tasks; with a ledger in a file, it never pays twice after a restart.
        image_models: the allowed image models. If there is one, the tool uses it; if there are several, the
            MCP client chooses; if there are none, `PICCC_IMAGE_MODEL` is used.
        video_models: the allowed video models, likewise; the variable is `PICCC_VIDEO_MODEL`.
        wait_s: the maximum number of seconds a call waits before it returns a task id to ask for later.
        show: whether results include a finished image: `none`, a `thumbnail` of 512 pixels, or the `image`.
        session: identifies the MCP client; by default the name that it reports.
        lost: what to do about an earlier submission that got no response, as for `client.images.submit`.

    Raises:
        MissingExtraError: the MCP SDK is not installed; raised when this module is imported.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        image_models: Sequence[str] = (),
        video_models: Sequence[str] = (),
        wait_s: float = 60.0,
        show: Show = "thumbnail",
        session: str = "",
        lost: Lost = "ask",
    ) -> None:
        self._client = client
        models = {GENERATE_IMAGE: tuple(image_models), GENERATE_VIDEO: tuple(video_models)}
        self._model = {name: next(iter(each), None) for name, each in models.items()}
        self._arguments = {name: _arguments(name, models.get(name, ())) for name in ARGUMENTS}
        self._wait_s = wait_s
        self._show: Show = show
        self._session = session
        self._lost: Lost = lost
        self._used: OrderedDict[str, _Used] = OrderedDict()
        self._submitting: set[asyncio.Task[Any]] = set()
        self.server: Server[Any] = Server(
            "piccc",
            version=__version__,
            title="Piccc AI: images and videos",
            instructions=INSTRUCTIONS,
            lifespan=self._lifespan,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
        )

    async def serve_stdio(self) -> None:
        """Serve one client over stdin and stdout until stdin ends."""
        lines = StandardInput(sys.stdin.buffer, encoding="utf-8", errors="replace")
        async with stdio_server(stdin=wrap_file(lines)) as (reads, writes):
            await self.server.run(reads, writes, self.server.create_initialization_options())

    async def settle(self) -> None:
        """Wait until pending submissions have responses in the ledger, for at most 10 seconds."""
        if self._submitting:
            await asyncio.wait(self._submitting, timeout=SETTLE_SECONDS)

    @asynccontextmanager
    async def _lifespan(self, server: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.settle()

    def http_app(self, *, token: str, host: str = "127.0.0.1") -> ASGIApp:
        """Return an ASGI application that serves streamable HTTP at `/mcp`.

        It accepts only requests with the token as `Authorization: Bearer …`, a loopback host and, if a
        browser sent them, an origin on this machine.

        Args:
            token: the token that clients must send, in printable ASCII.
            host: the loopback address to listen on.

        Raises:
            ConfigurationError: the token is empty or not valid in a header, or the host is not this machine.
        """
        if not token or token != token.strip() or not (token.isascii() and token.isprintable()):
            raise ConfigurationError(
                "The token is empty, or has characters that are not allowed in a header.",
                hint="Use printable ASCII characters, or let `piccc mcp` generate a token.",
            )
        if not is_loopback(host):
            raise ConfigurationError(
                f"{host!r} is not a loopback address.",
                hint="Listen on 127.0.0.1, behind a proxy with its own access control.",
            )
        # The SDK's own check accepts `localhost:80@evil.example` and rejects 127.0.0.2.
        unchecked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        return _Guarded(self.server.streamable_http_app(transport_security=unchecked), token)

    async def _list_tools(self, ctx: Context, params: object) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[self._tool(name) for name in ARGUMENTS])

    def _tool(self, name: str) -> types.Tool:
        reads = name not in _TYPES
        return types.Tool(
            name=name,
            description=DESCRIPTIONS[name],
            input_schema=self._arguments[name].model_json_schema(),
            output_schema=_LIST_SCHEMA if name == LIST_TASKS else _TASK_SCHEMA,
            annotations=types.ToolAnnotations(
                read_only_hint=reads, destructive_hint=False, idempotent_hint=reads, open_world_hint=True
            ),
        )

    async def _call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in ARGUMENTS:
            raise MCPError(
                types.INVALID_PARAMS,
                f"Unknown tool {params.name!r:.80}. The tools are {', '.join(ARGUMENTS)}.",
            )
        async with _Progress(ctx) as progress:
            run = MediaToolRun(self._client, tool=params.name, show=self._show, on_update=progress.report)
            work = self._run_tool(run, ctx, params.name, dict(params.arguments or {}), progress)
            return _call_result(await run.reported(work))

    async def _run_tool(
        self, run: MediaToolRun, ctx: Context, name: str, given: dict[str, Any], progress: _Progress
    ) -> ToolResult:
        arguments = self._arguments[name].model_validate(given)
        match arguments:
            case ImageArguments() | VideoArguments():
                order = {"model": self._model[name], **arguments.model_dump(exclude_none=True)}
                return await self._generate(run, ctx, name, order, progress)
            case TaskArguments(task_id=task_id, wait_seconds=seconds):
                await run.read(task_id)
                await run.attend(self._wait_s if seconds is None else seconds)
                return await run.report()
            case TaskListArguments(type=type, status=status, limit=limit):
                return await run.list(type, status, limit)
        raise NotImplementedError(name)

    async def _generate(
        self, run: MediaToolRun, ctx: Context, name: str, order: dict[str, Any], progress: _Progress
    ) -> ToolResult:
        client_name = self._session or _client_name(ctx)
        call_id = (ctx.meta or {}).get(CALL_ID)
        used = self._keys_of(_session_id(ctx)) if call_id is None else {}
        caller = _Caller(ctx.request)
        is_answered = False
        try:
            key, is_repeated = await self._key(("mcp", client_name, call_id, name, order), used, caller)
            # Shielded from cancellation: a submission that was sent must reach the ledger to be found again.
            submitting = asyncio.ensure_future(run.place(_TYPES[name], order, key=key, lost=self._lost))
            self._submitting.add(submitting)
            submitting.add_done_callback(self._submitted)
            task = await asyncio.shield(submitting)
            progress.report(task)
            await run.attend(self._wait_s)
            result = await run.report()
            is_answered = task.is_terminal
        except PicccError as error:
            # A failed task is an answer; if there is no task, the same call may submit again.
            is_answered = getattr(error, "task_id", None) is not None
            raise
        finally:
            if not is_answered or await caller.is_gone():
                for unused in [each for each, holder in used.items() if holder is caller]:
                    del used[unused]
            caller.request = None
        if is_repeated:
            return ToolResult(
                f"{result.text} (Generated by an earlier identical call.)", result.artifact, result.images
            )
        return result

    def _submitted(self, submitting: asyncio.Task[Any]) -> None:
        self._submitting.discard(submitting)
        if not submitting.cancelled():
            submitting.exception()  # asyncio logs an exception that nobody retrieved, as after a cancellation

    def _keys_of(self, session: str) -> _Used:
        used = self._used.setdefault(session, {})
        self._used.move_to_end(session)
        while len(self._used) > KEPT_SESSIONS:
            self._used.popitem(last=False)
        return used

    async def _key(self, call: tuple[object, ...], used: _Used, caller: _Caller) -> tuple[str, bool]:
        """Reserve a key that no call on this connection holds; return whether it was already submitted.

        Submissions older than a day are ignored.
        """
        number = 0
        while True:
            key = submission_key(*call, number)
            if key not in used or await used[key].is_gone():
                used[key] = caller
                entry = await self._client.tasks.submission(key)
                if entry is None:
                    return key, False
                if time.time() - entry.at < SAME_ORDER_SECONDS:
                    return key, True
                del used[key]
            number += 1

    async def _list_resources(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        with _as_mcp_errors():
            tasks = await latest_tasks(self._client)
        # The cursor is the last task of the previous page, so that new tasks do not shift the pages.
        ids, cursor = [task.id for task in tasks], params.cursor if params else None
        if cursor is not None and cursor not in ids:
            raise MCPError(types.INVALID_PARAMS, f"Invalid cursor {cursor!r:.80}: list again without one.")
        start = 0 if cursor is None else ids.index(cursor) + 1
        following = ids[start + RECENT - 1] if start + RECENT < len(ids) else None
        resources = [
            types.Resource(
                uri=_uri(task.id),
                name=task.id,
                title=f"{task.type or 'task'}, {task.status}: {' '.join(task.prompt.split())[:60]}",
                mime_type="application/json",
            )
            for task in tasks[start : start + RECENT]
        ]
        return types.ListResourcesResult(resources=resources, next_cursor=following)

    async def _list_templates(self, ctx: Context, params: object) -> types.ListResourceTemplatesResult:
        task = "piccc://tasks/{task_id}"
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    uri_template=task,
                    name="task",
                    description="A task as JSON.",
                    mime_type="application/json",
                ),
                types.ResourceTemplate(
                    uri_template=f"{task}/outputs/{{number}}",
                    name="output",
                    description="The bytes of a task's output with this number, counted from 0.",
                ),
            ]
        )

    async def _read_resource(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        place = _URI.fullmatch(uri)
        if place is None:
            raise MCPError(types.INVALID_PARAMS, f"{uri!r} is not piccc://tasks/ID or …/outputs/NUMBER.")
        with _as_mcp_errors():
            task = await self._client.tasks.get(unquote(place[1]))
            if place[2] is None:
                text = json.dumps(task.to_dict(), ensure_ascii=False)
                document = types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
                return types.ReadResourceResult(contents=[document])
            number, failure = int(place[2]), task.failure()
            if number >= len(task.outputs):
                missing = f"Task {task.id} is {task.status} and has no output {number} (counted from 0)."
                raise NotFoundError(missing if failure is None else failure.message)
            output = task.outputs[number]
            content = await output.bytes(max_bytes=MAX_RESOURCE_BYTES)
        blob = base64.b64encode(content).decode()
        contents = types.BlobResourceContents(uri=uri, mime_type=output.mime_type or None, blob=blob)
        return types.ReadResourceResult(contents=[contents])

    async def _list_prompts(self, ctx: Context, params: object) -> types.ListPromptsResult:
        subject = types.PromptArgument(name="subject", description="What to show.", required=True)
        kind = types.PromptArgument(name="kind", description="image or video; image by default.")
        prompt = types.Prompt(
            name=PROMPT,
            title="Illustrate",
            description="Describe a subject, and generate an image or a video of it.",
            arguments=[subject, kind],
        )
        return types.ListPromptsResult(prompts=[prompt])

    async def _get_prompt(self, ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        given = {name: text.strip() for name, text in (params.arguments or {}).items()}
        kind = (given.get("kind") or "image").lower()
        if params.name != PROMPT or not given.get("subject") or kind not in ("image", "video"):
            raise MCPError(
                types.INVALID_PARAMS,
                f"The only prompt is {PROMPT!r}, with a subject and the kind image or video.",
            )
        article = "an" if kind == "image" else "a"
        text = (
            f"Make {article} {kind} of: {given['subject']}\n\nFirst describe it in full sentences: subject, "
            f"composition, light, style{' and movement' if kind == 'video' else ''}. Then call "
            f"generate_{kind} once. If it is still running, wait for it with {GET_TASK}. Show me the result "
            "and its URL."
        )
        message = types.PromptMessage(role="user", content=types.TextContent(text=text))
        return types.GetPromptResult(messages=[message])


class _Caller:
    """The caller of a running tool. Over HTTP a call outlives its connection: then nobody gets the result."""

    def __init__(self, request: Any) -> None:
        self.request = request  # None over stdio, and once the call has ended

    async def is_gone(self) -> bool:
        return self.request is not None and await self.request.is_disconnected()


_Used = dict[str, _Caller]
"""The keys of a connection's calls that are running or were answered, each with its caller."""


class StandardInput(TextIOWrapper):
    """Standard input that replaces lone surrogates with U+FFFD.

    JavaScript hosts escape half of a truncated emoji. The SDK's parser rejects such a line, and the request
    gets no response: https://github.com/modelcontextprotocol/python-sdk/pull/2766.
    """

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed: IOBase reads bytes
        """Return the next line."""
        line = super().readline(size)
        if "\\u" in line and "\\ud" in line.lower():
            with suppress(ValueError):  # the SDK rejects lines that are not JSON
                line = json.dumps(parse(line)) + "\n"
        return line


class _Progress:
    """A reporter of a task's progress while a call waits, which awaits all reports on exit."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._last = -1.0
        self._reports: set[asyncio.Task[None]] = set()

    def report(self, task: Task) -> None:
        # The protocol requires each value to be larger than the last.
        done = 100.0 if task.is_terminal else min(task.progress or 0.0, 99.0)
        self._last = max(self._last + 0.001, done)
        message = f"{task.type or 'task'} {task.id}: {task.status}"
        reporting = asyncio.ensure_future(self._ctx.session.report_progress(self._last, 100.0, message))
        self._reports.add(reporting)

    async def __aenter__(self) -> _Progress:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await asyncio.gather(*self._reports, return_exceptions=True)
        for reporting in self._reports:
            reporting.cancel()


class _Guarded:
    """Middleware that rejects requests with another host, another site's origin, or no valid token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope["headers"])):
            status, reason = refusal
            headers = [(b"content-type", b"text/plain")]
            headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode() + b"\n"})
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, str] | None:
        """Return a status and a message, or None to accept; a repeated header counts as invalid."""

        def values(wanted: bytes) -> list[bytes]:
            return [value.strip(b" \t") for name, value in headers if name == wanted]

        if not _is_local([b"http://" + host for host in values(b"host")]):
            return 421, "Send one Host header, with the address that `piccc mcp` printed."
        if values(b"origin") and not _is_local(values(b"origin")):
            return 403, "Only pages on this machine may send requests."
        # The scheme is case-insensitive (RFC 9110, section 11.1).
        schemes = [value.partition(b" ") for value in values(b"authorization")]
        tokens = [token.strip() for scheme, _, token in schemes if scheme.lower() == b"bearer"]
        if len(schemes) != 1 or not tokens or not hmac.compare_digest(tokens[0], self._token):
            return 401, "Send the token from `piccc mcp` in one header: Authorization: Bearer TOKEN."
        return None


def _is_local(urls: Sequence[bytes]) -> bool:
    """Return whether this is exactly one URL, with only a scheme, a loopback host and perhaps a port."""
    try:
        (url,) = (each.decode("ascii") for each in urls)
        place = urlsplit(url)
        is_plain = url.endswith(f"://{place.netloc}") and "@" not in url and place.port != 0
        return is_plain and is_loopback(place.hostname or "")
    except ValueError:  # none, several, an invalid port, or not ASCII
        return False


def _arguments(name: str, models: Sequence[str]) -> type[Arguments]:
    """Return the arguments of a tool, including the model if there are several to choose from."""
    if len(models) < 2:
        return ARGUMENTS[name]
    choice: Any = Literal[tuple(models)]
    field = Field(default=models[0], description="The model to use.")
    return create_model(ARGUMENTS[name].__name__, __base__=ARGUMENTS[name], model=(choice, field))


def _uri(task_id: str) -> str:
    return f"piccc://tasks/{quote(task_id, safe='')}"


def _call_result(result: ToolResult) -> types.CallToolResult:
    content: list[types.ContentBlock] = [types.TextContent(text=result.text)]
    content += [
        types.ImageContent(data=each["base64"], mime_type=each["mime_type"]) for each in result.images
    ]
    tasks = [] if "tasks" in result.artifact else tasks_in(result.artifact)
    content += [
        types.ResourceLink(
            # Not piccc://…: adapters turn it into an image block, whose URL the model's provider fetches.
            uri=output.url,
            name=f"{task.id}-{number}",
            mime_type=output.mime_type or None,
            description=f"The bytes are also at {_uri(task.id)}/outputs/{number}",
        )
        for task in tasks
        for number, output in enumerate(task.outputs)
    ]
    return types.CallToolResult(
        content=content, structured_content=result.artifact, is_error=result.error is not None
    )


@contextmanager
def _as_mcp_errors() -> Iterator[None]:
    """Convert our errors to MCP errors, including their hints."""
    try:
        yield
    except PicccError as error:
        is_client_error = isinstance(error, NotFoundError | InvalidArgumentError | OutputExpired)
        code = types.INVALID_PARAMS if is_client_error else types.INTERNAL_ERROR
        # The hints of these errors are about arguments of Python methods.
        has_python_hint = isinstance(error, OutputTooLarge | OutputWrongType)
        hint = "Download it from its URL in the task." if has_python_hint else error.hint
        raise MCPError(code, f"{sentence(error.message)} {hint}".strip()) from error


def _client_name(ctx: Context) -> str:
    params = ctx.session.client_params
    return params.client_info.name if params is not None and params.client_info is not None else ""


def _session_id(ctx: Context) -> str:
    headers: Mapping[str, str] = getattr(ctx.request, "headers", {})
    return headers.get("mcp-session-id", "")
