"""Chat streams: a parser from bytes to deltas, and its blocking and asynchronous iterators."""

from __future__ import annotations

import warnings
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from piccc._dialects.reader import EventDecoder
from piccc._http.backend import Backend, Failure, T
from piccc._http.backends import run_sync
from piccc._http.connections import earliest
from piccc.conversation import TextDelta
from piccc.errors import PicccError, StreamError, StreamTimeoutError

if TYPE_CHECKING:
    from piccc._dialects.reader import Reader
    from piccc._http.responses import RawResponse
    from piccc.config import Timeout
    from piccc.conversation import ChatReply, Delta
    from piccc.telemetry import Chat

LINGER_SECONDS = 5.0
"""How long to wait after a complete answer for the usage and the end-of-stream event."""
DRAIN_SECONDS = 0.1


class StreamParser:
    """Parser from bytes to deltas with a deadline for the next bytes; the backend has the idle timeout."""

    def __init__(self, io: Backend, raw: RawResponse, reader: Reader, timeout: Timeout) -> None:
        self._io = io
        self._raw = raw
        self._reader = reader
        self._events = EventDecoder()
        self._by = raw.deadline
        if timeout.first_event is not None:
            self._by = earliest(self._by, raw.sent + timeout.first_event)
        self._lingers = False
        self._is_being_read = False
        self.is_over = False
        self.span: Chat | None = None
        """The call's span if OpenTelemetry is set up."""

    async def advance(self) -> list[Delta] | None:
        """Return the next deltas, None at the end; raise the error that broke the stream."""
        if self.is_over:
            return None
        if self._is_being_read:  # threads would share the answer, and all tasks but one would wait for ever
            error = StreamError("The stream is read twice at once.", hint="Read it in one task or thread.")
            raise self.broken(error)
        reader, self._is_being_read = self._reader, True
        try:
            chunk = b"" if reader.is_done else await self._raw.response.receive(self._by)
            if not chunk:
                return self._end()
            record = self._raw.record
            record.bytes_received += len(chunk)
            if not (events := self._events.feed(chunk)):
                return []
            if record.time_to_first_event is None:
                record.time_to_first_event = self._io.now() - self._raw.started
                self._by = self._raw.deadline
            if self.span is not None:
                self.span.chunk()
            deltas = reader.feed(events)
        except (Failure, PicccError) as error:
            chunk, events = b"", []  # error trackers show a frame's locals, and a server may echo the key
            if isinstance(error, Failure) and reader.is_complete:
                return self._end()  # the answer is complete: only the end-of-stream event is missing
            cause = error.__cause__
            broken = self.broken(error, cause)
        else:
            if reader.is_complete and not self._lingers:
                self._lingers = True
                self._by = earliest(self._by, self._io.now() + LINGER_SECONDS)
            return deltas
        finally:
            self._is_being_read = False
        raise broken from cause

    def _end(self) -> list[Delta]:
        if not self._reader.is_complete:
            is_empty = self._raw.record.time_to_first_event is None
            inside = " in the middle of an event" if self._events.is_inside_event else ""
            raise StreamError("The stream was empty." if is_empty else f"The stream was cut off{inside}.")
        self.is_over = True
        deltas = self._reader.finish()
        self.end()
        return deltas

    async def drain(self) -> None:
        """Read what follows the last event, so that the connection can be reused."""
        by = self._io.now() + DRAIN_SECONDS
        try:
            while await self._raw.response.receive(by):
                pass
        except Failure:
            return  # the answer is complete; only the connection is lost

    def end(self, error: PicccError | None = None) -> None:
        """End the call's span, if any, with what has arrived."""
        if self.span is not None:
            span, self.span = self.span, None
            span.completed(self.reply(), error)

    def reply(self) -> ChatReply:
        """Return the reply received so far."""
        reply = self._reader.reply()
        self._raw.record.elapsed = self._io.now() - self._raw.started
        reply.record = self._raw.record
        return reply

    def broken(self, error: Failure | PicccError, cause: BaseException | None = None) -> PicccError:
        """Return the error to raise, with the call's details and the partial reply."""
        if isinstance(error, Failure):
            kind = StreamTimeoutError if error.timed_out else StreamError
            error = kind(f"The stream broke: {error.reason}")
        reply = self.reply()
        error.may_have_been_billed = True
        if isinstance(error, StreamError):
            error.partial = reply
            error.hint = error.hint or "The answer is incomplete; `partial` has what arrived."
        broken = self._raw.explain(error, cause)
        self.end(broken)
        return broken


