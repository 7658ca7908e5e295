"""The seven kinds of call, blocking and on both event loops, over our connections or either HTTP library."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx
import httpx2

from piccc._dialects import dialect_named
from piccc._http.backends import AsyncBackend, SyncBackend, run_sync
from piccc._http.chat_stream import AsyncChatStream, ChatStream
from piccc._http.session import Session
from piccc.config import Config
from piccc.conversation import ChatReply, ChatRequest, Message, Text
from piccc.errors import PicccError
from tests.faults.virtual import VirtualIO

KINDS = ("chat", "chat-stream", "messages", "messages-stream", "submit", "poll", "list")
DIALECTS = {"chat": "openai", "messages": "anthropic"}
ASK = ChatRequest(model="piccc-flash", messages=[Message("user", [Text("Say hello.")])])
ORDER = {"model": "piccc-image", "prompt": "a hedgehog"}


@dataclass(frozen=True, slots=True)
class Mode:
    """How calls are made; without a library, over our own connections."""

    is_async: bool
    library: Any = None
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None

    def __str__(self) -> str:
        kind = "uvloop" if self.new_loop else "async" if self.is_async else "blocking"
        return f"{kind}-{self.library.__name__}" if self.library else kind

    def port(self) -> SyncBackend | AsyncBackend:
        """Return a backend for this mode."""
        return (AsyncBackend if self.is_async else SyncBackend)(library=self.library)


MODES = [Mode(is_async, library) for library in (None, httpx, httpx2) for is_async in (False, True)]
if sys.platform != "win32":
    import uvloop

    MODES.append(Mode(True, new_loop=uvloop.new_event_loop))
OWN_MODES = [mode for mode in MODES if mode.library is None]


def call(mode: Mode, kind: str, config: Config, io: VirtualIO) -> Any:
    """Make one call of a kind; return its reply, or the JSON from a task route."""
    session = Session(config, io)
    if mode.is_async:
        with asyncio.Runner(loop_factory=mode.new_loop) as runner:
            return runner.run(_async_stream(kind, session) if "stream" in kind else _call(kind, session))
    return _blocking_stream(kind, session) if "stream" in kind else run_sync(_call(kind, session))


def calls(mode: Mode, kinds: list[str], config: Config, io: VirtualIO, *, padding: int = 0) -> list[Any]:
    """Make calls in sequence on one event loop; return each one's result or error."""
    session = Session(config, io)
    ask = replace(ASK, extra_body={"padding": "x" * padding}) if padding else ASK

    async def run_all() -> list[Any]:
        results: list[Any] = []
        for kind in kinds:
            try:
                if "stream" not in kind:
                    results.append(await _call(kind, session, ask))
                elif mode.is_async:
                    results.append(await _async_stream(kind, session))
                else:
                    results.append(_blocking_stream(kind, session))
            except PicccError as error:
                results.append(error)
        return results

    if not mode.is_async:
        return run_sync(run_all())
    with asyncio.Runner(loop_factory=mode.new_loop) as runner:
        return runner.run(run_all())


async def _call(kind: str, session: Session, ask: ChatRequest = ASK) -> Any:
    if kind in DIALECTS:
        return await session.chat(dialect_named(DIALECTS[kind]), ask)
    if kind == "submit":
        return (await session.submit("/v1/images/tasks", ORDER, "the-submission-key")).raw
    payload, _ = await session.read("/v1/tasks/task_1" if kind == "poll" else "/v1/tasks?limit=100", json_of)
    return payload


def json_of(payload: object) -> object:
    """Return the parsed JSON unchanged."""
    return payload


def _blocking_stream(kind: str, session: Session) -> ChatReply:
    wire = dialect_named(DIALECTS[kind.removesuffix("-stream")])
    stream = ChatStream(*run_sync(session.stream(wire, ASK)))
    for _ in stream:
        pass
    return stream.reply


async def _async_stream(kind: str, session: Session) -> ChatReply:
    wire = dialect_named(DIALECTS[kind.removesuffix("-stream")])
    stream = AsyncChatStream(*await session.stream(wire, ASK))
    async for _ in stream:
        pass
    return stream.reply
