"""A chat stream: a push parser from bytes to deltas, and the sync and async loops that drive it."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from piccc._dialects.reader import EventDecoder
from piccc._http.backend import Backend, Failure, earliest
from piccc._http.backends import run_sync
from piccc.conversation import TextDelta
from piccc.errors import PicccError, StreamError, StreamTimeoutError

if TYPE_CHECKING:
    from piccc._dialects.reader import Reader
    from piccc._http.responses import RawResponse
    from piccc.config import Timeout
    from piccc.conversation import ChatReply, Delta
    from piccc.telemetry import Chat

LINGER_SECONDS = 5.0
"""How long a whole answer waits for what may follow it: the usage, and the word that it is done."""
DRAIN_SECONDS = 0.1


class StreamParser:
    """Bytes in, deltas out; knows by when the next bytes must come (the idle bound is the port's)."""

    def __init__(self, io: Backend, answer: RawResponse, reader: Reader, timeout: Timeout) -> None:
        self._io = io
        self._answer = answer
        self._reader = reader
        self._events = EventDecoder()
        self._by = answer.deadline
        if timeout.first_event is not None:
            self._come_by(answer.sent + timeout.first_event)
        self._lingers = False
        self.is_over = False
        self.span: Chat | None = None
        """The call's span, where OpenTelemetry is set up."""

    async def advance(self) -> list[Delta] | None:
        """Return the deltas that came next, None after the last; raise what broke the stream."""
        if self.is_over:
            return None
        reader = self._reader
        try:
            chunk = b"" if reader.is_done else await self._answer.response.receive(self._by)
            if not chunk:
                return self._end()
            record = self._answer.record
            record.bytes_received += len(chunk)
            if not (events := self._events.feed(chunk)):
                return []
            if record.time_to_first_event is None:
                record.time_to_first_event = self._io.now() - self._answer.started
                self._by = self._answer.deadline
            if self.span is not None:
                self.span.chunk()
            deltas = reader.feed(events)
        except (Failure, PicccError) as error:
            chunk, events = b"", []  # error trackers show a frame's locals, and a server may echo the key
            if isinstance(error, Failure) and reader.is_complete:
                return self._end()  # to break off after a whole answer is an end too
            cause = error.__cause__
            broken = self.broken(error, cause)
        else:
            if reader.is_complete and not self._lingers:
                self._lingers = True
                self._come_by(self._io.now() + LINGER_SECONDS)
            return deltas
        raise broken from cause

    def _end(self) -> list[Delta]:
        if not self._reader.is_complete:
            arrived = self._answer.record.time_to_first_event is not None
            inside = " in the middle of an event" if self._events.is_inside_event else ""
            raise StreamError(f"The stream was cut{inside}." if arrived else "The stream was empty.")
        self.is_over = True
        deltas = self._reader.finish()
        self.end()
        return deltas

    async def drain(self) -> None:
        """Read what follows the last event, so that the connection can serve the next call."""
        by = self._io.now() + DRAIN_SECONDS
        try:
            while await self._answer.response.receive(by):
                pass
        except Failure:
            return  # the answer is whole; only the connection is lost

    def end(self, error: PicccError | None = None) -> None:
        """End the call's span, if there is one, with what has come."""
        if self.span is not None:
            span, self.span = self.span, None
            span.completed(self.reply(), error)

    def reply(self) -> ChatReply:
        """Return the reply as far as it has come."""
        reply = self._reader.reply()
        self._answer.record.elapsed = self._io.now() - self._answer.started
        reply.record = self._answer.record
        return reply

    def broken(self, error: Failure | PicccError, cause: BaseException | None = None) -> PicccError:
        """Return the error to raise, with all that is known and what had arrived."""
        if isinstance(error, Failure):
            kind = StreamTimeoutError if error.timed_out else StreamError
            error = kind(f"The stream broke: {error.reason}")
        reply = self.reply()
        error.may_have_been_billed = True
        if isinstance(error, StreamError):
            error.partial = reply
            error.hint = error.hint or "The answer is incomplete; `partial` has what had arrived."
        broken = self._answer.explain(error, cause)
        self.end(broken)
        return broken

    def _come_by(self, moment: float) -> None:
        self._by = earliest(self._by, moment)


class _Stream:
    _is_closed = True

    def __init__(self, answer: RawResponse, pipe: StreamParser) -> None:
        self._response = answer.response
        self._pipe = pipe
        self._is_closed = False

    @property
    def reply(self) -> ChatReply:
        """The reply as far as it has come."""
        return self._pipe.reply()

    def _may_go_on(self) -> bool:
        if self._is_closed and not self._pipe.is_over:
            raise self._pipe.broken(StreamError("The stream was closed before its end."))
        return not self._is_closed

    def _abandon(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._response.abandon()
            self._pipe.end()

    def __del__(self) -> None:
        if not self._is_closed:
            self._abandon()
            name = type(self).__name__
            warnings.warn(
                f"A {name} was neither read nor closed.", ResourceWarning, stacklevel=2, source=self
            )


class ChatStream(_Stream):
    """A reply as it is written: iterate over `texts()`, or over its deltas; `reply` is what they add up to.

    Use it as a context manager, or iterate over it directly: leaving early closes the connection.
    """

    _is_released = False

    def batches(self) -> Iterator[list[Delta]]:
        """Iterate over lists of deltas: each holds what came together."""
        return self._batches()

    def texts(self) -> Iterator[str]:
        """Iterate over the answer's text alone; `reply` has what was thought, and the calls of tools."""
        with closing(self._batches()) as batches:
            for batch in batches:
                yield from [each.text for each in batch if isinstance(each, TextDelta) and each.text]

    def __iter__(self) -> Iterator[Delta]:
        with closing(self._batches()) as batches:
            for batch in batches:
                yield from batch

    def _batches(self) -> Generator[list[Delta]]:
        pipe = self._pipe
        if not self._may_go_on():
            return
        try:
            while (deltas := run_sync(pipe.advance())) is not None:
                if deltas:
                    yield deltas
            run_sync(pipe.drain())
        except GeneratorExit:
            self._abandon()
            raise
        except BaseException:
            self.close()
            raise
        self.close()

    def close(self) -> None:
        """Close the connection, or give it back when the stream was read to its end."""
        if not self._is_released:
            self._is_closed = self._is_released = True
            self._pipe.end()
            run_sync(self._response.close())

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """A reply as it is written: iterate over `texts()`, or over its deltas; `reply` is what they add up to.

    Use it as a context manager, or iterate over it directly: leaving early closes the connection.
    """

    # None of these iterates over another: a loop that ends closes all its asynchronous generators at once
    # (loop.shutdown_asyncgens), and one that is closing another then fails with "already running".

    async def batches(self) -> AsyncGenerator[list[Delta]]:
        """Iterate over lists of deltas: each holds what came together."""
        try:
            while (batch := await self._next()) is not None:
                yield batch
        finally:
            await self.close()

    async def texts(self) -> AsyncGenerator[str]:
        """Iterate over the answer's text alone; `reply` has what was thought, and the calls of tools."""
        try:
            while (batch := await self._next()) is not None:
                for delta in batch:
                    if isinstance(delta, TextDelta) and delta.text:  # a citation has none
                        yield delta.text
        finally:
            await self.close()

    async def __aiter__(self) -> AsyncGenerator[Delta]:
        try:
            while (batch := await self._next()) is not None:
                for delta in batch:
                    yield delta
        finally:
            await self.close()

    async def _next(self) -> list[Delta] | None:
        """Return the deltas that came next, None after the last."""
        if not self._may_go_on():
            return None
        while (deltas := await self._pipe.advance()) is not None:
            if deltas:
                return deltas
        await self._pipe.drain()
        return None

    async def close(self) -> None:
        """Close the connection, or give it back when the stream was read to its end."""
        if not self._is_closed:
            self._is_closed = True
            self._pipe.end()
            await self._response.close()

    async def __aenter__(self) -> AsyncChatStream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()
