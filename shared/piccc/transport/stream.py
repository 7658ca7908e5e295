"""A chat stream: a push machine from bytes to deltas, and two short loops that drive it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING

from piccc.errors import PicccError, StreamError, StreamTimeoutError
from piccc.sse import EventDecoder
from piccc.transport.port import IO, Failure, finish
from piccc.transport.statuses import snippet

if TYPE_CHECKING:
    from piccc.chat import ChatReply, Delta
    from piccc.config import Timeout
    from piccc.dialects import StreamReader
    from piccc.transport.exchange import Answer

DRAIN_SECONDS = 1.0


class Pipe:
    """Bytes in, deltas out; knows by when the next bytes must come."""

    def __init__(self, io: IO, answer: Answer, reader: StreamReader, timeout: Timeout) -> None:
        self._io = io
        self._answer = answer
        self._reader = reader
        self._timeout = timeout
        self._events = EventDecoder()
        self._first_by = None if timeout.first_event is None else answer.started + timeout.first_event

    @property
    def is_done(self) -> bool:
        """Whether nothing more will come."""
        return self._reader.is_done

    def by(self) -> float | None:
        """Return the moment by which the next bytes must have come, or None; the idle bound is the port's."""
        bounds = [each for each in (self._answer.deadline, self._first_by) if each is not None]
        return min(bounds) if bounds else None

    def feed(self, chunk: bytes) -> list[Delta]:
        """Take the next bytes; return the deltas they complete. Raise StreamError for nonsense."""
        self._answer.record.bytes_received += len(chunk)
        events = self._events.feed(chunk)
        if not events:
            return []
        if self._answer.record.time_to_first_event is None:
            self._answer.record.time_to_first_event = self._io.now() - self._answer.started
            self._first_by = None
        if len(events) == 1:
            return self._reader.feed(events[0])
        deltas: list[Delta] = []
        for event in events:
            deltas += self._reader.feed(event)
        return deltas

    def end(self) -> list[Delta]:
        """Take the end of the bytes; raise StreamError where the proof of a whole answer never came."""
        if not self._reader.is_complete:
            arrived = self._answer.record.time_to_first_event is not None
            inside = " in the middle of an event" if self._events.is_inside_event else ""
            raise StreamError(
                f"The stream was cut{inside}." if arrived else "The stream was empty.",
                hint="The answer is incomplete; `partial` has what had arrived.",
            )
        return self._reader.finish()

    async def drain(self) -> None:
        """Read what follows the last event, so that the connection can serve the next call."""
        by = self._io.now() + DRAIN_SECONDS
        try:
            while await self._answer.response.receive(by):
                pass
        except Failure:
            return  # the answer is whole; only the connection is lost

    def reply(self) -> ChatReply:
        """Return the reply as far as it has come."""
        reply = self._reader.reply()
        self._answer.record.elapsed = self._io.now() - self._answer.started
        reply.record = self._answer.record
        return reply

    def broken(self, error: Failure | PicccError) -> PicccError:
        """Return the error to raise, with all that is known and what had arrived."""
        if isinstance(error, Failure):
            kind = StreamTimeoutError if error.timed_out else StreamError
            error = kind(f"The stream broke: {error.reason}", hint="`partial` has what had arrived.")
        reply = self.reply()
        error.record = reply.record
        error.request_id = error.request_id or reply.record.request_id
        error.attempts, error.elapsed = len(reply.record.attempts), reply.record.elapsed
        error.may_have_been_billed = True
        error.body = snippet(error.body) if error.body else None
        if isinstance(error, StreamError):
            error.partial = reply
        return error


class ChatStream:
    """A reply as it is written: iterate over its deltas; `reply` is what they have added up to.

    Use it as a context manager, or iterate over it directly: leaving early closes the connection.
    """

    def __init__(self, answer: Answer, pipe: Pipe) -> None:
        self._response = answer.response
        self._pipe = pipe
        self._batches = self._run()

    @property
    def reply(self) -> ChatReply:
        """The reply as far as it has come."""
        return self._pipe.reply()

    def batches(self) -> Iterator[list[Delta]]:
        """Iterate over lists of deltas: each holds what came together."""
        return self._batches

    def __iter__(self) -> Iterator[Delta]:
        for batch in self._batches:
            yield from batch

    def _run(self) -> Generator[list[Delta]]:
        try:
            while not self._pipe.is_done and (chunk := finish(self._response.receive(self._pipe.by()))):
                if deltas := self._pipe.feed(chunk):
                    yield deltas
            if deltas := self._pipe.end():
                yield deltas
            finish(self._pipe.drain())
        except (Failure, PicccError) as error:
            raise self._pipe.broken(error) from error.__cause__
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, or give it back when the stream was read to its end."""
        finish(self._response.close())

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self._batches.close()
        self.close()


class AsyncChatStream:
    """A reply as it is written: iterate over its deltas; `reply` is what they have added up to.

    Use it as a context manager, or iterate over it directly: leaving early closes the connection.
    """

    def __init__(self, answer: Answer, pipe: Pipe) -> None:
        self._response = answer.response
        self._pipe = pipe
        self._batches = self._run()

    @property
    def reply(self) -> ChatReply:
        """The reply as far as it has come."""
        return self._pipe.reply()

    def batches(self) -> AsyncIterator[list[Delta]]:
        """Iterate over lists of deltas: each holds what came together."""
        return self._batches

    async def __aiter__(self) -> AsyncIterator[Delta]:
        async for batch in self._batches:
            for delta in batch:
                yield delta

    async def _run(self) -> AsyncGenerator[list[Delta]]:
        try:
            while not self._pipe.is_done and (chunk := await self._response.receive(self._pipe.by())):
                if deltas := self._pipe.feed(chunk):
                    yield deltas
            if deltas := self._pipe.end():
                yield deltas
            await self._pipe.drain()
        except (Failure, PicccError) as error:
            raise self._pipe.broken(error) from error.__cause__
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connection, or give it back when the stream was read to its end."""
        await self._response.close()

    async def __aenter__(self) -> AsyncChatStream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._batches.aclose()
        await self.close()