class _Stream:
    _is_closed = True

    def __init__(self, raw: RawResponse, parser: StreamParser) -> None:
        self._response = raw.response
        self._parser = parser
        self._is_closed = False

    @property
    def reply(self) -> ChatReply:
        """The reply received so far."""
        return self._parser.reply()

    def _is_open(self) -> bool:
        """Return whether more can be read; raise StreamError if the stream was closed early."""
        if self._is_closed and not self._parser.is_over:
            raise self._parser.broken(StreamError("The stream was closed before its end."))
        return not self._is_closed

    def _abandon(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._response.abandon()
            self._parser.end()

    def __del__(self) -> None:
        if not self._is_closed:
            self._abandon()
            name = type(self).__name__
            warnings.warn(
                f"A {name} was neither read nor closed.", ResourceWarning, stacklevel=2, source=self
            )


class ChatStream(_Stream):
    """A streamed reply: iterate over its deltas, or over `texts()`; `reply` accumulates them.

    Use it as a context manager, or iterate over it directly: stopping early closes the connection.
    """

    _is_released = False

    def batches(self) -> Iterator[list[Delta]]:
        """Iterate over lists of deltas that arrived together."""
        return self._batches()

    def texts(self) -> Iterator[str]:
        """Iterate over the answer's text only; `reply` also has the reasoning and the tool calls."""
        with closing(self._batches()) as batches:
            for batch in batches:
                yield from [delta.text for delta in batch if isinstance(delta, TextDelta) and delta.text]

    def __iter__(self) -> Iterator[Delta]:
        with closing(self._batches()) as batches:
            for batch in batches:
                yield from batch

    def _batches(self) -> Generator[list[Delta]]:
        parser = self._parser
        if not self._is_open():
            return
        try:
            while (deltas := run_sync(parser.advance())) is not None:
                if deltas:
                    yield deltas
            run_sync(parser.drain())
        except GeneratorExit:
            self._abandon()
            raise
        except BaseException:
            self.close()
            raise
        self.close()

    def close(self) -> None:
        """Close the connection, or release it if the whole stream was read."""
        if not self._is_released:
            self._is_closed = self._is_released = True
            self._parser.end()
            run_sync(self._response.close())

    def __enter__(self) -> ChatStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class AsyncChatStream(_Stream):
    """A streamed reply: iterate over its deltas, or over `texts()`; `reply` accumulates them.

    Use it as a context manager, or iterate over it directly: stopping early closes the connection.
    """

    # These do not iterate over one another: a loop that ends closes all asynchronous generators at once
    # (loop.shutdown_asyncgens), and nested ones then fail with "already running".

    async def batches(self) -> AsyncGenerator[list[Delta]]:
        """Iterate over lists of deltas that arrived together."""
        try:
            while (batch := await self._next()) is not None:
                yield batch
        finally:
            await self.close()

    def texts(self) -> AsyncGenerator[str]:
        """Iterate over the answer's text only; `reply` also has the reasoning and the tool calls."""
        return _UntilTheEnd(self, self._texts())

    def __aiter__(self) -> AsyncGenerator[Delta]:
        return _UntilTheEnd(self, self._deltas())

    async def _texts(self) -> AsyncGenerator[str]:
        try:
            while (batch := await self._next()) is not None:
                for delta in batch:
                    if isinstance(delta, TextDelta) and delta.text:  # a citation has none
                        yield delta.text
        finally:
            await self.close()

    async def _deltas(self) -> AsyncGenerator[Delta]:
        try:
            while (batch := await self._next()) is not None:
                for delta in batch:
                    yield delta
        finally:
            await self.close()

    async def _next(self) -> list[Delta] | None:
        """Return the next deltas, None at the end."""
        if not self._is_open():
            return None
        while (deltas := await self._parser.advance()) is not None:
            if deltas:
                return deltas
        await self._parser.drain()
        return None

    async def close(self) -> None:
        """Close the connection, or release it if the whole stream was read."""
        if not self._is_closed:
            self._is_closed = True
            self._parser.end()
            await self._response.close()

    async def __aenter__(self) -> AsyncChatStream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class _UntilTheEnd(AsyncGenerator[T, None]):
    """An iteration that raises StreamError, again if need be, unless it came to the end of its stream.

    A generator ends when it is cancelled, as by `asyncio.wait_for(anext(texts), 15)`. The next `anext` would
    then raise StopAsyncIteration, and a truncated answer look complete.
    """

    def __init__(self, stream: AsyncChatStream, generator: AsyncGenerator[T]) -> None:
        self._stream = stream
        self._generator = generator

    def __anext__(self) -> Coroutine[Any, Any, T]:
        if self._stream._is_closed:
            self._stream._is_open()  # raises unless the whole stream was read
        return self._generator.__anext__()

    def asend(self, value: None) -> Coroutine[Any, Any, T]:
        return self._generator.asend(value)

    def athrow(self, *error: Any) -> Coroutine[Any, Any, T]:
        return self._generator.athrow(*error)

    def aclose(self) -> Coroutine[Any, Any, None]:
        return self._generator.aclose()
