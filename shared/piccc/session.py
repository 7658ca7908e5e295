"""What can be asked of one server with one key over one port: coroutines that sync and async both drive."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from piccc.chat import ChatReply, ChatRequest
from piccc.config import Config, Timeout, as_timeout, origin_of
from piccc.dialects import Dialect
from piccc.dialects.wire import parse, serialize
from piccc.errors import InvalidRequestError, ResponseError, SubmissionUnknown
from piccc.media import download
from piccc.media.paging import Pages
from piccc.media.polling import Polling, wait
from piccc.tasks import Output, Task, TaskType, check_parameters, read_task, read_task_list
from piccc.transport.exchange import Answer, Call, Kind, exchange
from piccc.transport.port import IO
from piccc.transport.statuses import snippet
from piccc.transport.stream import Pipe

READ_SECONDS = 30.0


class Session:
    """Ask the server; every method is a coroutine over the port."""

    def __init__(self, config: Config, io: IO, polling: Polling | None = None) -> None:
        self.config = config
        self.io = io
        self.polling = polling or Polling()

    async def chat(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None = None
    ) -> ChatReply:
        """Ask for a whole reply."""
        call = self._chat_call(dialect, request, timeout, is_stream=False)
        answer = await exchange(self.io, self.config, call)
        reply = dialect.decode(self._json(answer, billable=True))
        reply.record = answer.record
        return reply

    async def stream(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None = None
    ) -> tuple[Answer, Pipe]:
        """Ask for a stream; return it open, with the machine that reads it."""
        call = self._chat_call(dialect, request, timeout, is_stream=True)
        try:
            answer = await exchange(self.io, self.config, call)
        except InvalidRequestError as error:
            if "stream_options" not in (error.body or ""):
                raise
            # An older server of this dialect may not know the option that asks for usage.
            call.body = serialize(_without(dialect.encode(request, stream=True), "stream_options"))
            answer = await exchange(self.io, self.config, call)
        return answer, Pipe(self.io, answer, dialect.reader(), call.timeout)

    async def submit(
        self,
        type: TaskType,
        prompt: str,
        *,
        model: str | None = None,
        aspect_ratio: str | None = None,
        resolution: str | None = None,
        duration_seconds: float | None = None,
        webhook: str | None = None,
        key: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Task:
        """Submit a task; return it as the server first described it.

        Raise InvalidArgumentError before anything is sent, SubmissionUnknown where no answer came.
        """
        model = model or os.environ.get(f"PICCC_{type.upper()}_MODEL")
        check_parameters(
            type,
            prompt,
            model=model,
            aspect_ratio=aspect_ratio,
            resolution=resolution,
            duration_seconds=duration_seconds,
        )
        body = {
            "model": model,
            "prompt": prompt,
            "aspect_ratio": aspect_ratio,
            "resolution": resolution,
            "duration_seconds": duration_seconds,
            "webhook": {"url": webhook} if webhook else None,
            **(extra or {}),
        }
        body = {name: value for name, value in body.items() if value is not None}
        key = key or str(uuid.uuid4())
        call = Call(
            kind=Kind.SUBMISSION,
            method="POST",
            path=f"/v1/{type}s/tasks",
            body=serialize(body),
            headers=(("idempotency-key", key),),
            timeout=self.config.timeout,
        )
        try:
            answer = await exchange(self.io, self.config, call)
        except SubmissionUnknown as error:
            error.submission_key, error.request = key, body
            raise
        task = read_task(self._json(answer, billable=True))
        return replace(
            task, type=task.type or type, model=task.model or model or "", prompt=task.prompt or prompt
        )

    async def get_task(self, task: Task | str) -> Task:
        """Read a task."""
        answer = await self._read(self._task_path(task))
        return read_task(self._json(answer))

    async def next_page(self, pages: Pages) -> list[Task]:
        """Read the next page of a list; return the tasks that no earlier page had."""
        answer = await self._read(pages.path)
        return pages.take(*read_task_list(self._json(answer)))

    async def wait(
        self,
        task: Task | str,
        *,
        timeout: float | None = None,
        on_update: Callable[[Task], object] | None = None,
    ) -> Task:
        """Wait until a task has its output; raise as `piccc.media.polling.wait` says."""
        known = task if isinstance(task, Task) else await self.get_task(task)
        return await wait(
            self.io,
            lambda _: self.get_task(known),
            known,
            timeout=timeout,
            polling=self.polling,
            on_update=on_update,
        )

    async def save(
        self, output: Output, path: str | os.PathLike[str], *, max_bytes: int = download.MAX_OUTPUT_BYTES
    ) -> Path:
        """Write an output to a file."""
        return await download.save(self.io, self.config, output, path, max_bytes=max_bytes)

    async def close(self) -> None:
        """Close the connections."""
        await self.io.close()

    def _chat_call(
        self, dialect: Dialect, request: ChatRequest, timeout: float | Timeout | None, *, is_stream: bool
    ) -> Call:
        return Call(
            kind=Kind.CHAT,
            method="POST",
            path=dialect.path,
            body=serialize(dialect.encode(request, stream=is_stream)),
            headers=(*dialect.headers, *request.extra_headers.items()),
            timeout=as_timeout(timeout, self.config.timeout),
            is_stream=is_stream,
        )

    async def _read(self, path: str) -> Answer:
        total = self.config.timeout.total
        timeout = replace(
            self.config.timeout, total=READ_SECONDS if total is None else min(total, READ_SECONDS)
        )
        return await exchange(
            self.io, self.config, Call(kind=Kind.READ, method="GET", path=path, timeout=timeout)
        )

    def _task_path(self, task: Task | str) -> str:
        if isinstance(task, Task) and task.polling_url:
            url = urljoin(f"{self.config.base_url}/", task.polling_url)
            if origin_of(url) == self.config.origin:
                return url
        return f"/v1/tasks/{quote(task.id if isinstance(task, Task) else task, safe='')}"

    def _json(self, answer: Answer, *, billable: bool = False) -> object:
        try:
            return parse(answer.body)
        except ValueError:
            text = answer.body.decode(errors="replace")
            what = "empty" if not text.strip() else "a web page" if text.lstrip()[:1] == "<" else "not JSON"
            raise ResponseError(
                f"The server's reply is {what}.",
                hint="Check that base_url is the address of a Piccc API.",
                status=answer.response.status,
                request_id=answer.record.request_id,
                attempts=len(answer.record.attempts),
                elapsed=answer.record.elapsed,
                may_have_been_billed=billable,
                body=snippet(text) or None,
                record=answer.record,
            ) from None


def _without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in body.items() if each != name}
