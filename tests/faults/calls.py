"""The seven kinds of call, blocking and asynchronous, over either HTTP library and either event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2

from piccc._dialects import dialect_named
from piccc._http.backend import run_sync
from piccc._http.chat_stream import AsyncChatStream, ChatStream
from piccc._http.httpx_backend import AsyncBackend, SyncBackend
from piccc.config import Config
from piccc.conversation import ChatReply, ChatRequest, Message, Text
from piccc.session import Session
from tests.faults.virtual import VirtualIO

KINDS = ("chat", "chat-stream", "messages", "messages-stream", "submit", "poll", "list")
DIALECTS = {"chat": "openai", "messages": "anthropic"}
ASK = ChatRequest(model="piccc-flash", messages=[Message("user", [Text("Say hello.")])])
ORDER = {"model": "piccc-image", "prompt": "a hedgehog"}


@dataclass(frozen=True, slots=True)
class Mode:
    """How calls are made."""

    is_async: bool
    library: Any
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None

    def __str__(self) -> str:
        kind = "uvloop" if self.new_loop else "async" if self.is_async else "blocking"
        return f"{kind}-{self.library.__name__}"

    def port(self) -> SyncBackend | AsyncBackend:
        """Return a port of this mode."""
        return (AsyncBackend if self.is_async else SyncBackend)(library=self.library)


MODES = [Mode(is_async, library) for is_async in (False, True) for library in (httpx, httpx2)]
if sys.platform != "win32":
    import uvloop

    MODES.append(Mode(True, httpx2, uvloop.new_event_loop))


def call(mode: Mode, kind: str, config: Config, io: VirtualIO) -> Any:
    """Make one call of a kind and return what it gave: a reply, or the JSON of the task routes."""
    session = Session(config, io)
    if mode.is_async:
        with asyncio.Runner(loop_factory=mode.new_loop) as runner:
            return runner.run(_async_stream(kind, session) if "stream" in kind else _call(kind, session))
    return _blocking_stream(kind, session) if "stream" in kind else run_sync(_call(kind, session))


async def _call(kind: str, session: Session) -> Any:
    if kind in DIALECTS:
        return await session.chat(dialect_named(DIALECTS[kind]), ASK)
    if kind == "submit":
        return (await session.submit("/v1/images/tasks", ORDER, "the-submission-key")).raw
    payload, _ = await session.read("/v1/tasks/task_1" if kind == "poll" else "/v1/tasks?limit=100", json_of)
    return payload


def json_of(payload: object) -> object:
    """Return what was read as it came."""
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
